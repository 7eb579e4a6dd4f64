"""The boxes of an MP4, also of a file that is being written, or that somebody made up."""

import io
import struct

import pytest

from everreel.boxes import add_length, boxes, find, read_comment, with_comment


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


HEADER = box(b"ftyp", b"iso5") + box(b"moov", box(b"mvhd", b"12") + box(b"mvex", box(b"trex", b"34")))


def found(data: bytes, stop: int | None = None) -> list[tuple[bytes, int, int]]:
    return list(boxes(io.BytesIO(data), 0, len(data) if stop is None else stop))


def test_boxes_that_are_there_in_full() -> None:
    data = box(b"ftyp", b"iso5") + box(b"moof") + box(b"mdat", b"123")
    assert found(data) == [(b"ftyp", 8, 12), (b"moof", 20, 20), (b"mdat", 28, 31)]
    assert [kind for kind, _, _ in found(data[:-1])] == [b"ftyp", b"moof"]
    assert [kind for kind, _, _ in found(data, len(data) - 1)] == [b"ftyp", b"moof"]
    assert found(data, 10**9) == found(data)


@pytest.mark.parametrize("size", [0, 1, 7, 2**31, 2**32 - 1])
def test_a_size_that_cannot_be_ends_the_row(size: int) -> None:
    assert found(box(b"moof") + struct.pack(">I4s", size, b"free") + box(b"mdat")) == [(b"moof", 8, 8)]


def test_a_box_is_found_by_the_way_to_it() -> None:
    start = find(io.BytesIO(HEADER), 0, len(HEADER), b"moov", b"mvex", b"trex")
    assert HEADER[start : start + 2] == b"34"
    with pytest.raises(ValueError, match=r"^has no mehd box where an MP4 has one$"):
        find(io.BytesIO(HEADER), 0, len(HEADER), b"moov", b"mvex", b"mehd")


def test_the_length_is_put_where_it_belongs() -> None:
    longer = add_length(HEADER, 5)
    assert [kind for kind, _, _ in found(longer)] == [b"ftyp", b"moov"]
    start = find(io.BytesIO(longer), 0, len(longer), b"moov", b"mvex", b"mehd")
    assert int.from_bytes(longer[start + 4 : start + 12]) == 5
    assert longer[find(io.BytesIO(longer), 0, len(longer), b"moov", b"mvex", b"trex") :] == b"34"


def test_a_comment_takes_the_place_of_all_that_was_said() -> None:
    said = with_comment(HEADER, "a film für alle")
    assert read_comment(io.BytesIO(said)) == "a film für alle" and read_comment(io.BytesIO(HEADER)) is None
    assert len(said) == len(with_comment(said, "x" * len("a film für alle".encode())))
    again = with_comment(said + box(b"moof"), "b")
    assert read_comment(io.BytesIO(again)) == "b" and again.endswith(box(b"moof"))
    kinds = [kind for kind, _, _ in found(again)]
    assert kinds == [b"ftyp", b"moov", b"moof"] and add_length(again, 3).count(b"mehd") == 1


def test_a_file_that_is_no_film_says_nothing() -> None:
    said = with_comment(HEADER, "a film")
    for end in range(len(said)):
        assert read_comment(io.BytesIO(said[:end])) is None
    assert read_comment(io.BytesIO(said.replace(b"\0\0\0\1\0\0\0\0a film", b"\0\0\0\2\0\0\0\0a film"))) is None
    # What follows the header is no part of it.
    inside = said[said.index(b"moov") + 4 :]
    assert read_comment(io.BytesIO(HEADER + inside)) is None
