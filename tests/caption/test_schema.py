"""The released structured caption: read, written, and refused by field and rule."""

import json

import pytest

from everreel.caption.schema import (
    SHOT_ANGLES,
    SHOT_POSITIONS,
    SHOT_TYPES,
    StructuralCaption,
    caption_schema,
    parse_caption,
)
from everreel.world import scene

CAPTION = {
    "subjects": [
        {
            "TYPES": {"type": "Human", "sub_type": "Woman"},
            "appearance": "Wears a red coat",
            "action": "Walks along the beach",
            "expression": "smiling",
            "position": "On the left",
            "is_main_subject": True,
        }
    ],
    "shot_type": "medium_shot",
    "shot_angle": "eye_level",
    "shot_position": "side_view",
    "camera_motion": "the camera pans left",
    "environment": "A sandy beach",
    "lighting": "warm light",
}


def changed(**values):
    return json.dumps({**CAPTION, **values})


def test_what_is_written_is_read_back_the_same():
    caption = parse_caption(json.dumps(CAPTION))
    assert json.loads(caption.to_json()) == CAPTION
    assert list(json.loads(caption.to_json())) == list(CAPTION)
    assert StructuralCaption.model_validate_json(caption.to_json()) == caption
    assert "\n" not in caption.to_json()


@pytest.mark.parametrize(
    "form", ["{}", "```json\n{}\n```", "Here it is:\n```\n{}\n```\nDone.", "Sure. {} Anything else?"]
)
def test_an_answer_may_have_a_fence_or_words_around_it(form):
    text = form.replace("{}", json.dumps(CAPTION, indent=2))
    assert parse_caption(text).subjects[0].expression == "smiling"


def test_a_fence_that_is_not_closed_is_read_too():
    assert parse_caption("```json\n" + json.dumps(CAPTION)).lighting == "warm light"


def test_what_is_only_spelled_otherwise_is_understood():
    caption = parse_caption(
        changed(
            shot_type="Close-Up", shot_angle="Eye level", camera_motion=None, environment=" a\n  beach ", mood="calm"
        )
    )
    assert (caption.shot_type, caption.shot_angle) == ("close_up", "eye_level")
    assert (caption.camera_motion, caption.environment) == ("", "a beach")


def test_a_film_without_subjects_is_a_caption():
    assert parse_caption(changed(subjects=[])).subjects == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON object"),
        ("I cannot see a film.", "is no JSON object"),
        ("[1, 2]", "is no JSON object"),
        (json.dumps(CAPTION)[:-30], "ends in the middle of JSON"),
        ('{"subjects": nothing}', "has at character 13 no valid JSON"),
        (changed(shot_type="closeup"), "shot_type = 'closeup': must be one of long_shot, full_shot"),
        (changed(shot_type="closeup"), "nearest 'close_up'"),
        (changed(shot_angle=3), "shot_angle = 3: must be one of eye_level"),
        (changed(subjects=[{"appearance": "a man"}]), "subjects.0.TYPES is missing"),
        (changed(subjects="a man"), "subjects = 'a man'"),
        ('{"subjects": ' + "[" * 100_000, "is nested too deeply; must be of the released schema"),
        ('{"subjects": []}', "shot_type is missing; shot_angle is missing; shot_position is missing"),
    ],
)
def test_what_is_no_caption_is_refused_by_field_and_rule(text, words):
    with pytest.raises(ValueError) as refused:
        parse_caption(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_schema_asks_for_every_field_in_the_released_order_and_needs_no_references():
    schema = caption_schema()
    assert "$ref" not in json.dumps(schema) and "$defs" not in schema
    assert schema["required"] == list(CAPTION)
    assert schema["additionalProperties"] is False
    subject = schema["properties"]["subjects"]["items"]
    assert subject["required"] == list(CAPTION["subjects"][0])
    assert subject["properties"]["TYPES"]["required"] == ["type", "sub_type"]
    assert schema["properties"]["shot_type"]["enum"] == list(SHOT_TYPES)


def test_the_film_world_speaks_of_shots_as_the_released_lists_do():
    assert set(scene.SHOT_TYPES) <= set(SHOT_TYPES)
    assert set(scene.SHOT_ANGLES) <= set(SHOT_ANGLES)
    assert set(scene.SHOT_POSITIONS) <= set(SHOT_POSITIONS)
