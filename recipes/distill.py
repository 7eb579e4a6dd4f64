"""The embedded model's fast student: its teacher's trajectories, four strides learnt from them, then scores matched.

`everreel train recipes/distill.py --run-dir runs/distill`, after diffusion_forcing. What comes out is a LoRA of the
teacher, `pytorch_lora_weights.safetensors` of the run's last stage, that says how films are made with it.
"""

from pathlib import Path

from everreel.train.distill import RegressionRecipe, Student
from everreel.train.lora import AdapterShape
from everreel.train.run import load_recipe
from everreel.train.trainer import TrainerSettings
from everreel.train.trajectories import Strides, TrajectoryRecipe

FILMS = dict(load_recipe(Path(__file__).with_name("diffusion_forcing.py")))["details"]
TEACHER = "runs/diffusion_forcing/details/transformer.safetensors"
ADAPTER = AdapterShape(rank=32, alpha=32.0)
STRIDES = Strides(steps=4, substeps=4, shift=3.0, block=5, context=20)

TRAJECTORIES = TrajectoryRecipe(
    teacher=TEACHER, config=FILMS.config, text=FILMS.text, prompts=FILMS.images, count=160, frames=25,
    strides=STRIDES, guidance_scale=5.0, processes=2, threads=1,
)  # fmt: skip

# More of the same is worth nothing: 256 trajectories and 1,200 steps read 67.4 % where these read 67.1 (64 films of 97
# frames, +0.4 points, -2.0 to +2.7), so what ships is of these.
REGRESSION = RegressionRecipe(
    settings=TrainerSettings(
        steps=500,
        learning_rate=2e-3,
        weight_decay=0.0,
        warmup=20,
        decay="linear",
        decay_from=0.3,
        final_rate=0.03,
        ema_decay=0.99,
        precision="bf16",
        checkpoint_every=100,
        sample_every=200,
        log_every=25,
        threads=2,
    ),
    config=FILMS.config,
    student=Student(TEACHER, adapter=ADAPTER),
    text=FILMS.text,
    vae=FILMS.vae,
    trajectories="runs/distill/trajectories",
    tokens=4320,
    sample_prompts=FILMS.sample_prompts,
)

recipe = (("trajectories", TRAJECTORIES), ("regression", REGRESSION))
