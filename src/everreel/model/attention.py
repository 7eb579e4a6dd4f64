"""Attention in the forms the transformer needs, rotary positions, and the norm of queries and keys.

Source: `attention` and `rope_apply` of the released `modules/transformer.py`; section 3.1 of the paper. The one
invariant: which queries see which keys is always said by slices of the sequence, never by a tokens × tokens mask.

Shape suffixes: B batch, L query tokens, S key tokens, H heads, D head width, C model width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.model import training
from everreel.model.backends import Run, sdpa

QUERY_CHUNK = 512  # rows of scores held at once by the CPU form: bounds memory, keeps them in the cache
SMALL_SCORES = 256 * 256  # up to this many scores a head, batched matmuls are the fastest form on a CPU
SAFE_LOGIT = 60.0  # e^±60, and sums of a million such, are well inside bfloat16's range

# On CPUs that multiply bfloat16 in tiles (AMX) torch's fused kernel takes a third to three quarters of the time of any
# form here, at every size; on others twice as long. By the machine: a resumed film has the same bytes.
FUSED_IS_FASTEST = torch.cpu._is_amx_tile_supported()


def attend(
    q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, bias_BS: Tensor | None = None, kernel: Run | None = None
) -> Tensor:
    """Softmax attention of every query over every key.

    Args:
        q_BLHD, k_BSHD, v_BSHD: queries, keys and values.
        bias_BS: added to the logits of a key: 0, the logarithm of how many equal keys it stands for, or -inf.
        kernel: what computes it where there is no bias, instead of torch's own; see `backends.Attention`.

    Returns: (B, L, H, D).
    """
    if kernel is not None and bias_BS is None:
        return kernel(q_BLHD, k_BSHD, v_BSHD)
    if training.is_for(q_BLHD):
        return training.attend(q_BLHD, k_BSHD, v_BSHD, bias_BS)
    if q_BLHD.device.type == "cpu" and q_BLHD.dtype == torch.bfloat16 and not FUSED_IS_FASTEST:
        if q_BLHD.shape[1] * k_BSHD.shape[1] <= SMALL_SCORES:
            return _attend_batched(q_BLHD, k_BSHD, v_BSHD, bias_BS)
        if not torch.is_grad_enabled():
            if bias_BS is None and _logit_bound(q_BLHD, k_BSHD) < SAFE_LOGIT:
                return _attend_unshifted(q_BLHD, k_BSHD, v_BSHD)
            return _attend_by_head(q_BLHD, k_BSHD, v_BSHD, bias_BS)
    return sdpa(q_BLHD, k_BSHD, v_BSHD, bias_BS)


def attend_blocks(
    q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, block_tokens: Sequence[int], kernel: Run | None = None
) -> Tensor:
    """Block-causal attention: each block of queries sees the keys of its own block and of all that come before it.

    Keys may reach further back than queries: the sequences end together, and what is older is seen by all. A block has
    `block_tokens` keys, and as many queries or, where other processes have the others, an equal part of each frame's.
    """
    if len(block_tokens) == 1:
        return attend(q_BLHD, k_BSHD, v_BSHD, kernel=kernel)
    keys = sum(block_tokens)
    older, queries = k_BSHD.shape[1] - keys, q_BLHD.shape[1]
    out, start = [], 0
    for stop in itertools.accumulate(block_tokens):
        seen, rows = older + stop, slice(start * queries // keys, stop * queries // keys)
        out.append(attend(q_BLHD[:, rows], k_BSHD[:, :seen], v_BSHD[:, :seen], None, kernel))
        start = stop
    return torch.cat(out, dim=1)


def _attend_batched(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, bias_BS: Tensor | None) -> Tensor:
    """The form for few scores in bfloat16 on a CPU: three to four times the fused kernel's speed."""
    B, _, H, D = q_BLHD.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLHD, k_BSHD, v_BSHD))
    if bias_BS is None:
        scores = torch.bmm(q * D**-0.5, k.transpose(1, 2))
    else:
        bias = bias_BS.to(q.dtype).repeat_interleave(H, dim=0)[:, None]
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=D**-0.5)
    out_BHLD = torch.bmm(torch.softmax(scores, dim=-1), v).view(B, H, -1, D)
    return out_BHLD.transpose(1, 2)


def _logit_bound(q_BLHD: Tensor, k_BSHD: Tensor) -> float:
    """No logit is further from zero than this (Cauchy and Schwarz)."""
    longest = [torch.linalg.vector_norm(x, dim=-1).amax() for x in (q_BLHD, k_BSHD)]
    return float(longest[0] * longest[1]) / math.sqrt(q_BLHD.shape[-1])


def _attend_unshifted(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """Without gradients and with bounded logits: softmax as a bare power of two, divided out after the values.

    Nothing has to be searched for its maximum, and 2^x costs less than e^x: half the time of a softmax.
    """
    B, L, H, D = q_BLHD.shape
    q_BLHD = q_BLHD * (D**-0.5 * math.log2(math.e))
    out_BLHD = torch.empty(q_BLHD.shape, dtype=q_BLHD.dtype)
    for b in range(B):
        for h in range(H):
            k_DS, v_SD = k_BSHD[b, :, h].t(), v_BSHD[b, :, h]
            for start in range(0, L, QUERY_CHUNK):
                rows = slice(start, start + QUERY_CHUNK)
                weights_LS = (q_BLHD[b, rows, h] @ k_DS).exp2_()
                out_BLHD[b, rows, h] = (weights_LS @ v_SD).div_(weights_LS.sum(-1, keepdim=True))
    return out_BLHD


def _attend_by_head(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, bias_BS: Tensor | None) -> Tensor:
    """Without gradients: plain matmuls a head reach about twice the speed of the fused kernel."""
    B, L, H, D = q_BLHD.shape
    q_BLHD = q_BLHD * D**-0.5
    out_BLHD = torch.empty(q_BLHD.shape, dtype=q_BLHD.dtype)
    for b in range(B):
        bias_S = None if bias_BS is None else bias_BS[b].to(q_BLHD.dtype)
        for h in range(H):
            k_DS, v_SD = k_BSHD[b, :, h].t(), v_BSHD[b, :, h]
            for start in range(0, L, QUERY_CHUNK):
                rows = slice(start, start + QUERY_CHUNK)
                q_LD = q_BLHD[b, rows, h]
                scores_LS = q_LD @ k_DS if bias_S is None else torch.addmm(bias_S, q_LD, k_DS)
                out_BLHD[b, rows, h] = torch.softmax(scores_LS, dim=-1) @ v_SD
    return out_BLHD


class RMSNorm(nn.RMSNorm):
    """The norm of queries and keys over the full width; its weight takes the input's type, as autocast would not."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def norm_and_rotate(x_BLC: Tensor, norm: RMSNorm, heads: int, table_LD2: Tensor | None = None) -> Tensor:
    """Norm queries or keys over the full width and, with a table, turn them to their positions; (B, L, H, D)."""
    if training.is_for(x_BLC):
        assert norm.eps is not None
        return training.norm_and_rotate(x_BLC, norm.weight, norm.eps, heads, table_LD2)
    x_BLHD: Tensor = norm(x_BLC).unflatten(2, (heads, -1))
    return x_BLHD if table_LD2 is None else rotate(x_BLHD, table_LD2)


@functools.lru_cache(maxsize=8)  # 57 MB each at 720P, which no budget counts
def rope_table(
    start: int,
    frames: int,
    height: int,
    width: int,
    head_dim: int,
    device: torch.device,
    theta: float = 10000.0,
) -> Tensor:
    """The rotations of a video's tokens as cosine and sine, (frames·height·width, head_dim / 2, 2), float32.

    Angles are made in float64 on the CPU, for not every device has it. Of the head's pairs the temporal axis takes
    what two equal shares of a third leave over.

    Args:
        start: position of the first frame on the temporal axis.
        frames, height, width: the grid of tokens.
    """
    spatial = 2 * (head_dim // 6)
    sizes = (head_dim - 2 * spatial, spatial, spatial)
    grids = []
    for axis, (size, length) in enumerate(zip(sizes, (frames, height, width), strict=True)):
        position = torch.arange(length, dtype=torch.float64) + (start if axis == 0 else 0)
        frequency = theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        shape = [1, 1, 1, size // 2]
        shape[axis] = length
        grids.append(torch.outer(position, frequency).reshape(shape).expand(frames, height, width, -1))
    angles = torch.cat(grids, dim=-1).reshape(frames * height * width, head_dim // 2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float().to(device)


def rotate(x_BLHD: Tensor, table_LD2: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels by the angle of its token, in float32; given back in x's type."""
    pairs: Tensor = x_BLHD.to(torch.float32, copy=True).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() or x_BLHD.device.type == "mps":  # a compiler fuses these, not complex numbers
        a, b = pairs.unbind(-1)
        cos, sin = table_LD2[None, :, None].unbind(-1)
        pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
        return pairs.flatten(-2).to(x_BLHD.dtype)
    torch.view_as_complex(pairs).mul_(torch.view_as_complex(table_LD2)[None, :, None])
    return pairs.flatten(-2).to(x_BLHD.dtype)
