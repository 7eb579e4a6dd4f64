"""What a forward pass of the transformer computes, by formula, and what the machine can compute, by measurement.

The one invariant: only matrix products count, one multiplication and one addition for each pair of numbers, so a share
of the peak is never flattered by work that a better form would not do.
"""

from __future__ import annotations

import time

import torch

from everreel.model.config import TransformerConfig


def transformer_flops(config: TransformerConfig, tokens: int, text_positions: int) -> float:
    """Operations of one row through all blocks, with full attention and the text's keys and values at hand.

    Args:
        tokens: of the video.
        text_positions: keys that a token reads in cross-attention.
    """
    dim = config.dim
    linear = 6 * dim**2 + 2 * dim * config.ffn_dim  # q, k, v and o; q and o; the feed-forward net
    attention = 2 * dim * (tokens + text_positions)  # scores, and what they weigh
    return 2.0 * config.num_layers * tokens * (linear + attention)


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 1.0) -> float:
    """The most operations a second that this machine reaches in one large matrix product, while nothing else runs."""
    size = size or (8192 if device.type == "cuda" else 2048)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    out = torch.empty_like(a)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)


def synchronize(device: torch.device) -> None:
    """Wait till the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
