"""What a plan says a film will take, beside what it took: memory and, after a calibration, time.

Each film is made in a process of its own: the most that it held (of a CPU, above the program's own, from when all was
imported; of a GPU, in tensors), and the seconds of its rows and blocks. The one invariant: the plan is made by
`estimate`, as `everreel plan` makes it, before its film.
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
from everreel.film.budget import placed
from everreel.film.estimate import calibrate, estimate
from everreel.film.loading import model_options
from everreel.film.parts import parts_of
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.memory import keep_freed_memory
from everreel.model.quiet import quiet

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
ROOT = Path(__file__).parents[1]
CLEAR_PEAK = Path("/proc/self/clear_refs")
MOST_MEMORY = {"cpu": 1.25, "cuda": 1.15}  # the plan's memory over what was held
MOST_TIME_OFF = 0.30  # the plan's time, either way
HELD = {
    "cpu": "Memory is what a film holds above the program itself, on a CPU",
    "cuda": "Memory is the most that torch gave out to tensors at once, on a GPU",
}
FILMS: Sequence[Mapping[str, Any]] = (
    {"num_frames": 97},
    {"num_frames": 97, "guidance_scale": 1},
    {"num_frames": 481},
    {"num_frames": 49, "height": 192, "width": 320},
    {"num_frames": 33, "height": 256, "width": 448},
    {"num_frames": 97, "height": 128, "width": 224, "guidance_scale": 1},
    {"num_frames": 1, "height": 448, "width": 768},
    {"num_frames": 5, "height": 256, "width": 448},
    {"num_frames": 97, "ar_step": 5},
)
ON_A_CPU: Sequence[Mapping[str, Any]] = (
    {"num_frames": 97, "quantization": "q8_0"},
    {"num_frames": 49, "height": 192, "width": 320, "memory": "800MB"},
)
OF_THE_MODEL = ("quantization", "memory")
"""What of these is asked of the model, and is no part of a request."""


def run(model: str, steps: int, threads: int, device: str = "cpu") -> list[dict[str, Any]]:
    """A film of each kind; what was said of it and what it took."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache, "PYTHONPATH": os.pathsep.join(sys.path)}
        films = (*FILMS, *(ON_A_CPU if device == "cpu" else ()))
        ways = {
            str(film.get("quantization")): {name: film[name] for name in film if name == "quantization"}
            for film in films
        }
        for film, calibrates in (*((way, True) for way in ways.values()), *((film, False) for film in films)):
            say(f"the machine, calibrated with {model} {film or ''}" if calibrates else f"a film of {film}")
            setting = {"model": model, "steps": steps, "threads": threads, "device": device, "calibrates": calibrates}
            asked = json.dumps({**setting, "film": dict(film)})
            command = [sys.executable, "-m", "benchmarks.plan_truth", "--one", asked]
            said = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            if not calibrates:
                found.append({"film": dict(film), **json.loads(said.stdout.splitlines()[-1])})
    return found


def one(
    model: str, steps: int, threads: int, film: Mapping[str, Any], device: str = "cpu", *, calibrates: bool = False
) -> dict[str, float]:
    """In a process of its own: calibrates for a film, or makes it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    placing = {name: film[name] for name in OF_THE_MODEL if name in film}
    options = model_options(model=model, device=device, **placing).resolve()
    if calibrates:
        calibrate(VideoPipeline.load(options))
        return {}
    asked = {name: value for name, value in film.items() if name not in placing}
    card = options.card()
    plan, parts = make_plan(make_request(prompt="a fox", num_inference_steps=steps, **asked), card), parts_of(card)
    said = estimate(plan, card, options.device, placed(options, card, plan, parts), parts, options)
    with quiet():
        import_module("transformers.models.umt5.modeling_umt5")  # the program's own, too
    forget_peak(device)
    before = most_held(device)
    pipe = VideoPipeline.load(options, plan)
    started = time.perf_counter()
    for _ in pipe.stream(plan.request):
        pass
    took = time.perf_counter() - started
    return {"memory": said.memory, "held": most_held(device) - before, "seconds": said.seconds, "took": took}


def forget_peak(device: str) -> None:
    """Count from here on."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_PEAK.exists():
        CLEAR_PEAK.write_text("5")


def most_held(device: str) -> int:
    """The most bytes so far: what torch gave out on a GPU, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else peak_bytes()


def page(found: Sequence[Mapping[str, Any]], command: str, device: str = "cpu") -> str:
    """docs/plan.md."""
    kind = torch.device(device).type
    most, where = MOST_MEMORY[kind], machine()
    if kind == "cuda":
        where["GPU"] = torch.cuda.get_device_name(device)
    lines = ["# What a plan says, and what a film takes", "", "This page is written by a program:", ""]
    lines += [f"    {command}", "", *table(("machine", ""), where.items()), ""]
    lines += paragraph(
        f"{HELD[kind]}; the goal is never less than what was held and at most {100 * (most - 1):.0f} % more. Time is "
        "after `everreel calibrate`, with each `--quantization` too, without loading; the goal is within "
        f"{100 * MOST_TIME_OFF:.0f} %."
    )
    rows = []
    for row in found:
        memory, seconds = row["memory"] / row["held"], row["seconds"] / row["took"]
        film = ", ".join(f"{name} {value}" for name, value in row["film"].items())
        sizes = (f"{row[name] / 1e6:.0f} MB" for name in ("memory", "held"))
        times = (f"{row[name]:.1f} s" for name in ("seconds", "took"))
        met = verdict(1 <= memory <= most), verdict(abs(seconds - 1) <= MOST_TIME_OFF)
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
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        sys.stdout.write(json.dumps(one(**json.loads(options.one))) + "\n")
        return
    try:
        device = model_options(device=options.device).resolve().device or "cpu"  # with its number
        if torch.device(device).type not in MOST_MEMORY:
            raise ValueError(f"device = {device}: nothing says what a film holds there; nearest that works: cpu")
    except ValueError as error:
        sys.exit(f"plan_truth: {error}")
    found = run(options.model, options.steps, options.threads, device)
    torch.set_num_threads(options.threads)  # so that the page says with how many it was
    command = f"python -m benchmarks.plan_truth {shlex.join(arguments)}".strip()
    options.output.write_text(page(found, command, device), encoding="utf-8")
    say(f"wrote {options.output}")


if __name__ == "__main__":
    main()
