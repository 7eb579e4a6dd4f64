"""The header of an MP4 with one track of H.264, and the parameter sets that a decoder finds in it.

They lie in the `avcC` box: four bytes, then the sets, each behind its length. The one invariant: nothing else of the
header changes but the sizes of the boxes around it.
"""

from __future__ import annotations

import io
import struct

from everreel.boxes import find


def _way_to_avcc(header: bytes) -> list[int]:
    """Where the content begins of each box from `moov` to `avcC`, in the first track."""
    file, start, contents = io.BytesIO(header), 0, []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1", b"avcC"):
        content = find(file, start, len(header), kind)
        contents.append(content)
        start = content + {b"stsd": 8, b"avc1": 78}.get(kind, 0)
    return contents


def read_avcc(header: bytes) -> bytes:
    """What the `avcC` box of a header holds."""
    start = _way_to_avcc(header)[-1]
    (size,) = struct.unpack_from(">I", header, start - 8)
    return header[start : start - 8 + size]


def with_avcc(header: bytes, avcc: bytes) -> bytes:
    """The header with another `avcC` box."""
    contents = _way_to_avcc(header)
    end = contents[-1] + len(read_avcc(header))
    longer = bytearray(header[: contents[-1]] + avcc + header[end:])
    for content in contents:
        (size,) = struct.unpack_from(">I", header, content - 8)
        struct.pack_into(">I", longer, content - 8, size + len(longer) - len(header))
    return bytes(longer)


def parameter_sets(avcc: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """The sequence and the picture parameter sets, and what follows them."""
    groups: list[list[bytes]] = []
    at = 5
    for mask in (0x1F, 0xFF):
        count, at = avcc[at] & mask, at + 1
        groups.append([])
        for _ in range(count):
            size = int.from_bytes(avcc[at : at + 2])
            groups[-1].append(avcc[at + 2 : at + 2 + size])
            at += 2 + size
    return groups[0], groups[1], avcc[at:]


def merged(avcc: bytes, other: bytes) -> bytes:
    """With the parameter sets of the other too, and the higher level of the two."""
    sequences, pictures, rest = parameter_sets(avcc)
    more_sequences, more_pictures, _ = parameter_sets(other)
    sequences, pictures = sequences + more_sequences, pictures + more_pictures
    start = bytes([1, avcc[1], avcc[2] & other[2], max(avcc[3], other[3]), avcc[4], 0xE0 | len(sequences)])
    return start + _with_lengths(sequences) + bytes([len(pictures)]) + _with_lengths(pictures) + rest


def _with_lengths(sets: list[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(2) + each for each in sets)


def free_id(avcc: bytes) -> int | None:
    """The highest id that no parameter set has; x264 gives the same one to both of its kinds."""
    sequences, pictures, _ = parameter_sets(avcc)
    taken = {_exp_golomb(each[4:]) for each in sequences} | {_exp_golomb(each[1:]) for each in pictures}
    return max(set(range(32)) - taken, default=None)


def _exp_golomb(data: bytes) -> int:
    """The first number in a parameter set's bits."""
    bits = int.from_bytes(data[:8].ljust(8, b"\0"))
    zeros = 64 - bits.bit_length()
    return (bits >> 63 - 2 * zeros) - 1
