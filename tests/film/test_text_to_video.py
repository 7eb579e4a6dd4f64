"""Films with the T2V models: all frames at once, however many, and what is refused."""

import numpy as np
import pytest
import torch

from everreel.checkpoint.catalog import CATALOG, find_model
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import check_can_go_on, make_plan
from everreel.film.request import RequestError, make_request

SMALL = {"prompt": "a red fox", "height": 32, "width": 48, "num_inference_steps": 2}
RELEASED = [card for card in CATALOG if card.kind == "t2v"]


@pytest.fixture(scope="module")
def pipe(t2v_folder):
    return VideoPipeline.from_pretrained(str(t2v_folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("num_frames", [1, 2, 9, 30])
def test_any_length_in_one_window(pipe, num_frames):
    request = make_request(**SMALL, num_frames=num_frames)
    plan = make_plan(request, pipe.card)
    assert (plan.mode, plan.num_blocks, len(plan.schedule), plan.remembers) == ("synchronous", 1, 2, False)
    assert not plan.schedule.given and sum(len(block.frames) for block in pipe.stream(request)) == num_frames


def test_the_released_ones_are_run_as_there():
    """One window however long the film, and their scheduler's own steps."""
    assert [card.name for card in RELEASED] == ["T2V-14B-540P", "T2V-14B-720P"]
    for card in RELEASED:
        plan = make_plan(make_request(prompt="a fox", num_frames=1001), card)
        assert plan.schedule.longest_window == 251 and plan.num_blocks == 1 and card.solver == "unipc_exact"
        assert (plan.request.guidance_scale, plan.request.shift) == (6, 8)


@pytest.mark.parametrize(("scale", "rows"), [(1, 1), (6, 2)])
def test_without_guidance_the_network_runs_once_a_step__released_defect_15(pipe, scale, rows):
    """Defect 15: the released code runs the second branch all the same."""
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    list(pipe.stream(make_request(**SMALL, num_frames=5, guidance_scale=scale)))
    hook.remove()
    assert seen == [(rows, 16, 2, 4, 6)] * 2


def test_the_words_are_seen(pipe):
    films = [
        np.concatenate(
            [block.frames for block in pipe.stream(make_request(**SMALL | {"prompt": prompt}, num_frames=5))]
        )
        for prompt in ("a red fox", "a red fox", "a blue swan")
    ]
    assert (films[0] == films[1]).all() and (films[0] != films[2]).any()


COLOURS = "makes all frames at once, at one noise level; in diffusion forcing it gives blocks of colour; leave it out"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"image": "a.png"}, "image = a.png: {name} reads words alone; "),
        ({"end_image": "z.png"}, "end_image = z.png: {name} reads words alone; "),
        ({"keyframes": {4: "b.png"}}, "keyframes[4] = b.png: {name} reads words alone; "),
        ({"story": {5: "it jumps"}}, "story[5] = it jumps: {name} reads one prompt; "),
        ({"ar_step": 2}, f"ar_step = 2: {{name}} {COLOURS}"),
        ({"schedule": "blockwise"}, f"schedule = blockwise: {{name}} {COLOURS}"),
        ({"causal_block_size": 2}, f"causal_block_size = 2: {{name}} {COLOURS}"),
        ({"base_num_frames": 97}, "base_num_frames = 97: {name} makes any number of frames in one window; "),
        ({"join": "carry"}, "join = carry: {name} makes any number of frames in one window; "),
        ({"loop": True}, "loop = True: {name} cannot be shown frames that are finished; "),
        ({"addnoise_condition": 20}, "addnoise_condition = 20.0: {name} looks back at nothing; "),
    ],
)
@pytest.mark.parametrize(("model", "nearest"), [("T2V-14B-540P", "DF-14B-540P"), ("T2V-14B-720P", "DF-14B-720P")])
def test_what_a_t2v_model_cannot_do_is_refused_with_the_nearest_that_can(given, why, model, nearest):
    with pytest.raises(RequestError) as caught:
        make_plan(make_request(**{**SMALL, "num_frames": 9, **given}), find_model(model, here=False))
    said = str(caught.value)
    assert said.startswith(why.format(name=model)) and said.endswith(f"; nearest '{nearest}'") and "\n" not in said


def test_a_film_cannot_be_gone_on_with(pipe):
    for refusing in (
        lambda: check_can_go_on(pipe.card),
        lambda: make_plan(make_request(prompt="x", num_frames=9), pipe.card, 3),
    ):
        with pytest.raises(RequestError, match=r"reads words alone and cannot go on with a film; .* DF-1.3B-540P"):
            refusing()
