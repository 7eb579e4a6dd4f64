"""A source that cannot be copied, as H.264: how, how like the source that is, and what is lost.

In 8 bits and 4:2:0, which every player shows, unless the source's colour is too fine for that; then in its own format.
The one invariant: the PSNR that is told is that of the frames as they are decoded again, against the source's own
samples: in planes as fine as the source's, or in RGB of 16 bits where H.264 has none such.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everreel.film.source import Picture, SourceFilm
from everreel.media import _CONVERSION, _H264, Pixels

PIXEL_FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
"""That can be encoded as they are."""
_CHROMA = {(2, 2): "yuv420p", (2, 4): "yuv422p", (4, 4): "yuv444p"}  # by the colours that 4 x 4 pixels have
_ENOUGH = 45.0  # dB of PSNR, over all samples together, that each frame has at least
_EVERYWHERE = "yuv420p"  # what every player shows
_FINEST, _EXACT = "yuv444p10le", "gbrp16le"  # of other formats: what they are encoded as, and compared in
# A quantizer of 16 nearly always does, and the worst that 12 can do to noise is 47 dB. The finest is for RGB.
_QUANTIZERS = (16, 12, 8, 4)
# Without what pleases the eye and costs PSNR, and with frames that are all as good.
_FAITHFUL = {"x264-params": "psy=0:ipratio=1"}


class TooCoarse(Exception):
    """A frame of the source was encoded worse than it may be."""


def attempts(own: str) -> list[tuple[str, int]]:
    """Pixel formats and quantizers for a source in a format of its own, from the most desired to the surest."""
    kept = _alike(own) or _FINEST
    wanted = [(_EVERYWHERE, quantizer) for quantizer in _QUANTIZERS[:2]]
    return list(dict.fromkeys([*wanted, *((kept, quantizer) for quantizer in _QUANTIZERS)]))


def changed(own: str, kept: str) -> str:
    """For people: what a source in one pixel format loses in another, and who may not show that; '' if it is alike."""
    old, new, said = VideoFormat(own, 4, 4), VideoFormat(kept, 4, 4), ""
    if _bits(own) > _bits(kept):
        said += f"; its {_bits(own)} bits a sample became {_bits(kept)}"
    finer = old.chroma_width() > new.chroma_width() or old.chroma_height() > new.chroma_height()
    if len(old.components) > 2 and finer:
        said += "; its finer colour became 4:2:0"
    if any(component.is_alpha for component in old.components):
        said += "; what was transparent is not any more"
    if kept != _EVERYWHERE:
        said += f"; it is in {kept}, to keep its colour, and not every player shows that"
    return said


def describe(stream: VideoStream, picture: Picture, size: tuple[int, int], pixel_format: str) -> None:
    """Set an encoder to the source's colours and shape of pixel."""
    stream.height, stream.width = size
    stream.pix_fmt = pixel_format
    encoder = stream.codec_context
    encoder.sample_aspect_ratio = picture.pixel_aspect
    encoder.color_primaries, encoder.color_trc, matrix, encoder.color_range = picture.colors
    encoder.colorspace = matrix or picture.matrix  # 0 is that of RGB


def even(pixels_HWC: Pixels) -> Pixels:
    """With its last row and column once more where their number is odd, which H.264 in 4:2:0 does not have."""
    rows, columns = pixels_HWC.shape[:2]
    return np.pad(pixels_HWC, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")


class Encode:
    """The source's frames with a constant quantizer, each decoded again and compared with the source's own.

    Raises:
        TooCoarse: from `packets`, at the first frame that is less like the source's than it may be.
    """

    def __init__(
        self,
        source: SourceFilm,
        output: OutputContainer,
        size: tuple[int, int],
        clock: int,
        pixel_format: str,
        quantizer: int,
    ) -> None:
        finest = 6 * (_bits(pixel_format) - 8)  # x264 counts from the finest step of the depth
        options = {key: value for key, value in _H264.items() if key != "crf"} | _FAITHFUL
        rate = max(Fraction(1, 1001), Fraction(source.fps).limit_denominator(1001))
        self._stream = output.add_stream("libx264", rate=rate, options={**options, "qp": str(quantizer + finest)})
        describe(self._stream, source.picture, size, pixel_format)
        self._stream.set_display_matrix(source.picture.display_matrix)
        self._stream.codec_context.gop_size = max(1, round(2 * source.fps))
        self._stream.codec_context.time_base = Fraction(1, clock)
        self._picture, self._tick, self._clock = source.picture, source.timeline.tick, clock
        self._time = round(source.timeline.shown_at[0] * self._tick * clock) - 1
        self._format, self._compared_in = pixel_format, _alike(source.picture.pixel_format) or _EXACT
        self._decoder = VideoCodecContext.create("h264", "r")
        self._originals: deque[VideoFrame] = deque()  # of frames that the encoder has not given back yet
        self._error, self._num_samples = 0.0, 0

    @property
    def psnr(self) -> float:
        """In dB, of all frames so far."""
        return _psnr(self._error, self._num_samples)

    def packets(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        """What is ready after a packet of the source; its empty last one brings the rest."""
        for frame in packet.decode():
            yield from map(self._measured, self._stream.encode(self._prepared(frame)))
        if not packet.size:
            yield from map(self._measured, self._stream.encode())
            self._measure(None)

    def _prepared(self, frame: VideoFrame) -> VideoFrame:
        picture, time = self._picture, frame.pts
        size = {"width": picture.width, "height": picture.height}  # a film may change its own on the way
        self._originals.append(self._converted(frame, self._compared_in, **size))
        yuv = _even_frame(self._converted(frame, self._format, **size))
        # A frame without a time of its own comes as soon as it can after the one before.
        self._time = max(self._time + 1, 0 if time is None else round(time * self._tick * self._clock))
        yuv.pts, yuv.time_base = self._time, Fraction(1, self._clock)
        yuv.pict_type = 0  # the encoder is not to follow the source's types of frame
        return yuv

    def _converted(self, frame: VideoFrame, pixel_format: str, **size: int) -> VideoFrame:
        matrix, to_rgb = self._picture.matrix, pixel_format == _EXACT
        return frame.reformat(
            format=pixel_format,
            src_colorspace=None if frame.format.is_rgb else matrix,
            dst_colorspace=None if to_rgb else matrix,
            dst_color_range=None if to_rgb else self._picture.colors[3],
            interpolation=_CONVERSION,
            **size,
        )

    def _measured(self, packet: Packet[Any]) -> Packet[Any]:
        if not self._decoder.is_open:
            self._decoder.extradata = self._stream.codec_context.extradata
        self._measure(packet)
        return packet

    def _measure(self, packet: Packet[Any] | None) -> None:
        """Compare what a packet shows with the source's frames; without B-frames they come in the same order."""
        for frame in self._decoder.decode(packet):
            shown, original = self._converted(frame, self._compared_in), self._originals.popleft()
            error, num_samples = 0.0, 0
            for new, old in zip(_planes(shown), _planes(original), strict=True):
                # What was added to make it even is not the source's.
                difference = np.subtract(new[: old.shape[0], : old.shape[1]], old, dtype=np.float64).ravel()
                error += float(difference @ difference)
                num_samples += old.size
            error /= ((1 << _bits(self._compared_in)) - 1) ** 2
            if _psnr(error, num_samples) < _ENOUGH:
                raise TooCoarse
            self._error, self._num_samples = self._error + error, self._num_samples + num_samples


def _even_frame(frame: VideoFrame) -> VideoFrame:
    """`even` for a frame in planes."""
    if frame.width % 2 == frame.height % 2 == 0:
        return frame
    new = VideoFrame(frame.width + frame.width % 2, frame.height + frame.height % 2, frame.format.name)
    for samples, plane in zip(_planes(frame), new.planes, strict=True):
        rows, columns = samples.shape
        room = ((0, plane.height - rows), (0, plane.line_size // samples.itemsize - columns))
        plane.update(np.pad(samples, room, mode="edge").tobytes())
    return new


def _planes(frame: VideoFrame) -> Iterator[np.ndarray[Any, Any]]:
    """The samples of each plane, without what fills its lines."""
    kind = np.dtype(np.uint16 if _bits(frame.format.name) > 8 else np.uint8)
    for plane in frame.planes:
        lines = np.frombuffer(memoryview(plane), kind).reshape(plane.height, plane.line_size // kind.itemsize)
        yield lines[:, : plane.width]


def _alike(own: str) -> str | None:
    """The one of `PIXEL_FORMATS` that holds a format's samples, to 10 bits; none for RGB, grey and rarer ones."""
    like = VideoFormat(own, 4, 4)
    if like.is_rgb or len(like.components) < 3:
        return None
    name = _CHROMA.get((like.chroma_width(), like.chroma_height()))
    return name and name + "10le" * (_bits(own) > 8)


def _bits(pixel_format: str) -> int:
    return VideoFormat(pixel_format).components[0].bits


def _psnr(error: float, num_samples: int) -> float:
    """In dB, of a sum of squared errors as shares of the brightest; finite, as no error counts as one of 8 bits."""
    return 10 * math.log10(num_samples / max(error, 255.0**-2))
