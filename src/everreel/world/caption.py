"""Scenes in words: the structured caption of the released captioner's schema, and varied English sentences.

A sentence is put together from phrases that know which fields they tell. The one invariant: a sentence
names its subject, tells nothing that is not true of the scene, and `sentence_with_fields` reports exactly
what it tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from everreel.world.scene import FORCED, PEOPLE, Scene, visible_fields
from everreel.world.words import (
    ACTION_WORDS,
    ANGLE_WORDS,
    BACKWARD,
    CAMERA_WORDS,
    DIRECTION_WORDS,
    EXPRESSION_WORDS,
    FORWARD,
    KINDS,
    PLACE_NOUNS,
    POSITION_WORDS,
    SHOT_WORDS,
    SUBJECT_ACTION_WORDS,
    SUBJECT_WORDS,
    TIME_WORDS,
    WEATHER_ADJECTIVES,
    WEATHER_WORDS,
)

USUAL = {
    "camera_motion": "static",
    "shot_angle": "eye_level",
    "expression": "neutral",
    "weather": "clear",
    "time": "day",
    "shot_position": "side_view",
}
STYLES = ("tags", "prose", "shot_first", "short", "keywords")


@dataclass(frozen=True)
class Phrase:
    """Words, and the fields they tell."""

    text: str
    fields: frozenset[str] = frozenset()

    def __add__(self, other: Phrase) -> Phrase:
        gap = "" if not self.text or not other.text or other.text.startswith((",", ".")) else " "
        return Phrase(self.text + gap + other.text, self.fields | other.fields)


NOTHING = Phrase("")


def structured_caption(scene: Scene) -> dict[str, Any]:
    """The caption of the released schema: `camera_motion` is free text, empty for a static camera."""
    kind, sub_kind = KINDS[scene.subject]
    shown = visible_fields(scene)
    subject, color = scene.subject, scene.color
    verb = _verbs(scene)[0][0]
    move, _direction = scene.camera
    where = ""
    if scene.locomotes:
        where = f"moves to the {scene.direction}, "
    elif move in ("", "zoom"):  # any other camera passes what stays where it is
        where = "in the middle of the frame, "
    view = {
        "front_view": "facing the camera",
        "back_view": "with its back to the camera",
        "side_view": "in profile",
    }
    forced = FORCED.get(scene.place, {})
    weather = "" if "weather" in forced else f", {WEATHER_WORDS[scene.weather][0]}"
    time = "" if "time" in forced else f" {TIME_WORDS[scene.time][0]}"
    lights = {
        "day": "bright daylight",
        "dawn": "soft pink light of dawn",
        "dusk": "warm orange light of dusk",
    }
    looks = f"{subject} in {color} clothes" if subject in PEOPLE else f"{color} {_noun(subject)}"
    return {
        "subjects": [
            {
                "TYPES": {"type": kind, "sub_type": sub_kind},
                "appearance": _article(looks).capitalize(),
                "action": f"{verb} to the {scene.direction}" if scene.locomotes else verb,
                "expression": shown.get("expression", ""),
                "position": f"{where}{view[scene.shot_position]}",
                "is_main_subject": True,
            }
        ],
        "shot_type": scene.shot_type,
        "shot_angle": scene.shot_angle,
        "shot_position": scene.shot_position,
        "camera_motion": CAMERA_WORDS[scene.camera_motion][0] if move else "",
        "environment": f"{_article(PLACE_NOUNS[scene.place][0])}{time}{weather}",
        "lighting": lights.get(scene.time, "dim light of the night"),
    }


def sentence(scene: Scene, generator: torch.Generator, drop: float = 0.1, style: str | None = None) -> str:
    """A sentence about the scene; each field is left out with probability `drop`, the subject never."""
    return sentence_with_fields(scene, generator, drop, style)[0]


def sentence_with_fields(
    scene: Scene, generator: torch.Generator, drop: float = 0.1, style: str | None = None
) -> tuple[str, set[str]]:
    """A sentence, and the names of the fields that it tells."""
    if style is not None and style not in STYLES:
        raise ValueError(f"style={style!r}: must be one of {', '.join(STYLES)}")
    if not 0 <= drop <= 1:
        raise ValueError(f"drop={drop}: must be between 0 and 1; try 0.1")
    writer = _Writer(scene, generator, drop)
    form = style or writer.choice(("tags", "tags", "prose", "shot_first", "short", "keywords"))
    forms: dict[str, Callable[[], Phrase]] = {
        "tags": writer.tags,
        "prose": writer.prose,
        "shot_first": writer.shot_first,
        "short": writer.short,
        "keywords": writer.keywords,
    }
    phrase = forms[form]()
    return phrase.text, set(phrase.fields)


class _Writer:
    """Writes one sentence: decides what to leave out, then picks words."""

    def __init__(self, scene: Scene, generator: torch.Generator, drop: float) -> None:
        self.scene, self.generator = scene, generator
        told = set(visible_fields(scene)) | {"action"}
        self.told = {name for name in sorted(told) if name == "subject" or not self.chance(drop)}
        # What goes without saying is often left unsaid.
        for name, usual in USUAL.items():
            if getattr(scene, name) == usual and drop > 0 and self.chance(0.35):
                self.told.discard(name)

    def chance(self, probability: float) -> bool:
        return torch.rand(1, generator=self.generator).item() < probability

    def choice(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - whatever is in the sequence
        return values[int(torch.randint(len(values), (1,), generator=self.generator).item())]

    def pick(self, field: str, words: Sequence[str]) -> Phrase:
        """Words for a field, the first form more often than others; none where the field is left out."""
        if field not in self.told:
            return NOTHING
        return Phrase(words[0] if self.chance(0.4) else self.choice(words), frozenset({field}))

    # Parts

    def subject(self, bare: bool = False) -> Phrase:
        """The subject with its colour and expression: "a red fox", "an angry man in blue"."""
        scene = self.scene
        noun = SUBJECT_WORDS.get(scene.subject, (scene.subject,))
        noun_text = noun[0] if self.chance(0.6) else self.choice(noun)
        fields = {"subject"}
        color = self.choice(("gray", "grey")) if scene.color == "gray" else scene.color
        mood = ""
        if "expression" in self.told and scene.expression:
            mood = self.choice(EXPRESSION_WORDS[scene.expression])
            fields.add("expression")
        if "color" in self.told:
            fields.add("color")
        if scene.subject in PEOPLE:
            worn = self.choice((f"in {color}", f"dressed in {color}", f"in {color} clothes", f"wearing {color}"))
            text = f"{mood} {noun_text}{' ' + worn if 'color' in self.told else ''}".strip()
        else:
            text = f"{color} {noun_text}" if "color" in self.told else noun_text
        return Phrase(text if bare else _article(text), frozenset(fields))

    def action(self, ing: bool = False) -> Phrase:
        """What it does, and which way: "runs right", "walking towards the camera"."""
        if "action" not in self.told:
            return NOTHING
        verbs = _verbs(self.scene)
        pair = verbs[0] if self.chance(0.5) else self.choice(verbs)
        phrase = Phrase(pair[int(ing)], frozenset({"action"}))
        if "direction" in self.told:
            way = self.choice(DIRECTION_WORDS).format(self.scene.direction, _other(self.scene.direction))
            return phrase + Phrase(way, frozenset({"direction"}))
        moves = self.scene.action in ("walks", "runs", "swims", "flies")
        if moves and not self.scene.locomotes and "shot_position" in self.told and self.chance(0.4):
            words = FORWARD if self.scene.shot_position == "front_view" else BACKWARD
            return phrase + Phrase(self.choice(words), frozenset({"shot_position"}))
        return phrase

    def place(self) -> Phrase:
        """Where and when: "through a snowy forest at dusk"."""
        scene, phrase = self.scene, NOTHING
        weather_told = False
        if "place" in self.told:
            nouns = PLACE_NOUNS[scene.place]
            noun = nouns[0] if self.chance(0.6) else self.choice(nouns)
            adjective = WEATHER_ADJECTIVES.get(scene.weather)
            fields = {"place"}
            if adjective and "weather" in self.told and scene.place != "snowfield" and self.chance(0.5):
                the = "the " if noun.startswith("the ") else ""
                noun, weather_told = f"{the}{adjective} {noun.removeprefix('the ')}", True
                fields.add("weather")
            phrase = Phrase(f"{self.preposition()} {_article(noun)}".strip(), frozenset(fields))
        parts = [self.pick("time", TIME_WORDS[scene.time])]
        if not weather_told:
            parts.append(self.pick("weather", WEATHER_WORDS[scene.weather]))
        if self.chance(0.25):
            parts.reverse()
        for part in parts:
            phrase = phrase + part
        return phrase

    def preposition(self) -> str:
        """How the subject is related to its place; moving through it if it moves."""
        place = self.scene.place
        static = {"beach": ("on", "at"), "moon": ("on",), "lake": ("at", "by"),
                  "meadow": ("in", "on"), "snowfield": ("on", "in")}.get(place, ("in",))  # fmt: skip
        if place == "underwater":
            return ""
        if self.scene.on_water:
            return "on" if place == "lake" else "at"
        if self.scene.airborne and self.chance(0.6):
            return "over"
        if self.scene.action in ("walks", "runs") and self.scene.locomotes and self.chance(0.6):
            across = dict.fromkeys(("desert", "moon", "meadow", "snowfield"), "across")
            return {**across, "beach": "along", "lake": "past"}.get(place, "through")
        return str(self.choice(static))

    def views(self, said: frozenset[str]) -> list[Phrase]:
        """The shot's type, angle and position and the camera's motion, as far as they are not yet said."""
        scene = self.scene
        phrases = [
            self.pick("shot_type", SHOT_WORDS[scene.shot_type]),
            self.pick("shot_angle", ANGLE_WORDS[scene.shot_angle]),
            self.pick("shot_position", POSITION_WORDS[scene.shot_position]),
            self.pick("camera_motion", CAMERA_WORDS[scene.camera_motion]),
        ]
        return [phrase for phrase in phrases if phrase.text and not phrase.fields & said]

    # Whole sentences

    def tags(self) -> Phrase:
        """A red fox runs right through a snowy forest at dusk, wide shot, camera pans right"""
        phrase = self.subject() + self.action() + self.place()
        return self._finish(_join([phrase, *self.views(phrase.fields)]), 0.15)

    def prose(self) -> Phrase:
        """In a forest at dusk, a red fox runs to the right. Wide shot. The camera pans right."""
        subject, action, place = self.subject(), self.action(), self.place()
        if place.text and self.chance(0.4):  # noqa: SIM108 -- one line would be too long
            phrase = _join([place, subject + action])
        else:
            phrase = subject + action + place
        views = self.views(phrase.fields)
        camera = [v for v in views if "camera_motion" in v.fields]
        rest = [v for v in views if "camera_motion" not in v.fields]
        sentences = [phrase]
        if rest:
            sentences.append(_join(rest, " " if self.chance(0.3) else ", "))
        sentences += camera
        if camera and self.chance(0.15):
            sentences = [camera[0], *sentences[:-1]]
        text = " ".join(_capital(s.text) + "." for s in sentences)
        return Phrase(text, frozenset().union(*(s.fields for s in sentences)))

    def shot_first(self) -> Phrase:
        """Wide shot of a red fox running right through a forest at dusk, the camera pans right"""
        phrase = self.subject() + self.action(ing=True) + self.place()
        views = self.views(phrase.fields)
        head = NOTHING
        if views and "shot_type" in views[0].fields:
            words = [w for w in SHOT_WORDS[self.scene.shot_type] if "seen" not in w and "whole" not in w]
            head = Phrase(f"{self.choice(words)} of", frozenset({"shot_type"}))
            views = views[1:]
        return self._finish(_join([head + phrase, *views]), 0.4)

    def short(self) -> Phrase:
        """A red fox running in a forest, perhaps with one thing more."""
        phrase = self.subject()
        if self.chance(0.75):
            phrase = phrase + self.action(ing=self.chance(0.5))
        if self.chance(0.75):
            phrase = phrase + self.place()
        views = self.views(phrase.fields)
        if views and self.chance(0.5):
            phrase = _join([phrase, self.choice(views)])
        return self._finish(phrase, 0.2)

    def keywords(self) -> Phrase:
        """Red fox, forest, dusk, running right, wide shot"""
        scene = self.scene
        place = PLACE_NOUNS[scene.place]
        parts = [
            self.action(ing=True),
            self.pick("place", place),
            self.pick("time", (scene.time, *TIME_WORDS[scene.time])),
            self.pick("weather", (WEATHER_ADJECTIVES.get(scene.weather, "clear sky"), *WEATHER_WORDS[scene.weather])),
        ]
        parts = [part for part in parts if part.text]
        said = frozenset().union(*(part.fields for part in parts))
        parts += self.views(said)
        if self.chance(0.4):
            order = torch.randperm(len(parts), generator=self.generator).tolist()
            parts = [parts[i] for i in order]
        return self._finish(_join([self.subject(bare=self.chance(0.7)), *parts]), 0.05)

    def _finish(self, phrase: Phrase, formal: float) -> Phrase:
        """Sometimes with a capital letter and a full stop."""
        if not self.chance(formal):
            return phrase
        return Phrase(_capital(phrase.text) + ("." if self.chance(0.7) else ""), phrase.fields)


def _verbs(scene: Scene) -> Sequence[tuple[str, str]]:
    return SUBJECT_ACTION_WORDS.get((scene.subject, scene.action), ACTION_WORDS[scene.action])


def _noun(subject: str) -> str:
    return SUBJECT_WORDS.get(subject, (subject,))[0]


def _other(direction: str) -> str:
    return "right" if direction == "left" else "left"


def _article(text: str) -> str:
    if text.startswith(("the ", "under", "deep ")) or text.endswith("mountains"):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(phrases: Iterable[Phrase], comma: str = ", ") -> Phrase:
    kept = [phrase for phrase in phrases if phrase.text]
    return Phrase(comma.join(p.text.strip() for p in kept), frozenset().union(*(p.fields for p in kept)))
