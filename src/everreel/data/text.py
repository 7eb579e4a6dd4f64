"""What the sentences of a batch become: embeddings, made on the fly by a small text encoder or read from a store.

Both kinds are one `Text`: sentences are numbers first, which a batch carries, and embeddings when a loss is computed.
The numbers are tokens where there is an encoder, and places in the stores where all is embedded ahead; then no text
encoder is in memory while a transformer trains. The one invariant: which of both it is changes no draw.

Shape suffixes: B batch, N clips, S sentences of a clip, L numbers or positions, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from everreel.checkpoint.load import load_text_encoder, load_tokenizer
from everreel.checkpoint.source import Source
from everreel.data.latents import LatentStore
from everreel.model.text_encoder import TextEncoder, Tokenizer


class Text(Protocol):
    """Sentences → numbers → embeddings."""

    @property
    def dim(self) -> int:
        """Channels of an embedding."""

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Numbers (B, L), int64, that `embed` takes."""

    def embed(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L', D), zero where padded, and their mask (B, L'), on the device of the numbers."""


@dataclass
class FrozenText:
    """A trained tokenizer and encoder: what later stages turn prompts into embeddings with."""

    tokenizer: Tokenizer
    encoder: TextEncoder
    length: int = 64

    @classmethod
    def load(cls, folder: str | Path | Source, length: int = 64) -> FrozenText:
        """From a folder with `tokenizer/` and `text_encoder/`: a text run's, or a whole model's."""
        encoder = load_text_encoder(folder)
        encoder.requires_grad_(False)
        return cls(load_tokenizer(folder), encoder, length)

    @property
    def dim(self) -> int:
        """Channels of an embedding."""
        return self.encoder.config.d_model

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers (B, length), 0 where padded."""
        return self.tokenizer(prompts, length=self.length).ids

    @torch.no_grad()
    def embed(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, length, D), zero where padded, and mask (B, length) of token numbers, on their
        device.
        """
        if self.encoder.model.get_parameter("shared.weight").device != ids_BL.device:
            self.encoder.to(ids_BL.device)
        mask_BL = (ids_BL != self.tokenizer.pad_id).long()
        return self.encoder(ids_BL, mask_BL), mask_BL


class StoredText:
    """Sentences whose embeddings lie in stores; a sentence's number says where."""

    def __init__(self, stores: Sequence[LatentStore]) -> None:
        self._stores = stores
        self._places: list[tuple[int, int, int]] = []  # store, clip, sentence; clip -1 for those of no clip
        self._numbers: dict[str, int] = {}
        for number, store in enumerate(stores):
            for sentence, prompt in enumerate(store.prompts):
                self._add(prompt, (number, -1, sentence))
            for clip, sentences in enumerate(store.sentences):
                for sentence, text in enumerate(sentences):
                    self._add(text, (number, clip, sentence))
        widths = {store.text_dim for store in stores}
        if len(widths) > 1:
            paths = ", ".join(str(store.path) for store in stores)
            raise ValueError(f"stores = {paths}: are of text encoders of {sorted(widths)} channels; prepare both alike")
        self._dim = widths.pop()

    @property
    def dim(self) -> int:
        """Channels of an embedding."""
        return self._dim

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Numbers (B, 1).

        Raises:
            ValueError: a sentence was not embedded ahead.
        """
        strange = [prompt for prompt in prompts if prompt not in self._numbers]
        if strange:
            where = self._stores[0].path
            rule = f"is neither a caption of {where} nor one of its prompts"
            raise ValueError(f"prompt = {strange[0]!r}: {rule}; add it with everreel prepare --prompt")
        return torch.tensor([[self._numbers[prompt]] for prompt in prompts])

    def embed(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, longest, D), zero where padded, float32, and their mask (B, longest)."""
        parts = [self._read(number) for number in ids_BL[:, 0].tolist()]
        longest = max(len(part) for part in parts)
        embedding_BLD, mask_BL = torch.zeros(len(parts), longest, self.dim), torch.zeros(len(parts), longest).long()
        for row, part in enumerate(parts):
            embedding_BLD[row, : len(part)], mask_BL[row, : len(part)] = part, 1
        return embedding_BLD.to(ids_BL.device), mask_BL.to(ids_BL.device)

    def _add(self, text: str, place: tuple[int, int, int]) -> None:
        if text not in self._numbers:
            self._numbers[text] = len(self._places)
            self._places.append(place)

    def _read(self, number: int) -> Tensor:
        store, clip, sentence = self._places[number]
        return torch.from_numpy(self._stores[store].embedding(clip, sentence).astype("float32"))


def text_of(stores: Sequence[LatentStore], encoder: str | Path | Source | None) -> Text:
    """How the sentences of stores are read: as they were embedded ahead, else with the text encoder of a folder.

    Raises:
        ValueError: some stores hold embeddings and some do not, or none does and there is no encoder.
    """
    ahead = [store for store in stores if store.text_dim]
    if len(ahead) == len(stores):
        return StoredText(stores)
    without = next(store for store in stores if not store.text_dim)
    if ahead:
        raise ValueError(
            f"store = {without.path}: holds no embedded text, and {ahead[0].path} does; prepare both alike"
        )
    if encoder is None:
        raise ValueError(f"text: {without.path} holds no embedded text; name the folder of a text encoder")
    return FrozenText.load(encoder)


@dataclass
class TextTable:
    """The sentences of a store as numbers; embeddings are made a batch at a time."""

    ids_NSL: Tensor
    text: Text
    count_N: Tensor
    """How many sentences each clip has; behind them the numbers of its first are repeated."""

    @classmethod
    def build(cls, sentences: Sequence[Sequence[str]], text: Text) -> TextTable:
        """Number the sentences of each clip, at least one for each."""
        most = max(len(lines) for lines in sentences)
        flat = [line for lines in sentences for line in [*lines, *[lines[0]] * (most - len(lines))]]
        ids = torch.cat([text.ids(flat[start : start + 4096]) for start in range(0, len(flat), 4096)])
        count_N = torch.tensor([len(lines) for lines in sentences])
        return cls(ids.to(torch.int32).view(len(sentences), most, -1), text, count_N)

    def draw(self, indices: Sequence[int], generator: torch.Generator, empty: float = 0.1) -> Tensor:
        """Numbers (B, L) of one sentence a clip, or of the empty prompt with probability
        `empty`.
        """
        count, rows = len(indices), torch.tensor(indices)
        if bool((self.count_N == self.count_N[0]).all()):
            which = torch.randint(0, self.ids_NSL.shape[1], (count,), generator=generator)
        else:
            which = (torch.rand(count, generator=generator, dtype=torch.float64) * self.count_N[rows]).long()
        ids_BL = self.ids_NSL[rows, which].long()
        dropped_B = torch.rand(count, generator=generator) < empty
        return torch.where(dropped_B[:, None], self.text.ids([""]), ids_BL)
