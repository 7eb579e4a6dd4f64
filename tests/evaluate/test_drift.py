"""Drift and seams of films made to have them."""

import colorsys

import numpy as np
import pytest

from everreel.diffusion.schedule import blockwise, synchronous
from everreel.diffusion.windows import windows
from everreel.evaluate.drift import DriftMeter, joins_of, measure


def metered(frames, pieces=3):
    meter = DriftMeter()
    for piece in np.array_split(frames, pieces):
        meter.add(piece)
    return meter


def test_a_frame_is_measured_as_the_textbook_has_it():
    frame = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    brightness, saturation, contrast = measure(frame)
    hsv = [colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in frame.reshape(-1, 3)]
    luma = frame.reshape(-1, 3) @ np.array([0.2126, 0.7152, 0.0722]) / 255
    assert saturation == pytest.approx(np.mean([s for _, s, _ in hsv]))
    assert (brightness, contrast) == (pytest.approx(luma.mean()), pytest.approx(luma.std()))
    assert measure(np.zeros((2, 2, 3), np.uint8)).tolist() == [0, 0, 0]


def test_a_film_that_gets_brighter_does_so_by_so_much_a_minute():
    levels = np.linspace(100, 120, 240)  # in ten seconds
    film = np.broadcast_to(levels[:, None, None, None], (240, 2, 2, 3)).round().astype(np.uint8)
    meter = metered(film, 7)
    assert meter.drift("brightness", 24, 10) == pytest.approx(20 / 110, rel=0.03)
    assert meter.drift("brightness", 24) == pytest.approx(6 * 20 / 110, rel=0.03)
    assert np.isnan(meter.drift("saturation", 24))  # grey has none that could drift
    assert np.isnan(metered(film[:10]).drift("brightness", 24))
    assert len(meter.curve("contrast")) == 240


def test_pieces_do_not_matter():
    film = np.random.default_rng(1).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    once, often = metered(film, 1), metered(film, 11)
    schedule = blockwise(8, 1, 2, context=2)
    assert once.seam_index(schedule) == often.seam_index(schedule)
    assert (once.curve("brightness") == often.curve("brightness")).all()


@pytest.mark.parametrize(
    ("schedule", "joins"),
    [
        (blockwise(10, 1, 4, context=2), {13, 29}),
        (windows(13, 1, base=5, overlap=1), {17, 33}),
        (synchronous(5, 1), set()),
    ],
)
def test_a_jump_where_pieces_meet_is_seen(schedule, joins):
    assert joins_of(schedule) == joins
    frames = 1 + 4 * (schedule.num_frames - 1)
    film = np.zeros((frames, 2, 2, 3), np.uint8)
    level = 0
    for frame in range(1, frames):
        level += 6 if frame in joins else 2
        film[frame] = level
    index = metered(film).seam_index(schedule)
    assert index == pytest.approx(3) if joins else np.isnan(index)
