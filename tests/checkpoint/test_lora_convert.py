"""A LoRA file from one key style to another: nothing lost, nothing rounded, whatever model it is for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint.lora import Lora, Pair
from everreel.checkpoint.lora_convert import convert_lora
from everreel.checkpoint.lora_files import read_lora, write_lora
from everreel.model.config import TransformerConfig

LARGE = TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
# Width, feed-forward width and last block of a model; that of the embedded one is not assumed to be there.
SIZES = {"1.3B": (1536, 8960, 29), "14B": (5120, 13824, 39)}
STYLES = ("diffusers", "kohya", "official")


def random_lora(width, ffn, last, rank=2, alpha=3.0, more=None):
    generator = torch.Generator().manual_seed(width)

    def pair(inside, outside):
        down, up = torch.randn(rank, inside, generator=generator), torch.randn(outside, rank, generator=generator)
        return Pair(down.bfloat16(), up.bfloat16(), alpha)

    pairs = {
        f"blocks.{last}.self_attn.q": pair(width, width),
        "blocks.0.cross_attn.o": pair(width, width),
        "blocks.0.ffn.2": pair(ffn, width),
        "time_embedding.2": pair(width, width),
        **({name: pair(*sizes) for name, sizes in more.items()} if more else {}),
    }
    return Lora(Path("a"), pairs, {})


def same(path, other):
    """Whether two files hold the same tensors under the same names."""
    one, two = load_file(path), load_file(other)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", STYLES)
@pytest.mark.parametrize("second", STYLES)
def test_there_and_back_it_is_the_same_file(size, first, second, tmp_path):
    lora = random_lora(*SIZES[size])
    start, there, back = (tmp_path / f"{name}.safetensors" for name in ("start", "there", "back"))
    write_lora(start, lora, first)
    convert_lora(start, there, second)
    convert_lora(there, back, first)
    assert same(start, back)
    assert same(start, there) == (first == second)
    read = read_lora(back, TransformerConfig() if size == "1.3B" else LARGE)
    assert {module: (pair.alpha, pair.down.dtype) for module, pair in read.pairs.items()} == dict.fromkeys(
        lora.pairs, (3.0, torch.bfloat16)
    )


def test_what_only_some_models_have_is_kept(tmp_path):
    more = {"blocks.3.cross_attn.k_img": (5120, 5120), "img_emb.proj.1": (1280, 1280), "fps_projection.0": (5120, 5120)}
    lora = random_lora(*SIZES["14B"], more=more)
    picture = Pair(torch.randn(2, 36, 1, 2, 2), torch.randn(5120, 2, 1, 1, 1), 3.0)
    lora = Lora(lora.path, {**lora.pairs, "patch_embedding": picture}, {})
    start, there, back = (tmp_path / f"{name}.safetensors" for name in ("start", "there", "back"))
    write_lora(start, lora, "kohya")
    written = convert_lora(start, there, "diffusers")
    assert written.pairs.keys() == lora.pairs.keys()
    convert_lora(there, back, "kohya")
    assert same(start, back)


def test_a_model_of_ones_own(tiny_folder, tmp_path):
    lora = random_lora(48, 96, 1)
    start, there, back = (tmp_path / f"{name}.safetensors" for name in ("start", "there", "back"))
    write_lora(start, lora, "official")
    with pytest.raises(ValueError, match=r"fits none of tiny, tiny-fast, DF-1\.3B-540P.*name the --model") as caught:
        convert_lora(start, there, "kohya")
    assert "\n" not in str(caught.value)
    convert_lora(start, there, "kohya", model=str(tiny_folder))
    convert_lora(there, back, "official", model=str(tiny_folder))
    assert same(start, back)
    with pytest.raises(ValueError, match=r"2, 48.*1536 wide"):
        convert_lora(start, tmp_path / "other.safetensors", "kohya", model=one_and_a_half(tmp_path))
    assert not (tmp_path / "other.safetensors").exists()


def one_and_a_half(folder):
    """A model's folder of which nothing but the transformer's header is read."""
    from everreel.checkpoint import configs
    from everreel.checkpoint.keymap import transformer_to_diffusers
    from everreel.model.dit import DiT

    config = TransformerConfig(num_layers=1, ffn_dim=16, freq_dim=32, text_dim=24)
    with torch.device("meta"):
        names = DiT(config).state_dict()
    state = {name: torch.zeros(tensor.shape, dtype=torch.float8_e4m3fn) for name, tensor in names.items()}
    where = folder / "wide" / "transformer"
    where.mkdir(parents=True)
    configs.write_json(where / "config.json", configs.transformer_config_to_diffusers(config))
    save_file(transformer_to_diffusers(state), where / "diffusion_pytorch_model.safetensors")
    configs.write_json(folder / "wide" / "model_index.json", {"_class_name": "SkyReelsV2DiffusionForcingPipeline"})
    return str(folder / "wide")


def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path):
    start = tmp_path / "start.safetensors"
    write_lora(start, random_lora(*SIZES["1.3B"]), "official")
    before = start.read_bytes()
    cases = {
        "gone": (tmp_path / "gone.safetensors", tmp_path / "a.safetensors", "kohya", "no such file"),
        "style": (start, tmp_path / "a.safetensors", "comfy", "style = 'comfy': must be diffusers, kohya or official"),
        "there": (start, start, "kohya", "is there already"),
        "name": (start, tmp_path / "a.bin", "kohya", r"must end in \.safetensors; try a\.bin\.safetensors"),
        "folder": (start, tmp_path / "b" / "a.safetensors", "kohya", "there is no folder"),
    }
    for source, target, style, message in cases.values():
        with pytest.raises(ValueError, match=message) as caught:
            convert_lora(source, target, style)
        assert "\n" not in str(caught.value)
    save_file({"diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(2)}, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match="DoRA"):
        convert_lora(tmp_path / "dora.safetensors", tmp_path / "a.safetensors", "kohya")
    difference = Lora(Path("a"), {}, {"blocks.0.modulation": torch.ones(1, 6, 1536)})
    write_lora(tmp_path / "whole.safetensors", difference, "official")
    with pytest.raises(ValueError, match="nearest 'official'"):
        convert_lora(tmp_path / "whole.safetensors", tmp_path / "a.safetensors", "diffusers")
    assert start.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.safetensors" for name in ("start", "dora", "whole")}
    convert_lora(start, start, "kohya", overwrite=True)
    assert start.read_bytes() != before
