"""A film on disk and its journal, block by block: begun, taken up again, and gone on with next week.

The one invariant: the film's bytes are on disk before the journal says so, and what it says is enough to go on.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everreel.checkpoint.catalog import CATALOG, ModelCard
from everreel.checkpoint.load import load_tokenizer
from everreel.film.anchor import carried_on, colors_of
from everreel.film.control import Control
from everreel.film.decoding import at_work
from everreel.film.given import encode_frames
from everreel.film.journal import Journal, Maker, Source, fingerprint, journal_path, read_journal
from everreel.film.loading import ModelOptions, model_options
from everreel.film.pipeline import Progress, VideoPipeline
from everreel.film.placement import Placement
from everreel.film.plan import OVERLAP, check_can_go_on, make_plan
from everreel.film.prompts import check_prompts
from everreel.film.request import RESOLUTIONS, RequestError, VideoRequest
from everreel.film.source import Followed
from everreel.film.splice import Splice
from everreel.film.state import Beginning
from everreel.media import FilmWriter, Video, check_file, sync_folder
from everreel.model.text_encoder import Tokenizer
from everreel.parallel.crew import Crew
from everreel.shapes import TEMPORAL, latent_frames, video_frames


def check_output(path: Path) -> None:
    """Refuse a path that a film cannot be written to, before anything is loaded.

    Raises:
        ValueError: with the rule and what would work.
    """
    try:
        check_file("output", path, "film.mp4")
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"output = {path}: must end in .mp4; try {path.with_suffix('.mp4')}")
        # Only opening it tells: a disk may be read-only, or have no room for one more name.
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
        FilmWriter(path, 2, 2, 1).close()  # what it begins in has another name
    except OSError as error:
        reason = f"cannot be written: {error.strerror}; try a folder of your own, such as {Path.home()}"
        raise ValueError(f"output = {path}: {reason}") from None


def check_words(request: VideoRequest, options: ModelOptions) -> None:
    """Refuse a resolved request whose prompts are too long for a model, before that is loaded.

    Raises:
        RequestError: one has more tokens than the model reads.
        ValueError: the model's tokenizer is not as it must be.
    """
    check_prompts(request, load_tokenizer(options.source(options.card())))


def copy_film(film: Path, copy: Path) -> None:
    """Put a film on disk under another name, whole: before that there is no such file, or the one of before.

    Raises:
        OSError: the disk is full or gone; no part of the copy is left.
    """
    part = copy.with_name(copy.name + ".part")
    try:
        shutil.copyfile(film, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        journal_path(copy).unlink(missing_ok=True)  # of the film that is replaced
        part.replace(copy)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(copy.parent)


def begin(
    pipe: VideoPipeline,
    request: VideoRequest,
    control: Control | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Journal:
    """The journal of a film that has no frames yet. `on_progress` is told of a loop's opening, as it is made.

    Raises:
        RequestError: a picture cannot be used.
        CancelledError: `control` said so.
    """
    resolved = request.resolve(pipe.card)
    return Journal(resolved, maker_of(pipe), pipe.begin(resolved, control, on_progress))


def unopened(pipe: VideoPipeline, request: VideoRequest) -> Journal:
    """The journal of a loop whose opening is not made yet; `write` makes it, and so does whoever resumes it.

    Raises:
        RequestError: it cannot be cut as asked, or a prompt is too long.
    """
    assert request.loop
    resolved = make_plan(request, pipe.card).request
    check_prompts(resolved, pipe.tokenizer)
    return Journal(resolved, maker_of(pipe), Beginning())


def opened(
    pipe: VideoPipeline,
    journal: Journal,
    film: Path,
    on_progress: Callable[[Progress], None] | None = None,
    control: Control | None = None,
) -> Journal:
    """A loop's journal with its opening, which takes minutes: the journal without it is put on disk first.

    Raises:
        RequestError: a picture cannot be used.
        CancelledError: `control` said so.
    """
    if not film.exists():  # an older film keeps its own
        journal.save(film)
    return replace(journal, beginning=pipe.begin(journal.request, control, on_progress))


def resume(
    film: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    control: Control | None = None,
    crew: Crew | None = None,
) -> Video:
    """Go on with a film that was stopped, with the model that it was begun with; it becomes what it would have been.

    Raises:
        OSError: there is no journal beside it, or the disk is full or gone.
        ValueError: the journal, the film, its source or its model are not what they were.
        CancelledError: `control` said so.
    """
    path = Path(film)
    journal = read_journal(path)
    if not journal.finished:
        journal.check_source()
        pipe = pipeline_of(journal, crew)
        journal = read_journal(path, pipe.device)
        with journal.open_film(path) as writer:
            write(pipe, journal, writer, on_progress, control=control)
    return Video(path)


def pipeline_of(journal: Journal, crew: Crew | None = None) -> VideoPipeline:
    """The model that a film was begun with, run as it was, with as many threads.

    Raises:
        ValueError: its files are others by now, or its device is not here.
    """
    maker = journal.maker
    options = options_of(maker)
    card = options.card()
    if fingerprint(card.require_path(), *options.files()) != maker.fingerprint:
        raise ValueError(f"model = {maker.model}: its files are not those that the film was begun with; put them back")
    torch.set_num_threads(maker.threads)
    resolved = options.resolve(crew)
    where = torch.device(resolved.device or "cpu"), resolved.torch_dtype
    return VideoPipeline.load(options, Placement(*where, **maker.placement), crew)


def options_of(maker: Maker) -> ModelOptions:
    """How the model of a film was run.

    Raises:
        ValueError: a LoRA of it is gone.
    """
    options = model_options(model=maker.model, device=maker.device, dtype=maker.dtype, **maker.options)
    return options.of_rules(maker.rules)


def go_on_with(pipe: VideoPipeline, journal: Journal, request: VideoRequest, told: bool = True) -> Journal:
    """The journal of a finished film that more is to follow, from its own latents.

    Of `request` count the length (by default a window without its history), the seed, the steps if given, the parts of
    a story, and, if it was `told` anew, the prompt; all else is as the film was made.

    Raises:
        RequestError: the film is not finished, its model cannot go on with one, what is asked for cannot be cut, or a
            prompt is too long.
    """
    return longer(journal, request, pipe.card, pipe.tokenizer, told=told)


def longer(
    journal: Journal, request: VideoRequest, card: ModelCard, tokenizer: Tokenizer, *, told: bool = True
) -> Journal:
    """As `go_on_with`, where the model of `card` is not loaded yet; raises the same."""
    check_grows(journal, card)
    old, beginning = journal.request, _next_beginning(journal, card)
    if told and request.prompt != old.last_prompt:  # new words have colours of their own, as a part of a story has
        beginning = replace(beginning, anchor=None)
    history = beginning.history
    changed: dict[str, Any] = {"num_frames": request.length or TEMPORAL * (latent_frames(card.num_frames) - history)}
    changed |= {"seed": request.seed, "prompt": request.prompt if told else old.last_prompt}
    changed["story"] = request.story
    if request.num_inference_steps is not None:
        changed["num_inference_steps"] = request.num_inference_steps
    bare = VideoRequest(**old.model_dump(exclude={"image", "end_image", "keyframes", "story", "num_frames"}))
    asked = bare.model_copy(update=changed)
    check_prompts(make_plan(asked, card, history, len(beginning.spare)).request, tokenizer)
    return Journal(asked, journal.maker, beginning, None, journal.num_bytes, journal.num_frames, journal.source)


def _next_beginning(journal: Journal, card: ModelCard) -> Beginning:
    """What the next piece of a finished film goes on from."""
    state = journal.state
    if state is None:  # its last piece has no frames
        return journal.beginning
    latents_CTHW = state.rollout.solver.latents[0]
    held = latents_CTHW.shape[1]
    history = min(held, card.context)
    return Beginning(
        known={frame: latents_CTHW[:, held - history + frame] for frame in range(history)},
        history=history,
        offset=journal.beginning.offset + state.rollout.start + held - history,
        spare=state.spare,
        anchor=_colors(journal),
    )


def check_grows(journal: Journal, card: ModelCard) -> None:
    """Refuse to go on with a film that nothing can follow.

    Raises:
        RequestError: it is not finished, it is a loop, or its model cannot go on with one.
    """
    check_can_go_on(card)
    if not journal.finished:
        raise RequestError(f"film: has {journal.num_frames} of its frames; finish it first with everreel resume")
    if journal.request.loop:
        raise RequestError("film: its end meets its beginning, so nothing can follow; make a longer one")


def check_longer(journal: Journal, request: VideoRequest, told: bool = True) -> None:
    """Refuse all that `go_on_with` would, before the model that the film was made with is loaded.

    Raises:
        ValueError: as `go_on_with`, or the model's tokenizer is gone.
    """
    options = options_of(journal.maker)
    card = options.card()
    longer(journal, request, card, load_tokenizer(options.source(card)), told=told)


def _colors(journal: Journal) -> Tensor | None:
    """What the film's colours were held at last, or, of one that needed no holding, those that it has."""
    request, state = journal.request, journal.state
    assert state is not None
    if not request.anchor_color:
        return None
    if state.anchor is not None:
        return carried_on(state.anchor)
    # All in one window. The film's very first latent is of another kind, and what was looked back at is not its own.
    own = state.num_made // TEMPORAL
    if not own or request.story:  # of which only the end counts, wherever that began
        return None
    return colors_of(state.rollout.solver.latents[0, :, -own:])


def cut_short(journal: Journal) -> Journal:
    """The journal of a stopped film as of one that was to have no more frames than it has, so that one can go on.

    Raises:
        RequestError: it has none yet, or its last ones are not settled.
    """
    state, beginning = journal.state, journal.beginning
    if state is None and journal.frames_before:  # what was to follow has not begun: the film ends where it did
        nothing: dict[str, Any] = {"num_frames": 0, "seconds": None, "story": {}}
        return replace(journal, request=journal.request.model_copy(update=nothing))
    if state is None or state.held is not None or beginning.channels is not None or journal.request.loop:
        raise RequestError(f"film: has {journal.num_frames} of its frames and cannot end there; finish it first")
    history = beginning.history
    done = history + state.num_made // TEMPORAL if history else latent_frames(state.num_made)
    solver = state.rollout.solver.select(0, done - state.rollout.start)  # what comes after is in the making
    state = replace(state, rollout=replace(state.rollout, solver=solver))
    told = {at: prompt for at, prompt in journal.request.story.items() if at < state.num_frames}
    request = journal.request.model_copy(update={"num_frames": state.num_frames, "seconds": None, "story": told})
    return replace(journal, request=request, state=state)


def write(
    pipe: VideoPipeline,
    journal: Journal,
    writer: FilmWriter,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    control: Control | None = None,
) -> Journal:
    """Make what is missing of a film. `writer` is the journal's `open_film`; the finished film's journal comes back.

    Raises:
        RequestError: it cannot be cut as asked, or a prompt is too long; what lies on disk stays as it was.
        OSError: the disk is full or gone; what was written stays and can be taken up.
        CancelledError: `control` said so; so does that.
    """
    if journal.is_unopened:
        journal = opened(pipe, journal, writer.path, on_progress, control)
    request, beginning, state = journal.request, journal.beginning, journal.state
    # It refuses what cannot be made; a finished film that is to grow has no other journal than the one saved over here.
    blocks = pipe.stream(request, beginning=beginning, state=state, on_progress=on_progress, control=control)
    older = not journal.num_frames and writer.path.exists()  # it keeps its own journal until it is replaced
    if isinstance(writer, Splice) and journal.source:
        journal = replace(journal, source=replace(journal.source, seam=writer.seam))
    if not older:
        journal.save(writer.path)
    for block in blocks:
        if len(block.frames):
            if older and not writer.num_frames:
                journal.save(writer.path)
            writer.append(block.frames)
        if block.state is not None:
            journal = replace(journal, state=block.state, num_bytes=writer.num_bytes)
            if not journal.finished:
                journal.save(writer.path)
    journal = journal.at_rest()
    journal.save(writer.path)
    return journal


def follow(pipe: VideoPipeline, request: VideoRequest, source: Followed, *, splice: bool = False) -> Journal:
    """The journal of a film that goes on with any other: it looks back at the source's last moments, encoded.

    With `splice` the source comes first in the same file.

    Raises:
        RequestError: the model cannot go on with a film.
    """
    check_can_go_on(pipe.card)
    resolved = fitted(request, (source.height, source.width), pipe.card).resolve(pipe.card)
    assert resolved.height and resolved.width
    most = history_frames(resolved, pipe.card)
    seen_THWC = source.tail(most, resolved.fps, (resolved.height, resolved.width))
    with at_work(pipe.vae, pipe.parks):
        latents_CTHW = encode_frames(seen_THWC[(len(seen_THWC) - 1) % TEMPORAL :], pipe.vae)
    return Journal(
        resolved,
        maker_of(pipe),
        Beginning(
            known=dict(enumerate(latents_CTHW.unbind(1))),
            history=latents_CTHW.shape[1],
        ),
        source=Source.of(source) if splice else None,
    )


def fitted(request: VideoRequest, seen: tuple[int, int], card: ModelCard) -> VideoRequest:
    """The request at the size whose shape is nearest to a source's, height and width, where none was asked for."""
    if request.height is not None or request.aspect is not None:
        return request
    sizes = card.sizes if request.resolution is None else RESOLUTIONS[request.resolution]
    height, width = min(sizes.values(), key=lambda size: abs(math.log(size[1] * seen[0] / size[0] / seen[1])))
    return request.model_copy(update={"height": height, "width": width, "resolution": None})


def history_frames(request: VideoRequest, card: ModelCard) -> int:
    """How much of the source is looked back at, 4k + 1 frames: as asked, else what the model has learnt to look at."""
    if request.overlap_history is not None:
        return request.overlap_history
    window = latent_frames(request.base_num_frames or card.num_frames)
    latents = min(card.context, window - card.block_size) if card.causal else latent_frames(OVERLAP)
    return video_frames(max(latents, 1))


def maker_of(pipe: VideoPipeline) -> Maker:
    """Who makes films with this pipeline."""
    dtype = str(next(pipe.transformer.parameters()).dtype).removeprefix("torch.")
    maker = maker_for(pipe.card, pipe.options or model_options(device=str(pipe.device), dtype=dtype))
    return replace(maker, placement=pipe.placement.chosen()) if pipe.placement else maker


def maker_for(card: ModelCard, options: ModelOptions) -> Maker:
    """Who would make films with a model, before it is loaded, run as resolved options say."""
    assert options.device and options.dtype
    return Maker(
        model=card.name if card in CATALOG else str(Path(card.path).resolve()),
        fingerprint=fingerprint(Path(card.path), *options.files()),
        device=options.device,
        dtype=options.dtype,
        threads=torch.get_num_threads(),
        options=options.others(),
        rules=options.rules,
    )
