"""The sweep of beta as a page: how pairs are told apart, where the policy has gone, and what its films are like.

`python -m benchmarks.preference_sweep runs/preference_sweep` after its recipe (`SweepRecipe`); several folders are
sections one after the other. The one invariant: rewards are compared film by film, of the same prompts and seeds as the
reference's, and what was not measured is named as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.measure import bootstrap, say
from everreel.evaluate.markdown import paragraph, table

REFERENCE, FILMS, REPORT = "reference", "films.json", "report.json"
COLORS = ("#d1495b", "#00798c", "#edae49")
PANEL, MARGIN = (420, 240), (64, 34, 16, 34)  # left, top, right, bottom
FAR = 0.1
"""So much of the reference's amplitude, spread or mean (in spreads) is said to be far from it."""


@dataclass(frozen=True)
class Row:
    """What is known of one beta."""

    beta: float
    checks: dict[str, dict[str, Any] | None]
    reason: str
    steps: int
    films: dict[str, Any] | None


@dataclass(frozen=True)
class Sweep:
    """A folder of a sweep, its betas from the lowest."""

    folder: Path
    reference: dict[str, Any] | None
    rows: list[Row]


def read_sweep(folder: Path) -> Sweep:
    """What a sweep has left.

    Raises:
        ValueError: no beta of it has been trained to its end.
    """
    rows = []
    for path in folder.glob(f"beta-*/policy/{REPORT}"):
        report = json.loads(path.read_text(encoding="utf-8"))
        films = _read(path.parent.parent / FILMS)
        rows.append(Row(report["beta"], report["checks"], report["reason"], report["step"], films))
    if not rows:
        raise ValueError(f"runs = {folder}: no beta of a sweep is finished here; run its recipe first")
    return Sweep(folder, _read(folder / REFERENCE / FILMS), sorted(rows, key=lambda row: row.beta))


def render(sweep: Sweep, chart: str | None = None) -> list[str]:
    """A section of the page."""
    films = len(sweep.reference["rewards"]) if sweep.reference else 0
    head = (
        "beta", "steps", "told apart, train", "told apart, held out", "better film", "worse film",
        "reward of films", "over the reference", "amplitude", "spread", "shift of mean",
    )  # fmt: skip
    lines = [
        f"## {sweep.folder.name}",
        "",
        *paragraph(
            "Pairs told apart is the share in which the policy has moved towards the better film, with its 95 % "
            "interval. Better and worse film are how the policy's error there has changed against the reference's, in "
            "thousandths: below 0 it makes such films more readily; where both grow, it forgets how to make either. "
            f"Rewards are means of {films} films of the same prompts and seeds; amplitude and spread are those of the "
            "latents as a share of the reference's, the shift of their mean is in the reference's spreads."
        ),
        "",
        *table(head, [_reference_row(sweep), *(_row(row, sweep.reference) for row in sweep.rows)]),
    ]
    if chart is not None:
        lines += ["", f"![The sweep]({chart})"]
    missing = [f"beta {row.beta:g}" for row in sweep.rows if row.films is None]
    missing += [] if sweep.reference else [REFERENCE]
    if missing:
        lines += ["", *paragraph(f"Missing: the films of {', '.join(missing)}.")]
    far = [said for row in sweep.rows if (said := _far(row, sweep.reference))]
    words = f"Signs of a reward that is hacked: {'; '.join(far)}." if far else "No sign of a reward that is hacked."
    return [*lines, "", *paragraph(words)]


def draw(path: Path, sweep: Sweep) -> None:
    """Panels over beta: pairs told apart, displacement, rewards, and the signs of hacking."""
    told = {split: [_check(row, split, "implicit_accuracy") for row in sweep.rows] for split in ("train", "held_out")}
    shifts = {name: [_check(row, "held_out", f"{name}_shift") for row in sweep.rows] for name in ("better", "worse")}
    rewards = {"reward": [None if row.films is None else _mean(row.films["rewards"]) for row in sweep.rows]}
    signs: dict[str, list[float | None]] = {
        name: [_signs(row.films, sweep.reference)[n] for row in sweep.rows]
        for n, name in enumerate(("amplitude", "spread"))
    }
    lines = [None, 0.0, sweep.reference and _mean(sweep.reference["rewards"]), 1.0]
    titles = ("pairs told apart", "shift of the error, held out", "reward of films", "share of the reference's")
    image = Image.new("RGB", (2 * PANEL[0], 2 * PANEL[1]), "white")
    drawing = ImageDraw.Draw(image)
    for number, (title, series) in enumerate(zip(titles, (told, shifts, rewards, signs), strict=True)):
        corner = (number % 2 * PANEL[0], number // 2 * PANEL[1])
        _panel(drawing, corner, title, [f"{row.beta:g}" for row in sweep.rows], series, lines[number])
    image.save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 is returned for what the user can put right."""
    parser = argparse.ArgumentParser(prog="benchmarks.preference_sweep", description="The sweep of beta as a page.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of a SweepRecipe")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/preference_sweep.md"))
    options = parser.parse_args(arguments)
    try:
        sweeps = [read_sweep(folder) for folder in options.runs]
    except ValueError as error:
        sys.stderr.write(f"benchmarks.preference_sweep: {error}\n")
        return 2
    names = " ".join(folder.as_posix() for folder in options.runs)
    lines = ["# How much preference", "", *paragraph("This page is written by a program from the folders of runs:")]
    lines += ["", f"    python -m benchmarks.preference_sweep {names}"]
    for sweep in sweeps:
        chart = options.output.with_name(f"{options.output.stem}-{sweep.folder.name}.png")
        draw(chart, sweep)
        lines += ["", *render(sweep, chart.name)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"written: {options.output}")
    return 0


def _reference_row(sweep: Sweep) -> tuple[str, ...]:
    reward = _mean(sweep.reference["rewards"]) if sweep.reference else None
    return ("reference", "0", "", "", "0", "0", _figure(reward), "", "1", "1", "0")


def _row(row: Row, reference: dict[str, Any] | None) -> tuple[str, ...]:
    told = (_told(row.checks.get(split)) for split in ("train", "held_out"))
    split = "train" if row.checks.get("held_out") is None else "held_out"
    shifts = (_check(row, split, f"{name}_shift") for name in ("better", "worse"))
    moved = ("" if shift is None else f"{1000 * shift:+.2f}" for shift in shifts)
    reward = None if row.films is None else _mean(row.films["rewards"])
    signs = _signs(row.films, reference)
    return (
        f"{row.beta:g}",
        str(row.steps),
        *told,
        *moved,
        _figure(reward),
        _over(row, reference),
        *map(_figure, signs),
    )


def _told(check: dict[str, Any] | None) -> str:
    if check is None:
        return "no pairs"
    between = check["interval"]
    return f"{check['implicit_accuracy']:.0%}" + (f" ({between[0]:.0%} to {between[1]:.0%})" if between else "")


def _over(row: Row, reference: dict[str, Any] | None) -> str:
    """The mean gain over the reference film by film, and its interval."""
    if row.films is None or reference is None or len(row.films["rewards"]) != len(reference["rewards"]):
        return ""
    gains = [one - other for one, other in zip(row.films["rewards"], reference["rewards"], strict=True)]
    mean, low, high = bootstrap(gains)
    return f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def _signs(films: dict[str, Any] | None, reference: dict[str, Any] | None) -> tuple[float | None, ...]:
    """Amplitude and spread as shares of the reference's, and the shift of the mean in its spreads."""
    if films is None or reference is None:
        return None, None, None
    shift = (films["mean"] - reference["mean"]) / reference["std"]
    return films["amplitude"] / reference["amplitude"], films["std"] / reference["std"], shift


def _far(row: Row, reference: dict[str, Any] | None) -> str:
    """Which signs are far from the reference's, in words; nothing if none is."""
    amplitude, spread, shift = _signs(row.films, reference)
    apart = {"amplitude": amplitude and amplitude - 1, "spread": spread and spread - 1, "mean": shift}
    said = [f"{name} {value:+.0%}" for name, value in apart.items() if value is not None and abs(value) > FAR]
    return f"at beta {row.beta:g} {', '.join(said)}" if said else ""


def _check(row: Row, split: str, name: str) -> float | None:
    check = row.checks.get(split)
    return None if check is None else check[name]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _panel(
    drawing: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    names: Sequence[str],
    series: dict[str, list[float | None]],
    line: float | None,
) -> None:
    """One chart: a place for each beta, a line for each series, and a line where the reference is."""
    known = [value for values in series.values() for value in values if value is not None]
    known += [] if line is None else [line]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    wide = 0.08 * (high - low) or 0.05 * max(abs(high), 1e-3)
    low, high = low - wide, high + wide
    left, top = corner[0] + MARGIN[0], corner[1] + MARGIN[1]
    right, bottom = corner[0] + PANEL[0] - MARGIN[2], corner[1] + PANEL[1] - MARGIN[3]

    def at(place: int, value: float) -> tuple[float, float]:
        return left + (place + 0.5) / len(names) * (right - left), bottom - (value - low) / (high - low) * (
            bottom - top
        )

    drawing.text((left, corner[1] + 6), title, fill="#222222")
    for part in range(5):
        value = low + (high - low) * part / 4
        y = at(0, value)[1]
        drawing.line([(left, y), (right, y)], fill="#e4e4e4")
        drawing.text((corner[0] + 6, y - 6), f"{value:.3g}", fill="#555555")
    if line is not None:
        drawing.line([(left, at(0, line)[1]), (right, at(0, line)[1])], fill="#888888")
    for place, name in enumerate(names):
        drawing.text((at(place, low)[0] - 8, bottom + 8), name, fill="#555555")
    for number, (name, values) in enumerate(series.items()):
        points = [at(place, value) for place, value in enumerate(values) if value is not None]
        color = COLORS[number % len(COLORS)]
        if len(points) > 1:
            drawing.line(points, fill=color, width=2)
        for x, y in points:
            drawing.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color)
        drawing.text((right - 70, corner[1] + 6 + 12 * number), name.replace("_", " "), fill=color)


if __name__ == "__main__":
    sys.exit(main())
