"""Pictures given for frames of a film: read, fitted to its size, and encoded as the model has learnt to see them.

Source: section 6 of the paper for the first frame, section 4c for known frames anywhere. The one invariant: a picture
fills exactly one latent frame. For frame 0 that is the latent of one frame; later ones stand for four, so there a
picture is encoded as the second latent of five equal frames.

Shape suffixes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everreel.film.request import RequestError, VideoRequest
from everreel.media import Pixels, read_image, resize_cover
from everreel.model.vae import CausalVAE
from everreel.shapes import TEMPORAL

SMALLEST_SIDE = 16
LARGEST_PIXELS = 150_000_000
CUT_WORTH_SAYING = 0.02
GROWN_WORTH_SAYING = 2  # times as high and wide
MOVING = ("GIF", "PNG", "WEBP", "AVIF")  # formats whose frames are shown one after the other


@dataclass(frozen=True)
class Picture:
    """One given picture at the film's size, (H, W, 3) uint8, and what a person should know of how it got there."""

    pixels_HWC: Pixels
    notes: tuple[str, ...] = ()


def read_pictures(request: VideoRequest) -> dict[int, Picture]:
    """The pictures of a resolved request, by the latent frame that each fills.

    Raises:
        RequestError: a picture cannot be read, is too small or too large, or has no place in the film.
    """
    assert request.height and request.width
    size = request.height, request.width
    return {index: _read(field, path, *size) for index, (field, path) in request.pictures().items()}


@torch.no_grad()
def encode_pictures(pictures: Mapping[int, Picture], vae: CausalVAE) -> dict[int, Tensor]:
    """Latents (C, H, W) by latent frame, float32."""
    return {
        index: encode_frames(np.stack([picture.pixels_HWC] * (1 if index == 0 else 1 + TEMPORAL)), vae)[:, -1]
        for index, picture in pictures.items()
    }


@torch.no_grad()
def encode_frames(frames_THWC: Pixels, vae: CausalVAE) -> Tensor:
    """The latents (C, T', H, W) of 1 + 4n frames, uint8 (T, H, W, 3); float32."""
    return vae.encode(as_video(frames_THWC, vae)[None])[0].float()


def as_video(frames_THWC: Pixels, vae: CausalVAE) -> Tensor:
    """Frames, uint8 (T, H, W, 3), as the VAE takes them: (3, T, H, W) in [-1, 1], of its dtype and on its device."""
    parameter = next(vae.parameters())
    return unit_range(frames_THWC, parameter.device).to(parameter.dtype)


def unit_range(frames_THWC: Pixels, device: torch.device) -> Tensor:
    """Frames, uint8 (T, H, W, 3), as (3, T, H, W) in [-1, 1], float32."""
    return torch.tensor(frames_THWC).permute(3, 0, 1, 2).to(device).float() / 127.5 - 1


def _read(field: str, path: Path, height: int, width: int) -> Picture:
    notes = []
    try:
        with _unwarned(), Image.open(path) as image:
            columns, rows = image.size
            # A phone's JPEG may hold a preview beside its picture, and a TIFF pages: neither moves.
            frames = getattr(image, "n_frames", 1) if image.format in MOVING else 1
            may_be_clear = image.has_transparency_data
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise RequestError(f"{field} = {path}: {_why(error)}") from error
    if min(columns, rows) < SMALLEST_SIDE:
        rule = f"must be at least {SMALLEST_SIDE} pixels high and wide"
        raise RequestError(f"{field} = {path}: {columns}x{rows} pixels, {rule}; {width}x{height} fits this film")
    if columns * rows > LARGEST_PIXELS:
        rule = f"must be at most {LARGEST_PIXELS // 1_000_000} million pixels"
        raise RequestError(f"{field} = {path}: {columns}x{rows} pixels, {rule}; {width}x{height} fits this film")
    try:
        with _unwarned():
            pixels_HWC = read_image(path)
            see_through = may_be_clear and _is_see_through(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{field} = {path}: {_why(error)}") from error
    rows, columns = pixels_HWC.shape[:2]  # upright now
    if frames > 1:
        notes.append(f"{field}: is animated, the first of its {frames} frames was taken")
    if see_through:
        notes.append(f"{field}: what is transparent became white")
    cut = 1 - min(columns * height, rows * width) / max(columns * height, rows * width)
    if cut > CUT_WORTH_SAYING:
        notes.append(f"{field}: {columns}x{rows} has another shape than {width}x{height}; {cut:.0%} of it were cut off")
    grown = max(height / rows, width / columns)
    if grown > GROWN_WORTH_SAYING:
        notes.append(f"{field}: {columns}x{rows} is small for {width}x{height}; it was made {grown:.2g} times as large")
    return Picture(resize_cover(pixels_HWC, height, width), tuple(notes))


def _is_see_through(path: Path) -> bool:
    """Whether any pixel is; many a picture says for each that it is not."""
    with Image.open(path) as image:
        return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Pillow warns of pictures that are large, in its own words; what is too large is ours to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}; give a PNG or JPEG"
    if isinstance(error, Image.DecompressionBombError):
        return f"must be at most {LARGEST_PIXELS // 1_000_000} million pixels; scale it down"
    return "cannot be read as a picture; a PNG or JPEG works"
