"""The commands for weights: what they write can be used, what they say is true, what goes wrong is one line."""

import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from everreel.checkpoint import download, hubs
from everreel.checkpoint.catalog import CATALOG
from everreel.film import estimate
from everreel.film.journal import read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.media import Video
from tests.checkpoint.hub import serving
from tests.checkpoint.test_download import DIFFUSERS, diffusers_files

FILM = ("a red fox", "--num-frames", 5, "--num-inference-steps", 1, "--guidance-scale", 1, "--dtype", "float32")


@pytest.fixture(autouse=True)
def nobodys_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one_line(said):
    code, out, err = said
    assert (code, out) == (2, "")
    assert err.startswith("everreel: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


def test_models_says_of_each_what_it_does_and_how_to_get_it(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    for card in CATALOG:
        assert re.search(rf"^{card.name} ", out, re.MULTILINE)
    assert "everreel download DF-14B-540P fetches it from Skywork/SkyReels-V2-DF-14B-540P-Diffusers" in out
    assert "download tiny" not in out


def at(monkeypatch, url):
    monkeypatch.setattr(download, "hub_of", lambda name, _: hubs.hub_of(name, url))


def test_a_model_is_downloaded_once_and_found_by_its_name(run, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERREEL_MODELS", str(tmp_path / "models"))
    name = "DF-14B-540P"
    with serving() as hub:
        at(monkeypatch, hub.url)
        hub.repositories[DIFFUSERS] = diffusers_files()
        code, out, _ = run("download", name)
        assert (code, out) == (0, f"{name} is in {tmp_path / 'models' / DIFFUSERS}\n")
        hub.asked.clear()
        assert run("download", name)[:2] == (code, out)
        assert hub.asked == []
    assert re.search(rf"^{name} +ready", run("models")[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DF-1.3B-54P"], "model = 'DF-1.3B-54P': must be one of DF-1.3B-540P, "),
        (["tiny"], "model = 'tiny': is inside the package"),
        (["DF-5B-540P"], "model = 'DF-5B-540P': was announced and never released; nearest that was: 'DF-14B-540P'"),
        (["DF-1.3B-540P", "--hub", "hf"], "hub = 'hf': must be one of huggingface, modelscope"),
        (["DF-1.3B-540P", "--layout", "gguf"], "layout = 'gguf': must be one of diffusers, official"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(run, arguments, message):
    assert one_line(run("download", *arguments)).startswith(f"everreel: {message}")


def test_without_a_network_a_download_is_one_line_and_leaves_nothing(run, monkeypatch, tmp_path):
    at(monkeypatch, "http://127.0.0.1:9")
    to = tmp_path / "new" / "model"
    assert "Hugging Face cannot be read now" in one_line(run("download", "DF-1.3B-540P", "--to", to))
    assert not to.parent.exists()


@pytest.mark.parametrize(
    ("to", "name"), [("official", "o"), ("diffusers", "d"), ("safetensors", "m.safetensors"), ("gguf", "m.gguf")]
)
def test_films_of_a_converted_model_are_the_same(run, tiny_folder, tmp_path, to, name):
    target = tmp_path / name
    code, out, _ = run("convert", tiny_folder, target, "--to", to)
    assert (code, out) == (0, f"wrote {target}\n")
    parts = ("--parts", tiny_folder) if target.is_file() else ()
    for film, model in (("a.mp4", (tiny_folder,)), ("b.mp4", (target, *parts))):
        assert run("generate", *FILM, "-o", tmp_path / film, "--model", *model)[0] == 0
    films = [np.stack(list(Video(tmp_path / film).frames)) for film in ("a.mp4", "b.mp4")]
    assert np.array_equal(*films)


def test_a_batch_of_a_single_file_takes_its_parts_from_elsewhere(run, tiny_folder, tmp_path):
    run("convert", tiny_folder, tmp_path / "m.gguf", "--to", "gguf", "--quantization", "q8_0")
    line = {"prompt": "a fox", "num_frames": 5, "num_inference_steps": 1, "guidance_scale": 1, "output": "a.mp4"}
    (tmp_path / "b.jsonl").write_text(json.dumps(line))
    model = ("--model", tmp_path / "m.gguf", "--parts", tiny_folder)
    code, _, err = run("batch", tmp_path / "b.jsonl", "-o", tmp_path / "films", *model)
    assert code == 0, err
    assert read_journal(tmp_path / "films" / "a.mp4").finished


def test_a_model_is_converted_by_its_name(run, tmp_path):
    target = tmp_path / "tiny.gguf"
    assert run("convert", "tiny", target, "--to", "gguf", "--quantization", "q4_0")[0] == 0
    assert target.read_bytes()[:4] == b"GGUF"
    assert "its weights are not on this machine" in one_line(
        run("convert", "DF-14B-540P", tmp_path / "14.gguf", "--to", "gguf")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--to", "gguff"], "to = 'gguff': must be one of official, diffusers, gguf, safetensors"),
        (["x", "--to", "safetensors"], r"target = '.*x': must end in \.safetensors; try x\.safetensors"),
        (["x.bin", "--to", "gguf"], r"target = '.*x\.bin': must end in \.gguf; try x\.bin\.gguf"),
        (["x.gguf", "--to", "gguf", "--quantization", "q3_0"], "quantization = 'q3_0': .*nearest 'q8_0'"),
        (["x", "--to", "official", "--quantization", "q8_0"], "quantization = 'q8_0': only GGUF is written quantised"),
        (["x", "--to", "official", "--dtype", "fp4"], "dtype = 'fp4': must be one of "),
        (["x", "--to", "official", "--kind", "i2v"], "kind = 'i2v': .* says 'df'"),
        ([".", "--to", "official"], "target = .*: is there already"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(run, tiny_folder, tmp_path, arguments, message):
    target, *options = arguments
    assert re.search(message, one_line(run("convert", tiny_folder, tmp_path / target, *options)))
    assert list(tmp_path.iterdir()) == []


def cut(folder, file):
    path = folder / file
    os.truncate(path, path.stat().st_size // 2)


def edit(folder, file, **fields):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop_a_tensor(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "proj_out.bias"}, file)


class Code:
    """What a pickle must never run."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


def add_code(folder):
    shutil.rmtree(folder / "vae")
    (folder / "Wan2.1_VAE.pth").write_bytes(pickle.dumps({"decoder": Code()}))


def lose_a_shard(folder):
    write_index(folder, {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "second.safetensors"}})


def write_index(folder, content):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(content))


DAMAGE = {
    "torn weights": (
        lambda at: cut(at, "transformer/diffusion_pytorch_model.safetensors"),
        r"transformer/diffusion_pytorch_model\.safetensors is torn: \d+ of \d+ bytes are there; download it again",
    ),
    "a torn VAE": (
        lambda at: cut(at, "vae/diffusion_pytorch_model.safetensors"),
        r"vae/diffusion_pytorch_model\.safetensors is torn",
    ),
    "a torn config": (lambda at: cut(at, "transformer/config.json"), r"transformer/config\.json cannot be read"),
    "a torn tokenizer": (lambda at: cut(at, "tokenizer/tokenizer.json"), r"tokenizer\.json cannot be read: .*download"),
    "a missing tensor": (drop_a_tensor, "tensor 'proj_out.bias' is missing in .*transformer"),
    "a missing shard": (lose_a_shard, r"second\.safetensors is missing: download it again"),
    "an index of nothing": (lambda at: write_index(at, {"metadata": {}}), r"index\.json: weight_map must name a file"),
    "an index that leads elsewhere": (
        lambda at: write_index(at, {"weight_map": {"a": "../../other.safetensors"}}),
        r"index\.json: weight_map must name a file beside it",
    ),
    "a config of other words": (
        lambda at: edit(at, "transformer/config.json", num_attention_heads="many"),
        r"transformer/config\.json: transformer: num_attention_heads = 'many': must be a whole number above 0",
    ),
    "a config without heads": (
        lambda at: edit(at, "transformer/config.json", num_attention_heads=0),
        r"transformer/config\.json: transformer: num_attention_heads = 0: must be a whole number above 0",
    ),
    "a text encoder's config of other words": (
        lambda at: edit(at, "text_encoder/config.json", num_layers=[2]),
        r"text_encoder/config\.json: text_encoder: num_layers = \[2\]: must be a whole number above 0",
    ),
    "a config of other shapes": (
        lambda at: edit(at, "transformer/config.json", ffn_dim=64),
        r"tensor '.*' in .*contradicts ffn_dim = 64 in .*config\.json: its tensors say 96",
    ),
    "code in a pickle": (add_code, r"Wan2\.1_VAE\.pth is a bare pickle, which could run code: take .* safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_that_is_not_as_it_must_be_is_one_line_everywhere(run, tiny_folder, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "model")
    do, message = DAMAGE[damage]
    do(tmp_path / "model")
    commands = [("generate", *FILM, "--model", "model"), ("convert", "model", "new", "--to", "official")]
    if "token" not in damage and "missing tensor" not in damage:  # a plan is made of sizes alone
        commands.append(("plan", *FILM, "--model", "model"))
    for command in commands:
        assert re.search(message, one_line(run(*command))), command
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("to", ["official", "gguf"])
def test_a_plan_counts_a_model_as_its_files_are(run, tiny_folder, tmp_path, to):
    """In every layout: a small model's VAE and text encoder were taken for the released ones' 12 GB."""
    target = tmp_path / f"m.{to}"
    run("convert", tiny_folder, target, "--to", to)
    said = run("plan", *FILM, "--model", tiny_folder)[1]
    parts = ("--parts", tiny_folder) if target.is_file() else ()
    memory = re.compile("memory: .*")
    assert memory.findall(run("plan", *FILM, "--model", target, *parts)[1]) == memory.findall(said) != []


def test_a_plan_says_what_longer_films_need_only_of_those(run, tiny_folder):
    size = ("--height", 32, "--width", 48, "--model", tiny_folder)
    assert "longer films" not in run("plan", "a fox", "--num-frames", 97, *size)[1]
    assert "no more for longer films" in run("plan", "a fox", "--num-frames", 400, *size)[1]


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("24", "memory = '24': is 24 bytes, too little for anything; 24GB works"),
        ("300MB", r"memory = 0\.3 GB: .* needs at least \d\.\d\d GB for 160x96; give more, or take a smaller model"),
    ],
)
def test_a_budget_for_nothing_is_one_line(run, memory, message):
    assert re.search(message, one_line(run("plan", "a fox", "--memory", memory)))


def test_the_least_budget_that_is_named_works(run):
    line = one_line(run("plan", "a fox", "--memory", "300MB"))
    least = re.search(r"at least (\S+) GB", line)[1]
    assert run("plan", "a fox", "--memory", f"{least}GB")[0] == 0


def test_a_kernel_that_is_not_there_is_one_line_and_the_film_is_made(run, tiny_folder, tmp_path):
    code, _, err = run("generate", *FILM, "--model", tiny_folder, "-o", tmp_path / "a.mp4", "--attention", "flash")
    assert code == 0
    assert "everreel: attention = 'flash': " in err and "Warning" not in err and str(Path(estimate.__file__)) not in err


def test_calibrated_plans_say_so(run, tiny_folder, monkeypatch):
    monkeypatch.setattr(estimate, "CALIBRATED_SIZE", (4, 6))
    assert "loading not counted" in run("plan", *FILM, "--model", tiny_folder)[1]
    code, out, _ = run("calibrate", "--model", tiny_folder, "--dtype", "float32")
    assert code == 0
    assert re.fullmatch(r"[\d.e+]+ GFLOP/s in the transformer, [\d.e+-]+ million pixels decoded a second\n", out)
    assert "as measured here" in run("plan", *FILM, "--model", tiny_folder)[1]


@pytest.mark.parametrize("way", [("--memory", "1GB"), ("--quantization", "int8"), ("--quantization", "fp8")])
def test_a_plan_that_needs_less_memory_is_calibrated_too(run, tiny_folder, monkeypatch, way):
    """A calibration of one way is none of another."""
    monkeypatch.setattr(estimate, "CALIBRATED_SIZE", (4, 6))
    film = ("plan", *FILM, "--model", tiny_folder)
    code, out, err = run("calibrate", "--model", tiny_folder, "--dtype", "float32", *way)
    assert code == 0 and "GFLOP/s in the transformer" in out.splitlines()[-1], err
    assert "as measured here" in run(*film, *way)[1]
    assert ("as measured here" in run(*film)[1]) == (way[0] == "--memory")
    assert "loading not counted" in run(*film, "--quantization", "q4_0")[1]


def test_a_file_that_is_quantised_is_not_as_fast_as_the_folder_it_was_made_of(run, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "CALIBRATED_SIZE", (4, 6))
    ways = [("--model", "tiny")]
    for name in ("q8_0", "q4_0"):
        file = tmp_path / name / "tiny.gguf"
        file.parent.mkdir()
        run("convert", "tiny", file, "--to", "gguf", "--quantization", name)
        ways.append(("--model", file, "--parts", CATALOG[0].path))
    for way in ways:
        assert "loading not counted" in run("plan", *FILM, *way)[1]
        assert run("calibrate", *way, "--dtype", "float32")[0] == 0
        assert "as measured here" in run("plan", *FILM, *way)[1]


@pytest.mark.parametrize("name", ["tiny_folder", "i2v_folder"])
def test_what_a_quantisation_costs_is_said_block_by_block(run, request, name):
    folder = request.getfixturevalue(name)
    code, out, err = run("calibrate", "--model", folder, "--dtype", "float32", "--quantization", "int8")
    assert code == 0, err
    *blocks, summary, _ = out.splitlines()
    errors = [float(re.fullmatch(r"block +\d+: (.*) %", line)[1]) for line in blocks]
    assert code == 0 and len(errors) > 1 and 0 < min(errors) <= max(errors) < 5
    assert summary.endswith(f"{max(errors):.2f} % in the worst block")


def test_what_is_measured_against_the_exact_model_needs_it(run, tiny_folder, monkeypatch):
    load = VideoPipeline.load

    def small(options, *more):
        pipe = load(options, *more)
        pipe.placement = replace(pipe.placement, quantization="int8")
        return pipe

    monkeypatch.setattr(VideoPipeline, "load", small)
    said = one_line(run("calibrate", "--model", tiny_folder, "--quantization", "int8"))
    assert "the exact model, which it is measured against, does not fit" in said
