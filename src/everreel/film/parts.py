"""How many numbers the parts of a model hold, without loading them.

Sources: the headers of its files, else section 3.1 of the paper. The one invariant: nothing is read but headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from everreel.checkpoint.catalog import ModelCard
from everreel.checkpoint.source import Part, Source, find_source
from everreel.model.config import VAEConfig

_RELEASED_TEXT, _RELEASED_VAE, _RELEASED_IMAGE = 5.68e9, 0.127e9, 0.632e9
_RELEASED_BASE_DIM = 96


@dataclass(frozen=True)
class Parts:
    """Numbers in each part's weights; `base_dim` is the VAE's width at full size."""

    transformer: float
    blocks: float
    """Of the transformer's, those in the linear layers of its blocks."""
    packed: float
    """Bytes of these where a file has them quantised and they can stay so; 0: they come in the type asked for."""
    text: float
    image: float
    vae: float
    base_dim: int


def parts_of(card: ModelCard, source: Source | None = None) -> Parts:
    """From the headers of its files, in any layout, and for what is not here as the released models are.

    Args:
        card: of the model.
        source: where its parts are, if that has been looked up.

    Raises:
        ValueError: a file is torn, or not as it must be.
    """
    if source is None and card.usable:
        source = find_source(card.path)
    blocks = float(card.num_layers * (8 * card.dim**2 + 2 * card.dim * card.ffn_dim))
    around = card.dim * (4096 + 9 * card.dim)
    vae = source.vae if source else None
    vae_config = vae.config if vae else None
    return Parts(
        transformer=_numbers(source.transformer) if source else blocks + around,
        blocks=blocks,
        packed=_packed_bytes(source.transformer) if source else 0.0,
        text=_numbers(source.text_encoder) if source and source.text_encoder else _RELEASED_TEXT,
        image=(_numbers(source.image_encoder) if source and source.image_encoder else _RELEASED_IMAGE)
        if card.image
        else 0.0,
        vae=_numbers(vae) if vae else _RELEASED_VAE,
        base_dim=(vae_config.decoder_base_dim or vae_config.base_dim)
        if isinstance(vae_config, VAEConfig)
        else _RELEASED_BASE_DIM,
    )


def _numbers(part: Part) -> float:
    return float(sum(prod(shape) for shape in part.open().shapes.values()))


def _packed_bytes(part: Part) -> float:
    infos = part.open().infos
    blocks = {name: info for name, info in infos.items() if name.startswith("blocks.") and len(info.shape) == 2}
    in_blocks = [not isinstance(getattr(torch, info.dtype, None), torch.dtype) for info in blocks.values()]
    return float(sum(info.num_bytes for info in blocks.values())) if any(in_blocks) else 0.0
