"""What a backward pass in bfloat16 on a CPU is computed with: attention, the norm of queries and keys with their
rotation, and GELU, each as one function of autograd.

torch's own operators are right there too, but slow: a fused attention that is made for long rows, a norm and a rotation
of some thirty passes over memory, a softmax that stumbles over rows that are no multiple of a vector, a tanh that is
not vectorised. The one invariant: each gives what the plain operators give, forward and backward, within the rounding
of bfloat16, and keeps for the backward pass no more than they do.

Shape suffixes: B batch, L query tokens, S key tokens, H heads, D head width, C model width, N heads of all rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SMALL_SCORES = 640 * 640  # up to this many scores a head, all heads at once are faster than one after the other
SAFE_SUMS = 2.0**-60, 2.0**100  # of a row of powers: below, its largest may be rounded to nothing, above is no number
LOG2_E = math.log2(math.e)
SLOPE, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715  # of GELU: x · sigmoid(SLOPE · (x + CUBE · x³))


def is_for(x: Tensor) -> bool:
    """Whether these functions are for a tensor: one in bfloat16 on a CPU, where gradients are wanted."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return on_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def attend(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, bias_BS: Tensor | None = None) -> Tensor:
    """As `attention.attend`. The bias gets no gradient."""
    B, L, H, D = q_BLHD.shape
    if L * k_BSHD.shape[1] > SMALL_SCORES:
        by_head_BLHD: Tensor = _AttendByHead.apply(  # type: ignore[no-untyped-call]
            q_BLHD, k_BSHD, v_BSHD, bias_BS
        )
        return by_head_BLHD
    q_NLD, k_NSD, v_NSD = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLHD, k_BSHD, v_BSHD))
    bias_N1S = None if bias_BS is None else bias_BS.repeat_interleave(H, dim=0)[:, None]
    out_NLD: Tensor = _AttendAtOnce.apply(q_NLD, k_NSD, v_NSD, bias_N1S)  # type: ignore[no-untyped-call]
    out_BHLD: Tensor = out_NLD.view(B, H, L, D)
    return out_BHLD.transpose(1, 2)


def norm_and_rotate(x_BLC: Tensor, weight_C: Tensor, eps: float, heads: int, table_LD2: Tensor | None) -> Tensor:
    """As `attention.norm_and_rotate`."""
    out_BLC: Tensor = _NormAndRotate.apply(x_BLC, weight_C, eps, heads, table_LD2)  # type: ignore[no-untyped-call]
    out_BLHD: Tensor = out_BLC.unflatten(2, (heads, -1))
    return out_BLHD


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    out: Tensor = _TanhGELU.apply(x)  # type: ignore[no-untyped-call]
    return out


class _AttendAtOnce(torch.autograd.Function):
    """Batched matmuls over all heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401 -- torch's
        weights = q.new_empty(len(q), q.shape[1], k.shape[1])
        _weigh(torch.baddbmm, q, k, None if bias is None else (bias * LOG2_E).to(q.dtype), weights)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 -- torch's own
        q, k, v, weights = ctx.saved_tensors
        (grad,) = grads
        scale = q.shape[-1] ** -0.5
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_scores = _scores_gradient(torch.bmm(grad, v.transpose(1, 2)), weights)
        return (
            torch.bmm(grad_scores, k).mul_(scale),
            torch.bmm(grad_scores.transpose(1, 2), q).mul_(scale),
            grad_v,
            None,
        )


class _AttendByHead(torch.autograd.Function):
    """Plain matmuls, a head at a time, so that what is between them stays in the cache."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401 -- torch's
        B, L, H, _ = q.shape
        weights = q.new_empty(B, H, L, k.shape[1])
        out = torch.empty_like(q)
        for b in range(B):
            bias_S = None if bias is None else (bias[b] * LOG2_E).to(q.dtype)
            for h in range(H):
                _weigh(torch.addmm, q[b, :, h], k[b, :, h], bias_S, weights[b, h])
                out[b, :, h] = weights[b, h] @ v[b, :, h]
        ctx.save_for_backward(q, k, v, weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 -- torch's own
        q, k, v, weights = ctx.saved_tensors
        (grad,) = grads
        B, _, H, D = q.shape
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for b in range(B):
            for h in range(H):
                weights_LS, grad_LD = weights[b, h], grad[b, :, h]
                # Turned round: the long side of the weights is read along its rows.
                grad_v[b, :, h] = (grad_LD.t() @ weights_LS).t()
                grad_scores = _scores_gradient(grad_LD @ v[b, :, h].t(), weights_LS).mul_(D**-0.5)
                grad_q[b, :, h] = grad_scores @ k[b, :, h]
                grad_k[b, :, h] = (q[b, :, h].t() @ grad_scores).t()
        return grad_q, grad_k, grad_v, None


class _NormAndRotate(torch.autograd.Function):
    """All of it in float32, in place, and again in the backward pass: kept are the input and one number a token."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch's own
        x: Tensor,
        weight: Tensor,
        eps: float,
        heads: int,
        table: Tensor | None,
    ) -> Tensor:
        out = x.to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(out, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        out.mul_(scale).mul_(weight.detach().float())
        if table is not None:
            _turn_(out, heads, torch.view_as_complex(table))
        ctx.heads = heads
        ctx.save_for_backward(x, weight, scale, table)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 -- torch's own
        x, weight, scale, table = ctx.saved_tensors
        (grad,) = (grad.to(torch.float32, copy=True) for grad in grads)
        if table is not None:
            _turn_(grad, ctx.heads, torch.view_as_complex(table).conj().resolve_conj())
        x32, weight32 = x.float(), weight.detach().float()
        with torch.autocast("cpu", enabled=False):
            products = grad * x32
            grad_weight = (products.flatten(0, -2).t() @ scale.flatten()).to(weight.dtype)
            along = (products @ weight32).unsqueeze(-1)  # how far the gradient points along the input
        # Of x · s with s = (mean x² + eps)^-1/2: the gradient is s · g - x · s³ · mean(g · x).
        grad.mul_(weight32).mul_(scale).addcmul_(x32, along * scale.pow(3), value=-1 / x.shape[-1])
        return grad.to(x.dtype), grad_weight, None, None, None


class _TanhGELU(torch.autograd.Function):
    """The slope is made on the way, and is all that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 -- torch's own
        one = torch.tensor(SLOPE, dtype=x.dtype)
        sigmoid = torch.addcmul(one, x, x, value=SLOPE * CUBE).mul_(x).sigmoid_()
        out = sigmoid * x
        if ctx.needs_input_grad[0]:
            # s + x · s · (1 - s) · t, with t the slope of what the sigmoid s is taken of.
            slope = torch.addcmul(one, x, x, value=3 * SLOPE * CUBE).mul_(out)
            ctx.save_for_backward(slope.addcmul_(slope, sigmoid, value=-1).add_(sigmoid))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401 -- torch's own
        (slope,) = ctx.saved_tensors
        grad: Tensor = slope * grads[0]
        return grad


def _weigh(multiply: Any, q: Tensor, k: Tensor, bias: Tensor | None, out: Tensor) -> None:  # noqa: ANN401
    """The softmax of the scores, as powers of two over their sum: nothing has to be searched for its maximum."""

    def score() -> None:
        scale = q.shape[-1] ** -0.5 * LOG2_E
        start, beta = (out, 0.0) if bias is None else (bias, 1.0)
        multiply(start, q, k.transpose(-2, -1), beta=beta, alpha=scale, out=out)

    score()
    sums = out.exp2_().sum(-1, keepdim=True)
    low, high = (float(end) for end in torch.aminmax(sums))
    if SAFE_SUMS[0] <= low and high <= SAFE_SUMS[1]:
        out.div_(sums)
    else:
        score()
        out.copy_(torch.softmax(out.mul_(1 / LOG2_E), dim=-1))


def _scores_gradient(grad_weights: Tensor, weights: Tensor) -> Tensor:
    grad: Tensor = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    return grad


def _turn_(x_BLC: Tensor, heads: int, turns_LD: Tensor) -> None:
    """Multiply pairs, as complex numbers, in place."""
    torch.view_as_complex(x_BLC.unflatten(-1, (heads, -1, 2))).mul_(turns_LD[:, None])
