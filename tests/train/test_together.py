"""Several processes train as one does: the same losses and weights, the same stop, one word when it goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everreel.train.progress import read_metrics
from everreel.train.trainer import CHECKPOINT, Trainer, TrainingFailed
from tests.train.together import SETTINGS, Films, Regression, together, train

CASES = {
    "adamw": (Regression, SETTINGS),
    "muon": (Regression, replace(SETTINGS, optimizer="muon")),
    "blocks": (Films, replace(SETTINGS, sharding="blocks", checkpointing="blocks", accumulation=2)),
    "muon-blocks": (Films, replace(SETTINGS, sharding="blocks", optimizer="muon", accumulation=2)),
    "roles": (lambda: Regression(("net", "judge")), SETTINGS),
}


def make(case):
    kind, settings = CASES[case]
    return kind(), settings


def run_cases(folder):
    return {case: train(*make(case), folder / case) for case in CASES}


def stop_when_one_is_asked(folder):
    objective = Regression()
    objective.stop = (3, 1)  # its second process is asked while it makes the batch of step 3
    return train(objective, SETTINGS, folder)[0]


def meet_a_nan(folder):
    objective = Regression()
    objective.bad = 4
    train(objective, SETTINGS, folder)


def go_on(folder, case):
    objective, settings = make(case)
    return train(objective, settings, folder)[0]


def in_turn(folder):
    """Everything that needs two processes, in the same two; errors are given back as what they say."""
    results = {"cases": run_cases(folder / "two")}
    for case in ("adamw", "muon"):
        results[f"on-{case}"] = go_on(folder / f"begun-by-one-{case}", case)
        objective, settings = make(case)
        train(objective, replace(settings, steps=3, decay="constant"), folder / f"begun-by-two-{case}")
    results["stopped"] = stop_when_one_is_asked(folder / "stopped")
    for name, job in {
        "nan": lambda: meet_a_nan(folder / "nan"),
        "odd": lambda: train(Regression(), replace(SETTINGS, accumulation=3), folder / "odd"),
        "seed": lambda: train(Regression(), replace(SETTINGS, seed=8), folder / "two/adamw"),
    }.items():
        try:
            results[name] = job()
        except (ValueError, TrainingFailed) as error:
            results[name] = error
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(folder, what each of two processes gave, what one process gives)."""
    folder = tmp_path_factory.mktemp("together")
    for case in ("adamw", "muon"):
        objective, settings = make(case)
        # As a run that was stopped half way, whose rates are those of the whole.
        Trainer(objective, replace(settings, max_seconds=0.0), folder / f"begun-by-one-{case}", quiet=True).run()
    two = together(in_turn, folder)
    assert not any(isinstance(result, Exception) for result in two), two
    return folder, two, run_cases(folder / "one")


def assert_close(a, b, tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(both, case):
    folder = both[0]
    # Muon turns its matrices in bfloat16, where the last bit of a gradient may be a digit.
    tolerance = 2e-3 if "muon" in case else 2e-5
    states = [torch.load(folder / count / case / CHECKPOINT, weights_only=True) for count in ("one", "two")]
    for part in ("modules", "averages"):
        for role in states[0][part]:
            assert_close(states[0][part][role], states[1][part][role], tolerance)
    for first, second in zip(
        *(read_metrics(folder / count / case / "metrics.jsonl") for count in ("one", "two")), strict=True
    ):
        assert (first["step"], first["event"]) == (second["step"], second["event"])
        for name in first.keys() - {"step", "event", "steps_per_second"}:
            assert second[name] == pytest.approx(first[name], rel=100 * tolerance, abs=tolerance), name
    moved = make(case)[0].modules()
    assert any(
        not torch.equal(v, moved[r].state_dict()[n]) for r, t in states[1]["modules"].items() for n, v in t.items()
    )


def test_every_process_has_the_whole_averages(both):
    folder, two, one = both
    for case, (outcome, averages) in one.items():
        for rank in range(2):
            their_outcome, theirs = two[rank]["cases"][case]
            assert their_outcome == outcome
            for role in averages:
                assert_close(averages[role], theirs[role], 2e-3 if "muon" in case else 2e-5)
                written = load_file(folder / "two" / case / f"{role}.safetensors")
                assert_close(theirs[role], written, 0.0)


def test_only_the_first_writes(both):
    folder, _, _ = both
    assert not list(folder.glob("**/nowhere"))


@pytest.mark.parametrize("case", ["adamw", "muon"])
def test_a_run_goes_on_with_another_number_of_processes(both, case):
    folder, two, _ = both
    assert all(result[f"on-{case}"].step == SETTINGS.steps for result in two)
    tolerance = 2e-3 if case == "muon" else 2e-5
    whole = torch.load(folder / "one" / case / CHECKPOINT, weights_only=True)
    changed = torch.load(folder / f"begun-by-one-{case}" / CHECKPOINT, weights_only=True)
    assert_close(whole["modules"]["net"], changed["modules"]["net"], tolerance)
    assert_close(whole["averages"]["net"], changed["averages"]["net"], tolerance)
    objective, settings = make(case)
    settings = replace(settings, decay="constant")
    resumed = Trainer(objective, settings, folder / f"begun-by-two-{case}", quiet=True)
    assert resumed.step == 3
    resumed.run()
    straight = Trainer(make(case)[0], settings, folder / f"straight-{case}", quiet=True)
    straight.run()
    assert_close(straight.modules["net"].state_dict(), resumed.modules["net"].state_dict(), tolerance)


def test_all_stop_where_one_was_asked_to(both):
    folder, two, _ = both
    assert [result["stopped"] for result in two] == [two[0]["stopped"]] * 2
    assert (two[0]["stopped"].step, two[0]["stopped"].reason) == (4, "SIGTERM")
    assert torch.load(folder / "stopped" / CHECKPOINT, weights_only=True)["step"] == 4


def test_what_goes_wrong_is_said_alike(both):
    _, two, _ = both
    for result in two:
        assert "step 4: loss/net, grad_norm/net not finite, in micro-batch 1 (x 8×6); micro-batch 3" in str(
            result["nan"]
        )
        assert isinstance(result["nan"], TrainingFailed)
        assert "of step 3 is kept" in str(result["nan"])
        assert str(result["odd"]) == "accumulation=3: must be a multiple of the 2 processes; the nearest is 4"
        assert str(result["seed"]).startswith("seed=8: the checkpoint in ")


RECIPE = """
from dataclasses import dataclass, replace
from everreel.train.trainer import Trainer, TrainerSettings
from tests.train.together import SETTINGS, Regression

@dataclass(frozen=True)
class Plain:
    def run(self, run_dir, quiet=False):
        with (run_dir / "runs.txt").open("a") as file:
            file.write("once ")

@dataclass(frozen=True)
class Net:
    settings: TrainerSettings = SETTINGS
    def run(self, run_dir, quiet=False):
        trainer = Trainer(Regression(), self.settings, run_dir, quiet)
        trainer.run()
        with trainer.averaged():
            (run_dir / "after.txt").write_text(str(len(trainer.modules["net"].state_dict())))

recipe = (("plain", Plain()), ("net", Net()))
"""


def test_torchrun_runs_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(RECIPE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "everreel"]
    command += ["train", str(tmp_path / "recipe.py"), "--run-dir", str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/plain/runs.txt").read_text() == "once "
    assert int((tmp_path / "run/net/after.txt").read_text()) > 0
    assert done.stderr.count("step 6/6") == 1
    assert torch.load(tmp_path / "run/net" / CHECKPOINT, weights_only=True)["step"] == SETTINGS.steps
