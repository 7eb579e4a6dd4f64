"""Scenes: vocabularies are covered evenly, rules hold, held-out combinations stay out, labels can be seen."""

import collections
import dataclasses

import pytest
import torch

from everreel.world.scene import (
    ACTIONS,
    PLACES,
    SUBJECT_ACTIONS,
    SUBJECTS,
    VOCABULARY,
    WIDE_SHOTS,
    Scene,
    is_held_out,
    sample_scene,
    visible_fields,
)

FOX = Scene(
    "fox",
    "red",
    "runs",
    "right",
    "forest",
    "dusk",
    "snow",
    "long_shot",
    "eye_level",
    "side_view",
    "pan_right",
    None,
    7,
)


def scenes(n, seed=0, split="train"):
    generator = torch.Generator().manual_seed(seed)
    return [sample_scene(generator, split) for _ in range(n)]


def test_samples_are_valid_and_repeatable():
    for scene in scenes(1500):
        scene.validate()
    assert scenes(20, 3) == scenes(20, 3) != scenes(20, 4)


def test_held_out_combinations_are_never_trained_on():
    train, held = scenes(1500), scenes(150, split="held_out")
    assert not any(is_held_out(s) for s in train)
    assert all(is_held_out(s) for s in held)

    def key(s):
        return s.subject, s.color, s.place, s.action

    assert not {key(s) for s in train} & {key(s) for s in held}
    share = sum(is_held_out(s) for s in scenes(3000, split="all")) / 3000
    assert 0.03 < share < 0.1


def test_every_field_is_balanced():
    drawn = scenes(6000)
    for field, values in VOCABULARY.items():
        if field == "expression":
            continue
        counts = collections.Counter(getattr(s, field) for s in drawn)
        assert set(counts) == set(values)
        if field not in ("time", "weather"):  # the moon is always dark, rooms are always clear
            limit = 3.5 if field == "shot_position" else 2  # close shots of a back would show nobody knows whom
            assert max(counts.values()) < limit * min(counts.values()), (field, counts)
    seen = collections.Counter(s.weather for s in drawn if "weather" in visible_fields(s))
    assert max(seen.values()) < 1.5 * min(seen.values())


def test_vocabulary_is_large_enough_and_every_action_has_subjects():
    assert len(SUBJECTS) == 23 and len(PLACES) == 13 and len(ACTIONS) == 8
    for action in ACTIONS:
        assert sum(action in actions for actions in SUBJECT_ACTIONS.values()) >= 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "dragon"}, "subject"),
        ({"action": "flies"}, "action"),
        ({"place": "underwater", "weather": "clear"}, "place"),
        ({"place": "room"}, "weather"),
        ({"place": "moon", "weather": "clear"}, "time"),
        ({"expression": "happy"}, "expression"),
        ({"direction": "left"}, "direction"),
        ({"shot_type": "close_up", "camera_motion": "static"}, "camera_motion"),
    ],
)
def test_a_wrong_scene_is_refused_by_the_name_of_its_field(change, field):
    FOX.validate()
    with pytest.raises(ValueError, match=f"^{field}="):
        dataclasses.replace(FOX, **change).validate()


def test_only_what_can_be_seen_is_labelled():
    shown = visible_fields(FOX)
    assert shown["direction"] == "right" and shown["action"] == "runs" and "expression" not in shown
    woman = dataclasses.replace(FOX, subject="woman", expression="sad", shot_type="medium_shot")
    assert visible_fields(woman)["expression"] == "sad"
    for scene in scenes(800, 5):
        shown = visible_fields(scene)
        assert "seed" not in shown and None not in shown.values()
        assert {"subject", "color", "place", "camera_motion", "shot_type"} <= set(shown)
        turned_away = scene.shot_position == "back_view" and scene.action != "spins"
        if turned_away or scene.shot_type in WIDE_SHOTS:
            assert "expression" not in shown
        if scene.shot_type == "extreme_close_up":
            assert "action" not in shown and shown.get("weather") not in ("clear", "cloudy")
        if scene.action == "spins":
            assert "shot_position" not in shown
        if scene.place in ("room", "underwater", "moon"):
            assert "weather" not in shown
        if not scene.locomotes:
            assert "direction" not in shown
