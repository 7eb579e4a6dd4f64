"""Preference pairs for reinforcement learning of motion: which of two films of one prompt a rater found better.

A line of JSON for each answer on each axis: the prompt, both films, the better and the worse or a tie, and who said so.
The one invariant: no line contradicts another of the same rater about the same two films; a pair that was shown twice
and answered in opposite ways has no line on that axis, and is named instead.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from everreel.evaluate.bench.ratings import RaterLog
from everreel.evaluate.bench.study import PAIR_AXES, Study
from everreel.evaluate.bench.votes import Choice, choices

Place = tuple[int, str, str, str]
"""A rater, an axis and two films."""


def preferences(study: Study, raters: Sequence[RaterLog], folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines, with the films' paths, and the contradictions among all answers in words.

    A contradiction is a pair shown twice of which each film was found better once (left out), or three films of one
    prompt in a circle, each better than the next (kept, as none of the three answers is the wrong one).
    """
    made = choices(study, raters)
    opposite = set(_opposite(made, choices(study, raters, repeats=True)))
    lines = [
        _line(study, folder, raters[choice.rater].name, choice) for choice in made if _place(choice) not in opposite
    ]
    names = {film.id: film.model for film in study.films}
    said = []
    for rater, axis, first, second in sorted(opposite):
        of = f"{names[first]} and {names[second]} for {_prompt(study, first)}"
        said.append(f"{raters[rater].name} on {PAIR_AXES[axis]}: {of} was answered in opposite ways; left out")
    for rater, axis, films in _circles(made):
        ring = " over ".join(names[film] for film in (*films, films[0]))
        said.append(f"{raters[rater].name} on {PAIR_AXES[axis]}: {ring} for {_prompt(study, films[0])}")
    return lines, said


def _opposite(made: Sequence[Choice], again: Sequence[Choice]) -> Iterator[Place]:
    before = {_place(choice): choice.value for choice in made}
    for choice in again:
        if before.get(_place(choice), 0) * choice.value < 0:
            yield _place(choice)


def _circles(made: Sequence[Choice]) -> Iterator[tuple[int, str, tuple[str, str, str]]]:
    better: dict[tuple[int, str, int], set[tuple[str, str]]] = defaultdict(set)
    for choice in made:
        if choice.value:
            films = (choice.first.id, choice.second.id)
            better[choice.rater, choice.axis, choice.first.prompt].add(films if choice.value > 0 else films[::-1])
    for (rater, axis, _), over in better.items():
        shown = sorted({film for pair in over for film in pair})
        for a, b, c in itertools.combinations(shown, 3):
            for ring in ((a, b, c), (a, c, b)):
                if over.issuperset(zip(ring, ring[1:] + ring[:1], strict=True)):
                    yield rater, axis, ring


def _line(study: Study, folder: Path, rater: str, choice: Choice) -> dict[str, Any]:
    films = [str((folder / film.path).resolve()) for film in (choice.first, choice.second)]
    better = None if not choice.value else films[0] if choice.value > 0 else films[1]
    worse = None if not choice.value else films[1] if choice.value > 0 else films[0]
    return {
        "prompt": study.prompts[choice.first.prompt].text,
        "axis": choice.axis,
        "films": films,
        "models": [choice.first.model, choice.second.model],
        "better": better,
        "worse": worse,
        "tie": not choice.value,
        "rater": rater,
        "seconds": choice.answer.seconds,
    }


def _place(choice: Choice) -> Place:
    return choice.rater, choice.axis, choice.first.id, choice.second.id


def _prompt(study: Study, film: str) -> str:
    return study.prompts[next(found.prompt for found in study.films if found.id == film)].key
