"""The file a run goes on from: what does not fit is named in time, and a full disk costs nothing."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from everreel.train.checkpoints import write_checkpoint, write_weights
from everreel.train.progress import read_metrics
from everreel.train.run import main
from everreel.train.trainer import CHECKPOINT, Trainer, TrainerSettings, TrainingFailed
from tests.train.together import Regression

SETTINGS = TrainerSettings(steps=4, checkpoint_every=2, sample_every=2, log_every=1, device="cpu")


RECIPE = """
from dataclasses import dataclass, replace
from everreel.train.trainer import TrainerSettings
from tests.train.test_checkpoints import SETTINGS
from tests.train.together import Regression

@dataclass(frozen=True)
class Net:
    settings: TrainerSettings = replace(SETTINGS, steps=6)
    def objective(self):
        return Regression()

recipe = Net()
"""


def trained(folder: Path, **changes: object) -> Trainer:
    trainer = Trainer(Regression(), replace(SETTINGS, **changes), folder, quiet=True)
    trainer.run()
    return trainer


def wider() -> Regression:
    objective = Regression()
    objective.nets["net"].head = nn.Linear(6, 2)
    return objective


def deeper() -> Regression:
    objective = Regression()
    objective.nets["net"].blocks.append(nn.Linear(6, 6))
    return objective


def half_frozen() -> Regression:
    objective = Regression()
    objective.nets["net"].blocks.requires_grad_(False)
    return objective


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Regression(("net", "judge")), "it holds net where net, judge is trained"),
        (wider, r"net.head.weight is \(1, 6\) in it and \(2, 6\) in the network"),
        (deeper, r"net.blocks.3.weight is absent in it and \(6, 6\) in the network"),
        (half_frozen, r"net trains groups of \[\[1, 2\]\] tensors, and in it groups of \[\[4, 5\]\]"),
    ],
)
def test_another_stage_or_size_is_named_before_anything_is_changed(tmp_path: Path, make, words: str) -> None:
    trained(tmp_path)
    objective = make()
    before = {name: value.clone() for name, value in objective.nets["net"].state_dict().items()}
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(
        ValueError, match=f"checkpoint.pt: is of another stage or size: {words}; train in another"
    ) as said:
        Trainer(objective, SETTINGS, tmp_path, quiet=True)
    assert "\n" not in str(said.value)
    assert all(torch.equal(before[name], value) for name, value in objective.nets["net"].state_dict().items())
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half of one"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint.pt: cannot be read") as said:
        Trainer(Regression(), SETTINGS, tmp_path)
    assert "\n" not in str(said.value)
    torch.save({"step": 3}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint.pt: is no checkpoint of a training run, it has no 'averages'"):
        Trainer(Regression(), SETTINGS, tmp_path)


def test_a_checkpoint_from_before_the_newest_settings_is_read(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del state["objective"]
    for name in ("checkpointing", "sharding", "max_skips"):
        del state["settings"][name]
    assert set(state) == {"step", "skipped", "skips_in_a_row", "settings", "modules", "averages", "optimizers"}
    torch.save(state, tmp_path / CHECKPOINT)
    again = Trainer(Regression(), SETTINGS, tmp_path, quiet=True)
    assert again.step == 4
    for a, b in zip(trainer.modules["net"].parameters(), again.modules["net"].parameters(), strict=True):
        assert torch.equal(a, b)


def no_room(path: Path) -> None:
    """Write half a file, as to a disk that fills up."""
    with path.open("wb") as file:
        file.write(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "writer"), [(CHECKPOINT, "torch.save"), ("net.safetensors", "safetensors.torch.save_file")]
)
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, writer: str
) -> None:
    recipe, run_dir = tmp_path / "recipe.py", tmp_path / "run"
    trained(run_dir)
    recipe.write_text(RECIPE)
    before = (run_dir / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(writer, lambda what, where, **more: no_room(run_dir / f"{name}.part"))
        assert main([str(recipe), "--run-dir", str(run_dir)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"everreel: {run_dir / name}: could not be written ([Errno 28] No space left on device); ")
    assert f"the {name} before it is kept" in last
    assert (run_dir / name).read_bytes() == before
    assert not list(run_dir.glob("*.part"))
    assert main([str(recipe), "--run-dir", str(run_dir)]) == 0
    assert torch.load(run_dir / CHECKPOINT, weights_only=True)["step"] == 6


@pytest.mark.parametrize("part", ["checkpoint", "weights"])
def test_a_file_that_cannot_grow_is_removed_and_the_reason_told(tmp_path: Path, part: str) -> None:
    resource = pytest.importorskip("resource")
    tensors = {"a": torch.ones(100_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            TrainingFailed, match=r"could not be written \(.*File too large.*\); there was none before it"
        ):
            if part == "weights":
                write_weights(tmp_path / "net.safetensors", tensors, 1)
            else:
                write_checkpoint(tmp_path, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_events_of_a_run_that_went_on_hold_each_step_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    objective = Regression()
    objective.batch = _die_at(3, objective.batch)
    with pytest.raises(KeyError):
        Trainer(objective, SETTINGS, tmp_path, quiet=True).run()  # the checkpoint is of step 2, step 3 is logged
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 2, 3]
    trained(tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/net")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("sample/made")] == [2, 4]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["event"]) for record in records] == [
        (1, "train"), (2, "train"), (2, "sample"), (3, "train"), (4, "train"), (4, "sample"),
    ]  # fmt: skip


def _die_at(step: int, batch):
    def made(now: int, generator: torch.Generator) -> dict[str, object]:
        if now == step:
            raise KeyError(step)
        return batch(now, generator)

    return made
