"""A prompt → tokens → what the transformer attends to: the tokenizer and the umT5 encoder.

The released models read prompts with umT5-XXL (paper, section 3.1), where every layer has a
relative-position table of its own. The arithmetic is transformers' `UMT5EncoderModel`; what is ours is the
padding. The one invariant: an embedding does not depend on how far its prompt was padded, and where the
mask is 0 it is exactly 0.

B prompts, L positions, D channels.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ftfy
import torch
from torch import Tensor, nn

from everreel.model.config import TextEncoderConfig
from everreel.model.quiet import quiet

if TYPE_CHECKING:
    import tokenizers
    from transformers import UMT5EncoderModel


class TextEncoder(nn.Module):
    """umT5: token numbers → embeddings. `model` holds transformers' encoder, with its names."""

    def __init__(self, config: TextEncoderConfig) -> None:
        # transformers takes seconds to import, and a bad request should be refused before that.
        with quiet():
            from transformers import UMT5Config, UMT5EncoderModel

        super().__init__()
        self.config = config
        self.model: UMT5EncoderModel = UMT5EncoderModel(UMT5Config(**umt5_settings(config)))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Embeddings of every position (B, L, D); zero where `mask_BL` is 0."""
        # Prompts are short and rows long: behind the longest prompt the result is zero anyway.
        used = mask_BL.bool().any(dim=0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        hidden_BLD: Tensor = self.model(input_ids=ids_BL[:, :length], attention_mask=mask_BL[:, :length])[0]
        hidden_BLD = hidden_BLD.masked_fill(mask_BL[:, :length, None] == 0, 0.0)
        return nn.functional.pad(hidden_BLD, (0, 0, 0, ids_BL.shape[1] - length))

    def tie(self) -> None:
        """Make the two names of the token embedding one tensor again, after tensors were assigned."""
        self.model.encoder.embed_tokens = self.model.shared


@dataclass(frozen=True)
class Tokens:
    """Token numbers and mask (B, L; int64), and how many tokens of each prompt did not fit."""

    ids: Tensor
    mask: Tensor
    num_dropped: tuple[int, ...]


class Tokenizer:
    """Prompts → `Tokens`, cleaned as the released tokenizer cleans them (`clean_prompt`).

    A prompt longer than `max_length` keeps its first tokens and the end mark; `num_dropped` says what was
    lost, so that the caller refuses or warns.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, pad_token: str = "<pad>", max_length: int = 512) -> None:
        pad = backend.token_to_id(pad_token)
        if pad is None:
            raise ValueError(f"pad_token = {pad_token!r}: not in the tokenizer's vocabulary")
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.pad_token = pad_token
        self.pad_id: int = pad
        self.max_length = max_length

    def __call__(self, prompts: Sequence[str], *, length: int | None = None) -> Tokens:
        """Tokens of `prompts`, padded to `length` (default: `max_length`)."""
        length = self.max_length if length is None else length
        encodings = self.backend.encode_batch([clean_prompt(text) for text in prompts])
        rows = [encoding.ids for encoding in encodings]
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            kept = row if len(row) <= length else [*row[: length - 1], row[-1]]
            ids[index, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
            mask[index, : len(kept)] = 1
        return Tokens(ids, mask, tuple(max(0, len(row) - length) for row in rows))


def clean_prompt(text: str) -> str:
    """`text` with its encoding mended, (doubly escaped) HTML entities resolved and white space joined."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def umt5_settings(config: TextEncoderConfig) -> dict[str, Any]:
    """`config` in the words of transformers' `UMT5Config`."""
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.eps,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }
