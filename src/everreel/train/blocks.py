"""The blocks of a network, found from outside, and computing them twice instead of keeping what they made.

Source: activation checkpointing (Chen et al., arXiv 1604.06174) as torch.utils.checkpoint has it. The one invariant: a
network is neither rewritten nor wrapped, so its names, its weights and what it computes stay what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_MARK = "_is_recomputed"


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The children of the outermost `nn.ModuleList`s that can be called and have weights, first to last."""
    found = dict.fromkeys(_blocks(module, listed=False))
    return [block for block in found if next(block.parameters(), None) is not None]


def recompute_blocks(module: nn.Module) -> None:
    """From now on a block forgets what it computed, where gradients are wanted, and computes it again for them."""
    for block in blocks_of(module):
        if not hasattr(block, _MARK):  # it may be trained a second time
            block.__class__ = _twice(type(block))


def _twice(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of the same module whose calls are computed again for their gradients."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever the block takes and gives)
        once = functools.partial(kind.__call__, self)
        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        return checkpoint(once, *args, use_reentrant=False, **kwargs)

    own = {"__call__": call, "__module__": kind.__module__, "__doc__": kind.__doc__, _MARK: True}
    return type(kind.__name__, (kind,), own)


def _blocks(module: nn.Module, listed: bool) -> Iterator[nn.Module]:
    for child in module.children():
        container = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if listed and not container:
            yield child
        else:
            yield from _blocks(child, listed or isinstance(child, nn.ModuleList))
