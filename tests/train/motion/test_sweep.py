"""The sweep of beta: the same asked of each, gone on with, and a page of it."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from benchmarks import preference_sweep as page
from everreel.train.generate import Way
from everreel.train.motion.sweep import SweepRecipe


@pytest.fixture
def sweep(preference, recipe, reward):
    learning = replace(preference, settings=replace(preference.settings, steps=4), check_pairs=4)
    return SweepRecipe(
        preference=learning, betas=(20.0, 2000.0), reward=reward, prompts=((recipe.films, 1.0),), count=2, frames=3,
        way=Way(2), dtype="float32",
    )  # fmt: skip


def test_every_beta_is_asked_the_same(sweep, tmp_path):
    assert sweep.run(tmp_path, quiet=True).step == 2
    films = [
        json.loads((tmp_path / f"{name}/films.json").read_text()) for name in ("reference", "beta-20", "beta-2000")
    ]
    asked = [
        (tmp_path / f"{name}/films/prompt-00001.json").read_text() for name in ("reference", "beta-20", "beta-2000")
    ]
    assert len(set(asked)) == 1 and len({tuple(found["rewards"]) for found in films}) == 3
    reports = [json.loads((tmp_path / f"beta-{b}/policy/report.json").read_text()) for b in (20, 2000)]
    assert [report["beta"] for report in reports] == [20, 2000]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("beta-*/**/*")}
    assert replace(sweep, betas=(20.0, 2000.0, 100.0)).run(tmp_path, quiet=True).step == 3
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("beta-*/**/*")}.items()
    with pytest.raises(ValueError, match=r"count=3: .* was begun with 2"):
        replace(sweep, count=3).run(tmp_path, quiet=True)
    assert page.main([str(tmp_path), "-o", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == ["reference", "20", "100", "2000"]
    (chart,) = tmp_path.glob("page-*.png")
    assert chart.name in text and len(Image.open(chart).convert("RGB").getcolors(10_000)) > 5


def test_a_page_says_what_is_hacked_and_what_is_missing(tmp_path, capsys):
    check = {"implicit_accuracy": 0.75, "interval": [0.5, 1.0], "better_shift": -0.001, "worse_shift": 0.002}
    films = {"rewards": [1.0, 3.0], "amplitude": 0.2, "std": 1.0, "mean": 0.0}
    for beta, found in ((50, films), (5, {**films, "rewards": [2.0, 5.0], "amplitude": 0.1, "mean": 0.3}), (500, None)):
        (tmp_path / f"beta-{beta}/policy").mkdir(parents=True)
        report = {"beta": beta, "step": 9, "reason": "done", "checks": {"train": check, "held_out": None}}
        (tmp_path / f"beta-{beta}/policy/report.json").write_text(json.dumps(report))
        if found:
            (tmp_path / f"beta-{beta}/films.json").write_text(json.dumps(found))
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/films.json").write_text(json.dumps(films))
    lines = page.render(page.read_sweep(tmp_path))
    (row,) = [line for line in lines if line.startswith("| 5 ")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[2:7] == ["75% (50% to 100%)", "no pairs", "-1.00", "+2.00", "3.5"]
    assert cells[7].startswith("+1.5 (") and cells[8:] == ["0.5", "1", "0.3"]
    text = " ".join(lines)
    assert "at beta 5 amplitude -50%, mean +30%" in text and "at beta 50 " not in text
    assert "Missing: the films of beta 500." in text
    page.draw(tmp_path / "chart.png", page.read_sweep(tmp_path))
    assert page.main([str(tmp_path / "reference")]) == 2
    assert "no beta of a sweep is finished here" in capsys.readouterr().err


def test_betas_are_named_once(sweep):
    for betas in ((), (1.0, 1.0)):
        with pytest.raises(ValueError, match="betas="):
            replace(sweep, betas=betas)
    with pytest.raises(ValueError, match="beta=-1"):
        replace(sweep, betas=(-1.0,))
