"""Guidance between two levels of noise: frame by frame, in half a pass where no frame is left for it, and alike after a
stop.
"""

import numpy as np
import pytest
import torch

from everreel.checkpoint.catalog import CATALOG
from everreel.diffusion.denoiser import Branch, Denoiser, Guidance
from everreel.diffusion.step_cache import StepCache
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import RequestError, make_request

SMALL = {"prompt": "a fox", "height": 32, "width": 48, "num_inference_steps": 8, "shift": 3.0}
WAYS = [
    {"num_frames": 25, "ar_step": 3, "causal_block_size": 2},
    {"num_frames": 41, "causal_block_size": 5, "base_num_frames": 25, "schedule": "blockwise"},
    {"num_frames": 41, "schedule": "windows", "base_num_frames": 25, "overlap_history": 9},
]


class Rows:
    """A transformer whose velocity is the number of its context's row, half of it without some layers."""

    def __init__(self):
        self.batches, self.caches = [], []

    def __call__(self, x_BCTHW, timestep_BT, texts, *, skip=(), cache=None, **_):
        ((_, context),) = texts
        self.batches.append(len(x_BCTHW))
        self.caches.append(cache)
        return context.bias[:, :1, None, None, None].expand_as(x_BCTHW) / (2 if skip else 1)


class Row:
    def __init__(self, *numbers):
        self.bias = torch.tensor(numbers)[:, None]


def denoiser(level, *, until=0.0, cache=None, together=True):
    model = Rows()
    both = [Branch(Row(3.0, 1.0), cache, alone=Branch(Row(3.0)))] if together else [Branch(Row(3.0)), Branch(Row(1.0))]
    return Denoiser(model, both, Guidance(2.0, level, until)), model


def velocities(level, *timesteps, **kind):
    """Of each frame; 3 without guidance, and 5 with it. And how many rows each pass had."""
    guided, model = denoiser(level, **kind)
    found = guided(torch.zeros(16, len(timesteps), 2, 2), torch.tensor(timesteps), None)
    return found[0, :, 0, 0].tolist(), model.batches


@pytest.mark.parametrize("together", [True, False])
def test_each_frame_has_guidance_from_the_level_down(together):
    rows = [2] if together else [1, 1]
    assert velocities(0.9, 0.0, 899.0, 900.0, 901.0, 1000.0, together=together) == ([5.0, 5.0, 5.0, 3.0, 3.0], rows)
    assert velocities(1.0, 1000.0, 1000.0, together=together) == ([5.0, 5.0], rows)


@pytest.mark.parametrize("together", [True, False])
def test_a_pass_without_guidance_computes_one_row(together):
    assert velocities(0.9, 1000.0, 950.0, together=together) == ([3.0, 3.0], [1])
    assert velocities(0.9, 0.0, 950.0, together=together) == ([3.0, 3.0], [1])  # a known frame does not move


@pytest.mark.parametrize("together", [True, False])
def test_and_down_to_a_level(together):
    rows = [2] if together else [1, 1]
    found = velocities(0.9, 499.0, 500.0, 900.0, 901.0, until=0.5, together=together)
    assert found == ([3.0, 5.0, 5.0, 3.0], rows)
    assert velocities(1.0, 0.0, 400.0, until=0.5, together=together) == ([3.0, 3.0], [1])
    assert velocities(1.0, 1000.0, 400.0, until=0.5, together=together) == ([5.0, 3.0], rows)
    assert velocities(1.0, 1000.0, 400.0, until=0.5, cache=object()) == ([5.0, 3.0], [2])


def test_what_a_cache_holds_is_of_both_rows():
    assert velocities(0.9, 1000.0, 950.0, cache=object()) == ([3.0, 3.0], [2])


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)


@pytest.fixture
def film(pipe):
    """The frames of a film, and how many rows its passes had."""
    rows = []
    hook = pipe.transformer.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))

    def film(**options):
        rows.clear()
        blocks = list(pipe.stream(make_request(**SMALL, **options)))
        return np.concatenate([block.frames for block in blocks]), list(rows)

    yield film
    hook.remove()


def test_the_first_steps_are_half_as_long(film):
    whole, rows = film(num_frames=9)
    same, again = film(num_frames=9, guidance_level=1.0)
    assert rows == again == [2] * 8 and np.array_equal(whole, same)
    other, fewer = film(num_frames=9, guidance_level=0.9)
    assert fewer == [1, 1, *[2] * 6] and not np.array_equal(whole, other)  # sigmas 1, 0.95, 0.9 …
    softer, halves = film(num_frames=9, guidance_until=0.6)
    assert halves == [*[2] * 6, 1, 1] and not np.array_equal(whole, softer)  # … 0.75, 0.64, 0.5, 0.3
    none, alone = film(num_frames=9, guidance_level=0.0)
    free, single = film(num_frames=9, guidance_scale=1)
    assert alone == single == [1] * 8 and np.array_equal(none, free)


@pytest.mark.parametrize("options", WAYS)
def test_every_schedule_takes_it_and_goes_on_after_a_stop(film, pipe, options):
    whole, _ = film(**options)
    less, _ = film(**options, guidance_level=0.8, guidance_until=0.3)
    assert less.shape == whole.shape and not np.array_equal(less, whole)
    request = make_request(**SMALL, **options, guidance_level=0.8, guidance_until=0.3)
    first = next(block for block in pipe.stream(request) if block.state is not None)
    rest = np.concatenate([block.frames for block in pipe.stream(request, state=first.state)])
    assert np.array_equal(rest, less[len(less) - len(rest) :])


def skipping(*timesteps, scale=2.0, until=0.0, level=0.9, caches=(None, None), blocks=None, **kind):
    """Of each frame: 3 without guidance, 5 with the unconditional row; 1.5 lie between 3 and what lacks layers."""
    model = Rows()
    rows = [Branch(Row(3.0), caches[0]), Branch(Row(1.0), caches[1])][: 1 if scale == 1 else 2]
    guided = Denoiser(model, rows, Guidance(scale, level, until, 2.0, (1,)), **kind)
    found = guided(torch.zeros(16, len(timesteps), 2, 2), torch.tensor(timesteps), blocks)
    return found[0, :, 0, 0].tolist(), model


def test_guidance_away_from_missing_layers_is_added_where_there_is_guidance():
    found, model = skipping(500.0, 900.0, 901.0)
    assert found == [8.0, 8.0, 3.0] and model.batches == [1, 1, 1]
    found, model = skipping(950.0, 1000.0)
    assert found == [3.0, 3.0] and model.batches == [1]
    assert skipping(950.0, level=1.0)[0] == [8.0]
    found, model = skipping(500.0, 901.0, scale=1)
    assert found == [6.0, 3.0] and model.batches == [1, 1]
    found, model = skipping(500.0, 700.0, step_cache=StepCache(0.1))
    assert found == [8.0, 8.0]


def test_the_pass_without_layers_looks_back_with_the_conditional_row():
    found, model = skipping(500.0, 700.0, caches=("a", "b"), blocks=(2,))
    assert found == [8.0, 8.0] and model.caches == ["a", "b", "a"]
    found, model = skipping(950.0, caches=("a", "b"), blocks=(1,))  # rows apart need not be kept in step
    assert found == [3.0] and model.caches == ["a"]


def test_rows_in_one_batch_do_not_go_with_it():
    with pytest.raises(ValueError, match="branches of their own"):
        Denoiser(Rows(), [Branch(Row(3.0, 1.0))], Guidance(2.0, skip_scale=2.0, skip_layers=(1,)))


@pytest.mark.parametrize("options", [{"num_frames": 9}, *WAYS])
def test_films_without_a_layer_to_go_away_from(film, pipe, options):
    asked = {"skip_layer_guidance_scale": 2, "guidance_level": 0.9, "guidance_until": 0.3}
    plain, _ = film(**{**options, **asked, "skip_layer_guidance_scale": 0})
    less, rows = film(**options, **asked, skip_guidance_layers=(1,))
    other, _ = film(**options, **asked, skip_guidance_layers=(0,))
    assert set(rows) == {1} and less.shape == plain.shape
    assert not np.array_equal(less, plain) and not np.array_equal(less, other)
    request = make_request(**SMALL, **options, **asked, skip_guidance_layers=(1,))
    first = next(block for block in pipe.stream(request) if block.state is not None)
    rest = [block.frames for block in pipe.stream(request, state=first.state)]
    assert not rest or np.array_equal(np.concatenate(rest), less[len(less) - sum(map(len, rest)) :])


def test_what_a_request_may_say_of_it():
    cards = {card.name: card for card in CATALOG}
    tiny, fast, released = (cards[name] for name in ("tiny", "tiny-fast", "DF-1.3B-540P"))
    for card, layers in ((tiny, (3, 5)), (fast, (3, 5)), (released, (9,))):
        off = make_request(prompt="a fox").resolve(card)
        assert off.skip_layer_guidance_scale == 0 and off.skip_guidance_layers is None
        asked = make_request(prompt="a fox", skip_layer_guidance_scale=3).resolve(card)
        assert (asked.skip_layer_guidance_scale, asked.skip_guidance_layers) == (3.0, layers)
    assert make_request(prompt="a fox", skip_guidance_layers=[5, 3, 5]).skip_guidance_layers == (3, 5)
    refused = [
        (
            {"skip_layer_guidance_scale": 2, "skip_guidance_layers": [3, 10]},
            tiny,
            r"= 3,10: tiny has layers 0\.\.9; nearest that works: 3,9",
        ),
        (
            {"skip_guidance_layers": [3]},
            fast,
            "= 3: goes with skip_layer_guidance_scale above 0; nearest that works: 2",
        ),
        ({"skip_guidance_layers": [-1, 3]}, tiny, "must be 0 or more each; nearest that works: 0,3"),
        ({"skip_guidance_layers": []}, tiny, "nearest that works: 0"),
        ({"skip_layer_guidance_scale": -1}, tiny, "must be at least 0"),
    ]
    for options, card, says in refused:
        with pytest.raises(RequestError, match=says):
            make_request(prompt="a fox", **options).resolve(card)
