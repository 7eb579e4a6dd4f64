"""A guard against drift: brightness and colours of a long film are held at those that each part of it began with.

Source: the mean and deviation of each channel, as in adaptive instance normalisation (Huang and Belongie 2017), of
latents. The one invariant: it is the same whether frames come one by one or many at a time, but for the first ones,
and neither the film's very first latent nor a film that is finished at once is touched.

Shape suffixes: C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from everreel.film.device import widest_dtype

SMALLEST_DEVIATION = 1e-4


class ColorAnchor:
    """What a film does with its finished latents.

    Args:
        strength: 0 leaves each channel's mean and deviation in every latent frame as they are, 1 makes them those of
            the first frames that were finished together.
        turns: latent frames at which a part of the story takes over, first to last; it has colours of its own.
    """

    def __init__(self, strength: float, turns: Sequence[int] = ()) -> None:
        self.strength = strength
        self.turns = tuple(turns)
        self.reference: Tensor | None = None
        """(3, C), `widest_dtype`: the mean and deviation that frames are held at, and the frame where they begin."""

    def __call__(self, start: int, latents_CTHW: Tensor) -> Tensor:
        """The next finished latents, the first of them frame `start` of the film, held at what the first ones were."""
        stop = start + latents_CTHW.shape[1]
        # The film's first latent stands for one frame and is of another kind.
        cuts = sorted({start, stop, *(turn for turn in (1, *self.turns) if start < turn < stop)})
        pieces = latents_CTHW.split([b - a for a, b in itertools.pairwise(cuts)], dim=1)
        return torch.cat([self._part(at, piece) for at, piece in zip(cuts, pieces, strict=False)], dim=1)

    def _part(self, start: int, latents_CTHW: Tensor) -> Tensor:
        if start == 0:
            return latents_CTHW
        began = max((turn for turn in self.turns if turn <= start), default=0)
        if self.reference is None or self.reference[2, 0] != began:
            self.reference = colors_of(latents_CTHW, began)
        return self._hold(latents_CTHW, *self.reference[:2, :, None, None])

    def _hold(self, latents_CTHW: Tensor, mean_C11: Tensor, deviation_C11: Tensor) -> Tensor:
        values_CTN = latents_CTHW.flatten(2).to(widest_dtype(latents_CTHW.device))
        own_CT1 = values_CTN.mean(2, keepdim=True)
        spread_CT1 = values_CTN.std(2, correction=0, keepdim=True).clamp(min=SMALLEST_DEVIATION)
        scale_CT1 = torch.lerp(torch.ones_like(own_CT1), deviation_C11 / spread_CT1, self.strength)
        centre_CT1 = torch.lerp(own_CT1, mean_C11.expand_as(own_CT1), self.strength)
        return ((values_CTN - own_CT1) * scale_CT1 + centre_CT1).to(latents_CTHW).view_as(latents_CTHW)


def colors_of(latents_CTHW: Tensor, began: int = 0) -> Tensor:
    """A reference (3, C) made of these latents, for the part of a film that begins at frame `began`."""
    values_CN = latents_CTHW.flatten(1).to(widest_dtype(latents_CTHW.device))
    mean_C, deviation_C = values_CN.mean(1), values_CN.std(1, correction=0)
    return torch.stack([mean_C, deviation_C, torch.full_like(mean_C, began)])


def carried_on(reference_3C: Tensor) -> Tensor:
    """A reference of one film for the one that goes on with it, and counts its frames anew."""
    return torch.cat([reference_3C[:2], torch.zeros_like(reference_3C[2:])])
