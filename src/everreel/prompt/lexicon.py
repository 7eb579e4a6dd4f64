"""Which words stand for which field of a scene: the film world's own, then synonyms in English and in Chinese.

The one invariant: the world's own words mean here what they mean in its captions.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from everreel.prompt import chinese, english
from everreel.world import words
from everreel.world.scene import COLORS, SUBJECT_ACTIONS, SUBJECTS, TIMES


@dataclass(frozen=True)
class Entry:
    """What a phrase says of one field."""

    field: str
    value: str
    own: bool = False
    """A word of the world's own captions."""
    subjects: frozenset[str] | None = None
    """Said of these alone."""
    beside: bool = False
    """Only where nothing else says it."""

    def fits(self, subject: str | None) -> bool:
        """Whether the phrase says this of the subject."""
        return self.subjects is None or subject in self.subjects


Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Phrases, and the words that say nothing by themselves."""

    entries: dict[Phrase, tuple[Entry, ...]]
    """No entries: a phrase that means none of what its words mean."""
    longest: int
    """Words of the longest phrase."""

    def says(self, tokens: Phrase) -> tuple[int, tuple[Entry, ...]]:
        """How many of the first tokens are a phrase, the longest there is, and what it says; 0 if none is."""
        for count in range(min(self.longest, len(tokens)), 0, -1):
            found = self.entries.get(tokens[:count])
            if found is not None:
                return count, found
        return 0, ()


@functools.cache
def lexicon() -> Lexicon:
    """All that is known. Of a phrase with several meanings, those of the world's captions come first."""
    found: dict[Phrase, list[Entry]] = defaultdict(list)
    for phrase in _otherwise():
        found[tokens_of(phrase)] = []
    for phrase, entry in [*_own(), *_synonyms()]:
        entries = found[tokens_of(phrase)]
        if not any((e.field, e.value, e.subjects) == (entry.field, entry.value, entry.subjects) for e in entries):
            entries.append(entry)
    return Lexicon({k: tuple(v) for k, v in found.items()}, max(map(len, found)))


def tokens_of(phrase: str) -> Phrase:
    """Words as they are compared: lower case, hyphens as spaces, Chinese a character each."""
    return tuple(match[0] for match in TOKEN.finditer(plain(phrase)))


def plain(text: str) -> str:
    """A text as it is compared, character by character: no capitals, no wide letters, the simplified script."""
    return "".join(map(_plain, text)).translate(chinese.SIMPLIFIED)


def is_chinese(text: str) -> bool:
    """Whether it has a Chinese character."""
    return re.search(CHINESE, text) is not None


CHINESE = r"[\u3400-\u9fff]"
TOKEN = re.compile(rf"{CHINESE}|[^\W_\u3400-\u9fff]+(?:'[^\W_\u3400-\u9fff]+)*|[^\w\s-]|_+")


def _plain(character: str) -> str:
    """One character for one, so that places in a text stay what they are."""
    simple = unicodedata.normalize("NFKC", character).lower()
    return "'" if character in "\u2019\u02bc" else simple if len(simple) == 1 else character


def _own() -> Iterator[tuple[str, Entry]]:
    """The world's captions, word for word."""
    for subject in SUBJECTS:
        for word in words.SUBJECT_WORDS.get(subject, (subject,)):
            yield word, Entry("subject", subject, own=True)
    for color in (*COLORS, "grey"):
        yield color, Entry("color", color.replace("grey", "gray"), own=True)
    for (subject, action), verbs in words.SUBJECT_ACTION_WORDS.items():
        # What one subject does in its own words, all others do that are said to do so.
        usual = {form for pair in words.ACTION_WORDS[action] for form in pair}
        for verb in (form for pair in verbs for form in pair):
            yield verb, Entry("action", action, own=True, subjects=None if verb in usual else frozenset({subject}))
    for action, verbs in words.ACTION_WORDS.items():
        for verb in (form for pair in verbs for form in pair):
            yield verb, Entry("action", action, own=True)
    for way, other in (("left", "right"), ("right", "left")):
        for form in words.DIRECTION_WORDS:
            yield form.format(way, other), Entry("direction", way, own=True)
    for phrase in words.FORWARD:
        yield phrase, Entry("shot_position", "front_view", own=True)
    for phrase in words.BACKWARD:
        yield phrase, Entry("shot_position", "back_view", own=True)
    for time in TIMES:
        yield time, Entry("time", time, own=True)
    for weather, adjective in words.WEATHER_ADJECTIVES.items():
        yield adjective, Entry("weather", weather, own=True)
    yield "clear sky", Entry("weather", "clear", own=True)
    for name, table in (
        ("expression", words.EXPRESSION_WORDS),
        ("place", words.PLACE_NOUNS),
        ("time", words.TIME_WORDS),
        ("weather", words.WEATHER_WORDS),
        ("shot_type", words.SHOT_WORDS),
        ("shot_angle", words.ANGLE_WORDS),
        ("shot_position", words.POSITION_WORDS),
        ("camera_motion", words.CAMERA_WORDS),
    ):
        for value, phrases in table.items():
            for phrase in phrases:
                yield phrase, Entry(name, value, own=True)


def _synonyms() -> Iterator[tuple[str, Entry]]:
    for name, value, phrase in english.phrases():
        yield phrase, Entry(name, value)
    for name, values in chinese.WORDS.items():
        for value, text in values.items():
            for phrase in text.split():
                yield phrase, Entry(name, value)
    # What is bare in the world's phrases: "rain", for "in the rain". It is written out when the prompt is.
    for weather in ("rain", "snow", "fog", "clear"):
        yield weather, Entry("weather", weather)
    fliers = frozenset(subject for subject, actions in SUBJECT_ACTIONS.items() if "flies" in actions)
    for phrase in (*english.ALOFT.split(", "), *chinese.ALOFT.split()):
        yield phrase, Entry("action", "flies", subjects=fliers, beside=True)
    vehicles = frozenset({"car", "bus"})
    for value, phrases in (("walks", ("drive", "driving", "drove", "开", "开车", "开过")), ("runs", ("开得飞快",))):
        for phrase in phrases:
            yield phrase, Entry("action", value, subjects=vehicles)
    for phrase in ("in the sea", "in the ocean", "sea", "ocean", "大海", "海洋", "海"):
        yield phrase, Entry("place", "underwater", subjects=frozenset({"fish", "turtle"}))
    for phrase, (name, value) in (english.BESIDES | chinese.BESIDES).items():
        yield phrase, Entry(name, value, beside=True)


def _otherwise() -> Iterator[str]:
    yield from english.OTHERWISE.split(", ")
    yield from chinese.OTHERWISE.split()


PREPOSITIONS = english.PREPOSITIONS | chinese.PREPOSITIONS
HINTS = {name: english.HINTS[name] | chinese.HINTS[name] for name in english.HINTS}
FILLERS = (english.FILLERS | chinese.FILLERS).difference(*HINTS.values())
