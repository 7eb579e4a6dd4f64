"""docs/camera-motion.md: what the camera-motion expert makes of real photographs filmed by a camera that is known.

`python -m benchmarks.camera_motion`; `--fit` fits the model of `everreel.caption.depth` anew, to other photographs, and
prints its numbers. Answers are kept in a file as they come, and a run that was stopped goes on behind them; after a
change of the expert the file has to go. The one invariant: no clip that is measured was looked at when the expert was
made. Its model is fitted to other photographs; two thresholds were set on the clips of number 0 of these, so the
measure begins with number 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.camera_clips import HELD_OUT, KINDS, LEARNT_FROM, SPEEDS, TRAVELS, Conditions, make_clip
from benchmarks.measure import say
from everreel.caption.camera import CameraMotion, describe_motion
from everreel.caption.depth import FEATURES, depth_features
from everreel.caption.fit import fit_steps
from everreel.caption.flow import flows
from everreel.evaluate.follow import wilson
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.world.render import render
from everreel.world.scene import CAMERA_MOTIONS, Scene, sample_scene

PAGE = Path("docs/camera-motion.md")
ANSWERS = Path("runs/camera-motion.jsonl")
GOAL = 0.95
FIRST = 1
"""The number of the first clip that is measured: those of number 0 were looked at."""
SHIFTED = ("pan_left", "pan_right", "tilt_up", "tilt_down", *TRAVELS)


@dataclass(frozen=True)
class Answer:
    """What a clip shows, and what is read off it."""

    asked: str
    read: str
    sure: bool = False
    speed_asked: str = ""
    speed_read: str = ""
    seconds: float = 0.0
    """How long the clip is."""
    core: float = 0.0
    """Seconds that one core took to read it."""


@dataclass(frozen=True)
class Result:
    """What was read off photographs and off the film world."""

    photographs: list[Answer]
    world: list[Answer]

    @property
    def core(self) -> float:
        """Seconds of one core for a second of film."""
        answers = [*self.photographs, *self.world]
        return sum(a.core for a in answers) / max(1e-9, sum(a.seconds for a in answers))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page, or fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera_motion", description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit the model of travelling and turning, and print it")
    parser.add_argument("--clips", type=int, default=2, help="clips of each kind of motion and each photograph")
    parser.add_argument("--films", type=int, default=60, help="held-out renders of the film world")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="where answers are kept")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    if options.fit:
        weights = fit(options.clips)
        sys.stdout.write(" ".join(f"{name}: {weight:.1f}" for name, weight in weights.items()) + "\n")
        return
    result = measure(options.clips, options.films, options.answers)
    command = f"python -m benchmarks.camera_motion --clips {options.clips} --films {options.films}"
    options.output.write_text("\n".join(page(result, command)), encoding="utf-8")
    say(f"wrote {options.output}")


def conditions_of(kind: str, photo: str, number: int) -> Conditions:
    """Real conditions, another draw for each clip."""
    return Conditions.drawn(zlib.crc32(f"{kind} {photo} {number}".encode()))


def name_of(motion: CameraMotion) -> str:
    """A described motion by the name that the clips have."""
    if motion.kind in ("static", "handheld", "abrupt", "unknown"):
        return motion.kind
    tx, ty, _ = motion.translation
    roll, pitch, yaw = motion.rotation
    ways = {
        "pan": (yaw, "right", "left"),
        "tracking": (tx, "right", "left"),
        "tilt": (pitch, "up", "down"),
        "pedestal": (ty, "up", "down"),
        "roll": (roll, "right", "left"),
        "zoom": (motion.zoom, "in", "out"),
    }
    sign, more, less = ways[motion.kind]
    return f"{motion.kind}_{more if sign > 0 else less}"


def measure(clips: int, films: int, kept: Path) -> Result:
    """Read every clip and every film that `kept` has no answer for yet."""
    known = {}
    if kept.is_file():
        lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        known = {row["clip"]: Answer(**row["answer"]) for row in rows}
        kept.write_text("".join(line for line in lines if line.endswith("\n")), encoding="utf-8")
    kept.parent.mkdir(parents=True, exist_ok=True)
    asked = [f"{photo} {kind} {n}" for n in range(FIRST, FIRST + clips) for photo in HELD_OUT for kind in KINDS]
    asked += [f"world film {n}" for n in range(films)]
    for name in asked:
        if name not in known:
            known[name] = read_world(int(name.split()[-1])) if name.startswith("world") else read_photograph(name)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"clip": name, "answer": asdict(known[name])}) + "\n")
            if known[name].read != known[name].asked:
                say(f"{name}: {known[name].asked} read as {known[name].read}")
    answers = {name: known[name] for name in asked}
    return Result(
        [answer for name, answer in answers.items() if not name.startswith("world")],
        [answer for name, answer in answers.items() if name.startswith("world")],
    )


def read_photograph(name: str) -> Answer:
    """One clip, by photograph, kind and number."""
    photo, kind, number = name.split()
    asked = conditions_of(kind, photo, int(number))
    frames = make_clip(kind, photo, int(number), asked)
    start = time.process_time()
    found = describe_motion(frames, asked.fps)
    core = time.process_time() - start
    speed = "" if kind in ("static", "handheld") else next(n for n, (_, top) in SPEEDS.items() if asked.rate <= top)
    return Answer(kind, name_of(found), found.sure, speed, found.speed if speed else "", asked.seconds, core)


def read_world(number: int) -> Answer:
    """Four seconds of a held-out scene of the film world, which shows the camera motions by turns."""
    scene = world_scene(number)
    frames = render(scene, 97)
    start = time.process_time()
    found = describe_motion(frames, 24)
    core = time.process_time() - start
    return Answer(scene.camera_motion, found.film_world(), found.sure, seconds=97 / 24, core=core)


def world_scene(number: int) -> Scene:
    """A held-out scene."""
    generator = torch.Generator().manual_seed(600 + number)
    while True:
        scene = sample_scene(generator, "held_out")
        if scene.camera_motion == CAMERA_MOTIONS[number % len(CAMERA_MOTIONS)]:
            return scene


def fit(clips: int) -> dict[str, float]:
    """The logistic model of travelling and turning, by Newton's method, with a little weight decay."""
    rows, labels = [], []
    for kind, photo, number in ((k, p, n) for n in range(clips) for p in LEARNT_FROM for k in SHIFTED):
        asked = replace(conditions_of(kind, photo, number), seconds=1.0)
        steps = fit_steps(flows(make_clip(kind, photo, number, asked), asked.fps))
        rows.append(depth_features(steps))
        labels.append(kind in TRAVELS)
    return logistic(np.array(rows), np.array(labels))


def logistic(rows: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The weights of the features and the offset."""
    terms = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    decay = np.diag([*[0.02] * len(FEATURES), 0.0])
    weights = np.zeros(terms.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(terms @ weights, -30, 30)))
        slope = terms.T @ (chance - labels) + decay @ weights
        curve = (terms * (chance * (1 - chance))[:, None]).T @ terms + decay
        weights -= np.linalg.solve(curve + 1e-9 * np.eye(len(weights)), slope)
    return dict(zip((*FEATURES, "offset"), map(float, weights), strict=True))


def page(result: Result, command: str) -> list[str]:
    """The page in Markdown."""
    flat = [a for a in result.photographs if a.asked not in TRAVELS]
    paced = [a for a in result.photographs if a.speed_asked and a.read == a.asked]
    rows = [
        goal_row("static, pan, tilt, zoom, roll, handheld", flat, GOAL),
        goal_row(
            "camera that travels, told from one that turns", [a for a in result.photographs if a.asked in TRAVELS], None
        ),
        goal_row("all of them", result.photographs, None),
        goal_row("speed, where the motion is right", [Answer(a.speed_asked, a.speed_read) for a in paced], None),
        goal_row("films of the film world", result.world, None),
        goal_row("those of them that it is sure of", [a for a in result.world if a.sure], None),
    ]
    return [
        "# Camera motion",
        "",
        "This page is written by a program:",
        "",
        f"    {command}",
        "",
        *paragraph(
            "The camera-motion expert (`everreel.caption.camera`) reads optical flow alone. All that it learnt are the "
            f"four numbers of `everreel.caption.depth`, from {', '.join(LEARNT_FROM)}. It is measured on "
            f"clips made of {', '.join(HELD_OUT)}, which scikit-image ships: real photographs before a camera that is "
            "known, at drawn sizes, rates and speeds (2 to 50 % of the frame a second), with noise, light that "
            "flickers, something that moves in front in most of them, and H.264. Two thresholds (how sure a travel has "
            "to be, and below which speed depth is not trusted) were set after a look at other clips of these "
            "photographs, which are not counted here; so the lines on travelling flatter it a little."
        ),
        "",
        *table(("what", "right", "", "95 % interval", "goal"), rows),
        "",
        f"A second of film takes {result.core:.3f} seconds of one core, decoding left out.",
        "",
        "## What is taken for what: photographs",
        "",
        *confusion(result.photographs),
        "",
        "## The film world",
        "",
        *paragraph(
            "Held-out scenes, four seconds each. Its backdrops are flat layers, its subjects fill the frame of a close "
            "shot: there the flow is the subject's, and which part of it is the camera's cannot always be told."
        ),
        "",
        *confusion(result.world),
        "",
        "## What is not there",
        "",
        *paragraph(
            "Going forward is told as a zoom: the two differ by parallax in what grows, which is not looked for. "
            "Without depth in the scene a camera that travels is told as one that pans or tilts. There are no experts "
            "for shot type, angle, position and expression of real footage: those of the paper are classifiers trained "
            "on labelled film, and no detector to build on is known to us that a package brings along (OpenCV 5 loads "
            "files that have to be downloaded). In the film world the captioner's own network reads these fields; on "
            "real footage a Qwen captioner or an endpoint does."
        ),
        "",
    ]


def goal_row(what: str, answers: Sequence[Answer], goal: float | None) -> tuple[str, ...]:
    """A line of the summary."""
    right = sum(a.asked == a.read for a in answers)
    low, high = wilson(right, len(answers))
    met = "" if goal is None else f"{goal:.0%}: {verdict(right >= goal * len(answers))}"
    return what, f"{right} of {len(answers)}", f"{right / max(1, len(answers)):.1%}", f"{low:.0%} to {high:.0%}", met


def confusion(answers: Sequence[Answer]) -> list[str]:
    """A line for each kind: how many were read as what they are, and what the others were taken for."""
    rows = []
    for kind in dict.fromkeys(answer.asked for answer in answers):
        read = Counter(answer.read for answer in answers if answer.asked == kind)
        wrong = ", ".join(f"{name} {count}" for name, count in read.most_common() if name != kind)
        rows.append((kind.replace("_", " "), f"{read[kind]} of {read.total()}", wrong.replace("_", " ")))
    return table(("shown", "right", "taken for"), rows)


if __name__ == "__main__":
    main()
