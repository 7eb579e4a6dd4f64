"""Any film to go on with: its facts as it is seen, its last moments, and what is no film."""

import struct
import tracemalloc
from bisect import bisect_right
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from everreel.film.source import FilmFrames, Picture, SourceFilm
from everreel.media import resize_cover
from tests.film.films import CODECS, add_tone, cut, natural, numbered, numbers, packets, psnr, shown, write


@pytest.mark.parametrize("name", CODECS)
def test_a_film_of_every_codec_is_read(tmp_path, name):
    ending, codec, pix_fmt = CODECS[name]
    frames = natural(30, noise=0)
    path = write(tmp_path / f"film{ending}", frames, codec, pix_fmt, sound="libopus" if ending == ".webm" else "aac")
    source = SourceFilm.open(path)
    assert (source.path, source.height, source.width, source.codec) == (path, 48, 64, name)
    assert source.fps == pytest.approx(24, rel=1e-3) and source.duration == pytest.approx(30 / 24, abs=1e-3)
    assert (source.rotation, source.has_sound, source.num_bytes) == (0, True, path.stat().st_size)
    tail = source.tail(9, 24)
    assert (tail.shape, tail.dtype) == ((9, 48, 64, 3), np.uint8)
    assert min(psnr(a, b) for a, b in zip(tail, frames[-9:], strict=True)) > 30
    last = shown(path)[1][-1].to_ndarray(format="rgb24", interpolation=4 | 0x2000 | 0x40000 | 0x80000)
    np.testing.assert_array_equal(tail[-1], last)


@pytest.mark.parametrize("ending", [".mov", ".mkv"])
def test_a_film_without_sound_says_so(tmp_path, ending):
    source = SourceFilm.open(write(tmp_path / f"film{ending}", numbered(3)))
    assert not source.has_sound and source.codec == "h264"


def expected(times, num_frames, fps):
    """By the rule: the frame that is shown at each moment, counted back from the last."""
    moments = [times[-1] - Fraction(k, fps) for k in reversed(range(num_frames))]
    return [bisect_right(times, moment) - 1 for moment in moments if moment >= times[0]]


@pytest.mark.parametrize("fps", [10, 16, 24, 25, Fraction(30000, 1001), 60])
@pytest.mark.parametrize("asked", [16, 24])
def test_moments_are_taken_by_time_from_the_last_frame_back(tmp_path, fps, asked):
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(80), fps=fps))
    assert source.fps == pytest.approx(float(fps))
    times = [k / Fraction(fps) for k in range(80)]
    assert numbers(source.tail(17, asked)) == expected(times, 17, asked)
    assert numbers(source.tail(1, asked)) == [79]


@pytest.mark.parametrize("asked", [16, 24])
def test_a_variable_frame_rate_is_followed(tmp_path, asked):
    gaps = np.random.default_rng(0).integers(5, 200, 60)
    times = [int(time) for time in np.cumsum(gaps)]
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(60), times=times, clock=1000))
    assert numbers(source.tail(33, asked)) == expected([Fraction(time, 1000) for time in times], 33, asked)


def test_times_that_are_rounded_to_the_millisecond_do_not_repeat_a_frame(tmp_path):
    source = SourceFilm.open(write(tmp_path / "film.mkv", numbered(60)))
    assert source.timeline.tick == Fraction(1, 1000)
    assert numbers(source.tail(33, 24)) == list(range(27, 60))


def test_times_of_whole_frames_are_not_taken_for_rounded_ones(tmp_path):
    container = {"video_track_timescale": "24"}
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(60), container=container))
    assert source.timeline.tick == Fraction(1, 24)
    assert numbers(source.tail(33, 24)) == list(range(27, 60))


@pytest.mark.parametrize(("length", "asked", "count"), [(5, 24, 5), (5, 16, 3), (1, 24, 1), (17, 24, 17)])
def test_a_short_film_gives_what_it_has(tmp_path, length, asked, count):
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(length)))
    tail = source.tail(17, asked)
    assert len(tail) == count and numbers(tail[-1:]) == [length - 1]
    assert source.duration == pytest.approx(length / 24)


def test_only_the_end_is_decoded__released_defect_24(tmp_path, monkeypatch):
    path = write(tmp_path / "film.mp4", numbered(110), options={"g": "10"})
    source, decoded = SourceFilm.open(path), []
    frames_from = SourceFilm._frames_from

    def spy(*arguments):
        for each in frames_from(*arguments):
            decoded.append(each[0])
            yield each

    monkeypatch.setattr(SourceFilm, "_frames_from", spy)
    assert numbers(source.tail(5, 24)) == list(range(105, 110))
    assert len(decoded) <= 5 + 10 + 3, "from the keyframe before; frames that are shown first may be stored later"


@pytest.mark.parametrize("asked", [10, 24])
@pytest.mark.parametrize("size", [(32, 32), (24, 80)])
@pytest.mark.parametrize("turn", [{}, {"turn": {"degrees": 90}}, {"turn": {"degrees": 180}, "aspect": Fraction(4, 3)}])
def test_a_tail_of_a_size_is_the_tail_made_to_cover_it_frame_by_frame(tmp_path, asked, size, turn):
    times = [int(time) for time in np.cumsum(np.random.default_rng(1).integers(5, 120, 20))]
    source = SourceFilm.open(write(tmp_path / "film.mp4", natural(20), times=times, clock=1000, **turn))
    expected = np.stack([resize_cover(frame, *size) for frame in source.tail(17, asked)])
    found = source.tail(17, asked, size)
    assert found.shape[1:] == (*size, 3)
    np.testing.assert_array_equal(found, expected)


def test_of_a_large_film_no_frames_are_gathered_at_its_own_size__released_defect_24(tmp_path, monkeypatch):
    options, upright = {"preset": "ultrafast"}, Picture.upright
    # A copy is counted, and the memory of FFmpeg is not.
    monkeypatch.setattr(Picture, "upright", lambda picture, frame: upright(picture, frame).copy())
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(10, 1080, 1920), options=options))
    tracemalloc.start()
    try:
        assert source.tail(10, 24, (32, 48)).shape == (10, 32, 48, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1080 * 1920 * 3 < peak < 3 * 1080 * 1920 * 3


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("open_groups", [0, 1])
def test_every_moment_around_a_keyframe_is_found(tmp_path, ending, open_groups):
    options = {"g": "10", "bf": "3", "x264-params": f"open-gop={open_groups}"}
    source = SourceFilm.open(write(tmp_path / f"film{ending}", numbered(40), options=options))
    for count in range(1, 41):
        assert numbers(source.tail(count, 24)) == list(range(40 - count, 40))


TURNS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]


@pytest.mark.parametrize(("degrees", "mirrored"), TURNS)
def test_a_turned_film_is_seen_upright(tmp_path, degrees, mirrored):
    """`degrees` clockwise brings the stored picture upright, and it is mirrored after that."""
    upright = natural(3, noise=0)
    stored = np.rot90(upright[:, :, ::-1] if mirrored else upright, degrees // 90, axes=(1, 2))
    turn = {"degrees": -degrees, "hflip": mirrored}
    source = SourceFilm.open(write(tmp_path / "film.mp4", stored, options={"crf": "4"}, turn=turn))
    assert (source.height, source.width) == (48, 64)
    if not mirrored:
        assert source.rotation == degrees
    assert psnr(source.tail(3, 24), upright) > 33
    np.testing.assert_array_equal(source.picture.as_stored(upright[0]), stored[0])


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (48, 85)), (Fraction(2, 3), (72, 64))])
def test_pixels_that_are_not_square_become_square(tmp_path, aspect, size):
    frames = natural(3, noise=0)
    source = SourceFilm.open(write(tmp_path / "film.mp4", frames, options={"crf": "4"}, aspect=aspect))
    assert (source.height, source.width) == size
    wide = np.asarray(Image.fromarray(frames[-1]).resize(size[::-1], Image.Resampling.BICUBIC))
    assert psnr(source.tail(1, 24)[0], wide) > 33
    assert psnr(source.picture.as_stored(wide), frames[-1]) > 33


@pytest.mark.parametrize("limited", [1, 2])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_follow_the_matrix_and_the_range_that_the_film_tells(tmp_path, matrix, limited):
    frames = np.broadcast_to(np.array([200, 40, 90], np.uint8), (2, 32, 32, 3))
    options = {"crf": "1"}
    path = write(tmp_path / "film.mp4", frames, options=options, colors=(1, 1, matrix, limited))
    assert np.abs(SourceFilm.open(path).tail(1, 24).astype(int) - frames[0]).max() <= 2


@pytest.mark.parametrize(("width", "matrix"), [(64, 5), (1280, 1)])
def test_a_matrix_that_is_not_told_follows_the_size(tmp_path, width, matrix):
    frames = np.broadcast_to(np.array([200, 40, 90], np.uint8), (1, 16, width, 3))
    path = write(tmp_path / "film.mp4", frames, options={"crf": "1"}, matrix=matrix)
    source = SourceFilm.open(path)
    assert source.picture.colors[2] == 2
    assert np.abs(source.tail(1, 24).astype(int) - frames[0]).max() <= 2


def write_sound(path):
    with av.open(path, "w") as file:
        add_tone(file, file.add_stream("aac", rate=48000, layout="mono"), 0.2)
    return path


def refused(path):
    with pytest.raises(ValueError) as caught:
        SourceFilm.open(path)
    message = str(caught.value)
    assert message.startswith(f"video = {path}: ") and "; " in message and "\n" not in message
    assert message.endswith("works")
    return message


def test_a_header_whose_pixels_are_a_million_times_as_wide_as_high_is_refused(tmp_path):
    whole = write(tmp_path / "whole.mp4", numbered(2), aspect=Fraction(2)).read_bytes()
    shape = whole.index(b"pasp") + 4
    for number, (width, height) in enumerate([(60_000, 1), (1, 60_000), (2**31 - 1, 1)]):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(whole[:shape] + struct.pack(">II", width, height) + whole[shape + 8 :])
        assert "as it is seen; up to 65536 a side works" in refused(path)


def test_what_is_no_film_is_refused_in_a_line(tmp_path):
    for name, content in (("words.mp4", b"not a film" * 100), ("words.txt", b"not a film" * 100), ("empty.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / "noise.mp4")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    assert "is a picture" in refused(tmp_path / "picture.png")
    assert "has no pictures" in refused(write_sound(tmp_path / "sound.mp4"))
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "none.mp4")


@pytest.mark.parametrize("part", [0.03, 0.5, 0.98])
@pytest.mark.parametrize(
    ("ending", "codec", "flags"),
    [
        (".mp4", "libx264", ""),
        (".mp4", "libx264", "faststart"),
        (".mp4", "libx264", "frag_keyframe+empty_moov"),
        (".mov", "libx264", ""),
        (".mkv", "libx264", ""),
        (".webm", "libvpx-vp9", ""),
        (".avi", "mpeg4", ""),
    ],
)
def test_a_film_that_is_cut_off_is_refused(tmp_path, ending, codec, flags, part):
    container = {"movflags": flags} if flags else {}
    path = write(tmp_path / f"film{ending}", natural(12), codec, options={"g": "4"}, container=container)
    assert len(packets(path, "video")) == 12
    SourceFilm.open(path)
    message = refused(cut(path, int(path.stat().st_size * part)))
    assert "is cut off" in message


def test_an_avi_of_several_parts_is_whole_with_all_of_them_and_one_that_tells_no_length_is_read(tmp_path):
    path = write(tmp_path / "film.avi", natural(6), "mpeg4")
    plain = path.read_bytes()
    assert len(plain) == 8 + int.from_bytes(plain[4:8], "little")
    path.write_bytes(plain + b"RIFF" + (8).to_bytes(4, "little") + b"AVIXmore")
    SourceFilm.open(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is cut off" in refused(path)
    for unknown in (0, 2**32 - 1):
        path.write_bytes(plain[:4] + unknown.to_bytes(4, "little") + plain[8:])
        SourceFilm.open(path)


def test_a_film_of_a_stranger_is_read_as_what_it_was_taken_for_alone(tmp_path):
    path = tmp_path / "film.mkv"
    write(path, numbered(4))
    assert SourceFilm.open(path, {"format_whitelist": "matroska,webm"}).fps == SourceFilm.open(path).fps
    with pytest.raises(ValueError, match="cannot be read as a film"):
        SourceFilm.open(path, {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2"})


def test_a_film_leads_to_no_other_place(tmp_path):
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"cannot be read as a film|has no pictures in it"):
        SourceFilm.open(path)


def test_nothing_cannot_be_asked_for(tmp_path):
    source = SourceFilm.open(write(tmp_path / "film.mp4", numbered(2)))
    with pytest.raises(ValueError, match="num_frames = 0: must be at least 1; 1 works"):
        source.tail(0, 24)
    with pytest.raises(ValueError, match="fps = 0: must be at least 1"):
        source.tail(5, 0)


def test_frames_are_decoded_when_they_are_asked_for(tmp_path):
    path = write(tmp_path / "film.mp4", numbered(140), options={"g": "12", "crf": "1"})
    frames = FilmFrames(SourceFilm.open(path))
    asked = [3, 4, 4, 139, 0, 20, 130]
    assert len(frames) == 140 and numbers([frames[number] for number in asked]) == asked
    frames.close()
    assert numbers([frames[-1], frames[-140]]) == [139, 0]
    with pytest.raises(IndexError):
        frames[140]
