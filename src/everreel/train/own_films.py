"""Fine-tuning of any model on anybody's films: the diffusion-forcing stage, and a whole model at its end.

The one invariant: `RUN/model` is the model that the run began with, in diffusers' layout and to the bit, but for its
transformer, which holds the averaged weights. It is whole, or it is that of the run before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from everreel.checkpoint.contents import Content
from everreel.checkpoint.convert import convert
from everreel.checkpoint.source import Part, Source
from everreel.film.loading import source_of
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.trainer import Outcome

MODEL = "model"


@dataclass(frozen=True)
class OwnFilmsRecipe(DiffusionForcingRecipe):
    """The values of a fine-tuning: those of its one stage; `model` is what it begins with, `films` a prepared store."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            raise ValueError("model: name what is fine-tuned; model='tiny' works")

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, and write `model` into the run folder, also of a run that was stopped before its end."""
        assert self.model is not None
        outcome = super().run(run_dir, quiet)
        save_fine_tuned(source_of(self.model), run_dir / "transformer.safetensors", run_dir / MODEL)
        return outcome


def save_fine_tuned(source: Source, weights: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model of diffusers' layout with another transformer, that of a run's averaged weights.

    The model is one of diffusion forcing, whatever the source was trained for.

    Raises:
        ValueError: a part of the source is missing, or the disk is full.
    """
    from safetensors.torch import load_file, save_file

    rounded = weights.with_suffix(f".{str(dtype).removeprefix('torch.')}")
    try:
        save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, rounded)
        part = Part((rounded,), Content("transformer", "official"), source.config)
        convert(replace(source, transformer=part, kind="df"), folder, to="diffusers", overwrite=True)
    finally:
        rounded.unlink(missing_ok=True)
