"""A LoRA file from one key style to another: diffusers', kohya's and official Wan's.

Source: `lora_files` reads and writes them. The one invariant: nothing is left out and nothing rounded, unless a lower
rank is asked for. What the file
holds for an image, for the frame rate or for the channels of a picture is kept whatever model is named, and a style
that cannot say something refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from everreel.checkpoint.catalog import CATALOG, find_model
from everreel.checkpoint.lora import Lora
from everreel.checkpoint.lora_files import Style, read_lora, write_lora
from everreel.checkpoint.source import find_source
from everreel.model.config import TransformerConfig
from everreel.shapes import LATENT_CHANNELS, TEMPORAL

IMAGE_DIM = 1280  # of the released I2V models
INPUTS = (LATENT_CHANNELS, 2 * LATENT_CHANNELS + TEMPORAL)  # noise alone, or beside a picture


def convert_lora(
    path: str | Path,
    target: str | Path,
    style: Style = "diffusers",
    *,
    rank: int | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> Lora:
    """Write a LoRA in another key style; what was written is returned.

    Args:
        path: the file, or a folder that holds one.
        target: a new .safetensors file.
        style: diffusers, kohya or official.
        rank: the most that a pair may have; what is beyond it is left out, by singular values.
        model: what it is for, needed where that is no model of the catalog: its folder or file.
        overwrite: replace what stands at the target.

    Raises:
        ValueError: it cannot be read, fits no model, or the style cannot say what it does; or the target is there.
    """
    source, where = Path(path).expanduser(), Path(target).expanduser()
    if where.suffix != ".safetensors":
        raise ValueError(f"target = {str(target)!r}: must end in .safetensors; try {where.name}.safetensors")
    if where.exists() and not overwrite:
        raise ValueError(f"target = {str(target)!r}: is there already; give another name, or overwrite it")
    if not where.parent.is_dir():
        raise ValueError(f"target = {str(target)!r}: there is no folder {where.parent}")
    lora = _read(source, model)
    lora = lora if rank is None else lora.of_rank(rank)
    write_lora(where, lora, style)
    return lora


def _read(path: Path, model: str | None) -> Lora:
    """Read for the model whose names it uses and whose shapes it has."""
    found, errors = list[Lora](), list[str]()
    for config in _configs(model):
        try:
            found.append(read_lora(path, config))
        except ValueError as error:
            errors.append(str(error))
    if found:  # that which was shown its input channels leaves none of them out
        return max(found, key=lambda lora: len(lora.pairs) + len(lora.diffs))
    if model is not None or len(set(errors)) == 1:
        raise ValueError(errors[0])
    names = ", ".join(card.name for card in CATALOG)
    raise ValueError(f"lora = {str(path)!r}: fits none of {names}; name the --model that it is for: its folder or file")


def _configs(model: str | None) -> Iterator[TransformerConfig]:
    """Transformers with everything that some of their size have."""
    if model is not None:
        there = Path(model).expanduser()
        configs = [find_source(there if there.exists() else find_model(model, otherwise="df").require_path()).config]
    else:
        configs = [find_source(card.path).config for card in CATALOG if not card.released]
        sizes = sorted({(card.dim, card.ffn_dim, card.num_layers) for card in CATALOG if card.released})
        configs += [
            TransformerConfig(dim=dim, ffn_dim=ffn_dim, num_heads=dim // 128, num_layers=num_layers)
            for dim, ffn_dim, num_layers in sizes
        ]
    for config in configs:
        whole = replace(config, image_dim=config.image_dim or IMAGE_DIM, inject_sample_info=True)
        yield from (replace(whole, in_dim=channels) for channels in INPUTS)
