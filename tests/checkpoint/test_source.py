"""What a path holds: told by tensors, kinds by what a publisher wrote, and every bad folder refused in one line."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from everreel.checkpoint import configs, contents, load
from everreel.checkpoint.contents import Content, Shards, recognise
from everreel.checkpoint.gguf import write_gguf
from everreel.checkpoint.source import find_source
from everreel.checkpoint.tensors import TensorInfo, describe
from everreel.model.dit import DiT

KEYS = Path(__file__).parents[1] / "golden" / "checkpoint-keys"
PARTS = ("vae", "text_encoder", "image_encoder")


def refused(path, *words, **options):
    with pytest.raises(ValueError) as caught:
        find_source(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def assert_same(module, expected):
    state, wanted = module.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def assert_all_load(source, small, name):
    """Every part of a source, equal to the bit to what was written."""
    assert source.config == getattr(small, name).config
    assert_same(load.load_transformer(source, dtype=torch.bfloat16), getattr(small, name))
    for part in PARTS[: 3 if name == "i2v" else 2]:
        loaded = getattr(load, f"load_{part}")(source, dtype=torch.bfloat16)
        assert loaded.config == getattr(small, part).config
        assert_same(loaded, getattr(small, part))
    assert load.load_tokenizer(source)(["a red fox"]).ids.tolist() == small.tokenizer(["a red fox"]).ids.tolist()
    assert source.missing == ()


def as_gguf(file, module, metadata=()):
    tensors = {name: (describe(tensor), lambda t=tensor: t) for name, tensor in module.state_dict().items()}
    assert len(list(write_gguf(file, tensors, dict(metadata)))) == len(tensors)


@pytest.mark.parametrize("name", ["df", "t2v", "i2v"])
def test_the_released_folder(official, small, name):
    source = find_source(official(name))
    assert source.layout == "official"
    # Equal names and shapes: a T2V model's folder does not say what it is, and is not guessed from its name.
    assert source.kind == {"df": "df", "t2v": None, "i2v": "i2v"}[name]
    assert_all_load(source, small, name)


@pytest.mark.parametrize("name", ["df", "i2v"])
def test_the_folder_of_diffusers(diffusers_folder, small, name):
    folder = diffusers_folder(name)
    for path in (folder, folder / "transformer", folder / "transformer" / "diffusion_pytorch_model.safetensors"):
        source = find_source(path)
        assert (source.layout, source.kind) == ("diffusers", name)
    assert_all_load(source, small, name)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("name", ["t2v", "i2v"])
def test_files_of_comfyui(comfy, small, name, prefix):
    source = find_source(comfy(name, prefix))
    assert (source.layout, source.kind) == ("single", {"t2v": None, "i2v": "i2v"}[name])
    assert_all_load(source, small, name)
    assert source.text_encoder.open().strays == ("scaled_fp8", "spiece_model")


def test_strays_are_named(comfy, official, small):
    """Those of a file of one's own, and of the many that the released CLIP has the first."""
    file = comfy("i2v")
    name = "model_type.SkyReels-V2-I2V-14B-540P"
    save_file(small.i2v.state_dict() | {name: torch.zeros(1)}, file)
    transformer, text, image = find_source(file).strays
    assert transformer == f"{file}: left out, as none of the transformer's: {name}"
    assert text.endswith("umt5_xxl_fp16.safetensors: left out, as none of the text encoder's: scaled_fp8, spiece_model")
    assert image.endswith("image encoder's: visual_projection.weight")
    folder = official("i2v")
    assert find_source(folder).strays == []
    clip = next(folder.glob("models_clip_*.pth"))
    torch.save(torch.load(clip) | {f"textual.{number}": torch.zeros(1) for number in range(99)}, clip)
    assert find_source(folder).strays[0].endswith("textual.15 and 91 more")


def test_a_file_with_diffusers_names(comfy, small):
    file = comfy()
    save_file(load.keymap.transformer_to_diffusers(small.t2v.state_dict()), file)
    assert_all_load(find_source(file), small, "t2v")


def test_a_gguf_file(comfy, small):
    file = comfy()
    file.unlink()
    as_gguf(file.with_suffix(".gguf"), small.t2v)
    assert_all_load(find_source(file.with_suffix(".gguf")), small, "t2v")
    assert_all_load(find_source(file.parent), small, "t2v")


def test_a_folder_of_single_files(comfy, small, tmp_path):
    models = comfy().parent.parent
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(models.rglob("*.safetensors")):
        file.rename(flat / f"{number} wan.safetensors")
    (models / "text_encoders" / "umt5-xxl").rename(flat / "tokenizer")
    assert_all_load(find_source(flat), small, "t2v")


def test_parts_given_apart(comfy, small, official, tmp_path):
    parts = official()
    alone = comfy().rename(tmp_path / "alone.safetensors")
    source = find_source(alone)
    assert source.vae is None and len(source.missing) == 3
    with pytest.raises(ValueError, match=r"alone.*its VAE \(wan_2\.1_vae.*is missing.*give the folder.*as parts"):
        load.load_vae(source)
    with pytest.raises(ValueError, match=r"tokenizer\.json of its tokenizer.*is missing"):
        load.load_tokenizer(source)
    assert_all_load(find_source(alone, parts=parts), small, "t2v")
    assert_all_load(find_source(alone, parts=tmp_path / "ComfyUI" / "models"), small, "t2v")
    refused(alone, "parts = ", "must be a folder", parts=tmp_path / "none")


def test_the_most_precise_of_several_is_taken(comfy, small):
    file = comfy()
    text = file.parent.parent / "text_encoders" / "umt5_xxl_fp16.safetensors"
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(text).items() if tensor.ndim == 2}
    rest = {name: tensor for name, tensor in load_file(text).items() if tensor.ndim != 2}
    save_file(state | rest, text.with_name("umt5_xxl_fp8_e4m3fn.safetensors"))
    # Another T5 of another width is none of this model's.
    other = {name: torch.zeros(*tensor.shape[:-1], 48) for name, tensor in load_file(text).items() if tensor.ndim == 2}
    save_file(other, text.with_name("umt5_base.safetensors"))
    assert find_source(file).text_encoder.paths == (text,)


def test_another_models_vae_with_equal_tensors(comfy):
    file = comfy()
    vae = file.parent.parent / "vae" / "wan_2.1_vae.safetensors"
    (vae.with_name("qwen_image_vae.safetensors")).write_bytes(vae.read_bytes())
    assert find_source(file).vae.paths == (vae,)
    vae.rename(vae.with_name("a.safetensors"))
    with pytest.raises(ValueError, match=r"two models, a\.safetensors and qwen_image_vae\.safetensors for the VAE"):
        _ = find_source(file).vae


@pytest.mark.parametrize("shards", ["numbered", "index"])
def test_shards(official, small, shards):
    folder = official("df")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
    if shards == "index":
        files = ["one.safetensors", "two.safetensors"]
        held = {name: files[number % 2] for number, name in enumerate(names)}
        (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": held}))
    for number, file in enumerate(files):
        save_file({name: state[name] for name in names[number::2]}, folder / file)
    for path in (folder, folder / files[1]):
        assert_all_load(find_source(path), small, "df")
    (folder / files[0]).unlink()
    for path in (folder, folder / files[1]):
        refused(path, files[0], "is missing", "download it again")


def test_what_a_model_is_for_comes_from_its_publisher__released_defect_38(official, comfy, small, tmp_path):
    folder = official("t2v", "SkyReels-V2-T2V-14B-540P")
    assert find_source(folder).kind is None
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"_name_or_path": "Skywork/SkyReels-V2-DF-14B-720P"}))
    source = find_source(folder)
    assert (source.kind, source.name) == ("df", "SkyReels-V2-DF-14B-720P")
    file, state = comfy(), small.t2v.state_dict()
    for metadata, kind in (
        ({"everreel.kind": "t2v"}, "t2v"),
        ({"modelspec.title": "SkyReels-V2-T2V-14B-540P fp8"}, "t2v"),
        ({"comment": "like SkyReels-V2-DF-14B-540P, but better"}, None),
        ({"everreel.kind": "else"}, None),
    ):
        save_file(state, file, metadata=metadata)
        assert find_source(file).kind == kind
    save_file(state | {"model_type.SkyReels-V2-T2V-14B-540P": torch.zeros(1)}, file)
    source = find_source(file)
    assert source.kind == "t2v" and source.transformer.open().strays == ("model_type.SkyReels-V2-T2V-14B-540P",)
    assert_all_load(source, small, "t2v")
    as_gguf(tmp_path / "x.gguf", small.t2v, {"general.name": "SkyReels-V2-DF-14B-540P"})
    assert find_source(tmp_path / "x.gguf").kind == "df"


@pytest.mark.parametrize(
    "class_name,kind",
    [
        ("SkyReelsV2Pipeline", "t2v"),
        ("SkyReelsV2DiffusionForcingVideoToVideoPipeline", "df"),
        ("WanPipeline", None),
    ],
)
def test_the_class_of_a_diffusers_folder_says_its_kind(diffusers_folder, class_name, kind):
    folder = diffusers_folder("t2v")
    (folder / "model_index.json").write_text(json.dumps(configs.MODEL_INDEX | {"_class_name": class_name}))
    assert find_source(folder).kind == kind


def test_the_image_branch_outranks_a_class(diffusers_folder):
    for name, class_name in (("i2v", "SkyReelsV2DiffusionForcingPipeline"), ("t2v", "SkyReelsV2ImageToVideoPipeline")):
        folder = diffusers_folder(name, name)
        (folder / "model_index.json").write_text(json.dumps(configs.MODEL_INDEX | {"_class_name": class_name}))
    assert find_source(folder.parent / "i2v").kind == "i2v"
    refused(folder, "kind = 'i2v'", "has no image branch", "must be df or t2v")


def test_a_folder_with_two_models_is_refused(official, comfy):
    folder = official()
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    refused(folder, "two models", "model.safetensors", "other.safetensors", "give the file of one")
    assert find_source(folder / "other.safetensors").layout == "official"
    file = comfy()
    file.with_name("b.safetensors").write_bytes(file.read_bytes())
    refused(file.parent, "b.safetensors and film.safetensors")


@pytest.mark.parametrize("where", ["beside.safetensors", "transformer/another.safetensors"])
def test_a_diffusers_folder_with_another_model_is_refused(diffusers_folder, official, where):
    folder = diffusers_folder("t2v")
    for same in ("diffusion_pytorch_model.fp16.safetensors", "notes.txt"):
        (folder / "transformer" / same).write_bytes(b"no other model")
    assert find_source(folder).layout == "diffusers"
    (folder / where).write_bytes((official() / "model.safetensors").read_bytes())
    refused(folder, "two models, transformer and", Path(where).name, "give the path of one")
    assert find_source(folder / "transformer").path == folder, "it was chosen"


def test_a_narrow_models_heads_are_not_guessed(small, tmp_path):
    model = DiT(replace(small.t2v.config, dim=256, num_heads=4))
    save_file(model.state_dict(), tmp_path / "narrow.safetensors")
    refused(tmp_path / "narrow.safetensors", "dim = 256 has heads that shapes do not tell", "its config.json beside")


@pytest.mark.parametrize(
    "field,value,tensor",
    [
        ("num_layers", 1, "'blocks.1."),
        ("num_layers", 3, "'blocks.2.' is missing"),
        ("ffn_dim", 96, "'blocks.0.ffn.0.weight'"),
        ("in_dim", 36, "'patch_embedding.weight'"),
        ("dim", 256, "'patch_embedding.weight'"),
        ("inject_sample_info", True, "'fps_embedding.weight' is missing"),
        ("model_type", "i2v", "'img_emb.proj.1.weight' is missing"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(official, field, value, tensor):
    folder = official("t2v")
    fields = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(fields | ({"num_heads": 2} if field == "dim" else {})))
    shown = {"model_type": "image_dim"}.get(field, field)
    refused(folder, tensor, f"{shown} = ", "config.json", "official")


def test_a_config_of_diffusers_that_contradicts_is_refused(diffusers_folder):
    folder = diffusers_folder("i2v")
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_dim": None, "added_kv_proj_dim": None}))
    refused(folder, "'condition_embedder.image_embedder.ff.net.0.proj.weight'", "contradicts image_dim = None")


def test_what_is_no_model_is_refused(tmp_path, comfy, small):
    refused(tmp_path / "none", "no such file or folder")
    refused(tmp_path, "config.json is missing")
    vae = comfy().parent.parent / "vae" / "wan_2.1_vae.safetensors"
    refused(vae, "holds the vae of a model", "give the file of the transformer")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "holds no transformer of this model")
    state = small.t2v.state_dict()
    half = {name: tensor[:48].contiguous() if tensor.ndim == 1 else tensor for name, tensor in state.items()}
    half["patch_embedding.weight"] = state["patch_embedding.weight"][:48].contiguous()
    save_file(half, tmp_path / "odd.safetensors")
    refused(tmp_path / "odd.safetensors", "dim = 48", "put its config.json beside it")


def test_a_gguf_of_another_model_is_refused(tmp_path):
    writer = GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(4, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for path in (tmp_path, tmp_path / "llama.gguf"):
        refused(path, "llama.gguf is a GGUF of another model (llama)", "Wan2.1 or SkyReels-V2")


def test_a_torn_file_is_named_before_anything_else(official):
    folder = official()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    refused(folder, "model.safetensors is torn", f"{len(whole) - 10} of {len(whole)} bytes", "download it again")
    (folder / "model.safetensors").write_bytes(whole)
    vae = folder / "Wan2.1_VAE.pth"
    vae.write_bytes(vae.read_bytes()[:-10])
    source = find_source(folder)
    with pytest.raises(ValueError, match=r"Wan2\.1_VAE\.pth is torn: download it again"):
        load.load_vae(source)
    assert load.load_text_encoder(source) is not None


@pytest.mark.parametrize("name", ["DF-1.3B", "14B-t2v", "14B-i2v", "1.3B-i2v"])
def test_the_released_tensor_lists_tell_their_configs(name, monkeypatch):
    """Names and shapes of the released files, official and diffusers: dims, layers, heads, branches."""
    large = "14B" in name
    for layout in ("official", "diffusers"):
        shapes = json.loads((KEYS / f"{layout}-{name}.json").read_text())
        content = recognise(shapes)
        assert content == Content("transformer", layout)
        config = contents.transformer_config(listed(shapes, content, monkeypatch))
        assert (config.dim, config.ffn_dim, config.num_heads, config.num_layers) == (
            (5120, 13824, 40, 40) if large else (1536, 8960, 12, 30)
        )
        assert (config.in_dim, config.image_dim) == ((36, 1280) if "i2v" in name else (16, None))
        assert config.inject_sample_info == (name == "DF-1.3B")
        assert (config.out_dim, config.text_dim, config.freq_dim) == (16, 4096, 256)


def test_the_released_lists_of_the_parts_tell_their_configs(monkeypatch):
    for name, read, expected in (
        ("official-vae", contents.vae_config, configs.released_vae_config()),
        ("official-umt5-xxl", contents.text_config, contents.TextEncoderConfig()),
        ("official-clip-visual", contents.image_config, contents.ImageEncoderConfig()),
    ):
        shapes = json.loads((KEYS / f"{name}.json").read_text())
        assert read(listed(shapes, recognise(shapes), monkeypatch)) == expected


def listed(shapes, content, monkeypatch):
    """Shards of a list, without a file."""
    tensors = {name: TensorInfo(tuple(shape), "bfloat16", 0) for name, shape in shapes.items()}
    file = SimpleNamespace(path=Path("listed"), metadata={}, strays=(), tensors=tensors)
    monkeypatch.setattr(contents, "open_tensors", lambda path: file)
    return Shards([Path("listed")], content)
