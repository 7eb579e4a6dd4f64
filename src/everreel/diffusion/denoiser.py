"""From a window of noisy latents to the velocity the solver follows: guidance, and what is remembered of the film.

Source: classifier-free guidance as in the released pipelines; guidance away from a pass that leaves layers out (Hyung
et al., arXiv 2411.18664); the cache of section 4c's causal model. The one invariant: all passes of a step see the same
frames, the same levels and the same past.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everreel.diffusion.step_cache import StepCache
from everreel.model.dit import Context, Transformer
from everreel.model.kv_cache import KVCache


@dataclass
class Branch:
    """One forward pass a step: a context of one row (or of both rows of guidance in one batch) and its cache.

    `later` are contexts of the same kind by the latent frame at which each takes over, first to last. `alone` is the
    conditional row of a branch of both, for passes without guidance.
    """

    context: Context
    cache: KVCache | None = None
    later: Sequence[tuple[int, Context]] = ()
    alone: Branch | None = None

    def texts(self, start: int, stop: int) -> list[tuple[int, Context]]:
        """How many of the frames from `start` up to `stop` read which context."""
        turns = [(0, self.context), *self.later, (stop, self.context)]
        parts = [
            (min(end, stop) - max(begin, start), context) for (begin, context), (end, _) in itertools.pairwise(turns)
        ]
        return [(frames, context) for frames, context in parts if frames > 0]

    @property
    def batch(self) -> int:
        """Rows of the context."""
        return self.context.bias.shape[0]


@dataclass(frozen=True)
class Guidance:
    """How far velocities go beyond the conditional one, between two noise levels.

    Beyond one of them a frame goes without: above `level` there is little but noise, and guidance does harm
    (Kynkäänniemi et al., arXiv 2404.07724); below `until` what is to be seen is settled, and it draws hard edges into
    it.
    """

    scale: float = 1.0
    """From the unconditional velocity to the conditional one and on; 1 is off."""
    level: float = 1.0
    until: float = 0.0
    skip_scale: float = 0.0
    """On from what the network says without some of its layers, added to the rest; 0 is off."""
    skip_layers: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of context that it takes."""
        return 1 if self.scale == 1.0 else 2

    @property
    def always(self) -> bool:
        """Whether every frame has it at every level."""
        return self.level >= 1 and self.until <= 0

    @property
    def skipped(self) -> tuple[int, ...]:
        """The layers that one more pass leaves out."""
        return self.skip_layers if self.skip_scale else ()

    def at(self, timestep_T: Tensor) -> Tensor:
        """Which frames have it."""
        return (timestep_T <= 1000 * self.level) & (timestep_T >= 1000 * self.until)


class Denoiser:
    """Calls the transformer and mixes its branches.

    Args:
        model: the transformer.
        branches: one branch of batch 2 (conditional, unconditional), two of batch 1 where memory is short, or one of
            batch 1 without guidance. A branch with a cache is given new frames only, one block after the other.
        guidance: where no frame is left for it, and no branch with both rows has a cache, the conditional row is
            computed alone. With layers to skip the rows have to be branches of their own: that pass reads the cache of
            the first.
        fps_index: 0 for 16 and 1 for 24 frames a second.
        causal: block-causal attention inside the window.
        step_cache: leaves out passes where it may.
    """

    def __init__(
        self,
        model: Transformer,
        branches: Sequence[Branch],
        guidance: Guidance | None = None,
        *,
        fps_index: int = 1,
        causal: bool = False,
        step_cache: StepCache | None = None,
    ) -> None:
        guidance = guidance or Guidance()
        rows = sum(branch.batch for branch in branches)
        if rows != guidance.rows:
            raise ValueError(f"guidance_scale = {guidance.scale}: does not go with {rows} rows of context")
        if guidance.skipped and branches[0].batch != 1:
            raise ValueError("skip_layers: needs the rows of guidance as branches of their own")
        self.model = model
        self.branches = branches
        self.guidance = guidance
        self.fps_index = fps_index
        self.causal = causal
        self.step_cache = step_cache

    @property
    def remembers(self) -> bool:
        """Whether finished frames are kept as keys and values, so that only new ones are handed in."""
        return self.branches[0].cache is not None

    @torch.no_grad()
    def __call__(
        self,
        x_CTHW: Tensor,
        timestep_T: Tensor,
        blocks: Sequence[int] | None,
        start: int = 0,
        guess_T: Sequence[bool] | None = None,
    ) -> Tensor:
        """The guided velocity, (C, T, H, W) float32, of a window at timesteps 1000 (noise) to 0 (clean).

        `start` is the film's latent frame that the window begins with, for texts that change. Without `blocks` the
        window is seen by itself and whole: full attention, nothing of the caches. `guess_T` says which frames move;
        where it is given the velocity may be told from those that were computed before.
        """
        velocity = self._velocity(x_CTHW, timestep_T, blocks, start, guess_T, *self._needed(timestep_T))
        conditional, others = velocity[0], velocity[1:]
        if not len(others):
            return conditional
        guided = conditional
        if self.guidance.rows == 2:
            guided = others[0] + self.guidance.scale * (conditional - others[0])
        if self.guidance.skipped:
            guided = guided + self.guidance.skip_scale * (conditional - others[-1])
        if self.guidance.always:
            return guided
        guided_T = self.guidance.at(timestep_T).to(guided.device)
        return torch.where(guided_T[None, :, None, None], guided, conditional)

    def _needed(self, timestep_T: Tensor) -> tuple[Sequence[Branch], tuple[int, ...]]:
        """All branches, and the layers to skip in one more pass; or, where no frame has guidance, the conditional row
        alone if that may be: the cache of a branch with both rows holds both.
        """
        first, layers = self.branches[0], self.guidance.skipped
        # What is known without the timesteps comes first: to read them is to wait for a GPU.
        unguided = self.guidance.rows == 1 and not layers
        if self.guidance.always or unguided or (first.batch == 2 and first.cache is not None):
            return self.branches, layers
        # Clean frames do not move, at whatever level guidance ends.
        if bool(((timestep_T > 0) & self.guidance.at(timestep_T)).any()):
            return self.branches, layers
        return self.branches[:1] if first.batch == 1 else [first.alone or first], ()

    def _velocity(
        self,
        x_CTHW: Tensor,
        timestep_T: Tensor,
        blocks: Sequence[int] | None,
        start: int,
        guess_T: Sequence[bool] | None,
        branches: Sequence[Branch],
        skip: tuple[int, ...],
    ) -> Tensor:
        """Of the branches and of the pass without some layers, computed or told from those before."""

        def run() -> Tensor:
            velocity = self._run(x_CTHW, timestep_T, blocks, start, branches)
            if not skip:
                return velocity
            return torch.cat([velocity, self._run(x_CTHW, timestep_T, blocks, start, self.branches[:1], skip=skip)])

        if self.step_cache is None:
            return run()
        key = start, x_CTHW.shape, None if blocks is None else tuple(blocks), branches is not self.branches
        time_T = timestep_T.to(x_CTHW.device)
        found = None if guess_T is None else self.step_cache.find(key, x_CTHW, time_T, guess_T)
        if found is None:
            found = run()
            self.step_cache.keep(key, x_CTHW, time_T, found)
        return found

    @torch.no_grad()
    def remember(self, x_CTHW: Tensor, timestep_T: Tensor, start: int = 0) -> None:
        """Write a finished block into the caches, if there are any: one more pass over it at its (near) zero level."""
        if self.remembers:
            self._run(x_CTHW, timestep_T, (x_CTHW.shape[1],), start, self.branches, write_cache=True)

    def forget(self) -> None:
        """Empty the caches but for their sinks: what comes next does not follow what they hold."""
        for branch in self.branches:
            if branch.cache is not None:
                branch.cache.forget()

    def _run(
        self,
        x_CTHW: Tensor,
        timestep_T: Tensor,
        blocks: Sequence[int] | None,
        start: int,
        branches: Sequence[Branch],
        write_cache: bool = False,
        skip: tuple[int, ...] = (),
    ) -> Tensor:
        out = []
        for branch in branches:
            x_BCTHW = x_CTHW[None].expand(branch.batch, -1, -1, -1, -1)
            timestep_BT = timestep_T.to(x_CTHW.device)[None].expand(branch.batch, -1)
            fps_B = torch.full((branch.batch,), self.fps_index, device=x_CTHW.device)
            velocity = self.model(
                x_BCTHW,
                timestep_BT,
                branch.texts(start, start + x_CTHW.shape[1]),
                fps_B=fps_B,
                blocks=blocks if self.causal else None,
                cache=None if blocks is None else branch.cache,
                write_cache=write_cache,
                skip=skip,
            )
            out.append(velocity)
        return torch.cat(out)
