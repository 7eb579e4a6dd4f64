"""A pipeline for the films of these tests."""

from dataclasses import replace

import pytest
import torch

from everreel.film.pipeline import VideoPipeline


@pytest.fixture
def pipe(tiny_pipe):
    """A random model with a window of 7 latent frames and blocks of 2, so that short films are long ones."""
    tiny_pipe.card = replace(
        tiny_pipe.card, num_frames=25, block_size=2, context=4, height=96, width=160, sink=0, anchor_color=0.0,
        addnoise_condition=0.0,
    )  # fmt: skip
    return tiny_pipe


@pytest.fixture(scope="package")
def tiny_pipe(tiny_folder):
    return VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
