"""The embedded model from its finished runs, as it ships.

`everreel train recipes/tiny.py --run-dir src/everreel/assets/tiny`, after vae, text and diffusion_forcing.
"""

from pathlib import Path

from everreel.train.pack import PackRecipe
from everreel.train.run import load_recipe

STAGES = dict(load_recipe(Path(__file__).with_name("diffusion_forcing.py")))

recipe = PackRecipe(
    config=STAGES["words"].config,
    transformer="runs/diffusion_forcing/details/transformer.safetensors",
    vae="runs/vae/decoder",
    text="runs/text",
    shift=3.0,
    notes=(
        "Of the films' stages, the first two were run when windows from inside a film could begin with noise, and the "
        "second was stopped before its end.",
        "The stages subjects and words weigh the subject in the loss. Of their pictures, images-2, 6,500 were of "
        "another seed than the recipe's, and 7% did not show the subject that their sentences name; of their films, "
        "films-2 and films-3, the recipe makes as many, all of 97 frames.",
        "The stage details saw images-4 beside images-critic-4.",
    ),
)
