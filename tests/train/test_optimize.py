"""What Muon moves: matrices inside blocks, and kernels as the matrices that they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from everreel.train import optimize
from everreel.train.optimize import BatchedMuon, RoleOptimizer, Rule

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


SHAPES = [(8, 8), (24, 8), (8, 24), (8, 24), (8, 8), (5, 3), (24, 8)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def moved(optimizer: torch.optim.Optimizer, seed: int, without: int | None = None) -> list[torch.Tensor]:
    """The matrices after another step; one may have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    parameters = optimizer.param_groups[0]["params"]
    for index, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if index == without else gradient
    optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("at_once", [2**26, 200, 1])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("rule", ["match_rms_adamw", "original", None])
def test_matrices_turned_together_move_as_one_by_one(rule, nesterov, at_once, monkeypatch) -> None:
    monkeypatch.setattr(optimize, "_AT_ONCE", at_once)
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": rule, "nesterov": nesterov}
    single, batched = torch.optim.Muon(matrices(), **options), BatchedMuon(matrices(), **options)
    for seed in range(4):
        before = [p.detach().clone() for p in single.param_groups[0]["params"]]
        want, got = moved(single, seed, without=1), moved(batched, seed, without=1)
        for old, a, b in zip(before, want, got, strict=True):
            # A step is held against its own size, in which the iteration's bfloat16 has its last digit.
            torch.testing.assert_close(b, a, rtol=0, atol=0.02 * (seed + 1) * float((a - old).abs().max()) + 1e-12)
    theirs, ours = single.state_dict(), batched.state_dict()
    assert theirs["param_groups"] == ours["param_groups"] and theirs["state"].keys() == ours["state"].keys()
    assert 1 not in ours["state"]
    for index, state in theirs["state"].items():
        assert state.keys() == ours["state"][index].keys() == {"momentum_buffer"}
        assert torch.equal(state["momentum_buffer"], ours["state"][index]["momentum_buffer"])


def test_matrices_turned_together_decay_as_one_by_one() -> None:
    found = []
    for kind in (torch.optim.Muon, BatchedMuon):
        optimizer = kind(matrices(), lr=0.02, weight_decay=0.5)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        found.append([p.detach() for p in optimizer.param_groups[0]["params"]])
    for old, a, b in zip(matrices(), *found, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, old)


def test_either_goes_on_with_the_others_state() -> None:
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    single = torch.optim.Muon(matrices(), **options)
    moved(single, 0)
    batched = BatchedMuon([nn.Parameter(p.detach().clone()) for p in single.param_groups[0]["params"]], **options)
    batched.load_state_dict(copy.deepcopy(single.state_dict()))
    for seed in (1, 2):
        for a, b in zip(moved(single, seed), moved(batched, seed), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-3)
    single.load_state_dict(copy.deepcopy(batched.state_dict()))
    moved(single, 3)


def test_the_cpu_keeps_torchs_own_and_kernels_can_be_turned_together(monkeypatch) -> None:
    nets = [with_gradients(Net()), with_gradients(Net())]
    plain = RoleOptimizer(nets[0], MUON)
    assert [type(optimizer) for optimizer in plain._optimizers] == [torch.optim.AdamW, torch.optim.Muon]
    monkeypatch.setattr(optimize, "_muon_for", lambda matrix: BatchedMuon)
    batched = RoleOptimizer(nets[1], MUON)
    assert type(batched._optimizers[1]) is BatchedMuon and plain.sizes() == batched.sizes()
    plain.step(0.02), batched.step(0.02)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-3)
