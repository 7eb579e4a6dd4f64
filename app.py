"""everreel's page for everybody, as Hugging Face Spaces run it: the embedded model, and a small quota for each visitor.

`python app.py` serves it on port 7860. The one invariant: a visitor is the session of an open page and nothing else, so
nobody sees another's films, and all of them go with the folder that they are made in. Films are ordered on the page
alone: the HTTP interface only hands out those that the page has given a token for. A session is what a browser says it
is, so whoever makes one up has a quota anew; what all visitors have together has an end of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if importlib.util.find_spec("everreel") is None:  # a Space installs requirements.txt, and not the repository
    sys.path.insert(0, str(Path(__file__).parent / "src"))
    os.environ["PYTHONPATH"] = sys.path[0]  # of the worker

from everreel.film.loading import ModelOptions, model_options
from everreel.memory import share_freed_memory
from everreel.serve.api.app import make_app
from everreel.serve.api.settings import Settings
from everreel.serve.api.tokens import Tokens
from everreel.serve.jobs.home import open_home
from everreel.serve.jobs.job import (
    FilmStore,
    Job,
    JobError,
    JobQueue,
    Limits,
    Once,
    Owner,
    Quota,
    QuotaError,
    Upload,
    Wanted,
)
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs, serve_options
from everreel.serve.jobs.supervisor import Supervisor
from everreel.serve.ui.page import mount
from everreel.serving import cleaning
from everreel.web import bind, run

HOST, PORT = "0.0.0.0", 7860
RETENTION = 3600  # seconds that a film is kept, and that it may be paused
QUOTA = Quota(films=4, seconds=30, bytes=30_000_000)
LIMITS = Limits(
    seconds=10,
    pixels=160 * 96,
    steps=30,
    prompt=1000,
    upload_bytes=8_000_000,
    upload_pixels=12_000_000,
    upload_seconds=1,
    retention=RETENTION,
)
WAITING, KEPT, UPLOADED = 24, 400, 500_000_000  # films to be made, films there are, bytes of uploads: everybody's
LATER = "come again in a few minutes"
PARENTS = "https://huggingface.co https://*.hf.space"


class _Nobody:
    """Keys, of which there are none, so that nothing of the HTTP interface opens without a token."""

    def any(self) -> bool:
        return True

    def owner(self, key: str) -> Owner | None:
        return None


class Crowd(Jobs):
    """Films of all visitors, with an end to what they have together: `WAITING`, `KEPT` and `UPLOADED`."""

    def __init__(self, queue: JobQueue, store: FilmStore, models: Mapping[str, ModelOptions], limits: Limits) -> None:
        super().__init__(queue, store, models, limits)
        self._held = threading.Lock()  # between looking whether there is room and taking it
        self._paused: dict[str, float] = {}

    def submit(self, order: Order, owner: Owner, *, priority: int = 0, once: Once | None = None) -> tuple[Job, bool]:
        """As `Jobs.submit`. Raises: also QuotaError, where all visitors have as much as may be."""
        with self._held:
            self._check_room()
            return super().submit(order, owner, priority=priority, once=once)

    def want(self, job_id: str, wanted: Wanted, owner: Owner) -> Job:
        """As `Jobs.want`. Raises: as `submit`."""
        with self._held:
            if wanted == "run" and self.get(job_id, owner).state != "in_progress":
                self._check_room(more=False)
            return super().want(job_id, wanted, owner)

    def upload(self, source: Path, owner: Owner) -> Upload:
        """As `Jobs.upload`. Raises: as `submit`."""
        if self.store.uploads(None) > UPLOADED:
            raise QuotaError(f"upload: everybody's pictures together are as many as this page keeps; {LATER}")
        return super().upload(source, owner)

    def clean(self) -> None:
        """As `Jobs.clean`; films that are paused for too long are stopped, so that they go as well."""
        now = time.monotonic()
        paused = {job.id for job in self.queue.page(None, limit=2 * KEPT) if job.state == "paused"}
        self._paused = {name: self._paused.get(name, now) for name in paused}
        for name in (name for name, since in self._paused.items() if now - since > RETENTION):
            with contextlib.suppress(JobError):  # its visitor was first
                self.queue.want(name, "cancel")
        super().clean()

    def _check_room(self, *, more: bool = True) -> None:
        films = self.queue.counts()
        if films["queued"] + films["in_progress"] >= WAITING:
            raise QuotaError(f"films: {WAITING} wait to be made, everybody's together; {LATER}")
        if more and sum(films.values()) >= KEPT:
            raise QuotaError(f"films: {KEPT} are kept, everybody's together, for an hour each; {LATER}")


def visitor(session: str) -> Owner:
    """Who has this page open."""
    return Owner(f"visitor-{hashlib.sha256(session.encode()).hexdigest()[:24]}", QUOTA)


def make(home: Path) -> tuple[Any, Jobs, Supervisor]:
    """The application, its films, and who looks after its worker."""
    models = serve_options(model_options())
    queue, store = open_home(home)
    jobs = Crowd(queue, store, models, LIMITS)
    supervisor = Supervisor(home, queue, models)
    tokens = Tokens.of(home)
    settings = Settings(store.incoming(), page=True, requests_per_minute=600)
    app = make_app(jobs, _Nobody(), settings, tokens, supervisor.pids, device_memory=supervisor.device_memory)
    mount(app, jobs, lambda key: None, tokens, visitor=visitor, parents=PARENTS)
    return app, jobs, supervisor


def main() -> None:
    """Serve until stopped."""
    share_freed_memory()
    with tempfile.TemporaryDirectory(prefix="everreel-") as home:
        app, jobs, supervisor = make(Path(home))
        with bind(HOST, PORT) as bound, cleaning(jobs):
            supervisor.start()
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    run(app, bound)
            finally:
                supervisor.stop()


if __name__ == "__main__":
    main()
