"""A scene said in the film world's own phrases, in the pattern's order; and in plain words behind somebody's own.

The one invariant: what is said here is read back as what was to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

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


def additions(scene: Scene, missing: Sequence[str]) -> list[str]:
    """What is missing, in plain words, to be put behind a prompt for a model that reads any."""
    plain = picker(None)
    acting = " ".join(
        filter(None, (_action(scene, {*missing} - {"direction"}, plain), _place(scene, {*missing}, plain)))
    )
    rest = [LIGHT[scene.time] if n == "time" else _PHRASES[n][getattr(scene, n)][0] for n in missing if n in _PHRASES]
    return [acting, *rest] if acting else rest


def additions_chinese(scene: Scene, missing: Sequence[str]) -> list[str]:
    """The same in Chinese."""
    return [
        LIGHT_CHINESE[scene.time] if name == "time" else chinese.WORDS[name][getattr(scene, name)].split()[0]
        for name in missing
    ]


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
