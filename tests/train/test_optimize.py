"""What Muon moves: matrices inside blocks, and kernels as the matrices that they are."""

from __future__ import annotations

import copy

import torch
from torch import nn

from everreel.train.optimize import RoleOptimizer, Rule

MUON = Rule("muon", (0.9, 0.95), 0.01, None)


class Net(nn.Module):
    """A kernel and a matrix inside blocks, and one of each outside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3)
        self.blocks = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv3d(6, 8, (1, 3, 3)), nn.Linear(8, 8))
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.head = nn.Linear(8, 2)


def with_gradients(net: Net) -> Net:
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return net


def test_a_kernel_moves_as_its_matrix_does() -> None:
    net = with_gradients(Net())
    kernel = net.blocks[0].weight
    alone = nn.Parameter(kernel.detach().flatten(1).clone())
    alone.grad = kernel.grad.flatten(1).clone()
    torch.optim.Muon([alone], lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw").step()
    RoleOptimizer(net, MUON).step(0.02)
    torch.testing.assert_close(kernel.detach().flatten(1), alone.detach())


def test_what_lies_outside_blocks_moves_as_with_adamw() -> None:
    muon, adamw = with_gradients(Net()), with_gradients(Net())
    start = copy.deepcopy(adamw)
    RoleOptimizer(muon, MUON).step(0.02)
    RoleOptimizer(adamw, Rule("adamw", (0.9, 0.95), 0.01, None)).step(0.02)
    same = {name for (name, a), b in zip(muon.named_parameters(), adamw.parameters(), strict=True) if torch.equal(a, b)}
    assert {name for name, _ in muon.named_parameters()} - same == {f"blocks.{n}.weight" for n in range(3)}
    assert all(not torch.equal(a, b) for a, b in zip(muon.parameters(), start.parameters(), strict=True))


def test_kernels_go_on_after_a_restart() -> None:
    straight = with_gradients(Net())
    optimizer = RoleOptimizer(straight, MUON)
    optimizer.step(0.02)
    resumed = copy.deepcopy(straight)
    again = RoleOptimizer(resumed, MUON)
    again.restore(copy.deepcopy(optimizer.state()))
    with_gradients(straight), with_gradients(resumed)
    optimizer.step(0.02), again.step(0.02)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_of_kernels_are_forgotten_after_a_step() -> None:
    net = with_gradients(Net())
    optimizer = RoleOptimizer(net, MUON)
    optimizer.step(0.02)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
