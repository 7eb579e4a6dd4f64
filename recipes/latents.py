"""What the transformer trains on: the clips as latents, with sentences and stills; and reconstructions for
the critic.

`everreel train recipes/latents.py --run-dir runs/latents`, after the recipes world and vae.
"""

from everreel.train.run import LatentRecipe

NAMES = ("films", "images", "films-2", "images-2", "films-4", "images-critic-4")

recipe = LatentRecipe(
    vae="runs/vae/wide",
    stores=tuple((name, f"runs/world/{name}") for name in NAMES),
    reconstructed_shards=(("films", 10), ("images", 10)),
    stills=4,
    sentences=4,
)
