"""The critic: the fields of a scene from a film. Single pictures first, which are twelve times cheaper, then films.

`everreel train recipes/critic.py --run-dir runs/critic`, after the recipes world and latents.
"""

from dataclasses import replace

from everreel.caption.critic import CriticConfig
from everreel.train.critic import CriticRecipe
from everreel.train.trainer import TrainerSettings

IMAGES = CriticRecipe(
    settings=TrainerSettings(
        steps=2_500,
        learning_rate=5e-3,
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
    images=("runs/world/images", "runs/latents/images-reconstructed"),
    held_out="runs/world/films-held-out",
    images_per_step=96,
    network=CriticConfig(depths=(1, 1, 1), fine=0),
)
FILMS = replace(
    IMAGES,
    settings=replace(IMAGES.settings, steps=5_500, learning_rate=3e-3),
    films=("runs/world/films-critic", "runs/world/films", "runs/latents/films-reconstructed"),
    films_per_step=8,
    images_per_step=64,
    init="runs/critic/images/critic.safetensors",
)

# More films, and eyes that see finer and deeper: those of the stages before, and what is new begins with nothing.
GROWN = replace(
    FILMS,
    settings=replace(IMAGES.settings, steps=3_000, learning_rate=2e-3, ema_decay=0.998),
    films=(
        "runs/world/films-critic",
        "runs/world/films-critic-2",
        "runs/world/films-critic-3",
        "runs/world/films",
        "runs/latents/films-reconstructed",
    ),
    network=CriticConfig(),
    init="runs/critic/films/critic.safetensors",
)

# These stages were run while Muon added up the gradients of convolutions from step to step. Put right, 3,800 steps more
# on 6,760 other films bring the training loss from 4.7 to 0.9 and leave held-out films where they were: two thirds of
# the wrong subjects are in long shots, and of pictures that they were trained on they read 42 % of those, and 82 % of
# the others. They had not learnt by heart, they saw too little. So it looks twice, the second time at what it takes for
# the subject. This was trained with the gradients put right, without reconstructions, 48 pictures a step, and with a
# cosine of its own. Of 256 held-out films docs/captioner.md has the subject right in 91 % for 87, the position in 89
# for 85, the place in 93 for 91, the action in 77 for 74; in long shots the subject still in but 36 of 55. There the
# square is nearly the whole picture, as what is a little likely everywhere counts as well. With one that is as small as
# the subject, 820 steps more had 34 of 55 of these, and in all 222 subjects for 226: no gain yet.
TWICE = replace(
    GROWN,
    settings=replace(GROWN.settings, steps=2_200, ema_decay=0.995, seed=9, threads=1),
    films=("runs/world/films-4", "runs/world/films-critic-4"),
    images=("runs/world/images-4", "runs/world/images-critic-4"),
    images_per_step=48,
    network=CriticConfig(twice=True),
    init="runs/critic/grown/critic.safetensors",
)

recipe = (("images", IMAGES), ("films", FILMS), ("grown", GROWN), ("twice", TWICE))
