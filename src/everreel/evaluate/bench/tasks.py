"""What one rater is shown, in which order and on which side.

The one invariant: it follows from the study, the rater's name and the rater's number alone, so it is the same after
every restart; and nothing in a task's name tells what it shows. Each kind has its own part: first all scores, then all
pairs. Of every two models each is on the left in half of a rater's pairs, give or take one. Raters who are given a part
of the prompts are given the next ones in a shuffled ring, so all prompts are rated equally often.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from everreel.evaluate.bench.study import Film, Kind, Study, opaque

LEFT, RIGHT, TIE = "left", "right", "tie"
SCORES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Task:
    """One film, or two, left first. A check asks for one answer in words: `check`; it says nothing of the films."""

    id: str
    kind: Kind
    films: tuple[str, ...]
    prompt: int
    repeat: bool = False
    check: str | None = None


def tasks_for(study: Study, rater: str, number: int) -> list[Task]:
    """All that a rater is asked, in order. `number` counts the raters of the study from 0, as they came."""
    return [task for kind in study.kinds for task in _part(study, kind, rater, number)]


def _part(study: Study, kind: Kind, rater: str, number: int) -> list[Task]:
    draw = random.Random(f"{study.secret}/{study.seed}/{kind}/{rater}")
    films = _films(study, number)
    shown = [(film.id,) for row in films for film in row] if kind == "scores" else _sided(films, draw)
    draw.shuffle(shown)
    prompts = {film.id: film.prompt for row in films for film in row}
    once = [Task("", kind, ids, prompts[ids[0]]) for ids in shown]
    tasks = _with_checks(_with_repeats(once, study.repeats, draw), study.checks, draw)
    return [replace(task, id=_name(study, rater, task, place)) for place, task in enumerate(tasks)]


def _films(study: Study, number: int) -> list[list[Film]]:
    """The films of a rater's prompts, those of one prompt together."""
    rows: list[list[Film]] = [[] for _ in study.prompts]
    for film in study.films:
        rows[film.prompt].append(film)
    if study.prompts_per_rater is None or study.prompts_per_rater >= len(rows):
        return rows
    random.Random(f"{study.secret}/{study.seed}/ring").shuffle(rows)
    begin = number * study.prompts_per_rater
    return [rows[(begin + step) % len(rows)] for step in range(study.prompts_per_rater)]


def _sided(films: Sequence[Sequence[Film]], draw: random.Random) -> list[tuple[str, ...]]:
    """Every two films of each prompt, half of them the other way round for each two models."""
    rows: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in films:
        for a, b in itertools.combinations(row, 2):
            rows.setdefault((a.model, b.model), []).append((a.id, b.id))
    shown: list[tuple[str, ...]] = []
    for pairs in rows.values():
        first = draw.randrange(2)
        swapped = [(place + first) % 2 for place in range(len(pairs))]
        draw.shuffle(swapped)
        shown += [ids[::-1] if swap else ids for ids, swap in zip(pairs, swapped, strict=True)]
    return shown


def _with_repeats(tasks: list[Task], count: int, draw: random.Random) -> list[Task]:
    """Some of the first half come again somewhere in the second, pairs with their sides changed."""
    half = (len(tasks) + 1) // 2
    again = draw.sample(tasks[:half], min(count, half))
    late = tasks[half:]
    for task in again:
        late.insert(draw.randint(0, len(late)), replace(task, films=task.films[::-1], repeat=True))
    return tasks[:half] + late


def _with_checks(tasks: list[Task], count: int, draw: random.Random) -> list[Task]:
    """Films of the rater's own that come with the answer they must be given, anywhere but at the beginning."""
    for task in draw.sample(tasks, min(count, len(tasks))):
        wanted = str(draw.choice(SCORES)) if task.kind == "scores" else draw.choice((LEFT, RIGHT))
        tasks.insert(draw.randint(1, len(tasks)), replace(task, repeat=False, check=wanted))
    return tasks


def _name(study: Study, rater: str, task: Task, place: int) -> str:
    # A check may show what another check shows, so its place tells them apart; all others are told apart by themselves.
    kind = f"check {place}" if task.check else "repeat" if task.repeat else "once"
    return opaque(study.secret, "task", rater, task.kind, kind, *task.films)
