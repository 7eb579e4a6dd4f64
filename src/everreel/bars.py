"""Progress on the terminal: a film's blocks and steps, and films of many.

The one invariant: where nobody watches (a file, a pipe) there is no bar but a line for each piece that is done, of
pieces that take no time one every few seconds; and nothing is shown of an opening that there is none of.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from everreel.film.pipeline import Progress

BETWEEN = 10.0  # seconds from one line to the next, at least: a log of 100,000 films need not have as many lines
Show = Callable[[int, int, str, str], None]
"""How much is done of how much, what is at work, and the clock."""


@contextmanager
def film_bar(what: str = "") -> Iterator[Callable[[Progress], None]]:
    """Block, step, elapsed and remaining time; a line a block where no one is watching."""
    last_block = 0
    with _bar("" if what else "starting") as (show, watched):

        def on_progress(progress: Progress) -> None:
            nonlocal last_block
            plan = progress.plan
            where = f"{what}block {progress.block}/{plan.num_blocks} step {progress.step}/{plan.schedule.num_steps}"
            time_left = f"{clock(progress.elapsed)} elapsed, {clock(progress.remaining)} left"
            if watched:
                show(progress.row, progress.num_rows, where, time_left)
            elif progress.block > last_block or progress.row == progress.num_rows:
                last_block = progress.block
                typer.echo(f"{where}: {time_left}", err=True)

        yield on_progress


def films_bar() -> AbstractContextManager[Callable[[int, int], None]]:
    """Films, elapsed and remaining time; where no one is watching a line a film, or one every few seconds."""
    return pieces_bar("film", every=True)


@contextmanager
def pieces_bar(what: str, *, every: bool = False) -> Iterator[Callable[[int, int], None]]:
    """How many of a thing are done; where no one is watching, a line for `every` one, or for the last."""
    started, first, said = 0.0, -1, -math.inf
    with _bar("starting") as (show, watched):

        def on_piece(done: int, total: int) -> None:
            nonlocal started, first, said
            now = time.monotonic()
            if first < 0:
                started, first = now, done
            elapsed = now - started
            left = f", {clock(elapsed / (done - first) * (total - done))} left" if done > first else ""
            where, time_left = f"{what} {done}/{total}", f"{clock(elapsed)} elapsed{left}"
            if watched:
                show(done, total, where, time_left)
            elif done == total or (every and now - said >= BETWEEN):
                said = now
                typer.echo(f"{where}: {time_left}", err=True)

        yield on_piece


@contextmanager
def bytes_bar() -> Iterator[Callable[[int, int, str], None]]:
    """How much of a download is here, and which file it is at; a line a file where no one is watching."""
    started, first, last = time.monotonic(), -1, ""
    with _bar("starting") as (show, watched):

        def on_bytes(done: int, total: int, file: str) -> None:
            nonlocal first, last
            first = done if first < 0 else first
            speed = (done - first) / max(time.monotonic() - started, 1e-9)
            left = f", {clock((total - done) / speed)} left" if speed else ""
            amount = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB{left}"
            if watched:
                show(done, total, file, amount)
            elif file != last:
                last = file
                typer.echo(f"{file}: {amount}", err=True)

        yield on_bytes


@contextmanager
def _bar(first: str) -> Iterator[tuple[Show, bool]]:
    """A bar that is there from its first word on, and whether anyone watches."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[clock]}"))
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task: TaskID | None = bar.add_task(first, total=None, clock="") if first else None

        def show(done: int, total: int, where: str, time_left: str) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(where, total=total, clock=time_left)
            bar.update(task, completed=done, total=total, description=where, clock=time_left)

        yield show, console.is_terminal


def clock(seconds: float) -> str:
    """1:02 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
