"""How a request is cut into windows, blocks and rows of a schedule, before anything is loaded.

Source: section 4c of the paper and the released long-video code. The one invariant: a plan is a pure function of the
request and the model's card, so it can be shown, checked and repeated.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from everreel.checkpoint.catalog import CATALOG, Join, ModelCard
from everreel.diffusion.schedule import Row, Schedule, asynchronous, blockwise, rolling
from everreel.diffusion.windows import windows
from everreel.film.request import RequestError, VideoRequest
from everreel.shapes import TEMPORAL, LatentShape, frames_of, latent_frames, video_frames

OVERLAP = 17  # frames: what the released code is run with
MOST_PIECES = 8  # that are listed one by one
_NOT_WITH_IMAGE = {
    "end_image": "takes one picture, for the first frame",
    "keyframes": "takes one picture, for the first frame",
    "story": "reads one prompt",
    "ar_step": "makes all frames at once",
    "schedule": "makes all frames at once",
    "causal_block_size": "makes all frames at once",
    "base_num_frames": "makes any number of frames in one window",
    "overlap_history": "makes any number of frames in one window",
    "join": "makes any number of frames in one window",
    "addnoise_condition": "looks back at nothing",
}


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
    overlap: int = 0
    """Latent frames that a window has of the one before it."""
    join: Join = "carry"

    @property
    def num_blocks(self) -> int:
        """Blocks that are written one after the other."""
        return 1 if self.schedule.num_steps == len(self.schedule) else self.schedule.num_finished

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

    def explain(self) -> list[str]:
        """Lines for people: what is given where, which frames come in which order, and what is in sight meanwhile."""
        lines = [f"from frame {frame} on: {prompt}" for frame, prompt in self.request.story.items()]
        for at, (field, path) in self.request.pictures().items():
            place = f"fills latent {at}" if at in self.schedule.given else "is shown beside every latent"
            lines.append(f"{field} {path} {place}")
        ends = itertools.islice((row for row in self.schedule if row.finished), MOST_PIECES)
        pieces = [self._piece(row) for row in ends]
        left = self.schedule.num_finished - len(pieces)
        if left > 1:
            pieces.append(f"... {left - 1} more ...")
        return [*lines, *pieces, *([self._piece(self.schedule[-1])] if left else [])]

    def _piece(self, row: Row) -> str:
        assert self.request.num_frames
        last = min(frames_of(row.finished.stop - 1)[-1], self.request.num_frames - 1)
        full = "; full attention and no cache, a picture lies ahead" if row.ahead and self.remembers else ""
        sight = f"latents {row.window[0]}..{row.window[1] - 1} in sight{full}"
        return f"frames {frames_of(row.finished.start)[0]}..{last}: {sight}"


def make_plan(request: VideoRequest, card: ModelCard, history: int = 0, spare: int = 0) -> Plan:
    """Choose the schedule: one window at once, asynchronously where asked, block by block beyond a window.

    `history` is how many latent frames are known of a film that this one goes on with, and `spare` how many frames of
    their last one were not shown; the request counts from there.

    Raises:
        RequestError: the request cannot be cut as asked.
    """
    if history:
        check_can_go_on(card)
    check_image_to_video(request, card)
    resolved = request.resolve(card)
    num_frames, height, width = resolved.num_frames, resolved.height, resolved.width
    steps = resolved.num_inference_steps
    assert num_frames is not None and height is not None and width is not None and steps is not None
    if history and resolved.pictures():
        raise RequestError("image, end_image, keyframes: a film that goes on with another takes none; leave them out")
    frames = history + latent_frames(max(num_frames - spare, 1) + 1) - 1 if history else latent_frames(num_frames)
    shape = LatentShape.from_pixels(video_frames(frames), height, width)
    _check_story(resolved)
    given = frozenset(() if card.image else resolved.pictures()) | frozenset(range(history))
    window = latent_frames(resolved.base_num_frames or card.num_frames)
    block = resolved.causal_block_size or min(card.block_size, window)
    if block > window:
        raise RequestError(f"causal_block_size = {block}: must be at most the window of {window} latent frames")
    how = _how(resolved, card, frames > window)
    if how == "windows" and resolved.causal_block_size and not resolved.ar_step:
        raise RequestError(f"causal_block_size = {block}: in windows, blocks need an ar_step; try 5")
    overlap, context, join = 0, 0, resolved.join or card.join
    try:
        if how == "one window":
            ar_step = resolved.ar_step
            mode = f"asynchronous (ar_step {ar_step}, blocks of {block})" if ar_step else "synchronous"
            schedule = asynchronous(frames, steps, ar_step, block if ar_step else None, given)
        elif how == "windows":
            overlap = _overlap(resolved, window)
            mode = f"windows (of {window} latent frames, {overlap} of them history, joined by {join})"
            schedule = windows(
                frames, steps, base=window, overlap=overlap, given=given, ar_step=resolved.ar_step, block_size=block
            )
        elif how == "rolling":
            mode = f"rolling (a window of {window} latent frames, blocks of {block})"
            schedule = (
                asynchronous(frames, steps, resolved.ar_step, block, given, window)
                if resolved.ar_step
                else rolling(frames, steps, block, given, base=window)
            )
        else:
            context = min(card.context, max(window - block, 1))
            mode = f"blockwise (blocks of {block}, {context} latent frames of context)"
            schedule = blockwise(frames, steps, block, given, context=context, base=max(window, block + context))
    except ValueError as error:
        raise RequestError(str(error)) from None
    remembers = how == "blockwise" and card.causal
    return Plan(resolved, shape, mode, schedule, remembers, context, overlap, join if how == "windows" else "carry")


def turn_latent(frame: int) -> int:
    """The latent frame at which a prompt takes over that is to begin at a video frame: the nearest but the first."""
    return max(1, 1 + round((frame - 1) / TEMPORAL))


def check_image_to_video(request: VideoRequest, card: ModelCard) -> None:
    """Nothing is asked of an I2V model that takes a noise level a frame.

    Raises:
        RequestError: something is, or there is no picture; the message names models that can.
    """
    if not card.image:
        return
    for field, why in _NOT_WITH_IMAGE.items():
        value = getattr(request, field)
        if value != type(request).model_fields[field].default:
            if isinstance(value, dict):
                frame, value = next(iter(value.items()))
                field = f"{field}[{frame}]"
            raise RequestError(f"{field} = {value}: {card.name} {why}; leave it out, or {_can_do_it()}")
    if request.image is None:
        raise RequestError(f"image: must be given to {card.name}, a PNG or JPEG works; without one, {_can_do_it()}")


def check_can_go_on(card: ModelCard) -> None:
    """The model can go on with a film.

    Raises:
        RequestError: it cannot; the message names models that can.
    """
    if card.image:
        raise RequestError(f"model = {card.name}: looks at one picture and cannot go on with a film; {_can_do_it()}")


def _check_story(request: VideoRequest) -> None:
    """Every part of the story has its own place in the film."""
    latents, before = latent_frames(request.num_frames or 1), 0
    for frame, prompt in request.story.items():
        turn = turn_latent(frame)
        if turn >= latents:
            nearest = f"nearest that works: {frames_of(latents - 1)[0]}" if latents > 1 else "leave it out"
            rule = f"too near the end of {request.num_frames} frames to be seen; {nearest}"
            raise RequestError(f"story[{frame}] = {prompt!r}: {rule}")
        if turn == before:
            soonest = frames_of(before + 1)[0]
            raise RequestError(f"story[{frame}] = {prompt!r}: comes too soon; nearest that works: {soonest}")
        before = turn


def _overlap(request: VideoRequest, window: int) -> int:
    """Latent frames that a window has of the one before it."""
    asked = request.overlap_history
    if asked is None:
        return min(latent_frames(OVERLAP), window - 1)
    if latent_frames(asked) >= window:
        frames, nearest = map(video_frames, (window, window - 1))
        rule = f"must be less than the window of {frames} frames; nearest that works: {nearest}"
        raise RequestError(f"overlap_history = {asked}: {rule}")
    return latent_frames(asked)


def _how(request: VideoRequest, card: ModelCard, long: bool) -> str:
    """The way a film is made: as asked, else all at once where it fits a window, else as the model recommends."""
    if card.image:
        return "one window"
    if request.schedule is not None:
        return request.schedule
    if not long and (request.causal_block_size is None or request.ar_step):
        return "one window"
    if request.overlap_history is not None or request.join is not None:
        return "windows"
    if request.ar_step:
        return "rolling"
    return card.schedule if request.causal_block_size is None else "blockwise"


def _can_do_it() -> str:
    names = ", ".join(card.name for card in CATALOG if "diffusion forcing" in card.kind)
    return f"models of diffusion forcing can: {names}"
