"""A policy of motion learning: the transformer that is trained, what of it is, and the frozen one it is held against.

The one invariant: before its first step policy and reference give the same bits. With an adapter the reference is the
policy with the adapter off, so its weights are held once; without one it is a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from everreel.checkpoint.lora import Lora, Pair, merge
from everreel.checkpoint.lora_files import read_lora, write_lora
from everreel.checkpoint.source import Source
from everreel.data.latents import LatentStore
from everreel.data.text import FrozenText, Text, text_of
from everreel.film.loading import source_of
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.train.batches import follow
from everreel.train.blocks import recompute_blocks
from everreel.train.diffusion_forcing import new_transformer
from everreel.train.lora import Adapter
from everreel.train.trainer import Trainer

if TYPE_CHECKING:
    from everreel.train.motion.preference import PreferenceRecipe


class Policy:
    """What a recipe begins with. `roles` are what is trained of it, none with `train=False`: then it makes films."""

    def __init__(self, recipe: PreferenceRecipe, train: bool = True) -> None:
        self.source: Source | None = None if recipe.model is None else source_of(recipe.model)
        if self.source is None and recipe.init is None:
            raise ValueError(
                "init=None: preferences move a model that makes films; name its transformer.safetensors or a model"
            )
        self.transformer = new_transformer(recipe, self.source)
        self.config: TransformerConfig = self.transformer.config
        self.text = _text(recipe, self.source)
        if self.text.dim != self.config.text_dim:
            rule = f"the transformer reads text_dim = {self.config.text_dim}; use the model's own"
            raise ValueError(f"text: its embeddings have {self.text.dim} channels, and {rule}")
        if recipe.lora is not None:
            merge(self.transformer, [(read_lora(Path(recipe.lora), self.config), 1.0)], keep=False)
        self.adapter: Adapter | None = None
        self._copy: DiT | None = None
        self.roles: dict[str, nn.Module] = {}
        if train:
            self.roles = self._trained(recipe)

    def _trained(self, recipe: PreferenceRecipe) -> dict[str, nn.Module]:
        if recipe.adapter is None:
            self._copy = copy.deepcopy(self.transformer).eval().requires_grad_(False)
            return {"transformer": self.transformer}
        self.transformer.to(getattr(torch, recipe.dtype)).requires_grad_(False).eval()
        self.adapter = Adapter.into(self.transformer, recipe.adapter, recipe.settings.seed)
        if recipe.settings.checkpointing == "blocks":
            recompute_blocks(self.transformer)  # the trainer sees the adapter alone, which has none
        return {"lora": self.adapter}

    def follow(self, device: torch.device) -> None:
        """Go where a batch is."""
        follow(device, self.transformer, *([] if self._copy is None else [self._copy]))

    @contextmanager
    def reference(self) -> Iterator[DiT]:
        """The transformer as the policy began, without gradients."""
        with torch.no_grad():
            if self._copy is not None:
                yield self._copy
                return
            assert self.adapter is not None
            with self.adapter.off():
                yield self.transformer


def write_policy_lora(path: Path, trainer: Trainer, begun_with: str | None, config: TransformerConfig) -> None:
    """A trained adapter together with the LoRA that the policy began with: one LoRA of the model itself."""
    adapter = trainer.modules["lora"]
    assert isinstance(adapter, Adapter)
    with trainer.averaged():
        if trainer.first:
            learnt = adapter.lora(path)
            write_lora(path, learnt if begun_with is None else joined(read_lora(Path(begun_with), config), learnt))


def joined(first: Lora, second: Lora) -> Lora:
    """One LoRA that changes what both do together; its ranks are theirs added up."""
    pairs = dict(first.pairs)
    for name, pair in second.pairs.items():
        if name not in pairs:
            pairs[name] = pair
            continue
        other = pairs[name]
        down = torch.cat([other.down.float(), pair.down.float()])
        up = torch.cat([other.scale * other.up.float(), pair.scale * pair.up.float()], dim=1)
        pairs[name] = Pair(down, up, float(len(down)))
    return Lora(second.path, dict(sorted(pairs.items())), first.diffs)


def _text(recipe: PreferenceRecipe, source: Source | None) -> Text:
    """How prompts are read: as stores have them embedded ahead, else by the recipe's encoder or the model's own."""
    encoder = recipe.text or source
    if recipe.prompts:
        return text_of([LatentStore(path) for path in recipe.prompts], encoder)
    if encoder is None:
        raise ValueError("text=None: name the folder of a text encoder, or in prompts latent stores that hold the text")
    return FrozenText.load(encoder)
