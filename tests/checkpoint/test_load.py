"""Loading and saving: law 7 against diffusers, and strictness: an error names the tensor or field."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import diffusers
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint import configs, gguf, keymap, load
from everreel.checkpoint.convert import convert
from everreel.checkpoint.tensors import describe
from everreel.model import packed
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE

TRANSFORMER = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, text_dim=32, freq_dim=32, inject_sample_info=True
)
VAE = VAEConfig(
    base_dim=4,
    decoder_base_dim=8,
    num_res_blocks=1,
    latents_mean=tuple(i / 8 for i in range(16)),
    latents_std=tuple(1 + i / 8 for i in range(16)),
)
TEXT = TextEncoderConfig(vocab_size=8, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=2)
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "runs", "right"]
TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.5)
    return module.eval()


def word_tokenizer():
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens(WORDS[:3])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def networks():
    return {
        "transformer": randomise(DiT(TRANSFORMER), 1),
        "vae": randomise(CausalVAE(VAE), 2),
        "text_encoder": randomise(TextEncoder(TEXT), 3),
        "tokenizer": word_tokenizer(),
    }


@pytest.fixture(scope="module")
def folder(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    load.save_diffusers(folder, **networks, shift=5.0, dtype=torch.float32)
    return folder


@pytest.fixture
def copy(networks, tmp_path):
    load.save_diffusers(tmp_path / "model", **networks, dtype=torch.float32)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pipeline(folder):
    return diffusers.SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder)


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_what_was_saved_is_what_is_loaded(networks, folder):
    for name, loader in (
        ("transformer", load.load_transformer),
        ("vae", load.load_vae),
        ("text_encoder", load.load_text_encoder),
    ):
        loaded = loader(folder)
        assert loaded.config == networks[name].config
        assert not loaded.training
        state, expected = loaded.state_dict(), networks[name].state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert load.load_tokenizer(folder)(["a red fox"]).ids[0, :5].tolist() == [3, 4, 5, 1, 0]


def test_the_token_embedding_stays_one_tensor(folder):
    model = load.load_text_encoder(folder).model
    assert model.shared.weight is model.encoder.embed_tokens.weight


@torch.no_grad()
def test_diffusers_loads_it_unchanged(networks, pipeline):
    """Law 7: transformer, VAE and text agree within 1e-4."""
    generator = torch.Generator().manual_seed(4)
    words = ["a red fox runs right", "a fox"]
    tokens = networks["tokenizer"](words)
    text = networks["text_encoder"](tokens.ids, tokens.mask)
    theirs = pipeline._get_t5_prompt_embeds(words, max_sequence_length=512)
    assert relative_error(text, theirs) < 1e-4

    video = torch.rand(1, 3, 9, 16, 32, generator=generator) * 2 - 1
    vae, shape = networks["vae"], (1, -1, 1, 1, 1)
    latents = vae.encode(video)
    mean = pipeline.vae.encode(video).latent_dist.mean
    means, stds = (torch.tensor(values).view(shape) for values in (VAE.latents_mean, VAE.latents_std))
    assert relative_error(latents, (mean - means) / stds) < 1e-4
    decoded = pipeline.vae.decode(latents * stds + means).sample.clamp(-1, 1)
    assert relative_error(vae.decode(latents), decoded) < 1e-4

    noise = torch.randn(2, 16, 3, 4, 6, generator=generator)
    timestep = torch.tensor([[0.0, 250.0, 999.0], [500.0, 500.0, 600.0]])
    fps = torch.tensor([0, 1])
    context = networks["transformer"].encode_context(text, tokens.mask.sum(1).tolist())
    ours = networks["transformer"](noise, timestep, context, fps_B=fps)
    for row in (slice(0, 1), slice(1, 2)):  # with frame rates, diffusers takes one film at a time
        theirs = pipeline.transformer(
            noise[row],
            timestep[row],
            text[row],
            fps=fps[row],
            enable_diffusion_forcing=True,
            return_dict=False,
        )
        assert relative_error(ours[row], theirs[0]) < 1e-4


def test_diffusers_gets_the_scheduler(pipeline):
    config = pipeline.scheduler.config
    assert (config.flow_shift, config.use_flow_sigmas) == (5.0, True)
    assert config.prediction_type == "flow_prediction"


def test_bfloat16_halves_the_folder(networks, folder, tmp_path):
    load.save_diffusers(tmp_path, **networks)
    sizes = [sum(file.stat().st_size for file in root.rglob("*.safetensors")) for root in (folder, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]
    transformer = load.load_transformer(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in load.load_vae(tmp_path).parameters()} == {torch.float32}


def test_shards_are_read(copy):
    file = copy / TRANSFORMER_FILE
    state = load_file(file)
    names = sorted(state)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: state[name] for name in held}, file.with_name(shard))
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    loaded = keymap.transformer_to_diffusers(load.load_transformer(copy).state_dict())
    assert all(torch.equal(loaded[name], state[name]) for name in names)
    file.with_name("two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two\.safetensors is missing"):
        load.load_transformer(copy)


def change_tensors(folder, change):
    file = folder / TRANSFORMER_FILE
    state = load_file(file)
    change(state)
    file.unlink()
    save_file(state, file)


def test_a_missing_tensor_is_named__released_defect_38(copy):
    change_tensors(copy, lambda state: state.pop("blocks.1.attn1.to_q.weight"))
    with pytest.raises(
        ValueError, match=r"'blocks\.1\.attn1\.to_q\.weight' is missing in .*: download it again$"
    ) as it:
        load.load_transformer(copy)
    assert f" in {copy / TRANSFORMER_FILE}: " in str(it.value), "a folder may hold the files of many models"
    change_tensors(copy, lambda state: state.pop("patch_embedding.weight"))
    with pytest.raises(ValueError, match=r"model\.safetensors: download it again"):
        load.load_transformer(copy)


def test_an_extra_tensor_is_named__released_defect_38(copy):
    change_tensors(copy, lambda state: state.update({"blocks.7.attn1.to_q.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"'blocks\.7\.attn1\.to_q\.weight' in .*model\.safetensors"):
        load.load_transformer(copy)
    change_tensors(copy, lambda state: state.pop("blocks.7.attn1.to_q.weight"))
    change_tensors(copy, lambda state: state.update({"blocks.0.attn1.to_q.other": torch.zeros(1)}))
    said = r"'blocks\.0\.attn1\.to_q\.other' in .*model\.safetensors .*; take the file as its publisher has it$"
    with pytest.raises(ValueError, match=said):
        load.load_transformer(copy)


def test_a_tensor_of_the_wrong_shape_is_named__released_defect_38(copy):
    change_tensors(copy, lambda state: state.update({"proj_out.bias": torch.zeros(63)}))
    said = r"'proj_out\.bias' in .*\(63,\): must be \(64,\); take it and its config from the same download$"
    with pytest.raises(ValueError, match=said):
        load.load_transformer(copy)


@pytest.mark.parametrize(
    "file,loader",
    [
        (TRANSFORMER_FILE, load.load_transformer),
        ("vae/config.json", load.load_vae),
        ("text_encoder/model.safetensors", load.load_text_encoder),
        ("tokenizer/tokenizer.json", load.load_tokenizer),
    ],
)
def test_a_missing_or_torn_file_is_named(copy, file, loader):
    (copy / file).write_bytes(b"{torn")
    if loader is not load.load_tokenizer:
        with pytest.raises(ValueError, match=file.split("/")[1]):
            loader(copy)
    (copy / file).unlink()
    with pytest.raises(ValueError, match=file.split("/")[1]):
        loader(copy)


def test_an_empty_folder_is_refused(tmp_path):
    for loader in (load.load_transformer, load.load_vae, load.load_text_encoder, load.load_tokenizer):
        with pytest.raises(ValueError, match="is missing"):
            loader(tmp_path)


def test_configs_come_back_the_same():
    i2v = TransformerConfig(in_dim=36, image_dim=1280)
    for config in (TRANSFORMER, TransformerConfig(), i2v):
        assert configs.transformer_config_from_diffusers(configs.transformer_config_to_diffusers(config)) == config
    assert configs.vae_config_from_diffusers(configs.vae_config_to_diffusers(VAE)) == VAE
    assert configs.vae_config_from_diffusers({}) == configs.released_vae_config()
    assert configs.text_config_from_transformers(configs.text_config_to_transformers(TEXT, "float32")) == TEXT


@pytest.mark.parametrize(
    "field,value",
    [
        ("qk_norm", None),
        ("patch_size", [1, 4, 4]),
        ("new_thing", 3),
        ("added_kv_proj_dim", 48),
        ("_class_name", "X"),
    ],
)
def test_a_transformer_we_do_not_have_is_refused(field, value):
    fields = configs.transformer_config_to_diffusers(TRANSFORMER) | {field: value}
    with pytest.raises(ValueError, match=field):
        configs.transformer_config_from_diffusers(fields)


def test_the_official_layout_loads(networks, tmp_path, monkeypatch):
    """A released repository: official names, a stray tensor, pickled VAE and text encoder."""
    dit, vae, text = (networks[name] for name in ("transformer", "vae", "text_encoder"))
    fields = {"dim": 48, "ffn_dim": 64, "num_heads": 4, "num_layers": 2, "text_dim": 32, "freq_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t2v", "inject_sample_info": True, **fields}))
    stray = {"model_type.SkyReels-V2-T2V-14B-540P": torch.zeros(1)}
    save_file({**dit.state_dict(), **stray}, tmp_path / "model.safetensors")
    torch.save(vae.state_dict(), tmp_path / "Wan2.1_VAE.pth")
    untied = {k: v for k, v in text.model.state_dict().items() if "embed_tokens" not in k}
    torch.save(keymap.umt5_to_official(untied), tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    monkeypatch.setattr(configs, "released_vae_config", lambda: VAE)
    for loaded, saved in (
        (load.load_transformer(tmp_path), dit),
        (load.load_vae(tmp_path), vae),
        (load.load_text_encoder(tmp_path), text),
    ):
        expected = saved.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_the_image_encoder_loads(tmp_path, layout):
    config = ImageEncoderConfig(image_size=28, dim=160, ffn_dim=32, num_heads=2, num_layers=2)
    saved = randomise(ImageEncoder(config), 5)
    state = saved.model.state_dict()
    if layout == "official":
        extra = {
            "textual.head": torch.zeros(2),
            "visual.head": torch.zeros(160, 4),
            "log_scale": torch.zeros(()),
        }
        path = tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
        torch.save(keymap.clip_to_official(state) | extra, path)
    else:
        saved.model.save_pretrained(tmp_path / "image_encoder")
        file = tmp_path / "image_encoder" / "model.safetensors"
        nested = {f"vision_model.{name}": tensor for name, tensor in state.items()}
        save_file(nested | {"visual_projection.weight": torch.zeros(4, 160)}, file)
    loaded = load.load_image_encoder(tmp_path)
    assert loaded.config == config
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(6))
    assert torch.equal(loaded(pixels), saved(pixels))


# Anonymous memory is what a process has to itself: pages of a mapped file are the system's, and shared by processes.
MEASURE = """
import json, sys, threading, torch
from everreel.checkpoint.contents import Shards
from everreel.checkpoint.load import load_transformer

def private():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

torch.set_num_threads(1)
folder, warm, found = sys.argv[1], sys.argv[2], {}
read, seen = Shards.read, [0]

def watched(*arguments):
    tensor = read(*arguments)
    seen[0] = max(seen[0], private())
    return tensor

Shards.read = watched
load_transformer(warm, dtype=torch.bfloat16)
for device, dtype in (("cpu", "bfloat16"), ("meta", "bfloat16"), ("meta", "float32"), ("cpu", "float32")):
    before = seen[0] = private()
    module = load_transformer(folder, device, getattr(torch, dtype))
    found[f"{device} {dtype}"] = max(seen[0], private()) - before
    if device == "cpu":
        total = sum(float(parameter.detach().sum()) for parameter in module.parameters())
    del module
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured as Linux tells it")
def test_private_memory_of_a_load_is_below_the_largest_shard__released_defect_25(tmp_path, networks):
    """From shards in bfloat16: as they are on the CPU, to another device (meta takes no memory), and in float32."""
    config = TransformerConfig(dim=512, ffn_dim=2048, num_heads=4, num_layers=8, text_dim=32, freq_dim=32)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DiT(config).state_dict().items()}
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs.transformer_config_to_official(config)))
    sizes = []
    for number in range(4):
        held = [name for name in shapes if name.startswith(tuple(f"blocks.{2 * number + k}." for k in range(2)))]
        held += [name for name in shapes if not name.startswith("blocks.")] if number == 0 else []
        file = folder / f"m-{number + 1:05d}-of-00004.safetensors"
        save_file({name: torch.ones(shapes[name], dtype=torch.bfloat16) for name in held}, file)
        sizes.append(file.stat().st_size)
    load.save_diffusers(tmp_path / "warm", **networks)
    # Freed memory goes back at once, so that what is counted is what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "warm")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    limit = 1.1 * max(sizes)
    assert sum(sizes) > 3 * limit
    assert found["cpu bfloat16"] < limit / 4
    assert found["meta bfloat16"] < limit / 4 and found["meta float32"] < limit / 4
    # Here the network itself is in private memory: twice the bytes of its files.
    assert found["cpu float32"] - 2 * sum(sizes) < limit / 2


@pytest.mark.parametrize("rename", [dict, keymap.transformer_to_diffusers])
@pytest.mark.parametrize("known", [True, False])
def test_only_linear_layers_of_known_types_stay_packed(small, tmp_path, monkeypatch, rename, known):
    """Whatever its names: other tools quantise the embedding of the frame rate as well."""
    monkeypatch.setattr(gguf, "_FEW", 0)
    monkeypatch.setattr(gguf, "_KEPT", ())
    tensors = {name: (describe(tensor), partial(torch.clone, tensor)) for name, tensor in small.df.state_dict().items()}
    named = rename({name: torch.tensor(at) for at, name in enumerate(tensors)})
    values = list(tensors.values())
    for _ in gguf.write_gguf(tmp_path / "x.gguf", {n: values[at] for n, at in named.items()}, {}, "q8_0"):
        pass
    dense = load.load_transformer(tmp_path / "x.gguf")
    if not known:
        monkeypatch.setattr(packed, "_LAYOUTS", {name: x for name, x in packed._LAYOUTS.items() if name != "Q8_0"})
    kept = load.load_transformer(tmp_path / "x.gguf", keep_packed=True)
    layers = {name for name, module in kept.named_modules() if isinstance(module, packed.PackedLinear)}
    assert ("blocks.1.cross_attn.o" in layers) == known and "fps_embedding" not in layers
    for name, tensor in dense.state_dict().items():
        layer = name.removesuffix(".weight")
        found = kept.get_submodule(layer).dense() if layer in layers else kept.state_dict()[name]
        assert torch.equal(found, tensor), name


@pytest.mark.parametrize("to", ["safetensors", "gguf"])
def test_what_is_done_to_mapped_weights_stays_in_memory(folder, tmp_path, to):
    """As when LoRAs are merged: a file is mapped for this process alone."""
    file = tmp_path / f"x.{to}"
    convert(folder, file, to=to)
    before = file.read_bytes()
    transformer = load.load_transformer(file, dtype=None)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(1)
    assert file.read_bytes() == before
    again = load.load_transformer(file, dtype=None).state_dict()
    assert all(torch.equal(again[name] + 1, tensor) for name, tensor in transformer.state_dict().items())
