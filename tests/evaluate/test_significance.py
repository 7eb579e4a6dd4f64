"""Tests against known p values, against brute force, and against how often chance alone is called significant."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from everreel.evaluate.significance import (
    LEAST_PAIRS,
    LEAST_UNPAIRED,
    LEVEL,
    holm,
    interval,
    interval_between,
    label_test,
    mcnemar,
    sign_test,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(3, 3) == 1.0
    assert mcnemar(0, 6) == mcnemar(6, 0) == 2 / 2**6
    assert mcnemar(13, 2) == pytest.approx(2 * (1 + 15 + 105) / 2**15)


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_signs_drawn_are_signs_counted() -> None:
    differences = np.array([0.9, 0.4, 0.7, -0.1, 0.5, 0.6, 0.2])
    means = [abs((np.array(signs) * differences).mean()) for signs in itertools.product((1, -1), repeat=7)]
    exact = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert sign_test(differences, generator()) == pytest.approx(exact, abs=0.006)
    assert sign_test(np.zeros(8), generator()) == 1.0


def test_labels_drawn_are_labels_counted() -> None:
    a, b = np.array([0.1, 0.4, 0.2, 0.3]), np.array([0.5, 0.9, 0.35, 0.8, 0.7])
    both = np.concatenate([a, b])
    apart = []
    for chosen in itertools.combinations(range(9), 4):
        inside = np.isin(np.arange(9), chosen)
        apart.append(abs(both[~inside].mean() - both[inside].mean()))
    exact = np.mean([x >= b.mean() - a.mean() - 1e-12 for x in apart])
    assert label_test(a, b, generator()) == pytest.approx(exact, abs=0.006)


def test_the_interval_of_a_mean_is_about_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = interval(values, generator())
    wide = 1.96 * values.std() / 20
    assert (low, high) == (pytest.approx(values.mean() - wide, abs=0.02), pytest.approx(values.mean() + wide, abs=0.02))
    low, high = interval_between(values, values + 1, generator())
    assert low < 1 < high and high - low == pytest.approx(2 * wide * math.sqrt(2), rel=0.06)
    for ends in (interval(values[:1], generator()), interval_between(values, values[:1], generator())):
        assert all(math.isnan(end) for end in ends)


def test_many_films_are_drawn_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(0.1, 1, 50)
    whole = sign_test(values, generator()), interval(values, generator())
    monkeypatch.setattr("everreel.evaluate.significance._AT_ONCE", 50 * 700)
    assert sign_test(values, generator()) == pytest.approx(whole[0], abs=0.02)
    assert interval(values, generator()) == pytest.approx(whole[1], abs=0.02)


def test_the_fewest_that_are_tested_can_be_significant() -> None:
    assert sign_test(np.ones(LEAST_PAIRS), generator()) < LEVEL
    assert 2 / 2 ** (LEAST_PAIRS - 1) > LEVEL, "with one less, they never are"
    a, b = np.arange(LEAST_UNPAIRED) * 1.0, np.arange(LEAST_UNPAIRED) + 100.0
    assert label_test(a, b, generator()) < LEVEL
    assert label_test(a[1:], b[1:], generator()) > LEVEL


def test_chance_is_called_significant_as_often_as_it_may() -> None:
    draw = np.random.default_rng(1)
    hits = sum(sign_test(draw.normal(0, 1, 16), generator(seed)) < LEVEL for seed in range(120))
    assert hits <= 13, "of 120 with no difference, 6 are expected"
    assert sign_test(draw.normal(1, 1, 30), generator()) < 0.001


def test_the_same_generator_gives_the_same() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    assert sign_test(values, generator(3)) == sign_test(values, generator(3))
    assert interval(values, generator(3)) == interval(values, generator(3)) != interval(values, generator(4))
