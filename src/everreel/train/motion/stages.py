"""Motion learning in stages: the newest policy makes films, a reward ranks them, it learns from the best and worst.

Source: section 4b of the paper: several films a prompt, the best and the worst of them by the reward, Flow-DPO against
a frozen reference until pairs are easily told apart, then a new reference and new films. The one invariant: each stage
lies in a folder of its own (`stage-1/samples`, `pairs`, `policy`), and the same recipe in the same folder goes on at
the first thing that is missing; with other values it is refused.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from everreel.checkpoint.lora_files import LORA_FILE
from everreel.evaluate.films import write_json, write_lines
from everreel.film.loading import source_of
from everreel.train import processes
from everreel.train.generate import Way
from everreel.train.motion.match import Matching
from everreel.train.motion.matching import keep_of
from everreel.train.motion.preference import REPORT, PreferenceRecipe
from everreel.train.motion.ranking import Keep, Ranking, rank
from everreel.train.motion.reward_model import load_reward
from everreel.train.motion.samples import SamplesRecipe
from everreel.train.motion.settled import settle
from everreel.train.trainer import Outcome

JOURNAL = "stages.jsonl"
FREE = ("stages", "processes", "threads", "device", "max_seconds")


@dataclass(frozen=True)
class MotionStagesRecipe:
    """The values of all stages.

    `preference` is what the first policy begins with and how each learns; its `pairs` are those of the stage, and
    `mixed` are (pair store, share of the steps) of automatic or labelled pairs beside them. `prompts` are
    (latent store, share), such as a concept-balanced and a motion-specific set; the rest as in `SamplesRecipe`.
    `reward` is the folder of a reward model. Best and worst of a prompt are a pair if their scores are `min_gap` apart
    and `match` lets them.
    """

    preference: PreferenceRecipe
    prompts: tuple[tuple[str, float], ...]
    reward: str
    stages: int = 3
    prompts_per_stage: int = 200
    samples: int = 8
    frames: int = 9
    way: Way = field(default_factory=lambda: Way(20, guidance_scale=5.0))
    min_gap: float = 0.0
    match: Matching | None = None
    mixed: tuple[tuple[str, float], ...] = ()
    held_out: float = 0.1
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages={self.stages}: must be 1 or more; the nearest that works is 1")
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: a best and a worst take 2 or more; the nearest that works is 2")
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap={self.min_gap:g}: must be 0 or more; the nearest that works is 0")
        if self.preference.pairs or self.preference.others:
            raise ValueError("preference: its pairs are those of the stages; leave pairs and others out, or use mixed")
        _ = self._samples(self.preference, 1), replace(self.preference, others=self.mixed)  # what is wrong with them

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Go through the stages; what the last policy is lies in the run folder too. `step` counts stages."""
        if processes.here() is not None:
            raise ValueError("torchrun: stages run in one process; leave it out, and set processes for the films")
        began = time.monotonic()
        reward, keep = load_reward(self.reward).to(self.device), self._keep()
        settle(run_dir, "recipe", self, FREE)
        newest = self.preference
        for stage in range(1, self.stages + 1):
            reason = self._stage(run_dir, stage, newest, (reward, keep), began, quiet)
            if reason != "done":
                return Outcome(stage - 1, reason, 0)
            newest = newest.after(run_dir / f"stage-{stage}" / "policy")
            _journal(run_dir, stage)
        name = "transformer.safetensors" if self.preference.adapter is None else LORA_FILE
        half_done = run_dir / f"{name}.part"
        shutil.copyfile(run_dir / f"stage-{self.stages}" / "policy" / name, half_done)
        half_done.replace(run_dir / name)
        return Outcome(self.stages, "done", 0)

    def _stage(
        self,
        run_dir: Path,
        stage: int,
        newest: PreferenceRecipe,
        judges: tuple[nn.Module, Keep | None],
        began: float,
        quiet: bool,
    ) -> str:
        """Why one stage ended: "done", or what stopped it."""
        reward, keep = judges
        folder = run_dir / f"stage-{stage}"
        if (folder / REPORT).exists():
            return "done"
        making = self._samples(newest, stage)
        if not making.is_done(folder / "samples"):
            left = self._left(began)
            if left is not None and left <= 0:
                return "time"
            making = replace(making, max_seconds=left)
        films = making.run(folder / "samples", quiet)
        if not making.is_done(folder / "samples"):
            return "time"
        ranking = rank(films, reward, self.min_gap, keep, folder / "pairs")
        if not quiet:
            sys.stderr.write(f"stage {stage}: {_said(ranking)}\n")
        settings = replace(newest.settings, seed=self.preference.settings.seed + stage - 1)
        left = self._left(began)
        if left is not None:
            limits = [limit for limit in (left, settings.max_seconds) if limit is not None]
            settings = replace(settings, max_seconds=max(min(limits), 0.0))
        learning = replace(newest, settings=settings, pairs=str(folder / "pairs"), others=self.mixed)
        outcome = learning.run(folder / "policy", quiet)
        if not outcome.finished:
            return outcome.reason
        checks = json.loads((folder / "policy" / REPORT).read_text(encoding="utf-8"))["checks"]
        report = {"stage": stage, **ranking.values(), "steps": outcome.step, "reason": outcome.reason, "checks": checks}
        write_json(folder / REPORT, report)
        return "done"

    def _keep(self) -> Keep | None:
        """What `match` says of a pair."""
        if self.match is None:
            return None
        model = self.preference.model
        vae = self.preference.vae or (None if model is None else source_of(model))
        return keep_of(self.match, [path for path, _ in self.prompts], vae, self.device)

    def _samples(self, policy: PreferenceRecipe, stage: int) -> SamplesRecipe:
        return SamplesRecipe(
            policy=policy, prompts=self.prompts, count=self.prompts_per_stage, samples=self.samples,
            frames=self.frames, way=self.way, held_out=self.held_out, round=stage, seed=self.seed, device=self.device,
            dtype=self.dtype, processes=self.processes, threads=self.threads,
        )  # fmt: skip

    def _left(self, began: float) -> float | None:
        return None if self.max_seconds is None else self.max_seconds - (time.monotonic() - began)


def _said(ranking: Ranking) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in ranking.dropped.items()) or "none"
    mean, gap = f"mean reward {ranking.reward:.4g}", f"gap {ranking.gap:.4g}"
    return f"{ranking.films} films, {mean}, {gap}, {ranking.kept} pairs kept, dropped: {dropped}"


def _journal(run_dir: Path, stage: int) -> None:
    """A line for each stage that is done, from their reports."""
    lines: Sequence[Any] = [
        json.loads((run_dir / f"stage-{number}" / REPORT).read_text(encoding="utf-8")) for number in range(1, stage + 1)
    ]
    write_lines(run_dir / JOURNAL, lines)
