"""What a reward model is worth: its accuracy on held-out pairs, its calibration, and what a simple rule would reach.

The one invariant: every share is told with how many pairs it is of and Wilson's interval, and beside what three rules
reach that no network is needed for: how much moves, how sharp the frames are, how unevenly it moves. A model that is no
better than sharpness has not learnt motion.

Shape suffixes: B pairs, 2 the films of a pair, the better one first, C channels, T latent frames, H W latent height and
width, 3 the first is better, the second is, neither.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from everreel.evaluate.follow import wilson
from everreel.train.motion.bradley_terry import FIRST, TIE, log_probabilities
from everreel.train.motion.comparisons import HELD_OUT, TRAIN, Comparisons
from everreel.train.motion.reward_model import MotionReward

ALL = "all"
SIGN_PAIRS = 400  # of the training split, on which a rule learns whether more or less is better

Scores = tuple[float, float]


def amplitude(films_2CTHW: Tensor) -> Tensor:
    """How much changes from latent frame to latent frame (2)."""
    return films_2CTHW.diff(dim=2).abs().flatten(1).mean(1)


def sharpness(films_2CTHW: Tensor) -> Tensor:
    """How much changes from place to place within a latent frame (2)."""
    return sum((films_2CTHW.diff(dim=side).abs().flatten(1).mean(1) for side in (3, 4)), torch.zeros(2))


def unevenness(films_2CTHW: Tensor) -> Tensor:
    """How much the amount of change itself changes along the film (2), which jumps and held frames show."""
    change_2T = films_2CTHW.diff(dim=2).abs().mean(dim=(1, 3, 4))
    return change_2T.std(dim=1, correction=0) / (change_2T.mean(dim=1) + 1e-6)


RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "amplitude": amplitude,
    "sharpness": sharpness,
    "unevenness": unevenness,
}


@torch.no_grad()
def scores_of(model: MotionReward, pairs: Comparisons, indices: Sequence[int], tokens: int) -> dict[int, Scores]:
    """The scores of both films of pairs, as they are, by the pair's number."""
    device = model.head.weight.device
    scores: dict[int, Scores] = {}
    for part in pairs.parts(indices, tokens):
        batch = pairs.batch(part)
        both = model(batch.films_B2CTHW.flatten(0, 1).to(device), batch.fps_B.repeat_interleave(2).to(device))
        for index, (better, worse) in zip(part, both.unflatten(0, (-1, 2)).tolist(), strict=True):
            scores[index] = better, worse
    return scores


def report_of(model: MotionReward, pairs: Comparisons, theta: float, tokens: int) -> dict[str, Any]:
    """All that `report.json` holds."""
    held_out = pairs.members(HELD_OUT)
    scores = scores_of(model, pairs, held_out, tokens)
    ties = [index for index in held_out if pairs.labels[index].tie]
    better_B, worse_B = torch.tensor([scores[index] for index in held_out]).unbind(1)
    log_B3 = log_probabilities(better_B, worse_B, theta)
    told = {index: int(log_3.argmax()) for index, log_3 in zip(held_out, log_B3, strict=True)}
    answer = [TIE if pairs.labels[index].tie else FIRST for index in held_out]
    return {
        "pairs": {TRAIN: len(pairs.members(TRAIN)), HELD_OUT: len(held_out)},
        "contradicting": len(pairs.contradicting),
        "theta": theta,
        "accuracy": accuracy_of(pairs, scores),
        "ties": _share(sum(told[index] == TIE for index in ties), len(ties)),
        "log_likelihood": {
            "model": float(log_B3[torch.arange(len(answer)), answer].mean()),
            "constant": _constant(pairs, answer),
        },
        "baseline": {name: _rule_of(rule, pairs, held_out) for name, rule in RULES.items()},
    }


def accuracy_of(pairs: Comparisons, scores: Mapping[int, Scores], equal: float = 0.0) -> dict[str, dict[str, Any]]:
    """The share of decided pairs whose better film has the greater score, of all and by kind; equal scores count as so
    much of a pair that is right.
    """
    right: dict[str, float] = defaultdict(float)
    count = Counter[str]()
    for index, (better, worse) in scores.items():
        if not pairs.labels[index].tie:
            for name in (ALL, pairs.labels[index].kind):
                count[name] += 1
                right[name] += equal if better == worse else float(better > worse)
    return {name: _share(right[name], count[name]) for name in [ALL, *sorted(count.keys() - {ALL})]}


def table_of(report: Mapping[str, Any]) -> str:
    """The report as lines to be read: a row a kind, a column for the model and each rule."""
    rules = report["baseline"]
    rows = [["held-out pairs", "pairs", "right", "95 %", *(f"{rule['better']} {name}" for name, rule in rules.items())]]
    for kind, found in report["accuracy"].items():
        beside = [_percent(rule["accuracy"][kind]["share"]) for rule in rules.values()]
        rows.append([kind, str(found["pairs"]), _percent(found["share"]), _interval(found), *beside])
    ties = report["ties"]
    if ties["pairs"]:
        rows.append(["told as ties", str(ties["pairs"]), _percent(ties["share"]), _interval(ties)])
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(widths[at]) if at else cell.ljust(widths[0]) for at, cell in enumerate(row))
        for row in rows
    ]
    likelihood = report["log_likelihood"]
    lines.append(f"mean log-likelihood {likelihood['model']:.3f}; without looking {likelihood['constant']:.3f}")
    if report["contradicting"]:
        lines.append(f"{report['contradicting']} pairs contradict another of the same films")
    return "\n".join(lines) + "\n"


def _rule_of(rule: Callable[[Tensor], Tensor], pairs: Comparisons, held_out: Sequence[int]) -> dict[str, Any]:
    """What a rule reaches that was told by training pairs whether more or less is better. A film and its reversal are
    the same to it but for rounding, which is taken away; where it sees no difference it is right half of the time.
    """

    def scores(indices: Sequence[int]) -> dict[int, Scores]:
        values = {index: [float(f"{value:.4g}") for value in rule(pairs.pair(index)).tolist()] for index in indices}
        return {index: (better, worse) for index, (better, worse) in values.items()}

    decided = [index for index in pairs.members(TRAIN) if not pairs.labels[index].tie]
    some = decided[:: -(-len(decided) // SIGN_PAIRS)]
    known = scores(some).values()
    sign = 1 if sum(b > w for b, w in known) >= sum(b < w for b, w in known) else -1
    told = {index: (sign * better, sign * worse) for index, (better, worse) in scores(held_out).items()}
    return {"better": "more" if sign > 0 else "less", "accuracy": accuracy_of(pairs, told, equal=0.5)}


def _constant(pairs: Comparisons, answer: Sequence[int]) -> float:
    """The mean log-likelihood of the best guess without looking: the share of ties in training, and which of two films
    is first being a toss. A tie more and two decisions more are counted, so that nothing is taken for impossible.
    """
    train = pairs.members(TRAIN)
    tie = (sum(pairs.labels[index].tie for index in train) + 1) / (len(train) + 3)
    return sum(math.log(tie if one == TIE else (1 - tie) / 2) for one in answer) / len(answer)


def _share(right: float, count: int) -> dict[str, Any]:
    # Half a pair, which a rule may have, is within what an interval tells.
    return {
        "right": right,
        "pairs": count,
        "share": right / count if count else None,
        "interval": list(wilson(round(right), count)),
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * low:.0f}..{100 * high:.0f}"
