"""Freed memory is used again."""

import platform
import subprocess
import sys

import pytest

from everreel.memory import keep_freed_memory

# Blocks of 24 MB, taken and freed: each is 6,144 pages that may have to be faulted in anew.
FAULTS = """
import resource
import torch
from everreel.memory import keep_freed_memory
assert keep_freed_memory()
def layer():
    blocks = [torch.ones(6 * 2**20) for _ in range(4)]
for _ in range(10):
    layer()  # till the heap has grown to what is needed: those pages are new, whatever becomes of them later
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    taken = 30 * 4 * 6144
    assert faults() * 20 < taken  # without it between 7 and 120 blocks are faulted in, by how malloc stands


def test_nothing_happens_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMallopt:
        def __init__(self, name: None) -> None: ...

    monkeypatch.setattr("everreel.memory.ctypes.CDLL", NoMallopt)
    assert keep_freed_memory() is False
