"""What a film is made from besides noise: known latent frames, channels shown beside them, the frame rate.

Source: sections 4c and 6 of the paper: to condition is to hand in a frame whose level is already (nearly) zero. The
one invariant: a known frame reaches the network as it was handed in, plus the history noise asked for, in every
row of every schedule; no solver step ever touches it, and no window sees it encoded again.

Shape suffixes: C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

FPS_INDEX: Mapping[int, int] = MappingProxyType({16: 0, 24: 1})


@dataclass(frozen=True)
class Conditioning:
    """Known frames and how noisy the network is told they are.

    Args:
        known: latent frames (C, H, W) by their absolute index in the film.
        history_level: noise mixed into clean frames when the network looks back at them, 0 to 0.1 (the released
            `addnoise_condition` over 1000; section 4c: slight noise on history against error accumulation).
        seed: of the history noise.
        offset: latent frames of the film before this part of it, for that noise.
        join: what a window sees of the one before it in the place of these latents (C, T, H, W), where they are not
            known; none carries them.
        settle: what is made of frames (C, T, H, W) that have just been finished, before they are shown and looked back
            at, the first of them frame so-and-so of the film; none leaves them as they are.
        channels: what the network is shown behind the latents' channels, (C', T, H, W) for all frames of the film: the
            mask and the picture of an I2V model. No solver step knows of them.
    """

    known: Mapping[int, Tensor] = field(default_factory=dict)
    history_level: float = 0.0
    seed: int = 0
    offset: int = 0
    join: Callable[[Tensor], Tensor] | None = None
    settle: Callable[[int, Tensor], Tensor] | None = None
    channels: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.history_level <= 0.1:
            raise ValueError(f"history_level = {self.history_level}: must be 0 to 0.1")

    @property
    def given(self) -> frozenset[int]:
        """Indices of the known frames."""
        return frozenset(self.known)
