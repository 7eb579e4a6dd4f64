"""Small random networks at the proportions of the released ones, and the ways that people have them on disk."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint import configs, keymap
from everreel.checkpoint.load import save_diffusers
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder
from everreel.model.vae import CausalVAE
from everreel.train.text import train_tokenizer

SMALL = {"dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 2, "text_dim": 24, "freq_dim": 32}
OFFICIAL_T5 = "models_t5_umt5-xxl-enc-bf16.pth"
OFFICIAL_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def random_transformer(num_layers):
    """A small one that starts as in training, with a head and modulations that do something."""
    generator = torch.Generator().manual_seed(0)
    config = TransformerConfig(dim=64, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=num_layers)
    with torch.random.fork_rng():
        model = DiT(config).requires_grad_(False).eval()
    model.init_weights(generator)
    torch.nn.init.xavier_normal_(model.head.head.weight, generator=generator)
    for block in model.blocks:
        torch.nn.init.normal_(block.modulation, generator=generator)
    return model


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.to(torch.bfloat16).eval()


@pytest.fixture(scope="session")
def small():
    """Networks in bfloat16: `df`, `t2v` and `i2v` transformers, and what goes with them."""
    tokenizer = train_tokenizer(iter(["a red fox runs", "a blue swan on a lake"] * 20), 120)
    text = TextEncoderConfig(
        vocab_size=tokenizer.backend.get_vocab_size(), d_model=24, d_kv=8, d_ff=32, num_heads=3, num_layers=2
    )
    released = configs.released_vae_config()
    vae = VAEConfig(base_dim=8, num_res_blocks=1, latents_mean=released.latents_mean, latents_std=released.latents_std)
    clip = ImageEncoderConfig(image_size=28, dim=160, ffn_dim=96, num_heads=2, num_layers=2)
    return SimpleNamespace(
        df=randomise(DiT(TransformerConfig(**SMALL, inject_sample_info=True)), 1),
        t2v=randomise(DiT(TransformerConfig(**SMALL)), 2),
        i2v=randomise(DiT(TransformerConfig(**SMALL, in_dim=36, image_dim=160)), 3),
        vae=randomise(CausalVAE(vae), 4),
        text_encoder=randomise(TextEncoder(text), 5),
        image_encoder=randomise(ImageEncoder(clip), 6),
        tokenizer=tokenizer,
    )


def untied(text_encoder):
    return {name: tensor for name, tensor in text_encoder.model.state_dict().items() if "embed_tokens" not in name}


def official_fields(config, **more):
    names = ("dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "text_dim", "freq_dim", "inject_sample_info")
    fields = {name: getattr(config, name) for name in names}
    return {"model_type": "i2v" if config.image_dim else "t2v", **fields, **more}


@pytest.fixture
def official(small, tmp_path):
    """Writes a folder of the released layout; gives it back."""

    def write(name="t2v", where="official"):
        folder = tmp_path / where
        folder.mkdir()
        transformer = getattr(small, name)
        (folder / "config.json").write_text(json.dumps(official_fields(transformer.config)))
        save_file(transformer.state_dict(), folder / "model.safetensors")
        torch.save(small.vae.state_dict(), folder / "Wan2.1_VAE.pth")
        torch.save(keymap.umt5_to_official(untied(small.text_encoder)), folder / OFFICIAL_T5)
        if name == "i2v":
            torch.save(keymap.clip_to_official(small.image_encoder.model.state_dict()), folder / OFFICIAL_CLIP)
        write_tokenizer(folder / "google" / "umt5-xxl", small)
        return folder

    return write


def write_tokenizer(folder, small):
    folder.mkdir(parents=True)
    small.tokenizer.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")


@pytest.fixture
def diffusers_folder(small, tmp_path):
    """Writes a folder of diffusers' layout; gives it back."""

    def write(name="df", where="diffusers"):
        parts = {part: getattr(small, part) for part in ("vae", "text_encoder", "tokenizer")}
        image = small.image_encoder if name == "i2v" else None
        save_diffusers(tmp_path / where, transformer=getattr(small, name), **parts, image_encoder=image)
        return tmp_path / where

    return write


@pytest.fixture
def comfy(small, tmp_path):
    """Writes the folders that ComfyUI users have; gives back the transformer's file."""

    def write(name="t2v", prefix="model.diffusion_model.", where="ComfyUI"):
        models = tmp_path / where / "models"
        for folder in ("diffusion_models", "vae", "text_encoders", "clip_vision"):
            (models / folder).mkdir(parents=True)
        state = getattr(small, name).state_dict()
        file = models / "diffusion_models" / "film.safetensors"
        save_file({prefix + key: tensor for key, tensor in state.items()}, file)
        save_file(small.vae.state_dict(), models / "vae" / "wan_2.1_vae.safetensors")
        stray = {
            "spiece_model": torch.zeros(9, dtype=torch.uint8),
            "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
        }
        text = models / "text_encoders" / "umt5_xxl_fp16.safetensors"
        save_file(untied(small.text_encoder) | stray, text)
        clip = {f"vision_model.{key}": tensor for key, tensor in small.image_encoder.model.state_dict().items()}
        clip["visual_projection.weight"] = torch.zeros(4, 160)
        save_file(clip, models / "clip_vision" / "clip_vision_h.safetensors")
        write_tokenizer(models / "text_encoders" / "umt5-xxl", small)
        return file

    return write
