"""A film of a placed model: the same where only places changed, nearly the same where numbers did."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.film.pipeline import VideoPipeline
from everreel.film.placement import Placement
from everreel.film.request import make_request

PLAIN = Placement(torch.device("cpu"), torch.float32)


def film(folder, placement, **options):
    pipe = VideoPipeline.from_pretrained(str(folder), placement=placement)
    more = {"num_frames": 25, "height": 96, "width": 96, "num_inference_steps": 2, "seed": 1} | options
    request = make_request(prompt="a red fox runs", **more)
    previews = []
    blocks = pipe.stream(request, on_progress=lambda progress: previews.append(progress.preview()))
    frames = np.concatenate([block.frames for block in blocks])
    assert len(frames) == 25 and all(len(preview) for preview in previews)
    return frames.astype(int)


@pytest.fixture(scope="module")
def plain(tiny_folder):
    return film(tiny_folder, PLAIN)


def test_a_placement_of_nothing_is_none(tiny_folder, plain):
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    request = make_request(prompt="a red fox runs", num_frames=25, height=96, width=96, num_inference_steps=2, seed=1)
    assert np.array_equal(np.concatenate([block.frames for block in pipe.stream(request)]), plain)


@pytest.mark.parametrize(
    "changes",
    [{"resident": 0}, {"resident": 1, "parked": True}, {"parked": True, "text_on_host": True}],
)
def test_where_things_are_changes_no_number(tiny_folder, plain, changes):
    assert np.array_equal(film(tiny_folder, replace(PLAIN, **changes)), plain)


@pytest.mark.parametrize("changes", [{"together": False}, {"decode_latents": 1}])
def test_in_which_pieces_changes_no_more_than_rounding(tiny_folder, plain, changes):
    assert np.abs(film(tiny_folder, replace(PLAIN, **changes)) - plain).max() <= 1


@pytest.mark.parametrize(
    ("changes", "most"),
    [({"tile": 10}, 6), ({"quantization": "int8"}, 6), ({"quantization": "int8", "resident": 1}, 6)],
)
def test_tiles_and_quantised_weights_are_near(tiny_folder, plain, changes, most):
    off = np.abs(film(tiny_folder, replace(PLAIN, **changes)) - plain).mean()
    assert 0 < off < most < np.abs(plain - plain[::-1]).mean()


def test_pictures_and_windows_that_are_encoded_again_work_parked(tiny_folder, tmp_path):
    from PIL import Image

    path = tmp_path / "first.png"
    Image.effect_noise((96, 96), 60).convert("RGB").save(path)
    options = {"image": path, "base_num_frames": 17, "overlap_history": 5, "join": "reencode"}
    expected = film(tiny_folder, PLAIN, **options)
    assert np.array_equal(film(tiny_folder, replace(PLAIN, parked=True), **options), expected)
