"""The prompts that a model is judged by: never trained on, evenly spread, and saying what is scored."""

from collections import Counter

import pytest

from everreel.evaluate.prompts import REPEATS, held_out_prompts, held_out_scenes
from everreel.world.caption import sentence_with_fields
from everreel.world.scene import VOCABULARY, is_held_out, visible_fields


@pytest.fixture(scope="module")
def prompts():
    return held_out_prompts(64)


def test_the_scenes_are_valid_held_out_and_no_two_alike(prompts):
    scenes = [prompt.scene for prompt in prompts]
    for scene in scenes:
        scene.validate()
    assert all(is_held_out(scene) for scene in scenes)
    assert len(set(scenes)) == 64
    uses = Counter((scene.subject, scene.color, scene.action, scene.place) for scene in scenes)
    assert len(uses) > 50 and max(uses.values()) <= REPEATS


@pytest.mark.parametrize("name", ["subject", "color", "place", "action", "shot_type", "shot_angle", "camera_motion"])
def test_every_value_is_met_about_evenly(prompts, name):
    counts = Counter(getattr(prompt.scene, name) for prompt in prompts)
    share = 64 / len(VOCABULARY[name])
    assert set(counts) == set(VOCABULARY[name])
    assert min(counts.values()) >= share - 2 and max(counts.values()) <= share + 2, counts


def test_every_action_is_seen_too(prompts):
    seen = Counter(prompt.asked["action"] for prompt in prompts if "action" in prompt.asked)
    assert set(seen) == set(VOCABULARY["action"]) and min(seen.values()) >= 4


def test_a_prompt_says_all_that_is_scored_and_only_what_is_seen_is_scored(prompts, monkeypatch):
    for prompt in prompts:
        assert prompt.asked == visible_fields(prompt.scene)
        assert len(prompt.text.split()) > 8

    def silent_on_color(scene, generator, drop, style):
        text, told = sentence_with_fields(scene, generator, drop, style)
        return text, told - {"color"}

    monkeypatch.setattr("everreel.evaluate.prompts.sentence_with_fields", silent_on_color)
    assert all("color" not in prompt.asked and "subject" in prompt.asked for prompt in held_out_prompts(4))


def test_the_prompts_are_a_function_of_the_seed(prompts):
    assert held_out_prompts(10) == prompts[:10]
    assert [prompt.text for prompt in held_out_prompts(10, seed=1)] != [prompt.text for prompt in prompts[:10]]


@pytest.mark.parametrize(("count", "nearest"), [(0, 1), (-3, 1), (10_000, 650)])
def test_a_number_that_is_not_there_is_refused(count, nearest):
    with pytest.raises(ValueError, match=rf"num_films = {count}: must lie in 1\.\.650; nearest that works: {nearest}"):
        held_out_scenes(count)
