"""The processes that `torchrun` started, as one: who is who, on which device, and who talks to whom.

Source: the environment of `torch.distributed`'s launcher. The one invariant: the first process makes the film as if it
were alone; the others only compute what it asks for, and only it speaks, writes and fails in words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from everreel.parallel.guidance import GuidanceParallel
from everreel.parallel.sequence import SequenceParallel

ANSWER = timedelta(minutes=10)  # within a pass: nobody computes as long as that between two transfers
IDLE = timedelta(days=365)  # between passes: as long as films are waited for


@dataclass(frozen=True)
class Mesh:
    """How one pass is shared; None is what is not split."""

    sequence: SequenceParallel | None
    guidance: GuidanceParallel | None


@dataclass(frozen=True)
class Parallel:
    """This process and the others. From `setup`.

    Args:
        rank, size: which process it is of how many; the first, 0, leads.
        device: what it computes on.
        store: what all processes can read and write a word in.
        commands: all processes, for what the first tells the others.
        plain: for passes of one row: all processes share its tokens.
        guided: for passes of two rows: each half of the processes has one. As `plain` where they do not come in halves.
    """

    rank: int
    size: int
    device: torch.device
    store: Store
    commands: dist.ProcessGroup
    plain: Mesh
    guided: Mesh

    @property
    def leads(self) -> bool:
        """Whether it is the one that makes the film."""
        return self.rank == 0

    def mesh(self, rows: int) -> Mesh:
        """How passes of so many rows are shared."""
        return self.guided if rows % 2 == 0 else self.plain


def setup(device: str | None = None, *, guidance: bool | None = None) -> Parallel | None:
    """Meet the other processes. None where there are none: `torchrun` was not used, or with one process.

    Args:
        device: "cuda" or "cpu"; by default CUDA where it is there. With CUDA each process takes the one of its number.
        guidance: whether the two rows of guidance go to two halves of the processes, which takes less talk than sharing
            their tokens among all, none where there are two; by default wherever the number of processes is even.

    Raises:
        ValueError: the environment, the device or the number of processes does not allow it.
        SystemExit: the same, in all but a machine's first process: it is enough that one says so.
    """
    with one_says_so():
        return _setup(device, guidance)


@contextmanager
def one_says_so() -> Iterator[None]:
    """Around what all processes are refused for: a ValueError in a machine's first one, a quiet exit in the others."""
    try:
        yield
    except ValueError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise SystemExit(2) from None
        raise


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is, which of its machine's, and what it computes on."""

    rank: int
    size: int
    local_size: int
    device: torch.device

    def meet(self, backend: str) -> Store:
        """Wait for the others, and talk to them over `backend` from now on; the store all of them can write in."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        store: Store
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ANSWER)
        return store


def find_place(device: str | None) -> Place | None:
    """What torchrun says of this process, before any other is met; None where there is no other.

    Raises:
        ValueError: the environment or the device does not allow it.
    """
    size, rank, local = (_number(os.environ, name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if size is None or size == 1:
        return None
    if rank is None or local is None or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"WORLD_SIZE = {size}: needs RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT beside it; start with torchrun"
        )
    local_size = _number(os.environ, "LOCAL_WORLD_SIZE") or local + 1
    return Place(rank, size, local_size, _device(device, local, local_size))


def _setup(device: str | None, guidance: bool | None) -> Parallel | None:
    place = find_place(device)
    if place is None:
        return None
    rank, size, where = place.rank, place.size, place.device
    if guidance and size % 2:
        raise ValueError(
            f"processes = {size}: guidance parallelism needs an even number; nearest that works: {size - 1}"
        )
    store = place.meet("gloo")
    commands = dist.new_group(timeout=IDLE, backend="gloo")

    def group(ranks: list[int]) -> dist.ProcessGroup:
        backend = "nccl" if where.type == "cuda" else "gloo"
        made: dist.ProcessGroup = dist.new_group(ranks, timeout=ANSWER, backend=backend)
        return made

    plain = guided = Mesh(SequenceParallel(group(list(range(size)))), None)
    if size % 2 == 0 and guidance is not False:
        half = size // 2
        # Every process makes every group, in one order.
        halves = [group(list(range(first, first + half))) for first in (0, half)]
        pairs = [group([other, other + half]) for other in range(half)]
        sequence = SequenceParallel(halves[rank // half]) if half > 1 else None
        guided = Mesh(sequence, GuidanceParallel(pairs[rank % half]))
    return Parallel(rank, size, where, store, commands, plain, guided)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if value is not None and not value.isdecimal():
        raise ValueError(f"{name} = {value!r}: must be a number; start with torchrun")
    return None if value is None else int(value)


def _device(device: str | None, local: int, count: int) -> torch.device:
    """The device of process number `local` of this machine's `count`."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ValueError(f"device = {name}: with several processes it must be cuda or cpu; each takes its own")
    there = torch.cuda.device_count()
    if count > there:
        raise ValueError(
            f"processes = {count} on this machine: it has {there} CUDA devices, and a process needs one; "
            f"nearest that works: {f'--nproc-per-node {there}' if there else '--device cpu'}"
        )
    return torch.device("cuda", local)
