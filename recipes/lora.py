"""A style that the embedded model has never seen: the film world printed in sepia, learnt as a LoRA.

`everreel train recipes/lora.py --run-dir runs/lora` makes its own clips and latents, and trains; minutes on one core.
Then `everreel generate "a red fox runs through a forest" --lora runs/lora/sepia`.
"""

from everreel.data.clips import StoreLayout
from everreel.diffusion.noise import LevelMixture
from everreel.train.lora import LoraRecipe
from everreel.train.run import LatentRecipe, WorldRecipe
from everreel.train.trainer import TrainerSettings

WIDE = ((96, 160, 1.0),)

WORLD = WorldRecipe(
    stores=(
        ("films", StoreLayout(count=40, num_frames=33, sizes=WIDE, seed=11, shard_clips=8, style="sepia")),
        ("images", StoreLayout(count=400, num_frames=1, sizes=WIDE, seed=12, shard_clips=100, style="sepia")),
        (
            "held-out",
            StoreLayout(
                count=8, num_frames=33, sizes=WIDE, seed=13, split="held_out", shard_clips=8, style="sepia"
            ),
        ),
    ),
)  # fmt: skip

LATENTS = LatentRecipe(
    vae="src/everreel/assets/tiny",
    stores=tuple((name, f"runs/lora/world/{name}") for name, _ in WORLD.stores),
    stills=2,
)

SEPIA = LoraRecipe(
    settings=TrainerSettings(
        steps=200,
        learning_rate=3e-3,
        weight_decay=0.0,
        warmup=10,
        decay="linear",
        decay_from=0.3,
        final_rate=0.05,
        ema_decay=0.95,
        precision="bf16",
        checkpoint_every=100,
        sample_every=100,
        log_every=10,
    ),
    model="tiny",
    films="runs/lora/latents/films",
    images="runs/lora/latents/images",
    held_out="runs/lora/latents/held-out",
    windows=((1, 0.6), (3, 0.2), (5, 0.2)),
    tokens=720,
    rank=16,
    alpha=16.0,
    mixture=LevelMixture(equal=0.6, non_decreasing=0.2, clean_prefix=0.2, given_anywhere=0.0, shift=3.0),
    sample_prompts=(
        "a red fox runs right through a snowy forest at dusk, wide shot, camera pans right",
        "a blue elephant stays in a desert at noon, medium shot, front view, static camera",
        "close-up of a happy woman in a city at night",
        "a yellow duck swims left across a lake at dawn, full shot",
    ),
    sample_frames=3,
)

recipe = (("world", WORLD), ("latents", LATENTS), ("sepia", SEPIA))
