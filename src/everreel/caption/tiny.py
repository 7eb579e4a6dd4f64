"""The tiny captioner: what a film of the film world shows, read by the network that is shipped with the package.

Stands where the paper has SkyCaptioner-V1 (section 3.2), for the cartoon world that the package renders and the
embedded model films; of any other film it tells what this one comes nearest to, or nothing. `fields_of` reads the film
world's fields back out of a caption, so that any captioner's accuracy can be counted. The one invariant: of what can be
seen of a scene, `fields_of(caption_of(fields))` gives the fields back; what the network finds less likely than `least`
is not told.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everreel.caption.critic import LOOK_AREA, Critic, load_critic, look_length, read, shipped_critic
from everreel.caption.schema import StructuralCaption, Subject, SubjectTypes
from everreel.media import FrameSource, Pixels
from everreel.world.scene import (
    ACTIONS,
    CLOSE_SHOTS,
    COLORS,
    LOCOMOTION,
    PEOPLE,
    SUBJECTS,
    VOCABULARY,
    WEATHERS,
    Scene,
    visible_fields,
)
from everreel.world.words import (
    ACTION_WORDS,
    CAMERA_WORDS,
    EXPRESSION_WORDS,
    KINDS,
    PLACE_NOUNS,
    SUBJECT_ACTION_WORDS,
    SUBJECT_WORDS,
    TIME_WORDS,
    WEATHER_ADJECTIVES,
    WEATHER_WORDS,
)

LEAST = 0.2  # of a value's probability, to be told: one of eleven colours is often surely read at a third
SURE_WAY = 0.99  # of left or right: where nothing goes anywhere, it is guessed, and a guess is seldom this sure
GOES = 0.4  # of a subject that goes somewhere: less than half, for a sure way speaks for one too
FASTEST, USUAL_RATE = 36.0, 24.0  # frames a second; of faster films every second or third frame is looked at
MOST_PIXELS = 4 * LOOK_AREA
LIGHTS = {
    "day": "bright daylight",
    "dawn": "soft pink light of dawn",
    "dusk": "warm orange light of dusk",
    "night": "dim light of the night",
}
_SHOT_FIELDS = ("shot_type", "shot_angle", "shot_position")
Probabilities = Mapping[str, Mapping[str, float]]


class TinyCaptioner:
    """See `everreel.caption.schema.Captioner`. Without a network of one's own it is the one that is shipped."""

    def __init__(self, critic: Critic | str | Path | None = None, *, least: float = LEAST) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"least = {least}: must lie in 0..1; {LEAST} works")
        self.critic = critic if isinstance(critic, Critic) else load_critic(critic or shipped_critic())
        self.least = least

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        """Of frames (T, H, W, 3), from one on, of any size; of a long film its beginning, its middle and its end.

        Raises:
            ValueError: there is no frame, or one cannot be read.
        """
        numbers, rate = looked_at(len(frames), fps)
        # One after the other: frames of a file are small before the next is decoded.
        seen = np.stack([_shrunk(frames[number]) for number in numbers])
        return caption_of(told_of(read(self.critic, seen, rate), self.least))


def looked_at(num_frames: int, fps: float) -> tuple[list[int], int]:
    """The frames of a film that the network looks at, and their rate, such that it reads of them what it would of all.

    Raises:
        ValueError: there are none.
    """
    if num_frames < 1:
        raise ValueError("frames = 0 frames: a caption is of at least one; 1 works")
    every = max(1, round(fps / USUAL_RATE)) if fps > FASTEST else 1
    numbers, rate = range(0, num_frames, every), max(1, round(fps / every))
    length = look_length(rate)
    last = len(numbers) - length
    if last <= 2 * length:
        return list(numbers), rate
    return [numbers[first + n] for first in (0, last // 2, last) for n in range(length)], rate


def told_of(found: Probabilities, least: float = LEAST) -> dict[str, str]:
    """The fields of a film that can be told of it: what is most likely, where that is likely and can be seen at all."""
    best: dict[str, Any] = {name: max(values, key=values.__getitem__) for name, values in found.items()}
    sure = {name for name, value in best.items() if found[name][value] >= least} - {"direction"}
    way = best["direction"]
    if best["subject"] not in PEOPLE:
        del best["expression"]
    told = {name: value for name, value in visible_fields(Scene(**best)).items() if name in sure}
    # A misread action must not hide which way a subject goes, and one that stays on the spot goes no way.
    if found["direction"][way] >= max(least, SURE_WAY) and _goes(found, way) >= GOES:
        told["direction"] = way
        if told.get("action") not in LOCOMOTION:
            told.pop("action", None)
    return told


def caption_of(fields: Mapping[str, str]) -> StructuralCaption:
    """The structured caption of these fields of a scene; of any that is left out it says nothing.

    Raises:
        ValueError: one of them is no field of the film world, or none of its values.
    """
    for name, value in fields.items():
        if value not in VOCABULARY.get(name, ()):
            rule = f"must be one of {', '.join(VOCABULARY[name])}" if name in VOCABULARY else "is no field of a scene"
            raise ValueError(f"{name} = {value!r}: {rule}")
    told = {name: fields.get(name, "") for name in VOCABULARY}
    place, weather = told["place"], told["weather"]
    surroundings = [_with_article(PLACE_NOUNS[place][0])] if place else []
    surroundings += [WEATHER_WORDS[weather][0]] if weather else []
    moves = told["camera_motion"] not in ("", "static")
    return StructuralCaption.model_validate(
        {
            "subjects": [_subject(told)] if told["subject"] else [],
            **{name: told[name] or "other" for name in _SHOT_FIELDS},
            "camera_motion": CAMERA_WORDS[told["camera_motion"]][0] if moves else "",
            "environment": ", ".join(surroundings),
            "lighting": LIGHTS.get(told["time"], ""),
        }
    )


def fields_of(caption: StructuralCaption) -> dict[str, str]:
    """What a caption tells of the film world's fields: {"subject": "fox", "camera_motion": "pan_left", …}.

    Any of the film world's ways of saying a thing is understood. A field that is not told, or in words of another
    world, is left out; no words about the camera say that it is still.
    """
    found: dict[str, str | None] = {}
    for main in sorted(caption.subjects, key=lambda each: not each.is_main_subject)[:1]:
        names = {name: SUBJECT_WORDS.get(name, (name,)) for name in SUBJECTS}
        subject = found["subject"] = _said(names, main.appearance) or _said(names, main.TYPES.sub_type)
        found["color"] = _said(
            {color: (color, "grey") if color == "gray" else (color,) for color in COLORS}, main.appearance
        )
        found["action"] = _said(_verbs(subject or ""), main.action)
        found["direction"] = _said({way: (f"to the {way}", way) for way in ("left", "right")}, main.action)
        found["expression"] = _said(EXPRESSION_WORDS, main.expression)
    weathers = {name: (*WEATHER_WORDS[name], WEATHER_ADJECTIVES.get(name, f"{name} sky")) for name in WEATHERS}
    found["place"] = _said(PLACE_NOUNS, caption.environment)
    found["weather"] = _said(weathers, caption.environment)
    times = {name: (light, name, *TIME_WORDS[name]) for name, light in LIGHTS.items()}
    found["time"] = _said(times, caption.lighting) or _said(times, caption.environment)
    for name in _SHOT_FIELDS:
        value = getattr(caption, name)
        found[name] = value if value in VOCABULARY[name] else None
    found["camera_motion"] = _said(CAMERA_WORDS, caption.camera_motion) if caption.camera_motion else "static"
    return {name: value for name in VOCABULARY if (value := found.get(name)) is not None}


def _goes(found: Probabilities, way: str) -> float:
    """How likely it is that the subject goes that way through the scenery.

    From near its action cannot be seen, and what is read of it says nothing; but the camera goes with it there.
    """

    def likely(name: str, *values: str) -> float:
        return sum(found[name][value] for value in values)

    near = likely("shot_type", *CLOSE_SHOTS)
    along = likely("camera_motion", f"pan_{way}", f"tracking_{way}")
    return likely("shot_position", "side_view") * ((1 - near) * likely("action", *LOCOMOTION) + near * along)


def _shrunk(frame_HWC: Pixels) -> Pixels:
    """A frame of at most `MOST_PIXELS`, of the same shape."""
    height, width = frame_HWC.shape[:2]
    scale = math.sqrt(MOST_PIXELS / (height * width))
    if scale >= 1:
        return frame_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame_HWC)).resize(size, Image.Resampling.BOX))


def _subject(told: Mapping[str, str]) -> Subject:
    """Where in the frame it is, is not told: nothing here has looked for that."""
    who, color = told["subject"], told["color"]
    kind, sub_kind = KINDS[who]
    noun = SUBJECT_WORDS.get(who, (who,))[0]
    if who in PEOPLE:
        looks = f"A {noun}{f' in {color} clothes' if color else ''}"
    else:
        looks = _with_article(f"{color} {noun}".strip())
    action = _verbs(who)[told["action"]][0] if told["action"] else ""
    if told["direction"]:
        action = f"{action or 'moves'} to the {told['direction']}"
    return Subject(
        TYPES=SubjectTypes(type=kind, sub_type=sub_kind),
        appearance=looks[0].upper() + looks[1:],
        action=action,
        expression=told["expression"],
        is_main_subject=True,
    )


@functools.cache
def _verbs(subject: str) -> dict[str, tuple[str, ...]]:
    """The ways to say each action, of this subject first: a car that runs "races"."""
    found = {}
    for action in ACTIONS:
        pairs = (*SUBJECT_ACTION_WORDS.get((subject, action), ()), *ACTION_WORDS[action])
        found[action] = tuple(dict.fromkeys(form for pair in pairs for form in pair))
    return found


def _said(words: Mapping[str, Iterable[str]], text: str) -> str | None:
    """The value that a text names, in the longest of its forms: a city park is a park, not a city."""
    text, best, length = f" {' '.join(re.findall(r'[a-z]+', text.lower()))} ", None, 0
    for value, forms in words.items():
        for form in forms:
            plain = " ".join(re.findall(r"[a-z]+", form.lower()))
            if len(plain) > length and f" {plain} " in text:
                best, length = value, len(plain)
    return best


def _with_article(text: str) -> str:
    if text.startswith(("the ", "under", "deep ")) or text.endswith("mountains"):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
