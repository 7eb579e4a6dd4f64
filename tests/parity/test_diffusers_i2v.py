"""The I2V models against diffusers: the same folder, picture and noise make the same film there.

As in `test_diffusers.py` its scheduler is given our levels. Its pictures reach CLIP through another resampling, so the
tower is compared on the pixels that ours is shown, and the film is made of those tokens.
"""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from everreel.diffusion.noise import draw_noise_frames
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from tests.parity.test_diffusers import OurLevels, error, loaded, our_film

PROMPT = "a red fox runs through a snowy forest"
SMALL = {"prompt": PROMPT, "num_frames": 21, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def ours(i2v_folder):
    return VideoPipeline.from_pretrained(str(i2v_folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(i2v_folder):
    return loaded(diffusers.SkyReelsV2ImageToVideoPipeline, i2v_folder)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "fox.png"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC).save(path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 21])
def test_what_is_shown_of_the_picture_agrees(ours, theirs, picture, num_frames):
    beginning = ours.begin(make_request(**SMALL | {"num_frames": num_frames}, image=picture))
    image = theirs.video_processor.preprocess(Image.open(picture), height=32, width=48)
    latents = torch.zeros(1, 16, 1 + num_frames // 4, 4, 6)
    _, condition = theirs.prepare_latents(
        image, 1, num_frames=num_frames, height=32, width=48, latents=latents, dtype=torch.float32
    )
    assert beginning.channels.shape == condition[0].shape == (20, 1 + num_frames // 4, 4, 6)
    assert (beginning.channels - condition[0]).abs().max() < 1e-4
    assert torch.equal(beginning.channels[:4], condition[0, :4])

    pixels = ours.image_encoder.prepare(image)
    tokens = theirs.image_encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    assert (beginning.image_tokens - tokens).abs().max() < 1e-4


@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 1}, {"shift": 8, "fps": 16}], ids=["5", "unguided", "shift"]
)
def test_a_whole_film_agrees(ours, theirs, picture, options):
    request = make_request(**SMALL, **options, image=picture)
    plan = make_plan(request, ours.card)
    latents, video = our_film(ours, request, False)
    size = (16, plan.shape.height, plan.shape.width)
    noise = draw_noise_frames(request.seed, "start", range(plan.shape.frames), 0, size)[None]
    config = {**theirs.scheduler.config, "flow_shift": plan.request.shift}
    films = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "scheduler", OurLevels.from_config(config))
        patch.setattr(theirs, "encode_image", lambda *_: ours.begin(request).image_tokens)
        for output in ("latent", "np"):
            made = theirs(
                Image.open(picture), PROMPT, plan.request.negative_prompt, 32, 48, 21, 4,
                guidance_scale=plan.request.guidance_scale, latents=noise.clone(),
                output_type=output, return_dict=False,
            )  # fmt: skip
            films.append(torch.as_tensor(made[0][0]))
    assert error(latents, films[0]) < 1e-3
    assert float((video - films[1]).abs().max()) < 1e-3
    assert float(films[1].std()) > 0.05, "a flat film agrees with everything"
