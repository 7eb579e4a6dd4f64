"""A guard against drift: brightness and colours of a long film are held at those of its first window.

Source: the mean and deviation of each channel, as in adaptive instance normalisation (Huang and Belongie 2017), of
latents. The one invariant: a film that fits its first window is not touched.

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
        self._seen = 0

    def restore(self, sums: Tensor | None, per_frame: int) -> None:
        """Stand where `sums` were taken, from latent frames of `per_frame` positions."""
        self.sums = sums
        self._seen = 0 if sums is None else int(sums[0, 0]) // per_frame

    def __call__(self, latents_CTHW: Tensor) -> Tensor:
        """The next finished latents, held at the first ones' statistics."""
        values_CN = latents_CTHW.flatten(1).double()
        if self.sums is None or self._seen < self.frames:
            count_C = torch.full_like(values_CN[:, 0], values_CN.shape[1])
            new = torch.stack([count_C, values_CN.sum(1), values_CN.square().sum(1)])
            self.sums = new if self.sums is None else self.sums + new
            self._seen += latents_CTHW.shape[1]
            return latents_CTHW
        count_C, sum_C, squares_C = self.sums
        mean_C = sum_C / count_C
        deviation_C = (squares_C / count_C - mean_C.square()).clamp(min=0).sqrt()
        own_C, spread_C = values_CN.mean(1), values_CN.std(1, correction=0).clamp(min=SMALLEST_DEVIATION)
        scale_C = torch.lerp(torch.ones_like(own_C), deviation_C / spread_C, self.strength)
        centre_C = torch.lerp(own_C, mean_C, self.strength)
        held_CN = (values_CN - own_C[:, None]) * scale_C[:, None] + centre_C[:, None]
        return held_CN.to(latents_CTHW).view_as(latents_CTHW)
