"""The film on disk: playable after every block, the same bytes after a resume, true to its frames."""

import errno
import itertools
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.codec.context import ThreadType
from PIL import Image

from everreel.media import ORIGIN, FilmWriter, Video, _stream, contact_sheet, read_image, resize_cover, write_image

HEIGHT, WIDTH = 96, 160
Pixels = npt.NDArray[np.uint8]


def moving_picture(num_frames: int, height: int = HEIGHT, width: int = WIDTH, start: int = 0) -> Pixels:
    """Smooth colours and a saturated disc that moves, each frame another than its neighbours."""
    t, y, x = np.meshgrid(np.arange(start, start + num_frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 23 + t / 7 + phase) * 50 + np.cos(y / 17 - t / 11) * 40 + 120 for phase in (0, 1, 2)]
    film = np.stack(waves, axis=-1)
    distance = np.hypot(x - 20 - 2 * t % (width - 40), y - height // 2)
    disc = np.clip((16 - distance) / 6, 0, 1)[..., None]
    film = film * (1 - disc) + np.array([225, 40, 30]) * disc
    return film.round().astype(np.uint8)


def blocks_of(film: Pixels, sizes: list[int]) -> list[Pixels]:
    assert sum(sizes) == len(film)
    return np.split(film, np.cumsum(sizes)[:-1])


def write_film(path: Path, blocks: list[Pixels], fps: int = 24) -> list[tuple[int, int]]:
    """Writes a film and returns (num_frames, num_bytes) after each block."""
    marks = []
    with FilmWriter(path, *blocks[0].shape[1:3], fps) as writer:
        for block in blocks:
            writer.append(block)
            marks.append((writer.num_frames, writer.num_bytes))
    return marks


def decode(path: Path) -> tuple[list[float], Pixels]:
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames])


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("sizes", "fps"),
    [([1], 24), ([1, 8, 20, 4, 1, 12], 24), ([33], 16), ([1] * 5, 16), ([60, 70], 24), ([4] * 9, 16)],
)
def test_a_film_keeps_its_frames_and_their_times(tmp_path: Path, sizes: list[int], fps: int) -> None:
    film = moving_picture(sum(sizes))
    write_film(tmp_path / "film.mp4", blocks_of(film, sizes), fps)
    times, frames = decode(tmp_path / "film.mp4")
    assert times == pytest.approx([k / fps for k in range(len(film))], abs=1e-9)
    assert frames.shape == film.shape
    assert min(psnr(a, b) for a, b in zip(frames, film, strict=True)) > 35


def test_a_film_says_what_a_browser_needs(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, blocks_of(moving_picture(30), [1, 20, 9]))
    data = path.read_bytes()
    assert data[4:8] == b"ftyp"
    assert data.index(b"moov") < data.index(b"moof"), "a player must not have to read to the end"
    header = data[: data.index(b"moof")]
    assert all(kind in header for kind in (b"avc1", b"avcC", b"colr", b"mvex", b"trex", b"mehd"))
    mehd = header.index(b"mehd")
    assert int.from_bytes(header[mehd + 8 : mehd + 16]) == 1250
    assert b"elst" not in header
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.duration * stream.time_base == pytest.approx(30 / 24)
        frame = next(container.decode(stream))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)


def test_a_film_is_encoded_without_what_makes_bytes_differ_from_run_to_run(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, [moving_picture(3)])
    assert b" mbtree=0 " in path.read_bytes()  # the encoder writes its settings into the film


def test_every_block_can_be_decoded_without_the_ones_before_it(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", blocks_of(moving_picture(29), [1, 8, 20]))
    with av.open(tmp_path / "film.mp4") as container:
        keys = [p.pts // 512 for p in container.demux(video=0) if p.is_keyframe and p.size]
    assert {0, 1, 9} <= set(keys)


def test_a_film_plays_after_every_block_and_while_it_is_being_made(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = moving_picture(37)
    with FilmWriter(path, HEIGHT, WIDTH, 24) as writer:
        for block in blocks_of(film, [1, 16, 20]):
            writer.append(block)
            times, frames = decode(path)
            assert len(times) == writer.num_frames
            assert psnr(frames, film[: writer.num_frames]) > 35
            assert path.stat().st_size == writer.num_bytes


def test_a_film_killed_while_a_block_is_written_is_playable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play back the writes of the second block up to any byte: until the last, the film has its first."""
    path, killed = tmp_path / "film.mp4", tmp_path / "killed.mp4"
    first, second = blocks_of(moving_picture(20), [8, 12])
    writes: list[tuple[int, bytes]] = []
    write = FilmWriter._write

    def record(writer: FilmWriter, position: int, data: bytes) -> None:
        writes.append((position, bytes(data)))
        write(writer, position, data)

    with FilmWriter(path, HEIGHT, WIDTH, 24) as writer:
        writer.append(first)
        before = path.read_bytes()
        monkeypatch.setattr(FilmWriter, "_write", record)
        writer.append(second)
    for last, (_, data) in enumerate(writes):
        for cut in sorted({0, 8, 40, 100, 200, len(data) // 2, len(data)} & set(range(len(data) + 1))):
            film = bytearray(before)
            for position, whole in [*writes[:last], (writes[last][0], data[:cut])]:
                film[position : position + len(whole)] = whole
            killed.write_bytes(film)
            is_done = last == len(writes) - 1 and cut == len(data)
            assert len(decode(killed)[0]) == (20 if is_done else 8)


def test_whatever_a_power_cut_keeps_of_a_block_the_film_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of writes that were not synced yet any may be on disk, whole, in part or not at all, in whatever order."""
    path, left = tmp_path / "film.mp4", tmp_path / "left.mp4"
    first, second = blocks_of(moving_picture(12, 32, 48), [5, 7])
    done: list[tuple[int, bytes] | None] = []  # None where all before it is on disk
    write, sync = FilmWriter._write, os.fsync

    def record(writer: FilmWriter, position: int, data: bytes) -> None:
        done.append((position, bytes(data)))
        write(writer, position, data)

    with FilmWriter(path, 32, 48, 24) as writer:
        writer.append(first)
        before = path.read_bytes()
        monkeypatch.setattr(FilmWriter, "_write", record)
        monkeypatch.setattr(os, "fsync", lambda handle: (done.append(None), sync(handle)))
        writer.append(second)
    assert done[-1] is None, "it is on disk when append returns"
    found = set()
    while done:
        synced = next((at for at in range(len(done), 0, -1) if done[at - 1] is None), 0)
        safe, loose = [each for each in done[:synced] if each], [each for each in done[synced:] if each]
        for kept in itertools.product((0, 0.5, 1), repeat=len(loose)):
            film = bytearray(before)
            torn = [(at, data[: int(len(data) * part)]) for (at, data), part in zip(loose, kept, strict=True)]
            for position, data in [*safe, *torn]:
                film.extend(bytes(max(position + len(data) - len(film), 0) if data else 0))  # a hole is full of zeros
                film[position : position + len(data)] = data
            left.write_bytes(film)
            times, frames = decode(left)
            assert len(times) in (5, 12), (kept, len(times))
            assert psnr(frames[:5], first) > 33
            found.add(len(times))
        done.pop()
    assert found == {5, 12}


def test_an_interrupted_block_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, HEIGHT, WIDTH, 24) as writer:
        writer.append(moving_picture(4))
        done = writer.num_bytes
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            writer.append(moving_picture(9))
        assert path.stat().st_size == writer.num_bytes == done
    assert len(decode(path)[0]) == 4


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_resumed_film_has_the_same_bytes(tmp_path: Path, done: int) -> None:
    blocks = blocks_of(moving_picture(86), [1, 16, 60, 9])
    whole, resumed = tmp_path / "whole.mp4", tmp_path / "resumed.mp4"
    marks = [(0, 0), *write_film(whole, blocks)]
    # The film that is taken up had gone on further, and was cut off within a block.
    resumed.write_bytes(whole.read_bytes()[:-50])
    num_frames, num_bytes = marks[done]
    with FilmWriter.resume(resumed, HEIGHT, WIDTH, 24, num_frames=num_frames, num_bytes=num_bytes) as writer:
        assert (writer.num_frames, writer.num_bytes) == (num_frames, num_bytes)
        for block in blocks[done:]:
            writer.append(block)
        assert (writer.num_frames, writer.num_bytes) == marks[-1]
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_film_says_that_a_model_made_it_and_nothing_else(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", blocks_of(moving_picture(12), [4, 8]))
    with av.open(tmp_path / "film.mp4") as container:
        said = dict(container.metadata)
    assert said.pop("comment") == ORIGIN == "Made with everreel, by a model: no camera saw this."
    assert set(said) == {"major_brand", "minor_version", "compatible_brands"}


@pytest.mark.parametrize("done", [1, 2])
def test_a_film_that_was_begun_without_a_tag_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    blocks = blocks_of(moving_picture(20), [4, 8, 8])
    with monkeypatch.context() as patch:
        patch.setattr("everreel.media.with_comment", lambda header, comment: header)
        marks = write_film(tmp_path / "old.mp4", blocks)
        write_film(tmp_path / "film.mp4", blocks[:done])
    assert b"no camera" not in (tmp_path / "old.mp4").read_bytes()
    num_frames, num_bytes = marks[done - 1]
    with FilmWriter.resume(
        tmp_path / "film.mp4", HEIGHT, WIDTH, 24, num_frames=num_frames, num_bytes=num_bytes
    ) as writer:
        for block in blocks[done:]:
            writer.append(block)
    assert (tmp_path / "film.mp4").read_bytes() == (tmp_path / "old.mp4").read_bytes()


def test_a_resume_at_a_wrong_place_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    blocks = blocks_of(moving_picture(17), [1, 16])
    marks = write_film(path, blocks)
    before = path.read_bytes()
    good_frames, good_bytes = marks[0]
    for num_frames, num_bytes in ((good_frames, good_bytes + 1), (5, good_bytes), (99, 10**9)):
        with pytest.raises(ValueError, match=r"film\.mp4.*no block ends at byte"):
            FilmWriter.resume(path, HEIGHT, WIDTH, 24, num_frames=num_frames, num_bytes=num_bytes)
    with pytest.raises(FileNotFoundError, match=r"other\.mp4"):
        FilmWriter.resume(tmp_path / "other.mp4", HEIGHT, WIDTH, 24, num_frames=1, num_bytes=good_bytes)
    assert path.read_bytes() == before


def test_a_resume_with_another_frame_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    ((num_frames, num_bytes),) = write_film(path, [moving_picture(4)])
    writer = FilmWriter.resume(path, HEIGHT, WIDTH, 16, num_frames=num_frames, num_bytes=num_bytes)
    with writer, pytest.raises(ValueError, match="begun with another size, frame rate"):
        writer.append(moving_picture(4))
    assert len(decode(path)[0]) == 4


@contextmanager
def at_most_bytes_a_file(limit: int) -> Iterator[None]:
    """A stand-in for a full disk: the system refuses to make any file longer than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_with_the_path_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path, HEIGHT, WIDTH, 24) as writer:
        writer.append(moving_picture(5))
        done = writer.num_bytes
        with at_most_bytes_a_file(done + 1000), pytest.raises(OSError, match=r"film\.mp4") as caught:
            writer.append(moving_picture(40, start=5))
        assert caught.value.errno == errno.EFBIG
        assert (writer.num_frames, writer.num_bytes, path.stat().st_size) == (5, done, done)
        assert len(decode(path)[0]) == 5
        writer.append(moving_picture(3, start=5))
    assert len(decode(path)[0]) == 8


def test_a_disk_that_is_full_at_once_leaves_the_film_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, [moving_picture(5)])
    before = path.read_bytes()
    with (
        FilmWriter(path, HEIGHT, WIDTH, 24) as writer,
        at_most_bytes_a_file(1000),
        pytest.raises(OSError, match=r"film\.mp4"),
    ):
        writer.append(moving_picture(40))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_a_place_that_cannot_be_written_is_an_error_with_the_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "film.mp4"):
        with pytest.raises(OSError, match=str(path)):
            FilmWriter(path, HEIGHT, WIDTH, 24)


def test_a_film_that_was_there_stays_until_the_first_block_comes(tmp_path: Path) -> None:
    path, new = tmp_path / "film.mp4", tmp_path / "new.mp4"
    write_film(path, [moving_picture(40)])
    before = path.read_bytes()
    FilmWriter(path, HEIGHT, WIDTH, 24).close()
    assert path.read_bytes() == before
    write_film(path, [moving_picture(3)])
    assert len(decode(path)[0]) == 3
    FilmWriter(new, HEIGHT, WIDTH, 24).close()
    assert not new.exists()


def test_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", HEIGHT, WIDTH, 24) as writer:
        for frames in (moving_picture(2, 64, 64), moving_picture(2)[0], moving_picture(2).astype(np.float32)):
            with pytest.raises(ValueError, match=r"must be uint8 \(T, 96, 160, 3\)"):
                writer.append(frames)
        with pytest.raises(ValueError, match="at least one"):
            writer.append(moving_picture(0))
    with pytest.raises(ValueError, match="height = 97: must be even and positive; 98 works"):
        FilmWriter(tmp_path / "odd.mp4", 97, WIDTH, 24)
    with pytest.raises(ValueError, match="fps = 0"):
        FilmWriter(tmp_path / "still.mp4", HEIGHT, WIDTH, 0)


def test_a_video_reads_the_frames_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = moving_picture(90, 64, 96)
    write_film(path, blocks_of(film, [1, 8, 60, 21]))
    video = Video(path)
    frames = np.stack(list(video.frames))
    assert psnr(frames, film) > 35
    assert abs(np.mean(frames - film.astype(float))) < 0.3, "reading makes nothing darker"
    assert (video.num_frames, video.height, video.width, video.fps) == (90, 64, 96, 24)
    assert len(video.frames) == 90
    for index in (0, 1, 8, 68, 69, 89, -1, -90):
        np.testing.assert_array_equal(video.frames[index], frames[index])
    for index in (
        slice(5, 12),
        slice(None, None, 13),
        slice(-3, None),
        slice(80, 60, -7),
        slice(7, 7),
        slice(3, 1, -9),
    ):
        np.testing.assert_array_equal(video.frames[index], frames[index])
    np.testing.assert_array_equal(np.asarray(video.frames), frames)
    for index in (90, -91):
        with pytest.raises(IndexError):
            video.frames[index]


def test_a_video_is_no_more_than_its_options_allow(tmp_path: Path) -> None:
    """And is decoded in as many threads, whatever FFmpeg makes of the options by itself."""
    write_film(tmp_path / "film.mp4", [moving_picture(6)])
    allowed = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2", "codec_whitelist": "h264", "threads": "1"}
    plain, video = Video(tmp_path / "film.mp4"), Video(tmp_path / "film.mp4", allowed)
    assert np.array_equal(video.frames[2:4], plain.frames[2:4])
    for name, others in (("format_whitelist", "matroska,webm"), ("codec_whitelist", "vp9,av1")):
        with pytest.raises(ValueError, match=r"^video = .*film.mp4: .* works$"):
            Video(tmp_path / "film.mp4", allowed | {name: others})
    with av.open(tmp_path / "film.mp4") as one, av.open(tmp_path / "film.mp4") as any_number:
        alone, many = _stream(one, video.path, allowed), _stream(any_number, video.path, {})
        assert (alone.thread_type, alone.codec_context.thread_count) == (ThreadType.NONE, 1)
        assert many.thread_type == ThreadType.AUTO


def test_a_video_of_one_frame_and_a_copy_of_it(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", [moving_picture(1)], fps=16)
    video = Video(tmp_path / "film.mp4")
    assert (video.num_frames, video.fps) == (1, 16)
    video.save(tmp_path / "copy.mp4")
    video.save(tmp_path / "film.mp4")
    assert (tmp_path / "copy.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()
    assert "1 frames, 160x96, 16 fps" in repr(video)


def test_what_is_not_a_video_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("not a film" * 100)
    with pytest.raises(ValueError, match=r"words\.mp4: cannot be read as a video"):
        Video(tmp_path / "words.mp4")
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        Video(tmp_path / "none.mp4")


def test_pictures_of_every_mode_are_read_as_rgb(tmp_path: Path) -> None:
    picture = moving_picture(1, 30, 50)[0]
    write_image(tmp_path / "rgb.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), picture)
    np.testing.assert_array_equal(read_image(Image.fromarray(picture)), picture)

    grey = Image.fromarray(picture).convert("L")
    np.testing.assert_array_equal(read_image(grey), np.repeat(np.asarray(grey)[..., None], 3, axis=-1))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), read_image(grey))

    rgba = Image.fromarray(picture).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(np.arange(50) < 25, 255, 0).astype(np.uint8)[None].repeat(30, axis=0)))
    rgba.save(tmp_path / "rgba.png")
    on_white = read_image(tmp_path / "rgba.png")
    np.testing.assert_array_equal(on_white[:, :25], picture[:, :25])
    assert (on_white[:, 25:] == 255).all()
    assert read_image(rgba.convert("P")).shape == picture.shape
    assert read_image(Image.fromarray(picture).convert("CMYK")).shape == picture.shape


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    picture = moving_picture(1, 30, 50)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    Image.fromarray(np.rot90(picture).copy()).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), picture)


def test_what_is_not_a_picture_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"words\.png: cannot be read as a picture"):
        read_image(tmp_path / "words.png")
    write_image(tmp_path / "half.png", moving_picture(1)[0])
    data = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.png: cannot be read as a picture"):
        read_image(tmp_path / "half.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (128, 128), (30, 50), (16, 400)])
def test_a_picture_covers_the_frame_and_keeps_its_centre(height: int, width: int) -> None:
    picture = np.zeros((90, 151, 3), np.uint8)
    picture[40:50, 70:81] = 255
    covered = resize_cover(picture, height, width)
    assert covered.shape == (height, width, 3)
    rows, columns = np.nonzero(covered[..., 0] > 127)
    assert rows.mean() == pytest.approx((height - 1) / 2, abs=1)
    assert columns.mean() == pytest.approx((width - 1) / 2, abs=1)


def test_a_contact_sheet_shows_every_film_and_caption(tmp_path: Path) -> None:
    films = [np.full((5, 20, 30, 3), value, np.uint8) for value in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(films, columns=2, frames_per_film=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * 28 + 8, 2 * 98 + 8, 3)
    assert set(np.unique(sheet)) == {10, 60, 110, 160, 210, 255}
    captioned = contact_sheet(films, columns=2, frames_per_film=3, captions=["a red fox runs through the snow"] * 5)
    assert captioned.shape[0] > sheet.shape[0]
    assert (captioned < 10).any(), "the caption is written in black"
    write_film(tmp_path / "film.mp4", [moving_picture(9)])
    assert contact_sheet([Video(tmp_path / "film.mp4").frames], columns=1).shape == (96 + 16, 160 + 16, 3)
    with pytest.raises(ValueError, match="films"):
        contact_sheet([])
