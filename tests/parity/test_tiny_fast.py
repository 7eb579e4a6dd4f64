"""The student that ships: it says how it is used, streams, and loads in diffusers as a LoRA of the model that ships."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.lora_files import preset_for
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request


@pytest.fixture(scope="module")
def card():
    try:
        return find_model("tiny-fast")
    except ValueError:
        pytest.skip("the embedded student is not in this checkout")


def test_its_card_is_what_its_file_says(card):
    found = preset_for(card.lora)
    for field in ("num_inference_steps", "guidance_scale", "shift", "solver", "streams"):
        assert getattr(found, field) == getattr(card, field), field


def test_both_models_are_at_most_40_mb_together(card):
    files = [*Path(card.path).rglob("*"), Path(card.lora)]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 40e6


def test_it_streams(card):
    request = make_request(prompt="a red fox runs", num_frames=41)
    plan = make_plan(request, card)
    assert plan.mode.startswith("blockwise") and plan.num_blocks == 3 and len(plan.schedule) == 12
    pipe = VideoPipeline.from_pretrained("tiny-fast", device="cpu")
    blocks = [block.frames for block in pipe.stream(request)]
    assert [len(frames) for frames in blocks] == [17, 20, 4]
    assert np.concatenate(blocks).std() > 10


def test_it_loads_in_diffusers(card):
    theirs = diffusers.SkyReelsV2Transformer3DModel.from_pretrained(
        card.path, subfolder="transformer", torch_dtype=torch.float32
    )
    theirs.load_lora_adapter(str(Path(card.lora).parent), use_safetensors=True, prefix="transformer")
    ours = VideoPipeline.from_pretrained("tiny-fast", device="cpu", dtype=torch.float32).transformer
    generator = torch.Generator().manual_seed(0)
    x_BCTHW = torch.randn(1, 16, 3, 12, 20, generator=generator)
    text_BLD, timestep_BT = torch.randn(1, 512, ours.config.text_dim, generator=generator), torch.full((1, 3), 700.0)
    with torch.no_grad():
        context = ours.encode_context(text_BLD, [512])
        got = ours(x_BCTHW, timestep_BT, context, fps_B=torch.tensor([1]))
        want = theirs(x_BCTHW, timestep_BT, text_BLD, enable_diffusion_forcing=True, fps=torch.tensor([1])).sample
    assert float((got - want).norm() / want.norm()) < 1e-4
    theirs.disable_lora()
    with torch.no_grad():
        plain = theirs(x_BCTHW, timestep_BT, text_BLD, enable_diffusion_forcing=True, fps=torch.tensor([1])).sample
    assert float((got - plain).norm() / plain.norm()) > 1e-2, "the student is its teacher"
