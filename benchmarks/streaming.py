"""A student against its teacher: how fast it streams, and what it costs in what films show.

The one invariant: both are asked for the same films, by the settings that each recommends; a film's time counts from
the prompt, with the model loaded, to the closed file, and accuracy is of the same prompts and seeds.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.length import FilmCost, Setting, film_in_own_process
from benchmarks.measure import bootstrap, machine, say
from everreel.evaluate.follow import FIELDS, Report
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.film.loading import model_options
from everreel.memory import keep_freed_memory

PAGE = Path(__file__).parents[1] / "docs" / "tiny-fast.md"
FPS_GOAL, FIRST_BLOCK_GOAL, POINTS_GOAL = 72, 1.0, 3.0  # frames and seconds on two cores; points of accuracy
FILMS = (97, 481)


@dataclass(frozen=True)
class Costs:
    """What films of each length cost, some of each."""

    model: str
    films: dict[int, list[FilmCost]]

    def seconds(self, frames: int) -> float:
        """Of a film, the median."""
        return statistics.median(cost.seconds for cost in self.films[frames])

    def first_block(self, frames: int) -> float:
        """When the first block is on disk, the median in seconds."""
        return statistics.median(cost.first_block_seconds for cost in self.films[frames])

    def rate(self, frames: int) -> float:
        """Frames a second of the whole film, the median."""
        return frames / self.seconds(frames)


def run(model: str, repeats: int, lengths: Sequence[int] = FILMS) -> Costs:
    """Films of each length, each in a process of its own, in the steps that the model recommends."""
    setting = Setting(model=model, steps=model_options(model=model).card().num_inference_steps)
    return Costs(model, {n: [film_in_own_process(setting, n) for _ in range(repeats)] for n in lengths})


def page(student: Costs, teacher: Costs, reports: tuple[Report, Report] | None, command: str) -> str:
    """The whole page."""
    lines = [f"# {student.model}: how fast it streams, and what that costs", ""]
    lines += [*paragraph("This page is written by a program; run it to have the figures of your own machine:"), ""]
    lines += [f"    {command}", "", *table(("machine", ""), machine().items()), ""]
    lines += [*_speed(student, teacher), ""]
    lines += _accuracy(*reports) if reports else ["Missing here: what the critic reads, which takes both reports."]
    return "\n".join(lines) + "\n"


def _speed(student: Costs, teacher: Costs) -> list[str]:
    longest = max(student.films)
    rate, first = student.rate(longest), student.first_block(longest)
    goals = [
        (
            f"frames a second, a film of {longest} frames",
            f"at least {FPS_GOAL}",
            f"{rate:.0f}",
            verdict(rate >= FPS_GOAL),
        ),
        (
            "its first block on disk",
            f"under {FIRST_BLOCK_GOAL:g} s",
            f"{first:.2f} s",
            verdict(first < FIRST_BLOCK_GOAL),
        ),
    ]
    rows = [
        (
            costs.model,
            cost[0].description,
            f"{costs.seconds(n):.1f} s",
            f"{costs.rate(n):.0f}",
            f"{costs.first_block(n):.2f} s",
        )
        for costs in (student, teacher)
        for n, cost in costs.films.items()
    ]
    head = ("model", "film", "seconds", "frames a second", "first block")
    return [*table(("what", "goal", "measured", ""), goals), "", *table(head, rows, "llrrr")]


def _accuracy(student: Report, teacher: Report) -> list[str]:
    """Fields of the same films, and how many points are lost, by film."""
    pairs = {film.seed: film for film in teacher.films}
    lost, rows = [], []
    for film in student.films:
        other = pairs[film.seed]
        if film.prompt != other.prompt:
            raise ValueError(
                f"reports: film {film.file} was asked for in other words than the teacher's; make both alike"
            )
        shares = [[a.read == a.asked for a in one.answers.values()] for one in (other, film)]
        lost.append(100 * (statistics.fmean(shares[0]) - statistics.fmean(shares[1])))
    mean, low, high = bootstrap(lost)
    scores = [{score.name: score for score in report.fields} for report in (student, teacher)]
    for name in FIELDS:
        ours, theirs = (score.get(name) for score in scores)
        if ours and theirs and ours.films:
            rows.append((name.replace("_", " "), f"{ours.accuracy:.0%}", f"{theirs.accuracy:.0%}", str(ours.films)))
    goal = (f"under {POINTS_GOAL:g}", f"{mean:.1f} ({low:.1f} to {high:.1f})", verdict(mean < POINTS_GOAL))
    return [
        *paragraph(
            f"{len(lost)} films of held-out prompts, {student.settings['num_frames']} frames each, read by the critic; "
            "points are of all fields of a film, with a bootstrap interval over films."
        ),
        "",
        *table(("what", "goal", "measured", ""), [("points of accuracy lost to the teacher", *goal)]),
        "",
        *table(("field", "student", "teacher", "films"), rows, "lrrr"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="tiny-fast", help="a model's name or folder")
    parser.add_argument("--teacher", default="tiny", help="a model's name or folder")
    parser.add_argument("--repeats", type=int, default=3, help="films of each length")
    parser.add_argument("--student-report", type=Path, help="report.json of everreel evaluate with the student")
    parser.add_argument("--teacher-report", type=Path, help="report.json of everreel evaluate with the teacher")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    both = options.student_report, options.teacher_report
    keep_freed_memory()
    try:
        reports = (Report.load(both[0]), Report.load(both[1])) if all(both) else None
        costs = [run(options.student, options.repeats), run(options.teacher, 1, FILMS[:1])]
        written = page(*costs, reports, _command(arguments))
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark: {error}")
    options.output.write_text(written, encoding="utf-8")
    say(f"wrote {options.output}")


def _command(arguments: Sequence[str]) -> str:
    """What anyone would type for the same; of paths only the last two names, for a page speaks of no machine's."""
    shown = ["/".join(Path(word).parts[-2:]) if "/" in word else word for word in arguments]
    return f"python -m benchmarks.streaming {shlex.join(shown)}".strip()


if __name__ == "__main__":
    main()
