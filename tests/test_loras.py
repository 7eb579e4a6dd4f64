"""`everreel convert-lora`: what it says."""

from pathlib import Path

import torch
import typer
from typer.testing import CliRunner

from everreel.checkpoint.lora import Lora, Pair
from everreel.checkpoint.lora_files import write_lora
from everreel.loras import convert_lora


def test_the_command_says_what_it_wrote(tmp_path):
    pairs = {
        "blocks.0.self_attn.q": Pair(torch.ones(4, 1536), torch.ones(1536, 4), 2.0),
        "blocks.0.self_attn.k": Pair(torch.ones(8, 1536), torch.ones(1536, 8), 2.0),
    }
    diffs = {"blocks.0.modulation": torch.ones(1, 6, 1536)}
    write_lora(tmp_path / "a.safetensors", Lora(Path("a"), pairs, diffs), "official")
    app = typer.Typer()
    app.command()(convert_lora)
    target = tmp_path / "b.safetensors"
    result = CliRunner().invoke(app, [str(tmp_path / "a.safetensors"), str(target), "--to", "kohya"])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f"wrote {target}: 2 pairs of rank 4, 8 and 1 whole differences"
    assert target.is_file()
    lower = [str(tmp_path / "a.safetensors"), str(target), "--to", "kohya", "--overwrite", "--rank", "2"]
    assert "2 pairs of rank 2 and" in CliRunner().invoke(app, lower).output
