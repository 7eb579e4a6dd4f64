"""A whole server in this process, and somebody who makes the films that it is asked for, as slowly as a test likes."""

import contextlib
import threading
import time
from functools import cache
from pathlib import Path

import httpx2
import numpy as np
import uvicorn
from PIL import Image

from everreel.film.loading import model_options
from everreel.film.request import RequestError
from everreel.media import FilmWriter, Video
from everreel.serve.api.app import make_app
from everreel.serve.api.settings import Settings
from everreel.serve.api.tokens import Tokens
from everreel.serve.jobs.job import Failure, Limits, LostJobError, NotFoundError, Owner, Report, Upload
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.service import Jobs, serve_options
from everreel.serve.jobs.store import FolderStore

ANNA, BERT = Owner("anna", highest_priority=5), Owner("bert")
KEYS = {"key-of-anna": ANNA, "key-of-bert": BERT}
BLOCK = 8
DEADLINE = 20.0


def wait(true, what="that"):
    """Wait until something is true."""
    end = time.monotonic() + DEADLINE
    while not (found := true()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)
    return found


class SomeKeys:
    def __init__(self, keys):
        self.keys = keys

    def any(self):
        return bool(self.keys)

    def owner(self, key):
        return self.keys.get(key)


class Maker(threading.Thread):
    """Claims jobs and writes small films; with `step`, a block each time that `go` is called."""

    def __init__(self, jobs, step=False):
        super().__init__(daemon=True)
        self.jobs, self.step = jobs, step
        self.endless_rows = 10**6
        self.blocks, self.ended, self.failing = threading.Semaphore(0), threading.Event(), False

    def go(self, blocks=1):
        self.blocks.release(blocks)

    def run(self):
        while not self.ended.is_set():
            job = self.jobs.queue.claim("maker")
            if job is None:
                time.sleep(0.01)
                continue
            with contextlib.suppress(LostJobError):
                self.make(job)

    def make(self, job):
        queue, folder, request = self.jobs.queue, self.jobs.store.workplace(job.id), job.order.request
        count = self.endless_rows if job.order.endless else -(-(request.num_frames or 16) // BLOCK)
        path, done = folder / "film.mp4", job.row
        size = (request.height, request.width, request.fps)
        if done:
            writer = FilmWriter.resume(path, *size, num_frames=job.num_frames, num_bytes=job.num_bytes)
        else:
            writer = FilmWriter(path, *size)
        with writer:
            for row in range(done, count):
                while self.step and not self.blocks.acquire(timeout=0.02):
                    if self.ended.is_set() or self.left(job, row, count, writer):
                        return
                if self.failing:
                    queue.finish(job.id, "maker", "failed", Failure("generation_failed", "it did not work"))
                    return
                rest = BLOCK if job.order.endless else min(BLOCK, (request.num_frames or 16) - row * BLOCK)
                writer.append(frames(rest, request.height, request.width, row))
                Image.new("RGB", (16, 16), (row * 60 % 255, 0, 0)).save(folder / "preview.jpg")
                if self.left(job, row + 1, count, writer):
                    return
        for name in ("thumbnail.webp", "spritesheet.jpg"):
            Image.new("RGB", (32, 16)).save(folder / name)
        queue.finish(job.id, "maker", "completed")

    def left(self, job, row, count, writer):
        report = Report(row=row, num_rows=count, num_frames=writer.num_frames, num_bytes=writer.num_bytes)
        wanted = self.jobs.queue.report(job.id, "maker", report)
        if wanted == "run":
            return False
        self.jobs.queue.finish(job.id, "maker", "paused" if wanted == "pause" else "cancelled")
        return True

    def end(self):
        self.ended.set()
        self.join(DEADLINE)


def frames(count, height, width, seed):
    ramp = np.arange(height, dtype=np.uint8)[None, :, None, None]
    return np.broadcast_to(ramp + np.uint8(seed * 7 % 255), (count, height, width, 3)).copy()


def inspect(source: Path, limits: Limits) -> Upload:
    """What the real one does, in this process: quick, and for files that a test made itself."""
    try:
        with Image.open(source) as picture:
            size = picture.size
            picture.convert("RGB").save(source, format="png")
        return Upload("image", ".png", *size)
    except OSError:
        pass
    try:
        film = Video(source)
    except (ValueError, OSError):
        raise RequestError("upload: is neither a picture nor a film that can be read; a PNG or an MP4 works") from None
    return Upload("video", ".mp4", film.width, film.height, film.num_frames / film.fps)


class Served:
    """A server that runs, its jobs, and whoever makes its films."""

    def __init__(self, home, *, keys=None, step=False, make=True, limits=None, enhancer=None, **settings):
        self.store = FolderStore(home, reserve=0)
        self.jobs = Jobs(SqliteQueue(home), self.store, MODELS, limits, enhancer)
        self.jobs._tokenizer = tokenizer  # read once for all servers
        self.tokens = Tokens.of(home)
        self.settings = Settings(inbox=self.store.incoming(), poll_after_ms=20, **settings)
        self.pids = [1]
        self.app = make_app(self.jobs, SomeKeys(keys or {}), self.settings, self.tokens, lambda: self.pids)
        self.maker = Maker(self.jobs, step) if make else None
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=0, log_level="error", server_header=False, timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        wait(lambda: self.server.started or not self.thread.is_alive(), "the server's start")
        if self.maker:
            self.maker.start()
        return self

    def __exit__(self, *_):
        if self.maker:
            self.maker.end()
        self.server.should_exit = True
        self.thread.join(DEADLINE)
        self.jobs.queue.close()

    @property
    def port(self):
        return self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, key=None, **headers):
        given = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=given | headers, timeout=DEADLINE)

    def openai(self, key="none", **settings):
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **settings)


def known_films(server, keep=20):
    """Ids of films that are there, for ever: those that were deleted are replaced."""
    ids = []
    while True:
        if len(ids) < keep:
            ids.append(server.jobs.submit(make_order(prompt="a red fox", num_frames=5), Owner())[0].id)
        name = ids.pop(0)
        # Whoever asks may watch it until it is over, so one that somebody paused is gone on with.
        with contextlib.suppress(NotFoundError):
            wait(lambda name=name: _over(server.jobs, name), "the film's end")
            ids.append(name)
            yield name


def _over(jobs, name):
    if jobs.get(name).status == "paused":
        jobs.want(name, "run", Owner())
    return jobs.get(name).over


@cache
def tokenizer(model):
    return Jobs(None, None, MODELS)._tokenizer(model)


MODELS = serve_options(model_options())


def picture(folder, name="fox.png", size=(160, 96)):
    path = folder / name
    Image.new("RGB", size, "red").save(path)
    return path


def small_film(folder, name="old.mp4", num_frames=33):
    path = folder / name
    with FilmWriter(path, 96, 160, 24) as writer:
        writer.append(frames(num_frames, 96, 160, 0))
    return path
