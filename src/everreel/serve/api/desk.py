"""What the routes share: jobs, limits, and how blocking work is kept off the event loop.

The one invariant: an order that comes again with its key of idempotency is the film that it was, also where its files
were sent again: they are compared by what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from everreel.serve.api.body import Body, Sent
from everreel.serve.api.errors import ApiError
from everreel.serve.api.live import Live
from everreel.serve.api.settings import Settings
from everreel.serve.jobs.job import Job, Once, Owner
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs

LONGEST_KEY = 255
FILES = ("input_reference", "image_reference", "video_reference", "reference_url", "end_image", "keyframes", "video")
T = TypeVar("T")


class Desk:
    """See the module."""

    def __init__(self, jobs: Jobs, settings: Settings) -> None:
        self.jobs, self.settings = jobs, settings
        self.live = Live(jobs, settings.most_live)
        # Few at a time, so that a thousand orders at once leave the processors to the films and to short answers.
        self._orders, self._files = CapacityLimiter(4), CapacityLimiter(2)

    async def work(self, call: Callable[[], T], *, files: bool = False) -> T:
        """Do what blocks; what reads files waits for its own few places."""
        return await to_thread.run_sync(call, limiter=self._files if files else self._orders)

    def submit(self, request: Request, body: Body, make: Callable[[Owner], tuple[Order, int]]) -> Job:
        """A film from a request, once for its key of idempotency. Raises: as `Jobs.submit`, and ApiError."""
        owner, key = owner_of(request), request.headers.get("idempotency-key")
        if key is None:
            order, priority = make(owner)
            return self.jobs.submit(order, owner, priority=priority)[0]
        if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise ApiError(400, f"Idempotency-Key: must be 1 to {LONGEST_KEY} plain characters", "Idempotency-Key")
        digest = hashlib.sha256(json.dumps([request.url.path, body.values], default=_digest).encode()).hexdigest()
        once = Once(key, digest)
        known = self.jobs.queue.known(owner.name, once)
        if known is not None:
            return known
        order, priority = make(owner)
        return self.jobs.submit(order, owner, priority=priority, once=once)[0]


def owner_of(request: Request) -> Owner:
    """Who asks, as the guard found."""
    owner = request.state.owner
    assert isinstance(owner, Owner)
    return owner


def has_files(body: Body) -> bool:
    """Whether anything of a body has to be read as a picture or a film."""
    return any(body.values.get(name) for name in FILES)


def _digest(value: Any) -> str:  # noqa: ANN401 -- what JSON cannot hold
    assert isinstance(value, Sent)
    return file_digest(value.path)


def file_digest(path: Path) -> str:
    """What is in a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
