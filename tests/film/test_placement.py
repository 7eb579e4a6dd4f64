"""A film of a placed model: the same where only places changed, nearly the same where numbers did."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from everreel.film.budget import fits_as_batch
from everreel.film.decoding import at_work
from everreel.film.making import follow
from everreel.film.pipeline import VideoPipeline
from everreel.film.placement import Placement
from everreel.film.request import make_request
from everreel.film.source import SourceFilm
from tests.film.films import natural, write

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


def test_a_story_brings_the_text_encoder_to_work_once(tiny_folder, monkeypatch):
    moved = []
    monkeypatch.setattr(
        "everreel.film.pipeline.at_work",
        lambda module, device: (moved.append(type(module).__name__), at_work(module, device))[1],
    )
    story = {"story": {9: "a blue duck swims", 17: "a white owl flies"}}
    expected = film(tiny_folder, PLAIN, **story)
    moved.clear()
    assert np.array_equal(film(tiny_folder, replace(PLAIN, parked=True), **story), expected)
    assert moved.count("TextEncoder") == 1


def test_another_film_is_looked_back_at_where_the_vae_works(tiny_folder, tmp_path, monkeypatch):
    """Parked, it is elsewhere until it is wanted."""
    source = write(tmp_path / "source.mp4", natural(24, 96, 96))
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), placement=replace(PLAIN, parked=True))
    where = []
    monkeypatch.setattr(
        "everreel.film.making.at_work", lambda module, device: (where.append(device), at_work(module, device))[1]
    )
    request = make_request(prompt="a red fox runs", num_frames=8, num_inference_steps=2)
    follow(pipe, request, SourceFilm.open(source))
    assert where == [torch.device("cpu")]


def test_whether_guidance_is_one_batch_does_not_depend_on_what_is_free(monkeypatch):
    card = SimpleNamespace(total_memory=10e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("what is free was asked for"))
    weight = torch.nn.Module()  # anything that can be told from others
    weight.device, weight.numel, weight.itemsize = torch.device("cuda"), lambda: 10**9, 2
    part = SimpleNamespace(parameters=lambda: iter([weight]), config=SimpleNamespace(dim=1024))
    fits = [fits_as_batch(tokens, part, [part]) for tokens in (1_000, 50_000, 60_000)]
    assert fits == [True, True, False]  # 128 KiB a token in 9 GB less 2 GB of weights
    card.total_memory = 20e9
    assert fits_as_batch(60_000, part, [part])
