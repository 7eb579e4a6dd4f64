"""What a film will cost, before anything is loaded: time from the work there is and how fast this machine multiplies,
memory from what is held at once.

The one invariant: nothing is loaded and nothing is downloaded; a twentieth of a second of multiplying is all the work.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from everreel.checkpoint.catalog import ModelCard
from everreel.diffusion.schedule import Row
from everreel.film.device import default_device, default_dtype
from everreel.film.pipeline import SCORES_BYTES_PER_TOKEN
from everreel.film.plan import Plan

SAMPLED_ROWS = 200  # of a schedule, evenly spread
EFFICIENCY = 0.5  # of the machine's speed in matrix products: what a step of the transformer reaches
DECODING = 1.1  # the decoder's share comes on top
TEXT_TOKENS = 64
PROGRAM_BYTES = 450e6  # Python and its libraries
LATENT_BYTES = 16 * 4 * 4  # a latent position: 16 channels in float32, and three of the solver's history


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes, each known to about a factor of two."""

    seconds: float
    rows: int
    weights: float
    held: float
    """Activations, keys and values, latents: what is held at once besides weights."""

    def describe(self) -> list[str]:
        """Lines for people."""
        total = self.weights + self.held + PROGRAM_BYTES
        return [
            f"time: about {_clock(self.seconds)} here, {self.seconds / self.rows:.2g} s a step, loading not counted",
            f"memory: about {total / 1e9:.1f} GB, {self.weights / 1e9:.2g} GB of it weights; no more for longer films",
        ]


def estimate(plan: Plan, card: ModelCard, device: str | None = None) -> Estimate:
    """The cost of a plan on this machine."""
    where = torch.device(device or default_device())
    dtype = default_dtype(where)
    request = plan.request
    branches = 1 if request.guidance_scale == 1.0 else 2
    rows, per_frame = len(plan.schedule), plan.shape.tokens_per_frame
    step = max(1, rows // SAMPLED_ROWS)
    sampled = [_work(row, plan, card, per_frame) for row in plan.schedule[::step]]
    work = branches * rows * sum(sampled) / len(sampled)
    width, weights = dtype.itemsize, _weights(card, dtype.itemsize)
    tokens = plan.schedule.longest_window * per_frame
    kept = (plan.context + plan.sink) * per_frame if plan.remembers else 0
    cache = 3 * kept * card.num_layers * branches * width * card.dim
    held = branches * tokens * card.dim * SCORES_BYTES_PER_TOKEN + cache + tokens * 4 * LATENT_BYTES
    return Estimate(work * DECODING / (EFFICIENCY * _speed(where, dtype)), rows, weights, held)


def _work(row: Row, plan: Plan, card: ModelCard, per_frame: int) -> float:
    """Floating-point operations of one branch's forward pass."""
    seen = row.window[1] - row.window[0]
    fresh = seen
    if plan.remembers and not row.ahead:
        fresh = sum(level < plan.schedule.num_steps for level in row.levels)
    tokens, keys, dim = fresh * per_frame, seen * per_frame, card.dim
    products = 2 * tokens * (6 * dim * dim + 2 * dim * card.ffn_dim)
    return card.num_layers * (products + 4 * tokens * (keys + TEXT_TOKENS) * dim)


def _weights(card: ModelCard, width: int) -> float:
    """Bytes of a model in memory: those of its files, or of its transformer where there are none."""
    folder = Path(card.path)
    files = [file.stat().st_size for file in folder.rglob("*.safetensors")] if card.usable else []
    transformer = card.num_layers * (8 * card.dim**2 + 2 * card.dim * card.ffn_dim) * width
    return max(math.fsum(files), transformer)


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in matrix products of a size that keeps the device busy."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < 0.05 or fastest == math.inf:
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
