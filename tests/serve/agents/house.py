"""A small house of films for these tests: jobs in memory, films in a folder, and a worker that paints them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from everreel.film.loading import model_options
from everreel.media import FilmWriter, Pixels
from everreel.serve.jobs.job import (
    ConflictError,
    Failure,
    Job,
    Limits,
    NotFoundError,
    Owner,
    Part,
    Report,
    Status,
    Upload,
    Usage,
    Wanted,
)
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs

HEIGHT, WIDTH, FPS = 96, 160, 24


class MemoryQueue:
    """See `JobQueue`; of its rules only those that the tools meet."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.lock = threading.Lock()

    def put(
        self, order: Order, owner: Owner, *, seconds: float, priority: int = 0, idempotency_key: str | None = None
    ) -> tuple[Job, bool]:
        with self.lock:
            job = Job(
                id=f"video_{secrets.token_hex(16)}",
                owner=owner.name,
                order=order,
                status="queued",
                created_at=1_700_000_000,
                number=len(self.jobs),
                version=0,
                priority=priority,
            )
            self.jobs[job.id] = job
            return job, True

    def get(self, job_id: str, owner: str | None = None) -> Job:
        job = self.jobs.get(job_id)
        if job is None or owner not in (None, job.owner):
            raise NotFoundError(f"video = {job_id}: there is no such film")
        return job

    def page(
        self, owner: str | None, *, after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> Sequence[Job]:
        own = [job for job in self.jobs.values() if owner in (None, job.owner)]
        own.sort(key=lambda job: job.number, reverse=newest_first)
        begin = 0 if after is None else own.index(self.get(after, owner)) + 1
        return own[begin : begin + limit]

    def change(self, job_id: str, **values: object) -> Job:
        with self.lock:
            job = self.jobs[job_id]
            self.jobs[job_id] = replace(job, version=job.version + 1, **values)  # type: ignore[arg-type]
            return self.jobs[job_id]

    def claim(self, worker: str, models: Sequence[str] | None = None) -> Job | None:
        for job in list(self.jobs.values()):
            if job.status == "queued":
                return self.change(job.id, status="in_progress")
        return None

    def report(self, job_id: str, worker: str, report: Report) -> Wanted:
        return self.change(
            job_id,
            row=report.row,
            num_rows=report.num_rows,
            num_frames=report.num_frames,
            num_bytes=report.num_bytes,
            waiting=report.waiting,
        ).wanted

    def finish(self, job_id: str, worker: str, status: Status, failure: Failure | None = None) -> Job:
        return self.change(job_id, status=status, failure=failure)

    def release(self, worker: str | None = None) -> int:
        return 0

    def want(self, job_id: str, wanted: Wanted, owner: str | None = None) -> Job:
        job = self.get(job_id, owner)
        if job.status == "completed":
            raise ConflictError(f"video = {job_id}: is completed; extend it instead")
        status: Status = job.status
        if job.status != "in_progress":
            status = {"pause": "paused", "cancel": "cancelled", "run": "queued"}[wanted]  # type: ignore[assignment]
        return self.change(job_id, wanted=wanted, status=status)

    def remove(self, job_id: str, owner: str | None = None) -> None:
        self.get(job_id, owner)
        del self.jobs[job_id]

    def removed(self) -> Sequence[str]:
        return ()

    def forget(self, job_id: str) -> None:
        pass

    def expire(self, seconds: float) -> int:
        return 0

    def usage(self, owner: str) -> Usage:
        return Usage(0, 0, 0)

    def seconds_left(self, owner: str) -> float | None:
        return None

    def counts(self) -> Mapping[Status, int]:
        return {}


class Folder:
    """See `FilmStore`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owners: dict[str, str] = {}

    def workplace(self, job_id: str) -> Path:
        place = self.root / "films" / job_id
        place.mkdir(parents=True, exist_ok=True)
        return place

    def open(self, job_id: str, part: Part) -> BinaryIO:
        path = self.workplace(job_id) / part
        if not path.is_file():
            raise NotFoundError(f"video = {job_id}: has no {part} yet")
        return path.open("rb")

    def size(self, job_id: str, part: Part) -> int:
        path = self.workplace(job_id) / part
        return path.stat().st_size if path.is_file() else 0

    def delete(self, job_id: str) -> None:
        pass

    def incoming(self) -> Path:
        place = self.root / "incoming"
        place.mkdir(exist_ok=True)
        return place

    def keep(self, source: Path, owner: str, suffix: str) -> str:
        name = f"file_{secrets.token_hex(16)}"
        source.replace(self.root / f"{name}{suffix}")
        self.owners[name] = owner
        return name

    def upload(self, upload_id: str, owner: str | None = None) -> Path:
        if owner not in (None, self.owners.get(upload_id)) or upload_id not in self.owners:
            raise NotFoundError(f"{upload_id}: there is no such upload")
        return next(self.root.glob(f"{upload_id}.*"))

    def uploads(self, owner: str) -> int:
        return 0

    def drop_uploads(self, but: set[str]) -> None:
        pass

    def free_bytes(self) -> int:
        return 10**12

    def wish(self, job_id: str) -> None:
        pass

    def take_wish(self, job_id: str) -> bool:
        return False


def inspect(source: Path, limits: Limits) -> Upload:
    """Stands for the sandboxed reading of uploads, which has tests of its own."""
    from everreel.film.request import RequestError

    try:
        with Image.open(source) as picture:
            picture.load()
    except (OSError, SyntaxError):
        raise RequestError("upload: is no picture; a PNG or JPEG works") from None
    return Upload("image", ".png", picture.width, picture.height)


def house(root: Path, **limits: float) -> Jobs:
    """Jobs with the embedded model, whose films nobody makes until somebody calls `paint`."""
    models = {"tiny": model_options(), "tiny-fast": model_options(model="tiny-fast")}
    return Jobs(MemoryQueue(), Folder(root), models, Limits(**limits))  # type: ignore[arg-type]


def frames(count: int) -> Pixels:
    """A film whose frames can be told apart: red grows, with a square that moves."""
    pixels = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(count):
        pixels[number, :, :, 0] = 20 + 200 * number // max(count - 1, 1)
        pixels[number, 40:56, number % 140 : number % 140 + 16] = 255
    return pixels


class Painter:
    """A worker that makes every film of three blocks of eight frames, a step whenever it is told to go on."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def block(self, job_id: str, number: int, of: int = 3) -> None:
        """One more block of a film."""
        path = self.jobs.store.workplace(job_id) / "film.mp4"
        path.unlink(missing_ok=True)
        with FilmWriter(path, HEIGHT, WIDTH, FPS) as writer:
            for at in range(number):
                writer.append(frames(8 * of)[8 * at : 8 * at + 8])
            report = Report(10 * number, 10 * of, writer.num_frames, writer.num_bytes)
        self.jobs.queue.report(job_id, "painter", report)

    def finish(self, job_id: str) -> None:
        """The rest, and the pictures of it."""
        self.block(job_id, 3)
        buffer = BytesIO()
        Image.fromarray(frames(1)[0]).save(buffer, "WEBP")
        (self.jobs.store.workplace(job_id) / "thumbnail.webp").write_bytes(buffer.getvalue())
        self.jobs.queue.finish(job_id, "painter", "completed")

    def run(self, until: threading.Event) -> None:
        """Make whatever is ordered, until told to stop."""
        while not until.wait(0.02):
            if job := self.jobs.queue.claim("painter"):
                self.block(job.id, 1)
                self.finish(job.id)
