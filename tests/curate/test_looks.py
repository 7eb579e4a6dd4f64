"""What single frames tell, each measure against a picture that has what it measures and one that has not."""

import cv2
import numpy as np
import pytest

from everreel.curate.looks import LooksMeter, aesthetic_of, blocks, colorfulness, mosaic, noise
from tests.curate.clips import mosaicked, moving


def gray(frame):
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def looks(frames):
    meter = LooksMeter()
    for frame in frames[::6]:
        meter.add(frame)
    return meter.result()


def test_a_mosaic_is_told_from_a_picture_and_from_two_edges() -> None:
    frame = moving(1)[0]
    assert mosaic(gray(frame)) == 0
    assert mosaic(gray(mosaicked(frame[None])[0])) > 0.1
    door = np.full((96, 160), 90, np.uint8)
    door[20:90, 60:100] = 180
    assert mosaic(door) == 0


@pytest.mark.parametrize("pitch", [5, 8, 16])
def test_a_mosaic_is_found_at_any_pitch(pitch: int) -> None:
    cells = np.random.default_rng(pitch).integers(0, 255, (160 // pitch, 160 // pitch), np.uint8)
    assert mosaic(cells.repeat(pitch, 0).repeat(pitch, 1)) > 0.9


def test_noise_is_measured_in_grey_levels() -> None:
    flat = np.full((96, 160), 128.0)
    for sigma in (2, 8):
        noisy = flat + np.random.default_rng(0).normal(0, sigma, flat.shape)
        assert noise(noisy.round().astype(np.uint8)) == pytest.approx(sigma, rel=0.25)


def test_blocks_of_a_jpeg_are_seen() -> None:
    smooth = np.tile(np.linspace(40, 200, 160), (96, 1)) + np.linspace(0, 30, 96)[:, None]
    picture = (smooth + np.random.default_rng(0).normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    worn = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_GRAYSCALE)
    assert blocks(picture) < 0.3 < 1 < blocks(worn)


def test_gray_has_no_colour() -> None:
    frame = moving(1)[0]
    assert colorfulness(np.repeat(gray(frame)[..., None], 3, -1)) == 0
    assert colorfulness(frame) > 33


def test_a_split_screen_and_an_inset_stay_while_the_picture_moves() -> None:
    plain = looks(moving())
    assert plain["split"] < 0.5 and plain["inset"] < 0.5
    halves = moving(seed=11)
    halves[:, :, :80] = moving(seed=12, speed=(1, -1))[:, :, :80]
    assert looks(halves)["split"] > 0.9
    inset = moving(seed=13, speed=(1, 2))
    inset[:, 20:60, 30:100] = moving(seed=14, speed=(0, -1), height=40, width=70)
    assert looks(inset)["inset"] > 0.7


def test_a_camera_that_stands_shows_no_split() -> None:
    found = looks(np.repeat(moving(1), 24, 0))
    assert (found["split"], found["inset"]) == (0, 0)


def test_the_formula_puts_dull_blurred_and_lost_pictures_below() -> None:
    good = aesthetic_of(0.2, 50, 0.5, 0)
    worse = [aesthetic_of(0.05, 50, 0.5, 0), aesthetic_of(0.2, 5, 0.5, 0), aesthetic_of(0.2, 50, 0.1, 0)]
    assert max(*worse, aesthetic_of(0.2, 50, 0.5, 0.5)) < good <= 1
    assert np.isnan(aesthetic_of(np.nan, np.nan, np.nan, 0))
