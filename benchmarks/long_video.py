"""Long films in every way there is: what drifts, what shows at the joins, whether the end is still what was asked.

The films are the embedded model's, of scenes that were never trained on, with few steps; beside them the film world's
own drawing of the same scenes, which is what no drift and no seam look like. The one invariant: every way makes the
same prompts from the same seeds, and is measured while its film goes by.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import promises
from benchmarks.length import FPS, Frames, ends
from benchmarks.measure import machine, say
from everreel.caption.critic import Critic, load_critic, score, shipped_critic
from everreel.checkpoint.catalog import find_model
from everreel.diffusion.schedule import Schedule
from everreel.evaluate.drift import MEASURES, DriftMeter
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.evaluate.prompts import Prompt, held_out_prompts
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.media import contact_sheet, write_image
from everreel.memory import keep_freed_memory
from everreel.train.pool import done
from everreel.train.progress import draw_lines
from everreel.world.render import render

PAGE = Path(__file__).parents[1] / "docs" / "long-video.md"
WAYS: dict[str, dict[str, Any]] = {
    "blockwise": {"schedule": "blockwise", "addnoise_condition": 0, "sink": 0, "anchor_color": 0},
    "blockwise, anchored": {"schedule": "blockwise", "addnoise_condition": 0, "sink": 0, "anchor_color": 1},
    "blockwise, sink, anchored": {"schedule": "blockwise", "addnoise_condition": 0, "sink": 5, "anchor_color": 1},
    "blockwise, noise 20": {"schedule": "blockwise", "addnoise_condition": 20, "sink": 0, "anchor_color": 0},
    "blockwise, noise 20, sink, anchored": {
        "schedule": "blockwise", "addnoise_condition": 20, "sink": 5, "anchor_color": 1,
    },
    "rolling": {"schedule": "rolling", "addnoise_condition": 0, "cache": False, "anchor_color": 0},
    "rolling, anchored": {"schedule": "rolling", "addnoise_condition": 0, "cache": False, "anchor_color": 1},
    "rolling, cache, sink of 5, anchored": {
        "schedule": "rolling", "addnoise_condition": 0, "cache": True, "sink": 5, "anchor_color": 1,
    },
    "rolling, noise 20, cache, sink of 5, anchored": {
        "schedule": "rolling", "addnoise_condition": 20, "cache": True, "sink": 5, "anchor_color": 1,
    },
    "rolling, cache, sink of 10, anchored": {
        "schedule": "rolling", "addnoise_condition": 0, "cache": True, "sink": 10, "anchor_color": 1,
    },
    "windows, carry": {"schedule": "windows", "join": "carry", "addnoise_condition": 0, "anchor_color": 0},
    "windows, carry, asynchronous": {
        "schedule": "windows", "join": "carry", "ar_step": 5, "causal_block_size": 5, "addnoise_condition": 0,
        "anchor_color": 0,
    },
    "windows, hybrid": {"schedule": "windows", "join": "hybrid", "addnoise_condition": 0, "anchor_color": 0},
    "windows, reencode": {"schedule": "windows", "join": "reencode", "addnoise_condition": 0, "anchor_color": 0},
    "windows, reencode, noise 20": {
        "schedule": "windows", "join": "reencode", "addnoise_condition": 20, "anchor_color": 0,
    },
    "windows, reencode, faded, anchored": {
        "schedule": "windows", "join": "reencode", "addnoise_condition": 0, "blend_overlap": True, "anchor_color": 1,
    },
}  # fmt: skip
DRAWN = "drawn by the world"
DRIFT_SECONDS = 10
SEAM_GOAL, KEPT_GOAL = 1.1, 0.95
DRIFT_GOAL = 0.02 * DRIFT_SECONDS / 60  # 2 % a minute


@dataclass
class Measured:
    """One way of making films, over all of its films."""

    meters: list[DriftMeter] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pictures: list[Frames] = field(default_factory=list)
    """Of each film some frames, evenly spread."""

    def add(self, other: Measured) -> None:
        """Other films, made in the same way."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))

    def drift(self, name: str) -> float:
        """The median of how far a measure goes in `DRIFT_SECONDS`, whichever way, as a share of itself."""
        return float(np.nanmedian([abs(meter.drift(name, FPS, DRIFT_SECONDS)) for meter in self.meters]))

    @property
    def seam(self) -> float:
        """The median seam index; nan without seams."""
        found = [seam for seam in self.seams if not np.isnan(seam)]
        return statistics.median(found) if found else float("nan")

    @property
    def kept(self) -> float:
        """What of the first seconds' accuracy is left in the last."""
        before = float(np.mean(self.first))
        return float(np.mean(self.last)) / before if before else float("nan")


@dataclass(frozen=True)
class Setting:
    """Which films."""

    model: str = "tiny"
    num_films: int = 8
    num_frames: int = 481
    steps: int = 6
    ways: tuple[str, ...] = tuple(WAYS)


Film = dict[str, Measured]  # of one prompt, in every way


def run(setting: Setting, processes: int = 1) -> dict[str, Measured]:
    """Make and measure the films of every way, and the drawings; the prompts are divided among the processes."""
    measured: dict[str, Measured] = {name: Measured() for name in (*setting.ways, DRAWN)}
    threads = max(1, torch.get_num_threads() // processes)
    films = dict(done(partial(_begin, setting), range(setting.num_films), processes, threads))
    for number in sorted(films):
        for name, film in films[number].items():
            measured[name].add(film)
    return measured


def _begin(setting: Setting) -> Callable[[int], tuple[int, Film]]:
    """Of one process: its model and its critic."""
    keep_freed_memory()
    pipe = VideoPipeline.from_pretrained(setting.model, device="cpu")
    return partial(_film, setting, pipe, load_critic(shipped_critic()))


def _film(setting: Setting, pipe: VideoPipeline, critic: Critic, number: int) -> tuple[int, Film]:
    prompt = held_out_prompts(setting.num_films)[number]
    found: Film = {name: Measured() for name in (*setting.ways, DRAWN)}
    for name in setting.ways:
        say(f"{name}, film {number + 1} of {setting.num_films}: {prompt.text}")
        request = make_request(
            prompt=prompt.text, num_frames=setting.num_frames, num_inference_steps=setting.steps, seed=number,
            **WAYS[name],
        )  # fmt: skip
        schedule = make_plan(request, pipe.card).schedule
        blocks = (block.frames for block in pipe.stream(request))
        _take(found[name], blocks, schedule, critic, prompt, setting.num_frames)
    drawing = _drawn(prompt, setting.num_frames, pipe.card.height, pipe.card.width)
    _take(found[DRAWN], drawing, None, critic, prompt, setting.num_frames)
    return number, found


def _take(
    measured: Measured, blocks: Iterable[Frames], schedule: Schedule | None, critic: Critic, prompt: Prompt, length: int
) -> None:
    """Let one film go by."""
    meter, started = DriftMeter(), time.perf_counter()
    wanted, seen = np.linspace(0, length - 1, 6).round().astype(int).tolist(), 0
    pictures: list[Frames] = []

    def metered() -> Iterable[Frames]:
        nonlocal seen
        for frames in blocks:
            meter.add(frames)
            pictures.extend(frames[at - seen] for at in wanted if seen <= at < seen + len(frames))
            seen += len(frames)
            yield frames

    first, last = ends(metered(), min(10 * FPS, length // 2))
    measured.seconds.append((time.perf_counter() - started) / (length / FPS))
    measured.meters.append(meter)
    measured.pictures.append(np.stack(pictures))
    if schedule is not None:
        measured.seams.append(meter.seam_index(schedule))
    for found, frames in ((measured.first, first), (measured.last, last)):
        read = score(critic, [frames], [prompt.scene], FPS)
        found.append(float(np.mean([hit for name, hit in read.items() if name in prompt.asked])))


def _drawn(prompt: Prompt, length: int, height: int, width: int) -> Iterable[Frames]:
    for start in range(0, length, 2 * FPS):
        count = min(2 * FPS, length - start)
        yield render(prompt.scene, count, height=height, width=width, fps=FPS, start=start / FPS)


def page(
    runs: Sequence[tuple[Setting, Mapping[str, Measured]]],
    default: str,
    promised: Sequence[promises.Line],
    command: str,
    processes: int = 1,
) -> str:
    """docs/long-video.md; `default` is the way that a film is made where nothing is asked."""
    lines = [
        "# Long films",
        "",
        "This page is written by a program; run it to have the figures of your own machine:",
        "",
    ]
    lines += [f"    {command}", "", *table(("machine", ""), machine().items()), ""]
    lines += paragraph(
        "Prompts are of scenes that were never trained on; every way makes the same ones. Drift is the slope over the "
        f"film, in {DRIFT_SECONDS} seconds, as a share of the measure itself, the median of the films. The seam index "
        "is the median step from frame to frame where two pieces meet, over that where two latents meet inside of a "
        "piece. What is kept is the critic's accuracy in the last seconds (up to 10) over that in the first. The last "
        "row is the film world's own drawing of the same scenes: their cameras move and their light does not, so it is "
        "what drift by content alone looks like."
    )
    if processes > 1:
        told = f"Films were made in {processes} processes side by side: their seconds are no measure of speed."
        lines += ["", *paragraph(told)]
    for setting, measured in runs:
        lines += ["", f"## {setting.num_frames} frames, {setting.num_films} prompts, {setting.steps} steps", ""]
        lines += table(
            (
                "way",
                "seam index",
                *(f"{name} drift" for name in MEASURES),
                "first",
                "last",
                "kept",
                "s a second of film",
            ),
            [_row(name, found) for name, found in measured.items()],
            "l" + "r" * (5 + len(MEASURES)),
        )
        lines += ["", *paragraph(_goals(default, measured[default]))]
        order = "; ".join(ranked(measured))
        how = "By the factor that the goals are missed by, all three together, best first"
        lines += ["", *paragraph(f"{how}: {order}.")]
        lines += ["", f"![{setting.num_frames} frames of each way]({_picture(setting)})"]
        lines += ["", f"![brightness by second]({_plot(setting)})"]
    lines += ["", "## The default", "", *paragraph(_why(default, runs))]
    if promised:
        lines += ["", "## What else is promised", ""]
        lines += table(promises.HEAD, promised)
    return "\n".join(lines) + "\n"


def _row(name: str, found: Measured) -> tuple[str, ...]:
    drifts = (f"{100 * found.drift(measure):.2f} %" for measure in MEASURES)
    ends_ = (f"{100 * float(np.mean(values)):.0f} %" for values in (found.first, found.last))
    seam = "" if np.isnan(found.seam) else f"{found.seam:.3f}"
    seconds = "" if name == DRAWN else f"{statistics.mean(found.seconds):.2f}"
    return name, seam, *drifts, *ends_, f"{100 * found.kept:.0f} %", seconds


def _goals(name: str, found: Measured) -> str:
    steady = max(found.drift(measure) for measure in MEASURES[:2]) < DRIFT_GOAL
    return (
        f"Goals for the default, {name}: a seam index of at most {SEAM_GOAL} {verdict(found.seam <= SEAM_GOAL)}; "
        f"brightness and saturation drift under 2 % a minute, {100 * DRIFT_GOAL:.2f} % in {DRIFT_SECONDS} seconds, "
        f"{verdict(steady)}; at least {100 * KEPT_GOAL:.0f} % of the accuracy kept {verdict(found.kept >= KEPT_GOAL)}."
    )


def _why(default: str, runs: Sequence[tuple[Setting, Mapping[str, Measured]]]) -> str:
    """What the numbers say of the default; the longest films decide."""
    places = [
        (setting.num_frames, ranked(measured).index(default) + 1, len(measured) - 1) for setting, measured in runs
    ]
    told = " and ".join(f"{place} of {count} at {frames} frames" for frames, place, count in places)
    so = "so it is the default" if places[-1][1] == 1 else "**another way should be the default**"
    return (
        f"By these numbers {default} is {told}. The longest films decide, as this is what a film beyond one window is "
        f"made with, however long it gets: {so}."
    )


def _picture(setting: Setting) -> str:
    return f"long-video-{setting.num_frames}.png"


def _plot(setting: Setting) -> str:
    return f"long-video-{setting.num_frames}-brightness.png"


def draw(folder: Path, setting: Setting, measured: Mapping[str, Measured]) -> None:
    """The pictures of the page: the first film in every way, and by second the brightness of the best and worst two."""
    films = [found.pictures[0] for found in measured.values()]
    write_image(folder / _picture(setting), contact_sheet(films, columns=1, frames_per_film=6, captions=list(measured)))
    order = ranked(measured)
    shown = (DRAWN, *order[:2], *order[-2:])  # more lines than these cannot be told apart
    curves = {name: measured[name].meters[0].curve("brightness") for name in dict.fromkeys(shown)}
    seconds = {name: [(at / FPS, float(value)) for at, value in enumerate(curve)] for name, curve in curves.items()}
    draw_lines(folder / _plot(setting), seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, and write the page and its pictures."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_video", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--num-films", type=int, default=8, help="prompts, each made in every way")
    parser.add_argument("--long-films", type=int, default=4, help="prompts of the films of a minute")
    parser.add_argument("--steps", type=int, default=6, help="denoising steps")
    parser.add_argument("--kills", type=int, default=20, help="films that are killed and resumed")
    parser.add_argument("--promises", default=True, action=argparse.BooleanOptionalAction, help="ends, loops, memory")
    parser.add_argument("--processes", type=int, default=1, help="prompts side by side")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page; its pictures lie beside it")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    settings = [Setting(options.model, options.num_films, 481, options.steps)]
    runs: list[tuple[Setting, Mapping[str, Measured]]] = [(settings[0], run(settings[0], options.processes))]
    default = default_way(options.model)
    if options.long_films:
        best = next(name for name in ranked(runs[0][1]) if name != default)
        long = Setting(options.model, options.long_films, 1457, options.steps, (default, best))
        runs.append((long, run(long, options.processes)))
    promised = promises.run(options.model, options.steps, options.kills) if options.promises else []
    command = f"python -m benchmarks.long_video {shlex.join(arguments)}".strip()
    options.output.write_text(page(runs, default, promised, command, options.processes), encoding="utf-8")
    for setting, measured in runs:
        draw(options.output.parent, setting, measured)
    say(f"wrote {options.output}")


def default_way(model: str) -> str:
    """The way of the table that a film is made where nothing is asked."""
    card = find_model(model)
    asked = make_request(prompt="a film", num_frames=481)
    plans = {name: make_plan(make_request(prompt="a film", num_frames=481, **way), card) for name, way in WAYS.items()}
    wanted = make_plan(asked, card)
    return next(
        name
        for name, plan in plans.items()
        if (plan.mode, plan.join, plan.request.anchor_color, plan.request.addnoise_condition)
        == (wanted.mode, wanted.join, wanted.request.anchor_color, wanted.request.addnoise_condition)
    )


def ranked(measured: Mapping[str, Measured]) -> list[str]:
    """The ways, best first: the least factor by which the goals are missed, all three together."""

    def missed(name: str) -> float:
        found = measured[name]
        drift = max(found.drift(measure) for measure in MEASURES[:2])
        factors = found.seam / SEAM_GOAL, drift / DRIFT_GOAL, KEPT_GOAL / max(found.kept, 1e-9)
        return math.prod(max(factor, 1.0) for factor in factors)

    return sorted((name for name in measured if name != DRAWN), key=missed)


if __name__ == "__main__":
    main()
