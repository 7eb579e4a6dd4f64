"""A server of the page for tests: real jobs, a queue in memory, and a worker that draws small films."""

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, StreamingResponse
from PIL import Image

from everreel.film.loading import model_options
from everreel.media import FilmWriter
from everreel.serve.jobs.job import ConflictError, Job, Limits, NotFoundError, Owner, Upload, Usage
from everreel.serve.jobs.service import Jobs
from everreel.serve.ui.page import mount

FPS, BLOCK = 24, 12


class Queue:
    """`JobQueue`, as much of it as the page needs; it outlives a server."""

    def __init__(self):
        self.jobs, self.lock = {}, threading.Lock()

    def put(self, order, owner, *, seconds=0.0, priority=0, idempotency_key=None):
        with self.lock:
            name = f"video_{os.urandom(16).hex()}"
            job = Job(name, owner.name, order, "queued", int(time.time()), len(self.jobs), 0, num_rows=100)
            self.jobs[name] = job
        return job, True

    def get(self, job_id, owner=None):
        job = self.jobs.get(job_id)
        if job is None or owner not in (None, job.owner):
            raise NotFoundError(f"video = {job_id}: there is no such film")
        return job

    def page(self, owner, *, after=None, limit=20, newest_first=True):
        mine = [job for job in self.jobs.values() if owner in (None, job.owner)]
        return sorted(mine, key=lambda job: -job.number)[:limit]

    def change(self, job_id, **values):
        with self.lock:
            if job := self.jobs.get(job_id):
                self.jobs[job_id] = replace(job, version=job.version + 1, **values)

    def want(self, job_id, wanted, owner=None):
        job = self.get(job_id, owner)
        if job.status == "completed":
            raise ConflictError(f"video = {job_id}: is completed")
        if job.status in ("paused", "failed", "cancelled", "queued"):
            status = {"run": "queued", "cancel": "cancelled", "pause": "paused"}[wanted]
            self.change(job_id, status=status, wanted=wanted)
        else:
            self.change(job_id, wanted=wanted)
        return self.jobs[job_id]

    def remove(self, job_id, owner=None):
        self.get(job_id, owner)
        with self.lock:
            del self.jobs[job_id]

    def usage(self, owner):
        return Usage(0, 0, 0)


class Store:
    """`FilmStore`, likewise."""

    def __init__(self, home):
        self.home = home

    def workplace(self, job_id):
        folder = self.home / "films" / job_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def open(self, job_id, part):
        return (self.workplace(job_id) / part).open("rb")

    def size(self, job_id, part):
        path = self.workplace(job_id) / part
        return path.stat().st_size if path.exists() else 0

    def keep(self, source, owner, suffix):
        name = f"file_{os.urandom(16).hex()}"
        (self.home / f"{name}{suffix}").write_bytes(source.read_bytes())
        source.unlink()
        return name

    def upload(self, upload_id, owner=None):
        return next(iter(self.home.glob(f"{upload_id}.*")))

    def uploads(self, owner):
        return 0


class Tokens:
    def sign(self, film, owner):
        return f"token-{film}"


class Painter(threading.Thread):
    """A worker: it claims jobs and makes films of plain colours, a block for each turn of `go`."""

    def __init__(self, jobs):
        super().__init__(daemon=True)
        self.jobs, self.queue, self.over = jobs, jobs.queue, threading.Event()
        self.blocks = threading.Semaphore(0)
        """Released once for each block that may be made."""
        self.hurry = threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            waiting = [job for job in list(self.queue.jobs.values()) if job.status == "queued"]
            if waiting:
                self.make(min(waiting, key=lambda job: job.number))

    def make(self, job):
        request = job.order.request
        frames = request.length or 240
        older = self.queue.jobs[job.order.extends].num_frames if job.order.extends else 0
        self.queue.change(job.id, status="in_progress", started_at=int(time.time()), num_frames=0)
        place = self.jobs.store.workplace(job.id)
        with FilmWriter(place / "film.mp4", 96, 160, FPS) as writer:
            while writer.num_frames < frames + older:
                if not self._may(job.id):
                    return
                count = min(BLOCK, frames + older - writer.num_frames)
                writer.append(drawn(job.number, writer.num_frames, count))
                row = 99 * writer.num_frames // (frames + older)
                self.queue.change(job.id, num_frames=writer.num_frames, num_bytes=writer.num_bytes, row=row)
        Image.fromarray(drawn(job.number, 0, 1)[0]).save(place / "thumbnail.webp")
        self.queue.change(job.id, status="completed", completed_at=int(time.time()))

    def _may(self, job_id):
        while not self.over.is_set():
            job = self.queue.jobs.get(job_id)
            if job is None or job.wanted != "run":
                if job:
                    self.queue.change(job_id, status="paused" if job.wanted == "pause" else "cancelled")
                return False
            if self.hurry.is_set() or self.blocks.acquire(timeout=0.05):
                return True
        return False


def drawn(number, first, count):
    """A picture that moves: a disc over a slope of colours."""
    y, x = np.mgrid[:96, :160]
    frames = np.zeros((count, 96, 160, 3), np.uint8)
    for index in range(count):
        at = (first + index) * 2 % 160
        frames[index] = np.stack([60 + x // 2, 90 + y, np.full_like(x, 40 + 50 * (number % 4))], -1)
        frames[index][(x - at) ** 2 + (y - 48) ** 2 < 300] = (250, 220, 120)
    return frames


def make_jobs(queue, home, monkeypatch=None):
    jobs = Jobs(
        queue,
        Store(home),
        {"tiny": model_options(model="tiny"), "tiny-fast": model_options(model="tiny-fast")},
        Limits(),
    )

    def upload(source, owner):
        with Image.open(source) as image:
            size = image.size
        return Upload("image", ".png", *size, id=jobs.store.keep(source, owner.name, ".png"))

    jobs.upload = upload
    return jobs


def make_app(jobs, **more):
    app = FastAPI()

    @app.get("/v1/videos/{job_id}/content")
    def content(job_id: str, variant: str = "video", token: str = Query("")):
        if token != f"token-{job_id}":
            raise HTTPException(401)
        part = {"video": "film.mp4", "thumbnail": "thumbnail.webp"}[variant]
        return FileResponse(jobs.store.workplace(job_id) / part)

    @app.get("/v1/videos/{job_id}/stream")
    def stream(job_id: str, token: str = Query("")):
        if token != f"token-{job_id}":
            raise HTTPException(401)

        def pieces():
            at = 0
            while True:
                job = jobs.queue.jobs.get(job_id)
                if job is None:
                    return
                if job.num_bytes > at:
                    with jobs.store.open(job_id, "film.mp4") as file:
                        file.seek(at)
                        yield file.read(job.num_bytes - at)
                    at = job.num_bytes
                elif job.over:
                    return
                time.sleep(0.05)

        return StreamingResponse(pieces(), media_type="video/mp4")

    owner_of = more.pop("owner_of", lambda key: Owner())
    return mount(app, jobs, owner_of, Tokens(), **more)


@contextmanager
def served(app, port=0):
    import socket

    import uvicorn

    with socket.create_server(("127.0.0.1", port)) as bound:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
