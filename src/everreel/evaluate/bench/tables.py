"""The paper's table of one's own study: a row a model, the four dimensions and their average, with intervals.

The average is the plain mean of the dimensions, as in the paper's tables, which ship as `paper.json`. The one
invariant: published rows are as they were published (one of their averages is not the mean of its row), stand apart
from one's own, and come with the words that they are of other prompts and raters.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from everreel.evaluate.bench.agreement import RaterReport, pair_agreement, rater_reports, score_agreement
from everreel.evaluate.bench.ratings import RaterLog
from everreel.evaluate.bench.strengths import model_strengths, pair_cells
from everreel.evaluate.bench.study import AXES, PAIR_AXES, Medium, Study
from everreel.evaluate.bench.votes import Estimate, estimate, resample, score_cells
from everreel.evaluate.markdown import paragraph, table

AVERAGE = "average"
COLUMNS = {AVERAGE: "Average", **AXES}


@dataclass(frozen=True)
class Published:
    """The paper's rows for one medium, and what to know of them."""

    source: str
    note: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class PairCount:
    """Of two models on one axis: how often the first was better, it was a tie, and the second was better."""

    first: str
    second: str
    axis: str
    better: int
    tie: int
    worse: int


@dataclass(frozen=True)
class Results:
    """All figures of a study. A kind that the study does not have, or nobody answered, has empty tables."""

    title: str
    prompts: int
    raters: list[RaterReport]
    scores: dict[str, dict[str, Estimate]]
    """By model, then by axis and `average`."""
    differences: dict[str, Estimate]
    """Of averages, by "first − second"."""
    score_agreement: dict[str, Estimate]
    strengths: dict[str, dict[str, Estimate]]
    """By axis, then by model."""
    pair_counts: list[PairCount]
    pair_agreement: dict[str, Estimate]
    problems: list[str]

    def record(self) -> dict[str, Any]:
        """For JSON: what is no number there is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def results_of(study: Study, raters: Sequence[RaterLog], problems: Sequence[str] = ()) -> Results:
    """All figures of a study; problems of its files are handed on."""
    has_scores = any(found.kind == "scores" for rater in raters for found in rater.answers.values())
    has_pairs = any(found.kind == "pairs" for rater in raters for found in rater.answers.values())
    scores, differences = _scores(study, raters) if has_scores else ({}, {})
    return Results(
        title=study.title,
        prompts=len(study.prompts),
        raters=rater_reports(study, raters),
        scores=scores,
        differences=differences,
        score_agreement=score_agreement(study, raters) if has_scores else {},
        strengths=model_strengths(study, raters) if has_pairs else {},
        pair_counts=_pair_counts(study, raters) if has_pairs else [],
        pair_agreement=pair_agreement(study, raters) if has_pairs else {},
        problems=list(problems),
    )


def published(medium: Medium) -> Published:
    """The table of the paper for text-to-video or image-to-video."""
    content = json.loads((files("everreel.evaluate.bench") / "paper.json").read_text(encoding="utf-8"))
    return Published(content["source"], content["note"], tuple(content[medium]))


def markdown(results: Results, beside: Published | None = None) -> str:
    """The tables as a page."""
    lines = [f"# {results.title}", ""]
    done = sum(rater.done for rater in results.raters)
    lines += paragraph(
        f"{results.prompts} prompts, {len(results.raters)} raters, {done} answers. In brackets is where a figure lies "
        "with a probability of 95 %, were prompts and raters drawn again (bootstrap over both)."
    )
    lines += ["", *_score_lines(results), *_pair_lines(results), *_rater_lines(results)]
    if beside is not None:
        lines += ["## As published", "", *paragraph(f"{beside.source}. {beside.note}"), ""]
        rows = [[row["model"], *(f"{row[column]:.2f}" for column in COLUMNS)] for row in beside.rows]
        lines += [*table(["model", *COLUMNS.values()], rows, "l" + "r" * len(COLUMNS)), ""]
    return "\n".join(lines)


def csv_rows(results: Results, beside: Published | None = None) -> list[dict[str, Any]]:
    """A row a figure: what it is of, its value and its interval; published ones are of the kind `published`."""
    rows = []
    tables = (("score", results.scores), ("strength", _turned(results.strengths)))
    for kind, figures in tables:
        for model, by_axis in figures.items():
            rows += [_csv_row(kind, model, axis, found) for axis, found in by_axis.items()]
    rows += [_csv_row("difference", names, AVERAGE, found) for names, found in results.differences.items()]
    agreements = (("score alpha", results.score_agreement), ("pair alpha", results.pair_agreement))
    rows += [_csv_row(kind, "", axis, found) for kind, found_of in agreements for axis, found in found_of.items()]
    for row in beside.rows if beside else ():
        named = {"low": "", "high": "", "answers": ""}
        rows += [{"kind": "published", "model": row["model"], "axis": a, "value": row[a], **named} for a in COLUMNS]
    return rows


def _scores(study: Study, raters: Sequence[RaterLog]) -> tuple[dict[str, dict[str, Estimate]], dict[str, Estimate]]:
    sums, counts = score_cells(study, raters)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = resample(sums) / resample(counts)  # (draws, models, axes)
    averages, axes = means.mean(-1), study.axes_of("scores")
    behind = counts.sum((0, 1))
    scores = {}
    for number, model in enumerate(study.models):
        row = {AVERAGE: estimate(averages[:, number], behind[number, 0])} if len(axes) > 1 else {}
        row |= {axis: estimate(means[:, number, n], behind[number, n]) for n, axis in enumerate(axes)}
        scores[model] = row
    differences = {
        f"{study.models[a]} − {study.models[b]}": estimate(averages[:, a] - averages[:, b], behind[[a, b], 0].min())
        for a, b in itertools.combinations(range(len(study.models)), 2)
    }
    return scores, differences


def _pair_counts(study: Study, raters: Sequence[RaterLog]) -> list[PairCount]:
    totals = pair_cells(study, raters).sum((0, 1)).astype(int)
    return [
        PairCount(first, second, axis, *map(int, totals[number, pair]))
        for number, axis in enumerate(study.axes_of("pairs"))
        for pair, (first, second) in enumerate(itertools.combinations(study.models, 2))
    ]


def _score_lines(results: Results) -> list[str]:
    if not results.scores:
        return []
    columns = [name for name in COLUMNS if name in next(iter(results.scores.values()))]
    head, align = ["model", *(COLUMNS[name] for name in columns)], "l" + "r" * len(columns)
    rows = [[model, *(row[name].show() for name in columns)] for model, row in results.scores.items()]
    alphas = ["agreement of raters (alpha)"]
    alphas += [results.score_agreement[name].show() if name in results.score_agreement else "" for name in columns]
    lines = ["## Scores, 1 to 5", "", *table(head, [*rows, alphas], align), ""]
    for names, found in results.differences.items():
        said = "more than chance explains" if found.differs else "no more than chance explains"
        lines.append(f"- {names}, on average: {found.show()}: {said}.")
    return [*lines, ""] if results.differences else lines


def _pair_lines(results: Results) -> list[str]:
    if not results.strengths:
        return []
    models = list(next(iter(results.strengths.values())))
    rows = [
        [PAIR_AXES[axis], *(by_model[model].show() for model in models), results.pair_agreement[axis].show()]
        for axis, by_model in results.strengths.items()
    ]
    lines = ["## Pairs", ""]
    lines += paragraph(
        "Strengths by the Bradley-Terry model with ties: where two models differ by 1, the stronger is better 2.7 "
        "times as often as the weaker. They sum to zero."
    )
    lines += ["", *table(["axis", *models, "agreement (alpha)"], rows, "l" + "r" * (len(models) + 1)), ""]
    counts = [
        [PAIR_AXES[c.axis], c.first, str(c.better), str(c.tie), str(c.worse), c.second] for c in results.pair_counts
    ]
    return [*lines, *table(["axis", "first", "first better", "tie", "second better", "second"], counts, "llrrrl"), ""]


def _rater_lines(results: Results) -> list[str]:
    rows = []
    for rater in results.raters:
        checks, repeats = (f"{a} of {b}" if b else "–" for a, b in (rater.checks, rater.repeats))
        seconds = "–" if rater.median_seconds is None else f"{rater.median_seconds:g}"
        said = "; ".join(rater.remarks)
        rows.append([_cell(rater.name), f"{rater.done} of {rater.of}", seconds, checks, repeats, said])
    head = ["rater", "answered", "seconds, median", "checks passed", "same again", "remarks"]
    lines = ["## Raters", "", *table(head, rows, "lrrrrl"), ""]
    if results.problems:
        lines += ["Left out or remarkable:", "", *(f"- {problem}" for problem in results.problems), ""]
    return lines


def _cell(text: str) -> str:
    """What somebody typed, as one cell: neither a column nor a tag comes of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _csv_row(kind: str, model: str, axis: str, found: Estimate) -> dict[str, Any]:
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    shown = {name: "" if np.isnan(value) else round(value, 4) for name, value in numbers.items()}
    return {"kind": kind, "model": model, "axis": axis, **shown, "answers": found.count}


def _turned(figures: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, Estimate]]:
    """By model and axis what is by axis and model."""
    models = list(next(iter(figures.values()), {}))
    return {model: {axis: by_model[model] for axis, by_model in figures.items()} for model in models}


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever stands in a record
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value
