"""Passes of the transformer that are left out, where what they would say can be told from those before.

Source: EasyCache's measure (arXiv 2507.02860), for a level a frame, and TaylorSeer's forecast (arXiv 2503.06923) of
first order. The one invariant: a pass is told from the last two over the same frames, and computed if a frame that
moves has not moved between those.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Frames = tuple[int, torch.Size, tuple[int, ...] | None, bool]
"""Which frames a pass is over: the first, the latents' shape, the blocks, and whether it is a pass without guidance."""

FURTHEST = 1.0  # how far a straight line is followed beyond what it is drawn through, in lengths of that


class StepCache:
    """Whether a pass can be left out, and what is taken for its velocity.

    Between the last two passes that were computed, every frame's velocity changed by so much for so much that the frame
    itself did. At that rate what the frame has changed since is what its velocity must have; the sum of that, as a
    share of the velocity, is held against `limit`, and the frame that has most decides, of those that move. The
    velocity goes on as it went between the two, in a straight line of the frame's timestep. TeaCache's measure is not
    taken: what a level does to the modulation says little of what it does to the velocity (docs/step-cache.md).

    All rows of guidance are left out together, and nothing is counted inside the model.

    Args:
        limit: the share from which on a pass is computed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._last: _Computed | None = None
        self._before: _Computed | None = None
        self._seen_CTHW = torch.empty(0)
        self._gone_T = torch.empty(0)

    def forget(self) -> None:
        """The next two passes are computed."""
        self._last = self._before = None

    def find(self, key: Frames, x_CTHW: Tensor, timestep_T: Tensor, moves_T: Sequence[bool]) -> Tensor | None:
        """What may stand for the velocity (B, C, T, H, W) of these frames at these timesteps; None: compute it."""
        last, before = self._last, self._before
        if last is None or before is None or not last.key == before.key == key:
            return None
        moved_T = _size(last.x_CTHW - before.x_CTHW)
        changed_T = _size(last.velocity_BCTHW - before.velocity_BCTHW) / _size(last.velocity_BCTHW)
        since_T = _size(x_CTHW - self._seen_CTHW)
        # 0 / 0 where a frame rests, as many do; one that begins to move goes infinitely far.
        gone_T = self._gone_T + torch.where(since_T > 0, changed_T / moved_T * since_T, 0)
        if not float(gone_T[list(moves_T)].max()) < self.limit:
            return None
        self._seen_CTHW, self._gone_T = x_CTHW, gone_T
        step_T = last.timestep_T - before.timestep_T
        share_T = torch.where(step_T == 0, 0, (timestep_T - last.timestep_T) / step_T).clamp(max=FURTHEST)
        return last.velocity_BCTHW + share_T[:, None, None] * (last.velocity_BCTHW - before.velocity_BCTHW)

    def keep(self, key: Frames, x_CTHW: Tensor, timestep_T: Tensor, velocity_BCTHW: Tensor) -> None:
        """What a pass over these frames gave."""
        self._last, self._before = _Computed(key, x_CTHW, timestep_T, velocity_BCTHW), self._last
        self._seen_CTHW, self._gone_T = x_CTHW, torch.zeros_like(timestep_T, dtype=torch.float32)


@dataclass(frozen=True)
class _Computed:
    key: Frames
    x_CTHW: Tensor
    timestep_T: Tensor
    velocity_BCTHW: Tensor


def _size(of: Tensor) -> Tensor:
    """Of each frame, (T,), over all that else there is."""
    size_T: Tensor = of.float().movedim(-3, 0).flatten(1).norm(dim=1)
    return size_T
