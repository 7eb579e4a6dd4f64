"""A small CLIP: batches by step, tokens that say which sentence is a picture's, and files that I2V models read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.checkpoint.load import load_image_encoder
from everreel.data.clips import ClipLabel, shard_writer
from everreel.data.draws import generator_for
from everreel.model.config import ImageEncoderConfig
from everreel.train.clip import ClipRecipe
from everreel.train.progress import read_metrics
from everreel.train.trainer import Trainer, TrainerSettings
from everreel.world.scene import sample_scene

NETWORK = ImageEncoderConfig(image_size=28, patch_size=7, dim=32, ffn_dim=64, num_heads=2, num_layers=2)


@pytest.fixture(scope="module")
def stage(recipe, tmp_path_factory):
    """Clips of one colour each, so that a picture can be told by it, and a recipe that does."""
    where, generator = tmp_path_factory.mktemp("clips"), generator_for(5)
    labels = [ClipLabel(sample_scene(generator), 24, 0.0) for _ in range(12)]
    colors = np.random.default_rng(1).integers(0, 256, (12, 1, 1, 1, 3))
    for name, frames in (("films", 5), ("images", 1)):
        (where / name).mkdir()
        with shard_writer(where / name, 0, (12, frames, 32, 48), labels) as clips:
            clips[:] = np.broadcast_to(colors, clips.shape)
    settings = TrainerSettings(steps=60, learning_rate=5e-3, warmup=5, ema_decay=0.9, sample_every=100, log_every=5)
    return ClipRecipe(
        settings, (str(where / "films"), str(where / "images")), str(where / "films"), text=recipe.text,
        network=NETWORK, width=16, batch=12,
    )  # fmt: skip


def test_a_batch_is_a_function_of_its_step(stage):
    objective = stage.objective()
    one, other = (objective.batch(3, generator_for(0, "batch", 3)) for _ in range(2))
    assert torch.equal(one.frames_BHWC, other.frames_BHWC) and torch.equal(one.ids_BL, other.ids_BL)
    assert one.frames_BHWC.shape[0] == one.ids_BL.shape[0] == 12
    sizes = {objective.batch(n, generator_for(0, "batch", n)).frames_BHWC.shape[1:3] for n in range(20)}
    assert len(sizes) > 5 and all(28 < rows <= 32 and 42 < columns <= 48 for rows, columns in sizes)


def test_pictures_learn_to_find_their_sentences(stage, tmp_path):
    assert stage.run(tmp_path, quiet=True).step == 60
    losses = [row["loss/clip"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss/clip" in row]
    assert losses[-1] < 0.7 * losses[0]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == 12 and report["chance/top_1"] == pytest.approx(1 / 12)
    assert report["picture_to_sentence/top_5"] > 1.3 * report["chance/top_5"]
    assert {"named/subject", "guessed/place", "sentence_to_picture/top_1"} <= set(report)


def test_what_is_left_is_an_image_encoder_as_models_have_it(stage, tmp_path):
    from transformers import CLIPVisionModel

    stage = replace(stage, settings=replace(stage.settings, steps=2))
    objective = stage.objective()
    trainer = Trainer(objective, stage.settings, tmp_path, quiet=True)
    trainer.run()
    stage.run(tmp_path, quiet=True)
    found = load_image_encoder(tmp_path)
    assert found.config == NETWORK
    with trainer.averaged():
        wanted = objective.towers.encoder.model.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in found.model.state_dict().items())
    pixels = found.prepare(torch.rand(2, 3, 32, 48) * 2 - 1)
    theirs = CLIPVisionModel.from_pretrained(tmp_path / "image_encoder").eval()
    with torch.no_grad():
        tokens = found(pixels)
        wanted = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    assert tokens.shape == (2, 17, 32)
    torch.testing.assert_close(tokens, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_patches_are_what_the_encoder_itself_computes(stage):
    towers = stage.objective().towers.eval()
    pixels = towers.encoder.prepare(torch.rand(2, 3, 32, 48) * 2 - 1)
    pooled = towers.encoder.model(pixel_values=pixels).pooler_output
    wanted = torch.nn.functional.normalize(towers.image_head(pooled), dim=-1)
    torch.testing.assert_close(towers.picture(pixels), wanted)
    some = [towers.picture(pixels, 0.5, generator_for(seed)) for seed in (0, 0, 1)]
    assert torch.equal(some[0], some[1]) and not torch.equal(some[0], some[2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stores": ()}, r"stores=\(\): name at least one"),
        ({"batch": 1}, "batch=1: .*nearest that works is 2"),
        ({"kept": 0.0}, "kept=0.0: .*0.5 works"),
    ],
)
def test_wrong_values_are_refused(stage, wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(stage, **wrong)
