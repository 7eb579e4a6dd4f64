"""The command `everreel data`: what it prints, what it refuses, and the table that `everreel prepare` reads."""

import tomllib
from pathlib import Path

import pytest

from everreel.data.sources import read_source
from tests.curate.clips import moving, put

LOOSE = ("--set", "small=64", "--set", "short=1")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    put(folder / "a.mp4", moving(26, seed=1))
    put(folder / "b.mp4", moving(26, seed=2) // 40)
    (folder / "a.txt").write_text("patches go by")
    (folder / "c.mp4").write_bytes(b"no film")
    return folder


def test_a_folder_becomes_a_table_that_prepare_reads(run, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, errors = run("data", films, "-o", out, *LOOSE)
    assert code == 0, errors
    assert said.splitlines()[-1] == f"1 of 2 clips kept in {out}, 1 files skipped"
    assert any(line.split()[:3] == ["dropped:", "black", "1"] for line in said.splitlines())
    assert "skipped c.mp4" in errors
    assert "c.mp4" in (out / "report.html").read_text(encoding="utf-8")
    items, skipped = read_source(out / "kept.jsonl")
    assert [(item.path.resolve(), item.captions, item.start) for item in items] == [
        (films / "a.mp4", ("patches go by",), 0.0)
    ]
    assert not skipped


def test_a_filter_that_drops_everything_ends_with_its_figures(run, films: Path, tmp_path: Path) -> None:
    code, _, errors = run("data", films, "-o", tmp_path / "out")
    assert code == 2
    lines = errors.strip().splitlines()
    assert lines[-1].startswith("everreel: stage = 256p: all of 2 clips are dropped, small drops 2; --set small=96")
    assert any(line.split() == ["small", "2", "2", "256", "small=96"] for line in lines)


def test_thresholds_are_printed_as_a_file_of_them(run, tmp_path: Path) -> None:
    code, said, _ = run("data", "--show-thresholds", "--stage", "540p", "--set", "text=off")
    found = tomllib.loads(said)
    assert code == 0 and found["small"] == 540 and found["text"] == "off"
    (tmp_path / "t.toml").write_text(said)
    again = run("data", "--show-thresholds", "--thresholds", tmp_path / "t.toml", "--set", "small=96")[1]
    assert tomllib.loads(again) == {**found, "small": 96}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "source: must be given"),
        (("none", "-o", "out"), "source = 'none': no such file or folder"),
        (("none",), "output: must be given"),
        (("none", "-o", "out", "--stage", "1080p"), "stage = '1080p': must be one of"),
        (("none", "-o", "out", "--cuts", "magic"), "cuts = 'magic'"),
        (("none", "-o", "out", "--longest", "0"), "longest = 0.0"),
        (("none", "-o", "out", "--selected", "nowhere"), "selected = 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, arguments, problem: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("data", *arguments)
    assert code == 2 and errors.startswith(f"everreel: {problem}") and errors.count("\n") == 1
