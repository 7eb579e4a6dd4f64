"""`everreel prepare`: what it prints, where it goes on, and options that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from everreel.data.latents import LatentStore
from everreel.prepare import prepare
from tests.film.films import natural, write

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(prepare)


@pytest.fixture
def run(tiny_folder: Path) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments), "--model", str(tiny_folder)])

    return run


def test_a_folder_becomes_a_store(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "fox.mp4", natural(20, 32, 48))
    (tmp_path / "fox.txt").write_text("a red fox runs")
    write(tmp_path / "mute.mp4", natural(20, 32, 48))
    options = ["--sizes", "32x48, 48x32", "--frames", "17,9", "--fps", 16, "--every", 0.1, "--prompt", "a blue swan"]
    result = run(tmp_path, "-o", tmp_path / "store", *options)
    assert result.exit_code == 0, result
    assert result.stdout.splitlines() == [
        "32x48, 9 frames at 16 a second, 18 tokens: 4",
        f"4 clips in {tmp_path / 'store'}, 1 skipped",
    ]
    assert "skipped mute.mp4: has no caption" in result.stderr
    store = LatentStore(tmp_path / "store")
    assert {store.fps(index) for index in range(len(store))} == {16} and list(store.prompts) == ["", "a blue swan"]


def test_sizes_and_lengths_are_the_models_own(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "fox.mp4", natural(30, 32, 48))
    (tmp_path / "fox.txt").write_text("a red fox runs")
    result = run(tmp_path, "-o", tmp_path / "store")
    assert result.stdout.splitlines()[0] == "96x160, 25 frames at 24 a second, 420 tokens: 1"


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--sizes", "96"), "sizes = '96': must be HEIGHTxWIDTH"),
        (("--frames", "9,x"), "frames = 'x': must be a number of frames"),
        (("--sizes", "96x160", "--frames", "10"), r"frames = 10: must be 4k \+ 1, nearest 9"),
        (("--fps", "30"), "fps = 30: must be 16 or 24"),
        (("--every", "-1"), "every = -1"),
    ],
)
def test_bad_options_are_refused_by_name(
    run: Callable[..., Result], tmp_path: Path, options: tuple[str, ...], rule: str
) -> None:
    result = run(tmp_path, "-o", tmp_path / "store", *options)
    with pytest.raises(ValueError, match=rule):
        raise result.exception or AssertionError(result.stdout)
    assert not (tmp_path / "store").exists()
