"""Linear layers whose whole product is one of 8-bit integers: weights rounded once, inputs as they come.

Source: LLM.int8() (arXiv 2208.07339) without its outliers: a scale for each row of the weight and one for each token.
torchao's layer of the kind prints its input at every call unless it is compiled, for which a GPU is waited for. The one
invariant: the integers' product is exact; what is lost is the rounding of both factors to 255 steps.

Shape suffixes: N tokens, O outputs, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST = 127
FEWEST_ROWS = 32  # CUDA's product takes 17 or more
SIDE = 8  # of which both sides of the weight are to be multiples there


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers.

    Args:
        layer: the exact one; its weight is rounded where it lies.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        weight_OI, scale_O1 = _rounded(layer.weight.detach())
        self.register_buffer("weight", weight_OI)
        self.register_buffer("scale", scale_O1[:, 0])
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        x_NI, scale_N1 = _rounded(x.flatten(0, -2))
        tokens = len(x_NI)
        if tokens < FEWEST_ROWS:
            x_NI = nn.functional.pad(x_NI, (0, 0, 0, FEWEST_ROWS - tokens))
        sums_NO = torch._int_mm(x_NI, self.weight.t())[:tokens]
        out_NO: Tensor = (sums_NO * scale_N1).mul_(self.scale.float()).to(x.dtype)
        if self.bias is not None:
            out_NO += self.bias
        out: Tensor = out_NO.unflatten(0, x.shape[:-1])
        return out

    def extra_repr(self) -> str:
        """What stands in the brackets of a printed network."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8-bit integers, and what each is to be multiplied with, (N, 1) in float32."""
    scale_N1 = rows.abs().amax(dim=1, keepdim=True).float().div_(MOST).clamp_(min=1e-12)
    return (rows / scale_N1).round_().to(torch.int8), scale_N1
