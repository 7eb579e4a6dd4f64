"""A long film as windows one after the other, each of which looks back at the end of the one before.

Source: section 4c of the paper and the long-video branch of the released `diffusion_forcing_pipeline.py`, whose lengths
these are. The one invariant: a window is a schedule of its own, in which the overlap is given; so whatever is right
within one window (any tail, pictures anywhere, blocks that start one after the other) is right in every one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence

from everreel.diffusion.schedule import Row, Schedule, asynchronous, nothing_left, repeated


def windows(
    num_frames: int,
    num_steps: int,
    *,
    base: int,
    overlap: int,
    given: Iterable[int] = (),
    ar_step: int = 0,
    block_size: int | Sequence[int] | None = None,
) -> Schedule:
    """Windows of `base` latent frames, the first `overlap` of each being the last of the one before.

    Within a window all frames step together, or with `ar_step` its blocks of `block_size` (or of such sizes, the last
    again and again) start one after the other. A window ends earlier where a frame is given shortly after its end, so
    that what leads up to it is made in its sight.

    Raises:
        ValueError: a number is out of range; the message names the nearest that works.
    """
    known = frozenset(given)
    if base < 2:
        raise ValueError(f"base = {base}: must be at least 2, nearest 2")
    if not 1 <= overlap < base:
        nearest = min(max(overlap, 1), base - 1)
        raise ValueError(f"overlap = {overlap}: must be 1 to base - 1 = {base - 1}, nearest {nearest}")
    if base >= num_frames:
        return _window(num_frames, num_steps, known, ar_step, block_size)
    return _Windows(_edges(num_frames, base, overlap, known), overlap, num_steps, known, ar_step, block_size)


def _window(
    num_frames: int, num_steps: int, given: frozenset[int], ar_step: int, block_size: int | Sequence[int] | None
) -> Schedule:
    size = block_size if block_size is None or isinstance(block_size, int) else repeated(block_size, num_frames)
    return asynchronous(num_frames, num_steps, ar_step, size if ar_step else None, given)


class _Windows(Schedule):
    """Schedules one after the other; `edges` are the first new frames of the windows."""

    def __init__(
        self,
        edges: Sequence[int],
        overlap: int,
        num_steps: int,
        given: frozenset[int],
        ar_step: int,
        block_size: int | Sequence[int] | None,
    ) -> None:
        # A window with nothing to make is none: its frames are handed out with those of the next one.
        kept = [a for a, b in itertools.pairwise(edges) if not given or any(f not in given for f in range(a, b))]
        if not kept:
            raise nothing_left(edges[-1])
        super().__init__((0, *kept[1:], edges[-1]), num_steps, given)
        self._overlap, self._ar_step, self._block_size = overlap, ar_step, block_size
        self._news = kept  # the first frame of each window that is not of the one before
        self._starts = [max(0, edge - overlap) for edge in kept]
        self._stops = [edges[bisect.bisect_right(edges, edge)] for edge in kept]
        longest = max(stop - start for start, stop in zip(self._starts, self._stops, strict=True))
        for number, new in enumerate(kept):
            # A window sees where it has to arrive, if need be in the place of the oldest that it looks back at.
            while self._stops[number] in given and self._stops[number] + 1 - longest < new:
                self._stops[number] += 1
            self._starts[number] = max(self._starts[number], self._stops[number] - longest)
        self._made: dict[tuple[int, int, frozenset[int]], Schedule] = {}
        lengths = (len(self._window(number)) for number in range(len(kept)))
        self._first_rows = list(itertools.accumulate(lengths, initial=0))

    @property
    def num_windows(self) -> int:
        return len(self._starts)

    @property
    def num_finished(self) -> int:
        return sum(self._window(number).num_finished for number in range(len(self._starts)))

    @property
    def longest_window(self) -> int:
        return max(stop - start for start, stop in zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return self._first_rows[-1]

    def _row(self, index: int) -> Row:
        number = bisect.bisect_right(self._first_rows, index) - 1
        start, new, end = self._starts[number], self._edges[number], self._edges[number + 1]
        row = self._window(number)[index - self._first_rows[number]]
        finished = range(0)
        if row.finished:
            last = start + row.finished.stop == self._stops[number]
            first = new if row.finished.start == 0 else start + row.finished.start
            finished = range(first, end if last else start + row.finished.stop)
        joined = self._news[number] - start if number and index == self._first_rows[number] else 0
        seen = (start + row.window[0], start + row.window[1])
        return Row(row.levels, row.update, seen, finished, row.ahead, joined)

    def _window(self, number: int) -> Schedule:
        """The window's own schedule, frames counted from its first; alike ones are made once."""
        start, new, stop = self._starts[number], self._news[number], self._stops[number]
        known = frozenset(range(new - start)) | {frame - start for frame in self.given if start <= frame < stop}
        key = (stop - start, new - start, known)
        if key not in self._made:
            self._made[key] = _window(stop - start, self.num_steps, known, self._ar_step, self._block_size)
        return self._made[key]


def _edges(num_frames: int, base: int, overlap: int, given: frozenset[int]) -> list[int]:
    """The first new frame of each window, and the end of the film."""
    pictures = sorted(given)
    edges = [0]
    while edges[-1] < num_frames:
        room = base if edges[-1] == 0 else base - overlap
        stop = edges[-1] + room
        following = bisect.bisect_left(pictures, stop)
        if stop < num_frames and following < len(pictures):
            stop = max(min(stop, pictures[following] - max((base - overlap) // 2, 1)), edges[-1] + (room + 1) // 2)
        edges.append(min(stop, num_frames))
    return edges
