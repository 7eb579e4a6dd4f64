"""`docs/evaluation.md`: two embedded models compared, what the measures are, and what they say of films with a fault.

    everreel evaluate --model tiny -o runs/tiny
    everreel evaluate --model tiny-fast -o runs/tiny-fast
    python -m benchmarks.compare_models runs/tiny runs/tiny-fast

The one invariant: the figures are those of `everreel evaluate compare` for these two folders, and the page names no
folder but by its last name.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import faults
from benchmarks.measure import say
from everreel.evaluate.compare import Comparison, compare
from everreel.evaluate.film_set import FilmSet
from everreel.evaluate.markdown import paragraph, table
from everreel.evaluate.page import facts_of
from everreel.evaluate.quality import MEASURES, Quality, QualityMeter
from everreel.evaluate.quality_table import NAME, films_in, measure_files
from everreel.evaluate.significance import DRAWS, LEAST_PAIRS

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
ASKED = ("num_inference_steps", "guidance_scale", "guidance_level", "guidance_until", "shift", "seed")
"""Settings that are options of `everreel evaluate`; of `num_films` the page tells elsewhere."""
SHOWN = ("model", "weights", "loras", *ASKED, "critic")
OF_FAULTS = (
    "subject_sameness",
    "background_sameness",
    "flicker",
    "smoothness",
    "largest_jump",
    "liveliness",
    "sharpness",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, compare, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_models", description=__doc__)
    parser.add_argument("a", type=Path, help="a folder of everreel evaluate")
    parser.add_argument("b", type=Path, help="the other")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    try:
        for folder in (options.a, options.b):
            for missed in measure_files(films_in(folder), folder / NAME) if folder.is_dir() else ():
                say(f"skipped {missed}")
        found = compare(options.a, options.b)
    except ValueError as error:
        sys.exit(f"compare_models: {error}")
    made = {name: measured(film) for name, film in faults.films().items()}
    options.output.write_text(page(found, made, command_of(options.a, options.b)), encoding="utf-8")
    say(f"wrote {options.output}")


def measured(film: faults.Pixels) -> Quality:
    """The measures of a film that was made to have a fault."""
    meter = QualityMeter(faults.FPS)
    meter.add(film)
    return meter.result()


def command_of(a: Path, b: Path) -> str:
    """What anyone would type for the same; of folders only the name."""
    return shlex.join(["python", "-m", "benchmarks.compare_models", a.resolve().name, b.resolve().name])


def makes(films: FilmSet) -> str:
    """The command that fills such a folder; empty where it is not known who made the films. LoRAs of one's own, which
    are recorded by their content, have to be added.
    """
    settings = films.settings
    if not settings.get("model"):
        return ""
    asked = [(f"--{name.replace('_', '-')}", settings.get(name)) for name in ("num_films", *ASKED)]
    words = ["everreel", "evaluate", "--model", Path(str(settings["model"])).name]
    words += [word for name, value in asked if value is not None for word in (name, str(value))]
    return shlex.join([*words, "-o", f"runs/{films.folder.resolve().name}"])


def shown(name: str, settings: Mapping[str, Any]) -> str:
    """A setting as the table has it."""
    if name not in settings and not (name == "loras" and "weights" in settings):
        return "not recorded"
    value = settings.get(name)
    if name == "loras":  # which are left out where there are none
        return ", ".join(f"{digest} at {strength:g}" for digest, strength in value or ()) or "none"
    return "not set" if value is None else str(value)


def page(found: Comparison, made: Mapping[str, Quality], command: str) -> str:
    """The whole page."""
    a, b = found.names
    commands = [f"    {made_by}" for made_by in map(makes, (found.a, found.b)) if made_by]
    filled = [*paragraph("These commands fill the two folders:"), "", *commands]
    sections = (
        ["# Evaluation: two embedded models compared", "", "This page is written by a program:", "", f"    {command}"],
        paragraph(
            "The two folders are what `everreel evaluate` leaves for either model; `everreel evaluate compare A B` "
            "says the same as a page with players, as Markdown or as JSON."
        ),
        *([filled] if commands else []),
        [f"## {a} and {b}"],
        settings_table(found.a, found.b, (a, b)),
        paragraph(found.statement()),
        found.table(),
        [line for row in found.rows for line in paragraph(row.words(a, b), "- ")],
        *(paragraph(note) for note in found.notes),
        paragraph(
            "Where no difference is significant there may be one all the same: the interval says which differences "
            "these films leave possible. The intervals of differences are not corrected, so one that leaves out 0 may "
            "stand beside a corrected p above 0.05."
        ),
        *how_it_is_tested(),
        *what_is_measured(),
        *of_films_with_a_fault(made),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def settings_table(a: FilmSet, b: FilmSet, names: tuple[str, str]) -> list[str]:
    """What the films are, and what they were made with."""
    rows = [("films", facts_of(a), facts_of(b))]
    for name in SHOWN:
        rows.append((name.replace("_", " "), shown(name, a.settings), shown(name, b.settings)))
    return table(("", *names), rows)


def how_it_is_tested() -> list[list[str]]:
    """In a paragraph."""
    return [
        ["## How it is tested"],
        paragraph(
            "Films are paired by prompt and seed, else by prompt, else by file name, else not at all; what counts as "
            "one draw is a prompt. Fields that are right or wrong have McNemar's exact test; all other measures a "
            f"randomisation test with {DRAWS:,} draws: of the signs of the differences where films are paired, of the "
            "labels where they are not. Intervals are percentile bootstraps over prompts. The share of all fields "
            "that are as asked is named beforehand to stand for the whole and is tested for itself; the p values of "
            f"all others are corrected together (Holm). Fewer than {LEAST_PAIRS} pairs are not tested. Films of other "
            "prompts, lengths, sizes, rates or critics are refused by name, unless `--anyway` is given."
        ),
    ]


def what_is_measured() -> list[list[str]]:
    """The definitions."""
    rows = [(measure.title, measure.better, measure.unit, measure.what) for measure in MEASURES.values()]
    return [
        ["## What the measures are"],
        paragraph(
            "They need no download and are not those of VBench, which has networks for the like: no figure here is "
            "comparable with one of VBench. What a film has too few frames for, or nothing to measure on, is left "
            "out with its reason."
        ),
        table(("measure", "better", "unit", "what it is"), rows),
    ]


def of_films_with_a_fault(made: Mapping[str, Quality]) -> list[list[str]]:
    """What the measures say of films that were made to have one."""
    head = ("film", *(MEASURES[name].title for name in OF_FAULTS))

    def row(found: Quality) -> list[str]:
        return [MEASURES[name].show(found.values.get(name, math.nan)) for name in OF_FAULTS]

    return [
        ["## What they say of films with a fault"],
        paragraph(
            f"One film of {faults.FRAMES} frames, {faults.WIDTH}x{faults.HEIGHT}: a patterned disc crosses a patterned "
            "wall while the camera pans. The others are the same but for one fault each."
        ),
        table(head, [(name, *row(found)) for name, found in made.items()], "l" + "r" * len(OF_FAULTS)),
    ]


if __name__ == "__main__":
    main()
