"""From a window of noisy latents to the velocity the solver follows: guidance, and what is remembered of the film.

Source: classifier-free guidance as in the released pipelines; the cache of section 4c's causal model. The one
invariant: the conditional and the unconditional branch always see the same frames, the same levels and the same past.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


Frames = tuple[int, torch.Size, tuple[int, ...] | None, bool]
"""Which frames a pass is over: the first, the latents' shape, the blocks, and whether it is a pass without guidance."""


class StepCache:
    """Whether a pass can be left out: the last velocity again, while what the levels do to the network changes little.

    Source: TeaCache's rule (arXiv 2411.19108), for a level a frame. It accumulates, frame by frame, how far the
    modulation of each has gone since its velocity was computed; the frame that has gone furthest decides, of those that
    move. Both branches of guidance are left out together, and nothing is counted inside the model.

    Args:
        limit: the change, as a share of the modulation's mean size, from which on a pass is computed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """The next pass is computed."""
        self._kept = None

    def find(self, key: Frames, modulation_TC: Tensor, moves_T: Sequence[bool]) -> Tensor | None:
        """The velocity of the last pass over the same frames, if it may stand for this one's."""
        kept = self._kept
        if kept is None or kept.key != key:
            return None
        gone_T = (modulation_TC - kept.seen_TC).abs().mean(1) / kept.seen_TC.abs().mean(1)
        changed_T = kept.changed_T + gone_T
        if float(changed_T[list(moves_T)].max()) >= self.limit:
            return None
        self._kept = _Kept(key, modulation_TC, changed_T, kept.velocity_BCTHW)
        return kept.velocity_BCTHW

    def keep(self, key: Frames, modulation_TC: Tensor, velocity_BCTHW: Tensor) -> None:
        """What a pass over these frames gave."""
        self._kept = _Kept(key, modulation_TC, torch.zeros_like(modulation_TC[:, 0]), velocity_BCTHW)


@dataclass(frozen=True)
class _Kept:
    key: Frames
    seen_TC: Tensor
    changed_T: Tensor
    velocity_BCTHW: Tensor


class Denoiser:
    """Calls the transformer and mixes its branches.

    Args:
        model: the transformer.
        branches: one branch of batch 2 (conditional, unconditional), two of batch 1 where memory is short, or one of
            batch 1 without guidance. A branch with a cache is given new frames only, one block after the other.
        guidance_scale: 1 without guidance.
        guidance_level: the noise level above which a frame goes without guidance, which does harm where there is little
            but noise (Kynkäänniemi et al., arXiv 2404.07724).
        guidance_until: the noise level below which a frame goes without it again: what is to be seen is settled there,
            and guidance draws hard edges into it. Where no frame is left for guidance, and no cache has to hold both
            rows, the conditional row is computed alone.
        fps_index: 0 for 16 and 1 for 24 frames a second.
        causal: block-causal attention inside the window.
        step_cache: leaves out passes where it may.
    """

    def __init__(
        self,
        model: Transformer,
        branches: Sequence[Branch],
        guidance_scale: float = 1.0,
        *,
        guidance_level: float = 1.0,
        guidance_until: float = 0.0,
        fps_index: int = 1,
        causal: bool = False,
        step_cache: StepCache | None = None,
    ) -> None:
        rows = sum(branch.batch for branch in branches)
        if rows != (1 if guidance_scale == 1.0 else 2):
            raise ValueError(f"guidance_scale = {guidance_scale}: does not go with {rows} rows of context")
        self.model = model
        self.branches = branches
        self.guidance_scale = guidance_scale
        self.guidance_level = guidance_level
        self.guidance_until = guidance_until
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
        where it is given the velocity may be one that was computed before.
        """
        velocity = self._velocity(x_CTHW, timestep_T, blocks, start, guess_T, self._needed(timestep_T))
        if velocity.shape[0] == 1:
            return velocity[0]
        conditional, unconditional = velocity
        guided: Tensor = unconditional + self.guidance_scale * (conditional - unconditional)
        if self._always:
            return guided
        guided_T = self._guided(timestep_T).to(guided.device)
        return torch.where(guided_T[None, :, None, None], guided, conditional)

    @property
    def _always(self) -> bool:
        """Whether every frame has guidance at every level."""
        return self.guidance_level >= 1 and self.guidance_until <= 0

    def _guided(self, timestep_T: Tensor) -> Tensor:
        return (timestep_T <= 1000 * self.guidance_level) & (timestep_T >= 1000 * self.guidance_until)

    def _needed(self, timestep_T: Tensor) -> Sequence[Branch]:
        """The conditional row alone, where no frame has guidance and it may be: what a cache holds is of both."""
        first = self.branches[0]
        # What is known without the timesteps comes first: to read them is to wait for a GPU.
        if self._always or self.guidance_scale == 1.0 or first.cache is not None:
            return self.branches
        # Clean frames do not move, at whatever level guidance ends.
        if bool(((timestep_T > 0) & self._guided(timestep_T)).any()):
            return self.branches
        return self.branches[:1] if first.batch == 1 else [first.alone or first]

    def _velocity(
        self,
        x_CTHW: Tensor,
        timestep_T: Tensor,
        blocks: Sequence[int] | None,
        start: int,
        guess_T: Sequence[bool] | None,
        branches: Sequence[Branch],
    ) -> Tensor:
        """Of the branches, computed or kept."""
        if self.step_cache is None:
            return self._run(x_CTHW, timestep_T, blocks, start, branches)
        key = start, x_CTHW.shape, None if blocks is None else tuple(blocks), branches is not self.branches
        (modulation_TC,) = self.model.modulation(timestep_T.to(x_CTHW.device)[None])
        found = None if guess_T is None else self.step_cache.find(key, modulation_TC, guess_T)
        if found is None:
            found = self._run(x_CTHW, timestep_T, blocks, start, branches)
            self.step_cache.keep(key, modulation_TC, found)
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
            )
            out.append(velocity)
        return torch.cat(out)
