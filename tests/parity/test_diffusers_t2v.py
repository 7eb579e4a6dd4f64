"""The T2V models against diffusers: the same folder, words and noise make the same film there.

As in `test_diffusers.py` its scheduler is given our levels.
"""

import diffusers
import pytest
import torch

from everreel.diffusion.noise import draw_noise_frames
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from tests.parity.test_diffusers import OurLevels, error, loaded, our_film

PROMPT = "a red fox runs through a snowy forest"
SMALL = {"prompt": PROMPT, "num_frames": 21, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def ours(t2v_folder):
    return VideoPipeline.from_pretrained(str(t2v_folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(t2v_folder):
    return loaded(diffusers.SkyReelsV2Pipeline, t2v_folder)


@pytest.mark.parametrize(
    "options", [{"guidance_scale": 6, "shift": 8}, {"guidance_scale": 1}, {"num_inference_steps": 7}],
    ids=["released", "unguided", "steps"],
)  # fmt: skip
def test_a_whole_film_agrees(ours, theirs, options):
    request = make_request(**SMALL | options)
    plan = make_plan(request, ours.card)
    latents, video = our_film(ours, request, False)
    size = (16, plan.shape.height, plan.shape.width)
    noise = draw_noise_frames(request.seed, "start", range(plan.shape.frames), 0, size)[None]
    config = {**theirs.scheduler.config, "flow_shift": plan.request.shift}
    films = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "scheduler", OurLevels.from_config(config))
        for output in ("latent", "np"):
            made = theirs(
                PROMPT, plan.request.negative_prompt, 32, 48, 21, request.num_inference_steps,
                guidance_scale=plan.request.guidance_scale, latents=noise.clone(),
                output_type=output, return_dict=False,
            )  # fmt: skip
            films.append(torch.as_tensor(made[0][0]))
    assert error(latents, films[0]) < 1e-5
    assert float((video - films[1]).abs().max()) < 1e-4
    assert float(films[1].std()) > 0.05, "a flat film agrees with everything"
