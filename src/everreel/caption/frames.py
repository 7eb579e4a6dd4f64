"""A film as Qwen2.5-VL looks at it: some of its frames, sized, and cut into patches.

Follows the released captioner's script (16 frames spread evenly, of about 360 x 420 pixels each) and Qwen2.5-VL's video
processor, which needs torchvision and is not used. The one invariant: a frame is scaled, never squashed; the released
script brings every film to 360 x 420, ours has as many pixels and the film's own sides, but for rounding to whole
patches.

Shape suffixes: T frames, H rows, W columns, C = 3 channels, N patches, P numbers in a patch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everreel.media import FrameSource, Pixels

NUM_FRAMES = 16
PIXELS = 420 * 364
"""What a frame of 360 x 420 becomes for the model, whose patches are 14 pixels wide and read two by two."""
MOST_SQUASHED = 1.03
"""Rounding to whole patches may change the ratio of the sides by this much where another size does not do better."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class FrameRule:
    """How frames become patches. The defaults are what the released weights were shown.

    `pixels` is the most that a frame may have, small films being enlarged to it, and lies between `min_pixels` and
    `max_pixels` of the model. `seconds` is how far apart two patches of time are said to be: the released script tells
    its model one second, whatever film it is; None tells the truth.
    """

    num_frames: int = NUM_FRAMES
    pixels: int = PIXELS
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 16384
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD
    seconds: float | None = 1.0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames = {self.num_frames}: must be 1 or more; the nearest that works is 1")
        least = max(self.min_pixels, self.side**2)
        if self.pixels < least:
            raise ValueError(f"pixels = {self.pixels}: must be {least} or more, which is one patch; {least} works")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds = {self.seconds}: must be above 0, or None for the film's own; 1 works")

    @property
    def side(self) -> int:
        """Both sides of a frame are multiples of this."""
        return self.patch * self.merge

    @classmethod
    def of_model(cls, folder: Path, vision: Any, **values: Any) -> FrameRule:  # noqa: ANN401 -- transformers' config
        """The rule of a model's folder: its vision settings, and what its `preprocessor_config.json` says.

        Raises:
            ValueError: a value is wrong.
        """
        file, found = folder / "preprocessor_config.json", {}
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"model = {str(folder)!r}: its {file.name} is no JSON ({error})") from None
        size = found.get("size") or {}
        own = {
            "min_pixels": found.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels"),
            "max_pixels": found.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels"),
            "mean": tuple(found["image_mean"]) if found.get("image_mean") else None,
            "std": tuple(found["image_std"]) if found.get("image_std") else None,
        }
        patches = {
            "patch": vision.patch_size,
            "merge": vision.spatial_merge_size,
            "temporal_patch": vision.temporal_patch_size,
        }
        given = {name: value for name, value in own.items() if value is not None}
        return cls(**{**given, **patches, **values})


@dataclass(frozen=True)
class Patches:
    """What the model takes of one film: patches (N, P), the grid's time, rows and columns (1, 3), seconds (1,)."""

    pixel_values_videos: Tensor
    video_grid_thw: Tensor
    second_per_grid_ts: Tensor

    def num_tokens(self, merge: int) -> int:
        """How many places of the text the film takes."""
        return len(self.pixel_values_videos) // merge**2


def spread(length: int, count: int) -> list[int]:
    """Which frames of a film are seen: `count` numbers from the first on, evenly, as released.

    A film of fewer frames shows some of them more than once. The very last frame is never seen: the released rule
    divides the film into `count` parts and takes the beginning of each.

    Raises:
        ValueError: the film has no frame.
    """
    if length < 1:
        raise ValueError("frames = 0 frames: a caption is of at least one; 1 works")
    # Half a frame goes to the even one, as numpy rounds.
    return [min(round((length - 1) / count * number), length - 1) for number in range(count)]


def frames_at(frames: FrameSource, numbers: Sequence[int]) -> Pixels:
    """Some frames (T, H, W, 3) of a film; of one that lies in a file only these are decoded, each once.

    Raises:
        ValueError: they are no frames.
    """
    seen = {number: np.asarray(frames[number]) for number in dict.fromkeys(numbers)}
    first = seen[numbers[0]]
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3 or not first.size:
        raise ValueError(f"frames = {first.dtype} {('T', *first.shape)}: must be uint8 (T, H, W, 3)")
    return np.stack([seen[number] for number in numbers])


def fitted(height: int, width: int, rule: FrameRule) -> tuple[int, int]:
    """The rows and columns that a film's frames are scaled to: as large as `rule.pixels` lets them, of its own sides.

    Of the sizes whose sides differ from the film's by `MOST_SQUASHED` at most, the largest; where there is none, as for
    a film fifty times as wide as high, the one that differs least.

    Raises:
        ValueError: the film is so narrow that the model cannot be shown it.
    """
    side = rule.side
    most = min(rule.pixels, rule.max_pixels) // side**2
    if max(height, width) > most * min(height, width):
        raise ValueError(f"frames = {height}x{width}: one side may be {most} times the other at most; crop them")
    best = (False, -math.inf, 0, side, side)
    for short in range(1, math.isqrt(most) + 1):
        wanted = short * max(height, width) / min(height, width)
        for long in {math.floor(wanted), math.ceil(wanted)}:
            long = min(max(long, 1), most // short)
            rows, columns = (short * side, long * side) if height < width else (long * side, short * side)
            squashed = abs(math.log(rows * width / (columns * height)))
            rank = 0.0 if squashed <= math.log(MOST_SQUASHED) else -squashed
            best = max(best, (rows * columns >= rule.min_pixels, rank, rows * columns, rows, columns))
    return best[3], best[4]


def scaled(frames_THWC: Pixels, rule: FrameRule) -> Pixels:
    """The frames at the size that the model sees them in."""
    height, width = fitted(frames_THWC.shape[1], frames_THWC.shape[2], rule)
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    size = (width, height)
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames_THWC]
    )


def video_patches(frames_THWC: Pixels, rule: FrameRule, seconds: float = 1.0) -> Patches:
    """Frames of one size, normalised and in patches, as Qwen2.5-VL's video processor hands them over.

    Args:
        frames_THWC: uint8, at any size; the last one is repeated where a patch of time lacks some.
        seconds: from one of these frames to the next, which counts where `rule.seconds` is None.
    """
    frames_THWC = scaled(frames_THWC, rule)
    if missing := -len(frames_THWC) % rule.temporal_patch:
        frames_THWC = np.concatenate([frames_THWC, frames_THWC[-1:].repeat(missing, axis=0)])
    count, height, width, _ = frames_THWC.shape
    values_THWC = torch.from_numpy(np.ascontiguousarray(frames_THWC)).float() / 255
    values_THWC = (values_THWC - torch.tensor(rule.mean)) / torch.tensor(rule.std)
    time, rows, columns = count // rule.temporal_patch, height // rule.patch, width // rule.patch
    merge, patch = rule.merge, rule.patch
    blocks = values_THWC.view(time, rule.temporal_patch, rows // merge, merge, patch, columns // merge, merge, patch, 3)
    # By time, then by squares of merge x merge patches, then within a square; a patch is colour, time, rows, columns.
    values_NP = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(time * rows * columns, -1)
    told = rule.seconds if rule.seconds is not None else max(seconds, 1e-3) * rule.temporal_patch
    return Patches(values_NP, torch.tensor([[time, rows, columns]]), torch.tensor([told]))


def film_patches(frames: FrameSource, fps: float, rule: FrameRule) -> Patches:
    """A whole film as the model takes it.

    Raises:
        ValueError: it has no frames, or no rate.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps = {fps}: must be above 0; 24 works")
    apart = (len(frames) - 1) / rule.num_frames / fps
    return video_patches(frames_at(frames, spread(len(frames), rule.num_frames)), rule, apart)
