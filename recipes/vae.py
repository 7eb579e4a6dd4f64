"""The causal VAE of the embedded model: single frames, short clips, a wider encoder, and then the decoder alone.

`everreel train recipes/vae.py --run-dir runs/vae`, after the recipe world.
"""

from dataclasses import replace

from everreel.model.config import VAEConfig
from everreel.train.trainer import TrainerSettings
from everreel.train.vae import Draw, VAERecipe

CROP = (64, 64)
SETTINGS = TrainerSettings(
    steps=4_400,
    learning_rate=2e-3,
    betas=(0.9, 0.99),
    weight_decay=0.0,
    warmup=100,
    decay="cosine",
    decay_from=0.3,
    final_rate=0.03,
    ema_decay=0.997,
    precision="bf16",
    checkpoint_every=100,
    sample_every=500,
    log_every=20,
)

NARROW = VAERecipe(
    settings=SETTINGS,
    stages=(
        (2_000, (Draw(count=32, size=CROP),)),
        (
            2_400,
            (
                Draw(count=4, frames=9, size=CROP, share=0.6, splices=0.25),
                Draw(count=32, size=CROP, share=0.25),
                Draw(count=1, frames=17, size=(96, 96), share=0.15, splices=0.25),
            ),
        ),
    ),
    config=VAEConfig(base_dim=8, decoder_base_dim=16),
    checked_clips=16,
)

# Motion asks more of the encoder than pictures do: from here on it is twice as wide.
WIDE = replace(
    NARROW,
    settings=replace(SETTINGS, steps=4_600, learning_rate=1e-3, decay="linear", decay_from=0.45, ema_decay=0.998),
    stages=(
        (
            4_600,
            (
                Draw(count=4, frames=9, size=CROP, share=0.68, splices=0.25),
                Draw(count=2, frames=17, size=CROP, share=0.15, splices=0.25),
                Draw(count=32, size=CROP, share=0.17),
            ),
        ),
    ),
    config=VAEConfig(base_dim=16, decoder_base_dim=16),
    init="runs/vae/narrow/vae.safetensors",
)

# The latents stay what they are from here on, so the transformer trains beside it. Decibels are all that counts.
DECODER = replace(
    WIDE,
    settings=replace(SETTINGS, steps=1_100, learning_rate=3e-4, decay="linear", decay_from=0.2, ema_decay=0.998),
    stages=((1_100, WIDE.stages[0][1]),),
    init="runs/vae/wide/vae.safetensors",
    decoder_only=True,
    square=10.0,
    edges=0.25,
)

recipe = (("narrow", NARROW), ("wide", WIDE), ("decoder", DECODER))
