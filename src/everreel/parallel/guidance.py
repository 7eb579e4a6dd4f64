"""Guidance parallelism: the conditional and the unconditional row, each in one half of the processes.

Source: the classifier-free guidance of the released pipelines, whose two passes know nothing of each other until their
velocities are mixed. The one invariant: the two halves meet once a pass, and both get both velocities.

Shape suffixes: B batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from everreel.parallel.talk import talking


class GuidanceParallel:
    """The two processes, one of each half, that exchange their velocities; `group.rank()` is the half."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def rows(self, batch: int) -> slice:
        """Which rows of a batch this process computes."""
        assert batch % 2 == 0
        first = self.group.rank() * batch // 2
        return slice(first, first + batch // 2)

    def gather(self, x_B: Tensor) -> Tensor:
        """All rows (B, …) of these rows and the other half's."""
        parts = [torch.empty_like(x_B) for _ in range(2)]
        with talking():
            dist.all_gather(parts, x_B.contiguous(), group=self.group)
        return torch.cat(parts)
