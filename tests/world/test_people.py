"""The people: every view and action is drawn, cycles close, expressions and colours can be seen."""

import itertools

import numpy as np
import pytest

skia = pytest.importorskip("skia")

from everreel.world.people import PEOPLE, SWIM_FRONT_HEAD, SWIM_HEAD  # noqa: E402
from everreel.world.puppet import COLORS, Palette, Pose, mix  # noqa: E402

VIEWS = ("side", "front", "back")
MOODS = ("neutral", "happy", "sad", "angry", "surprised")
CASES = [(n, v, a) for n, p in PEOPLE.items() for v in VIEWS for a in p.actions]


def drawn(name, pose, color="red", *, scale=60.0, size=(140, 150), origin=(70.0, 120.0)):
    surface = skia.Surface(*size)
    canvas = surface.getCanvas()
    canvas.clear(0)
    canvas.translate(*origin)
    canvas.scale(scale, scale)
    PEOPLE[name].draw(canvas, pose, Palette.named(color))
    return surface.toarray(colorType=skia.kRGBA_8888_ColorType).copy()


def head(name, pose, pixels=40):
    """The head alone, its height `pixels`."""
    puppet = PEOPLE[name]
    at = puppet.head if pose.view == "side" else puppet.front_head
    scale = pixels / puppet.head_size
    origin = (pixels / 2 - at[0] * scale, pixels / 2 - at[1] * scale)
    return drawn(name, pose, scale=scale, size=(pixels, pixels), origin=origin)


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


def test_the_three_are_there():
    assert set(PEOPLE) == {"man", "woman", "robot"}
    assert {"walks", "runs", "jumps", "swims", "spins", "stays"} <= set(PEOPLE["man"].actions)


@pytest.mark.parametrize(("name", "view", "action"), CASES)
def test_draws_and_the_cycle_closes(name, view, action):
    first = drawn(name, Pose(action, 0.0, view, time=1.0))
    assert (first[..., 3] > 128).sum() > 300
    np.testing.assert_array_equal(first, drawn(name, Pose(action, 1.0, view, time=1.0)))
    assert (drawn(name, Pose(action, 0.3, view, time=1.0)) != first).any()


@pytest.mark.parametrize(("name", "view", "action"), [c for c in CASES if c[2] != "spins" and c[1] != "back"])
def test_motion_has_no_jump(name, view, action):
    """Moments a two-hundredth of a cycle apart are alike; a pop would not shrink with the step."""
    frames = [drawn(name, Pose(action, k / 192, view, time=1.0))[..., 3].astype(int) for k in range(193)]
    area = (frames[0] > 128).sum()
    for before, after in itertools.pairwise(frames):
        assert (abs(before - after) > 128).sum() < 0.25 * area


@pytest.mark.parametrize("name", list(PEOPLE))
@pytest.mark.parametrize("view", ["side", "front"])
def test_expressions_can_be_told_apart_on_a_small_head(name, view):
    heads = [head(name, Pose("stays", 0.0, view, mood, time=1.0), 30).astype(int) for mood in MOODS]
    for a, b in itertools.combinations(heads, 2):
        assert (abs(a - b).max(-1) > 60).sum() >= 15


@pytest.mark.parametrize("name", list(PEOPLE))
def test_no_face_from_behind_and_a_blink_in_front(name):
    behind = [drawn(name, Pose("stays", 0.0, "back", mood, time=1.0)) for mood in ("happy", "angry")]
    np.testing.assert_array_equal(*behind)
    assert (
        head(name, Pose("stays", 0.0, "front", time=1.0)) != head(name, Pose("stays", 0.0, "front", time=0.05))
    ).any()


@pytest.mark.parametrize("name", list(PEOPLE))
@pytest.mark.parametrize("color", list(COLORS))
@pytest.mark.parametrize("view", VIEWS)
def test_the_named_colour_dominates(name, color, view):
    image = drawn(name, Pose("stays", 0.0, view, time=1.0), color)
    mine, other = shares(image, color)
    assert mine > 1.1 * other


@pytest.mark.parametrize("name", ["man", "woman"])
def test_swimmer_is_above_the_water_and_its_head_is_where_it_says(name):
    image = drawn(name, Pose("swims", 0.1, "side", time=1.0))
    assert image[124:, :, 3].max() == 0
    for view, (x, y) in (("side", SWIM_HEAD), ("front", SWIM_FRONT_HEAD)):
        image = drawn(name, Pose("swims", 0.1, view, time=1.0))
        patch = image[int(120 + y * 60) + 2, int(70 + x * 60)]
        assert patch[3] == 255


@pytest.mark.parametrize("name", list(PEOPLE))
def test_size_is_one_unit(name):
    rows = np.flatnonzero(drawn(name, Pose("stays", 0.0, "side", time=1.0))[..., 3].max(1) > 128)
    assert abs(rows[0] - 60) <= 4
    assert abs(rows[-1] - 120) <= 2
