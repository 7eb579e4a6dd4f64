"""JSON Lines that grow while something is at work: an object a line, each on the disk before the next is thought of.

The one invariant: a line that is there in full is true; a torn last line, of a process that was killed, is as if it
were not there, and the next line is written over it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_TAIL = 1 << 16  # bytes that are read at a time, from the end


def read_lines(path: Path, field: str) -> Iterator[dict[str, Any]]:
    """The lines that are there in full.

    Args:
        field: what the file is called where it is refused.

    Raises:
        ValueError: one of them is no JSON object.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{field} = {str(path)!r}: line {number} is no JSON ({error}); delete it") from None
            if not isinstance(row, dict):
                raise ValueError(f"{field} = {str(path)!r}: line {number} is no JSON object; delete it")
            yield row


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Put a line behind the others, on the disk when this returns.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(_end_of_lines(file))
        file.truncate()
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last full line of a file ends; of a long file its end alone is read."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _TAIL)
        file.seek(start)
        if (newline := file.read(end - start).rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0
