"""A film on disk and its journal, block by block: begun, taken up again, and gone on with next week.

The one invariant: the film's bytes are on disk before the journal says so, and what it says is enough to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everreel.checkpoint.catalog import CATALOG, ModelCard
from everreel.film.given import encode_frames
from everreel.film.journal import Journal, Maker, Source, fingerprint
from everreel.film.pipeline import Progress, VideoPipeline
from everreel.film.plan import OVERLAP
from everreel.film.request import RESOLUTIONS, RequestError, VideoRequest
from everreel.film.source import SourceFilm
from everreel.film.splice import Splice
from everreel.film.state import Beginning
from everreel.media import FilmWriter, resize_cover
from everreel.shapes import TEMPORAL, latent_frames, video_frames


def begin(pipe: VideoPipeline, request: VideoRequest) -> Journal:
    """The journal of a film that has no frames yet.

    Raises:
        RequestError: a picture cannot be used.
    """
    resolved = request.resolve(pipe.card)
    return Journal(resolved, maker_of(pipe), pipe.begin(resolved))


def go_on_with(pipe: VideoPipeline, journal: Journal, request: VideoRequest, told: bool = True) -> Journal:
    """The journal of a finished film that more is to follow, from its own latents.

    Of `request` count the length (by default a window without its history), the seed, the steps if given, and, if it
    was `told` anew, the prompt; all else is as the film was made.

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
        offset=offset,
        spare=state.spare,
    )
    changed: dict[str, Any] = {
        "num_frames": request.length or TEMPORAL * (latent_frames(pipe.card.num_frames) - history)
    }
    changed |= {"seed": request.seed, "prompt": request.prompt if told else [old.prompt, *old.story.values()][-1]}
    if request.num_inference_steps is not None:
        changed["num_inference_steps"] = request.num_inference_steps
    bare = VideoRequest(**old.model_dump(exclude={"image", "end_image", "keyframes", "story"}))
    longer = bare.model_copy(update=changed)
    return Journal(longer, journal.maker, beginning, None, journal.num_bytes, journal.num_frames, journal.source)


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
    older = not journal.num_frames and writer.path.exists()  # it keeps its own journal until it is replaced
    if isinstance(writer, Splice) and journal.source:
        journal = replace(journal, source=replace(journal.source, seam=writer.seam))
    if not older:
        journal.save(writer.path)
    blocks = pipe.stream(journal.request, beginning=journal.beginning, state=journal.state, on_progress=on_progress)
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


def follow(pipe: VideoPipeline, request: VideoRequest, source: SourceFilm, *, splice: bool = False) -> Journal:
    """The journal of a film that goes on with any other: it looks back at the source's last moments, encoded.

    With `splice` the source comes first in the same file.
    """
    resolved = fitted(request, source, pipe.card).resolve(pipe.card)
    assert resolved.height and resolved.width
    most = history_frames(resolved, pipe.card)
    seen_THWC = source.tail(most, resolved.fps)
    seen_THWC = seen_THWC[(len(seen_THWC) - 1) % TEMPORAL :]
    tail_THWC = np.stack([resize_cover(frame, resolved.height, resolved.width) for frame in seen_THWC])
    latents_CTHW = encode_frames(tail_THWC, pipe.vae)
    return Journal(
        resolved,
        maker_of(pipe),
        Beginning(
            known=dict(enumerate(latents_CTHW.unbind(1))),
            history=latents_CTHW.shape[1],
        ),
        source=Source.of(source) if splice else None,
    )


def fitted(request: VideoRequest, source: SourceFilm, card: ModelCard) -> VideoRequest:
    """The request at the size whose shape is nearest to the source's, where none was asked for."""
    if request.height is not None or request.aspect is not None:
        return request
    sizes = card.sizes if request.resolution is None else RESOLUTIONS[request.resolution]
    height, width = min(
        sizes.values(), key=lambda size: abs(math.log(size[1] * source.height / size[0] / source.width))
    )
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
    parameter = next(pipe.transformer.parameters())
    return Maker(
        model=pipe.card.name if pipe.card in CATALOG else str(Path(pipe.card.path).resolve()),
        fingerprint=fingerprint(Path(pipe.card.path)),
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
