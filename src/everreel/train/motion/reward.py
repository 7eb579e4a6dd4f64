"""The motion reward model's training: on pairs of which one film moves better, or neither does.

Source: section 4b of the paper; `bradley_terry` has the loss and `reward_model` the network. The one invariant: nothing
is trained before the pairs are known to be there, of both splits, decided, of the network's channels, and not in
contradiction with each other; and what the model is worth is measured on pairs of the other split alone.

Shape suffixes: B pairs, 2 the films of a pair, the better one first, C channels, T latent frames, H W latent height and
width.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from everreel.train.motion.bradley_terry import (
    THETA,
    bradley_terry_with_ties,
    check_theta,
    log_probabilities,
    probabilities,
)
from everreel.train.motion.comparisons import HELD_OUT, Comparisons, PairBatch, Variety
from everreel.train.motion.reward_model import MotionReward, MotionRewardConfig, load_reward, save_reward
from everreel.train.motion.reward_report import ALL, accuracy_of, report_of, scores_of, table_of
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

__all__ = [
    "MotionReward",
    "MotionRewardConfig",
    "RewardRecipe",
    "bradley_terry_with_ties",
    "load_reward",
    "log_probabilities",
    "probabilities",
    "save_reward",
]

REWARD, REPORT = "reward", "report.json"


@dataclass(frozen=True)
class RewardRecipe:
    """Which pairs teach and check. `pairs` are folders of a `PairStore`, of which `kinds` are taken, or all. A step
    draws pairs of one size, as many as `tokens` video tokens hold, counting both films; `variety` is how they are
    changed. `checked` held-out pairs are looked at while training, all of them at its end.
    """

    settings: TrainerSettings
    pairs: tuple[str, ...]
    config: MotionRewardConfig = field(default_factory=MotionRewardConfig)
    theta: float = THETA
    kinds: tuple[str, ...] = ()
    tokens: int = 8640
    variety: Variety = field(default_factory=Variety)
    checked: int = 100

    def __post_init__(self) -> None:
        check_theta(self.theta)
        for name in ("tokens", "checked"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more; the nearest that works is 1")

    def objective(self) -> RewardObjective:
        """The objective with a fresh model.

        Raises:
            ValueError: the pairs cannot teach, or cannot check.
        """
        return RewardObjective(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, then leave the averaged weights in `reward/`, and `report.json` on all held-out pairs."""
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            save_reward(run_dir / REWARD, objective.model)
            report = report_of(objective.model, objective.pairs, self.theta, self.tokens)
        (run_dir / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if not quiet:
            sys.stderr.write(table_of(report))
        return outcome


class RewardObjective:
    """Pairs → how improbable what was said of them is by the scores. `metrics` holds the accuracy on decided pairs."""

    def __init__(self, recipe: RewardRecipe) -> None:
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        self.pairs = Comparisons(recipe.pairs, recipe.config.channels, recipe.kinds)
        torch.manual_seed(recipe.settings.seed)
        self.model = MotionReward(recipe.config)
        held_out = self.pairs.members(HELD_OUT)
        self._checked = held_out[:: -(-len(held_out) // recipe.checked)]

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"reward": self.model}

    def batch(self, step: int, generator: torch.Generator) -> PairBatch:
        """Training pairs of one size, changed at random."""
        return self.pairs.draw(self.recipe.tokens, self.recipe.variety, generator)

    def losses(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean negative log-likelihood."""
        scores_B = self.model(batch.films_B2CTHW.flatten(0, 1), batch.fps_B.repeat_interleave(2), batch.begins)
        better_B, worse_B = scores_B.unflatten(0, (-1, 2)).unbind(1)
        right_B = (better_B > worse_B)[~batch.tie_B]
        self.metrics = {"accuracy": float(right_B.float().mean())} if len(right_B) else {}
        return {"reward": bradley_terry_with_ties(better_B, worse_B, batch.tie_B, self.recipe.theta).mean()}

    def sample(self, folder: Path, step: int) -> None:
        """The accuracy on some held-out pairs, by kind, as metrics."""
        found = accuracy_of(self.pairs, scores_of(self.model, self.pairs, self._checked, self.recipe.tokens))
        shares = {name: one["share"] for name, one in found.items() if one["share"] is not None}
        self.metrics = {"accuracy" if name == ALL else f"accuracy/{name}": share for name, share in shares.items()}

    def describe(self, batch: PairBatch) -> str:
        """What a batch was made of."""
        count, _, _, frames, height, width = batch.films_B2CTHW.shape
        return f"{count} pairs of {frames} latent frames of {height}x{width}"
