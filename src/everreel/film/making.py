"""A film on disk and its journal, block by block: begun, taken up again, and gone on with next week.

The one invariant: the film's bytes are on disk before the journal says so, and what it says is enough to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from everreel.film.journal import Journal, Maker, fingerprint
from everreel.film.pipeline import Progress, VideoPipeline
from everreel.film.request import RequestError, VideoRequest
from everreel.film.state import Beginning
from everreel.media import FilmWriter


def begin(pipe: VideoPipeline, request: VideoRequest) -> Journal:
    """The journal of a film that has no frames yet.

    Raises:
        RequestError: a picture cannot be used.
    """
    resolved = request.resolve(pipe.card)
    return Journal(resolved, maker_of(pipe), pipe.begin(resolved))


def go_on_with(pipe: VideoPipeline, journal: Journal, num_frames: int, prompt: str | None = None) -> Journal:
    """The journal of a finished film that `num_frames` more are to follow, from its own latents.

    Raises:
        RequestError: the film is not finished.
    """
    state, old = journal.state, journal.request
    if state is None or not journal.finished:
        raise RequestError(f"film: has {journal.num_frames} of its frames; finish it first with everreel resume")
    latents_CTHW = state.rollout.solver.latents[0]
    held = latents_CTHW.shape[1]
    history = min(held, pipe.card.context)
    offset = journal.beginning.offset + state.rollout.start + held - history
    beginning = Beginning(
        known={frame: latents_CTHW[:, held - history + frame] for frame in range(history)},
        history=history,
        decoder=pipe.decoder_after(latents_CTHW),
        offset=offset,
        spare=state.spare,
    )
    last_told = [old.prompt, *old.story.values()][-1]
    bare = VideoRequest(**old.model_dump(exclude={"image", "end_image", "keyframes", "story"}))
    request = bare.model_copy(update={"num_frames": num_frames, "prompt": prompt or last_told})
    return Journal(request, journal.maker, beginning, None, journal.num_bytes, journal.num_frames)


def write(
    pipe: VideoPipeline,
    journal: Journal,
    writer: FilmWriter,
    on_progress: Callable[[Progress], None] | None = None,
) -> Journal:
    """Make what is missing of a film. `writer` is the journal's `open_film`; the finished film's journal comes back.

    Raises:
        OSError: the disk is full or gone; what was written stays and can be taken up.
    """
    journal.save(writer.path)
    blocks = pipe.stream(journal.request, beginning=journal.beginning, state=journal.state, on_progress=on_progress)
    for block in blocks:
        if len(block.frames):
            writer.append(block.frames)
        if block.state is not None:
            journal = replace(journal, state=block.state, num_bytes=writer.num_bytes)
            if not journal.finished:
                journal.save(writer.path)
    journal = journal.at_rest()
    journal.save(writer.path)
    return journal


def maker_of(pipe: VideoPipeline) -> Maker:
    """Who makes films with this pipeline."""
    parameter = next(pipe.transformer.parameters())
    return Maker(
        model=pipe.card.path,
        fingerprint=fingerprint(Path(pipe.card.path)),
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
