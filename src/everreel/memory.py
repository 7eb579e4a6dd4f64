"""What a process does with memory that it gave back, how much a device has, and what is said when there is no more.

A transformer on a CPU frees and takes tens of megabytes a layer. By default glibc hands them to the kernel each time,
and the page faults of taking them anew cost an eighth of a film's time and a third of a training step's. Of the
released models a layer takes hundreds of megabytes, which no setting of glibc keeps: those may come in pages of 2 MB
where the kernel has them, with a fault each instead of 512. A small model has nothing from it but half as much memory
again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more on 64 bits; what is larger goes straight back
_EXACT_MMAP_THRESHOLD = 2**20
_TOP_PAD_BYTES = 64 * 2**20
_FEW_HEAPS = 2
_NEVER = 2**31 - 1
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it makes its first tensor
_keeps = False  # freed memory, in this program
_OVER = 1.4  # what a process held at its fullest may be no more than what is counted for its next film


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 32 MB stay with this process for its next allocations; False where glibc is not.

    For programs, not for a library to do: `everreel` calls it when it starts.
    """
    global _keeps
    values = ((_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
    _keeps = _told_glibc(*values)
    return _keeps


def share_freed_memory() -> bool:
    """Let the threads of this process share two heaps; False where glibc is not.

    By default there may be eight for each processor, and each comes to hold the most that its threads ever used at
    once: a server of many threads grew by a hundred megabytes an hour so, and by ten with two. For programs that last.
    """
    return _told_glibc((_ARENA_MAX, _FEW_HEAPS))


def _told_glibc(*values: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, no such library, no such thing as its default
        return False
    return all(bool(mallopt(name, value)) for name, value in values)


@contextmanager
def holding_what_is_used() -> Iterator[None]:
    """Where freed memory is kept: what was is given back, and meanwhile large blocks seldom are.

    glibc gives an aligned block no place that one of the same size left, for it looks for a little more. A decoder with
    blocks of all sizes comes to hold up to twice what it uses so, each time another amount. Its own faults cost it a
    fortieth of its time.
    """
    if not _keeps:
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TOP_PAD, 0)  # else the next little block makes room for large ones at the end of the heap
    give_back_freed_memory()
    mallopt(_MMAP_THRESHOLD, _EXACT_MMAP_THRESHOLD)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TOP_PAD, _TOP_PAD_BYTES)


def give_back_freed_memory() -> bool:
    """Hand what is freed to the kernel now, so that a process holds what it uses; False where glibc is not."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(0)
    return True


def take_large_pages() -> None:
    """Let tensors come in large pages, for models of the released sizes.

    Unless the environment says otherwise; it is too late once torch has made a tensor. For programs, as above.
    """
    os.environ.setdefault(_LARGE_PAGES, "1")


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's whole memory; None of other devices, and of what is not on this machine."""
    import torch

    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


@dataclass(frozen=True)
class Held:
    """Bytes of a device's memory that torch's allocator has for one process."""

    allocated: int
    """What tensors take now."""
    most_reserved: int | None = None
    """The most that was ever taken from the device, which is more: what is freed is kept for the next tensor. None
    where the allocator does not count it."""


def held_on_devices() -> dict[str, Held]:
    """What this process has of each device that it computes on, by the device's name; empty on a CPU."""
    import torch

    if torch.cuda.is_initialized():  # to begin only in order to ask would take some 500 MB of a GPU
        numbers = range(torch.cuda.device_count())
        held = {f"cuda:{n}": Held(torch.cuda.memory_allocated(n), torch.cuda.max_memory_reserved(n)) for n in numbers}
        return {name: one for name, one in held.items() if one.most_reserved}
    if torch.backends.mps.is_available() and (allocated := torch.mps.current_allocated_memory()):
        return {"mps": Held(allocated)}
    return {}


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """torch has a class for a GPU's memory; for the computer's it only has words."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "not enough memory" in words


def smaller_budget(error: MemoryError | RuntimeError) -> str | None:
    """A budget, as `--memory` takes it, that fits where memory ran out; None where no budget helps.

    None is of a computer that has too little for what it keeps for its GPU: a smaller budget would leave it more.
    """
    import torch

    on_gpu = torch.cuda.is_initialized()
    if on_gpu != isinstance(error, torch.OutOfMemoryError):
        return None
    # What was held can be held again, whoever else takes memory here.
    return f"{most_held(on_gpu) / _OVER / 1e9:.2g}GB"


def most_held(on_gpu: bool) -> int:
    """The most bytes that this process has held: of the GPU it held most of, else of the computer's memory."""
    if on_gpu:
        import torch

        return max(torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count()))
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its figure starts with that of the process that this one was started from.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    # In kilobytes but for macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
