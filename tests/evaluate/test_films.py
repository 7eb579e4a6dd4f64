"""A folder of films and what it tells of them."""

import json

import numpy as np
import pytest

from everreel.checkpoint.catalog import find_model
from everreel.evaluate.films import Making, claim, common_settings, digest
from everreel.media import FilmWriter


def test_the_digest_is_of_the_weights_and_not_of_notes(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "a.safetensors").write_bytes(b"one")
    before = digest(tmp_path)
    (tmp_path / "training.json").write_text("{}")
    assert digest(tmp_path) == before
    (tmp_path / "vae" / "a.safetensors").write_bytes(b"two")
    assert digest(tmp_path) != before


def film_in(path):
    with FilmWriter(path, 32, 48, 24) as writer:
        writer.append(np.zeros((1, 32, 48, 3), np.uint8))


def test_names_that_were_written_down_stay_and_keep_their_prompts(tmp_path):
    claim(tmp_path, {"seed": 0}, {"a.mp4": "a fox", "b.mp4": "a dog"})
    film_in(tmp_path / "a.mp4")
    claim(tmp_path, {"seed": 0}, {"c.mp4": "a hen"})
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record == {"seed": 0, "prompts": {"a.mp4": "a fox", "b.mp4": "a dog", "c.mp4": "a hen"}}
    with pytest.raises(ValueError, match="holds films of other prompts"):
        claim(tmp_path, {"seed": 0}, {"b.mp4": "another dog"})
    assert json.loads((tmp_path / "settings.json").read_text()) == record


def test_prompts_that_were_written_down_in_order_are_still_read(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0, "prompts": ["a fox", "a dog"]}))
    film_in(tmp_path / "a.mp4")
    claim(tmp_path, {"seed": 0}, {"a.mp4": "a fox"})
    with pytest.raises(ValueError, match="holds films of other prompts"):
        claim(tmp_path, {"seed": 0}, {"a.mp4": "a hen"})


def test_what_could_not_be_asked_for_then_is_what_it_is_by_default(tmp_path):
    """A folder of an earlier version is gone on with."""
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0, "prompts": {"a.mp4": "a fox"}}))
    film_in(tmp_path / "a.mp4")
    claim(tmp_path, {"seed": 0, "skip_layer_guidance_scale": 0}, {"a.mp4": "a fox"})
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0, "prompts": {"a.mp4": "a fox"}}))
    with pytest.raises(ValueError, match="holds films with skip_layer_guidance_scale = 0, and this run has 2"):
        claim(tmp_path, {"seed": 0, "skip_layer_guidance_scale": 2}, {"a.mp4": "a fox"})


def test_what_is_asked_for_is_as_json_has_it(tmp_path):
    card = find_model("tiny")
    making = Making(skip_layer_guidance_scale=2)
    settings = common_settings(card, making.request_for("a fox", 0).resolve(card))
    assert settings["skip_guidance_layers"] == [3, 5]
    claim(tmp_path, settings, {"a.mp4": "a fox"})
    film_in(tmp_path / "a.mp4")
    claim(tmp_path, settings, {"a.mp4": "a fox"})


def test_only_what_a_request_has_is_asked_for():
    request = Making(num_frames=9, guidance_scale=3).request_for("a fox", 7)
    assert (request.prompt, request.seed, request.num_frames, request.guidance_scale) == ("a fox", 7, 9, 3.0)
