"""Shots: every frame in one clip, cuts where they are, and what the pass over a film tells."""

from pathlib import Path

import numpy as np
import pytest

from everreel.curate.measures import repeated
from everreel.curate.shots import Scan, check_cutter, clips_of, cutter_of, scan, spread_over
from everreel.film.source import SourceFilm
from tests.curate.clips import moving, put


def scanned(path: Path) -> Scan:
    film = SourceFilm.open(path)
    return scan(film, cutter_of("adaptive", film.fps))


def of(luma, spread, cuts=()) -> Scan:
    count = len(luma)
    return Scan(np.asarray(luma), np.asarray(spread), np.zeros(count), np.zeros(count), 3, tuple(cuts))


def test_a_fade_through_black_is_a_cut(tmp_path: Path) -> None:
    down = np.linspace(1, 0, 12)[:, None, None, None]
    first, second = moving(24, seed=1).astype(float), moving(24, seed=1, speed=(1, 0)).astype(float)
    first[-12:] *= down
    second[:12] *= down[::-1]
    frames = np.concatenate([first, np.zeros((6, *first.shape[1:])), second]).astype(np.uint8)
    clips = clips_of(scanned(put(tmp_path / "fade.mp4", frames)), 24, 20)
    assert len(clips) == 3 and sum(count for _, count in clips) == len(frames)
    assert abs(clips[1][0] - 24) <= 2 and abs(clips[2][0] - 30) <= 2


def test_a_camera_that_goes_fast_is_no_cut(tmp_path: Path) -> None:
    assert scanned(put(tmp_path / "fast.mp4", moving(30, seed=2, speed=(1, 6)))).cuts == ()


def test_long_shots_are_cut_into_equal_parts() -> None:
    found = clips_of(of(np.full(100, 0.5), np.full(100, 0.2), [31]), 10, 3.0)
    assert found == [(0, 16), (16, 15), (31, 23), (54, 23), (77, 23)]


def test_a_flash_is_no_shot() -> None:
    luma, spread = np.full(20, 0.5), np.full(20, 0.2)
    luma[9:11], spread[9:11] = 1, 0
    assert clips_of(of(luma, spread), 24, 20) == [(0, 20)]


def test_frames_that_are_shown_again_are_counted() -> None:
    moves = np.array([5.0, 4, 6, 5, 5, 4, 6, 5] * 3)
    assert repeated(moves) == 0
    assert repeated(np.repeat(moves, 2) * np.tile([1, 0.01], 24)) == pytest.approx(0.5)
    rests = np.concatenate([moves, np.zeros(20)])
    assert repeated(rests) == 0


def test_looks_are_spread_evenly() -> None:
    assert spread_over(10, 40, 4) == [15, 25, 35, 45]
    assert list(spread_over(3, 2, 4)) == [3, 4]


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cuts = 'magic': must be one of adaptive, transnet"):
        check_cutter("magic")


def test_a_film_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "bad.mp4", moving(40, seed=3), crf=10)
    data = bytearray(path.read_bytes())
    film = SourceFilm.open(path)
    begin = 3 * len(data) // 10
    data[begin : begin + len(data) // 2] = b"\xff" * (len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Invalid data"):
        scan(film, cutter_of("adaptive", film.fps))
