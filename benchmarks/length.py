"""What a film of a minute costs more than one of four seconds, and whether it still shows what was asked at its end.

Each film is made in a process of its own, with few steps, so that its peak memory is its own. The one invariant: a
film is written as `everreel generate` writes it, and a block counts from the moment that it is on disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measure import PROMPT, Options, peak_bytes, say
from everreel.caption.critic import load_critic, look_length, score, shipped_critic
from everreel.evaluate.prompts import held_out_prompts
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.media import FilmWriter
from everreel.memory import keep_freed_memory
from everreel.world.scene import Scene

ROOT = Path(__file__).parents[1]
LAST_SECONDS = 10
FPS = 24
MEMORY_GOAL = 1.15  # the long film's peak, in those of the short one
FIRST_BLOCK_GOAL = 0.10  # of the time

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Setting:
    """Which films."""

    model: str = "tiny"
    num_frames: int = 97
    long_frames: int = 1457
    height: int | None = None
    width: int | None = None
    steps: int = 4
    critic: Path | None = None
    critic_films: int = 4
    critic_steps: int | None = None


@dataclass(frozen=True)
class FilmCost:
    """What one film cost, in seconds and bytes, once the model was loaded."""

    num_frames: int
    description: str
    load_seconds: float
    seconds: float
    loaded_bytes: int
    peak_bytes: int
    blocks: list[tuple[int, float]]
    """When which number of frames was on disk."""

    @property
    def first_block_seconds(self) -> float:
        """When the first block was on disk."""
        return self.blocks[0][1]

    def seconds_per_frame(self, start: float, stop: float) -> float:
        """What a frame took between two moments of the film, in seconds of its time."""
        inside = [(frames, at) for frames, at in self.blocks if start * FPS <= frames <= stop * FPS]
        (first, began), (last, ended) = inside[0], inside[-1]
        return (ended - began) / (last - first)

    @property
    def first_block_share(self) -> float:
        """When the first block was on disk, as a share of the film's time."""
        return self.first_block_seconds / self.seconds


@dataclass(frozen=True)
class Reading:
    """How often the critic reads a field as it was asked for, in the film's first and last seconds.

    `drawn` is what it reads off the world's own drawing of those last seconds: the best that can be hoped for.
    """

    num_films: int
    seconds: int
    first: dict[str, float]
    last: dict[str, float]
    drawn: dict[str, float]


@dataclass(frozen=True)
class Result:
    """Both films, and what the critic reads, if there is a critic."""

    short: FilmCost
    long: FilmCost
    reading: Reading | None

    @property
    def memory_ratio(self) -> float:
        """The long film's peak, in those of the short one."""
        return self.long.peak_bytes / self.short.peak_bytes


def run(setting: Setting) -> Result:
    """Make the films.

    Raises:
        ValueError: the model or the critic is not on this machine.
    """
    short, long = (film_in_own_process(setting, frames) for frames in (setting.num_frames, setting.long_frames))
    folder = setting.critic or (shipped_critic() if shipped_critic().is_dir() else None)
    if folder is None:
        say("no critic: nothing reads whether the end of a film shows what was asked")
    return Result(short, long, None if folder is None else read_ends(setting, folder))


def film_in_own_process(setting: Setting, num_frames: int) -> FilmCost:
    """Start this file anew, make a film there, and say what it cost."""
    say(f"a film of {num_frames} frames, {setting.steps} steps")
    command = [sys.executable, "-m", "benchmarks.length", "--only-one", str(num_frames), "--model", setting.model]
    for name in ("height", "width", "steps"):
        if getattr(setting, name) is not None:
            command += [f"--{name}", str(getattr(setting, name))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"the film of {num_frames} frames could not be made: see above")
    cost = FilmCost(**json.loads(done.stdout))
    say(f"  {cost.seconds:.1f} s, first block after {cost.first_block_seconds:.1f} s, {cost.peak_bytes / 2**20:.0f} MB")
    return cost


def make_film(setting: Setting, num_frames: int) -> FilmCost:
    """Make one film in this process; the peak memory is that of the process."""
    started = time.perf_counter()
    pipe = VideoPipeline.from_pretrained(setting.model, device="cpu")
    loaded, loaded_bytes = time.perf_counter(), peak_bytes()
    request = make_request(
        prompt=PROMPT,
        num_frames=num_frames,
        height=setting.height,
        width=setting.width,
        num_inference_steps=setting.steps,
    )
    plan = make_plan(request, pipe.card)
    blocks: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        with FilmWriter(film, plan.shape.pixel_height, plan.shape.pixel_width, request.fps) as writer:
            for block in pipe.stream(request):
                writer.append(block.frames)
                if len(block.frames):
                    blocks.append((writer.num_frames, time.perf_counter() - loaded))
            assert writer.num_frames == num_frames
    seconds = time.perf_counter() - loaded
    load_seconds, description = loaded - started, plan.describe()
    return FilmCost(num_frames, description, load_seconds, seconds, loaded_bytes, peak_bytes(), blocks)


def read_ends(setting: Setting, critic_folder: Path) -> Reading:
    """Films of scenes that were never trained on, with the model's own number of steps, read by the critic."""
    critic = load_critic(critic_folder)
    pipe = VideoPipeline.from_pretrained(setting.model, device="cpu")
    kept = LAST_SECONDS * FPS
    looks: tuple[list[Frames], list[Frames], list[Frames]] = ([], [], [])
    scenes: list[Scene] = []
    for number, prompt in enumerate(held_out_prompts(setting.critic_films)):
        say(f"the end of a long film, {number + 1} of {setting.critic_films}: {prompt.text}")
        request = make_request(
            prompt=prompt.text,
            num_frames=setting.long_frames,
            height=setting.height,
            width=setting.width,
            num_inference_steps=setting.critic_steps,
            fps=FPS,
            seed=number,
        )
        first, last = ends((block.frames for block in pipe.stream(request)), kept)
        drawn = _drawn(prompt.scene, setting.long_frames, last)
        for found, frames in zip(looks, (first, last, drawn), strict=True):
            found.extend(_pieces(frames))
        scenes.extend([prompt.scene] * len(_pieces(last)))
    first_read, last_read, drawn_read = (score(critic, films, scenes, FPS) for films in looks)
    return Reading(setting.critic_films, LAST_SECONDS, first_read, last_read, drawn_read)


def ends(blocks: Iterable[Frames], count: int) -> tuple[Frames, Frames]:
    """The first and the last `count` frames of a film, without holding more of it."""
    first: list[Frames] = []
    last: deque[Frames] = deque(maxlen=count)
    for block in blocks:
        first.extend(block[: max(count - len(first), 0)].copy())
        last.extend(block.copy())
    return np.stack(first), np.stack(last)


def _drawn(scene: Scene, num_frames: int, like: Frames) -> Frames:
    from everreel.world.render import render

    start = (num_frames - len(like)) / FPS
    return render(scene, len(like), height=like.shape[1], width=like.shape[2], fps=FPS, start=start)


def _pieces(frames: Frames) -> list[Frames]:
    """As many looks of the critic as fit, side by side."""
    return list(np.array_split(frames, max(len(frames) // look_length(FPS), 1)))


def add_options(parser: Options) -> None:
    """The flags that make a `Setting`, without those that both benchmarks have."""
    parser.add_argument("--long-frames", type=int, default=Setting.long_frames, help="length of the long film")
    parser.add_argument("--steps", type=int, default=Setting.steps, help="denoising steps of the films that are timed")
    parser.add_argument("--critic", type=Path, help="a critic's folder (default: the packaged one)")
    parser.add_argument("--critic-films", type=int, default=Setting.critic_films, help="films that the critic reads")
    parser.add_argument("--critic-steps", type=int, help="their denoising steps (default: the model's)")


def setting_of(options: argparse.Namespace) -> Setting:
    """What the flags say."""
    names = ("model", "long_frames", "height", "width", "steps", "critic", "critic_films", "critic_steps")
    values = {name: getattr(options, name) for name in names}
    return Setting(num_frames=options.num_frames or Setting.num_frames, **values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, and write the section of the page to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.length", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    for name, text in (("--num-frames", "length of the short film"), ("--height", "pixels"), ("--width", "pixels")):
        parser.add_argument(name, type=int, help=text)
    parser.add_argument("--only-one", type=int, help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args(arguments)
    setting = setting_of(options)
    keep_freed_memory()  # as the command everreel does
    if options.only_one is not None:
        sys.stdout.write(json.dumps(asdict(make_film(setting, options.only_one))))
        return
    from benchmarks.page import length_section

    sys.stdout.write("\n".join(length_section(run(setting))) + "\n")


if __name__ == "__main__":
    main()
