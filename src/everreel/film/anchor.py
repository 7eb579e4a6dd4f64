"""A guard against drift: brightness and colours of a long film are held at those that each part of it began with.

Source: the mean and deviation of each channel, as in adaptive instance normalisation (Huang and Belongie 2017), and how
channels go together, by the map between two normal distributions that moves least (Dowson and Landau 1982), of latents:
saturation is in no channel alone. The one invariant: it is the same whether frames come one by one or many at a time,
but for the first ones, and neither the film's very first latent nor a film that is finished at once is touched.

Shape suffixes: C channels (twice where they are paired, D), N values, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from everreel.film.device import widest_dtype

SMALLEST_VARIANCE = 1e-6  # of any mixture of channels: what is flat is not blown up


class ColorAnchor:
    """What a film does with its finished latents.

    Args:
        strength: 0 leaves the channels' means and covariances in every latent frame as they are, 1 makes them those
            of the first frames that were finished together.
        turns: latent frames at which a part of the story takes over, first to last; it has colours of its own.
    """

    def __init__(self, strength: float, turns: Sequence[int] = ()) -> None:
        self.strength = strength
        self.turns = tuple(turns)
        self.reference: Tensor | None = None
        """(1 + C + 1, C), `widest_dtype`: the means and covariances that frames are held at, and where they begin."""

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
        channels = latents_CTHW.shape[0]
        # Of another height are those of journals that knew no covariances.
        if self.reference is None or len(self.reference) != channels + 2 or self.reference[-1, 0] != began:
            self.reference = colors_of(latents_CTHW, began)
        return self._hold(latents_CTHW, self.reference[0, :, None], self.reference[1:-1])

    def _hold(self, latents_CTHW: Tensor, mean_C1: Tensor, covariance_CD: Tensor) -> Tensor:
        values_TCN = latents_CTHW.flatten(2).to(widest_dtype(latents_CTHW.device)).movedim(1, 0)
        own_TC1 = values_TCN.mean(2, keepdim=True)
        same_CD = torch.eye(len(covariance_CD), dtype=values_TCN.dtype, device=values_TCN.device)
        map_TCD = torch.lerp(
            same_CD.expand(len(own_TC1), -1, -1), _least(_covariance(values_TCN), covariance_CD), self.strength
        )
        centre_TC1 = torch.lerp(own_TC1, mean_C1.expand_as(own_TC1), self.strength)
        held_TCN = map_TCD @ (values_TCN - own_TC1) + centre_TC1
        return held_TCN.movedim(0, 1).to(latents_CTHW).reshape(latents_CTHW.shape)


def colors_of(latents_CTHW: Tensor, began: int = 0) -> Tensor:
    """A reference (C + 2, C) made of these latents, for the part of a film that begins at frame `began`."""
    values_CN = latents_CTHW.flatten(1).to(widest_dtype(latents_CTHW.device))
    mean_1C = values_CN.mean(1)[None]
    return torch.cat([mean_1C, _covariance(values_CN), torch.full_like(mean_1C, began)])


def carried_on(reference: Tensor) -> Tensor:
    """A reference of one film for the one that goes on with it, and counts its frames anew."""
    return torch.cat([reference[:-1], torch.zeros_like(reference[-1:])])


def _covariance(values_CN: Tensor) -> Tensor:
    """(..., C, D) of values (..., C, N)."""
    apart_CN = values_CN - values_CN.mean(-1, keepdim=True)
    return apart_CN @ apart_CN.mT / values_CN.shape[-1]


def _least(own_TCD: Tensor, wanted_CD: Tensor) -> Tensor:
    """The symmetric maps that give values of one covariance another and move them least, (T, C, D).

    Found on the CPU in float64, for not every device knows eigenvalues; the matrices are small.
    """
    own, wanted = (each.cpu().double() for each in (own_TCD, wanted_CD))
    least = SMALLEST_VARIANCE * torch.eye(len(wanted), dtype=torch.float64)
    half, inverse = _power(own + least, 0.5), _power(own + least, -0.5)
    return (inverse @ _power(half @ (wanted + least) @ half, 0.5) @ inverse).to(own_TCD)


def _power(positive_CD: Tensor, exponent: float) -> Tensor:
    """Of symmetric matrices (..., C, D) without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(positive_CD)
    power_CD: Tensor = (vectors * values.clamp(min=SMALLEST_VARIANCE**2).pow(exponent)[..., None, :]) @ vectors.mT
    return power_CD
