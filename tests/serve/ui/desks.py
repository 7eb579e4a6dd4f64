"""A server of the page for tests: the real jobs and routes, and a worker that draws small films instead of a model."""

import asyncio
import os
import threading
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image

from everreel.film.loading import model_options
from everreel.media import FilmWriter
from everreel.serve.api.app import make_app as make_api
from everreel.serve.api.guard import NoKeys
from everreel.serve.api.settings import Settings
from everreel.serve.api.tokens import Tokens
from everreel.serve.jobs.job import Limits, LostJobError, Owner, Report
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.service import Jobs
from everreel.serve.jobs.store import FolderStore
from everreel.serve.ui.page import mount

FPS, BLOCK = 24, 12
PATIENCE = 60  # seconds, on a busy machine
LOCAL = Owner()


class Painter(threading.Thread):
    """A worker that makes films of a disc before a slope of colours, each block when it may."""

    def __init__(self, jobs):
        super().__init__(daemon=True)
        self.jobs, self.queue, self.name_ = jobs, jobs.queue, f"painter-{os.urandom(4).hex()}"
        self.over, self.hurry = threading.Event(), threading.Event()
        self.blocks = threading.Semaphore(0)
        """Released once for each block that may be made; with `hurry` all may."""

    def run(self):
        while not self.over.wait(0.02):
            job = self.queue.claim(self.name_)
            if job is not None:
                with suppress(LostJobError):
                    self.make(job)

    def stop(self):
        self.over.set()
        self.join(PATIENCE)

    def make(self, job):
        request, place = job.order.request, self.jobs.store.workplace(job.id)
        older = self.queue.get(job.order.extends).num_frames if job.order.extends else 0
        total = older + (request.length or 10_000)
        film = place / "film.mp4"
        with FilmWriter(film, 96, 160, FPS) as writer:
            while writer.num_frames < total:
                wanted = self._wanted(job, writer, total)
                if wanted != "run":
                    status = "paused" if wanted == "pause" else "cancelled" if wanted == "cancel" else "queued"
                    self.queue.finish(job.id, self.name_, status)
                    return
                writer.append(drawn(job.number, writer.num_frames, min(BLOCK, total - writer.num_frames)))
            self._report(job, writer, total)
        Image.fromarray(drawn(job.number, 40, 1)[0]).save(place / "thumbnail.webp")
        self.queue.finish(job.id, self.name_, "completed")

    def _report(self, job, writer, total):
        row = 100 * writer.num_frames // total
        return self.queue.report(job.id, self.name_, Report(row, 100, writer.num_frames, writer.num_bytes))

    def _wanted(self, job, writer, total):
        """`run` when the next block may be made; `stop` when the worker is to end."""
        while not self.over.is_set():
            wanted = self._report(job, writer, total)
            if wanted != "run":
                return wanted
            if self.hurry.is_set() or self.blocks.acquire(timeout=0.05):
                return "run"
        return "stop"


def drawn(number, first, count):
    """A picture that moves."""
    y, x = np.mgrid[:96, :160]
    frames = np.zeros((count, 96, 160, 3), np.uint8)
    for index in range(count):
        at = (first + index) * 2 % 160
        frames[index] = np.stack([60 + x // 2, 90 + y, np.full_like(x, 40 + 50 * (number % 4))], -1)
        frames[index][(x - at) ** 2 + (y - 48) ** 2 < 300] = (250, 220, 120)
    return frames


def make_jobs(home, limits=None, enhancer=None):
    models = {name: model_options(model=name) for name in ("tiny", "tiny-fast")}
    return Jobs(SqliteQueue(home), FolderStore(home), models, limits or Limits(), enhancer)


def make_app(jobs, home, keys=None, **more):
    """The routes and the page, as `everreel serve` puts them together."""
    keys, tokens, inbox = keys or NoKeys(), Tokens.of(home), home / "inbox"
    inbox.mkdir(exist_ok=True)
    app = make_api(jobs, keys, Settings(inbox, page=True), tokens)

    def owner_of(key):
        return keys.owner(key) if keys.any() else Owner()

    return mount(app, jobs, owner_of, tokens, **more)


def held_back(app):
    """An application whose streams come late, as on a busy machine or behind a proxy; it goes on meanwhile."""

    async def held(scope, receive, send):
        streams = False

        async def late(message):
            nonlocal streams
            if message["type"] == "http.response.start":
                streams = b"text/event-stream" in dict(message["headers"]).get(b"content-type", b"")
            elif streams:
                await asyncio.sleep(0.3)
            await send(message)

        await app(scope, receive, late)

    return held


@contextmanager
def served(app, port=0):
    """The address of an application."""
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
