"""A teacher's films with what they were on the way: what a student of few steps learns from.

A store is written shard by shard: `states-00000.npy` (films, states, channels, frames, height, width; float16) from
noise to clean, one state a stride, and `shard-00000.jsonl` with prompt, frame rate and seed of each. The one invariant:
a shard's `.jsonl` appears last, and what it holds depends on the recipe and the teacher's weights alone, so a run that
was stopped goes on where it was.

Shape suffixes: S states, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from everreel.data.draws import draw_int, generator_for
from everreel.data.latents import LatentStore, draw_group
from everreel.data.text import FrozenText
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.diffusion.rollout import Glimpse
from everreel.model.config import TransformerConfig
from everreel.train import pool
from everreel.train.generate import Wanted, Way, dit_of, latents_of

KIND = "kind.json"
SEEDS = 10**6  # teacher's films have other seeds than anybody's


@dataclass(frozen=True)
class Strides:
    """The few steps of a student, and how many of its teacher's each of them stands for."""

    steps: int = 4
    substeps: int = 4
    shift: float = 3.0
    block: int = 5
    context: int = 20

    def teach(self, guidance_scale: float, guidance_level: float = 1.0, guidance_until: float = 0.0) -> Way:
        """How the teacher makes films: its levels are those of the student and some between."""
        steps = self.steps * self.substeps
        way = Way(steps, self.shift, "unipc", guidance_scale, guidance_level, guidance_until)
        return replace(way, block=self.block, context=self.context)

    def serve(self) -> Way:
        """How the student makes films: straight from level to level."""
        return Way(self.steps, self.shift, "euler", block=self.block, context=self.context)


@dataclass(frozen=True)
class TrajectoryRecipe:
    """Films that a teacher makes block by block, for the sentences and in the sizes of the store `prompts`.

    `teacher` is a file of weights for `config`, with a `lora` merged into it if there is one; `guidance_scale` is 1
    where guidance is folded into them, and else it has guidance between `guidance_level` and `guidance_until`. Several
    `processes` make shards side by side, each with so many `threads`.
    """

    teacher: str
    config: TransformerConfig
    text: str
    prompts: str
    count: int
    frames: int = 25
    strides: Strides = field(default_factory=Strides)
    guidance_scale: float = 1.0
    guidance_level: float = 1.0
    guidance_until: float = 0.0
    shard_films: int = 8
    seed: int = 0
    device: str = "cpu"
    max_seconds: float | None = None
    threads: int | None = None
    dtype: torch.dtype = torch.bfloat16
    lora: str | None = None
    processes: int = 1

    def run(self, run_dir: Path, quiet: bool = False) -> TrajectoryStore:
        """Make what is missing."""
        guidance = {name: getattr(self, name) for name in ("guidance_scale", "guidance_level", "guidance_until")}
        kind = {"strides": asdict(self.strides), "frames": self.frames, **guidance}
        _settle(run_dir / KIND, kind)
        missing = self._missing(run_dir)
        done, deadline = self._num_shards - len(missing), time.time() + (self.max_seconds or math.inf)
        for made in pool.done(partial(_begin, self, run_dir, deadline), missing, self.processes, self.threads):
            done += made
            if made and not quiet:
                sys.stderr.write(f"trajectories: {min(done * self.shard_films, self.count)}/{self.count}\n")
        return TrajectoryStore(run_dir)

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        return not self._missing(run_dir)

    @property
    def _num_shards(self) -> int:
        return -(-self.count // self.shard_films)

    def _missing(self, folder: Path) -> list[int]:
        return [shard for shard in range(self._num_shards) if not _path(folder, shard, "jsonl").exists()]


class _Teaching:
    """A teacher at work."""

    def __init__(self, recipe: TrajectoryRecipe) -> None:
        self.recipe = recipe
        model = dit_of(recipe.config, recipe.teacher, recipe.lora)
        self.model = model.eval().to(recipe.device, recipe.dtype)
        self.text, self.prompts = FrozenText.load(recipe.text), LatentStore(recipe.prompts)

    def write(self, folder: Path, shard: int, deadline: float) -> bool:
        """Write a shard, if it is not too late; whether it was."""
        if time.time() > deadline:
            return False
        recipe, prompts = self.recipe, self.prompts
        generator = generator_for(recipe.seed, "trajectories", shard)
        (_, height, width), chosen = draw_group(prompts.groups, generator, recipe.shard_films)
        lines, states = [], []
        for row, index in enumerate(chosen):
            sentences = prompts.sentences[index]
            prompt = sentences[draw_int(generator, 0, len(sentences))]
            seed = SEEDS + shard * recipe.shard_films + row
            wanted = Wanted(prompt, (recipe.frames, height, width), FPS_INDEX[prompts.fps(index)], seed)
            states.append(self._states(wanted))
            lines.append(json.dumps({"prompt": prompt, "fps_index": wanted.fps_index, "seed": seed}))
        for kind, write in (
            ("npy", lambda path: np.save(path, np.stack(states))),
            ("jsonl", lambda path: path.write_text("\n".join(lines) + "\n", encoding="utf-8")),
        ):
            half_done = folder / f"half-done-{shard:05d}.{kind}"
            write(half_done)
            half_done.replace(_path(folder, shard, kind))
        return True

    def _states(self, wanted: Wanted) -> npt.NDArray[np.float16]:
        """(S, C, T, H, W): each block at the student's levels, noise first, clean last."""
        strides = self.recipe.strides
        seen: list[list[Tensor]] = [[] for _ in range(strides.steps)]

        def look(glimpse: Glimpse) -> None:
            step = glimpse.row % (strides.steps * strides.substeps)
            if step % strides.substeps == 0:
                seen[step // strides.substeps].append(glimpse.before_CTHW[:, list(glimpse.moved)].cpu())

        recipe = self.recipe
        way = strides.teach(recipe.guidance_scale, recipe.guidance_level, recipe.guidance_until)
        finished = [block.latents_CTHW.cpu() for block in latents_of(self.model, self.text, wanted, way, look)]
        states = [torch.cat(parts, dim=1) for parts in (*seen, finished)]
        return torch.stack(states).half().numpy()


class TrajectoryStore:
    """A folder of trajectories; states are mapped, not read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / KIND).is_file():
            raise ValueError(f"trajectories={str(path)!r}: no {KIND} here; run their recipe first")
        kind = json.loads((self.path / KIND).read_text(encoding="utf-8"))
        self.strides, self.frames = Strides(**kind["strides"]), int(kind["frames"])
        self.records: list[dict[str, Any]] = []
        self.sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._where: list[tuple[int, int]] = []
        self._open = lru_cache(maxsize=1024)(self._open_array)
        for path_of_lines in sorted(self.path.glob("shard-*.jsonl")):
            shard = int(path_of_lines.stem.split("-")[1])
            *_, height, width = self._open(shard).shape
            for row, line in enumerate(path_of_lines.read_text(encoding="utf-8").splitlines()):
                self.sizes[height, width].append(len(self.records))
                self.records.append(json.loads(line))
                self._where.append((shard, row))
        if not self.records:
            raise ValueError(f"trajectories={str(path)!r}: no complete shard here; run their recipe longer")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Latent frames of each block."""
        return self.strides.serve().blocks(self.frames)

    def state(self, index: int, state: int, start: int, stop: int) -> Tensor:
        """Latent frames (C, T, H, W) of one film at a state, 0 noise to -1 clean, float32."""
        shard, row = self._where[index]
        return torch.from_numpy(self._open(shard)[row, state, :, start:stop].astype(np.float32))

    def _open_array(self, shard: int) -> npt.NDArray[np.float16]:
        states: npt.NDArray[np.float16] = np.load(_path(self.path, shard, "npy"), mmap_mode="r")
        return states


def _begin(recipe: TrajectoryRecipe, folder: Path, deadline: float) -> Callable[[int], bool]:
    """What writes a shard, if it is not too late."""
    return partial(_Teaching(recipe).write, folder, deadline=deadline)


def _settle(path: Path, kind: dict[str, Any]) -> None:
    """Say what kind of trajectories a folder holds, once.

    Raises:
        ValueError: it holds others.
    """
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != kind:
            raise ValueError(f"run_dir={str(path.parent)!r}: holds trajectories of {found}, not {kind}; use another")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half_done = path.with_suffix(".part")
    half_done.write_text(json.dumps(kind) + "\n", encoding="utf-8")
    half_done.replace(path)


def _path(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"{'states' if kind == 'npy' else 'shard'}-{shard:05d}.{kind}"
