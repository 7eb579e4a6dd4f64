"""How old things are by a clock that no one can set: seconds that were lived through, counted in a file.

Films and uploads are deleted by age, and the date of a machine may jump by years. So their age is measured by the time
since the machine was started, which only ever runs, and a small file carries the sum over restarts. The one invariant:
the count never runs faster than time does; where it cannot tell how long something took, such as how long the machine
was off, it counts nothing, and things are kept longer.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

WRITTEN_EVERY = 60.0  # seconds; so much is forgotten at most when the machine goes off


class Age:
    """Counts in `file`. Any number of processes may use one file: all go on from the same moment, and none adds what
    another has added.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> float:
        """Seconds that were counted so far."""
        run, clock = running(), time.monotonic()
        read = self._read()
        if read is None:
            self._write(run, clock, 0)
            return 0
        before, then, age = read
        if before != run or clock < then:  # started again meanwhile
            self._write(run, clock, age)
            return age
        age += clock - then
        if clock - then >= WRITTEN_EVERY:
            self._write(run, clock, age)
        return age

    def _read(self) -> tuple[str, float, float] | None:
        try:
            run, clock, age = json.loads(self._file.read_bytes())
            if math.isfinite(clock) and 0 <= age < math.inf:
                return str(run), float(clock), float(age)
        except (OSError, ValueError, TypeError, RecursionError):
            pass
        return None

    def _write(self, run: str, clock: float, age: float) -> None:
        """Replaced whole. Where the disk is full the old numbers stay, from which one can count as well."""
        with suppress(OSError):
            write_whole(self._file, json.dumps([run, clock, age]).encode())


def write_whole(file: Path, data: bytes, *, sync: bool = False) -> None:
    """A file for nobody else's eyes, which is there whole or as it was; with `sync` also after the power went."""
    new = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            if sync:
                os.fsync(out.fileno())
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@cache
def running() -> str:
    """Names this run of the machine, within which its clock can be compared; where it has no name, this process."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return secrets.token_hex(16)
