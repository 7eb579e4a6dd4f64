"""Flow matching, and every draw of noise: what is added to data, at which level, and from which seed.

Wan's convention (SkyReels-V2, arXiv 2504.13074, flow matching): x = (1 - sigma) · data + sigma · noise,
sigma 1 is noise, the network's clock is 1000 · sigma and its output is noise - data. The levels of training
are diffusion forcing's (the same, and AR-Diffusion's FoPP sampler, arXiv 2503.07418). The one
invariant: a draw is a function of its generator or seed alone; it happens on the CPU and is the same on
every machine.

Shapes: B batch, C channels, T latent frames, H height, W width, K kinds of rows; N blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

FOPP_LEVELS = 1000


def add_noise(x0_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_BT: Tensor) -> Tensor:
    """(1 - sigma) · data + sigma · noise, each frame at its own level."""
    sigma_B1T11 = _by_frame(sigma_BT, x0_BCTHW)
    return (1 - sigma_B1T11) * x0_BCTHW + sigma_B1T11 * noise_BCTHW  # exact at 0 and at 1


def predict_x0(x_BCTHW: Tensor, velocity_BCTHW: Tensor, sigma_BT: Tensor) -> Tensor:
    """The data that a velocity points to from a noisy sample."""
    return x_BCTHW - _by_frame(sigma_BT, x_BCTHW) * velocity_BCTHW


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move levels towards noise (shift above 1) or data (below 1); 0 and 1 stay."""
    if not shift > 0:
        raise ValueError(f"shift = {shift}: must be positive; the released models use 3, 5 or 8")
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_noise(seed: int, purpose: str, frame: int, row: int, shape: Sequence[int]) -> Tensor:
    """Normal noise for one latent frame of a film, float32 on the CPU.

    It depends on nothing but the arguments: not on the window, the process or what was drawn before.

    Args:
        seed: of the film.
        purpose: what the noise is for, so that two uses of a frame are independent.
        frame: absolute number of the latent frame in the film.
        row: row of the schedule, where a row draws afresh; else 0.
        shape: of the noise.
    """
    key = hashlib.blake2b(f"{seed}:{frame}:{row}:{purpose}".encode(), digest_size=8).digest()
    generator = Generator().manual_seed(int.from_bytes(key, "big") >> 1)
    # Drawn in float64 and rounded: the float32 routine differs in its last bit between instruction sets.
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).float()


def draw_noise_frames(seed: int, purpose: str, frames: Iterable[int], row: int, shape_CHW: Sequence[int]) -> Tensor:
    """`draw_noise` for several frames, (C, T, H, W)."""
    return torch.stack([draw_noise(seed, purpose, frame, row, shape_CHW) for frame in frames], dim=1)


class LevelDraw(NamedTuple):
    """Levels for a batch of training windows."""

    sigma_BT: Tensor
    """float32, 0 clean to 1 noise."""
    loss_BT: Tensor
    """bool: frames on which the loss counts."""
    given_BT: Tensor
    """bool: frames given as a picture, anywhere in the window; their level is 0."""


@dataclass(frozen=True)
class LevelMixture:
    """How often a training window gets which kind of levels: weights of any sum."""

    equal: float = 0.3
    independent: float = 0.0
    non_decreasing: float = 0.4
    clean_prefix: float = 0.2
    given_anywhere: float = 0.1
    shift: float = 1.0
    spread: float = 1.0
    """Standard deviation of the logit of a level: above 1 the ends of the scale are seen more often."""
    history_level: float = 0.1
    """The most noise on the history of a clean prefix."""
    most_given: int = 3
    """The most pictures given in a window."""

    def __post_init__(self) -> None:
        """Refuse weights that cannot be drawn from."""
        weights = self._weights()
        if min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"weights = {weights}: must be 0 or more, and one of them more than 0")
        if not self.spread > 0:
            raise ValueError(f"spread = {self.spread}: must be more than 0; 1 is what levels are usually drawn with")

    def sample(self, batch: int, frames: int, generator: Generator, blocks: Sequence[int] | None = None) -> LevelDraw:
        """One kind a window. `blocks` are sizes of blocks that share a level; None is one frame each."""
        # Everything is drawn for every window and one kind kept: cheap, and no draw depends on a kind.
        weights_K = torch.tensor(self._weights(), dtype=torch.float64)
        kind_B1 = torch.multinomial(weights_K, batch, replacement=True, generator=generator)[:, None]
        equal_BT = equal_levels(batch, frames, generator, self.shift, self.spread)
        independent_BT = independent_levels(batch, frames, generator, self.shift, blocks, self.spread)
        rising_BT = non_decreasing_levels(batch, frames, generator, self.shift, blocks)
        future_BT = torch.where(torch.rand((batch, 1), generator=generator) < 0.5, equal_BT, rising_BT)
        history_B = draw_history(batch, frames, generator, blocks)
        prefix_BT = with_clean_prefix(future_BT, history_B, generator, self.history_level)
        given_BT = draw_given(batch, frames, generator, self.most_given) & (kind_B1 == 4)

        sigma_KBT = torch.stack((equal_BT, independent_BT, rising_BT, prefix_BT, future_BT))
        sigma_BT = sigma_KBT.gather(0, kind_B1.expand(batch, frames)[None])[0].masked_fill(given_BT, 0.0)
        history_BT = (torch.arange(frames) < history_B[:, None]) & (kind_B1 == 3)
        return LevelDraw(sigma_BT, ~(history_BT | given_BT), given_BT)

    def _weights(self) -> tuple[float, ...]:
        return self.equal, self.independent, self.non_decreasing, self.clean_prefix, self.given_anywhere


def equal_levels(batch: int, frames: int, generator: Generator, shift: float = 1.0, spread: float = 1.0) -> Tensor:
    """One logit-normal level for all frames of a window, (B, T)."""
    sigma_B1 = (spread * torch.randn((batch, 1), generator=generator)).sigmoid()
    return shift_sigma(sigma_B1, shift).expand(batch, frames)


def independent_levels(
    batch: int,
    frames: int,
    generator: Generator,
    shift: float = 1.0,
    blocks: Sequence[int] | None = None,
    spread: float = 1.0,
) -> Tensor:
    """A logit-normal level for each block, whatever its neighbours have, (B, T)."""
    sizes_N = _block_sizes(frames, blocks)
    sigma_BN = (spread * torch.randn((batch, len(sizes_N)), generator=generator)).sigmoid()
    return shift_sigma(sigma_BN, shift).repeat_interleave(sizes_N, dim=1)


def non_decreasing_levels(
    batch: int, frames: int, generator: Generator, shift: float = 1.0, blocks: Sequence[int] | None = None
) -> Tensor:
    """FoPP: earlier blocks never noisier than later ones, (B, T)."""
    sizes_N = _block_sizes(frames, blocks)
    steps_BN = sample_fopp(batch, len(sizes_N), generator) + 1
    return shift_sigma(steps_BN.float() / FOPP_LEVELS, shift).repeat_interleave(sizes_N, dim=1)


def sample_fopp(batch: int, length: int, generator: Generator, levels: int = FOPP_LEVELS) -> Tensor:
    """Non-decreasing sequences of `length` integers from 0 to `levels` - 1, int64 (B, N).

    A uniform position gets a uniform level; the rest is uniform over all sequences through that point.
    """
    anchor_B = torch.randint(length, (batch,), generator=generator)
    value_B = torch.randint(levels, (batch,), generator=generator)
    chance_BN = torch.rand((batch, length), generator=generator, dtype=torch.float64)
    steps_BN = value_B[:, None].expand(batch, length).clone()
    for place in reversed(range(length - 1)):
        drawn_B = _draw_before(place, steps_BN[:, place + 1], chance_BN[:, place], levels)
        steps_BN[:, place] = torch.where(place < anchor_B, drawn_B, steps_BN[:, place])
    for place in range(1, length):
        # Read backwards and upside down, what follows is drawn like what goes before.
        top_B = levels - 1 - steps_BN[:, place - 1]
        drawn_B = levels - 1 - _draw_before(length - 1 - place, top_B, chance_BN[:, place], levels)
        steps_BN[:, place] = torch.where(place > anchor_B, drawn_B, steps_BN[:, place])
    return steps_BN


def draw_history(batch: int, frames: int, generator: Generator, blocks: Sequence[int] | None = None) -> Tensor:
    """How many frames at the front are known: whole blocks, at least one and not all, int64 (B,)."""
    edges_N = _block_sizes(frames, blocks).cumsum(0)[:-1]
    if len(edges_N) == 0:
        return torch.zeros(batch, dtype=torch.int64)
    return edges_N[torch.randint(len(edges_N), (batch,), generator=generator)]


def with_clean_prefix(sigma_BT: Tensor, history_B: Tensor, generator: Generator, history_level: float = 0.1) -> Tensor:
    """The first `history_B` frames at one level, uniform from 0 to `history_level`; the rest as it is."""
    small_B1 = torch.rand((len(sigma_BT), 1), generator=generator) * history_level
    return torch.where(torch.arange(sigma_BT.shape[1]) < history_B[:, None], small_B1, sigma_BT)


def draw_given(batch: int, frames: int, generator: Generator, most: int = 3) -> Tensor:
    """Frames given as pictures, from one to `most` of them anywhere but never all, bool (B, T)."""
    most = min(most, frames - 1)
    if most < 1:
        return torch.zeros((batch, frames), dtype=torch.bool)
    count_B1 = torch.randint(1, most + 1, (batch, 1), generator=generator)
    rank_BT = torch.rand((batch, frames), generator=generator).argsort(dim=1).argsort(dim=1)
    return rank_BT < count_B1


def _draw_before(place: int, top_B: Tensor, chance_B: Tensor, levels: int) -> Tensor:
    """The level at `place` below a next one of `top`, as likely as there are ways to it: by the inverse CDF.

    There are C(k + place, place) non-decreasing ways to reach level k, and C(k + place + 1, place + 1) to
    reach k or less; the logarithms, here without the factor that cancels, are good where the numbers
    overflow.
    """
    k = torch.arange(levels, dtype=torch.float64)
    reach = torch.lgamma(k + place + 2) - torch.lgamma(k + 1)
    wanted_B = reach[top_B] + torch.log1p(-chance_B)  # 1 - chance is never 0
    return torch.minimum(torch.searchsorted(reach, wanted_B), top_B)


def _block_sizes(frames: int, blocks: Sequence[int] | None) -> Tensor:
    sizes = [1] * frames if blocks is None else list(blocks)
    if sum(sizes) != frames or min(sizes) < 1:
        raise ValueError(f"blocks = {sizes}: must be at least 1 each and add up to frames = {frames}")
    return torch.tensor(sizes)


def _by_frame(sigma_BT: Tensor, like_BCTHW: Tensor) -> Tensor:
    return sigma_BT.to(like_BCTHW)[:, None, :, None, None]
