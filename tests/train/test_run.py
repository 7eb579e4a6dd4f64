"""Recipe files: loading, overriding, running and going on."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from everreel.cli import app
from everreel.data.clips import StoreLayout
from everreel.train import run
from everreel.train.progress import read_metrics
from everreel.train.run import WorldRecipe, load_recipe, main, run_recipe
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

WORLD = """
from everreel.data.clips import StoreLayout
from everreel.train.run import WorldRecipe
layout = StoreLayout(count=2, num_frames=1, sizes=((32, 32, 1.0),), shard_clips=1)
recipe = (("one", WorldRecipe((("images", layout),), processes=1)),)
"""
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.py"))


@dataclass(frozen=True)
class Sums:
    """A stage of four steps; it is asked to stop before it begins the step `signal_at`."""

    settings: TrainerSettings = field(default_factory=lambda: TrainerSettings(steps=4, log_every=1, device="cpu"))
    signal_at: int | None = None

    def objective(self):
        return Summing(self.signal_at)


@dataclass(frozen=True)
class OwnRun(Sums):
    """The same, with an outcome that it hands on itself."""

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        return Trainer(self.objective(), self.settings, run_dir, quiet).run()


@dataclass(frozen=True)
class Measures:
    """A stage that gives back something of its own."""

    def run(self, run_dir: Path, quiet: bool = False) -> dict[str, str]:
        (run_dir / "measured").write_text("")
        return {"reason": "none"}


class Summing:
    def __init__(self, signal_at):
        self.net, self.metrics, self.signal_at = nn.Linear(2, 1), {}, signal_at

    def modules(self):
        return {"net": self.net}

    def batch(self, step, generator):
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.randn(4, 2, generator=generator)

    def losses(self, batch, generator):
        return {"net": (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()}

    def sample(self, folder, step):
        pass


def steps(folder):
    return [record["step"] for record in read_metrics(folder / "metrics.jsonl") if record["event"] == "train"]


def test_a_recipe_file_runs_and_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "world.py"
    file.write_text(WORLD)
    assert main([str(file), "--run-dir", str(tmp_path / "run")]) == 0
    assert "images: 2/2" in capsys.readouterr().err
    assert (tmp_path / "run/one/images/shard-00001.jsonl").exists()
    assert main([str(file), "--run-dir", str(tmp_path / "run"), "--max-seconds", "9", "--threads", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_what_the_user_can_put_right_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.py"), "--run-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "empty.py").write_text("")
    assert main([str(tmp_path / "empty.py"), "--run-dir", str(tmp_path)]) == 2
    with pytest.raises(ValueError, match="recipe=int"):
        run_recipe(3, tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_recipe(path) is not None


def test_options_reach_the_recipe_inside_a_recipe(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Around:
        inner: Sums
        threads: int | None = None
        device: str = "mine"

        def run(self, run_dir: Path, quiet: bool = False) -> None:
            settings = self.inner.settings
            found.append((self.threads, settings.threads, settings.accumulation, self.inner.signal_at))
            devices.append((self.device, settings.device))

    found: list[object] = []
    devices: list[tuple[str, str]] = []
    recipe = (("one", Around(Sums(signal_at=7))), ("more", (("two", Around(Sums())),)))
    run_recipe(recipe, tmp_path, threads=1, device="meta", accumulation=8)
    assert found == [(1, 1, 8, 7), (1, 1, 8, None)]
    assert devices == [("meta", "meta")] * 2


@pytest.mark.parametrize(("there", "name"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_a_device_for_what_does_not_train(there, name, tmp_path: Path, monkeypatch) -> None:
    @dataclass(frozen=True)
    class Encodes:
        device: str = "cpu"
        inner: Sums = field(default_factory=Sums)

        def run(self, run_dir: Path, quiet: bool = False) -> None:
            found.append((self.device, self.inner.settings.device))

    found: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    run_recipe((("one", Encodes()), ("more", (("two", Encodes()),))), tmp_path, device="auto")
    assert found == [(name, name)] * 2
    others = SimpleNamespace(device=torch.device("cuda", 3))
    assert run._automatic(others) == "cuda"  # as settings name what the processes have met on


def test_accumulation_is_an_option_and_part_of_a_run(tmp_path: Path, capsys, monkeypatch) -> None:
    file, given = tmp_path / "sums.py", [str(tmp_path / "sums.py"), "--run-dir", str(tmp_path / "run")]
    file.write_text("from tests.train.test_run import Sums\nrecipe = Sums()\n")
    assert main([*given, "--accumulation", "2"]) == 0
    assert steps(tmp_path / "run") == [1, 2, 3, 4]
    capsys.readouterr()
    assert main(given) == 2
    assert "accumulation=1" in capsys.readouterr().err
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(run, "start", lambda recipe, run_dir, **options: asked.append(options))
    app(["train", str(file), "--accumulation", "8"], standalone_mode=False)
    assert asked == [{"max_seconds": None, "device": None, "threads": None, "accumulation": 8}]


@pytest.mark.parametrize("kind", [Sums, OwnRun])
def test_a_stage_that_was_stopped_by_a_signal_stops_those_behind_it(kind, tmp_path: Path, capsys) -> None:
    def chain(signal_at):
        return (("a", kind()), ("inner", (("b", kind(signal_at=signal_at)), ("c", kind()))), ("d", Measures()))

    assert run_recipe(chain(2), tmp_path) is False
    assert steps(tmp_path / "a") == [1, 2, 3, 4] and steps(tmp_path / "inner/b") == [1, 2, 3]
    assert not (tmp_path / "inner/c").exists() and not (tmp_path / "d").exists()
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"everreel: {tmp_path / 'inner/b'} was stopped before")
    assert run_recipe(chain(None), tmp_path, quiet=True) is True
    assert [steps(tmp_path / name) for name in ("a", "inner/b", "inner/c")] == [[1, 2, 3, 4]] * 3
    assert (tmp_path / "d/measured").exists()


def test_a_stage_whose_seconds_are_over_stops_those_behind_it(tmp_path: Path) -> None:
    stopped = Sums()
    stopped = replace(stopped, settings=replace(stopped.settings, max_seconds=0.0))
    assert run_recipe((("a", stopped), ("b", Sums())), tmp_path, quiet=True) is False
    assert steps(tmp_path / "a") == [1] and not (tmp_path / "b").exists()
    assert run_recipe((("a", Sums()), ("b", Sums())), tmp_path, quiet=True) is True
    assert steps(tmp_path / "a") == steps(tmp_path / "b") == [1, 2, 3, 4]


def test_a_store_that_is_not_whole_stops_the_stages_behind_it(tmp_path: Path) -> None:
    layout = StoreLayout(count=3, num_frames=1, sizes=((32, 32, 1.0),), shard_clips=1)
    recipe = (("world", WorldRecipe((("images", layout),), processes=1)), ("measured", Measures()))
    run_recipe(recipe[:1], tmp_path, quiet=True)
    (tmp_path / "world/images/shard-00002.jsonl").unlink()
    assert run_recipe(recipe, tmp_path, quiet=True, max_seconds=0.0) is False
    assert not (tmp_path / "measured").exists()
    assert run_recipe(recipe, tmp_path, quiet=True) is True
    assert (tmp_path / "measured").exists()
