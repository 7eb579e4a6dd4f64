"""The embedded model's fast student from its finished run, as it ships.

`everreel train recipes/tiny_fast.py --run-dir src/everreel/assets/tiny-fast`, after distill.
"""

from everreel.train.pack import StudentPackRecipe

recipe = StudentPackRecipe(lora="runs/distill/regression/pytorch_lora_weights.safetensors")
