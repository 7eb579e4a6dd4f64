"""Films that a policy makes, several for each of some prompts, as latents: what a reward ranks.

A store is written prompt by prompt: `films-00000.npy` (films, channels, frames, height, width; float16) and
`prompt-00000.json` with what was asked. The one invariant: a prompt's `.json` appears last, and what it holds depends
on the recipe and the policy's weights alone, so a run that was stopped goes on where it was.

Shape suffixes: N films of one prompt, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from everreel.data.draws import draw_float, draw_int, generator_for
from everreel.data.latents import LatentStore
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.train import pool
from everreel.train.generate import Wanted, Way, latents_of
from everreel.train.motion.policy import Policy
from everreel.train.motion.preference import PreferenceRecipe
from everreel.train.motion.settled import settle

SEEDS = 2 * 10**6  # films of a policy have other seeds than anybody's


@dataclass(frozen=True)
class Asked:
    """A prompt, the size (frames, height, width) of its films, their frame rate's index, seeds and split."""

    prompt: str
    size: tuple[int, int, int]
    fps_index: int
    seeds: tuple[int, ...]
    split: str


@dataclass(frozen=True)
class SamplesRecipe:
    """`samples` films for each of `count` prompts, made by what `policy` begins with.

    `prompts` are (latent store, share): its sentences, in the sizes and frame rates of its clips, no clip twice before
    all have had their turn. `frames` are latent ones. A share `held_out` of all sentences there are, always the same
    ones, is of that split. Another `round` takes other prompts and seeds. Several `processes` make films side by side,
    each with so many `threads`.
    """

    policy: PreferenceRecipe
    prompts: tuple[tuple[str, float], ...]
    count: int
    samples: int = 8
    frames: int = 9
    way: Way = field(default_factory=lambda: Way(20, guidance_scale=5.0))
    held_out: float = 0.1
    round: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("count", "samples", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more; the nearest that works is 1")
        if self.frames < 2:
            raise ValueError(f"frames={self.frames}: nothing moves in fewer than 2 latent frames; 2 works")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out:g}: must lie in 0..1, below 1; 0.1 works")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}: must be float32 or bfloat16")
        if not self.prompts or any(not share > 0 for _, share in self.prompts):
            raise ValueError(f"prompts={self.prompts!r}: name latent stores with shares above 0, as (FOLDER, 1.0)")

    def asked(self) -> list[Asked]:
        """What is made, prompt by prompt."""
        return _asked(self)

    def run(self, run_dir: Path, quiet: bool = False) -> SampleStore:
        """Make what is missing."""
        settle(run_dir, "samples", self, free=("processes", "threads", "device", "max_seconds"))
        asked = self.asked()
        missing = [number for number in range(len(asked)) if not _path(run_dir, number, "json").exists()]
        done, deadline = len(asked) - len(missing), time.time() + (self.max_seconds or math.inf)
        for made in pool.done(partial(_begin, self, run_dir, deadline), missing, self.processes, self.threads):
            done += made
            if made and not quiet:
                sys.stderr.write(f"films of {done}/{len(asked)} prompts\n")
        return SampleStore(run_dir)

    def is_done(self, run_dir: Path) -> bool:
        """Whether the films of every prompt are there."""
        return all(_path(run_dir, number, "json").exists() for number in range(self.count))


class SampleStore:
    """A folder of a policy's films; prompts that are not whole are not there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._numbers = [int(found.stem.split("-")[1]) for found in sorted(self.path.glob("prompt-*.json"))]
        self.asked = [self._read(number) for number in self._numbers]

    def __len__(self) -> int:
        return len(self.asked)

    def films(self, index: int) -> Tensor:
        """The films (N, C, T, H, W) of one prompt, float32."""
        films: npt.NDArray[np.float16] = np.load(_path(self.path, self._numbers[index], "npy"))
        return torch.from_numpy(films.astype(np.float32))

    def _read(self, number: int) -> Asked:
        record = json.loads(_path(self.path, number, "json").read_text(encoding="utf-8"))
        frames, height, width = record["size"]
        return Asked(**record | {"size": (frames, height, width), "seeds": tuple(record["seeds"])})


class _Making:
    """A policy at work."""

    def __init__(self, recipe: SamplesRecipe) -> None:
        self.recipe, self.asked = recipe, recipe.asked()
        policy = Policy(recipe.policy, train=False)
        self.model = policy.transformer.eval().requires_grad_(False).to(recipe.device, getattr(torch, recipe.dtype))
        self.text = policy.text

    def write(self, folder: Path, number: int, deadline: float) -> bool:
        """Make the films of a prompt, if it is not too late; whether it was."""
        if time.time() > deadline:
            return False
        asked, way = self.asked[number], self.recipe.way
        films = []
        for seed in asked.seeds:
            wanted = Wanted(asked.prompt, asked.size, asked.fps_index, seed)
            parts = [block.latents_CTHW.float().cpu() for block in latents_of(self.model, self.text, wanted, way)]
            films.append(torch.cat(parts, dim=1))
        array = torch.stack(films).half().numpy()
        half_done = folder / f"half-done-{number:05d}"
        with half_done.open("wb") as file:
            np.save(file, array)
        half_done.replace(_path(folder, number, "npy"))
        half_done.write_text(json.dumps(asdict(asked)) + "\n", encoding="utf-8")
        half_done.replace(_path(folder, number, "json"))
        return True


def _asked(recipe: SamplesRecipe) -> list[Asked]:
    total = sum(share for _, share in recipe.prompts)
    edges = [
        round(recipe.count * sum(s for _, s in recipe.prompts[:n]) / total) for n in range(len(recipe.prompts) + 1)
    ]
    asked: list[Asked] = []
    for number, (path, _) in enumerate(recipe.prompts):
        store, count = LatentStore(path), edges[number + 1] - edges[number]
        planes = {index: key[1:] for key, members in store.groups.items() for index in members}
        generator = generator_for(recipe.seed, "prompts", recipe.round, number)
        clips: list[int] = []
        while len(clips) < count:
            clips += torch.randperm(len(store), generator=generator).tolist()
        for clip in clips[:count]:
            sentences = store.sentences[clip]
            prompt = sentences[draw_int(generator, 0, len(sentences))]
            first = SEEDS + (recipe.round * recipe.count + len(asked)) * recipe.samples
            seeds = tuple(range(first, first + recipe.samples))
            size = (recipe.frames, *planes[clip])
            aside = draw_float(generator_for(0, "held out", prompt)) < recipe.held_out
            fps_index = FPS_INDEX[store.fps(clip)]
            asked.append(Asked(prompt, size, fps_index, seeds, "held_out" if aside else "train"))
    return asked


def _begin(recipe: SamplesRecipe, folder: Path, deadline: float) -> Callable[[int], bool]:
    """What makes the films of a prompt, if it is not too late."""
    return partial(_Making(recipe).write, folder, deadline=deadline)


def _path(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{'films' if kind == 'npy' else 'prompt'}-{number:05d}.{kind}"
