"""Whether films begin with the picture that they were given, and move as much as films of words alone.

`python -m benchmarks.first_frame MODEL... --clips runs/world/films-held-out`. Each model makes a film of the first
frame and a sentence of every clip: an I2V model is shown it, a model of diffusion forcing knows it as frame 0. The
reference makes films of the same sentences without a picture. Films lie in the output folder, and a run that was
stopped goes on behind them. The one invariant: all models get the same pictures, sentences, seeds, lengths and rates.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import say
from everreel.data.clips import ClipStore
from everreel.data.draws import generator_for
from everreel.evaluate.markdown import table
from everreel.evaluate.meters import flow
from everreel.evaluate.significance import DRAWS, LEVEL, interval
from everreel.film.given import as_video
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.media import contact_sheet, write_image
from everreel.memory import keep_freed_memory
from everreel.model.vae import CausalVAE
from everreel.world.caption import sentence

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
SHOWN = 6  # clips of the sheet
REPORT = "first-frame.json"
HEAD = ("films", "frame 0, dB", "95 %", "the VAE alone", "frame 0 to that", "motion", "to the reference", "95 %")


@dataclass(frozen=True)
class Asked:
    """What every model makes a film of: the clip's first frame, its sentence, its size and its rate."""

    number: int
    clip: Frames
    prompt: str
    fps: int


@dataclass(frozen=True)
class Result:
    """The films of one model, a number a film."""

    name: str
    kept: list[float]
    """PSNR of frame 0 against the picture; nothing where none was given."""
    ceiling: list[float]
    """PSNR of what the model's VAE makes of the picture, against it."""
    decoded: list[float]
    """PSNR of frame 0 against what the VAE makes of the picture."""
    motion: list[float]
    """Mean length of optical flow, in short sides of the frame a second."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films that are not there, print the table, and leave JSON and a picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_frame", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="models that take a picture")
    parser.add_argument("--reference", default="tiny", help="the model that makes films of the sentences alone")
    parser.add_argument("--clips", type=Path, default=Path("runs/world/films-held-out"), help="a clip store")
    parser.add_argument("--films", type=int, default=32, help="how many of its clips")
    parser.add_argument("--frames", type=int, default=33, help="frames of each film")
    parser.add_argument("--steps", type=int, help="steps of each film; by default what the model recommends")
    parser.add_argument("--output", type=Path, default=Path("runs/first-frame"), help="where all of it lies")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    cv2.setNumThreads(1)  # another number of threads gives another figure
    try:
        asked = asked_of(ClipStore(options.clips), options.films, options.frames)
        made = {name: films_of(name, asked, options, given=True) for name in options.models}
        made |= {f"{options.reference}, no picture": films_of(options.reference, asked, options, given=False)}
    except ValueError as error:
        sys.exit(str(error))
    results = [
        result_of(name, films, asked, vae_of(name) if name in options.models else None) for name, films in made.items()
    ]
    results.append(Result("the clips themselves", [], [], [], [motion_of(one.clip, one.fps) for one in asked]))
    rows = rows_of(results, reference=results[-2])
    sys.stdout.write("\n".join(table(HEAD, [list(row.values()) for row in rows])) + "\n")
    report = {"rows": rows, "films": [asdict(result) for result in results], "prompts": [one.prompt for one in asked]}
    (options.output / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_image(options.output / "first-frame.png", sheet_of(made, asked))
    say(f"wrote {options.output}/{REPORT} and .png")


def asked_of(store: ClipStore, count: int, num_frames: int) -> list[Asked]:
    """The first clips of a store, each with a sentence of its own.

    Raises:
        ValueError: there are not as many, or they are not as long.
    """
    if not 2 <= count <= len(store):
        raise ValueError(f"films = {count}: must be 2 to {len(store)}, the clips of {store.path}")
    shortest = min(len(store.clip(index)) for index in range(count))
    if num_frames > shortest:
        raise ValueError(f"frames = {num_frames}: the clips of {store.path} have {shortest}, which works")
    return [
        Asked(
            index,
            np.array(store.clip(index)[:num_frames]),
            sentence(store.scene(index), generator_for(0, "first frame", index)),
            store.fps(index),
        )
        for index in range(count)
    ]


def films_of(model: str, asked: Sequence[Asked], options: argparse.Namespace, given: bool) -> list[Frames]:
    """A film of each, with its picture or without; those that are there are read.

    Raises:
        ValueError: the model is none, or the folder holds films that were made otherwise.
    """
    folder = options.output / (Path(model).name + ("" if given else "-no-picture"))
    (options.output / "pictures").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    loading = model_options(model=model)
    weights = [
        file.stat().st_mtime_ns for file in loading.source(loading.card()).transformer.paths
    ]  # trained on since?
    settings = {"model": model, "weights": weights, "given": given, "clips": str(options.clips)}
    settle(folder / "settings.json", {**settings, "frames": options.frames, "steps": options.steps})
    pipe, films = None, []
    for one in asked:
        path = folder / f"{one.number:04d}.npy"
        if not path.is_file():
            pipe = pipe or VideoPipeline.load(loading)
            film = make_film(pipe, one, options.output / "pictures" if given else None, options.steps)
            with path.with_suffix(".part").open("wb") as file:
                np.save(file, film)
            path.with_suffix(".part").replace(path)
            say(f"{folder.name}: {one.number + 1}/{len(asked)}")
        films.append(np.load(path))
    return films


def make_film(pipe: VideoPipeline, one: Asked, pictures: Path | None, steps: int | None) -> Frames:
    """One film."""
    num_frames, height, width, _ = one.clip.shape
    wanted: dict[str, Any] = {"num_frames": num_frames, "height": height, "width": width, "fps": one.fps}
    if steps is not None:
        wanted["num_inference_steps"] = steps
    if pictures is not None:
        wanted["image"] = pictures / f"{one.number:04d}.png"
        write_image(wanted["image"], one.clip[0])
    request = make_request(prompt=one.prompt, seed=one.number, **wanted)
    return np.concatenate([block.frames for block in pipe.stream(request)])


def settle(record: Path, settings: dict[str, Any]) -> None:
    """Write down what a folder's films are, or refuse to mix two kinds.

    Raises:
        ValueError: it holds others.
    """
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found != settings:
            changed = ", ".join(f"{name} = {found.get(name)}" for name in settings if found.get(name) != settings[name])
            raise ValueError(f"output: {record.parent} holds films of {changed}; take another folder")
        return
    record.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def vae_of(model: str) -> CausalVAE:
    """The VAE that a model's films were decoded with, in the type that it is used in."""
    from everreel.checkpoint.load import load_vae

    options = model_options(model=model).resolve()
    return load_vae(options.source(options.card()), options.device or "cpu", options.torch_dtype).eval()


def result_of(name: str, films: Sequence[Frames], asked: Sequence[Asked], vae: CausalVAE | None) -> Result:
    """The figures of a model's films; without a VAE those of motion alone."""
    motion = [motion_of(film, one.fps) for film, one in zip(films, asked, strict=True)]
    if vae is None:
        return Result(name, [], [], [], motion)
    pictures = [one.clip[0] for one in asked]
    decoded = [there_and_back(picture, vae) for picture in pictures]
    return Result(
        name,
        [psnr(film[0], picture) for film, picture in zip(films, pictures, strict=True)],
        [psnr(again, picture) for again, picture in zip(decoded, pictures, strict=True)],
        [psnr(film[0], again) for film, again in zip(films, decoded, strict=True)],
        motion,
    )


@torch.no_grad()
def there_and_back(picture: Frames, vae: CausalVAE) -> Frames:
    """A picture as the VAE gives it back."""
    video_CTHW = vae.decode(vae.encode(as_video(picture[None], vae)[None]))[0]
    found: Frames = (video_CTHW[:, 0].float() * 127.5 + 127.5).round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy()
    return found


def psnr(one: Frames, other: Frames) -> float:
    """In decibels; infinite for the same."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def motion_of(film: Frames, fps: float) -> float:
    """How far what is seen goes, in short sides of the frame a second: the mean length of flow from frame to frame."""
    grays = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in film]
    lengths = [float(np.hypot(*np.moveaxis(flow(last, gray), -1, 0)).mean()) for last, gray in pairwise(grays)]
    return float(np.mean(lengths)) * fps / min(film.shape[1:3]) if lengths else 0.0


def ratio(values: Floats, reference: Floats, generator: torch.Generator) -> tuple[float, float, float]:
    """The mean of one set over that of the other, and its 95 % interval: a bootstrap over pairs."""
    drawn = torch.randint(len(values), (DRAWS, len(values)), generator=generator).numpy()
    ratios = values[drawn].mean(1) / np.maximum(reference[drawn].mean(1), 1e-12)
    low, high = np.quantile(ratios, (LEVEL / 2, 1 - LEVEL / 2))
    return float(values.mean() / max(reference.mean(), 1e-12)), float(low), float(high)


def rows_of(results: Sequence[Result], reference: Result) -> list[dict[str, str]]:
    """A line of the table for each."""
    rows = []
    for result in results:
        low, high = interval(np.array(result.kept), generator_for(0, "kept", result.name))
        times, least, most = ratio(
            np.array(result.motion), np.array(reference.motion), generator_for(0, "motion", result.name)
        )
        rows.append(
            {
                "films": Path(result.name).name,
                "kept": mean_of(result.kept),
                "kept_interval": f"{low:.1f} to {high:.1f}" if result.kept else "",
                "ceiling": mean_of(result.ceiling),
                "decoded": mean_of(result.decoded),
                "motion": f"{np.mean(result.motion):.3f}",
                "ratio": f"{times:.2f}",
                "ratio_interval": "" if result is reference else f"{least:.2f} to {most:.2f}",
            }
        )
    return rows


def mean_of(values: Sequence[float]) -> str:
    """For a cell."""
    return f"{np.mean(values):.1f}" if values else ""


def sheet_of(made: dict[str, list[Frames]], asked: Sequence[Asked]) -> Frames:
    """A row a clip: the clip, then each model's film of it."""
    films, captions = [], []
    for place, one in enumerate(asked[:SHOWN]):
        films += [one.clip, *(of_model[place] for of_model in made.values())]
        captions += [f"the clip: {one.prompt}", *(Path(name).name for name in made)]
    return contact_sheet(films, columns=1 + len(made), frames_per_film=4, captions=captions)


if __name__ == "__main__":
    main()
