"""Passes that are left out: by the frame that has gone furthest, in all kinds of schedules, and alike after a stop."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.diffusion.rollout import FIRST_STEPS, LAST_STEPS
from everreel.diffusion.step_cache import StepCache, _Computed
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request

KEY = (0, torch.Size([2, 3, 1, 1]), (3,), False)
SMALL = {"prompt": "a fox", "height": 32, "width": 48, "num_inference_steps": 10}
ALL = [True] * 3


def frames(*values):
    """A value a frame, in two channels."""
    return torch.tensor(values)[None, :, None, None].expand(2, -1, 1, 1)


def after(*passes, limit=0.1):
    """A cache that has seen passes, each of frames, timesteps and velocities."""
    cache = StepCache(limit)
    for x_T, timestep_T, velocity_T in passes:
        cache.keep(KEY, frames(*x_T), torch.tensor(timestep_T), frames(*velocity_T)[None])
    return cache


FIRST = ([0.0, 0.0, 0.0], [900.0, 900.0, 900.0], [1.0, 1.0, 1.0])
SECOND = ([1.0, 1.0, 1.0], [800.0, 800.0, 800.0], [1.1, 1.0, 1.0])  # of a step of 1 the first frame changes by a tenth


def test_the_frame_that_has_gone_furthest_decides_and_only_of_those_that_move__released_defect_27():
    def asked(x_T, moves_T=ALL):
        return after(FIRST, SECOND).find(KEY, frames(*x_T), torch.tensor([700.0] * 3), moves_T)

    assert asked([2.0, 1.0, 1.0]) is not None  # 0.1 / 1.1
    assert asked([2.2, 1.0, 1.0]) is None
    assert asked([2.2, 1.0, 1.0], [False, True, True]) is not None
    assert asked([1.0, 9.0, 9.0]) is not None  # the others' velocities stay, however far they go


def test_what_frames_go_adds_up_until_a_pass_is_computed():
    cache, times = after(FIRST, SECOND), torch.tensor([700.0] * 3)
    there, back = frames(1.6, 1.0, 1.0), frames(1.0, 1.0, 1.0)
    assert cache.find(KEY, there, times, ALL) is not None
    assert cache.find(KEY, back, times, ALL) is None  # 0.6 and 0.6
    cache.keep(KEY, back, times, frames(1.1, 1.0, 1.0)[None])
    assert cache.find(KEY, back, times, ALL) is not None


def test_a_velocity_goes_on_in_a_straight_line_of_its_timestep_and_no_further_than_it_came():
    cache = after(FIRST, ([1.0, 1.0, 1.0], [800.0, 800.0, 900.0], [1.1, 1.0, 3.0]), limit=1.0)
    found = cache.find(KEY, frames(1.0, 1.0, 1.0), torch.tensor([750.0, 700.0, 800.0]), ALL)
    torch.testing.assert_close(found, frames(1.15, 1.0, 3.0)[None])  # of a frame at rest nothing is told
    found = cache.find(KEY, frames(1.0, 1.0, 1.0), torch.tensor([400.0] * 3), ALL)
    torch.testing.assert_close(found, frames(1.2, 1.0, 3.0)[None])


@pytest.mark.parametrize("limit", [0.1, 1.0, float("inf")])
def test_a_frame_that_has_not_moved_yet_is_computed(limit):
    rested = ([0.0, 1.0, 1.0], [900.0, 800.0, 800.0], [1.0, 1.0, 1.0])
    cache = after(FIRST, rested, limit=limit)
    assert cache.find(KEY, frames(0.1, 1.0, 1.0), torch.tensor([800.0] * 3), ALL) is None
    assert cache.find(KEY, frames(0.1, 1.0, 1.0), torch.tensor([800.0] * 3), [False, True, True]) is not None


def test_a_pass_is_told_from_two_over_the_same_frames():
    x, times, velocity = frames(1.0, 1.0, 1.0), torch.tensor([800.0] * 3), frames(1.0, 1.0, 1.0)[None]
    assert after().find(KEY, x, times, ALL) is None
    assert after(FIRST).find(KEY, x, times, ALL) is None
    cache = after(FIRST, SECOND)
    assert cache.find((1, *KEY[1:]), x, times, ALL) is None
    assert cache.find(KEY, x, times, ALL) is not None
    cache.keep((1, *KEY[1:]), x, times, velocity)
    assert cache.find((1, *KEY[1:]), x, times, ALL) is None
    cache = after(FIRST, SECOND)
    cache.forget()
    assert cache.find(KEY, x, times, ALL) is None


@pytest.fixture
def film(tiny_folder, monkeypatch):
    """The frames of a film, and how many passes it took."""
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    passes = []
    pipe.transformer.register_forward_hook(lambda *_: passes.append(1))

    def film(**options):
        passes.clear()
        blocks = list(pipe.stream(make_request(**SMALL, **options)))
        return np.concatenate([block.frames for block in blocks]), len(passes)

    return film


def test_all_but_the_first_and_last_steps_may_be_left_out__released_defect_27(film, monkeypatch):
    frames, passes = film(num_frames=9)
    assert passes == 10
    with monkeypatch.context() as patch:
        patch.setattr("everreel.film.pipeline.StepCache", lambda _: StepCache(float("inf")))
        other, few = film(num_frames=9, step_cache=1)
    assert few == FIRST_STEPS + LAST_STEPS and other.shape == frames.shape and not np.array_equal(other, frames)
    again, some = film(num_frames=9, step_cache=1e-6)
    assert some == 10 and np.array_equal(again, frames)


def test_it_keeps_latents_and_nothing_of_tokens__released_defect_21(film, monkeypatch):
    """The released cache kept the modulation of every token twice: 12.5 GB of a film of 97 frames in 540P."""
    kept = []
    monkeypatch.setattr(
        "everreel.diffusion.step_cache._Computed", lambda *fields: kept.append(fields) or _Computed(*fields)
    )
    film(num_frames=9, step_cache=0.1)
    assert kept
    for _, x_CTHW, timestep_T, velocity_BCTHW in kept:
        assert (x_CTHW.shape, timestep_T.shape) == ((16, 3, 4, 6), (3,))
        assert velocity_BCTHW.shape[-4:] == (16, 3, 4, 6)


@pytest.mark.parametrize("name", ["SkyReels-V2-T2V-14B-540P", "I2V-14B-720P", "my model"])
def test_a_folder_may_be_called_anything__released_defect_28(tiny_folder, tmp_path, name):
    """The released cache has constants for each model, and chose them by the folder's name, or failed."""
    made = []
    for folder in (tiny_folder, Path(shutil.copytree(tiny_folder, tmp_path / name))):
        pipe = VideoPipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float32)
        request = make_request(**SMALL, num_frames=9, step_cache=0.5)
        made.append(np.concatenate([block.frames for block in pipe.stream(request)]))
    assert np.array_equal(*made)


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 25, "ar_step": 6, "causal_block_size": 2},
        {"num_frames": 41, "causal_block_size": 5, "base_num_frames": 25},
        {"num_frames": 41, "schedule": "windows", "base_num_frames": 25, "overlap_history": 9},
        {"num_frames": 9, "guidance_scale": 1},
    ],
)
def test_every_schedule_takes_it(film, options):
    frames, passes = film(**options)
    fewer, few = film(**options, step_cache=1)  # of random weights the levels do much
    assert fewer.shape == frames.shape and few < passes


def test_blocks_that_follow_closely_leave_no_pass_out(film):
    """Of three blocks on their way one always takes a first step, and what is finished is forgotten."""
    options = {"num_frames": 25, "ar_step": 3, "causal_block_size": 2}
    assert film(**options, step_cache=1)[1] == film(**options)[1]


def test_a_film_goes_on_with_the_same_frames_after_a_stop(tiny_folder):
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    request = make_request(**SMALL, num_frames=41, causal_block_size=5, base_num_frames=25, step_cache=0.5)
    blocks = list(pipe.stream(request))
    first = next(block for block in blocks if block.state is not None)
    rest = np.concatenate([block.frames for block in pipe.stream(request, state=first.state)])
    whole = np.concatenate([block.frames for block in blocks])
    assert np.array_equal(rest, whole[len(whole) - len(rest) :])
