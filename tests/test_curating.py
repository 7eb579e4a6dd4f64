"""What `everreel data` and `everreel data-check` print and refuse, and the table that `everreel prepare` reads."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from everreel.curate.gates import ANSWERS, SAMPLE, Sample
from everreel.curate.record import VERDICTS, Clip, write_clips
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
    assert said.splitlines()[-1] == f"1 of 2 clips kept in {out}, 1 file skipped"
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


def kept_by(folder: Path, count: int, stage: str = "256p") -> list[Clip]:
    """A run's folder with so many clips kept of the folder tv, whose one film nobody can read."""
    clips = [
        Clip("tv/a.mp4", n * 48, 48, n * 2.0, n * 2.0 + 2, 24.0, 320, 180, verdict="kept", stage=stage)
        for n in range(count)
    ]
    folder.mkdir()
    write_clips(folder / VERDICTS, clips)
    rows = [{"file_name": "../tv/a.mp4", "film": "../tv/a.mp4", "clip": clip.name} for clip in clips]
    (folder / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return clips


def answer(folder: Path, bad: int = 0, most: int = 10_000) -> None:
    sample = Sample.load(folder / SAMPLE)
    given = {name: ["basic"] if n < bad else [] for n, (name, _) in enumerate(sample.clips[:most])}
    (folder / ANSWERS).write_text(json.dumps({"sample": sample.digest, "answers": given}))


def test_a_check_is_a_page_first_and_then_a_verdict(run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept_by(out, 20)
    code, said, _ = run("data-check", out)
    assert code == 1 and f"Open {out / 'check.html'}" in said and "20 of 20 clips (pretraining)" in said
    answer(out)
    assert run("data-check", out)[:2] == (0, "tv: pass; 20 of 20 clips looked at, 0 bad, within every limit\n")
    answer(out, bad=5)
    code, said, errors = run("data-check", out)
    assert code == 1 and said.startswith("tv: discard;") and errors.startswith("discard: leave those films out")
    answer(out, most=3)
    (out / ANSWERS).rename(tmp_path / "mine.json")
    code, said, errors = run("data-check", out, "--answers", tmp_path / "mine.json")
    assert code == 1 and said.startswith("tv: undecided; 3 of 20") and "%" in said and errors.startswith("undecided:")


def test_a_larger_share_begins_with_the_answers_there_are(run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept_by(out, 200)
    run("data-check", out)
    few = Sample.load(out / SAMPLE)
    answer(out, bad=2)
    assert "look at more: --share draws them" in run("data-check", out)[1]
    code, _, errors = run("data-check", out, "--share", "0.9")
    more = Sample.load(out / SAMPLE)
    assert len(few.clips) < len(more.clips) == 180 and set(few.clips) < set(more.clips)
    assert code == 2 and f"are those to sample {few.digest}" in errors.splitlines()[-1]
    page = (out / "check.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert len(data["answers"]) == len(few.clips) and sum(map(bool, data["answers"].values())) == 2


def test_the_stage_tells_the_gate(run, tmp_path: Path) -> None:
    kept_by(tmp_path / "out", 3, stage="post")
    assert "(post-training)" in run("data-check", tmp_path / "out")[1]
    assert "(pretraining)" in run("data-check", tmp_path / "out", "--gate", "pretraining")[1]
    assert "(pretraining)" in run("data-check", tmp_path / "out")[1]
    assert "(post-training)" in run("data-check", tmp_path / "out", "--new")[1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("none",), "clips = 'none/verdicts.jsonl': no such file"),
        (("out", "--gate", "x"), "gate = 'x': must be one of"),
        (("out", "--share", "2"), "share = 2: must be between 0 and 1"),
        (("out", "--answers", "none.json"), "answers = none.json: does not exist"),
    ],
)
def test_what_cannot_be_checked_is_one_line(run, arguments, problem: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept_by(Path("out"), 3)
    run("data-check", "out")
    code, _, errors = run("data-check", *arguments)
    assert code == 2 and errors.splitlines()[-1].startswith(f"everreel: {problem}") and "Traceback" not in errors
