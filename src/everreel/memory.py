"""What a process does with memory that it gave back.

A transformer on a CPU frees and takes tens of megabytes a layer. By default glibc hands them to the kernel each time,
and the page faults of taking them anew cost an eighth of a film's time and a third of a training step's. Of the
released models a layer takes hundreds of megabytes, which no setting of glibc keeps: those may come in pages of 2 MB
where the kernel has them, with a fault each instead of 512. A small model has nothing from it but half as much memory
again.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more on 64 bits; what is larger goes straight back
_TOP_PAD_BYTES = 64 * 2**20
_NEVER = 2**31 - 1
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it makes its first tensor


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 32 MB stay with this process for its next allocations; False where glibc is not.

    For programs, not for a library to do: `everreel` calls it when it starts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, no such library, no such thing as its default
        return False
    values = ((_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(bool(mallopt(name, value)) for name, value in values)


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
