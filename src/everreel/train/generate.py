"""Films while training: latents by the loop that serves, for teachers, for students that learn from their own films,
and for the pictures of a run.

The one invariant: what is generated here is what the pipeline would generate with the same weights, prompt and seed.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, L numbers of a prompt, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from everreel.checkpoint.load import load_vae
from everreel.checkpoint.lora import merge
from everreel.checkpoint.lora_files import read_lora
from everreel.checkpoint.source import Source
from everreel.data.clips import to_bytes
from everreel.data.text import Text
from everreel.diffusion.conditioning import Conditioning
from everreel.diffusion.denoiser import Branch, Denoiser, Guidance
from everreel.diffusion.noise import draw_noise
from everreel.diffusion.rollout import Glimpse, LatentBlock, rollout
from everreel.diffusion.schedule import Schedule, blockwise, synchronous
from everreel.diffusion.solver import SOLVERS, solver_for
from everreel.diffusion.step_cache import StepCache
from everreel.film.state import Beginning
from everreel.media import Pixels, contact_sheet, write_image
from everreel.model.config import TransformerConfig
from everreel.model.dit import Context, DiT
from everreel.model.vae import CausalVAE


@dataclass(frozen=True)
class Way:
    """How films are generated: all at once, or in blocks of `block` latent frames that are kept as keys and values."""

    steps: int
    shift: float = 3.0
    solver: str = "unipc"
    guidance_scale: float = 1.0
    guidance_level: float = 1.0
    guidance_until: float = 0.0
    """The noise levels between which there is guidance, as in `Denoiser`."""
    block: int | None = None
    context: int = 20
    """Latent frames that a block looks back at."""
    step_cache: float | None = None
    """The limit of a `StepCache`; None computes every pass."""

    def schedule(self, frames: int, given: Iterable[int] = ()) -> Schedule:
        """The rows of a film of so many latent frames, of which some are given."""
        if self.block is None:
            return synchronous(frames, self.steps, given)
        return blockwise(frames, self.steps, self.block, given, context=self.context)

    def blocks(self, frames: int) -> tuple[int, ...]:
        """The latent frames of each block of such a film."""
        return self.schedule(frames).blocks_in(0, frames)


@dataclass(frozen=True)
class Wanted:
    """A film to generate: its prompt, its latents' size (frames, height, width), its frame rate's index, its seed."""

    prompt: str
    size: tuple[int, int, int]
    fps_index: int = 1
    seed: int = 0
    beginning: Beginning = field(default_factory=Beginning)
    """For an I2V model what it is shown of its picture."""


@dataclass(frozen=True)
class Start:
    """What a film begins with besides noise: its first latent frames as they are, or all of another film with noise.

    `film_CTHW` gets noise up to `strength`, the noise level, and only the steps from there on are taken; at strength 1
    nothing of it is left but its size. Its first `known` frames are kept without noise.
    """

    film_CTHW: Tensor
    strength: float = 1.0
    known: int = 0

    def steps_left(self, way: Way) -> int:
        """How many steps of a way are taken.

        Raises:
            ValueError: the strength lies outside of 0 to 1, or below the way's last level.
        """
        sigmas: list[float] = solver_for(way.solver, way.steps, way.shift).sigmas[:-1].tolist()
        left = sum(sigma <= self.strength for sigma in sigmas)
        if not left or self.strength > 1:
            nearest = min(max(self.strength, sigmas[-1]), 1.0)
            rule = f"must be from the last level of {way.steps} steps, {sigmas[-1]:.3f}, to 1"
            raise ValueError(f"strength={self.strength:g}: {rule}; the nearest that works is {nearest:.3f}")
        return left


@torch.no_grad()
def latents_of(
    model: DiT,
    text: Text,
    wanted: Wanted,
    way: Way,
    on_row: Callable[[Glimpse], None] | None = None,
    start: Start | None = None,
) -> Iterator[LatentBlock]:
    """The film's latents, block by block; `on_row` as for `rollout`."""
    device = next(model.parameters()).device
    prompts = [wanted.prompt] if way.guidance_scale == 1.0 else [wanted.prompt, ""]
    channels, tokens_1ND = wanted.beginning.channels, wanted.beginning.image_tokens
    both_BND = None if tokens_1ND is None else tokens_1ND.to(device).expand(len(prompts), -1, -1)
    context = context_of(model, text, text.ids(prompts).to(device), both_BND)
    cached = way.block is not None
    cache = model.new_cache(way.context) if cached else None
    denoiser = Denoiser(
        model, [Branch(context, cache)], Guidance(way.guidance_scale, way.guidance_level, way.guidance_until),
        fps_index=wanted.fps_index, causal=cached,
        step_cache=None if way.step_cache is None else StepCache(way.step_cache),
    )  # fmt: skip
    frames, *plane = wanted.size
    shape = (model.config.out_dim, *plane)
    solver = solver_for(way.solver, way.steps, way.shift)
    known: dict[int, Tensor] = {}
    if start is not None:
        film_CTHW = start.film_CTHW.to(device).float()
        assert film_CTHW.shape == (shape[0], *wanted.size), (film_CTHW.shape, wanted.size)
        known = {frame: film_CTHW[:, frame] for frame in range(start.known)}
        left = start.steps_left(way)
        solver = SOLVERS[way.solver](solver.sigmas[-left - 1 :], solver.timesteps[-left - 1 :])
        way = replace(way, steps=left)

    def noise(frame: int) -> Tensor:
        noise_CHW = draw_noise(wanted.seed, "start", frame, 0, shape).to(device)
        # The levels begin a hair below 1: without a strength that asks for it, nothing of a film is left.
        if start is None or start.strength == 1.0:
            return noise_CHW
        sigma = float(solver.sigmas[0])
        return (1 - sigma) * film_CTHW[:, frame] + sigma * noise_CHW

    return rollout(
        way.schedule(frames, known), denoiser, solver,
        Conditioning(known=known, channels=None if channels is None else channels.to(device)), noise, on_row=on_row,
    )  # fmt: skip


def context_of(model: DiT, text: Text, ids_BL: Tensor, image_BND: Tensor | None = None) -> Context:
    """What a model reads of prompts, by their numbers, and of a picture's tokens, where it is one that does."""
    embedding_BLD, mask_BL = text.embed(ids_BL)
    return model.encode_context(embedding_BLD, mask_BL.sum(1).tolist(), image_BND)


def dit_of(config: TransformerConfig, weights: str, lora: str | None = None) -> DiT:
    """A transformer with the weights of a file, and with a LoRA merged into them."""
    model = DiT(config)
    model.load_state_dict(load_file(weights))
    if lora is not None:
        merge(model, [(read_lora(Path(lora), config), 1.0)], keep=False)
    return model


@dataclass
class SampleFilms:
    """The pictures of a run: a contact sheet of films of the same prompts and seed, each time the weights are asked."""

    prompts: Sequence[str]
    size: tuple[int, int, int]
    way: Way
    text: Text
    vae: str | Source | None
    beginnings: Sequence[Beginning] = ()
    """For an I2V model one for each prompt."""
    _loaded: CausalVAE | None = None

    def write(self, folder: Path, step: int, model: DiT) -> None:
        """Write `step-000123.png` into the folder, if there are prompts."""
        if self.prompts:
            beginnings = self.beginnings or [Beginning()] * len(self.prompts)
            wanted = [
                Wanted(prompt, self.size, beginning=beginning)
                for prompt, beginning in zip(self.prompts, beginnings, strict=True)
            ]
            films = [self._film(model, film) for film in wanted]
            shown = min(3, self.size[0])
            sheet = contact_sheet(films, columns=4, frames_per_film=shown, captions=list(self.prompts))
            write_image(folder / f"step-{step:06d}.png", sheet)

    def _film(self, model: DiT, wanted: Wanted) -> Pixels:
        if self._loaded is None:
            if self.vae is None:
                raise ValueError("vae=None: sample films need it; name a folder with vae/, or give no sample_prompts")
            self._loaded = load_vae(self.vae, next(model.parameters()).device)
        blocks = latents_of(model, self.text, wanted, self.way)
        latents_CTHW = torch.cat([block.latents_CTHW for block in blocks], dim=1)
        return to_bytes(self._loaded.decode(latents_CTHW[None])[0])
