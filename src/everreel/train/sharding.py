"""An objective's modules shared out between processes: FSDP2, put on from outside.

Source: `torch.distributed.fsdp.fully_shard`. The one invariant: a step of W processes is the step that one process
makes of the same micro-batches: gradients are means over all of them, and a checkpoint holds whole tensors, so that any
number of processes goes on from it.

Every tensor is cut along its first axis. What an objective computes runs inside the call of one module that holds all
roles, so it may use them in whatever way: by calls, by methods, by their weights.
"""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from everreel.model.dit import CrossAttention
from everreel.train.blocks import blocks_of
from everreel.train.processes import Processes

Losses = Callable[[Any, torch.Generator], dict[str, Tensor]]
ENTERED: dict[type[nn.Module], tuple[str, ...]] = {CrossAttention: ("keys_values", "image_keys_values")}
"""Modules inside blocks that are used by methods of theirs before their block is called; gathered on their own."""


class Sharded:
    """The modules of an objective, of which each process has a part.

    Args:
        modules: by role; they are changed in place.
        losses: what computes with them.
        unit: "network" or "blocks", see `TrainerSettings.sharding`.

    Raises:
        ValueError: torch is too old.
    """

    def __init__(self, modules: Mapping[str, nn.Module], losses: Losses, processes: Processes, unit: str) -> None:
        self.processes = processes
        self.root = cast("Any", _Root(modules, losses))  # FSDP gives it more methods than its class has
        if unit == "blocks":
            for block in blocks_of(self.root.roles):
                self._shard_block(block)
        fully_shard(self.root, mesh=processes.mesh)
        if not hasattr(self.root, "set_reduce_scatter_unused_params"):
            raise ValueError(f"torch={torch.__version__}: is too old to train with several processes; 2.13 works")
        # A weight that the batch of one process does not use has a gradient in another's.
        self.root.set_reduce_scatter_unused_params(True)
        # No objective writes into what a block gave, for then it could not be trained by one process either.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ANN401
        """The losses of a batch of this process."""
        result: dict[str, Tensor] = self.root(batch, generator)
        return result

    def backward(self, losses: Mapping[str, Tensor], weights: Mapping[str, list[nn.Parameter]]) -> None:
        """Add up gradients, each loss's in the weights of its own role alone.

        All processes have losses of the same roles. A gradient that reaches another role's weights is dropped after it
        was computed: which weights a loss is to reach cannot be said while they are not gathered.
        """
        for index, (role, loss) in enumerate(losses.items()):
            self.root.learning = role
            others = [weight for name, ours in weights.items() if name != role for weight in ours]
            kept = [weight.grad for weight in others]
            for weight in others:
                weight.grad = None
            torch.autograd.backward(loss, retain_graph=index < len(losses) - 1)
            for weight, gradient in zip(others, kept, strict=True):
                weight.grad = gradient

    def unused(self) -> set[str]:
        """The weights outside blocks that no loss of this process has reached since this was asked last."""
        unused: set[str] = self.root.watched.keys() - self.root.used
        self.root.used.clear()
        return unused

    def forget_gradients(self, names: set[str]) -> None:
        """Weights that no process has used have no gradient, as in one process, and not one of zeros."""
        for name, weight in self.root.named_parameters():
            if name in names:
                weight.grad = None

    @contextmanager
    def holding(self, values: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
        """The modules are plain ones inside this context, with these values as their weights, whole.

        Nothing in it waits for another process, so one may do what the others do not.
        """
        modules = list(self.root.modules())
        kept = [(m, dict(m._parameters), m._forward_pre_hooks, m._forward_hooks) for m in modules]
        methods = [(m, name, vars(m).pop(name)) for m in modules for name in _entered(m) if name in vars(m)]
        for role, tensors in values.items():
            # In one order in all processes, which gather as they go.
            for name in [name for name, _ in self.root.roles[role].named_parameters(remove_duplicate=False)]:
                owner, _, leaf = name.rpartition(".")
                module = self.root.roles[role].get_submodule(owner)
                like = module.get_parameter(leaf)
                module.register_parameter(leaf, nn.Parameter(_whole(tensors[name]).to(like.dtype), like.requires_grad))
        for module in modules:
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            for module, parameters, before, after in kept:
                module._parameters.update(parameters)
                module._forward_pre_hooks, module._forward_hooks = before, after
            for module, name, method in methods:
                setattr(module, name, method)

    def gathered(self, state: Any) -> Any:  # noqa: ANN401 (a tree of dicts and lists)
        """A state with whole tensors on the CPU, in the first process; in the others its tensors are None."""
        if isinstance(state, dict):
            return {key: self.gathered(value) for key, value in state.items()}
        if isinstance(state, list):
            return [self.gathered(value) for value in state]
        if not isinstance(state, Tensor):
            return state
        whole = _whole(state.detach())
        return whole.cpu() if self.processes.first else None

    def spread(self, state: Any) -> Any:  # noqa: ANN401 (a tree, in the first process; the others have None)
        """The first process's state, of which every process gets its part."""
        outline = self.processes.from_first(_outline(state) if self.processes.first else None)
        cut = {
            (part, role, name)
            for role, module in self.root.roles.items()
            for name, _ in module.named_parameters(remove_duplicate=False)
            for part in ("modules", "averages")
        }
        return self._spread(outline, state, (), cut)

    def _spread(self, outline: Any, state: Any, path: tuple[Any, ...], cut: set[tuple[Any, ...]]) -> Any:  # noqa: ANN401
        if isinstance(outline, dict):
            return {k: self._spread(v, state and state[k], (*path, k), cut) for k, v in outline.items()}
        if isinstance(outline, list):
            return [self._spread(v, state and state[n], (*path, n), cut) for n, v in enumerate(outline)]
        if not isinstance(outline, _Outline):
            return outline
        whole = torch.empty(outline.shape, dtype=outline.dtype) if state is None else state.contiguous()
        whole = self.processes.tensor_from_first(whole)
        # Of an optimizer's tensors those with an axis are of a weight's shape; the others are numbers.
        if path in cut or (path[0] == "optimizers" and whole.ndim > 0):
            device = self.processes.device
            return distribute_tensor(whole.to(device), self.processes.mesh, [Shard(0)], src_data_rank=None)
        return whole

    def _shard_block(self, block: nn.Module) -> None:
        for module in block.modules():
            if names := _entered(module):
                fully_shard(module, mesh=self.processes.mesh)
                for name in names:
                    register_fsdp_forward_method(module, name)
        if not isinstance(block, FSDPModule):
            fully_shard(block, mesh=self.processes.mesh)


class _Root(nn.Module):
    """All roles; its call is what an objective computes, with the weights outside blocks gathered.

    It watches which of them the losses of their own role reach.
    """

    def __init__(self, modules: Mapping[str, nn.Module], losses: Losses) -> None:
        super().__init__()
        self.roles = nn.ModuleDict(modules)
        self.watched: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self.learning = ""
        self._losses = losses

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ANN401
        for name, weight in self.named_parameters():
            if weight.requires_grad and not isinstance(weight, DTensor) and self.watched.get(name) is not weight:
                weight.register_post_accumulate_grad_hook(functools.partial(self._reached, name))
                self.watched[name] = weight
        return self._losses(batch, generator)

    def _reached(self, name: str, weight: Tensor) -> None:
        if name.startswith(f"roles.{self.learning}."):
            self.used.add(name)


@dataclass(frozen=True)
class _Outline:
    """A tensor without its values."""

    shape: torch.Size
    dtype: torch.dtype


def _outline(state: Any) -> Any:  # noqa: ANN401
    if isinstance(state, dict):
        return {key: _outline(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_outline(value) for value in state]
    return _Outline(state.shape, state.dtype) if isinstance(state, Tensor) else state


def _entered(module: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in ENTERED.items() if isinstance(module, kind)), ())


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
