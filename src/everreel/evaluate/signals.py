"""What moves in a film of the film world, in numbers that do not depend on its layout: `FEATURES` of one film.

The camera is fitted to sparse flow (`caption/fit.py`) of what is not the subject; the subject is followed by its
colours (`evaluate/subject.py`) and by dense flow (`evaluate/meters.py`). The one invariant: lengths are in frame
heights, times in seconds, and no figure depends on where in the frame things are or at which moment of a cycle a film
begins. What cannot be measured is nan.

Shape suffixes: T frames, H height, W width, C = 3 channels, RGB; N points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from everreel.caption.camera import describe_steps
from everreel.caption.fit import fit_steps
from everreel.caption.flow import Flow, flows
from everreel.evaluate.meters import LOOKS_A_SECOND, Floats, describe, flow, in_cells, likeness, moved, opencv
from everreel.evaluate.subject import Finder, Mask
from everreel.media import Pixels

FEATURES = (
    # the camera: right and up (heights a second), growth (a second), and the odds that it travels rather than turns
    "camera_right", "camera_up", "camera_growth", "parallax",
    # how all but the subject goes through the frame, near and far, heights a second
    "scenery_right", "scenery_down",
    # the subject, against the scenery and in the frame, heights a second
    "past_right", "past_down", "frame_right",
    # the rest are logarithms: how far up and down, how fast it goes so, how its shape breathes, how much it moves
    "bob", "bob_rate", "wide", "wide_rate", "tall", "tall_rate", "limbs", "limbs_down", "rise", "energy", "quick",
    # shape and looks
    "area", "area_step", "shape_step", "unlike_next", "unlike_first", "bend",
    # steps from frame to frame
    "jump", "jolt", "error", "stutter", "flicker", "shake", "still", "uneven",
)  # fmt: skip
_LEAST_AREA = 0.002  # of the frame: with less there is no subject
_TOUCH = 0.6  # of the usual area: with less the subject is leaving the frame
_FAINT = 1e-4


@dataclass(frozen=True)
class Track:
    """The subject over a film, frame by frame: area (share of the frame), centre and spread in frame heights."""

    area: Floats
    x: Floats
    y: Floats
    wide: Floats
    tall: Floats
    masks: tuple[Mask, ...]

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """The frames in which it is there as a whole."""
        usual = float(np.median(self.area))
        return np.asarray((self.area > _LEAST_AREA) & (self.area > _TOUCH * usual), np.bool_)


@dataclass(frozen=True)
class Steps:
    """What went on between each two frames, T - 1 of each: dense flow of the subject (right, down, its spread and that
    of what goes down) and of the whole frame in heights a second, what flow leaves over and plain change of brightness.
    """

    right: Floats
    down: Floats
    spread: Floats
    spread_down: Floats
    bent: Floats
    whole: Floats
    left_over: Floats
    changed: Floats
    fastest: Floats
    scenery_right: Floats
    scenery_down: Floats


def features_of(frames_THWC: Pixels, fps: float, finder: Finder) -> dict[str, float]:
    """All `FEATURES` of a film of at least 4 frames."""
    cv2 = opencv()
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames_THWC]
    track = follow([finder.mask(frame) for frame in frames_THWC])
    camera = _camera(frames_THWC, fps, track)
    steps = _steps(gray, fps, track, camera)
    values = {
        **camera,
        **_path(track, steps, fps),
        **_shape(track, fps),
        **_looks(frames_THWC, gray, fps, track),
        **_rhythm(gray, steps, track, fps),
    }
    return {name: float(values.get(name, math.nan)) for name in FEATURES}


def follow(masks: list[Mask]) -> Track:
    """The subject's place and size out of its masks."""
    height, width = masks[0].shape
    y, x = np.mgrid[0:height, 0:width] / height
    rows = []
    for mask in masks:
        if not mask.any():
            rows.append((0.0, math.nan, math.nan, math.nan, math.nan))
            continue
        across, down = x[mask], y[mask]
        rows.append((float(mask.mean()), across.mean(), down.mean(), across.std(), down.std()))
    area, right, down, wide, tall = np.array(rows, np.float64).T
    return Track(area, right, down, wide, tall, tuple(masks))


def _camera(frames: Pixels, fps: float, track: Track) -> dict[str, float]:
    """How the camera moves, from the corners that are not on the subject."""
    height, width = frames.shape[1:3]
    apart = []
    for found in flows(frames, fps):
        mask = track.masks[min(len(frames) - 1, round(found.time * fps))]
        at = found.points * height + (width / 2, height / 2)
        column, row = np.clip(at.astype(int), 0, (width - 1, height - 1)).T
        apart.append(_without(found, mask[row, column]))
    motion = describe_steps(fit_steps(apart))
    rates = motion.per_second
    if motion.kind == "unknown":
        return {}
    return {
        "camera_right": rates["right"] * width / height,
        "camera_up": rates["up"],
        "camera_growth": rates["growth"],
        "parallax": motion.parallax,
    }


def _without(found: Flow, subject_N: Mask) -> Flow:
    kept = ~subject_N if (~subject_N).sum() >= 12 else np.ones(len(subject_N), np.bool_)
    return replace(found, points=found.points[kept], moves=found.moves[kept])


def _steps(gray: list[Pixels], fps: float, track: Track, camera: dict[str, float]) -> Steps:
    height, width = gray[0].shape
    y, x = (np.mgrid[0:height, 0:width] + 0.5) / height
    growth, right, up = (camera.get(name, 0.0) for name in ("camera_growth", "camera_right", "camera_up"))
    drift_x, drift_y = growth * (x - width / height / 2) - right, growth * (y - 0.5) + up
    rows = []
    for number, (before, after) in enumerate(pairwise(gray), 1):
        back = flow(after, before)
        came, inside = moved(before, back)
        missed = np.abs(after - came)[inside]
        motion = -back.astype(np.float64) * fps / height
        length = np.sort(np.hypot(motion[..., 0], motion[..., 1]), axis=None)
        mask = track.masks[number] & inside
        changed = float(np.abs(after.astype(np.int16) - before).mean())
        row = _inside(motion[mask] - np.stack([drift_x[mask], drift_y[mask]], 1), x[mask], y[mask])
        rest = motion[~track.masks[number] & inside]
        scenery = rest.mean(0) if len(rest) else (math.nan, math.nan)
        left_over = missed.mean() if missed.size else math.nan
        rows.append((*row, length.mean(), left_over, changed, length[-len(length) // 20 :].mean(), *scenery))
    return Steps(*np.array(rows, np.float64).T)


def _inside(motion_N2: Floats, x_N: Floats, y_N: Floats) -> tuple[float, float, float, float, float]:
    """Of the subject's flow: its mean, how far it spreads about that, and what no shift, growth or shear explains."""
    if len(motion_N2) < 12:
        return (math.nan,) * 5
    right, down = motion_N2.mean(0)
    rest = motion_N2 - (right, down)
    plane = np.stack([x_N - x_N.mean(), y_N - y_N.mean()], 1)
    slope = np.linalg.lstsq(plane, rest, rcond=None)[0]
    bent = rest - plane @ slope
    return (
        float(right), float(down), float(np.sqrt((rest**2).sum(1).mean())),
        float(np.sqrt((rest[:, 1] ** 2).mean())), float(np.sqrt((bent**2).sum(1).mean())),
    )  # fmt: skip


def _path(track: Track, steps: Steps, fps: float) -> dict[str, float]:
    """Where the subject goes, and how it bobs."""
    seen = track.seen
    if seen.sum() < 4 or float(np.median(track.area)) < _LEAST_AREA:
        return {}
    time = np.arange(len(seen))[seen] / fps
    both = seen[1:] & seen[:-1]
    with np.errstate(all="ignore"):
        across = np.diff(track.x)[both] * fps
    bob, bob_rate = _swing(time, track.y[seen], fps)
    inside = both & np.isfinite(steps.right)
    if inside.sum() < 3:
        return {}
    return {
        "past_right": float(np.median(steps.right[inside])),
        "past_down": float(np.median(steps.down[inside])),
        "frame_right": float(np.median(_runs(across, max(1, round(fps / 8))))),
        "bob": bob,
        "bob_rate": bob_rate,
        "limbs": _log(float(np.median(steps.spread[inside]))),
        "limbs_down": _log(float(np.median(steps.spread_down[inside]))),
        "bend": _log(float(np.median(steps.bent[inside]))),
        "rise": _log(float(np.std(steps.down[inside]))),
    }


def _shape(track: Track, fps: float) -> dict[str, float]:
    """How the subject's outline changes: its spread across and down, and its area from frame to frame."""
    seen = track.seen
    if seen.sum() < 4 or float(np.median(track.area)) < _LEAST_AREA:
        return {"area": _log(float(np.median(track.area)))}
    time = np.arange(len(seen))[seen] / fps
    wide, wide_rate = _swing(time, np.log(track.wide[seen] + _FAINT), fps)
    tall, tall_rate = _swing(time, np.log(track.tall[seen] + _FAINT), fps)
    both = seen[1:] & seen[:-1]
    area, slender = np.log(track.area + _FAINT), np.log((track.wide + _FAINT) / (track.tall + _FAINT))
    return {
        "wide": wide,
        "wide_rate": wide_rate,
        "tall": tall,
        "tall_rate": tall_rate,
        "area": _log(float(np.median(track.area))),
        "area_step": _log(float(np.sqrt((np.diff(area)[both] ** 2).mean()))),
        "shape_step": _log(float(np.sqrt((np.diff(slender)[both] ** 2).mean()))),
    }


def _looks(frames: Pixels, gray: list[Pixels], fps: float, track: Track) -> dict[str, float]:
    """How unlike itself the subject is after an eighth of a second, and to how it was at first."""
    told = []
    for number in range(0, len(frames), max(1, round(fps / LOOKS_A_SECOND))):
        if track.seen[number]:
            told.append(describe(frames[number], gray[number], track.masks[number]))
    known = [description for description in told if description is not None]
    if len(known) < 3:
        return {}
    beside = [1 - likeness(one, other) for one, other in pairwise(known)]
    first = [1 - likeness(known[0], other) for other in known[1:]]
    return {"unlike_next": _log(float(np.mean(beside))), "unlike_first": _log(float(np.mean(first)))}


def _rhythm(gray: list[Pixels], steps: Steps, track: Track, fps: float) -> dict[str, float]:
    """How evenly it goes from frame to frame."""
    left, changed = steps.left_over, steps.changed
    usual = float(np.median(changed))
    near = np.array([np.median(changed[max(0, n - 2) : n + 3]) for n in range(len(changed))])
    values = {
        "scenery_right": float(np.nanmedian(steps.scenery_right)),
        "scenery_down": float(np.nanmedian(steps.scenery_down)),
        "energy": _log(float(steps.whole.mean())),
        "quick": _log(float(steps.fastest.mean())),
        "error": _log(float(np.nanmean(left))),
        "jump": _log(float(np.nanmax(left)) / (float(np.nanmedian(left)) + 0.2)),
        "jolt": _log(float(changed.max()) / (usual + 0.2)),
        "stutter": float((changed < 0.4 * near).mean()),
        "still": float((changed < 0.08).mean()),
        "uneven": _log(float(np.abs(np.diff(changed)).mean()) / (float(changed.mean()) + 0.1)),
        "flicker": _log(_undone(gray)),
    }
    jerk = np.hypot(np.diff(track.x, 2), np.diff(track.y, 2)) * fps
    whole = track.seen[2:] & track.seen[1:-1] & track.seen[:-2]
    if whole.sum() >= 3:
        values["shake"] = _log(float(np.sqrt((jerk[whole] ** 2).mean())))
    return values


def _undone(gray: list[Pixels]) -> float:
    """How much of a step to the next frame is taken back by the one after: changes that come and go."""
    small = [in_cells(frame.astype(np.float32)) for frame in gray]
    rows = []
    for before, now, after in zip(small, small[1:], small[2:], strict=False):
        rise, fall = now - before, after - now
        rows.append(np.where(rise * fall < 0, np.minimum(np.abs(rise), np.abs(fall)), 0).mean())
    return float(np.mean(rows))


def _swing(time: Floats, value: Floats, fps: float) -> tuple[float, float]:
    """How far a value swings about its line (a logarithm), and how fast: of its slope over itself, a logarithm too."""
    around = value - np.polyval(np.polyfit(time, value, 1), time)
    far = float(around.std())
    beside = np.diff(time) < 1.5 / fps
    steps = np.diff(around)[beside] * fps
    fast = float(np.sqrt((steps**2).mean())) if beside.any() else math.nan
    return _log(far), _log(fast / (far + 1e-3))


def _runs(values: Floats, size: int) -> Floats:
    """Means over so many neighbours: what is measured to a pixel is rough from frame to frame."""
    if len(values) <= size:
        return np.array([values.mean()]) if len(values) else np.array([math.nan])
    return np.convolve(values, np.ones(size) / size, "valid")


def _log(value: float) -> float:
    return math.log(value + _FAINT) if math.isfinite(value) else math.nan
