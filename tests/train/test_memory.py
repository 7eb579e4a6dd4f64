"""Memory: less of it by computing blocks twice, and one line where it is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from everreel.model.config import VAEConfig
from everreel.model.vae import CausalVAE
from everreel.train.blocks import blocks_of, recompute_blocks
from everreel.train.memory import Need, free_memory, need_of
from everreel.train.trainer import Trainer, TrainerSettings, TrainingFailed
from tests.train.together import Films, Regression

SETTINGS = TrainerSettings(steps=4, checkpoint_every=2, sample_every=9, log_every=1, device="cpu")


def held(objective: Films) -> tuple[int, list[Tensor]]:
    """The bytes that a loss holds for its gradients, and these gradients."""
    sizes = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    batch = objective.batch(0, torch.Generator().manual_seed(1))
    weights = {p.data_ptr() for p in objective.transformer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective.losses(batch, torch.Generator().manual_seed(2))["transformer"]
    counted = sum(size for address, size in sizes.items() if address not in weights)
    loss.backward()
    return counted, [p.grad for p in objective.transformer.parameters()]


def test_blocks_computed_twice_hold_less_for_the_same_gradients() -> None:
    plain, twice = Films(), Films()
    names = list(twice.transformer.state_dict())
    recompute_blocks(twice.transformer)
    (most, gradients), (least, same) = held(plain), held(twice)
    assert least < 0.5 * most
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    assert list(twice.transformer.state_dict()) == names
    assert [type(block).__name__ for block in twice.transformer.blocks] == ["Block"] * 2


def test_training_with_blocks_computed_twice_ends_with_the_same_bits(tmp_path: Path) -> None:
    plain = Trainer(Regression(), SETTINGS, tmp_path / "a", quiet=True)  # which has dropout
    twice = Trainer(Regression(), replace(SETTINGS, checkpointing="blocks"), tmp_path / "b", quiet=True)
    plain.run(), twice.run()
    for a, b in zip(plain.modules["net"].parameters(), twice.modules["net"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_vae_can_be_computed_twice() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        vae = CausalVAE(VAEConfig(base_dim=4, num_res_blocks=1))
        if again:
            recompute_blocks(vae)
        mean, _ = vae.encode_moments(torch.linspace(-1, 1, 3 * 5 * 16 * 16).view(1, 3, 5, 16, 16))
        vae.decode_raw(mean).square().mean().backward()
        gradients.append([p.grad for p in vae.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


def test_blocks_are_the_children_of_the_outermost_lists() -> None:
    inner = nn.ModuleList(
        [nn.Sequential(nn.ModuleList([nn.Linear(1, 1)])), nn.ModuleList([nn.Linear(1, 1)]), nn.GELU()]
    )
    network = nn.ModuleDict({"stem": nn.Linear(1, 1), "body": inner, "table": nn.ModuleDict({"0": nn.Linear(1, 1)})})
    assert blocks_of(network) == [inner[0], inner[1][0]]


def test_what_is_needed_is_counted_to_the_byte() -> None:
    net = Regression().nets["net"]  # of 64 numbers, 6 + 5 + 30 of them in matrices and kernels of blocks
    count = sum(p.numel() for p in net.parameters())
    assert need_of({"net": net}, "adamw") == Need(4 * count, 4 * count, 4 * count, 8 * count)
    assert need_of({"net": net}, "muon").optimizers == 8 * count - 4 * 30
    net.blocks.requires_grad_(False)
    frozen = sum(p.numel() for p in net.blocks.parameters())
    assert need_of({"net": net}, "adamw").optimizers == 8 * (count - frozen)
    halves = need_of({"net": net}, "adamw", 2)
    assert halves.averages == 2 * count and halves.gathered == 4 * (2 * count - frozen)
    assert need_of({"net": net}, "adamw", 2, "blocks").gathered == 0


def test_a_network_that_cannot_fit_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    objective = Regression()
    # Ten trillion numbers that are all the same one.
    objective.nets["net"].rare = nn.Parameter(torch.zeros(1).expand(10**13))
    with pytest.raises(ValueError, match=r"memory: training needs 1.6e\+05 GB of cpu before its first batch ") as said:
        Trainer(objective, SETTINGS, tmp_path)
    assert "(gradients 4e+04, averages 4e+04, optimizers 8e+04), and " in str(said.value)
    assert "optimizer='muon', more processes, a smaller network would need less" in str(said.value)


@pytest.mark.parametrize("used", [True, False])
def test_what_an_earlier_stage_has_left_on_a_gpu_is_given_back_before_it_is_asked(used, monkeypatch) -> None:
    done: list[object] = []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        done.append(device)
        yield

    def free(device: torch.device) -> tuple[int, int]:
        done.append("asked")
        return 7, 9

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr("everreel.train.memory.gc.collect", lambda: done.append("collected"))
    device = torch.device("cuda", 1)
    assert free_memory(device) == 7
    assert done == ["collected", device, "emptied"] * used + ["asked"]
    done.clear()
    assert free_memory(torch.device("cpu")) != 7 and not done


def test_a_batch_that_does_not_fit_is_named_and_costs_nothing(tmp_path: Path) -> None:
    class Greedy(Regression):
        def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
            if batch["step"] == 3:
                torch.empty(2**50)
            return super().losses(batch, generator)

    with pytest.raises(
        TrainingFailed, match=r"step 3: cpu has too little memory for micro-batch 0 \(x 8×6\); "
    ) as said:
        Trainer(Greedy(), SETTINGS, tmp_path, quiet=True).run()
    assert "checkpointing='blocks', more processes would need less; " in str(said.value)
    assert "checkpoint.pt of step 2 is kept" in str(said.value)
    assert Trainer(Regression(), SETTINGS, tmp_path, quiet=True).run().step == 4
