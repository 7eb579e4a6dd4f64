"""The embedded model from its finished runs, as it ships.

`everreel train recipes/tiny.py --run-dir src/everreel/assets/tiny`, after vae, text and diffusion_forcing.
"""

from pathlib import Path

from everreel.train.pack import PackRecipe
from everreel.train.run import load_recipe

STAGES = dict(load_recipe(Path(__file__).with_name("diffusion_forcing.py")))

recipe = PackRecipe(
    config=STAGES["films"].config,
    transformer="runs/diffusion_forcing/films/transformer.safetensors",
    vae="runs/vae/wide",
    text="runs/text",
    shift=3.0,
    notes=(
        "It learnt from the first 864 of the 1,600 films, and from all pictures.",
        "The last 600 of its 1,300 steps on films came after a restart with a shorter decay than the first 700.",
    ),
)
