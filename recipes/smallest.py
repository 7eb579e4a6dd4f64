"""The whole recipe at its smallest, from nothing to a model that has been measured: `make recipe`.

`everreel train recipes/smallest.py`, in hours on two cores. Each stage reads what the ones before it left in
`runs/smallest`; run again, it goes on where it was stopped. Pictures are small first: a quarter of the tokens teach
the words, and the full size then needs fewer steps.
"""

from dataclasses import replace
from pathlib import Path

from everreel.data.clips import StoreLayout
from everreel.diffusion.noise import LevelMixture
from everreel.evaluate.follow import FilmSettings
from everreel.evaluate.stage import EvaluateRecipe
from everreel.model.config import TransformerConfig, VAEConfig
from everreel.shapes import LATENT_CHANNELS, TEMPORAL
from everreel.train.clip import NETWORK
from everreel.train.diffusion_forcing import DiffusionForcingRecipe, staged
from everreel.train.distill import RegressionRecipe, Student
from everreel.train.lora import AdapterShape
from everreel.train.pack import PackRecipe, StudentPackRecipe
from everreel.train.run import LatentRecipe, WorldRecipe, load_recipe
from everreel.train.text import TextRecipe
from everreel.train.trainer import TrainerSettings
from everreel.train.trajectories import Strides, TrajectoryRecipe
from everreel.train.vae import Draw, VAERecipe

RUNS = "runs/smallest"
LOW, FULL = ((48, 80, 1.0),), ((96, 160, 1.0),)

WORLD = WorldRecipe(
    stores=(
        ("films-held-out", StoreLayout(count=64, num_frames=33, sizes=FULL, split="held_out", seed=2)),
        ("images-low", StoreLayout(count=20_000, num_frames=1, sizes=LOW, seed=4, shard_clips=500)),
        ("images", StoreLayout(count=20_000, num_frames=1, sizes=FULL, seed=1, shard_clips=500)),
        ("films", StoreLayout(count=2_000, num_frames=33, sizes=FULL, seed=0)),
    ),
    processes=2,
)

TEXT = TextRecipe(
    settings=TrainerSettings(
        steps=1_200, learning_rate=2e-3, weight_decay=0.02, decay="cosine", ema_decay=0.995, precision="bf16",
        checkpoint_every=200, sample_every=400,
    ),
    d_model=96, num_layers=3, num_heads=3, d_ff=256, tokenizer_sentences=20_000,
)  # fmt: skip

VAE = VAERecipe(
    settings=TrainerSettings(
        steps=3_000, learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.0, decay="cosine", decay_from=0.3,
        final_rate=0.03, ema_decay=0.997, precision="bf16", checkpoint_every=100,
    ),
    stages=(
        (1_500, (Draw(count=32, size=(48, 48)),)),
        (
            1_500,
            (
                Draw(count=4, frames=9, size=(48, 48), share=0.7, splices=0.25),
                Draw(count=32, size=(48, 48), share=0.3),
            ),
        ),
    ),
    stores=(f"{RUNS}/world/images", f"{RUNS}/world/films"),
    held_out=f"{RUNS}/world/films-held-out",
    config=VAEConfig(base_dim=8, decoder_base_dim=8),
    checked_clips=16,
)  # fmt: skip

LATENTS = LatentRecipe(
    vae=f"{RUNS}/vae",
    stores=tuple((name, f"{RUNS}/world/{name}") for name in ("images-low", "images", "films")),
)

IMAGES_LOW = DiffusionForcingRecipe(
    settings=TrainerSettings(
        steps=3_000, learning_rate=2e-3, optimizer="muon", weight_decay=0.01, decay="linear", decay_from=0.8,
        final_rate=0.2, precision="bf16", checkpoint_every=100,
    ),
    config=TransformerConfig(
        dim=128, ffn_dim=512, freq_dim=128, text_dim=96, num_heads=2, num_layers=6, inject_sample_info=True
    ),
    films=f"{RUNS}/latents/films",
    images=f"{RUNS}/latents/images-low",
    text=f"{RUNS}/text",
    vae=f"{RUNS}/vae",
    windows=((1, 1.0),),
    tokens=128 * 15,
    mixture=LevelMixture(equal=1.0, non_decreasing=0.0, clean_prefix=0.0, given_anywhere=0.0, shift=1.5),
)  # fmt: skip
IMAGES = replace(
    IMAGES_LOW,
    settings=replace(IMAGES_LOW.settings, steps=2_000, learning_rate=1e-3, decay_from=0.7, final_rate=0.1),
    images=f"{RUNS}/latents/images",
    tokens=64 * 60,
    mixture=replace(IMAGES_LOW.mixture, shift=2.0),
)
FILMS = replace(
    IMAGES,
    settings=replace(IMAGES.settings, steps=1_600, learning_rate=5e-4, decay_from=0.4, final_rate=0.03),
    windows=((1, 0.3), (5, 0.3), (9, 0.4)),
    tokens=8 * 9 * 60,
    mixture=LevelMixture(equal=0.5, non_decreasing=0.2, clean_prefix=0.3, given_anywhere=0.0, shift=2.0),
    causal=0.0,
    sample_prompts=("a red fox runs right through a snowy forest at dusk, wide shot, camera pans right",),
    sample_frames=9,
)
# Context-causal: a block sees itself and the ones before it, so that what is kept of them stays right. Some windows
# stay full, for films that are made all at once.
CAUSAL = replace(
    FILMS,
    settings=replace(FILMS.settings, steps=600, warmup=50, decay_from=0.3),
    windows=((5, 0.3), (9, 0.7)),
    mixture=LevelMixture(equal=0.2, non_decreasing=0.4, clean_prefix=0.4, given_anywhere=0.0, shift=2.0),
    causal=0.75,
)

TEACHER = f"{RUNS}/diffusion_forcing/causal/transformer.safetensors"
TRAJECTORIES = TrajectoryRecipe(
    teacher=TEACHER, config=FILMS.config, text=FILMS.text, prompts=f"{RUNS}/latents/films", count=160, frames=9,
    strides=Strides(steps=4, substeps=4, shift=3.0, block=5, context=20), guidance_scale=5.0,
)  # fmt: skip
REGRESSION = RegressionRecipe(
    settings=TrainerSettings(
        steps=400, learning_rate=2e-3, weight_decay=0.0, warmup=20, decay="linear", decay_from=0.3, final_rate=0.03,
        ema_decay=0.99, precision="bf16", checkpoint_every=100, sample_every=200,
    ),
    config=FILMS.config,
    student=Student(TEACHER, adapter=AdapterShape(rank=16, alpha=16.0)),
    text=FILMS.text,
    vae=f"{RUNS}/vae",
    trajectories=f"{RUNS}/distill/trajectories",
    tokens=8 * 9 * 60,
    sample_prompts=FILMS.sample_prompts,
    sample_frames=9,
)  # fmt: skip

MODEL = PackRecipe(
    config=FILMS.config,
    transformer=TEACHER,
    vae=f"{RUNS}/vae",
    text=f"{RUNS}/text",
    shift=3.0,
    runs=RUNS,
)
BEFORE_CAUSAL = replace(MODEL, transformer=f"{RUNS}/diffusion_forcing/films/transformer.safetensors")
# The same model in few steps: everreel generate --model runs/smallest/model --lora runs/smallest/model-fast
FAST = StudentPackRecipe(f"{RUNS}/distill/regression/pytorch_lora_weights.safetensors", FILMS.config)

# All at once; and in blocks, of which keys and values are kept.
AT_ONCE = FilmSettings(num_films=32, num_frames=33, height=96, width=160, num_inference_steps=20)
IN_BLOCKS = replace(AT_ONCE, ar_step=20, causal_block_size=3, cache=True)
STUDENT = replace(AT_ONCE, num_inference_steps=None)

# What comes after, each stage from the model of before; `runs/smallest/evaluate/causal` has its films.
POST = {
    "balanced": "balanced/transformer.safetensors",
    "camera": "camera/transformer.safetensors",
    "best": "best/transformer.safetensors",
    "motion": "motion/stages/transformer.safetensors",
}
POST_MODELS = {name: replace(MODEL, transformer=f"{RUNS}/post/{weights}") for name, weights in POST.items()}
IMAGE_TO_VIDEO = replace(
    MODEL,
    config=replace(FILMS.config, in_dim=2 * LATENT_CHANNELS + TEMPORAL, image_dim=NETWORK.dim),
    transformer=f"{RUNS}/post/image_to_video/transformer.safetensors",
    image_encoder=f"{RUNS}/post/clip",
    notes=("It makes films of a picture, which is shown beside the noise.",),
)

recipe = (
    ("world", WORLD),
    ("text", TEXT),
    ("vae", VAE),
    ("latents", LATENTS),
    (
        "diffusion_forcing",
        staged(
            ("low", IMAGES_LOW),
            ("images", IMAGES),
            ("films", FILMS),
            ("causal", CAUSAL),
            run_dir=f"{RUNS}/diffusion_forcing",
        ),
    ),
    ("distill", (("trajectories", TRAJECTORIES), ("regression", REGRESSION))),
    ("model-films", BEFORE_CAUSAL),
    ("model", MODEL),
    ("model-fast", FAST),
    (
        "evaluate",
        (
            ("films", EvaluateRecipe(f"{RUNS}/model-films", films=AT_ONCE)),
            ("films-in-blocks", EvaluateRecipe(f"{RUNS}/model-films", films=IN_BLOCKS)),
            ("causal", EvaluateRecipe(f"{RUNS}/model", films=AT_ONCE)),
            ("causal-in-blocks", EvaluateRecipe(f"{RUNS}/model", films=IN_BLOCKS)),
            ("fast", EvaluateRecipe(f"{RUNS}/model", lora=(f"{RUNS}/model-fast",), films=STUDENT)),
        ),
    ),
    (
        "post",
        (
            *load_recipe(Path(__file__).with_name("smallest_post.py")),
            ("models", (*POST_MODELS.items(), ("image_to_video", IMAGE_TO_VIDEO))),
            (
                "evaluate",
                tuple((name, EvaluateRecipe(f"{RUNS}/post/models/{name}", films=AT_ONCE)) for name in POST_MODELS),
            ),
        ),
    ),
)
