"""A comparison as a page: the statement, plots of the differences, every measure in words, and pairs side by side.

The one invariant: that of `evaluate/page.py`; the figures are those of the `Comparison` and of nothing else.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from everreel.evaluate import charts
from everreel.evaluate.compare import ALL_FIELDS, Comparison, Row, said
from everreel.evaluate.film_set import Film
from everreel.evaluate.follow import FIELDS, GOALS
from everreel.evaluate.page import card, render, shown

PAIRS = 12


def comparison_page(found: Comparison, page: Path, *, embed: bool = False, pairs: int = PAIRS) -> str:
    """The page, as it will lie at `page`.

    Args:
        embed: put the films into the page instead of linking to them.
        pairs: so many are shown side by side at most, those that differ most first.

    Raises:
        ValueError: a number of pairs below 0.
    """
    if pairs < 0:
        raise ValueError(f"pairs = {pairs}: must be at least 0; 0 works")
    a, b = found.names
    told = [pair for pair in _order(found) if pair[0].path or pair[1].path][:pairs]
    return render(
        "compare.html",
        title=f"{a} and {b}",
        a=shown(a),
        b=shown(b),
        statement=found.statement(),
        notes=[shown(note) for note in found.notes],
        differs=[(shown(name), shown(one), shown(other)) for name, (one, other) in found.differs.items()],
        plots=_plots(found),
        rows=[_row(row, a, b) for row in found.rows],
        pairs=[_pair(one, other, found.names, page, embed) for one, other in told],
        order=_order_words(found, len(told)),
    )


def _order(found: Comparison) -> list[tuple[Film, Film]]:
    """Where fields were read, those pairs first in which the shares of right ones differ most."""
    return sorted(found.pairs, key=lambda pair: -abs((pair[0].share_right or 0) - (pair[1].share_right or 0)))


def _order_words(found: Comparison, count: int) -> str:
    read = any(film.answers for pair in found.pairs for film in pair)
    first = ", those first in which the fields that are as asked differ most" if read else ""
    return f"{count} of {len(found.pairs)} pairs{first}."


def _pair(one: Film, other: Film, names: tuple[str, str], page: Path, embed: bool) -> dict[str, Any]:
    films = [{**card(film, page, embed), "set": name} for film, name in zip((one, other), names, strict=True)]
    return {"prompt": shown(one.prompt or one.name), "films": films}


def _row(row: Row, a: str, b: str) -> dict[str, Any]:
    tested = row.verdict != "untested"
    return {
        "title": row.title,
        "a": row.show(row.a.mean),
        "b": row.show(row.b.mean),
        "difference": row.show(row.difference, True),
        "span": row.span(),
        "p": said(row.p) if tested else "–",
        "corrected": said(row.corrected) if tested and row.name != ALL_FIELDS else "–",
        "verdict": row.verdict,
        "words": row.outcome(a, b),
    }


def _plots(found: Comparison) -> list[dict[str, Any]]:
    fields = [row for row in found.rows if row.name in (ALL_FIELDS, *FIELDS)]
    looks = [row for row in found.rows if row not in fields]
    plots: list[tuple[str, str, Markup]] = []
    if fields:
        lines = [
            charts.Line(row.title, [charts.Mark(x.mean, x.low, x.high) for x in (row.a, row.b)], GOALS.get(row.name))
            for row in fields
        ]
        plot = charts.whiskers(lines, "Fields as asked", low=0, high=1, percent=True)
        plots.append(("Fields that are read as asked,", "with 95 % intervals; dashed: the goal.", plot))
        plots.append(
            (
                "The differences,",
                "B less A, in points, with 95 % intervals that are not corrected; right of the line B is better.",
                _forest(fields, [1.0] * len(fields), percent=True),
            )
        )
    if looks:
        # Each in its own unit would need an axis each; a deviation of the differences is one that all have.
        scales = [(1 if row.better == "higher" else -1) / (row.spread or math.nan) for row in looks]
        plots.append(
            (
                "How they look,",
                "differences in deviations of the differences, with 95 % intervals that are not corrected; right of "
                "the line B is better.",
                _forest(looks, scales, percent=False),
            )
        )
    return [{"title": title, "what": what, "plot": plot} for title, what, plot in plots]


def _forest(rows: list[Row], scales: list[float], percent: bool) -> Markup:
    """Differences with their intervals about the line of none; the colour is that of who is ahead."""
    lines, ends = [], [0.1]
    for row, scale in zip(rows, scales, strict=True):
        low, high = sorted((row.low * scale, row.high * scale))
        mark = charts.Mark(row.difference * scale, low, high, series=int(row.difference * scale > 0))
        ends += [abs(x) for x in (mark.value, low, high) if math.isfinite(x)]
        lines.append(charts.Line(row.title, [mark]))
    most = max(ends) * 1.05
    return charts.whiskers(lines, "Differences", low=-most, high=most, percent=percent, zero=True)
