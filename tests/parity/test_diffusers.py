"""Law 7: a model folder loads in diffusers unchanged, and the same words and noise make the same film there.

diffusers' own noise levels are not the released ones, so its scheduler is given ours; its pipeline cannot be handed
start noise (it unpacks one tensor as four), so what it would draw is put in its place; and a block size makes it
attend block-causally, which is undone where the schedule alone is asked about. All else is its own code as it is.
"""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2_diffusion_forcing as their_code

from everreel.checkpoint.catalog import find_model
from everreel.diffusion.noise import draw_noise_frames
from everreel.diffusion.solver import solver_for
from everreel.film import decoding
from everreel.film import pipeline as our_code
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request

PROMPT = "a red fox runs through a snowy forest"
SMALL = {"prompt": PROMPT, "num_frames": 21, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 3}


@pytest.fixture(scope="module", params=["random", "embedded"])
def folder(request, tiny_folder):
    if request.param == "random":
        return tiny_folder
    try:
        return find_model("tiny").require_path()
    except ValueError:
        pytest.skip("the embedded model is not in this checkout")


@pytest.fixture(scope="module")
def ours(folder):
    return VideoPipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(folder):
    return loaded(diffusers.SkyReelsV2DiffusionForcingPipeline, folder)


def loaded(pipeline, folder):
    """A pipeline of theirs that says nothing."""
    pipe = pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class OurLevels(diffusers.UniPCMultistepScheduler):
    """diffusers' UniPC on our sigmas and timesteps."""

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps, device=device)
        solver = solver_for("unipc", num_inference_steps, self.config.flow_shift)
        self.sigmas, self.timesteps = solver.sigmas, solver.timesteps[:-1].long()


def error(got, want):
    assert got.shape == want.shape
    return float((got - want).norm() / want.norm())


def our_film(pipe, request, causal):
    """Latents and frames (T, H, W, 3) in [0, 1] on their way through the pipeline, before they are made bytes."""
    latents, videos = [], []
    decode, to_uint8, denoiser = VideoPipeline._decode, decoding.to_uint8, our_code.Denoiser

    def seen_latents(self, blocks, *rest):
        yield from decode(self, (latents.append(block.latents_CTHW) or block for block in blocks), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoPipeline, "_decode", seen_latents)
        patch.setattr(decoding, "to_uint8", lambda video: videos.append(video) or to_uint8(video))
        if causal:
            patch.setattr(our_code, "Denoiser", lambda *args, **kw: denoiser(*args, **kw | {"causal": True}))
        frames = np.concatenate([block.frames for block in pipe.stream(request)])
    video = torch.cat(videos, dim=1).permute(1, 2, 3, 0) / 2 + 0.5
    assert np.abs(frames / 255 - video.numpy()).max() <= 0.5001 / 255
    return torch.cat(latents, dim=1), video


def their_film(pipe, request, plan, ar_step, block_size, causal):
    shape = plan.shape
    size = (16, shape.height, shape.width)
    noise = draw_noise_frames(request.seed, "start", range(shape.frames), 0, size)[None]
    config = {**pipe.scheduler.config, "flow_shift": plan.request.shift}
    options = {
        "prompt": request.prompt, "negative_prompt": plan.request.negative_prompt, "height": request.height,
        "width": request.width, "num_frames": shape.num_frames, "fps": request.fps, "ar_step": ar_step,
        "num_inference_steps": request.num_inference_steps, "guidance_scale": plan.request.guidance_scale,
        "causal_block_size": block_size,
    }  # fmt: skip
    films = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "scheduler", OurLevels.from_config(config))
        patch.setattr(their_code, "randn_tensor", lambda shape, **_: noise.clone())
        if not causal:
            patch.setattr(pipe.transformer, "_set_ar_attention", lambda size: None)
        for output in ("latent", "np"):
            films.append(torch.as_tensor(pipe(**options, output_type=output, return_dict=False)[0][0]))
    pipe.transformer.register_to_config(num_frame_per_block=1)  # it remembers the block size in its config
    return films


@torch.no_grad()
def test_the_parts_agree(ours, theirs):
    generator = torch.Generator().manual_seed(4)
    video = torch.rand(1, 3, 9, 16, 32, generator=generator) * 2 - 1
    latents = ours.vae.encode(video)
    posterior = theirs.vae.encode(video).latent_dist.mean
    assert error(ours.vae.denormalise(latents), posterior) < 1e-4
    assert error(ours.vae.decode(latents), theirs.vae.decode(posterior).sample) < 1e-4
    assert np.allclose(ours.vae.config.latents_mean, theirs.vae.config.latents_mean)
    assert np.allclose(ours.vae.config.latents_std, theirs.vae.config.latents_std)

    text = torch.randn(1, 9, ours.transformer.config.text_dim, generator=generator)
    noise = torch.randn(1, 16, 3, 4, 6, generator=generator)
    timestep = torch.tensor([[0.0, 250.0, 999.0]])
    context = ours.transformer.encode_context(text, [9])
    padded = torch.nn.functional.pad(text, (0, 0, 0, 503))
    for fps in (0, 1):
        velocity = theirs.transformer(
            noise, timestep, padded, fps=[fps], enable_diffusion_forcing=True, return_dict=False
        )[0]
        assert error(ours.transformer(noise, timestep, context, fps_B=torch.tensor([fps])), velocity) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("prompt", [PROMPT, "", "a swan &amp;amp; a  fox,\n at dusk"])
def test_the_same_prompt_gives_the_same_embedding(ours, theirs, prompt):
    tokens = ours.tokenizer([prompt])
    embedding = ours.text_encoder(tokens.ids, tokens.mask)
    assert error(embedding, theirs.encode_prompt(prompt, None, False, max_sequence_length=512)[0]) < 1e-4


@pytest.mark.parametrize(
    ("options", "ar_step", "block_size", "causal"),
    [
        ({}, 0, None, False),
        ({"guidance_scale": 1, "fps": 16, "shift": 3}, 0, None, False),
        ({"ar_step": 2, "causal_block_size": 1}, 2, None, False),
        ({"ar_step": 2, "causal_block_size": 2}, 2, 2, False),
        ({"ar_step": 2, "causal_block_size": 2}, 2, 2, True),
        # Blocks that wait for one another and see nothing of what follows: diffusers without a cache, we with one.
        ({"causal_block_size": 2}, 4, 2, True),
    ],
    ids=["synchronous", "unguided", "asynchronous", "blocks", "block-causal", "blockwise"],
)
def test_a_whole_film_agrees(ours, theirs, options, ar_step, block_size, causal):
    request = make_request(**SMALL, **options, guidance_level=1, guidance_until=0)  # as diffusers has it
    plan = make_plan(request, ours.card)
    latents, video = our_film(ours, request, causal)
    their_latents, their_video = their_film(theirs, request, plan, ar_step, block_size, causal)
    assert error(latents, their_latents) < 1e-3
    assert float((video - their_video).abs().max()) < 1e-3
    assert float(their_video.std()) > 0.05, "a flat film agrees with everything"
