"""The image encoder: the released encoder's penultimate tokens, and the preparation of pixels."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everreel.checkpoint.keymap import clip_from_official
from everreel.model.config import ImageEncoderConfig
from everreel.model.image_encoder import CLIP_MEAN, CLIP_STD, ImageEncoder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "official-clip-vision.safetensors")


@pytest.fixture(scope="module")
def encoder(golden):
    encoder = ImageEncoder(ImageEncoderConfig(image_size=56, dim=32, ffn_dim=128, num_heads=4, num_layers=4)).eval()
    state = clip_from_official({f"visual.{name[2:]}": t for name, t in golden.items() if name.startswith("w.")})
    del state["visual_projection.weight"]
    encoder.model.load_state_dict(state)
    return encoder


@torch.no_grad()
def test_agrees_with_the_released_encoder(golden, encoder):
    tokens = encoder(golden["pixels"])
    expected = golden["penultimate"]
    assert tokens.shape == expected.shape
    assert (tokens - expected).abs().max() / expected.abs().max() < 1e-4


def test_a_flat_picture_stays_flat(encoder):
    pixels = encoder.prepare(torch.full((1, 3, 40, 90), 0.5))
    assert pixels.shape == (1, 3, 56, 56)
    expected = (0.75 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    assert torch.allclose(pixels, expected[None, :, None, None].expand_as(pixels), atol=1e-5)
