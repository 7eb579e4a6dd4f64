"""What is measured of a clip, in groups, the cheap ones first: `GROUPS` is the order.

`file` and `scan` cost nothing beside the pass that found the cuts. `looks` reads eight frames, `motion` follows corners
eight times a second, `quality` runs the meters of `evaluate/quality.py` over a second in the middle, `text` shows eight
frames to an OCR model, and `concept` asks a captioner. The one invariant: a group is a function of the film's pixels
within the clip and of no threshold, so that what was measured once stays true whatever is decided.

Shape suffixes: T frames, H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from everreel.caption.camera import describe_steps
from everreel.caption.fit import fit_steps
from everreel.caption.flow import PAIRS_PER_SECOND, flows
from everreel.caption.fusion import BuiltInFusion
from everreel.caption.schema import Captioner
from everreel.curate.crop import FRAMES, Cropper, CropRules, cropped
from everreel.curate.dedup import hash_of, hash_places
from everreel.curate.looks import LooksMeter
from everreel.curate.obstructions import TextFinder
from everreel.curate.record import Clip, Crop
from everreel.curate.rectangle import CropLimits
from everreel.curate.shots import Scan, spread_over
from everreel.evaluate.meters import Floats, one_thread, reduced
from everreel.evaluate.quality import QualityMeter
from everreel.film.source import FilmFrames, SourceFilm
from everreel.media import Pixels

GROUPS = ("file", "scan", "looks", "motion", "quality", "text", "concept")
MOVES = 0.05
"""Grey levels between two frames: less is no motion, whose repetition could be told."""
STILL = 2.5
"""Grey levels of the liveliest cells between two looks: less is a still picture."""
_LOOK_AREA = 1080 * 1920
_TEXT_AREA = 360 * 640
_REPEATED, _LONGEST_HOLD = 0.2, 4  # of a usual step; frames that one is shown for
_QUALITY_SECONDS, _QUALITY_FRAMES = 1.0, 30
_LOST_AGREED, _LOST_FOUND = 0.25, 0.3  # of the corners, as in `caption/camera.py`
_THUMBNAIL = 160 * 284
# The crop is found whatever it leaves; whether that will do is for the filters to say.
_ANY = CropRules(CropLimits(1e-9, math.inf), most_text=1.0)


class ToolError(RuntimeError):
    """What measures cannot be loaded: no fault of the film that is looked at, and it ends the run."""


@dataclass
class Tools:
    """What measures with models: none of them is loaded before the first clip that needs it."""

    text: Callable[[], TextFinder]
    captioner: Callable[[], Captioner] | None = None
    _cropper: Cropper | None = None
    _captioner: Captioner | None = None

    def cropper(self) -> Cropper:
        """What finds words, logos and bars."""
        self._cropper = self._cropper or Cropper(self.text(), rules=_ANY)
        return self._cropper

    def the_captioner(self) -> Captioner | None:
        """What tells the subject, where one was asked for.

        Raises:
            ToolError: it cannot be loaded.
        """
        if self._captioner is None and self.captioner is not None:
            try:
                self._captioner = self.captioner()
            except (ValueError, OSError) as error:
                raise ToolError(str(error)) from error
        return self._captioner


class _NoWords:
    """Finds nothing: for bars alone."""

    def __call__(self, frames: Pixels) -> list[object]:
        return []


def measure(group: str, film: SourceFilm, clip: Clip, scan: Scan | None, tools: Tools) -> Clip:
    """The clip with the measures of one group.

    Raises:
        ValueError: its frames cannot be decoded, or what measures is not installed.
    """
    if group == "file":
        return _of_file(film, clip)
    if group == "scan":
        assert scan is not None, clip.name
        return clip.with_measures(**_of_scan(scan, clip))
    if group == "looks":
        return _of_looks(film, clip)
    if group == "motion":
        return clip.with_measures(**_of_motion(film, clip))
    if group == "quality":
        return clip.with_measures(**_of_quality(film, clip))
    return _of_text(film, clip, tools) if group == "text" else _of_concept(film, clip, tools)


def save_thumbnail(film: SourceFilm, clip: Clip, path: Path) -> None:
    """A small JPEG of the frame in the middle of a clip; one that is there stays."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    [frame_HWC] = _frames(film, [clip.first + clip.frames // 2])
    part = path.with_suffix(".part")
    Image.fromarray(np.ascontiguousarray(reduced(frame_HWC, _THUMBNAIL))).save(part, "JPEG", quality=80)
    part.replace(path)


def _of_file(film: SourceFilm, clip: Clip) -> Clip:
    times = np.asarray(film.timeline.shown_at[clip.first : clip.first + clip.frames], np.float64)
    gaps = np.diff(times)
    gap = float(gaps.max() / np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else math.nan
    side = float(min(clip.height, clip.width))
    return clip.with_measures(side=side, fps=clip.fps, seconds=clip.seconds, gap=gap)


def _of_scan(scan: Scan, clip: Clip) -> dict[str, float]:
    within = slice(clip.first, clip.first + clip.frames)
    luma, blank = scan.luma[within], scan.blank[within]
    change = scan.change[within][scan.stride :]
    change = change[~np.isnan(change)]
    return {
        "light": float(luma.mean()),
        "black": float((blank & (luma < 0.5)).mean()),
        "white": float((blank & (luma >= 0.5)).mean()),
        "flat": float((scan.spread[within] < 0.02).mean()),
        "still": float((change < STILL).mean()) if len(change) else math.nan,
        "repeated": repeated(scan.step[within][1:]),
    }


def repeated(step_N: Floats) -> float:
    """The share of frames that are the one before them again, in the midst of motion: of a film slowed by half, 0.5.

    A picture that rests for longer than a few frames is a rest, and no repetition.
    """
    step_N = step_N[~np.isnan(step_N)]
    if len(step_N) < 8:
        return math.nan
    usual = float(np.percentile(step_N, 90))
    if usual < MOVES:
        return 0.0
    same = step_N < _REPEATED * usual
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]]))).reshape(-1, 2)
    return float(sum(stop - first for first, stop in edges if stop - first < _LONGEST_HOLD) / len(step_N))


def _of_looks(film: SourceFilm, clip: Clip) -> Clip:
    numbers = spread_over(clip.first, clip.frames, FRAMES)
    small = np.stack([reduced(frame, _TEXT_AREA) for frame in _frames(film, numbers)])
    nothing = _NoWords()
    found = Cropper(nothing, nothing, _ANY)(small, clip.height, clip.width)  # type: ignore[arg-type]
    crop = _with_bars_alone(found.crop, clip)
    hashed = dict.fromkeys(hash_places(clip.first, clip.frames, clip.fps))
    meter, looks = LooksMeter(), set(numbers)
    wanted = sorted({*looks, *hashed})
    for number, frame_HWC in zip(wanted, _frames(film, wanted), strict=True):
        inside = _of_area(cropped(frame_HWC, crop), _LOOK_AREA)
        with one_thread():
            if number in looks:
                meter.add(inside)
            if number in hashed:
                hashed[number] = hash_of(inside)
    hashes = tuple(value for value in hashed.values() if value)
    side = float(min(crop.width, crop.height) if crop else min(clip.width, clip.height))
    more = {"bars": found.measures["bar_share"], "side": side, **meter.result()}
    return replace(clip.with_measures(**more), crop=crop, hashes=hashes)


def _with_bars_alone(crop: Crop | None, clip: Clip) -> Crop | None:
    """A crop that leaves a picture to look at; of one that leaves next to nothing, none."""
    return crop if crop is not None and min(crop.width, crop.height) >= min(16, clip.width, clip.height) else None


def _of_area(frame_HWC: Pixels, area: int) -> Pixels:
    """A frame that is not more than a little larger than that; grids and noise are looked at where they are."""
    height, width = frame_HWC.shape[:2]
    if height * width <= 2 * area:
        return frame_HWC
    share = math.sqrt(area / (height * width))
    rows, columns = int(height * share), int(width * share)
    top, left = (height - rows) // 2, (width - columns) // 2
    return frame_HWC[top : top + rows, left : left + columns]


def _of_motion(film: SourceFilm, clip: Clip) -> dict[str, float]:
    stride = max(1, round(clip.fps / PAIRS_PER_SECOND))
    numbers = range(clip.first, clip.first + clip.frames, stride)
    if len(numbers) < 2:
        return dict.fromkeys(("motion", "shake", "cuts", "abrupt", "lost"), math.nan)
    frames = (reduced(cropped(frame, clip.crop)) for frame in _frames(film, numbers))
    with one_thread():
        found = list(flows(frames, clip.fps / stride))
    speeds = [np.percentile(np.abs(flow.moves @ (1, 1j)), 90) / flow.seconds for flow in found if len(flow.points)]
    steps = fit_steps(found)
    camera = describe_steps(steps)
    lost = [step.agreed < _LOST_AGREED or step.found < _LOST_FOUND for step in steps]
    return {
        "motion": float(np.mean(speeds)) if speeds else 0.0,
        "shake": camera.shake,
        "cuts": float(len(camera.cuts)),
        "abrupt": float(camera.kind == "abrupt"),
        "lost": float(np.mean(lost)) if lost else math.nan,
    }


def _of_quality(film: SourceFilm, clip: Clip) -> dict[str, float]:
    count = min(clip.frames, _QUALITY_FRAMES, max(3, round(_QUALITY_SECONDS * clip.fps)))
    first = clip.first + (clip.frames - count) // 2
    meter = QualityMeter(clip.fps)
    for frame_HWC in _frames(film, range(first, first + count)):
        meter.add(np.ascontiguousarray(cropped(frame_HWC, clip.crop))[None])
    values = meter.result().values
    return {name: values[name] for name in ("smoothness", "flicker", "largest_jump")}


def _of_text(film: SourceFilm, clip: Clip, tools: Tools) -> Clip:
    numbers = spread_over(clip.first, clip.frames, FRAMES)
    frames = np.stack([reduced(frame, _TEXT_AREA) for frame in _frames(film, numbers)])
    found = tools.cropper()(frames, clip.height, clip.width)
    told = {
        "text": found.measures["text_left"],
        "covered": 1 - found.measures["crop_share"],
        "stretched": min(found.measures["aspect_change"], 1e6),
        "side": float(min(found.crop.width, found.crop.height) if found.crop else min(clip.width, clip.height)),
    }
    return replace(clip.with_measures(**told), crop=found.crop)


def _of_concept(film: SourceFilm, clip: Clip, tools: Tools) -> Clip:
    captioner = tools.the_captioner()
    if captioner is None:
        return clip
    with closing(FilmFrames(film)) as frames:
        said = captioner.caption(_Part(frames, clip), clip.fps)
    main = next((subject for subject in said.subjects if subject.is_main_subject), None)
    told = BuiltInFusion().fuse(said, "t2v")
    concept = main.TYPES.type if main else "none"
    return replace(clip, concept=concept or "none", captions=clip.captions or ((told,) if told else ()))


class _Part:
    """The frames of a clip, cropped; see `media.FrameSource`."""

    def __init__(self, frames: FilmFrames, clip: Clip) -> None:
        self._frames, self._clip = frames, clip

    def __len__(self) -> int:
        return self._clip.frames

    def __getitem__(self, number: int) -> Pixels:
        place = range(self._clip.frames)[number]
        return np.ascontiguousarray(cropped(self._frames[self._clip.first + place], self._clip.crop))


def _frames(film: SourceFilm, numbers: Sequence[int]) -> Iterator[Pixels]:
    """Frames by their numbers, which ascend."""
    return film.frames_at([film.timeline.shown_at[number] for number in numbers])
