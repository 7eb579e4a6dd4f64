"""How much preference: the same pairs and steps with several betas, and what becomes of the films.

The one invariant: every beta is asked the same, and so is the reference: the same prompts from the same seeds. A reward
that rises while the films' amplitude, spread or mean leave those of the reference is being hacked, not served.

Shape suffixes: N films of one prompt, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from everreel.evaluate.films import write_json
from everreel.train import processes
from everreel.train.generate import Way
from everreel.train.motion.preference import PreferenceRecipe
from everreel.train.motion.ranking import mean_signs, scores_of, signs_of
from everreel.train.motion.reward_model import load_reward
from everreel.train.motion.samples import SamplesRecipe, SampleStore
from everreel.train.motion.settled import settle
from everreel.train.trainer import Outcome

REFERENCE, FILMS = "reference", "films.json"
FREE = ("betas", "processes", "threads", "device", "max_seconds")


@dataclass(frozen=True)
class SweepRecipe:
    """The values of a sweep: `preference` with each of the `betas`, then `samples` films for each of `count` prompts.

    Each lies in a folder of its own (`beta-100/policy`, `beta-100/films`, and `reference/films`). `reward` is the
    folder of the model that scores the films; the rest is as in `SamplesRecipe`. More betas may be asked of a folder
    later.
    """

    preference: PreferenceRecipe
    betas: tuple[float, ...]
    reward: str
    prompts: tuple[tuple[str, float], ...]
    count: int = 32
    samples: int = 1
    frames: int = 9
    way: Way = field(default_factory=lambda: Way(20, guidance_scale=5.0))
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.betas or len(set(self.betas)) < len(self.betas):
            raise ValueError(f"betas={self.betas!r}: name some, each once; (30, 100, 300) works")
        _ = [replace(self.preference, beta=beta) for beta in self.betas], self._samples(self.preference)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train with each beta and look at the films; `step` counts betas."""
        if processes.here() is not None:
            raise ValueError("torchrun: a sweep runs in one process; leave it out, and set processes for the films")
        began, reward = time.monotonic(), load_reward(self.reward).to(self.device)
        settle(run_dir, "recipe", self, FREE)
        done = 0
        for beta in (None, *self.betas):
            reason = self._one(run_dir, beta, reward, began, quiet)
            if reason != "done":
                return Outcome(done, reason, 0)
            done += beta is not None
        return Outcome(done, "done", 0)

    def _one(self, run_dir: Path, beta: float | None, reward: nn.Module, began: float, quiet: bool) -> str:
        """The films of one beta, or without one of the reference; why it ended."""
        folder = run_dir / (REFERENCE if beta is None else f"beta-{beta:g}")
        if (folder / FILMS).exists():
            return "done"
        policy = self.preference
        if beta is not None:
            if not quiet:
                sys.stderr.write(f"beta {beta:g}\n")
            limits = [limit for limit in (self._left(began), policy.settings.max_seconds) if limit is not None]
            limit = max(min(limits), 0.0) if limits else None
            policy = replace(policy, beta=beta, settings=replace(policy.settings, max_seconds=limit))
            outcome = policy.run(folder / "policy", quiet)
            if not outcome.finished:
                return outcome.reason
            policy = policy.after(folder / "policy")
        making = self._samples(policy)
        left = self._left(began)
        films = replace(making, max_seconds=left if left is None else max(left, 1e-9)).run(folder / "films", quiet)
        if not making.is_done(folder / "films"):
            return "time"
        write_json(folder / FILMS, _measured(films, reward))
        return "done"

    def _samples(self, policy: PreferenceRecipe) -> SamplesRecipe:
        return SamplesRecipe(
            policy=policy, prompts=self.prompts, count=self.count, samples=self.samples, frames=self.frames,
            way=self.way, held_out=0.0, seed=self.seed, device=self.device, dtype=self.dtype,
            processes=self.processes, threads=self.threads,
        )  # fmt: skip

    def _left(self, began: float) -> float | None:
        return None if self.max_seconds is None else self.max_seconds - (time.monotonic() - began)


@torch.no_grad()
def _measured(films: SampleStore, reward: nn.Module) -> dict[str, Any]:
    """Scores film by film, and what latents alone say, on the whole and of each prompt."""
    scores, signs = [], []
    for index in range(len(films)):
        films_NCTHW = films.films(index)
        scores += scores_of(reward, films_NCTHW, films.asked[index].fps_index)
        signs.append(signs_of(films_NCTHW))
    whole = mean_signs(signs)
    return {"rewards": scores, "amplitude": whole.amplitude, "std": whole.std, "mean": whole.mean}
