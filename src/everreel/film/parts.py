"""How many numbers the parts of a model hold, without loading them.

Sources: the headers of its files, else section 3.1 of the paper. The one invariant: nothing is read but headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import safe_open

from everreel.checkpoint import configs
from everreel.checkpoint.catalog import ModelCard

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


def parts_of(card: ModelCard) -> Parts:
    """From the files, where they are here in a layout of folders, else as the released models are."""
    folder = Path(card.path)
    blocks = float(card.num_layers * (8 * card.dim**2 + 2 * card.dim * card.ffn_dim))
    there = {name: _numbers(folder / name) for name in ("transformer", "text_encoder", "image_encoder", "vae")}
    around = card.dim * (4096 + 9 * card.dim)
    base_dim = _RELEASED_BASE_DIM
    if (folder / "vae" / "config.json").is_file():
        vae = configs.vae_config_from_diffusers(configs.read_json(folder / "vae" / "config.json"))
        base_dim = vae.decoder_base_dim or vae.base_dim
    return Parts(
        transformer=there["transformer"] or blocks + around,
        blocks=blocks,
        text=there["text_encoder"] or _RELEASED_TEXT,
        image=(there["image_encoder"] or _RELEASED_IMAGE) if card.image else 0.0,
        vae=there["vae"] or _RELEASED_VAE,
        base_dim=base_dim,
    )


def _numbers(folder: Path) -> float:
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return float(total)
