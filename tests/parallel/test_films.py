"""Films that several processes make against the film that one makes."""

import gc
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from everreel.checkpoint.load import load_transformer
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.model.text_encoder import TextEncoder
from everreel.parallel.shared import SharedDiT
from tests.parallel.processes import together

SMALL = {"prompt": "a red fox", "height": 32, "width": 48, "num_inference_steps": 2, "seed": 3}
FILMS = {
    "synchronous": {"num_frames": 9},
    "asynchronous": {"num_frames": 17, "ar_step": 1, "causal_block_size": 2},
    "windows": {"num_frames": 33, "schedule": "windows", "join": "reencode", "overlap_history": 9},
    "blocks with a cache and a sink": {"num_frames": 29, "schedule": "blockwise"},
    "a story in blocks": {"num_frames": 21, "schedule": "blockwise", "story": {9: "a blue swan"}},
    "without guidance": {"num_frames": 29, "schedule": "blockwise", "guidance_scale": 1.0},
}


def small(pipe):
    """Blocks of 2 latent frames that look back at 2 and at a sink of 1."""
    pipe.card = replace(
        pipe.card, num_frames=25, block_size=2, context=2, sink=1, anchor_color=0.0, addnoise_condition=0.0, causal=True
    )
    return pipe


def film(pipe, state=None, blocks=None, **options):
    """Latents and frames of some blocks of a film, and where it stands then."""
    latents, frames = [], []
    for number, block in enumerate(pipe.stream(make_request(**SMALL, **options), state=state), 1):
        state = block.state or state
        frames.append(block.frames)
        if block.state is not None:
            latents.append(block.state.rollout.solver.latents)
        if number == blocks:
            break
    return latents, np.concatenate(frames), state


def films(crew, folder):
    pipe = VideoPipeline.from_pretrained(folder, device="cpu", dtype=torch.float32, crew=crew)
    made = {name: film(small(pipe), **options)[:2] for name, options in FILMS.items()}
    return made, halfway(pipe)


def halfway(pipe):
    return film(pipe, blocks=2, **FILMS["blocks with a cache and a sink"])


@pytest.fixture(scope="module")
def alone(tiny_folder):
    return small(VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32))


@pytest.fixture(scope="module")
def want(alone):
    made = {name: film(alone, **options)[:2] for name, options in FILMS.items()}
    assert not np.array_equal(made["blocks with a cache and a sink"][1], made["without guidance"][1])
    return made


@pytest.mark.parametrize("size", [2, 4])
def test_processes_make_the_film_that_one_makes__released_defect_29(size, tiny_folder, alone, want):
    (made, (latents, frames, state)), codes = together(size, films, str(tiny_folder))
    assert codes == [0] * size
    for name, (ours, shown) in made.items():
        theirs, theirs_shown = want[name]
        assert len(ours) == len(theirs)
        assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-4, name
        assert np.abs(shown.astype(int) - theirs_shown).max() <= 1, name
    # What several began, one goes on with.
    name = "blocks with a cache and a sink"
    more, rest, _ = film(alone, state, **FILMS[name])
    assert np.abs(np.concatenate([frames, rest]).astype(int) - want[name][1]).max() <= 1
    assert float((more[-1] - want[name][0][-1]).abs().max()) < 1e-4
    assert len(latents) + len(more) == len(want[name][0])


def no_text_encoder(device):
    """Carried out in all processes; the first alone may have one."""
    held = sum(type(thing) is TextEncoder for thing in gc.get_objects())
    if held and os.environ["RANK"] != "0":
        raise ValueError(f"{held} text encoders")
    return torch.nn.Identity()


def texts(crew, folder):
    """How often the text encoder runs for a film, here."""
    pipe = VideoPipeline.from_pretrained(folder, device="cpu", dtype=torch.float32, crew=crew)
    runs = []
    pipe.text_encoder.register_forward_hook(lambda *_: runs.append(1))
    film(pipe, **FILMS["synchronous"])
    crew.run("open", crew.number(), no_text_encoder)
    return len(runs)


def test_texts_are_encoded_once_and_not_by_every_process__released_defect_25(tiny_folder):
    """Of the prompt and the negative prompt; a process that held an encoder would say so."""
    assert together(2, texts, str(tiny_folder)) == (2, [0, 0])


def go_on(crew, folder, state):
    pipe = small(VideoPipeline.from_pretrained(folder, device="cpu", dtype=torch.float32, crew=crew))
    return film(pipe, state, **FILMS["blocks with a cache and a sink"])


def silent(device, folder):
    """A transformer that says nothing: films of it are the noise that they begin with."""
    model = load_transformer(folder, device, torch.float32)
    torch.nn.init.zeros_(model.head.head.weight)
    torch.nn.init.zeros_(model.head.head.bias)
    return model


def noise(crew, folder):
    pipe = small(VideoPipeline.from_pretrained(folder, device="cpu", dtype=torch.float32))
    load = partial(silent, folder=folder)
    pipe.transformer = load("cpu") if crew is None else SharedDiT(crew, load)
    return film(pipe, num_frames=25, schedule="blockwise", addnoise_condition=20)[0]


def test_going_on_and_noise(tiny_folder, alone, want):
    name = "blocks with a cache and a sink"
    _, began, state = halfway(alone)
    (more, rest, _), _ = together(2, go_on, str(tiny_folder), state)
    assert np.abs(np.concatenate([began, rest]).astype(int) - want[name][1]).max() <= 1
    assert float((more[-1] - want[name][0][-1]).abs().max()) < 1e-4
    ours, _ = together(4, noise, str(tiny_folder))
    theirs = noise(None, str(tiny_folder))
    assert len(ours) == len(theirs) > 2 and all(map(torch.equal, ours, theirs))
    assert float(ours[-1].std()) > 0.9
