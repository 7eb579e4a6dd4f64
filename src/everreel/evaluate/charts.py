"""Plots for pages, as SVG that stands in the page itself: means with their intervals, and films as dots on a line.

The one invariant: every word in them is escaped, and they hold no style, script or address of their own: the page's
colours are theirs, in the light and in the dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, LABEL, RIGHT, LINE, SERIES = 550, 170, 26, 15, 6
_TICKS = 5


@dataclass(frozen=True)
class Mark:
    """A mean with the ends of its interval; the ends may be nan. Its colour is that of its place, or of `series`."""

    value: float
    low: float = math.nan
    high: float = math.nan
    series: int | None = None


@dataclass(frozen=True)
class Line:
    """A named line of a plot: a mark for each series, or none; a goal is drawn as a tick."""

    label: str
    marks: Sequence[Mark | None]
    goal: float | None = None


def whiskers(
    lines: Sequence[Line], title: str, *, low: float, high: float, percent: bool, zero: bool = False
) -> Markup:
    """Means and intervals, a line a thing and a mark a series; `zero` draws the line of no difference."""
    deep = max((len(line.marks) for line in lines), default=1)
    step = 10 + LINE * max(1, deep)
    height = step * len(lines) + 24
    parts = [axis(low, high, step * len(lines), percent)]
    if zero:
        parts.append(_rule(place(0, low, high), step * len(lines), "zero"))
    for number, line in enumerate(lines):
        middle = number * step + step / 2
        parts.append(text(LABEL - 10, middle + 4, line.label, "end"))
        if line.goal is not None:
            tick = Markup('<path class="goal" d="M{:.1f} {:.1f}v{:.1f}"/>')
            parts.append(tick.format(place(line.goal, low, high), middle - step / 2 + 3, step - 6))
        for series, mark in enumerate(line.marks):
            if mark is not None and math.isfinite(mark.value):
                y = middle + (series - (len(line.marks) - 1) / 2) * LINE
                parts.append(_mark(mark, y, series, low, high))
    return svg(parts, height, title)


def strip(sets: Sequence[tuple[str, Sequence[float], Mark]], title: str, percent: bool) -> Markup:
    """Films as dots on a line of their set, with the set's mean and interval below."""
    values = [value for _, found, _ in sets for value in found]
    if not values:
        return Markup("")
    low, high = _around(min(values), max(values))
    step = 34
    parts = [axis(low, high, step * len(sets), percent)]
    for series, (name, found, mark) in enumerate(sets):
        y = series * step + 12
        parts.append(text(LABEL - 10, y + 8, name, "end"))
        dots = [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"/>').format(place(value, low, high), y + (number % 3 - 1) * 3)
            for number, value in enumerate(found)
        ]
        parts.append(Markup('<g class="dots s{}">{}</g>').format(series % SERIES, Markup("").join(dots)))
        parts.append(_mark(mark, y + 13, series, low, high))
    return svg(parts, step * len(sets) + 24, title)


def _mark(mark: Mark, y: float, series: int, low: float, high: float) -> Markup:
    x = place(mark.value, low, high)
    whisker = Markup("")
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        ends = place(mark.low, low, high), place(mark.high, low, high)
        whisker = Markup('<path class="whisker" d="M{:.1f} {:.1f}H{:.1f}"/>').format(ends[0], y, ends[1])
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y)
    return Markup('<g class="mark s{}">{}{}</g>').format(
        series % SERIES if mark.series is None else mark.series, whisker, dot
    )


def axis(low: float, high: float, height: float, percent: bool) -> Markup:
    """A grid of round numbers from `low` to `high`, `height` units high, with its labels below."""
    parts = []
    for tick in _ticks(low, high):
        x = place(tick, low, high)
        words = f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts += [_rule(x, height, "grid"), text(x, height + 16, words, "middle")]
    return Markup("").join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + k) * step, 12) + 0.0 for k in range(int((high - first * step) / step + 1e-9) + 1)]


def _around(low: float, high: float) -> tuple[float, float]:
    """A little more than from the lowest to the highest."""
    wide = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
    return (low - wide if low < 0 or low - wide > 0 else 0.0), high + wide


def place(value: float, low: float, high: float) -> float:
    """The x of a value on that axis; what lies beyond an end is drawn at it."""
    share = (min(max(value, low), high) - low) / (high - low)
    return LABEL + share * (WIDTH - LABEL - RIGHT)


def _rule(x: float, height: float, kind: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} 0V{:.1f}"/>').format(kind, x, height)


def text(x: float, y: float, words: str, anchor: str) -> Markup:
    """Words, cut short, whose `anchor` (start, middle or end) is at x."""
    short = words if len(words) <= 24 else words[:23] + "…"
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, short)


def svg(parts: Sequence[Markup], height: float, title: str) -> Markup:
    """The parts as one picture, escaped where they are not markup yet."""
    box = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(WIDTH, height, title)
    return box + Markup("").join(escape(part) for part in parts) + Markup("</svg>")
