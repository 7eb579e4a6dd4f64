"""The command that says what films show: `everreel caption`.

The one invariant: stopped at any moment, the same command goes on where it was, and why films were skipped is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from everreel.bars import films_bar

if TYPE_CHECKING:
    from everreel.data.sources import Skipped


def caption(
    files: Annotated[list[str], typer.Argument(help="Films, pictures, folders, or tables with a column `path`.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="A table that ends in .jsonl, .csv or .parquet.")],
    captioner: Annotated[
        str,
        typer.Option(
            help="tiny, a model's folder, Skywork/SkyCaptioner-V1, or http://HOST:PORT/v1#MODEL; with +flow behind it, "
            "how the camera moves is measured in real footage, by optical flow."
        ),
    ] = "tiny",
    fusion: Annotated[
        str, typer.Option(help="built-in, a language model's folder or repository, or http://HOST:PORT/v1#MODEL.")
    ] = "built-in",
    task: Annotated[str, typer.Option(help="What captions are fused for: t2v, i2v or both.")] = "both",
    fields: Annotated[bool, typer.Option("--fields", help="A column for each field, and each axis of motion.")] = False,
    device: Annotated[str | None, typer.Option(help="Where a model runs; by default the best there is.")] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For one answer of a served model; by default 120.")
    ] = None,
) -> None:
    """Write what films show: structured captions, and of these one caption for text-to-video and one for I2V.

    A row that comes with a structural_caption is only fused. Stopped, the same command goes on; what could not be
    captioned is named, listed in NAME.skipped.txt beside the table, and tried again by the next run.
    """
    from everreel.caption.runs import Run, RunSettings, captioner_of, fuser_of, listed_films
    from everreel.caption.schema import TASKS, Task
    from everreel.film.device import default_device

    if task not in (*TASKS, "both"):
        raise ValueError(f"task = {task!r}: must be one of {', '.join(TASKS)}, both")
    tasks = cast("tuple[Task, ...]", TASKS if task == "both" else (task,))
    seconds = _seconds(timeout, captioner, fusion)
    where = device or default_device()
    listed, left_out = listed_films(files)
    settings = RunSettings(captioner, fusion, tasks, fields)
    run = Run(
        listed,
        output,
        settings,
        lambda: captioner_of(captioner, where, seconds),
        lambda on_problem: fuser_of(fusion, where, on_problem, seconds),
    )
    listing = _Listing(output.with_name(f"{output.name}.skipped.txt"), left_out)
    try:
        with films_bar() as on_film:
            made = run.make(on_film, listing.add)
    except KeyboardInterrupt:
        done = f"{len(listed) - len(run.missing())} of {len(listed)} captions are in {run.table.log}"
        typer.echo(f"{done}; go on with the same command", err=True)
        raise
    skipped = [*left_out, *made.skipped]
    for each in made.replaced:
        typer.echo(str(each), err=True)
    for each in skipped:
        typer.echo(f"skipped {each}", err=True)
    listing.finish(skipped)
    typer.echo(f"{made.known + made.made} captions in {output}, {made.made} of them new, {len(skipped)} skipped")


def _seconds(timeout: float | None, *names: str) -> float:
    """How long a served model is waited for. Raises: ValueError: none of these is served."""
    from everreel.caption.runs import is_address
    from everreel.chat import TIMEOUT

    if timeout is None:
        return TIMEOUT
    if not any(map(is_address, names)):
        raise ValueError(f"timeout = {timeout:g}: goes with a captioner or fusion at an address; leave it out")
    return timeout


class _Listing:
    """The list of what was skipped, and why. What an earlier run wrote of films stays until a run comes to its end."""

    def __init__(self, path: Path, left_out: list[Skipped]) -> None:
        self._path = path
        self._known = set(path.read_text("utf-8", "surrogateescape").split("\n")) if path.is_file() else set[str]()
        for each in left_out:
            self.add(each)

    def add(self, skipped: Skipped) -> None:
        """A line more, on the disk when this returns."""
        if str(skipped) not in self._known:
            self._known.add(str(skipped))
            with self._path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{skipped}\n")

    def finish(self, skipped: list[Skipped]) -> None:
        """The list of a run that came to its end; none where nothing was skipped."""
        if skipped:
            half_done = self._path.with_name(f"{self._path.name}.part")
            half_done.write_text("".join(f"{each}\n" for each in skipped), "utf-8", "surrogateescape")
            half_done.replace(self._path)
        else:
            self._path.unlink(missing_ok=True)
