"""Freed memory is used again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from everreel.memory import keep_freed_memory

# Blocks of 24 MB, taken and freed: each is 6,144 pages that may have to be faulted in anew.
FAULTS = """
import resource
import sys
import torch
from everreel.memory import keep_freed_memory, take_large_pages
assert keep_freed_memory()
if int(sys.argv[1]) > 32:
    take_large_pages()
def layer():
    blocks = [torch.ones(int(sys.argv[1]) * 2**18) for _ in range(4)]
for _ in range(10):
    layer()  # till the heap has grown to what is needed: those pages are new, whatever becomes of them later
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults(megabytes: int) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, str(megabytes)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    taken = 30 * 4 * 6144
    assert faults(24) * 20 < taken  # without it between 7 and 120 blocks are faulted in, by how malloc stands


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.skipif(not LARGE_PAGES.is_file() or "[never]" in LARGE_PAGES.read_text(), reason="no large pages here")
def test_blocks_too_large_to_be_kept_come_in_large_pages() -> None:
    assert faults(48) * 20 < 30 * 4 * 12288


def test_nothing_happens_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMallopt:
        def __init__(self, name: None) -> None: ...

    monkeypatch.setattr("everreel.memory.ctypes.CDLL", NoMallopt)
    assert keep_freed_memory() is False
