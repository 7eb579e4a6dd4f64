"""Files that somebody might send to a server to harm it, made anew from a seed; none of them is ever run.

The one invariant: what a file is made of is written here, so a finding can be looked at byte for byte.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from PIL import Image

from everreel.boxes import boxes, find

Verdict = Literal["refused", "accepted", "either"]
HIDDEN = (b"PK\x03\x04", b"<script>", b"alert(1)", b"#EXTM3U")
"""Nothing of this may be left in a picture that is taken."""
PIXELS, SECONDS = 50_000_000, 3600  # what a server takes by itself


@dataclass(frozen=True)
class Hostile:
    """One file."""

    kind: str
    name: str
    data: bytes
    verdict: Verdict
    """What has to become of it; either, where chance decides what is left of a file."""


def hostile_files(count: int, seed: int = 0, address: str = "http://127.0.0.1:9/") -> list[Hostile]:
    """At least so many: those with a purpose, and others damaged at random. `address` is where none may call."""
    made = [*pictures(), *films(), *polyglots(address), *texts(address)]
    whole, draw = wholes(), random.Random(seed)
    kinds = sorted(whole)
    while len(made) < count:
        number = len(made)
        kind = kinds[number % len(kinds)]
        other = whole[draw.choice(kinds)]
        made.append(Hostile(f"damaged {kind}", f"seed {seed}, {number}", damaged(whole[kind], other, draw), "either"))
    return made


def wholes() -> dict[str, bytes]:
    """Files without a fault."""
    return {
        "PNG": picture("PNG"),
        "JPEG": picture("JPEG", quality=90, progressive=True),
        "WebP": picture("WEBP", quality=80),
        "MP4": film(),
        "fragmented MP4": film(options={"movflags": "frag_keyframe+empty_moov"}),
        "MKV": film("matroska"),
        "WebM": film("webm", "libvpx-vp9"),
    }


def damaged(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """With bytes changed, cut off, or with a piece of another file."""
    changed = bytearray(data)
    what = draw.randrange(4)
    if what == 0:
        return data[: draw.randrange(len(data))]
    if what == 1:
        at, length = draw.randrange(len(data)), draw.randrange(1, 2000)
        start = draw.randrange(len(other))
        changed[at : at + draw.randrange(2000)] = other[start : start + length]
        return bytes(changed)
    # Headers are where it hurts, so half of the time it is those.
    reach = len(data) if what == 2 else min(len(data), 400)
    for _ in range(draw.randrange(1, 40)):
        changed[draw.randrange(12, reach)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def pictures() -> Iterator[Hostile]:
    """Bombs, and headers that lie."""
    png, jpeg, webp = picture("PNG"), picture("JPEG"), picture("WEBP", lossless=True)

    def of(name: str, data: bytes, verdict: Verdict = "refused") -> Hostile:
        return Hostile("picture", name, data, verdict)

    for side in (50_000, 2**31 - 1, 0):
        yield of(f"a PNG of 1 kB that claims {side}x{side}", png_with(png, b"IHDR", header(side, side)))
    yield of("a PNG of 110 MB of nothing", flat_png(30_000, 30_000, 1))
    yield of("a PNG whose rows go on behind its last", png_of(8, 8, deflated(b"\0" * 100_000_000)), "either")
    yield of("a PNG with 100 MB of text", inserted(png, b"zTXt", b"a\0\0" + deflated(b"a" * 100_000_000)), "either")
    yield of("a PNG with 100 MB of colours", inserted(png, b"iCCP", b"a\0\0" + deflated(bytes(100_000_000))), "either")
    yield of("a PNG with 100,000 chunks", inserted(png, b"teXt", b"", 100_000), "either")
    yield of("a PNG with a billion frames", inserted(png, b"acTL", struct.pack(">II", 10**9, 0)), "either")
    yield of("a PNG at its limit", flat_png(7_071, 7_071, 8), "accepted")
    yield of("a PNG one row beyond", flat_png(7_071, 7_072, 8))
    yield of("a JPEG that claims 65535x65535", jpeg_of(jpeg, 65_535, 65_535))
    yield of("a JPEG with 30,000 scans", scans(30_000), "either")
    yield of(
        "a JPEG with metadata that turn in a circle",
        exif(b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"),
        "either",
    )
    yield of(
        "a JPEG turned in a way that is none",
        exif(b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\xff\0\0\0\0\0\0\0"),
        "either",
    )
    yield of("a WebP that claims 16384x16384", webp[:21] + b"\xff\xff\xff\x0f" + webp[25:])
    yield of("a WebP with a huge canvas", vp8x(webp, 16_384, 16_384))
    yield of("a WebP that moves", moving("WEBP"), "accepted")
    yield of("a PNG that moves", moving("PNG"), "accepted")
    for name in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000"):
        yield of(f"a {name}", picture(name, mode="P" if name == "GIF" else "RGB"))


def films() -> Iterator[Hostile]:
    """Headers that lie, films that never end, and trees without a ground."""
    mp4, parts = film(), film(options={"movflags": "frag_keyframe+empty_moov"})
    table = (b"moov", b"trak", b"mdia", b"minf", b"stbl")

    def of(name: str, data: bytes, verdict: Verdict = "refused") -> Hostile:
        return Hostile("film", name, data, verdict)

    big = struct.pack(">I", 2**32 - 1)
    for box in (b"stts", b"stsc", b"stco", b"stss", b"ctts"):
        if box in mp4:
            yield of(f"an MP4 with 2^32 entries in {box.decode()}", patched(mp4, (*table, box), 4, big), "either")
    yield of("an MP4 with 2^32 frames", patched(mp4, (*table, b"stsz"), 4, big * 2), "either")
    yield of("an MP4 with frames of 4 GB", patched(mp4, (*table, b"stsz"), 12, big), "either")
    yield of("an MP4 of 65535x65535", patched(mp4, (*table, b"stsd"), 8 + 8 + 24, b"\xff" * 4), "either")
    yield of("an MP4 that claims to be years long", patched(mp4, (b"moov", b"mvhd"), 16, b"\x7f\xff\xff\xff"), "either")
    yield of("an MP4 with a clock of 0", patched(mp4, (b"moov", b"trak", b"mdia", b"mdhd"), 12, bytes(4)), "either")
    yield of("an MP4 with a clock of 2^32", patched(mp4, (b"moov", b"trak", b"mdia", b"mdhd"), 12, big), "either")
    start = struct.pack(">Q", 2**62)
    yield of("an MP4 that begins in the year 10^9", patched(parts, (b"moof", b"traf", b"tfdt"), 4, start), "either")
    yield of(
        "an MP4 with 2^31 frames a fragment", patched(parts, (b"moof", b"traf", b"trun"), 4, b"\x80\0\0\0"), "either"
    )
    yield of("an MP4 of 20,000 boxes in each other", mp4[:32] + nested(b"moov", 20_000))
    yield of("an MP4 of a million empty boxes", mp4[:32] + struct.pack(">I4s", 8, b"free") * 1_000_000)
    yield of("an MP4 with a box of 2^63 bytes", mp4[:32] + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1))
    yield of("an MP4 that lasts 10 hours", film(times=[0, 36_000 * 24]))
    for aspect in ((60_000, 1), (1, 60_000), (2**31 - 1, 1), (0, 1), (1, 0)):
        verdict: Verdict = "refused" if all(aspect) else "either"
        yield of(f"an MP4 of pixels of {aspect[0]}:{aspect[1]}", shaped(mp4, *aspect), verdict)
    yield of("an MP4 that is a line", film(size=(16, 16_384)), "either")
    yield of("an MP4 with 40 streams", film(streams=40))
    yield of("an MP4 of drawings", film("mp4", "png"), "either")
    yield of("an MKV of a rare codec", film("matroska", "snow"))
    yield of("an MKV with an element of 2^56 bytes", film("matroska")[:40] + b"\x18\x53\x80\x67\x01" + b"\xff" * 7)
    yield of("an MKV of 20,000 elements in each other", film("matroska")[:40] + b"\x18\x53\x80\x67\xff" * 20_000)
    yield of("a film with nothing in it", mp4[:32])
    yield of("an AVI", film("avi", "mpeg4"))
    yield of("a FLV", film("flv"))
    yield of("an MPEG-TS", film("mpegts"))


def polyglots(address: str) -> Iterator[Hostile]:
    """Files that are something else to another reader."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")
    zipped, page = archive.getvalue(), b"<html><script>alert(1)</script></html>"
    playlist = f"#EXTM3U\n#EXTINF:1,\n{address}a.ts\n#EXTINF:1,\nfile:///etc/passwd\n".encode()
    png, jpeg, webp = picture("PNG"), picture("JPEG"), picture("WEBP")

    def of(name: str, data: bytes, verdict: Verdict = "accepted") -> Hostile:
        return Hostile("polyglot", name, data, verdict)

    yield of("PNG and ZIP", png + zipped)
    yield of("PNG and page", inserted(png, b"tEXt", b"a\0" + page))
    yield of("JPEG and ZIP", jpeg + zipped)
    yield of("JPEG and page", jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(page) + 2) + page + jpeg[2:])
    yield of("WebP and playlist", webp + playlist)
    yield of("GIF and script", b"GIF89a/*" + picture("GIF", mode="P")[8:] + b"*/=1;alert(1)//", "refused")
    for name, data in (("page", page), ("playlist", playlist), ("ZIP", zipped)):
        yield of(f"MP4 and {name}", struct.pack(">I4s", 8 + len(data), b"free") + data + film(), "either")
    head = film()[:32]
    for name, data in (("playlist", playlist), ("page", page), ("PNG", png)):
        yield of(f"an MP4's first bytes and a {name}", head + data, "refused")
        yield of(f"an MKV's first bytes and a {name}", b"\x1a\x45\xdf\xa3" + data, "refused")
        yield of(f"a PNG's first bytes and a {name}", b"\x89PNG\r\n\x1a\n" + data, "refused")
    for reference in (b"file:///etc/passwd", address.encode(), b"/etc/passwd"):
        where = reference.decode().replace(address, "a network")
        elsewhere = with_box(film(), (b"moov", b"trak", b"mdia", b"minf", b"dinf"), dref(reference))
        yield of(f"an MP4 whose frames are in {where}", elsewhere, "either")
        yield of(
            f"a MOV that leads to {where}",
            box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", leads(reference)),
            "refused",
        )


def texts(address: str) -> Iterator[Hostile]:
    """What is neither, above all what makes FFmpeg or ImageMagick open something else."""
    entity = '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    lines = {
        "nothing": "",
        "one byte": "a",
        "a zero": "\0",
        "a playlist of a file": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "a playlist of an address": f"#EXTM3U\n#EXTINF:1,\n{address}a.ts\n#EXT-X-ENDLIST\n",
        "a playlist of both": f"#EXTM3U\n#EXTINF:1,\nconcat:{address}a|file:///etc/passwd\n#EXT-X-ENDLIST\n",
        "a list of FFmpeg": "ffconcat version 1.0\nfile '/etc/passwd'\nfile 'subfile,,start,0,end,9,,:/etc/passwd'\n",
        "metadata of FFmpeg": ";FFMETADATA1\ntitle=a\n",
        "a session": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{address}\n",
        "a manifest": f"<MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>",
        "a drawing of a file": f'<?xml version="1.0"?>{entity}<svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>',
        "a drawing of an address": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}a.png"/></svg>',
        "a script of ImageMagick": f"push graphic-context\nimage over 0,0 0,0 'url({address})'\npop graphic-context\n",
        "a program in PostScript": "%!PS\n(/etc/passwd) (r) file\n",
        "a PDF": "%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n",
        "a page": "<!doctype html><script>alert(1)</script>",
        "a script": "#!/bin/sh\ntouch /tmp/everreel-was-here\n",
        "an order": '{"prompt": "a red fox"}',
    }
    for name, text in lines.items():
        yield Hostile("text", name, text.encode(), "refused")
    yield Hostile("text", "a pickle", b"\x80\x04cposix\nsystem\nX\x04\0\0\0true\x85R.", "refused")
    yield Hostile("text", "a program", b"\x7fELF" + bytes(200), "refused")
    yield Hostile(
        "text", "a picture of a telephone", box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", bytes(40)), "refused"
    )
    yield Hostile("text", "sound alone", sound(), "refused")


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:  # noqa: ANN401 -- of Pillow
    """A picture of 48x32."""
    y, x = np.mgrid[0:32, 0:48]
    pixels = np.stack([x * 5, y * 7, (x * y) % 256], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def moving(kind: str) -> bytes:
    """Three pictures in one."""
    frames = [Image.new("RGB", (48, 32), color) for color in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def film(
    container: str = "mp4",
    codec: str = "libx264",
    pixel_format: str = "",
    *,
    size: tuple[int, int] = (32, 48),
    times: Sequence[int] = tuple(range(8)),
    **more: Any,  # noqa: ANN401 -- `streams`, and the container's `options`
) -> bytes:
    """A film of height x width, a frame at each time in 1/24 s."""
    file, pixel_format = io.BytesIO(), pixel_format or ("rgb24" if codec == "png" else "yuv420p")
    with av.open(file, "w", format=container, options=more.get("options", {})) as output:
        streams: list[Any] = [output.add_stream(codec, rate=24) for _ in range(more.get("streams", 1))]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = *size, pixel_format
            stream.codec_context.sample_aspect_ratio = Fraction(2)
        for stream in streams:
            for time in times:
                shade = np.full((*size, 3), 40 + time % 200, np.uint8)
                frame = av.VideoFrame.from_ndarray(shade, format="rgb24").reformat(format=pixel_format)
                frame.pts, frame.time_base = time, Fraction(1, 24)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    """An MP4 without pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        output.mux([*stream.encode(frame), *stream.encode()])
    return file.getvalue()


# PNG: chunks of length, kind, content and checksum.


def chunk(kind: bytes, data: bytes) -> bytes:
    """One of them."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """What `IHDR` holds; no colour is grey."""
    return struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


def png_of(width: int, height: int, rows: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A whole one around its packed rows."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header(width, height, depth, color))
    return start + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def flat_png(width: int, height: int, depth: int) -> bytes:
    """Of one colour, so it is small."""
    return png_of(width, height, deflated(bytes((width * depth + 7) // 8 + 1) * height), depth)


def png_with(png: bytes, kind: bytes, data: bytes) -> bytes:
    """With other content of the same length in its first chunk of a kind."""
    at = png.index(kind) - 4
    new = chunk(kind, data)
    return png[:at] + new + png[at + len(new) :]


def inserted(png: bytes, kind: bytes, data: bytes, times: int = 1) -> bytes:
    """With another chunk behind the first."""
    return png[:33] + chunk(kind, data) * times + png[33:]


def deflated(data: bytes) -> bytes:
    """Packed."""
    return zlib.compress(data, 6)


def jpeg_of(jpeg: bytes, width: int, height: int) -> bytes:
    """With another size in its header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def scans(count: int) -> bytes:
    """A JPEG whose last scan comes again and again."""
    jpeg = picture("JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * count + jpeg[-2:]


def exif(data: bytes) -> bytes:
    """A JPEG with metadata."""
    jpeg, block = picture("JPEG"), b"Exif\0\0" + data
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def vp8x(webp: bytes, width: int, height: int) -> bytes:
    """A WebP that tells of a canvas."""
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + webp[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


# MP4: boxes, see everreel.boxes.


def box(kind: bytes, content: bytes) -> bytes:
    """One of them."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def nested(kind: bytes, depth: int) -> bytes:
    """Boxes in each other."""
    return b"".join(struct.pack(">I4s", 8 * (depth - level), kind) for level in range(depth))


def patched(data: bytes, path: tuple[bytes, ...], offset: int, new: bytes) -> bytes:
    """With other bytes in the content of the box that is reached by a path."""
    start = find(io.BytesIO(data), 0, len(data), *path) + offset
    return data[:start] + new + data[start + len(new) :]


def with_box(data: bytes, path: tuple[bytes, ...], content: bytes) -> bytes:
    """With other content of a box, and the sizes around it right again."""
    if not path:
        return content
    made = bytearray()
    for kind, begin, end in boxes(io.BytesIO(data), 0, len(data)):
        inside = data[begin:end]
        made += box(kind, with_box(inside, path[1:], content) if kind == path[0] else inside)
    return bytes(made)


def shaped(mp4: bytes, width: int, height: int) -> bytes:
    """With pixels of another shape."""
    at = mp4.index(b"pasp") + 4
    return mp4[:at] + struct.pack(">II", width, height) + mp4[at + 8 :]


def dref(place: bytes) -> bytes:
    """A table that says that the frames are in another file."""
    entries = box(b"url ", bytes(4) + place + b"\0") + box(b"alis", bytes(4) + alias(place))
    return box(b"dref", struct.pack(">II", 0, 2) + entries)


def alias(place: bytes) -> bytes:
    """As QuickTime told a file on another disk."""
    name = place[-27:]
    disk = (
        bytes(10) + bytes([len(name)]) + name.ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    )
    return (
        disk + bytes(16) + struct.pack(">HHH", 0, 0, 0) + struct.pack(">HH", 18, len(place)) + place + b"\xff\xff\0\0"
    )


def leads(place: bytes) -> bytes:
    """A film that says that it is elsewhere."""
    reference = box(b"rdrf", struct.pack(">I4sI", 0, b"url ", len(place) + 1) + place + b"\0")
    return box(b"rmra", box(b"rmda", reference))
