"""What the server does, for Prometheus.

Counts of films come from the queue when they are asked for; frames and the time between blocks are seen by looking at
films in progress twice a second, from a thread of its own. The one invariant: nothing here holds up a request, and no
label takes a value from one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import Scope

from everreel.memory import Held
from everreel.serve.jobs.job import Job, NotFoundError
from everreel.serve.jobs.service import Jobs

LOOK = 0.5  # seconds between two looks at films in progress
RECENT = 60.0  # seconds over which frames a second are counted
_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
_BLOCKS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)
DeviceMemory = Callable[[], Mapping[int, Mapping[str, Held]]]
log = logging.getLogger(__name__)


@dataclass
class _Seen:
    num_frames: int
    at: float
    waits: bool
    """Whether it was held up since, by a pause or a full disk."""


class Metrics:
    """Counters of one server. `pids` tells its workers, `device_memory` what each has of each GPU."""

    def __init__(
        self, jobs: Jobs, pids: Callable[[], Sequence[int]], device_memory: DeviceMemory | None = None
    ) -> None:
        self._jobs, self._pids, self._device_memory = jobs, pids, device_memory
        self.registry = CollectorRegistry()
        self._frames = Counter("everreel_frames", "Frames that were made.", registry=self.registry)
        self._blocks = Histogram(
            "everreel_block_seconds",
            "Seconds between two times that a film in progress had new frames, if it waited for nothing meanwhile.",
            buckets=_BLOCKS,
            registry=self.registry,
        )
        self._answers = Histogram(
            "everreel_http_seconds",
            "Seconds until an answer began.",
            ("method", "route", "status"),
            buckets=_QUICK,
            registry=self.registry,
        )
        self.registry.register(self)
        self._seen: dict[str, _Seen] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """A request has its answer."""
        route = getattr(scope.get("route"), "path", None) or ("other" if status == 404 else "refused or page")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._answers.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)

    def watches(self, job_id: str) -> bool:
        """Whether a film in progress has been seen."""
        return job_id in self._seen

    def look(self) -> None:
        """Count what films in progress have got since the last look."""
        now, running = time.monotonic(), {job.id: job for job in self._jobs.queue.running()}
        ended = [found for name in self._seen.keys() - running.keys() if (found := self._get(name))]
        for job in (*running.values(), *ended):
            seen, waits = self._seen.get(job.id), bool(job.waiting)
            if seen is None:
                self._seen[job.id] = _Seen(job.num_frames, now, waits)
                continue
            seen.waits |= waits
            if job.num_frames > seen.num_frames:
                self._count(job.num_frames - seen.num_frames, now)
                if not seen.waits:
                    self._blocks.observe(now - seen.at)
                self._seen[job.id] = _Seen(job.num_frames, now, waits)
        self._seen = {name: seen for name, seen in self._seen.items() if name in running}
        while self._recent and self._recent[0][0] < now - RECENT:
            self._recent.popleft()

    def collect(self) -> Iterable[Metric]:
        """What is read when it is asked for."""
        films = GaugeMetricFamily("everreel_films", "Films by state.", labels=["state"])
        for status, count in self._jobs.queue.counts().items():
            films.add_metric([status], count)
        yield films
        rate = sum(count for _, count in list(self._recent)) / RECENT
        yield GaugeMetricFamily("everreel_frames_per_second", "Frames made a second, over a minute.", value=rate)
        pids = list(self._pids())
        yield GaugeMetricFamily("everreel_workers", "Workers that are alive.", value=len(pids))
        memory = GaugeMetricFamily("everreel_memory_bytes", "Resident memory by part.", labels=["part"])
        memory.add_metric(["server"], resident(os.getpid()))
        memory.add_metric(["workers"], sum(map(resident, pids)))
        yield memory
        yield from _of_devices(self._device_memory() if self._device_memory else {})
        free = self._jobs.store.free_bytes()
        yield GaugeMetricFamily("everreel_disk_free_bytes", "Room for films.", value=free)

    def _count(self, frames: int, now: float) -> None:
        self._frames.inc(frames)
        self._recent.append((now, frames))

    def _get(self, job_id: str) -> Job | None:
        try:
            return self._jobs.get(job_id)
        except NotFoundError:
            return None

    def _run(self) -> None:
        while not self._stopping.wait(LOOK):
            try:
                self.look()
            except Exception:
                log.exception("films in progress could not be counted")


def _of_devices(told: Mapping[int, Mapping[str, Held]]) -> Iterable[Metric]:
    """The memory of GPUs that workers have; nothing at all where films are made without one."""
    labels = ["worker", "device"]
    allocated = GaugeMetricFamily("everreel_device_memory_bytes", "Memory of a GPU that tensors take.", labels=labels)
    most = GaugeMetricFamily(
        "everreel_device_memory_peak_bytes", "The most memory of a GPU that torch has reserved.", labels=labels
    )
    for number, devices in told.items():
        for name, held in devices.items():
            allocated.add_metric([str(number), name], held.allocated)
            if held.most_reserved is not None:  # not counted for mps
                most.add_metric([str(number), name], held.most_reserved)
    yield from (family for family in (allocated, most) if family.samples)


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
