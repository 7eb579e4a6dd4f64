"""The tiny captioner: fields to captions and back, and films of every shape."""

from dataclasses import replace

import numpy as np
import pytest

from everreel.caption.critic import read
from everreel.caption.fusion import BuiltInFusion
from everreel.caption.schema import StructuralCaption
from everreel.caption.tiny import TinyCaptioner, caption_of, fields_of, looked_at, told_of
from everreel.data.draws import generator_for
from everreel.world.caption import structured_caption
from everreel.world.render import render
from everreel.world.scene import SUBJECT_ACTIONS, SUBJECTS, VOCABULARY, Scene, sample_scene, visible_fields

FOX = Scene(
    "fox", "orange", "runs", "right", "city", "dusk", "rain", "long_shot", "eye_level", "side_view", "pan_right"
)
WOMAN = Scene(
    "woman", "gray", "stays", "left", "park", "day", "clear", "close_up", "low_angle", "front_view", "static", "happy"
)


@pytest.fixture(scope="module")
def tiny():
    return TinyCaptioner()


def test_a_scene_in_the_released_schema():
    assert caption_of(visible_fields(FOX)).model_dump() == {
        "subjects": (
            {
                "TYPES": {"type": "Animal", "sub_type": "Mammal"},
                "appearance": "An orange fox",
                "action": "runs to the right",
                "expression": "",
                "position": "",
                "is_main_subject": True,
            },
        ),
        "shot_type": "long_shot",
        "shot_angle": "eye_level",
        "shot_position": "side_view",
        "camera_motion": "the camera pans right",
        "environment": "a city, in the rain",
        "lighting": "warm orange light of dusk",
    }
    told = caption_of(visible_fields(WOMAN))
    assert (told.subjects[0].appearance, told.subjects[0].expression) == ("A woman in gray clothes", "happy")
    assert told.camera_motion == told.subjects[0].action == ""


def test_every_value_comes_back():
    generator = generator_for(3, "tiny")
    for _ in range(400):
        fields = visible_fields(sample_scene(generator, "all"))
        assert fields_of(caption_of(fields)) == fields
    for subject in SUBJECTS:
        for action in SUBJECT_ACTIONS[subject]:
            assert fields_of(caption_of({"subject": subject, "action": action}))["action"] == action


def test_the_film_worlds_own_captions_are_understood():
    generator = generator_for(4, "tiny")
    for _ in range(100):
        scene = sample_scene(generator)
        told = fields_of(StructuralCaption.model_validate(structured_caption(scene)))
        assert {name: told.get(name) for name in visible_fields(scene)} == visible_fields(scene)


def test_captions_in_other_words_are_understood():
    caption = caption_of(visible_fields(FOX))
    subject = caption.subjects[0].model_copy(update={"appearance": "A grey bunny", "action": "Leaping to the left."})
    other = caption.model_copy(
        update={
            "subjects": (subject,),
            "environment": "The city park in thick fog, by night",
            "lighting": "",
            "camera_motion": "slow zoom in",
        }
    )
    expected = {"subject": "rabbit", "color": "gray", "action": "jumps", "direction": "left", "place": "park"}
    expected |= {"weather": "fog", "time": "night", "camera_motion": "zoom_in"}
    assert fields_of(other).items() >= expected.items()


def test_words_of_another_world_are_no_fields():
    nothing = caption_of({}).model_copy(update={"environment": "a submarine", "camera_motion": "the camera circles"})
    assert fields_of(nothing) == {}
    assert fields_of(caption_of({})) == {"camera_motion": "static"}


def test_what_is_no_field_is_refused():
    with pytest.raises(ValueError, match="color = 'gold': must be one of red, orange"):
        caption_of({"color": "gold"})
    with pytest.raises(ValueError, match="mood = 'gold': is no field of a scene"):
        caption_of({"mood": "gold"})


def test_what_is_not_likely_is_not_told():
    found = {name: {value: 1 / len(values) for value in values} for name, values in VOCABULARY.items()}
    found["subject"] = dict.fromkeys(SUBJECTS, 0.0) | {"fox": 0.9}
    found["shot_type"] = dict.fromkeys(VOCABULARY["shot_type"], 0.0) | {"full_shot": 1.0}
    found["color"] = dict.fromkeys(VOCABULARY["color"], 0.0) | {"red": 0.3}
    assert told_of(found, 0.5) == {"subject": "fox", "shot_type": "full_shot"}
    assert "color" in told_of(found, 0.25)
    assert caption_of(told_of(found, 0.95)).subjects == ()
    with pytest.raises(ValueError, match=r"least = 2: must lie in 0..1"):
        TinyCaptioner(least=2)


def found_of(scene, **other):
    """What a network without fault reads of a scene: of a way that nothing goes, it guesses."""
    seen = visible_fields(scene)
    found = {}
    for name, values in VOCABULARY.items():
        value = seen.get(name) if name == "direction" else getattr(scene, name)
        found[name] = {each: 1 / len(values) if value is None else float(each == value) for each in values}
    return found | {name: dict.fromkeys(VOCABULARY[name], 0.0) | chances for name, chances in other.items()}


def test_what_is_seen_is_told_and_nothing_else():
    generator = generator_for(5, "tiny")
    for _ in range(400):
        scene = sample_scene(generator, "all")
        told = told_of(found_of(scene))
        assert told == visible_fields(scene) == fields_of(caption_of(told))


def test_a_misread_action_does_not_hide_which_way_a_subject_goes():
    torn = {"jumps": 0.45, "runs": 0.3, "walks": 0.25}
    told = told_of(found_of(FOX, action=torn))
    assert told["direction"] == "right" and "action" not in told  # what jumps stays on the spot
    assert caption_of(told).subjects[0].action == "moves to the right" and fields_of(caption_of(told)) == told
    assert "direction" not in told_of(found_of(FOX, action={"jumps": 0.7, "runs": 0.3}))
    assert "direction" not in told_of(found_of(FOX, action=torn, shot_position={"side_view": 0.3, "back_view": 0.7}))
    assert "direction" not in told_of(found_of(FOX, action=torn, direction={"left": 0.1, "right": 0.9}))


def test_from_near_it_goes_where_the_camera_goes():
    """Where an action cannot be seen, the network answers with one that could: it knows no others of such shots."""
    near, jumps = replace(FOX, shot_type="extreme_close_up"), {"jumps": 1.0}
    assert told_of(found_of(near, action=jumps))["direction"] == "right"
    for motion in ("static", "pan_left", "zoom_in"):
        assert "direction" not in told_of(found_of(near, action=jumps, camera_motion={motion: 1.0}))


def test_a_render_is_captioned(tiny):
    caption = tiny.caption(render(FOX, 73), 24)
    told = fields_of(caption)
    right = {name for name, value in visible_fields(FOX).items() if told.get(name) == value}
    assert len(right) >= 8, told
    assert BuiltInFusion().fuse(caption, "t2v").endswith(".")


class Lazy:
    """Frames that are made when they are asked for, and counted."""

    def __init__(self, num_frames, height=32, width=48):
        self.num_frames, self.size, self.asked = num_frames, (height, width), []

    def __len__(self):
        return self.num_frames

    def __getitem__(self, number):
        self.asked.append(number)
        return np.random.default_rng(number).integers(0, 256, (*self.size, 3), np.uint8)


def test_of_a_long_film_only_what_is_looked_at_is_read_and_the_caption_is_the_whole_films(tiny):
    film = Lazy(600)
    caption = tiny.caption(film, 24)
    assert len(film.asked) == 279 and film.asked == sorted(set(film.asked))
    whole = np.stack([film[number] for number in range(600)])
    assert caption == caption_of(told_of(read(tiny.critic, whole, 24), tiny.least))
    assert len(looked_at(10**6, 24)[0]) == 279


def test_of_a_fast_film_every_second_frame_is_looked_at():
    numbers, rate = looked_at(120, 60)
    assert rate == 30 and numbers == list(range(0, 120, 2))
    assert looked_at(5, 0.4) == ([0, 1, 2, 3, 4], 1)


@pytest.mark.parametrize("shape", [(1, 96, 160), (1, 1, 1), (2, 7, 301), (3, 301, 7), (5, 719, 1281)])
def test_films_of_one_frame_and_odd_sizes_are_captioned(tiny, shape):
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    caption = tiny.caption(frames, 24)
    assert StructuralCaption.model_validate_json(caption.to_json()) == caption


def test_a_film_without_frames_is_refused(tiny):
    with pytest.raises(ValueError, match="frames = 0 frames"):
        tiny.caption(np.empty((0, 8, 8, 3), np.uint8), 24)
