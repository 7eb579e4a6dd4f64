"""The benchmark for GPUs runs: on the CPU, with a model and a film of no size."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from everreel.model.backends import Checked

ROOT = Path(__file__).parents[2]
# What a bare machine does not have.
ABSENT = ("av", "skia", "diffusers", "transformers", "ftfy", "pydantic", "tokenizers", "torchao", "safetensors", "PIL")
BARE = f"""
import sys
class Absent:
    def find_spec(name, *_):
        if name in {ABSENT}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent)
from benchmarks import gpu
gpu.main()
"""
CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def a_row(model: str, film: str, way: str, seconds: float | None = 1.0, why: str = "") -> gpu.Row:
    return gpu.Row(model, film, way, seconds, seconds, 10**9, why=why)


@pytest.fixture
def measured(monkeypatch) -> list[tuple[str, str, str]]:
    """What was measured, none of which is computed; `fp8` fails."""
    names = []

    def step(model, film, way, *_):
        names.append((model, film, way))
        return gpu.Row(model, film, way, why="again") if way == "fp8" else a_row(model, film, way, 2.0)

    monkeypatch.setattr(gpu, "_row", step)
    monkeypatch.setattr(gpu, "_decoding", lambda vae, film, *_: step(vae, film, "VAE decoding"))
    monkeypatch.setattr(gpu, "matmul_peak", lambda *_: 1e12)
    return names


def test_it_needs_torch_alone_and_says_what_is_missing(tmp_path):
    output = tmp_path / "gpu.json"
    flags = ["--size", "tiny", "--device", "cpu", "--repeats", "1", "--ways", "sdpa,flash,fp8,diffusers"]
    # Without `site` nothing says where the package is, as where it was not installed.
    order = [sys.executable, "-S", "-c", BARE, *flags, "--output", str(output)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", sysconfig.get_path("purelib")])}
    done = subprocess.run(order, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    rows = {row["way"]: row for row in json.loads(output.read_text())["rows"]}
    assert [way for way in rows if rows[way]["seconds"] is not None] == ["VAE decoding", "sdpa"]
    assert rows["sdpa"]["share"] > 0 and rows["VAE decoding"]["share"] is None
    assert rows["flash"]["why"] == "attention = 'flash': has no kernel for cpu in bfloat16; torch's own is used"
    assert (rows["fp8"]["why"], rows["diffusers"]["why"]) == ("torchao is not installed", "diffusers is not installed")
    assert "| tiny | tiny | sdpa | " in done.stdout
    assert gpu.read(output).rows[0].way == "VAE decoding"


def test_diffusers_takes_the_same_step(tmp_path):
    setting = gpu.Setting(("tiny",), ("tiny",), ("sdpa", "diffusers"), "cpu", 1)
    result = gpu.run(setting)
    assert [row.why for row in result.rows] == ["", "", ""]
    (ours,) = (row for row in result.rows if row.way == "sdpa")
    (theirs,) = (row for row in result.rows if row.way == "diffusers")
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


def test_fp8_is_what_the_product_does(monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "quantize", lambda model, how, device: asked.append((how, device)))
    row = gpu._row("tiny", "tiny", "fp8", CPU, 1e12, 1)
    assert row.seconds is not None and asked == [("fp8_dynamic", CPU)]


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit, match="device = cuda: is not on this machine"):
        gpu.main(["--ways", "sdpa"])
    with pytest.raises(SystemExit):
        gpu.main(["--ways", "fast"])
    assert "'fast' is none of auto, compiled" in capsys.readouterr().err


def test_where_nothing_was_measured_there_is_no_file(tmp_path):
    assert gpu.read(tmp_path / "none.json") is None


def test_the_commands_of_the_docstring_are_ones_that_it_takes(monkeypatch, tmp_path):
    settings = []
    monkeypatch.setattr(gpu, "RESULT", tmp_path / "none.json")
    monkeypatch.setattr(gpu, "run", lambda setting, *_: settings.append(setting) or gpu.Result("", {"torch": ""}, 0.0))
    for line in (line.strip() for line in gpu.__doc__.splitlines() if "-m benchmarks.gpu" in line):
        command = "PYTHONPATH=src python -m benchmarks.gpu "
        assert line.startswith(command)
        gpu.main([*shlex.split(line.removeprefix(command)), "--output", str(tmp_path / "none.json")])
    assert [(setting.models, setting.films, setting.repeats) for setting in settings] == [
        (("1.3b",), ("tiny",), 1),
        (("1.3b",), ("540p", "720p"), 2),
        (("14b",), ("540p",), 2),
        (("14b",), ("720p",), 1),
        (("14b",), ("720p",), 1),
        (("14b",), ("540p",), 1),
        (("1.3b",), ("540p", "720p"), 1),
    ]
    assert {"sdpa", *gpu.KERNELS} == {*settings[-1].ways}


def test_what_is_cheap_comes_first(measured):
    gpu.run(gpu.Setting(("14b", "1.3b"), ("720p", "540p"), ("auto", "24GB"), "cpu"))
    assert measured == [
        ("VAE", "540p", "VAE decoding"),
        ("VAE", "720p", "VAE decoding"),
        *((model, film, way) for model in ("1.3b", "14b") for film in ("540p", "720p") for way in ("auto", "24GB")),
    ]


def test_the_default_ways_are_no_kernel_twice():
    assert gpu.Setting().ways == ("auto", "compiled", "fp8", "diffusers", "24GB")


def test_calls_with_one_output_add_up(measured, tmp_path, capsys):
    output = tmp_path / "gpu.json"
    call = partial(
        gpu.main, ["--device", "cpu", "--output", str(output), "--size", "tiny", "--ways", "auto,fp8,compiled"]
    )
    earlier = gpu.Result("cpu", gpu.machine(), 3e12, [a_row("14b", "540p", "auto"), a_row("tiny", "tiny", "auto")])
    earlier.rows += [gpu.Row("tiny", "tiny", "fp8", why="once"), gpu.Row("tiny", "tiny", "compiled", why="once")]
    gpu.write(earlier, output)
    call()
    assert measured == [
        ("tiny VAE", "tiny", "VAE decoding"),
        ("tiny", "tiny", "fp8"),
        ("tiny", "tiny", "compiled"),
    ]
    result = gpu.read(output)
    assert result.peak == 3e12  # the shares that are there are of it
    assert [(*row.name, row.seconds, row.why) for row in result.rows] == [
        ("tiny VAE", "tiny", "VAE decoding", 2.0, ""),
        ("tiny", "tiny", "auto", 1.0, ""),
        ("tiny", "tiny", "compiled", 2.0, ""),
        ("tiny", "tiny", "fp8", None, "again"),
        ("14b", "540p", "auto", 1.0, ""),
    ]
    del measured[:]
    call()
    assert measured == [("tiny", "tiny", "fp8")]
    assert "tiny | tiny | compiled | was measured before" in capsys.readouterr().err


def test_the_tiny_vae_does_not_stand_for_the_real_one(measured):
    gpu.run(gpu.Setting(("1.3b",), ("tiny",), (), "cpu"), earlier=gpu.run(gpu.Setting(("tiny",), ("tiny",), (), "cpu")))
    assert measured == [("tiny VAE", "tiny", "VAE decoding"), ("VAE", "tiny", "VAE decoding")]


@pytest.mark.parametrize("field", ["device", "CPU", "cores", "torch"])
def test_rows_of_another_machine_are_refused(measured, tmp_path, field):
    output = tmp_path / "gpu.json"
    machine = gpu.machine()
    other = gpu.Result("cpu", machine, 1e12, [a_row("tiny", "tiny", "auto")])
    other = replace(other, device="H200") if field == "device" else replace(other, machine={**machine, field: "H200"})
    gpu.write(other, output)
    here = "cpu" if field == "device" else machine[field]
    with pytest.raises(SystemExit) as refused:
        gpu.main(["--device", "cpu", "--size", "tiny", "--output", str(output)])
    assert str(refused.value) == (
        f"benchmark: {field} = {here}: the rows in the output are of H200; nearest that works: another output"
    )
    assert measured == [] and gpu.read(output) == other


def test_what_else_was_installed_may_differ(measured):
    machine = {**gpu.machine(), "diffusers": "none", "threads": "none"}
    result = gpu.run(gpu.Setting(("tiny",), ("tiny",), (), "cpu"), earlier=gpu.Result("cpu", machine, 1e12))
    assert result.machine == gpu.machine()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rows": [{"speed": 1}]}'])
def test_an_output_that_is_something_else_is_not_written_over(tmp_path, text):
    output = tmp_path / "other.json"
    output.write_text(text)
    with pytest.raises(SystemExit, match=r"benchmark: output = .*other.json: is no file of this benchmark"):
        gpu.main(["--device", "cpu", "--size", "tiny", "--output", str(output)])
    assert output.read_text() == text


def test_24_gb_are_what_the_product_makes_of_them():
    from everreel.checkpoint.catalog import CATALOG
    from everreel.film.budget import place
    from everreel.film.loading import parse_memory
    from everreel.film.plan import make_plan
    from everreel.film.request import make_request

    assert parse_memory("24GB") == gpu.BUDGET
    for model, released in (("1.3b", "DF-1.3B-540P"), ("14b", "DF-14B-540P")):
        (card,) = (card for card in CATALOG if card.name == released)
        for film, (frames, height, width) in gpu.FILMS.items():
            size = {"num_frames": frames, "base_num_frames": frames, "height": height, "width": width}
            placement = place(make_plan(make_request(prompt="a film", **size), card), card, "cuda", gpu.BUDGET)
            found = placement.resident, placement.together
            assert (placement.quantization, found) == (None, gpu.PLACED.get((model, film), gpu.WHOLE))


@pytest.mark.parametrize("placed", [(0, False), (1, False), (1, True), (None, True)])
def test_a_model_in_host_memory_takes_the_same_step(placed):
    make = partial(gpu._ours, config=gpu.MODELS["tiny"], shape=gpu.LatentShape.from_pixels(*gpu.FILMS["tiny"]))
    with torch.no_grad():
        want = make("auto", (None, False), device=CPU)()
        found = make("24GB", placed, device=CPU)()
    torch.testing.assert_close(found, want, rtol=0.05, atol=0.05)  # bfloat16, in one batch or two


def test_24_gb_stream_blocks_under_a_cap(monkeypatch):
    taken, caps = [], []
    real = gpu.offload
    monkeypatch.setattr(gpu, "PLACED", {("tiny", "tiny"): (1, True)})
    monkeypatch.setattr(gpu, "offload", lambda model, *args: taken.append(args) or real(model, *args))
    monkeypatch.setattr(gpu, "_capped", lambda device, limit: caps.append(limit) or warnings.catch_warnings())
    rows = [gpu._row("tiny", "tiny", way, CPU, 1e12, 1) for way in ("24GB", "auto")]
    assert [row.why for row in rows] == ["", ""]
    assert taken == [(CPU, 1)] and caps == [24e9, float("inf")]


@pytest.mark.parametrize("placed", [{}, {"resident": 1, "parked": True, "text_on_host": True}])
def test_a_whole_film_is_made_under_the_cap_as_a_budget_places_it(monkeypatch, placed):
    from everreel.film import budget
    from everreel.film.decoding import FrameDecoder
    from everreel.film.placement import Placement
    from everreel.model.dit import DiT
    from everreel.model.text_encoder import TextEncoder

    budgets, caps, done, held = [], [], [], []
    real = gpu.short_film.__globals__["offload"]
    monkeypatch.setitem(gpu.short_film.__globals__, "offload", lambda *args: held.append(args[2]) or real(*args))

    def place(plan, card, device, limit, **_):
        budgets.append(limit)
        return Placement(device, torch.bfloat16, **placed)

    def watched(kind, name, what):
        usual = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, **more: done.append(what) or usual(*args, **more))

    monkeypatch.setattr(budget, "place", place)
    monkeypatch.setattr(gpu, "_capped", lambda device, limit: caps.append(limit) or warnings.catch_warnings())
    watched(TextEncoder, "forward", "text")
    watched(DiT, "forward", "step")
    watched(FrameDecoder, "__call__", "decoding")
    row = gpu._row("tiny", "tiny", "film-24GB", CPU, 1e12, 1)
    assert (row.why, row.share) == ("", None) and row.seconds > 0 and row.peak_bytes > 0
    assert (budgets, caps, held) == ([24e9], [24e9], [1] if placed else [])
    assert list(dict.fromkeys(done)) == ["text", "step", "decoding"]
    assert done.count("step") >= 4 and done[-1] == "decoding"  # twice two steps, of one row or of both
    assert gpu._row("tiny", "tiny", "film", CPU, 1e12, 1).why == ""
    assert (budgets[1:], caps[1:]) == ([None], [float("inf")])


def test_a_film_within_a_budget_is_compared_with_the_same_film_without():
    rows = [gpu.Row("14b", "540p", way, seconds, 1.0, 10**9) for way, seconds in (("film", 8.0), ("film-24GB", 10.0))]
    rows.append(gpu.Row("14b", "540p", "diffusers", 1.0, 1.0, 10**9))
    assert [gpu._cells(row, rows)[8:] for row in rows] == [("", ""), ("0.80×", ""), ("", "")]


def test_a_film_that_cannot_be_made_is_a_row(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("out of\nmemory")

    monkeypatch.setattr(gpu, "short_film", lambda *_: fail)
    assert gpu._row("tiny", "tiny", "film-24GB", CPU, 1e12, 1).why == "OutOfMemoryError: out of memory"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "everreel.film.pipeline", None)
    assert gpu._row("tiny", "tiny", "film", CPU, 1e12, 1).why.startswith("ModuleNotFoundError: ")


def test_a_cap_is_taken_back(monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=96 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: shares.append(args))
    with pytest.raises(torch.OutOfMemoryError), gpu._capped(GPU, 24e9):
        raise torch.OutOfMemoryError
    with gpu._capped(GPU, 200e9):
        pass
    assert shares == [(0.25, GPU), (1.0, GPU), (1.0, GPU), (1.0, GPU)]


def test_a_gpu_has_a_number_because_only_such_can_be_capped(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert [gpu._device(name).index for name in ("cuda", "cuda:1")] == [2, 1]


def test_peaks_are_of_the_step_and_not_of_making_its_model(monkeypatch):
    done = []
    memory = {"empty_cache": None, "reset_peak_memory_stats": None, "max_memory_allocated": 7, "max_memory_reserved": 9}
    for name, value in {**memory, "synchronize": None}.items():
        told = done.append if name in memory else lambda name: None
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, value=value, told=told: told(name) or value)
    row = gpu._timed(("a", "b", "c"), lambda: done.append("step") or torch.zeros(1), GPU, 1)
    assert done == [*list(memory)[:2], "step", "step", *list(memory)[2:]]
    assert (row.peak_bytes, row.reserved_bytes) == (7, 9)
    row = replace(row, peak_bytes=7 * 10**9, reserved_bytes=9 * 10**9)
    assert gpu._cells(row, [row])[5] == "7.0 GB, 9.0 GB reserved"


def test_a_compiled_model_does_not_depend_on_the_one_before(monkeypatch):
    import everreel.model.compile

    done = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    monkeypatch.setattr(everreel.model.compile, "compile_blocks", lambda model: done.append("compile"))
    assert gpu._row("tiny", "tiny", "compiled", CPU, 1e12, 1).why == ""
    assert done == ["reset", "compile"]


def test_a_kernel_that_failed_is_not_timed_under_its_name(monkeypatch):
    def run(*_):
        raise RuntimeError("too long")

    kernel = Checked("flash3", run, True)
    monkeypatch.setattr(gpu.Attention, "kernel", lambda *_: kernel)
    row = gpu._row("tiny", "tiny", "flash", CPU, 1e12, 1)
    assert row.seconds is None
    assert row.why.startswith("attention: flash3 raises RuntimeError: too long; torch's own is used")


def test_whatever_a_decoder_raises_is_a_row(monkeypatch):
    def fail(config):
        raise RuntimeError("first | line\n  second line\n")

    monkeypatch.setattr(gpu, "CausalVAE", fail)
    row = gpu._decoding("tiny VAE", "tiny", CPU, 1)
    assert (row.seconds, row.why) == (None, "RuntimeError: first / line second line")


def test_a_diffusers_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "diffusers.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    row = gpu._row("tiny", "tiny", "diffusers", CPU, 1e12, 1)
    assert row.why == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
