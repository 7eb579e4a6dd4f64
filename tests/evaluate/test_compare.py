"""Two sets of films: paired as they can be, refused where they are not comparable, and judged in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.evaluate.compare import ALL_FIELDS, Comparison, compare
from everreel.evaluate.compare_page import comparison_page
from everreel.evaluate.significance import mcnemar
from tests.evaluate.film_sets import folder, looks
from tests.film.films import natural, write

RIGHT, WRONG = {"color": True, "place": True}, {"color": False, "place": True}


def row(found: Comparison, name: str):
    return next(row for row in found.rows if row.name == name)


@pytest.fixture
def ten(tmp_path: Path) -> tuple[Path, Path]:
    """B has the colour right in every film, A in one."""
    return folder(tmp_path / "old", [RIGHT] + [WRONG] * 9), folder(
        tmp_path / "new", [RIGHT] * 10, num_inference_steps=4
    )


def test_what_is_better_is_said_with_its_test(ten: tuple[Path, Path]) -> None:
    found = compare(*ten)
    assert found.pairing == "prompt and seed" and len(found.pairs) == 10 and found.left_out == (0, 0)
    color, place, whole = row(found, "color"), row(found, "place"), row(found, ALL_FIELDS)
    assert (color.only_a, color.only_b, color.test) == (0, 9, "McNemar, exact")
    assert color.p == mcnemar(0, 9) and color.corrected == pytest.approx(2 * color.p)  # of two fields
    assert (color.a.mean, color.b.mean, color.difference, color.verdict) == (0.1, 1.0, pytest.approx(0.9), "b")
    assert (place.p, place.verdict) == (1.0, "none")
    assert whole.verdict == "b" and whole.corrected == whole.p < 0.01 and whole.test == "signs of the differences"
    assert "new is significantly better than old" in color.words(*found.names)
    assert "only old is right in 0, only new in 9 of 10 pairs" in color.words(*found.names)
    assert "place: no significant difference" in place.words(*found.names)
    assert "new is significantly better in 1 (color); in 1 no difference" in found.statement()
    assert found.statement().startswith("On the whole, all fields as asked: new is significantly better than old")
    assert found.differs["num_inference_steps"] == (None, 4) and found.differs["model"] == ("old", "new")


def test_turned_round_it_says_the_same(ten: tuple[Path, Path]) -> None:
    color = row(compare(ten[1], ten[0]), "color")
    assert color.verdict == "a" and color.difference == pytest.approx(-0.9) and (color.only_a, color.only_b) == (9, 0)


def test_the_same_films_do_not_differ_and_the_result_is_the_same_again(ten: tuple[Path, Path]) -> None:
    found = compare(ten[0], ten[0])
    assert {row.verdict for row in found.rows} == {"none"} and all(row.p == 1 for row in found.rows)
    assert "significantly better in none" in found.statement() and found.names == ("old (A)", "old (B)")
    assert compare(*ten).to_json() == compare(*ten).to_json()
    other = compare(*ten, generator=torch.Generator().manual_seed(5))
    assert row(other, ALL_FIELDS).p == pytest.approx(row(compare(*ten), ALL_FIELDS).p, abs=0.01)


def test_lower_is_better_where_it_is(ten: tuple[Path, Path]) -> None:
    steady, noisy = np.linspace(1, 1.1, 10).tolist(), np.linspace(2, 2.3, 10).tolist()
    looks(ten[0], {"flicker": steady, "sharpness": steady, "smoothness": [None] * 10})
    looks(ten[1], {"flicker": noisy, "sharpness": noisy, "smoothness": noisy})
    found = compare(*ten)
    assert row(found, "flicker").verdict == "a" and row(found, "sharpness").verdict == "b"
    assert "lower is better" in row(found, "flicker").words("x", "y")
    assert "smoothness" not in {row.name for row in found.rows}, "it is known of one side alone"


def test_many_measures_are_corrected_together(ten: tuple[Path, Path]) -> None:
    draw = np.random.default_rng(0)
    names = ("flicker", "sharpness", "liveliness", "smoothness", "largest_jump", "background_sameness")
    for path in ten:
        looks(path, {name: draw.normal(1, 1, 10).tolist() for name in names})
    found = compare(*ten)
    tested = [row for row in found.rows if row.name != ALL_FIELDS]
    assert len(tested) == 8
    assert row(found, "color").corrected == pytest.approx(8 * mcnemar(0, 9))
    assert all(row.corrected >= row.p for row in tested)


def test_few_films_are_not_tested(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [WRONG] * 5), folder(tmp_path / "b", [RIGHT] * 5)
    found = compare(a, b)
    assert {row.verdict for row in found.rows} == {"untested"}
    assert "only 5 prompts show it in both, and 6 are needed" in row(found, "color").words("a", "b")
    assert found.statement().startswith("Nothing could be tested: only 5 prompts")
    single = compare(folder(tmp_path / "c", [RIGHT]), folder(tmp_path / "d", [WRONG]))
    assert math.isnan(row(single, "color").low) and json.dumps(single.to_json(), allow_nan=False)


def test_films_of_one_prompt_count_as_one_draw(tmp_path: Path) -> None:
    prompts, seeds = [f"p{n // 3}" for n in range(18)], [n % 3 for n in range(18)]
    a = folder(tmp_path / "a", [WRONG] * 18, prompts, seeds)
    b = folder(tmp_path / "b", [RIGHT] * 18, prompts, seeds)
    color = row(compare(a, b), "color")
    assert (color.draws, color.a.films, color.test) == (6, 18, "signs of the differences")
    assert color.p > 0.02, "6 prompts say less than 18 films would"
    other_seeds = folder(tmp_path / "c", [RIGHT] * 18, prompts, [seed + 10 for seed in seeds])
    found = compare(a, other_seeds)
    assert found.pairing == "prompt" and len(found.pairs) == 18 and row(found, "color").draws == 6


def test_what_has_no_partner_is_left_out_and_said(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [RIGHT] * 9), folder(tmp_path / "b", [RIGHT] * 7)
    found = compare(a, b)
    assert found.left_out == (2, 0) and "left out: 2 films of a and 0 of b" in " ".join(found.notes)
    assert row(found, "color").a.films == 7


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"prompts": [f"another {n}" for n in range(7)], "seeds": list(range(50, 57))}, "prompts: are other ones"),
        ({"source": (9, 32, 48)}, "num_frames = 6 and 9: films of other lengths"),
        ({"source": (6, 32, 64)}, "width = 48 and 64: films of other sizes"),
        ({"source": (6, 48, 48)}, "height = 32 and 48: films of other sizes"),
        ({"source": (6, 32, 48, 12)}, "fps = 24 and 12: films of other rates"),
        ({"critic": "two"}, "critic = one and two: read by other critics"),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(tmp_path: Path, change: dict, rule: str) -> None:
    if "source" in change:
        frames, height, width, *fps = change["source"]
        film = write(tmp_path / "other.mp4", natural(frames, height, width), fps=fps[0] if fps else 24)
        change = {"source": film}
    a = folder(tmp_path / "a", [WRONG] * 7, critic="one")
    b = folder(tmp_path / "b", [RIGHT] * 7, **{"critic": "one", **change})
    with pytest.raises(ValueError, match=rule) as refused:
        compare(a, b)
    assert "or give --anyway" in str(refused.value) and "\n" not in str(refused.value)
    found = compare(a, b, anyway=True)
    assert rule in found.overridden[0]
    assert "Not comparable, and compared all the same: " in found.statement()
    assert row(found, "color").verdict == "b"


def test_two_heaps_are_compared_by_labels(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [WRONG] * 7)
    b = folder(tmp_path / "b", [RIGHT] * 5, [f"another {n}" for n in range(5)])
    found = compare(a, b, anyway=True)
    color = row(found, "color")
    assert found.pairing == "none" and color.test == "labels of the films" and color.verdict == "b"
    assert "7 and 5 films, which do not pair" in found.statement()
    few = compare(a, folder(tmp_path / "c", [RIGHT] * 3, ["x", "y", "z"]), anyway=True)
    assert "only 3 films show it, and 4 of each are needed" in row(few, "color").words("a", "c")


def test_films_without_prompts_pair_by_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = folder(tmp_path / name, [RIGHT] * 6)
        (path / "report.json").unlink()
        looks(path, {"flicker": [1.0 + (name == "b") * (2 + n) for n in range(6)]})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.pairing == "file" and row(found, "flicker").verdict == "a" and found.names == ("a", "b")
    for film in (tmp_path / "b").glob("*.mp4"):
        film.rename(film.with_name("other-" + film.name))
    with pytest.raises(ValueError, match="prompts: are not known, and no two files have one name"):
        compare(tmp_path / "a", tmp_path / "b")


def test_the_page_the_markdown_and_the_json_say_the_same(ten: tuple[Path, Path], tmp_path: Path) -> None:
    looks(ten[0], {"flicker": np.linspace(1, 2, 10).tolist()})
    looks(ten[1], {"flicker": np.linspace(3, 5, 10).tolist()})
    found = compare(*ten)
    html, text, data = comparison_page(found, tmp_path / "page.html", pairs=2), found.markdown(), found.to_json()
    assert html.count("<video") == 4 and 'src="./old/film-001.mp4"' in html and "<script" not in html
    assert "On the whole, all fields as asked: new is significantly better than old" in html
    assert data["statement"] == found.statement() and json.dumps(data, allow_nan=False)
    (line,) = [line for line in text.splitlines() if line.startswith("| color")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["color", "higher", "10.0 %", "100.0 %", "+90.0 points"] and cells[-1] == "**new**"
    measured = {measure["name"]: measure for measure in data["measures"]}
    assert measured["color"]["verdict"] == "b" and measured["flicker"]["verdict"] == "a"
    assert comparison_page(found, tmp_path / "page.html", pairs=0).count("<video") == 0
    with pytest.raises(ValueError, match="pairs = -1: must be at least 0"):
        comparison_page(found, tmp_path / "page.html", pairs=-1)
