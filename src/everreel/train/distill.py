"""Fewer passes a film: guidance folded into the weights, then many steps into few.

Source: section 5 of the paper names distribution matching alone; what goes before it is ours. Guidance distillation is
Meng et al.'s (arXiv 2210.03142), steps are learnt by regression on trajectories, as CausVid and Self-Forcing begin. The
one invariant: a student is trained as it is served. It sees finished blocks clean in front of it, under block-causal
attention, at the levels of its own few steps.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, L text tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from everreel.checkpoint.lora import Preset
from everreel.checkpoint.lora_files import LORA_FILE
from everreel.data.draws import draw_int
from everreel.data.latents import draw_key, draw_members
from everreel.data.text import FrozenText, Text
from everreel.diffusion.noise import add_noise
from everreel.diffusion.solver import sigmas_for, timesteps_for
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.shapes import LatentShape
from everreel.train.batches import follow
from everreel.train.diffusion_forcing import Batch, DiffusionForcing, DiffusionForcingRecipe, mean_where
from everreel.train.generate import SampleFilms, Way, context_of, dit_of
from everreel.train.lora import Adapter, AdapterShape, write_adapter
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.train.trajectories import Strides, TrajectoryStore

SAMPLE_SIZE = (12, 20)  # of a latent frame


@dataclass(frozen=True)
class Student:
    """What a student begins as, and what of it is trained.

    `weights` is a file of a transformer's, `lora` what an earlier stage has changed in them (its `lora.safetensors`).
    With an `adapter` that alone is trained, the `lora` being where it begins; it must be of the same shape.
    """

    weights: str
    lora: str | None = None
    adapter: AdapterShape | None = None

    def build(self, config: TransformerConfig, seed: int) -> tuple[DiT, dict[str, nn.Module]]:
        """The transformer, and by role what is trained of it."""
        model = dit_of(config, self.weights, None if self.adapter else self.lora)
        roles = roles_of(model, self.adapter, seed)
        if self.adapter is not None and self.lora is not None:
            roles["lora"].load_state_dict(load_file(self.lora))
        return model, roles


@dataclass(frozen=True)
class GuidanceRecipe:
    """One pass gives what two gave: the velocity of guidance at `guidance_scale`, on the films that `data` describes.

    `data.init`, or its model, are the weights of teacher and student alike; with an `adapter` that alone is trained.
    """

    settings: TrainerSettings
    data: DiffusionForcingRecipe
    guidance_scale: float = 5.0
    adapter: AdapterShape | None = None

    def objective(self) -> GuidanceDistillation:
        """The objective, the student with its teacher's weights."""
        return GuidanceDistillation(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; `transformer.safetensors` in the run folder holds the averaged weights."""
        return Trainer(self.objective(), self.settings, run_dir, quiet).run()


class GuidanceDistillation:
    """See `GuidanceRecipe`. `metrics` holds the loss as a share of what guidance adds."""

    def __init__(self, recipe: GuidanceRecipe) -> None:
        if recipe.data.init is None and recipe.data.model is None:
            raise ValueError("init=None: a student starts as its teacher; name the teacher's transformer.safetensors")
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        # An empty prompt has no guidance to learn.
        self._data = DiffusionForcing(replace(recipe.data, settings=recipe.settings, empty=0.0))
        self.student = self._data.transformer
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self._roles = roles_of(self.student, recipe.adapter, recipe.settings.seed)
        self._samples = self._data.samples(Way(20))

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return self._roles

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """As in diffusion forcing."""
        return self._data.batch(step, generator)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean squared error of the student's velocity against the teacher's guided one."""
        noise_BCTHW = torch.randn(batch.x0_BCTHW.shape, generator=generator).to(batch.x0_BCTHW)
        x_BCTHW = add_noise(batch.x0_BCTHW, noise_BCTHW, batch.sigma_BT)
        timestep_BT, text = 1000 * batch.sigma_BT, self._data.text
        follow(x_BCTHW.device, self.teacher, self.student)
        with torch.no_grad():
            plain, guided = guided_velocity(
                self.teacher, text, batch.ids_BL, x_BCTHW, timestep_BT, batch.fps_B, self.recipe.guidance_scale,
                batch.blocks,
            )  # fmt: skip
        context = context_of(self.student, text, batch.ids_BL)
        velocity = self.student(x_BCTHW, timestep_BT, context, fps_B=batch.fps_B, blocks=batch.blocks)
        loss, unguided = (
            mean_where((found - guided).float().square().mean(dim=(1, 3, 4)), batch.loss_BT)
            for found in (velocity, plain)
        )
        self.metrics["left_of_guidance"] = float(loss.detach() / unguided.clamp(min=1e-8))
        return dict.fromkeys(self._roles, loss)

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the data's prompts, made without guidance."""
        follow_trained(self._roles, self.student)
        self._samples.write(folder, step, self.student)


@dataclass(frozen=True)
class RegressionRecipe:
    """Few steps for many: a student goes along its teacher's trajectories in strides.

    `trajectories` is the run folder of a `TrajectoryRecipe`; `tokens` is the size of a batch in video tokens, clean
    frames included.
    """

    settings: TrainerSettings
    config: TransformerConfig
    student: Student
    text: str
    vae: str
    trajectories: str
    tokens: int
    sample_prompts: tuple[str, ...] = ()
    sample_frames: int = 10

    def objective(self) -> TrajectoryRegression:
        """The objective, the student as it begins."""
        return TrajectoryRegression(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; a student that is an adapter is a LoRA in the run folder, which says how it is used."""
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        if self.student.adapter is not None:
            write_student(run_dir / LORA_FILE, trainer, objective.store.strides)
        return outcome


class StrideBatch(NamedTuple):
    """Rows that all have the same blocks, of which the last moves and the others are finished."""

    x_BCTHW: Tensor
    target_BCTHW: Tensor
    """The velocity that leads from level to level, of the last block's frames."""
    timestep_BT: Tensor
    ids_BL: Tensor
    fps_B: Tensor
    blocks: tuple[int, ...]
    level_B: Tensor


class TrajectoryRegression:
    """See `RegressionRecipe`. `metrics` holds the loss of each step."""

    def __init__(self, recipe: RegressionRecipe) -> None:
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        self.store = TrajectoryStore(recipe.trajectories)
        self.text = FrozenText.load(recipe.text)
        self.student, self._roles = recipe.student.build(recipe.config, recipe.settings.seed)
        strides = self.store.strides
        self._sigmas = sigmas_for(strides.steps, strides.shift)
        self._timesteps = timesteps_for(strides.steps, strides.shift)
        size = (recipe.sample_frames, *SAMPLE_SIZE)
        self._samples = SampleFilms(recipe.sample_prompts, size, strides.serve(), self.text, recipe.vae)

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return self._roles

    def batch(self, step: int, generator: torch.Generator) -> StrideBatch:
        """Blocks of the same place in the film, each at a level of its own."""
        store, recipe = self.store, self.recipe
        place = draw_int(generator, 0, len(store.blocks))
        blocks = store.blocks[: place + 1]
        stop, first = sum(blocks), sum(blocks[:-1])
        size = draw_key(store.sizes, generator)
        count = max(1, recipe.tokens // LatentShape(stop, *size).tokens)
        chosen = draw_members(store.sizes[size], generator, count)
        level_B = torch.randint(store.strides.steps, (count,), generator=generator)
        x_BCTHW, target_BCTHW = [], []
        for index, level in zip(chosen, level_B.tolist(), strict=True):
            finished_CTHW = store.state(index, -1, 0, first)
            here_CTHW, next_CTHW = (store.state(index, at, first, stop) for at in (level, level + 1))
            x_BCTHW.append(torch.cat([finished_CTHW, here_CTHW], dim=1))
            target_BCTHW.append((here_CTHW - next_CTHW) / (self._sigmas[level] - self._sigmas[level + 1]))
        timestep_BT = torch.zeros(count, stop)
        timestep_BT[:, first:] = self._timesteps[level_B][:, None]
        ids_BL = self.text.ids([store.records[index]["prompt"] for index in chosen])
        fps_B = torch.tensor([store.records[index]["fps_index"] for index in chosen])
        return StrideBatch(torch.stack(x_BCTHW), torch.stack(target_BCTHW), timestep_BT, ids_BL, fps_B, blocks, level_B)

    def losses(self, batch: StrideBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean squared error of the velocity of the moving block."""
        follow(batch.x_BCTHW.device, self.student)
        context = context_of(self.student, self.text, batch.ids_BL)
        velocity_BCTHW = self.student(batch.x_BCTHW, batch.timestep_BT, context, fps_B=batch.fps_B, blocks=batch.blocks)
        moving_BCTHW = velocity_BCTHW[:, :, -batch.blocks[-1] :].float()
        error_B = (moving_BCTHW - batch.target_BCTHW).square().mean(dim=(1, 2, 3, 4))
        for level in range(self.store.strides.steps):
            if (batch.level_B == level).any():
                self.metrics[f"loss_step_{level}"] = float(error_B.detach()[batch.level_B == level].mean())
        return dict.fromkeys(self._roles, error_B.mean())

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts, made as the student is served."""
        follow_trained(self._roles, self.student)
        self._samples.write(folder, step, self.student)


def guided_velocity(
    model: DiT,
    text: Text,
    ids_BL: Tensor,
    x_BCTHW: Tensor,
    timestep_BT: Tensor,
    fps_B: Tensor,
    scale: float,
    blocks: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor]:
    """The velocity as the prompts say, and with guidance, each (B, C, T, H, W) float32."""
    empty_BL = text.ids([""]).to(ids_BL.device).expand_as(ids_BL)
    plain, unconditional = (
        model(x_BCTHW, timestep_BT, context_of(model, text, ids), fps_B=fps_B, blocks=blocks).float()
        for ids in (ids_BL, empty_BL)
    )
    return plain, unconditional + scale * (plain - unconditional)


def roles_of(student: DiT, adapter: AdapterShape | None, seed: int) -> dict[str, nn.Module]:
    """What of a student is trained: all of it, or an adapter that is put into it."""
    if adapter is None:
        return {"transformer": student}
    return {"lora": Adapter.into(student.requires_grad_(False), adapter, seed)}


def follow_trained(roles: Mapping[str, nn.Module], student: DiT) -> None:
    """All of a student goes where the trainer has put what is trained of it.

    Of a student that is an adapter the trainer moves the adapter alone, and a finished run that is started again asks
    for samples before it has shown the objective a batch to follow.
    """
    (trained,) = roles.values()
    follow(next(trained.parameters()).device, student)


def write_student(path: Path, trainer: Trainer, strides: Strides) -> None:
    """A student that is an adapter as a LoRA, its averaged weights and how films are made with it."""
    way = strides.serve()
    preset = Preset("everreel", way.steps, way.guidance_scale, way.shift, "euler", streams=True)
    write_adapter(path, trainer, preset.metadata())
