"""What workers have of GPUs' memory is told by themselves, and what one said that is gone counts for none."""

import subprocess
import sys
import time

import pytest

from everreel.memory import Held, held_on_devices
from everreel.serve.jobs import held
from everreel.serve.jobs.supervisor import Supervisor


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs as torch would tell of them, bytes allocated and most bytes reserved; the third is not used."""
    told = [[5, 7], [0, 3], [0, 0]]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(told))
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda number: told[number][0])
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda number: told[number][1])
    return told


def test_what_a_process_has_is_told_by_device(gpus):
    assert held_on_devices() == {"cuda:0": Held(5, 7), "cuda:1": Held(0, 3)}


def test_apples_device_has_no_peak_and_is_told_where_it_is_used(monkeypatch):
    allocated = [0]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.mps.current_allocated_memory", lambda: allocated[0])
    assert held_on_devices() == {}, "films are made on the CPU"
    allocated[0] = 9
    assert held_on_devices() == {"mps": Held(9, None)}


def test_what_a_worker_has_is_written_when_it_changed(tmp_path, gpus):
    path = held.file_of(tmp_path, 0)
    assert held.held_by(path, "anna") == {}
    first = held.tell(path, "anna", {})
    assert first == held.held_by(path, "anna") == {"cuda:0": Held(5, 7), "cuda:1": Held(0, 3)}
    path.unlink()
    assert held.tell(path, "anna", first) == first and not path.exists()
    gpus[1][0] = 2
    assert held.tell(path, "anna", first) == held.held_by(path, "anna") == first | {"cuda:1": Held(2, 3)}
    assert held.held_by(path, "ben") == {}, "another worker had the place before"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"worker": "anna"}', '{"worker": "anna", "devices": {"a": 1}}'])
def test_what_is_no_such_file_says_nothing(tmp_path, text):
    path = held.file_of(tmp_path, 0)
    path.write_text(text)
    assert held.held_by(path, "anna") == {}


def test_where_it_cannot_be_written_it_is_tried_again(tmp_path, gpus):
    path, before = held.file_of(tmp_path / "nowhere", 0), {"cuda:0": Held(1, 1)}
    assert held.tell(path, "anna", before) == before


def test_nothing_is_written_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert held_on_devices() == held.tell(held.file_of(tmp_path, 0), "anna", {}) == {}
    assert not list(tmp_path.iterdir())


def test_it_is_told_from_a_thread_again_and_again(tmp_path, gpus, monkeypatch):
    monkeypatch.setattr(held, "EVERY", 0.01)
    path = held.file_of(tmp_path, 0)
    stop = held.start_telling(path, "anna")
    try:
        for allocated in (5, 6):
            gpus[0][0], end = allocated, time.monotonic() + 20
            while held.held_by(path, "anna").get("cuda:0") != Held(allocated, 7):
                assert time.monotonic() < end, "it is told"
                time.sleep(0.01)
    finally:
        stop()


def test_a_supervisor_tells_of_its_workers_that_are_alive(home, small_model, gpus):
    supervisor = Supervisor(home.path, home.queue, {"small": small_model}, workers=3)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for place, name in zip(supervisor._places, ("anna", "ben", "carl"), strict=True):
        place.name, place.process = name, process if name != "carl" else None
        if name != "ben":  # who computes on no GPU
            held.tell(held.file_of(home.path, place.number), name, {})
    assert supervisor.device_memory() == {0: {"cuda:0": Held(5, 7), "cuda:1": Held(0, 3)}}
    process.communicate(b"\n")
    assert supervisor.device_memory() == {}
