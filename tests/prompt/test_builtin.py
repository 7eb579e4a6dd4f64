"""Prompts made whole without a model: what was said stays, nothing is lost, and twice is once."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everreel.checkpoint.load import load_tokenizer
from everreel.film.loading import source_of
from everreel.prompt import chinese, english
from everreel.prompt.builtin import BuiltIn
from everreel.prompt.filling import AT_HOME, HABITS, fill
from everreel.prompt.lexicon import FILLERS, Entry, tokens_of
from everreel.prompt.reading import read
from everreel.prompt.saying import LIGHT, LOOKS
from everreel.world.caption import sentence_with_fields
from everreel.world.scene import PLACES, SUBJECT_ACTIONS, SUBJECTS, allowed_places, sample_scene, visible_fields

STRANGE = ["dragon", "castle", "Zürich", "7", "independent", "🙂", ",", ".", "独角"]
WORDS = [phrase for _, _, phrase in english.phrases()] + [
    word for values in chinese.WORDS.values() for text in values.values() for word in text.split()
]
anything = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [*WORDS, *sorted(FILLERS), "dragon", "castle", "Zürich", "7", "independent", "🙂", ",", ".", "独角"]
    ),
    max_size=12,
).map(" ".join)


@pytest.mark.parametrize("world", [True, False])
@pytest.mark.parametrize("has_image", [True, False])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(prompt=anything)
@example(prompt="SERIOUS:FLY")  # nobody with a face flies
def test_nothing_is_lost_and_twice_is_once(world: bool, has_image: bool, prompt: str) -> None:
    enhancer = BuiltIn(world)
    once = enhancer.enhance(prompt, has_image=has_image)
    assert once.changed == (once.text != prompt) or not once.changed
    before, after = read(prompt), read(once.text)
    assert before.said.items() <= after.said.items()
    kept = {word for word in before.unknown if not set(tokens_of(word)) & FILLERS}
    assert not {word for word in kept if word not in _plain(once.text)}
    twice = enhancer.enhance(once.text, has_image=has_image)
    assert twice.text == once.text and not twice.changed


def _plain(text: str) -> str:
    """As words are compared, with one space or none between them as they are named."""
    return " ".join(tokens_of(text)) + " " + "".join(tokens_of(text))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_captions_of_the_world_come_back_unchanged_or_say_the_same_scene(split: str) -> None:
    generator, unchanged = torch.Generator().manual_seed(1), 0
    for _ in range(300):
        scene = sample_scene(generator, split)
        text, told = sentence_with_fields(scene, generator, drop=0.0, style="tags")
        enhanced = BuiltIn().enhance(text, has_image=False)
        said = read(enhanced.text).said
        assert {name: said[name] for name in told} == {name: getattr(scene, name) for name in told}
        unchanged += not enhanced.changed
        whole = set(visible_fields(scene)) <= told
        assert enhanced.changed != whole
    assert unchanged > 250


def test_what_is_filled_in_makes_sense_with_what_is_said() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(1500):
        scene = sample_scene(generator, "all")
        told = {**visible_fields(scene), "action": scene.action}
        said = {name: v for name, v in told.items() if torch.rand(1, generator=generator).item() < 0.5}
        filled = fill(said)
        filled.validate()
        assert {name: getattr(filled, name) for name in said} == said


def test_habits_are_possible() -> None:
    assert set(HABITS) == set(SUBJECTS) and set(AT_HOME) == set(PLACES)
    for subject, (_, actions, places) in HABITS.items():
        assert set(actions) <= set(SUBJECT_ACTIONS[subject])
        assert places[0] in allowed_places(subject, actions[0])


def test_what_is_said_is_in_words_that_the_embedded_model_knows() -> None:
    """No letter by letter, nothing unknown, and all of it fits."""
    tokenizer = load_tokenizer(source_of("tiny"))
    generator = torch.Generator().manual_seed(3)
    for number in range(150):
        scene = sample_scene(generator, "all")
        bare = {name: v for name, v in visible_fields(scene).items() if name in ("color", "place", "time")}
        words = " ".join(next((w for f, v, w in english.phrases() if (f, v) == item), item[1]) for item in bare.items())
        words = words.replace(" ", f" {scene.subject} ", 1)
        draw = torch.Generator().manual_seed(number) if number % 2 else None
        text = BuiltIn(generator=draw).enhance(words, has_image=False).text
        pieces = tokenizer.backend.encode(text).tokens
        assert len(pieces) <= 64 and "<unk>" not in pieces
        assert not [p for p in pieces if re.fullmatch("[b-z]", p)], text
        assert read(text).own and read(text).said.items() >= read(words).said.items()


def test_the_same_prompt_gives_the_same_text_unless_draws_are_wanted() -> None:
    plain = {BuiltIn().enhance("a crimson puppy", has_image=False).text for _ in range(3)}
    drawn = {
        BuiltIn(generator=torch.Generator().manual_seed(seed)).enhance("a crimson puppy", has_image=False).text
        for seed in (0, 0, 1, 2)
    }
    assert len(plain) == 1 and len(drawn) == 3


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            "一只红色的狐狸在雪地里奔跑",
            "full shot of a red fox running right in a snowfield by day in falling snow, at eye level, side view, "
            "tracking shot to the right",
        ),
        (
            "a red fox runs right through a snowy forest at dusk, wide shot",
            "a red fox runs right through a snowy forest at dusk, wide shot, at eye level, side view, "
            "tracking shot to the right",
        ),
        ("asdf qwer", "asdf qwer"),
        ("", ""),
    ],
)
def test_for_the_film_world(prompt: str, text: str) -> None:
    assert BuiltIn().enhance(prompt, has_image=False).text == text


def test_people_are_told_what_became_of_their_words() -> None:
    enhanced = BuiltIn().enhance("a crimson puppy with a top hat and a cat", has_image=False)
    assert enhanced.unknown == ("top", "hat") and enhanced.backend == "built-in"
    assert "taken for others: crimson = red" in enhanced.reason and "no room in the scene for: a cat" in enhanced.reason
    assert "with a top hat" in enhanced.text and enhanced.text.endswith("cat")
    assert enhanced.describe().endswith("not known, kept: top, hat")
    flying = BuiltIn().enhance("a bus flies", has_image=False)
    assert "not something a bus does, and is kept as it was said" in flying.reason and "flying" in flying.text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a red fox in a forest", "a red fox in a forest, static camera"),
        ("一个男孩微笑", "a happy man walking, static camera"),
        ("forest at night", "forest at night, the camera zooms in"),
        ("a fox runs, the camera pans left", "a fox runs, the camera pans left"),
    ],
)
def test_a_picture_says_how_things_look(prompt: str, text: str) -> None:
    """Action and camera are added, and neither colour, place, time, weather nor shot."""
    enhanced = BuiltIn().enhance(prompt, has_image=True)
    added = set(read(enhanced.text).said) - set(read(prompt).said)
    assert added <= {"action", "camera_motion"}
    if "fox in" not in prompt:
        assert enhanced.text == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            "a swan",
            "Full shot of a swan, swimming, with white feathers, on a lake, in bright daylight, "
            "tracking shot to the right",
        ),
        (
            "A black swan on a lake",
            "Full shot of a black swan on a lake, swimming, in bright daylight, tracking shot to the right",
        ),
        (
            "a woman runs",
            "Full shot, a woman runs, in red clothes, in a park, in bright daylight, tracking shot to the right",
        ),
        # Of kin that the tables take for another nothing is made up, nor where the prompt has its own details.
        ("a zebra", "Full shot of a zebra, running in a meadow, in bright daylight, tracking shot to the right"),
        ("a swan with a hat", "Full shot of a swan with a hat, in bright daylight, tracking shot to the right"),
        (
            "The fox runs at night. A close shave.",
            "Full shot. The fox runs at night. A close shave, tracking shot to the right",
        ),
        (
            "The fox runs at night",
            "Full shot. The fox runs at night, with red fur, in a forest, tracking shot to the right",
        ),
        (
            "close-up of a cat",
            "close-up of a cat, walking, with orange fur, in a village, in bright daylight, tracking shot to the right",
        ),
        ("一只天鹅", "全景，一只天鹅，游泳，湖，白天明亮的自然光，镜头向右跟拍"),
        ("neon lights, handheld, a fox runs in a city, close-up", None),
    ],
)
def test_models_that_read_any_words_get_the_missing_parts_around_the_prompt(prompt: str, text: str | None) -> None:
    enhanced = BuiltIn(world=False).enhance(prompt, has_image=False)
    assert enhanced.text == (text or prompt)


def test_what_is_added_for_any_model_goes_by_the_pattern_whatever_the_subject() -> None:
    """Shot, subject and action, detail, environment, lighting, camera; and no detail where there is a picture."""
    assert set(LOOKS) == set(SUBJECTS)
    for subject in SUBJECTS:
        made = BuiltIn(world=False).enhance(f"a {subject}", has_image=False)
        scene = fill({"subject": subject})
        shot, *parts = made.text.split(", ")
        assert shot == f"Full shot of a {subject}" and parts[1] == LOOKS[subject].format(scene.color)
        assert parts[3] == LIGHT[scene.time] and f"added color {scene.color}" in made.reason
        assert not BuiltIn(world=False).enhance(made.text, has_image=False).changed
        assert scene.color not in BuiltIn(world=False).enhance(f"a {subject}", has_image=True).text


def test_a_word_in_no_table_is_what_it_is_nearest_to() -> None:
    def nearest(word: str) -> Entry | None:
        return Entry("subject", "rabbit") if word == "squirrel" else None

    enhanced = BuiltIn(nearest=nearest).enhance("a red squirrel with a hat", has_image=False)
    assert read(enhanced.text).said["subject"] == "rabbit" and "squirrel = rabbit" in enhanced.reason
    assert enhanced.unknown == ("hat",)
