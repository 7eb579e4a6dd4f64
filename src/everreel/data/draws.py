"""Generators that are a pure function of what they are for.

The one invariant: `generator_for(seed, "batch", 12)` gives the same numbers in every process, on every
machine and after every resume, whatever was drawn before it.
"""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed hashed from a run's seed and the purpose of the draw."""
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose: ("batch", step), ("clip", index), …"""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def draw_int(generator: torch.Generator, low: int, high: int) -> int:
    """One integer of [low, high)."""
    assert low < high, (low, high)
    return int(torch.randint(low, high, (), generator=generator))


def draw_float(generator: torch.Generator) -> float:
    """One number of [0, 1)."""
    return float(torch.rand((), generator=generator))
