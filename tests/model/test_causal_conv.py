"""The VAE's layers where a GPU computes otherwise than a CPU; all else of them is in `test_vae.py`."""

from __future__ import annotations

import subprocess
import sys
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


FEW_FRAMES = """
import torch
from everreel.model.causal_conv import CausalConv3d, Tails
torch.set_num_threads(1)
conv = CausalConv3d(16, 16, (3, 3, 3))
torch.nn.init.normal_(conv.weight)
for frames in (2, 5, 5, 5, 6):
    x = torch.randn(1, frames, 96, 160, 16, requires_grad=True)
    found = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = conv(x.bfloat16() if enabled else x, Tails())
        y.float().square().mean().backward()
        found.append(conv.weight.grad.clone())
        conv.weight.grad = None
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05 * float(found[1].abs().max()))
print("the heap is whole")
"""


def test_gradients_of_few_frames_in_bfloat16_leave_the_heap_whole() -> None:
    """In a process of its own, for what it guards against ends the process (on CPUs with AMX, torch 2.13)."""
    done = subprocess.run([sys.executable, "-c", FEW_FRAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout
