"""The boxes of an MP4, a tree: size in four bytes, kind in four, content (ISO/IEC 14496-12).

A film here is a header (`ftyp`, `moov`) and then fragments (`moof`, `mdat`), any number of them. The one invariant:
what is read is only ever a box that is there in full; a size that is less than a box, or points behind the end, ends
the row, so a file that is still being written or was sent by anybody can be looked through.
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_LENGTH_BOX = 20  # bytes of the box that tells the film's length
_VERSION = bytes(4)  # of a box that has one, and its flags
# Where players and FFmpeg look for what is said of a film: in a row of items, each with a name and a value in UTF-8.
_HANDLER = struct.pack(">4s4x4s4s9x", _VERSION, b"mdir", b"appl")
_COMMENT, _UTF8 = b"\xa9cmt", struct.pack(">II", 1, 0)


def boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between start and stop that are there in full: kind, begin and end of the content."""
    stop = min(stop, file.seek(0, os.SEEK_END))
    while start + 8 <= stop:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        end = start + size
        if size < 8 or end > stop:
            return
        yield kind, start + 8, end
        start = end


def find(file: BinaryIO, start: int, stop: int, *path: bytes) -> int:
    """Where the content begins of the first box that is reached by a path of kinds.

    Raises:
        ValueError: there is none.
    """
    return _content(file, start, stop, *path)[0]


def num_samples(file: BinaryIO, start: int, stop: int) -> int:
    """How many frames the fragment has whose `moof` box holds start to stop."""
    file.seek(find(file, start, stop, b"traf", b"trun") + 4)
    return int.from_bytes(file.read(4))


def place(fragments: bytearray, num_fragments: int, ticks: int) -> int:
    """Number the fragments of a block and move them in time, in place; returns how many the film has then."""
    file = io.BytesIO(fragments)
    for kind, start, stop in boxes(file, 0, len(fragments)):
        if kind == b"moof":
            num_fragments += 1
            numbering = find(file, start, stop, b"mfhd")
            struct.pack_into(">I", fragments, numbering + 4, num_fragments)
            timing = find(file, start, stop, b"traf", b"tfdt")
            assert fragments[timing] == 1, "the start of a fragment is written in 64 bits"
            (since_block,) = struct.unpack_from(">Q", fragments, timing + 4)
            struct.pack_into(">Q", fragments, timing + 4, since_block + ticks)
    return num_fragments


def add_length(header: bytes, length: int) -> bytes:
    """The header with the box that tells the film's length; without it players show none."""
    file = io.BytesIO(header)
    extends = find(file, 0, len(header), b"moov", b"mvex")
    box = struct.pack(">I4sIQ", _LENGTH_BOX, b"mehd", 1 << 24, length)
    longer = bytearray(header[:extends] + box + header[extends:])
    for content in (find(file, 0, len(header), b"moov"), extends):
        (size,) = struct.unpack_from(">I", longer, content - 8)
        struct.pack_into(">I", longer, content - 8, size + _LENGTH_BOX)
    return bytes(longer)


def with_comment(header: bytes, comment: str) -> bytes:
    """The header with a comment, and with nothing else that is said of the whole film."""
    file = io.BytesIO(header)
    start = find(file, 0, len(header), b"moov")
    end = start - 8 + int.from_bytes(header[start - 8 : start - 4])
    kept = [header[begin - 8 : stop] for kind, begin, stop in boxes(file, start, end) if kind != b"udta"]
    items = _box(b"ilst", _box(_COMMENT, _box(b"data", _UTF8 + comment.encode())))
    about = _box(b"udta", _box(b"meta", _VERSION + _box(b"hdlr", _HANDLER) + items))
    return header[: start - 8] + _box(b"moov", b"".join(kept) + about) + header[end:]


def read_comment(file: BinaryIO) -> str | None:
    """What the film in a file says of itself, if it does."""
    try:
        start, stop = _content(file, 0, file.seek(0, os.SEEK_END), b"moov", b"udta", b"meta")
        start, stop = _content(file, start + len(_VERSION), stop, b"ilst", _COMMENT, b"data")
    except ValueError:
        return None
    file.seek(start)
    value = file.read(stop - start)
    return value.removeprefix(_UTF8).decode(errors="replace") if value.startswith(_UTF8) else None


def _content(file: BinaryIO, start: int, stop: int, *path: bytes) -> tuple[int, int]:
    for kind in path:
        box = next(((begin, end) for found, begin, end in boxes(file, start, stop) if found == kind), None)
        if box is None:
            raise ValueError(f"has no {kind.decode('latin-1')} box where an MP4 has one")
        start, stop = box
    return start, stop


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
