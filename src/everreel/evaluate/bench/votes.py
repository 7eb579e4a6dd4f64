"""What raters said, as numbers, and how far it would move with other prompts and other raters.

The intervals are from the bootstrap over prompts and raters at once: each of its draws takes as many prompts, and as
many raters, as there are, with replacement, and an answer counts as often as its prompt times its rater was taken. With
one rater they tell of the prompts alone. The one invariant: checks, repeats and films that did not play are in no
figure, and an answer about a pair counts for the same model whichever side it was on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from everreel.evaluate.bench.ratings import Answer, RaterLog
from everreel.evaluate.bench.study import Film, Kind, Study
from everreel.evaluate.bench.tasks import LEFT, RIGHT

Floats = npt.NDArray[np.float64]
DRAWS = 1000
SEED = 0
_AT_ONCE = 1 << 24  # numbers held at a time


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds 95 % of the bootstrap's; `count` answers stand behind it."""

    value: float
    low: float
    high: float
    count: int

    @property
    def differs(self) -> bool:
        """Of a difference: whether it is more than other prompts and raters would explain."""
        return self.low > 0 or self.high < 0

    def show(self, digits: int = 2) -> str:
        """3.14 (2.98 to 3.30); a dash where nobody answered."""
        if not self.count or np.isnan(self.value):
            return "–"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Choice:
    """An answer on an axis about two films, in the order of the models: 1 the first is better, 0 a tie, -1 worse."""

    first: Film
    second: Film
    rater: int
    axis: str
    value: int
    answer: Answer


def counted(raters: Sequence[RaterLog], kind: Kind) -> Iterator[tuple[int, Answer]]:
    """The answers that count, each with its rater's number."""
    for number, rater in enumerate(raters):
        for found in rater.answers.values():
            if found.kind == kind and not (found.repeat or found.check or found.unplayable):
                yield number, found


def score_cells(study: Study, raters: Sequence[RaterLog]) -> tuple[Floats, Floats]:
    """Sums and counts of scores: (prompts, raters, models, axes)."""
    axes, films = study.axes_of("scores"), {film.id: film for film in study.films}
    sums = np.zeros((len(study.prompts), len(raters), len(study.models), len(axes)))
    counts = np.zeros_like(sums)
    for rater, found in counted(raters, "scores"):
        film = films[found.films[0]]
        place = film.prompt, rater, study.models.index(film.model)
        sums[place] += [float(found.answer[axis]) for axis in axes]
        counts[place] += 1
    return sums, counts


def choices(study: Study, raters: Sequence[RaterLog], *, repeats: bool = False) -> list[Choice]:
    """All answers about pairs, axis by axis; with `repeats`, only those to pairs that were shown again."""
    films, order = {film.id: film for film in study.films}, {model: n for n, model in enumerate(study.models)}
    answers: Iterable[tuple[int, Answer]] = counted(raters, "pairs")
    if repeats:
        asked = ((number, found) for number, rater in enumerate(raters) for found in rater.answers.values())
        answers = (row for row in asked if row[1].kind == "pairs" and row[1].repeat and not row[1].unplayable)
    made = []
    for rater, found in answers:
        left, right = (films[name] for name in found.films)
        turned = order[left.model] > order[right.model]
        first, second = (right, left) if turned else (left, right)
        for axis, side in found.answer.items():
            value = {LEFT: 1, RIGHT: -1}.get(str(side), 0)
            made.append(Choice(first, second, rater, axis, -value if turned else value, found))
    return made


def resample(cells: Floats, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """(prompts, raters, ...) → (draws, ...): each draw's sum over prompts and raters; draw 0 is all of them, once each.

    The same seed takes the same prompts and raters, so figures of one study can be set against each other draw by draw.
    """
    prompts, raters = cells.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    of_prompts, of_raters = (_times_taken(count, draws, generator) for count in (prompts, raters))
    flat = cells.reshape(prompts, -1)
    at_once = max(1, _AT_ONCE // max(flat.shape[1], 1))
    parts = []
    for begin in range(0, draws + 1, at_once):
        part = (of_prompts[begin : begin + at_once] @ flat).reshape(-1, raters, *cells.shape[2:])
        parts.append(np.einsum("br,br...->b...", of_raters[begin : begin + at_once], part))
    return np.concatenate(parts)


def estimate(drawn: Floats, count: float) -> Estimate:
    """Of what `resample` gave: the first is the figure, the others are its interval."""
    rest = drawn[1:][~np.isnan(drawn[1:])]
    low, high = np.percentile(rest, (2.5, 97.5)) if rest.size else (np.nan, np.nan)
    return Estimate(float(drawn[0]), float(low), float(high), int(count))


def _times_taken(count: int, draws: int, generator: torch.Generator) -> Floats:
    taken = torch.randint(max(count, 1), (draws, count), generator=generator)
    times = torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, taken, torch.ones(draws, count, dtype=torch.float64)
    )
    return np.concatenate([np.ones((1, count)), times.numpy()])
