"""How the camera moves: along and about which axes, which way, how fast, and before all that whether it is simple.

The camera-motion expert of the paper (SkyReels-V2, captioning: sub-expert captioners), built from optical flow: first a
gate (is the shot static? is its motion irregular, of a hand or abrupt?), then the one motion of the rest as -, 0 or +
along x, y and z and about them, as slow (less than 5 % of the frame a second), medium or fast (more than 20 %).

A camera that turns and one that travels differ only where the scene has depth: near things then pass faster than far
ones. Without such parallax the two look alike, and the motion is told as the commoner, a turn (pan, tilt); `parallax`
says how far it is from that. Going forward is not told from a zoom.

The one invariant: signs are those of the camera, not of the picture. It looks right, up and clockwise, and goes right,
up and forward, with +; the picture then goes the other way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from everreel.caption.depth import travels
from everreel.caption.fit import Step, fit_steps
from everreel.caption.flow import flows
from everreel.caption.schema import Captioner, StructuralCaption
from everreel.media import FrameSource, Pixels

Floats = npt.NDArray[np.float64]

SLOW, FAST = 0.05, 0.2
"""Shares of the frame a second: less is slow, more is fast."""
STILL = 0.006  # of the frame a second; less is no motion
UNSTEADY = 0.02  # of the frame a second about the way it goes: a hand
_COMPANION = 0.4  # of the main motion; what is less is not worth a word
_AGREED, _FOUND = 0.25, 0.3  # of the corners; a step with fewer says nothing
_SEEN = 0.3  # of the steps, that have to say something
SURE, SURE_OF_A_HAND = 0.4, 0.8
"""Shares of what could be followed that go with the camera, from which on its motion is believed over a network: an
irregular one is elsewhere often a subject that fills the picture."""
_CUT = 0.05  # mean change of brightness of a cut, at the least
_WHIP, _WHIP_OVER = 0.6, 4.0  # of the frame a second, and times the usual: an abrupt motion
IRREGULAR = ("handheld", "abrupt")
AXES = ("right", "up", "growth", "clockwise")
SHIFTS = AXES[:2]
SIX = ("tx", "ty", "tz", "roll", "pitch", "yaw")
DEEP = 0.8
"""A probability of travelling above this is told as travelling: a pan is the commoner by far."""


@dataclass(frozen=True)
class CameraMotion:
    """How the camera moves.

    `kind` is static, pan, tilt, roll, zoom, tracking (sideways), pedestal (up or down), handheld, abrupt, or unknown
    where nothing could be followed. `translation` are the signs of right, up and forward (0: not told from a zoom),
    `rotation` those of roll (clockwise), pitch (up) and yaw (right), `zoom` that of a growth. `speed` is slow, medium,
    fast, or "" for a camera that stands. `per_second` tells the usual right, up, growth and clockwise (`AXES`): shares
    of the frame's width and height, the natural logarithm of its scale, and radians. `curves` has the same over time,
    beside its `seconds`. `parallax` is the probability that the camera travels rather than turns, `shake` how far a
    hand moves it about its way, in frames a second, and `cuts` are the seconds at which another shot begins; the
    longest is described. `agreed` is the share of what could be followed that goes with the camera.
    """

    kind: str
    translation: tuple[int, int, int]
    rotation: tuple[int, int, int]
    zoom: int
    speed: str
    per_second: dict[str, float]
    parallax: float
    shake: float
    cuts: tuple[float, ...]
    agreed: float
    curves: dict[str, tuple[float, ...]]

    @property
    def sure(self) -> bool:
        """Whether to believe it over a network that saw the pictures: much goes with it, and nearly all with a hand."""
        return self.kind != "unknown" and self.agreed > (SURE_OF_A_HAND if self.kind in IRREGULAR else SURE)

    @property
    def axes(self) -> dict[str, int]:
        """The six degrees of freedom as the paper has them: a zoom counts as going forward."""
        return dict(zip(SIX, (*self.translation[:2], self.zoom, *self.rotation), strict=True))

    def words(self) -> str:
        """In the style of the released captions, "the camera pans left slowly"; "" for a camera that stands."""
        if self.kind in ("static", "unknown"):
            return ""
        said = self._phrases()
        if self.kind == "abrupt":
            return f"the camera {said[0] if said else 'moves'} abruptly"
        pace = {"slow": " slowly", "fast": " quickly"}.get(self.speed, "")
        if self.kind == "handheld":
            return f"the handheld camera {' and '.join(said)}{pace}" if said else "the handheld camera shakes slightly"
        return f"the camera {' and '.join(said)}{pace}"

    def film_world(self) -> str:
        """The value of `world.scene.CAMERA_MOTIONS` that is nearest: what the film world does not know is static."""
        moved = {name: abs(self.per_second[name]) for name in AXES[:3]}
        name = max(moved, key=lambda axis: moved[axis])
        irregular = self.kind in IRREGULAR and moved[name] < self.shake / 2
        if moved[name] < STILL or irregular or abs(self.per_second["clockwise"]) > moved[name]:
            return "static"
        ahead = self.per_second[name] > 0
        if name == "right":
            return f"{'tracking' if self.parallax > DEEP else 'pan'}_{'right' if ahead else 'left'}"
        return f"tilt_{'up' if ahead else 'down'}" if name == "up" else f"zoom_{'in' if ahead else 'out'}"

    def _phrases(self) -> list[str]:
        """What it does, the largest motion first."""
        tx, ty, _ = self.translation
        roll, pitch, yaw = self.rotation
        told = [
            ("right", tx, "tracks right", "tracks left"),
            ("right", yaw, "pans right", "pans left"),
            ("up", ty, "rises", "sinks"),
            ("up", pitch, "tilts up", "tilts down"),
            ("growth", self.zoom, "zooms in", "zooms out"),
            ("clockwise", roll, "rolls clockwise", "rolls counter-clockwise"),
        ]
        said = [(abs(self.per_second[axis]), more if sign > 0 else less) for axis, sign, more, less in told if sign]
        return [words for _, words in sorted(said, reverse=True)]


class Measured:
    """A captioner of which this expert corrects what is said of the camera, as the paper's experts correct their
    teacher; where it is not sure, what was said stays. Nothing said is no word to keep: a captioner that saw the
    camera stand and one that did not look say the same. `motion` is what was measured of the film before, if anything.
    """

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.motion: CameraMotion | None = None

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        """See `Captioner`."""
        self.motion = None
        said = self.captioner.caption(frames, fps)
        self.motion = motion = describe_motion((frames[number] for number in range(len(frames))), fps)
        if said.camera_motion and not motion.sure:
            return said
        return said.model_copy(update={"camera_motion": motion.words()})

    def close(self) -> None:
        """Free the captioner, where it holds something."""
        close = getattr(self.captioner, "close", None)
        if close is not None:
            close()


def describe_motion(frames: Iterable[Pixels], fps: float) -> CameraMotion:
    """The camera's motion in a film: an array T x H x W x 3 of uint8, or any iterator of its frames.

    Raises:
        ValueError: the frames or the rate cannot be used, or OpenCV is not there.
    """
    return describe_steps(fit_steps(flows(frames, fps)))


def describe_steps(steps: Sequence[Step]) -> CameraMotion:
    """The same of steps that were fitted before."""
    shot, cuts = _longest_shot(steps)
    seen = [step for step in shot if not _lost(step)]
    agreed = float(np.median([step.agreed for step in shot])) if shot else 0.0
    if len(seen) < _SEEN * len(shot) or not seen:
        still = bool(steps) and all(step.changed < 0.002 for step in steps)
        kind, agreed = ("static", 1.0) if still else ("unknown", agreed)
        return _motion(kind, dict.fromkeys(AXES, 0.0), {}, cuts=cuts, agreed=agreed)
    rates = np.array([_camera_rates(step) for step in seen])
    usual = {name: float(rate) for name, rate in zip(AXES, np.median(rates, axis=0), strict=True)}
    shake = _shake(rates, seen[0].seconds)
    curves = {name: tuple(map(float, column)) for name, column in zip(AXES, rates.T, strict=True)}
    curves = {"seconds": tuple(step.time for step in seen), **curves}
    largest = max(map(abs, usual.values()))
    kind, told = max(AXES, key=lambda name: abs(usual[name])), usual
    whip = _whip(rates, largest)
    if whip is not None:
        kind, told, largest = "abrupt", whip, max(map(abs, whip.values()))
    elif shake > max(UNSTEADY, 0.5 * largest):
        kind = "handheld"
    elif largest < STILL:
        kind = "static"
    least = max(STILL, _COMPANION * largest, shake if kind == "handheld" else 0.0)
    if kind == "static":
        told = {}
    signs = {name: math.copysign(1, rate) if abs(rate) >= least else 0 for name, rate in told.items()}
    parallax = travels(seen) if kind in SHIFTS else 0.0
    return _motion(kind, usual, signs, parallax=parallax, shake=shake, cuts=cuts, agreed=agreed, curves=curves)


def _motion(
    kind: str,
    usual: dict[str, float],
    signs: Mapping[str, float],
    *,
    parallax: float = 0.0,
    shake: float = 0.0,
    cuts: tuple[float, ...] = (),
    agreed: float = 0.0,
    curves: dict[str, tuple[float, ...]] | None = None,
) -> CameraMotion:
    """The motion by its signs: a travel where there is parallax, a turn elsewhere."""
    right, up, growth, clockwise = (int(signs.get(name, 0)) for name in AXES)
    deep = parallax > DEEP
    names = {"clockwise": "roll", "right": "pan", "up": "tilt", "growth": "zoom"}
    if deep:
        names |= {"right": "tracking", "up": "pedestal"}
    largest = max((abs(usual[name]) for name, sign in signs.items() if sign), default=0.0)
    speed = "" if not largest else "slow" if largest < SLOW else "medium" if largest <= FAST else "fast"
    return CameraMotion(
        kind=names.get(kind, kind),
        translation=(right, up, 0) if deep else (0, 0, 0),
        rotation=(clockwise, 0, 0) if deep else (clockwise, up, right),
        zoom=growth,
        speed="fast" if kind == "abrupt" else speed,
        per_second=usual,
        parallax=parallax,
        shake=shake,
        cuts=cuts,
        agreed=agreed,
        curves=curves or {},
    )


def _whip(rates: Floats, usual: float) -> dict[str, float] | None:
    """The height of a motion that comes and goes at once; None where there is none. One look alone may be mistaken."""
    near = np.stack([np.roll(rates, 1, axis=0), rates, np.roll(rates, -1, axis=0)])[:, 1:-1]
    if near.shape[1] == 0:
        return None
    calm = np.median(near, axis=0)
    size = np.abs(calm[:, :2]).max(axis=1)
    peak = int(size.argmax())
    if size[peak] <= max(_WHIP, _WHIP_OVER * usual):
        return None
    return {name: float(rate) for name, rate in zip(AXES, calm[peak], strict=True)}


def _longest_shot(steps: Sequence[Step]) -> tuple[list[Step], tuple[float, ...]]:
    """The steps of the longest shot, and when shots begin."""
    if not steps:
        return [], ()
    usual = float(np.median([step.changed for step in steps]))
    cut = [_lost(step) and step.changed > max(_CUT, 2 * usual) for step in steps]
    shots = [
        [step for step, _ in group]
        for is_cut, group in groupby(zip(steps, cut, strict=True), lambda s: s[1])
        if not is_cut
    ]
    times = tuple(step.time + step.seconds for step, is_cut in zip(steps, cut, strict=True) if is_cut)
    return (max(shots, key=len) if shots else []), times


def _lost(step: Step) -> bool:
    return step.agreed < _AGREED or step.found < _FOUND


def _camera_rates(step: Step) -> tuple[float, float, float, float]:
    """Right, up, growth and clockwise, of the camera: the picture goes the other way."""
    return -step.right, step.down, step.growth, -step.clockwise


def _shake(rates: Floats, seconds: float) -> float:
    """How unsteadily a camera goes its way, in frames a second: a robust deviation from its middle over a second."""
    reach = max(1, round(0.5 / seconds))
    ways = rates[:, [0, 1, 3]]
    smooth = np.array([np.median(ways[max(0, n - reach) : n + reach + 1], axis=0) for n in range(len(ways))])
    off = np.sqrt(((ways - smooth) ** 2).sum(axis=1))
    return float(np.median(off)) if len(rates) >= 3 else 0.0
