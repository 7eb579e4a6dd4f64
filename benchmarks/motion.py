"""Motion before and after training, by the film world's physics; and how far that judge can be believed.

    everreel evaluate --model BEFORE -o runs/before
    everreel evaluate --model AFTER -o runs/after
    python -m benchmarks.motion runs/before runs/after --json runs/motion.json
    python -m benchmarks.motion --check --clips 60

`python -m benchmarks.recipe runs` puts `motion.json` on its page. The one invariant: only films of one prompt and one
seed are held against each other, each film is read once, and the unit of an interval is a film (or a pair of them).
`--check` holds renders against what `benchmarks/motion_kinds.py` makes of them, with renders whose seed the judge never
saw.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import bootstrap, say
from benchmarks.motion_kinds import COARSE, KINDS, wrong_films
from everreel.evaluate.drift import MEASURES as LIGHT
from everreel.evaluate.drift import measure
from everreel.evaluate.expected import expected_of
from everreel.evaluate.film_set import REPORT, read_report
from everreel.evaluate.follow import FilmAnswers
from everreel.evaluate.markdown import table, verdict
from everreel.evaluate.physics import MARGIN, Motion, judge, prefer
from everreel.evaluate.physics_scale import WEIGHTS
from everreel.evaluate.quality import QualityMeter
from everreel.evaluate.signals import FEATURES
from everreel.media import Video
from everreel.world.render import render
from everreel.world.scene import Scene, sample_scene

OF_MOTION = ("action", "direction", "camera_motion")
"""Fields of the critic that motion itself is about; the others have to stay."""
FROZEN = math.log(0.25)
"""A film in which everything together moves less than a quarter as much as it should is frozen."""
FRAMES, FPS, HEIGHT, WIDTH = 33, 24, 96, 160
GOAL = 0.9
WIN_RATE, LOSS = 0.65, 0.01
"""What a stage of motion should reach, and what it may cost of the other fields."""


@dataclass(frozen=True)
class Judged:
    """One film of a folder: its motion, and all else that is measured of it."""

    motion: Motion
    answers: Mapping[str, bool]
    chances: Mapping[str, float]
    looks: Mapping[str, float]

    @property
    def frozen(self) -> bool:
        """Whether next to nothing moves in it that should."""
        found, usual = self.motion.measured.get("energy", (math.nan, math.nan))
        return found - usual < FROZEN


@dataclass(frozen=True)
class Pair:
    """A film before and after; `winner` is 1 if the second moves better, -1 if the first does."""

    file: str
    before: Judged
    after: Judged
    winner: int


def pairs_of(before: Path, after: Path, margin: float = MARGIN) -> list[Pair]:
    """The films of two folders that have one prompt and one seed, judged.

    Raises:
        ValueError: a folder is none of `everreel evaluate`, or they have no film in common.
    """
    told = [_told(folder) for folder in (before, after)]
    common = [key for key in told[0] if key in told[1]]
    if not common:
        raise ValueError(
            f"films = {before.name}, {after.name}: no prompt and seed of {len(told[0])} and {len(told[1])} films are "
            "in both; make both with one --seed and the same prompts"
        )
    pairs = []
    for number, key in enumerate(common, 1):
        one, other = told[0][key], told[1][key]
        judged = judge_film(before / one.file, one), judge_film(after / other.file, other)
        pairs.append(Pair(one.file, *judged, prefer(judged[1].motion, judged[0].motion, margin)))
        say(f"{number}/{len(common)} {one.file}: {judged[0].motion.score:.2f} to {judged[1].motion.score:.2f}")
    return pairs


def judge_film(path: Path, told: FilmAnswers) -> Judged:
    """Read a film once, and measure all of it."""
    video = Video(path)
    frames = np.asarray(video.frames, dtype=np.uint8)
    meter = QualityMeter(video.fps)
    meter.add(frames)
    light = dict(zip(LIGHT, np.mean([measure(frame) for frame in frames], axis=0).tolist(), strict=True))
    values = {name: value for name, value in meter.result().values.items() if math.isfinite(value)}
    return Judged(
        judge(frames, round(video.fps, 3), Scene(**told.scene)),
        {name: answer.read == answer.asked for name, answer in told.answers.items()},
        {name: answer.probability for name, answer in told.answers.items()},
        {**values, **light},
    )


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """All figures of the pairs: what `--json` writes."""
    wins = [(pair.winner + 1) / 2 for pair in pairs]
    axes = {name: _change([p.before.motion.axes for p in pairs], [p.after.motion.axes for p in pairs], name)
            for name in WEIGHTS}  # fmt: skip
    score = _of([pair.before.motion.score for pair in pairs], [pair.after.motion.score for pair in pairs])
    fields = sorted({name for pair in pairs for name in pair.before.answers})
    read = {name: _change([p.before.answers for p in pairs], [p.after.answers for p in pairs], name) for name in fields}
    sides = [[pair.before for pair in pairs], [pair.after for pair in pairs]]
    others = _of(*([_others(film.answers) for film in side] for side in sides))
    chances = _of(*([_others(film.chances) for film in side] for side in sides))
    names = sorted({name for pair in pairs for name in pair.before.looks})
    looks = {name: _change([p.before.looks for p in pairs], [p.after.looks for p in pairs], name) for name in names}
    frozen = _of(*([float(film.frozen) for film in side] for side in sides))
    return {
        "films": len(pairs),
        "wins": wins.count(1.0), "ties": wins.count(0.5), "losses": wins.count(0.0),
        "win_rate": list(bootstrap(wins)),
        "score": score, "axes": axes,
        "other_fields": others, "text_alignment": chances, "fields": read,
        "looks": looks, "frozen": frozen,
    }  # fmt: skip


def render_summary(figures: Mapping[str, Any], before: str, after: str) -> str:
    """The tables for people."""
    rate, low, high = figures["win_rate"]
    lines = [
        f"{after} against {before}, {figures['films']} pairs of films of one prompt and seed:",
        f"motion is better in {figures['wins']}, as good in {figures['ties']}, worse in {figures['losses']}; "
        f"win rate {rate:.1%} ({low:.1%} to {high:.1%}), ties as halves",
        "",
    ]
    head = ("", "films", "before", "after", "change", "95 % interval")
    rows = [("motion", figures["score"])] + [(f"motion: {name}", row) for name, row in figures["axes"].items()]
    rows += [("share of frozen films", figures["frozen"])]
    rows += [("critic: all but motion", figures["other_fields"])]
    rows += [("critic: probability of it", figures["text_alignment"])]
    rows += [(f"critic: {name.replace('_', ' ')}", row) for name, row in figures["fields"].items()]
    lines += table(head, [_row(name, row, 100) for name, row in rows if row], "lrrrrr")
    lines += ["", "The first table is in points of 100; this one in the measures' own units:", ""]
    lines += table(
        head, [_row(name.replace("_", " "), row, 1) for name, row in figures["looks"].items() if row], "lrrrrr"
    )
    goals = [(f"a win rate of {WIN_RATE:.0%}", rate >= WIN_RATE)]
    if figures["other_fields"]:
        goals.append((f"all but motion within {100 * LOSS:g} point", abs(figures["other_fields"]["change"][0]) <= LOSS))
    lines += ["", *_signs(figures), ""]
    lines += [f"Goals: {'; '.join(f'{what}: {verdict(reached)}' for what, reached in goals)}."]
    return "\n".join(lines)


def check(clips: int, seed: int, path: Path | None = None) -> dict[str, Any]:
    """How often the judge tells a render from what was done to it, by kind; ties count as halves.

    The figures are written to `path` after each scene, so that a run that is stopped leaves those it had.
    """
    generator = torch.Generator().manual_seed(seed)
    hits: dict[str, list[float]] = defaultdict(list)
    missed: dict[str, list[str]] = defaultdict(list)
    axes: dict[str, list[float]] = defaultdict(list)
    own: list[float] = []
    figures: dict[str, Any] = {}
    for number in range(clips):
        scene = sample_scene(generator)
        real = judge(render(scene, FRAMES, height=HEIGHT, width=WIDTH, fps=FPS), FPS, scene)
        again = replace(scene, seed=scene.seed // 2 + 1)
        other = judge(render(again, FRAMES, height=HEIGHT, width=WIDTH, fps=FPS), FPS, scene)
        own.append(real.score)
        hits["another render"].append((prefer(real, other) + 1) / 2)
        axes["another render"].append(real.score - other.score)
        for kind, film in wrong_films(scene, FRAMES, FPS, HEIGHT, WIDTH):
            wrong = judge(film, FPS, scene)
            right = prefer(real, wrong)
            hits[kind].append((right + 1) / 2)
            axes[kind].append(real.score - wrong.score)
            if right < 1:
                what = f"{scene.subject} {scene.action}, {scene.shot_type}, {scene.camera_motion}, {scene.place}"
                missed[kind].append(f"{what} ({real.score:.2f} to {wrong.score:.2f})")
        say(f"{number + 1}/{clips} {scene.subject} {scene.action}: {real.score:.2f}")
        figures = {
            "clips": number + 1,
            "seed": seed,
            "own_score": list(bootstrap(own)),
            "kinds": _kinds(hits, axes, missed),
        }
        if path:
            _write(path, figures)
    return figures


def spread(clips: int, seed: int) -> dict[str, float]:
    """How far renders of one scene differ among themselves, by feature: `evaluate.physics_scale.SPREAD`.

    The few that are far off, as where the subject left the frame, count as twice what nine in ten do not pass.
    """
    generator = torch.Generator().manual_seed(seed)
    off: dict[str, list[float]] = defaultdict(list)
    for number in range(clips):
        own = expected_of(sample_scene(generator), FRAMES, FPS, HEIGHT, WIDTH).own
        for name, column in zip(FEATURES, own.T, strict=True):
            known = column[np.isfinite(column)]
            if len(known) > 2:
                off[name] += ((known - np.median(known)) * math.sqrt(len(known) / (len(known) - 1))).tolist()
        say(f"{number + 1}/{clips}")
    found = {}
    for name, values in off.items():
        size = np.abs(values)
        usual = float(np.sqrt((np.minimum(size, 2 * np.quantile(size, 0.9)) ** 2).mean()))
        found[name] = round(max(0.01, usual), 3)
    return found


def render_check(figures: Mapping[str, Any]) -> str:
    """The table for people."""
    share, low, high = figures["own_score"]
    lines = [f"{figures['clips']} renders score {share:.2f} ({low:.2f} to {high:.2f}) on the mean.", ""]
    rows = []
    for kind, row in figures["kinds"].items():
        share, low, high = row["accuracy"]
        goal = verdict(round(share, 4) >= GOAL) if kind in COARSE else ""
        rows.append((kind, str(row["films"]), f"{share:.0%} ({low:.0%} to {high:.0%})", f"{row['lower_by']:.2f}", goal))
    head = ("kind", "films", "told from the render", "score lower by", f"goal {GOAL:.0%}")
    return "\n".join([*lines, *table(head, rows, "lrrrl")])


def _kinds(
    hits: Mapping[str, Sequence[float]], lower: Mapping[str, Sequence[float]], missed: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    return {
        kind: {
            "films": len(hits[kind]),
            "accuracy": list(bootstrap(hits[kind])),
            "lower_by": float(np.mean(lower[kind])),
            "missed": list(missed.get(kind, ())),
        }
        for kind in (*KINDS, "another render")
        if kind in hits
    }


def _write(path: Path, figures: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _told(folder: Path) -> dict[tuple[str, int], FilmAnswers]:
    """The films of a folder by prompt and seed."""
    path = folder if folder.is_file() else folder / REPORT
    if not path.is_file():
        raise ValueError(f"films = {folder}: has no {REPORT}; make it with everreel evaluate")
    found = {}
    for film in read_report(path).films:
        try:
            Scene(**film.scene).validate()
        except (TypeError, ValueError) as error:
            raise ValueError(f"films = {folder}: {film.file} tells no scene of the film world ({error})") from None
        if Path(film.file).name != film.file or not (path.parent / film.file).is_file():
            raise ValueError(f"films = {folder}: there is no film {film.file!r} in it; make it again")
        found[film.prompt, film.seed] = film
    return found


def _others(values: Mapping[str, float]) -> float:
    """The mean over the fields that motion is not about; nan where none was asked for."""
    found = [float(value) for name, value in values.items() if name not in OF_MOTION]
    return sum(found) / len(found) if found else math.nan


def _change(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]], name: str) -> dict[str, Any]:
    nothing = math.nan
    return _of([values.get(name, nothing) for values in before], [values.get(name, nothing) for values in after])


def _of(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Means over the pairs that have both, and the difference's interval; empty where there is none."""
    both = [(float(a), float(b)) for a, b in zip(before, after, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not both:
        return {}
    change = list(bootstrap([b - a for a, b in both]))
    means = [sum(side) / len(both) for side in zip(*both, strict=True)]
    return {"films": len(both), "before": means[0], "after": means[1], "change": change}


def _row(name: str, row: Mapping[str, Any], times: float) -> tuple[str, ...]:
    digits = 1 if times == 100 else 3
    before, after = (f"{times * row[side]:.{digits}f}" for side in ("before", "after"))
    change, low, high = (f"{times * value:+.{digits}f}" for value in row["change"])
    return name, str(row["films"]), before, after, change, f"{low} to {high}"


def _signs(figures: Mapping[str, Any]) -> list[str]:
    """What would show that a reward was cheated: said where an interval lies wholly on the wrong side."""
    said = []
    if figures["frozen"] and figures["frozen"]["change"][1] > 0:
        said.append("more films are frozen")
    if figures["axes"]["amplitude"] and figures["axes"]["amplitude"]["change"][2] < 0:
        said.append("amplitude is worse")
    for name in (*LIGHT, "sharpness"):
        row = figures["looks"].get(name)
        if row and (row["change"][1] > 0 or row["change"][2] < 0):
            said.append(f"{name} went from {row['before']:.3f} to {row['after']:.3f}")
    if figures["other_fields"] and figures["other_fields"]["change"][2] < 0:
        said.append("fields that are not of motion are read as asked less often")
    return [f"Signs of a cheated reward: {'; '.join(said) or 'none'}."]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the judge, or compare two folders."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.motion", description=__doc__.split("\n")[0])
    parser.add_argument("films", type=Path, nargs="*", help="two folders of everreel evaluate: before, and after")
    parser.add_argument("--check", action="store_true", help="hold renders against what is done to them instead")
    parser.add_argument("--spread", action="store_true", help="measure how far renders of one scene differ instead")
    parser.add_argument("--clips", type=int, default=40, help="how many scenes of --check and --spread")
    parser.add_argument("--seed", type=int, default=0, help="which scenes those draw")
    parser.add_argument("--margin", type=float, default=MARGIN, help="scores that are nearer are a tie")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(arguments)
    wanted = 0 if options.check or options.spread else 2
    if len(options.films) != wanted or (options.check and options.spread):
        parser.error(
            f"films = {len(options.films)} folders: give two, before and after; or one of --check and --spread"
        )
    if options.clips < 1:
        parser.error(f"clips = {options.clips}: must be at least 1; 40 works")
    try:
        figures: dict[str, Any]
        if options.spread:
            figures = spread(options.clips, options.seed)
            words = json.dumps(figures, indent=1)
        elif options.check:
            figures = check(options.clips, options.seed, options.json)
            words = render_check(figures)
        else:
            before, after = options.films
            figures = summary(pairs_of(before, after, options.margin))
            words = render_summary(figures, before.name, after.name)
    except ValueError as error:
        sys.exit(f"motion: {error}")
    if options.json:
        _write(options.json, figures)
    say(words)


if __name__ == "__main__":
    main()
