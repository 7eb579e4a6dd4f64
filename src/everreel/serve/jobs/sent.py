"""A film that a client sent, or that begins with one: decoded in a process of its own, with limits, whenever it is.

`uploads` has read it once; the packets are still those that were sent. So no process that serves or that makes films
decodes them: `decoder` does, and what it answers is not believed, but checked like anything that came from outside.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from everreel.film.reencode import PIXEL_FORMATS
from everreel.film.request import RequestError
from everreel.film.source import MOST_SIDE
from everreel.film.splice import Seam, Splice
from everreel.media import Pixels
from everreel.serve.jobs.job import BusyError
from everreel.serve.jobs.uploads import AT_ONCE, KEPT, MEMORY, finite, upload_options

MOST_PIXELS = 1 << 27  # of a frame as it is seen; far beyond what an upload may have
MOST_FRAMES = 100_000_000
MOST_CLOCK = 10_000_000  # ticks a second
MOST_TOLD = 1 << 20  # characters of a line
_ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # their stacks are memory too
_UNREADABLE = "upload: cannot be decoded; an MP4, MOV, MKV or WebM film works"
_TOO_LONG = "upload: takes too long to decode; a smaller or shorter film works"
_BUSY = "film: cannot be decoded now; try again in a minute"
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_TURNS = threading.BoundedSemaphore(AT_ONCE)
_TOO_LARGE = "upload: takes too much memory to decode; a smaller film works"


@dataclass(frozen=True)
class Bounds:
    """What a process that decodes may use."""

    memory: int
    """Bytes of address space."""
    cpu: int
    """Seconds of work."""
    clock: float
    """Seconds on the wall that one answer may take, when others work too."""
    output: int
    """Bytes of a file that it writes."""


LOOK = Bounds(MEMORY, cpu=120, clock=300, output=0)
"""To see frames of a film."""
WRITE = Bounds(3 * MEMORY, cpu=7200, clock=4 * 3600, output=1 << 40)
"""To put a whole film before another, which where packets cannot be copied is to encode it."""


class SentFilm:
    """A film as it is seen. `sent_film` opens one, and ends its process afterwards.

    Every method raises RequestError, in one line, where the film cannot be decoded within its limits.
    """

    def __init__(self, path: Path, process: subprocess.Popen[bytes], bounds: Bounds) -> None:
        self.path, self._process, self._bounds = path, process, bounds
        told, _ = self._answer()
        self.height, self.width, self.num_frames = (
            int(finite(told.get(name))) for name in ("height", "width", "num_frames")
        )
        self.num_bytes = path.stat().st_size
        self.fps = float(finite(told.get("fps")))
        sides = 0 < self.height <= MOST_SIDE and 0 < self.width <= MOST_SIDE
        frames = self.fps > 0 and 0 < self.num_frames <= MOST_FRAMES
        if not (sides and frames and self.height * self.width <= MOST_PIXELS):
            raise RequestError(_UNREADABLE)

    @property
    def frames(self) -> SentFrames:
        """Each is decoded when it is asked for."""
        return SentFrames(self)

    def frame(self, number: int) -> Pixels:
        """H x W x 3, of 0..num_frames - 1."""
        pixels_HWC: Pixels = self._pixels({"frame": [number]}, 1, (self.height, self.width))[0]
        return pixels_HWC

    def tail(self, num_frames: int, fps: int, size: tuple[int, int]) -> Pixels:
        """T x H x W x 3, as `SourceFilm.tail` has them."""
        return self._pixels({"tail": [num_frames, fps, *size]}, num_frames, size)

    def splice(self, output: Path, fps: int) -> Seam:
        """Begin a film with this one, in a file of its own, for `Splice.take_over`. Raises also OSError."""
        told, _ = self._ask({"splice": [str(output), fps]})
        with suppress(ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError):
            seam = Seam.of(told["seam"])
            if seam.num_bytes == output.stat().st_size and self._may_be(seam):
                return seam
        raise RequestError(_UNREADABLE)

    def _may_be(self, seam: Seam) -> bool:
        """Whether it is a seam of this film, and says nothing to the encoder but what `Splice` does."""
        picture, known = seam.picture, {"x264-params": r"sps-id=\d{1,2}", "profile": "baseline|main"}
        sides = 0 < picture.height <= MOST_SIDE and 0 < picture.width <= MOST_SIDE
        return (
            sides
            and picture.height * picture.width <= MOST_PIXELS
            and picture.seen_size == (self.height, self.width)
            and seam.pixel_format in PIXEL_FORMATS
            and all(re.fullmatch(known[name], value) for name, value in seam.options.items())
            and all(type(value) is int for value in (seam.clock, seam.first, seam.last, seam.sound_end))
            and 0 < seam.clock <= MOST_CLOCK
        )

    def _pixels(self, question: Mapping[str, Any], most: int, size: tuple[int, int]) -> Pixels:
        """Up to so many frames, T x H x W x 3."""
        told, pixels = self._ask(question)
        match told.get("shape"):
            case [int(frames), *rest] if 0 < frames <= most and rest == [*size, 3]:
                shape = frames, *size, 3  # `rest` may have them as other kinds of numbers
                return np.frombuffer(pixels(math.prod(shape)), np.uint8).reshape(shape)
        raise RequestError(_UNREADABLE)

    def _ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        assert self._process.stdin is not None
        with suppress(OSError):  # it ended meanwhile, which a line without an end tells
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], Any]:
        """What is told, and a function that reads so many bytes behind it."""
        output = self._process.stdout
        assert output is not None
        with self._in_time():
            line = output.readline(MOST_TOLD)
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not line.endswith(b"\n"):
            self._ended()
        match told:
            case {"errno": errno.ENOMEM}:
                raise RequestError(_TOO_LARGE)
            case {"errno": int(number)} if number in _OF_DISKS and self._bounds.output:
                raise OSError(number, os.strerror(number))
            case {"errno": _}:
                self._ended()
            case {"refused": str(said)}:
                raise RequestError(" ".join(said.encode(errors="replace").decode().split())[:500])

        def pixels(num_bytes: int) -> bytes:
            with self._in_time():
                data = output.read(num_bytes)
            if len(data) != num_bytes:
                self._ended()
            return data

        return told, pixels

    def _ended(self) -> NoReturn:
        """It said nothing that is understood, or was ended."""
        _end(self._process)
        slow = self._process.wait() == -getattr(signal, "SIGXCPU", 0) or self._late
        raise RequestError(_TOO_LONG if slow else _UNREADABLE)

    _late = False

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        def stop() -> None:
            self._late = True
            _end(self._process)

        timer = threading.Timer(self._bounds.clock, stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class SentFrames:
    """The frames of a film, as a captioner and a contact sheet want them: `len`, and a number."""

    def __init__(self, film: SentFilm) -> None:
        self._film = film

    def __len__(self) -> int:
        return self._film.num_frames

    def __getitem__(self, number: int, /) -> Pixels:
        return self._film.frame(range(len(self))[number])


@contextmanager
def sent_film(path: Path, suffix: str | None = None, bounds: Bounds = LOOK) -> Iterator[SentFilm]:
    """A film that `uploads.inspect` let in, or that begins with such a one; `suffix` says what it was taken for.

    Raises:
        RequestError: its end is missing, or it cannot be decoded within its limits.
        OSError: no process can be started.
    """
    rules = {
        "path": str(path),
        "options": upload_options(suffix or path.suffix),
        "memory": bounds.memory,
        "cpu": bounds.cpu,
        "output": bounds.output,
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "everreel.serve.jobs.decoder", json.dumps(rules)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: os.environ[name] for name in (*KEPT, "PYTHONPATH") if name in os.environ} | _ALONE,
        start_new_session=True,  # the Ctrl-C that ends the server is not for it
    )
    try:
        yield SentFilm(path, process, bounds)
    finally:
        _end(process)
        with suppress(OSError), process:  # pipes may hold what nobody reads any more
            pass


@contextmanager
def looked_at(path: Path, suffix: str | None = None) -> Iterator[SentFilm]:
    """As `sent_film`, for a server: few at a time.

    Raises:
        RequestError: as there.
        BusyError: too many are being decoded, or this machine has no process to spare now.
    """
    if not _TURNS.acquire(timeout=LOOK.clock):
        raise BusyError(_BUSY)
    try:
        with sent_film(path, suffix) as film:
            yield film
    except OSError:
        raise BusyError(_BUSY) from None
    finally:
        _TURNS.release()


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it has started; once it is waited for, its number may be another's."""
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()


def spliced(source: Path, film: Path, fps: int) -> Splice:
    """The writer of a film that begins with one that was sent; `Journal.open_film` takes it.

    Raises:
        RequestError: the source cannot be decoded within its limits.
        OSError: the disk is full.
    """
    for old in film.parent.glob(f"{film.name}.begun-*"):  # of a process that was ended, and may be ending still
        old.unlink(missing_ok=True)
    begun = film.with_name(f"{film.name}.begun-{secrets.token_hex(8)}")
    try:
        with sent_film(source, bounds=WRITE) as sent:
            seam = sent.splice(begun, fps)
        return Splice.take_over(film, begun, seam, fps)
    finally:
        for left in (begun, begun.with_name(f"{begun.name}.part")):  # the second is of a process that was ended
            left.unlink(missing_ok=True)
