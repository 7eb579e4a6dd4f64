"""What makes the motion of a real clip worse and leaves the rest: the rejected films of automatic preference pairs.

Source: SkyReels-V2's motion data (arXiv 2504.13074): a model makes the clip again out of noise that was put on it, out
of its first frame, or out of its words alone; and its frames are taken at another rate, its steps left out, its time
turned round. The one invariant: what comes out are latents of the chosen clip's size by the same VAE, and depends on
the clip, the weights, the settings and the generator alone.

Shape suffixes: C channels, T latent frames or frames, H W height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everreel.data.clips import to_bytes, to_unit_range
from everreel.data.draws import draw_int
from everreel.data.latents import encode_video
from everreel.data.text import Text
from everreel.diffusion.rollout import FIRST_STEPS, LAST_STEPS
from everreel.media import Pixels
from everreel.model.dit import DiT
from everreel.model.vae import CausalVAE
from everreel.shapes import video_frames
from everreel.train.generate import Start, Wanted, Way, latents_of
from everreel.world.scene import ROUND, Scene

KINDS = ("renoised", "from_first_frame", "from_text", "frame_rate", "step_caching", "reversed")
FILMED = ("frame_rate", "reversed")
"""Kinds that are made of the clip's own frames; the others are made by the model."""


@dataclass(frozen=True)
class Distortions:
    """How far each kind goes; where there are several, one of them is drawn.

    `strengths` are the noise levels from which a clip is made again, `rates` how many frames of film a frame goes on,
    above 1 too fast and below too slow. A film of cached steps is made again from `cache_strength`, and a pass is left
    out while its velocity must have changed by less than `cache_limit`, as a share of itself.
    """

    strengths: tuple[float, ...] = (0.6, 0.75, 0.9)
    rates: tuple[float, ...] = (0.5, 2.0)
    cache_limit: float = 1.5
    cache_strength: float = 0.75

    def __post_init__(self) -> None:
        for name in ("strengths", "rates"):
            if not getattr(self, name):
                raise ValueError(f"{name}=(): name at least one; {name}=({'0.75' if name == 'strengths' else '2.0'},)")
        for name, value in (("cache_strength", self.cache_strength), *(("strengths", s) for s in self.strengths)):
            if not 0 < value < 1:
                raise ValueError(f"{name}={value:g}: a noise level between 0 and 1; the nearest that works is 0.9")
        for rate in self.rates:
            if not rate > 0 or rate == 1:
                raise ValueError(f"rates={rate:g}: above 0 and not 1, which is real; the nearest that works is 2")
        if not self.cache_limit > 0:
            raise ValueError(f"cache_limit={self.cache_limit:g}: must be above 0; the nearest that works is 0.1")

    def frames_needed(self, kind: str, frames: int) -> int:
        """How many frames of a clip a kind takes for a film of so many."""
        return 1 + int((frames - 1) * max(1.0, *self.rates)) if kind == "frame_rate" else frames

    def check_way(self, kinds: Sequence[str], way: Way) -> None:
        """Refuse a way whose steps do not do what the kinds need.

        Raises:
            ValueError: a strength lies below its last level, or of the cached steps none can be left out.
        """
        nothing = torch.zeros(0)
        for strength in self.strengths if "renoised" in kinds else ():
            Start(nothing, strength).steps_left(way)
        if "step_caching" in kinds:
            held = FIRST_STEPS + LAST_STEPS
            left = Start(nothing, self.cache_strength).steps_left(way)
            if left <= held:
                more = (replace(way, steps=steps) for steps in itertools.count(way.steps + 1))
                fits = next(one for one in more if Start(nothing, self.cache_strength).steps_left(one) > held)
                rule = f"takes {left} steps from {self.cache_strength:g}, and {held} of them are never left out"
                raise ValueError(f"steps={way.steps}: {rule}; the nearest that works is {fits.steps}")


@dataclass(frozen=True)
class RealClip:
    """The chosen film of a pair: all frames of its clip, the latents (C, T, H, W) of the first of them, its words."""

    frames_THWC: Pixels
    latents_CTHW: Tensor
    prompt: str
    fps_index: int


def shows(kind: str, scene: Scene) -> bool:
    """Whether a kind can be told from the real film: what stays, or has no front, is itself when time is reversed."""
    return kind != "reversed" or (scene.locomotes and scene.subject not in ROUND)


class Distorter:
    """Makes the worse film of a clip."""

    def __init__(self, model: DiT, text: Text, vae: CausalVAE, way: Way, distortions: Distortions) -> None:
        self.model, self.text, self.vae = model, text, vae
        self.way, self.distortions = way, distortions

    def distort(
        self, kind: str, clip: RealClip, generator: torch.Generator, seed: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """The worse film's latents (C, T, H, W), float32 on the CPU, and with which values it was made."""
        made: tuple[Tensor, dict[str, Any]] = getattr(self, f"_{kind}")(clip, generator, seed)
        latents_CTHW, facts = made
        assert latents_CTHW.shape == clip.latents_CTHW.shape, (kind, latents_CTHW.shape)
        return latents_CTHW, facts

    def decode(self, latents_CTHW: Tensor) -> Pixels:
        """The frames of latents."""
        parameter = next(self.vae.parameters())
        with torch.no_grad():
            return to_bytes(self.vae.decode(latents_CTHW[None].to(parameter.device, parameter.dtype))[0])

    def encode(self, frames_THWC: Pixels) -> Tensor:
        """The latents (C, T, H, W) of frames, in the precision in which a store holds them."""
        return torch.from_numpy(encode_video(self.vae, to_unit_range([frames_THWC]))[0]).float()

    def _renoised(self, clip: RealClip, generator: torch.Generator, seed: int) -> tuple[Tensor, dict[str, Any]]:
        strength = _one_of(self.distortions.strengths, generator)
        film = self._made(clip, seed, self.way, Start(clip.latents_CTHW, strength))
        return film, {"strength": strength, "seed": seed}

    def _from_first_frame(self, clip: RealClip, _: torch.Generator, seed: int) -> tuple[Tensor, dict[str, Any]]:
        return self._made(clip, seed, self.way, Start(clip.latents_CTHW, known=1)), {"seed": seed}

    def _from_text(self, clip: RealClip, _: torch.Generator, seed: int) -> tuple[Tensor, dict[str, Any]]:
        return self._made(clip, seed, self.way, None), {"seed": seed}

    def _step_caching(self, clip: RealClip, _: torch.Generator, seed: int) -> tuple[Tensor, dict[str, Any]]:
        settings = self.distortions
        way = replace(self.way, step_cache=settings.cache_limit)
        film = self._made(clip, seed, way, Start(clip.latents_CTHW, settings.cache_strength))
        return film, {"strength": settings.cache_strength, "limit": settings.cache_limit, "seed": seed}

    def _frame_rate(self, clip: RealClip, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, Any]]:
        rate = _one_of(self.distortions.rates, generator)
        frames = video_frames(clip.latents_CTHW.shape[1])
        # The frame that was filmed last is shown: nothing is mixed, so every frame is as sharp as it was.
        taken = (np.arange(frames) * rate).astype(int)
        return self.encode(clip.frames_THWC[taken]), {"rate": rate}

    def _reversed(self, clip: RealClip, _: torch.Generator, __: int) -> tuple[Tensor, dict[str, Any]]:
        frames = video_frames(clip.latents_CTHW.shape[1])
        return self.encode(clip.frames_THWC[:frames][::-1]), {}

    def _made(self, clip: RealClip, seed: int, way: Way, start: Start | None) -> Tensor:
        _, frames, height, width = clip.latents_CTHW.shape
        wanted = Wanted(clip.prompt, (frames, height, width), clip.fps_index, seed)
        return film_of(self.model, self.text, wanted, way, start)


def film_of(model: DiT, text: Text, wanted: Wanted, way: Way, start: Start | None = None) -> Tensor:
    """A whole film's latents (C, T, H, W), float32 on the CPU."""
    blocks = latents_of(model, text, wanted, way, start=start)
    return torch.cat([block.latents_CTHW.float().cpu() for block in blocks], dim=1)


def _one_of(values: Sequence[float], generator: torch.Generator) -> float:
    return values[draw_int(generator, 0, len(values))]
