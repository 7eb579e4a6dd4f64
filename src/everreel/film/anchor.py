"""A guard against drift: brightness and colours of a long film are held at those of its first window.

Source: the mean and deviation of each channel, as in adaptive instance normalisation (Huang and Belongie 2017), of
latents. The one invariant: what is finished first is not touched, nor is a film that is finished at once.

Shape suffixes: C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_DEVIATION = 1e-4


class ColorAnchor:
    """What a film does with its finished latents.

    Args:
        strength: 0 leaves each channel's mean and deviation as they are, 1 makes them those of the first window.
        frames: latent frames of that window.
    """

    def __init__(self, strength: float, frames: int) -> None:
        self.strength, self.frames = strength, frames
        self.sums: Tensor | None = None
        """(3, C) float64: of the first window's latents their number, their sum, and that of their squares."""

    def __call__(self, start: int, latents_CTHW: Tensor) -> Tensor:
        """The next finished latents, the first of them frame `start` of the film, held at what the first ones were."""
        held_CTHW = latents_CTHW if self.sums is None else self._hold(latents_CTHW, self.sums)
        if start < self.frames:
            # The film's first latent stands for one frame and is of another kind.
            first = 1 if start == 0 and latents_CTHW.shape[1] > 1 else 0
            values_CN = held_CTHW[:, first:].flatten(1).double()
            count_C = torch.full_like(values_CN[:, 0], values_CN.shape[1])
            new = torch.stack([count_C, values_CN.sum(1), values_CN.square().sum(1)])
            self.sums = new if self.sums is None else self.sums + new
        return held_CTHW

    def _hold(self, latents_CTHW: Tensor, sums: Tensor) -> Tensor:
        values_CN = latents_CTHW.flatten(1).double()
        count_C, sum_C, squares_C = sums
        mean_C = sum_C / count_C
        deviation_C = (squares_C / count_C - mean_C.square()).clamp(min=0).sqrt()
        own_C, spread_C = values_CN.mean(1), values_CN.std(1, correction=0).clamp(min=SMALLEST_DEVIATION)
        scale_C = torch.lerp(torch.ones_like(own_C), deviation_C / spread_C, self.strength)
        centre_C = torch.lerp(own_C, mean_C, self.strength)
        held_CN = (values_CN - own_C[:, None]) * scale_C[:, None] + centre_C[:, None]
        return held_CN.to(latents_CTHW).view_as(latents_CTHW)
