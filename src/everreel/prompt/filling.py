"""What a scene is where a prompt does not say it: defaults that make sense together.

The one invariant: what was said stays, and where it makes sense by the scene's rules, so does the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everreel.world.scene import (
    FORCED,
    LOCOMOTION,
    PEOPLE,
    PLACES,
    ROUND,
    SUBJECT_ACTIONS,
    SUBJECTS,
    WIDE_SHOTS,
    Scene,
    allowed_places,
)

# Its colour, what it does, and where it is at home, the likeliest first.
HABITS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "fox": ("red", ("runs", "walks"), ("forest", "meadow")),
    "cat": ("orange", ("walks", "jumps"), ("village", "room", "park")),
    "dog": ("brown", ("runs", "walks"), ("park", "meadow")),
    "rabbit": ("white", ("jumps", "runs"), ("meadow", "forest")),
    "bear": ("brown", ("walks", "runs"), ("forest", "mountains")),
    "elephant": ("gray", ("walks", "runs"), ("meadow", "desert")),
    "horse": ("brown", ("runs", "walks"), ("meadow", "mountains")),
    "turtle": ("green", ("walks", "swims"), ("beach", "underwater", "lake")),
    "swan": ("white", ("swims", "flies"), ("lake", "park")),
    "duck": ("yellow", ("swims", "walks", "flies"), ("lake", "park", "meadow")),
    "owl": ("brown", ("flies", "stays", "walks"), ("forest", "mountains")),
    "penguin": ("black", ("walks", "swims"), ("snowfield", "beach", "underwater")),
    "fish": ("orange", ("swims", "jumps"), ("underwater", "lake", "beach")),
    "butterfly": ("blue", ("flies", "stays"), ("meadow", "park")),
    "woman": ("red", ("walks", "runs"), ("park", "city", "beach")),
    "man": ("blue", ("walks", "runs"), ("city", "park", "beach")),
    "robot": ("gray", ("walks", "runs", "flies"), ("city", "moon", "room")),
    "car": ("red", ("runs", "walks"), ("city", "village")),
    "bus": ("yellow", ("walks", "runs"), ("city", "village")),
    "boat": ("white", ("swims", "stays"), ("lake", "beach")),
    "airplane": ("white", ("flies", "spins"), ("mountains", "city")),
    "balloon": ("red", ("flies", "stays"), ("meadow", "mountains")),
    "ball": ("red", ("bounces", "spins"), ("park", "room", "beach")),
}
# Where only the place or the action is said.
AT_HOME: dict[str, str] = {
    "forest": "fox", "meadow": "rabbit", "beach": "woman", "desert": "elephant", "mountains": "bear", "city": "man",
    "village": "cat", "lake": "swan", "park": "dog", "snowfield": "penguin", "moon": "robot", "room": "cat",
    "underwater": "fish",
}  # fmt: skip


def fill(said: Mapping[str, str]) -> Scene:
    """A scene in which all is as said; of what a scene leaves no choice in only what was said may be otherwise."""
    found = dict(said)
    subject = found.setdefault("subject", _subject(found))
    color, actions, places = HABITS[subject]
    found.setdefault("color", color)
    action = found.setdefault("action", _action(found, actions))
    place = found.setdefault("place", _place(found, places))
    found.setdefault("time", FORCED.get(place, {}).get("time", "day"))
    found.setdefault("weather", FORCED.get(place, {}).get("weather", "snow" if place == "snowfield" else "clear"))
    found.setdefault("shot_angle", "eye_level")
    if subject in PEOPLE:
        found.setdefault("expression", "neutral")
    _view(found, action in LOCOMOTION, "expression" in said and "direction" not in said)
    whole: dict[str, Any] = dict(found)
    return Scene(**whole)


def complaint(scene: Scene) -> str:
    """Why a scene makes no sense in the film world; empty if it does."""
    try:
        scene.validate()
    except ValueError as error:
        return str(error).split(": ", 1)[-1].split("; try")[0]
    return ""


def _subject(found: Mapping[str, str]) -> str:
    """Whoever is at home there and can do that."""
    wanted = AT_HOME.get(found.get("place", ""), "fox")
    people: tuple[str, ...] = PEOPLE if "expression" in found else SUBJECTS
    for subject in (wanted, *people):
        action, place = found.get("action"), found.get("place")
        actions = SUBJECT_ACTIONS[subject] if action is None else (action,) * (action in SUBJECT_ACTIONS[subject])
        fits = any(place is None or place in allowed_places(subject, a) for a in actions)
        if fits and subject in people:
            return subject
    return people[0] if "expression" in found else wanted  # whatever it does, a face is somebody's


def _action(found: Mapping[str, str], likely: tuple[str, ...]) -> str:
    """What it can do there; going somewhere where a direction is said or the camera goes along."""
    subject, place = found["subject"], found.get("place")
    able = [
        action
        for action in (*likely, *SUBJECT_ACTIONS[subject])
        if (place in allowed_places(subject, action) if place else _open(found, allowed_places(subject, action)))
    ]
    if "direction" in found:
        able.sort(key=lambda action: action not in LOCOMOTION)
    elif found.get("shot_position") == "side_view" and _stuck(found):
        able.sort(key=lambda action: action in LOCOMOTION)
    return able[0] if able else likely[0]


def _place(found: Mapping[str, str], likely: tuple[str, ...]) -> str:
    """Where it can do that, and where there is the weather and the time that are said."""
    allowed = allowed_places(found["subject"], found["action"])
    if found.get("weather") == "snow":
        likely = ("snowfield", *likely)
    able = _open(found, tuple(place for place in (*likely, *PLACES) if place in allowed))
    return able[0] if able else likely[0]


def _open(found: Mapping[str, str], places: tuple[str, ...]) -> tuple[str, ...]:
    """The places where there is the weather and the time that are said."""
    return tuple(p for p in places if all(found.get(name, v) == v for name, v in FORCED.get(p, {}).items()))


def _stuck(found: Mapping[str, str]) -> bool:
    """Whether the camera is said to be near and not to go along."""
    camera = found.get("camera_motion")
    near = found.get("shot_type", "full_shot") not in WIDE_SHOTS
    return near and camera is not None and not camera.startswith(("pan", "tracking"))


def _view(found: dict[str, str], moves: bool, shows_face: bool) -> None:
    """Shot, side, camera and direction, of which each asks something of the others."""
    camera = found.get("camera_motion", "")
    follows = camera.startswith(("pan", "tracking"))
    if found["subject"] in ROUND and "direction" not in found:
        found.setdefault("shot_position", "front_view")  # any would do, and this one asks for no direction
    way = found.setdefault("direction", camera.rpartition("_")[2] if follows else "right")
    if "shot_type" not in found:
        face = shows_face and found.get("shot_position") != "back_view"
        # From the side, a near camera would have to go along with what moves.
        passes = moves and found.get("shot_position") == "side_view" and camera and not follows
        found["shot_type"] = "medium_shot" if face and not passes else "full_shot"
    if "shot_position" not in found:
        against = follows and not camera.endswith(way)
        turned = moves and (_stuck(found) or against)
        found["shot_position"] = "front_view" if turned or shows_face else "side_view"
    if not camera:
        locomotes = moves and found["shot_position"] == "side_view"
        found["camera_motion"] = _camera(found["action"], way, locomotes)


def _camera(action: str, way: str, locomotes: bool) -> str:
    """It follows what goes somewhere, draws nearer to what does nothing, and leaves the rest alone."""
    if locomotes:
        return f"tracking_{way}"
    return "zoom_in" if action == "stays" else "static"
