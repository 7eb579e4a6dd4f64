"""Stores, text and VAE of a moment's work, for every stage that trains on latents."""

import numpy as np
import pytest
import torch

from everreel.data.clips import ClipLabel, ClipStore, shard_writer
from everreel.data.draws import generator_for
from everreel.data.latents import EncodeSettings, encode_store
from everreel.model.config import TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.text_encoder import TextEncoder
from everreel.model.vae import CausalVAE
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.text import save_text_encoder, save_tokenizer, train_tokenizer
from everreel.train.trainer import TrainerSettings
from everreel.train.vae import save_vae
from everreel.world.scene import sample_scene


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    where = tmp_path_factory.mktemp("data")
    generator, pixels = generator_for(0), np.random.default_rng(0)
    for name, frames in (("films", 17), ("images", 1)):
        labels = [ClipLabel(sample_scene(generator), fps, 0.0) for fps in (16, 24, 24)]
        (where / name).mkdir()
        with shard_writer(where / name, 0, (3, frames, 32, 32), labels) as clips:
            clips[:] = pixels.integers(0, 256, clips.shape)
    torch.manual_seed(0)
    vae = CausalVAE(VAEConfig(base_dim=4, decoder_base_dim=4, num_res_blocks=1)).eval()
    save_vae(where, vae, vae.config)
    settings = EncodeSettings(stills=3, sentences=2, batch=17, dtype=torch.float32)
    for name in ("films", "images"):
        encode_store(where / "latents" / name, ClipStore(where / name), vae, settings)
    tokenizer = train_tokenizer(iter(["a red fox runs", "a blue swan swims"] * 30), 150)
    save_tokenizer(where, tokenizer)
    vocabulary = tokenizer.backend.get_vocab_size()
    save_text_encoder(
        where,
        TextEncoder(TextEncoderConfig(vocab_size=vocabulary, d_model=24, d_kv=8, d_ff=32, num_heads=3, num_layers=1)),
    )
    config = TransformerConfig(
        dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=2, inject_sample_info=True
    )
    return DiffusionForcingRecipe(
        settings=TrainerSettings(steps=40, learning_rate=3e-3, warmup=5, checkpoint_every=100, sample_every=100),
        config=config, films=str(where / "latents/films"), images=str(where / "latents/images"), text=str(where),
        vae=str(where), windows=((1, 0.5), (3, 0.5)), tokens=60, stills=0.5,
    )  # fmt: skip
