"""Films with and without guidance in the first steps: made in turn, taken up again, and held against each other."""

import json

import pytest

from benchmarks import guidance
from benchmarks.guidance import halves, main
from everreel.checkpoint.catalog import find_model
from everreel.evaluate.follow import FilmSettings


@pytest.fixture
def arguments(tiny_folder, tmp_path):
    films = ["--num-films", "2", "--num-frames", "5", "--steps", "3", "--levels", "0.9-0.5", "0.9-0.5-2"]
    return ["--model", str(tiny_folder), *films, "--output", str(tmp_path / "films"), "--page", str(tmp_path / "a.md")]


def test_the_page_holds_every_level_and_films_are_made_once(arguments, tmp_path, monkeypatch):
    main(arguments)
    text = (tmp_path / "a.md").read_text()
    assert "| 1 | 0 | 0 | 0% |" in text and "python -m benchmarks.guidance --model" in text
    assert "| 0.9 | 0.5 | 0 | 33% |" in text and "| 0.9 | 0.5 | 2 | 33% |" in text
    seconds = {
        level: json.loads((tmp_path / "films" / level / "seconds.json").read_text())
        for level in ("1-0", "0.9-0.5", "0.9-0.5-2")
    }
    assert all(sorted(one) == ["0", "1"] and min(one.values()) > 0 for one in seconds.values())
    monkeypatch.setattr(guidance, "VideoPipeline", None)  # would fail
    main(arguments)
    assert (tmp_path / "a.md").read_text() == text


def test_the_share_of_steps_goes_by_the_levels():
    card = find_model("tiny")
    assert halves(card, FilmSettings(), (1.0, 0.0, 0.0)) == 0 and halves(card, FilmSettings(), (0.0, 0.0, 0.0)) == 1
    # At a shift of 3 a level of 0.75 is the middle of the steps.
    assert halves(card, FilmSettings(), (0.7501, 0.0, 0.0)) == pytest.approx(0.5, abs=0.04)
    assert halves(card, FilmSettings(), (1.0, 0.7501, 0.0)) == pytest.approx(0.5, abs=0.04)
