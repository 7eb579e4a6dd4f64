"""What the pages that are written by programs share: tables, paragraphs, and what became of a goal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 118
RULES = {"l": "---", "r": "---:"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str | None = None) -> list[str]:
    """A table in Markdown; `align` has an l or an r for each column."""
    rule = [RULES[side] for side in align or "l" * len(head)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def paragraph(text: str, bullet: str = "") -> list[str]:
    """Words in lines that a person can read in the source too."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def verdict(met: bool) -> str:
    """What became of a goal."""
    return "met" if met else "**missed**"
