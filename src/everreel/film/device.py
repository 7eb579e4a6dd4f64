"""Where a model computes, in which type, and whether that is on this machine.

The one invariant: what is chosen for a user is what the machine has instructions for.
"""

from __future__ import annotations

import torch


def check_device(device: str | None) -> None:
    """Refuse a device that is not here.

    Raises:
        ValueError: with one that is.
    """
    if device is not None:
        try:
            torch.zeros(1, device=device).cpu()  # "meta" is a device that keeps no numbers
        except (RuntimeError, AssertionError):
            raise ValueError(f"device = {device}: is not on this machine; nearest that works: cpu") from None


def default_device() -> str:
    """A CUDA device if there is one, else Apple's (mps), else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it, else float32: umT5 leaves the range of float16."""
    has_bf16 = True
    if device.type == "cpu":
        cpu = torch.backends.cpu.get_cpu_capability()
        has_bf16 = ("AVX512" in cpu and torch.cpu._is_avx512_bf16_supported()) or torch.cpu._is_amx_tile_supported()
    elif device.type == "mps":
        has_bf16 = torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.bfloat16 if has_bf16 else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """The most exact type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64
