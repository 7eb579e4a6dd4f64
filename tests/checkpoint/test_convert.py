"""Conversions: every layout into every other and back to the bit, and nothing half-written whatever happens."""

import errno
import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint import convert as conversion
from everreel.checkpoint import load
from everreel.checkpoint.convert import convert
from everreel.checkpoint.source import find_source
from everreel.checkpoint.tensors import open_tensors

PARTS = ("transformer", "vae", "text_encoder", "image_encoder")


def assert_same_tensors(model, small, name):
    """The transformer and all that goes with it, to the bit."""
    source = find_source(model)
    for part in PARTS[: 4 if name == "i2v" else 3]:
        loaded = getattr(load, f"load_{part}")(source, dtype=torch.bfloat16)
        written = getattr(small, name if part == "transformer" else part)
        assert loaded.config == written.config
        state = written.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    assert load.load_tokenizer(source)(["a fox"]).ids.tolist() == small.tokenizer(["a fox"]).ids.tolist()
    return source


@pytest.mark.parametrize("name", ["df", "i2v"])
def test_there_and_back(official, small, tmp_path, name):
    """official → diffusers → official → diffusers: tensors, types and configs; the files are the same bytes."""
    folder = official(name)
    convert(folder, tmp_path / "a", to="diffusers")
    convert(tmp_path / "a", tmp_path / "b", to="official")
    convert(tmp_path / "b", tmp_path / "c", to="diffusers")
    for model in ("a", "b", "c"):
        assert assert_same_tensors(tmp_path / model, small, name).kind == name
    for file in (tmp_path / "a").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "c" / file.relative_to(tmp_path / "a")).read_bytes()
    before, after = (load_file(model / "model.safetensors") for model in (folder, tmp_path / "b"))
    assert before.keys() == after.keys()
    assert all(after[key].dtype == before[key].dtype and torch.equal(after[key], before[key]) for key in before)
    for file in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        # A tensor that shares the storage of a whole file would be saved with all of it.
        assert (tmp_path / "b" / file).stat().st_size < 1.1 * (folder / file).stat().st_size
        assert open_tensors(tmp_path / "b" / file).tensors == open_tensors(folder / file).tensors


@pytest.mark.parametrize("to", ["safetensors", "gguf"])
@pytest.mark.parametrize("name", ["df", "i2v"])
def test_single_files_there_and_back(official, small, tmp_path, to, name):
    folder = official(name)
    seen = []
    convert(folder, tmp_path / "x", to=to, on_progress=lambda done, total: seen.append((done, total)))
    count = len(getattr(small, name).state_dict())
    assert seen == [(done, count) for done in range(1, count + 1)]
    source = find_source(tmp_path / "x", parts=folder)
    assert (source.layout, source.kind, source.config) == ("single", name, getattr(small, name).config)
    convert(source, tmp_path / "back", to="diffusers")
    assert_same_tensors(tmp_path / "back", small, name)


def test_heads_of_any_width_are_written_down(tiny_folder, tmp_path):
    """Shapes do not tell them: a config stands in the metadata, and what official folders cannot say beside them."""
    before = find_source(tiny_folder)
    for to in ("safetensors", "gguf", "official"):
        convert(tiny_folder, tmp_path / to, to=to)
        source = find_source(tmp_path / to, parts=tiny_folder)
        assert (source.config, source.kind) == (before.config, "df")
    official = find_source(tmp_path / "official")
    for role in ("vae", "text_encoder"):
        assert getattr(official, role).config == getattr(before, role).config


@torch.no_grad()
@pytest.mark.parametrize("to", ["official", "diffusers", "safetensors", "gguf"])
def test_every_format_computes_the_same(official, small, tmp_path, to):
    """To the bit, in the type of the files, where weights are computed with as they lie in the file."""
    convert(official("t2v"), tmp_path / "x", to=to, kind="t2v")
    module = load.load_transformer(tmp_path / "x", dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    text, noise = (torch.randn(shape, generator=generator) for shape in ((1, 7, 24), (1, 16, 2, 4, 6)))

    def velocity(dit):
        return dit(noise, torch.tensor([[500.0, 700.0]]), dit.encode_context(text.bfloat16(), [7]))

    assert torch.equal(velocity(module), velocity(small.t2v))


@pytest.mark.parametrize("quantization,error", [("q8_0", 0.006), ("q4_0", 0.1)])
def test_a_quantised_file(official, small, tmp_path, quantization, error):
    folder = official("df")
    convert(folder, tmp_path / "x.gguf", to="gguf", quantization=quantization)
    assert (tmp_path / "x.gguf").stat().st_size < 0.8 * (folder / "model.safetensors").stat().st_size
    state = load.load_transformer(tmp_path / "x.gguf").state_dict()
    for name, tensor in small.df.state_dict().items():
        off = (state[name] - tensor).norm() / tensor.float().norm()
        assert off < error and (off > 0 or tensor.ndim != 2 or "blocks" not in name)
    # What was quantised is written in bfloat16, its own type gone.
    convert(find_source(tmp_path / "x.gguf", parts=folder), tmp_path / "y", to="safetensors")
    assert {info.dtype for info in open_tensors(tmp_path / "y").tensors.values()} == {"bfloat16"}


def test_another_type(official, tmp_path):
    convert(official(), tmp_path / "x", to="official", dtype=torch.float16)
    for file in ("model.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        assert {info.dtype for info in open_tensors(tmp_path / "x" / file).tensors.values()} == {"float16"}


def test_scaled_fp8_is_multiplied_out(comfy, small, tmp_path):
    file = comfy()
    name = "model.diffusion_model.blocks.0.ffn.0.weight"
    state = load_file(file)
    state[name] = state[name].to(torch.float8_e4m3fn)
    expected = (state[name].float() * 0.5).bfloat16()
    save_file(state | {name.replace("weight", "scale_weight"): torch.tensor(0.5)}, file)
    convert(file, tmp_path / "x", to="official")
    assert torch.equal(load_file(tmp_path / "x" / "model.safetensors")["blocks.0.ffn.0.weight"], expected)


@pytest.mark.parametrize(
    "name,kind,class_name",
    [
        ("t2v", "t2v", "SkyReelsV2Pipeline"),
        ("t2v", "df", "SkyReelsV2DiffusionForcingPipeline"),
        ("i2v", None, "SkyReelsV2ImageToVideoPipeline"),
    ],
)
def test_diffusers_loads_the_folder(official, tmp_path, name, kind, class_name):
    convert(official(name), tmp_path / "x", to="diffusers", kind=kind)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "x")
    assert type(pipeline).__name__ == class_name
    assert pipeline.scheduler.config.flow_shift == (5.0 if name == "i2v" else 8.0)


def test_kinds_are_asked_for_and_not_guessed(official, tmp_path):
    folder = official("t2v", "SkyReels-V2-DF-14B-540P")
    for kind, options, words in (
        (None, {"to": "diffusers"}, "does not say what it was trained for.*give df or t2v"),
        ("i2v", {"to": "official"}, "has no image branch; must be df or t2v"),
        ("vace", {"to": "official"}, "must be one of df, t2v, i2v"),
    ):
        with pytest.raises(ValueError, match=words):
            convert(folder, tmp_path / "x", kind=kind, **options)
    convert(folder, tmp_path / "x", to="official")
    assert "kind" not in json.loads((tmp_path / "x" / "everreel.json").read_text())
    convert(folder, tmp_path / "y", to="official", kind="t2v")
    assert find_source(tmp_path / "y").kind == "t2v"
    with pytest.raises(ValueError, match="says 't2v'"):
        convert(tmp_path / "y", tmp_path / "z", to="gguf", kind="df")


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("to", conversion.TARGETS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_is_there_is_kept(official, small, tmp_path, to, overwrite):
    folder, target = official("df"), tmp_path / "x"
    target.mkdir()
    (target / "precious").write_text("mine")
    if not overwrite:
        with pytest.raises(ValueError, match=r"target = .*is there already"):
            convert(folder, target, to=to)
        assert (target / "precious").read_text() == "mine"
        return
    convert(folder, target, to=to, overwrite=True)
    assert not (target / "precious").exists()
    assert find_source(target, parts=folder).config == small.df.config
    assert {path.name for path in tmp_path.iterdir()} == {"official", "x"}


def test_the_source_is_no_target(official):
    folder = official()
    for target in (folder, folder / "model.safetensors", folder.parent):
        with pytest.raises(ValueError, match="holds the source"):
            convert(folder / "model.safetensors", target, to="safetensors", overwrite=True)


@pytest.mark.parametrize("to", conversion.TARGETS)
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(official, tmp_path, monkeypatch, to, failure):
    folder = official("df")
    before = files_under(tmp_path)

    def fail(done, total):
        if done == 5:
            raise failure

    expected = ValueError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        convert(folder, tmp_path / "new" / "deep" / "x", to=to, on_progress=fail)
    assert files_under(tmp_path) == before
    if expected is ValueError:
        assert "the disk is full; nothing of it was kept" in str(caught.value)


def test_a_disk_that_is_full_in_truth(official, small):
    """/dev/full takes nothing; every writer's own words for that become ours."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    folder = official("df")
    source = find_source(folder)
    job = conversion._Job(source, "df", None, None)
    for write in (
        lambda: job.single(full, "safetensors", None),
        lambda: job.single(full, "gguf", "q8_0"),
        lambda: conversion._save_pickle(small.vae.state_dict(), full),
    ):
        with pytest.raises(ValueError, match="nothing of it was kept"), conversion._whole(folder / "x"):
            write()


def test_a_torn_source_leaves_nothing(official, tmp_path):
    folder = official("df")
    vae = folder / "Wan2.1_VAE.pth"
    vae.write_bytes(vae.read_bytes()[:-100])
    before = files_under(tmp_path)
    with pytest.raises(ValueError, match=r"Wan2\.1_VAE\.pth is torn"):
        convert(folder, tmp_path / "x", to="diffusers")
    vae.unlink()
    with pytest.raises(ValueError, match=r"its VAE .*is missing; put it beside the model"):
        convert(folder, tmp_path / "x", to="diffusers")
    assert files_under(tmp_path) == [name for name in before if "VAE" not in name]


@pytest.mark.parametrize(
    "options,words",
    [
        ({"to": "onnx"}, "to = 'onnx': must be one of official"),
        ({"to": "official", "quantization": "q8_0"}, "only GGUF is written quantised"),
        ({"to": "gguf", "quantization": "q4_k_m"}, "K types can be read.*nearest 'q8_0'"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        convert(tmp_path / "nothing", tmp_path / "x", **options)
