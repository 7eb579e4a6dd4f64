"""The commands for benchmarks of others: `everreel evaluate vbench films`, `run`, `measure` and `score`.

The one invariant: each goes on where it was stopped, and leaves files that the suite itself would take.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.bars import films_bar, pieces_bar
from everreel.enhance import EnhanceOptions, takes_enhancement, whole_texts
from everreel.film.loading import ModelOptions
from everreel.options import takes_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from everreel.checkpoint.catalog import ModelCard
    from everreel.evaluate.vbench.features import FilmScore
    from everreel.evaluate.vbench.films import SuiteFilms
    from everreel.evaluate.vbench.prompts import Prompt
    from everreel.media import Pixels

ENHANCED = "enhanced.jsonl"  # in the folder of the films

vbench = typer.Typer(name="vbench", help="VBench's films, dimensions and totals.", no_args_is_help=True)


@vbench.command("films")
@takes_model
@takes_enhancement
def vbench_films(
    *,
    prompts: Annotated[
        Path, typer.Option(help="VBench_full_info.json, the vbench wheel, or a folder of a text file a dimension.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the films.")] = Path("runs/vbench"),
    longer: Annotated[
        Path | None, typer.Option(help="Longer versions of the prompts: a text file, or a folder of one a dimension.")
    ] = None,
    dimensions: Annotated[str | None, typer.Option(help="As in color,scene; by default all sixteen.")] = None,
    num_prompts: Annotated[int | None, typer.Option(help="Of each dimension; by default all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Films of each prompt; by default 5, or 25 for flickering.")] = None,
    num_frames: Annotated[int, typer.Option(help="Of each film.")] = 97,
    num_inference_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the words; 1 is off.")] = None,
    guidance_level: Annotated[float | None, typer.Option(help="The noise level from which on guidance works.")] = None,
    guidance_until: Annotated[float | None, typer.Option(help="The noise level down to which it works.")] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the noise levels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels; by default the model's.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels; by default the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Another one makes other films.")] = 0,
    model: ModelOptions,
    enhance: EnhanceOptions | None,
) -> None:
    """Make the films that the suite asks for, called as it finds them; stopped, the same command goes on."""
    from everreel.evaluate.films import Making
    from everreel.evaluate.vbench.films import SuiteFilms, check_asked
    from everreel.evaluate.vbench.prompts import read_prompts, select

    if longer is not None and enhance is not None:
        raise ValueError(f"longer = {longer}: is what --enhance makes of the prompts; leave out one of them")
    chosen, card = select(read_prompts(prompts, longer), _names(dimensions), num_prompts), model.card()
    check_asked(card, seeds)
    if enhance is not None:
        chosen = _enhanced(chosen, enhance, card, output)
    making = Making(
        num_frames=num_frames,
        height=height,
        width=width,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        guidance_level=guidance_level,
        guidance_until=guidance_until,
        shift=shift,
    )
    films = SuiteFilms(card, chosen, making, output, seeds=seeds, seed=seed, loras=model.asked)
    for note in films.notes:
        typer.echo(note, err=True)
    typer.echo(f"{len(films.films)} films of {len(chosen)} prompts, {len(films.missing())} of them to be made")
    _make(films, model)
    typer.echo(f"{len(films.films)} films are in {output}; everreel evaluate vbench run {output} measures them")


def _enhanced(prompts: Sequence[Prompt], options: EnhanceOptions, card: ModelCard, output: Path) -> list[Prompt]:
    """The prompts with what films are made from instead; each is shown, and kept in the folder of the films."""
    with pieces_bar("prompt") as on_prompt:
        made = whole_texts((prompt.text for prompt in prompts), options, card, output / ENHANCED, on_prompt)
    for text, enhanced in made.items():
        typer.echo(f"{text}: {enhanced.text}")
    return [replace(prompt, long=made[prompt.text].text) for prompt in prompts]


def _make(films: SuiteFilms, model: ModelOptions) -> None:
    from everreel.film.pipeline import VideoPipeline

    if not films.missing():
        return
    pipeline = VideoPipeline.load(model)
    for note in pipeline.notes:
        typer.echo(note, err=True)
    try:
        with films_bar() as on_film:
            films.make(pipeline, on_film)
    except KeyboardInterrupt:
        done = len(films.films) - len(films.missing())
        said = f"{done} of {len(films.films)} films are in {films.output}; go on with the same command"
        typer.echo(f"everreel: stopped: {said}", err=True)
        sys.exit(2)


@vbench.command("run")
def vbench_run(
    folder: Annotated[Path, typer.Argument(help="Films: what `vbench films` has filled.")],
    *,
    environment: Annotated[
        Path, typer.Option("--vbench", help="The environment that the vbench package is in: its folder, or its python.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder of the results; by default beside the films.")
    ] = None,
    dimensions: Annotated[str | None, typer.Option(help="As in color,scene; by default all that have films.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a dimension that failed is tried again.")] = 1,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Minutes that a dimension may take.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Weights from the suite's cache folder alone.")] = False,
) -> None:
    """Have the suite measure films, a dimension at a time; what is measured already is kept."""
    from everreel.evaluate.vbench.runner import RunSettings, find_environment, find_films, run_suite

    suite = find_environment(environment)
    films = find_films(folder, suite)
    results = output or _beside(folder, "results")
    settings = RunSettings(retries, None if time_limit is None else 60 * time_limit, local)

    def on_line(dimension: str, line: str) -> None:
        typer.echo(f"{dimension}: {line}", err=True)

    outcome = run_suite(suite, films, results, _names(dimensions) or (), settings, on_line)
    for dimension in outcome.kept:
        typer.echo(f"{dimension} was measured before")
    for dimension in outcome.done:
        typer.echo(f"{dimension} is measured")
    for dimension, reason in outcome.failed.items():
        typer.echo(f"{dimension} failed: {reason}", err=True)
    typer.echo(f"{len(outcome.kept) + len(outcome.done)} dimensions are in {results}")
    if outcome.failed:
        failed = ", ".join(outcome.failed)
        raise ValueError(f"dimensions: {len(outcome.failed)} failed ({failed}); the same command tries them again")


@vbench.command("measure")
def vbench_measure(
    folder: Annotated[Path, typer.Argument(help="Films: what `vbench films` has filled, or any folder of films.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder of the results; by default beside the films.")
    ] = None,
    dino: Annotated[Path | None, typer.Option(help="DINO ViT-B/16's folder, for subject_consistency.")] = None,
    clip: Annotated[Path | None, typer.Option(help="CLIP ViT-B/32's folder, for background_consistency.")] = None,
    device: Annotated[str | None, typer.Option(help="Of the two models; by default the best there is.")] = None,
) -> None:
    """Measure without the suite: flickering, and consistency with models of your own, by the suite's formulas."""
    from everreel.evaluate.vbench import features
    from everreel.evaluate.vbench.films import FLICKERING
    from everreel.film.device import default_device

    results, device = output or _beside(folder, "measured"), device or default_device()
    measures: dict[str, tuple[Callable[[Iterable[Pixels]], FilmScore], str]] = {
        FLICKERING: (features.temporal_flickering, "no model; films that move are not left out")
    }
    if dino is not None:
        subject = features.dino(dino, device)
        measures[features.DINO] = (lambda frames: features.consistency(frames, subject), str(dino))
    if clip is not None:
        background = features.clip(clip, device)
        measures[features.CLIP] = (lambda frames: features.consistency(frames, background), str(clip))
    for dimension, (score, source) in measures.items():
        files = features.films_of(folder, dimension)
        if not files:
            typer.echo(f"{dimension}: {folder} has no films of it", err=True)
            continue
        with pieces_bar("film") as on_film:
            measured = features.measure(dimension, files, score, on_film)
        for line in measured.skipped:
            typer.echo(line, err=True)
        path = measured.save(results, {"by": source, "films": str(folder)})
        typer.echo(f"{dimension} {measured.score:.2%} of {len(measured.films)} films ({source}): {path}")


@vbench.command("score")
def vbench_score(
    results: Annotated[list[Path], typer.Argument(help="Result files of the suite, folders of them, or a ZIP.")],
    *,
    partial: Annotated[bool, typer.Option("--partial", help="Totals of what is there, if some is missing.")] = False,
    beside: Annotated[str | None, typer.Option(help="paper: its table of VBench, below one's own totals.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON file for the totals.")] = None,
) -> None:
    """Put result files together: Quality, Semantic and Total, as the suite's leaderboard has them."""
    from everreel.evaluate.films import write_json
    from everreel.evaluate.vbench.results import read_results
    from everreel.evaluate.vbench.scores import VBENCH, published, totals
    from everreel.media import check_file

    if beside not in (None, "paper"):
        raise ValueError(f"beside = {beside!r}: must be paper")
    if output is not None:
        check_file("output", output, "vbench.json")
    found = read_results(results)
    for note in found.notes():
        typer.echo(note, err=True)
    made = totals(found.raw, partial=partial)
    if beside and made.suite is not VBENCH:
        raise ValueError(f"beside = {beside}: is of VBench, and these are scores of {made.suite.name}; leave it out")
    typer.echo(made.describe())
    for line in published() if beside else ():
        typer.echo(line)
    if output is not None:
        write_json(output, made.record())
        typer.echo(f"wrote {output}")


def _beside(folder: Path, name: str) -> Path:
    """Where results go: never among the films themselves, where the suite would take them for films."""
    from everreel.evaluate.vbench.films import VIDEOS

    return (
        folder / name if (folder / VIDEOS).is_dir() else folder.absolute().with_name(f"{folder.absolute().name}-{name}")
    )


def _names(text: str | None) -> Sequence[str] | None:
    """Of "color,scene"."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
