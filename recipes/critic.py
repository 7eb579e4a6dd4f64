"""The critic: the fields of a scene from a film.

`everreel train recipes/critic.py --run-dir runs/critic`, after the recipes world and latents.
"""

from everreel.train.critic import CriticRecipe
from everreel.train.trainer import TrainerSettings

recipe = CriticRecipe(
    settings=TrainerSettings(
        steps=3_000,
        learning_rate=1.5e-3,
        weight_decay=0.05,
        warmup=150,
        decay="cosine",
        ema_decay=0.998,
        precision="bf16",
        checkpoint_every=100,
        sample_every=250,
        log_every=20,
    ),
    films=("runs/world/films-critic", "runs/world/films", "runs/latents/films-reconstructed"),
    images=("runs/world/images", "runs/latents/images-reconstructed"),
    held_out="runs/world/films-held-out",
)
