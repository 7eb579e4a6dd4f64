"""Whether two sets of films differ by more than chance.

Intervals are percentile bootstraps of the mean (Efron, 1979). Tests are randomisation tests of the same mean: where
films are paired, the signs of the differences are drawn anew; where they are not, who belongs to which set. Fields that
are right or wrong on single pairs have McNemar's exact test instead. The one invariant: every draw comes from the
generator that is handed in, and a p value is never 0: it counts what was seen as one of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

DRAWS = 10_000
LEVEL = 0.05
LEAST_PAIRS = 6
"""With fewer, not even films that all differ the same way reach 5 %: 2 / 2^5 is 6 %."""
LEAST_UNPAIRED = 4
"""Of either set, for the same reason."""
_AT_ONCE = 2**22  # numbers that are drawn at a time

Floats = npt.NDArray[np.float64]


def interval(values: Floats, generator: torch.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean; of fewer than two values it is nan."""
    if len(values) < 2:
        return math.nan, math.nan
    means = np.concatenate([values[drawn].mean(1) for drawn in _drawn(len(values), generator)])
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def interval_between(a: Floats, b: Floats, generator: torch.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of `b` less the mean of `a`, which are not paired."""
    if min(len(a), len(b)) < 2:
        return math.nan, math.nan
    means = [np.concatenate([values[drawn].mean(1) for drawn in _drawn(len(values), generator)]) for values in (a, b)]
    low, high = np.quantile(means[1] - means[0], (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def sign_test(differences: Floats, generator: torch.Generator) -> float:
    """How probable a mean at least as far from 0 is if each difference might as well have the other sign."""
    size = len(differences)
    far, hits = abs(differences.mean()) - 1e-12, 1
    for count in _counts(size):
        signs = torch.randint(2, (count, size), generator=generator).numpy() * 2 - 1
        hits += int((np.abs(signs @ differences) / size >= far).sum())
    return hits / (DRAWS + 1)


def label_test(a: Floats, b: Floats, generator: torch.Generator) -> float:
    """How probable means at least as far apart are if each film might as well be of the other set."""
    both = np.concatenate([a, b])
    far, hits = abs(b.mean() - a.mean()) - 1e-12, 1
    for count in _counts(len(both)):
        order = torch.rand(count, len(both), generator=generator).argsort(1).numpy()
        mixed = both[order]
        hits += int((np.abs(mixed[:, len(a) :].mean(1) - mixed[:, : len(a)].mean(1)) >= far).sum())
    return hits / (DRAWS + 1)


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact test: how probable so uneven a split is of the pairs in which only one side is right."""
    count, fewer = only_a + only_b, min(only_a, only_b)
    if not count:
        return 1.0
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / (1 << count))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): the p values as they count where so many things are tested at once."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def _drawn(size: int, generator: torch.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Indices with replacement, `DRAWS` rows of them in all."""
    for count in _counts(size):
        yield torch.randint(size, (count, size), generator=generator).numpy()


def _counts(size: int) -> list[int]:
    """`DRAWS` in portions that fit into memory."""
    portion = max(1, min(DRAWS, _AT_ONCE // size))
    return [min(portion, DRAWS - begun) for begun in range(0, DRAWS, portion)]
