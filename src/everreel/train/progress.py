"""What a training run tells while it runs: metrics.jsonl, TensorBoard events, a drawn loss curve, a
progress line.

The one invariant: `metrics.jsonl` holds each logged step once. A resumed run first drops the lines that
were written after the checkpoint it goes on from.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageDraw

CURVE_SIZE = (960, 540)
CURVE_COLORS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#66a182", "#8d5a97")


class Journal:
    """Writes the metrics of one run; `log` is called once every `log_every` steps."""

    def __init__(self, folder: Path, start_step: int, total_steps: int, quiet: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self.total_steps = total_steps
        self._keep_until(start_step)
        self._events = _tensorboard(folder, start_step)
        self._bar = None if quiet else _ProgressLine(start_step, total_steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()
        draw_curve(self.path.with_name("loss.png"), read_metrics(self.path))

    def log(self, step: int, values: Mapping[str, float], event: str = "train") -> None:
        """Write one record; numbers are rounded to six digits, which no curve can tell."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "event": event, **rounded}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name if event == "train" else f"{event}/{name}", value, step)
        if self._bar is not None and event != "train":
            self._bar.say(f"step {step} {event}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def advance(self, step: int, values: Mapping[str, float], line: bool) -> None:
        """Move the progress bar; without a terminal write a line where `line` says so."""
        if self._bar is not None:
            self._bar.advance(step, values, line)

    def say(self, text: str) -> None:
        """One line to whoever watches."""
        if self._bar is not None:
            self._bar.say(text)

    def _keep_until(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        half_done = self.path.with_suffix(".part")
        half_done.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        half_done.replace(self.path)


class Unwritten:
    """The journal of a process that leaves writing to another."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float], event: str = "train") -> None:
        """As `Journal.log`, and so below."""

    def advance(self, step: int, values: Mapping[str, float], line: bool) -> None:
        """Nobody watches."""

    def say(self, text: str) -> None:
        """Nobody watches."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def draw_curve(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw every `loss/…` of the records over the steps, on a logarithmic axis where all are positive."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name.startswith("loss/") and record.get("event") == "train" and math.isfinite(value):
                series[name].append((float(record["step"]), float(value)))
    points = [point for line in series.values() for point in line]
    if not points:
        return
    logarithmic = min(value for _, value in points) > 0
    scaled = {name: [(x, math.log10(y) if logarithmic else y) for x, y in line] for name, line in series.items()}
    draw_lines(path, scaled, logarithmic)


def draw_lines(path: Path, series: Mapping[str, Sequence[tuple[float, float]]], logarithmic: bool = False) -> None:
    """Draw lines of points by name; `logarithmic` says that the heights are logarithms."""
    image = Image.new("RGB", CURVE_SIZE, "white")
    _draw_lines(ImageDraw.Draw(image), series, logarithmic)
    image.save(path)


class _ProgressLine:
    """A rich bar on a terminal; plain lines elsewhere, so that a log file stays readable."""

    def __init__(self, start_step: int, total_steps: int) -> None:
        self._began, self._start, self._total = time.monotonic(), start_step, total_steps
        self._progress: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
            from rich.progress import TimeRemainingColumn as Remaining

            text = TextColumn("{task.description}")
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining(), text)
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task("", total=total_steps, completed=start_step)
            self._progress.start()

    def advance(self, step: int, values: Mapping[str, float], line: bool) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
        elif line:
            elapsed = time.monotonic() - self._began
            left = elapsed / max(step - self._start, 1) * (self._total - step)
            self.say(f"step {step}/{self._total}  {text}  elapsed {_clock(elapsed)}  left {_clock(left)}")

    def say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _draw_lines(
    draw: ImageDraw.ImageDraw, series: Mapping[str, Sequence[tuple[float, float]]], logarithmic: bool
) -> None:
    points = [point for line in series.values() for point in line]
    (left, top), (right, bottom) = (70, 20), (CURVE_SIZE[0] - 20, CURVE_SIZE[1] - 40)
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = min(y for _, y in points), max(y for _, y in points)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1e-6)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    for part in range(6):
        x, y = x0 + (x1 - x0) * part / 5, y0 + (y1 - y0) * part / 5
        draw.line([place(x0, y), place(x1, y)], fill="#e4e4e4")
        draw.text((6, place(x0, y)[1] - 6), f"{10**y if logarithmic else y:.4g}", fill="#555555")
        draw.text((place(x, y0)[0] - 12, bottom + 12), f"{x:.0f}", fill="#555555")
    for index, (name, line) in enumerate(series.items()):
        color = CURVE_COLORS[index % len(CURVE_COLORS)]
        draw.line([place(*point) for point in line] if len(line) > 1 else [place(*line[0])] * 2, fill=color, width=2)
        draw.text((right - 160, top + 4 + 16 * index), name, fill=color)


def _tensorboard(folder: Path, start_step: int) -> Any:  # noqa: ANN401 (an optional package has no type to name)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "events", purge_step=start_step + 1)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
