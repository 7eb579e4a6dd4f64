"""Whether a long film stays what it was: brightness, saturation, contrast over time, and what shows at its joins.

Sources: what users report of long films (colours that creep, jumps where windows meet), put in numbers. The one
invariant: a film is measured while it goes by; three numbers and a difference are kept of each frame, and no picture.

Shape suffixes: T frames, H height, W width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from everreel.diffusion.schedule import Schedule
from everreel.media import Pixels
from everreel.shapes import frames_of

LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709
MEASURES = ("brightness", "saturation", "contrast")
Curve = npt.NDArray[np.float64]


@dataclass
class DriftMeter:
    """Takes a film in pieces, first to last."""

    _stats: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _steps: list[float] = field(default_factory=list)
    _last: Pixels | None = None

    def add(self, frames_THWC: Pixels) -> None:
        """The next frames, uint8 (T, H, W, 3)."""
        for frame_HWC in frames_THWC:
            self._stats.append(measure(frame_HWC))
            if self._last is not None:
                self._steps.append(float(np.abs(frame_HWC.astype(np.int16) - self._last).mean()))
            self._last = frame_HWC

    def curve(self, name: str) -> Curve:
        """One of `MEASURES`, from 0 to 1, by frame."""
        return np.array([stats[MEASURES.index(name)] for stats in self._stats])

    def drift(self, name: str, fps: float, seconds: float = 60.0) -> float:
        """How far a measure goes in so many seconds, as a share of what it is on average: the slope of the line
        through it. nan for less than a second of film.
        """
        values = self.curve(name)
        if len(values) < fps or values.mean() == 0:
            return math.nan
        slope = np.polyfit(np.arange(len(values)) / fps, values, 1)[0]
        return float(slope * seconds / values.mean())

    def seam_index(self, schedule: Schedule) -> float:
        """The median step from frame to frame where two pieces of a film meet, over that where two latents meet
        inside of a piece; 1 is a film without seams. nan where nothing meets.
        """
        joins = joins_of(schedule)
        inside = {frames_of(latent)[0] for latent in range(1, schedule.num_frames)} - joins
        steps = {frame + 1: step for frame, step in enumerate(self._steps)}
        at_joins, at_latents = (
            [steps[frame] for frame in sorted(places) if frame in steps] for places in (joins, inside)
        )
        if not at_joins or not at_latents or not (usual := float(np.median(at_latents))):
            return math.nan
        return float(np.median(at_joins)) / usual


def joins_of(schedule: Schedule) -> set[int]:
    """The first frames of the pieces in which a film is finished, but the first."""
    starts: Iterable[int] = (row.finished.start for row in schedule if row.finished)
    return {frames_of(latent)[0] for latent in itertools.islice(starts, 1, None)}


def measure(frame_HWC: Pixels) -> npt.NDArray[np.float64]:
    """Mean brightness, mean saturation (of hue, saturation, value) and standard deviation of brightness, 0 to 1."""
    pixels = frame_HWC.reshape(-1, 3).astype(np.float64) / 255
    luma = pixels @ LUMA
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    return np.array([luma.mean(), saturation.mean(), luma.std()])
