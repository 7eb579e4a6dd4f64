"""From a request to a film on disk, with a random model of the embedded model's kind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.film import pipeline as film
from everreel.film.decoding import to_uint8
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import RequestError, make_request

FAST = {"num_inference_steps": 2, "height": 32, "width": 48}


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"num_frames": 9}, "synchronous"),
        ({"num_frames": 10}, "synchronous"),
        ({"num_frames": 25, "ar_step": 1, "causal_block_size": 2}, "asynchronous"),
        ({"num_frames": 30, "causal_block_size": 3}, "blockwise"),
        ({"seconds": 0.5, "fps": 16}, "synchronous"),
        ({"num_frames": 9, "guidance_scale": 1}, "synchronous"),
    ],
)
def test_a_film_has_the_length_asked_for(pipe, tmp_path, options, mode):
    request = make_request(prompt="a red fox", **FAST, **options)
    assert make_plan(request, pipe.card).mode.startswith(mode)
    rows = []
    video = pipe(request, output=tmp_path / "film.mp4", on_progress=rows.append)
    assert video.num_frames == request.length
    assert video.frames[0].shape == (32, 48, 3)
    assert [p.row for p in rows] == list(range(1, rows[-1].num_rows + 1))
    assert rows[-1].block == rows[-1].plan.num_blocks
    assert video.fps == request.fps


def test_the_same_seed_gives_the_same_film_and_blocks_are_the_film(pipe):
    films = []
    for seed in (1, 1, 2):
        request = make_request(prompt="a red fox", num_frames=13, seed=seed, **FAST)
        blocks = list(pipe.stream(request))
        assert [block.start for block in blocks] == [sum(len(b.frames) for b in blocks[:i]) for i in range(len(blocks))]
        films.append(np.concatenate([block.frames for block in blocks]))
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])


def test_a_long_film_begins_before_it_ends(pipe):
    """Beyond a window the first block comes after its own steps, and only context is held."""
    request = make_request(prompt="a red fox", num_frames=137, schedule="blockwise", **FAST)
    plan = make_plan(request, pipe.card)
    assert plan.remembers and plan.context <= 20
    rows = []
    next(pipe.stream(request, on_progress=rows.append))
    assert len(rows) == plan.request.num_inference_steps < len(plan.schedule) / 5


@pytest.mark.parametrize("options", [{}, {"ar_step": 1, "causal_block_size": 2}, {"schedule": "windows"}])
def test_latents_are_float32_whatever_the_weights_are__released_defect_11(tiny_folder, monkeypatch, options):
    """From the noise to the decoder, and what solver and journal hold; the released loop rounded them in every row."""
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in pipe.transformer.blocks.parameters()} >= {torch.bfloat16}
    seen = []
    monkeypatch.setattr(pipe, "_decode", lambda blocks, *_: iter(list(map(seen.append, blocks))))
    request = make_request(
        prompt="a red fox", num_frames=29, base_num_frames=17, overlap_history=None, **options, **FAST
    )
    list(pipe.stream(request, on_progress=lambda progress: None))
    assert seen
    for block in seen:
        solver = block.state.solver
        assert {block.latents_CTHW.dtype, solver.latents.dtype} == {torch.float32}
        assert all(each.dtype == torch.float32 for each in solver.history)
        # Not values that bfloat16 had rounded, either.
        assert not torch.equal(block.latents_CTHW, block.latents_CTHW.bfloat16().float())


def test_blocks_of_weights_that_know_no_causal_attention_see_all__diffusers_defect_1(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "card", replace(pipe.card, causal=False))
    asked, run = [], film.Denoiser

    def watched(*branches, causal, **more):
        asked.append(causal)
        return run(*branches, causal=causal, **more)

    monkeypatch.setattr(film, "Denoiser", watched)
    options = {"num_frames": 17, "ar_step": 1, "causal_block_size": 2}
    list(pipe.stream(make_request(prompt="a red fox", **options, **FAST)))
    list(pipe.stream(make_request(prompt="a red fox", **options, **FAST, cache=True)))
    assert asked == [False, True], "only who asks for the approximation has it"


def test_what_a_cache_holds_was_read_from_the_text_of_its_own_time(pipe):
    """Where the text changes, finished frames keep the keys and values of the old one, beyond a window too."""
    options = {"num_frames": 61, "causal_block_size": 3, "base_num_frames": 29, "sink": 1, **FAST}
    story = make_request(prompt="a red fox", story={33: "a blue swan"}, **options)
    plan = make_plan(story, pipe.card)
    (turn,) = plan.turns
    assert plan.remembers and turn > plan.context + plan.sink and turn % 3 == 0, "where a block begins"
    told, plain = (
        [block.state for block in pipe.stream(request) if block.state]
        for request in (story, make_request(prompt="a red fox", **options))
    )
    alike = []
    for ours, theirs in zip(told, plain, strict=True):
        for a, b in zip(ours.caches, theirs.caches, strict=True):
            if not a.num_frames:
                continue
            per_frame = a.keys[0].shape[1] // a.num_frames
            newest = ours.rollout.remembered  # the frame behind what the cache holds
            old = max(a.num_frames - max(newest - turn, 0), 0) * per_frame
            for mine, other in zip((*a.keys, *a.values), (*b.keys, *b.values), strict=True):
                assert torch.equal(mine[:, :old], other[:, :old])
                alike.append((old, torch.equal(mine, other)))
    assert any(old and not same for old, same in alike), "old frames and new ones lie in one cache"


def test_a_long_prompt_is_refused_not_cut(pipe):
    with pytest.raises(RequestError, match=r"prompt = \d+ tokens: the model reads at most 512"):
        next(pipe.stream(make_request(prompt="a red fox " * 300, **FAST)))


def test_pixels_are_rounded__released_defect_18():
    video = torch.tensor([-1.0, -0.999, 0.0, 0.9999, 3.0]).reshape(1, 1, 1, 5).expand(3, -1, -1, -1)
    assert to_uint8(video)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"num_frames": -3}, "num_frames = -3: must be at least 1; nearest that works: 1"),
        ({"num_frames": 0}, "num_frames = 0: must be at least 1"),
        ({"height": 100, "width": 160}, "height = 100: must be a positive multiple of 16; nearest that works: 96"),
        ({"fps": 30}, "fps = 30: .* nearest that works: 24"),
        ({"seconds": 2, "num_frames": 9}, "give num_frames or seconds, not both"),
        ({"height": 96}, "height and width go together"),
        ({"guidance_scale": 0.5}, "guidance_scale = 0.5: must be at least 1"),
        ({"num_inference_steps": 0}, "num_inference_steps = 0: must be at least 1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_requests_are_one_line(values, message):
    with pytest.raises(RequestError, match=message) as caught:
        make_request(**{"prompt": "a fox", **values})
    assert "\n" not in str(caught.value)


def test_sizes_by_aspect_and_resolution(tiny_folder):
    card = find_model(tiny_folder)
    assert make_request(prompt="x", aspect="9:16").size(card) == (160, 96)
    assert make_request(prompt="x", aspect="1:1").size(card) == (128, 128)
    assert make_request(prompt="x", resolution="540P", aspect="9:16").size(card) == (960, 544)
