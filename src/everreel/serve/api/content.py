"""A file of a finished film over HTTP, whole or some bytes of it (RFC 9110, section 14).

One range is answered with 206; several at a time are answered with the whole, as a server may. The one invariant: what
is sent is what was announced, to the byte; the file is opened before the answer begins and closed when it ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from typing import BinaryIO

from anyio import CancelScope, to_thread
from fastapi import Response
from fastapi.responses import StreamingResponse

from everreel.serve.api.errors import ApiError
from everreel.serve.jobs.job import Job, NotFoundError, Owner, Part
from everreel.serve.jobs.service import Jobs

CHUNK = 256 * 1024
VARIANTS: dict[str, tuple[Part, str]] = {
    "video": ("film.mp4", "video/mp4"),
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
}


def content(jobs: Jobs, job: Job, owner: Owner, variant: str, headers: Mapping[str, str], head: bool) -> Response:
    """A part of a film, as the headers ask for it.

    Raises:
        ApiError: it is not finished, or there are no such bytes.
    """
    part, kind = VARIANTS[variant]
    if part == "film.mp4" and not job.whole:
        done, over = ("", "is stopped") if job.order.endless else (f", {job.progress} %", "is completed")
        said = f"video = {job.id}: is {job.status.replace('_', ' ')}{done}; its content is there when it {over}"
        raise ApiError(404, f"{said}, and GET /v1/videos/{job.id}/stream now", "video_id", "not_completed")
    try:
        file = jobs.open(job.id, part, owner)
    except NotFoundError:
        raise ApiError(404, f"{variant}: this film has none yet", "variant", "not_completed") from None
    try:
        length = file.seek(0, os.SEEK_END)
        tag = f'"{job.id[6:]}-{variant}-{length:x}-{job.completed_at or 0:x}"'
        base = {
            "Accept-Ranges": "bytes",
            "ETag": tag,
            # What was stopped may be gone on with, and then other bytes have this address.
            "Cache-Control": f"private, {'max-age=3600' if job.status == 'completed' else 'no-cache'}",
            "Content-Disposition": f'inline; filename="{job.id}.{part.rpartition(".")[2]}"',
        }
        if job.completed_at is not None:
            base["Last-Modified"] = formatdate(job.completed_at, usegmt=True)
        if _same(headers.get("if-none-match", ""), tag):
            file.close()
            return Response(status_code=304, headers=base)
        begin, end = 0, length
        only_if = headers.get("if-range")
        if "range" in headers and (only_if is None or only_if in (tag, base.get("Last-Modified"))):
            begin, end = _range(headers["range"], length)
        if (begin, end) != (0, length):
            base["Content-Range"] = f"bytes {begin}-{end - 1}/{length}"
        base["Content-Length"] = str(end - begin)
        status = 206 if "Content-Range" in base else 200
        if head:
            file.close()
            return Response(status_code=status, headers=base, media_type=kind)
        return StreamingResponse(_bytes(file, begin, end), status, base, kind)
    except BaseException:
        file.close()
        raise


async def _bytes(file: BinaryIO, begin: int, end: int) -> AsyncIterator[bytes]:
    try:
        await to_thread.run_sync(file.seek, begin)
        while begin < end:
            data = await to_thread.run_sync(file.read, min(CHUNK, end - begin))
            if not data:
                raise OSError("the film became shorter while it was sent")
            begin += len(data)
            yield data
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(file.close)


def _range(asked: str, length: int) -> tuple[int, int]:
    """Begin and end of the bytes; all of them where the header is not of this kind, or asks for several ranges."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", asked, re.ASCII | re.IGNORECASE)
    if match is None or match[1] == match[2] == "":
        return 0, length
    if match[1] == "":
        begin, end = max(0, length - int(match[2])), length
    else:
        begin, end = int(match[1]), min(length, int(match[2]) + 1) if match[2] else length
        if match[2] and int(match[2]) < begin:
            return 0, length
    if begin >= length or begin >= end:
        said = f"Range: the film has {length} bytes; nearest that works: bytes=0-{length - 1}"
        raise ApiError(416, said, "Range", "invalid_range", {"Content-Range": f"bytes */{length}"})
    return begin, end


def _same(asked: str, tag: str) -> bool:
    return asked.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in asked.split(","))
