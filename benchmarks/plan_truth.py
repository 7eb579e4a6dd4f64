"""What a plan says a film will take, beside what it took: memory and, after a calibration, time.

Each film is made in a process of its own: the most that it held above the program's own, from when all was imported,
and the seconds of its rows and blocks. The one invariant: the plan is made by `estimate`, as `everreel plan` makes it,
before its film.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, peak_bytes, say
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.film.estimate import calibrate, estimate
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.memory import keep_freed_memory
from everreel.model.quiet import quiet

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
ROOT = Path(__file__).parents[1]
CLEAR_PEAK = Path("/proc/self/clear_refs")
MOST_MEMORY, MOST_TIME_OFF = 1.25, 0.30  # the plan's memory over what was held; its time, either way
FILMS: Sequence[Mapping[str, Any]] = (
    {"num_frames": 97},
    {"num_frames": 97, "guidance_scale": 1},
    {"num_frames": 481},
    {"num_frames": 49, "height": 192, "width": 320},
    {"num_frames": 33, "height": 256, "width": 448},
    {"num_frames": 97, "height": 128, "width": 224, "guidance_scale": 1},
)


def run(model: str, steps: int, threads: int) -> list[dict[str, Any]]:
    """A film of each kind; what was said of it and what it took."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache, "PYTHONPATH": os.pathsep.join(sys.path)}
        for film in ({}, *FILMS):
            say(f"the machine, calibrated with {model}" if not film else f"a film of {film}")
            asked = json.dumps({"model": model, "steps": steps, "threads": threads, "film": dict(film)})
            command = [sys.executable, "-m", "benchmarks.plan_truth", "--one", asked]
            said = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            if film:
                found.append({"film": dict(film), **json.loads(said.stdout.splitlines()[-1])})
    return found


def one(model: str, steps: int, threads: int, film: Mapping[str, Any]) -> dict[str, float]:
    """In a process of its own: calibrates without a film, else makes it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    options = model_options(model=model, device="cpu").resolve()
    if not film:
        calibrate(VideoPipeline.load(options))
        return {}
    plan = make_plan(make_request(prompt="a fox", num_inference_steps=steps, **film), options.card())
    said = estimate(plan, options.card(), options.device)
    with quiet():
        import_module("transformers.models.umt5.modeling_umt5")  # the program's own, too
    if CLEAR_PEAK.exists():
        CLEAR_PEAK.write_text("5")
    before = peak_bytes()
    pipe = VideoPipeline.load(options, plan)
    started = time.perf_counter()
    for _ in pipe.stream(plan.request):
        pass
    took = time.perf_counter() - started
    return {"memory": said.memory, "held": peak_bytes() - before, "seconds": said.seconds, "took": took}


def page(found: Sequence[Mapping[str, Any]], command: str) -> str:
    """docs/plan.md."""
    lines = ["# What a plan says, and what a film takes", "", "This page is written by a program:", ""]
    lines += [f"    {command}", "", *table(("machine", ""), machine().items()), ""]
    lines += paragraph(
        "Memory is what a film holds above the program itself, on a CPU; the goal is never less than what was held and "
        f"at most {100 * (MOST_MEMORY - 1):.0f} % more. Time is after `everreel calibrate`, without loading; the goal "
        f"is within {100 * MOST_TIME_OFF:.0f} %."
    )
    rows = []
    for row in found:
        memory, seconds = row["memory"] / row["held"], row["seconds"] / row["took"]
        film = ", ".join(f"{name} {value}" for name, value in row["film"].items())
        sizes = (f"{row[name] / 1e6:.0f} MB" for name in ("memory", "held"))
        times = (f"{row[name]:.1f} s" for name in ("seconds", "took"))
        met = verdict(1 <= memory <= MOST_MEMORY), verdict(abs(seconds - 1) <= MOST_TIME_OFF)
        rows.append((film, *sizes, f"{memory:.2f} {met[0]}", *times, f"{seconds:.2f} {met[1]}"))
    head = ("film", "said", "held", "ratio", "said", "took", "ratio")
    return "\n".join([*lines, "", *table(head, rows, "lrrrrrr"), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_truth", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        sys.stdout.write(json.dumps(one(**json.loads(options.one))) + "\n")
        return
    found = run(options.model, options.steps, options.threads)
    torch.set_num_threads(options.threads)  # so that the page says with how many it was
    command = f"python -m benchmarks.plan_truth {shlex.join(arguments)}".strip()
    options.output.write_text(page(found, command), encoding="utf-8")
    say(f"wrote {options.output}")


if __name__ == "__main__":
    main()
