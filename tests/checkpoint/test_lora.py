"""LoRA: one meaning for each style of key, diffusers and peft as oracles, and bytes that come back."""

import json
import math
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint import configs, keymap, lora_files
from everreel.checkpoint.lora import Lora, Pair, merge
from everreel.checkpoint.lora_files import read_lora, write_lora
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT

CONFIG = TransformerConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=12, text_dim=20, text_len=16, freq_dim=16)
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint-keys"
# Official name of a module: diffusers' name.
MODULES = {
    "blocks.1.self_attn.q": "blocks.1.attn1.to_q",
    "blocks.11.cross_attn.o": "blocks.11.attn2.to_out.0",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.10.ffn.2": "blocks.10.ffn.net.2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "patch_embedding": "patch_embedding",
}
AB, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
# Whose name, what comes before it, whether dots become underscores, and what comes after.
STYLES = {
    "diffusers": ("theirs", "transformer.", False, AB),
    "peft": ("theirs", "base_model.model.", False, AB),
    "peft with the adapter's name": (
        "theirs",
        "transformer.",
        False,
        ("lora_A.default.weight", "lora_B.default.weight"),
    ),
    "official": ("ours", "diffusion_model.", False, DOWN_UP),
    "official, A and B": ("ours", "diffusion_model.", False, AB),
    "official, no prefix": ("ours", "", False, DOWN_UP),
    "kohya": ("ours", "lora_unet_", True, DOWN_UP),
    "kohya, two underscores": ("ours", "lora_unet__", True, DOWN_UP),
    "kohya, diffusers' names": ("theirs", "lora_unet_", True, DOWN_UP),
}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


def random_dit(config=CONFIG, dtype=torch.float32):
    dit = DiT(config)
    with torch.no_grad():
        for number, parameter in enumerate(dit.parameters()):
            parameter.copy_(0.2 * randn(*parameter.shape, seed=number) + (parameter.ndim == 1) * 0.5)
    return dit.to(dtype).eval()


def pair_for(dit, module, rank=4, alpha=None, seed=0):
    shape = dit.get_parameter(f"{module}.weight").shape
    ones = (1,) * (len(shape) - 2)
    down, up = randn(rank, *shape[1:], seed=seed), randn(shape[0], rank, *ones, seed=seed + 1)
    return Pair(0.2 * down, 0.2 * up, float(rank if alpha is None else alpha))


def random_lora(dit, modules=MODULES, alphas=(4.0, 1.0, 3.0), seed=0):
    pairs = {
        module: pair_for(dit, module, 2 + number % 3, alphas[number % len(alphas)], seed + number)
        for number, module in enumerate(sorted(modules))
    }
    return Lora(Path("style.safetensors"), pairs, {})


def keys_of(lora, style):
    whose, prefix, underscores, (down, up) = STYLES[style]
    tensors = {}
    for module, pair in lora.pairs.items():
        name = module if whose == "ours" else MODULES[module]
        name = prefix + (name.replace(".", "_") if underscores else name)
        tensors |= {f"{name}.{down}": pair.down, f"{name}.{up}": pair.up, f"{name}.alpha": torch.tensor(pair.alpha)}
    return tensors


def save(tensors, path, metadata=None):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


def assert_same(got, expected):
    assert got.pairs.keys() == expected.pairs.keys()
    for module, pair in expected.pairs.items():
        assert torch.equal(got.pairs[module].down, pair.down)
        assert torch.equal(got.pairs[module].up, pair.up)
        assert got.pairs[module].alpha == pair.alpha
    assert got.diffs.keys() == expected.diffs.keys()
    assert all(torch.equal(got.diffs[name], diff) for name, diff in expected.diffs.items())


def bytes_of(dit):
    return {name: tensor.detach().clone().view(torch.uint8) for name, tensor in dit.state_dict().items()}


def assert_bytes(dit, expected):
    assert all(torch.equal(tensor, expected[name]) for name, tensor in bytes_of(dit).items())


@pytest.mark.parametrize("style", STYLES)
def test_every_style_means_the_same(style, tmp_path):
    dit = random_dit()
    lora = random_lora(dit)
    read = read_lora(save(keys_of(lora, style), tmp_path / "lora.safetensors"), CONFIG)
    assert_same(read, lora)
    assert read.notes == ()
    before = {name: parameter.detach().double() for name, parameter in dit.named_parameters()}
    merged = merge(dit, [(read, 0.7)])
    assert set(merged.changed) == {f"{module}.weight" for module in MODULES}
    for name, parameter in dit.named_parameters():
        expected = before[name].clone()
        if name in merged.changed:
            pair = lora.pairs[name.removesuffix(".weight")]
            change = pair.up.double().flatten(1) @ pair.down.double().flatten(1)
            expected += 0.7 * pair.alpha / pair.down.shape[0] * change.view_as(expected)
            assert (parameter - before[name]).abs().max() > 1e-3
        assert torch.allclose(parameter.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["official-14B-i2v", "diffusers-14B-i2v", "official-DF-1.3B", "diffusers-DF-1.3B"])
@pytest.mark.parametrize("underscores", [False, True])
def test_every_tensor_of_the_released_models_can_be_named(layout, underscores):
    config = TransformerConfig(num_layers=40, image_dim=1280, in_dim=36, inject_sample_info=True)
    names = lora_files.Names(config)
    targets = set()
    released = json.loads((GOLDEN / f"{layout}.json").read_text())
    for name in released:
        module, _, leaf = name.rpartition(".")
        role = {"weight": "diff", "bias": "diff_b"}.get(leaf, "diff")
        module = module if leaf in ("weight", "bias") else name
        key = names.find(f"lora_unet_{module.replace('.', '_')}.{role}" if underscores else f"{module}.{role}")
        assert key is not None, name
        targets.add(key.target)
    official = keymap.transformer_from_diffusers if layout.startswith("diffusers") else dict
    assert targets == set(official(dict.fromkeys(released)))


def test_peft_says_the_alphas_beside_the_tensors(tmp_path):
    lora = random_lora(random_dit())
    tensors = {name: tensor for name, tensor in keys_of(lora, "diffusers").items() if not name.endswith(".alpha")}
    patterns = {MODULES["head.head"]: 3, "^blocks.1.attn1.to_q": 0.5, "net.2": 6}
    for where in ("metadata", "beside"):
        folder = tmp_path / where
        folder.mkdir()
        prefix = "transformer." if where == "metadata" else ""
        settings = {f"{prefix}lora_alpha": 8, f"{prefix}alpha_pattern": patterns}
        if where == "beside":
            (folder / "adapter_config.json").write_text(json.dumps(settings))
        metadata = {"lora_adapter_metadata": json.dumps(settings)} if where == "metadata" else None
        save(tensors, folder / "adapter_model.safetensors", metadata)
        read = read_lora(folder, CONFIG)
        said = "adapter_model.safetensors: alpha is what adapter_config.json beside it says"
        assert read.notes == ((said,) if where == "beside" else ())
        alphas = {module: pair.alpha for module, pair in read.pairs.items()}
        others = dict.fromkeys(set(MODULES) - {"head.head", "blocks.1.self_attn.q", "blocks.10.ffn.2"}, 8.0)
        assert alphas == {"head.head": 3.0, "blocks.1.self_attn.q": 0.5, "blocks.10.ffn.2": 6.0, **others}


def test_alphas_without_a_key_of_their_own(tmp_path):
    lora = random_lora(random_dit(), ["head.head"])
    tensors = {name: tensor for name, tensor in keys_of(lora, "kohya").items() if not name.endswith(".alpha")}
    path = save(tensors, tmp_path / "kohya.safetensors", {"ss_network_alpha": "0.5"})
    assert read_lora(path, CONFIG).pairs["head.head"].alpha == 0.5
    # What another file's trainer left there says nothing about kohya's keys, or about keys that say it themselves.
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 99}))
    assert_same(read_lora(save(keys_of(lora, "diffusers"), tmp_path / "own.safetensors"), CONFIG), lora)
    path = save(tensors, tmp_path / "plain.safetensors")
    assert read_lora(path, CONFIG).pairs["head.head"].scale == 1
    settings = json.dumps({"lora_alpha": 3, "use_rslora": True})
    rank = lora.pairs["head.head"].down.shape[0]
    path = save(tensors, tmp_path / "rs.safetensors", {"lora_adapter_metadata": settings})
    assert read_lora(path, CONFIG).pairs["head.head"].scale == pytest.approx(3 / math.sqrt(rank), rel=1e-6)


DIFFS = {
    "diffusion_model.blocks.3.self_attn.q.diff_b": "blocks.3.self_attn.q.bias",
    "diffusion_model.blocks.3.self_attn.norm_q.diff": "blocks.3.self_attn.norm_q.weight",
    "diffusion_model.blocks.11.norm3.diff_b": "blocks.11.norm3.bias",
    "diffusion_model.blocks.11.diff_m": "blocks.11.modulation",
    "diffusion_model.blocks.2.modulation.diff": "blocks.2.modulation",
    "diffusion_model.head.diff_m": "head.modulation",
    "diffusion_model.head.head.diff": "head.head.weight",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.time_embedding.2.diff_b": "time_embedding.2.bias",
}


def test_whole_differences_as_distilled_loras_have_them(tmp_path):
    dit = random_dit()
    tensors = {key: randn(*dit.get_parameter(name).shape, seed=3) for key, name in DIFFS.items()}
    tensors["diffusion_model.blocks.4.norm3.diff"] = torch.zeros(24)  # extractors write those too
    lora = read_lora(save(tensors, tmp_path / "distilled.safetensors"), CONFIG)
    assert set(lora.diffs) == set(DIFFS.values())
    before = {name: parameter.detach().clone() for name, parameter in dit.named_parameters()}
    merge(dit, [(lora, 0.5)])
    for key, name in DIFFS.items():
        assert torch.equal(dit.get_parameter(name), before[name] + 0.5 * tensors[key])
    assert torch.equal(dit.get_parameter("blocks.4.norm3.weight"), before["blocks.4.norm3.weight"])


def test_several_are_added_in_float32_and_rounded_once():
    dit = random_dit(dtype=torch.bfloat16)
    before = {name: parameter.detach().float() for name, parameter in dit.named_parameters()}
    loras = [(random_lora(dit, seed=seed), strength) for seed, strength in ((1, 0.5), (20, -1.0), (40, 0.01))]
    merge(dit, loras)
    rounded_each_time = random_dit(dtype=torch.bfloat16)
    for lora in loras:
        merge(rounded_each_time, [lora])
    differ = 0
    for module in MODULES:
        weight = before[f"{module}.weight"]
        total = torch.zeros_like(weight)
        for lora, strength in loras:
            pair = lora.pairs[module]
            total += (strength * pair.scale * (pair.up.flatten(1) @ pair.down.flatten(1))).view_as(total)
        assert torch.equal(dit.get_parameter(f"{module}.weight"), (weight + total).bfloat16())
        differ += not torch.equal(
            dit.get_parameter(f"{module}.weight"), rounded_each_time.get_parameter(f"{module}.weight")
        )
    assert differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_there_comes_back_to_the_bit(dtype):
    dit = random_dit(dtype=dtype)
    with torch.no_grad():
        dit.head.head.weight[0, :4] = torch.tensor([-0.0, 6e4, 1e-8, math.nan])
    expected = bytes_of(dit)
    merged = merge(dit, [(random_lora(dit), 0.9), (random_lora(dit, seed=50), 5.0)])
    assert not torch.equal(bytes_of(dit)["head.head.weight"], expected["head.head.weight"])
    merged.unmerge()
    assert_bytes(dit, expected)
    assert merged.changed == ()
    merged.unmerge()
    assert_bytes(dit, expected)


def test_strength_zero_changes_nothing():
    dit = random_dit()
    expected = bytes_of(dit)
    assert merge(dit, [(random_lora(dit), 0.0)]).changed == ()
    assert_bytes(dit, expected)


def test_merges_are_taken_out_last_first():
    dit = random_dit()
    expected = bytes_of(dit)
    first = merge(dit, [(random_lora(dit), 1.0)])
    second = merge(dit, [(random_lora(dit, ["head.head"], seed=9), 1.0)])
    both = bytes_of(dit)
    with pytest.raises(ValueError, match=r"'head\.head\.weight' was changed since.*later first"):
        first.unmerge()
    assert_bytes(dit, both)
    second.unmerge()
    first.unmerge()
    assert_bytes(dit, expected)
    merged = merge(dit, [(random_lora(dit), 1.0)])
    dit.bfloat16()
    with pytest.raises(ValueError, match="was changed since"):
        merged.unmerge()


def test_without_keeping_nothing_can_be_taken_out():
    dit = random_dit()
    merged = merge(dit, [(random_lora(dit), 1.0)], keep=False)
    changed = bytes_of(dit)
    with pytest.raises(ValueError, match="keep = True"):
        merged.unmerge()
    assert_bytes(dit, changed)


class OtherWeight(torch.Tensor):
    """As a quantised weight: a parameter that is no plain tensor."""


@pytest.mark.parametrize("how", ["another kind of tensor", "no weight at all", "eight bits"])
def test_a_quantised_weight_is_not_added_to(how):
    dit = random_dit()
    lora = random_lora(dit)
    linear = dit.blocks[11].cross_attn.o
    if how == "another kind of tensor":
        linear.weight = torch.nn.Parameter(linear.weight.detach().as_subclass(OtherWeight))
    elif how == "no weight at all":
        del linear.weight
    else:
        linear.weight = torch.nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    others = bytes_of(dit)
    with pytest.raises(ValueError, match=r"'blocks\.11\.cross_attn\.o\.weight'.*quantised.*merge before"):
        merge(dit, [(lora, 1.0)])
    assert_bytes(dit, others)


def test_what_cannot_be_merged_changes_nothing():
    dit = random_dit()
    expected = bytes_of(dit)
    wrong = Lora(Path("w.safetensors"), {"head.head": Pair(randn(2, 24), randn(65, 2), 2.0)}, {})
    with pytest.raises(ValueError, match=r"w\.safetensors.*'head\.head\.weight' by \(65, 24\).*\(64, 24\)"):
        merge(dit, [(random_lora(dit), 1.0), (wrong, 1.0)])
    with pytest.raises(ValueError, match=r"strength = nan of style\.safetensors"):
        merge(dit, [(random_lora(dit), math.nan)])
    assert_bytes(dit, expected)


def full_lora(dit, metadata=None):
    lora = random_lora(dit)
    diffs = {name: randn(*dit.get_parameter(name).shape, seed=8) for name in sorted(DIFFS.values())}
    return Lora(lora.path, lora.pairs, diffs, (), metadata or {})


@pytest.mark.parametrize("first", ["official", "kohya"])
@pytest.mark.parametrize("second", ["official", "kohya"])
def test_written_and_read_it_is_the_same(first, second, tmp_path):
    lora = full_lora(random_dit(), {"modelspec.title": "a fox", "ss_network_alpha": "77"})
    for style in (first, second):
        path = tmp_path / f"{style}.safetensors"
        write_lora(path, lora, style)
        read = read_lora(path, CONFIG)
        assert_same(read, lora)
        assert read.metadata["modelspec.title"] == "a fox"
        lora = read
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_through_the_diffusers_style_it_is_the_same(dtype, tmp_path):
    dit = random_dit()
    pairs = {
        module: Pair(pair.down.to(dtype), pair.up.to(dtype), pair.down.shape[0] * scale)
        for (module, pair), scale in zip(random_lora(dit).pairs.items(), (1.0, 0.25, 8.0) * 3, strict=True)
    }
    names = ("blocks.0.ffn.0.bias", "blocks.1.self_attn.q.bias", "blocks.10.ffn.2.bias")
    biases = {name: randn(*dit.get_parameter(name).shape, seed=5) for name in names}
    lora = Lora(Path("a"), pairs, biases)
    for style in ("diffusers", "kohya", "diffusers", "official"):
        path = tmp_path / f"{style}.safetensors"
        write_lora(path, lora, style)
        assert_same(read_lora(path, CONFIG), lora)
        lora = read_lora(path, CONFIG)


def test_an_alpha_that_no_file_holds_exactly_stays_what_was_read(tmp_path):
    lora = random_lora(random_dit(), ["head.head"])
    settings = {"lora_adapter_metadata": json.dumps({"lora_alpha": 0.1})}
    tensors = {name: tensor for name, tensor in keys_of(lora, "diffusers").items() if not name.endswith(".alpha")}
    lora = read_lora(save(tensors, tmp_path / "first.safetensors", settings), CONFIG)
    for style in ("kohya", "diffusers", "official"):
        write_lora(tmp_path / "next.safetensors", lora, style)
        assert_same(read_lora(tmp_path / "next.safetensors", CONFIG), lora)


def test_the_diffusers_style_cannot_say_everything(tmp_path):
    lora = full_lora(random_dit())
    with pytest.raises(ValueError, match=r"difference of 'blocks\.11\.modulation' \(and 8 more\); nearest 'official'"):
        write_lora(tmp_path / "a.safetensors", lora)
    with pytest.raises(ValueError, match="style = 'comfy': must be diffusers, kohya or official"):
        write_lora(tmp_path / "a.safetensors", lora, "comfy")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def torn(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    (tmp_path / "a.safetensors").write_bytes(b"as it was")
    monkeypatch.setattr(lora_files, "save_file", torn)
    with pytest.raises(OSError, match="no space"):
        write_lora(tmp_path / "a.safetensors", random_lora(random_dit()))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]


@pytest.fixture(scope="module")
def theirs():
    """A function that makes diffusers' pipeline of a transformer with our weights."""

    def make(dit):
        fields = configs.transformer_config_to_diffusers(dit.config)
        model = diffusers.SkyReelsV2Transformer3DModel.from_config(fields).eval()
        model.load_state_dict(keymap.transformer_to_diffusers(dit.state_dict()))
        return diffusers.SkyReelsV2Pipeline(None, None, model, None, None)

    return make


def outputs(dit, pipe):
    x, text = randn(1, 16, 2, 4, 6), randn(1, 16, 20)
    with torch.no_grad():
        ours = dit(x, torch.full((1, 2), 300.0), dit.encode_context(text, [16]))
        theirs = pipe.transformer(x, torch.tensor([300]), text, return_dict=False)[0]
    return ours, theirs


def error(pair):
    return float((pair[0] - pair[1]).abs().max() / pair[1].abs().max())


def test_diffusers_loads_what_we_write_and_computes_the_same(theirs, tmp_path):
    dit = random_dit()
    pipe = theirs(dit)
    plain, without = outputs(dit, pipe)
    assert error((plain, without)) < 1e-5
    first, second = random_lora(dit), random_lora(dit, list(MODULES)[:4], alphas=(2.0,), seed=70)
    biased = {f"{module}.bias": randn(second.pairs[module].up.shape[0], seed=3) for module in list(second.pairs)[:2]}
    second = Lora(second.path, second.pairs, biased)
    for name, lora in (("first", first), ("second", second)):
        write_lora(tmp_path / f"{name}.safetensors", lora)
        pipe.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
    for strengths in ((0.5, 0.0), (1.0, 0.5), (-0.3, 0.8)):
        pipe.set_adapters(["first", "second"], list(strengths))
        merged = merge(dit, [(first, strengths[0]), (second, strengths[1])])
        got, expected = outputs(dit, pipe)
        assert error((got, expected)) < 1e-5
        assert error((got, plain)) > 1e-2
        merged.unmerge()
    assert torch.equal(outputs(dit, pipe)[0], plain)


@pytest.mark.parametrize("style", ["official", "kohya"])
def test_diffusers_reads_our_other_styles_as_we_do(theirs, style, tmp_path):
    dit = random_dit()
    pipe = theirs(dit)
    # It asks for all of a block's linear layers.
    parts = [*(f"{a}_attn.{b}" for a in ("self", "cross") for b in "qkvo"), "ffn.0", "ffn.2"]
    lora = random_lora(dit, [f"blocks.{number}.{part}" for number in range(12) for part in parts], alphas=(1.0, 2.0))
    write_lora(tmp_path / "lora.safetensors", lora, style)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    merge(dit, [(lora, 1.0)])
    assert error(outputs(dit, pipe)) < 1e-5


def test_what_peft_trains_and_diffusers_saves_is_read(theirs, tmp_path):
    import peft

    dit = random_dit()
    pipe = theirs(dit)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_out.0", "ffn.net.2", "proj_out"],
        rank_pattern={"proj_out": 3},
        alpha_pattern={"ffn.net.2": 1},
        use_rslora=True,
        init_lora_weights=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.transformer.add_adapter(settings)
    layers = peft.get_peft_model_state_dict(pipe.transformer)
    metadata = pipe.transformer.peft_config["default"].to_dict()
    pipe.save_lora_weights(tmp_path / "pipe", layers, transformer_lora_adapter_metadata=metadata)
    pipe.transformer.save_lora_adapter(tmp_path / "model")
    expected = outputs(dit, pipe)[1]
    for folder in ("pipe", "model"):
        lora = read_lora(tmp_path / folder, CONFIG)
        assert len(lora.pairs) == 12 * 5 + 1
        merged = merge(dit, [(lora, 1.0)])
        assert error((outputs(dit, pipe)[0], expected)) < 1e-5
        merged.unmerge()


@pytest.mark.parametrize("kernel", [(), (1, 2, 2)])
def test_the_nearest_pair_of_a_lower_rank(kernel):
    """As good as the singular values of the whole change allow, and the change itself where the rank suffices."""
    generator = torch.Generator().manual_seed(0)
    ones = (1,) * len(kernel)
    pair = Pair(torch.randn(5, 12, *kernel, generator=generator), torch.randn(9, 5, *ones, generator=generator), 10.0)

    def change(pair):
        return pair.scale * pair.up.flatten(1) @ pair.down.flatten(1)

    values = torch.linalg.svdvals(change(pair))
    for rank in (1, 3):
        lower = pair.of_rank(rank)
        assert lower.down.shape == (rank, 12, *kernel) and lower.up.shape == (9, rank, *ones)
        error = (change(lower) - change(pair)).norm()
        assert torch.allclose(error, values[rank:].norm(), rtol=1e-4)
    assert pair.of_rank(5) is pair and pair.of_rank(8) is pair
    with pytest.raises(ValueError, match="rank = 0: must be 1 or more"):
        Lora(Path("x"), {"a": pair}, {}).of_rank(0)
