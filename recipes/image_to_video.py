"""Films from their first picture: the embedded model widened, trained on, and packed as a folder.

`everreel train recipes/image_to_video.py --run-dir runs/image_to_video`, after world, latents and clip. What comes out
is `runs/image_to_video/model`: `everreel generate --model runs/image_to_video/model --image first.png "..."`.
What it keeps of the picture and how it moves: `python -m benchmarks.first_frame runs/image_to_video/model`. The run of
which docs/recipe.md tells is one of 200 steps, with a CLIP of 500: so few do not teach it to keep the picture.
"""

from dataclasses import replace

from everreel.film.loading import source_of
from everreel.shapes import LATENT_CHANNELS, TEMPORAL
from everreel.train.clip import NETWORK
from everreel.train.image_to_video import ImageToVideoRecipe
from everreel.train.pack import PackRecipe
from everreel.train.pictures import PictureRecipe
from everreel.train.trainer import TrainerSettings

TINY = source_of("tiny")

PICTURES = PictureRecipe(
    latents="runs/latents/films", vae=str(TINY.path), image_encoder="runs/clip", clips="runs/world/films", frames=13
)

FILMS = ImageToVideoRecipe(
    settings=TrainerSettings(
        steps=800,
        learning_rate=1e-3,
        optimizer="muon",
        weight_decay=0.01,
        warmup=30,
        decay="linear",
        decay_from=0.3,
        final_rate=0.03,
        ema_decay=0.99,
        precision="bf16",
        checkpoint_every=50,
        sample_every=200,
        log_every=20,
    ),
    model="tiny",
    films="runs/latents/films",
    pictures="runs/image_to_video/pictures",
    windows=((5, 0.3), (9, 0.4), (13, 0.3)),
    tokens=8 * 9 * 60,
    shift=3.0,
    sample_films=4,
)

PACK = PackRecipe(
    config=replace(TINY.config, in_dim=2 * LATENT_CHANNELS + TEMPORAL, image_dim=NETWORK.dim),
    transformer="runs/image_to_video/films/transformer.safetensors",
    vae=str(TINY.path),
    text=str(TINY.path),
    image_encoder="runs/clip",
    shift=3.0,
    notes=("It makes films of a picture, which is shown beside the noise.",),
)

recipe = (("pictures", PICTURES), ("films", FILMS), ("model", PACK))
