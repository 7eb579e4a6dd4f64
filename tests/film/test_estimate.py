"""What a film will cost: proportions that must hold on any machine."""

import pytest

from everreel.checkpoint.catalog import find_model
from everreel.film import estimate as costs
from everreel.film.estimate import estimate
from everreel.film.plan import make_plan
from everreel.film.request import make_request


@pytest.fixture(autouse=True)
def one_speed(monkeypatch):
    monkeypatch.setattr(costs, "_speed", lambda device, dtype: 1e11)


def cost(model="tiny", **options):
    card = find_model(model, here=False)
    return estimate(make_plan(make_request(prompt="a fox", **options), card), card, "cpu")


def test_work_grows_as_it_does():
    film = cost()
    assert cost(num_inference_steps=60).seconds == pytest.approx(2 * film.seconds)
    assert cost(guidance_scale=1).seconds == pytest.approx(film.seconds / 2)
    assert cost(num_frames=1457).seconds > 10 * film.seconds / 2  # blocks with a cache do less each
    assert cost(num_frames=2897, schedule="windows").seconds == pytest.approx(
        2 * cost(num_frames=1457, schedule="windows").seconds, rel=0.05
    )


def test_a_step_of_the_embedded_model_is_a_tenth_of_a_teraflop():
    """Counted by hand: 3,000 tokens, ten layers of 256 x 1,024."""
    products = 2 * 1500 * (6 * 256**2 + 2 * 256 * 1024)
    attention = 4 * 1500 * (1500 + 64) * 256
    film = cost()
    assert film.seconds == pytest.approx(30 * 2 * 10 * (products + attention) * 1.1 / 0.5e11)


def test_memory_does_not_follow_the_length_and_weights_are_those_of_the_model():
    assert cost(num_frames=1457).held == cost(num_frames=14570).held
    assert 30e6 < cost().weights < 40e6
    assert 20e9 < cost("DF-14B-540P").weights < 60e9
    assert 2e9 < cost("DF-1.3B-540P").weights < 6e9


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < costs._speed(costs.torch.device("cpu"), costs.torch.float32) < 1e14
