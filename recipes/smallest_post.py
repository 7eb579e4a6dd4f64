"""The other stages of post-training at their smallest, each from `runs/smallest/model`: stages of recipes/smallest.py,
which packs what comes out and measures it.

Balanced by subjects, the camera, the sharpest clips at a higher resolution, motion by preferences, and films from their
first picture. recipes/post_training.py, motion.py and image_to_video.py have these at the embedded model's size.
"""

from dataclasses import replace

from everreel.data.clips import StoreLayout
from everreel.diffusion.noise import LevelMixture
from everreel.evaluate.physics import judge, prefer
from everreel.train.clip import ClipRecipe
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.generate import Way
from everreel.train.image_to_video import ImageToVideoRecipe
from everreel.train.labels import LabelRecipe
from everreel.train.motion.distort import Distortions
from everreel.train.motion.make import AutomaticPairsRecipe
from everreel.train.motion.match import Matching
from everreel.train.motion.preference import PreferenceRecipe
from everreel.train.motion.rated import LabelledPairsRecipe
from everreel.train.motion.reward import RewardRecipe
from everreel.train.motion.stages import MotionStagesRecipe
from everreel.train.pictures import PictureRecipe
from everreel.train.run import LatentRecipe, WorldRecipe
from everreel.train.selection import Balance, Best
from everreel.train.trainer import TrainerSettings

RUNS, MODEL = "runs/smallest", "runs/smallest/model"
POST, FILMS, IMAGES = f"{RUNS}/post", f"{RUNS}/latents/films", f"{RUNS}/latents/images"

# A world in which 85 % of the clips show people, and one of larger clips.
PEOPLE = (("subject", "woman", 60.0), ("subject", "man", 60.0))
FULL, LARGE = ((96, 160, 1.0),), ((144, 240, 1.0),)
WORLD = WorldRecipe(
    stores=(
        ("tail-films", StoreLayout(count=320, num_frames=33, sizes=FULL, seed=30, odds=PEOPLE)),
        ("large-films", StoreLayout(count=128, num_frames=33, sizes=LARGE, seed=31)),
    ),
    processes=2,
)
STORES = tuple(name for name, _ in WORLD.stores)
LATENTS = LatentRecipe(vae=MODEL, stores=tuple((name, f"{POST}/world/{name}") for name in STORES))
LABELS = (
    *((name, LabelRecipe(store=f"{POST}/latents/{name}", clips=f"{POST}/world/{name}")) for name in STORES),
    ("films", LabelRecipe(store=FILMS, clips=f"{RUNS}/world/films", measured=False)),
)

SETTINGS = TrainerSettings(
    steps=200, learning_rate=5e-4, optimizer="muon", weight_decay=0.01, warmup=20, decay="linear", decay_from=0.3,
    final_rate=0.03, ema_decay=0.99, precision="bf16", checkpoint_every=50,
)  # fmt: skip
BALANCED = DiffusionForcingRecipe(
    settings=SETTINGS,
    model=MODEL,
    films=f"{POST}/latents/tail-films",
    windows=((1, 0.4), (5, 0.1), (9, 0.5)),
    tokens=8 * 9 * 60,
    mixture=LevelMixture(equal=0.5, non_decreasing=0.2, clean_prefix=0.3, given_anywhere=0.0, shift=2.0),
    select=(Balance("type", cap=0.4),),
)
CAMERA = replace(BALANCED, films=FILMS, windows=((9, 1.0),), select=(Balance("camera_motion", cap=0.2),))
BEST = replace(
    BALANCED, films=f"{POST}/latents/large-films", tokens=4 * 9 * 135, select=(Best("sharpness", share=0.5),)
)

# So small a model shows little of what it is asked for: films have to look alike, and no more.
ALIKE = Matching(
    alignment=1.0, least_alignment=0.0, same=(), sharpness=0.2, brightness=0.2, saturation=0.25, contrast=0.15
)  # fmt: skip
WAY = Way(20, guidance_scale=5.0)
PAIRS = AutomaticPairsRecipe(
    clips=f"{RUNS}/world/films", count=96, model=MODEL, latents=FILMS, frames=5,
    kinds=(("renoised", 0.35), ("from_first_frame", 0.35), ("frame_rate", 0.15), ("reversed", 0.15)),
    held_out=0.2, way=WAY, distortions=Distortions(rates=(2.0,)), matching=ALIKE, processes=2, threads=1,
)  # fmt: skip
LABELLED = LabelledPairsRecipe(
    latents=FILMS, prompts=16, judge=judge, prefer=prefer, model=MODEL, films=3, held_out=0.2, way=WAY, matching=ALIKE,
    most_ties=1.0, processes=2, threads=1,
)  # fmt: skip
REWARD = RewardRecipe(
    settings=TrainerSettings(
        steps=300, learning_rate=1e-3, weight_decay=0.05, warmup=20, ema_decay=0.98, checkpoint_every=100,
        sample_every=100,
    ),
    pairs=(f"{POST}/motion/pairs", f"{POST}/motion/labelled"),
)  # fmt: skip
MOTION = MotionStagesRecipe(
    preference=PreferenceRecipe(
        settings=TrainerSettings(
            steps=60, learning_rate=5e-5, weight_decay=0.0, warmup=10, decay="constant", ema_decay=0.95,
            precision="bf16", checkpoint_every=50,
        ),
        model=MODEL, tokens=4 * 9 * 60, mixture=BALANCED.mixture, causal=BALANCED.causal, check_pairs=40,
    ),
    prompts=((FILMS, 1.0),), reward=f"{POST}/motion/reward/reward", stages=1, prompts_per_stage=24, samples=4, way=WAY,
    mixed=((f"{POST}/motion/pairs", 0.25),), processes=2, threads=1,
)  # fmt: skip

CLIP = ClipRecipe(
    settings=replace(SETTINGS, steps=400, learning_rate=1e-3, weight_decay=0.05),
    stores=(f"{RUNS}/world/images", f"{RUNS}/world/films"),
    held_out=f"{RUNS}/world/films-held-out",
    text=MODEL,
)
PICTURES = PictureRecipe(latents=FILMS, vae=MODEL, image_encoder=f"{POST}/clip", clips=f"{RUNS}/world/films")
IMAGE_TO_VIDEO = ImageToVideoRecipe(
    settings=replace(SETTINGS, learning_rate=1e-3),
    films=FILMS,
    pictures=f"{POST}/pictures",
    model=MODEL,
    windows=((5, 0.4), (9, 0.6)),
    tokens=8 * 9 * 60,
)

recipe = (
    ("world", WORLD),
    ("latents", LATENTS),
    ("labels", LABELS),
    ("balanced", BALANCED),
    ("camera", CAMERA),
    ("best", BEST),
    ("motion", (("pairs", PAIRS), ("labelled", LABELLED), ("reward", REWARD), ("stages", MOTION))),
    ("clip", CLIP),
    ("pictures", PICTURES),
    ("image_to_video", IMAGE_TO_VIDEO),
)
