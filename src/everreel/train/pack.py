"""From finished runs to a folder that ships: the parts of a model in the diffusers layout, or a LoRA that is a student.

The one invariant: the folder is a function of the runs alone; a model's says in `training.json` what they reported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from everreel.checkpoint.load import (
    load_image_encoder,
    load_text_encoder,
    load_tokenizer,
    load_vae,
    save_diffusers,
)
from everreel.checkpoint.lora import SETTINGS
from everreel.checkpoint.lora_files import LORA_FILE, read_lora, write_lora
from everreel.evaluate.facts import FILE, gather
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT


@dataclass(frozen=True)
class PackRecipe:
    """A model from the folders of its runs.

    `transformer` is the file of averaged weights of its last stage, `vae` and `text` are run folders, and so is
    `image_encoder` of an I2V model, whose `config` says `image_dim`. `shift` is what
    other programs find in the scheduler's settings. What the runs in the folder `runs` reported goes into
    `training.json`, with the `notes`, sentences that the model card repeats.
    """

    config: TransformerConfig
    transformer: str
    vae: str
    text: str
    shift: float
    runs: str = "runs"
    notes: tuple[str, ...] = ()
    dtype: torch.dtype = torch.bfloat16
    image_encoder: str | None = None

    def run(self, run_dir: Path, quiet: bool = False) -> None:
        """Write the model into `run_dir`.

        Raises:
            ValueError: a run is not finished, or its image encoder is not the one that the transformer reads.
        """
        from safetensors.torch import load_file

        if not Path(self.transformer).is_file():
            raise ValueError(f"transformer={self.transformer!r}: no such file; run its recipe first")
        image_encoder = None if self.image_encoder is None else load_image_encoder(self.image_encoder)
        wide = None if image_encoder is None else image_encoder.config.dim
        if wide != self.config.image_dim:
            rule = f"the transformer reads image_dim = {self.config.image_dim}"
            raise ValueError(f"image_encoder={self.image_encoder!r}: its tokens have {wide} channels, {rule}")
        transformer = DiT(self.config)
        transformer.load_state_dict(load_file(self.transformer))
        save_diffusers(
            run_dir,
            transformer=transformer,
            vae=load_vae(self.vae),
            text_encoder=load_text_encoder(self.text),
            tokenizer=load_tokenizer(self.text),
            shift=self.shift,
            dtype=self.dtype,
            image_encoder=image_encoder,
        )
        facts = {**gather(Path(self.runs)), "notes": list(self.notes)}
        (run_dir / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class StudentPackRecipe:
    """A student that is a LoRA of a transformer, from the folder of its run, in the type and of the rank that ships."""

    lora: str
    config: TransformerConfig
    rank: int | None = None
    dtype: torch.dtype = torch.bfloat16

    def run(self, run_dir: Path, quiet: bool = False) -> None:
        """Write it into `run_dir` under the name that diffusers looks for.

        Raises:
            ValueError: its run is not finished, or it does not say how it is used.
        """
        if not Path(self.lora).is_file():
            raise ValueError(f"lora={self.lora!r}: no such file; run its recipe first")
        lora = read_lora(self.lora, self.config)
        if SETTINGS not in lora.metadata:
            raise ValueError(f"lora={self.lora!r}: does not say how it is used; one that recipes/distill.py makes does")
        lora = lora if self.rank is None else lora.of_rank(self.rank)
        pairs = {
            module: replace(pair, down=pair.down.to(self.dtype), up=pair.up.to(self.dtype))
            for module, pair in lora.pairs.items()
        }
        run_dir.mkdir(parents=True, exist_ok=True)
        write_lora(run_dir / LORA_FILE, replace(lora, pairs=pairs))
        (run_dir / LORA_FILE).chmod(0o644)  # safetensors lets nobody else read what it writes
