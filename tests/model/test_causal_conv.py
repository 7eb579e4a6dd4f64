"""The VAE's layers where a GPU computes otherwise than a CPU; all else of them is in `test_vae.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from everreel.model.causal_conv import ResidualBlock, Tails


def gradients(x_BTHWC: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a residual block gives in bfloat16's autocast, and its gradients."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 12)
    x_BTHWC = x_BTHWC.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y_BTHWC = block(x_BTHWC, Tails())
    y_BTHWC.float().square().mean().backward()
    found = [x_BTHWC.grad, *(p.grad for p in block.parameters())]
    return y_BTHWC.detach(), [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norms_in_float32_as_cudas_autocast_gives_them_change_nothing(dtype, monkeypatch) -> None:
    x_BTHWC = torch.randn(2, 3, 6, 6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    y_BTHWC, plain = gradients(x_BTHWC)
    of_cpu, seen = torch.linalg.vector_norm, set()

    def of_cuda(x: Tensor, **options: Any) -> Tensor:
        seen.add(x.dtype)
        return of_cpu(x.float(), **options)

    monkeypatch.setattr(torch.linalg, "vector_norm", of_cuda)
    other_BTHWC, same = gradients(x_BTHWC)
    assert torch.bfloat16 in seen
    assert other_BTHWC.dtype == y_BTHWC.dtype and [g.dtype for g in same] == [g.dtype for g in plain]
    assert len(plain) == len(same) > 8
    for a, b in zip([y_BTHWC, *plain], [other_BTHWC, *same], strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * float(a.abs().max()))
