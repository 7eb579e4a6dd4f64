"""The benchmarks run: a small random model goes through each of them."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import against_diffusers, length
from benchmarks.measure import Form, best_form, peak_bytes
from everreel.caption.critic import Critic, save_critic
from everreel.checkpoint.catalog import find_model
from everreel.evaluate.follow import GOALS
from everreel.film.request import make_request

SIZE = {"height": 32, "width": 48}


def test_both_sides_of_a_small_model(tiny_folder):
    setting = against_diffusers.Setting(
        str(tiny_folder), num_frames=37, num_inference_steps=2, repeats=2, film_repeats=1, **SIZE
    )
    result = against_diffusers.run(setting)
    assert result.film_of.startswith("37 frames of 48x32")
    assert "asynchronous (ar_step 5, blocks of 5, cached)" in result.asynchronous_of
    compared = result.step, result.decode, result.film, result.asynchronous
    assert [len(found.ours.seconds) for found in compared] == [2, 2, 1, 1]
    assert all(found.ratio > 0 for found in compared)
    assert "one batch" in result.step.theirs.label or "two calls" in result.step.theirs.label


@pytest.mark.parametrize(("frames", "blocks"), [(5, False), (17, False), (33, False), (37, True), (97, True)])
def test_a_film_in_blocks_is_one_of_whole_blocks(frames, blocks):
    card = find_model("tiny")
    request = make_request(prompt="a fox", num_frames=frames).resolve(card)
    assert (against_diffusers.in_blocks(request, card) is not None) == blocks
    assert against_diffusers.in_blocks(request, replace(card, causal=False)) is None


def test_a_film_and_what_it_cost(tiny_folder, capsys):
    flags = {"--only-one": 30, "--model": tiny_folder, "--steps": 1, "--height": 32, "--width": 48}
    length.main([str(word) for flag in flags.items() for word in flag])
    cost = length.FilmCost(**json.loads(capsys.readouterr().out))
    assert cost.num_frames == 30 and cost.description.startswith("30 frames of 48x32")
    assert 0 < cost.first_block_seconds <= cost.seconds
    assert 0 < cost.loaded_bytes <= cost.peak_bytes <= peak_bytes()


def test_the_ends_of_a_film_are_read(tiny_folder, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_critic(tmp_path, Critic())
    setting = length.Setting(str(tiny_folder), long_frames=30, critic_films=1, critic_steps=1, **SIZE)
    reading = length.read_ends(setting, tmp_path)
    assert reading.first == reading.last or math.isnan(sum(reading.last.values()))  # a film shorter than its ends
    assert set(GOALS) <= reading.last.keys() == reading.drawn.keys()


@pytest.mark.parametrize("sizes", [(2, 5, 5), (1, 1, 1, 1, 1, 1, 6), (12,)])
def test_only_the_ends_are_held(sizes):
    film = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    first, last = length.ends(np.split(film, np.cumsum(sizes)[:-1]), 4)
    assert first.ravel().tolist() == [0, 1, 2, 3] and last.ravel().tolist() == [8, 9, 10, 11]


def test_a_form_that_is_wrong_is_never_best():
    truth = torch.ones(3)
    slow = Form("slow", torch.float32, lambda: time.sleep(0.05) or truth)
    forms = [slow, *(Form("wrong", torch.bfloat16, lambda bad=bad: truth * bad) for bad in (2.0, math.nan))]
    assert best_form("us", forms, 1).label == "slow"
    right = Form("right", torch.bfloat16, lambda: truth * 1.01)
    assert best_form("us", [*forms, right], 1).label == "right"
