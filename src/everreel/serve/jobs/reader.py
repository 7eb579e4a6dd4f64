"""The program that reads what a client sent before anything else may: alone, in a process of its own.

`uploads` runs this file as a script. Its input is the client's file, its output a new file for a picture that is
written anew, and on what was its error stream it says in one line of JSON what it found. It is told no path and imports
nothing of everreel. The one invariant: before the first byte is read the process has given up, for good, whatever it
does not need: to open a file or a connection, to have a child, and memory and time beyond what it was given.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

DEMUXERS = {"mp4": "mov,mp4,m4a,3gp,3g2,mj2", "mov": "mov,mp4,m4a,3gp,3g2,mj2", "mkv": "matroska,webm"}
DEMUXERS["webm"] = DEMUXERS["mkv"]
VIDEO = {"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "prores", "dnxhd", "mjpeg", "ffv1"}
SOUND = {"aac", "alac", "ac3", "eac3", "mp2", "mp3", "opus", "vorbis", "flac"}
SOUND |= {
    f"pcm_{kind}" for kind in ("s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be", "u8", "s8")
}
TEXT = {"mov_text", "subrip", "ass", "webvtt", "text"}
_DECODERS = VIDEO | SOUND | TEXT | {"libdav1d", "libvpx", "libvpx-vp9", "libopus", "mp3float", "mp2float"}
_FURTHEST = 1_000_000  # seconds from 0 that a film may begin or end; cameras that count the time of day stay far below


@dataclass(frozen=True)
class Rules:
    """What the process may use, and what the file may be."""

    format: str
    """By its first bytes: PNG, JPEG or WEBP, or the ending of a film's name."""
    places: list[str]
    """Folders with the libraries that are needed."""
    pixels: int
    """Of a picture, or of a frame of a film."""
    kept: int
    """Pixels of a picture that is written anew; a larger one is made smaller."""
    seconds: float
    """Of a film."""
    frames: int
    total: int
    """Pixels of all frames together."""
    streams: int
    memory: int
    cpu: int
    output: int
    """Bytes of the new file."""


class RefusedError(Exception):
    """A rule that the file breaks, and the numbers that break it."""

    def __init__(self, rule: str, *values: float) -> None:
        super().__init__(rule)
        self.said = {"refused": rule, "values": list(values)}


def main() -> None:
    """Read the file; the answer goes to what was the error stream, so that no library's remark mixes with it."""
    rules = Rules(**json.loads(sys.argv[1]))
    report = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    limit(rules.memory, rules.cpu, rules.output)
    sys.path += rules.places
    read = film_reader() if rules.format in DEMUXERS else picture_reader()
    shut()
    try:
        said = read(rules)
    except RefusedError as error:
        said = error.said
    except MemoryError:
        said = {"refused": "memory", "values": []}
    except Exception:  # whatever a library makes of it
        said = {"refused": "unreadable", "values": []}
    os.write(report, json.dumps(said).encode() + b"\n")


def limit(memory: int, cpu: int, output: int) -> None:
    """Memory, time and the size of the new file have an end from here on. Windows has no such limits."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError):
        os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # the first ends it with a signal of its own
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    with suppress(OSError, ValueError):  # macOS has the name of it and no more
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def shut() -> None:
    """From here on nothing can be opened: no file, no connection, no process. All that is needed is loaded."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def picture_reader() -> Callable[[Rules], dict[str, Any]]:
    """`read_picture`, with all that it will import."""
    from PIL import Image, ImageOps, JpegImagePlugin, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    for kind in ("PNG", "JPEG", "WEBP"):  # what is imported on the way is now, nothing can be later
        sample = io.BytesIO()
        Image.new("RGB", (8, 8)).resize((4, 4)).save(sample, kind, exif=Image.Exif())
        with Image.open(sample, formats=[kind]) as image:
            ImageOps.exif_transpose(image).convert("RGBA").convert("P").convert("RGBA")
    return read_picture


def read_picture(rules: Rules) -> dict[str, Any]:
    """Decode a picture, and write it upright as a PNG that holds its pixels and nothing else, no more than are kept."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # they are counted here, exactly
    with io.FileIO(0, closefd=False) as file, Image.open(file, formats=[rules.format]) as image:
        check_pixels(rules, *image.size)
        ImageOps.exif_transpose(image, in_place=True)
        mode = "RGBA" if image.has_transparency_data else "RGB"
        # 16 bits of grey stay 16 bits.
        clean = image if image.mode in (mode, "I", "I;16") else image.convert(mode)
        shrink = math.sqrt(rules.kept / (clean.width * clean.height))
        if shrink < 1:
            width, height = (max(1, round(side * shrink)) for side in clean.size)
            clean = clean.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
        clean.info.clear()
        with open(1, "wb", closefd=False) as out:
            clean.save(out, "PNG", compress_level=1)
    return {"kind": "image", "width": clean.width, "height": clean.height, "seconds": 0}


def check_pixels(rules: Rules, width: int, height: int) -> None:
    """Refuse a picture or a frame that is larger than it may be."""
    if width * height > rules.pixels:
        raise RefusedError("pixels", width, height)


class Film(io.FileIO):
    """The input, with the name that FFmpeg guesses by when the film is opened later, and nothing else of a path."""

    def __init__(self, ending: str) -> None:
        super().__init__(0, closefd=False)
        self.name = f"film.{ending}"


def film_reader() -> Callable[[Rules], dict[str, Any]]:
    """`read_film`, with all that it will import."""
    import av

    for module in walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):  # a command, and downloads
            import_module(module.name)
    av.logging.set_level(None)
    return read_film


def film_options(name: str) -> dict[str, str]:
    """FFmpeg's options for a film of a format, by its name: it is read as that, by decoders that are known."""
    options = {
        "format_whitelist": DEMUXERS[name],
        "codec_whitelist": ",".join(sorted(_DECODERS)),
        "protocol_whitelist": "file",
    }
    if DEMUXERS[name].startswith("mov"):
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    return options


def read_film(rules: Rules) -> dict[str, Any]:
    """Decode every frame of a film once."""
    import av

    # FFmpeg has no word for too many streams but that memory is lacking.
    options = film_options(rules.format) | {"max_streams": str(100 + rules.streams), "threads": "1"}
    try:
        with av.open(Film(rules.format), options=options, metadata_errors="replace") as film:
            return decode(film, rules)
    except av.error.MemoryError:
        raise MemoryError from None


def decode(film: Any, rules: Rules) -> dict[str, Any]:  # noqa: ANN401 -- av is imported late
    """See `read_film`."""
    if film.format.name != DEMUXERS[rules.format]:
        raise RefusedError("unreadable")
    stream = picture_stream(film, rules)
    if film.duration is not None and film.duration > 1_000_000 * rules.seconds:
        raise RefusedError("seconds", film.duration / 1_000_000)
    check_pixels(rules, stream.width, stream.height)
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    tick, frames, total, size = stream.time_base or Fraction(1), 0, 0, (0, 0)
    times: list[float] = []  # the first and the last
    for packet in film.demux():
        if packet.stream is not stream:
            continue
        for frame in decoded(packet, frames):
            size = size if frames else seen_size(frame, stream.sample_aspect_ratio)
            check_pixels(rules, *seen_size(frame, stream.sample_aspect_ratio))
            check_pixels(rules, frame.width, frame.height)
            frames, total = frames + 1, total + frame.width * frame.height
            if frame.pts is not None:
                time = float(frame.pts * tick)
                times = [min([time, *times[:1]]), max([time, *times[1:]])]
            if frames > rules.frames:
                raise RefusedError("frames", frames)
            if total > rules.total:
                raise RefusedError("total", total)
            if times and times[1] - times[0] > rules.seconds:
                raise RefusedError("seconds", times[1] - times[0])
    if not times or max(map(abs, times)) > _FURTHEST:
        raise RefusedError("unreadable")
    seconds = (times[1] - times[0]) * frames / max(frames - 1, 1)
    return {"kind": "video", "width": size[0], "height": size[1], "seconds": seconds}


def picture_stream(film: Any, rules: Rules) -> Any:  # noqa: ANN401 -- as above
    """The stream with the film's pictures, when all others are such as a film has."""
    import av.stream

    if len(film.streams) > rules.streams:
        raise RefusedError("streams", len(film.streams))
    known = {"video": VIDEO | {"png"}, "audio": SOUND, "subtitle": TEXT}
    for stream in film.streams:
        if stream.type in known and (
            stream.codec_context is None or stream.codec.canonical_name not in known[stream.type]
        ):
            raise RefusedError("codec")
    covers = av.stream.Disposition.attached_pic
    return next(stream for stream in film.streams.video if not stream.disposition & covers)


def decoded(packet: Any, frames: int) -> list[Any]:  # noqa: ANN401 -- as above
    """The frames that a packet completes; a film may begin before its first keyframe."""
    import av

    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        if frames:
            raise
        return []


def seen_size(frame: Any, pixel_aspect: Fraction | None) -> tuple[int, int]:  # noqa: ANN401 -- as above
    """Width and height upright, with square pixels; neither becomes less by it."""
    aspect = pixel_aspect or Fraction(1)
    width, height = round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1))
    return (height, width) if frame.rotation % 180 else (width, height)


if __name__ == "__main__":
    main()
