"""The trainer: exact resume after a kill, roles, what is not finite, budgets and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.train.trainer import CHECKPOINT, Trainer, TrainerSettings, TrainingFailed

SETTINGS = TrainerSettings(
    steps=10,
    learning_rate=0.01,
    warmup=3,
    checkpoint_every=5,
    sample_every=5,
    log_every=2,
    device="cpu",
    seed=7,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.dropout(torch.tanh(block(x)))
        return self.head(x)


class Regression:
    def __init__(self, roles: tuple[str, ...] = ("net",)) -> None:
        torch.manual_seed(0)
        self.nets = {role: Net() for role in roles}
        self.metrics: dict[str, float] = {}
        self.samples: list[int] = []
        self.die_at: int | None = None
        self.bad_steps: set[int] = set()
        self.step = 0

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.nets)

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor | int]:
        return {"x": torch.randn(8, 6, generator=generator), "step": step}

    def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        if batch["step"] == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = 0.01 * torch.randn(8, 6, generator=generator)
        target = batch["x"].sum(-1, keepdim=True).sin()
        losses = {role: F.mse_loss(net(batch["x"] + noise), target) for role, net in self.nets.items()}
        if batch["step"] in self.bad_steps:
            losses = {role: loss * float("nan") for role, loss in losses.items()}
        self.metrics = {"noise": float(noise.std())}
        return losses

    def sample(self, folder: Path, step: int) -> None:
        assert not next(iter(self.nets.values())).training
        self.samples.append(step)
        self.metrics = {"quality": 1.0}


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for module in trainer.modules.values() for p in module.state_dict().values()]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, accumulation=2)
    straight = Trainer(Regression(), settings, tmp_path / "straight", quiet=True)
    assert straight.run().reason == "done"

    source = (
        "import sys, dataclasses; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_trainer import *\n"
        "o = Regression(); o.die_at = 7\n"
        f"settings = dataclasses.replace(SETTINGS, optimizer={optimizer!r}, accumulation=2)\n"
        "Trainer(o, settings, sys.argv[2], quiet=True).run()"
    )
    command = [sys.executable, "-c", source, str(Path(__file__).parent), str(tmp_path / "killed")]
    killed = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert killed.returncode == -signal.SIGKILL
    resumed = Trainer(Regression(), settings, tmp_path / "killed", quiet=True)
    assert resumed.step == 5
    resumed.run()
    assert_same(weights(straight), weights(resumed))
    a, b = load_file(tmp_path / "straight/net.safetensors"), load_file(tmp_path / "killed/net.safetensors")
    assert_same(list(a.values()), list(b.values()))
    lines = [json.loads(line) for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["event"] == "train"]
    assert steps == [2, 4, 6, 8, 10]
    assert (tmp_path / "killed/loss.png").exists()


def test_a_checkpoint_that_was_cut_short_leaves_the_old_one(tmp_path: Path) -> None:
    trainer = Trainer(Regression(), SETTINGS, tmp_path, quiet=True)
    trainer.run()
    (tmp_path / (CHECKPOINT + ".part")).write_bytes(b"half a checkpoint")
    assert Trainer(Regression(), replace(SETTINGS, steps=12), tmp_path, quiet=True).step == 10


def test_prefetch_changes_nothing(tmp_path: Path) -> None:
    plain = Trainer(Regression(), SETTINGS, tmp_path / "a", quiet=True)
    ahead = Trainer(Regression(), replace(SETTINGS, prefetch=3), tmp_path / "b", quiet=True)
    plain.run(), ahead.run()
    assert_same(weights(plain), weights(ahead))


def test_each_role_learns_from_its_own_loss(tmp_path: Path) -> None:
    class Rivals(Regression):
        def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
            made = self.nets["maker"](batch["x"]).mean()
            judged = self.nets["judge"](batch["x"] * made).mean()
            # The maker's loss runs through the judge; the judge learns in even steps only.
            return {"maker": judged} | ({"judge": -judged} if batch["step"] % 2 == 0 else {})

    objective = Rivals(("maker", "judge"))
    trainer = Trainer(objective, replace(SETTINGS, grad_clip=None, weight_decay=0.0), tmp_path, quiet=True)
    judge = [p.clone() for p in objective.nets["judge"].parameters()]
    trainer.step = 1
    trainer._train_step([objective.batch(1, torch.Generator().manual_seed(0))])
    assert_same(judge, [p.detach() for p in objective.nets["judge"].parameters()])
    trainer.step = 2
    trainer._train_step([objective.batch(2, torch.Generator().manual_seed(0))])
    assert not torch.equal(judge[0], next(objective.nets["judge"].parameters()))


def test_a_nan_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    class Saying(Regression):
        def describe(self, batch: dict[str, Tensor]) -> str:
            return f"eight numbers of step {batch['step']}"

    objective = Saying()
    objective.bad_steps = {7}
    settings = replace(SETTINGS, accumulation=2)
    words = (
        r"^step 7: loss/net, grad_norm/net not finite, in micro-batch 0 \(eight numbers of step 7\); micro-batch 1 .*"
    )
    with pytest.raises(TrainingFailed, match=words + r"checkpoint.pt of step 5 is kept; lower learning_rate=0.01"):
        Trainer(objective, settings, tmp_path, quiet=True).run()
    assert Trainer(Regression(), settings, tmp_path, quiet=True).step == 5


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path: Path) -> None:
    class Steep(Regression):
        def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
            loss = super().losses(batch, generator)["net"]
            # The root of zero is finite and its slope is not.
            return {"net": loss + (loss - loss.detach()).clamp(min=0).sqrt() if batch["step"] == 2 else loss}

    with pytest.raises(
        TrainingFailed, match=r"step 2: grad_norm/net not finite, in micro-batch 0 \(x 8×6\); there is no"
    ):
        Trainer(Steep(), SETTINGS, tmp_path, quiet=True).run()


def test_a_step_with_a_nan_is_skipped_where_that_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = Regression()
    objective.bad_steps = {3}
    trainer = Trainer(objective, replace(SETTINGS, max_skips=2), tmp_path)
    outcome = trainer.run()
    assert outcome.skipped == 1 and outcome.step == 10
    assert all(torch.isfinite(value).all() for value in weights(trainer))
    assert "step 3: loss/net, grad_norm/net not finite, in micro-batch 0 (x 8×6); skipped" in capsys.readouterr().err


def test_more_nans_than_are_allowed_stop_the_run(tmp_path: Path) -> None:
    objective = Regression()
    objective.bad_steps = set(range(3, 100))
    settings = replace(SETTINGS, steps=100, max_skips=24)
    with pytest.raises(TrainingFailed, match="step 27: loss/net, grad_norm/net not finite for 25 steps in a row"):
        Trainer(objective, settings, tmp_path, quiet=True).run()


def test_the_time_budget_leaves_a_checkpoint(tmp_path: Path) -> None:
    outcome = Trainer(Regression(), replace(SETTINGS, max_seconds=0.0), tmp_path, quiet=True).run()
    assert (outcome.step, outcome.reason) == (1, "time")
    assert Trainer(Regression(), SETTINGS, tmp_path, quiet=True).step == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    class Interrupted(Regression):
        def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor | int]:
            if step == 4:
                os.kill(os.getpid(), number)
            return super().batch(step, generator)

    before = signal.getsignal(number)
    outcome = Trainer(Interrupted(), SETTINGS, tmp_path, quiet=True).run()
    assert (outcome.step, outcome.reason) == (5, number.name)
    assert signal.getsignal(number) == before
    assert Trainer(Regression(), SETTINGS, tmp_path, quiet=True).step == 5


def test_samples_see_the_averaged_weights(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Looking(Regression):
        def sample(self, folder: Path, step: int) -> None:
            super().sample(folder, step)
            seen.append(self.nets["net"].head.weight.detach().clone())

    objective = Looking()
    trainer = Trainer(objective, SETTINGS, tmp_path, quiet=True)
    trainer.run()
    assert objective.samples == [5, 10]
    assert torch.equal(seen[-1], trainer.averages["net"].values["head.weight"])
    assert not torch.equal(seen[-1], objective.nets["net"].head.weight)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(record["event"] == "sample" and record["quality"] == 1.0 for record in records)


def test_rates() -> None:
    settings = replace(SETTINGS, steps=100, learning_rate=1.0, warmup=10, decay="linear", decay_from=0.5)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(40) == 1.0
    assert settings.rate(75) == pytest.approx(0.5)
    assert settings.rate(100) == 0.0
    assert replace(settings, decay="constant").rate(99) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("optimizer", "sgd"),
        ("ema_decay", 1.5),
        ("precision", "fp8"),
        ("accumulation", -1),
        ("checkpointing", "all"),
        ("sharding", "layers"),
        ("max_skips", -1),
    ],
)
def test_bad_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        replace(SETTINGS, **{field: value})


def test_another_seed_is_refused(tmp_path: Path) -> None:
    Trainer(Regression(), SETTINGS, tmp_path, quiet=True).run()
    with pytest.raises(ValueError, match="seed=8"):
        Trainer(Regression(), replace(SETTINGS, seed=8), tmp_path)


def test_bf16_runs(tmp_path: Path) -> None:
    assert Trainer(Regression(), replace(SETTINGS, precision="bf16"), tmp_path, quiet=True).run().skipped == 0
