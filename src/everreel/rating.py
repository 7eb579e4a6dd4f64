"""The commands for SkyReels-Bench, where people rate films: `everreel rate make`, `serve`, `status` and `export`.

The one invariant: all that a rater answered is in the study's folder, and no command but the page writes there once
ratings have begun; `export` writes elsewhere, and writes the same for the same answers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from everreel.evaluate.bench.ratings import RaterLog
    from everreel.evaluate.bench.study import Study

app = typer.Typer(help="Let people rate films: SkyReels-Bench on a page of your own.", no_args_is_help=True)
CSV_COLUMNS = ("kind", "model", "axis", "value", "low", "high", "answers")
StudyFolder = Annotated[Path, typer.Argument(help="The folder of the study.")]


@app.command()
def make(
    study: StudyFolder,
    films: Annotated[list[str], typer.Argument(help="A folder of films for each model, or NAME=FOLDER.")],
    *,
    ask: Annotated[str, typer.Option(help="scores, pairs or both.")] = "scores",
    axes: Annotated[str | None, typer.Option(help="As in motion_quality,overall; by default all.")] = None,
    medium: Annotated[str, typer.Option(help="t2v or i2v: which of the paper's tables is the one to see.")] = "t2v",
    pictures: Annotated[
        Path | None, typer.Option(help="A folder of the pictures that the films begin with, called as these are.")
    ] = None,
    title: Annotated[str, typer.Option(help="What raters see at the top.")] = "Which films are good?",
    per_rater: Annotated[int | None, typer.Option(help="Prompts for each rater; by default all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which raters see them.")] = 0,
    repeats: Annotated[int, typer.Option(help="How many are shown twice, to see whether one agrees with oneself.")] = 0,
    checks: Annotated[int, typer.Option(help="How many only ask whether the rater is there.")] = 0,
) -> None:
    """Make a study of folders of films, one a model; films of the same name are of the same prompt."""
    from everreel.evaluate.bench.study import KINDS, PAIR_AXES, StudySettings, make_study

    settings = StudySettings(
        title=title,
        kinds=KINDS if ask == "both" else (ask,),
        axes=tuple(part.strip() for part in axes.split(",")) if axes else tuple(PAIR_AXES),
        medium=medium,
        seed=seed,
        repeats=repeats,
        checks=checks,
        prompts_per_rater=per_rater,
    )
    made = make_study(study, _models(films), settings, pictures)
    if medium == "i2v" and pictures is None:
        typer.echo("raters do not see what the films were to begin with; --pictures FOLDER shows it", err=True)
    for line in made.left_out:
        typer.echo(line, err=True)
    typer.echo(f"{len(made.prompts)} prompts, {len(made.models)} models: {', '.join(made.models)}; in {study}")


@app.command()
def serve(
    study: StudyFolder,
    *,
    host: Annotated[str, typer.Option(help="Where the page is reached; 0.0.0.0 is the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8720,
    key: Annotated[str | None, typer.Option(help="A word that the page's address needs.")] = None,
) -> None:
    """Serve the page that raters open, until Ctrl-C; every answer is on disk at once."""
    from filelock import FileLock, Timeout

    from everreel.evaluate.bench.server import Desk, bind
    from everreel.evaluate.bench.server import serve as run

    desk = Desk(study)
    for line in (*desk.ratings.problems, *desk.lost_films()):
        typer.echo(line, err=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(study / ".serving.lock", timeout=0))
        except Timeout:
            raise ValueError(f"study = {study}: is being served already; stop that first, or open its page") from None
        bound = stack.enter_context(bind(host, port, key))
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{shown}:{bound.getsockname()[1]}/{f'#key={key}' if key else ''}")
        with suppress(KeyboardInterrupt):  # the way to end it
            run(desk, bound, key)


@app.command()
def status(study: StudyFolder) -> None:
    """Say how far each rater is, and the codes with which they can go on elsewhere."""
    loaded, raters, problems = _open(study, ())
    typer.echo(f"{len(loaded.prompts)} prompts, {len(loaded.models)} models, {len(raters)} raters")
    for rater in raters:
        typer.echo(f"{rater.name}: {rater.num_done} of {len(rater.tasks)}, code {rater.header.code}")
    for line in problems:
        typer.echo(line, err=True)


@app.command()
def export(
    study: StudyFolder,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the tables.")],
    beside: Annotated[str | None, typer.Option(help="paper: its table, below one's own.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A rater whose answers do not count; any number.")] = None,
) -> None:
    """Write the tables (results.md, .csv and .json) and, of pairs, preferences.jsonl."""
    from everreel.evaluate.bench.preferences import preferences
    from everreel.evaluate.bench.tables import csv_rows, markdown, published, results_of

    if beside not in (None, "paper"):
        raise ValueError(f"beside = {beside!r}: must be paper")
    loaded, raters, problems = _open(study, without or ())
    if not any(rater.answers for rater in raters):
        raise ValueError(f"study = {study}: nobody has answered anything yet; open the page with: everreel rate serve")
    lines, contradictions = preferences(loaded, raters, study)
    results = results_of(loaded, raters, [*problems, *contradictions])
    paper = published(loaded.medium) if beside else None
    output.mkdir(parents=True, exist_ok=True)
    page = markdown(results, paper)
    (output / "results.md").write_text(page, encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results.record(), indent=1) + "\n", encoding="utf-8")
    with (output / "results.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_rows(results, paper))
    if "pairs" in loaded.kinds:
        rows = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (output / "preferences.jsonl").write_text(rows, encoding="utf-8")
    typer.echo(page)


def _open(folder: Path, without: Sequence[str]) -> tuple[Study, list[RaterLog], list[str]]:
    """A study and those of its raters who count, by name."""
    from everreel.evaluate.bench.ratings import Ratings, key_of
    from everreel.evaluate.bench.study import load_study

    study = load_study(folder)
    ratings = Ratings(folder, study)
    gone = {key_of(name): name for name in without}
    for key, name in gone.items():
        if key not in ratings.raters:
            there = ", ".join(rater.name for rater in ratings.raters.values()) or "nobody"
            raise ValueError(f"without = {name!r}: is no rater of this study; {there} rated")
    raters = [rater for key, rater in sorted(ratings.raters.items()) if key not in gone]
    return study, raters, ratings.problems


def _models(films: Sequence[str]) -> dict[str, Path]:
    """Of `NAME=FOLDER` or `FOLDER`, in their order."""
    from everreel.evaluate.bench.found import model_name

    models: dict[str, Path] = {}
    for given in films:
        name, equals, folder = given.partition("=")
        if Path(given).is_dir() or not equals:
            name, folder = model_name(Path(given)), given
        if not name or name in models:
            raise ValueError(f"films = {given!r}: two models cannot both be {name!r}; give names: a={folder}")
        models[name] = Path(folder)
    return models
