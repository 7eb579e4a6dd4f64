"""Latents to frames as they come, and what a window sees of the one before it: the three ways to join them.

Source: `diffusion_forcing_pipeline.py`, which decodes the end of a window and encodes it again for the next one; other
long-film code carries latents over. The one invariant: memory is that of one piece and of an overlap, whatever the
film's length.

Shape suffixes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everreel.checkpoint.catalog import Join
from everreel.checkpoint.offload import parked
from everreel.diffusion.rollout import Glimpse
from everreel.film.state import NOTHING
from everreel.media import Pixels
from everreel.memory import holding_what_is_used
from everreel.model.tiles import decode_tiles
from everreel.model.vae import CausalVAE, DecoderState
from everreel.shapes import SPATIAL, TEMPORAL, video_frames

DECODE_FRAMES = 5  # latent frames decoded and written at a time where many finish at once
DECODE_PIXELS = 5 * 4 * 192 * 320  # and of large pictures as many as have so many pixels, but one at least


def latents_at_once(height: int, width: int) -> int:
    """How many latent frames of pictures of so many pixels are decoded at a time."""
    return max(1, min(DECODE_FRAMES, DECODE_PIXELS // (TEMPORAL * height * width)))


class FrameDecoder:
    """Decodes a film piece by piece; `join` is what the loop asks for at the front of a window.

    Args:
        vae: of the model. Joins that encode again are computed in float32, whatever the model's dtype: what a round
            trip changes is what a long film drifts by.
        join: "carry" hands latents over as they are, "reencode" decodes and encodes them, as released, "hybrid" does
            so with the first one only, which has learnt to stand for one frame and not for four.
        overlap: latent frames that a join is asked for at most.
        blend: fade from a window's last frames into what the next window makes of them. They are handed out that much
            later; `flush` hands out the film's last ones.
        tile: decode in tiles of so many latents a side.
        at_once: decode so many latent frames at a time, whatever is handed in; by default as suits their size.
        device: where a VAE that is elsewhere is to be while it works.
    """

    def __init__(
        self,
        vae: CausalVAE,
        join: Join,
        overlap: int,
        blend: bool = False,
        *,
        tile: int | None = None,
        at_once: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._tile, self._at_once, self._device = tile, at_once, device
        self.vae = vae if join == "carry" else copy.deepcopy(vae).float()
        self._join = join
        self._tail_frames = 0 if join == "carry" else video_frames(overlap)
        self.state: DecoderState | None = None
        self.tail: Tensor | None = None
        """The newest frames (C, T, H, W), as many as a join needs."""
        self.held: Tensor | None = None
        """Frames (C, T, H, W) that are not handed out yet, because the next window may fade into them."""
        self._front: Tensor | None = None
        """What a window has at its front, decoded when its first latents come: what the decoder keeps is gigabytes at
        full size, which the window in between has better use for."""
        self._held_frames = self._tail_frames if blend else 0

    @torch.no_grad()
    def __call__(self, latents_CTHW: Tensor) -> Pixels:
        """The next frames, (T, H, W, 3) uint8: those of the next latents, or with `blend` of some before."""
        video_CTHW = self._next(latents_CTHW)
        if self._held_frames:
            waiting_CTHW = video_CTHW if self.held is None else torch.cat([self.held, video_CTHW], dim=1)
            ready = max(waiting_CTHW.shape[1] - self._held_frames, 0)
            video_CTHW, self.held = waiting_CTHW[:, :ready], waiting_CTHW[:, ready:].clone()
        return to_uint8(video_CTHW)

    def flush(self) -> Pixels:
        """The frames that were held back, (T, H, W, 3) uint8; none follow."""
        held, self.held = self.held, None
        return NOTHING if held is None else to_uint8(held)

    @torch.no_grad()
    def look_back(self, latents_CTHW: Tensor) -> None:
        """Stand behind these latents, which were shown before: the next ones decode without a seam."""
        self._next(latents_CTHW)

    def end_window(self) -> None:
        """What comes next is joined to what was decoded so far, for which nothing but its newest frames is needed."""
        if self._join != "carry":
            self.state = None

    @torch.no_grad()
    def join(self, history_CTHW: Tensor) -> Tensor:
        """What the next window has at its front, and decoding begins anew from there."""
        if self._join == "carry":
            return history_CTHW
        assert self.tail is not None
        count = history_CTHW.shape[1]
        pixels_BCTHW = self.tail[None, :, -video_frames(count) :]
        with holding_what_is_used(), at_work(self.vae, self._device), _full_float32():
            if self._join == "reencode":
                joined_CTHW = self.vae.encode(pixels_BCTHW)[0]
            else:
                first_CTHW = self.vae.encode(pixels_BCTHW[:, :, :1])[0]
                joined_CTHW = torch.cat([first_CTHW, history_CTHW[:, 1:].float()], dim=1)
        self.state, self._front = None, joined_CTHW
        return joined_CTHW.to(history_CTHW.dtype)

    def _begin(self, front_CTHW: Tensor) -> None:
        """Stand behind the front of a window, into which the frames that wait are faded."""
        again_CTHW = self._decode(front_CTHW)
        if self.held is not None:
            faded = min(self.held.shape[1], again_CTHW.shape[1])
            share_T = torch.linspace(0, 1, faded + 2, device=again_CTHW.device)[1:-1, None, None]
            seen_CTHW = torch.lerp(self.held[:, -faded:], again_CTHW[:, -faded:], share_T.to(again_CTHW))
            self.held = torch.cat([self.held[:, :-faded], seen_CTHW], dim=1)

    def _next(self, latents_CTHW: Tensor) -> Tensor:
        """The frames of the next latents, (C, T, H, W), and of them and earlier ones what a join needs."""
        front_CTHW, self._front = self._front, None
        if front_CTHW is not None:
            self._begin(front_CTHW)
        video_CTHW = self._decode(latents_CTHW)
        if self._tail_frames:
            seen = [video_CTHW] if self.tail is None else [self.tail, video_CTHW]
            self.tail = torch.cat(seen, dim=1)[:, -self._tail_frames :].clone()
        return video_CTHW

    def _decode(self, latents_CTHW: Tensor) -> Tensor:
        """Frames in the VAE's dtype, (C, T, H, W)."""
        height, width = (SPATIAL * size for size in latents_CTHW.shape[2:])
        at_once = self._at_once or latents_at_once(height, width)
        video = []
        exact = nullcontext() if self._join == "carry" else _full_float32()
        with holding_what_is_used(), at_work(self.vae, self._device), exact:
            weight = next(self.vae.parameters())
            for piece in latents_CTHW.to(weight.device, weight.dtype).split(at_once, dim=1):
                if self._tile is None:
                    video_BCTHW, self.state = self.vae.decode_stream(piece[None], self.state)
                else:
                    video_BCTHW, self.state = decode_tiles(self.vae, piece[None], self.state, self._tile)
                video.append(video_BCTHW[0])
        return video[0] if len(video) == 1 else torch.cat(video, dim=1)


def at_work(module: nn.Module, device: torch.device | None) -> AbstractContextManager[None]:
    """Have a module on a device for a while; None leaves it where it is."""
    return nullcontext() if device is None else parked(module, device)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Convolutions in float32 are that: NVIDIA's would round their factors to 10 bits, as torch lets them."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # the stubs do not know it
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


@torch.no_grad()
def preview_of(
    glimpse: Glimpse,
    vae: CausalVAE,
    tile: int | None = None,
    at_once: int | None = None,
    device: torch.device | None = None,
) -> Pixels:
    """What a row was working at, (T, H, W, 3) uint8, decoded by itself as if the film began there."""
    return FrameDecoder(vae, "carry", 0, tile=tile, at_once=at_once, device=device)(glimpse.clean())


def to_uint8(video_CTHW: Tensor) -> Pixels:
    """[-1, 1] to 0..255 by rounding, (T, H, W, 3); truncating would darken each round trip by half a level."""
    frames = ((video_CTHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(frames.permute(1, 2, 3, 0).cpu().numpy())
