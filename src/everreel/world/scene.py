"""What a short film of the world shows, in words: the vocabularies, the scene, and which scenes make sense.

Everything the renderer draws is decided by a `Scene`, so its fields are perfect labels. The one invariant:
a scene that `validate` accepts can be rendered for any length of time at any size, and `visible_fields`
names only what somebody who sees the film alone could tell.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch

SUBJECTS = (
    "fox",
    "cat",
    "dog",
    "rabbit",
    "bear",
    "elephant",
    "horse",
    "turtle",
    "swan",
    "duck",
    "owl",
    "penguin",
    "fish",
    "butterfly",
    "woman",
    "man",
    "robot",
    "car",
    "bus",
    "boat",
    "airplane",
    "balloon",
    "ball",
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "gray")
PLACES = (
    "forest",
    "meadow",
    "beach",
    "desert",
    "mountains",
    "city",
    "village",
    "lake",
    "park",
    "snowfield",
    "moon",
    "room",
    "underwater",
)
TIMES = ("day", "dawn", "dusk", "night")
WEATHERS = ("clear", "cloudy", "rain", "snow", "fog")
ACTIONS = ("walks", "runs", "jumps", "swims", "flies", "bounces", "spins", "stays")
DIRECTIONS = ("left", "right")
SHOT_TYPES = ("extreme_close_up", "close_up", "medium_shot", "full_shot", "long_shot")
SHOT_ANGLES = ("eye_level", "high_angle", "low_angle")
SHOT_POSITIONS = ("front_view", "back_view", "side_view")
CAMERA_MOTIONS = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "tracking_left",
    "tracking_right",
)
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "surprised")

VOCABULARY: dict[str, tuple[str, ...]] = {
    "subject": SUBJECTS,
    "color": COLORS,
    "action": ACTIONS,
    "direction": DIRECTIONS,
    "place": PLACES,
    "time": TIMES,
    "weather": WEATHERS,
    "shot_type": SHOT_TYPES,
    "shot_angle": SHOT_ANGLES,
    "shot_position": SHOT_POSITIONS,
    "camera_motion": CAMERA_MOTIONS,
    "expression": EXPRESSIONS,
}

PEOPLE = ("woman", "man")
LOCOMOTION = ("walks", "runs", "swims", "flies")
WIDE_SHOTS = ("full_shot", "long_shot")
CLOSE_SHOTS = ("extreme_close_up", "close_up")
# What a place leaves no choice in: there is no weather indoors, and the sky over the moon is dark.
FORCED: dict[str, dict[str, str]] = {
    "room": {"weather": "clear"},
    "underwater": {"weather": "clear"},
    "moon": {"weather": "clear", "time": "night"},
}

_LAND = ("walks", "runs", "jumps", "stays")
SUBJECT_ACTIONS: dict[str, tuple[str, ...]] = {
    "fox": (*_LAND, "spins"),
    "cat": (*_LAND, "bounces", "spins"),
    "dog": (*_LAND, "swims", "spins"),
    "rabbit": (*_LAND, "bounces"),
    "bear": (*_LAND, "swims", "bounces"),
    "elephant": (*_LAND, "swims"),
    "horse": _LAND,
    "turtle": ("walks", "swims", "spins", "stays"),
    "swan": ("swims", "flies", "stays"),
    "duck": ("walks", "swims", "flies", "stays"),
    "owl": ("walks", "flies", "stays"),
    "penguin": ("walks", "jumps", "swims", "stays"),
    "fish": ("swims", "jumps", "stays"),
    "butterfly": ("flies", "stays"),
    "woman": (*_LAND, "swims", "spins"),
    "man": (*_LAND, "swims", "spins"),
    "robot": (*_LAND, "flies", "spins"),
    "car": ("walks", "runs", "bounces", "stays"),
    "bus": ("walks", "runs", "bounces", "stays"),
    "boat": ("swims", "stays"),
    "airplane": ("flies", "spins", "stays"),
    "balloon": ("flies", "stays"),
    "ball": ("bounces", "spins", "stays"),
}
_DRY = tuple(place for place in PLACES if place != "underwater")
_OUTDOORS = tuple(place for place in PLACES if place not in ("room", "underwater", "moon"))
SUBJECT_PLACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SUBJECTS, _DRY),
    **dict.fromkeys(("turtle", "penguin", "robot", "ball"), PLACES),
    **dict.fromkeys(("airplane", "balloon"), _OUTDOORS),
    "bus": tuple(place for place in _DRY if place != "room"),
    "boat": ("lake", "beach"),
    "fish": ("underwater", "lake", "beach"),
}
WATER = ("lake", "beach", "underwater")
ROUND = ("balloon", "ball")  # these look the same from every side
_HELD_OUT_ONE_IN = 16

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Scene:
    """One subject doing one thing in one place, and the camera on it. `seed` varies the layout alone."""

    subject: str
    color: str
    action: str
    direction: str
    place: str
    time: str
    weather: str
    shot_type: str
    shot_angle: str
    shot_position: str
    camera_motion: str
    expression: str | None = None
    seed: int = 0

    @property
    def locomotes(self) -> bool:
        """Whether the subject moves through the scenery: walking seen from the front stays on the spot."""
        return self.action in LOCOMOTION and self.shot_position == "side_view"

    @property
    def camera(self) -> tuple[str, str]:
        """The camera's move and its direction, both empty strings where there is none: ("pan", "left")."""
        move, _, direction = self.camera_motion.partition("_")
        return ("", "") if move == "static" else (move, direction)

    @property
    def on_water(self) -> bool:
        """Whether the subject is in or on water with a surface: swimming in a lake, leaping from it."""
        floats = self.subject in ("fish", "boat") or (self.subject in ("swan", "duck") and self.action == "stays")
        return self.place in ("lake", "beach") and (self.action == "swims" or floats)

    @property
    def airborne(self) -> bool:
        """Whether the subject is up in the air for good: it flies, or it is an airplane that rolls."""
        return self.action == "flies" or (self.subject == "airplane" and self.action == "spins")

    def validate(self) -> None:
        """Raise ValueError with the field, its value, the rule and the nearest value that works."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seed" or (field.name == "expression" and value is None):
                continue
            if value not in VOCABULARY[field.name]:
                raise ValueError(f"{field.name}={value!r}: must be one of {', '.join(VOCABULARY[field.name])}")
        for field_name, rule, allowed in self._rules():
            value = getattr(self, field_name)
            if value not in allowed:
                raise ValueError(f"{field_name}={value!r}: {rule}; try {allowed[0]!r}")

    def _rules(self) -> list[tuple[str, str, tuple[str | None, ...]]]:
        """The rules between fields, each with the values that one of the fields may take given the others."""
        rules: list[tuple[str, str, tuple[str | None, ...]]] = [
            ("action", f"not something a {self.subject} does", SUBJECT_ACTIONS[self.subject]),
            (
                "place",
                f"a {self.subject} that {self.action} is not seen there",
                allowed_places(self.subject, self.action),
            ),
        ]
        for name, value in FORCED.get(self.place, {}).items():
            rules.append((name, f"in the place {self.place!r} it is always the same", (value,)))
        if self.subject not in PEOPLE:
            rules.append(("expression", "only people have one", (None,)))
        else:
            rules.append(("expression", "people have one", EXPRESSIONS))
        if self.shot_type in CLOSE_SHOTS:
            rules.append(("shot_position", "a close shot shows a face", ("front_view", "side_view")))
        move, direction = self.camera
        if self.locomotes:
            if move in ("pan", "tracking"):
                rules.append(("direction", "the camera follows the subject's direction", (direction,)))
            elif self.shot_type not in WIDE_SHOTS:
                follow = (f"pan_{self.direction}", f"tracking_{self.direction}")
                rules.append(("camera_motion", "a close camera has to follow what moves on", follow))
        return rules


def allowed_places(subject: str, action: str) -> tuple[str, ...]:
    """Where a subject can do this: swimming takes water, flying air; a fish lives in water."""
    places = SUBJECT_PLACES[subject]
    if subject == "fish":
        return tuple(p for p in places if (p == "underwater") == (action != "jumps"))
    if action == "swims":
        return tuple(p for p in places if p in WATER)
    if action == "flies" or subject in ("swan",):
        return tuple(p for p in places if p != "underwater")
    return places


def is_held_out(scene: Scene) -> bool:
    """Whether the combination of subject, colour, place and action is kept for evaluation (1 in 16)."""
    key = f"{scene.subject}/{scene.color}/{scene.place}/{scene.action}"
    return hashlib.sha256(key.encode()).digest()[0] % _HELD_OUT_ONE_IN == 0


Odds = tuple[tuple[str, str, float], ...]
"""Fields, values, and how much likelier than it was each of them is: (("subject", "woman", 20.0), ...)."""


def check_odds(odds: Odds) -> None:
    """Raise ValueError with the entry that names no value of a scene, or is no number above 0."""
    for name, value, much in odds:
        if value not in VOCABULARY.get(name, ()):
            rule = f"must be one of {', '.join(VOCABULARY[name])}" if name in VOCABULARY else "is no field of a scene"
            raise ValueError(f"odds={name}={value!r}: {rule}")
        if not 0 < much < 1e6:
            raise ValueError(f"odds={name}={value!r}: {much} times as likely: must lie in 0..1e6, both left out")


def sample_scene(generator: torch.Generator, split: str = "train", odds: Odds = ()) -> Scene:
    """Draw a valid scene of the split "train", "held_out" or "all", each field as evenly as rules and odds permit."""
    if split not in ("train", "held_out", "all"):
        raise ValueError(f"split={split!r}: must be one of train, held_out, all")
    if not odds:
        return _sample_evenly(generator, split)
    by_value = {(name, value): much for name, value, much in odds}
    most = math.prod(
        max([1.0, *(much for (field, _), much in by_value.items() if field == name)]) for name in VOCABULARY
    )
    while True:
        scene = _sample_evenly(generator, split)
        likely = math.prod(by_value.get((name, getattr(scene, name)), 1.0) for name in VOCABULARY)
        if torch.rand(1, generator=generator, dtype=torch.float64).item() * most < likely:
            return scene


def _sample_evenly(generator: torch.Generator, split: str) -> Scene:
    subject = _choice(generator, SUBJECTS)
    while True:
        scene = _draw(generator, subject)
        if split == "all" or is_held_out(scene) == (split == "held_out"):
            return scene


def visible_fields(scene: Scene) -> dict[str, str]:
    """The labels of the scene that can be seen in the film, in the vocabulary's order."""
    hidden = {"seed", *FORCED.get(scene.place, {})}
    close = scene.shot_type in CLOSE_SHOTS
    turned_away = scene.shot_position == "back_view" and scene.action != "spins"
    if scene.expression is None or scene.shot_type in WIDE_SHOTS or turned_away:
        hidden.add("expression")
    if scene.shot_type == "extreme_close_up":
        hidden.add("action")
        if scene.weather in ("clear", "cloudy"):  # no sky to tell them by
            hidden.add("weather")
    if not scene.locomotes:
        hidden.add("direction")
    if scene.subject in ROUND or scene.action == "spins":  # the same, or in turn, from every side
        hidden.add("shot_position")
    if close and scene.action in ("walks", "runs", "swims", "stays", "spins", "flies"):
        hidden.add("action")
    return {name: getattr(scene, name) for name in VOCABULARY if name not in hidden}


def _draw(generator: torch.Generator, subject: str) -> Scene:
    camera = _choice(generator, CAMERA_MOTIONS)
    shot = _choice(generator, SHOT_TYPES)
    actions, places = _odds()
    action = _weighted(generator, actions[subject])
    place = _weighted(generator, places[subject, action])
    direction = _choice(generator, DIRECTIONS)
    move, _, camera_direction = camera.partition("_")
    close = shot in CLOSE_SHOTS
    forced = FORCED.get(place, {})
    position = _choice(generator, tuple(p for p in SHOT_POSITIONS if not (close and p == "back_view")))
    if action in LOCOMOTION:  # from the side, it gets somewhere
        follows = move in ("pan", "tracking")
        if not follows and shot not in WIDE_SHOTS:
            position = "front_view" if close else _choice(generator, ("front_view", "back_view"))
        else:
            position = "side_view" if torch.rand(1, generator=generator).item() < 0.6 else position
        if follows and position == "side_view":
            direction = camera_direction
    return Scene(
        subject=subject,
        color=_choice(generator, COLORS),
        action=action,
        direction=direction,
        place=place,
        time=forced.get("time") or _choice(generator, TIMES),
        weather=forced.get("weather") or _choice(generator, WEATHERS),
        shot_type=shot,
        shot_angle=_choice(generator, SHOT_ANGLES),
        shot_position=position,
        camera_motion=camera,
        expression=_choice(generator, EXPRESSIONS) if subject in PEOPLE else None,
        seed=int(torch.randint(2**31 - 1, (1,), generator=generator).item()),
    )


def _choice(generator: torch.Generator, values: Sequence[T]) -> T:
    return values[int(torch.randint(len(values), (1,), generator=generator).item())]


def _weighted(generator: torch.Generator, odds: Mapping[str, float]) -> str:
    point = torch.rand(1, generator=generator, dtype=torch.float64).item()
    for value, share in odds.items():
        point -= share
        if point < 0:
            return value
    return max(odds, key=lambda value: odds[value])  # rounding left the point just beyond the last share


@functools.cache
def _odds() -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], dict[str, float]]]:
    """How often a subject does what, and where, such that each action and place is about equally frequent."""
    actions = _balanced({subject: (1.0, SUBJECT_ACTIONS[subject]) for subject in SUBJECTS})
    pairs = [(subject, action) for subject in SUBJECTS for action in SUBJECT_ACTIONS[subject]]
    return actions, _balanced({(s, a): (actions[s][a], allowed_places(s, a)) for s, a in pairs})


def _balanced(options: Mapping[K, tuple[float, Sequence[str]]]) -> dict[K, dict[str, float]]:
    """Odds of each key's values, given how often the key comes up, that even out the values over all keys.

    A value's weight is the same for every key, and kept within a range: no key is left to a single value.
    """
    weights = {value: 1.0 for _, values in options.values() for value in values}
    odds: dict[K, dict[str, float]] = {}
    for _ in range(40):
        totals = dict.fromkeys(weights, 0.0)
        for key, (often, values) in options.items():
            norm = sum(weights[value] for value in values)
            odds[key] = {value: weights[value] / norm for value in values}
            for value in values:
                totals[value] += often * odds[key][value]
        mean = sum(totals.values()) / len(totals)
        weights = {v: min(6.0, max(0.16, w * (mean / totals[v]) ** 0.5)) for v, w in weights.items()}
    return odds
