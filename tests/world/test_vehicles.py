"""The vehicles and the ball: every view and action is drawn, cycles close, and the named colour dominates."""

import itertools

import numpy as np
import pytest

skia = pytest.importorskip("skia")

from everreel.world.puppet import COLORS, Palette, Pose, mix  # noqa: E402
from everreel.world.vehicles import VEHICLES  # noqa: E402

VIEWS = ("side", "front", "back")
CASES = [(n, v, a) for n, p in VEHICLES.items() for v in VIEWS for a in p.actions]
COLORED = list(itertools.product(VEHICLES, COLORS, VIEWS))


def drawn(name, pose, color="red", *, scale=60.0, size=(160, 190), origin=(80.0, 160.0)):
    surface = skia.Surface(*size)
    canvas = surface.getCanvas()
    canvas.clear(0)
    canvas.translate(*origin)
    canvas.scale(scale, scale)
    VEHICLES[name].draw(canvas, pose, Palette.named(color))
    return surface.toarray(colorType=skia.kRGBA_8888_ColorType).copy()


def shares(image, color):
    """Of the solid pixels: the share of the named colour and its shades, and of the next colour."""
    solid = image[image[..., 3] == 255][:, :3].astype(int)
    palette = Palette.named(color)
    own = [palette.main, mix(palette.main, palette.dark, 0.5), palette.dark]
    other = [c for word, c in COLORS.items() if word != color]
    to_own = np.min([((solid - np.array(c)) ** 2).sum(-1) for c in own], axis=0)
    to_other = np.array([((solid - np.array(c)) ** 2).sum(-1) for c in other])
    mine = to_own < to_other.min(0)
    return mine.mean(), np.bincount(to_other.argmin(0)[~mine], minlength=len(other)).max() / len(solid)


def bottom(image):
    return np.flatnonzero(image[..., 3].max(1) > 128)[-1]


def test_the_six_are_there():
    assert set(VEHICLES) == {"car", "bus", "boat", "airplane", "balloon", "ball"}
    assert set(VEHICLES["airplane"].actions) >= {"flies", "spins", "stays"}
    assert set(VEHICLES["ball"].actions) >= {"bounces", "spins", "runs", "jumps", "stays"}


@pytest.mark.parametrize(("name", "view", "action"), CASES)
def test_draws_and_the_cycle_closes(name, view, action):
    first = drawn(name, Pose(action, 0.0, view, time=1.0))
    assert (first[..., 3] > 128).sum() > 300
    # A whole turn in floating point may shade an edge pixel by a level or two.
    last = drawn(name, Pose(action, 1.0, view, time=1.0))
    assert abs(first.astype(int) - last).max() <= 3
    assert (drawn(name, Pose(action, 0.3, view, time=1.0)) != first).any()


@pytest.mark.parametrize(("name", "color", "view"), COLORED)
def test_the_named_colour_dominates(name, color, view):
    image = drawn(name, Pose("stays", 0.0, view, time=1.0), color)
    mine, other = shares(image, color)
    assert mine > 1.1 * other


def test_wheels_turn_and_stop():
    wheel = (slice(136, 161), slice(33, 59))
    rolling = [drawn("car", Pose("walks", p, "side"))[wheel] for p in (0.0, 0.1)]
    standing = [drawn("car", Pose("stays", p, "side"))[wheel] for p in (0.0, 0.1)]
    assert (abs(rolling[0].astype(int) - rolling[1]).max(-1) > 40).sum() > 20
    assert (abs(standing[0].astype(int) - standing[1]).max(-1) > 40).sum() < 5


def test_ball_rises_and_is_flat_on_the_ground():
    ground = drawn("ball", Pose("bounces", 0.0))
    top = drawn("ball", Pose("bounces", 0.5))
    assert abs(bottom(ground) - 160) <= 1
    assert 65 <= bottom(ground) - bottom(top) <= 75
    height = np.flatnonzero(ground[..., 3].max(1) > 128).size
    width = np.flatnonzero(ground[..., 3].max(0) > 128).size
    assert width > 1.3 * height


def test_boat_reaches_below_the_water_line_and_others_do_not():
    for name, puppet in VEHICLES.items():
        low = bottom(drawn(name, Pose("stays", 0.0, "side", time=1.0))) - 160
        assert (2 <= low <= 9) if name == "boat" else low <= 2, name
        assert puppet.floats == (name in ("boat", "airplane", "balloon"))


def test_no_wider_than_it_says():
    for name, puppet in VEHICLES.items():
        image = drawn(name, Pose("stays", 0.0, "side", time=1.0))
        columns = np.flatnonzero(image[..., 3].max(0) > 128)
        assert columns[-1] - columns[0] <= puppet.width * 60 * 1.06 + 2, name
