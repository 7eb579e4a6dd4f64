"""One film out of two: a source, and new frames after its last.

The film is a fragmented MP4 as `FilmWriter` makes it. Where the source is H.264 its packets are copied: the new frames
are encoded with parameter sets of an id that the source does not use, and the film's `avcC` box holds both. Any other
source is encoded again, once (`reencode`). Size, turn, shape of pixel, colours and sound are the source's.

The one invariant: every frame of the source is shown at its time, and new frame k is shown (k + 1) / fps seconds after
the last of them; none is shown twice, and none is left out.

What new frames need of a source that is in the film already is a `Seam`; with it a stopped film goes on without the
source's own file.

Shape suffixes: T frames, H height, W width, C = 3 channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everreel.boxes import add_length, boxes, place, with_comment
from everreel.film.h264 import free_id, merged, read_avcc, with_avcc
from everreel.film.reencode import PIXEL_FORMATS, Encode, TooCoarse, attempts, changed, describe, even
from everreel.film.source import Picture, SourceFilm, picture_stream
from everreel.media import (
    _CONVERSION,
    _H264,
    ORIGIN,
    FilmWriter,
    Pixels,
    _encode_frames,
    resize_cover,
)

ORIGIN_OF_REST = "Made longer with everreel: what follows the first film in it is by a model, no camera saw that."
"""What a film says of itself whose beginning was not made here."""
_SOURCE_MP4 = {
    # The header is written when the first fragment is, so that an edit list can say where each track begins.
    "movflags": "delay_moov+default_base_moof+frag_keyframe+skip_trailer",
    "min_frag_duration": "1000000",  # microseconds: a source of keyframes only has no fragment for each
    "frag_duration": "10000000",  # and one with hardly any is not held in memory
    "write_btrt": "0",
}
_PROFILES = {66: "baseline", 77: "main"}  # the others follow from the pixel format
_FINEST_CLOCK, _FINE_CLOCK = 10_000_000, 720_000  # ticks a second; an MP4 has 32 bits for the ticks of a frame
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Seam:
    """What new frames need of a source that is in the film already; times are in ticks of the film's clock."""

    picture: Picture
    clock: int
    """Ticks a second."""
    pixel_format: str
    options: Mapping[str, str]
    """Of x264, beside those of every film."""
    avcc: bytes
    """Of the new frames alone."""
    header: bytes
    """Of the film, without the box that tells its length."""
    first: int
    """When the source's first packet is decoded."""
    last: int
    """When the last frame of the source is shown."""
    sound_end: int
    num_bytes: int
    """How long the film's file is up to the seam."""

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        picture = vars(self.picture) | {"pixel_aspect": str(self.picture.pixel_aspect)}
        return vars(self) | {"picture": picture, "avcc": self.avcc.hex(), "header": self.header.hex()}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The seam that gave these facts."""
        old, turn = facts["picture"], facts["picture"]["display_matrix"]
        lists = {"colors": tuple(old["colors"]), "display_matrix": tuple(turn) if turn else None}
        picture = Picture(**{**old, **lists, "pixel_aspect": Fraction(old["pixel_aspect"])})
        header, avcc = bytes.fromhex(facts["header"]), bytes.fromhex(facts["avcc"])
        return cls(**{**facts, "picture": picture, "header": header, "avcc": avcc})


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write a film over its own source.

    Raises:
        ValueError: `output`, or what it is begun as, is the source.
    """
    for file in (output, output.with_name(output.name + ".part")):
        if file.exists() and file.samefile(source):
            name = "is" if file == output else f"is begun as {file.name}, which is"
            works = output.with_name(f"{source.stem}-longer.mp4")
            raise ValueError(f"output = {output}: {name} the source itself; {works} works")


class Splice(FilmWriter):
    """Writes a film that begins with a source; used like `FilmWriter`, and `num_frames` counts the new frames.

    The source's part is written at once, into `output.part`; the film has its name when the first new block is in it
    too. `copied` tells whether the source's pictures were copied bit for bit; `said` is a line about it for the user.
    Pictures and sound are kept, subtitles, chapters and tags are not; as a tag the film says where it is from. `go_on`
    takes up such a film, `resume` does not.

    Raises:
        ValueError: `output` is the source, or `fps` is not positive, or the source cannot be read.
        OSError: the film cannot be written.
    """

    def __init__(self, source: SourceFilm, output: str | Path, fps: int) -> None:
        path = Path(output)
        check_apart(source.path, path)
        self._open_new(path, source.picture, fps)
        self.source = source
        clock = math.lcm(source.timeline.tick.denominator, fps)
        self._clock = clock if clock <= _FINEST_CLOCK else _FINE_CLOCK
        try:
            self._begin()
        except BaseException as error:
            self._drop_part()
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        self._source_bytes = self.num_bytes

    @classmethod
    def go_on(cls, path: str | Path, seam: Seam, fps: int, *, num_frames: int, num_bytes: int) -> Self:
        """Go on with a film after its first `num_frames` new frames, which end at byte `num_bytes`.

        Raises:
            OSError: the film is gone, or cannot be written.
            ValueError: it is not the film that the seam is in.
        """
        film = cls._behind(Path(path), seam, fps)
        film._take_up(num_frames, num_bytes, seam.num_bytes)
        return film

    @classmethod
    def take_over(cls, path: str | Path, begun: Path, seam: Seam, fps: int) -> Self:
        """Go on with a film that another process has begun with a source: the file where it left that is used up.

        Raises:
            OSError: it is gone, or the film cannot be written.
            ValueError: it does not end with the seam.
        """
        film = cls._behind(Path(path), seam, fps)
        film._file.close()
        assert film._part is not None, "nothing was appended yet"
        begun.replace(film._part)
        film._file = film._open(film._part, "r+b")
        try:
            film._find_end(0, seam.num_bytes, seam.num_bytes)
        except BaseException:
            film._drop_part()
            raise
        return film

    def hand_over(self) -> Seam:
        """Leave a film without new frames where it was to be written, for `take_over` in another process."""
        self._file.close()
        assert self._part is not None, "nothing was appended yet"
        self._part.replace(self.path)
        self._part = None
        return self.seam

    @property
    def seam(self) -> Seam:
        """All that `go_on` has to be told beside the length."""
        return Seam(
            picture=self._picture,
            clock=self._clock,
            pixel_format=self._pixel_format,
            options=self._options,
            avcc=self._new_avcc,
            header=self._header,
            first=self._first,
            last=self._last,
            sound_end=self._sound_end,
            num_bytes=self._source_bytes,
        )

    def append(self, frames_THWC: Pixels) -> None:
        """Put new frames of any size on disk, scaled to cover the source; if it fails, what was there stays.

        Raises:
            ValueError: there is none, or they are not uint8 (T, H, W, 3).
            OSError: the disk is full or gone.
        """
        shape = frames_THWC.shape
        if frames_THWC.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                f"frames = {frames_THWC.dtype} {shape}: must be uint8 (T, H, W, 3) with at least one frame"
            )
        header, fragments = self._encode(frames_THWC)
        if read_avcc(header) != self._new_avcc:
            raise ValueError(f"{self.path}: was begun with another encoder than this one")
        num_frames = self.num_frames + len(frames_THWC)
        begin = self._last + round(Fraction(self.num_frames + 1, self.fps) * self._clock) - self._first
        num_fragments = place(fragments, self._num_fragments, begin)
        length = self._last + round(Fraction(num_frames + 1, self.fps) * self._clock)
        self._put(add_length(self._header, max(length, self._sound_end)), fragments, self.num_bytes)
        self.num_frames = num_frames
        self._num_fragments = num_fragments

    @classmethod
    def _behind(cls, path: Path, seam: Seam, fps: int) -> Self:
        film = cls.__new__(cls)
        film._open_new(path, seam.picture, fps)
        film._clock, film._pixel_format, film._options = seam.clock, seam.pixel_format, seam.options
        film._header, film._new_avcc, film._source_bytes = seam.header, seam.avcc, seam.num_bytes
        film._first, film._last, film._sound_end = seam.first, seam.last, seam.sound_end
        film.said = ""
        return film

    def _open_new(self, path: Path, picture: Picture, fps: int) -> None:
        super().__init__(path, picture.height + picture.height % 2, picture.width + picture.width % 2, fps)
        self._picture = picture
        self._options: Mapping[str, str] = {}

    def _find_end(self, num_frames: int, num_bytes: int, begin: int) -> None:
        self._check_header(add_length(self._header, 0))
        super()._find_end(num_frames, num_bytes, begin)

    def _begin(self) -> None:
        """Write the source's part: copied if that can be, else encoded, finer until it is good enough."""
        with self.source.container() as film:
            avcc = picture_stream(film, self.source.path).codec_context.extradata or b""
            reason = _why_not_copied(self.source, film.format.name, avcc)
        if reason is None:
            try:
                self._pixel_format = self.source.picture.pixel_format
                profile = {"profile": _PROFILES[avcc[1]]} if avcc[1] in _PROFILES else {}
                self._options = {"x264-params": f"sps-id={free_id(avcc)}", **profile}
                self._write_source(None)
                self.copied, self.said = True, "the source was copied bit for bit"
            except _CannotCopy as error:
                reason = str(error)
        if reason is not None:
            self._options = {"x264-params": "sps-id=31"}
            psnr = self._encode_source()
            self.copied, self.said = False, f"the source was encoded again at {psnr:.1f} dB, because {reason}"
            self.said += changed(self.source.picture.pixel_format, self._pixel_format)
        if self._left_out:
            self.said += f"; its sound ({', '.join(self._left_out)}) is left out, an MP4 cannot hold it"

    def _encode_source(self) -> float:
        for pixel_format, quantizer in attempts(self.source.picture.pixel_format):
            self._pixel_format = pixel_format
            with suppress(TooCoarse):
                return self._write_source(quantizer)
        raise AssertionError("the last attempt is good enough for noise")

    def _write_source(self, quantizer: int | None) -> float:
        """Write the source's part anew, copied or encoded; returns the PSNR, infinite for a copy."""
        black, _ = self._encode(np.zeros((1, self.source.height, self.source.width, 3), np.uint8))
        self._new_avcc = read_avcc(black)
        self.num_bytes = self._num_fragments = self._sound_end = 0
        self._file.truncate(0)
        # Python that the muxer calls cannot be stopped: Ctrl-C would be lost, and the data too. So it calls none.
        self._muxed = io.BytesIO()
        file: Any = SimpleNamespace(write=self._muxed.write)
        options = _SOURCE_MP4 | {"video_track_timescale": str(self._clock), "movie_timescale": str(self._clock)}
        with (
            self.source.container() as film,
            av.open(file, "w", format="mp4", options=options, buffer_size=_BUFFER) as output,
        ):
            stream = picture_stream(film, self.source.path)
            made = film.metadata.get("comment") in (ORIGIN, ORIGIN_OF_REST)
            self._origin = film.metadata["comment"] if made else ORIGIN_OF_REST
            frames = (
                _Copy(self.source, output, stream, self._clock)
                if quantizer is None
                else Encode(self.source, output, (self.height, self.width), self._clock, self._pixel_format, quantizer)
            )
            self._mux(film, output, stream, frames)
        self._pass_on()
        self._num_fragments = sum(kind == b"moof" for kind, _, _ in boxes(self._file, 0, self.num_bytes))
        return frames.psnr

    def _mux(self, film: InputContainer, output: OutputContainer, stream: VideoStream, frames: _Copy | Encode) -> None:
        sounds, self._left_out = _add_sounds(film, output) if self.source.has_sound else ({}, [])
        self._first, self._last = 0, 0
        held, decoded_at = None, 0  # the last packet lasts until the first new one, so each waits for the next
        for packet in film.demux(stream, *(film.streams[index] for index in sounds)):
            self._pass_on()
            if packet.stream.index in sounds:
                if packet.size:
                    self._sound_end = max(self._sound_end, self._end_of(packet))
                    packet.stream = sounds[packet.stream.index]
                    output.mux(packet)
                continue
            for new in frames.packets(packet):
                assert new.dts is not None and new.pts is not None
                if held is None:
                    self._first = self._last = new.dts
                else:
                    output.mux(held)
                held, decoded_at, self._last = new, new.dts, max(self._last, new.pts)
        if held is None:
            raise ValueError(f"video = {self.source.path}: has no frame that can be decoded; another film works")
        held.duration = self._last + round(Fraction(self._clock, self.fps)) - decoded_at
        output.mux(held)

    def _end_of(self, packet: Packet[Any]) -> int:
        time = packet.dts if packet.pts is None else packet.pts
        return math.ceil(((time or 0) + (packet.duration or 0)) * packet.time_base * self._clock)

    def _pass_on(self) -> None:
        """Write what the muxer has given; its header is changed first, when all of it has come."""
        data = self._muxed.getvalue()
        if data and not self.num_bytes:
            end = next((end for kind, _, end in boxes(io.BytesIO(data), 0, len(data)) if kind == b"moov"), 0)
            if not end:
                return
            header = with_avcc(data[:end], merged(read_avcc(data[:end]), self._new_avcc))
            self._header = with_comment(header, self._origin)
            self._add(add_length(self._header, 0))
            data = data[end:]
        if data:
            self._add(data)
        self._muxed.seek(0)
        self._muxed.truncate()

    def _add(self, data: bytes) -> None:
        self._write(self.num_bytes, data)
        self.num_bytes += len(data)

    def _encode(self, frames_THWC: Pixels) -> tuple[bytes, bytearray]:
        """New frames as an MP4 of their own: its header, and its fragments with times that start at zero."""
        return _encode_frames(
            map(self._stored, frames_THWC),
            self.fps,
            self._clock,
            {**_H264, **self._options},
            lambda stream: describe(stream, self._picture, (self.height, self.width), self._pixel_format),
        )

    def _stored(self, pixels_HWC: Pixels) -> VideoFrame:
        """A new frame as the source's are stored."""
        picture = self._picture
        stored = picture.as_stored(resize_cover(pixels_HWC, *picture.seen_size))
        return VideoFrame.from_ndarray(even(stored), format="rgb24").reformat(
            format=self._pixel_format,
            dst_colorspace=picture.matrix,
            dst_color_range=picture.colors[3],
            interpolation=_CONVERSION,
        )


def spliced(source: Path, film: Path, fps: int) -> Splice:
    """The writer of a film that begins with the one at `source`. Raises: as `SourceFilm.open` and `Splice`."""
    return Splice(SourceFilm.open(source), film, fps)


class _CannotCopy(Exception):
    """Of a source that has begun to be copied: why it cannot be, after all."""


class _Copy:
    """The source's own packets, on the film's clock."""

    psnr = math.inf

    def __init__(self, source: SourceFilm, output: OutputContainer, stream: VideoStream, clock: int) -> None:
        self._stream = output.add_stream_from_template(stream, opaque=True)
        self._stream.codec_context.sample_aspect_ratio = source.picture.pixel_aspect
        self._line, self._clock = source.timeline, clock
        # Matroska keeps no decoding times; these are as late as the order of the packets allows.
        self._decoded_at = iter(source.timeline.shown_at)

    def packets(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        if not packet.size:
            return
        if packet.has_sidedata("new_extradata"):
            raise _CannotCopy("its parameter sets change on the way")
        packet.dts = round((next(self._decoded_at) - self._line.delay) * self._line.tick * self._clock)
        packet.pts = round((packet.pts or 0) * self._line.tick * self._clock)
        packet.time_base = Fraction(1, self._clock)
        packet.stream = self._stream
        yield packet


def _why_not_copied(source: SourceFilm, container: str, avcc: bytes) -> str | None:
    """Why new frames cannot follow the source's own packets in one track, or none if they can."""
    picture = source.picture
    if source.codec != "h264":
        return f"it is {source.codec}, and only h264 can be copied"
    if not {"mp4", "matroska"} & set(container.split(",")):
        return f"it is {container}, and only MP4, MOV and MKV can be copied"
    if picture.pixel_format not in PIXEL_FORMATS or picture.height % 2 or picture.width % 2:
        return f"new frames cannot be encoded as {picture.pixel_format} of {picture.width}x{picture.height}"
    if not source.timeline.is_plain:
        return "not every packet of it is a frame that is shown, at a time of its own"
    if avcc[:1] != b"\1" or avcc[4] & 3 != 3:
        return "the lengths of its NAL units are not in four bytes"
    if free_id(avcc) is None:
        return "its parameter sets take every id"
    return None


def _add_sounds(film: InputContainer, output: OutputContainer) -> tuple[dict[int, Any], list[str]]:
    """The output's stream for each of the source's streams with sound, and the codecs that an MP4 does not take."""
    streams, left_out = {}, []
    for stream in film.streams.audio:
        codec = stream.codec.canonical_name if stream.codec_context else "of an unknown codec"
        try:
            if codec == "aac" and not stream.codec_context.extradata:
                raise ValueError("each packet has a header of its own, as in MPEG-TS")
            streams[stream.index] = output.add_stream_from_template(stream)
        except ValueError:
            left_out.append(codec)
    return streams, left_out
