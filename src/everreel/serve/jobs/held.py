"""How much of a GPU's memory each worker has, told to the server that looks after it.

Resident memory of a process is read from the system by its id; what torch's allocator holds only the process itself
knows, so it writes that down, in a file for each worker's place. The one invariant: what a worker wrote that is gone
counts for none, and nothing is written where films are made without a GPU.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from everreel.memory import held_on_devices

EVERY = 1.0  # seconds between two looks at the allocator


def file_of(home: Path, place: int) -> Path:
    """Where the worker of a place writes; there are as many files as places, however many workers are lost."""
    return home / f"worker-{place}.memory"


def start_telling(path: Path, worker: str) -> None:
    """Write down what this process holds, from a thread that ends with it."""

    def run() -> None:
        last: int | None = None
        while True:
            last = tell(path, worker, last)
            time.sleep(EVERY)

    threading.Thread(target=run, name="memory", daemon=True).start()


def tell(path: Path, worker: str, last: int | None) -> int | None:
    """Write down what this process holds now, unless that is still the `last` that was; what was written last."""
    held = held_on_devices()
    if held is None or held == last:
        return last
    new = path.with_suffix(".new")
    with contextlib.suppress(OSError):  # a full disk: the figure before stays, and films wait anyway
        new.write_text(f"{worker} {held}")
        new.replace(path)  # whoever reads meanwhile has one figure or the other
        return held
    return last


def held_by(path: Path, worker: str) -> int | None:
    """What a worker said last; None where it said nothing, as on a CPU."""
    try:
        name, held = path.read_text().split()
        return int(held) if name == worker else None
    except (OSError, ValueError):
        return None
