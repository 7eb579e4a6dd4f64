"""The benchmark for GPUs runs: on the CPU, with a model and a film of no size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
# What a bare machine does not have.
ABSENT = ("av", "skia", "diffusers", "transformers", "ftfy", "pydantic", "tokenizers", "torchao", "safetensors", "PIL")
BARE = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None
from benchmarks import gpu
gpu.main()
"""


def test_it_needs_torch_alone_and_says_what_is_missing(tmp_path):
    output = tmp_path / "gpu.json"
    flags = ["--size", "tiny", "--device", "cpu", "--repeats", "1", "--ways", "sdpa,flash,fp8,diffusers"]
    order = [sys.executable, "-c", BARE, *flags, "--output", str(output)]
    done = subprocess.run(order, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = {row["way"]: row for row in json.loads(output.read_text())["rows"]}
    assert [rows[way]["seconds"] is not None for way in rows] == [True, False, False, False, True]
    assert rows["sdpa"]["share"] > 0 and rows["VAE decoding"]["share"] is None
    assert rows["flash"]["why"] == "attention = 'flash': has no kernel for cpu in bfloat16; torch's own is used"
    assert (rows["fp8"]["why"], rows["diffusers"]["why"]) == ("torchao is not installed", "diffusers is not installed")
    assert "| tiny | tiny | sdpa | " in done.stdout
    assert gpu.read(output).rows[0].way == "sdpa"


def test_diffusers_takes_the_same_step(tmp_path):
    setting = gpu.Setting(("tiny",), ("tiny",), ("sdpa", "diffusers"), "cpu", 1)
    result = gpu.run(setting)
    assert [row.why for row in result.rows] == ["", "", ""]
    (ours, theirs, _) = result.rows
    cells = gpu._cells(ours, result.rows)
    assert cells[8] == f"{theirs.seconds / ours.seconds:.2f}×" and gpu._cells(theirs, result.rows)[8] == ""


def test_a_goal_is_met_or_missed():
    rows = [
        gpu.Row("14b", "540p", "sdpa", 10.0, 11.0, 40 * 10**9, 0.65),
        gpu.Row("14b", "540p", "sage", 8.0, 9.0, 40 * 10**9, 0.8),
        gpu.Row("14b", "540p", "diffusers", 15.5, 16.0, 60 * 10**9, 0.4),
    ]
    assert [gpu._cells(row, rows)[6:] for row in rows] == [
        ("65%", "met", "1.55×", "met"),
        ("80%", "met", "1.94×", "**missed**"),
        ("40%", "**missed**", "", ""),
    ]


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit, match="device = cuda: is not on this machine"):
        gpu.main(["--ways", "sdpa"])
    with pytest.raises(SystemExit):
        gpu.main(["--ways", "fast"])
    assert "'fast' is none of sdpa, auto" in capsys.readouterr().err


def test_where_nothing_was_measured_there_is_no_file(tmp_path):
    assert gpu.read(tmp_path / "none.json") is None
