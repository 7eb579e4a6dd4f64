"""The tiny captioner taught more films of its world: the shipped critic, which it reads with, goes on from its weights.

`everreel train recipes/captioner_tiny.py --run-dir runs/captioner_tiny`, after the recipes world and latents, or with
stores of one's own. Afterwards the folder `runs/captioner_tiny/critic` is a captioner: `everreel caption FILES
--captioner runs/captioner_tiny/critic`; `report.json` beside it has the accuracy of each field on the held-out films.
"""

from dataclasses import replace
from pathlib import Path

from everreel.caption.critic import CriticConfig
from everreel.train.run import load_recipe

FILMS = dict(load_recipe(Path(__file__).with_name("critic.py")))["films"]

recipe = replace(
    FILMS,
    settings=replace(FILMS.settings, steps=1_000, learning_rate=1e-3),
    network=CriticConfig(twice=True),
    init="shipped",
)
