"""The age of things, while clocks jump and machines restart."""

import pytest

from everreel.serve.jobs import age as module
from everreel.serve.jobs.age import Age, write_whole


@pytest.fixture
def clock(monkeypatch):
    clock = {"now": 500.0, "run": "first"}
    monkeypatch.setattr(module.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(module, "running", lambda: clock["run"])
    return clock


def test_time_that_passes_is_counted_once(clock, tmp_path):
    one, other = Age(tmp_path / "age.json"), Age(tmp_path / "age.json")
    assert one.now() == other.now() == 0
    for seconds in (1, 30, 59, 61, 1000, 3):
        before = one.now()
        clock["now"] += seconds
        assert one.now() == other.now() == pytest.approx(before + seconds)


def test_dates_do_not_count(clock, tmp_path, monkeypatch):
    age = Age(tmp_path / "age.json")
    age.now()
    monkeypatch.setattr(module.time, "time", lambda: 1e12)
    assert age.now() == 0


def test_what_was_counted_outlives_a_restart(clock, tmp_path):
    age = Age(tmp_path / "age.json")
    age.now()
    clock["now"] += 5000
    assert age.now() == 5000
    clock |= {"now": 90_000.0, "run": "second"}  # of another machine, or of this one an unknown time later
    assert Age(tmp_path / "age.json").now() == 5000
    clock["now"] += 70
    assert age.now() == 5070
    clock["now"] = 3  # started again, where runs have no names
    assert age.now() == 5070


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '["first", "x", 3]', '["first", NaN, 3]', '["first", 1, -3]', "[" * 9999]
)
def test_a_spoilt_file_begins_anew(clock, tmp_path, text):
    (tmp_path / "age.json").write_text(text)
    age = Age(tmp_path / "age.json")
    assert age.now() == 0
    clock["now"] += 100
    assert age.now() == 100


def test_a_full_disk_does_not_stop_the_count(clock, tmp_path, monkeypatch):
    age = Age(tmp_path / "age.json")
    age.now()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    for passed in (100, 200):
        clock["now"] = 500 + passed
        assert age.now() == passed


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_whole(file, b"old", sync=True)
    assert file.read_bytes() == b"old" and file.stat().st_mode & 0o777 == 0o600

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(OSError):
        write_whole(file, b"new", sync=True)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_this_machine_runs_under_one_name():
    assert module.running() == module.running() != ""
