"""Animals and birds: every view and action is drawn, cycles close, and the named colour is what one sees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

skia = pytest.importorskip("skia")

from everreel.world.animals import ANIMALS  # noqa: E402
from everreel.world.birds import BIRDS  # noqa: E402
from everreel.world.puppet import COLORS, Palette, Pose, Puppet  # noqa: E402
from everreel.world.scene import SUBJECT_ACTIONS  # noqa: E402

SUBJECTS: dict[str, Puppet] = {**ANIMALS, **BIRDS}
VIEWS = ("side", "front", "back")
SIZE, UNIT = 96, 36
CASES = [(name, action) for name, puppet in SUBJECTS.items() for action in puppet.actions]


def drawn(name: str, pose: Pose, color: str = "orange") -> np.ndarray:
    """The picture (height, width, RGBA) of a subject 36 pixels high, with its feet two thirds down."""
    surface = skia.Surface(SIZE, SIZE)
    canvas = surface.getCanvas()
    canvas.translate(SIZE / 2, 0.66 * SIZE)
    canvas.scale(UNIT, UNIT)
    depth = canvas.getSaveCount()
    SUBJECTS[name].draw(canvas, pose, Palette.named(color))
    assert canvas.getSaveCount() == depth
    return surface.toarray(colorType=skia.kRGBA_8888_ColorType)


def test_the_names_are_those_of_the_vocabulary():
    assert set(ANIMALS) == {"fox", "cat", "dog", "rabbit", "bear", "elephant", "horse", "turtle"}
    assert set(BIRDS) == {"swan", "duck", "owl", "penguin", "fish", "butterfly"}
    for name, puppet in SUBJECTS.items():
        assert set(SUBJECT_ACTIONS[name]) <= set(puppet.actions), name


@pytest.mark.parametrize(("name", "action"), CASES)
def test_every_view_is_drawn_and_every_cycle_closes(name, action):
    for view in VIEWS:
        begin, end = (drawn(name, Pose(action, phase, view, time=1.0)) for phase in (0.0, 1.0))
        assert (begin[..., 3] > 200).mean() > 0.02
        assert np.array_equal(begin, end)


@pytest.mark.parametrize(("name", "action"), CASES)
def test_motion_is_visible_and_without_leaps(name, action):
    # A spin shows another view at four moments of a turn; everything else moves by small steps.
    frames = [drawn(name, Pose(action, k / 32, time=1.0)).astype(int) for k in range(33)]
    changes = [np.abs(a - b).mean() for a, b in itertools.pairwise(frames)]
    assert sum(changes) > 0.5
    if action != "spins":
        assert max(changes) < 12.0, changes


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("color", COLORS)
def test_the_named_colour_is_the_one_seen(name, color):
    words = list(COLORS)
    table = np.array([COLORS[word] for word in words])
    for view in VIEWS:
        picture = drawn(name, Pose("stays", 0.1, view, time=1.0), color)
        pixels = picture[picture[..., 3] > 250][:, :3].astype(int)
        nearest = np.abs(pixels[:, None] - table).sum(-1).argmin(-1)
        counts = np.bincount(nearest, minlength=len(words))
        assert words[counts.argmax()] == color, (view, dict(zip(words, counts, strict=True)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_standing_subject_fits_its_box_and_has_its_head_where_it_says(name):
    puppet = SUBJECTS[name]
    for view in VIEWS:
        alpha = drawn(name, Pose("stays", 0.0, view, time=1.0))[..., 3]
        rows, columns = np.nonzero(alpha > 100)
        assert rows.min() >= 0.66 * SIZE - 1.2 * UNIT and rows.max() <= 0.66 * SIZE + 0.1 * UNIT
        assert np.abs(columns - SIZE / 2).max() <= (puppet.width / 2 + 0.15) * UNIT
        x, y = puppet.head if view == "side" else puppet.front_head
        assert alpha[int(0.66 * SIZE + y * UNIT), int(SIZE / 2 + x * UNIT)] == 255


@pytest.mark.parametrize("name", SUBJECTS)
def test_eyes_blink(name):
    open_eyes, closed = (drawn(name, Pose("stays", 0.0, "front", time=time)) for time in (1.0, 0.05))
    assert not np.array_equal(open_eyes, closed)
