"""Measuring: the times of two sides taken in turn, the memory of a process, and the machine it all ran on.

The one invariant: what is compared is measured in one process, by turns, so whatever else the machine does slows both
sides alike; and each side runs in the form that is fastest on this machine and still right.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from everreel.evaluate.markdown import table
from everreel.memory import most_held

Options = argparse.ArgumentParser | argparse._ArgumentGroup  # what takes a flag
PROMPT = "a red fox runs right through a snowy forest at dusk, wide shot, camera pans right"
RESAMPLES = 2000
DRIFT = 0.1  # how far from its own float32 a form may be, root mean square (guidance multiplies the error of a step)


@dataclass(frozen=True)
class Form:
    """One way to compute something."""

    label: str
    dtype: torch.dtype
    run: Callable[[], Tensor]


@dataclass(frozen=True)
class Times:
    """How long one side took, in seconds, and in which form."""

    label: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.seconds)

    def describe(self) -> str:
        """For a table's cell."""
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:.3g} s ({low:.3g} to {high:.3g}), {self.label}"


@dataclass(frozen=True)
class Comparison:
    """The same work on both sides."""

    what: str
    goal: float  # times faster
    ours: Times
    theirs: Times

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.theirs.median / self.ours.median


def best_form(side: str, forms: Sequence[Form], tries: int) -> Form:
    """The fastest form that works: finite, and close to the first one, which is in float32.

    Raises:
        ValueError: the first form is not finite.
    """
    assert forms[0].dtype == torch.float32
    truth = forms[0].run().float()
    if not bool(truth.isfinite().all()):
        raise ValueError(f"{side}, {forms[0].label}: the result is not finite")
    best, fastest = forms[0], math.inf
    for form in forms:
        drift = 0.0 if form is forms[0] else relative_error(form.run(), truth)  # warms the form up, too
        if not drift <= DRIFT:
            say(f"{side}, {form.label}: {drift:.1%} off its own float32, left out")
            continue
        seconds = min(elapsed(form.run) for _ in range(tries))
        say(f"{side}, {form.label}: {seconds:.3g} s")
        if seconds < fastest:
            best, fastest = form, seconds
    return best


def compare(what: str, goal: float, ours: Form, theirs: Form, repeats: int) -> Comparison:
    """Time both by turns; whatever warms up has to be warm."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for form, found in zip((ours, theirs), times, strict=True):
            found.append(elapsed(form.run))
        say(f"{what}, {repeat + 1} of {repeats}: everreel {times[0][-1]:.3g} s, diffusers {times[1][-1]:.3g} s")
    return Comparison(what, goal, Times(ours.label, tuple(times[0])), Times(theirs.label, tuple(times[1])))


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Root mean square of the difference, in those of the truth."""
    difference = (found.float() - truth.float()).square().mean().sqrt()
    return float(difference / truth.float().square().mean().sqrt())


def bootstrap(of_films: Sequence[float]) -> tuple[float, float, float]:
    """The mean of a figure that each film has, and its 95 % bootstrap interval."""
    values = torch.tensor(of_films)
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return float(values.mean()), low, high


def elapsed(work: Callable[[], object]) -> float:
    """Seconds by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """The most memory that this process has held so far, as far as it has been asked; it never falls."""
    global _peak
    # Linux notes a new height only when it is asked or pages are unmapped: what another process reclaims is forgotten.
    _peak = max(_peak, most_held(on_gpu=False))
    return _peak


def machine() -> dict[str, str]:
    """What a reader needs to know of this machine to make sense of the figures."""
    try:
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB"
    except (ValueError, OSError):
        memory = "unknown"
    return {
        "CPU": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": memory,
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "diffusers", "transformers", "everreel")},
    }


def page_head(title: str, command: str) -> list[str]:
    """How a page begins: its title, what wrote it, and on which machine."""
    said = ["This page is written by a program:", "", f"    {command}", ""]
    return [f"# {title}", "", *said, *table(("machine", ""), machine().items()), ""]


def say(text: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


_peak = 0


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    if name == "everreel":
        from everreel import __version__

        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
