"""Bradley-Terry with ties: from two scores to the probabilities of better, worse and equal.

Source: section 4b of the paper, in the form of the reward models that it goes back to (Rao and Kupper, 1967). With
d the first score less the second, P(first) = σ(d − ln θ), P(second) = σ(−d − ln θ) and P(tie) = (θ² − 1) P(first)
P(second). The one invariant: the three sum to 1. A greater θ makes ties likelier; at θ = 1 there are none.

Shape suffixes: B comparisons, 3 the first, the second, neither.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

THETA = 5.0
FIRST, SECOND, TIE = range(3)


def check_theta(theta: float) -> None:
    """Refuse a θ that leaves no room for ties."""
    if not (math.isfinite(theta) and theta > 1):
        raise ValueError(f"theta={theta}: must be above 1, or no pair can be a tie; {THETA:g} works")


def log_probabilities(first_B: Tensor, second_B: Tensor, theta: float = THETA) -> Tensor:
    """Logarithms (B, 3) of the probabilities that the first is better, that the second is, and of a tie; float32.

    Raises:
        ValueError: θ is not above 1.
    """
    check_theta(theta)
    difference_B = first_B.float() - second_B.float()
    first_is_B = F.logsigmoid(difference_B - math.log(theta))
    second_is_B = F.logsigmoid(-difference_B - math.log(theta))
    return torch.stack([first_is_B, second_is_B, first_is_B + second_is_B + math.log(theta**2 - 1)], dim=-1)


def probabilities(first_B: Tensor, second_B: Tensor, theta: float = THETA) -> Tensor:
    """What `log_probabilities` gives the logarithms of (B, 3)."""
    return log_probabilities(first_B, second_B, theta).exp()


def bradley_terry_with_ties(first_B: Tensor, second_B: Tensor, tie_B: Tensor, theta: float = THETA) -> Tensor:
    """The negative log-likelihood (B) of comparisons in which the first was better, but where `tie_B` is true.

    Raises:
        ValueError: θ is not above 1.
    """
    log_B3 = log_probabilities(first_B, second_B, theta)
    return -torch.where(tie_B.bool(), log_B3[:, TIE], log_B3[:, FIRST])
