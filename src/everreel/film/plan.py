"""How a request is cut into windows, blocks and rows of a schedule, before anything is loaded.

Source: section 4c of the paper and the released long-video code. The one invariant: a plan is a pure function of the
request and the model's card, so it can be shown, checked and repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from everreel.checkpoint.catalog import ModelCard
from everreel.diffusion.schedule import Schedule, asynchronous, blockwise, synchronous
from everreel.film.request import RequestError, VideoRequest
from everreel.shapes import LatentShape, latent_frames

DECODE_FRAMES = 5  # latent frames decoded and written at a time where many finish at once


@dataclass(frozen=True)
class Plan:
    """A request with nothing left open, and the schedule that makes it.

    `mode` only names the schedule, for people; `remembers` says whether finished blocks are kept as keys and values.
    """

    request: VideoRequest
    shape: LatentShape
    mode: str
    schedule: Schedule
    remembers: bool
    context: int

    @property
    def num_blocks(self) -> int:
        """Blocks that are written one after the other."""
        return 1 if self.schedule.num_steps == len(self.schedule) else self.schedule.num_moving

    @property
    def rows_per_block(self) -> int:
        """Rows between the end of one block and the end of the next."""
        if self.num_blocks == 1:
            return len(self.schedule)
        return (len(self.schedule) - self.schedule.num_steps) // (self.num_blocks - 1)

    def describe(self) -> str:
        """One line for people."""
        request, pictures = self.request, len(self.schedule.given)
        given = f"{pictures} given picture{'s' * (pictures != 1)}, " if pictures else ""
        return (
            f"{request.num_frames} frames of {request.width}x{request.height} at {request.fps} fps: {given}"
            f"{self.mode}, {self.num_blocks} block{'s' * (self.num_blocks != 1)}, {len(self.schedule)} rows, "
            f"guidance {request.guidance_scale:g}, shift {request.shift:g}, seed {request.seed}"
        )


def make_plan(request: VideoRequest, card: ModelCard, history: int = 0, spare: int = 0) -> Plan:
    """Choose the schedule: one window at once, asynchronously where asked, block by block beyond a window.

    `history` is how many latent frames are known of a film that this one goes on with, and `spare` how many frames of
    their last one were not shown; the request counts from there.

    Raises:
        RequestError: the request cannot be cut as asked.
    """
    resolved = request.resolve(card)
    num_frames, height, width = resolved.num_frames, resolved.height, resolved.width
    steps = resolved.num_inference_steps
    assert num_frames is not None and height is not None and width is not None and steps is not None
    if history and resolved.pictures():
        raise RequestError("image, end_image, keyframes: a film that goes on with another takes none; leave them out")
    frames = history + latent_frames(max(num_frames - spare, 1) + 1) - 1 if history else latent_frames(num_frames)
    shape = LatentShape.from_pixels(1 + 4 * (frames - 1), height, width)
    window = latent_frames(card.num_frames)
    block = resolved.causal_block_size or card.block_size
    if block > window:
        raise RequestError(f"causal_block_size = {block}: must be at most the window of {window} latent frames")
    remembers, context = False, 0
    given = frozenset(resolved.pictures()) | frozenset(range(history))
    try:
        if resolved.ar_step:
            mode = f"asynchronous (ar_step {resolved.ar_step}, blocks of {block})"
            schedule = asynchronous(frames, steps, resolved.ar_step, block, given, window)
        elif frames <= window and resolved.causal_block_size is None:
            mode, schedule = "synchronous", synchronous(frames, steps, given)
        else:
            context = min(card.context, max(window - block, 1))
            mode = f"blockwise (blocks of {block}, {context} latent frames of context)"
            schedule = blockwise(frames, steps, block, given, context=context, base=window)
            remembers = card.causal
    except ValueError as error:
        raise RequestError(str(error)) from None
    return Plan(resolved, shape, mode, schedule, remembers, context)
