"""Wan2.1's causal 3-D VAE: 1 + 4n frames to 1 + n latents of 16 channels at an eighth of the size, and back.

Wan2.1's report, section on the VAE; released file `Wan2.1_VAE.pth`, whose parameter names are kept. The
invariant: encoding and decoding are streams with explicit state, and a whole film is a fold over its pieces,
so that any cut gives the same numbers. Activations have the dtype of the weights, results that of the input.

Legend: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everreel.model.causal_conv import (
    AttentionBlock,
    CausalConv3d,
    Downsample,
    ResidualBlock,
    RMSNorm,
    Tails,
    Upsample,
    activated_conv,
    pass_newest,
)
from everreel.model.config import VAEConfig

_LOGVAR_RANGE = (-30.0, 20.0)  # the released clamp
_PIECE_PIXELS_CPU = 8 * 96 * 160  # a piece whose activations stay in the cache
_PIECE_PIXELS_GPU = 4 * 544 * 960  # one latent a piece at 540P, as the released code has it


@dataclass(frozen=True)
class EncoderState:
    """Between two pieces of a film that is being encoded."""

    tails: tuple[Tensor, ...] | None  # None: the first frame has not come yet
    waiting_BCTHW: Tensor | None  # frames that do not fill a latent yet


@dataclass(frozen=True)
class DecoderState:
    """Between two pieces of a film that is being decoded."""

    tails: tuple[Tensor, ...]


class CausalVAE(nn.Module):
    """Video in [-1, 1] to normalised latents and back."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        _check_config(config)
        self.config = config
        self.temporal_factor: int = 2 ** sum(config.temporal_downsample)
        self.spatial_factor: int = 2 ** len(config.temporal_downsample)
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1))
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, (1, 1, 1))
        self.decoder = Decoder(config)

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """The normalised posterior mean of 1 + 4n frames."""
        self._check_pixels(video_BCTHW)
        frames, factor = video_BCTHW.shape[2], self.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            nearest = 1 + factor * max(round((frames - 1) / factor), 0)
            rule = f"must be 1 + a multiple of {factor}; the nearest is {nearest}"
            raise ValueError(f"frames = {frames}: {rule}")
        piece = factor * self._latents_per_piece(video_BCTHW, 1)
        state, parts = None, []
        for part_BCTHW in (video_BCTHW[:, :, :1], *_split(video_BCTHW[:, :, 1:], piece)):
            latents_BCTHW, state = self.encode_stream(part_BCTHW, state)
            parts.append(latents_BCTHW)
        return torch.cat(parts, 2)

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """The video, clamped to [-1, 1]."""
        self._check_latents(latents_BCTHW)
        piece = self._latents_per_piece(latents_BCTHW, self.spatial_factor)
        state, parts = None, []
        for part_BCTHW in (latents_BCTHW[:, :, :1], *_split(latents_BCTHW[:, :, 1:], piece)):
            video_BCTHW, state = self.decode_stream(part_BCTHW, state)
            parts.append(video_BCTHW)
        return torch.cat(parts, 2)

    def encode_stream(self, piece_BCTHW: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """The latents that are complete with this piece (perhaps none) and the state for the next piece.

        A piece has any number of frames; those that do not fill a latent wait in the state.
        """
        self._check_pixels(piece_BCTHW)
        tails = None if state is None else state.tails
        if state is not None and state.waiting_BCTHW is not None:
            piece_BCTHW = torch.cat((state.waiting_BCTHW, piece_BCTHW), 2)
        batch, _, frames, height, width = piece_BCTHW.shape
        first = 1 if tails is None and frames else 0
        ready = first + (frames - first) // self.temporal_factor * self.temporal_factor
        waiting_BCTHW = piece_BCTHW[:, :, ready:].clone() if ready < frames else None
        if not ready:
            size = (height // self.spatial_factor, width // self.spatial_factor)
            nothing_BCTHW = piece_BCTHW.new_zeros(batch, self.config.z_dim, 0, *size)
            return nothing_BCTHW, EncoderState(tails, waiting_BCTHW)
        walk = Tails(tails)
        moments_BCTHW = self._moments(piece_BCTHW[:, :, :ready], walk)
        mean_BCTHW = moments_BCTHW[:, : self.config.z_dim].to(piece_BCTHW.dtype)
        return self.normalise(mean_BCTHW), EncoderState(tuple(walk.new), waiting_BCTHW)

    def decode_stream(self, latents_BCTHW: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """The frames of these latents, clamped, and the state for the next piece."""
        self._check_latents(latents_BCTHW)
        walk = Tails(None if state is None else state.tails)
        video_BCTHW = self._video(self.denormalise(latents_BCTHW), walk)
        return video_BCTHW.clamp(-1, 1).to(latents_BCTHW.dtype), DecoderState(tuple(walk.new))

    def encode_moments(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, not normalised, in one pass: for training."""
        self._check_pixels(video_BCTHW)
        mean_BCTHW, logvar_BCTHW = self._moments(video_BCTHW, Tails(keep=False)).chunk(2, 1)
        return mean_BCTHW, logvar_BCTHW.clamp(*_LOGVAR_RANGE)

    def decode_raw(self, z_BCTHW: Tensor) -> Tensor:
        """From latents that are not normalised to video that is not clamped, in one pass: for training."""
        self._check_latents(z_BCTHW)
        return self._video(z_BCTHW, Tails(keep=False))

    def normalise(self, mean_BCTHW: Tensor) -> Tensor:
        """Posterior mean to the latents that a transformer sees."""
        mean, std = self._statistics(mean_BCTHW)
        return (mean_BCTHW - mean) / std

    def denormalise(self, latents_BCTHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = self._statistics(latents_BCTHW)
        return latents_BCTHW * std + mean

    def inflate(self) -> None:
        """Make the network treat every frame as a single picture, the newest one standing for its latent.

        Taps on past frames become zero and temporal resampling hands on the newest frame. A fresh network is
        like this already, and training on single frames keeps it so: those taps get no gradient there.
        """
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.forget_past()
            elif isinstance(module, Downsample | Upsample) and module.time_conv is not None:
                pass_newest(module.time_conv)

    def _moments(self, video_BCTHW: Tensor, walk: Tails) -> Tensor:
        x_BTHWC = video_BCTHW.to(self.conv1.weight.dtype).permute(0, 2, 3, 4, 1).contiguous()
        y_BTHWC: Tensor = self.conv1(self.encoder(x_BTHWC, walk), walk)
        return y_BTHWC.permute(0, 4, 1, 2, 3)

    def _video(self, z_BCTHW: Tensor, walk: Tails) -> Tensor:
        x_BTHWC = z_BCTHW.to(self.conv2.weight.dtype).permute(0, 2, 3, 4, 1).contiguous()
        y_BTHWC: Tensor = self.decoder(self.conv2(x_BTHWC, walk), walk)
        return y_BTHWC.permute(0, 4, 1, 2, 3)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1)
        mean = torch.tensor(self.config.latents_mean, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.config.latents_std, dtype=like.dtype, device=like.device)
        return mean.view(shape), std.view(shape)

    def _latents_per_piece(self, x_BCTHW: Tensor, scale: int) -> int:
        budget = _PIECE_PIXELS_GPU if x_BCTHW.is_cuda else _PIECE_PIXELS_CPU
        pixels = self.temporal_factor * x_BCTHW.shape[0] * x_BCTHW.shape[3] * x_BCTHW.shape[4] * scale**2
        return max(1, budget // max(pixels, 1))

    def _check_pixels(self, video_BCTHW: Tensor) -> None:
        if video_BCTHW.dim() != 5 or video_BCTHW.shape[1] != 3:
            raise ValueError(f"video = {tuple(video_BCTHW.shape)}: must be (batch, 3, frames, height, width)")
        for name, size in (("height", video_BCTHW.shape[3]), ("width", video_BCTHW.shape[4])):
            if size < 1 or size % self.spatial_factor:
                nearest = self.spatial_factor * max(round(size / self.spatial_factor), 1)
                rule = f"must be a multiple of {self.spatial_factor}; the nearest is {nearest}"
                raise ValueError(f"{name} = {size}: {rule}")

    def _check_latents(self, latents_BCTHW: Tensor) -> None:
        shape = tuple(latents_BCTHW.shape)
        if len(shape) != 5 or shape[1] != self.config.z_dim or 0 in shape:
            rule = f"(batch, {self.config.z_dim}, frames, height, width), nothing empty"
            raise ValueError(f"latents = {shape}: must be {rule}")


class Encoder(nn.Module):
    """Frames to the moments of the posterior, before the last 1x1x1 convolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * factor for factor in (1, *config.dim_mult)]
        self.conv1 = CausalConv3d(3, dims[0], (3, 3, 3))
        self.downsamples = nn.ModuleList()
        for level, dim in enumerate(dims[1:]):
            for block in range(config.num_res_blocks):
                self.downsamples.append(ResidualBlock(dims[level] if block == 0 else dim, dim))
            if level < len(config.temporal_downsample):
                self.downsamples.append(Downsample(dim, temporal=config.temporal_downsample[level]))
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], 2 * config.z_dim)

    def forward(self, x_BTHWC: Tensor, walk: Tails) -> Tensor:
        """1 + 4n frames at the beginning of a film, 4n later."""
        x_BTHWC = _walk(self.conv1(x_BTHWC, walk), (*self.downsamples, *self.middle), walk)
        return _head_of(self.head, x_BTHWC, walk)


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        base = config.decoder_base_dim or config.base_dim
        dims = [base * factor for factor in (config.dim_mult[-1], *config.dim_mult[::-1])]
        self.conv1 = CausalConv3d(config.z_dim, dims[0], (3, 3, 3))
        self.middle = _middle(dims[0])
        self.upsamples = nn.ModuleList()
        for level, dim in enumerate(dims[1:]):
            in_dim = dims[level] // 2 if level else dims[0]  # an upsampling halves the channels
            for block in range(config.num_res_blocks + 1):
                self.upsamples.append(ResidualBlock(in_dim if block == 0 else dim, dim))
            if level < len(config.temporal_downsample):
                self.upsamples.append(Upsample(dim, temporal=config.temporal_downsample[-1 - level]))
        self.head = _head(dims[-1], 3)

    def forward(self, x_BTHWC: Tensor, walk: Tails) -> Tensor:
        """n latents to 1 + 4(n - 1) frames at the beginning of a film, to 4n later."""
        x_BTHWC = _walk(self.conv1(x_BTHWC, walk), (*self.middle, *self.upsamples), walk)
        return _head_of(self.head, x_BTHWC, walk)


def _middle(dim: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim)])


def _head(dim: int, out_dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": RMSNorm(dim), "2": CausalConv3d(dim, out_dim, (3, 3, 3))})


def _walk(x_BTHWC: Tensor, blocks: Iterable[nn.Module], walk: Tails) -> Tensor:
    for block in blocks:
        x_BTHWC = block(x_BTHWC, walk)
    return x_BTHWC


def _head_of(head: nn.ModuleDict, x_BTHWC: Tensor, walk: Tails) -> Tensor:
    norm, conv = head.values()
    assert isinstance(norm, RMSNorm) and isinstance(conv, CausalConv3d)
    return activated_conv(norm, conv, x_BTHWC, walk)


def _split(x_BCTHW: Tensor, frames: int) -> tuple[Tensor, ...]:
    return torch.split(x_BCTHW, frames, 2) if x_BCTHW.shape[2] else ()


def _check_config(config: VAEConfig) -> None:
    if len(config.temporal_downsample) != len(config.dim_mult) - 1:
        rule = f"must have one entry fewer than dim_mult = {config.dim_mult}"
        raise ValueError(f"temporal_downsample = {config.temporal_downsample}: {rule}")
    for name in ("latents_mean", "latents_std"):
        count = len(getattr(config, name))
        if count != config.z_dim:
            raise ValueError(f"{name} has {count} numbers: must have z_dim = {config.z_dim}")
