"""The page of two models: the figures of the comparison, the definitions, and no path of a machine."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import compare_models, faults
from everreel.evaluate.compare import compare
from everreel.evaluate.quality import MEASURES
from everreel.evaluate.quality_table import read_table
from tests.evaluate.film_sets import folder, looks

pytest.importorskip("cv2")

RIGHT, WRONG = {"color": True, "place": True}, {"color": False, "place": True}


def test_the_page_has_the_figures_and_the_statement(tmp_path, monkeypatch) -> None:
    a = folder(tmp_path / "runs-a", [WRONG] * 8, num_inference_steps=30)
    b = folder(tmp_path / "runs-b", [RIGHT] * 8, num_inference_steps=4)
    looks(a, {"flicker": np.linspace(1, 2, 8).tolist()})
    looks(b, {"flicker": np.linspace(3, 4, 8).tolist()})
    monkeypatch.setattr(faults, "films", lambda: {"plain": faults.plain(8)})
    compare_models.main([str(a), str(b), "--output", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "    python -m benchmarks.compare_models runs-a runs-b\n" in text and str(tmp_path) not in text
    assert " ".join(compare(a, b).statement().split()) in " ".join(text.split())
    assert "| num inference steps | 30 | 4 |" in text and "| critic | not recorded | not recorded |" in text
    assert "| color | higher | 0.0 % | 100.0 % | +100.0 points |" in text
    assert all(measure.what in text for measure in MEASURES.values())
    (row,) = [line for line in text.splitlines() if line.startswith("| plain")]
    assert row.count("|") == len(compare_models.OF_FAULTS) + 2


def test_two_models_of_the_same_weights_are_told_apart_and_made_again_by_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "films", dict)
    how = {"weights": "22f3", "guidance_level": 0.85, "guidance_until": None, "seed": 0}
    a = folder(tmp_path / "tiny", [WRONG] * 2, **how)
    b = folder(tmp_path / "tiny-fast", [RIGHT] * 2, **how, num_inference_steps=4, loras=[["d74d", 1.0], ["0a", 0.5]])
    compare_models.main([str(a), str(b), "--output", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "| loras | none | d74d at 1, 0a at 0.5 |" in text
    assert "| guidance level | 0.85 | 0.85 |" in text and "| guidance until | not set | not set |" in text
    made = "    everreel evaluate --model tiny{} --num-films 2{} --guidance-level 0.85 --seed 0 -o runs/tiny{}\n"
    assert made.format("", "", "") in text and made.format("-fast", " --num-inference-steps 4", "-fast") in text
    del how["weights"]
    assert compare_models.shown("loras", how) == "not recorded"


def test_what_is_not_measured_is_measured_first(tmp_path, monkeypatch) -> None:
    a, b = folder(tmp_path / "a", [WRONG] * 2), folder(tmp_path / "b", [RIGHT] * 2)
    monkeypatch.setattr(faults, "films", dict)
    compare_models.main([str(a), str(b), "--output", str(tmp_path / "page.md")])
    assert len(read_table(a / "quality.jsonl")) == len(read_table(b / "quality.jsonl")) == 2
    assert "Nothing could be tested: only 2 prompts" in (tmp_path / "page.md").read_text()


def test_what_is_wrong_is_one_line(tmp_path) -> None:
    a = folder(tmp_path / "a", [WRONG] * 2)
    with pytest.raises(SystemExit, match=r"compare_models: films = .*none: is no folder of films"):
        compare_models.main([str(a), str(tmp_path / "none"), "--output", str(tmp_path / "page.md")])
