"""The judge of motion prefers a render to what is done to it, says why, and refuses what it cannot judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from everreel.evaluate.expected import expected_of, instead, subject_masks
from everreel.evaluate.physics import MARGIN, Motion, judge, prefer
from everreel.evaluate.physics_scale import ACTION, AXES, LOG, SPREAD, SUBJECT, WEIGHTS, WORDS
from everreel.evaluate.signals import FEATURES
from everreel.world.render import render
from everreel.world.scene import Scene

FPS = 24
SIZE = {"height": 64, "width": 96, "fps": FPS}
SCENE = Scene(
    subject="boat", color="red", action="swims", direction="right", place="lake", time="day", weather="clear",
    shot_type="full_shot", shot_angle="eye_level", shot_position="side_view", camera_motion="tracking_right", seed=1234,
)  # fmt: skip


@pytest.fixture(scope="module")
def film():
    return render(SCENE, 50, **SIZE)


@pytest.fixture(scope="module")
def right(film):
    return judge(film[:25], FPS, SCENE)


def flickering(film):
    light = np.random.default_rng(0).uniform(-20, 20, len(film))
    return np.clip(film + light[:, None, None, None], 0, 255).astype(np.uint8)


WRONG = {
    "frozen": (lambda film: np.repeat(film[:1], 25, 0), "amplitude"),
    "shuffled": (lambda film: film[np.random.default_rng(0).permutation(25)], "smoothness"),
    "repeated": (lambda film: film[np.arange(25) // 2 * 2], "smoothness"),
    "reversed": (lambda film: film[24::-1], "trajectory"),
    "mirrored": (lambda film: film[:25, :, ::-1], "trajectory"),
    "double speed": (lambda film: film[::2], "amplitude"),
    "dropped frames": (lambda film: np.concatenate([film[:12], film[24:37]]), "jumps"),
    "flicker": (lambda film: flickering(film[:25]), "smoothness"),
}


def test_a_render_of_another_seed_moves_as_asked(right):
    assert right.score > 0.75 and min(right.axes.values()) > 0.5
    assert set(right.axes) == set(WEIGHTS)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_done_to_a_render_is_seen_and_named(film, right, kind):
    spoil, axis = WRONG[kind]
    wrong = judge(np.ascontiguousarray(spoil(film)), FPS, SCENE)
    assert prefer(right, wrong) == 1 and prefer(wrong, right) == -1
    assert wrong.axes[axis] < 0.5 < right.axes[axis]
    assert wrong.findings and all(len(text) < 140 and "nan" not in text for text in wrong.findings)


def test_another_action_is_not_the_one_asked_for(right):
    still = judge(render(replace(SCENE, action="stays", camera_motion="static"), 25, **SIZE), FPS, SCENE)
    assert still.axes["trajectory"] < 0.3 and prefer(right, still) == 1


def test_the_seed_does_not_matter_and_nothing_is_random(film, right):
    again = judge(film[:25].copy(), FPS, replace(SCENE, seed=99))
    assert (again.score, again.axes, again.findings) == (right.score, right.axes, right.findings)


def test_the_subject_is_found_where_the_renderer_draws_it(film):
    expected = expected_of(SCENE, 25, FPS, 64, 96)
    assert expected.followed
    assert expected.finder.overlap(film[:25:8], subject_masks(SCENE, 25, FPS, 64, 96, 8)) > 0.5
    assert [scene.action for scene in instead(SCENE)] == ["swims", "stays"] and set(expected.rows) == {"swims", "stays"}


def test_nearly_equal_films_tie(right):
    near = replace(right, score=right.score - MARGIN / 2)
    assert prefer(right, near) == prefer(near, right) == 0
    assert prefer(right, near, margin=0.0) == 1
    with pytest.raises(ValueError, match=r"margin = 1\.5: must be from 0"):
        prefer(right, near, margin=1.5)


def test_an_axis_that_cannot_be_seen_does_not_count():
    motion = Motion(None, 1.0, 1.0, 1.0, 1.0, 1.0, (), {})
    assert "trajectory" not in motion.axes


@pytest.mark.parametrize(
    ("frames", "fps", "scene", "words"),
    [
        (np.zeros((1, 64, 96, 3), np.uint8), FPS, SCENE, r"frames = 1: motion is judged over 9 or more"),
        (np.zeros((9, 64, 96), np.uint8), FPS, SCENE, r"frames = uint8 \(9, 64, 96\): must be uint8"),
        (np.zeros((9, 64, 96, 3), np.float32), FPS, SCENE, r"frames = float32"),
        (np.zeros((9, 8, 96, 3), np.uint8), FPS, SCENE, r"frames = 8 x 96: each side"),
        (np.zeros((9, 64, 96, 3), np.uint8), 0, SCENE, r"fps = 0: must be positive"),
        (np.zeros((9, 64, 96, 3), np.uint8), FPS, replace(SCENE, action="walks"), r"action='walks': not something"),
        (np.zeros((9, 64, 96, 3), np.uint8), FPS, {"subject": "boat"}, r"scene = dict: must be a Scene"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(frames, fps, scene, words):
    with pytest.raises(ValueError, match=words) as refused:
        judge(frames, fps, scene)
    assert "\n" not in str(refused.value)


def test_nothing_but_one_colour_is_judged_all_the_same(right):
    black = judge(np.zeros((25, 64, 96, 3), np.uint8), FPS, SCENE)
    assert black.score < 0.3 and prefer(right, black) == 1


def test_every_term_is_a_feature_with_a_spread_and_words():
    named = {term.name for terms in AXES.values() for term in terms}
    assert set(AXES) == set(WEIGHTS)
    assert named | set(ACTION) | LOG | SUBJECT <= set(FEATURES) == set(SPREAD) == set(WORDS)
    assert all(spread > 0 for spread in SPREAD.values())
