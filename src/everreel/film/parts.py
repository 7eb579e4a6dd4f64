"""How many numbers the parts of a model hold, without loading them.

Sources: the headers of its files, in whatever layout they are, else section 3.1 of the paper. The one invariant:
nothing is read but headers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from everreel.checkpoint.catalog import ModelCard
from everreel.checkpoint.source import Part, find_source
from everreel.model.config import VAEConfig
from everreel.model.packed import is_packed

_RELEASED_TEXT, _RELEASED_VAE, _RELEASED_IMAGE = 5.68e9, 0.127e9, 0.632e9
_RELEASED_BASE_DIM = 96


@dataclass(frozen=True)
class Parts:
    """Numbers in each part's weights; `base_dim` is the VAE's width at full size."""

    transformer: float
    blocks: float
    """Of the transformer's, those in the linear layers of its blocks."""
    text: float
    image: float
    vae: float
    base_dim: int
    packed: float | None = None
    """Bytes a number of `blocks`, where the file holds them quantised."""


def parts_of(card: ModelCard, beside: Path | None = None) -> Parts:
    """From the files, as far as they are here, else as the released models are; as for `find_source`.

    Raises:
        ValueError: as from `find_source` and of its parts.
    """
    blocks = float(card.num_layers * (8 * card.dim**2 + 2 * card.dim * card.ffn_dim))
    image, around = _RELEASED_IMAGE if card.image else 0.0, card.dim * (4096 + 9 * card.dim)
    parts = Parts(blocks + around, blocks, _RELEASED_TEXT, image, _RELEASED_VAE, _RELEASED_BASE_DIM)
    if not card.usable:
        return parts
    source = find_source(card.path, beside)
    parts = replace(parts, transformer=_numbers(source.transformer), packed=_packed(source.transformer))
    if source.text_encoder is not None:
        parts = replace(parts, text=_numbers(source.text_encoder))
    if card.image and source.image_encoder is not None:
        parts = replace(parts, image=_numbers(source.image_encoder))
    if source.vae is not None:
        config = source.vae.config
        assert isinstance(config, VAEConfig)
        parts = replace(parts, vae=_numbers(source.vae), base_dim=config.decoder_base_dim or config.base_dim)
    return parts


def _numbers(part: Part) -> float:
    return float(sum(prod(shape) for shape in part.open().shapes.values()))


def _packed(transformer: Part) -> float | None:
    """Bytes a weight of the blocks' matrices; what is no block of a known type is unpacked to at most four."""
    infos = transformer.open().infos.items()
    matrices = [info for name, info in infos if name.startswith("blocks.") and len(info.shape) == 2]
    if not any(is_packed(info.dtype) for info in matrices):
        return None
    held = sum(info.num_bytes if is_packed(info.dtype) else 4 * prod(info.shape) for info in matrices)
    return held / sum(prod(info.shape) for info in matrices)
