"""One page of films: players, plots, tables, and which are best and worst.

The one invariant: the page is a function of the sets it is given and of where it lies; it opens from the disk, without
a network and without a script.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from markupsafe import Markup

from everreel.evaluate import charts
from everreel.evaluate.film_set import Film, FilmSet
from everreel.evaluate.follow import FIELDS, GOALS, wilson
from everreel.evaluate.page import card, facts_of, render, shown
from everreel.evaluate.quality import MEASURES
from everreel.evaluate.significance import interval

ENDS = 3
"""Films that are shown as the best, and as the worst."""
PLAYERS = 64

Floats = npt.NDArray[np.float64]
Cards = Callable[[Film], dict[str, Any]]


def report(sets: Sequence[FilmSet], page: Path, *, embed: bool = False, players: int = PLAYERS) -> str:
    """The page, as it will lie at `page`.

    Args:
        embed: put the films into the page instead of linking to them.
        players: of each set, so many films at most beside the best and the worst.

    Raises:
        ValueError: no set, or a number of players below 0.
    """
    if not sets:
        raise ValueError("films = none: a report takes at least one folder of films")
    if players < 0:
        raise ValueError(f"players = {players}: must be at least 0; 0 works")
    made: dict[tuple[Path, str], dict[str, Any]] = {}

    def cards(film: Film, folder: Path) -> dict[str, Any]:
        key = folder, film.name
        if key not in made:
            made[key] = card(film, page, embed)
        return made[key]

    generator = torch.Generator().manual_seed(0)
    return render(
        "report.html",
        title=f"Films: {', '.join(found.name for found in sets)}"[:200],
        sets=[_section(found, players, lambda film, found=found: cards(film, found.folder)) for found in sets],  # type: ignore[misc]
        fields_plot=_fields_plot(sets),
        strips=_strips(sets, generator),
        rows=_table(sets, generator),
    )


def ranked(films: Sequence[Film]) -> tuple[list[Film], str]:
    """Films from best to worst, and by what: by the fields that are as asked, else by how they look.

    Of films with the same share of fields, the one comes first in which the critic finds what was asked more probable.
    How they look counts as the mean rank over the measures that all of them have.
    """
    read = [film for film in films if film.answers]
    if read:

        def follows(film: Film) -> tuple[float, float]:
            chances = [float(answer.probability) for answer in film.answers.values()]
            return film.share_right or 0.0, sum(chances) / len(chances)

        return sorted(read, key=follows, reverse=True), ", by the fields that are as asked"
    common = [name for name in MEASURES if films and all(name in film.figures for film in films)]
    if not common or len(films) < 2:
        return list(films), ""
    places = np.zeros(len(films))
    for name in common:
        values = np.array([film.figures[name] for film in films])
        better = values if MEASURES[name].better == "higher" else -values
        places += [(better > own).sum() + (better == own).sum() / 2 for own in better]
    return [films[index] for index in np.argsort(places, kind="stable")], ", by the mean rank in all measures"


def _section(found: FilmSet, players: int, cards: Cards) -> dict[str, Any]:
    order, by = ranked([film for film in found.films if film.path is not None])
    several = len(order) > 2 * ENDS and bool(by)
    rest = [film for film in found.films if film.path is not None][:players]
    whole = len(found.films)
    settings = {name: value for name, value in found.settings.items() if value not in (None, {}, "")}
    confused = Counter(
        f"{name.replace('_', ' ')}: {answer.asked} read as {answer.read}"
        for film in found.films
        for name, answer in film.answers.items()
        if answer.asked != answer.read
    )
    return {
        "name": found.name,
        "facts": facts_of(found),
        "settings": [(shown(name), shown(value)) for name, value in settings.items()],
        "skipped": [shown(missed) for missed in found.skipped],
        "confused": "; ".join(f"{shown(name)} ({count}×)" for name, count in confused.most_common(8)),
        "by": by,
        "best": [cards(film) for film in order[:ENDS]] if several else [],
        "worst": [cards(film) for film in order[: -ENDS - 1 : -1]] if several else [],
        "films": [cards(film) for film in rest],
        "heading": f"All {whole} films" if len(rest) == whole else f"{len(rest)} of {whole} films",
    }


def _share(found: FilmSet, name: str) -> tuple[int, int]:
    """In how many films a field is as it was asked for, and in how many it was read."""
    answers = [film.right[name] for film in found.films if name in film.right]
    return sum(answers), len(answers)


def _fields_plot(sets: Sequence[FilmSet]) -> Markup | None:
    lines = []
    for name in FIELDS:
        shares = [_share(found, name) for found in sets]
        if any(count for _, count in shares):
            marks = [charts.Mark(right / count, *wilson(right, count)) if count else None for right, count in shares]
            lines.append(charts.Line(name.replace("_", " "), marks, GOALS.get(name)))
    title = "Films in which a field is read as it was asked for"
    return charts.whiskers(lines, title, low=0, high=1, percent=True) if lines else None


def _strips(sets: Sequence[FilmSet], generator: torch.Generator) -> list[dict[str, Any]]:
    strips = []
    for name, measure in MEASURES.items():
        known = [(found, np.array([f.figures[name] for f in found.films if name in f.figures])) for found in sets]
        lines = [
            (found.name, values.tolist(), charts.Mark(float(values.mean()), *interval(values, generator)))
            for found, values in known
            if len(values)
        ]
        if lines:
            plot = charts.strip(lines, measure.title, measure.unit.startswith("share"))
            more = {"title": measure.title, "unit": measure.unit, "better": measure.better, "what": measure.what}
            strips.append({"plot": plot, **more})
    return strips


def _table(sets: Sequence[FilmSet], generator: torch.Generator) -> list[dict[str, Any]]:
    rows = []
    for name in FIELDS:
        shares = [_share(found, name) for found in sets]
        if any(count for _, count in shares):
            cells = [_field_cell(right, count) for right, count in shares]
            rows.append({"title": name.replace("_", " "), "better": "higher", "cells": cells})
    for name, measure in MEASURES.items():
        columns = [np.array([film.figures[name] for film in found.films if name in film.figures]) for found in sets]
        if any(len(values) for values in columns):
            cells = [_figure_cell(values, measure.show, generator) for values in columns]
            rows.append({"title": measure.title, "better": measure.better, "cells": cells})
    return rows


def _field_cell(right: int, count: int) -> str:
    if not count:
        return "–"
    low, high = wilson(right, count)
    return f"{right / count:.0%} ({low:.0%} to {high:.0%}), {count}"


def _figure_cell(values: Floats, show: Callable[[float], str], generator: torch.Generator) -> str:
    if not len(values):
        return "–"
    low, high = interval(values, generator)
    span = f" ({show(low)} to {show(high)})" if math.isfinite(low) else ""
    return f"{show(float(values.mean()))}{span}, {len(values)}"
