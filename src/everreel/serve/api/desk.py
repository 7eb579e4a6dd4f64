"""What the routes share: jobs, limits, and how blocking work is kept off the event loop.

The one invariant: an order that comes again with its key of idempotency is the film that it was, also where its files
were sent again: they are compared by what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from everreel.serve.api.body import Body, Sent
from everreel.serve.api.errors import ApiError
from everreel.serve.api.live import Live
from everreel.serve.api.schema import Video, video_of
from everreel.serve.api.settings import Settings
from everreel.serve.jobs.enhancer import apart
from everreel.serve.jobs.job import Once, Owner
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs

LONGEST_KEY = 255
FILES = ("input_reference", "image_reference", "video_reference", "reference_url", "end_image", "keyframes", "video")
T = TypeVar("T")
Make = Callable[[Owner], tuple[Order, int]]
"""An order of its owner, and its priority."""


@dataclass(frozen=True)
class _Begun:
    """A film that waits for its prompts."""

    order: Order
    owner: Owner
    priority: int
    once: Once | None


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

    async def ask(self, call: Callable[[], T]) -> T:
        """Do what makes prompts whole; where a language model does, nobody else waits for the place of one who asks."""
        return await (apart(call) if self.jobs.enhancer.asks else self.work(call, files=True))

    async def submit(self, request: Request, body: Body, make: Make) -> Video:
        """A film from a request, once for its key of idempotency. Raises: as `Jobs.submit`, and ApiError."""
        begun = await self.work(lambda: self._begin(request, body, make), files=has_files(body))
        if isinstance(begun, Video):
            return begun
        whole = await self.ask(lambda: self.jobs.enhanced_order(begun.order, begun.owner))
        return await self.work(lambda: self._put(replace(begun, order=whole)))

    def _begin(self, request: Request, body: Body, make: Make) -> Video | _Begun:
        """The film, or what has to be asked before it is one."""
        owner, key = owner_of(request), request.headers.get("idempotency-key")
        once = None if key is None else self._once(request, body, key)
        known = once and self.jobs.queue.known(owner.name, once)
        if known:
            return video_of(known, self.jobs)
        order, priority = make(owner)
        begun = _Begun(order, owner, priority, once)
        return begun if order.enhance and self.jobs.enhancer.asks else self._put(begun)

    def _put(self, begun: _Begun) -> Video:
        job, _ = self.jobs.submit(begun.order, begun.owner, priority=begun.priority, once=begun.once)
        return video_of(job, self.jobs)

    def _once(self, request: Request, body: Body, key: str) -> Once:
        """The request by its key of idempotency. Raises: ApiError."""
        if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise ApiError(400, f"Idempotency-Key: must be 1 to {LONGEST_KEY} plain characters", "Idempotency-Key")
        told = json.dumps([request.url.path, body.values], default=_digest, sort_keys=True)
        return Once(key, hashlib.sha256(told.encode()).hexdigest())


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
