"""What clients send, read for the first time: in a process of its own, with limits to its memory and its time.

What is quick to see is seen here: how large a file is, and what its first bytes say. The rest is `reader`'s, a script
that is started anew for each file and can open nothing. The one invariant: no byte behind the first few is parsed in
this process; and what the other one answers is not believed either, but checked like anything that came from outside.

Limits to memory and time are those of POSIX. On macOS memory has none, on Windows only the clock on the wall counts.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal

from everreel.film.request import RequestError
from everreel.serve.jobs.job import BusyError, DiskFullError, Limits, Upload

WORKS = "a PNG, JPEG or WebP picture or an MP4, MOV, MKV or WebM film works"
UNREADABLE = f"upload: cannot be read as a picture or a film; {WORKS}"
MOST_FRAMES, MOST_STREAMS = 300_000, 16  # of a film
MOST_DECODED = 20_000_000_000  # pixels of all frames of a film together: a quarter of an hour of 720p
SPARE = 8  # times the pixels of a frame, that a picture keeps
MEMORY = 1_500_000_000  # bytes of address space, of which the libraries take a tenth
HEAD_BYTES, ANSWER_BYTES = 64, 4096
AT_ONCE = 2  # processes that read; whoever comes then waits
_READER = Path(__file__).with_name("reader.py")
KEPT = ("LD_LIBRARY_PATH", "SYSTEMROOT")  # of the environment: without them some systems start no Python at all
_TURNS = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True)
class _Kind:
    """What a file's first bytes say it is."""

    format: str
    """As `reader` names it."""
    suffix: str
    cpu: int
    """Seconds of work that reading it may take."""
    clock: float
    """Seconds on the wall, when others work too."""


_PICTURES = {name: _Kind(name, ".png", 30, 90) for name in ("PNG", "JPEG", "WEBP")}
_FILMS = {name: _Kind(name, f".{name}", 120, 300) for name in ("mp4", "mov", "mkv", "webm")}
_STILLS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"crx ")


def inspect(source: Path, limits: Limits) -> Upload:
    """What a file is.

    A picture is written anew in its place: upright, as a PNG without anything else in it, and with no more than eight
    times the pixels that a frame may have, so that whoever reads it next needs little memory.

    Any number of threads may call it; few files are read at once.

    Raises:
        RequestError: it is neither a picture nor a film that can be used, or is beyond a limit; in one line.
        DiskFullError: there is no room to write the picture.
        BusyError: this machine has no process to spare now.
    """
    with _opened(source, limits) as file:
        kind = _kind(file.read(HEAD_BYTES))
        file.seek(0)
        if not _TURNS.acquire(timeout=kind.clock):
            raise BusyError("upload: too many are being read; try again in a minute")
        try:
            if kind.format in _FILMS:
                return _checked(_ask(kind, limits, file, None), kind, limits)
            return _written_anew(source, kind, limits, file)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError("upload: this server's disk is full; try again later") from None
            raise BusyError("upload: cannot be read now; try again in a minute") from None
        finally:
            _TURNS.release()


def upload_options(suffix: str) -> dict[str, str]:
    """What keeps FFmpeg to what an uploaded film was taken for, as for `SourceFilm.open`, and to one thread."""
    from everreel.serve.jobs.reader import film_options

    return film_options(suffix[1:]) | {"threads": "1"}


@contextmanager
def _opened(source: Path, limits: Limits) -> Iterator[BinaryIO]:
    """A file of a size that is allowed; nothing that a name merely points to, and nothing that is no file."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(source, flags), "rb", buffering=0)
    except OSError:
        raise RequestError(UNREADABLE) from None
    with file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise RequestError(UNREADABLE)
        if about.st_size > limits.upload_bytes:
            rule = f"at most {limits.upload_bytes} bytes; a smaller file works"
            raise RequestError(f"upload = {about.st_size} bytes: {rule}")
        yield file


def _kind(head: bytes) -> _Kind:
    """What the first bytes say. Raises: RequestError."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _PICTURES["PNG"]
    if head.startswith(b"\xff\xd8\xff"):
        return _PICTURES["JPEG"]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _PICTURES["WEBP"]
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _FILMS["webm" if b"webm" in head else "mkv"]
    if head[4:8] == b"ftyp" and head[8:12] not in _STILLS:
        return _FILMS["mov" if head[8:12] == b"qt  " else "mp4"]
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):  # QuickTime from before there were brands
        return _FILMS["mov"]
    raise RequestError(UNREADABLE)


def _written_anew(source: Path, kind: _Kind, limits: Limits, file: BinaryIO) -> Upload:
    """A picture, and a new file in the place of the one that was sent."""
    handle, name = tempfile.mkstemp(dir=source.parent, prefix=".upload-")
    part = Path(name)
    try:
        with os.fdopen(handle, "w+b") as out:
            found = _checked(_ask(kind, limits, file, out), kind, limits)
            out.seek(0)
            head = out.read(24)
        if head[:8] != b"\x89PNG\r\n\x1a\n" or head[16:] != struct.pack(">II", found.width, found.height):
            raise RequestError(UNREADABLE)
        part.replace(source)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return found


def _ask(kind: _Kind, limits: Limits, file: BinaryIO, out: BinaryIO | None) -> Mapping[str, Any]:
    """What the reader says of a file.

    Raises:
        RequestError: it was stopped, died, or said what nobody understands.
        OSError: it cannot be started.
    """
    rules = {
        "format": kind.format,
        "places": _places(),
        "pixels": limits.upload_pixels,
        "kept": SPARE * limits.pixels,
        "seconds": limits.upload_seconds,
        "frames": MOST_FRAMES,
        "total": MOST_DECODED,
        "streams": MOST_STREAMS,
        "memory": MEMORY,
        "cpu": kind.cpu,
        "output": 5 * SPARE * limits.pixels + (1 << 20) if out else 0,
    }
    command = [sys.executable, "-I", "-S", "-B", str(_READER), json.dumps(rules)]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    with (
        tempfile.TemporaryDirectory(prefix="everreel-") as empty,
        subprocess.Popen(
            command,
            stdin=file,
            stdout=out or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=empty,
            env=environment,
        ) as process,
    ):
        assert process.stderr is not None
        stopped = threading.Event()
        timer = threading.Timer(kind.clock, _stop, (process, stopped))
        timer.start()
        try:
            answer = process.stderr.read(ANSWER_BYTES)
            if len(answer) == ANSWER_BYTES:  # far more than it has to say; the rest stays in the pipe
                process.kill()
            code = process.wait()
        finally:
            process.kill()
            timer.cancel()
    if stopped.is_set() or code == -getattr(signal, "SIGXCPU", 0):
        raise RequestError("upload: takes too long to read; a smaller or shorter one works")
    return _parsed(answer, code)


def _stop(process: subprocess.Popen[bytes], stopped: threading.Event) -> None:
    stopped.set()
    process.kill()


def _parsed(answer: bytes, code: int) -> Mapping[str, Any]:
    """One line of JSON, or nothing of it."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if code != 0 or not isinstance(said, dict) or answer.count(b"\n") != 1:
        raise RequestError(UNREADABLE)
    return said


def _checked(said: Mapping[str, Any], kind: _Kind, limits: Limits) -> Upload:
    """An upload out of what the reader says. Raises: RequestError, also where it says what cannot be."""
    if "refused" in said:
        raise RequestError(_refusal(said, limits))
    width, height, seconds = (finite(said.get(name)) for name in ("width", "height", "seconds"))
    kind_of: Literal["image", "video"] = "video" if kind.format in _FILMS else "image"
    # Beside what the limit counts, the last frame is shown for a while.
    right = 0 < width * height <= limits.upload_pixels and width > 0 and 0 <= seconds <= 2 * limits.upload_seconds
    if not right or said.get("kind") != kind_of:
        raise RequestError(UNREADABLE)
    return Upload(kind_of, kind.suffix, int(width), int(height), float(seconds))


def finite(value: object) -> float:
    """A number that another process told. Raises: RequestError, where it is none."""
    with suppress(OverflowError):  # of digits without end
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return value
    raise RequestError(UNREADABLE)


def _refusal(said: Mapping[str, Any], limits: Limits) -> str:
    """One line about a rule that a file breaks; only numbers come from the reader."""
    values = said.get("values")
    numbers = [f"{finite(value):.10g}" for value in values] if isinstance(values, list) else []
    match said.get("refused"), numbers:
        case "pixels", [width, height]:
            rule = f"at most {limits.upload_pixels} pixels; a smaller picture works"
            return f"upload = {width}x{height}: {rule}"
        case "seconds", [seconds]:
            rule = f"a film may have at most {limits.upload_seconds:g} s; a shorter one works"
            return f"upload = {seconds} s: {rule}"
        case "frames", [_]:
            return f"upload: a film may have at most {MOST_FRAMES} frames; a shorter one works"
        case "total", [_]:
            return f"upload: a film's frames may have at most {MOST_DECODED} pixels together; a shorter one works"
        case "streams", [streams]:
            return (
                f"upload = {streams} streams: a film may have at most {MOST_STREAMS}; one with pictures and sound works"
            )
        case "codec", []:
            return "upload: is coded in a way that is not read here; H.264, HEVC, VP9, AV1 or ProRes works"
        case "memory", []:
            return "upload: takes too much memory to read; a smaller one works"
    return UNREADABLE


def _places() -> list[str]:
    """The folders that the reader's libraries lie in; it finds no others."""
    found = [spec.origin for name in ("PIL", "av") if (spec := find_spec(name)) and spec.origin]
    return list(dict.fromkeys(str(Path(origin).parents[1]) for origin in found))
