"""Prompts that a language model writes: what it is asked, what is finished behind it, and what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from everreel.answers import ChatError
from everreel.prompt.asked import Asked
from everreel.prompt.reading import read
from everreel.world.scene import VOCABULARY

WHOLE = "wide shot of a red fox running right through a forest at dusk in the rain, at eye level, side view, pan right"


class Says:
    """A model that says what it is told to, and keeps what it was asked."""

    def __init__(self, answer: str) -> None:
        self.text, self.asked, self.schema = answer, [], None

    def answer(self, messages: Sequence[dict[str, Any]], *, schema: Any = None, **_: Any) -> str:
        self.asked, self.schema = list(messages), schema
        return self.text


def test_a_model_writes_and_what_it_forgot_is_put_behind() -> None:
    chat = Says('"A close-up of a crimson dragon over a castle.\nMist everywhere."')
    enhanced = Asked(chat, "some-model").enhance("a dragon and a wizard", has_image=False)
    assert enhanced.text.startswith("A close-up of a crimson dragon over a castle. Mist everywhere, ")
    assert {"time", "camera_motion"} <= set(read(enhanced.text).said)
    assert enhanced.backend == "some-model" and enhanced.changed and "left out: wizard" in enhanced.reason
    assert chat.asked[1] == {"role": "user", "content": "a dragon and a wizard"}
    again = Asked(chat, "some-model").enhance(enhanced.text, has_image=False)
    assert again.text == enhanced.text and not again.changed


def test_what_a_model_says_otherwise_is_named() -> None:
    chat = Says("Close-up of a blue fox running in a forest at night, static camera")
    assert "says otherwise: color" in Asked(chat, "m").enhance("a red fox", has_image=False).reason


@pytest.mark.parametrize("world", [True, False])
def test_a_whole_prompt_is_not_asked_about(world: bool) -> None:
    chat = Says("never")
    enhanced = Asked(chat, "m", world).enhance(WHOLE, has_image=False)
    assert enhanced.text == WHOLE and not enhanced.changed and not chat.asked
    assert Asked(chat, "m", world).enhance(" ", has_image=True).text == " " and not chat.asked


def test_with_a_picture_only_what_moves_is_asked_for() -> None:
    chat = Says("The dragon turns its head, the camera zooms in")
    enhanced = Asked(chat, "m").enhance("a dragon", has_image=True)
    assert enhanced.text == chat.text and "picture" in chat.asked[0]["content"]


def test_for_the_film_world_a_model_only_picks_values() -> None:
    fields = dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "action": "flies", "color": "blue", "place": "Mars"}
    chat = Says(json.dumps(fields | {"direction": 3}))
    enhanced = Asked(chat, "m", world=True).enhance("a green dragon, at night", has_image=False)
    said = read(enhanced.text).said
    assert (said["subject"], said["color"], said["action"], said["time"]) == ("turtle", "green", "flies", "night")
    assert "understood as subject turtle, action flies" in enhanced.reason and enhanced.unknown == ("dragon",)
    assert chat.schema["properties"]["color"]["enum"] == ["", *VOCABULARY["color"]]


def test_an_answer_without_words_is_refused() -> None:
    with pytest.raises(ChatError, match="model = 'm': its answer holds no words"):
        Asked(Says('""'), "m").enhance("a dragon", has_image=False)


def test_an_answer_that_goes_on_and_on_is_refused() -> None:
    with pytest.raises(ChatError, match="model = 'm': its answer has 44999 characters, and 512 tokens were asked for"):
        Asked(Says("a dragon " * 5000), "m").enhance("a dragon", has_image=False)
