"""Passes that are left out: how many, and that what is left is what the ways say."""

import pytest
import torch

from benchmarks import step_cache
from benchmarks.step_cache import WAYS, EveryPass, Extrapolated, KeptGuidance
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request


@pytest.fixture
def frames(tiny_folder):
    def frames(way, steps=8):
        pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
        counted = way(pipe.transformer, steps)
        pipe.transformer = counted
        request = make_request(prompt="a fox", num_frames=9, height=32, width=48, num_inference_steps=steps)
        blocks = [torch.from_numpy(block.frames) for block in pipe.stream(request)]
        return counted, torch.cat(blocks)

    return frames


@pytest.mark.parametrize(("way", "rows"), [(EveryPass, 16), (KeptGuidance, 15), (Extrapolated, 14)])
def test_of_the_three_in_the_middle_the_second_is_left_out(frames, way, rows):
    assert frames(way)[0].rows == rows


def test_the_page_holds_every_way(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(step_cache, "WAYS", {name: WAYS[name] for name in list(WAYS)[:2]})
    output = tmp_path / "page.md"
    monkeypatch.setattr(step_cache, "make_request", lambda **asked: make_request(**asked, num_frames=25))
    step_cache.main(["--model", str(tiny_folder), "--num-films", "1", "--steps", "6", "--output", str(output)])
    assert "| guidance kept for 2 passes |" in output.read_text() and "| every pass | 0 % |" in output.read_text()
