"""What each worker has of the memory of GPUs, told to the server that looks after it.

Resident memory of a process is read from the system by its id; what torch's allocator has only the process itself
knows, so it writes that down, in a file for each worker's place. The one invariant: what a worker wrote that is gone
counts for none, and nothing is written where films are made without a GPU.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from everreel.memory import Held, held_on_devices

EVERY = 1.0  # seconds between two looks at the allocator


def file_of(home: Path, place: int) -> Path:
    """Where the worker of a place writes; there are as many files as places, however many workers are lost."""
    return home / f"worker-{place}.memory"


def start_telling(path: Path, worker: str) -> Callable[[], None]:
    """Write down what this process has, from a thread, until that is called which comes back or the process ends."""
    stopping = threading.Event()

    def run() -> None:
        last: Mapping[str, Held] = {}
        while not stopping.is_set():
            last = tell(path, worker, last)
            stopping.wait(EVERY)

    thread = threading.Thread(target=run, name="memory", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()

    return stop


def tell(path: Path, worker: str, last: Mapping[str, Held]) -> Mapping[str, Held]:
    """Write down what this process has now, unless that is still the `last` that was; what was written last."""
    now = held_on_devices()
    if now == last:
        return last
    told = {"worker": worker, "devices": {name: asdict(held) for name, held in now.items()}}
    new = path.with_suffix(".new")
    with contextlib.suppress(OSError):  # a full disk: the figures before stay, and films wait anyway
        new.write_text(json.dumps(told))
        new.replace(path)  # whoever reads meanwhile has the old ones or the new
        return now
    return last


def held_by(path: Path, worker: str) -> dict[str, Held]:
    """What a worker said last, by device; empty where it said nothing, as on a CPU."""
    try:
        told = json.loads(path.read_text())
        if told["worker"] == worker:
            return {str(name): Held(**held) for name, held in told["devices"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # or no file of ours
        pass
    return {}
