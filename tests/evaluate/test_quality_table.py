"""Tables of measures: a row a film, taken up where a run stopped, with what is broken named and skipped."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from everreel.evaluate import quality_table
from everreel.evaluate.quality import MEASURES
from everreel.evaluate.quality_table import films_in, find_films, measure_files, read_table
from everreel.film.journal import KEY, journal_path
from everreel.world.scene import VOCABULARY
from tests.evaluate.film_sets import a_film, folder
from tests.film.films import natural, write

pytest.importorskip("cv2")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three films, of which the second is broken."""
    path = tmp_path / "films"
    path.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (path / name).write_bytes(a_film().read_bytes())
    (path / "b.mp4").write_bytes(b"no film at all")
    (path / "notes.txt").write_text("no film")
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the films that are measured, in their order."""
    names: list[str] = []
    whole = quality_table.measure_film

    def counted(path: Path, *more: object):
        names.append(Path(path).name)
        return whole(path, *more)

    monkeypatch.setattr(quality_table, "measure_film", counted)
    return names


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_film_a_row_and_what_is_broken_is_skipped(films: Path, tmp_path: Path, measured: list[str], ending: str):
    table, told = tmp_path / f"table{ending}", []
    (skipped,) = measure_files(films_in(films), table, on_film=lambda *done: told.append(done))
    assert skipped.name == "films/b.mp4" and "\n" not in skipped.reason and str(films) not in skipped.reason
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    rows = read_table(table)
    assert list(rows) == ["films/a.mp4", "films/c.mp4"]
    quality = rows["films/a.mp4"].quality
    assert (quality.num_frames, quality.height, quality.width, quality.fps) == (6, 32, 48, 24.0)
    assert list(quality.values) == list(MEASURES) and 0 < quality.values["smoothness"] < 1
    assert math.isnan(quality.values["brightness_drift"])
    assert quality.missing["brightness_drift"] == "shorter than 8 seconds"
    assert rows["films/c.mp4"].quality.values == pytest.approx(quality.values, nan_ok=True)
    before = table.read_bytes()
    assert [missed.name for missed in measure_files(films_in(films), table)] == ["films/b.mp4"]
    assert table.read_bytes() == before and measured == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_run_that_was_killed_goes_on(films: Path, tmp_path: Path, measured: list[str], ending: str) -> None:
    (films / "b.mp4").unlink()
    table = tmp_path / f"table{ending}"
    measure_files(films_in(films), table)
    whole = table.read_bytes()
    for end in (len(whole) - 1, len(whole) - 20, 3, 0):
        table.write_bytes(whole[:end])
        measured.clear()
        assert not measure_files(films_in(films), table)
        assert table.read_bytes() == whole
        assert measured == (["c.mp4"] if end > 20 else ["a.mp4", "c.mp4"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_no_films_fault(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (films / "b.mp4").unlink()
    opened = Path.open

    def full(path: Path, *given: Any, **more: Any) -> Any:
        file = opened(path, *given, **more)
        if given[:1] != ("ab",):
            return file
        (tmp_path / "full").symlink_to("/dev/full")
        return opened(tmp_path / "full", "wb")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "open", full)
        measure_files(films_in(films), tmp_path / "table.jsonl")
    assert not measure_files(films_in(films), tmp_path / "table.jsonl")
    assert len(read_table(tmp_path / "table.jsonl")) == 2


def test_a_film_that_was_made_again_is_measured_again(films: Path, tmp_path: Path, measured: list[str]) -> None:
    table = tmp_path / "table.jsonl"
    (films / "b.mp4").unlink()
    measure_files(films_in(films), table)
    write(films / "a.mp4", natural(9, 32, 48))
    measured.clear()
    measure_files(films_in(films), table)
    assert measured == ["a.mp4"] and read_table(table)["films/a.mp4"].quality.num_frames == 9


def test_what_was_asked_comes_from_the_report_or_is_read_anew(tmp_path: Path) -> None:
    path = folder(tmp_path / "run", [{"color": True, "place": False}])
    films = films_in(path)
    measure_files(films, path / "quality.jsonl")
    assert read_table(path / "quality.jsonl")["film-000.mp4"].quality.values["as_asked"] == 0.5
    measure_files(films, tmp_path / "new.jsonl", lambda frames, fps: {"color": {"one": 0.9}, "place": {"one": 0.3}})
    row = read_table(tmp_path / "new.jsonl")["run/film-000.mp4"]
    assert row.quality.values["as_asked"] == pytest.approx(0.6) and "as_asked" not in row.quality.missing
    for foreign in ("[]", "{}", "torn", '{"settings": {}, "films": [{"file": 1}]}'):
        (path / "report.json").write_text(foreign)
        (path / "quality.jsonl").unlink()
        assert not measure_files(films, path / "quality.jsonl")
        missing = read_table(path / "quality.jsonl")["film-000.mp4"].quality.missing
        assert missing["as_asked"] == "what was asked of it is not known"


def journal(film: Path, **request: object) -> None:
    told = {KEY: json.dumps({"request": request})}
    save_file({"a": torch.zeros(1)}, journal_path(film), metadata=told)


def test_without_a_report_the_journals_prompt_says_what_was_asked(tmp_path: Path) -> None:
    prompts = ["a red fox runs in a forest, a dragon, close-up", "a dragon", ""]
    for name, prompt in zip("abc", prompts, strict=True):
        (tmp_path / f"{name}.mp4").write_bytes(a_film().read_bytes())
        journal(tmp_path / f"{name}.mp4", prompt=prompt, seed=1)
    for name in "de":
        (tmp_path / f"{name}.mp4").write_bytes(a_film().read_bytes())
    journal(tmp_path / "d.mp4", prompt="a red fox", story={"5": "a blue car"})
    journal_path(tmp_path / "e.mp4").write_bytes(b"torn")
    chances = {name: dict.fromkeys(values, 0.1) for name, values in VOCABULARY.items()}
    # What a close-up does not show, as that it runs, is not asked for.
    shown = {"subject": "fox", "color": "red", "place": "forest", "shot_type": "close_up"}
    for name, value in shown.items():
        chances[name][value] = 0.7
    films = films_in(tmp_path)
    assert not measure_files(films, tmp_path / "read.jsonl", lambda frames, fps: chances)
    values = {name: row.quality.values["as_asked"] for name, row in read_table(tmp_path / "read.jsonl").items()}
    assert values.pop("a.mp4") == pytest.approx(0.7)
    assert len(values) == 4 and all(map(math.isnan, values.values()))
    assert not measure_files(films, tmp_path / "unread.jsonl")
    assert "as_asked" in read_table(tmp_path / "unread.jsonl")["a.mp4"].quality.missing


def test_names_that_are_hard_on_tables(tmp_path: Path) -> None:
    names = ["a,b.mp4", 'quo"te.mp4', os.fsdecode(b"latin-\xe9.mp4"), "two\nlines.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(a_film().read_bytes())
    files = films_in(tmp_path)
    assert not measure_files(files, tmp_path / "t.jsonl")
    assert set(read_table(tmp_path / "t.jsonl")) == set(names)
    (skipped,) = measure_files(files, tmp_path / "t.csv")
    assert "has a line break in its name; a table in .jsonl can hold it" in skipped.reason
    assert set(read_table(tmp_path / "t.csv")) == set(names[:3])


def test_a_foreign_table_is_refused_and_left_as_it_was(films: Path, tmp_path: Path) -> None:
    for name, content in (("t.jsonl", '{"file": "a.mp4"}\n'), ("t.jsonl", "words\n"), ("t.csv", "a,b\n1,2\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="its line 1 is not of a table of everreel evaluate quality"):
            measure_files(films_in(films), tmp_path / name)
        assert (tmp_path / name).read_text() == content
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.csv; .*t\.jsonl works"):
        measure_files(films_in(films), tmp_path / "t.txt")


def test_rows_are_json_that_others_read(films: Path, tmp_path: Path) -> None:
    measure_files([films / "a.mp4"], tmp_path / "t.jsonl")
    (line,) = (tmp_path / "t.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["measures"]["seams"] is None and row["missing"]["seams"]


def test_files_and_folders_are_found(films: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_films([films, films / "a.mp4"])] == ["a.mp4", "b.mp4", "c.mp4"]
    (tmp_path / "empty").mkdir()
    for wrong, rule in ((tmp_path / "none.mp4", "does not exist"), (tmp_path / "empty", "there is no film in it")):
        with pytest.raises(ValueError, match=rule):
            find_films([wrong])
