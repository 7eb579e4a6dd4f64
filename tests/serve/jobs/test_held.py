"""What workers hold of GPUs' memory is told by themselves, and what one said that is gone counts for none."""

import subprocess
import sys

import pytest

from everreel.memory import held_on_devices
from everreel.serve.jobs import held
from everreel.serve.jobs.supervisor import Supervisor


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as torch would tell of them."""
    reserved = [5, 7]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(reserved))
    monkeypatch.setattr("torch.cuda.memory_reserved", reserved.__getitem__)
    return reserved


def test_what_is_held_is_written_when_it_changed(tmp_path, gpus):
    path = held.file_of(tmp_path, 0)
    assert held.held_by(path, "anna") is None
    assert held.tell(path, "anna", None) == held.held_by(path, "anna") == 12
    path.unlink()
    assert held.tell(path, "anna", 12) == 12 and not path.exists()
    gpus[1] = 0
    assert held.tell(path, "anna", 12) == held.held_by(path, "anna") == 5
    assert held.held_by(path, "ben") is None, "the worker that had the place before"
    path.write_text("anna many")
    assert held.held_by(path, "anna") is None
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_where_it_cannot_be_written_it_is_tried_again(tmp_path, gpus):
    path = held.file_of(tmp_path / "nowhere", 0)
    assert held.tell(path, "anna", None) is None and held.tell(path, "anna", 3) == 3


def test_nothing_is_written_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    assert held_on_devices() is None
    assert held.tell(held.file_of(tmp_path, 0), "anna", None) is None and not list(tmp_path.iterdir())


def test_a_supervisor_tells_of_its_workers_that_are_alive(home, small_model):
    supervisor = Supervisor(home.path, home.queue, {"small": small_model}, workers=3)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for place, name in zip(supervisor._places, ("anna", "ben", "carl"), strict=True):
        place.name, place.process = name, process if name != "carl" else None
        if name != "ben":  # who computes on no GPU
            held.file_of(home.path, place.number).write_text(f"{name} 12")
    assert supervisor.device_memory() == {0: 12}
    process.communicate(b"\n")
    assert supervisor.device_memory() == {}
