"""A process that makes films: `python -m everreel.serve.jobs.worker HOME NAME`, started by `supervisor`.

What it serves stands in the first line of its standard input, as JSON. It is nicer than the server, so that answers
come while films are made. The one invariant: it ends when its server does (its input ends then), and it touches a film
only while it holds the film's lock; so what is left behind by one that was killed is whole, and nobody else writes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from everreel.film.control import CancelledError, Control
from everreel.film.loading import model_options
from everreel.film.pipeline import Progress
from everreel.film.request import RequestError
from everreel.media import FilmWriter
from everreel.memory import is_out_of_memory, keep_freed_memory
from everreel.serve.jobs.beside import beside
from everreel.serve.jobs.held import file_of, start_telling
from everreel.serve.jobs.home import open_home
from everreel.serve.jobs.job import (
    HELD,
    DiskFullError,
    Failure,
    FilmStore,
    Job,
    JobQueue,
    LostJobError,
    NotFoundError,
    QuotaError,
    Report,
    Wanted,
)
from everreel.serve.jobs.produce import Film, Models
from everreel.serve.jobs.service import pathless

IDLE, LOOK, FULL = 0.2, 0.25, 1.0  # seconds between two looks: for a job, while paused, while the disk is full
REPORT = 0.2
PREVIEW_SHARE = 0.1  # of a worker's time, at most
PATIENCE = 30.0
"""Seconds that a row of a film goes on for that was cancelled; to load the model anew takes about as long."""
NICER = 10
BUSY = (DiskFullError, TimeoutError)  # of the queue: it cannot be written now, and can be later


def _leave_at_once() -> None:
    os._exit(1)


class Worker:
    """Claims jobs and makes their films, one at a time. `leave` ends its process, for another to take its place."""

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        store: FilmStore,
        models: Models,
        leave: Callable[[], None] = _leave_at_once,
    ) -> None:
        self.name, self.queue, self.store, self.models, self._leave_at_once = name, queue, store, models, leave

    def run(self) -> None:
        """For ever."""
        while True:
            job = None
            with contextlib.suppress(*BUSY):
                job = self.queue.claim(self.name, list(self.models.served))
            if job is None:
                time.sleep(IDLE)
            else:
                self.work(job)

    def work(self, job: Job) -> None:
        """Make the film of a claimed job, or as much as is wanted of it."""
        watch = _Watch(self, job)
        film: Film | None = None

        def seconds_left() -> float | None:
            if film is not None:
                watch.made(*film.standing())  # a piece's last frames are written after its last row was told
            return self.queue.seconds_left(job.owner)

        try:
            with self._alone(job), self._impatient(job, watch):
                film = Film(job, self.store, self.models, seconds_left)
                while not self._made(job, film, watch):
                    watch.wait_for_room()
                watch.settle(lambda: self.queue.finish(job.id, self.name, "completed"))
        except (LostJobError, _GaveWayError):
            return
        except QuotaError as error:
            self._fail(job, watch, Failure("invalid_request", f"{error}, then go on with this film"))
        except _Left as left:
            wanted = left.wanted
            watch.settle(lambda: self._leave(job, film, watch, wanted))
        except RequestError as error:
            self._fail(job, watch, Failure("invalid_request", pathless(" ".join(str(error).split()))))
        except (MemoryError, RuntimeError, OSError) as error:
            traceback.print_exc()
            self._fail(job, watch, _failure(error))
        except Exception:
            traceback.print_exc()
            self._fail(job, watch, Failure("internal_error", "the film could not be made; the server's log says why"))

    def _made(self, job: Job, film: Film, watch: _Watch) -> bool:
        """Whether the film is finished; if not, the disk is full.

        Raises:
            QuotaError: its owner has as many bytes as are allowed, whatever they were when it was ordered, and there
                is nothing of it yet.
            _GaveWayError: it is in the queue again, and nobody's.
        """
        models = list(self.models.served)
        try:
            if not film.standing()[0]:
                self.queue.check_bytes(job.owner, self.store.uploads(job.owner))
            made = film.make(
                watch.control,
                lambda progress, writer: watch(progress, writer, film),
                lambda: self.queue.give_way(job.id, self.name, models),
            )
            if not made:
                raise _GaveWayError
            film.show()
            watch.made(*film.standing())
        except CancelledError:
            assert watch.left, "nobody else cancels"
            raise _Left(watch.left) from None
        except BUSY:
            return False
        except OSError as error:
            if not self._is_full(error):
                raise
            return False
        return True

    def _is_full(self, error: OSError) -> bool:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return full or (error.errno == errno.EIO and self.store.free_bytes() <= 0)

    def _leave(self, job: Job, film: Film | None, watch: _Watch, wanted: Wanted) -> None:
        if wanted == "cancel" and film is not None:
            with contextlib.suppress(OSError, ValueError, LostJobError, *BUSY):
                film.show()
                watch.made(*film.standing())
        self.queue.finish(job.id, self.name, "cancelled" if wanted == "cancel" else "paused")

    def _fail(self, job: Job, watch: _Watch, failure: Failure) -> None:
        watch.settle(lambda: self.queue.finish(job.id, self.name, "failed", failure))

    def _impatient(self, job: Job, watch: _Watch) -> contextlib.AbstractContextManager[None]:
        """Meanwhile see to it that a film that was cancelled in a row of minutes does not keep others waiting."""

        def look(over: threading.Event) -> None:
            heard = time.monotonic()
            while not over.wait(PATIENCE / 10):
                try:
                    unheard = self.queue.get(job.id).wanted == "cancel" and not watch.left
                except NotFoundError:
                    unheard = not watch.left
                except BUSY:
                    continue
                if not unheard:
                    heard = time.monotonic()
                elif time.monotonic() - heard > PATIENCE:
                    self._leave_at_once()
                    return

        return beside(look, "impatient")

    @contextlib.contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """Wait until a worker that had the film before, and may still be ending, is gone."""
        with FileLock(self.store.workplace(job.id) / "lock"):
            yield


class _Left(Exception):  # no error: somebody wants the film left as it is
    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class _GaveWayError(Exception):
    """An endless film was put back into the queue, as others wait."""


class _Watch:
    """Between two rows: says how far the film is, and hears what is wanted."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self.control = Control()
        self.left: Wanted | None = None
        self._worker, self._job = worker, job
        self._said, self._frames, self._last = 0.0, -1, Report(job.row, job.num_rows, job.num_frames, job.num_bytes)
        self._previewed, self._cost = 0.0, 0.0

    def __call__(self, progress: Progress, writer: FilmWriter | None, film: Film) -> None:
        frames = writer.num_frames if writer else 0
        now = time.monotonic()
        if frames == self._frames and now - self._said < REPORT and progress.row < progress.num_rows:
            return
        self._said, self._frames = now, frames
        self._last = Report(progress.row, progress.num_rows, frames, writer.num_bytes if writer else 0)
        if now - self._previewed > self._cost / PREVIEW_SHARE and self._worker.store.take_wish(self._job.id):
            film.preview(progress.preview())
            self._previewed = time.monotonic()
            self._cost = self._previewed - now
        wanted = self._report("")
        while wanted == "pause" and not self._worker.queue.counts().get("queued"):
            time.sleep(LOOK)  # nobody else needs the worker, so the film stays in memory
            wanted = self._report(HELD)
        if wanted != "run":
            self.left = wanted
            self.control.cancel()

    def made(self, num_frames: int, num_bytes: int) -> None:
        """The last word of a film that is not being made any more."""
        self._last = replace(self._last, num_frames=num_frames, num_bytes=num_bytes)
        self._worker.queue.report(self._job.id, self._worker.name, self._last)

    def wait_for_room(self) -> None:
        """The disk is full: wait until it is not, or nobody wants the film."""
        while True:
            wanted = self._report("the disk is full")
            if wanted != "run":
                raise _Left(wanted)
            if self._worker.store.free_bytes() > 0:
                return
            time.sleep(FULL)

    def settle(self, what: Callable[[], object]) -> None:
        """Write down how it ended, even if that has to wait for room."""
        while True:
            try:
                what()
                return
            except BUSY:
                time.sleep(FULL)
            except LostJobError:
                return

    def _report(self, waiting: str) -> Wanted:
        try:
            return self._worker.queue.report(self._job.id, self._worker.name, replace(self._last, waiting=waiting))
        except BUSY:
            return "run"  # if the disk is full, the film itself will find out


def _failure(error: MemoryError | RuntimeError | OSError) -> Failure:
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        rule = "the server has too little memory for that; ask for fewer pixels or frames a window"
        return Failure("generation_failed", f"memory: {rule}")
    if isinstance(error, OSError):
        return Failure("internal_error", f"the film's file: {error.strerror or 'cannot be written'}")
    return Failure("internal_error", "the film could not be made; the server's log says why")


def _end_with_the_server() -> None:
    """Nothing is said to a worker but that it should end."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main() -> None:
    """Serve films until the server is gone."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICER)
    if told["threads"]:
        torch.set_num_threads(told["threads"])
    keep_freed_memory()
    start_telling(file_of(folder, told["place"]), name)
    served = {model: model_options(**options) for model, options in told["models"].items()}
    models = Models(served)
    first = next(iter(served))
    if not served[first].memory:
        models.load(first)
    home = open_home(folder)
    Worker(name, home.queue, home.store, models).run()


if __name__ == "__main__":
    main()
