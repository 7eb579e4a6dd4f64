"""Two sets of films compared: which is better in what, and whether that is more than chance.

Films are paired by prompt and seed where they can be, else by prompt, else by the names of their files; where nothing
pairs they are compared as two heaps. What counts as one draw is a prompt: of a prompt with several films the mean is
taken. Fields that are right or wrong have McNemar's exact test, all else the randomisation tests of
`evaluate/significance.py`. One measure is named beforehand to stand for the whole, the share of all fields that are as
asked, and is tested for itself; the p values of all others are corrected together (Holm). The one invariant: films
that are not comparable (other prompts, lengths, sizes, rates or critics) are refused by name, and where that is
overridden, the result says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from everreel.evaluate.film_set import Film, FilmSet, gather
from everreel.evaluate.follow import FIELDS
from everreel.evaluate.markdown import paragraph, table
from everreel.evaluate.quality import MEASURES
from everreel.evaluate.significance import (
    DRAWS,
    LEAST_PAIRS,
    LEAST_UNPAIRED,
    LEVEL,
    holm,
    interval,
    interval_between,
    label_test,
    mcnemar,
    sign_test,
)

ALL_FIELDS = "all_fields"
"""The measure that stands for the whole."""
NOT_COMPARED = ("num_films", "prompts", "critic", "num_frames", "height", "width", "fps")
"""Settings that are checked, or that are no setting."""
Verdict = Literal["a", "b", "none", "untested"]
Pairing = Literal["prompt and seed", "prompt", "file", "none"]
Floats = npt.NDArray[np.float64]
Value = Callable[[Film], float | None]


@dataclass(frozen=True)
class Side:
    """The mean of one set, with its 95 % interval, over so many films."""

    mean: float
    low: float
    high: float
    films: int


@dataclass(frozen=True)
class Row:
    """One measure of both. Differences are those of B less A; `spread` is what one deviation of them is."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    a: Side
    b: Side
    difference: float
    low: float
    high: float
    spread: float
    draws: int
    """Prompts that were compared; of two heaps, the smaller number of films."""
    test: str
    p: float
    corrected: float
    verdict: Verdict
    only_a: int | None = None
    only_b: int | None = None
    """Of fields in single pairs: how often only one of them is right."""

    def show(self, value: float, signed: bool = False) -> str:
        """A figure of it for people."""
        if not math.isfinite(value):
            return "–"
        sign = "+" if signed else ""
        if self.unit.startswith("share"):
            return f"{100 * value:{sign}.1f}".replace("-", "−") + (" points" if signed else " %")
        return f"{value:{sign}.3f}".replace("-", "−")

    def span(self) -> str:
        """The interval of the difference for people."""
        if not math.isfinite(self.low):
            return "–"
        return f"{self.show(self.low, True).removesuffix(' points')} to {self.show(self.high, True)}"

    def words(self, a: str, b: str) -> str:
        """What it says, in a sentence."""
        if self.verdict == "untested":
            return f"{self.title}: not tested; {self.test}."
        chance = f"p = {said(self.p)}" + (f", corrected {said(self.corrected)}" if self.name != ALL_FIELDS else "")
        figures = (
            f"{self.show(self.a.mean)} and {self.show(self.b.mean)}, a difference of {self.show(self.difference, True)}"
        )
        span = f"95 % interval {self.span()}"
        return f"{self.title}: {self.outcome(a, b)} ({figures}, {span}; {chance}; {self.better} is better)."

    def outcome(self, a: str, b: str) -> str:
        """What came of it, without figures that stand beside it anyway."""
        if self.verdict == "untested":
            return f"not tested; {self.test}"
        winner, loser = (a, b) if self.verdict == "a" else (b, a)
        came = "no significant difference"
        if self.verdict != "none":
            came = f"{winner} is significantly better than {loser}"
        if self.only_a is None:
            return came
        return f"{came}; only {a} is right in {self.only_a}, only {b} in {self.only_b} of {self.draws} pairs"


@dataclass(frozen=True)
class Comparison:
    """What came out. `overridden` names what is not comparable and was compared all the same."""

    a: FilmSet
    b: FilmSet
    pairing: Pairing
    pairs: tuple[tuple[Film, Film], ...]
    left_out: tuple[int, int]
    """Films of A and of B without a partner."""
    differs: Mapping[str, tuple[Any, Any]]
    """Settings that are not the same: what is compared."""
    overridden: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def names(self) -> tuple[str, str]:
        """Of A and of B; folders tell apart what has one name."""
        if self.a.name != self.b.name:
            return self.a.name, self.b.name
        folders = self.a.folder.resolve().name, self.b.folder.resolve().name
        return folders if folders[0] != folders[1] else (f"{self.a.name} (A)", f"{self.b.name} (B)")

    def statement(self) -> str:
        """What is significant, in words."""
        a, b = self.names
        tested = [row for row in self.rows if row.verdict != "untested"]
        if not tested:
            return f"Nothing could be tested: {self.rows[0].test if self.rows else 'no measure is known of both'}."
        whole = [row.words(a, b) for row in tested if row.name == ALL_FIELDS]
        how = (
            f"{len(self.pairs)} pairs of films with the same {self.pairing}"
            if self.pairing != "none"
            else f"{len(self.a.films)} and {len(self.b.films)} films, which do not pair"
        )
        text = " ".join([f"On the whole, {words}" for words in whole] + self._of_the_others() + [f"Compared: {how}."])
        if self.overridden:
            text += f" Not comparable, and compared all the same: {'; '.join(self.overridden)}."
        return text

    def _of_the_others(self) -> list[str]:
        """What is significant beside the measure that stands for the whole."""
        a, b = self.names
        others = [row for row in self.rows if row.verdict != "untested" and row.name != ALL_FIELDS]
        if not others:
            return []
        parts = []
        for winner, verdict in ((a, "a"), (b, "b")):
            rows = [row for row in others if row.verdict == verdict]
            named = ", ".join(row.title for row in rows)
            parts.append(f"{winner} is significantly better in {len(rows) or 'none'}" + (f" ({named})" if rows else ""))
        same = sum(row.verdict == "none" for row in others)
        rule = f"at a level of {LEVEL:.0%}, corrected for {len(others)} measures (Holm)"
        one_by_one = f"{parts[0]}; {parts[1]}; in {same} no difference is significant"
        return [f"Of {len(others)} measures one by one, {rule}: {one_by_one}."]

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; figures that there are none of are null."""
        a, b = self.names
        content: dict[str, Any] = _plain(
            {
                "a": {"name": a, "films": len(self.a.films), "settings": dict(self.a.settings)},
                "b": {"name": b, "films": len(self.b.films), "settings": dict(self.b.settings)},
                "pairing": self.pairing,
                "pairs": [
                    {"prompt": film_a.prompt, "seed": film_a.seed, "a": film_a.name, "b": film_b.name}
                    for film_a, film_b in self.pairs
                ],
                "left_out": list(self.left_out),
                "differs": {name: list(values) for name, values in self.differs.items()},
                "overridden": list(self.overridden),
                "notes": list(self.notes),
                "level": LEVEL,
                "resamples": DRAWS,
                "statement": self.statement(),
                "measures": [{**asdict(row), "words": row.words(a, b)} for row in self.rows],
            }
        )
        return content

    def markdown(self) -> str:
        """A page of it."""
        a, b = self.names
        lines = [f"# {_cell(a)} and {_cell(b)}", "", *paragraph(_cell(self.statement())), ""]
        if self.differs:
            rows = [(_cell(name), *(_cell(value) for value in values)) for name, values in self.differs.items()]
            lines += [*table(("what differs", _cell(a), _cell(b)), rows), ""]
        lines += [*self.table(), ""]
        lines += [line for row in self.rows for line in paragraph(_cell(row.words(a, b)), "- ")]
        lines += [line for note in self.notes for line in ("", *paragraph(_cell(note)))]
        return "\n".join(lines) + "\n"

    def table(self) -> list[str]:
        """The measures in Markdown."""
        a, b = self.names
        head = ("measure", "better", _cell(a), _cell(b), "difference", "95 % interval", "p, corrected", "")
        return table(head, [_cells(row, a, b) for row in self.rows], "llrrrrrl")


def compare(
    a: FilmSet | str | Path,
    b: FilmSet | str | Path,
    *,
    anyway: bool = False,
    generator: torch.Generator | None = None,
) -> Comparison:
    """Compare two folders of films, or two reports.

    Args:
        anyway: compare also what is not comparable; the result names it.
        generator: draws the resamples; by default one of its own with the seed 0, so that the result is the same again.

    Raises:
        ValueError: there is nothing to compare, or they are not comparable.
    """
    a, b = (side if isinstance(side, FilmSet) else gather(side) for side in (a, b))
    generator = generator or torch.Generator().manual_seed(0)
    pairing, pairs = pair(a, b)
    problems = not_comparable(a, b, pairing, pairs)
    if problems and not anyway:
        raise ValueError(f"{'; '.join(problems)}; compare films that are alike in these, or give --anyway")
    rows = _corrected([row for row in _rows(a, b, pairing, pairs, generator) if row])
    left = (len(a.films) - len({x.name for x, _ in pairs}), len(b.films) - len({y.name for _, y in pairs}))
    names = [*a.settings, *(name for name in b.settings if name not in a.settings)]
    differs = {
        name: (a.settings.get(name), b.settings.get(name))
        for name in names
        if name not in NOT_COMPARED and a.settings.get(name) != b.settings.get(name)
    }
    notes = _notes(a, b, pairing, left)
    return Comparison(a, b, pairing, tuple(pairs), left, differs, tuple(problems), notes, tuple(rows))


def pair(a: FilmSet, b: FilmSet) -> tuple[Pairing, list[tuple[Film, Film]]]:
    """The films that belong together, and by what: the first way that pairs any."""

    def by_seed(film: Film) -> Hashable:
        return (film.prompt, film.seed) if film.prompt is not None and film.seed is not None else None

    ways: tuple[tuple[Pairing, Callable[[Film], Hashable]], ...] = (
        ("prompt and seed", by_seed),
        ("prompt", lambda film: film.prompt),
        ("file", lambda film: film.name if film.prompt is None else None),
    )
    for name, key in ways:
        there: dict[Hashable, list[Film]] = defaultdict(list)
        for film in b.films:
            there[key(film)].append(film)
        pairs = []
        for film in a.films:
            if key(film) is not None and there.get(key(film)):
                pairs.append((film, there[key(film)].pop(0)))
        if pairs:
            return name, pairs
    return "none", []


def not_comparable(a: FilmSet, b: FilmSet, pairing: Pairing, pairs: list[tuple[Film, Film]]) -> list[str]:
    """Why two sets are not comparable, one phrase a reason."""
    problems = []
    if pairing == "none":
        one, other = (next((film.prompt for film in side.films if film.prompt), None) for side in (a, b))
        if one is None or other is None:
            problems.append("prompts: are not known, and no two files have one name")
        else:
            problems.append(f"prompts: are other ones ({one[:60]!r} and {other[:60]!r})")
    films_a, films_b = ([x for x, _ in pairs], [y for _, y in pairs]) if pairs else (a.films, b.films)
    kinds: tuple[tuple[str, str, Value], ...] = (
        ("num_frames", "lengths", lambda film: film.num_frames),
        ("height", "sizes", lambda film: film.height),
        ("width", "sizes", lambda film: film.width),
        ("fps", "rates", lambda film: None if film.fps is None else round(film.fps, 1)),
    )
    for name, words, value in kinds:
        one_s, other_s = ({value(film) for film in films} - {None} for films in (films_a, films_b))
        if one_s and other_s and one_s != other_s:
            problems.append(f"{name} = {_several(one_s)} and {_several(other_s)}: films of other {words}")
    critics = a.settings.get("critic"), b.settings.get("critic")
    if None not in critics and critics[0] != critics[1]:
        problems.append(f"critic = {critics[0]} and {critics[1]}: read by other critics")
    return problems


def said(p: float) -> str:
    """A probability for people."""
    return "under 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _rows(
    a: FilmSet, b: FilmSet, pairing: Pairing, pairs: list[tuple[Film, Film]], generator: torch.Generator
) -> list[Row | None]:
    """A row a measure that is known of both."""
    rows = [_row(ALL_FIELDS, "all fields as asked", "share", lambda film: film.share_right, a, b, pairs, generator)]
    for name in FIELDS:

        def right(film: Film, name: str = name) -> float | None:
            found = film.right.get(name)
            return None if found is None else float(found)

        rows.append(_row(name, name.replace("_", " "), "share", right, a, b, pairs, generator))
    for name, measure in MEASURES.items():

        def figure(film: Film, name: str = name) -> float | None:
            return film.figures.get(name)

        row = _row(name, measure.title, measure.unit, figure, a, b, pairs, generator)
        rows.append(replace(row, better=measure.better) if row else None)
    return rows


def _row(
    name: str,
    title: str,
    unit: str,
    value: Value,
    a: FilmSet,
    b: FilmSet,
    pairs: list[tuple[Film, Film]],
    generator: torch.Generator,
) -> Row | None:
    """One measure, not yet judged; none where either side has no figure of it."""
    known = [(x.prompt or x.name, one, other) for x, y in pairs if (one := value(x)) is not None
             and (other := value(y)) is not None]  # fmt: skip
    if pairs:
        ones, others = (np.array([figures[side] for figures in known], np.float64) for side in (1, 2))
    else:
        ones, others = (
            np.array([found for film in side.films if (found := value(film)) is not None], np.float64)
            for side in (a, b)
        )
    if not len(ones) or not len(others):
        return None
    side_a, side_b = (Side(float(x.mean()), *interval(x, generator), len(x)) for x in (ones, others))
    nan = math.nan
    row = Row(name, title, unit, "higher", side_a, side_b, nan, nan, nan, nan, 0, "", nan, nan, "untested")
    if not pairs:
        return _unpaired(row, ones, others, generator)
    prompts: dict[str, list[float]] = defaultdict(list)
    for prompt, one, other in known:
        prompts[prompt].append(other - one)
    single = len(prompts) == len(known)
    return _paired(row, np.array([np.mean(found) for found in prompts.values()]), single, name in FIELDS, generator)


def _paired(row: Row, differences: Floats, single: bool, is_field: bool, generator: torch.Generator) -> Row:
    count, mean = len(differences), float(differences.mean())
    low, high = interval(differences, generator)
    spread = float(differences.std(ddof=1)) if count > 1 else math.nan
    row = replace(row, difference=mean, low=low, high=high, spread=spread, draws=count)
    if count < LEAST_PAIRS:
        return replace(row, test=f"only {count} prompts show it in both, and {LEAST_PAIRS} are needed")
    if is_field and single:
        only_a, only_b = int((differences < 0).sum()), int((differences > 0).sum())
        p = mcnemar(only_a, only_b)
        return replace(row, test="McNemar, exact", p=p, only_a=only_a, only_b=only_b, verdict="none")
    return replace(row, test="signs of the differences", p=sign_test(differences, generator), verdict="none")


def _unpaired(row: Row, ones: Floats, others: Floats, generator: torch.Generator) -> Row:
    low, high = interval_between(ones, others, generator)
    count = min(len(ones), len(others))
    spread = math.sqrt((ones.var(ddof=1) + others.var(ddof=1)) / 2) if count > 1 else math.nan
    row = replace(row, difference=float(others.mean() - ones.mean()), low=low, high=high, spread=spread, draws=count)
    if count < LEAST_UNPAIRED:
        return replace(row, test=f"only {count} films show it, and {LEAST_UNPAIRED} of each are needed")
    return replace(row, test="labels of the films", p=label_test(ones, others, generator), verdict="none")


def _corrected(rows: list[Row]) -> list[Row]:
    """With p values that count for all that were tested one by one, and verdicts."""
    tested = [row for row in rows if row.verdict != "untested" and row.name != ALL_FIELDS]
    corrected = dict(zip((row.name for row in tested), holm([row.p for row in tested]), strict=True))
    corrected |= {row.name: row.p for row in rows if row.name == ALL_FIELDS and row.verdict != "untested"}
    judged = []
    for row in rows:
        if row.name in corrected:
            winner: Verdict = "b" if (row.difference > 0) == (row.better == "higher") else "a"
            verdict: Verdict = winner if corrected[row.name] < LEVEL else "none"
            row = replace(row, corrected=corrected[row.name], verdict=verdict)
        judged.append(row)
    return judged


def _notes(a: FilmSet, b: FilmSet, pairing: Pairing, left: tuple[int, int]) -> tuple[str, ...]:
    notes = []
    if pairing != "none" and any(left):
        notes.append(f"Without a partner, and left out: {left[0]} films of {a.name} and {left[1]} of {b.name}.")
    read = any(film.answers for side in (a, b) for film in side.films)
    if read and None in (a.settings.get("critic"), b.settings.get("critic")):
        notes.append("Which critic read the fields is not recorded in both reports.")
    if not all(any(film.figures for film in side.films) for side in (a, b)):
        notes.append("How the films look is not measured in both; --quality measures it.")
    skipped = [f"{missed}" for side in (a, b) for missed in side.skipped]
    if skipped:
        notes.append(f"Skipped: {'; '.join(skipped)}.")
    return tuple(notes)


def _cells(row: Row, a: str, b: str) -> tuple[str, ...]:
    won = {"a": f"**{_cell(a)}**", "b": f"**{_cell(b)}**", "none": "no difference", "untested": "not tested"}
    p = said(row.corrected) if math.isfinite(row.corrected) else "–"
    means = (row.show(row.a.mean), row.show(row.b.mean))
    return (row.title, row.better, *means, row.show(row.difference, True), row.span(), p, won[row.verdict])


def _cell(value: object) -> str:
    """Words that a table in Markdown can hold, and that are no HTML."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")
    for sign in "*_`[]#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _several(values: set[Any]) -> str:
    ordered = sorted(values)
    return "/".join(f"{value:g}" for value in ordered[:3]) + ("/…" if len(ordered) > 3 else "")


def _plain(value: Any) -> Any:  # noqa: ANN401
    """With null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
