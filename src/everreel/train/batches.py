"""The micro-batches of a step: made ahead, moved to the device with what is frozen, and said in words.

The one invariant: a micro-batch is a function of (seed, step, number), whoever makes it and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[int], list[Any]]
_MOST_TENSORS = 6  # that a batch is described by


@contextmanager
def made_ahead(make: Make, ahead: int, steps: int) -> Iterator[Make]:
    """A function step → micro-batches that has `ahead` steps made by a thread; to be asked for steps in their order."""
    if not ahead:
        yield make
        return
    with ThreadPoolExecutor(1) as pool:
        waiting: dict[int, Future[list[Any]]] = {}

        def take(step: int) -> list[Any]:
            for later in range(step, min(step + ahead + 1, steps)):
                if later not in waiting:
                    waiting[later] = pool.submit(make, later)
            return waiting.pop(step).result()

        try:
            yield take
        finally:
            for job in waiting.values():
                job.cancel()


def move(batch: Any, device: torch.device) -> Any:  # noqa: ANN401 (a batch is whatever its objective makes)
    """The batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [move(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    if is_dataclass(batch) and not isinstance(batch, type):
        parts = {field.name: getattr(batch, field.name) for field in fields(batch) if field.init}
        moved_parts = {n: move(v, device) for n, v in parts.items()}
        return replace(batch, **{n: v for n, v in moved_parts.items() if v is not parts[n]})
    return batch


def follow(device: torch.device, *models: nn.Module) -> None:
    """What is frozen, in whole or but for an adapter, goes where the trainer has put the batch."""
    for model in models:
        if next(model.parameters()).device != device:
            model.to(device)


def describe(objective: object, numbers: Sequence[int], batches: Sequence[Any]) -> str:
    """Micro-batches by their numbers, each with what the objective's `describe(batch)` says of it, or its shapes."""
    say: Callable[[Any], str] = getattr(objective, "describe", _shapes)
    return "; ".join(f"micro-batch {number} ({say(batch)})" for number, batch in zip(numbers, batches, strict=True))


def _shapes(batch: Any) -> str:  # noqa: ANN401
    found = list(_named_tensors(batch, ""))
    words = [f"{name} {'×'.join(map(str, value.shape))}".strip() for name, value in found[:_MOST_TENSORS]]
    return ", ".join(words) + ", …" * (len(found) > _MOST_TENSORS)


def _named_tensors(batch: Any, name: str) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, dict):
        for key, value in batch.items():
            yield from _named_tensors(value, f"{name}.{key}".strip("."))
    elif isinstance(batch, tuple | list):
        names = getattr(batch, "_fields", range(len(batch)))
        for key, value in zip(names, batch, strict=True):
            yield from _named_tensors(value, f"{name}.{key}".strip("."))
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from _named_tensors(getattr(batch, field.name), f"{name}.{field.name}".strip("."))
