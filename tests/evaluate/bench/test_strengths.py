"""Bradley-Terry with ties: the strengths that made the answers come back, and they stay finite."""

import numpy as np
import pytest

from everreel.evaluate.bench.strengths import DEVIATION, model_strengths, strengths
from tests.evaluate.bench.studies import fake_study, prefers, rate


def chances(a, b, ties):
    """Davidson's formula, as he wrote it: with worths e^a, e^b and v = e^ties."""
    first, second, tie = np.exp(a), np.exp(b), np.exp(ties) * np.sqrt(np.exp(a) * np.exp(b))
    return np.array([first, tie, second]) / (first + tie + second)


def test_the_strengths_behind_many_answers_come_back():
    true, ties = np.array([0.7, 0.1, -0.8]), -0.3
    pairs = [(0, 1), (0, 2), (1, 2)]
    counts = np.array([chances(true[a], true[b], ties) for a, b in pairs]) * 1e6
    assert strengths(counts) == pytest.approx([*true, ties], abs=1e-4)


def test_it_is_the_maximum():
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 9, (6, 3)).astype(float)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]

    def likelihood(x):
        logs = [np.log(chances(x[a], x[b], x[4])) for a, b in pairs]
        return (counts * logs).sum() - (np.asarray(x) ** 2).sum() / (2 * DEVIATION**2)

    found = strengths(counts)
    best = likelihood(found)
    assert found[:4].sum() == pytest.approx(0, abs=1e-9)
    for place in range(5):
        for step in (-1e-3, 1e-3):
            moved = found.copy()
            moved[place] += step
            assert likelihood(moved) < best


def test_many_are_found_at_once_as_one_by_one():
    counts = np.random.default_rng(1).integers(0, 20, (7, 3, 3)).astype(float)
    assert strengths(counts) == pytest.approx(np.stack([strengths(one) for one in counts]), abs=1e-7)


def test_who_always_wins_is_strong_but_finite_and_who_never_met_anybody_is_average():
    always = strengths(np.array([[50.0, 0, 0]]))
    assert 1 < always[0] < 10 and always[0] == pytest.approx(-always[1])
    assert strengths(np.zeros((3, 3))) == pytest.approx(np.zeros(4))
    assert strengths(np.array([[0.0, 30, 0]]))[:2] == pytest.approx([0, 0])


def test_a_studys_strengths_have_intervals_and_do_not_know_sides(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b", "c"), 16, kinds=("pairs",), axes=("motion_quality", "overall"))
    best, other = prefers("a", "b", "c"), prefers("b", "c", "a")
    raters = [
        rate(folder, study, f"rater {n}", lambda task, shown: (best if shown[0].prompt % 4 else other)(task, shown))
        for n in range(3)
    ]
    found = model_strengths(study, raters)
    assert list(found) == ["motion_quality", "overall"]
    for by_model in found.values():
        values = {model: estimate.value for model, estimate in by_model.items()}
        assert values["a"] > values["b"] > values["c"] and sum(values.values()) == pytest.approx(0)
        assert all(e.low < e.value < e.high and e.count == 16 * 3 * 2 for e in by_model.values())
        assert by_model["a"].low > by_model["c"].high
