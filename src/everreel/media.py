"""Pictures and films, in and out: the streaming MP4 writer, the lazy reader, and still pictures.

A film is one fragmented MP4 (H.264 in `avc1`, Rec. 709). Every block of frames is encoded by a fresh encoder
into fragments of its own and is on disk when `append` returns. The invariant: the bytes of a block depend on
its frames and on its place in the film, on nothing else. So a film stopped half-way is a playable shorter
film, and one that is resumed ends with the bytes it would have had.

Pixels are uint8 RGB everywhere: T frames, H rows, W columns, C = 3 channels.
"""

import errno
import io
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Literal, Protocol, Self, overload

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from PIL import Image, ImageDraw, ImageFont, ImageOps

from everreel.boxes import add_length, boxes, find, num_samples, place, read_comment, with_comment

Pixels = npt.NDArray[np.uint8]
ORIGIN = "Made with everreel, by a model: no camera saw this."
"""What every film says of itself, as the comment among its tags."""

_TICKS_PER_FRAME = 512  # of the MP4's clock, which runs at fps * 512
_MOVIE_CLOCK = 1000  # units a second of the film's total length in the MP4's header
_REC709 = 1  # the code of Rec. 709 for primaries, transfer and matrix alike
_LIMITED_RANGE = 1
# libswscale's own numbers: bicubic, full chroma, exact rounding, the same on every processor.
_CONVERSION = 4 | 0x2000 | 0x40000 | 0x80000
# Threads change the bytes, so their number is fixed and does not follow the machine. Without B-frames a frame
# is shown when it is decoded, and no edit list has to repair the start. With x264's macroblock tree one block in a
# hundred came out otherwise on a busy machine (whatever the threads); without it, none of 2,900.
_H264 = {"crf": "16", "preset": "fast", "bf": "0", "threads": "4", "mbtree": "0"}
_MP4 = {"movflags": "empty_moov+default_base_moof+frag_keyframe+skip_trailer", "write_btrt": "0"}


def check_file(field: str, path: Path, example: str) -> None:
    """Refuse a path that is a folder, or lies in one that is not there.

    Raises:
        ValueError: with the field, the value, the rule and what would work.
    """
    if path.is_dir():
        raise ValueError(f"{field} = {path}: is a folder; try {path / example}")
    if not path.parent.is_dir():
        existing = next(parent for parent in path.parent.parents if parent.is_dir())
        raise ValueError(f"{field} = {path}: the folder {path.parent} does not exist; nearest that does: {existing}")


def sync_folder(folder: Path) -> None:
    """Put the names of a folder on disk, where the system lets a folder be opened; a new name is lost without."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class FilmWriter:
    """Writes a film block by block; after each `append` the file is a playable film of `num_frames` frames.

    `num_bytes` is how long the file is then: with `num_frames`, all that `resume` has to be told. A film that was there
    before is replaced when the first block is on disk, not sooner: till then the new one is called `film.mp4.part`.
    """

    def __init__(self, path: str | Path, height: int, width: int, fps: int) -> None:
        for field, value in (("height", height), ("width", width)):
            if value <= 0 or value % 2:
                raise ValueError(f"{field} = {value}: must be even and positive; {max(2, value + 1)} works")
        if fps <= 0:
            raise ValueError(f"fps = {fps}: must be positive; 24 works")
        self.path = Path(path)
        self.height, self.width, self.fps = height, width, fps
        self.num_frames = 0
        self.num_bytes = 0
        self._num_fragments = 0
        self._comment: str | None = ORIGIN
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        self._part: Path | None = self.path.with_name(self.path.name + ".part")
        self._file = self._open(self._part, "w+b")

    @classmethod
    def resume(cls, path: str | Path, height: int, width: int, fps: int, *, num_frames: int, num_bytes: int) -> Self:
        """Go on with a film after its first `num_frames` frames, which end at byte `num_bytes`."""
        writer = cls(path, height, width, fps)
        writer._take_up(num_frames, num_bytes)
        return writer

    def append(self, frames_THWC: Pixels) -> None:
        """Encode one block of frames and put it on disk; if that fails, what was there stays as it was."""
        expected = (self.height, self.width, 3)
        if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[1:] != expected:
            found = f"{frames_THWC.dtype} {frames_THWC.shape}"
            raise ValueError(f"frames = {found}: must be uint8 (T, {self.height}, {self.width}, 3)")
        if len(frames_THWC) == 0:
            raise ValueError("frames = 0 frames: a block has at least one; 1 works")
        header, fragments = _encode(frames_THWC, self.fps)
        num_frames = self.num_frames + len(frames_THWC)
        num_fragments = place(fragments, self._num_fragments, self.num_frames * _TICKS_PER_FRAME)
        header = add_length(self._described(header), round(num_frames * _MOVIE_CLOCK / self.fps))
        if self.num_bytes:
            self._check_header(header)
        self._put(header, fragments, max(self.num_bytes, len(header)))
        self.num_frames = num_frames
        self._num_fragments = num_fragments

    def close(self) -> None:
        """Close the file; without a block there is none."""
        self._drop_part()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path, mode: Literal["w+b", "r+b"]) -> FileIO:
        try:
            return path.open(mode, buffering=0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _put(self, header: bytes, fragments: bytearray, end: int) -> None:
        """Put fragments on disk from byte `end` on; if that fails, the file is as it was."""
        try:
            # A player skips a `free` box, and one of size 0 reaches to the end of the file. Until the block
            # stands there in full it is hidden in one, so a process killed here leaves a playable film too. It is on
            # disk before it is shown: of what is not yet, a power cut may keep any part.
            self._write(0, header)
            self._write(end, struct.pack(">I4s", 0, b"free"))
            self._write(end + 8, fragments[8:])
            os.fsync(self._file.fileno())
            self._write(end, fragments[:8])
            os.fsync(self._file.fileno())
            if self._part is not None:
                self._file.close()  # not every system renames a file that is open
                self._part.replace(self.path)
                sync_folder(self.path.parent)
                self._part = None
                self._file = self._open(self.path, "r+b")
        except BaseException as error:
            with suppress(OSError, ValueError):
                self._file.truncate(self.num_bytes)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise
        self.num_bytes = end + len(fragments)

    def _drop_part(self) -> None:
        self._file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)
            self._part = None

    def _take_up(self, num_frames: int, num_bytes: int, begin: int = 0) -> None:
        """Go on behind what is there; frames are counted from byte `begin` on."""
        self._drop_part()
        if not self.path.exists():
            raise FileNotFoundError(errno.ENOENT, "the film to resume is not there", str(self.path))
        self._file = self._open(self.path, "r+b")
        try:
            self._comment = read_comment(self._file)  # older films have none, and a header keeps its length
            self._find_end(num_frames, num_bytes, begin)
        except BaseException:
            self._file.close()
            raise

    def _described(self, header: bytes) -> bytes:
        return header if self._comment is None else with_comment(header, self._comment)

    def _find_end(self, num_frames: int, num_bytes: int, begin: int) -> None:
        found_frames, end = 0, 0
        for kind, start, stop in boxes(self._file, 0, num_bytes):
            if kind == b"moof":
                self._num_fragments += 1
                found_frames += num_samples(self._file, start, stop) if start > begin else 0
            elif kind == b"mdat":
                end = stop
        if (found_frames, end) != (num_frames, num_bytes):
            raise ValueError(
                f"{self.path}: no block ends at byte {num_bytes} with {num_frames} frames before it;"
                f" one ends at byte {end} with {found_frames} frames before it"
            )
        self._file.truncate(num_bytes)
        self.num_frames, self.num_bytes = num_frames, num_bytes

    def _check_header(self, header: bytes) -> None:
        """The decoder is set up once, so every block must be encoded exactly as the first one was."""
        length = find(io.BytesIO(header), 0, len(header), b"moov", b"mvex", b"mehd") + 4
        self._file.seek(0)
        there = self._file.read(len(header)) or b""
        there = there[:length] + header[length : length + 8] + there[length + 8 :]
        if there != header:
            raise ValueError(f"{self.path}: was begun with another size, frame rate or encoder than this one")

    def _write(self, position: int, data: bytes | bytearray) -> None:
        self._file.seek(position)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]


class Frames:
    """The frames of a video file, decoded when asked for: index, slice, iterate, or `np.asarray` them all."""

    def __init__(self, path: Path, timestamps: list[int], options: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._options = dict(options or {})
        self._timestamps = timestamps

    def __len__(self) -> int:
        return len(self._timestamps)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Pixels: ...
    def __getitem__(self, index: int | slice) -> Pixels:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return next(self._decode(range(numbers, numbers + 1)))
        if numbers.step < 0:
            return self[numbers[-1] : numbers[0] + 1 : -numbers.step][::-1] if numbers else self[:0]
        if not numbers:
            return np.empty((0, *self[0].shape), np.uint8)
        return np.stack(list(self._decode(numbers)))

    def __iter__(self) -> Iterator[Pixels]:
        return self._decode(range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        if copy is False:
            raise ValueError("copy = False: the frames lie in a file, an array of them is always a copy")
        return np.asarray(self[:], dtype=dtype)

    def _decode(self, numbers: range) -> Iterator[Pixels]:
        wanted = iter(self._timestamps[numbers.start : numbers.stop : numbers.step])
        timestamp = next(wanted, None)
        if timestamp is None:
            return
        with av.open(self._path, options=self._options) as container:
            stream = _stream(container, self._path, self._options)
            container.seek(timestamp, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= timestamp:
                    rgb = frame.reformat(format="rgb24", interpolation=_CONVERSION)
                    yield rgb.to_ndarray().astype(np.uint8, copy=False)
                    timestamp = next(wanted, None)
                    if timestamp is None:
                        return
        number = self._timestamps.index(timestamp)
        raise ValueError(f"video = {self._path}: its frame {number} cannot be decoded; a film that is whole works")


def in_one_thread(stream: av.VideoStream, options: Mapping[str, str]) -> bool:
    """Whether the options say so, and the stream is decoded so; some decoders heed nothing but the number."""
    if options.get("threads") != "1":
        return False
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return True


def _stream(container: InputContainer, path: Path, options: Mapping[str, str]) -> av.VideoStream:
    """The first stream with pictures, whose decoder keeps to the options: FFmpeg itself does only while it probes."""
    if not container.streams.video:
        raise ValueError(f"video = {path}: has no picture in it; an MP4 or WebM film works")
    stream = container.streams.video[0]
    known, decoder = options.get("codec_whitelist"), stream.codec_context.codec.name
    if known is not None and decoder not in known.split(","):
        raise ValueError(f"video = {path}: is coded as {decoder}, which is not read here; an MP4 with H.264 works")
    if not in_one_thread(stream, options):
        stream.thread_type = "AUTO"
    return stream


class Video:
    """A video file. Opening it reads its index; `frames` are decoded only when they are asked for.

    `options` are FFmpeg's, to whom a film that strangers have sent may be no more than what it was taken for.
    """

    def __init__(self, path: str | Path, options: Mapping[str, str] | None = None) -> None:
        self.path, self._options = Path(path), dict(options or {})
        try:
            with av.open(self.path, options=self._options) as container:
                stream = _stream(container, self.path, self._options)
                self.height, self.width = stream.height, stream.width
                self._timestamps = sorted(
                    packet.pts
                    for packet in container.demux(stream)
                    if packet.pts is not None and packet.size and not packet.is_discard
                )
                self._tick = stream.time_base or Fraction(1)
                self._rate_of_file = stream.average_rate or Fraction(24)
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:  # the second: of a format not in a list
            raise ValueError(f"video = {self.path}: cannot be read as a video; an MP4 works") from error

    @property
    def num_frames(self) -> int:
        return len(self._timestamps)

    @cached_property
    def fps(self) -> float:
        """Frames a second, on average."""
        if self.num_frames < 2:
            return float(self._rate_of_file)
        return float((self.num_frames - 1) / ((self._timestamps[-1] - self._timestamps[0]) * self._tick))

    @property
    def frames(self) -> Frames:
        return Frames(self.path, self._timestamps, self._options)

    def save(self, path: str | Path) -> None:
        """Copy the film to `path`, byte for byte."""
        with suppress(shutil.SameFileError):
            shutil.copyfile(self.path, path)

    def __repr__(self) -> str:
        size = f"{self.width}x{self.height}"
        return f"Video({str(self.path)!r}, {self.num_frames} frames, {size}, {self.fps:g} fps)"


class FrameSource(Protocol):
    """A film as a contact sheet wants it: an array of T x H x W x 3, or `Video.frames`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Pixels: ...


def read_image(source: str | Path | Image.Image) -> Pixels:
    """A picture as H x W x 3, upright, whatever its mode; what is transparent becomes white."""
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    try:
        with Image.open(source) as image:
            return _to_rgb(image)
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        # Pillow says "not a picture" with an OSError of no number; one with a number is about the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"image = {source}: cannot be read as a picture; a PNG or JPEG works") from error


def resize_cover(image_HWC: Pixels, height: int, width: int) -> Pixels:
    """Scale a picture until it covers height x width, and cut off what hangs over, alike on both sides."""
    rows, columns = image_HWC.shape[:2]
    scale = max(height / rows, width / columns)
    crop_height, crop_width = height / scale, width / scale
    top, left = (rows - crop_height) / 2, (columns - crop_width) / 2
    box = (left, top, left + crop_width, top + crop_height)
    # Rounding may push the box a hair over the edge, which Pillow refuses.
    box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(columns)), min(box[3], float(rows)))
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.LANCZOS, box=box))


def write_image(path: str | Path, image_HWC: Pixels) -> None:
    """Write a picture; the ending of the name decides the format."""
    Image.fromarray(image_HWC).save(path)


def contact_sheet(
    films: Sequence[FrameSource],
    *,
    columns: int = 4,
    frames_per_film: int = 1,
    captions: Sequence[str] | None = None,
) -> Pixels:
    """One picture of many films: a cell a film, with frames from first to last and a caption below."""
    if not films:
        raise ValueError("films = 0 films: a contact sheet has at least one; 1 works")
    strips = [_strip(film, frames_per_film) for film in films]
    cell_height = max(strip.shape[0] for strip in strips)
    cell_width = max(strip.shape[1] for strip in strips)
    font = ImageFont.load_default(size=12)
    texts = [_wrap(caption, cell_width, font) for caption in captions or []]
    line_height, gap = 15, 8
    text_height = line_height * max((len(lines) for lines in texts), default=0)
    rows = -(-len(films) // columns)
    step_y, step_x = cell_height + text_height + gap, cell_width + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, strip in enumerate(strips):
        row, column = divmod(number, columns)
        left, top = gap + column * step_x, gap + row * step_y
        sheet.paste(Image.fromarray(strip), (left, top))
        for line, text in enumerate(texts[number] if number < len(texts) else []):
            draw.text((left, top + cell_height + 2 + line * line_height), text, fill="black", font=font)
    return np.asarray(sheet)


def _strip(film: FrameSource, num_frames: int) -> Pixels:
    numbers = np.linspace(0, len(film) - 1, num_frames).round().astype(int)
    return np.concatenate([film[int(number)] for number in numbers], axis=1)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _to_rgb(image: Image.Image) -> Pixels:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them at 255
        upright = Image.fromarray((np.asarray(upright).astype(np.float64) / 257).round().astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright.convert("RGB"))


def _encode(frames_THWC: Pixels, fps: int) -> tuple[bytes, bytearray]:
    """One block as an MP4 of its own: its header, and its fragments with times that start at zero."""

    def set_up(stream: av.VideoStream) -> None:
        stream.height, stream.width, stream.pix_fmt = frames_THWC.shape[1], frames_THWC.shape[2], "yuv420p"
        encoder = stream.codec_context
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = _REC709
        encoder.color_range = _LIMITED_RANGE

    frames = (
        av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=_REC709,
            dst_color_range=_LIMITED_RANGE,
            interpolation=_CONVERSION,
        )
        for pixels in frames_THWC
    )
    return _encode_frames(frames, fps, fps * _TICKS_PER_FRAME, _H264, set_up)


def _encode_frames(
    frames: Iterable[av.VideoFrame],
    fps: int,
    clock: int,
    h264: dict[str, str],
    set_up: Callable[[av.VideoStream], None],
) -> tuple[bytes, bytearray]:
    """Frames as an MP4 of their own, from an encoder of their own; `clock` in ticks a second."""
    file = io.BytesIO()
    options = _MP4 | {"video_track_timescale": str(clock)}
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options=h264)
        set_up(stream)
        stream.codec_context.gop_size = 2 * fps  # how far a player has to decode when it jumps
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = file.getvalue()
    split = next(start - 8 for kind, start, _ in boxes(file, 0, len(data)) if kind == b"moof")
    return data[:split], bytearray(data[split:])
