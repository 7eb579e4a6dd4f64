"""Captions: the released schema, sentences that name the subject, and honest reports of what they tell."""

import dataclasses

import pytest
import torch

from everreel.world.caption import STYLES, sentence, sentence_with_fields, structured_caption
from everreel.world.scene import Scene, sample_scene, visible_fields
from everreel.world.words import CAMERA_WORDS, PLACE_NOUNS, SHOT_WORDS, SUBJECT_WORDS

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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_structured_caption_has_the_released_schema():
    caption = structured_caption(FOX)
    assert set(caption) == {
        "subjects",
        "shot_type",
        "shot_angle",
        "shot_position",
        "camera_motion",
        "environment",
        "lighting",
    }
    (subject,) = caption["subjects"]
    assert set(subject) == {"TYPES", "appearance", "action", "expression", "position", "is_main_subject"}
    assert subject["TYPES"] == {"type": "Animal", "sub_type": "Mammal"} and subject["is_main_subject"] is True
    assert subject["expression"] == "" and "red fox" in subject["appearance"]
    assert caption["camera_motion"] == "the camera pans right" and "forest" in caption["environment"]
    assert structured_caption(dataclasses.replace(FOX, camera_motion="static"))["camera_motion"] == ""


@pytest.mark.parametrize(
    ("camera", "place"), [("static", True), ("zoom_in", True), ("pan_left", False), ("tracking_right", False)]
)
def test_what_a_camera_passes_is_not_said_to_be_in_the_middle(camera, place):
    still = dataclasses.replace(FOX, action="stays", camera_motion=camera)
    position = structured_caption(still)["subjects"][0]["position"]
    assert ("in the middle of the frame" in position) == place and position.endswith("in profile")


def test_the_readme_prompt_is_one_of_the_sentences():
    g = generator()
    said = {sentence(FOX, g, style="tags") for _ in range(4000)}
    assert any(
        s.startswith("a red fox runs right through a snowy forest at dusk, wide shot")
        and s.endswith("camera pans right")
        for s in said
    )
    assert len(said) > 1000


def test_sentences_are_repeatable_and_styles_differ():
    assert sentence(FOX, generator(3)) == sentence(FOX, generator(3))
    by_style = {style: sentence(FOX, generator(1), style=style) for style in STYLES}
    assert len(set(by_style.values())) == len(STYLES)
    for bad in ({"style": "poem"}, {"drop": 1.5}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}="):
            sentence(FOX, generator(), **bad)


def test_sentences_tell_what_they_say_they_tell():
    g = generator(5)
    for _ in range(1500):
        scene = sample_scene(g)
        text, told = sentence_with_fields(scene, g)
        low = text.lower().replace("grey", "gray")
        assert "subject" in told and any(w in low for w in SUBJECT_WORDS.get(scene.subject, (scene.subject,)))
        assert told <= set(visible_fields(scene)) | {"action"}
        assert "  " not in text and " ," not in text and ".." not in text and not text.endswith(",")
        if "color" in told:
            assert scene.color in low
        if "place" in told:
            assert any(w.removeprefix("the ") in low for w in PLACE_NOUNS[scene.place]), (text, scene)
        else:
            assert f"in a {scene.place}" not in low
        camera_words = CAMERA_WORDS[scene.camera_motion]
        assert any(w in low for w in camera_words) == ("camera_motion" in told), (text, told)
        if "shot_type" in told:
            assert any(w in low for w in SHOT_WORDS[scene.shot_type])
        if "direction" in told:
            assert scene.direction in low


def test_nothing_but_the_subject_is_left_when_all_is_dropped():
    text, told = sentence_with_fields(FOX, generator(), drop=1.0)
    assert told == {"subject"} and "fox" in text.lower() and "red" not in text.lower()
    lengths = [len(sentence(sample_scene(generator(i)), generator(i)).split()) for i in range(200)]
    assert min(lengths) <= 6 and max(lengths) >= 22
