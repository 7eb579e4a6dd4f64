"""The measure of a print's LoRA: films at every strength, and a table of them."""

from pathlib import Path

import torch

from benchmarks import lora_style
from everreel.checkpoint.lora import Lora, Pair
from everreel.checkpoint.lora_files import write_lora


def test_films_at_every_strength(tiny_folder, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(2, 48, generator=generator), torch.randn(64, 2, generator=generator)
    write_lora(tmp_path / "a.safetensors", Lora(Path("a"), {"head.head": Pair(*halves, 2.0)}, {}))
    lora_style.main(
        [
            *("--lora", str(tmp_path / "a.safetensors"), "--model", str(tiny_folder)),
            *("--films", "2", "--frames", "5", "--output", str(tmp_path / "sheet.png")),
        ]
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| strength", "| drawn"))]
    off = [float(row.split("|")[2].split("±")[0]) for row in rows]
    assert len(rows) == 4
    assert off[3] < 1 < off[0] != off[2]
    assert (tmp_path / "sheet.png").stat().st_size > 1000
