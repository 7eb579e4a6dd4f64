"""Gains are of the same films before and after, counted as the page says."""

import json

import pytest

from benchmarks.gains import gains, main
from everreel.evaluate.follow import Answer, FilmAnswers, Report


def _films(folder, right, subject="fox", prompt="a fox"):
    films = []
    for number, hit in enumerate(right):
        answers = {
            "subject": Answer("fox", "fox" if hit else "dog", 0.5),
            "camera_motion": Answer("static", "static", 0.9),
        }
        films.append(FilmAnswers(f"{number}.mp4", prompt, number, {"subject": subject}, answers))
    folder.mkdir(parents=True)
    Report({}, tuple(films)).save(folder / "report.json")


def test_gains_are_paired(tmp_path):
    _films(tmp_path / "before", [0, 0, 1, 1, 0, 0, 1, 0])
    _films(tmp_path / "after" / "balanced", [1, 1, 1, 1, 0, 0, 1, 1])
    (row,) = gains(tmp_path)
    assert (row.films, row.before, row.after, row.gain) == (8, 37.5, 75.0, 37.5)
    assert 0 <= row.low < 37.5 < row.high <= 75


def test_people_are_not_rare(tmp_path):
    _films(tmp_path / "after" / "as-is", [1, 0, 1, 0], subject="woman")
    _films(tmp_path / "after" / "balanced", [1, 1, 1, 1], subject="woman")
    found = {row.what: row for row in gains(tmp_path) if row.films}
    assert found["people"].gain == 50 and "subjects that are no people" not in found
    assert found["all fields"].before == 75


def test_films_of_other_prompts_are_refused(tmp_path):
    _films(tmp_path / "before", [1, 0])
    _films(tmp_path / "after" / "camera", [1, 0], prompt="a dog")
    with pytest.raises(ValueError, match="films of other prompts or seeds"):
        list(gains(tmp_path))


def test_the_result_is_written_and_nothing_at_all_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "no films before and after" in capsys.readouterr().err
    _films(tmp_path / "before", [1, 0])
    _films(tmp_path / "after" / "camera", [1, 1])
    main([str(tmp_path)])
    record = json.loads((tmp_path / "gains.json").read_text())
    assert [row["what"] for row in record["gains"]] == ["camera motion", "all fields"]
