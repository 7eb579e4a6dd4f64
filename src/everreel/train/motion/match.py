"""Whether two films differ in motion alone, and whether what is said of films agrees with itself.

Source: SkyReels-V2's rule that the films of a pair are alike in what they show and how good it looks, so that a reward
of motion does not learn the rest; about four fifths of its pairs were dropped. What a film shows is read by the critic
of the film world, how it looks is measured. The one invariant: what is dropped is counted by its reason, with by how
much it failed, and nothing that contradicts itself is kept.

Shape suffixes: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from everreel.caption.critic import MOTION_FIELDS, Critic, read
from everreel.evaluate.drift import measure
from everreel.evaluate.meters import one_thread, sharpness
from everreel.media import Pixels
from everreel.world.scene import VOCABULARY, Scene, visible_fields

LOOKS = ("sharpness", "brightness", "saturation", "contrast")
LEAST_TRIED = 64
"""So many pairs dropped and none kept end a run before its end."""


@dataclass(frozen=True)
class Appearance:
    """What a film shows but its motion, and how it looks. `alignment` is the mean probability that the critic gives to
    what was asked for, nan where that is not known; `shown` is what it reads.
    """

    sharpness: float
    brightness: float
    saturation: float
    contrast: float
    alignment: float = math.nan
    shown: Mapping[str, str] = field(default_factory=dict)


def appearance_of(
    frames_THWC: Pixels, fps: int, scene: Scene | None = None, critic: Critic | None = None, every: int = 4
) -> Appearance:
    """Measure a film, on every so-manyth frame; what was asked for only with a scene and a critic to see it."""
    looked_at = frames_THWC[::every]
    with one_thread():
        sharp = [sharpness(frame) for frame in looked_at]
    brightness, saturation, contrast = np.mean([measure(frame) for frame in looked_at], axis=0).tolist()
    look = (float(np.mean(sharp)), brightness, saturation, contrast)
    if scene is None or critic is None:
        return Appearance(*look)
    asked = {name: value for name, value in visible_fields(scene).items() if name not in MOTION_FIELDS}
    chances = read(critic, frames_THWC, fps)
    alignment = sum(chances[name][value] for name, value in asked.items()) / len(asked)
    shown = {name: max(chances[name], key=lambda word, name=name: chances[name][word]) for name in asked}  # type: ignore[misc]
    return Appearance(*look, alignment, shown)


@dataclass(frozen=True)
class Matching:
    """How far two films of a pair may be apart. All of 0 to 1.

    `alignment` is how much less of what was asked for one may show than the other, `least_alignment` what both have to
    show, and the fields of `same` the critic must read alike. The looks may differ by as much as they say;
    `least_difference` is the mean difference of a pixel below which two films are one.
    """

    alignment: float = 0.25
    least_alignment: float = 0.4
    same: tuple[str, ...] = ("subject",)
    sharpness: float = 0.1
    brightness: float = 0.1
    saturation: float = 0.12
    contrast: float = 0.06
    least_difference: float = 0.01

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "same" and not 0 <= value <= 1:
                raise ValueError(f"{one.name}={value:g}: lies in 0..1; the nearest that works is {float(value > 1):g}")
        known = [name for name in VOCABULARY if name not in MOTION_FIELDS]
        for name in self.same:
            if name not in known:
                raise ValueError(f"same={name!r}: must be one of {', '.join(known)}")

    def mismatch(self, one: Appearance, other: Appearance, difference: float) -> tuple[str, float] | None:
        """Why two films do not make a pair, and by which figure; None if they do."""
        if difference < self.least_difference:
            return "least_difference", difference
        if not math.isnan(one.alignment + other.alignment):
            for name in self.same:
                if one.shown.get(name) != other.shown.get(name):
                    return f"same {name}", 1.0
            least, apart = min(one.alignment, other.alignment), abs(one.alignment - other.alignment)
            if least < self.least_alignment:
                return "least_alignment", least
            if apart > self.alignment:
                return "alignment", apart
        for name in LOOKS:
            apart = abs(getattr(one, name) - getattr(other, name))
            if not apart <= getattr(self, name):  # what could not be measured is not alike
                return name, apart
        return None


def difference_of(one_THWC: Pixels, other_THWC: Pixels) -> float:
    """The mean difference of a pixel, 0 to 1."""
    return float(np.abs(one_THWC.astype(np.int16) - other_THWC).mean() / 255)


@dataclass
class Tally:
    """What became of pairs, by kind: how many were kept, of them ties, and by how much others failed which rule."""

    kept: Counter[str] = field(default_factory=Counter)
    ties: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    """Contradictions, and whoever was left out, in words."""

    def keep(self, kind: str, tie: bool = False) -> None:
        """One pair more."""
        self.kept[kind] += 1
        self.ties[kind] += tie

    def drop(self, kind: str, reason: str, figure: float) -> None:
        """One pair less."""
        self.dropped.setdefault(kind, {}).setdefault(reason, []).append(figure)

    def add(self, other: Tally) -> None:
        """Those of another part too."""
        self.kept += other.kept
        self.ties += other.ties
        self.said += other.said
        for kind, reasons in other.dropped.items():
            for reason, figures in reasons.items():
                self.dropped.setdefault(kind, {}).setdefault(reason, []).extend(figures)

    @property
    def num_kept(self) -> int:
        """Pairs of all kinds."""
        return self.kept.total()

    @property
    def num_dropped(self) -> int:
        """Pairs of all kinds."""
        return sum(len(figures) for reasons in self.dropped.values() for figures in reasons.values())

    def lines(self) -> list[str]:
        """What became of each kind, in words."""
        kinds = sorted({*self.kept, *self.dropped})
        lines = []
        for kind in kinds:
            reasons = self.dropped.get(kind, {})
            tried = self.kept[kind] + sum(map(len, reasons.values()))
            ties = f", {self.ties[kind]} of them ties" if self.ties[kind] else ""
            lines.append(f"{kind}: {self.kept[kind]} of {tried} kept{ties}{_reasons(reasons)}")
        return lines

    def check_kept(self, matching: Matching | None, ended: bool) -> None:
        """Refuse rules that drop everything.

        Raises:
            ValueError: nothing was kept of all pairs there are, or of many.
        """
        if self.num_kept or not self.num_dropped or not (ended or self.num_dropped >= LEAST_TRIED):
            return
        together: dict[str, list[float]] = defaultdict(list)
        for reasons in self.dropped.values():
            for reason, figures in reasons.items():
                together[reason] += figures
        worst = max(together, key=lambda reason: len(together[reason]))
        limit = "" if matching is None or not hasattr(matching, worst) else f"; {worst}={getattr(matching, worst):g}"
        of_half = f"; {worst}={statistics.median(together[worst]):.3g} would keep about half of those" if limit else ""
        rule = f"drops all of {self.num_dropped} pairs{_reasons(together)}{limit} is what drops the most{of_half}"
        raise ValueError(f"matching: {rule if limit else rule.removesuffix(' is what drops the most')}")

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"kept": dict(self.kept), "ties": dict(self.ties), "dropped": self.dropped, "said": self.said}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tally:
        """What `as_json` gave."""
        return cls(Counter(record["kept"]), Counter(record["ties"]), dict(record["dropped"]), list(record["said"]))


def _reasons(reasons: Mapping[str, Sequence[float]]) -> str:
    commonest = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{len(figures)} by {reason} (median {statistics.median(figures):.3g})" for reason, figures in commonest]
    return f"; dropped: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Judgement:
    """What somebody said of two films of a prompt: 1 the first is better, -1 the second, 0 neither."""

    prompt: str
    first: str
    second: str
    value: int
    rater: str

    def turned(self) -> Judgement:
        """The same, with the films by the order of their names."""
        if self.first <= self.second:
            return self
        return Judgement(self.prompt, self.second, self.first, -self.value, self.rater)


@dataclass(frozen=True)
class Verdict:
    """What all together said of two films: 1 the first is better; and how many said so, neither, or the other."""

    prompt: str
    first: str
    second: str
    value: int
    votes: tuple[int, int, int]

    @property
    def margin(self) -> float:
        """How much more of the votes one film has than the other, 0 to 1."""
        return abs(self.votes[0] - self.votes[2]) / sum(self.votes)


def without_indifferent(
    judgements: Sequence[Judgement], most_ties: float = 0.9, least: int = 5
) -> tuple[list[Judgement], list[str]]:
    """What is said by those who do see a difference, and the others in words.

    Who gave fewer answers than `least` is heard: nothing can be told of so few.
    """
    answers: dict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        answers[judgement.rater].append(judgement.value)
    said, out = [], set()
    for rater, values in sorted(answers.items()):
        ties = values.count(0)
        if len(values) >= least and ties > most_ties * len(values):
            out.add(rater)
            share = f"{ties} of {len(values)} answers are ties ({ties / len(values):.0%})"
            said.append(f"{rater}: {share}, at most {most_ties:.0%} count; left out")
    return [judgement for judgement in judgements if judgement.rater not in out], said


def verdicts(judgements: Iterable[Judgement]) -> tuple[list[Verdict], list[str]]:
    """What is left where nothing contradicts itself, in the order of what was said, and the contradictions in words.

    Left out are: what one rater answered in opposite ways; two films of which as many found one better as the other;
    and what stands in a circle, of any length, each film better than the next.
    """
    by_pair: dict[tuple[str, str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for judgement in map(Judgement.turned, judgements):
        by_pair[judgement.prompt, judgement.first, judgement.second][judgement.rater].append(judgement.value)
    found, said = [], []
    for (prompt, first, second), by_rater in by_pair.items():
        of = f"{first} and {second} for {prompt!r}"
        steady = {rater: values for rater, values in by_rater.items() if not {1, -1} <= set(values)}
        said += [f"{rater}: {of} was answered in opposite ways; left out" for rater in by_rater if rater not in steady]
        voices = [_sign(sum(values)) for values in steady.values()]
        votes = (voices.count(1), voices.count(0), voices.count(-1))
        if votes[0] == votes[2] > votes[1]:
            said.append(f"{of}: {votes[0]} found the one better and {votes[2]} the other; left out")
        elif voices:
            decided = votes[0] != votes[2] and max(votes[0], votes[2]) >= votes[1]
            found.append(Verdict(prompt, first, second, _sign(votes[0] - votes[2]) if decided else 0, votes))
    circles = _in_circles(found)
    said += [
        f"{verdict.first} and {verdict.second} for {verdict.prompt!r}: in a circle of films, each better than the "
        "next; left out"
        for verdict in circles
    ]
    return [verdict for verdict in found if verdict not in circles], said


def _in_circles(found: Sequence[Verdict]) -> list[Verdict]:
    over: dict[tuple[str, str], set[str]] = defaultdict(set)
    for verdict in found:
        if verdict.value:
            better, worse = (verdict.first, verdict.second)[:: verdict.value]
            over[verdict.prompt, better].add(worse)

    def reaches(prompt: str, start: str, end: str) -> bool:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            film = ahead.pop()
            if film == end:
                return True
            fresh = over.get((prompt, film), set()) - seen
            seen |= fresh
            ahead += fresh
        return False

    rings = []
    for verdict in found:
        better, worse = (verdict.first, verdict.second)[:: verdict.value or 1]
        if verdict.value and reaches(verdict.prompt, worse, better):
            rings.append(verdict)
    return rings


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
