"""What the stages of post-training gain: films of the same prompts and seeds before and after each of them.

    python -m benchmarks.gains runs/post_training

reads the reports that `recipes/post_training.py` left, measures the sharpness of the films where that is asked, and
leaves `gains.json`, which `python -m benchmarks.recipe` puts on its page. The one invariant: every gain is paired, film
by film, and its interval is drawn over films; a prompt or a seed that is not in both sets stops it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import say
from everreel.data.latents import LatentStore
from everreel.evaluate.follow import FilmAnswers, Report
from everreel.evaluate.quality import measure_film
from everreel.evaluate.significance import interval
from everreel.train.labels import read_labels
from everreel.train.run import load_recipe
from everreel.world.words import KINDS

RESULT = "gains.json"
RECIPE = Path(__file__).parents[1] / "recipes" / "post_training.py"
Score = Callable[[FilmAnswers, Path], tuple[float, float] | None]
"""A film and its folder → what was right and out of how much; none where it does not count."""


@dataclass(frozen=True)
class Gain:
    """One figure before and after a stage, in percent, with the 95 % interval of the difference over films."""

    stage: str
    what: str
    films: int
    before: float
    after: float
    gain: float
    low: float
    high: float


def fields_of(*names: str) -> Score:
    """The share of these fields that is read as asked for; of all fields without a name."""

    def score(film: FilmAnswers, folder: Path) -> tuple[float, float] | None:
        asked = [answer for name, answer in film.answers.items() if not names or name in names]
        return (float(sum(a.read == a.asked for a in asked)), float(len(asked))) if asked else None

    return score


def _rare(film: FilmAnswers, folder: Path) -> tuple[float, float] | None:
    """Subjects that are no people."""
    return fields_of("subject")(film, folder) if KINDS[film.scene["subject"]][0] != "Human" else None


def _people(film: FilmAnswers, folder: Path) -> tuple[float, float] | None:
    return None if _rare(film, folder) else fields_of("subject")(film, folder)


def _sharpness(film: FilmAnswers, folder: Path) -> tuple[float, float] | None:
    return measure_film(folder / film.file).values["sharpness"], 1.0


PAIRS: tuple[tuple[str, str, str, str, Score], ...] = (
    ("as-is", "subjects that are no people", "before", "after/as-is", _rare),
    ("balanced", "subjects that are no people", "before", "after/balanced", _rare),
    ("balanced against as-is", "subjects that are no people", "after/as-is", "after/balanced", _rare),
    ("balanced against as-is", "people", "after/as-is", "after/balanced", _people),
    ("balanced against as-is", "all fields", "after/as-is", "after/balanced", fields_of()),
    ("camera", "camera motion", "before", "after/camera", fields_of("camera_motion")),
    ("camera", "all fields", "before", "after/camera", fields_of()),
    ("best", "sharpness", "before-larger", "after/best", _sharpness),
    ("best", "all fields", "before-larger", "after/best", fields_of()),
)
"""Stage, what is counted, the folders of films before and after."""


def gains(runs: Path) -> Iterator[Gain]:
    """Every row whose films are there.

    Raises:
        ValueError: two sets are of other prompts or seeds.
    """
    for stage, what, before, after, score in PAIRS:
        if all((runs / name / "report.json").is_file() for name in (before, after)):
            row = gain_of(stage, what, runs / before, runs / after, score)
            if row is not None:
                yield row


def gain_of(stage: str, what: str, before: Path, after: Path, score: Score) -> Gain | None:
    """The row of two folders of films with their reports; none where no film counts.

    Raises:
        ValueError: they are of other prompts or seeds.
    """
    sets = [Report.load(folder / "report.json").films for folder in (before, after)]
    if [(film.prompt, film.seed) for film in sets[0]] != [(film.prompt, film.seed) for film in sets[1]]:
        raise ValueError(
            f"{before}, {after}: films of other prompts or seeds; both must be made with the same settings"
        )
    found = []
    for films in zip(*sets, strict=True):
        pair = [score(film, folder) for film, folder in zip(films, (before, after), strict=True)]
        if pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    if not found:
        return None
    right = np.array([[one[0], other[0]] for one, other in found])
    most = np.array([one[1] for one, _ in found])
    # A film with more fields weighs as much as it has fields: the gain is that of the share over all of them.
    differences = (right[:, 1] - right[:, 0]) / most.mean()
    low, high = interval(differences, torch.Generator().manual_seed(0))
    shares = right.sum(0) / most.sum()
    figures = (shares[0], shares[1], differences.mean(), low, high)
    return Gain(stage, what, len(found), *(round(100 * float(figure), 2) for figure in figures))


def histograms(runs: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Of each stage that balances, the shares before and after, by the captions of its films."""
    recipe = dict(load_recipe(RECIPE))
    stages = {stage: recipe[stage] for stage in ("balanced", "camera")}
    stores = {stage: (runs / "latents" / Path(one.films).name, one.select[0]) for stage, one in stages.items()}
    return {
        stage: balance.shares(read_labels(LatentStore(store)))
        for stage, (store, balance) in stores.items()
        if (store / "labels.jsonl").is_file()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write `gains.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gains", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="the folder of the runs, such as runs/post_training")
    options = parser.parse_args(arguments)
    rows = list(gains(options.runs))
    if not rows:
        parser.error(f"runs = {options.runs}: no films before and after any stage; run recipes/post_training.py")
    for row in rows:
        say(
            f"{row.stage}: {row.what}: {row.before:.1f} -> {row.after:.1f}, "
            f"{row.gain:+.1f} ({row.low:+.1f} to {row.high:+.1f})"
        )
    record = {"gains": [asdict(row) for row in rows], "histograms": histograms(options.runs)}
    (options.runs / RESULT).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
