"""The measure of first frames: what is kept, what moves, and a table of models that were given the same pictures."""

import json
import math

import numpy as np
import pytest
import torch

from benchmarks import first_frame
from everreel.data.clips import ClipLabel, shard_writer
from everreel.data.draws import generator_for
from everreel.world.scene import sample_scene


@pytest.fixture
def clips(tmp_path):
    """Three clips of a pattern that goes right, each faster than the one before."""
    generator, pattern = generator_for(0), np.random.default_rng(0).integers(0, 256, (32, 128, 3), dtype=np.uint8)
    pattern = np.repeat(np.repeat(pattern[::8, ::8], 8, 0), 8, 1)
    where = tmp_path / "clips"
    where.mkdir()
    with shard_writer(where, 0, (3, 5, 32, 48), [ClipLabel(sample_scene(generator), 24, 0.0)] * 3) as frames:
        for clip in range(3):
            for n in range(5):
                frames[clip, n] = pattern[:, 60 - clip * n : 108 - clip * n]
    return where


def test_models_are_measured_on_the_same_pictures(clips, i2v_folder, tiny_folder, tmp_path, capsys):
    command = [
        *(str(i2v_folder), str(tiny_folder), "--reference", str(tiny_folder), "--clips", str(clips), "--films", "2"),
        *("--frames", "5", "--steps", "2", "--output", str(tmp_path / "out")),
    ]
    first_frame.main(command)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 6
    report = json.loads((tmp_path / "out" / "first-frame.json").read_text())
    shown, known, reference, real = report["films"]
    # A model that knows its frame 0 gives it as the VAE does; one with random weights that is shown it does not.
    assert np.allclose(known["kept"], known["ceiling"], atol=0.3) and min(known["decoded"]) > 30
    assert max(shown["decoded"]) < 30
    assert reference["kept"] == [] and reference["motion"] != known["motion"]
    assert real["motion"][1] > real["motion"][0] and report["rows"][2]["ratio"] == "1.00"
    assert (tmp_path / "out" / "first-frame.png").stat().st_size > 1000
    films = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.npy")}
    assert len(films) == 6
    first_frame.main(command)
    assert films == {path: path.stat().st_mtime_ns for path in films}
    with pytest.raises(SystemExit, match="holds films of steps = 2; take another folder"):
        first_frame.main([*command[:-4], "--steps", "3", *command[-2:]])
    with pytest.raises(SystemExit, match="films = 4: must be 2 to 3"):
        first_frame.main([*command, "--films", "4"])


def test_the_figures_are_what_they_say():
    black = np.zeros((32, 48, 3), np.uint8)
    assert first_frame.psnr(black, black) == math.inf
    assert first_frame.psnr(black, black + np.uint8(255)) == 0
    assert first_frame.psnr(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
    pattern = np.random.default_rng(0).integers(0, 256, (8, 32, 1), dtype=np.uint8)
    wide = np.repeat(np.repeat(np.repeat(pattern, 8, 0), 8, 1), 3, 2)
    film = np.stack([wide[:, 100 - 2 * n : 196 - 2 * n] for n in range(5)])
    # Two pixels a frame, 24 frames a second, 64 pixels a short side.
    assert first_frame.motion_of(film, 24) == pytest.approx(2 * 24 / 64, rel=0.25)
    assert first_frame.motion_of(film[:1].repeat(3, 0), 24) == pytest.approx(0, abs=1e-3)
    values = np.array([2.0, 4.0, 6.0, 8.0])
    assert first_frame.ratio(values, values / 2, torch.Generator().manual_seed(0)) == pytest.approx((2, 2, 2))
    times, low, high = first_frame.ratio(values, values[::-1].copy(), torch.Generator().manual_seed(0))
    assert times == 1 and low < 0.8 and high > 1.2
