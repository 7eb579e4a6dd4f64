"""Schedules: which frames step when, and which are seen. All the ways to generate differ in this alone.

A row says at which step index each frame of a window stands (0 is pure noise, N is clean) and which of them
step now. The rules are SkyReels-V2's (arXiv 2504.13074, diffusion forcing; the released
`generate_timestep_matrix`): frames move in blocks, a block starts `ar_step` rows after the block before it,
and with `ar_step` 0 all move together. Where the released code leaves frames behind (a tail shorter than a
block, a given prefix that is not whole blocks) every frame is served here. The one invariant: each frame
that is not given steps exactly N times, in rows that follow one another and inside the window, and a given
frame never steps.

Rows are worked out when they are asked for, so the schedule of a film of any length costs nothing to hold.
"""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class Row:
    """One call of the network."""

    levels: tuple[int, ...]
    """Step index of each frame of the window before the row: `levels[i]` is that of frame `window[0] + i`."""
    update: tuple[bool, ...]
    """Which frames of the window step in this row."""
    window: tuple[int, int]
    """The frames that are seen, from the first up to but not including the second."""
    finished: range
    """The frames that are final from this row on, given ones too; over all rows each frame once, in order.
    Only given ones can lie outside the window."""
    ahead: bool = False
    """Whether a frame is given behind one that steps. Block-causal weights see it with full attention only."""
    joined: int = 0
    """In the first row of a window that goes on with the one before: how many frames at its front are of that one."""


class Schedule(Sequence[Row], ABC):
    """The rows of a film. Made by `synchronous`, `asynchronous`, `rolling`, `blockwise` and `windows`.

    `edges` are the first frames of the blocks, and the end of the film.
    """

    def __init__(self, edges: Sequence[int], num_steps: int, given: frozenset[int]) -> None:
        self.num_steps = num_steps
        self.given = given
        self._edges = tuple(edges)

    @property
    def num_frames(self) -> int:
        """Latent frames of the film."""
        return self._edges[-1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Frames in each block, given blocks among them."""
        return tuple(stop - start for start, stop in itertools.pairwise(self._edges))

    def blocks_in(self, start: int, stop: int) -> tuple[int, ...]:
        """Sizes of the blocks from frame `start` up to `stop`, cut at both; none if the two are the same."""
        assert 0 <= start <= stop <= self.num_frames, (start, stop)
        inside = self._edges[bisect.bisect_right(self._edges, start) : bisect.bisect_left(self._edges, stop)]
        return tuple(b - a for a, b in itertools.pairwise((start, *inside, stop)) if b > a)

    @property
    def num_windows(self) -> int:
        """Windows one after the other; a single one holds the film, or moves along it."""
        return 1

    @property
    @abstractmethod
    def num_finished(self) -> int:
        """How many rows finish frames: the pieces in which the film comes."""

    @property
    @abstractmethod
    def longest_window(self) -> int:
        """The most frames that any row sees, for plans of memory and time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _row(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._row(index % len(self))

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)))

    def __repr__(self) -> str:
        return f"Schedule({self.num_frames} frames, {len(self._edges) - 1} blocks, {len(self)} rows)"


class Blocks(Schedule):
    """A film cut once into blocks, each of which starts some rows after the one before it."""

    def __init__(
        self,
        sizes: Sequence[int],
        num_steps: int,
        given: frozenset[int],
        *,
        delay: int,
        base: int | None = None,
        context: int | None = None,
        cached: int | None = None,
    ) -> None:
        """Blocks of `sizes` frames, each `delay` rows after the one before it.

        The window is the whole film, or the newest whole blocks that fit into `base` frames, or, with a `context`,
        the moving block and so many frames before it, both together at most `base`. With `cached`, so many finished
        frames more are seen before it, and what has not begun only where a frame is given behind it.
        """
        super().__init__((0, *itertools.accumulate(sizes)), num_steps, given)
        self._delay, self._base, self._context, self._cached = delay, base, context, cached
        self._known = sorted(given)
        # The blocks that have something to make. A block that is given whole takes no time.
        self._moving = [
            index
            for index, (start, stop) in enumerate(itertools.pairwise(self._edges))
            if not given or any(frame not in given for frame in range(start, stop))
        ]
        if not self._moving:
            raise nothing_left(self.num_frames)
        shown = 0 if base is None or context is not None else bisect.bisect_right(self._edges, base) - 1
        self._first_view = self._edges[shown]

    @property
    def num_finished(self) -> int:
        return len(self._moving) if self._delay else 1

    @property
    def longest_window(self) -> int:
        """The most frames that any row sees, for plans of memory and time."""
        if self._base is None and self._context is None:
            return self.num_frames
        return max(stop - start for start, stop in map(self._in_sight, self._newest_ever()))

    @property
    def keeps_in_view(self) -> bool:
        """Whether every block stays in the window until it is done; what the builders see to."""
        # Blocks that are still moving when the newest one begins, besides that one.
        others = (self.num_steps - 1) // self._delay if self._delay else len(self._moving)
        return all(
            self._window(turn)[0] <= self._edges[self._moving[max(0, turn - others)]] for turn in self._newest_ever()
        )

    def __len__(self) -> int:
        return self.num_steps + (len(self._moving) - 1) * self._delay

    def _row(self, index: int) -> Row:
        start, stop = self._in_sight(self._newest(index))
        levels: list[int] = []
        update: list[bool] = []
        block = bisect.bisect_right(self._edges, start) - 1
        turn = bisect.bisect_left(self._moving, block)  # which moving block this is, or comes next
        frame = start
        while frame < stop:
            edge = min(self._edges[block + 1], stop)
            moves = turn < len(self._moving) and self._moving[turn] == block
            past = index - turn * self._delay  # rows since this block began
            level = min(max(past, 0), self.num_steps) if moves else self.num_steps
            for seen in range(frame, edge):
                known = seen in self.given
                levels.append(self.num_steps if known else level)
                update.append(moves and not known and 0 <= past < self.num_steps)
            turn += moves
            block += 1
            frame = edge
        first = update.index(True)
        ahead = any(known in self.given for known in range(start + first, stop))
        return Row(tuple(levels), tuple(update), (start, stop), self._finished(index), ahead)

    def _newest(self, index: int) -> int:
        """The last moving block that has begun."""
        last = len(self._moving) - 1
        return last if self._delay == 0 else min(index // self._delay, last)

    def _newest_ever(self) -> range:
        """All that `_newest` says in some row."""
        return range(0 if self._delay else len(self._moving) - 1, len(self._moving))

    def _in_sight(self, turn: int) -> tuple[int, int]:
        """The window while the moving block number `turn` is the newest, with what a cache adds and leaves out."""
        start, stop = self._window(turn)
        if self._cached is None:
            return start, stop
        begun = self._edges[self._moving[turn] + 1]
        if self._base is not None:
            # Where the newest block has to arrive is worth more than the last of what lies behind it.
            stop = max(stop, self._following(turn, self._base + self._cached))
        last = bisect.bisect_left(self._known, stop) - 1  # the last given frame in the window
        ahead = self._edges[bisect.bisect_right(self._edges, self._known[last])] if last >= 0 else 0
        return max(0, start - self._cached), max(begun, min(ahead, stop))

    def _window(self, turn: int) -> tuple[int, int]:
        """What is seen while the moving block number `turn` is the newest."""
        if self._base is None and self._context is None:
            return 0, self.num_frames
        block = self._moving[turn]
        if self._context is not None:
            start, stop = self._edges[block : block + 2]
            room = self._context if self._base is None else min(self._context, self._base - (stop - start))
            return max(0, start - room), stop
        assert self._base is not None
        stop = max(self._following(turn, self._base), self._first_view)
        return self._edges[bisect.bisect_left(self._edges, stop - self._base)], stop

    def _following(self, turn: int, room: int) -> int:
        """The end of what is given right behind the moving block number `turn`, where that block has to arrive; with
        the block itself at most `room` frames."""
        block = self._moving[turn]
        following = self._moving[turn + 1] if turn + 1 < len(self._moving) else len(self._edges) - 1
        while self._edges[following] - self._edges[block] > room:
            following -= 1
        return self._edges[following]

    def _finished(self, index: int) -> range:
        last = len(self._moving) - 1
        if self._delay == 0:
            return range(self.num_frames) if index == self.num_steps - 1 else range(0)
        turn, rest = divmod(index - (self.num_steps - 1), self._delay)
        if rest or not 0 <= turn <= last:
            return range(0)
        start = 0 if turn == 0 else self._edges[self._moving[turn]]
        return range(start, self.num_frames if turn == last else self._edges[self._moving[turn + 1]])


def partition(num_frames: int, block_size: int, *, first: int = 0) -> tuple[int, ...]:
    """Sizes of the blocks of a film: `first` (if any), then `block_size` each, then what is left.

    24 frames in blocks of 5 are 5, 5, 5, 5, 4; 25 with a first one of 1 and blocks of 4 are 1, 4, 4, 4, 4,
    4, 4.
    """
    _check_positive("num_frames", num_frames)
    _check_positive("block_size", block_size)
    if not 0 <= first <= num_frames:
        raise ValueError(f"first = {first}: must be from 0 to num_frames = {num_frames}")
    whole, tail = divmod(num_frames - first, block_size)
    return (first,) * (first > 0) + (block_size,) * whole + (tail,) * (tail > 0)


def repeated(sizes: Sequence[int], num_frames: int) -> tuple[int, ...]:
    """Sizes of the blocks of a film that begin so, the last of them again and again, and what is left.

    1, 4, 4 and 15 frames are 1, 4, 4, 4, 2.
    """
    _check_positive("sizes", len(sizes))
    edges = itertools.accumulate(itertools.chain(sizes, itertools.repeat(sizes[-1])))
    inside = list(itertools.takewhile(lambda edge: edge < num_frames, edges))
    return tuple(stop - start for start, stop in itertools.pairwise((0, *inside, num_frames)))


def nothing_left(num_frames: int) -> ValueError:
    """Why a film of which every frame is given is none."""
    nearest = f"nearest num_frames with these: {num_frames + 1}"
    return ValueError(f"given = all of num_frames = {num_frames}: at least one must be left to make; {nearest}")


def synchronous(num_frames: int, num_steps: int, given: Iterable[int] = ()) -> Schedule:
    """All frames that are not given step together."""
    return asynchronous(num_frames, num_steps, given=given)


def asynchronous(
    num_frames: int,
    num_steps: int,
    ar_step: int = 0,
    block_size: int | Sequence[int] | None = None,
    given: Iterable[int] = (),
    base: int | None = None,
    cached: int | None = None,
) -> Schedule:
    """Blocks start `ar_step` rows apart: N + (blocks - 1) · ar_step rows.

    Args:
        num_frames: latent frames of the film. num_steps: N, steps of each frame. ar_step: rows between a
        block and the next; 0 moves all together, N or more one after the other. block_size: frames in a
        block, or the sizes of all blocks. None is one block. Unless all sizes are given, a
            given prefix has blocks of its own.
        given: frames that are already clean, by number.
        base: the most frames that the network sees at once; None is all. The window slides by whole blocks.
        cached: for block-causal attention with a cache: how many finished frames before the window are seen with it;
            what has not begun is left out, no block would see it.

    Raises:
        ValueError: a number is out of range, or `ar_step` so small that a block would leave the window
        unfinished.
    """
    known = _check_common(num_frames, num_steps, given)
    if ar_step < 0:
        raise ValueError(f"ar_step = {ar_step}: must be 0 or more, nearest 0")
    sizes, base = _blocks(num_frames, block_size, known), _checked_base(base, num_frames)
    _check_longest(sizes, base)
    schedule = Blocks(sizes, num_steps, known, delay=min(ar_step, num_steps), base=base, cached=cached)
    if not schedule.keeps_in_view:
        smallest = _smallest_step(sizes, num_steps, known, base)
        raise ValueError(
            f"ar_step = {ar_step}: a block would leave the window of base = {base} latent frames before its "
            f"{num_steps} steps are done; the smallest that works is {smallest}"
        )
    return schedule


def rolling(
    num_frames: int,
    num_steps: int,
    block_size: int | Sequence[int],
    given: Iterable[int] = (),
    *,
    base: int,
    cached: int | None = None,
) -> Schedule:
    """`asynchronous` with the fewest rows between two blocks: one window of `base` frames that never stops.

    At any time its blocks stand at levels evenly apart; with every block that is finished a fresh one comes into sight.
    """
    known = _check_common(num_frames, num_steps, given)
    sizes, fitting = _blocks(num_frames, block_size, known), _checked_base(base, num_frames)
    _check_longest(sizes, fitting)
    step = _smallest_step(sizes, num_steps, known, base)
    return Blocks(sizes, num_steps, known, delay=max(step, 1), base=fitting, cached=cached)


def blockwise(
    num_frames: int,
    num_steps: int,
    block_size: int | Sequence[int],
    given: Iterable[int] = (),
    *,
    context: int,
    base: int | None = None,
) -> Schedule:
    """A block is finished before the next begins and sees the `context` frames before it: blocks · N rows.

    Memory does not depend on the length of the film: a row holds the frames of its window and no others. `base` is the
    most frames of a window. With one, what leads up to a frame that is given further on is made as one longer block, of
    up to `base` frames less one block of history: a block that does not see where it has to arrive cannot go there.
    """
    known = _check_common(num_frames, num_steps, given)
    if context < 0:
        raise ValueError(f"context = {context}: must be 0 or more, nearest 0")
    if base is None or not isinstance(block_size, int):
        sizes = _blocks(num_frames, block_size, known)
    else:
        _check_positive("block_size", block_size)
        sizes = _reaching(num_frames, block_size, known, max(base - block_size, block_size))
    _check_longest(sizes, base)
    return Blocks(sizes, num_steps, known, delay=num_steps, context=context, base=base)


def _check_common(num_frames: int, num_steps: int, given: Iterable[int]) -> frozenset[int]:
    _check_positive("num_frames", num_frames)
    _check_positive("num_steps", num_steps)
    known = frozenset(given)
    for frame in known:
        if not 0 <= frame < num_frames:
            nearest = min(max(frame, 0), num_frames - 1)
            raise ValueError(f"given = {frame}: must be from 0 to {num_frames - 1}, nearest {nearest}")
    return known


def _checked_base(base: int | None, num_frames: int) -> int | None:
    """None where the window holds the whole film."""
    if base is None:
        return None
    _check_positive("base", base)
    return None if base >= num_frames else base


def _check_longest(sizes: Sequence[int], base: int | None) -> None:
    if base is not None and max(sizes) > base:
        raise ValueError(f"base = {base}: must hold the longest block, nearest {max(sizes)}")


def _smallest_step(sizes: Sequence[int], num_steps: int, given: frozenset[int], base: int | None) -> int:
    """The fewest rows between two blocks with which each stays in a window of `base` frames until it is done."""
    # A larger step never needs a longer window, and N needs one block; so there is a smallest.
    return bisect.bisect_left(
        range(num_steps), True, key=lambda step: Blocks(sizes, num_steps, given, delay=step, base=base).keeps_in_view
    )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}: must be at least 1, nearest 1")


def _blocks(num_frames: int, block_size: int | Sequence[int] | None, given: Collection[int]) -> tuple[int, ...]:
    """The sizes of all blocks. Where they are ours to choose, a given prefix ends with the end of a block."""
    prefix = _prefix(given)
    if block_size is None:
        return (prefix,) * (0 < prefix < num_frames) + (num_frames - prefix or num_frames,)
    if isinstance(block_size, int):
        _check_positive("block_size", block_size)
        # The odd piece of the prefix comes first, so that its end meets the end of a block.
        return partition(num_frames, block_size, first=prefix % block_size)
    sizes = tuple(block_size)
    if any(size < 1 for size in sizes) or sum(sizes) != num_frames:
        raise ValueError(f"block_size = {sizes}: each at least 1, and the sum must be num_frames = {num_frames}")
    return sizes


def _reaching(num_frames: int, block_size: int, given: Collection[int], reach: int) -> tuple[int, ...]:
    """Blocks of one size, but of up to `reach` frames where that ends one with a frame given ahead."""
    frame = _prefix(given)
    sizes = list(partition(frame, block_size, first=frame % block_size)) if frame else []
    ends = sorted(known + 1 for known in given if known >= frame)
    while frame < num_frames:
        following = bisect.bisect_right(ends, frame)
        if following == len(ends):
            return (*sizes, *partition(num_frames - frame, block_size))
        far = -(-max(ends[following] - frame - reach, 0) // block_size)
        sizes += [block_size] * far
        frame += block_size * far
        end = ends[bisect.bisect_right(ends, frame + reach) - 1]  # the last one that can be reached
        sizes.append(end - frame)
        frame = end
    return tuple(sizes)


def _prefix(given: Collection[int]) -> int:
    """How many frames are given from the first on."""
    return next(frame for frame in itertools.count() if frame not in given)
