"""What a training run needs of memory before its first batch, and what it says when there is too little.

The one invariant: the estimate counts what is there for the whole run, to the byte: weights, gradients, averages and
what the optimizers keep. What a batch needs comes on top and cannot be known before it is computed, so a run that is
let through may still run out, and a run that is refused would have.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from everreel.train.optimize import is_block_matrix
from everreel.train.processes import Processes
from everreel.train.settings import TrainerSettings

_GIGABYTE = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes of one process, for the whole run. `gathered` is what it has of the others' parts during a micro-batch."""

    weights: int
    gradients: int
    averages: int
    optimizers: int
    gathered: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.averages + self.optimizers + self.gathered


def need_of(modules: Mapping[str, nn.Module], optimizer: str, processes: int = 1, sharding: str = "network") -> Need:
    """What training these modules needs of one process."""
    named = {p: name for module in modules.values() for name, p in module.named_parameters()}
    weights = sum(p.numel() * p.element_size() for p in named)
    gradients = sum(p.numel() * p.element_size() for p in named if p.requires_grad)
    averages = sum(p.numel() * (4 if p.is_floating_point() else p.element_size()) for p in named)
    optimizers = sum(
        p.numel() * p.element_size() * (1 if optimizer == "muon" and is_block_matrix(name, p) else 2)
        for p, name in named.items()
        if p.requires_grad
    )
    whole = weights + gradients if processes > 1 and sharding == "network" else 0
    parts = [-(-size // processes) for size in (weights, gradients, averages, optimizers)]
    return Need(parts[0], parts[1], parts[2], parts[3], whole)


def check_memory(
    modules: Mapping[str, nn.Module], settings: TrainerSettings, device: torch.device, together: Processes | None
) -> None:
    """Refuse a run that does not fit, before anything of it is made. On a CPU its weights are there already.

    Raises:
        ValueError: the device has less than that.
    """
    free, size = free_memory(device), 1 if together is None else together.size
    need = need_of(modules, settings.optimizer, size, settings.sharding)
    need = replace(need, weights=0) if device.type == "cpu" else need
    sharers = 1 if together is None or device.type != "cpu" else together.local_size
    if free is None or need.total * sharers <= free:
        return
    words = ", ".join(f"{name} {size / _GIGABYTE:.3g}" for name, size in asdict(need).items() if size)
    each = f" for each of {sharers} processes" if sharers > 1 else ""
    raise ValueError(
        f"memory: training needs {need.total / _GIGABYTE:.3g} GB{each} of {device.type} before its first batch "
        f"({words}), and {free / _GIGABYTE:.3g} GB are free; {', '.join(_savings(settings, size))} would need less"
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had of a device; None where nobody says."""
    if device.type == "cuda":
        if torch.cuda.is_initialized():
            # What an earlier stage has left, torch keeps for itself, and the driver counts it as taken.
            gc.collect()
            with torch.cuda.device(device):
                torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.exists():
        return None
    for line in table.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a class for a GPU's memory; for the computer's it only has words."""
    words = str(error).lower()
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words))


def out_of_memory(where: str, batch: str, device: torch.device, settings: TrainerSettings) -> str:
    """The line for a batch that did not fit."""
    fewer = "a smaller batch (tokens, count)", "more accumulation of smaller ones"
    blocks = ("checkpointing='blocks'",) * (settings.checkpointing == "none")
    help_ = ", ".join((*fewer, *blocks, "more processes"))
    return f"{where}: {device.type} has too little memory for {batch}; {help_} would need less"


def _savings(settings: TrainerSettings, size: int) -> list[str]:
    muon = ["optimizer='muon'"] * (settings.optimizer == "adamw")
    blocks = ["sharding='blocks'"] * (size > 1 and settings.sharding == "network")
    return [*blocks, *muon, "more processes", "a smaller network"]
