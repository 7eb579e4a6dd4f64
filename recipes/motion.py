"""Motion learning: pairs of films of which one moves better, a reward that tells them apart, and a model that learns
from its own best and worst films.

`everreel train recipes/motion.py --run-dir runs/post_training`, after recipes/post_training.py, whose films it takes
and whose `before` are its films before. Source: section 4b of the paper. Then what was gained:
`python -m benchmarks.motion runs/post_training/before runs/post_training/after/motion --json
runs/post_training/motion.json`.
"""

from dataclasses import replace
from pathlib import Path

from everreel.evaluate.physics import judge, prefer
from everreel.train.motion.distort import Distortions
from everreel.train.motion.make import AutomaticPairsRecipe
from everreel.train.motion.match import Matching
from everreel.train.motion.preference import PreferenceRecipe
from everreel.train.motion.rated import LabelledPairsRecipe
from everreel.train.motion.reward import RewardRecipe
from everreel.train.motion.stages import MotionStagesRecipe
from everreel.train.motion.sweep import SweepRecipe
from everreel.train.run import load_recipe
from everreel.train.trainer import TrainerSettings

RUNS = "runs/post_training"
CLIPS, LATENTS = f"{RUNS}/world/films", f"{RUNS}/latents/films"
POST = dict(load_recipe(Path(__file__).with_name("post_training.py")))
AS_IS = POST["as-is"]

# Of the six kinds four are worth their time: films of words alone differ from the clip in far more than motion, so that
# nearly all are dropped, and a film of cached steps is one made again with little added. Frames go on too fast and not
# too slow: slow ones repeat frames, and a reward would learn to look for those. Twice as fast takes 49 frames for 7
# latent ones.
PAIRS = AutomaticPairsRecipe(
    clips=CLIPS,
    latents=LATENTS,
    count=320,
    frames=7,
    kinds=(("renoised", 0.35), ("from_first_frame", 0.35), ("frame_rate", 0.15), ("reversed", 0.15)),
    distortions=Distortions(rates=(2.0,)),
    processes=2,
    threads=1,
)

# Both films are the model's, so a reward cannot tell them by what is real. With a person in the place of the physics,
# RatedPairsRecipe makes such a store of what `everreel rate` exports; `pairs` below then names its folder too.
LABELLED = LabelledPairsRecipe(
    latents=LATENTS, prompts=40, films=4, judge=judge, prefer=prefer, seed=1, processes=2, threads=1
)

# AdamW as the reward was tried with; Muon had added up gradients of its convolutions, and has been put right since.
REWARD = RewardRecipe(
    settings=TrainerSettings(
        steps=800, learning_rate=1e-3, optimizer="adamw", weight_decay=0.05, warmup=40, decay="cosine", final_rate=0.05,
        ema_decay=0.99, checkpoint_every=100, sample_every=100, log_every=20,
    ),
    pairs=(f"{RUNS}/pairs", f"{RUNS}/labelled"),
)  # fmt: skip

# With beta 100 and nothing of the plain loss, pairs were told apart by growing worse at both of their films.
PREFERENCE = PreferenceRecipe(
    settings=TrainerSettings(
        steps=150, learning_rate=2e-5, weight_decay=0.0, warmup=10, decay="constant", ema_decay=0.95, precision="bf16",
        checkpoint_every=50, sample_every=1_000, log_every=10,
    ),
    model=AS_IS.model,
    beta=500.0,
    sft=20.0,
    tokens=8 * 9 * 60,
    mixture=AS_IS.mixture,
    causal=AS_IS.causal,
    stop_at=0.85,
    stop_over=30,
    check_pairs=60,
)  # fmt: skip
MOTION = MotionStagesRecipe(
    preference=PREFERENCE,
    prompts=((LATENTS, 1.0),),
    reward=f"{RUNS}/reward/reward",
    stages=2,
    prompts_per_stage=48,
    samples=4,
    match=Matching(),
    mixed=((f"{RUNS}/pairs", 0.15), (f"{RUNS}/labelled", 0.25)),
    processes=2,
    threads=1,
)
# How much beta matters: the pairs of the first stage, each beta from the same model.
SWEEP = SweepRecipe(
    preference=replace(
        PREFERENCE,
        settings=replace(PREFERENCE.settings, steps=60),
        pairs=f"{RUNS}/motion/stage-1/pairs",
        others=MOTION.mixed,
        stop_at=None,
        check_pairs=40,
    ),
    betas=(100.0, 500.0, 2500.0),
    count=16,
    reward=MOTION.reward,
    prompts=MOTION.prompts,
    processes=2,
    threads=1,
)

PACK = replace(dict(POST["models"])["as-is"], transformer=f"{RUNS}/motion/transformer.safetensors")
FILMS = replace(dict(POST["after"])["as-is"], model=f"{RUNS}/models/motion")
# The gentlest policy of the sweep, for what it gains with so few steps.
GENTLE = replace(PACK, transformer=f"{RUNS}/sweep/beta-2500/policy/transformer.safetensors")

recipe = (
    ("pairs", PAIRS),
    ("labelled", LABELLED),
    ("reward", REWARD),
    ("motion", MOTION),
    ("sweep", SWEEP),
    ("models", (("motion", PACK), ("motion-2500", GENTLE))),
    ("after", (("motion", FILMS), ("motion-2500", replace(FILMS, model=f"{RUNS}/models/motion-2500")))),
)
