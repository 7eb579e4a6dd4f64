"""Which size, length and frame rate a clip is given: buckets of duration × aspect, and one of two frame rates.

Source: section 3.3 of the paper, which leaves the buckets open and takes the rate f of 16 and 24 with the least rest of
the film's rate over f. The one invariant: nothing is squashed and nothing invented. A clip is scaled alike in both
directions and cut at its middle, and every moment shows the frame of the film that is nearest to it in time; of twenty
moments at most one may show the frame of the one before it again, else the rate is too high for the film.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from everreel.shapes import LatentShape, nearest_num_frames, nearest_size

Size = tuple[int, int]

FRAME_RATES = (24, 16)
REPEATED = 20  # one of so many moments may show a frame again
HALF_WAY = 1e-6  # seconds
AS_MUCH = 0.02  # parts of a picture by which two cuts count as alike
ASPECTS = (4 / 3, 1.0, 3 / 4)  # beside the model's own and its portrait


@dataclass(frozen=True)
class Cut:
    """A clip of a film: when the film's frames come that it consists of, in the film's ticks, and their new rate."""

    times: tuple[int, ...]
    fps: int
    start: float
    """Seconds from the film's first frame."""


@dataclass(frozen=True)
class Buckets:
    """The sizes (height, width) and lengths (frames) that clips come in.

    Raises:
        ValueError: a size is no multiple of 16, a length is not 4k + 1, a rate is not 16 or 24, or there is none.
    """

    sizes: tuple[Size, ...]
    frames: tuple[int, ...]
    fps: int | None = None
    """The rate that is asked for; None takes that of the two which suits each film."""

    def __post_init__(self) -> None:
        for field, example in (("sizes", "96x160"), ("frames", "97")):
            if not getattr(self, field):
                raise ValueError(f"{field}: name at least one; {example} works")
        for height, width in self.sizes:
            nearest = f"{nearest_size(height)}x{nearest_size(width)}"
            if nearest != f"{height}x{width}":
                raise ValueError(f"sizes = {height}x{width}: must be multiples of 16, nearest {nearest}")
        for frames in self.frames:
            if frames != nearest_num_frames(frames):
                raise ValueError(f"frames = {frames}: must be 4k + 1, nearest {nearest_num_frames(frames)}")
        if self.fps is not None and self.fps not in FRAME_RATES:
            raise ValueError(f"fps = {self.fps}: must be 16 or 24, nearest {16 if self.fps < 20 else 24}")

    def size_for(self, height: int, width: int) -> Size:
        """The size that cuts least off a picture; of those that cut as little, the one it is scaled least to."""
        losses = {size: _cut_off(size, height, width) for size in self.sizes}
        alike = [size for size in self.sizes if losses[size] <= min(losses.values()) + AS_MUCH]
        return min(alike, key=lambda size: abs(math.log(max(size[0] / height, size[1] / width))))

    def cut(self, shown_at: Sequence[int], tick: Fraction, start: float = 0.0) -> Cut | None:
        """The longest clip that a film has from a second on; None where it has none, for it is too short or too slow.

        Args:
            shown_at: when the film's frames come, in ticks, ascending.
            tick: of the film's clock, in seconds.
            start: of the clip, from the film's first frame.
        """
        seconds = (np.asarray(shown_at, np.int64) - shown_at[0]) * float(tick)
        rate = (len(seconds) - 1) / seconds[-1] if seconds[-1] > 0 else 0.0
        for fps in self.rates_for(rate):
            for frames in sorted(self.frames, reverse=True):
                if (nearest := _nearest(seconds, start, frames, fps)) is not None:
                    return Cut(tuple(int(shown_at[place]) for place in nearest), fps, start)
        return None

    def rates_for(self, rate: float) -> tuple[int, ...]:
        """The rates to try for a film of so many frames a second, the best first."""
        whole = round(rate)
        # 23.976 is meant to be 24: what is over is taken of the whole number.
        best = self.fps or min(FRAME_RATES, key=lambda fps: whole % fps)
        return tuple(fps for fps in FRAME_RATES if fps <= best)


def sizes_around(height: int, width: int) -> tuple[Size, ...]:
    """A model's own size, and 4:3, square, 3:4 and its portrait with about as many pixels."""
    area = height * width
    others = [(nearest_size(round((area / a) ** 0.5)), nearest_size(round((area * a) ** 0.5))) for a in ASPECTS]
    return tuple(dict.fromkeys([(height, width), *others, (width, height)]))


def lengths_up_to(num_frames: int) -> tuple[int, ...]:
    """A model's own length, and about a half and a quarter of it for shorter films."""
    return tuple(dict.fromkeys(nearest_num_frames(num_frames // part) for part in (1, 2, 4)))


def latent_bytes(size: Size, frames: int, channels: int) -> int:
    """What the latents of a clip take on the disk."""
    shape = LatentShape.from_pixels(frames, *size)
    return 2 * channels * shape.frames * shape.height * shape.width


def _cut_off(size: Size, height: int, width: int) -> float:
    """The part of a picture that lies outside a size which it has just been made to cover."""
    scale = max(size[0] / height, size[1] / width)
    return 1 - size[0] * size[1] / (scale * scale * height * width)


def _nearest(seconds: np.ndarray, start: float, frames: int, fps: int) -> np.ndarray | None:
    """For each moment the place of the frame nearest to it; None where the film is too short or has too few."""
    moments = start + np.arange(frames) / fps
    if moments[-1] > seconds[-1] + 0.5 / fps:
        return None
    after = np.searchsorted(seconds, moments).clip(1, max(len(seconds) - 1, 1))
    if len(seconds) == 1:
        return np.zeros(frames, np.int64) if frames == 1 else None
    # Half-way between two it is the earlier one, whatever floats make of a half.
    is_before = moments - seconds[after - 1] <= seconds[after] - moments + HALF_WAY
    places: np.ndarray = np.where(is_before, after - 1, after)
    repeated = frames - len(np.unique(places))
    return places if repeated <= frames // REPEATED else None
