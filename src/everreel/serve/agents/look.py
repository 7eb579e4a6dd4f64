"""Looking at a film that is made, or being made: single frames, and a sheet of them for somebody who judges.

The one invariant: a film is read where its store has it, and only what is finished of it; each picture that leaves here
is bounded in pixels and in bytes.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from everreel.film.request import RequestError
from everreel.media import Pixels, contact_sheet
from everreel.serve.jobs.job import Limits, NotFoundError, Owner
from everreel.serve.jobs.sent import SentFilm, looked_at
from everreel.serve.jobs.service import Jobs, naming
from everreel.serve.jobs.uploads import inspect

if TYPE_CHECKING:
    from everreel.caption.schema import Captioner, StructuralCaption

MOST_BYTES = 500_000
"""Of a picture: as base64 it stays below the MiB that a client takes in one message."""
CELL_WIDTH, COLUMNS = 320, 4
QUALITIES = (88, 75, 60, 40)


@contextmanager
def opened(jobs: Jobs, film: str, owner: Owner) -> Iterator[SentFilm]:
    """A film as far as it is finished.

    Raises:
        NotFoundError: there is no such film, or nothing of it yet.
    """
    job = jobs.get(film, owner)
    try:
        file = jobs.open(film, "film.mp4", owner)
    except NotFoundError:
        status = job.status.replace("_", " ")
        raise NotFoundError(f"film = {film}: has no frames yet, it is {status}; wait_for_film says when") from None
    with file, _on_disk(file) as path, looked_at(path) as video:  # it may begin with what somebody sent
        yield video


def captioned(field: str, path: Path, captioner: Captioner, limits: Limits) -> StructuralCaption:
    """What a captioner sees in a film that was sent, which is read first where all uploads are.

    Raises:
        RequestError: it is none that can be used, or is beyond a limit.
        JobError: it cannot be read now.
    """

    def seen() -> StructuralCaption:
        found = inspect(path, limits)
        if found.kind != "video":
            raise RequestError("film: is a picture; give a film")
        with looked_at(path, found.suffix) as film:
            try:
                return captioner.caption(film.frames, film.fps)
            except ValueError as error:  # a frame that is looked at, or all of them
                raise RequestError(str(error)) from None

    return naming(field, seen)


def number_of(frame: int, video: SentFilm, field: str = "frame") -> int:
    """A frame's number from the first on. Raises: RequestError: there is no such frame."""
    last = video.num_frames - 1
    if not -video.num_frames <= frame <= last:
        nearest = min(max(frame, 0), last)
        raise RequestError(f"{field} = {frame}: the film has frames 0..{last}; nearest that works: {nearest}")
    return frame % video.num_frames


def spread_over(video: SentFilm, count: int) -> list[int]:
    """So many frames from the first to the last, each once."""
    return sorted(set(np.linspace(0, video.num_frames - 1, count).round().astype(int).tolist()))


def sheet(video: SentFilm, numbers: Sequence[int]) -> bytes:
    """A JPEG with these frames by rows, each with its number and its time below."""
    cells = [_shrunk(video.frames[number])[None] for number in numbers]
    words = [f"frame {number}, {number / video.fps:.2f} s" for number in numbers]
    return jpeg(contact_sheet(cells, columns=min(COLUMNS, len(cells)), captions=words))


def jpeg(pixels_HWC: Pixels) -> bytes:
    """A picture as a JPEG that is not too large for a message."""
    picture = Image.fromarray(pixels_HWC)
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= MOST_BYTES:
                return buffer.getvalue()
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def _shrunk(pixels_HWC: Pixels) -> Pixels:
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((CELL_WIDTH, 4 * CELL_WIDTH))
    return np.asarray(picture)


@contextmanager
def _on_disk(file: BinaryIO) -> Iterator[Path]:
    """Where the file lies; a store that has it elsewhere lends a copy."""
    name = getattr(file, "name", None)
    if isinstance(name, str) and Path(name).is_file():
        yield Path(name)
        return
    with tempfile.NamedTemporaryFile(prefix="everreel-", suffix=".mp4") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        yield Path(copy.name)
