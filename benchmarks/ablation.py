"""What the noise levels of training do: models that differ in them alone, measured side by side.

`python -m benchmarks.ablation runs/ablation_levels` after `everreel train recipes/ablation_levels.py`. The one
invariant: every run is asked the same. It sees the same held-out windows with the same noise under all kinds of levels,
whichever it was trained with, and makes films of the same prompts from the same seeds; what was not measured is named
as missing. Films are kept, so that a run that was stopped goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import functools
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import bootstrap, say
from benchmarks.recipe import interval
from everreel.caption.critic import shipped_critic
from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.load import load_vae
from everreel.data.clips import ClipStore
from everreel.data.draws import generator_for
from everreel.data.latents import EncodeSettings, encode_store
from everreel.evaluate.drift import MEASURES, DriftMeter
from everreel.evaluate.films import digest
from everreel.evaluate.follow import FIELDS, Evaluation, FilmSettings, Reader, Report, reader_of
from everreel.evaluate.follow import measure as measure_films
from everreel.evaluate.markdown import paragraph, table
from everreel.film.device import default_device
from everreel.film.pipeline import VideoPipeline
from everreel.media import Video
from everreel.memory import keep_freed_memory
from everreel.shapes import video_frames
from everreel.train.batches import move
from everreel.train.diffusion_forcing import BANDS, DiffusionForcing, DiffusionForcingRecipe
from everreel.train.pack import PackRecipe
from everreel.train.progress import read_metrics
from everreel.train.run import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "ablation_levels.py"
WEIGHTS = "transformer.safetensors"
LEVELS = {"equal": "equal", "independent": "independent", "non_decreasing": "non-decreasing"}
NO_LEVELS = {"equal": 0.0, "independent": 0.0, "non_decreasing": 0.0, "clean_prefix": 0.0, "given_anywhere": 0.0}
# Nothing is held against drift: what is measured is the model, not what serving does for it. Nor is anything kept:
# these models know full attention alone.
BLOCKWISE: dict[str, Any] = {"schedule": "blockwise", "cache": False, "anchor_color": 0.0}
WAYS: dict[str, dict[str, Any]] = {"at once": {}, "block by block": BLOCKWISE}
FPS = 24
SHIFT = 3.0
READ_AT_ONCE = 2 * FPS  # frames of a long film

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Run:
    """One training run and the stage of the recipe that it is of."""

    folder: Path
    recipe: DiffusionForcingRecipe

    @property
    def name(self) -> str:
        """That of its stage, and of its column."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        """Its averaged weights, once it has written them."""
        return self.folder / WEIGHTS

    @property
    def window(self) -> int:
        """The most latent frames that it was trained on."""
        return max(frames for frames, _ in self.recipe.windows)


@dataclass(frozen=True)
class Setting:
    """How much is measured; 0 leaves a part out. `size` is height and width of the films in pixels."""

    windows: int = 256
    films: int = 32
    frames: int = 33
    long_films: int = 4
    seconds: float = 60.0
    steps: int = 20
    size: tuple[int, int] = (96, 160)
    device: str = "cpu"

    def films_of(self, run: Run, way: Mapping[str, Any], num_films: int, num_frames: int) -> FilmSettings:
        """Films that look back no further than the run's windows did."""
        height, width = self.size
        base = video_frames(run.window)
        return FilmSettings(
            num_films=num_films, num_frames=num_frames, height=height, width=width, num_inference_steps=self.steps,
            base_num_frames=base if way else None, **way,
        )  # fmt: skip

    @property
    def long_frames(self) -> int:
        """Frames of the film that drifts, whole latents."""
        return max(round(self.seconds * FPS) // 4, 1) * 4 + 1


@dataclass
class Measured:
    """What is known of one run. `losses` are by kind of levels, then by the noise up to which they are, or "all"."""

    name: str
    steps: int = 0
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    drift: dict[str, list[float]] = field(default_factory=dict)
    """Of each film how far a measure goes in a minute, whichever way, as a share of itself."""
    missing: list[str] = field(default_factory=list)


def runs_of(paths: Sequence[Path], recipe: Path) -> list[Run]:
    """The runs that folders are, or hold, by the stages of a recipe.

    Raises:
        ValueError: a folder is none, or the recipe is not one of diffusion forcing with sizes of its own.
    """
    stages = load_recipe(recipe)
    named = dict(stages) if isinstance(stages, tuple) else {}
    for name, stage in named.items():
        if not isinstance(stage, DiffusionForcingRecipe) or None in (stage.config, stage.text, stage.vae):
            raise ValueError(f"recipe = {recipe}: {name} is not one of diffusion forcing with config, text and vae")
    found = []
    for path in paths:
        inside = [path] if path.name in named else [path / name for name in named]
        if not any(folder.is_dir() for folder in inside):
            raise ValueError(f"runs = {path}: no run of {recipe.name} is here; it has {', '.join(named) or 'none'}")
        found += [Run(folder, named[folder.name]) for folder in inside]
    return found


def measure(run: Run, setting: Setting, held_out: Path | None, reader: Reader, work: Path) -> Measured:
    """All that the setting asks for; films, latents and the packed model lie in `work`."""
    found = Measured(run.name)
    if not run.weights.is_file():
        found.missing.append(f"no {WEIGHTS} of {run.name}, run its recipe first")
        return found
    if (run.folder / "metrics.jsonl").is_file():
        found.steps = max((record["step"] for record in read_metrics(run.folder / "metrics.jsonl")), default=0)
        if found.steps < run.recipe.settings.steps:
            found.missing.append(f"{run.name} was stopped at step {found.steps} of {run.recipe.settings.steps}")
    if held_out is not None and setting.windows:
        store = encoded(held_out, run, work, setting.device)
        for kind in LEVELS:
            say(f"{run.name}: {setting.windows} windows, {LEVELS[kind]} levels")
            found.losses[kind] = losses_of(run, kind, store, setting)
    folder = work / run.name
    load = packed(run, folder / "model", setting.device)
    card = find_model(folder / "model")

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: say(f"{run.name}, {what}: {done}/{total}")

    for way, values in WAYS.items() if setting.films else ():
        films = setting.films_of(run, values, setting.films, setting.frames)
        evaluation = Evaluation(card, films, folder / way.replace(" ", "-"))
        found.reports[way] = measure_films(load, reader, evaluation, tell(way))
    if setting.long_films:
        films = setting.films_of(run, BLOCKWISE, setting.long_films, setting.long_frames)
        evaluation = Evaluation(card, films, folder / f"long-{setting.long_frames}")
        if evaluation.missing():
            evaluation.make(load(), tell("long films"))
        found.drift = drift_of([evaluation.path(number) for number in range(setting.long_films)])
    return found


def encoded(held_out: Path, run: Run, work: Path, device: str) -> Path:
    """The held-out clips as the run's VAE has them, in a folder of that VAE."""
    assert run.recipe.vae is not None
    folder = work / f"latents-{digest(Path(run.recipe.vae) / 'vae')}"
    clips, settings = ClipStore(held_out), EncodeSettings(stills=0, sentences=1, device=device)
    encode_store(folder, clips, load_vae(run.recipe.vae), settings)
    return folder


@torch.no_grad()
def losses_of(run: Run, kind: str, store: Path, setting: Setting) -> dict[str, float]:
    """The mean squared error of the velocity up to each noise level and of all, nan where there is no such frame.

    Windows, noise and sentences do not depend on the kind of levels, nor on the run.
    """
    recipe = replace(
        run.recipe,
        films=str(store), images=None, init=str(run.weights), windows=((run.window, 1.0),), stills=0.0, empty=0.0,
        causal=0.0, sample_prompts=(), mixture=replace(run.recipe.mixture, **NO_LEVELS | {kind: 1.0}),
    )  # fmt: skip
    objective, device = DiffusionForcing(recipe), torch.device(setting.device)
    objective.transformer.eval().to(device)
    errors, sigmas, seen, step = [], [], 0, 0
    while seen < setting.windows:
        batch = objective.batch(step, generator_for(0, "ablation", step))
        error_BT = objective.errors(move(batch, device), generator_for(0, "ablation noise", step))
        kept = min(len(error_BT), setting.windows - seen)
        errors.append(error_BT[:kept].cpu().flatten())
        sigmas.append(batch.sigma_BT[:kept].flatten())
        seen, step = seen + kept, step + 1
    error, sigma = torch.cat(errors), torch.cat(sigmas)
    edges = zip((0.0, *BANDS[:-1]), BANDS, strict=True)
    bands = {f"{high:g}": float(error[(sigma > low) & (sigma <= high)].mean()) for low, high in edges}
    return {"all": float(error.mean()), **bands}


def packed(run: Run, folder: Path, device: str) -> Callable[[], VideoPipeline]:
    """Write the run's model; what loads it, once, is returned."""
    recipe = run.recipe
    assert recipe.config is not None and recipe.vae is not None and recipe.text is not None
    PackRecipe(recipe.config, str(run.weights), recipe.vae, recipe.text, SHIFT, str(run.folder)).run(folder)
    return functools.cache(lambda: VideoPipeline.from_pretrained(folder, device=device))


def drift_of(films: Sequence[Path]) -> dict[str, list[float]]:
    """Brightness and saturation of films on disk."""
    meters = []
    for path in films:
        meter, frames = DriftMeter(), Video(path).frames
        for start in range(0, len(frames), READ_AT_ONCE):
            meter.add(frames[start : start + READ_AT_ONCE])
        meters.append(meter)
    return {name: [abs(meter.drift(name, FPS)) for meter in meters] for name in MEASURES[:2]}


def overall(report: Report) -> Interval | None:
    """The share of a film's fields that are read as they were asked for, over films; None without any."""
    shares = [
        sum(answer.read == answer.asked for answer in film.answers.values()) / len(film.answers)
        for film in report.films
        if film.answers
    ]
    return bootstrap(shares) if shares else None


def render_page(measured: Sequence[Measured], setting: Setting, held_out: Path | None, command: str) -> str:
    """The page with its one table, a column a run."""
    missing = [words for found in measured for words in found.missing]
    if held_out is None or not setting.windows:
        missing.append("the loss, there are no held-out clips" if held_out is None else "the loss, of 0 windows")
    missing += [] if setting.films else ["what the critic reads, of 0 films"]
    missing += [] if setting.long_films else ["drift, of 0 films"]
    names = [found.name for found in measured]
    words = (
        f"Models that differ in the noise levels of their training alone, a column each. The loss is that of the "
        f"velocity on {setting.windows} held-out windows, the same with the same noise everywhere, with full "
        "attention. As asked: how often the critic reads a field of a film as it was asked for, in percent; films: "
        f"{setting.films} of {setting.frames} frames. Drift: how far brightness and saturation go in a minute, "
        f"whichever way, in percent of themselves, block by block and with nothing held against it; films: "
        f"{setting.long_films} of {setting.seconds:g} s. {setting.steps} steps; in brackets the 95 % bootstrap "
        "interval over films."
    )
    lines = ["# Noise levels", "", *paragraph("This page is written by a program:"), "", f"    {command}", ""]
    lines += [*paragraph(words), "", *table(("", *names), list(_rows(measured)), "l" + "r" * len(names)), ""]
    lines.append(f"Missing here: {'; '.join(missing)}." if missing else "Nothing is missing here.")
    return "\n".join(lines) + "\n"


def _rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    yield "steps", *(f"{found.steps:,}" if found.steps else "" for found in measured)
    for kind, name in LEVELS.items():
        for level in ("all", *(f"{high:g}" for high in BANDS)):
            values = [found.losses.get(kind, {}).get(level, math.nan) for found in measured]
            what = "" if level == "all" else f", noise to {level}"
            yield f"loss, {name} levels{what}", *("" if math.isnan(value) else f"{value:.4f}" for value in values)
    for way in WAYS:
        reports = [found.reports.get(way) for found in measured]
        if any(reports):
            yield f"as asked, {way}", *(_percent(report and overall(report)) for report in reports)
        for name in FIELDS:
            cells = [_percent(report and interval(report, name)) for report in reports]
            if any(cells):
                yield f"{name.replace('_', ' ')}, {way}", *cells
    for name in MEASURES[:2]:
        values = [[one for one in found.drift.get(name, ()) if not math.isnan(one)] for found in measured]
        yield f"drift of {name}", *(_percent(bootstrap(films) if films else None, 1) for films in values)


def _percent(found: Interval | None, digits: int = 0) -> str:
    if found is None:
        return ""
    mean, low, high = (f"{100 * value:.{digits}f}" for value in found)
    return f"{mean} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs, and print the page."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    default = Setting()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="runs of the recipe's stages, or the folder of all")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="the recipe that they are of")
    parser.add_argument("--held-out", type=Path, default=Path("runs/smallest/world/films-held-out"), help="clips")
    parser.add_argument("--critic", type=Path, help="by default the one that is shipped")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation_measured"), help="where films are kept")
    parser.add_argument("--windows", type=int, default=default.windows, help="held-out windows of the loss")
    parser.add_argument("--films", type=int, default=default.films, help="short films in each way")
    parser.add_argument("--frames", type=int, default=default.frames, help="of a short film")
    parser.add_argument("--long-films", type=int, default=default.long_films, help="films that may drift")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of a long film")
    parser.add_argument("--steps", type=int, default=default.steps, help="denoising steps")
    parser.add_argument("--size", type=int, nargs=2, default=default.size, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default=default_device(), help="cpu or cuda")
    options = vars(parser.parse_args(arguments))
    setting = Setting(**{name: options[name] for name in vars(default)} | {"size": tuple(options["size"])})
    keep_freed_memory()
    held_out = options["held_out"] if options["held_out"].is_dir() else None
    try:
        runs = runs_of(options["runs"], options["recipe"])
        reader = reader_of(options["critic"] or shipped_critic())
        measured = [measure(run, setting, held_out, reader, options["work"]) for run in runs]
    except ValueError as error:
        parser.error(str(error))
    command = f"python -m benchmarks.ablation {shlex.join(arguments)}"
    sys.stdout.write(render_page(measured, setting, held_out, command))


if __name__ == "__main__":
    main()
