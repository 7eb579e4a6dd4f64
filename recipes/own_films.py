"""Fine-tuning on one's own films; docs/training.md has the whole way. Any model and any prepared store will do.

`everreel prepare FOLDER -o runs/own_films/store`, then `everreel train recipes/own_films.py --run-dir runs/own_films`
"""

from everreel.diffusion.noise import LevelMixture
from everreel.train.own_films import OwnFilmsRecipe
from everreel.train.trainer import TrainerSettings

recipe = OwnFilmsRecipe(
    settings=TrainerSettings(
        steps=1_000,
        learning_rate=1e-4,
        weight_decay=0.01,
        warmup=50,
        decay="linear",
        decay_from=0.5,
        final_rate=0.1,
        ema_decay=0.995,
        precision="bf16",
        checkpoint_every=100,
        sample_every=1_000,
        log_every=10,
    ),
    model="tiny",
    films="runs/own_films/store",
    tokens=4_096,
    mixture=LevelMixture(equal=0.5, non_decreasing=0.2, clean_prefix=0.3, given_anywhere=0.0, shift=2.0),
)
