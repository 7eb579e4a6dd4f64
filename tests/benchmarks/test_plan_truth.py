"""A plan beside its film: each in a process of its own, and a page that says what was missed."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import plan_truth
from everreel.film.loading import ModelOptions, parse_memory


def test_a_film_is_measured_in_its_own_process(tiny_folder, monkeypatch):
    monkeypatch.setattr(plan_truth, "FILMS", ({"num_frames": 9, "height": 32, "width": 48},))
    monkeypatch.setattr(plan_truth, "ON_A_CPU", ({"num_frames": 9, "height": 32, "width": 48, "memory": "2GB"},))
    found = plan_truth.run(str(tiny_folder), steps=2, threads=1)
    assert [one["film"].get("memory") for one in found] == [None, "2GB"]
    assert all(min(one[name] for name in ("memory", "held", "seconds", "took")) > 0 for one in found)


def test_a_film_with_a_budget_stays_within_what_its_plan_says():
    film = {"num_frames": 13, "height": 192, "width": 320, "memory": "730MB"}
    asked = json.dumps({"model": "tiny", "steps": 1, "threads": 1, "film": film})
    command = [sys.executable, "-m", "benchmarks.plan_truth", "--one", asked]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=plan_truth.ROOT).stdout
    found = json.loads(said.splitlines()[-1])
    assert found["held"] <= found["memory"] < parse_memory(film["memory"])


def test_the_page_says_what_was_missed():
    right = {"film": {"num_frames": 97}, "memory": 220e6, "held": 200e6, "seconds": 8.0, "took": 9.0}
    page = plan_truth.page([right, right | {"held": 230e6}, right | {"took": 12.0}], "python -m benchmarks.plan_truth")
    rows = [line for line in page.splitlines() if line.startswith("| num_frames 97")]
    assert [row.count("**missed**") for row in rows] == [0, 1, 1]
    assert "| 1.10 met | 8.0 s | 9.0 s | 0.89 met |" in rows[0]


def test_a_gpu_has_a_narrower_goal_and_its_name_on_the_page(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"an H200, {device}")
    found = [{"film": {}, "memory": said * 1e9, "held": 1e9, "seconds": 1.0, "took": 1.0} for said in (1.0, 1.14, 1.2)]
    on_gpu, on_cpu = (" ".join(plan_truth.page(found, "", device).split()) for device in ("cuda:0", "cpu"))
    assert "| GPU | an H200, cuda:0 |" in on_gpu and "tensors" in on_gpu and "at most 15 % more" in on_gpu
    assert (on_gpu.count("**missed**"), on_cpu.count("**missed**")) == (1, 0) and "GPU" not in on_cpu


def test_on_a_gpu_memory_is_that_of_its_tensors(tiny_folder, monkeypatch, tmp_path):
    """The same way as on a CPU, with the counter of tensors in the place of the process's."""
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plan_truth, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or len(asked) * 10**6)
    monkeypatch.setattr(plan_truth, "peak_bytes", lambda: pytest.fail("the process's memory is another"))

    class OnCpu(ModelOptions):
        def resolve(self, crew=None):
            return self.model_copy(update={"device": "cpu", "dtype": "float32"})

    monkeypatch.setattr(plan_truth, "model_options", lambda **options: OnCpu(**options))
    found = plan_truth.one(str(tiny_folder), 2, 1, {"num_frames": 9, "height": 32, "width": 48}, "cuda:1")
    assert asked == ["cuda:1"] * 3 and found["held"] == 10**6 and found["memory"] > 0


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_a_device_that_cannot_be_measured_is_refused(device, tmp_path):
    with pytest.raises(SystemExit, match=rf"plan_truth: device = {device}: .*nearest that works: cpu"):
        plan_truth.main(["--device", device, "--output", str(tmp_path / "page.md")])
    assert not any(tmp_path.iterdir())
