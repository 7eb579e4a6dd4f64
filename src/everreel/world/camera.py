"""Where the camera looks at a moment of a film, and where that puts the subject.

The world is a cylinder around the camera: every layer of scenery repeats in x, so panning and tracking go
on for ever. Zooming and tilting cannot, so they sweep in the named direction at an even speed and ease back
quickly. The one invariant: the view is a function of the scene and the time alone, so any moment can be
drawn without those before it. Lengths are in frame heights, x to the right and y down.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

from everreel.world.scene import WIDE_SHOTS, Scene

SWEEP_PERIOD = 6.0
SWEEP_SHARE = 0.8
ZOOM_RANGE = 1.45
TILT_RANGE = 0.4
_SPEEDS = {"walks": 0.36, "runs": 0.5, "swims": 0.35, "flies": 0.45}
_CROSSING = {"walks": 0.24, "runs": 0.42, "swims": 0.22, "flies": 0.34}


@dataclass(frozen=True)
class View:
    """The camera at one moment: `pan` moves all layers alike, `track` each by its parallax."""

    pan: float = 0.0
    track: float = 0.0
    tilt: float = 0.0
    zoom: float = 1.0

    def shift(self, parallax: float) -> float:
        """How far the camera has moved to the right over a layer."""
        return self.pan + parallax * self.track


@dataclass(frozen=True)
class Camera:
    """The camera of a scene in a frame of this aspect (width / height)."""

    scene: Scene
    aspect: float

    def view(self, time: float) -> View:
        """The view after `time` seconds."""
        move, direction = self.scene.camera
        pace, lead = _traits("camera", self.scene.seed)
        lead *= 0.35
        if move in ("pan", "tracking"):
            travel = (1 if direction == "right" else -1) * self.speed * pace * time
            return View(pan=travel) if move == "pan" else View(track=travel)
        if move == "zoom":
            power = sweep(time + lead) - 0.5
            return View(zoom=ZOOM_RANGE ** (power if direction == "in" else -power))
        if move == "tilt":
            lift = TILT_RANGE * (sweep(time + lead) - 0.5)
            return View(tilt=lift if direction == "up" else -lift)
        return View()

    @property
    def speed(self) -> float:
        """How fast a camera that pans or tracks goes, per second."""
        scene = self.scene
        resting = 0.35 if scene.shot_type in WIDE_SHOTS else 0.28  # longer in view
        return self.aspect * (_SPEEDS[scene.action] if scene.locomotes else resting)

    @property
    def follows(self) -> bool:
        """Whether the camera goes with a moving subject, which then stays where it is in the frame."""
        return self.scene.locomotes and self.scene.camera[0] in ("pan", "tracking")

    def subject_x(self, time: float, width: float) -> float:
        """The x of a subject `width` wide without zoom; it leaves on one side and enters on the other."""
        pace, off = _traits("subject", self.scene.seed)
        off = 2 * off - 1
        sign = 1 if self.scene.direction == "right" else -1
        centre = self.aspect / 2
        close = self.scene.shot_type in ("close_up", "extreme_close_up")
        room = min(0.12 * self.aspect if not close else 0.05 * self.aspect, max(0.0, (self.aspect - width) / 2))
        if self.follows:
            return centre + room * (0.7 * off + 0.3 * math.sin(1.1 * time + 6 * pace))
        period = self.aspect * 1.06 + width
        if self.scene.locomotes:
            start = centre + sign * self.aspect * (0.1 * off - 0.22)
            travel = sign * _CROSSING[self.scene.action] * self.aspect * pace * time
            return wrap(start + travel, centre, period)
        shift = self.view(time).shift(1.0)
        if not shift and self.scene.camera[0] not in ("pan", "tracking"):
            return centre + room * off
        lead = self.aspect * (0.22 + 0.1 * off) * (1 if self.scene.camera[1] == "right" else -1)
        return wrap(centre + lead - shift, centre, period)


def sweep(time: float) -> float:
    """From 0 to 1 at an even speed for most of a period, then smoothly back."""
    phase = (time / SWEEP_PERIOD) % 1.0
    if phase < SWEEP_SHARE:
        return phase / SWEEP_SHARE
    back = (phase - SWEEP_SHARE) / (1 - SWEEP_SHARE)
    return 1 - back * back * (3 - 2 * back)


def wrap(x: float, centre: float, period: float) -> float:
    """The x on the cylinder that lies within half a period of the centre."""
    return centre + (x - centre + period / 2) % period - period / 2


@functools.lru_cache(maxsize=64)
def _traits(what: str, seed: int) -> tuple[float, float]:
    """What a seed varies: a pace around 1, and a share from 0 to 1."""
    rng = random.Random(f"{what} {seed}")
    return rng.uniform(0.9, 1.1), rng.random()
