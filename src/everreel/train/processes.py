"""The processes that train one thing together: who is who, and what they tell each other.

Source: the environment of `torch.distributed`'s launcher, as for films (`parallel.launch`), but here nobody leads: all
processes do the same at the same time, each with batches of its own. The one invariant: the first process alone reads
and writes the run folder, and of all that fail only the first to fail says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from everreel.parallel.launch import IDLE, find_place, one_says_so
from everreel.parallel.talk import talking

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
_FAILURE = "everreel/training/failures"
_LOST = ("connection closed", "connection reset", "broken pipe", "timed out", "remote process")  # as gloo says it


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Args:
        rank, size: which it is of how many.
        local_size: how many of them share this machine.
        device: what it computes on.
        mesh: all of them, in one row.
        words: all of them, for what may be waited for long, on the CPU.
        store: what all can write a word in.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    mesh: DeviceMesh
    words: dist.ProcessGroup
    store: Store

    @property
    def first(self) -> bool:
        """Whether it is the one that reads and writes."""
        return self.rank == 0

    def exchange(self, value: T) -> list[T]:
        """What every process has brought, by rank."""
        values: list[Any] = [None] * self.size
        with talking():
            dist.all_gather_object(values, value, group=self.words)
        return values

    def from_first(self, value: T) -> T:
        """What the first process has brought."""
        box = [value]
        with talking():
            dist.broadcast_object_list(box, src=0, group=self.words)
        return box[0]

    def tensor_from_first(self, value: Tensor) -> Tensor:
        """The same for a tensor on the CPU; the others bring one of its shape, which is written into."""
        with talking():
            dist.broadcast(value, src=0, group=self.words)
        return value

    def wait(self) -> None:
        """Go on when all have come here, however long that takes."""
        with talking():
            dist.barrier(group=self.words)

    def fails_first(self) -> bool:
        """Whether no other process has failed before this one, which now has."""
        try:
            return bool(self.store.add(_FAILURE, 1) == 1)
        except RuntimeError:  # the store went with the process that kept it, which has failed
            return False

    def part(self) -> None:
        """Let the others go, when all is done."""
        global _here
        _here = None
        dist.destroy_process_group()


_here: Processes | None = None


def meet(device: str | None = None) -> Processes | None:
    """Meet the other processes that torchrun started; None where there are none.

    Args:
        device: "cuda" or "cpu"; by default CUDA where it is there, each process with the one of its number.

    Raises:
        ValueError: the environment or the device does not allow it.
        SystemExit: the same, in all but a machine's first process.
    """
    global _here
    with one_says_so():
        place = find_place(None if device == "auto" else device)
    if place is None:
        return None
    from torch.distributed.device_mesh import init_device_mesh  # long to import, and most train alone

    # Tensors of a GPU go over NCCL, words over gloo.
    store = place.meet("cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo")
    words = dist.new_group(timeout=IDLE, backend="gloo")
    mesh = init_device_mesh(place.device.type, (place.size,))
    _here = Processes(place.rank, place.size, place.local_size, place.device, mesh, words, store)
    return _here


def here() -> Processes | None:
    """The processes that were met; None where this one trains alone."""
    return _here


def is_lost(error: BaseException) -> bool:
    """Whether a transfer broke because another process has ended; FSDP's own ones say so in the backend's words."""
    if isinstance(error, dist.DistError) or type(error).__name__ == "LostError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)
