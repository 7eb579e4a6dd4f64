"""A house of films for these tests: the real queue and store, and a worker that paints films instead of thinking."""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from everreel.enhance import EnhanceOptions
from everreel.film.loading import model_options
from everreel.media import FilmWriter, Pixels
from everreel.serve.jobs.job import Report
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.service import Jobs
from everreel.serve.jobs.store import FolderStore

HEIGHT, WIDTH, FPS = 96, 160, 24
BLOCKS, BLOCK = 3, 8
WORKER = "painter"


def house(home: Path, enhancer: EnhanceOptions | None = None) -> Jobs:
    """Jobs with the embedded models, whose films nobody makes until a `Painter` does."""
    home.mkdir(exist_ok=True)
    models = {"tiny": model_options(), "tiny-fast": model_options(model="tiny-fast")}
    return Jobs(SqliteQueue(home), FolderStore(home, reserve=0), models, enhancer=enhancer)


def frames(count: int) -> Pixels:
    """A film whose frames can be told apart: red grows, with a square that moves."""
    pixels = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(count):
        pixels[number, :, :, 0] = 20 + 200 * number // max(count - 1, 1)
        pixels[number, 40:56, number % 140 : number % 140 + 16] = 255
    return pixels


class Painter:
    """Paints every film in three blocks of eight frames, whatever was asked for."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def claim(self, job_id: str) -> None:
        """Take a film, and whatever is before it."""
        while self.jobs.get(job_id).status == "queued":
            assert self.jobs.queue.claim(WORKER)

    def block(self, job_id: str, number: int) -> None:
        """The film as it is after so many blocks."""
        self.claim(job_id)
        path = self.jobs.store.workplace(job_id) / "film.mp4"
        path.unlink(missing_ok=True)
        with FilmWriter(path, HEIGHT, WIDTH, FPS) as writer:
            for at in range(number):
                writer.append(frames(BLOCKS * BLOCK)[BLOCK * at : BLOCK * (at + 1)])
            report = Report(10 * number, 10 * BLOCKS, writer.num_frames, writer.num_bytes)
        self.jobs.queue.report(job_id, WORKER, report)

    def finish(self, job_id: str) -> None:
        """The whole film, and the picture of it."""
        self.block(job_id, BLOCKS)
        buffer = BytesIO()
        Image.fromarray(frames(1)[0]).save(buffer, "WEBP")
        (self.jobs.store.workplace(job_id) / "thumbnail.webp").write_bytes(buffer.getvalue())
        self.jobs.queue.finish(job_id, WORKER, "completed")

    def run(self, until: threading.Event) -> None:
        """Paint whatever is ordered, until told to stop."""
        while not until.wait(0.02):
            if job := self.jobs.queue.claim(WORKER):
                self.block(job.id, 1)
                self.finish(job.id)
