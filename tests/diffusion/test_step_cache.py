"""Passes that are left out: by the frame that has gone furthest, in all kinds of schedules, and alike after a stop."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.diffusion.denoiser import StepCache, _Kept
from everreel.diffusion.rollout import FIRST_STEPS, LAST_STEPS
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request

KEY = (0, torch.Size([16, 3, 4, 4]), (3,), False)
SMALL = {"prompt": "a fox", "height": 32, "width": 48, "num_inference_steps": 10}


def seen(*values):
    return torch.tensor(values)[:, None].expand(-1, 8)


def test_the_frame_that_has_gone_furthest_decides_and_only_of_those_that_move__released_defect_27():
    cache, velocity = StepCache(0.1), torch.ones(2, 16, 3, 4, 4)
    assert cache.find(KEY, seen(1.0, 1.0, 1.0), [True] * 3) is None
    cache.keep(KEY, seen(1.0, 1.0, 1.0), velocity)
    assert cache.find(KEY, seen(1.05, 1.0, 1.0), [True] * 3) is velocity
    assert cache.find(KEY, seen(1.12, 1.0, 1.0), [True] * 3) is None  # 0.05 and 0.067
    assert cache.find(KEY, seen(1.12, 1.0, 1.0), [False, True, True]) is velocity


def test_other_frames_are_another_pass():
    cache = StepCache(1.0)
    cache.keep(KEY, seen(1.0, 1.0, 1.0), torch.ones(1))
    assert cache.find((1, *KEY[1:]), seen(1.0, 1.0, 1.0), [True] * 3) is None
    assert cache.find(KEY, seen(1.0, 1.0, 1.0), [True] * 3) is not None
    cache.forget()
    assert cache.find(KEY, seen(1.0, 1.0, 1.0), [True] * 3) is None


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


def test_it_keeps_rows_for_frames_and_not_for_tokens__released_defect_21(film, monkeypatch):
    """The released cache kept the modulation of every token twice: 12.5 GB of a film of 97 frames in 540P."""
    kept = []
    monkeypatch.setattr("everreel.diffusion.denoiser._Kept", lambda *fields: kept.append(fields) or _Kept(*fields))
    film(num_frames=9, step_cache=0.1)
    assert kept
    for _, seen_TC, changed_T, velocity_BCTHW in kept:
        frames, channels = 3, 6 * 48
        assert (seen_TC.shape, changed_T.shape) == ((frames, channels), (frames,))
        assert velocity_BCTHW.shape[-4:] == (16, frames, 4, 6)


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
    """Of three blocks on their way one always takes a first or a last step, and what is finished is forgotten."""
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
