"""Kernels of attention beside torch's own: which is tried on which device, and that it is right before it is used.

Sources: `flash_attn` (FlashAttention 2), `flash_attn_interface` (FlashAttention 3) and `sageattention` as they are
installed, cuDNN's kernel as torch has it, and FlexAttention as torch's compiler makes it. The one invariant: no kernel
touches a film that has not agreed with torch's own on this device, in this type and at this head width; whatever is
amiss with it, torch's own takes its place.

torch's `scaled_dot_product_attention` is what runs everywhere: CPU, CUDA, ROCm and MPS. FlexAttention takes slices of
the sequence, as all kernels here do, and no mask over blocks: slices leave no work that a mask could spare. On a CPU
one call took 32 ms for the 40 of five slices (24 by torch's own), and torch 2.13 compiles it anew for every length.

Shape suffixes: B batch, L query tokens, S key tokens, H heads, D head width, N heads of the whole batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from everreel.model.config import AttentionKernel

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries (B, L, H, D), keys and values (B, S, H, D) to (B, L, H, D), with full attention."""
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Preference:
    """What is tried, first to last, on NVIDIA devices of some compute capability, for heads of up to `head_dim`."""

    lowest: tuple[int, int]
    highest: tuple[int, int]
    head_dim: int
    order: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = HALVES


# The first entry that fits says what "auto" tries before torch's own; where none fits, nothing is. Sage is in none: it
# rounds to 8 bits, so it has to be asked for. Nor is FlexAttention: on a CPU it takes 1.7 times as long as torch's own
# in bfloat16 and 2.9 times in float32 (1,500 tokens in blocks of 300). No entry was measured here, for want of a GPU:
# `python -m benchmarks.gpu` measures them all, and an entry that loses there should go.
PREFERENCES = (
    # Hopper, not measured here. The FlashAttention 3 paper (arXiv 2407.08608) has its forward at head width 128 about
    # twice as fast as FlashAttention 2, and level with cuDNN's or ahead of it. cuDNN's is not in the list: torch's own
    # takes it by itself from cuDNN 9.15.1 on, and leaves it alone before, where it fails at odd lengths.
    Preference((9, 0), (9, 0), 256, ("flash3",)),
    # Ampere, Ada and the Blackwells: torch's own is FlashAttention 2 or cuDNN already; nothing to gain.
    Preference((8, 0), (12, 1), 256, ()),
)
# What each choice tries: on NVIDIA devices in half precision, and what torch compiles anywhere that its compiler can.
ASKED_FOR: Mapping[str, tuple[str, ...]] = {"flash": ("flash3", "flash2"), "sage": ("sage",), "cudnn": ("cudnn",)}
COMPILED: Mapping[str, tuple[str, ...]] = {"flex": ("flex",)}


def sdpa(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, bias_BS: Tensor | None = None) -> Tensor:
    """torch's own attention; the bias is added to the logits of a key."""
    mask = None if bias_BS is None else bias_BS[:, None, None, :].to(q_BLHD.dtype)
    out_BHLD = F.scaled_dot_product_attention(
        q_BLHD.transpose(1, 2), k_BSHD.transpose(1, 2), v_BSHD.transpose(1, 2), attn_mask=mask
    )
    return out_BHLD.transpose(1, 2)


class Attention:
    """How a transformer attends among its video tokens: a choice, and what was found when it was first used.

    Args:
        choice: "auto" takes the fastest exact kernel that is there and right, by `PREFERENCES`; "flash", "sage",
            "cudnn" or "flex" that kernel, or torch's own with one warning where it does not work; "sdpa" torch's own.

    Raises:
        ValueError: the choice is none of these.
    """

    def __init__(self, choice: AttentionKernel = "auto") -> None:
        if choice not in get_args(AttentionKernel):
            raise ValueError(f"attention = {choice!r}: must be one of {', '.join(get_args(AttentionKernel))}")
        self.choice = choice
        self._found: dict[tuple[torch.device, torch.dtype, int], Checked | None] = {}

    def __reduce__(self) -> tuple[type[Attention], tuple[AttentionKernel]]:
        """What was found is this process's; a copy, or another process, finds its own."""
        return Attention, (self.choice,)

    def kernel(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> Checked | None:
        """The kernel for these tensors, or None for torch's own (always so where gradients are wanted)."""
        if self.choice == "sdpa" or torch.is_grad_enabled():
            return None
        key = (device, dtype, head_dim)
        if key not in self._found:
            self._found[key] = self._choose(*key)
        return self._found[key]

    def _choose(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> Checked | None:
        capability = _capability(device)
        if self.choice == "auto":
            names = _preferred(capability, dtype, head_dim)
        elif self.choice in COMPILED:
            names = COMPILED[self.choice]
        else:
            names = ASKED_FOR[self.choice] if capability is not None and dtype in HALVES else ()
        reasons = {}
        for name in names:
            try:
                return _checked(name, device, dtype, head_dim)
            except ImportError:
                reasons[name] = "is not installed"
            except _Wrong as error:
                reasons[name] = str(error)
            except Exception as error:  # whatever a kernel may raise
                reasons[name] = _one_line(error)
        absent = all(reason == "is not installed" for reason in reasons.values())
        if self.choice != "auto" or not absent:
            why = ", ".join(f"{name} {reason}" for name, reason in reasons.items())
            where = f"{device.type} in {str(dtype).removeprefix('torch.')}"
            _warn(f"attention = {self.choice!r}: {why or f'has no kernel for {where}'}; torch's own is used")
        return None


@dataclass
class Checked:
    """A kernel that has agreed with torch's own.

    `oblong` says whether it did so with fewer queries than keys, too; where it did not, torch's own computes those.
    """

    name: str
    run: Run
    oblong: bool
    broken: bool = False

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        """Full attention, (B, L, H, D)."""
        if self.broken or (q_BLHD.shape[1] != k_BSHD.shape[1] and not self.oblong):
            return sdpa(q_BLHD, k_BSHD, v_BSHD)
        try:
            return self.run(q_BLHD, k_BSHD, v_BSHD)
        except torch.OutOfMemoryError:  # says nothing of the kernel
            raise
        except Exception as error:  # whatever a kernel may raise
            self.broken = True
            _warn(f"attention: {self.name} {_one_line(error)}; torch's own is used from here on")
            return sdpa(q_BLHD, k_BSHD, v_BSHD)


class _Wrong(Exception):
    """A kernel does not give what torch's own gives."""


def _flash3() -> Run:
    from flash_attn_interface import flash_attn_func

    def run(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        # Earlier versions give the logarithms of the sums with it.
        out: Any = flash_attn_func(q_BLHD, k_BSHD, v_BSHD)
        out_BLHD: Tensor = out[0] if isinstance(out, tuple) else out
        return out_BLHD

    return run


def _flash2() -> Run:
    from flash_attn import flash_attn_func

    run: Run = flash_attn_func
    return run


def _sage() -> Run:
    from sageattention import sageattn

    def run(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        out_BLHD: Tensor = sageattn(q_BLHD, k_BSHD, v_BSHD, tensor_layout="NHD", is_causal=False)
        return out_BLHD

    return run


def _cudnn() -> Run:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def run(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return sdpa(q_BLHD, k_BSHD, v_BSHD)

    return run


def _flex() -> Run:
    from torch.nn.attention.flex_attention import flex_attention

    def program(q_N1LD: Tensor, k_N1SD: Tensor, v_N1SD: Tensor) -> Tensor:
        out: Any = flex_attention(q_N1LD, k_N1SD, v_N1SD)
        out_N1LD: Tensor = out
        return out_N1LD

    # All of it or nothing: what is not compiled holds all scores at once.
    compiled = torch.compile(program, dynamic=True, fullgraph=True)

    def run(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        out_N1LD = compiled(*(_heads_as_batch(x) for x in (q_BLHD, k_BSHD, v_BSHD)))
        return out_N1LD.view(q_BLHD.shape[0], -1, *out_N1LD.shape[2:]).transpose(1, 2)

    # No part of a compiled transformer's own program: what fails in that ends the film.
    apart: Run = torch.compiler.disable(run)
    return apart


def _heads_as_batch(x_BSHD: Tensor) -> Tensor:
    """A copy for torch's compiler, (N, 1, S, D), with which all films take the two programs that the check has made.

    It makes one for each number of heads, for a batch of one and for each way in which slices lie in memory, and gives
    up after the eighth.
    """
    B, S, H, D = x_BSHD.shape
    x_N1SD = x_BSHD.new_empty(B * H, 1, S, D)  # no view of another tensor: that is a program of its own, too
    x_N1SD.view(B, H, S, D).copy_(x_BSHD.transpose(1, 2))
    return x_N1SD


# How to get each, and how far from torch's own in float32 it may be, root mean square, relative. The exact ones differ
# from it by the rounding of their type, some 0.4 % of a half; Sage by that of 8 bits, some 4 %.
_KERNELS: Mapping[str, tuple[Callable[[], Run], float]] = {
    "flash3": (_flash3, 0.02),
    "flash2": (_flash2, 0.02),
    "cudnn": (_cudnn, 0.02),
    "sage": (_sage, 0.1),
    "flex": (_flex, 0.02),
}
_FLOAT32_TOLERANCE = 1e-4
_PROBE_QUERIES, _PROBE_KEYS = 200, 333  # no multiples of what kernels cut sequences into, as films are none


def _checked(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Checked:
    """The kernel, seen to be right on random tensors.

    Raises:
        ImportError: it is not installed.
        _Wrong: it is not right. Whatever it raises itself is passed on.
    """
    load, tolerance = _KERNELS[name]
    if dtype not in HALVES:
        tolerance = _FLOAT32_TOLERANCE
    run = load()
    off = _deviation(run, _PROBE_KEYS, device, dtype, head_dim)
    if not off <= tolerance:
        raise _Wrong(f"is {off:.2%} off torch's own, at most {100 * tolerance:g}% is allowed")
    try:
        oblong = _deviation(run, _PROBE_QUERIES, device, dtype, head_dim) <= tolerance
    except Exception:  # what a kernel that cannot raises
        oblong = False
    return Checked(name, run, oblong)


def _deviation(run: Run, queries: int, device: torch.device, dtype: torch.dtype, head_dim: int) -> float:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, tokens, 2, head_dim, generator=generator).to(device, dtype)
        for tokens in (queries, _PROBE_KEYS, _PROBE_KEYS)
    )
    want_BLHD = sdpa(q.float(), k.float(), v.float())
    found_BLHD = run(q, k, v).float()
    if found_BLHD.shape != want_BLHD.shape:
        raise _Wrong(f"gives {tuple(found_BLHD.shape)}, not {tuple(want_BLHD.shape)}")
    return float((found_BLHD - want_BLHD).norm() / want_BLHD.norm())


def _preferred(capability: tuple[int, int] | None, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    if capability is None:
        return ()
    for entry in PREFERENCES:
        if entry.lowest <= capability <= entry.highest and dtype in entry.dtypes and head_dim <= entry.head_dim:
            return entry.order
    return ()


def _capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA device; None of any other, ROCm's among them, which call themselves cuda."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def _one_line(error: Exception) -> str:
    return f"raises {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
