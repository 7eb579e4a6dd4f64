"""Bars and histograms as SVG, in the style of `evaluate/charts.py`.

The one invariant: that of the charts: every word is escaped, and the page's colours are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from everreel.evaluate.charts import LABEL, axis, place, svg, text

_STEP, _TALL = 26, 110


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> Markup:
    """A bar for each name and value, with words behind it; the longest is as wide as the plot."""
    if not rows:
        return Markup("")
    most = max(value for _, value, _ in rows) * 1.35 or 1.0  # room for the words
    parts = []
    for number, (name, value, words) in enumerate(rows):
        top, end = number * _STEP + 4, place(value, 0, most)
        parts.append(text(LABEL - 10, top + 13, name, "end"))
        box = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="18" rx="2"/>')
        parts.append(box.format(LABEL, top, max(1.5, end - LABEL)))
        parts.append(text(max(LABEL + 1.5, end) + 6, top + 13, words, "start"))
    return svg(parts, _STEP * len(rows) + 4, title)


def histogram(values: Sequence[float], thresholds: Sequence[float], title: str, bins: int = 30) -> Markup:
    """How many clips have which value; a dashed line at each threshold. Infinite values and nan are left out."""
    known = np.array([value for value in values if math.isfinite(value)], np.float64)
    if not len(known):
        return Markup("")
    low, high = _span(known, [value for value in thresholds if math.isfinite(value)])
    counts, edges = np.histogram(known.clip(low, high), bins, (low, high))
    parts = [axis(low, high, _TALL, False)]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            tall = max(1.5, (_TALL - 16) * count / counts.max())
            x, end = place(left, low, high), place(right, low, high)
            box = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
            parts.append(box.format(x + 0.5, _TALL - tall, end - x - 1, tall))
    for value in thresholds:
        if low <= value <= high:
            parts.append(Markup('<path class="limit" d="M{:.1f} 0V{}"/>').format(place(value, low, high), _TALL))
    parts.append(text(LABEL - 10, 20, f"{counts.max()} clip{'' if counts.max() == 1 else 's'}", "end"))
    return svg(parts, _TALL + 24, title)


def _span(known: np.ndarray[tuple[int], np.dtype[np.float64]], thresholds: Sequence[float]) -> tuple[float, float]:
    """Nearly all values and every threshold near them; a few far out are put into the last bar."""
    low, high = (float(value) for value in np.percentile(known, (1, 99)))
    near = (high - low) or math.inf  # where all are the same, the threshold is all there is to see
    for value in thresholds:
        low = value if low - 3 * near <= value < low else low
        high = value if high < value <= high + 3 * near else high
    margin = ((high - low) or max(abs(high), 1.0) * 0.1) * 0.04
    return (low - margin if low < 0 or low - margin > 0 else 0.0), high + margin
