"""How well preferences are told apart by a policy, pair by pair, and what is said of many.

The one invariant: a pair counts once, however often it was looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from everreel.data.draws import generator_for
from everreel.evaluate.significance import interval


@dataclass(frozen=True)
class Look:
    """What was seen of one pair: its kind, the margin, and how the error of each film has shifted."""

    kind: str
    margin: float
    better_shift: float
    worse_shift: float

    @property
    def told(self) -> float:
        """1 where the better film is favoured, 0 where the worse one is, a half where neither."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


@dataclass(frozen=True)
class Check:
    """Means over pairs; `interval` is the 95 % one of the accuracy, None of fewer than two pairs."""

    pairs: int
    implicit_accuracy: float
    interval: tuple[float, float] | None
    margin: float
    better_shift: float
    worse_shift: float
    by_kind: dict[str, tuple[float, int]]
    """Of each kind the accuracy and the number of pairs."""

    def values(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def summary(looks: Sequence[Look]) -> Check:
    """What is said of pairs, at least one."""
    told = np.array([look.told for look in looks])
    margin, better, worse = (
        float(np.mean([getattr(look, name) for look in looks])) for name in ("margin", "better_shift", "worse_shift")
    )
    kinds: dict[str, list[float]] = defaultdict(list)
    for look in looks:
        kinds[look.kind].append(look.told)
    by_kind = {kind: (float(np.mean(found)), len(found)) for kind, found in sorted(kinds.items())}
    between = interval(told, generator_for(0, "check")) if len(looks) > 1 else None
    return Check(len(looks), float(told.mean()), between, margin, better, worse, by_kind)
