"""What is measured of a film while it goes by: motion, light, sharpness, and whether things stay what they were.

No network and no download: optical flow is Kroeger et al.'s dense inverse search (2016), descriptors are dense SIFT
(Lowe, 2004), rooted (Arandjelović and Zisserman, 2012), all by OpenCV; blur is Crete et al.'s perceptual blur (2007).
`evaluate/quality.py` says what each measure means, and in which unit. The one invariant: a meter keeps sums and the
last frames that it needs, so that a film of any length costs the same memory, and one thread computes, because OpenCV
splits flow among threads and another number of them gives another figure.

Shape suffixes: T frames, H height, W width, C channels; N points; (x, y) is right and down, in pixels.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from everreel.evaluate.drift import MEASURES as LIGHT
from everreel.evaluate.drift import measure
from everreel.media import Pixels

AREA = 180 * 320
"""Motion, light and sameness are measured on frames of at most so many pixels; no frame is made larger."""
LEAST_SIDE = 16
LOOKS_A_SECOND = 8
LIVELIEST = 0.05
MOVES = 0.01
"""Of the short side, between two looks: what moves farther than this against the camera is a subject."""
SMALLEST, LARGEST = 0.005, 0.5
"""Shares of the frame: a subject is neither less nor more than this."""
BLUR_LENGTH = 11
LEAST_DRIFT_SECONDS = 8.0
CELLS = 12
"""Rows of cells in which light is averaged before it can flicker."""
_GRID, _LEAST_POINTS, _BINS = 8, 4, 16
_SIFT_SIZE = 4.0  # a descriptor then covers 24 pixels on a side

Floats = npt.NDArray[np.floating[Any]]
Found = tuple[dict[str, float], dict[str, str]]
"""What was measured, by name, and why the rest could not be."""


def opencv() -> ModuleType:
    """OpenCV, which is optional.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        rule = "films are measured with opencv-python-headless: pip install 'everreel[caption]'"
        raise ValueError(f"quality: {rule}") from None
    return cv2


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread, and after that on as many as before."""
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def reduced(frame_HWC: Pixels, area: int = AREA) -> Pixels:
    """A frame of at most so many pixels, each the mean of what it stands for."""
    height, width = frame_HWC.shape[:2]
    scale = math.sqrt(area / (height * width))
    if scale >= 1:
        return frame_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Pixels = opencv().resize(np.ascontiguousarray(frame_HWC), size, interpolation=opencv().INTER_AREA)
    return small


@dataclass
class Mean:
    """A mean that is counted up."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more; what is not a number is left out."""
        if not math.isnan(value):
            self.total += value
            self.count += 1

    @property
    def value(self) -> float:
        """nan of nothing."""
        return self.total / self.count if self.count else math.nan


class MotionMeter:
    """Smoothness, flicker and the largest jump, from every frame and its two neighbours."""

    def __init__(self) -> None:
        self._smooth, self._flicker = Mean(), Mean()
        self._jump = math.nan
        self._gray: list[Pixels] = []
        self._back: Floats | None = None
        self._small = False

    def add(self, gray_HW: Pixels) -> None:
        """The next frame."""
        self._small |= min(gray_HW.shape) < LEAST_SIDE
        if self._small:
            return
        self._gray = [*self._gray[-2:], gray_HW]
        if len(self._gray) == 1:
            return
        last = self._gray[-2]
        ahead, back = flow(last, gray_HW), flow(gray_HW, last)
        came, inside = moved(last, back)
        step = np.abs(gray_HW - came)[inside].mean() if inside.mean() > 0.1 else math.nan
        self._jump = float(np.fmax(self._jump, step))
        if len(self._gray) == 3 and self._back is not None:
            self._between(ahead, self._back)
        self._back = back

    def _between(self, ahead: Floats, back: Floats) -> None:
        """The frame in the middle: `ahead` leads to the next, `back` to the one before."""
        before, now, after = self._gray
        velocity = (ahead - back) / 2
        (first, inside_first), (second, inside_second) = moved(before, -velocity), moved(after, velocity)
        inside = inside_first & inside_second
        if inside.mean() > 0.1:
            self._smooth.add(1 - float(np.abs((first + second) / 2 - now)[inside].mean()) / 255)
        (first, inside_first), (second, inside_second) = moved(before, back), moved(after, ahead)
        inside = inside_first & inside_second
        rise, fall = in_cells(np.where(inside, now - first, 0)), in_cells(np.where(inside, second - now, 0))
        undone = np.where(rise * fall < 0, np.minimum(np.abs(rise), np.abs(fall)), 0)
        self._flicker.add(float(undone.mean()))

    def result(self) -> Found:
        """Values by name, and what is missing."""
        values = {"smoothness": self._smooth.value, "flicker": self._flicker.value, "largest_jump": self._jump}
        why = f"its frames have less than {LEAST_SIDE} pixels on a side" if self._small else ""
        return split(values, {name: why or f"needs {2 if name == 'largest_jump' else 3} frames" for name in values})


class LookMeter:
    """Sameness of subject and background, and liveliness, from looks an eighth of a second apart."""

    def __init__(self, fps: float) -> None:
        self.step = max(1, round(fps / LOOKS_A_SECOND))
        self._seconds = self.step / fps
        self._subject, self._background, self._lively = Sameness(), Sameness(), Mean()
        self._last: Pixels | None = None
        self._small, self._looks = False, 0

    def add(self, frame_HWC: Pixels, gray_HW: Pixels) -> None:
        """The next look."""
        self._looks += 1
        self._small |= min(gray_HW.shape) < LEAST_SIDE
        if self._small:
            return
        last, self._last = self._last, gray_HW
        if last is None:
            return
        motion = flow(gray_HW, last)
        short = min(gray_HW.shape)
        length = np.sort(np.hypot(motion[..., 0], motion[..., 1]), axis=None)
        fastest = length[-max(1, int(LIVELIEST * length.size)) :]
        self._lively.add(float(fastest.mean()) / short / self._seconds)
        subject = moves_alone(motion)
        cv2 = opencv()
        apart = cv2.dilate(subject.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        self._subject.add(describe(frame_HWC, gray_HW, subject))
        self._background.add(describe(frame_HWC, gray_HW, apart))

    def result(self) -> Found:
        """Values by name, and what is missing."""
        values = {
            "subject_sameness": self._subject.value,
            "background_sameness": self._background.value,
            "liveliness": self._lively.value,
        }
        needed = 2 * self.step + 1
        if self._small:
            why = dict.fromkeys(values, f"its frames have less than {LEAST_SIDE} pixels on a side")
        elif self._looks < 3:
            why = dict.fromkeys(values, f"needs {needed} frames") | {"liveliness": f"needs {self.step + 1} frames"}
        else:
            why = dict.fromkeys(values, "nothing in it can be told from the rest")
            why["subject_sameness"] = "nothing moves against the camera"
        return split(values, why)


@dataclass
class Sameness:
    """How alike a region's descriptions are: the mean of the likeness to the one before and to the first."""

    first: Floats | None = None
    last: Floats | None = None
    mean: Mean = field(default_factory=Mean)

    def add(self, description: Floats | None) -> None:
        """The next description; none is passed over."""
        if description is None:
            return
        if self.first is not None and self.last is not None:
            self.mean.add((likeness(description, self.last) + likeness(description, self.first)) / 2)
        self.first = description if self.first is None else self.first
        self.last = description

    @property
    def value(self) -> float:
        """From 0 to 1; nan where fewer than two were described."""
        return self.mean.value


class LightMeter:
    """Sharpness, and how far brightness, saturation and contrast go in a minute, from looks."""

    def __init__(self) -> None:
        self._sharp = Mean()
        self._lines = [Line() for _ in LIGHT]

    def add(self, seconds: float, frame_HWC: Pixels, small_HWC: Pixels) -> None:
        """The look at a second: the frame as it is, and reduced."""
        self._sharp.add(sharpness(frame_HWC))
        for line, value in zip(self._lines, measure(small_HWC), strict=True):
            line.add(seconds, float(value))

    def result(self) -> Found:
        """Values by name, and what is missing."""
        flat = f"nothing but one colour, or less than {BLUR_LENGTH + 1} pixels on a side"
        values, why = {"sharpness": self._sharp.value}, {"sharpness": flat}
        for name, line in zip(LIGHT, self._lines, strict=True):
            too_short = line.seconds < LEAST_DRIFT_SECONDS
            values[f"{name}_drift"] = math.nan if too_short else abs(line.slope) * 60 / (line.mean or math.nan)
            why[f"{name}_drift"] = (
                f"shorter than {LEAST_DRIFT_SECONDS:g} seconds" if too_short else f"there is no {name} that could drift"
            )
        return split(values, why)


@dataclass
class Line:
    """The line of least squares through points that go by."""

    count: int = 0
    seconds: float = 0.0
    mean: float = 0.0
    _mean_time: float = 0.0
    _times: float = 0.0
    _both: float = 0.0

    def add(self, time: float, value: float) -> None:
        """The next point. Means are moved rather than sums taken, which keeps the digits of a long film."""
        self.count += 1
        self.seconds = max(self.seconds, time)
        ahead = time - self._mean_time
        self._mean_time += ahead / self.count
        self.mean += (value - self.mean) / self.count
        self._times += ahead * (time - self._mean_time)
        self._both += ahead * (value - self.mean)

    @property
    def slope(self) -> float:
        """By the second; nan of one moment."""
        return self._both / self._times if self._times else math.nan


class SeamMeter:
    """The step from frame to frame where a film's pieces meet, over that where two latents meet inside of a piece.

    Where it is told where these are, it keeps one number of each; `evaluate/drift.py` has the measure for films that
    are just being made.
    """

    def __init__(self, joins: Collection[int] | None) -> None:
        self._joins = frozenset(joins) if joins is not None else None
        self._at_joins, self._inside = array("f"), array("f")
        self._last: Pixels | None = None

    def add(self, number: int, frame_HWC: Pixels) -> None:
        """The next frame, by its number from 0. A latent ends with every fourth frame from 0 on."""
        if not self._joins:
            return
        if self._last is not None and number % 4 == 1:
            step = float(np.abs(frame_HWC.astype(np.int16) - self._last).mean())
            (self._at_joins if number in self._joins else self._inside).append(step)
        self._last = frame_HWC

    def result(self) -> Found:
        """Values by name, and what is missing."""
        value = math.nan
        if self._at_joins and self._inside and (usual := float(np.median(self._inside))):
            value = float(np.median(self._at_joins)) / usual
        unknown = "where its pieces meet is not known: no journal of it lies beside it"
        why = unknown if self._joins is None else "its pieces do not meet, or nothing moves"
        return split({"seams": value}, {"seams": why})


def split(values: dict[str, float], why: dict[str, str]) -> Found:
    """Values with nan where there is none, and the reasons of those alone."""
    return values, {name: why[name] for name, value in values.items() if not math.isfinite(value)}


def flow(of_HW: Pixels, to_HW: Pixels) -> Floats:
    """For each pixel of one frame how far right and down it is in the other, (H, W, 2)."""
    cv2 = opencv()
    found: Floats = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(of_HW, to_HW, None)
    return found


def moved(gray_HW: Pixels, motion_HW2: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A frame looked up where motion leads to, and where that lies inside of it."""
    height, width = gray_HW.shape
    across = motion_HW2[..., 0] + np.arange(width, dtype=np.float32)
    down = motion_HW2[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    cv2 = opencv()
    found: Floats = cv2.remap(
        gray_HW.astype(np.float32), across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return found, (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)


def in_cells(values_HW: Floats) -> Floats:
    """Means in square cells, `CELLS` along the short side."""
    height, width = values_HW.shape
    cell = max(1.0, min(height, width) / CELLS)
    size = (max(1, round(width / cell)), max(1, round(height / cell)))
    found: Floats = opencv().resize(values_HW.astype(np.float32), size, interpolation=opencv().INTER_AREA)
    return found


def moves_alone(motion_HW2: Floats) -> npt.NDArray[np.bool_]:
    """Where a frame moves otherwise than the camera: otherwise than one shift, turn and zoom of all of it."""
    cv2 = opencv()
    height, width = motion_HW2.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    points = np.stack([x, y], -1)
    few = points[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID].reshape(-1, 2)
    went = few + motion_HW2[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID].reshape(-1, 2)
    far = MOVES * min(height, width)
    camera = cv2.estimateAffinePartial2D(few, went, method=cv2.RANSAC, ransacReprojThreshold=far)[0]
    nothing = np.zeros((height, width), np.bool_)
    if camera is None:
        return nothing
    rest = points @ camera[:, :2].T + camera[:, 2] - points - motion_HW2
    alone = (np.hypot(rest[..., 0], rest[..., 1]) > far).astype(np.uint8)
    alone = cv2.morphologyEx(alone, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return alone > 0 if SMALLEST <= alone.mean() <= LARGEST else nothing


def describe(frame_HWC: Pixels, gray_HW: Pixels, where_HW: npt.NDArray[np.bool_]) -> Floats | None:
    """What a region looks like, wherever in the frame it is, as a vector of length 1 without negative numbers.

    Half of it is the mean of SIFT descriptors on a grid, rooted; the other the square roots of smoothed histograms of
    the three channels of CIELAB. None of a region too small for `_LEAST_POINTS` points of the grid.
    """
    cv2 = opencv()
    rows, columns = np.nonzero(where_HW[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID])
    if len(rows) < _LEAST_POINTS:
        return None
    places = [
        (float(_GRID * c + _GRID // 2), float(_GRID * r + _GRID // 2)) for r, c in zip(rows, columns, strict=True)
    ]
    points = [cv2.KeyPoint(x, y, _SIFT_SIZE, 0.0) for x, y in places]
    texture = np.sqrt(np.maximum(cv2.SIFT_create().compute(gray_HW, points)[1], 0)).mean(0)
    lab = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2LAB)[where_HW]
    smooth = np.array([0.25, 0.5, 0.25])
    colors = []
    for channel in lab.T:
        counts = np.convolve(np.bincount(channel // (256 // _BINS), minlength=_BINS), smooth, "same")
        colors.append(np.sqrt(counts / counts.sum() / 3))
    length = float(np.linalg.norm(texture))
    texture = texture / length if length else texture
    color = np.concatenate(colors)
    # A region without any texture is alike to another such: its half goes to colour.
    weights = (math.sqrt(0.5), math.sqrt(0.5)) if length else (0.0, 1.0)
    return np.concatenate([texture * weights[0], color / np.linalg.norm(color) * weights[1]])


def likeness(one: Floats, other: Floats) -> float:
    """1 less the angle between two descriptions in right angles: 1 of the same, 0 of what has nothing in common."""
    return 1 - 2 / math.pi * math.acos(min(1.0, float(one @ other)))  # a product may be a hair more by rounding


def sharpness(frame_HWC: Pixels) -> float:
    """One less Crete's blur: how much of the steps between neighbours goes when the frame is blurred along a line.

    The blurrier of the two directions counts. nan of a frame of one colour, and of one that is too small.
    """
    cv2 = opencv()
    gray = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if min(gray.shape) <= BLUR_LENGTH:
        return math.nan
    sharp = []
    for axis, size in ((0, (1, BLUR_LENGTH)), (1, (BLUR_LENGTH, 1))):
        steps = np.abs(np.diff(gray, axis=axis))
        blurred = np.abs(np.diff(cv2.blur(gray, size, borderType=cv2.BORDER_REPLICATE), axis=axis))
        if total := float(steps.sum()):
            sharp.append(float(np.maximum(steps - blurred, 0).sum()) / total)
    return min(sharp, default=math.nan)
