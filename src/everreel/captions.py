"""The command that says what films show: `everreel caption`.

The one invariant: stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from everreel.bars import films_bar


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
    fields: Annotated[bool, typer.Option("--fields", help="A column for each field too.")] = False,
    device: Annotated[str | None, typer.Option(help="Where a model runs; by default the best there is.")] = None,
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
    where = device or default_device()
    listed, left_out = listed_films(files)
    settings = RunSettings(captioner, fusion, tasks, fields)
    run = Run(
        listed,
        output,
        settings,
        lambda: captioner_of(captioner, where),
        lambda on_problem: fuser_of(fusion, where, on_problem),
    )
    try:
        with films_bar() as on_film:
            made = run.make(on_film)
    except KeyboardInterrupt:
        done = f"{len(listed) - len(run.missing())} of {len(listed)} captions are in {output}"
        typer.echo(f"{done}; go on with the same command", err=True)
        raise
    skipped = [*left_out, *made.skipped]
    for each in made.replaced:
        typer.echo(str(each), err=True)
    for each in skipped:
        typer.echo(f"skipped {each}", err=True)
    _list(output.with_name(f"{output.name}.skipped.txt"), [str(each) for each in skipped])
    typer.echo(f"{made.known + made.made} captions in {output}, {made.made} of them new, {len(skipped)} skipped")


def _list(path: Path, lines: list[str]) -> None:
    """The list of what was skipped; none where nothing was."""
    if lines:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.unlink(missing_ok=True)
