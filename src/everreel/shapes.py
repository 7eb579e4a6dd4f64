"""Pixels, latent frames and tokens: every 4, 8, 2 and 16 of the system lives here.

The VAE of Wan2.1 makes one latent frame of the first video frame and one of every four after it, each 8 times smaller
in height and width; the transformer joins 2 × 2 latents to one token. The one invariant: `from_pixels` and the pixel
properties are inverse to each other for every size that it accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

TEMPORAL = 4
SPATIAL = 8
PATCH = 2
LATENT_CHANNELS = 16
SIZE_STEP = SPATIAL * PATCH


@dataclass(frozen=True)
class LatentShape:
    """The shape of a film's latents: frames, height and width."""

    frames: int
    height: int
    width: int

    @classmethod
    def from_pixels(cls, num_frames: int, height: int, width: int) -> LatentShape:
        """The latents of a film of `num_frames` = 4k + 1 frames of `height` × `width` pixels.

        Raises:
            ValueError: a size is not one the model can make; the message names the nearest that is.
        """
        if num_frames < 1 or (num_frames - 1) % TEMPORAL:
            raise ValueError(f"num_frames = {num_frames}: must be 4k + 1, nearest {nearest_num_frames(num_frames)}")
        for name, value in (("height", height), ("width", width)):
            if value < SIZE_STEP or value % SIZE_STEP:
                raise ValueError(f"{name} = {value}: must be a multiple of {SIZE_STEP}, nearest {nearest_size(value)}")
        return cls(1 + (num_frames - 1) // TEMPORAL, height // SPATIAL, width // SPATIAL)

    @property
    def num_frames(self) -> int:
        """Video frames."""
        return video_frames(self.frames)

    @property
    def pixel_height(self) -> int:
        """Height in pixels."""
        return self.height * SPATIAL

    @property
    def pixel_width(self) -> int:
        """Width in pixels."""
        return self.width * SPATIAL

    @property
    def tokens_per_frame(self) -> int:
        """Transformer tokens of one latent frame."""
        return (self.height // PATCH) * (self.width // PATCH)

    @property
    def tokens(self) -> int:
        """Transformer tokens of the film."""
        return self.frames * self.tokens_per_frame


def latent_frames(num_frames: int) -> int:
    """Latent frames that hold `num_frames` video frames, the last one perhaps only in part."""
    return 1 + -(-(num_frames - 1) // TEMPORAL)


def video_frames(latents: int) -> int:
    """The most video frames that so many latent frames hold; what `latent_frames` undoes."""
    return 1 + TEMPORAL * (latents - 1)


def latent_index(frame: int) -> int:
    """The latent frame that holds a video frame."""
    return latent_frames(frame + 1) - 1


def frames_of(index: int) -> range:
    """The video frames that a latent frame holds: frame 0, or four later ones."""
    return range(max(0, 1 + (index - 1) * TEMPORAL), 1 + index * TEMPORAL)


def nearest_num_frames(num_frames: int) -> int:
    """The 4k + 1 nearest to a number of frames."""
    return max(1, 1 + TEMPORAL * round((num_frames - 1) / TEMPORAL))


def nearest_size(pixels: int) -> int:
    """The multiple of 16 nearest to a height or width."""
    return max(SIZE_STEP, SIZE_STEP * round(pixels / SIZE_STEP))
