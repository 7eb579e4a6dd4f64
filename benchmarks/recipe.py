"""docs/recipe.md: what each stage of a recipe took and left, read from the folders of its runs.

The one invariant: every figure is read from a run's own `metrics.jsonl` or `report.json`; what is not there is named
as missing, and nothing is computed again. Sections of runs that are not named stay as they are on the page. The unit of
an interval is a film: whole films are drawn anew, with all that the critic reads off them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import first_frame
from benchmarks.measure import bootstrap, say
from benchmarks.motion import render_summary
from everreel.evaluate.follow import FIELDS, Report
from everreel.evaluate.markdown import paragraph, table
from everreel.train.progress import read_metrics

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
STAGES = ("text", "vae", "diffusion_forcing", "distill")  # what a whole recipe trains
GAINS, MOTION = "gains.json", "motion.json"
REWARD, FIRST_FRAME = "reward/report.json", f"first-frame/{first_frame.REPORT}"
POST_TRAINING = ("balanced", "camera", "best", "motion")  # what follows it, each from the same model
FIRST_AND_LAST = 0.05  # of a stage's log lines: their mean is its first loss, or its last


@dataclass(frozen=True)
class Stage:
    """One training run, `name` its folder in those of the recipe."""

    name: str
    steps: int
    seconds: float
    losses: dict[str, tuple[float, float]]
    """First and last of each role."""
    by_level: dict[str, float]
    """The last loss up to a noise level, where the stage reports it."""
    report: dict[str, float]

    @classmethod
    def read(cls, folder: Path, runs: Path) -> Stage:
        """What a run's folder tells."""
        records = [record for record in read_metrics(folder / "metrics.jsonl") if record["event"] == "train"]
        seconds, step = 0.0, 0
        for record in records:
            seconds += (record["step"] - step) / (record.get("steps_per_second") or math.inf)
            step = record["step"]
        names = sorted({name for record in records for name in record})
        ends = {name: _ends(records, name) for name in names if name.startswith("loss")}
        path = folder / "report.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return cls(
            name=folder.relative_to(runs).as_posix(),
            steps=step,
            seconds=seconds,
            losses={name.removeprefix("loss/"): pair for name, pair in ends.items() if name.startswith("loss/")},
            by_level={name.removeprefix("loss_to_"): pair[1] for name, pair in ends.items() if "_to_" in name},
            report={name: value for name, value in report.items() if isinstance(value, int | float)},
        )


def read_stages(runs: Path) -> list[Stage]:
    """The training runs in a folder, in the order in which they ended."""
    logs = sorted(runs.rglob("metrics.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [stage for stage in (Stage.read(log.parent, runs) for log in logs) if stage.steps]


def read_films(runs: Path) -> dict[str, Report]:
    """The reports of films in a folder, by their own folders."""
    found = {}
    for path in sorted(runs.rglob("report.json")):
        if isinstance(json.loads(path.read_text(encoding="utf-8")).get("films"), list):  # a stage of motion counts them
            found[path.parent.relative_to(runs).as_posix()] = Report.load(path)
    return found


def interval(report: Report, field: str) -> tuple[float, float, float] | None:
    """The share of films in which a field is read as asked, and its 95 % bootstrap interval; None if none shows it."""
    hits = [film.answers[field] for film in report.films if field in film.answers]
    if not hits:
        return None
    return bootstrap([float(answer.read == answer.asked) for answer in hits])


def render_page(runs: Sequence[Path], before: str = "") -> str:
    """The whole page, of one folder of runs or several, and of what stood on the page before of any other."""
    sections = {part.split("\n", 1)[0]: part.rstrip().split("\n") for part in before.split("\n## ")[1:]}
    sections |= {folder.name: [folder.name, *list(_section(folder))[1:]] for folder in runs}
    lines = ["# The recipe", "", *paragraph("This page is written by a program from the folders of the runs:"), ""]
    lines += [f"    python -m benchmarks.recipe {' '.join(f'runs/{name}' for name in sections)}"]
    for section in sections.values():
        lines += ["", f"## {section[0]}", *section[1:]]
    return "\n".join(lines) + "\n"


def _section(runs: Path) -> Iterator[str]:
    stages, films = read_stages(runs), read_films(runs)
    yield f"## {runs.name}"
    yield ""
    head = ("stage", "steps", "seconds", "loss, first → last", "loss by noise level", "on held-out clips")
    yield from table(head, [_row(stage) for stage in stages], "lrrlll")
    yield ""
    seconds = sum(stage.seconds for stage in stages)
    yield from paragraph(
        f"Together {seconds / 3600:.2f} hours of training. The seconds are those of the steps, without rendering, "
        "encoding and samples. A loss by level is that of the levels of the stage's own windows."
    )
    yield ""
    if films:
        rows = [(name, str(len(films[name].films)), *_accuracies(films[name])) for name in films]
        named = [field for field in FIELDS if any(interval(report, field) for report in films.values())]
        shown = [(row[0], row[1], *(row[2 + FIELDS.index(field)] for field in named)) for row in rows]
        yield from paragraph(
            "How often the critic reads a field of a film as it was asked for, for prompts that were never trained "
            "on, in percent, with the 95 % bootstrap interval over films."
        )
        yield ""
        yield from table(("films", "how many", *(field.replace("_", " ") for field in named)), shown)
        yield ""
    for name, lines_of in ((GAINS, _gains), (REWARD, _reward), (MOTION, _motion), (FIRST_FRAME, _first_frame)):
        if (runs / name).is_file():
            yield from lines_of(json.loads((runs / name).read_text(encoding="utf-8")))
    wanted = POST_TRAINING if (runs / GAINS).is_file() else STAGES
    missing = [name for name in wanted if not any(stage.name.split("/")[0] == name for stage in stages)]
    words = [f"no run of {', '.join(missing)}"] if missing else []
    words += [] if films else ["no films that a critic has read"]
    yield f"Missing here: {'; '.join(words)}." if words else "Nothing is missing here."


def _gains(record: dict[str, Any]) -> Iterator[str]:
    """What `benchmarks.gains` has found."""
    yield from paragraph(
        "What stages gain, in percent: the same prompts and seeds before and after, and the 95 % bootstrap interval of "
        "the difference over films."
    )
    yield ""
    head = ("stage", "what", "films", "before", "after", "gain")
    rows = [
        (
            row["stage"], row["what"], str(row["films"]), f"{row['before']:.1f}", f"{row['after']:.1f}",
            f"{row['gain']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})",
        )
        for row in record["gains"]
    ]  # fmt: skip
    yield from table(head, rows, "llrrrl")
    yield ""
    for stage, shares in record["histograms"].items():
        yield from paragraph(f"Shares of clips as the captioner tells them, before and after, of the stage {stage}:")
        yield ""
        rows = [(value or "nothing", f"{100 * a:.1f} %", f"{100 * b:.1f} %") for value, (a, b) in shares.items()]
        yield from table(("value", "before", "after"), rows, "lrr")
        yield ""


def _reward(record: dict[str, Any]) -> Iterator[str]:
    """What the reward model of motion is worth."""
    pairs, rules = record["pairs"], record["baseline"]
    yield from paragraph(
        f"The reward model of motion learnt from {pairs['train']} pairs. Of {pairs['held_out']} pairs of clips that it "
        "never saw it tells so many apart, in percent, and so many would three rules that need no network:"
    )
    yield ""
    kinds = [
        (kind, str(found["pairs"]), _share(found), *(_share(rule["accuracy"][kind]) for rule in rules.values()))
        for kind, found in record["accuracy"].items()
    ]
    named = (f"{rule['better']} {name}" for name, rule in rules.items())
    yield from table(("pairs", "how many", "reward", *named), kinds)
    yield ""


def _share(found: dict[str, Any]) -> str:
    return "" if found["share"] is None else _percents((found["share"], *found["interval"]))


def _motion(record: dict[str, Any]) -> Iterator[str]:
    """What `benchmarks.motion` has found."""
    yield from render_summary(record, "before", "motion").split("\n")
    yield ""


def _first_frame(record: dict[str, Any]) -> Iterator[str]:
    """What `benchmarks.first_frame` has found."""
    yield from paragraph(
        f"{len(record['prompts'])} films of a held-out clip's first frame and sentence, and of the sentence alone, "
        "which is the reference: frame 0 against the picture, and how far what is seen moves, in short sides a second."
    )
    yield ""
    yield from table(first_frame.HEAD, [tuple(row.values()) for row in record["rows"]])
    yield ""


def _row(stage: Stage) -> tuple[str, ...]:
    several = len(stage.losses) > 1
    losses = [f"{name + ' ' if several else ''}{a:.3g} → {b:.3g}" for name, (a, b) in stage.losses.items()]
    levels = [f"to {level}: {value:.3g}" for level, value in stage.by_level.items()]
    report = [f"{name} {value:.3g}" for name, value in stage.report.items() if "/" not in name]
    cells = (", ".join(words) for words in (losses, levels, report))
    return stage.name, f"{stage.steps:,}", f"{stage.seconds:,.0f}", *cells


def _accuracies(report: Report) -> Iterator[str]:
    for field in FIELDS:
        found = interval(report, field)
        yield "" if found is None else _percents(found)


def _percents(share_low_high: Sequence[float]) -> str:
    return "{:.0f} ({:.0f} to {:.0f})".format(*(100 * value for value in share_low_high))


def _ends(records: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    values = [record[name] for record in records if name in record]
    few = max(1, round(FIRST_AND_LAST * len(values)))
    return sum(values[:few]) / few, sum(values[-few:]) / few


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, such as runs/smallest")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    absent = [path for path in options.runs if not path.is_dir()]
    if absent:
        parser.error(f"runs = {absent[0]}: no such folder; make recipe fills runs/smallest")
    before = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
    options.output.write_text(render_page(options.runs, before), encoding="utf-8")
    say(f"wrote {options.output}")


if __name__ == "__main__":
    main()
