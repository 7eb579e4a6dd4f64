"""Decoding a picture that is too large for the device: overlapping tiles, each a stream of its own, faded together.

The usual way around a VAE's memory, for the streaming decoder of `vae.py`. The one invariant: a tile's place and size
depend on the size of the picture alone, so the streams of one film go on from piece to piece, and one tile that holds
the whole picture gives what the VAE gives.

Legend: B batch, C channels, T frames, H height, W width; a tile's T P Q are frames, height and width.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from everreel.model.vae import CausalVAE, DecoderState

OVERLAP = 8  # latents that neighbouring tiles share: their seams fade over 64 pixels


def decode_tiles(
    vae: CausalVAE, latents_BCTHW: Tensor, state: DecoderState | None, tile: int
) -> tuple[Tensor, DecoderState]:
    """What `vae.decode_stream` does, in tiles of at most `tile` latents each way.

    The state is that of all tiles, and waits in host memory: it is larger than what a tile computes with.

    Raises:
        ValueError: the tile is not larger than what tiles share.
    """
    if tile <= OVERLAP:
        raise ValueError(f"tile = {tile}: must be more than the {OVERLAP} latents that tiles share; try {2 * OVERLAP}")
    height, width = latents_BCTHW.shape[3:]
    size = min(tile, height), min(tile, width)
    places = [*itertools.product(_starts(height, size[0]), _starts(width, size[1]))]
    old = itertools.repeat(None) if state is None else _split(state, len(places))
    factor = vae.spatial_factor
    fade = _fade(size[0], factor)[:, None] * _fade(size[1], factor)
    sum_BCTHW, weight_HW = None, fade.new_zeros(height * factor, width * factor)
    tails: list[Tensor] = []
    for (top, left), past in zip(places, old):  # noqa: B905 -- `repeat` has no end
        part_BCTHW = latents_BCTHW[..., top : top + size[0], left : left + size[1]]
        here = None if past is None else DecoderState(tuple(tail.to(part_BCTHW.device) for tail in past.tails))
        video_BCTPQ, new = vae.decode_stream(part_BCTHW, here)
        if sum_BCTHW is None:
            sum_BCTHW = torch.zeros(*video_BCTPQ.shape[:3], *weight_HW.shape, device=video_BCTPQ.device)
        rows = slice(top * factor, (top + size[0]) * factor)
        columns = slice(left * factor, (left + size[1]) * factor)
        sum_BCTHW[..., rows, columns].addcmul_(video_BCTPQ.float(), fade.to(sum_BCTHW))
        weight_HW[rows, columns] += fade
        tails += [tail.to("cpu") for tail in new.tails]
    assert sum_BCTHW is not None
    video_BCTHW = sum_BCTHW.div_(weight_HW.to(sum_BCTHW))
    return video_BCTHW.to(latents_BCTHW.dtype), DecoderState(tuple(tails))


def num_tiles(height: int, width: int, tile: int) -> int:
    """Tiles of a picture of so many latents."""
    return len(_starts(height, min(tile, height))) * len(_starts(width, min(tile, width)))


def _starts(length: int, size: int) -> list[int]:
    """Where tiles begin: the last one ends with the picture, and neighbours share at least OVERLAP."""
    if size == length:
        return [0]
    count = -(-(length - OVERLAP) // (size - OVERLAP))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _split(state: DecoderState, count: int) -> list[DecoderState]:
    each = len(state.tails) // count
    return [DecoderState(state.tails[i * each : (i + 1) * each]) for i in range(count)]


def _fade(size: int, factor: int) -> Tensor:
    """Weights of a tile's pixels along one side: rising from its edges. What only one tile sees is divided by its own
    weight, so that the picture's edges need no rule of theirs."""
    pixel = torch.arange(size * factor, dtype=torch.float32)
    nearest = torch.minimum(pixel, size * factor - 1 - pixel)
    return ((nearest + 0.5) / (OVERLAP * factor)).clamp(max=1)
