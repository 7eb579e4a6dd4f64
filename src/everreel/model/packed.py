"""Weights kept as GGML blocks, as GGUF files hold them: unpacked with torch, on any device, as they are used.

Source: the block layouts of ggml (`ggml-common.h`); the `gguf` package's own dequantiser is the oracle. The one
invariant: what is kept is the file's bytes, and what they unpack to in float32 is to the bit what the oracle gives.

Shape suffixes: N blocks, V values of a block, G groups of values that share a scale, O outputs, I inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNPACKED_AT_ONCE = 2**22  # values: what is unpacked beside the weight itself stays at some 50 MB


def dequantize(packed: Tensor, ggml_type: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor of `shape` that blocks stand for.

    Args:
        packed: the bytes of the blocks, uint8 of any shape, first row first.
        ggml_type: as GGUF files name it: Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, Q5_1, Q5_0, Q4_1, Q4_0, BF16, F16 or F32.
        shape: of the tensor; blocks lie along its last dimension.

    Raises:
        ValueError: the type is none of these, or the bytes are not those of this shape.
    """
    layout = _layout(ggml_type)
    _check_bytes(packed, ggml_type, layout, shape)
    blocks = packed.reshape(-1, layout.num_bytes)
    out_NV = torch.empty(len(blocks), layout.values, dtype=dtype, device=packed.device)
    step = max(UNPACKED_AT_ONCE // layout.values, 1)
    for start in range(0, len(blocks), step):
        out_NV[start : start + step] = layout.unpack(blocks[start : start + step])
    return out_NV.view(*shape)


def is_packed(dtype: str) -> bool:
    """Whether a file's type of that name is one of blocks that can be kept; floats are tensors as they are."""
    return dtype in _LAYOUTS and _LAYOUTS[dtype].values > 1


def packed_bytes(ggml_type: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of `shape` in blocks.

    Raises:
        ValueError: the type is unknown, or a row is no whole number of blocks.
    """
    layout = _layout(ggml_type)
    if shape[-1] % layout.values:
        rule = f"rows of {ggml_type} must be a multiple of {layout.values}"
        raise ValueError(f"shape = {tuple(shape)}: {rule}; F16 takes any")
    return math.prod(shape) // layout.values * layout.num_bytes


class PackedLinear(nn.Module):
    """A linear layer whose weight stays in blocks and is unpacked, in the input's dtype, for the time of a product.

    Args:
        packed: the bytes of the weight, uint8; kept as they are, the buffer `packed` (O, bytes of a row).
        ggml_type: what `dequantize` takes.
        shape: (out, in) of the weight.
        dtype: of the bias, and so of the inputs.

    Raises:
        ValueError: as `dequantize`.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(
        self,
        packed: Tensor,
        ggml_type: str,
        shape: Sequence[int],
        bias: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check_bytes(packed, ggml_type, _layout(ggml_type), shape)
        self.out_features, self.in_features = shape
        self.ggml_type = ggml_type
        self.register_buffer("packed", packed.reshape(self.out_features, -1))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(x, self.dense(x.dtype), self.bias)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (O, I), unpacked."""
        return dequantize(self.packed, self.ggml_type, (self.out_features, self.in_features), dtype)

    def extra_repr(self) -> str:
        """What stands in the brackets of a printed network."""
        return f"in_features={self.in_features}, out_features={self.out_features}, ggml_type={self.ggml_type}"


@dataclass(frozen=True)
class _Layout:
    values: int
    num_bytes: int
    unpack: Callable[[Tensor], Tensor]
    """Blocks (N, bytes) to values (N, V), float32."""


def _layout(ggml_type: str) -> _Layout:
    if ggml_type not in _LAYOUTS:
        raise ValueError(f"ggml_type = {ggml_type}: must be one of {', '.join(_LAYOUTS)}; convert the file to Q8_0")
    return _LAYOUTS[ggml_type]


def _check_bytes(packed: Tensor, ggml_type: str, layout: _Layout, shape: Sequence[int]) -> None:
    expected = packed_bytes(ggml_type, shape)
    if packed.dtype != torch.uint8 or packed.numel() != expected:
        found = f"{packed.numel()} values of {str(packed.dtype).removeprefix('torch.')}"
        raise ValueError(f"packed = {found}: {ggml_type} of shape {tuple(shape)} must be {expected} of uint8")


def _numbers(blocks: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """The bytes from `first` to the blocks' end as numbers; a copy, so that any offset of the file will do."""
    numbers: Tensor = blocks[:, first:].clone(memory_format=torch.contiguous_format).view(dtype)
    return numbers.float()


def _half(blocks: Tensor, first: int) -> Tensor:
    """The half-precision number at byte `first`, (N, 1)."""
    return _numbers(blocks[:, : first + 2], first, torch.float16)


def _fields(bytes_NB: Tensor, bits: int, run: int) -> Tensor:
    """Every byte's fields of `bits`, (N, V): of each run of bytes first all lowest fields, then all second lowest."""
    shift = torch.arange(0, 8, bits, dtype=torch.uint8, device=bytes_NB.device)[:, None]
    fields: Tensor = (bytes_NB.unflatten(1, (-1, 1, run)) >> shift) & (2**bits - 1)
    return fields.flatten(1)


def _scaled(q_NV: Tensor, scale_NG: Tensor, least_NG: Tensor | None = None) -> Tensor:
    """q times its group's scale, less what the group begins at."""
    out_NGV: Tensor = q_NV.unflatten(1, (scale_NG.shape[1], -1)).float() * scale_NG[..., None]
    return (out_NGV if least_NG is None else out_NGV - least_NG[..., None]).flatten(1)


def _fifth_bits(blocks: Tensor, first: int) -> Tensor:
    """16 times the fifth bits of 32 values, kept in four bytes."""
    return _fields(blocks[:, first : first + 4], 1, 1) << 4


def _six_bits(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minimums (N, 8) of Q4_K and Q5_K, from bytes 4 to 15; the last four of each have their upper two bits
    above the first four."""
    scale, least, rest = blocks[:, 4:16].split(4, dim=1)
    scales = torch.cat([scale & 63, (rest & 15) | (scale >> 6 << 4)], dim=1)
    leasts = torch.cat([least & 63, (rest >> 4) | (least >> 6 << 4)], dim=1)
    return _half(blocks, 0) * scales.float(), _half(blocks, 2) * leasts.float()


def _q8_0(blocks: Tensor) -> Tensor:
    return _numbers(blocks, 2, torch.int8) * _half(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    return (_fields(blocks[:, 2:], 4, 16).float() - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _fields(blocks[:, 4:], 4, 16).float() * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    return ((_fields(blocks[:, 6:], 4, 16) | _fifth_bits(blocks, 2)).float() - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    return (_fields(blocks[:, 8:], 4, 16) | _fifth_bits(blocks, 4)).float() * _half(blocks, 0) + _half(blocks, 2)


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    scale, least = _half(blocks, 80) * (scales & 15).float(), _half(blocks, 82) * (scales >> 4).float()
    return _scaled(_fields(blocks[:, 16:80], 2, 32), scale, least)


def _q3_k(blocks: Tensor) -> Tensor:
    scales = _fields(blocks[:, 96:104], 4, 8) | (_fields(blocks[:, 104:108], 2, 4) << 4)
    q = _fields(blocks[:, 32:96], 2, 32) | (_fields(blocks[:, :32], 1, 32) << 2)
    return _scaled(q.float() - 4, _half(blocks, 108) * (scales.float() - 32))


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled(_fields(blocks[:, 16:], 4, 32), *_six_bits(blocks))


def _q5_k(blocks: Tensor) -> Tensor:
    q = _fields(blocks[:, 48:], 4, 32) | (_fields(blocks[:, 16:48], 1, 32) << 4)
    return _scaled(q, *_six_bits(blocks))


def _q6_k(blocks: Tensor) -> Tensor:
    q = _fields(blocks[:, :128], 4, 64) | (_fields(blocks[:, 128:192], 2, 32) << 4)
    scale = _half(blocks, 208) * _numbers(blocks[:, :208], 192, torch.int8)
    return _scaled(q.float() - 32, scale)


_LAYOUTS = {
    "Q8_0": _Layout(32, 34, _q8_0),
    "Q6_K": _Layout(256, 210, _q6_k),
    "Q5_K": _Layout(256, 176, _q5_k),
    "Q4_K": _Layout(256, 144, _q4_k),
    "Q3_K": _Layout(256, 110, _q3_k),
    "Q2_K": _Layout(256, 84, _q2_k),
    "Q5_1": _Layout(32, 24, _q5_1),
    "Q5_0": _Layout(32, 22, _q5_0),
    "Q4_1": _Layout(32, 20, _q4_1),
    "Q4_0": _Layout(32, 18, _q4_0),
    "BF16": _Layout(1, 2, lambda blocks: _numbers(blocks, 0, torch.bfloat16)),
    "F16": _Layout(1, 2, lambda blocks: _numbers(blocks, 0, torch.float16)),
    "F32": _Layout(1, 4, lambda blocks: _numbers(blocks, 0, torch.float32)),
}
