"""A film while it is made: its bytes as fragmented MP4, and what happens to it as server-sent events.

The film's file grows by whole blocks, each some `moof` and `mdat` boxes (ISO/IEC 14496-12); a block that is not on disk
in full begins with a box of another kind, or of no size. The header tells how long the film is so far, in the box
`mehd`, at which players would stop; on the way out it becomes a `free` box of the same size.

The one invariant: what is sent is a header and whole fragments, in order, each once; never a piece of one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from everreel.boxes import find
from everreel.serve.api.errors import ApiError
from everreel.serve.api.schema import video_of
from everreel.serve.jobs.job import Job, NotFoundError, Owner
from everreel.serve.jobs.service import PULSE, Jobs

FEW = 16  # watchers at a time that are told at once; of more each is told a little later
ALIVE = 15.0  # seconds after which an event stream says that it is still there
MOST_HEADER, MOST_FRAGMENT = 8 << 20, 1 << 30
PIECE = 256 * 1024
_HEADER_KINDS = (b"ftyp", b"moov", b"free", b"skip", b"styp", b"uuid", b"udta", b"meta")
_BEFORE = (*_HEADER_KINDS, b"sidx", b"prft", b"emsg")
T = TypeVar("T")
log = logging.getLogger(__name__)


class LiveError(ValueError):
    """The film's file is not what it must be."""


class Live:
    """All who watch films being made, at most so many at a time."""

    def __init__(self, jobs: Jobs, most: int) -> None:
        self._jobs, self._most, self.watching = jobs, most, 0
        self._threads = CapacityLimiter(4)  # so that watchers never take all threads of the server

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """One of those who watch."""
        self.watching += 1
        try:
            yield
        finally:
            self.watching -= 1

    def check_room(self) -> None:
        """Raises: ApiError, as many watch as may."""
        if self.watching >= self._most:
            said = f"streams: this server has {self._most} at a time, and all are taken; ask again soon"
            raise ApiError(429, said, None, "too_many_streams", {"Retry-After": "10"})

    async def film(self, request: Request, job: Job, owner: Owner) -> AsyncIterator[bytes]:
        """A film's bytes from the first on, for as long as it is made; while it is paused there are none."""
        with self.seat():
            tail = Tail(lambda: self._jobs.store.open(job.id, "film.mp4"))
            while True:
                state = await self._do(lambda: self._get(job.id, owner))
                try:
                    while state is not None and (fragment := await self._do(tail.read)) is not None:
                        for start in range(0, len(fragment), PIECE):
                            yield fragment[start : start + PIECE]
                except LiveError as error:
                    log.error("the stream of %s ended: %s", job.id, error)
                    return
                if state is None or state.over or await request.is_disconnected():
                    return
                await asyncio.sleep(self._pause())

    async def over(self, request: Request, job_id: str, owner: Owner) -> Job | None:
        """The film when it is over, or as it stands when nobody waits for it any more; None, if it was deleted."""
        while True:
            state = await self._do(lambda: self._get(job_id, owner))
            if state is None or state.over or await request.is_disconnected():
                return state
            await asyncio.sleep(self._pause())

    async def events(self, request: Request, job: Job, owner: Owner, preview: bool) -> AsyncIterator[str]:
        """What happens to a film, until it is over."""
        with self.seat():
            seen, shown, quiet = -1, b"", 0.0
            while True:
                state = await self._do(lambda: self._get(job.id, owner))
                if state is None:
                    yield _event("deleted", None, {"id": job.id})
                    return
                if state.version != seen:
                    seen, quiet = state.version, 0.0
                    video = await self._do(lambda state=state: video_of(state, self._jobs))  # type: ignore[misc]
                    yield _event("progress", seen, video.model_dump())
                if preview:
                    found = await self._do(lambda: self._preview(job.id))
                    if found and found != shown:
                        shown, quiet = found, 0.0
                        url = "data:image/jpeg;base64," + base64.b64encode(found).decode()
                        yield _event("preview", None, {"id": job.id, "image_url": url})
                if state.over:
                    yield _event("done", None, {"id": job.id, "state": state.status})
                    return
                if await request.is_disconnected():
                    return
                pause = self._pause()
                await asyncio.sleep(pause)
                quiet += pause
                if quiet > ALIVE:
                    quiet = 0.0
                    yield ": still here\n\n"

    def _pause(self) -> float:
        return PULSE * max(1.0, self.watching / FEW)

    async def _do(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call, limiter=self._threads)

    def _get(self, job_id: str, owner: Owner) -> Job | None:
        try:
            return self._jobs.get(job_id, owner)
        except NotFoundError:
            return None

    def _preview(self, job_id: str) -> bytes | None:
        self._jobs.store.wish(job_id)
        try:
            with self._jobs.store.open(job_id, "preview.jpg") as file:
                return file.read()
        except NotFoundError:
            return None


class Tail:
    """The end of a growing film: `read` gives its header, then each fragment that is there in full."""

    def __init__(self, open_film: Callable[[], BinaryIO]) -> None:
        self._open, self._at = open_film, 0

    def read(self) -> bytes | None:
        """The next bytes to be sent; none where there are none yet.

        Raises:
            LiveError: the file holds boxes that no film here has.
        """
        try:
            file = self._open()
        except NotFoundError:
            return None
        with file:
            return self._header(file) if self._at == 0 else self._fragment(file)

    def _header(self, file: BinaryIO) -> bytes | None:
        """All before the first fragment, once that is there."""
        at = 0
        while (box := _box(file, at)) is not None and box[0] != b"moof":
            if box[0] not in _HEADER_KINDS:
                raise LiveError("not a fragmented MP4")
            at += box[1]
            if at > MOST_HEADER:
                raise LiveError("too long a header")
        if box is None or _pair(file, at) is None:
            return None
        file.seek(0)
        header = bytearray(file.read(at))
        without_length(header)
        self._at = at
        return bytes(header)

    def _fragment(self, file: BinaryIO) -> bytes | None:
        end = _pair(file, self._at)
        if end is None:
            return None
        file.seek(self._at)
        data = file.read(end - self._at)
        if len(data) < end - self._at:
            return None  # cut off since: it will be there again, with the same bytes
        self._at = end
        return data


def without_length(header: bytearray) -> None:
    """Let a film's header say nothing of its length, in place."""
    with contextlib.suppress(ValueError):  # it says nothing of it as it is
        content = find(io.BytesIO(header), 0, len(header), b"moov", b"mvex", b"mehd")
        size = int.from_bytes(header[content - 8 : content - 4])
        header[content - 4 : content - 8 + size] = b"free" + bytes(size - 8)


def _box(file: BinaryIO, at: int) -> tuple[bytes, int] | None:
    """Kind and size of the box that begins there; none where it has no size yet."""
    file.seek(at)
    head = file.read(8)
    if len(head) < 8:
        return None
    size, kind = struct.unpack(">I4s", head)
    if size == 1:
        raise LiveError("a box with a size of 64 bits")
    return None if size < 8 else (kind, size)


def _pair(file: BinaryIO, at: int) -> int | None:
    """Where a fragment ends that begins there; none where it is not there in full."""
    end, length = at, file.seek(0, 2)
    while (box := _box(file, end)) is not None:
        kind, size = box
        end += size
        if end > length or end - at > MOST_FRAGMENT:
            return None
        if kind == b"mdat":
            return end
        if kind != b"moof" and kind not in _BEFORE:
            return None
    return None


def _event(name: str, number: int | None, data: object) -> str:
    said = "" if number is None else f"id: {number}\n"
    return f"{said}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
