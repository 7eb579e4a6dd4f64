"""Recipe files: loading, overriding, running and going on."""

from __future__ import annotations

from pathlib import Path

import pytest

from everreel.train.run import load_recipe, main, run_recipe

WORLD = """
from everreel.data.clips import StoreLayout
from everreel.train.run import WorldRecipe
layout = StoreLayout(count=2, num_frames=1, sizes=((32, 32, 1.0),), shard_clips=1)
recipe = (("one", WorldRecipe((("images", layout),), processes=1)),)
"""
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.py"))


def test_a_recipe_file_runs_and_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "world.py"
    file.write_text(WORLD)
    assert main([str(file), "--run-dir", str(tmp_path / "run")]) == 0
    assert "images: 2/2" in capsys.readouterr().err
    assert (tmp_path / "run/one/images/shard-00001.jsonl").exists()
    assert main([str(file), "--run-dir", str(tmp_path / "run"), "--max-seconds", "9", "--threads", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_what_the_user_can_put_right_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.py"), "--run-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "empty.py").write_text("")
    assert main([str(tmp_path / "empty.py"), "--run-dir", str(tmp_path)]) == 2
    with pytest.raises(ValueError, match="recipe=int"):
        run_recipe(3, tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_recipe(path) is not None
