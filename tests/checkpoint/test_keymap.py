"""Law 6: names map between the layouts totally and invertibly, for the tensor lists of the released files."""

import json
from pathlib import Path

import diffusers
import pytest
import torch

from everreel.checkpoint import keymap
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, VAEConfig
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder

KEYS = Path(__file__).parents[1] / "golden" / "checkpoint-keys"
TRANSFORMERS = ("DF-1.3B", "14B-t2v", "14B-i2v", "1.3B-i2v")


def released(name):
    shapes = json.loads((KEYS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_names(name):
    official, diffusers = released(f"official-{name}"), released(f"diffusers-{name}")
    assert shapes(keymap.transformer_to_diffusers(official)) == shapes(diffusers)
    assert shapes(keymap.transformer_from_diffusers(diffusers)) == shapes(official)


def test_vae_names():
    official, diffusers = released("official-vae"), released("diffusers-vae")
    assert shapes(keymap.vae_to_diffusers(official, VAEConfig())) == shapes(diffusers)
    assert shapes(keymap.vae_from_diffusers(diffusers, VAEConfig())) == shapes(official)


@pytest.mark.parametrize("blocks,dims", [(1, (1, 2, 4, 4)), (2, (1, 2)), (3, (1, 2, 4))])
def test_vae_names_of_other_depths(blocks, dims):
    flags = (True,) * (len(dims) - 1)
    config = VAEConfig(base_dim=4, num_res_blocks=blocks, dim_mult=dims, temporal_downsample=flags)
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(
            base_dim=4, num_res_blocks=blocks, dim_mult=list(dims), temperal_downsample=list(flags)
        )
    state = vae.state_dict()
    official = keymap.vae_from_diffusers(state, config)
    assert shapes(keymap.vae_to_diffusers(official, config)) == shapes(state)


def test_umt5_names():
    official = released("official-umt5-xxl")
    ours = keymap.umt5_from_official(official)
    with torch.device("meta"):
        model = TextEncoder(TextEncoderConfig()).model
    expected = {name: shape for name, shape in shapes(model.state_dict()).items() if "embed_tokens" not in name}
    assert shapes(ours) == expected
    assert shapes(keymap.umt5_to_official(ours)) == shapes(official)


def test_clip_names():
    official = released("official-clip-visual")
    ours = keymap.clip_from_official(official)
    with torch.device("meta"):
        model = ImageEncoder(ImageEncoderConfig()).model
    assert shapes(ours) == shapes(model.state_dict()) | {"visual_projection.weight": (1024, 1280)}
    assert shapes(keymap.clip_to_official(ours)) == shapes(official)


def test_clip_tensors_come_back_the_same():
    generator = torch.Generator().manual_seed(0)
    small = {
        "visual.cls_embedding": (1, 1, 6),
        "visual.pos_embedding": (1, 5, 6),
        "visual.head": (6, 4),
        "visual.transformer.0.attn.to_qkv.weight": (18, 6),
        "visual.transformer.0.attn.to_qkv.bias": (18,),
    }
    state = {name: torch.randn(shape, generator=generator) for name, shape in small.items()}
    back = keymap.clip_to_official(keymap.clip_from_official(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "rename",
    [
        keymap.transformer_to_diffusers,
        keymap.transformer_from_diffusers,
        lambda state: keymap.vae_to_diffusers(state, VAEConfig()),
        lambda state: keymap.vae_from_diffusers(state, VAEConfig()),
        keymap.umt5_from_official,
        keymap.umt5_to_official,
        keymap.clip_from_official,
        keymap.clip_to_official,
    ],
)
@pytest.mark.parametrize(
    "name", ["blocks.0.self_attn.z.weight", "decoder.upsamples.15.residual.0.gamma", "model_type.x"]
)
def test_an_unknown_name_is_named(rename, name):
    with pytest.raises(ValueError, match=name):
        rename({name: torch.empty(1)})


def test_an_incomplete_fused_tensor_is_named():
    with pytest.raises(ValueError, match=r"visual\.transformer\.0\.attn\.k\.weight"):
        keymap.clip_to_official({"encoder.layers.0.self_attn.q_proj.weight": torch.empty(4, 4)})
