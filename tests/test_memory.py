"""Freed memory is used again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everreel import cli
from everreel.memory import holding_what_is_used, keep_freed_memory, most_held, smaller_budget

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


# Blocks of 4 MB, with little ones between them that stay: what glibc could put nothing of their size into.
HELD = """
from pathlib import Path
import torch
from everreel.memory import holding_what_is_used, keep_freed_memory
assert keep_freed_memory()
def held():
    # Not VmRSS: pages of files may be reclaimed at any moment, and come back.
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssAnon:"))
def blocks():
    return [torch.ones(2**20) for _ in range(16)]
def freed():
    blocks()
    return held()
kept = freed()
with holding_what_is_used():
    print(kept - held(), kept - freed())
print(kept - freed())
"""


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults(megabytes: int) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, str(megabytes)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    taken = 30 * 4 * 6144
    assert faults(24) * 20 < taken  # without it between 7 and 120 blocks are faulted in, by how malloc stands


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_was_freed_is_given_back_for_a_while() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    given_back, meanwhile, afterwards = (int(kilobytes) for kilobytes in done.stdout.split())
    # Of every four programs one finds a place in its heap for two blocks in three, as addresses happen to lie.
    assert given_back > 60_000 and meanwhile > 10_000
    assert afterwards < 10_000


def test_a_program_that_keeps_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everreel.memory._keeps", False)
    monkeypatch.setattr("everreel.memory.ctypes.CDLL", pytest.fail)
    with holding_what_is_used():
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.skipif(not LARGE_PAGES.is_file() or "[never]" in LARGE_PAGES.read_text(), reason="no large pages here")
def test_blocks_too_large_to_be_kept_come_in_large_pages() -> None:
    assert faults(48) * 20 < 30 * 4 * 12288


def test_nothing_happens_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMallopt:
        def __init__(self, name: None) -> None: ...

    monkeypatch.setattr("everreel.memory.ctypes.CDLL", NoMallopt)
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    ("error", "on_gpu", "budget"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True, "16GB"),
        (MemoryError(), False, "16GB"),
        (MemoryError(), True, None),  # the computer's own memory: more on the GPU would help it
    ],
)
def test_a_budget_that_works_is_what_was_held_and_a_margin(
    monkeypatch: pytest.MonkeyPatch, error: MemoryError | RuntimeError, on_gpu: bool, budget: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
    monkeypatch.setattr("everreel.memory.most_held", lambda gpu: 22_400_000_000 if gpu == on_gpu else 0)
    assert smaller_budget(error) == budget


def test_what_was_held_is_of_the_fullest_gpu_or_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda number: [3, 7][number])
    assert most_held(True) == 7 and 50e6 < most_held(False) < 1e12


@pytest.mark.parametrize("command", ["generate", "train", "serve", "mcp"])
def test_a_command_that_lasts_holds_little(monkeypatch, command):
    """A server keeps no heap that it once needed; its workers, which make the films, keep theirs."""
    done = []
    monkeypatch.setattr("sys.argv", ["everreel", command])
    for name in ("keep_freed_memory", "share_freed_memory", "_run"):
        monkeypatch.setattr(f"everreel.cli.{name}", lambda name=name: done.append(name))
    cli.main()
    assert done == ["share_freed_memory" if command in ("serve", "mcp") else "keep_freed_memory", "_run"]


# Threads that are there at once and each take blocks too small to be mapped by themselves. A heap of one's own is an
# anonymous mapping of at most 64 MB, so that the number of threads' first blocks' regions is the number of heaps.
HEAPS = """
import ctypes
import sys
import threading
from everreel.memory import share_freed_memory
if sys.argv[1] == "shared":
    assert share_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together, regions = threading.Barrier(12), set()
def take():
    together.wait()
    regions.add(libc.malloc(100_000) >> 26)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(regions))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, whose heaps are its own")
def test_threads_share_heaps():
    def heaps(how):
        done = subprocess.run([sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert heaps("shared") <= 3 < heaps("by default")
