"""Films: the same on every call and in pieces, endless, at any size; the camera moves as the label says."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("skia")

from everreel.data.draws import generator_for
from everreel.world.backdrop import Layer, Stage, Strip, sky_layers, weather_layers
from everreel.world.camera import SWEEP_PERIOD, Camera, wrap
from everreel.world.render import Theatre, coverage, puppets, render
from everreel.world.scene import (
    PEOPLE,
    SUBJECT_ACTIONS,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
    allowed_places,
    sample_scene,
    visible_fields,
)
from everreel.world.settlements import PLACES

CITY = Scene(
    "ball",
    "red",
    "stays",
    "right",
    "city",
    "day",
    "clear",
    "long_shot",
    "eye_level",
    "side_view",
    "static",
    None,
    11,
)
FOX = dataclasses.replace(CITY, subject="fox", action="runs")


@pytest.mark.parametrize(("subject", "action"), [("ball", "spins"), ("balloon", "flies"), ("cat", "jumps")])
def test_what_looks_alike_from_every_side_has_no_visible_position(subject, action):
    scene = dataclasses.replace(CITY, subject=subject, action=action, shot_position="front_view")
    views = [
        render(dataclasses.replace(scene, shot_position=view), 2, stride=9) for view in ("front_view", "back_view")
    ]
    assert np.array_equal(*views) == ("shot_position" not in visible_fields(scene)) == (subject != "cat")


def moved(a, b, rows, reach=16):
    """By how many pixels the picture's rows moved to the right from a to b."""
    a, b = (x[rows].astype(float) for x in (a, b))
    width = a.shape[1] - 2 * reach
    costs = {
        d: np.abs(b[:, reach + d : reach + d + width] - a[:, reach : reach + width]).mean()
        for d in range(-reach, reach + 1)
    }
    return min(costs, key=costs.get)


def pair(scene, dt=0.14):
    return render(scene, 1, start=1.0)[0], render(scene, 1, start=1.0 + dt)[0]


FAR, NEAR = slice(8, 30), slice(80, 94)


@pytest.mark.parametrize(("direction", "sign"), [("right", -1), ("left", 1)])
def test_a_pan_moves_all_layers_alike_and_tracking_the_near_ones_more(direction, sign):
    scene = dataclasses.replace(CITY, action="stays", seed=4)
    a, b = pair(dataclasses.replace(scene, camera_motion=f"pan_{direction}"))
    far, near = moved(a, b, FAR), moved(a, b, NEAR)
    assert sign * far >= 5 and abs(far - near) <= 1
    a, b = pair(dataclasses.replace(scene, camera_motion=f"tracking_{direction}"))
    far, near = moved(a, b, FAR), moved(a, b, NEAR)
    assert sign * near >= 5 and sign * far >= 0 and abs(near) > 2 * abs(far)


def test_a_followed_subject_stays_in_the_middle_and_an_unfollowed_one_crosses():
    for time in np.linspace(0, 60, 200):
        followed = Camera(dataclasses.replace(FOX, camera_motion="pan_right"), 5 / 3)
        assert abs(followed.subject_x(time, 0.4) - 5 / 6) < 0.25
    crossing = Camera(FOX, 5 / 3)
    xs = np.array([crossing.subject_x(t, 0.4) for t in np.linspace(0, 60, 2000)])
    steps = np.diff(xs)
    assert (np.sort(steps)[5:] != 0).all() and (steps > 0).mean() > 0.97  # to the right, but for coming round
    seen = (xs > 0) & (xs < 5 / 3)
    assert seen.mean() > 0.6


def test_zoom_and_tilt_sweep_in_their_direction_most_of_the_time():
    views = {}
    for motion in ("zoom_in", "zoom_out", "tilt_up", "tilt_down", "static"):
        camera = Camera(dataclasses.replace(CITY, camera_motion=motion), 5 / 3)
        views[motion] = [camera.view(t) for t in np.linspace(0, 10 * SWEEP_PERIOD, 1000)]
    assert (np.diff([v.zoom for v in views["zoom_in"]]) > 0).mean() > 0.75
    assert (np.diff([v.zoom for v in views["zoom_out"]]) < 0).mean() > 0.75
    assert (np.diff([v.tilt for v in views["tilt_up"]]) > 0).mean() > 0.75
    assert (np.diff([v.tilt for v in views["tilt_down"]]) < 0).mean() > 0.75
    assert len(set(views["static"])) == 1


def test_zoom_scales_and_tilt_lifts_the_picture():
    a, b = pair(dataclasses.replace(CITY, camera_motion="tilt_up"), 0.9)
    assert (b[12:40].astype(float) - a[6:34]).std() < (b[12:40].astype(float) - a[12:40]).std()
    a, b = pair(dataclasses.replace(CITY, camera_motion="zoom_in"), 1.2)
    red = [((f[..., 0] > 170) & (f[..., 1] < 90) & (f[..., 2] < 90))[40:80, 50:110].sum() for f in (a, b)]
    assert red[1] > 1.08 * red[0]


def test_films_are_repeatable_and_pieces_equal_the_whole():
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        scene = sample_scene(generator)
        whole = render(scene, 6, height=48, width=80, start=2.0)
        render(CITY, 1, height=48, width=80)
        np.testing.assert_array_equal(whole[3:], render(scene, 3, height=48, width=80, start=2.0 + 3 / 24))
        np.testing.assert_array_equal(whole[::2], render(scene, 3, height=48, width=80, start=2.0, stride=2))
        np.testing.assert_array_equal(whole[::3], render(scene, 2, height=48, width=80, start=2.0, fps=8))


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (64, 64), (33, 57)])
def test_any_size(height, width):
    frames = render(FOX, 2, height=height, width=width)
    assert frames.shape == (2, height, width, 3) and frames.dtype == np.uint8
    assert frames.std() > 10 and (frames[0] != frames[1]).any()


@pytest.mark.parametrize("place", PLACES)
def test_strips_join_without_a_seam(place):
    weather = "clear" if place in ("room", "underwater", "moon") else "fog"
    scene = dataclasses.replace(CITY, place=place, weather=weather, time="night" if place == "moon" else "day")
    stage = Stage.of(scene, 1.6)
    for i, layer in enumerate([*sky_layers(stage), *PLACES[place](stage), *weather_layers(stage)]):
        image = Strip.of(layer, stage, 40.0, str(i)).image.toarray().astype(int)
        inner = np.abs(np.diff(image, axis=1)).mean((0, 2))
        seam = np.abs(image[:, 0] - image[:, -1]).mean()
        assert seam <= inner.max() + 2, (i, layer)


def test_the_world_comes_round():
    camera = Camera(dataclasses.replace(CITY, camera_motion="pan_left"), 5 / 3)
    xs = [camera.subject_x(t, 0.3) for t in np.linspace(0, 60, 600)]
    assert min(xs) > -0.3 and max(xs) < 5 / 3 + 0.3
    assert np.mean([0 < x < 5 / 3 for x in xs]) > 0.7
    assert wrap(3.2, 0.0, 2.0) == pytest.approx(-0.8)
    moving = dataclasses.replace(CITY, camera_motion="tracking_right", action="spins")
    late = render(moving, 2, start=3600.0)
    assert late.std() > 10 and (late[0] != late[1]).any()


def test_a_layer_far_out_in_time_is_where_its_period_says():
    scene = dataclasses.replace(FOX, subject="man", expression="happy", camera_motion="pan_right")
    stage = Stage.of(scene, 5 / 3)
    layer = Layer(lambda canvas, stage, rng: PLACES["city"](stage)[2].draw(canvas, stage, rng), 0.4, 3.0)
    strip = Strip.of(layer, stage, 96.0, "shops")
    import skia

    pictures = []
    for turns in (0, 400):
        surface = skia.Surface(160, 96)
        surface.getCanvas().scale(96, 96)
        strip.paint(surface.getCanvas(), stage, 0.5 + turns * layer.period * stage.scale, 0.0)
        pictures.append(surface.toarray().astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_every_subject_is_drawn_in_all_its_places_and_actions():
    for i, subject in enumerate(SUBJECTS):
        done = set()
        for action in SUBJECT_ACTIONS[subject]:
            assert action in puppets()[subject].actions
            places = allowed_places(subject, action)
            new = [place for place in places if place not in done]
            for k, place in enumerate(new[: len(new) // 2 + 1] or places[i % len(places) :][:1]):
                done.add(place)
                bare = place in ("room", "underwater", "moon")
                scene = dataclasses.replace(
                    CITY,
                    subject=subject,
                    action=action,
                    place=place,
                    time="night" if place == "moon" else TIMES[(i + k) % 4],
                    weather="clear" if bare else WEATHERS[(i + k) % 5],
                    shot_type="full_shot",
                    expression="sad" if subject in PEOPLE else None,
                    shot_position=("side_view", "front_view", "back_view")[k % 3],
                )
                assert render(scene, 1, height=24, width=40, start=0.5).std() > 3


def test_the_subject_has_its_colour_by_day():
    for color, test in (("red", (0, 1, 2)), ("green", (1, 0, 2)), ("blue", (2, 0, 1))):
        still = dataclasses.replace(CITY, subject="ball", color=color, shot_type="extreme_close_up", place="park")
        frame = render(still, 1)[0].astype(int).reshape(-1, 3)
        most, *others = test
        assert np.mean([(frame[:, most] > frame[:, o] + 20) for o in others]) > 0.4


def test_coverage_is_where_another_colour_changes_the_picture():
    for seed in range(12):
        scene = dataclasses.replace(sample_scene(generator_for(seed)), color="blue")
        other = dataclasses.replace(scene, color="yellow")
        at = {"height": 48, "width": 80, "start": 1.3, "fps": 24}
        covered = coverage(scene, 3, **at)
        changed = np.abs(render(scene, 3, **at).astype(int) - render(other, 3, **at)).max(-1) > 30
        assert covered.shape == (3, 48, 80) and covered.dtype == np.uint8
        assert not changed[covered < 16].any(), seed


def test_what_stands_in_front_of_a_subject_is_not_the_subject():
    swims = dataclasses.replace(
        CITY, subject="boat", action="swims", direction="left", place="lake", shot_type="full_shot"
    )
    theatre = Theatre(swims, 96, 160)
    seen = theatre.coverage(0.5)
    theatre.strips = [strip for strip in theatre.strips if not strip.layer.front]
    whole = theatre.coverage(0.5)
    assert (seen <= whole).all() and 0 < int(seen.sum()) < int(whole.sum())


def test_bad_numbers_are_refused():
    for name, bad in (("num_frames", 0), ("height", -1), ("width", 0), ("stride", 0), ("fps", 0)):
        with pytest.raises(ValueError, match=f"^{name}="):
            render(CITY, **{"num_frames": 1, name: bad})
