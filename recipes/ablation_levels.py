"""Which noise levels a window is trained on: equal ones, independent ones, or FoPP's that never fall along the film.

`everreel train recipes/ablation_levels.py`, after recipes/smallest.py. The first stage is the model of full sequences
that all three start from; they differ in `mixture` alone, and take the same number of steps on the same windows.
"""

from dataclasses import replace
from pathlib import Path

from everreel.diffusion.noise import LevelMixture
from everreel.train.run import load_recipe

FILMS = dict(dict(load_recipe(Path(__file__).with_name("smallest.py")))["diffusion_forcing"])["films"]
RUN = "runs/ablation_levels"
ONE_KIND = {"equal": 0.0, "independent": 0.0, "non_decreasing": 0.0, "clean_prefix": 0.0, "given_anywhere": 0.0}

FULL = replace(
    FILMS,
    settings=replace(FILMS.settings, steps=500, decay_from=0.8, final_rate=0.3),
    init="runs/smallest/diffusion_forcing/images/transformer.safetensors",
    mixture=LevelMixture(**ONE_KIND | {"equal": 1.0}, shift=2.0),
    stills=0.0,
    inside=0.0,  # a window from inside a film begins with known latents, which would be levels of a second kind
)
FROM_FULL = replace(
    FULL,
    settings=replace(FILMS.settings, steps=500),
    init=f"{RUN}/full/transformer.safetensors",
)

recipe = (
    ("full", FULL),
    *(
        (name, replace(FROM_FULL, mixture=LevelMixture(**ONE_KIND | {kind: 1.0}, shift=2.0)))
        for name, kind in (("equal", "equal"), ("independent", "independent"), ("fopp", "non_decreasing"))
    ),
)
