"""A film from its first picture, as the I2V models make it: the picture as channels beside the noise and as tokens.

Source: section 6 of the paper, the second of its two ways; the released `image2video_pipeline.py`, whose channels are
those of Wan2.1's I2V models. The one invariant: to the loop it is data. No latent frame is known, all frames are made
at one level in one window, and what else the network is shown is the same in every row and both branches of guidance.

Shape suffixes: B batch, C channels, T frames, H height, W width, N image tokens, D their width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everreel.film.given import as_video, unit_range
from everreel.film.state import Beginning
from everreel.media import Pixels
from everreel.model.image_encoder import ImageEncoder
from everreel.model.vae import CausalVAE
from everreel.shapes import TEMPORAL, video_frames


@torch.no_grad()
def image_beginning(pixels_HWC: Pixels, num_latents: int, vae: CausalVAE, image_encoder: ImageEncoder) -> Beginning:
    """What an I2V model is shown of a picture at the film's size, for a film of so many latent frames."""
    return Beginning(
        channels=image_channels(pixels_HWC, num_latents, vae), image_tokens=image_tokens(pixels_HWC, image_encoder)
    )


@torch.no_grad()
def image_channels(pixels_HWC: Pixels, num_latents: int, vae: CausalVAE) -> Tensor:
    """The mask and the encoded picture, (4 + C, T, H, W) in float32, on the VAE's device.

    What is encoded is a film of the full length: the picture, and mid-grey from then on.
    """
    first_CTHW = as_video(pixels_HWC[None], vae)
    grey_CTHW = first_CTHW.new_zeros(()).expand(3, video_frames(num_latents) - 1, *first_CTHW.shape[2:])
    latents_CTHW = vae.encode(torch.cat([first_CTHW, grey_CTHW], dim=1)[None])[0].float()
    return torch.cat([first_frame_mask(latents_CTHW), latents_CTHW])


def first_frame_mask(latents_CTHW: Tensor) -> Tensor:
    """1 for video frames that are given, 0 for others, (4, T, H, W): a channel for each of a latent's four frames.

    The first latent stands for one frame, which counts there as four.
    """
    mask_CTHW = latents_CTHW.new_zeros(TEMPORAL, *latents_CTHW.shape[1:])
    mask_CTHW[:, 0] = 1
    return mask_CTHW


@torch.no_grad()
def image_tokens(pixels_HWC: Pixels, image_encoder: ImageEncoder) -> Tensor:
    """The tokens (1, N, D) of a picture, in float32."""
    parameter = next(image_encoder.parameters())
    image_BCHW = unit_range(pixels_HWC[None], parameter.device).movedim(1, 0)
    tokens_BND: Tensor = image_encoder(image_encoder.prepare(image_BCHW).to(parameter.dtype))
    return tokens_BND.float()
