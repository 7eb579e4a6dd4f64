"""Where a film stands: what is known before its first row, and what goes on after each of its blocks.

The one invariant: from a state the film goes on to the same bytes that it would have had without a stop.

Shape suffixes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from everreel.diffusion.rollout import RolloutState
from everreel.media import Pixels
from everreel.model.kv_cache import CacheState
from everreel.model.vae import DecoderState

NOTHING = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class FilmState:
    """Where a film stands between two of its blocks: what goes on from here has the same bytes."""

    rollout: RolloutState
    caches: tuple[CacheState, ...]
    """One of each branch of guidance, none where nothing is remembered."""
    decoder: DecoderState | None
    tail: Tensor | None
    """The newest frames (C, T, H, W), where the next window is joined by what they encode to."""
    num_frames: int
    """Frames made so far."""
    spare: Pixels
    """At the end of a film: frames (T, H, W, 3) that its last latent held beyond the length asked for."""
    num_made: int = 0
    """Frames handed out by the decoder so far, with those that are not shown."""
    held: Tensor | None = None
    """Frames (C, T, H, W) that are made and not shown yet, because the next window is going to fade into them."""
    anchor: Tensor | None = None
    """(C + 2, C): what the film's colours are held at, see `ColorAnchor`."""


@dataclass(frozen=True)
class Beginning:
    """What is known of a film before its first row."""

    known: Mapping[int, Tensor] = field(default_factory=dict)
    """Latents (C, H, W) by latent frame: given pictures, or the end of the film that goes on."""
    history: int = 0
    """How many latents at the front were shown before: they are looked back at and not handed out again."""
    offset: int = 0
    """Latent frames that were before these, so that noise is drawn that was not drawn before."""
    spare: Pixels = field(default_factory=lambda: NOTHING)
    """Frames (T, H, W, 3) that are decoded and were not shown."""
    channels: Tensor | None = None
    """What the network is shown beside the latents (C', T, H, W) of all frames; only I2V models take it."""
    image_tokens: Tensor | None = None
    """Tokens (1, N, D) of the picture that both branches of guidance read; only for I2V models."""
    anchor: Tensor | None = None
    """(C + 2, C): what the colours of the film that goes on were held at, see `ColorAnchor`."""


@dataclass(frozen=True)
class Block:
    """Finished frames of a film: (T, H, W, 3) uint8, the first of them frame number `start`.

    Where the film can be taken up again after this block, `state` is all that it takes.
    """

    start: int
    frames: Pixels
    state: FilmState | None = None
