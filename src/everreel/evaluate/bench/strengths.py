"""How strong models are by pairs of their films: the Bradley-Terry model with ties.

Davidson's form (R. R. Davidson, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison
Experiments", 1970): of models with strengths a and b, the first is better with a probability proportional to e^a, the
second to e^b, and it is a tie in proportion to e^(t + (a + b) / 2). The one invariant: strengths sum to zero and are
finite, as each has a normal prior of deviation 3, which is weak (e^3 is 20 to 1) and decides only where one model
always wins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from everreel.evaluate.bench.ratings import RaterLog
from everreel.evaluate.bench.study import Study
from everreel.evaluate.bench.votes import Estimate, Floats, choices, estimate, resample

DEVIATION = 3.0
_STEPS, _LONGEST_STEP = 60, 2.0


def strengths(counts: Floats) -> Floats:
    """The most probable strengths.

    (..., pairs of models, 3) → (..., models + 1): of how often the first was better, it was a tie, and the second was
    better, for each two models in the order of `itertools.combinations`; the last number is the inclination to ties.
    """
    pairs = counts.shape[-2]
    models = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    assert models * (models - 1) // 2 == pairs
    features = _features(models)
    totals = counts.sum(-1, keepdims=True)
    found = np.zeros((*counts.shape[:-2], models + 1))
    prior = np.eye(models + 1) / DEVIATION**2
    for _ in range(_STEPS):  # Newton's; what is maximised is concave
        logits = np.einsum("qkm,...m->...qk", features, found)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        chance = odds / odds.sum(-1, keepdims=True)
        slope = np.einsum("...qk,qkm->...m", counts - totals * chance, features) - found / DEVIATION**2
        spread = totals[..., None] * (chance[..., None] * np.eye(3) - chance[..., None] * chance[..., None, :])
        curve = np.einsum("qkm,...qkl,qln->...mn", features, spread, features, optimize=True) + prior
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        found = found + step / np.maximum(np.abs(step).max(-1, keepdims=True) / _LONGEST_STEP, 1.0)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    found[..., :-1] -= found[..., :-1].mean(-1, keepdims=True)
    return found


def model_strengths(study: Study, raters: Sequence[RaterLog]) -> dict[str, dict[str, Estimate]]:
    """For each axis of pairs and each model its strength, with an interval over prompts and raters."""
    cells = pair_cells(study, raters)
    return {
        axis: {
            model: estimate(drawn[:, place], _behind(cells[:, :, number], study, model))
            for place, model in enumerate(study.models)
        }
        for number, axis in enumerate(study.axes_of("pairs"))
        for drawn in [strengths(resample(cells[:, :, number]))]
    }


def pair_cells(study: Study, raters: Sequence[RaterLog]) -> Floats:
    """Counts of better, tie, worse: (prompts, raters, axes, pairs of models, 3)."""
    axes, pairs = study.axes_of("pairs"), list(itertools.combinations(study.models, 2))
    cells = np.zeros((len(study.prompts), len(raters), len(axes), len(pairs), 3))
    for choice in choices(study, raters):
        pair = pairs.index((choice.first.model, choice.second.model))
        cells[choice.first.prompt, choice.rater, axes.index(choice.axis), pair, 1 - choice.value] += 1
    return cells


def _behind(cells: Floats, study: Study, model: str) -> float:
    pairs = itertools.combinations(study.models, 2)
    return float(cells[:, :, [model in pair for pair in pairs]].sum())


def _features(models: int) -> Floats:
    """(pairs, 3, models + 1): what better, tie and worse take of each strength and of the inclination to ties."""
    features = np.zeros((models * (models - 1) // 2, 3, models + 1))
    for number, (first, second) in enumerate(itertools.combinations(range(models), 2)):
        features[number, 0, first] = features[number, 2, second] = features[number, 1, models] = 1
        features[number, 1, [first, second]] = 0.5
    return features
