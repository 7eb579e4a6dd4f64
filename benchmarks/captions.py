"""What a captioner of the film world gets right, field by field, and what it says of video files of every kind.

Held-out renders, of combinations that nobody trained on, are captioned, and the fields are read back out of the
captions. The table has the rows of the paper's (section 3.2, SkyCaptioner-V1), with the paper's figures beside, which
are of another data set. The one invariant: a row counts a film only where the film shows what the row is about, and as
right only where the caption tells all of that.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks.measure import say
from everreel.caption.fusion import camera_sentence, told_fields
from everreel.caption.runs import (
    FLOW,
    STRUCTURED,
    TINY,
    Run,
    RunSettings,
    captioner_of,
    fused_column,
    fuser_of,
    listed_films,
)
from everreel.caption.schema import Captioner, StructuralCaption, Task, parse_caption
from everreel.caption.tables import KEY
from everreel.caption.tiny import fields_of
from everreel.data.draws import generator_for
from everreel.evaluate.follow import wilson
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.media import Pixels
from everreel.world.render import render
from everreel.world.scene import VOCABULARY, Scene, sample_scene, visible_fields
from everreel.world.words import KINDS

PAGE = Path(__file__).parents[1] / "docs" / "captioner.md"
_Said = dict[str, str]
GOAL, FPS, SIZE, MISTAKES = 0.95, 24, (96, 160), 15
THEIR_MODELS = ("Qwen2.5-VL-7B", "Qwen2.5-VL-72B", "Tarsier2-7B", "SkyCaptioner-V1")
THEIR_AVERAGE = 76.3
"""Percent: what the paper gives for SkyCaptioner-V1 as a whole, of all thirteen rows."""
THEIRS: dict[str, tuple[float, float, float, float]] = {
    "shot type": (76.8, 82.5, 60.2, 93.7),
    "shot angle": (60.0, 73.7, 52.4, 89.8),
    "shot position": (28.4, 32.7, 23.6, 83.1),
    "camera motion": (62.0, 61.2, 45.3, 85.3),
    "expression": (43.6, 51.5, 54.3, 68.8),
    "TYPES_type": (43.5, 49.7, 47.6, 82.5),
    "TYPES_sub_type": (38.9, 44.9, 45.9, 75.4),
    "appearance": (40.9, 52.0, 45.6, 59.3),
    "action": (32.4, 52.0, 69.8, 68.8),
    "position": (35.4, 48.6, 45.5, 57.5),
    "is_main_subject": (58.5, 68.7, 69.7, 80.9),
    "environment": (70.4, 72.7, 61.4, 70.5),
    "lighting": (77.1, 80.0, 21.2, 76.5),
}
OURS: dict[str, tuple[str, ...]] = {
    "shot type": ("shot_type",),
    "shot angle": ("shot_angle",),
    "shot position": ("shot_position",),
    "camera motion": ("camera_motion",),
    "expression": ("expression",),
    "TYPES_type": ("type",),
    "TYPES_sub_type": ("type", "sub_type"),
    "appearance": ("subject", "color"),
    "action": ("action", "direction"),
    "environment": ("place", "weather"),
    "lighting": ("time",),
}
"""The fields of the film world that stand for a row; none stands for `position` and `is_main_subject`."""


@dataclass
class Share:
    """In how many films a thing is told as it is."""

    right: int = 0
    films: int = 0

    def count(self, is_right: bool) -> None:
        """One film more."""
        self.right, self.films = self.right + is_right, self.films + 1

    @property
    def accuracy(self) -> float:
        """The share; nan where no film shows it."""
        return self.right / self.films if self.films else math.nan

    def shown(self) -> str:
        """In percent, with Wilson's interval of 95 %."""
        if not self.films:
            return ""
        low, high = wilson(self.right, self.films)
        return f"{100 * self.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


@dataclass
class Scores:
    """What captions of scenes tell: by row of the paper's table, by field of the film world, and what they mistake."""

    rows: dict[str, Share] = field(default_factory=lambda: {name: Share() for name in OURS})
    fields: dict[str, Share] = field(default_factory=lambda: {name: Share() for name in VOCABULARY})
    mistakes: Counter[str] = field(default_factory=Counter)

    def count(self, scene: Scene, caption: StructuralCaption) -> None:
        """One film more, of this scene, with this caption."""
        truth, told = visible_fields(scene), fields_of(caption)
        for name, value in truth.items():
            found = told.get(name)
            self.fields[name].count(found == value)
            if found != value:
                self.mistakes[f"{name}: {value} {f'told as {found}' if found else 'not told'}"] += 1
        kind = caption.subjects[0].TYPES.model_dump() if caption.subjects else {}
        truth |= dict(zip(("type", "sub_type"), KINDS[scene.subject], strict=True))
        told |= kind
        for name, parts in OURS.items():
            shown = [part for part in parts if part in truth]
            if shown:
                self.rows[name].count(all(told.get(part) == truth[part] for part in shown))


@dataclass(frozen=True)
class Clip:
    """A video file to make: of a picture or a scene, as this camera moves over it."""

    name: str
    source: str | Scene
    move: str = "static"
    size: tuple[int, int] = (180, 240)
    frames: int = 49
    fps: int = 24
    codec: str = "libx264"
    pixels: str = "yuv420p"
    sound: bool = False


_FOX = Scene(
    "fox", "red", "runs", "right", "forest", "dusk", "snow", "long_shot", "eye_level", "side_view", "pan_right"
)
_SWAN = Scene(
    "swan", "white", "swims", "left", "lake", "dawn", "fog", "full_shot", "high_angle", "front_view", "zoom_in"
)
_WOMAN = Scene(
    "woman", "blue", "stays", "left", "park", "day", "clear", "close_up", "low_angle", "front_view", "static", "happy"
)
_CAR = Scene(
    "car", "yellow", "runs", "left", "city", "night", "rain", "full_shot", "eye_level", "side_view", "pan_left"
)
CLIPS = (
    Clip("astronaut-still.mp4", "astronaut"),
    Clip("astronaut-pan.webm", "astronaut", "pan_right", codec="libvpx-vp9"),
    Clip("astronaut-portrait.mp4", "astronaut", "tilt_up", (256, 144)),
    Clip("camera-pan.mp4", "camera", "pan_left", codec="libx265"),
    Clip("camera-zoom.mkv", "camera", "zoom_in"),
    Clip("camera-wide.mp4", "camera", "pan_right", (64, 512)),
    Clip("cat-zoom.mp4", "chelsea", "zoom_in", codec="libsvtav1"),
    Clip("cat-odd.avi", "chelsea", "pan_left", (151, 203), codec="ffv1", pixels="bgr0"),
    Clip("cat-tiny.mp4", "chelsea", size=(32, 32)),
    Clip("coffee-tilt.mov", "coffee", "tilt_down", codec="prores_ks", pixels="yuv422p10le"),
    Clip("coffee-60-a-second.mp4", "coffee", "zoom_out", frames=121, fps=60),
    Clip("coffee-one-frame.mp4", "coffee", frames=1),
    Clip("rocket-with-sound.mp4", "rocket", "tilt_up", sound=True),
    Clip("rocket-a-minute.mp4", "rocket", "zoom_out", (120, 160), frames=720, fps=12),
    Clip("coins.gif", "coins", "pan_right", (90, 120), fps=10, codec="gif", pixels="rgb8"),
    Clip("coins.mpg", "coins", "zoom_out", codec="mpeg2video", fps=25),
    Clip("world-fox.mp4", _FOX, size=SIZE, frames=97),
    Clip("world-swan.webm", _SWAN, size=(144, 240), frames=97, codec="libvpx-vp9"),
    Clip("world-woman.mov", _WOMAN, size=(160, 96), codec="prores_ks", pixels="yuv422p10le"),
    Clip("world-car-12-a-second.mp4", _CAR, size=SIZE, fps=12),
)
PICTURES = tuple(dict.fromkeys(clip.source for clip in CLIPS if isinstance(clip.source, str)))


def score(captioner: Captioner, num_films: int, seed: int, num_frames: int) -> Scores:
    """Renders of held-out scenes, each captioned as one film."""
    scores = Scores()
    for number in range(num_films):
        scene = sample_scene(generator_for(seed, "captioner", number), "held_out")
        frames = render(scene, num_frames, height=SIZE[0], width=SIZE[1], fps=FPS)
        scores.count(scene, captioner.caption(frames, FPS))
        if (number + 1) % 32 == 0:
            say(f"{number + 1} of {num_films} renders captioned")
    return scores


def shipped_pictures() -> dict[str, Pixels]:
    """Photographs that ship inside scikit-image, free to use.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ValueError("the files are made of pictures in scikit-image: pip install scikit-image") from None
    found = {name: np.asarray(getattr(data, name)(), dtype=np.uint8) for name in PICTURES}
    return {name: np.dstack([p] * 3) if p.ndim == 2 else p[..., :3] for name, p in found.items()}


def filmed(picture_HWC: Pixels, clip: Clip) -> Iterator[Pixels]:
    """The frames of a clip: a window of the clip's shape that moves over a picture, or grows and shrinks."""
    rows, columns = picture_HWC.shape[:2]
    height, width = clip.size
    largest = min(rows / height, columns / width)
    image, (move, _, way) = Image.fromarray(picture_HWC), clip.move.partition("_")
    for number in range(clip.frames):
        done = number / max(1, clip.frames - 1)
        done = 1 - done if way in ("left", "up", "out") else done
        scale = largest * (1 - 0.5 * done if move == "zoom" else 0.7)
        x, y = (done if move == "pan" else 0.5), (done if move == "tilt" else 0.5)
        left, top = x * (columns - width * scale), y * (rows - height * scale)
        box = (left, top, min(left + width * scale, columns), min(top + height * scale, rows))
        yield np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def encode(path: Path, frames: Iterable[Pixels], clip: Clip) -> None:
    """Write a clip in its codec."""
    with av.open(path, "w") as file:
        stream: Any = file.add_stream(clip.codec, rate=clip.fps)
        stream.height, stream.width, stream.pix_fmt = *clip.size, clip.pixels
        sound: Any = file.add_stream("aac", rate=48000, layout="mono") if clip.sound else None
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, clip.fps)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
        if sound is not None:
            silence = np.zeros((1, 48000 * clip.frames // clip.fps), np.float32)
            file.mux(sound.encode(_audio(silence)))
            file.mux(sound.encode())


def make_clips(folder: Path, clips: Sequence[Clip], pictures: Mapping[str, Pixels]) -> None:
    """Write the files."""
    for clip in clips:
        if isinstance(clip.source, Scene):
            frames = iter(render(clip.source, clip.frames, height=clip.size[0], width=clip.size[1], fps=clip.fps))
        else:
            frames = filmed(pictures[clip.source], clip)
        encode(folder / clip.name, frames, clip)


def caption_clips(folder: Path, clips: Sequence[Clip], captioner: Captioner) -> list[tuple[str, str, str]]:
    """The command's own way with files: name, what it is, and what is said of it."""
    told, found = said_of(folder, clips, captioner), []
    for clip in clips:
        what = "of the film world" if isinstance(clip.source, Scene) else clip.source
        motion = clip.source.camera_motion if isinstance(clip.source, Scene) else clip.move
        height, width = clip.size
        about = f"{what}, {motion.replace('_', ' ')}; {width}x{height}, {clip.frames} at {clip.fps} a second"
        found.append((clip.name, about, told[clip.name]))
    return found


def said_of(folder: Path, clips: Sequence[Clip], captioner: Captioner, tasks: tuple[Task, ...] = ("t2v",)) -> _Said:
    """By file, the caption for the first of the tasks, the structured one where there is none, or why it has none."""
    listed, _ = listed_films([folder / clip.name for clip in clips])
    with tempfile.TemporaryDirectory() as beside:
        table_of, settings = Path(beside) / "captions.jsonl", RunSettings(tasks=tasks)
        run = Run(listed, table_of, settings, lambda: captioner, lambda said: fuser_of("built-in", on_problem=said))
        outcome = run.make()
        column = fused_column(tasks[0]) if tasks else STRUCTURED
        found = {Path(row[KEY]).name: str(row[column]) for row in run.table.rows()}
    return found | {Path(each.name).name: f"skipped: {each.reason}" for each in outcome.skipped}


def cameras_of(folder: Path, clips: Sequence[Clip], captioner: Captioner) -> _Said:
    """By file, what the caption says of the camera."""
    told = said_of(folder, clips, captioner, ())
    moves = {name: parse_caption(said) for name, said in told.items() if said.startswith("{")}
    return told | {name: camera_sentence(told_fields(move, "t2v")) for name, move in moves.items()}


def page(
    scores: Scores,
    files: Sequence[tuple[str, str, str]],
    num_films: int,
    captioner: str,
    command: str,
    cameras: _Said | None = None,
) -> str:
    """The whole page; with `cameras`, what is said of them where their motion is measured."""
    lines = ["# The captioner: what it gets right", ""]
    lines += [*paragraph("This page is written by a program:"), "", f"    {command}", ""]
    lines += [*_paper_table(scores, num_films, captioner), "", "## By field", "", *_field_table(scores), ""]
    commonest = [f"{what} ({count})" for what, count in scores.mistakes.most_common(MISTAKES)]
    lines += ["## The commonest mistakes", ""]
    lines += [line for each in commonest for line in paragraph(each, "- ")] or ["There are none."]
    lines += ["", "## Video files", ""]
    knows = " It knows the film world alone: of a photograph it tells what of that world comes nearest."
    lines += paragraph(
        f"{len(files)} files that the program makes, of renders and of photographs that ship inside scikit-image, over "
        f"which a camera pans and zooms; captioned by {captioner} and fused by rules, without any download."
        f"{knows if captioner == TINY else ''}"
    )
    lines += ["", "Thousands of files, and a command that is killed: [a page of its own](many-captions.md).", ""]
    head: tuple[str, ...] = ("file", "what it is", "caption for text-to-video")
    rows: Sequence[tuple[str, ...]] = files
    if cameras is not None:
        lines += paragraph(
            f"The last column is what `{captioner}{FLOW}` says of the camera: its motion as optical flow measures it, "
            f"or {captioner}'s own word where that is not sure; nothing of a camera that stands."
        )
        lines.append("")
        head, rows = (*head, f"camera, {captioner}{FLOW}"), [(*row, cameras[row[0]]) for row in files]
    lines += table(head, rows)
    return "\n".join(lines) + "\n"


def _paper_table(scores: Scores, num_films: int, captioner: str) -> list[str]:
    rows = []
    for name, theirs in THEIRS.items():
        share = scores.rows.get(name)
        stands = ", ".join(OURS.get(name, ())).replace("_", " ") or "none"
        mine = (share.shown(), str(share.films)) if share else ("", "")
        rows.append((name, *(f"{value:.1f}" for value in theirs), *mine, stands))
    shared = [name for name in OURS if scores.rows[name].films]
    means = [statistics.fmean(THEIRS[name][model] for name in shared) for model in range(len(THEIR_MODELS))]
    own = statistics.fmean(100 * scores.rows[name].accuracy for name in shared)
    rows.append(("mean of the rows that both have", *(f"{mean:.1f}" for mean in means), f"{own:.1f}", "", ""))
    return [
        *paragraph(
            f"Percent of captions that are right. The right column is of {captioner}: {num_films} held-out renders of "
            "the film world, with Wilson's interval of 95 %, counted by a program. The other four are the paper's, of "
            "1,000 real videos, judged by people: another data set, so the columns are not to be compared. An answer "
            "is right where all that the row stands for, and the film shows, is told. Where in the frame a subject is, "
            "is not told, and a film of this world has one subject. The paper's own average for SkyCaptioner-V1 is "
            f"{THEIR_AVERAGE} %, of all thirteen rows, on its own data."
        ),
        "",
        *table(("field", *THEIR_MODELS, captioner, "films", "stands for"), rows, "lrrrrrrl"),
    ]


def _field_table(scores: Scores) -> list[str]:
    rows = []
    for name, share in scores.fields.items():
        if share.films:
            goal = verdict(share.accuracy >= GOAL)
            rows.append((name.replace("_", " "), f"{share.right}/{share.films}", share.shown(), f"{GOAL:.0%}", goal))
    return table(("field", "right", "percent", "goal", ""), rows, "lrrrl")


def _audio(samples: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 -- PyAV's own frame
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    return frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captions", description=__doc__.split("\n")[0])
    parser.add_argument("--captioner", default=TINY, help="as everreel caption takes it")
    parser.add_argument("--num-films", type=int, default=512, help="held-out renders")
    parser.add_argument("--num-frames", type=int, default=97, help="frames of a render")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same scenes")
    parser.add_argument("--num-files", type=int, default=len(CLIPS), help="video files that are made and captioned")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    try:
        captioner = captioner_of(options.captioner)
        clips = CLIPS[len(CLIPS) - options.num_files :]
        pictures = shipped_pictures() if any(isinstance(clip.source, str) for clip in clips) else {}
        with tempfile.TemporaryDirectory() as folder:
            make_clips(Path(folder), clips, pictures)
            # Renders come first: a run closes its captioner.
            scores = score(captioner, options.num_films, options.seed, options.num_frames)
            files = caption_clips(Path(folder), clips, captioner)
            flow = None if options.captioner.endswith(FLOW) else captioner_of(options.captioner + FLOW)
            cameras = None if flow is None else cameras_of(Path(folder), clips, flow)
        name = Path(options.captioner).name if "://" not in options.captioner else options.captioner
        written = page(scores, files, options.num_films, name, _command(arguments), cameras)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark: {error}")
    options.output.write_text(written, encoding="utf-8")
    say(f"wrote {options.output}")


def _command(arguments: Sequence[str]) -> str:
    """What anyone would type for the same; of paths only the last two names, for a page speaks of no machine's."""
    shown = ["/".join(Path(word).parts[-2:]) if word.startswith("/") else word for word in arguments]
    return f"python -m benchmarks.captions {shlex.join(shown)}".strip()


if __name__ == "__main__":
    main()
