"""The embedded model's fast student from its finished run, as it ships.

`everreel train recipes/tiny_fast.py --run-dir src/everreel/assets/tiny-fast`, after distill.
"""

from pathlib import Path

from everreel.train.pack import StudentPackRecipe
from everreel.train.run import load_recipe

FILMS = dict(load_recipe(Path(__file__).with_name("diffusion_forcing.py")))["details"]

# Of the rank 32 that was learnt, the last two say 0.1 % of what changes; all that ships stays below 40 MB without them.
recipe = StudentPackRecipe("runs/distill/regression/pytorch_lora_weights.safetensors", FILMS.config, rank=30)
