"""The causal VAE of the embedded model: single frames, then clips of up to 17 frames.

`everreel train recipes/vae.py --run-dir runs/vae`, after the recipe world.
"""

from everreel.model.config import VAEConfig
from everreel.train.trainer import TrainerSettings
from everreel.train.vae import Draw, VAERecipe

CROP = (64, 64)

recipe = VAERecipe(
    settings=TrainerSettings(
        steps=9_000,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        warmup=100,
        decay="linear",
        decay_from=0.3,
        final_rate=0.02,
        ema_decay=0.998,
        precision="bf16",
        checkpoint_every=250,
        sample_every=1_000,
        log_every=50,
        prefetch=1,
    ),
    stages=(
        (5_000, (Draw(count=24, size=CROP, share=3), Draw(count=6, share=1))),
        (
            4_000,
            (
                Draw(count=4, frames=9, size=CROP, share=5, splices=0.25),
                Draw(count=6, frames=5, size=CROP, share=2, splices=0.25),
                Draw(count=2, frames=17, size=CROP, share=2, splices=0.25),
                Draw(count=1, frames=9, share=1, splices=0.25),
                Draw(count=6, share=1),
            ),
        ),
    ),
    config=VAEConfig(base_dim=8, decoder_base_dim=16),
)
