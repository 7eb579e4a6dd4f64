"""Keeps the workers alive: starts them, replaces those that are lost, and gives their films to others.

The one invariant: on one home, one supervisor at a time has workers. Another only waits, and takes over when the first
is gone, however it went: the lock is the system's, and so are the pipes whose end tells a worker to end.
"""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from everreel.film.loading import ModelOptions
from everreel.memory import Held
from everreel.serve.jobs.held import file_of, held_by
from everreel.serve.jobs.job import DiskFullError, JobQueue

LOOK = 0.2  # seconds between two looks at the workers
LOOK_AGAIN = 1.0  # seconds between two tries to write on a full disk
SOON, SHORTEST, LONGEST = 10.0, 0.2, 30.0
"""A worker that is lost within so many seconds is replaced after a pause, which doubles up to the longest."""
GRACE = 5.0
log = logging.getLogger(__name__)


@dataclass
class _Place:
    """Where a worker is, or will be again."""

    number: int
    device: str | None
    process: subprocess.Popen[bytes] | None = None
    name: str = ""
    started: float = 0.0
    pause: float = 0.0


class Supervisor:
    """Workers for a home, from `start` to `stop`. `threads` is how many of the CPU each has; None: all."""

    def __init__(
        self,
        home: Path,
        queue: JobQueue,
        models: Mapping[str, ModelOptions],
        workers: int = 1,
        *,
        threads: int | None = None,
    ) -> None:
        self._home, self._queue, self._models, self._threads = home, queue, models, threads
        self._lock = FileLock(home / "workers.lock")
        self._stopping = threading.Event()
        self._places = [_Place(number, _device(models, number)) for number in range(workers)]
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin to keep workers, as soon as no other supervisor of this home does."""
        self._home.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """End the workers at once. Their films go on from their journals when there are workers again."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def pids(self) -> list[int]:
        """The processes that are alive."""
        return [one.process.pid for one in self._places if one.process and one.process.poll() is None]

    def device_memory(self) -> dict[int, dict[str, Held]]:
        """What the workers have of each device's memory, by their places; without those that compute on a CPU."""
        alive = [one for one in self._places if one.process and one.process.poll() is None]
        told = {one.number: held_by(file_of(self._home, one.number), one.name) for one in alive}
        return {number: held for number, held in told.items() if held}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                self._stopping.wait(LOOK)
        else:
            return
        try:
            self._release(None)
            while not self._stopping.is_set():
                for place in self._places:
                    self._look_after(place)
                self._stopping.wait(LOOK)
        finally:
            for place in self._places:
                self._end(place)
            self._release(None)
            self._lock.release()

    def _release(self, worker: str | None) -> None:
        """Let others have the films of a worker that is gone; on a full disk as soon as there is room for saying so."""
        while True:
            try:
                self._queue.release(worker)
                return
            except (DiskFullError, TimeoutError) as error:
                log.warning("%s: the films of a lost worker wait", error)
                if self._stopping.wait(LOOK_AGAIN):
                    return  # whoever looks after this home next does it

    def _look_after(self, place: _Place) -> None:
        now = time.monotonic()
        if place.process is not None:
            if place.process.poll() is None:
                return
            log.warning("a worker was lost (exit status %s); its film goes on with another", place.process.returncode)
            self._release(place.name)
            place.process = None
            short = now - place.started < SOON
            place.pause = min(LONGEST, 2 * place.pause or SHORTEST) if short else 0.0
        if now - place.started >= place.pause:
            self._begin(place)

    def _begin(self, place: _Place) -> None:
        place.name, place.started = secrets.token_hex(8), time.monotonic()
        command = [sys.executable, "-m", "everreel.serve.jobs.worker", str(self._home), place.name]
        # In a session of its own: the Ctrl-C that ends the server is no worker's business.
        place.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        models = {
            name: options.model_copy(update={"device": place.device or options.device}).model_dump(
                mode="json", exclude_unset=True
            )
            for name, options in self._models.items()
        }
        told = {"models": models, "threads": self._threads, "place": place.number}
        assert place.process.stdin is not None
        try:
            place.process.stdin.write(json.dumps(told).encode() + b"\n")
            place.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is lost already, which is seen at the next look

    def _end(self, place: _Place) -> None:
        if place.process is None or place.process.stdin is None:
            return
        place.process.stdin.close()
        try:
            place.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            place.process.kill()
            place.process.wait()


def _device(models: Mapping[str, ModelOptions], number: int) -> str | None:
    """Workers take the GPUs in turn, where none is named."""
    asked = next(iter(models.values())).device
    if asked is None or asked.split(":")[0] != "cuda":
        return None
    import torch

    return f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.device_count() else None
