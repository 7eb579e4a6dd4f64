"""How far raters agree: with each other, with themselves, and with what a check asked for.

Krippendorff's alpha (K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011) for ordered values: 1 is
agreement, 0 what chance gives, below 0 is less than chance. The one invariant: an alpha is computed from films, or
pairs, that two raters or more answered, and is not a number where there are none or where nobody ever differed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from everreel.evaluate.bench.ratings import Answer, RaterLog, right_answer
from everreel.evaluate.bench.study import Kind, Study
from everreel.evaluate.bench.tasks import LEFT, RIGHT, SCORES, TIE
from everreel.evaluate.bench.votes import Estimate, Floats, choices, counted, estimate, resample
from everreel.evaluate.follow import wilson

FEW = 5
"""Fewer answers than this say nothing of a rater's habits."""


@dataclass(frozen=True)
class RaterReport:
    """One rater: how much is done, how, and what is remarkable about it."""

    name: str
    done: int
    of: int
    taken_back: int
    unplayable: int
    median_seconds: float | None
    checks: tuple[int, int]
    """Passed, asked."""
    repeats: tuple[int, int]
    """Values that were given again to a repeated film or pair, of all."""
    ties: float | None
    """Share of Tie among all values of pairs."""
    left: float | None
    """Share of the left film among values of pairs that are no ties."""
    remarks: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def krippendorff(counts: Floats) -> Floats:
    """Alpha for ordered values. (..., units, values): how many raters gave a unit each value → (...).

    Units that fewer than two raters answered count for nothing.
    """
    return _alpha(_coincidences(counts).sum(-3))


def score_agreement(study: Study, raters: Sequence[RaterLog]) -> dict[str, Estimate]:
    """Alpha of each axis of scores, with an interval over prompts."""
    axes, films = study.axes_of("scores"), {film.id: film for film in study.films}
    counts = np.zeros((len(axes), len(study.prompts), len(study.models), len(SCORES)))
    for _, found in counted(raters, "scores"):
        film = films[found.films[0]]
        for number, axis in enumerate(axes):
            counts[number, film.prompt, study.models.index(film.model), int(found.answer[axis]) - 1] += 1
    return {axis: _with_interval(counts[number]) for number, axis in enumerate(axes)}


def pair_agreement(study: Study, raters: Sequence[RaterLog]) -> dict[str, Estimate]:
    """Alpha of each axis of pairs, with an interval over prompts; worse, tie, better are in that order."""
    axes, number = study.axes_of("pairs"), {model: place for place, model in enumerate(study.models)}
    models = len(study.models)
    counts = np.zeros((len(axes), len(study.prompts), models * models, 3))
    for choice in choices(study, raters):
        unit = number[choice.first.model] * models + number[choice.second.model]
        counts[axes.index(choice.axis), choice.first.prompt, unit, choice.value + 1] += 1
    return {axis: _with_interval(counts[place]) for place, axis in enumerate(axes)}


def rater_reports(study: Study, raters: Sequence[RaterLog]) -> list[RaterReport]:
    """What there is to tell of each rater."""
    return [_report(rater) for rater in raters]


def _coincidences(counts: Floats) -> Floats:
    """(..., units, values) → (..., units, values, values): pairs of values given to one unit by two raters."""
    many = counts.sum(-1)
    used = np.where((many > 1)[..., None], counts, 0.0)
    pairs = used[..., :, None] * used[..., None, :] - used[..., :, None] * np.eye(counts.shape[-1])
    return np.asarray(pairs / np.maximum(many - 1, 1)[..., None, None])


def _alpha(coincidences: Floats) -> Floats:
    """(..., values, values) → (...)."""
    given = coincidences.sum(-1)
    below = np.cumsum(given, -1) - given / 2  # values are as far apart as answers lie between their middles
    distance = (below[..., :, None] - below[..., None, :]) ** 2
    total = given.sum(-1)
    observed = (coincidences * distance).sum((-2, -1))
    expected = (given[..., :, None] * given[..., None, :] * distance).sum((-2, -1)) / np.maximum(total - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def _with_interval(counts: Floats) -> Estimate:
    """(prompts, units of a prompt, values) → alpha."""
    pairs = _coincidences(counts).sum(1)
    # Raters are not drawn again: one who is taken twice agrees with himself.
    return estimate(_alpha(resample(pairs[:, None])), counts.sum())


def _report(rater: RaterLog) -> RaterReport:
    answers = [found for found in rater.answers.values() if not found.unplayable]
    checks = [found for found in answers if found.check]
    passed = sum(right_answer(found, found.answer) for found in checks)
    pairs = [v for found in answers if found.kind == "pairs" and not found.check for v in found.answer.values()]
    sides = [value for value in pairs if value != TIE]
    seconds = [found.seconds for found in answers]
    return RaterReport(
        name=rater.name,
        done=rater.num_done,
        of=len(rater.tasks),
        taken_back=rater.taken_back,
        unplayable=sum(found.unplayable for found in rater.answers.values()),
        median_seconds=round(statistics.median(seconds), 1) if seconds else None,
        checks=(passed, len(checks)),
        repeats=_repeated(answers),
        ties=round(pairs.count(TIE) / len(pairs), 4) if pairs else None,
        left=round(sides.count(LEFT) / len(sides), 4) if sides else None,
        remarks=_remarks(answers, passed, len(checks)),
    )


def _repeated(answers: Sequence[Answer]) -> tuple[int, int]:
    once = {(found.kind, found.films): found.answer for found in answers if not (found.repeat or found.check)}
    same = total = 0
    for found in answers:
        # A pair comes again with its sides changed.
        before = once.get((found.kind, found.films[::-1])) if found.repeat else None
        for axis, value in (before or {}).items():
            again = found.answer[axis]
            turned = {LEFT: RIGHT, RIGHT: LEFT}.get(str(again), again) if found.kind == "pairs" else again
            same, total = same + (turned == value), total + 1
    return same, total


def _remarks(answers: Sequence[Answer], passed: int, asked: int) -> list[str]:
    found = [f"failed {asked - passed} of {asked} checks"] if passed < asked else []
    values: dict[Kind, list[int | str]] = {"scores": [], "pairs": []}
    films: dict[Kind, int] = {"scores": 0, "pairs": 0}
    for one in (one for one in answers if not one.check):
        values[one.kind] += one.answer.values()
        films[one.kind] += 1
    if films["scores"] >= FEW and len(set(values["scores"])) == 1:
        found.append(f"gave every film {values['scores'][0]} on everything")
    if films["pairs"] >= FEW and set(values["pairs"]) == {TIE}:
        found.append("always says Tie")
    # A pair counts once: what is said of it on several axes goes together, and would pass for more evidence than it is.
    leans = [_lean(one) for one in answers if one.kind == "pairs" and not one.check]
    left, right = sum(lean > 0 for lean in leans), sum(lean < 0 for lean in leans)
    low, high = wilson(left, left + right)
    if left + right >= FEW and not low <= 0.5 <= high:
        found.append(f"prefers one side: the left film in {left} of {left + right} pairs")
    return found


def _lean(answer: Answer) -> int:
    """On how many axes more the left film was preferred than the right one."""
    said = list(answer.answer.values())
    return said.count(LEFT) - said.count(RIGHT)
