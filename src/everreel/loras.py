"""The command for LoRA files: `everreel convert-lora`.

The one invariant: as everywhere on the command line, what is wrong is one line, and nothing half-written stays behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer


def convert_lora(
    source: Annotated[Path, typer.Argument(help="A LoRA file, or a folder that holds one.")],
    target: Annotated[Path, typer.Argument(help="A new .safetensors file.")],
    to: Annotated[str, typer.Option(help="diffusers (and peft), kohya, or official (Wan's names, for ComfyUI).")],
    rank: Annotated[int | None, typer.Option(help="At most this rank: what says least is left out.")] = None,
    model: Annotated[str | None, typer.Option(help="What it is for, where that is none of `everreel models`.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there, once the new is whole.")] = False,
) -> None:
    """Write a LoRA in another key style; nothing is lost or rounded, but for what a lower rank leaves out."""
    from everreel.checkpoint.lora_convert import convert_lora

    lora = convert_lora(source, target, cast("Any", to), rank=rank, model=model, overwrite=overwrite)
    ranks = sorted({pair.down.shape[0] for pair in lora.pairs.values()})
    parts = [f"{len(lora.pairs)} pairs of rank {', '.join(map(str, ranks))}"] if ranks else []
    parts += [f"{len(lora.diffs)} whole differences"] if lora.diffs else []
    typer.echo(f"wrote {target}: {' and '.join(parts)}")
