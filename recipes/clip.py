"""A small CLIP of the film world, whose tokens of a picture the I2V model reads.

`everreel train recipes/clip.py --run-dir runs/clip`, after world.
"""

from everreel.train.clip import ClipRecipe
from everreel.train.trainer import TrainerSettings

recipe = ClipRecipe(
    settings=TrainerSettings(
        steps=1_500,
        learning_rate=1e-3,
        optimizer="muon",
        weight_decay=0.05,
        warmup=30,
        decay="linear",
        decay_from=0.4,
        final_rate=0.03,
        ema_decay=0.99,
        precision="bf16",
        checkpoint_every=100,
        sample_every=250,
        log_every=25,
    ),
    stores=("runs/world/images", "runs/world/films"),
    held_out="runs/world/films-held-out",
    text="tiny",
)
