"""The axes of motion: which features of `evaluate/signals.py` each is made of, and the words for them.

`SPREAD` is how far renders of one scene differ among themselves, measured over scenes of the film world:
`python -m benchmarks.motion --spread` measures it anew. The one invariant: every feature that is named here is
one of `FEATURES`, and has a spread and words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Term:
    """A feature as part of an axis: which way it is wrong to be off, and how much that counts."""

    name: str
    wrong: Literal["both", "more", "less"] = "both"
    weight: float = 1.0

    def size(self, deviations: float) -> float:
        """How far it is off the wrong way."""
        if not math.isfinite(deviations):
            return 0.0
        off = {"both": abs(deviations), "more": max(0.0, deviations), "less": max(0.0, -deviations)}[self.wrong]
        return self.weight * off


AXES: dict[str, tuple[Term, ...]] = {
    "trajectory": (
        Term("camera_right"), Term("camera_up"), Term("camera_growth"), Term("scenery_right"), Term("scenery_down"),
        Term("past_right"), Term("frame_right"),
    ),
    "smoothness": (
        Term("shake", "more"), Term("stutter", "more"), Term("uneven", "more"), Term("flicker", "more"),
        Term("error", "more"),
    ),
    "jumps": (Term("jump", "more"), Term("jolt", "more"), Term("area_step", "more")),
    "deformation": (
        Term("unlike_next", "more"), Term("unlike_first", "more"), Term("bend", "more"), Term("shape_step", "more"),
        Term("area_step", "more"), Term("area", weight=0.5),
    ),
    "amplitude": (
        Term("energy"), Term("quick"), Term("limbs"), Term("rise"), Term("bob"), Term("still", "more"),
    ),
}  # fmt: skip
HEADING = ("camera_right", "camera_up", "camera_growth", "scenery_right", "scenery_down", "past_right", "frame_right")
"""What has a direction: to go the other way is worse than to be as far off the right way."""
WEIGHTS = {"trajectory": 0.35, "smoothness": 0.15, "jumps": 0.15, "deformation": 0.15, "amplitude": 0.2}
ACTION = ("past_right", "frame_right", "bob", "bob_rate", "wide", "wide_rate", "tall", "tall_rate", "limbs",
          "limbs_down", "rise", "bend")  # fmt: skip
"""What tells one action from another."""
LOG = frozenset(
    ("bob", "bob_rate", "wide", "wide_rate", "tall", "tall_rate", "limbs", "limbs_down", "rise", "energy", "quick",
     "area", "area_step", "shape_step", "unlike_next", "unlike_first", "bend", "jump", "jolt", "error", "uneven",
     "flicker", "shake")
)  # fmt: skip
"""Features that are natural logarithms."""
SUBJECT = frozenset(
    ("past_right", "past_down", "frame_right", "bob", "bob_rate", "wide", "wide_rate", "tall", "tall_rate", "limbs",
     "limbs_down", "rise", "area", "area_step", "shape_step", "unlike_next", "unlike_first", "bend", "shake")
)  # fmt: skip
"""Features that need the subject to be followed."""
SPREAD: dict[str, float] = {
    "scenery_right": 0.03, "scenery_down": 0.02,
    "camera_right": 0.029, "camera_up": 0.01, "camera_growth": 0.01, "parallax": 0.034, "past_right": 0.074,
    "past_down": 0.094, "frame_right": 0.026, "bob": 0.15, "bob_rate": 0.125, "wide": 0.236, "wide_rate": 0.152,
    "tall": 0.169, "tall_rate": 0.121, "limbs": 0.118, "limbs_down": 0.145, "rise": 0.117, "energy": 0.08,
    "quick": 0.107, "area": 0.034, "area_step": 0.168, "shape_step": 0.192, "unlike_next": 0.089,
    "unlike_first": 0.123, "bend": 0.11, "jump": 0.08, "jolt": 0.062, "error": 0.056, "stutter": 0.013,
    "flicker": 0.108, "shake": 0.186, "still": 0.01, "uneven": 0.191,
}  # fmt: skip
WORDS = {
    "camera_right": "the camera goes right",
    "camera_up": "the camera goes up",
    "camera_growth": "the frame grows",
    "parallax": "near things pass faster than far ones",
    "scenery_right": "the scenery passes to the right",
    "scenery_down": "the scenery passes downwards",
    "past_right": "the subject passes the scenery to the right",
    "past_down": "the subject passes the scenery downwards",
    "frame_right": "the subject crosses the frame to the right",
    "bob": "the subject goes up and down",
    "bob_rate": "the subject goes up and down as often",
    "wide": "the subject's width swings",
    "wide_rate": "the subject's width swings as often",
    "tall": "the subject's height swings",
    "tall_rate": "the subject's height swings as often",
    "limbs": "the subject's limbs move",
    "limbs_down": "the subject's limbs move up and down",
    "rise": "the subject's rise changes",
    "energy": "all in the frame moves",
    "quick": "the quickest part of the frame moves",
    "area": "the subject is large",
    "area_step": "the subject's area changes from frame to frame",
    "shape_step": "the subject's outline changes from frame to frame",
    "unlike_next": "the subject stops looking like itself",
    "unlike_first": "the subject stops looking as it did at first",
    "bend": "the subject bends otherwise than it turns or grows",
    "jump": "one step is larger than the others after motion is taken out",
    "jolt": "one step is larger than the others",
    "error": "frames differ by more than motion",
    "stutter": "frames are repeated",
    "flicker": "light comes and goes",
    "shake": "the subject trembles",
    "still": "nothing changes between frames",
    "uneven": "steps are uneven",
}
