"""Passes that are left out: how many, and that what is left is what the ways say."""

import pytest
import torch

from benchmarks import step_cache
from benchmarks.step_cache import FILMS, WAYS, EveryPass, Extrapolated, KeptGuidance, TeaCache
from everreel.checkpoint.catalog import find_model
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request


@pytest.fixture
def frames(tiny_folder):
    def frames(way, steps=7):
        pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
        counted = way(pipe.transformer, steps)
        pipe.transformer = counted
        request = make_request(prompt="a fox", num_frames=9, height=32, width=48, num_inference_steps=steps)
        blocks = [torch.from_numpy(block.frames) for block in pipe.stream(request)]
        return counted, torch.cat(blocks)

    return frames


@pytest.mark.parametrize(("way", "rows"), [(EveryPass, 14), (KeptGuidance, 13), (Extrapolated, 12)])
def test_of_the_three_in_the_middle_the_second_is_left_out(frames, way, rows):
    assert frames(way)[0].rows == rows


@pytest.mark.parametrize(("limit", "rows"), [(0.0, 14), (float("inf"), 8)])
def test_teacache_leaves_out_passes_below_its_limit(frames, monkeypatch, limit, rows):
    monkeypatch.setattr(TeaCache, "limit", limit)
    assert frames(TeaCache)[0].rows == rows


def test_the_page_holds_every_way_and_every_kind_of_film(tiny_folder, tmp_path, monkeypatch):
    names = ["every pass", "guidance kept for 2 passes", "--step-cache 0.15"]
    monkeypatch.setattr(step_cache, "WAYS", {**{name: WAYS[name] for name in names}, names[2]: (EveryPass, 1.0)})
    monkeypatch.setattr(step_cache, "FILMS", {**FILMS, "asynchronous": {"ar_step": 6, "causal_block_size": 5}})
    output = tmp_path / "page.md"
    small = {"num_frames": 25, "height": 32, "width": 48}
    monkeypatch.setattr(step_cache, "make_request", lambda **asked: make_request(**asked, **small))
    step_cache.main(["--model", str(tiny_folder), "--num-films", "1", "--steps", "10", "--output", str(output)])
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in output.read_text().splitlines() if "|" in line]
    saved = {(kind, way): part for kind, way, part in rows if kind in FILMS}
    levels = ("at one level", "asynchronous", "blockwise")
    assert list(saved) == [(kind, way) for kind in levels for way in (names if kind == levels[0] else names[::2])]
    assert all((part == "0 %") == (way == names[0]) for (_, way), part in saved.items())


def test_films_are_of_one_level_of_several_and_in_blocks():
    card = find_model("tiny")
    plans = [make_plan(make_request(prompt="a fox", **asked), card) for asked in FILMS.values()]
    assert [plan.mode.split(" ")[0] for plan in plans] == ["synchronous", "asynchronous", "blockwise"]
    middle = [row.levels for row in plans[1].schedule if len(set(row.levels)) > 3]
    assert len(middle) > len(plans[1].schedule) / 3
