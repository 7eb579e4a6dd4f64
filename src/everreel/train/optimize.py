"""Optimizers and weight averages, one of each a role.

Muon (Jordan et al., 2024) moves the weight matrices inside blocks, a convolution's kernel being the matrix of its
outputs by all that it reads; everything else (embeddings, heads, norms, biases) is AdamW's. The one invariant: all
state is in tensors that `state` gives and `restore` takes, and the learning rate is handed to `step`, so nothing of a
schedule has to be stored. Weights of which each process has a part (`DTensor`s) are moved as whole ones are.

Shape suffixes: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr

EMA_WARMUP = 10
_AT_ONCE = 2**26  # numbers of matrices that are turned together: larger ones keep a GPU busy one by one
BLOCKS = {"blocks", "block", "layers", "downsamples", "upsamples", "middle"}  # what networks call the lists of theirs


@dataclass(frozen=True)
class Rule:
    """How weights are moved."""

    optimizer: str
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float | None


class RoleOptimizer:
    """The optimizers of one module; `scale` multiplies every learning rate."""

    def __init__(self, module: nn.Module, rule: Rule, scale: float = 1.0) -> None:
        self.rule, self.scale = rule, scale
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        inner = [p for name, p in named if rule.optimizer == "muon" and is_block_matrix(name, p)]
        inside = {id(p) for p in inner}
        # torch's Muon takes matrices only: kernels are moved through views, which share their memory.
        self._views = [(p, nn.Parameter(p.detach().flatten(1))) for p in inner if p.ndim > 2]
        assert all(_local(p).data_ptr() == _local(view).data_ptr() for p, view in self._views), "a kernel was copied"
        matrices = [p for p in inner if p.ndim == 2] + [view for _, view in self._views]
        rest = [p for p in self.parameters if id(p) not in inside]
        self._optimizers: list[torch.optim.Optimizer] = []
        if rest:
            groups = [
                {"params": [p for p in rest if p.ndim > 1], "weight_decay": rule.weight_decay},
                {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
            ]
            groups = [group for group in groups if group["params"]]
            self._optimizers.append(torch.optim.AdamW(groups, betas=rule.betas, fused=True))
        if matrices:
            # This adjustment gives an update the size of AdamW's, so that one learning rate serves both.
            adjust = "match_rms_adamw"
            muon = _muon_for(matrices[0])(matrices, weight_decay=rule.weight_decay, adjust_lr_fn=adjust)
            self._optimizers.append(muon)

    def clip(self) -> float:
        """Scale the gradients down to the limit, and give their norm before that."""
        limit = float("inf") if self.rule.grad_clip is None else self.rule.grad_clip
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = norm.full_tensor() if is_shared(norm) else norm
        torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        return float(norm)

    def step(self, rate: float) -> None:
        """Move the weights with this learning rate."""
        for kernel, view in self._views:
            view.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.scale
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients, those that another role's loss left here too."""
        # All parameters, not what the optimizers hold: of a kernel that is a view, whose gradient is not the kernel's.
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> list[dict[str, Any]]:
        """What `restore` needs to go on exactly."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def sizes(self) -> list[list[int]]:
        """How many weights the groups of each optimizer have."""
        return [[len(group["params"]) for group in optimizer.param_groups] for optimizer in self._optimizers]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Take over the state of an earlier run."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class BatchedMuon(torch.optim.Muon):
    """Muon that turns all matrices of one shape together.

    torch's goes through them one by one, 23 kernels each: close to half of all that a GPU is sent in a step of a small
    network, which waits for being sent them. State, weight decay and learning rate are torch's, so that either goes on
    with the other's state; the weights are the same within bfloat16's rounding.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights that have gradients."""
        assert closure is None
        for group in self.param_groups:
            moved: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, moved, gradients, momenta)
            for chosen in _alike(moved):
                weights, slopes, means = ([kept[i] for i in chosen] for kept in (moved, gradients, momenta))
                _turn_together(weights, slopes, means, group)
        return None


class EMA:
    """An exponential moving average of a module's weights in float32; buffers are copied, not averaged."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: _copy(value) for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the weights; early on it follows them closely."""
        weight = 1 - min(self.decay, (1 + step) / (EMA_WARMUP + step))
        averages, values = [], []
        # A tensor with two names (a tied embedding) is averaged under both.
        trained = dict(module.named_parameters(remove_duplicate=False))
        for name, value in module.state_dict().items():
            if name in trained and value.is_floating_point():
                averages.append(self.values[name])
                values.append(value.float())
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averages, values, weight)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Take over the averages of an earlier run."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def swap_in(self, module: nn.Module) -> dict[str, Tensor]:
        """Put the average into the module; what was there is returned for `swap_out`."""
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.values)
        return kept

    @torch.no_grad()
    def swap_out(self, module: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Put back what `swap_in` took out."""
        module.load_state_dict(kept)


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a weight of this name."""
    parts = name.split(".")
    return parameter.ndim > 1 and min(parameter.flatten(1).shape) > 1 and not BLOCKS.isdisjoint(parts[:-1])


def is_shared(value: Tensor) -> bool:
    """Whether this process has only a part of a tensor; asked without importing what shares them, which takes long."""
    return hasattr(value, "full_tensor")


def _local(value: Any) -> Tensor:  # noqa: ANN401 (a DTensor, which is not named here, has more than a Tensor)
    """This process's part of a tensor."""
    part: Tensor = value.to_local() if is_shared(value) else value
    return part


def _muon_for(matrix: Tensor) -> type[torch.optim.Muon]:
    if not is_shared(matrix):
        # On a CPU a launch costs next to nothing, and runs that were begun there with torch's own keep its bits.
        return BatchedMuon if matrix.is_cuda else torch.optim.Muon
    from everreel.train.shared_muon import SharedMuon

    return SharedMuon


def _alike(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """The numbers of matrices of one shape, type and device, as many as are turned together."""
    found: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
    for index, matrix in enumerate(matrices):
        found.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(index)
    for (shape, _, _), indices in found.items():
        count = max(1, _AT_ONCE // max(shape.numel(), 1))
        for first in range(0, len(indices), count):
            yield indices[first : first + count]


def _turn_together(
    moved: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], group: Mapping[str, Any]
) -> None:
    """A step of Muon, of matrices of one shape, in place."""
    rate, momentum = group["lr"], group["momentum"]
    torch._foreach_lerp_(momenta, gradients, 1 - momentum)
    ahead = torch._foreach_lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
    turned_NRC = _orthogonal(torch.stack(list(ahead)), group["ns_coefficients"], group["ns_steps"], group["eps"])
    # Of the weights' own type and layout, without which a list is added one by one after all.
    updates = turned_NRC.to(moved[0].dtype, memory_format=torch.contiguous_format).unbind()
    torch._foreach_mul_(moved, 1 - rate * group["weight_decay"])
    torch._foreach_add_(moved, updates, alpha=-_adjust_lr(rate, group["adjust_lr_fn"], moved[0].shape))


def _orthogonal(matrices_NRC: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Each matrix with its singular values near 1, by Newton and Schulz's iteration; (N, R, C) in bfloat16."""
    rows, columns = matrices_NRC.shape[1:]
    wide = matrices_NRC.to(torch.bfloat16, copy=True)
    wide = wide.mT if rows > columns else wide
    wide = wide.div_(torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp_(min=eps))
    a, b, c = coefficients
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if rows > columns else wide


def _copy(value: Tensor) -> Tensor:
    value = value.detach().clone()
    return value.float() if value.is_floating_point() else value
