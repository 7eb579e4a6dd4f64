"""What is encoded again is as like its source as is told, and loses nothing that is not said."""

import re

import numpy as np
import pytest

from everreel.film import reencode
from everreel.film.source import SourceFilm
from tests.film.films import CODECS, SMOOTH, natural, packets, psnr, samples, shown, write
from tests.film.test_splice import TAGS, check_new, spliced

FINE = {"libx265": {"crf": "4"}, "libx264rgb": {"crf": "4", "bf": "0"}}


def errors(frames, copies):
    """Mean squared error of each copy, 1 being the brightest, against the samples of the film that it was made of."""
    found = []
    for frame, copy in zip(frames, copies, strict=True):
        again = copy.reformat(format=frame.format.name, interpolation=SMOOTH)
        bits = frame.format.components[0].bits
        was, now = (samples(each).view(np.uint8 if bits == 8 else np.uint16).astype(float) for each in (frame, again))
        found.append(np.mean((now - was) ** 2) / (2**bits - 1) ** 2)
    return found


def check_told(film, found, reason):
    """Every frame has 45 dB, and what is told is the film's."""
    said = re.fullmatch(rf"the source was encoded again at ([\d.]+) dB, because {reason}", film.said)
    assert said, film.said
    assert -10 * np.log10(max(found)) >= 45
    assert float(said[1]) == pytest.approx(-10 * np.log10(np.mean(found)), abs=0.1)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "h264"])
def test_what_is_not_h264_is_encoded_again_as_good(tmp_path, name):
    ending, codec, pix_fmt = CODECS[name]
    colors, sound = (1, 1, 1, 1), "libopus" if ending == ".webm" else "aac"
    path = write(tmp_path / f"film{ending}", natural(12, 96, 128), codec, pix_fmt, colors=colors, sound=sound)
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film = spliced(source, out)
    assert not film.copied
    old, new = shown(path)[1], check_new(source, out)
    for was, now in zip(old, new, strict=True):
        assert now.format.name == "yuv420p", "which plays everywhere"
        assert [getattr(now, tag) for tag in TAGS] == [getattr(was, tag) for tag in TAGS]
    lost = "; its 10 bits a sample became 8" * pix_fmt.endswith("10le")
    lost += "; its finer colour became 4:2:0" * pix_fmt.startswith("yuv422")
    check_told(film, errors(old, new), f"it is {name}, and only h264 can be copied{lost}")
    assert packets(out, "audio") == packets(path, "audio") != []


@pytest.mark.parametrize("pix_fmt", ["nv12", "yuv420p16le", "yuva420p", "gray", "gray10le"])
def test_rarer_formats_of_the_same_samples_play_everywhere_too(tmp_path, pix_fmt):
    path = write(tmp_path / "film.mkv", natural(4, 47, 63), "rawvideo" if pix_fmt == "nv12" else "ffv1", pix_fmt)
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film = spliced(source, out)
    assert {frame.format.name for frame in shown(out)[1]} == {"yuv420p"}
    assert float(re.search(r"([\d.]+) dB", film.said)[1]) >= 45
    assert ("transparent" in film.said, "bits" in film.said) == (pix_fmt == "yuva420p", pix_fmt.endswith("le"))


def fine_colour(num_frames, height=48, width=64):
    """Grey in its brightness, with another colour in every line."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:, ::2], frames[:, 1::2] = (190, 97, 128), (66, 159, 128)
    return frames


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "kept"),
    [
        ("film.mp4", "libx265", "yuv444p", "yuv444p"),
        ("film.mp4", "libx265", "yuv444p10le", "yuv444p10le"),
        ("film.mov", "prores_ks", "yuv422p10le", "yuv422p10le"),
        ("film.mov", "prores_ks", "yuva444p10le", "yuv444p10le"),
        ("film.mkv", "ffv1", "yuv444p16le", "yuv444p10le"),
        ("film.avi", "libx264rgb", "rgb24", "yuv444p10le"),
    ],
)
def test_colour_too_fine_for_every_player_is_kept(tmp_path, name, codec, pix_fmt, kept):
    """In 4:2:0 there is nothing left of it: 10 dB, where 53 dB were told, of the film in 4:2:0."""
    path = write(tmp_path / name, fine_colour(6), codec, pix_fmt, options=FINE.get(codec, {}))
    source, out = SourceFilm.open(path), tmp_path / "out.mp4"
    film, frames = spliced(source, out), check_new(source, out)
    assert {frame.format.name for frame in frames} == {kept} and f"; it is in {kept}, to keep its colour" in film.said
    old, upright = shown(path)[1], source.picture.upright
    if pix_fmt == kept:
        check_told(film, errors(old, frames), rf"it is .*; it is in {kept}, .*")
    told = float(re.search(r"([\d.]+) dB", film.said)[1])
    seen = [psnr(upright(a), SourceFilm.open(out).picture.upright(b)) for a, b in zip(old, frames, strict=True)]
    assert told >= 45 and min(seen) > (40 if pix_fmt == kept else 45), "in YUV less is told than RGB makes of it"


def test_what_was_transparent_is_said_not_to_be(tmp_path):
    clear = np.full((4, 32, 32, 3), 90, np.uint8)
    film = spliced(
        SourceFilm.open(write(tmp_path / "film.mov", clear, "prores_ks", "yuva444p10le")), tmp_path / "out.mp4"
    )
    assert "; what was transparent is not any more" in film.said


def test_a_source_with_more_noise_is_encoded_finer(tmp_path, monkeypatch):
    path = write(tmp_path / "film.webm", natural(8, noise=40), "libvpx-vp9", options={"crf": "4"})
    monkeypatch.setattr(reencode, "_QUANTIZERS", (30, 20, 12))
    out, source = tmp_path / "out.mp4", SourceFilm.open(path)
    film = spliced(source, out)
    for old, new in zip(shown(path)[1], check_new(source, out), strict=True):
        assert psnr(samples(new), samples(old)) >= 45
    assert float(re.search(r"([\d.]+) dB", film.said)[1]) > 47, "the quantizer of 20 was not good enough"
