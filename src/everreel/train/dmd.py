"""Distribution matching: a student of few steps whose films the teacher finds as likely as its own.

Source: section 5 of the paper (regression left out, two time scales of 5 to 1, noised films of the data as a student's
input); the gradient as in DMD2 (arXiv 2405.14867); the self-rollout of Self-Forcing (arXiv 2506.08009). The one
invariant: the student is trained on what it meets when it serves, for `latents_of` is the loop that serves. A film is
made without gradients up to a block and a step, and that one pass is taken again with them, all that is finished clean
in front of it: block-causal attention gives the same with a cache and without.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, L text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everreel.checkpoint.lora_files import LORA_FILE
from everreel.data.draws import draw_float, draw_int
from everreel.data.latents import LatentStore, draw_group
from everreel.data.text import FrozenText
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.diffusion.noise import add_noise, shift_sigma
from everreel.diffusion.rollout import Glimpse
from everreel.diffusion.solver import sigmas_for, timesteps_for
from everreel.model.config import TransformerConfig
from everreel.train.batches import follow
from everreel.train.distill import SAMPLE_SIZE, Student, follow_trained, guided_velocity, write_student
from everreel.train.generate import SampleFilms, Wanted, context_of, dit_of, latents_of
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.train.trajectories import Strides


@dataclass(frozen=True)
class DMDRecipe:
    """The values of one run.

    `teacher` is a file of weights for `config`; `films` a store whose sentences are the prompts. Of all
    steps a share `from_data` starts at noised films of the store, the others at the student's own. The student learns
    at every `every`th step, the fake score at each.
    """

    settings: TrainerSettings
    config: TransformerConfig
    teacher: str
    student: Student
    text: str
    vae: str
    films: str
    frames: int = 10
    films_per_step: int = 4
    strides: Strides = field(default_factory=Strides)
    guidance_scale: float = 5.0
    from_data: float = 0.5
    every: int = 5
    score_shift: float = 3.0
    score_levels: tuple[float, float] = (0.02, 0.98)
    sample_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what gives no step of the student."""
        if self.every < 1:
            raise ValueError(f"every={self.every}: must be 1 or more; nearest that works: 1")
        if not 0 <= self.from_data <= 1:
            raise ValueError(
                f"from_data={self.from_data}: must lie in 0..1; nearest that works: {self.from_data > 1:d}"
            )

    def objective(self) -> DistributionMatching:
        """The objective, the fake score with its teacher's weights."""
        return DistributionMatching(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; a student that is an adapter is a LoRA in the run folder, which says how it is used."""
        trainer = Trainer(self.objective(), self.settings, run_dir, quiet)
        outcome = trainer.run()
        if self.student.adapter is not None:
            write_student(run_dir / LORA_FILE, trainer, self.strides)
        return outcome


class Turn(NamedTuple):
    """Prompts of one step, and what is to be learnt of their films: one block's step from one level."""

    ids_BL: Tensor
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    fps_B: Tensor
    size: tuple[int, int, int]
    place: int
    level: int
    x0_BCTHW: Tensor | None
    """Films of the data, where the step starts at theirs."""
    student_learns: bool


class DistributionMatching:
    """See `DMDRecipe`. `metrics` holds the size of the gradient that the scores give."""

    def __init__(self, recipe: DMDRecipe) -> None:
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        self.store = LatentStore(recipe.films)
        self.text = FrozenText.load(recipe.text)
        self.student, self._roles = recipe.student.build(recipe.config, recipe.settings.seed)
        (self._role,) = self._roles
        self.fake = dit_of(recipe.config, recipe.teacher)
        self.teacher = dit_of(recipe.config, recipe.teacher).eval().requires_grad_(False)
        strides = recipe.strides
        self._way = strides.serve()
        self._sigmas = sigmas_for(strides.steps, strides.shift)
        self._timesteps = timesteps_for(strides.steps, strides.shift)
        self._blocks = self._way.blocks(recipe.frames)
        size = (recipe.frames, *SAMPLE_SIZE)
        self._samples = SampleFilms(recipe.sample_prompts, size, self._way, self.text, recipe.vae)

    def modules(self) -> dict[str, nn.Module]:
        """The student, and the score of its own films."""
        return {**self._roles, "fake": self.fake}

    def batch(self, step: int, generator: torch.Generator) -> Turn:
        """Prompts, a block and a level; every `every`th step is one of the student's."""
        recipe, store = self.recipe, self.store
        (_, height, width), chosen = draw_group(store.groups, generator, recipe.films_per_step)
        prompts = [store.sentences[index][draw_int(generator, 0, len(store.sentences[index]))] for index in chosen]
        seeds = [draw_int(generator, 0, 2**31) for _ in chosen]
        place = draw_int(generator, 0, len(self._blocks))
        level = draw_int(generator, 0, recipe.strides.steps)
        stop = sum(self._blocks[: place + 1])
        from_data = draw_float(generator) < recipe.from_data
        x0_BCTHW = store.batch(chosen, [(0, stop)] * len(chosen)) if from_data else None
        return Turn(
            self.text.ids(prompts), tuple(prompts), tuple(seeds),
            torch.tensor([FPS_INDEX[store.fps(index)] for index in chosen]),
            (stop, height, width), place, level, x0_BCTHW, step % recipe.every == 0,
        )  # fmt: skip

    def losses(self, batch: Turn, generator: torch.Generator) -> dict[str, Tensor]:
        """The fake score's loss on the student's films, and at its turns the student's."""
        follow(batch.ids_BL.device, self.student, self.teacher)
        new = self._blocks[batch.place]
        x_BCTHW = self._own(batch) if batch.x0_BCTHW is None else self._noised(batch, batch.x0_BCTHW, generator)
        timestep_BT = torch.zeros(len(x_BCTHW), x_BCTHW.shape[2], device=x_BCTHW.device)
        timestep_BT[:, -new:] = self._timesteps[batch.level]
        with torch.set_grad_enabled(batch.student_learns):
            velocity_BCTHW = self.student(
                x_BCTHW, timestep_BT, context_of(self.student, self.text, batch.ids_BL), fps_B=batch.fps_B,
                blocks=self._blocks[: batch.place + 1],
            )  # fmt: skip
            made_BCTHW = x_BCTHW[:, :, -new:] - float(self._sigmas[batch.level]) * velocity_BCTHW[:, :, -new:].float()
            film_BCTHW = torch.cat([x_BCTHW[:, :, :-new], made_BCTHW], dim=2)
        losses = {"fake": self._score_loss(film_BCTHW.detach(), batch, generator)}
        if batch.student_learns:
            target_BCTHW = self._target(film_BCTHW.detach(), batch, generator)
            error_BCTHW = (film_BCTHW - target_BCTHW)[:, :, -new:]
            losses[self._role] = 0.5 * error_BCTHW.square().mean()
        return losses

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts, made as the student is served."""
        follow_trained(self._roles, self.student)
        self._samples.write(folder, step, self.student)

    @torch.no_grad()
    def _own(self, batch: Turn) -> Tensor:
        """The student's films up to the block, which stands at its level."""
        steps, device = self.recipe.strides.steps, batch.ids_BL.device
        rows = []
        for prompt, fps_index, seed in zip(batch.prompts, batch.fps_B.tolist(), batch.seeds, strict=True):
            seen: list[Tensor] = []

            def look(glimpse: Glimpse, seen: list[Tensor] = seen) -> None:
                if glimpse.row == batch.place * steps + batch.level:
                    seen.append(glimpse.before_CTHW[:, list(glimpse.moved)])

            wanted = Wanted(prompt, batch.size, fps_index, seed)
            finished = [block.latents_CTHW for block in latents_of(self.student, self.text, wanted, self._way, look)]
            rows.append(torch.cat([*finished[: batch.place], *seen], dim=1))
        return torch.stack(rows).to(device).float()

    def _noised(self, batch: Turn, x0_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
        """Films of the data up to the block, which is noised to its level."""
        new = self._blocks[batch.place]
        noise_BCTHW = torch.randn(x0_BCTHW[:, :, -new:].shape, generator=generator).to(x0_BCTHW)
        level_BT = self._sigmas[batch.level].expand(len(x0_BCTHW), new)
        noised_BCTHW = add_noise(x0_BCTHW[:, :, -new:], noise_BCTHW, level_BT)
        return torch.cat([x0_BCTHW[:, :, :-new], noised_BCTHW], dim=2)

    def _score_loss(self, film_BCTHW: Tensor, batch: Turn, generator: torch.Generator) -> Tensor:
        """Flow matching on the student's films."""
        x_BCTHW, noise_BCTHW, sigma_BT = self._diffused(film_BCTHW, generator)
        context = context_of(self.fake, self.text, batch.ids_BL)
        velocity_BCTHW = self.fake(x_BCTHW, 1000 * sigma_BT, context, fps_B=batch.fps_B)
        loss: Tensor = (velocity_BCTHW.float() - (noise_BCTHW - film_BCTHW)).square().mean()
        return loss

    @torch.no_grad()
    def _target(self, film_BCTHW: Tensor, batch: Turn, generator: torch.Generator) -> Tensor:
        """Where the films should go: from where the fake score sees them to where the teacher does."""
        x_BCTHW, _, sigma_BT = self._diffused(film_BCTHW, generator)
        timestep_BT = 1000 * sigma_BT
        _, real_BCTHW = guided_velocity(
            self.teacher, self.text, batch.ids_BL, x_BCTHW, timestep_BT, batch.fps_B, self.recipe.guidance_scale
        )
        context = context_of(self.fake, self.text, batch.ids_BL)
        fake_BCTHW = self.fake(x_BCTHW, timestep_BT, context, fps_B=batch.fps_B).float()
        sigma_B1111 = sigma_BT[:, :1, None, None, None]
        # Both clean films are x - sigma · velocity, so that their difference is the velocities'.
        gradient_BCTHW = sigma_B1111 * (real_BCTHW - fake_BCTHW)
        distance_B1111 = (film_BCTHW - (x_BCTHW - sigma_B1111 * real_BCTHW)).abs().mean((1, 2, 3, 4), keepdim=True)
        gradient_BCTHW = torch.nan_to_num(gradient_BCTHW / distance_B1111)
        self.metrics["gradient"] = float(gradient_BCTHW.abs().mean())
        return film_BCTHW - gradient_BCTHW

    def _diffused(self, film_BCTHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The films at one level each: (noised, their noise, levels (B, T))."""
        low, high = self.recipe.score_levels
        count, frames = film_BCTHW.shape[0], film_BCTHW.shape[2]
        sigma_B1 = shift_sigma(torch.rand((count, 1), generator=generator), self.recipe.score_shift).clamp(low, high)
        sigma_BT = sigma_B1.expand(count, frames).to(film_BCTHW.device)
        noise_BCTHW = torch.randn(film_BCTHW.shape, generator=generator).to(film_BCTHW)
        return add_noise(film_BCTHW, noise_BCTHW, sigma_BT), noise_BCTHW, sigma_BT
