"""How a film looks, in numbers that need no download: eight measures of any film, four more of long ones, and how well
a film of the film world shows what was asked.

They stand beside what VBench (2311.17982) measures with networks that have to be downloaded, and are not those: the
names are other ones, and no figure here is comparable with one of VBench. `MEASURES` says of each what it is, in which
unit, and which way is better; `evaluate/meters.py` computes them. The one invariant: a film goes by once, in pieces of
any size, and neither their size nor the film's length changes what is kept of it. What cannot be measured is nan, with
a reason.

Shape suffixes: T frames, H height, W width, C = 3 channels, RGB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from safetensors import SafetensorError, safe_open

from everreel.caption.critic import look_length
from everreel.evaluate.drift import joins_of
from everreel.evaluate.meters import LightMeter, LookMeter, MotionMeter, SeamMeter, one_thread, opencv, reduced
from everreel.film.journal import KEY, journal_path, read_journal
from everreel.film.making import options_of
from everreel.film.plan import make_plan
from everreel.film.source import SourceFilm
from everreel.media import Pixels

Reader = Callable[[Pixels, int], Mapping[str, Mapping[str, float]]]
"""Frames and their rate → the probability of each value of each field, see `evaluate/follow.py`."""


@dataclass(frozen=True)
class Measure:
    """What a figure means. `low` and `high` are the ends of what it can be."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    unit: str
    low: float
    high: float
    what: str

    def show(self, value: float) -> str:
        """A figure for people; a dash where there is none."""
        if not math.isfinite(value):
            return "–"
        return f"{100 * value:.1f} %" if self.unit.startswith("share") else f"{value:.3f}"


_ALL = (
    Measure(
        "subject_sameness", "subject stays itself", "higher", "likeness", 0, 1,
        "What moves otherwise than the camera (one shift, turn and zoom of the frame, fitted to optical flow) is "
        "described by dense SIFT and colour eight times a second; the mean of its likeness (1 less the angle between "
        "two descriptions, in right angles) to the look before and to the first.",
    ),
    Measure(
        "background_sameness", "background stays itself", "higher", "likeness", 0, 1,
        "The same of all that moves with the camera.",
    ),
    Measure(
        "flicker", "flicker", "lower", "grey levels of 255", 0, 255,
        "How much light goes and comes back, or comes and goes, from a frame to the next two, in cells a twelfth of "
        "the short side, after motion is taken out. A fade and a cut are no flicker.",
    ),
    Measure(
        "smoothness", "motion is smooth", "higher", "1 less the error, of white", 0, 1,
        "How well each frame is told by its two neighbours, both moved half the way by optical flow.",
    ),
    Measure(
        "largest_jump", "largest jump", "lower", "grey levels of 255", 0, 255,
        "The largest step from a frame to the next that motion does not explain: a cut, or a seam.",
    ),
    Measure(
        "liveliness", "liveliness", "higher", "short sides a second", 0, math.inf,
        "How fast the liveliest twentieth of the frame moves, camera included. A film of noise is lively too, so read "
        "it beside smoothness.",
    ),
    Measure(
        "sharpness", "sharpness", "higher", "share", 0, 1,
        "How much of the steps between neighbouring pixels goes when the frame is blurred along a line of 11 (Crete et "
        "al., 2007). It depends on the size of the frames and on what they show.",
    ),
    *(
        Measure(
            f"{name}_drift", f"drift of {name}", "lower", "share of its mean, a minute", 0, math.inf,
            f"How far the line through {name} goes in a minute, whichever way; of films of 8 seconds and more.",
        )
        for name in ("brightness", "saturation", "contrast")
    ),
    Measure(
        "seams", "seams", "lower", "times the usual step", 0, math.inf,
        "The median step where the pieces of a long film meet, over that where latents meet inside of a piece; 1 is a "
        "film without seams. Known of films with their journal.",
    ),
    Measure(
        "as_asked", "shows what was asked", "higher", "share", 0, 1,
        "The probability that the critic gives to what was asked, on the mean over the fields of the film world that "
        "were asked for and can be seen.",
    ),
)  # fmt: skip
MEASURES = {measure.name: measure for measure in _ALL}


@dataclass(frozen=True)
class Quality:
    """The figures of one film; those in `missing` are nan, for the reason given there."""

    num_frames: int
    fps: float
    height: int
    width: int
    values: Mapping[str, float]
    missing: Mapping[str, str] = field(default_factory=dict)


class QualityMeter:
    """Takes a film in pieces, first to last, and can be asked at any time.

    Args:
        fps: frames a second.
        joins: the first frames of a long film's pieces but the first; none if they are not known.

    Raises:
        ValueError: a rate that is none, or OpenCV is not installed.
    """

    def __init__(self, fps: float, joins: Collection[int] | None = None) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps = {fps}: must be positive; 24 works")
        opencv()
        self.fps = fps
        self._motion, self._looks, self._light = MotionMeter(), LookMeter(fps), LightMeter()
        self._seams = SeamMeter(joins)
        self._size: tuple[int, int] | None = None
        self._count = 0

    def add(self, frames_THWC: Pixels) -> None:
        """The next frames, uint8 (T, H, W, 3).

        Raises:
            ValueError: they are not such, or of another size than those before.
        """
        if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
            raise ValueError(f"frames = {frames_THWC.dtype} {frames_THWC.shape}: must be uint8 (T, H, W, 3)")
        size = frames_THWC.shape[1], frames_THWC.shape[2]
        if self._size not in (None, size):
            raise ValueError(f"frames = {size[1]}x{size[0]}: those before were of another size; one size works")
        self._size = size
        cv2 = opencv()
        with one_thread():
            for frame_HWC in frames_THWC:
                small = np.ascontiguousarray(reduced(frame_HWC))
                gray: Pixels = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
                self._motion.add(gray)
                self._seams.add(self._count, small)
                if self._count % self._looks.step == 0:
                    self._looks.add(small, gray)
                    self._light.add(self._count / self.fps, frame_HWC, small)
                self._count += 1

    def result(self) -> Quality:
        """What was measured so far, without `as_asked`, which needs a critic."""
        if self._size is None:
            raise ValueError("frames = 0 frames: a film has at least one; 1 works")
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        for meter in (self._looks, self._motion, self._light, self._seams):
            found, why = meter.result()
            values |= found
            missing |= why
        if self._count == 1:
            missing = {name: "one frame" if name != "sharpness" else reason for name, reason in missing.items()}
        ordered = {name: values[name] for name in MEASURES if name in values}
        return Quality(self._count, self.fps, *self._size, ordered, missing)


def measure_film(path: str | Path, asked: Mapping[str, str] | None = None, reader: Reader | None = None) -> Quality:
    """All measures of a film in a file, as it is seen: upright and with square pixels.

    Args:
        asked: fields of the film world that it was asked to show, with their values.
        reader: the critic that reads them off it, see `follow.reader_of`.

    Raises:
        ValueError: it is no film, or not all of it can be decoded; one line that says which.
    """
    film = SourceFilm.open(path)
    meter = QualityMeter(film.fps, known_joins(film.path))
    for frame_HWC in _frames(film, film.timeline.shown_at):
        meter.add(frame_HWC[None])
    quality = meter.result()
    value, why = math.nan, "what was asked of it is not known"
    if asked and reader is not None:
        value, why = text_alignment(film, asked, reader), ""
    values = {**quality.values, "as_asked": value}
    missing = {**quality.missing, **({"as_asked": why} if why else {})}
    return Quality(quality.num_frames, film.fps, film.height, film.width, values, missing)


def text_alignment(film: SourceFilm, asked: Mapping[str, str], reader: Reader) -> float:
    """The mean probability, from 0 to 1, that a critic gives to each value that was asked for.

    Of a film longer than three of the critic's looks only its beginning, middle and end are decoded, which is all that
    the critic looks at; frames larger than it sees are made smaller first.

    Raises:
        ValueError: a field or a value that the critic does not know.
    """
    times, fps = film.timeline.shown_at, max(1, round(film.fps))
    length, last = look_length(fps), max(0, len(film.timeline.shown_at) - look_length(fps))
    starts = sorted({0, last // 2, last}) if len(times) > 3 * length else [0]
    count = length if len(starts) > 1 else len(times)
    chances = []
    for start in starts:
        with one_thread():
            frames = [reduced(frame_HWC) for frame_HWC in _frames(film, times[start : start + count])]
        chances.append(reader(np.stack(frames), fps))
    values = []
    for name, value in asked.items():
        if name not in chances[0] or value not in chances[0][name]:
            raise ValueError(f"asked {name} = {value!r}: the critic does not know it")
        values.append(sum(read[name][value] for read in chances) / len(chances))
    return sum(values) / len(values)


def request_of(path: Path) -> Mapping[str, Any]:
    """What a film that was made here was asked for, from the journal beside it; its numbers are not read.

    Nothing where there is no journal, or one that cannot be read.
    """
    try:
        with safe_open(journal_path(path), "pt") as file:
            request = json.loads((file.metadata() or {})[KEY])["request"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


def known_joins(path: Path) -> set[int] | None:
    """Where the pieces of a film meet, from the journal beside it; none where that does not tell."""
    if not journal_path(path).is_file():
        return None
    try:
        journal = read_journal(path)
        if journal.frames_before or journal.source is not None or journal.request.loop:
            return None  # its frames are counted from elsewhere
        return joins_of(make_plan(journal.request, options_of(journal.maker).card()).schedule)
    except (ValueError, OSError):  # torn, or its model is not here: the film can be measured all the same
        return None


def _frames(film: SourceFilm, times: tuple[int, ...]) -> Iterator[Pixels]:
    """The frames at these times; what FFmpeg says of a broken one is one line."""
    try:
        yield from film.frames_at(times)
    except av.error.FFmpegError as error:
        raise ValueError(f"video = {film.path}: cannot be decoded ({' '.join(str(error).split())})") from error
