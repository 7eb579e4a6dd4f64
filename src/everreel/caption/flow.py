"""Where things move between frames: corners followed with OpenCV's pyramid of Lucas and Kanade (1981).

The flow that the paper's camera-motion expert reads (SkyReels-V2 paper, captioning: sub-expert captioners). It is
sparse: a corner that is found again on the way back tells more of the camera than a dense field, which fills sky and
walls with guesses. Frames are looked at about `PAIRS_PER_SECOND` times a second and at `LOOK_AREA` pixels, whatever
their own size and rate.

The one invariant: a film is read once, front to back, and two small gray pictures of it are held at a time. So it may
be any iterator of frames and of any length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PAIRS_PER_SECOND = 8.0
LOOK_AREA = 160 * 256
CORNERS = 320
_NARROWEST, _LONGEST = 16, 1024  # of a look, in pixels
_SPACING = 7  # pixels between two corners
_WINDOW = (15, 15)
_PYRAMID = 3  # levels above the look itself: finds what moves by up to a quarter of it
_RETURN = 0.6  # pixels by which a corner may miss its start on the way back
_LIGHT = 12.0  # pixels over which the light of a scene is taken to be even
_CONTRAST = 10.0  # levels of gray below which what is seen counts as noise


@dataclass(frozen=True)
class Flow:
    """What moved between two frames that are `seconds` apart, `time` seconds into the film.

    `points` (N, 2) are where N corners were, x to the right and y down from the frame's middle, in heights of the
    frame; `moves` (N, 2) are how far they went. `found` is the share of the corners that were found again, `changed`
    the mean change of brightness from 0 to 1, and `aspect` the frame's width by its height.
    """

    time: float
    seconds: float
    points: Floats
    moves: Floats
    found: float
    changed: float
    aspect: float


def flows(frames: Iterable[Pixels], fps: float) -> Iterator[Flow]:
    """The flow between frames H x W x 3 about an eighth of a second apart; none of fewer than two frames.

    Raises:
        ValueError: the rate is not positive, or a frame is not uint8 (H, W, 3) of the first one's size.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps = {fps}: must be positive; 24 works")
    stride = max(1, round(fps / PAIRS_PER_SECOND))
    before: _Look | None = None
    size: tuple[int, ...] | None = None
    waiting: Pixels | None = None
    number, number_before, pairs = -1, 0, 0
    for number, frame in enumerate(frames):
        _check(frame, size)
        size = frame.shape
        waiting = frame
        if number % stride:
            continue
        look = _Look.of(frame)
        if before is not None:
            yield before.flow(look, number_before / fps, stride / fps)
            pairs += 1
        before, number_before = look, number
    if pairs == 0 and before is not None and waiting is not None and number > 0:  # a film shorter than one stride
        yield before.flow(_Look.of(waiting), 0.0, number / fps)


@dataclass(frozen=True)
class _Look:
    """A frame made small and gray, the same without the light on it, and a pixel's sides in heights of the frame."""

    gray: Pixels
    relief: Pixels
    pixel: tuple[float, float]

    @classmethod
    def of(cls, frame_HWC: Pixels) -> _Look:
        cv2 = _opencv()
        gray = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2GRAY)
        rows, columns = frame_HWC.shape[:2]
        width, height = _look_size(rows, columns)
        way = cv2.INTER_AREA if width < columns else cv2.INTER_LINEAR
        gray = cv2.resize(gray, (width, height), interpolation=way)
        # Lucas and Kanade compare brightness: a lamp that flickers or a new exposure must not look like motion.
        flat = gray.astype(np.float32)
        flat -= cv2.GaussianBlur(flat, (0, 0), _LIGHT)
        spread = np.sqrt(cv2.GaussianBlur(flat * flat, (0, 0), _LIGHT)) + _CONTRAST
        relief = np.clip(128 + 64 * flat / spread, 0, 255).astype(np.uint8)
        return cls(gray, relief, (columns / width / rows, 1 / height))

    def flow(self, after: _Look, time: float, seconds: float) -> Flow:
        cv2 = _opencv()
        height, width = self.gray.shape
        aspect = width * self.pixel[0]
        changed = float(np.abs(self.gray.astype(np.int16) - after.gray).mean() / 255)
        starts = cv2.goodFeaturesToTrack(self.relief, CORNERS, 0.02, _SPACING)
        if starts is None:
            nothing = np.zeros((0, 2))
            return Flow(time, seconds, nothing, nothing, 0.0, changed, aspect)
        starts = starts.reshape(-1, 2).astype(np.float32)
        ends, there = self._follow(after, starts)
        returned, back = after._follow(self, ends)
        kept = there & back & (np.abs(returned - starts).max(axis=1) < _RETURN)
        kept &= ((ends >= 0) & (ends <= (width - 1, height - 1))).all(axis=1)
        middle = ((width - 1) / 2, (height - 1) / 2)
        points = (starts[kept].astype(np.float64) - middle) * self.pixel
        moves = (ends[kept].astype(np.float64) - starts[kept]) * self.pixel
        return Flow(time, seconds, points, moves, float(kept.mean()), changed, aspect)

    def _follow(self, other: _Look, starts: npt.NDArray[np.float32]) -> tuple[Any, npt.NDArray[np.bool_]]:
        ends, there, _ = _opencv().calcOpticalFlowPyrLK(
            self.relief, other.relief, starts.reshape(-1, 1, 2), None, winSize=_WINDOW, maxLevel=_PYRAMID
        )
        return ends.reshape(-1, 2), there.reshape(-1) == 1


def _look_size(height: int, width: int) -> tuple[int, int]:
    """The width and height that a frame is looked at with: its shape as far as that can be, and `LOOK_AREA` pixels."""
    scale = (LOOK_AREA / (height * width)) ** 0.5
    columns, rows = (min(_LONGEST, max(_NARROWEST, round(scale * side))) for side in (width, height))
    return columns, rows


def _check(frame: Pixels, size: tuple[int, ...] | None) -> None:
    found = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}"
    right = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3
    if not right or 0 in frame.shape:
        raise ValueError(f"frames = {found}: each must be uint8 (height, width, 3)")
    if size is not None and frame.shape != size:
        raise ValueError(f"frames = {found}: all must have the first one's size, {size[0]} x {size[1]}")


def _opencv() -> Any:  # noqa: ANN401 -- its modules are untyped to mypy --strict
    """OpenCV, which is no part of every installation.

    Raises:
        ValueError: it is not there.
    """
    try:
        import cv2
    except ImportError:
        rule = "camera motion is found with OpenCV; pip install 'everreel[caption]', or leave the camera out"
        raise ValueError(f"opencv-python-headless: is not installed; {rule}") from None
    return cv2
