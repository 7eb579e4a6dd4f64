"""The tiny captioner taught more films of its world: the shipped critic, which it reads with, goes on from its weights.

`everreel train recipes/captioner_tiny.py --run-dir runs/captioner_tiny`, after the recipes world and latents, or with
stores of one's own. Afterwards the folder `runs/captioner_tiny/critic` is a captioner: `everreel caption FILES
--captioner runs/captioner_tiny/critic`; `report.json` beside it has the accuracy of each field on the held-out films.
"""

from everreel.train.critic import CriticRecipe
from everreel.train.trainer import TrainerSettings

recipe = CriticRecipe(
    settings=TrainerSettings(
        steps=1_000,
        learning_rate=1e-3,
        optimizer="muon",
        weight_decay=0.05,
        warmup=50,
        decay="cosine",
        ema_decay=0.995,
        precision="bf16",
        checkpoint_every=100,
        sample_every=500,
        log_every=20,
    ),
    films=("runs/world/films-critic", "runs/world/films", "runs/latents/films-reconstructed"),
    images=("runs/world/images", "runs/latents/images-reconstructed"),
    held_out="runs/world/films-held-out",
    films_per_step=8,
    images_per_step=64,
    init="shipped",
)
