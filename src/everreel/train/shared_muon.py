"""Muon for matrices of which each process has some rows.

Source: `torch.optim.Muon` (Jordan et al., 2024), which takes whole matrices. The one invariant: its state is the plain
one's, in parts. A step's direction depends on the whole matrix: momentum is kept in parts, and what comes of it is
gathered, one matrix at a time; all processes then do the same arithmetic and keep their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


class SharedMuon(torch.optim.Muon):
    """Muon for `DTensor`s."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights that have gradients."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return None

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert isinstance(parameter, DTensor) and isinstance(parameter.grad, DTensor)
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum_buffer"], group["momentum"])
        assert isinstance(ahead, DTensor)
        full = ahead.full_tensor()
        # A plain Muon without momentum or decay turns what was gathered into the step of the whole matrix.
        whole = nn.Parameter(torch.zeros_like(full))
        whole.grad = full
        adjust = group["adjust_lr_fn"]
        torch.optim.Muon(
            [whole], group["lr"], weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn=adjust
        ).step()
        change = distribute_tensor(whole.detach(), parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)
