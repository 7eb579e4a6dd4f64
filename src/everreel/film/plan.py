"""How a request is cut into windows, blocks and rows of a schedule, before anything is loaded.

Source: section 4c of the paper and the released long-video code. The one invariant: a plan is a pure function of the
request and the model's card, so it can be shown, checked and repeated.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from everreel.checkpoint.catalog import CATALOG, Join, ModelCard
from everreel.checkpoint.configs import Kind
from everreel.diffusion.schedule import Row, Schedule, asynchronous, blockwise, repeated, rolling
from everreel.diffusion.windows import windows
from everreel.film.request import RequestError, Ring, VideoRequest
from everreel.shapes import TEMPORAL, LatentShape, frames_of, latent_frames, video_frames

OVERLAP = 17  # frames: what the released code is run with
MOST_PIECES = 8  # that are listed one by one
TOLD_TO_ALL = 24  # frames a second of films that models without an embedding of the rate were trained on
_ONE_WINDOW = "makes any number of frames in one window"
_AT_ONCE = "makes all frames at once, at one noise level"
_COLOURS = f"{_AT_ONCE}; in diffusion forcing it gives blocks of colour"
_NO_PICTURE = "reads words alone"
_ONE_PICTURE = "takes one picture, for the first frame"
# What cannot be asked of models that were not trained for diffusion forcing, by what they were trained for.
_NOT_WITH: dict[Kind, dict[str, str]] = {
    "df": {},
    "t2v": {"image": _NO_PICTURE, "end_image": _NO_PICTURE, "keyframes": _NO_PICTURE},
    "i2v": {"end_image": _ONE_PICTURE, "keyframes": _ONE_PICTURE},
}
_NOT_AT_ONCE = {
    "story": "reads one prompt",
    "ar_step": _COLOURS,
    "schedule": _COLOURS,
    "causal_block_size": _COLOURS,
    "base_num_frames": _ONE_WINDOW,
    "overlap_history": _ONE_WINDOW,
    "join": _ONE_WINDOW,
    "addnoise_condition": "looks back at nothing",
    "cache": _AT_ONCE,
    "sink": _AT_ONCE,
    "loop": "cannot be shown frames that are finished",
    "blend_overlap": _ONE_WINDOW,
    "anchor_color": _ONE_WINDOW,
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
    """Latent frames that are kept as keys and values, beside the sink."""
    sink: int = 0
    """The first latent frames of the film, kept for ever."""
    overlap: int = 0
    """Latent frames that a window has of the one before it."""
    join: Join = "carry"
    ring: Ring | None = None
    """Of a film whose end meets its beginning."""
    turns: tuple[int, ...] = ()
    """The latent frame at which each part of the story takes over."""
    told_from: tuple[int, ...] = ()
    """The frame of the film at which it does."""
    notes: tuple[str, ...] = ()
    """What a person should know of it who has asked for something else, a line each."""

    @property
    def num_blocks(self) -> int:
        """Blocks that are written one after the other."""
        return 1 if self.schedule.num_steps == len(self.schedule) else self.schedule.num_finished

    @property
    def is_long(self) -> bool:
        """Whether not all of the film is ever in sight at once, so that it may drift."""
        return self.schedule.longest_window < self.schedule.num_frames

    def describe(self) -> str:
        """One line for people."""
        request, pictures = self.request, 0 if self.ring else len(self.schedule.given)
        given = f"{pictures} given picture{'s' * (pictures != 1)}, " if pictures else "a loop, " * bool(self.ring)
        return (
            f"{request.num_frames} frames of {request.width}x{request.height} at {request.fps} fps: {given}"
            f"{self.mode}, {self._counts()}, "
            f"guidance {request.guidance_scale:g}, shift {request.shift:g}, seed {request.seed}"
        )

    def _counts(self) -> str:
        """Windows where there may be several, blocks, the steps of each, and passes, which blocks may share."""
        windows, blocks = self.schedule.num_windows, self.num_blocks
        steps, passes = self.schedule.num_steps, len(self.schedule)
        return (
            f"{windows} window{'s' * (windows != 1)}, " * bool(self.overlap)
            + f"{blocks} block{'s' * (blocks != 1)} of {steps} step{'s' * (steps != 1)}, "
            + "at most " * bool(self.request.step_cache)
            + f"{passes} denoising pass{'es' * (passes != 1)}"
            + " after those of its opening" * bool(self.ring)
        )

    def explain(self) -> list[str]:
        """Lines for people: what is given where, which frames come in which order, and what is in sight meanwhile."""
        lines = [*self.notes]
        for (frame, prompt), turned in zip(self.request.story.items(), self.told_from, strict=True):
            in_fact = f" (it takes over at {turned})" * (turned != frame)
            lines.append(f"from frame {frame} on{in_fact}: {prompt}")
        for at, (field, path) in self.request.pictures().items():
            place = f"fills latent {at}" if at in self.schedule.given else "is shown beside every latent"
            lines.append(f"{field} {path} {place}")
        return lines + self._pieces()

    def _pieces(self) -> list[str]:
        """The first pieces, those that see a picture ahead of them, and the last; of a long film the rest are many."""
        first = itertools.islice((at for at, row in enumerate(self.schedule) if row.finished), MOST_PIECES)
        told = sorted({*first, *self._led_to_pictures(), len(self.schedule) - 1})
        rows = [self.schedule[at] for at in told]
        left = self.schedule.num_finished - len(rows)
        gaps = [i for i in range(1, len(rows)) if rows[i].finished.start > rows[i - 1].finished.stop]
        lines = [self._piece(row) for row in rows]
        for i in reversed(gaps):  # how many lie in one of several gaps only all rows would tell
            many = f"{left} more" if len(gaps) == 1 else f"more, up to frame {self._frames(rows[i])[0] - 1}"
            lines.insert(i, f"... {many} ...")
        return lines

    def _led_to_pictures(self) -> set[int]:
        """The rows that finish frames while a picture lies ahead. Windows only move on, so few have to be looked at."""
        found: set[int] = set()
        for frame in self.schedule.given:
            begin = bisect.bisect_right(self.schedule, frame, key=lambda row: row.window[1])
            end = bisect.bisect_right(self.schedule, frame, begin, key=lambda row: row.window[0])
            found |= {at for at in range(begin, end) if (row := self.schedule[at]).finished and row.ahead}
        return found

    def _piece(self, row: Row) -> str:
        first, last = self._frames(row)
        full = "; full attention and no cache, a picture lies ahead" if row.ahead and self.remembers else ""
        sink = 0 if row.ahead else min(self.sink, row.window[0])
        kept = f"0..{sink - 1} and " if sink else ""
        sight = f"latents {kept}{row.window[0]}..{row.window[1] - 1} in sight{full}"
        return f"frames {first}..{last}: {sight}"

    def _frames(self, row: Row) -> tuple[int, int]:
        """The first and the last frame that a row finishes."""
        assert self.request.num_frames
        last = self.request.shown(frames_of(row.finished.stop - 1)[-1])
        return self.request.shown(frames_of(row.finished.start)[0]), min(last, self.request.num_frames - 1)


def make_plan(request: VideoRequest, card: ModelCard, history: int = 0, spare: int = 0) -> Plan:
    """Choose the schedule: one window at once, asynchronously where asked, block by block beyond a window.

    `history` is how many latent frames are known of a film that this one goes on with, and `spare` how many frames of
    their last one were not shown; the request counts from there.

    Raises:
        RequestError: the request cannot be cut as asked.
    """
    if history:
        check_can_go_on(card)
    check_one_window(request, card)
    resolved = request.resolve(card)
    num_frames, height, width = resolved.num_frames, resolved.height, resolved.width
    assert num_frames is not None and height is not None and width is not None
    window = latent_frames(resolved.base_num_frames or card.num_frames)
    asked = resolved.causal_block_size or min(card.block_size, window)
    sizes = asked if isinstance(asked, tuple) else (asked,)
    if max(sizes) > window:
        rule = f"must be at most the window of {window} latent frames"
        nearest = _listed(min(size, window) for size in sizes)
        raise RequestError(f"causal_block_size = {_listed(sizes)}: {rule}; nearest that works: {nearest}")
    ring = None
    if history:
        if not card.image and resolved.pictures():
            raise RequestError(
                "image, end_image, keyframes: a film that goes on with another takes none; leave them out"
            )
        frames = history + latent_frames(max(num_frames - spare, 1) + 1) - 1
        given = frozenset(range(history))
    else:
        frames, given, ring = _known(resolved, card, max(sizes))
        if len(given) == frames:
            raise _nothing_left(request, resolved, card, max(sizes))
    cut = _Cut(resolved, card, frames, given, window, sizes)
    try:
        made = cut.make()
    except ValueError as error:
        raise RequestError(str(error)) from None
    shape = LatentShape.from_pixels(video_frames(frames), height, width)
    turns, told_from = _turns(resolved, frames - bool(ring), history, spare)
    plan = Plan(
        resolved, shape, **vars(made), ring=ring, turns=turns, told_from=told_from, notes=_notes(resolved, card)
    )
    if resolved.addnoise_condition is not None or not plan.is_long:
        return plan  # and who goes on with a short film may look back at more
    return replace(plan, request=resolved.model_copy(update={"addnoise_condition": card.addnoise_condition}))


def _notes(request: VideoRequest, card: ModelCard) -> tuple[str, ...]:
    if request.fps == TOLD_TO_ALL or card.told_fps:
        return ()
    says = f"{card.name} is not told the rate of its films, it makes what it makes at {TOLD_TO_ALL}, shown more slowly"
    return (f"fps = {request.fps}: {says}",)


def _known(request: VideoRequest, card: ModelCard, block: int) -> tuple[int, frozenset[int], Ring | None]:
    """The latent frames of a film that begins here, those that are known before it is made, and how a loop lies."""
    assert request.num_frames
    pictures = frozenset(() if card.image else request.pictures())
    if not request.loop:
        return latent_frames(request.num_frames), pictures, None
    ring = Ring.of(request, block)
    return ring.num_latents, pictures | frozenset(ring.known), ring


def _nothing_left(request: VideoRequest, resolved: VideoRequest, card: ModelCard, block: int) -> RequestError:
    """Why a film that its pictures fill is none, and the nearest length that is one."""
    assert resolved.num_frames
    for nearest in itertools.count(resolved.num_frames + 1):  # pictures stay as many, and latents become more
        with suppress(RequestError):  # two of them may come to share a latent
            frames, given, _ = _known(resolved.model_copy(update={"num_frames": nearest}), card, block)
            if len(given) < frames:
                break
    *others, last = [field for field, _ in resolved.pictures().values()]
    fill = f"{', '.join(others)} and {last} fill it" if others else f"{last} fills it"
    rule = f"{fill}, and nothing is left to make; nearest that works"
    if request.seconds is not None:
        return RequestError(f"seconds = {request.seconds:g}: {rule}: {nearest / request.fps:.2f}")
    return RequestError(f"num_frames = {resolved.num_frames}: {rule}: {nearest}")


def _listed(sizes: Iterable[int]) -> str:
    """As one types them."""
    return ",".join(map(str, sizes))


@dataclass(frozen=True)
class _Made:
    """What of a plan is chosen with its schedule."""

    mode: str
    schedule: Schedule
    remembers: bool = False
    context: int = 0
    sink: int = 0
    overlap: int = 0
    join: Join = "carry"


@dataclass(frozen=True)
class _Cut:
    """A film to be cut: its latent frames, those of them that are known, the longest window and the blocks.

    Of several sizes of blocks the last is taken again and again.
    """

    request: VideoRequest
    card: ModelCard
    frames: int
    given: frozenset[int]
    window: int
    sizes: tuple[int, ...]

    def make(self) -> _Made:
        """As asked, else all at once where it fits a window, else as the model recommends."""
        request, how = self.request, _how(self.request, self.card, self.frames > self.window, self._sees_ahead)
        if request.blend_overlap and how != "one window" and (how != "windows" or self._join == "carry"):
            raise RequestError(
                "blend_overlap = True: goes with windows whose pixels are encoded again; try join reencode"
            )
        if how == "windows":
            return self._windows()
        cached = request.cache
        if cached is None:  # with an ar_step that is asked for, all of the window is in the making
            cached = self.card.causal and (how == "blockwise" or (how == "rolling" and not request.ar_step))
        if how == "one window":
            return self._at_once(cached)
        if request.sink and not cached:
            raise RequestError(f"sink = {request.sink}: is kept in a cache; give cache as well")
        return self._blockwise(cached) if how == "blockwise" else self._rolling(cached)

    @property
    def _sees_ahead(self) -> bool:
        """Whether a frame is given behind one that is to be made."""
        return len(self.given) != max(self.given, default=-1) + 1

    @property
    def _steps(self) -> int:
        assert self.request.num_inference_steps is not None
        return self.request.num_inference_steps

    @property
    def block(self) -> int:
        """Latent frames of the longest block."""
        return max(self.sizes)

    @property
    def _blocks(self) -> int | tuple[int, ...]:
        """As the schedules of a film take them."""
        return self.block if len(self.sizes) == 1 else repeated(self.sizes, self.frames)

    @property
    def _cached(self) -> str:
        return "cached" if self.card.causal else "cached, which is an approximation with these weights"

    @property
    def _join(self) -> Join:
        return self.request.join or self.card.join

    def _at_once(self, cached: bool) -> _Made:
        ar_step = self.request.ar_step
        if not ar_step:
            if cached:
                raise RequestError("cache = True: goes with blocks; give causal_block_size, or ar_step as well")
            return _Made("synchronous", asynchronous(self.frames, self._steps, given=self.given))
        behind = 0 if cached else None
        schedule = asynchronous(self.frames, self._steps, ar_step, self._blocks, self.given, cached=behind)
        kept = f", {self._cached}" if cached else ""
        mode = f"asynchronous (ar_step {ar_step}, blocks of {_listed(self.sizes)}{kept})"
        return _Made(mode, schedule, cached, self.frames if cached else 0)

    def _windows(self) -> _Made:
        request, window, sizes = self.request, self.window, self.sizes
        if request.causal_block_size and not request.ar_step:
            raise RequestError(f"causal_block_size = {_listed(sizes)}: in windows, blocks need an ar_step; try 5")
        overlap = _overlap(request, window)
        schedule = windows(
            self.frames, self._steps, base=window, overlap=overlap, given=self.given, ar_step=request.ar_step,
            block_size=self.block if len(sizes) == 1 else sizes,
        )  # fmt: skip
        mode = f"windows (of {window} latent frames, {overlap} of them history, joined by {self._join})"
        return _Made(mode, schedule, overlap=overlap, join=self._join)

    def _rolling(self, cached: bool) -> _Made:
        ar_step, base, context, sink = self.request.ar_step, self.window, 0, 0
        if cached:
            # Half of what is in sight moves, the rest is what has been finished.
            sink = self._sink(self.window - self.block)
            base = max((self.window - sink) // 2, min(2 * self.block, self.window - sink - 1))
            base = max(base // self.block, 1) * self.block
            context = max(self.window - sink - base, 1)
        behind = context if cached else None
        if ar_step:
            schedule = asynchronous(self.frames, self._steps, ar_step, self._blocks, self.given, base, behind)
        else:
            schedule = rolling(self.frames, self._steps, self._blocks, self.given, base=base, cached=behind)
        kept = f", {context} latent frames of history and a sink of {sink}, {self._cached}" if cached else ""
        mode = f"rolling (a window of {self.window} latent frames, blocks of {_listed(self.sizes)}{kept})"
        return _Made(mode, schedule, cached, context, sink)

    def _blockwise(self, cached: bool) -> _Made:
        window, block, listed = self.window, self.block, _listed(self.sizes)
        if len(self.sizes) > 1 and self._sees_ahead:
            rule = "blocks of several sizes do not see a picture ahead of them when they are made one after the other"
            raise RequestError(f"causal_block_size = {listed}: {rule}; nearest that works: {block}, or give ar_step")
        sink = self._sink(window - block) if cached else 0
        context = min(self.card.context, max(window - block - sink, 1))
        schedule = blockwise(
            self.frames, self._steps, self._blocks, self.given, context=context, base=max(window, block + context)
        )
        kept = f" and a sink of {sink}" if sink else ""
        if cached and not self.card.causal:
            kept += f", {self._cached}"
        mode = f"blockwise (blocks of {listed}, {context} latent frames of context{kept})"
        return _Made(mode, schedule, cached, context, sink)

    def _sink(self, most: int) -> int:
        asked = self.card.sink if self.request.sink is None else self.request.sink
        if self.request.sink is not None and asked >= most > 0:
            rule = f"must be less than what a block looks back at, {most} latent frames"
            raise RequestError(f"sink = {asked}: {rule}; nearest that works: {most - 1}")
        return max(min(asked, most - 1), 0)


def opening_of(plan: Plan) -> VideoRequest:
    """The request of the opening of a film that meets its beginning: one window, with what is asked of it alone."""
    assert plan.ring
    alike = {"prompt", "negative_prompt", "fps", "height", "width", "seed"}
    alike |= {"num_inference_steps", "guidance_scale", "guidance_level", "guidance_until", "shift", "step_cache"}
    alike |= {"skip_layer_guidance_scale", "skip_guidance_layers"}
    placed = plan.request.pictures().items()
    pictures = {frames_of(at)[0]: path for at, (_, path) in placed if at < plan.ring.opening}
    asked = plan.request.model_dump(include=alike)
    told = zip(plan.turns, plan.request.story.values(), strict=True)
    story = {frames_of(turn)[0]: prompt for turn, prompt in told if turn < plan.ring.opening}
    return VideoRequest(**asked, num_frames=video_frames(plan.ring.opening), keyframes=pictures, story=story)


def check_one_window(request: VideoRequest, card: ModelCard) -> None:
    """Nothing is asked of a T2V or I2V model that takes a noise level a frame.

    Raises:
        RequestError: something is, or there is no picture for I2V; the message names models that can.
    """
    if card.forcing:
        return
    for field, why in (_NOT_WITH[card.kind] | _NOT_AT_ONCE).items():
        value = getattr(request, field)
        if value and value != type(request).model_fields[field].default:
            if isinstance(value, dict):
                frame, value = next(iter(value.items()))
                field = f"{field}[{frame}]"
            raise RequestError(f"{field} = {value}: {card.name} {why}; leave it out, or {_can_do_it(card)}")
    if card.image and request.image is None:
        raise RequestError(f"image: must be given to {card.name}, a PNG or JPEG works; without one, {_can_do_it(card)}")


def check_can_go_on(card: ModelCard) -> None:
    """The model can go on with a film.

    Raises:
        RequestError: it cannot; the message names models that can.
    """
    if not card.forcing:
        seen = "looks at one picture" if card.image else _NO_PICTURE
        raise RequestError(f"model = {card.name}: {seen} and cannot go on with a film; {_can_do_it(card)}")


def _turns(request: VideoRequest, latents: int, history: int, spare: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The latent frame at which each part of the story takes over, nearest to the frame asked for, and its frame.

    Raises:
        RequestError: a part would not be seen.
    """

    def turn(frame: int) -> int:
        # The first latent of a film holds one frame; behind a history every latent holds four.
        return (
            history + round((frame - spare) / TEMPORAL) if history else 1 + round((request.made(frame) - 1) / TEMPORAL)
        )

    def nearest(latent: int) -> int:
        return spare + TEMPORAL * (latent - history) if history else request.shown(frames_of(latent)[0])

    turns, before = [], history
    for frame, prompt in request.story.items():
        at = turn(frame)
        if at >= latents:
            works = f"nearest that works: {nearest(latents - 1)}" if latents - 1 > before else "leave it out"
            rule = f"too near the end of {request.num_frames} frames to be seen; {works}"
            raise RequestError(f"story[{frame}] = {prompt!r}: {rule}")
        if at <= before:
            raise RequestError(
                f"story[{frame}] = {prompt!r}: comes too soon; nearest that works: {nearest(before + 1)}"
            )
        turns.append(at)
        before = at
    return tuple(turns), tuple(map(nearest, turns))


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


def _how(request: VideoRequest, card: ModelCard, long: bool, sees_ahead: bool) -> str:
    """The way a film is made: as asked, else all at once where it fits a window, else as the model recommends."""
    if not card.forcing:
        return "one window"
    if request.schedule is not None:
        return request.schedule
    streams = card.streams and not request.ar_step
    if not long and not streams and (request.causal_block_size is None or request.ar_step):
        return "one window"
    if request.overlap_history is not None or request.join is not None:
        return "windows"
    if request.ar_step:
        return "rolling"
    # What leads up to a picture is one long block there, which sees it in every step; where a film rolls, it would not.
    blocks = request.causal_block_size is not None or streams or (sees_ahead and card.schedule == "rolling")
    return "blockwise" if blocks else card.schedule


def _can_do_it(card: ModelCard) -> str:
    """Which models can, and which of them is the most like this one."""
    forcing = [other for other in CATALOG if other.forcing]
    nearest = min(forcing, key=lambda other: (abs(other.dim - card.dim), abs(other.height - card.height)))
    return f"models of diffusion forcing can: {', '.join(other.name for other in forcing)}; nearest {nearest.name!r}"
