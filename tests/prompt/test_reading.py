"""What prompts say: the world's own captions word for word, synonyms in two languages, and nothing lost."""

from __future__ import annotations

import time

import pytest
import torch

from everreel.prompt import chinese, english
from everreel.prompt.lexicon import lexicon, tokens_of
from everreel.prompt.reading import read
from everreel.world.caption import sentence_with_fields
from everreel.world.scene import SUBJECT_ACTIONS, VOCABULARY, sample_scene

CHINESE = [(name, value, w) for name, values in chinese.WORDS.items() for value, t in values.items() for w in t.split()]
ENGLISH = list(english.phrases())


def test_every_caption_of_the_world_reads_to_what_it_tells() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        scene = sample_scene(generator, "all")
        text, told = sentence_with_fields(scene, generator)
        reading = read(text)
        assert reading.said == {name: getattr(scene, name) for name in told}, text
        assert reading.own and not (reading.unknown or reading.repeated or reading.taken), text


def test_every_value_has_words_in_both_languages() -> None:
    for name, values in VOCABULARY.items():
        assert set(values) <= set(chinese.WORDS[name]), name
        others = {value for field, value, _ in ENGLISH if field == name}
        assert set(values) <= others, name


@pytest.mark.parametrize(("phrases", "marks"), [(ENGLISH, " "), (CHINESE, "")])
def test_every_synonym_alone_says_its_value(phrases: list[tuple[str, str, str]], marks: str) -> None:
    """By itself, or of a subject that can do it."""
    for name, value, phrase in phrases:
        if name == "action":
            subjects = [subject for subject, actions in SUBJECT_ACTIONS.items() if value in actions]
            found = {read(f"{subject}{marks or '，'}{phrase}").said.get("action") for subject in subjects}
        else:
            found = {read(phrase).said.get(name)}
        values = {f"{value}_right"} if value in ("pan", "tracking") else {value}
        assert found & values, (name, value, phrase, found)


def test_no_phrase_stands_for_two_fields() -> None:
    """But for those that say a second thing beside."""
    for phrase, entries in lexicon().entries.items():
        fields = {entry.field for entry in entries if not entry.beside}
        assert len(fields) <= 1, (phrase, fields)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a puppy", {"subject": "dog"}),
        ("A CRIMSON vixen", {"subject": "fox", "color": "red"}),
        ("一只红色的狐狸在雪地里奔跑", {"subject": "fox", "color": "red", "place": "snowfield", "action": "runs"}),
        ("夜晚蓝色的汽车开过城市", {"time": "night", "color": "blue", "subject": "car", "action": "walks",
                                      "place": "city"}),
        ("一隻黑貓在飛", {"subject": "cat", "color": "black", "action": "flies"}),
        ("河马", {}),
        ("a sea lion", {}),
        ("a polar bear", {"subject": "bear", "color": "white"}),
        ("a black polar bear", {"subject": "bear", "color": "black"}),
        ("a boat drifts", {"subject": "boat", "action": "swims"}),
        ("a balloon drifts", {"subject": "balloon", "action": "flies"}),
        ("a ball rolls", {"subject": "ball", "action": "spins"}),
        ("an owl in the sky", {"subject": "owl", "action": "flies"}),
        ("the man drives", {"subject": "man"}),
        ("the camera slowly pans to the left", {"camera_motion": "pan_left"}),
        ("a fox runs left, the camera follows", {"subject": "fox", "action": "runs", "direction": "left",
                                                 "camera_motion": "tracking_left"}),
        ("a red sunset", {"time": "dusk"}),
        ("a fox in a green forest", {"subject": "fox", "place": "forest"}),
        ("a woman in a red dress", {"subject": "woman", "color": "red"}),
        ("a fox, red", {"subject": "fox", "color": "red"}),
        ("bird's-eye view of a lake", {"shot_angle": "high_angle", "place": "lake"}),
        ("fish in the ocean", {"subject": "fish", "place": "underwater"}),
        ("a ship on the ocean", {"subject": "boat", "place": "beach"}),
    ],
)  # fmt: skip
def test_what_people_write(prompt: str, said: dict[str, str]) -> None:
    assert read(prompt).said == said


def test_what_is_not_known_is_kept_as_it_was_written() -> None:
    reading = read("A Red Fox with a Top Hat eats a pizza, and a dog!")
    assert reading.details == ["with a Top Hat eats a pizza"] and reading.repeated == ["a dog"]
    assert reading.unknown == ["top", "hat", "eats", "pizza"]
    assert read("the fox is eating").does == ["is eating"] and "action" in read("the fox is eating").hints
    assert read("a fox in a castle").hints == {"place"} and read("neon light").hints == {"time"}
    assert read("a happy dog on a calm lake").repeated == ["happy", "calm lake"]
    assert read("a fox with a green hat").repeated == ["with a green hat"]


def test_phrases_do_not_reach_over_a_comma() -> None:
    assert read("a hot, air, balloon").said == {"subject": "balloon"}
    assert tokens_of("Bird\u2019s-eye  VIEW") == ("bird's", "eye", "view")


def test_a_long_prompt_is_read_as_quickly_as_short_ones() -> None:
    """A word more costs what a word costs; once each cost as much as all that came behind it."""

    def takes(count: int) -> float:
        began = time.process_time()
        read("龙在飞" * count)
        return time.process_time() - began

    read("龙在飞")
    assert takes(2000) < 30 * takes(200)
