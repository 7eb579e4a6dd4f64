"""The other stages of post-training, each from the embedded model with its films before and after: balanced by
subjects, the camera, and the best clips at a higher resolution. Motion by preferences is recipes/motion.py, which comes
after this one; a film's first picture is recipes/image_to_video.py.

`everreel train recipes/post_training.py --run-dir runs/post_training`. Source: section 4 of the paper; its order is
balance, motion, higher resolution. Here each begins at the model that ships, which diffusion forcing has made already,
so that each gain is that of the stage alone. Steps are few: it is hours on two cores.
"""

from dataclasses import replace
from pathlib import Path

from everreel.data.clips import StoreLayout
from everreel.diffusion.noise import LevelMixture
from everreel.evaluate.follow import FilmSettings
from everreel.evaluate.stage import EvaluateRecipe
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.labels import LabelRecipe
from everreel.train.pack import PackRecipe
from everreel.train.run import LatentRecipe, WorldRecipe, load_recipe
from everreel.train.selection import Balance, Best
from everreel.train.trainer import TrainerSettings

RUNS, MODEL, ASSETS = "runs/post_training", "tiny", "src/everreel/assets/tiny"
CONFIG = dict(load_recipe(Path(__file__).with_name("diffusion_forcing.py")))["words"].config
FULL, LARGE = ((96, 160, 1.0),), ((144, 240, 1.0),)
# A world of people, as films are: 85 % of the clips before balancing, which is the paper's share.
PEOPLE = (("subject", "woman", 60.0), ("subject", "man", 60.0))
EVEN = StoreLayout(count=640, num_frames=49, sizes=FULL, slow_share=0.0, seed=20, shard_clips=32)
PICTURES = StoreLayout(count=6_000, num_frames=1, sizes=FULL, slow_share=0.0, seed=21, shard_clips=500)

WORLD = WorldRecipe(
    stores=(
        ("films-held-out", replace(EVEN, count=128, split="held_out", seed=22)),
        ("films", EVEN),
        ("images", PICTURES),
        ("tail-films", replace(EVEN, num_frames=33, seed=30, odds=PEOPLE)),
        ("tail-images", replace(PICTURES, count=3_000, seed=31, odds=PEOPLE)),
        ("hq-films", replace(EVEN, count=256, num_frames=33, sizes=LARGE, seed=32)),
        ("hq-images", replace(PICTURES, count=1_500, sizes=LARGE, seed=33)),
    ),
)
STORES = tuple(name for name, _ in WORLD.stores)
LATENTS = LatentRecipe(vae=ASSETS, stores=tuple((name, f"{RUNS}/world/{name}") for name in STORES))
LABELS = tuple((name, LabelRecipe(store=f"{RUNS}/latents/{name}", clips=f"{RUNS}/world/{name}")) for name in STORES[1:])

SETTINGS = TrainerSettings(
    steps=160, learning_rate=5e-4, optimizer="muon", weight_decay=0.01, warmup=20, decay="linear", decay_from=0.3,
    final_rate=0.03, ema_decay=0.99, precision="bf16", checkpoint_every=50, sample_every=1_000, log_every=10,
)  # fmt: skip
AS_IS = DiffusionForcingRecipe(
    settings=SETTINGS,
    model=MODEL,
    films=f"{RUNS}/latents/tail-films",
    images=f"{RUNS}/latents/tail-images",
    windows=((1, 0.4), (5, 0.1), (9, 0.5)),
    tokens=8 * 9 * 60,
    mixture=LevelMixture(equal=0.5, non_decreasing=0.2, clean_prefix=0.3, given_anywhere=0.0, shift=2.0),
)
BALANCED = replace(AS_IS, select=(Balance("type", cap=0.4),))
CAMERA = replace(
    AS_IS,
    settings=replace(SETTINGS, steps=220),
    films=f"{RUNS}/latents/films",
    images=None,
    windows=((9, 0.5), (13, 0.5)),
    select=(Balance("camera_motion", cap=0.13),),
)
BEST = replace(
    AS_IS,
    films=f"{RUNS}/latents/hq-films",
    images=f"{RUNS}/latents/hq-images",
    windows=((1, 0.5), (5, 0.1), (9, 0.4)),
    tokens=4 * 9 * 135,
    select=(Best("sharpness", share=0.5),),
)
STAGES = {"as-is": AS_IS, "balanced": BALANCED, "camera": CAMERA, "best": BEST}

# Before and after in one way, whatever the embedded model recommends: guidance in all steps, or, for the large ones,
# from the level on that it recommends, which saves a fifth of their time.
FILMS = FilmSettings(
    num_films=64, num_frames=33, height=96, width=160, num_inference_steps=20, guidance_level=1.0, guidance_until=0.0
)  # fmt: skip
LARGER = replace(FILMS, height=144, width=240, guidance_level=0.85)

# Each stage's model as `everreel generate --model` reads it, and its films of held-out prompts.
PACK = PackRecipe(
    config=CONFIG, transformer=f"{RUNS}/as-is/transformer.safetensors", vae=ASSETS, text=ASSETS, shift=3.0, runs=RUNS
)
MODELS = {name: replace(PACK, transformer=f"{RUNS}/{name}/transformer.safetensors") for name in STAGES}
AFTER = {name: EvaluateRecipe(f"{RUNS}/models/{name}", films=LARGER if name == "best" else FILMS) for name in STAGES}

recipe = (
    ("world", WORLD),
    ("latents", LATENTS),
    ("labels", LABELS),
    ("before", EvaluateRecipe(MODEL, films=FILMS)),
    ("before-larger", EvaluateRecipe(MODEL, films=LARGER)),
    *STAGES.items(),
    ("models", tuple(MODELS.items())),
    ("after", tuple(AFTER.items())),
)
