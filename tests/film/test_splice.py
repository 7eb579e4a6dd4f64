"""One film out of two: the source as it was, then the new frames, each at its time, whatever the source is."""

import errno
import os
import resource
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from everreel.film import h264, splice
from everreel.film.source import SourceFilm
from everreel.film.splice import ORIGIN_OF_REST, Splice
from everreel.media import ORIGIN, FilmWriter, resize_cover
from tests.film.films import CODECS, natural, numbered, packets, psnr, samples, shown, write

NEW = natural(9, 32, 48, noise=0)
TAGS = ("color_primaries", "color_trc", "colorspace", "color_range")
LOOKS = (*TAGS, "rotation", "interlaced_frame")
X264 = {  # what H.264 comes as
    "with B-frames": {"options": {"bf": "3", "g": "12"}},
    "baseline": {"options": {"profile": "baseline"}},
    "main": {"options": {"profile": "main"}},
    "open groups": {"options": {"bf": "3", "g": "8", "x264-params": "open-gop=1"}},
    "interlaced": {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}},
    "lossless": {"options": {"qp": "0"}},
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "4:2:2 in 10 bits": {"pix_fmt": "yuv422p10le"},
    "4:4:4": {"pix_fmt": "yuv444p"},
    "full range": {"colors": (1, 1, 1, 2)},
    "turned": {"turn": {"degrees": -90}},
    "wide pixels": {"aspect": Fraction(4, 3)},
    "25 fps": {"fps": 25},
    "29.97 fps": {"fps": Fraction(30000, 1001)},
    "60 fps": {"fps": 60, "options": {"bf": "2"}},
    "10 fps": {"fps": 10},
    "variable rate": {"times": [0, 40, 50, 90, 300, 301, 330, 400, 1000, 1001, 1010, 1400], "clock": 1000},
    "in fragments": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "5"}},
}


def spliced(source, path, fps=24, blocks=(NEW[:4], NEW[4:])):
    with Splice(source, path, fps) as film:
        for block in blocks:
            film.append(block)
    return film


def check_new(source, path, fps=24, new=NEW):
    """The new frames come after the source's last, at the model's rate, as they are; returns the frames before them."""
    before, _ = shown(source.path)
    times, frames = shown(path)
    assert len(frames) == len(before) + len(new)
    assert times == before + [before[-1] + Fraction(k + 1, fps) for k in range(len(new))]
    for frame, pixels in zip(frames[len(before) :], new, strict=True):
        assert psnr(source.picture.upright(frame), resize_cover(pixels, source.height, source.width)) > 33
    assert len({(frame.format.name, *(getattr(frame, tag) for tag in TAGS)) for frame in frames}) == 1
    return frames[: len(before)]


@pytest.mark.parametrize("fps", [16, 24])
@pytest.mark.parametrize("kind", X264)
def test_h264_is_copied_bit_for_bit(tmp_path, kind, fps):
    frames = natural(12, 48, 64)
    path = write(tmp_path / "film.mp4", frames, sound="aac", **X264[kind])
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film = spliced(source, out, fps)
    assert (film.copied, film.said) == (True, "the source was copied bit for bit")
    assert (film.num_frames, film.num_bytes) == (9, out.stat().st_size)
    for old, new in zip(shown(path)[1], check_new(source, out, fps), strict=True):
        np.testing.assert_array_equal(samples(new), samples(old))
        assert [getattr(new, tag) for tag in LOOKS] == [getattr(old, tag) for tag in LOOKS]
    assert packets(out, "video")[:12] == packets(path, "video")
    assert packets(out, "audio") == packets(path, "audio") != []
    longer = SourceFilm.open(out)
    assert (longer.height, longer.width, longer.rotation) == (source.height, source.width, source.rotation)


@pytest.mark.parametrize(("profile", "number"), [("baseline", 66), ("main", 77), ("high", 100)])
def test_what_plays_the_source_plays_the_new_frames(tmp_path, profile, number):
    source = SourceFilm.open(write(tmp_path / "film.mp4", natural(5), options={"profile": profile}))
    spliced(source, tmp_path / "out.mp4")
    with av.open(tmp_path / "out.mp4") as file:
        avcc = file.streams.video[0].codec_context.extradata
    sequences, pictures, _ = h264.parameter_sets(avcc)
    assert (avcc[1], len(sequences), len(pictures)) == (number, 2, 2)
    assert [each[1] for each in sequences] == [number, number]


def test_a_joint_header_promises_no_more_than_both_parts_keep():
    def avcc(flags, level, number):
        return bytes([1, 66, flags, level, 0xFF, 0xE1, 0, 5, 0x67, 66, flags, level, number, 1, 0, 1, 0x68]) + b"rest"

    for levels in ((10, 31), (31, 10)):
        joint = h264.merged(avcc(0xC0, levels[0], 0x80), avcc(0x40, levels[1], 0x40))
        assert joint[:6] == bytes([1, 66, 0x40, 31, 0xFF, 0xE2]) and joint.endswith(b"rest")
        assert [len(sets) for sets in h264.parameter_sets(joint)] == [2, 2, 4]


@pytest.mark.parametrize("ending", [".mov", ".mkv"])
def test_h264_is_copied_out_of_other_containers(tmp_path, ending):
    path = write(tmp_path / f"film{ending}", natural(12), options={"bf": "3"}, sound="aac")
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert spliced(source, out).copied
    for old, new in zip(shown(path)[1], check_new(source, out), strict=True):
        np.testing.assert_array_equal(samples(new), samples(old))
    assert packets(out, "video")[:12] == packets(path, "video")
    assert packets(out, "audio") == packets(path, "audio") != []


@pytest.mark.parametrize("kind", ["with B-frames", "baseline", "interlaced", "10 bits"])
def test_one_can_jump_to_and_fro_over_the_seam(tmp_path, kind):
    path = write(tmp_path / "film.mp4", natural(24), **X264[kind])
    out = tmp_path / "out.mp4"
    spliced(SourceFilm.open(path), out)
    times, frames = shown(out)
    with av.open(out) as file:
        stream = file.streams.video[0]
        for number in (30, 2, 25, 23, 24, 0, 32, 11, 24, 10, 31):
            file.seek(int(times[number] / stream.time_base), stream=stream)
            found = next(frame for frame in file.decode(stream) if frame.pts * frame.time_base == times[number])
            np.testing.assert_array_equal(samples(found), samples(frames[number]))


def test_a_film_can_be_made_longer_again_and_again(tmp_path):
    path = write(tmp_path / "film.mp4", natural(6))
    for fps in (24, 16, 25):
        out = tmp_path / f"{fps}.mp4"
        source = SourceFilm.open(path)
        assert spliced(source, out, fps).copied
        for old, new in zip(shown(path)[1], check_new(source, out, fps), strict=True):
            np.testing.assert_array_equal(samples(new), samples(old))
        path = out
    assert len(shown(path)[1]) == 6 + 3 * 9
    with av.open(path) as file:
        assert h264.free_id(file.streams.video[0].codec_context.extradata) == 31 - 3


def comment(path):
    with av.open(path) as file:
        return file.metadata.get("comment")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_film_says_which_part_of_it_a_model_made(tmp_path, codec):
    path = write(tmp_path / "film.mp4", natural(4), codec)
    with av.open(path) as old, av.open(tmp_path / "told.mp4", "w") as new:
        new.metadata.update({"comment": "by hand", "title": "a cat", "location": "+47.0+008.0/"})
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in filter(lambda packet: packet.size, old.demux(video=0)):
            packet.stream = stream
            new.mux(packet)
    assert comment(tmp_path / "told.mp4") == "by hand"
    assert spliced(SourceFilm.open(tmp_path / "told.mp4"), tmp_path / "one.mp4").copied == (codec == "libx264")
    spliced(SourceFilm.open(tmp_path / "one.mp4"), tmp_path / "two.mp4")
    assert comment(tmp_path / "one.mp4") == comment(tmp_path / "two.mp4") == ORIGIN_OF_REST
    assert not any(word in (tmp_path / "one.mp4").read_bytes() for word in (b"a cat", b"by hand", b"+47.0", b"Lavf"))


def test_a_film_that_follows_one_made_here_was_made_by_a_model(tmp_path):
    with FilmWriter(tmp_path / "film.mp4", 48, 64, 24) as film:
        film.append(natural(4))
    spliced(SourceFilm.open(tmp_path / "film.mp4"), tmp_path / "out.mp4")
    assert comment(tmp_path / "out.mp4") == ORIGIN


def test_an_encoded_source_keeps_its_times_turn_and_shape_of_pixel(tmp_path):
    kind = {**X264["variable rate"], "turn": {"degrees": 90}, "aspect": Fraction(4, 3)}
    path = write(tmp_path / "film.mp4", natural(12), "libx265", sound="aac", **kind)
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert (source.height, source.width, source.rotation) == (85, 48, 270)
    assert not spliced(source, out).copied
    for old, new in zip(shown(path)[1], check_new(source, out), strict=True):
        assert psnr(samples(new), samples(old)) >= 45
    longer = SourceFilm.open(out)
    assert (longer.height, longer.width, longer.rotation) == (85, 48, 270)


def test_a_source_of_odd_size_gets_its_last_row_and_column_again(tmp_path):
    path = write(tmp_path / "film.webm", natural(5, 47, 63), "libvpx-vp9")
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert (source.height, source.width) == (47, 63)
    spliced(source, out)
    (_, old), (_, new) = shown(path), shown(out)
    assert len(new) == 5 + 9 and (new[0].height, new[0].width) == (48, 64)
    for a, b in zip(old, new, strict=False):
        grey = [np.frombuffer(bytes(f.planes[0]), np.uint8).reshape(f.height, -1)[:, : f.width] for f in (a, b)]
        assert psnr(grey[1][:47, :63], grey[0]) >= 45
        assert psnr(grey[1], np.pad(grey[0], ((0, 1), (0, 1)), mode="edge")) >= 44


def test_a_source_that_is_cut_by_its_edit_list_is_encoded_without_what_is_cut(tmp_path):
    path = write(tmp_path / "film.mp4", numbered(20), options={"bf": "0"})
    data = bytearray(path.read_bytes())
    media_time = data.index(b"elst") + 16
    data[media_time : media_time + 4] = (5 * 12288 // 24).to_bytes(4)
    path.write_bytes(data)
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert len(shown(path)[1]) == len(source.timeline.shown_at) == 15
    film = spliced(source, out)
    assert not film.copied and "not every packet" in film.said
    check_new(source, out)


def test_a_source_that_turns_out_not_to_be_copied_is_encoded(tmp_path, monkeypatch):
    def begin(copy, packet):
        if not packet.size:
            raise splice._CannotCopy("its parameter sets change on the way")
        yield from packets_of(copy, packet)

    packets_of = splice._Copy.packets
    monkeypatch.setattr(splice._Copy, "packets", begin)
    path = write(tmp_path / "film.mp4", natural(12), sound="aac", **X264["lossless"])
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film = spliced(source, out)
    assert not film.copied and film.said.endswith("because its parameter sets change on the way")
    assert film.num_bytes == out.stat().st_size < path.stat().st_size, "nothing of the longer copy is left"
    for old, new in zip(shown(source.path)[1], check_new(source, out), strict=True):
        assert psnr(samples(new), samples(old)) >= 45
    assert packets(out, "audio") == packets(source.path, "audio")


def test_a_source_of_one_keyframe_is_not_held_in_memory(tmp_path):
    path = write(tmp_path / "film.mp4", natural(60, 32, 32), fps=2, options={"g": "1000", "sc_threshold": "0"})
    assert spliced(SourceFilm.open(path), tmp_path / "out.mp4", blocks=[NEW]).copied
    spans = decode_times(tmp_path / "out.mp4")
    assert len(spans) == 4 and all(end - begin < 11 * 49152 for begin, end in spans), "30 seconds, and the new frames"


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "reason"),
    [
        ("film.avi", "libx264", "yuv420p", "it is avi,"),
        ("film.mp4", "libx264rgb", "rgb24", "cannot be encoded as gbrp"),
    ],
)
def test_h264_that_new_frames_cannot_follow_is_encoded(tmp_path, name, codec, pix_fmt, reason):
    path = write(tmp_path / name, natural(6, noise=0), codec, pix_fmt, options={"bf": "0"})
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film = spliced(source, out)
    assert not film.copied and reason in film.said
    for old, new in zip(shown(path)[1], shown(out)[1], strict=False):
        assert psnr(source.picture.upright(old), SourceFilm.open(out).picture.upright(new)) > 38


def test_a_source_of_keyframes_has_few_of_them_when_it_is_encoded_and_few_fragments(tmp_path):
    def keys(path):
        with av.open(path) as file:
            return sum(packet.is_keyframe for packet in file.demux(video=0) if packet.size)

    out = tmp_path / "out.mp4"
    assert not spliced(
        SourceFilm.open(write(tmp_path / "film.mov", natural(36), "prores_ks", "yuv422p10le")), out
    ).copied
    assert keys(out) < 8
    assert spliced(SourceFilm.open(write(tmp_path / "film.mp4", natural(36), options={"g": "1"})), out).copied
    assert keys(out) == 36 + 2 and len(decode_times(out)) == 2 + 2


def test_frames_of_the_same_time_are_all_kept(tmp_path):
    path = write(tmp_path / "film.mkv", numbered(4), options={"bf": "0"}, times=[0, 3, 400, 800], clock=10_000)
    assert shown(path)[0] == [0, 0, Fraction(40, 1000), Fraction(80, 1000)]
    film = spliced(SourceFilm.open(path), tmp_path / "out.mp4")
    assert not film.copied and "at a time of its own" in film.said
    times, _ = shown(tmp_path / "out.mp4")
    assert times[0] == 0 < times[1] < Fraction(1, 1000) and times[2:4] == [Fraction(40, 1000), Fraction(80, 1000)]


def test_a_clock_too_fine_for_an_mp4_is_rounded(tmp_path):
    path = write(tmp_path / "film.mp4", numbered(4), container={"video_track_timescale": "1000003"})
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert source.timeline.tick == Fraction(1, 1000003)
    assert spliced(source, out).copied
    times, _ = shown(out)
    assert [float(time) for time in times] == pytest.approx([k / 24 for k in range(4 + 9)], abs=2e-6)


def test_the_shape_of_a_pixel_may_stand_in_the_container_alone(tmp_path):
    path = write(tmp_path / "film.mp4", natural(5), aspect=Fraction(4, 3))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"pasp" + bytes([0, 0, 0, 4, 0, 0, 0, 3]), b"pasp" + bytes([0, 0, 0, 2, 0, 0, 0, 1])))
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    assert (source.height, source.width) == (48, 128)
    assert spliced(source, out).copied
    longer = SourceFilm.open(out)
    assert (longer.height, longer.width) == (48, 128)


def decode_times(path):
    """Begin and end of the first track's samples in each fragment, in ticks."""
    data, spans, at = path.read_bytes(), [], 0
    while (at := data.find(b"moof", at)) >= 0:
        tfhd, tfdt, trun = (data.index(kind, at) + 4 for kind in (b"tfhd", b"tfdt", b"trun"))
        flags = int.from_bytes(data[trun + 1 : trun + 4])
        count = int.from_bytes(data[trun + 4 : trun + 8])
        default = int.from_bytes(data[tfhd + 8 : tfhd + 12])
        begin = int.from_bytes(data[tfdt + 4 : tfdt + 12])
        fields = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
        first = trun + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
        width = 4 * len(fields)
        lasts = [
            int.from_bytes(data[first + k * width : first + k * width + 4]) if flags & 0x100 else default
            for k in range(count)
        ]
        spans.append((begin, begin + sum(lasts)))
        at += 4
    return spans


@pytest.mark.parametrize("fps", [10, 24, 60])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_no_fragment_overlaps_the_next_or_leaves_a_gap(tmp_path, codec, fps):
    path = write(tmp_path / "film.mp4", natural(40), codec, fps=fps, options={"g": "5"}, sound="aac")
    out = tmp_path / "out.mp4"
    spliced(SourceFilm.open(path), out)
    spans = decode_times(out)
    assert len(spans) >= 3
    assert [end for _, end in spans[:-1]] == [begin for begin, _ in spans[1:]]


def test_the_header_tells_the_length_of_the_longest_track(tmp_path):
    def told(path):
        data = path.read_bytes()
        assert data.count(b"mehd") == 1 and data.index(b"moov") < data.index(b"mehd") < data.index(b"moof")
        movie, length = data.index(b"mvhd"), data.index(b"mehd")
        scale = int.from_bytes(data[movie + 16 : movie + 20])
        return int.from_bytes(data[length + 8 : length + 16]) / scale

    out = tmp_path / "out.mp4"
    for seconds, length in ((1, 1 - 1 / 24 + 10 / 24), (3, 3)):
        source = SourceFilm.open(write(tmp_path / "film.mp4", natural(24), sound="aac", seconds=seconds))
        spliced(source, out)
        assert told(out) == pytest.approx(length, abs=0.03)
        assert packets(out, "audio") == packets(source.path, "audio")


def test_new_frames_are_cropped_not_squashed__released_defect_36(tmp_path):
    """A disc in a tall new frame stays a disc in a wide film."""
    y, x = np.mgrid[:96, :64]
    disc = np.where(np.hypot(x - 31.5, y - 47.5) < 16, 230, 20).astype(np.uint8)
    source = SourceFilm.open(write(tmp_path / "film.mp4", natural(3, 48, 96)))
    spliced(source, tmp_path / "out.mp4", blocks=[np.repeat(disc[None, ..., None], 3, axis=3)])
    pixels = source.picture.upright(shown(tmp_path / "out.mp4")[1][-1])[..., 0] > 125
    assert pixels.any(axis=0).sum() == pytest.approx(48, abs=2), "31 of 64 columns, of which 96 are made"
    assert pixels.all(axis=1).sum() == 0 and pixels[24].sum() == pytest.approx(48, abs=2)


def test_sound_that_an_mp4_cannot_hold_is_named(tmp_path):
    path = write(tmp_path / "film.mkv", natural(5), sound="wavpack")
    film = spliced(SourceFilm.open(path), tmp_path / "out.mp4")
    assert film.copied and film.said.endswith("; its sound (wavpack) is left out, an MP4 cannot hold it")
    assert packets(path, "audio") and not packets(tmp_path / "out.mp4", "audio")
    path = write(tmp_path / "film.ts", natural(5), sound="aac")
    assert "; its sound (aac) is left out" in spliced(SourceFilm.open(path), tmp_path / "out.mp4").said


@pytest.mark.parametrize("name", ["h264", "vp9"])
def test_the_same_film_has_the_same_bytes(tmp_path, name):
    ending, codec, pix_fmt = CODECS[name]
    source = SourceFilm.open(write(tmp_path / f"film{ending}", natural(8), codec, pix_fmt))
    films = [spliced(source, tmp_path / f"{number}.mp4").path.read_bytes() for number in range(2)]
    assert films[0] == films[1]


def test_a_film_that_was_there_stays_until_the_first_block_comes(tmp_path):
    source, out = SourceFilm.open(write(tmp_path / "film.mp4", natural(5))), tmp_path / "out.mp4"
    before = source.path.read_bytes()
    out.write_bytes(b"what was there")
    Splice(source, out, 24).close()
    assert out.read_bytes() == b"what was there" and not (tmp_path / "out.mp4.part").exists()
    with Splice(source, out, 24) as film:
        assert out.read_bytes() == b"what was there" and (tmp_path / "out.mp4.part").exists()
        film.append(NEW[:1])
        assert len(shown(out)[1]) == 6 and not (tmp_path / "out.mp4.part").exists()
        film.append(NEW[1:])
        assert len(shown(out)[1]) == 14
    assert source.path.read_bytes() == before


def test_a_film_killed_while_a_block_is_written_is_playable(tmp_path, monkeypatch):
    source = SourceFilm.open(write(tmp_path / "film.mp4", natural(5), sound="aac"))
    out, killed, writes = tmp_path / "out.mp4", tmp_path / "killed.mp4", []
    put = FilmWriter._write

    def record(writer, position, data):
        writes.append((position, bytes(data)))
        put(writer, position, data)

    with Splice(source, out, 24) as film:
        film.append(NEW[:4])
        before = out.read_bytes()
        monkeypatch.setattr(FilmWriter, "_write", record)
        film.append(NEW[4:])
    for last, (_, data) in enumerate(writes):
        for end in sorted({0, 8, 100, len(data) // 2, len(data)}):
            content = bytearray(before)
            for position, whole in [*writes[:last], (writes[last][0], data[:end])]:
                content[position : position + len(whole)] = whole
            killed.write_bytes(content)
            is_done = last == len(writes) - 1 and end >= len(data)
            assert len(shown(killed)[1]) == 5 + (9 if is_done else 4)


def test_the_muxer_calls_no_python(tmp_path, monkeypatch):
    """A Ctrl-C within what it calls would be lost, and with it what was to be written."""
    source, called = SourceFilm.open(write(tmp_path / "film.mp4", natural(5), sound="aac")), []
    real = av.open

    def look(file, *arguments, **options):
        called.extend([] if isinstance(file, Path) else [type(file.write).__name__])
        return real(file, *arguments, **options)

    monkeypatch.setattr(splice.av, "open", look)
    Splice(source, tmp_path / "out.mp4", 24).close()
    assert "builtin_function_or_method" in called and "method" not in called


def test_a_full_disk_is_an_error_with_the_path_and_loses_nothing(tmp_path):
    source, out = SourceFilm.open(write(tmp_path / "film.mp4", natural(12), sound="aac")), tmp_path / "out.mp4"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        with pytest.raises(OSError, match=r"out\.mp4'") as caught:
            Splice(source, out, 24)
        assert caught.value.errno == errno.EFBIG
        assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with Splice(source, out, 24) as film:
            film.append(NEW[:4])
            done = film.num_bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (done + 100, hard))
            with pytest.raises(OSError, match=r"out\.mp4'"):
                film.append(NEW[4:])
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert (film.num_frames, film.num_bytes, out.stat().st_size) == (4, done, done)
            film.append(NEW[4:])
        check_new(source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_the_source_is_never_written_over(tmp_path):
    path = write(tmp_path / "film.mp4", natural(3))
    before, source = path.read_bytes(), SourceFilm.open(path)
    os.link(path, tmp_path / "same.mp4")
    (tmp_path / "other.mp4.part").symlink_to(path)
    for name in ("film.mp4", "same.mp4", "other.mp4"):
        with pytest.raises(ValueError) as caught:
            Splice(source, tmp_path / name, 24)
        assert str(caught.value).startswith(f"output = {tmp_path / name}: is ")
        assert "the source itself; " in str(caught.value) and str(caught.value).endswith("works")
    assert path.read_bytes() == before


def test_frames_that_do_not_fit_are_refused(tmp_path):
    source = SourceFilm.open(write(tmp_path / "film.mp4", natural(3)))
    with Splice(source, tmp_path / "out.mp4", 24) as film:
        for frames in (NEW[0], NEW[:0], NEW.astype(np.float32), NEW[..., :2]):
            with pytest.raises(ValueError, match=r"frames = .*: must be uint8 \(T, H, W, 3\)"):
                film.append(frames)
    with pytest.raises(ValueError, match="fps = 0"):
        Splice(source, tmp_path / "out.mp4", 0)
    assert [file.name for file in Path(tmp_path).iterdir()] == ["film.mp4"]
