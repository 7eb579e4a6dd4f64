"""A scene said in the film world's own phrases, in the pattern's order; and in plain words behind somebody's own.

The one invariant: what is said here is read back as what was to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from everreel.caption.clauses import is_noun_phrase
from everreel.prompt import chinese
from everreel.prompt.reading import Reading
from everreel.world import words
from everreel.world.scene import PEOPLE, Scene

Pick = Callable[[Sequence[str]], str]

_WHERE = {"beach": "on", "moon": "on", "lake": "by"}
_PHRASES = {
    "time": words.TIME_WORDS,
    "weather": words.WEATHER_WORDS,
    "shot_type": words.SHOT_WORDS,
    "shot_angle": words.ANGLE_WORDS,
    "shot_position": words.POSITION_WORDS,
    "camera_motion": words.CAMERA_WORDS,
}
SHOT = "shot_type"
_BEHIND = _PHRASES.keys() - {SHOT}
# What has a subject's colour.
LOOKS = {
    **dict.fromkeys(("fox", "cat", "dog", "rabbit", "bear"), "with {} fur"),
    **dict.fromkeys(("swan", "duck", "owl", "penguin"), "with {} feathers"),
    **dict.fromkeys(("woman", "man"), "in {} clothes"),
    **dict.fromkeys(("car", "bus"), "with {} paint"),
    **dict.fromkeys(("butterfly", "airplane"), "with {} wings"),
    **{"horse": "with a {} coat", "elephant": "with {} skin", "turtle": "with a {} shell", "fish": "with {} scales"},
    **{"robot": "made of {} metal", "boat": "with a {} hull", "balloon": "of {} cloth", "ball": "of {} rubber"},
}
# Light for models that know more than four times of day.
LIGHT = {
    "day": "in bright daylight",
    "dawn": "in soft light at dawn",
    "dusk": "in warm light at dusk",
    "night": "in moonlight",
}
LIGHT_CHINESE = {
    "day": "白天明亮的自然光",
    "dawn": "黎明柔和的光线",
    "dusk": "黄昏温暖的光线",
    "night": "夜晚柔和的月光",
}


def picker(generator: torch.Generator | None) -> Pick:
    """Takes the plain one of several ways to say the same, or any of them by a generator."""
    if generator is None:
        return lambda ways: ways[0]
    return lambda ways: ways[int(torch.randint(len(ways), (1,), generator=generator).item())]


def sentence(scene: Scene, told: set[str], reading: Reading, pick: Pick) -> str:
    """The scene as far as it is to be told, and all that was kept of a prompt."""
    details = list(reading.details)
    noun = "" if "subject" in told else details.pop(0) if details else ""
    main = " ".join(
        part
        for part in (
            _subject(scene, told, noun, pick),
            *reading.does,
            _action(scene, told, pick),
            _place(scene, told, pick),
            pick(words.TIME_WORDS[scene.time]) if "time" in told else "",
            pick(words.WEATHER_WORDS[scene.weather]) if "weather" in told else "",
        )
        if part
    )
    if "shot_type" in told:
        shots = [w for w in words.SHOT_WORDS[scene.shot_type] if "seen" not in w]
        main = f"{pick(shots)} of {main}" if main else pick(shots)
    views = [
        pick(_PHRASES[name][getattr(scene, name)])
        for name in ("shot_angle", "shot_position", "camera_motion")
        if name in told
    ]
    return ", ".join(part for part in (main, *details, *views, *reading.repeated) if part)


def phrases(scene: Scene, told: Sequence[str], pick: Pick) -> list[str]:
    """Single fields in the world's phrases, to be put behind a prompt that is in its words."""
    return [
        _place(scene, {name}, pick) if name == "place" else pick(_PHRASES[name][getattr(scene, name)]) for name in told
    ]


def additions(scene: Scene, missing: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is missing, in plain words, to be put in front of a prompt for a model that reads any, and behind it."""
    plain, told = picker(None), {*missing} - {"direction"}
    acts, where = _action(scene, told, plain), _place(scene, told, plain)
    detail = LOOKS[scene.subject].format(scene.color) if "color" in told else ""
    said = [acts, detail, where] if detail else [" ".join(part for part in (acts, where) if part)]
    said += [LIGHT[scene.time] if n == "time" else _PHRASES[n][getattr(scene, n)][0] for n in missing if n in _BEHIND]
    return [_PHRASES[SHOT][scene.shot_type][0]] if SHOT in told else [], [part for part in said if part]


def with_shot(shot: Sequence[str], text: str) -> str:
    """A prompt with its shot in front: "Full shot of a swan", and of a sentence as one of its own."""
    if not shot:
        return text
    front, words = shot[0].capitalize(), text.split(" ")
    if is_noun_phrase(text.split(",")[0]):
        return " ".join([front, "of", words[0].lower(), *words[1:]])
    return f"{front}{'.' if text[:1].isupper() or '. ' in text else ','} {text}"


def additions_chinese(scene: Scene, missing: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same in Chinese."""

    def said(name: str) -> str:
        return LIGHT_CHINESE[scene.time] if name == "time" else chinese.WORDS[name][getattr(scene, name)].split()[0]

    return [said(SHOT)] if SHOT in missing else [], [said(name) for name in missing if name != SHOT]


def _subject(scene: Scene, told: set[str], noun: str, pick: Pick) -> str:
    """ "a red fox", "a happy man in blue"; with words of the prompt where it is none of the world's."""
    color = pick(("gray", "grey")) if scene.color == "gray" else scene.color
    person = "subject" in told and scene.subject in PEOPLE
    if "subject" in told:
        noun = pick(words.SUBJECT_WORDS.get(scene.subject, (scene.subject,)))
    mood = pick(words.EXPRESSION_WORDS[scene.expression]) if "expression" in told and scene.expression else ""
    front = color if "color" in told and not person else ""
    text = " ".join(part for part in (mood, front, noun) if part)
    if "color" in told and person:
        text += " " + pick((f"in {color}", f"dressed in {color}", f"in {color} clothes", f"wearing {color}"))
    if "subject" not in told or not text:
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _action(scene: Scene, told: set[str], pick: Pick) -> str:
    verbs = words.SUBJECT_ACTION_WORDS.get((scene.subject, scene.action), words.ACTION_WORDS[scene.action])
    verb = pick([with_ing for _, with_ing in verbs]) if "action" in told else ""
    other = "right" if scene.direction == "left" else "left"
    way = pick(words.DIRECTION_WORDS).format(scene.direction, other) if "direction" in told else ""
    return f"{verb} {way}".strip()


def _place(scene: Scene, told: set[str], pick: Pick) -> str:
    if "place" not in told:
        return ""
    noun = pick(words.PLACE_NOUNS[scene.place])
    if scene.place == "underwater":
        return noun
    where = _WHERE.get(scene.place, "in")
    if scene.on_water and scene.place == "lake":
        where = "on"
    elif scene.airborne:
        where = "over"
    if noun.startswith("the ") or noun == "mountains":
        return f"{where} {noun}"
    return f"{where} {'an' if noun[0] in 'aeiou' else 'a'} {noun}"
