"""A film that is to go on: what it is, and its last moments as a model wants them.

Any film that FFmpeg reads will do. The one invariant: heights, widths and pixels are those of the film as it is *seen*,
upright and with square pixels, whatever turn or shape of pixel the file asks its player for.

Pixels are uint8 RGB in the film's own primaries and transfer: an HDR film is not mapped to SDR.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import av.stream
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from everreel.media import _CONVERSION, Pixels, in_one_thread, resize_cover

WORKS = "an MP4, MOV, MKV or WebM film works"
_NO_MATRIX, _UNKNOWN = 0, 2  # the codes of a film that is stored as RGB, and of one that does not tell
_LIMITED_RANGE = 1
_REC709, _REC601 = 1, 5
FAR = 100  # frames ahead that are decoded rather than jumped over
MOST_SIDE = 1 << 16  # pixels; no codec here has more, and a header may claim pixels a million times as wide as high
_ROUNDING = Fraction(1, 1000)  # seconds: Matroska rounds times to the millisecond


@dataclass(frozen=True)
class Picture:
    """How a film's pictures lie in its file."""

    height: int
    width: int
    pixel_format: str
    """FFmpeg's name of it."""
    pixel_aspect: Fraction
    """Width of a pixel over its height."""
    display_matrix: tuple[int, ...] | None
    """The nine numbers of the file's turn, or none."""
    colors: tuple[int, int, int, int]
    """Codes of ISO 23091-2 for primaries, transfer and matrix, as told; 1 for limited range, 2 for full."""

    @classmethod
    def of(cls, frame: VideoFrame, pixel_aspect: Fraction | None) -> Picture:
        """What a decoded frame says of all."""
        turn: Any = frame.side_data.get("DISPLAYMATRIX")
        return cls(
            height=frame.height,
            width=frame.width,
            pixel_format=frame.format.name.replace("yuvj", "yuv"),  # its range is told beside it
            pixel_aspect=pixel_aspect or Fraction(1),
            display_matrix=struct.unpack("=9i", turn) if turn else None,
            colors=(
                frame.color_primaries,
                frame.color_trc,
                frame.colorspace,
                frame.color_range or _LIMITED_RANGE,
            ),
        )

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width upright, with square pixels. No side becomes shorter by it."""
        height, width = self._square_size
        return (width, height) if self._turn[0] else (height, width)

    @property
    def matrix(self) -> int:
        """The code of the matrix between RGB and YUV, also where the file does not tell it."""
        matrix = self.colors[2]
        if matrix not in (_NO_MATRIX, _UNKNOWN):
            return matrix
        # What players take it for.
        return _REC709 if self.width >= 1280 or self.height > 576 else _REC601

    def upright(self, frame: VideoFrame) -> Pixels:
        """A decoded frame as it is seen, H x W x 3."""
        height, width = self._square_size
        rgb = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=None if frame.format.is_rgb else self.matrix,
            interpolation=_CONVERSION,
        )
        pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
        swapped, rows_turned, columns_turned = self._turn
        if swapped:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if rows_turned else 1, :: -1 if columns_turned else 1]

    def as_stored(self, pixels_HWC: Pixels) -> Pixels:
        """A picture of the size that is seen as the file would hold it; what `upright` undoes."""
        swapped, rows_turned, columns_turned = self._turn
        pixels = pixels_HWC[:: -1 if rows_turned else 1, :: -1 if columns_turned else 1]
        if swapped:
            pixels = pixels.swapaxes(0, 1)
        if pixels.shape[:2] != (self.height, self.width):
            image = Image.fromarray(np.ascontiguousarray(pixels))
            pixels = np.asarray(image.resize((self.width, self.height), Image.Resampling.LANCZOS))
        return np.ascontiguousarray(pixels)

    @property
    def _square_size(self) -> tuple[int, int]:
        if self.pixel_aspect >= 1:
            return self.height, round(self.width * self.pixel_aspect)
        return round(self.height / self.pixel_aspect), self.width

    @property
    def _turn(self) -> tuple[bool, bool, bool]:
        """Of the eight ways to lay a picture down: rows and columns swapped, then rows reversed, columns reversed."""
        if self.display_matrix is None:
            return False, False, False
        x_to_x, x_to_y, _, y_to_x, y_to_y = self.display_matrix[:5]
        if abs(x_to_x) + abs(y_to_y) >= abs(x_to_y) + abs(y_to_x):
            return False, y_to_y < 0, x_to_x < 0
        return True, x_to_y < 0, y_to_x < 0


@dataclass(frozen=True)
class Timeline:
    """When a film's frames are shown, in ticks of `tick` seconds."""

    tick: Fraction
    shown_at: tuple[int, ...]
    """In the order in which they are shown."""
    delay: int
    """How much later than in this order the packets may come."""
    is_plain: bool
    """Every packet is a frame that is shown, at a time of its own."""


@dataclass(frozen=True)
class SourceFilm:
    """A film to go on with, as it is seen. `open` makes one."""

    path: Path
    height: int
    width: int
    fps: float
    """Frames a second, on average."""
    duration: float
    """Seconds from the first frame to the end of the last."""
    codec: str
    """FFmpeg's name of it: h264, hevc, vp9, av1, prores."""
    rotation: int
    """Degrees clockwise that its pictures are turned to be shown: 0, 90, 180 or 270."""
    has_sound: bool
    num_bytes: int
    picture: Picture = field(repr=False)
    timeline: Timeline = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """FFmpeg's, beside those of `open_film`."""

    @classmethod
    def open(cls, path: str | Path, options: Mapping[str, str] | None = None) -> SourceFilm:
        """Read a film's header and the times of its packets, and decode one frame.

        `options` are FFmpeg's, to whom a film that strangers have sent may be no more than what it was taken for.

        Raises:
            ValueError: it is no film, or not all of it is there; one line that says which.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"video = {path}: {'is a folder' if path.is_dir() else 'does not exist'}; {WORKS}")
        try:
            is_cut_off = _is_cut_off(path)
        except OSError as error:
            raise ValueError(f"video = {path}: cannot be read ({error.strerror}); {WORKS}") from error
        if is_cut_off:
            raise ValueError(f"video = {path}: is cut off, its end is missing; a film that is there in full works")
        options = dict(options or {})
        with open_film(path, options) as film:
            stream = picture_stream(film, path)
            in_one_thread(stream, options)
            picture, timeline, has_sound = _read_index(film, stream, path)
            rate, codec = stream.average_rate, stream.codec.canonical_name
        times, tick = timeline.shown_at, timeline.tick
        length = float((times[-1] - times[0]) * tick)
        fps = (len(times) - 1) / length if length else float(rate or 24)
        height, width = picture.seen_size
        if max(height, width) > MOST_SIDE:
            raise ValueError(f"video = {path}: is {width}x{height} as it is seen; up to {MOST_SIDE} a side works")
        return cls(
            path=path,
            options=options,
            height=height,
            width=width,
            fps=fps,
            duration=length + 1 / fps,
            codec=codec,
            rotation=_degrees(picture),
            has_sound=has_sound,
            num_bytes=path.stat().st_size,
            picture=picture,
            timeline=timeline,
        )

    def tail(self, num_frames: int, fps: int, size: tuple[int, int] | None = None) -> Pixels:
        """The film's last moments at another rate, T x H x W x 3: the last is its last frame.

        Moment k before the last is what is shown k / fps seconds before the last frame comes. A film that is shorter
        than `num_frames` gives as many as it has, at least one. Only the end is read, and no frame is held but what is
        returned and the last two decoded. With a `size`, height and width, each is scaled and cropped to it as it is
        decoded: seconds of a 4K film would be gigabytes.

        Raises:
            ValueError: nothing is asked for, or the film cannot be decoded.
        """
        for name, value in (("num_frames", num_frames), ("fps", fps)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1; 1 works")
        times, step = self.timeline.shown_at, 1 / (fps * self.timeline.tick)
        end = times[-1] + min(Fraction(1), _ROUNDING / self.timeline.tick)
        count = min(num_frames, int((end - times[0]) / step) + 1)
        moments = [end - k * step for k in reversed(range(count))]
        pixels_THWC = np.empty((count, *(size or (self.height, self.width)), 3), np.uint8)
        filled, shown = 0, None
        for time, frame in self._frames_from(moments[0]):
            until = next((k for k in range(filled, count) if moments[k] >= time), count)
            if shown is not None and until > filled:
                pixels_THWC[filled:until] = self._seen(shown, size)
                filled = until
            shown = frame
        if shown is None:
            raise ValueError(f"video = {self.path}: its end cannot be decoded; {WORKS}")
        pixels_THWC[filled:] = self._seen(shown, size)
        return pixels_THWC

    def frames_at(self, times: Sequence[int]) -> Iterator[Pixels]:
        """The frames, H x W x 3, that come at these ticks of `timeline.shown_at`, which ascend.

        Raises:
            ValueError: one of them cannot be decoded.
        """
        place = 0
        with closing(self._frames_from(Fraction(times[0]))) as frames:
            for time, frame in frames:
                if time > times[place]:
                    break
                if time == times[place]:
                    pixels_HWC = self.picture.upright(frame)
                    while place < len(times) and times[place] == time:
                        yield pixels_HWC
                        place += 1
                    if place == len(times):
                        return
        second = float((times[place] - self.timeline.shown_at[0]) * self.timeline.tick)
        raise ValueError(f"video = {self.path}: its frame at {second:.2f} s cannot be decoded; {WORKS}")

    def container(self) -> AbstractContextManager[InputContainer]:
        """The film as it is opened each time."""
        return open_film(self.path, self.options)

    def _seen(self, frame: VideoFrame, size: tuple[int, int] | None) -> Pixels:
        pixels_HWC = self.picture.upright(frame)
        return pixels_HWC if size is None else resize_cover(pixels_HWC, *size)

    def _frames_from(self, moment: Fraction) -> Generator[tuple[int, VideoFrame], None, None]:
        """The frames from the one that is shown at a moment on, and some before it, with their times."""
        first, start, back = self.timeline.shown_at[0], int(moment), round(1 / self.timeline.tick)
        while True:
            with self.container() as film:
                stream = picture_stream(film, self.path)
                if not in_one_thread(stream, self.options):
                    stream.thread_type = "AUTO"
                if start > first:
                    with suppress(av.error.FFmpegError):  # not every file can be jumped in
                        film.seek(start, stream=stream)
                frames = ((frame.pts, frame) for frame in film.decode(stream) if frame.pts is not None)
                begin = next(frames, None)
                # A keyframe may be stored before the moment and shown after it; then the one before is needed.
                if start <= first or (begin is not None and begin[0] <= moment):
                    if begin is not None:
                        yield begin
                        del begin
                    yield from frames
                    return
            start, back = start - back, back * 2


class Followed(Protocol):
    """What is asked of a film that another one goes on with; a `SourceFilm`, or one that is decoded elsewhere."""

    @property
    def path(self) -> Path: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def tail(self, num_frames: int, fps: int, size: tuple[int, int], /) -> Pixels:
        """See `SourceFilm.tail`."""
        ...


class FilmFrames:
    """The frames of a film as it is seen, H x W x 3, each decoded when it is asked for: `len`, and a number.

    Two frames are held at most, and reading on from one to a later one decodes what is between them once.
    """

    def __init__(self, film: SourceFilm) -> None:
        self.film = film
        self._times = film.timeline.shown_at
        self._decoded: Generator[tuple[int, VideoFrame], None, None] | None = None
        self._shown: tuple[int, VideoFrame] | None = None
        self._number = 0

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, number: int) -> Pixels:
        number = range(len(self))[number]
        wanted = self._times[number]
        if self._decoded is None or not self._number <= number <= self._number + FAR:
            self.close()
            self._decoded = self.film._frames_from(Fraction(wanted))
        self._number = number
        while self._shown is None or self._shown[0] < wanted:
            self._shown = next(self._decoded, None)
            if self._shown is None:
                break
        if self._shown is None or self._shown[0] != wanted:
            self.close()
            second = float((wanted - self._times[0]) * self.film.timeline.tick)
            raise ValueError(f"video = {self.film.path}: its frame at {second:.2f} s cannot be decoded; {WORKS}")
        return self.film.picture.upright(self._shown[1])

    def close(self) -> None:
        """Give the file back. A frame that is asked for later opens it again."""
        if self._decoded is not None:
            self._decoded.close()
        self._decoded = self._shown = None


@contextmanager
def open_film(path: Path, options: Mapping[str, str] | None = None) -> Iterator[InputContainer]:
    """A film's container, to be read within; what FFmpeg refuses is a `ValueError` of one line.

    Nothing but files is opened, whatever the film names.
    """
    local = {"protocol_whitelist": "file", **(options or {})}
    try:
        with av.open(path, "r", options=local, metadata_errors="replace") as film:
            yield film
    except av.error.FFmpegError as error:
        raise ValueError(f"video = {path}: cannot be read as a film ({error.strerror}); {WORKS}") from error


def picture_stream(film: InputContainer, path: Path) -> VideoStream:
    """The stream with the film's pictures: not the cover of an album, nor a picture or a text that FFmpeg shows as one.

    Raises:
        ValueError: there is none.
    """
    if film.format.name in ("image2", "tty") or film.format.name.endswith("_pipe"):
        raise ValueError(f"video = {path}: is a picture or a text, not a film; {WORKS}")
    for stream in film.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise ValueError(f"video = {path}: its codec is not known here; H.264, HEVC, VP9, AV1 or ProRes works")
            return stream
    raise ValueError(f"video = {path}: has no pictures in it; {WORKS}")


def _read_index(film: InputContainer, stream: VideoStream, path: Path) -> tuple[Picture, Timeline, bool]:
    """Go through the packets once, and decode them up to the first frame."""
    picture, times, num_packets, has_sound = None, [], 0, False
    for packet in film.demux(stream, *film.streams.audio):
        if packet.stream.type == "audio":
            has_sound = has_sound or packet.size > 0
            continue
        if picture is None:
            with suppress(av.error.InvalidDataError):  # a film may begin before its first keyframe
                for frame in stream.decode(packet)[:1]:
                    picture = Picture.of(frame, stream.sample_aspect_ratio)
        num_packets += packet.size > 0
        if packet.size and packet.pts is not None and not packet.is_discard:
            times.append(packet.pts)
    if picture is None or not times:
        raise ValueError(f"video = {path}: has no frame that can be decoded and has a time; {WORKS}")
    in_order = sorted(times)
    delay = max(shown - stored for shown, stored in zip(in_order, times, strict=True))
    is_plain = num_packets == len(times) == len(set(times))
    return picture, Timeline(stream.time_base or Fraction(1), tuple(in_order), delay, is_plain), has_sound


def _degrees(picture: Picture) -> int:
    """Clockwise; of a picture that is mirrored too, the turn after left and right are exchanged."""
    swapped, rows_turned, _ = picture._turn
    if swapped:
        return 270 if rows_turned else 90
    return 180 if rows_turned else 0


def _is_cut_off(path: Path) -> bool:
    """Whether the file says that it should be longer than it is; FFmpeg plays what there is and keeps silent."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _end_of_boxes(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _end_of_segment(file, size) > size
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            return _end_of_riff(file, size) > size
    return False  # MPEG-TS and FLV do not say how long they are


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last of an MP4's boxes should end."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length = int.from_bytes(file.read(4))
        if length == 1:  # it follows the kind, in 64 bits
            length = int.from_bytes(file.read(12)[4:])
        if length < 8:  # the box goes on to the end of the file
            return size
        end += length
    return end


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Where the second of a Matroska file's elements should end, in which all of the film is."""
    end = 0
    for _ in ("EBML", "Segment"):
        file.seek(end + 4)  # both have names of four bytes
        first = int.from_bytes(file.read(1))
        rest = 8 - first.bit_length()  # as many zeros lead as bytes follow
        length = int.from_bytes(bytes([first & (0x7F >> rest)]) + file.read(rest))
        if length == (1 << 7 * (rest + 1)) - 1:  # a recording that did not know
            return size
        end = file.tell() + length
    return end


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Where the last of an AVI's RIFF chunks should end: beyond a gigabyte there are several."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # a recording that did not know
            break
        end += 8 + length
        end += length % 2 if end < size else 0  # nothing has to follow what makes an odd chunk even
    return end
