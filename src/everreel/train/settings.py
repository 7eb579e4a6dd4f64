"""The values of a training run, and how it fails.

The one invariant: what a value does to the result is said here. Only `seed`, `accumulation` and `optimizer` are part of
what a checkpoint is; the others may be changed between two parts of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


class TrainingFailed(RuntimeError):
    """Raised when a run cannot go on, with the reason in one line."""


@dataclass(frozen=True)
class TrainerSettings:
    """The values of a training run.

    `decay` starts at the share `decay_from` of the steps and ends at `final_rate` times the learning rate.
    `prefetch` batches are made ahead by a thread. `role_rates` scales the learning rate of single roles.

    `accumulation` counts the micro-batches of a whole step; several processes share them, so it is a multiple of their
    number. `checkpointing="blocks"` keeps of each block (the children of any `nn.ModuleList`) only what it was given,
    and computes it again when its gradients are due: a third more time for a fraction of the memory. A block that
    writes into what it was given, as a cache is written, cannot be computed twice.

    `sharding` says what several processes gather at once. "network" is the weights of all roles, for a micro-batch;
    weights, gradients, averages and optimizers are shared out in between, and a process may run its networks as its
    batch wants. "blocks" gathers one block at a time, which is what large networks need; then every process has to run
    the same blocks equally often, whatever its batch is.

    A loss or gradient that is not finite moves no weights. `max_skips` steps in a row may be lost so; 0 stops at the
    first. That is the default because a batch is a function of its step: the same run meets the same fault again, there
    is no loss scaling to be blamed for it, and to go past it is for somebody who has seen which batch it was.
    """

    steps: int
    learning_rate: float = 3e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup: int = 100
    decay: Literal["constant", "cosine", "linear"] = "cosine"
    decay_from: float = 0.0
    final_rate: float = 0.0
    role_rates: tuple[tuple[str, float], ...] = ()
    ema_decay: float = 0.999
    grad_clip: float | None = 1.0
    accumulation: int = 1
    precision: Literal["bf16", "float32"] = "float32"
    checkpointing: Literal["none", "blocks"] = "none"
    sharding: Literal["network", "blocks"] = "network"
    max_skips: int = 0
    checkpoint_every: int = 500
    sample_every: int = 500
    log_every: int = 20
    max_seconds: float | None = None
    prefetch: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for field in ("steps", "accumulation", "checkpoint_every", "sample_every", "log_every"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field}={value}: must be 1 or more; the nearest that works is 1")
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: must be one of {', '.join(allowed)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must lie in 0..1, below 1; 0.999 works")
        if self.max_skips < 0:
            raise ValueError(f"max_skips={self.max_skips}: must be 0 or more; the nearest that works is 0")

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 0), a pure function of it."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        start = self.decay_from * self.steps
        passed = min(max((step - start) / max(self.steps - start, 1), 0.0), 1.0)
        if self.decay == "constant":
            left = 1.0
        elif self.decay == "linear":
            left = 1.0 - passed
        else:
            left = 0.5 * (1 + math.cos(math.pi * passed))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * left)


_CHOICES = {
    "optimizer": ("adamw", "muon"),
    "decay": ("constant", "cosine", "linear"),
    "precision": ("bf16", "float32"),
    "checkpointing": ("none", "blocks"),
    "sharding": ("network", "blocks"),
}
