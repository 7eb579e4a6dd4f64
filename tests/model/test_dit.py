"""The transformer against the released one's outputs, against diffusers, and against its own laws."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from everreel.model.attention import rope_table
from everreel.model.config import TransformerConfig
from everreel.model.dit import Context, DiT, TanhGELU
from everreel.model.kv_cache import KVCache

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {"dim": 48, "ffn_dim": 96, "freq_dim": 32, "text_dim": 24, "num_heads": 4, "num_layers": 2}


def small(seed: int = 0, **changes) -> DiT:
    """A random model whose head is not zero."""
    model = DiT(TransformerConfig(**{**SMALL, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    torch.nn.init.normal_(model.head.head.weight, std=0.1, generator=generator)
    if model.config.inject_sample_info:
        torch.nn.init.normal_(model.fps_projection[2].weight, std=0.1, generator=generator)
    return model


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def golden(name: str, **changes) -> tuple[DiT, dict[str, torch.Tensor], Context]:
    data = load_file(GOLDEN / f"official-transformer-{name}.safetensors")
    model = DiT(TransformerConfig(**SMALL, **changes)).eval()
    model.load_state_dict({key[2:]: value for key, value in data.items() if key.startswith("w.")})
    with torch.no_grad():
        context = model.encode_context(data["context"], [512], data.get("clip_fea"))
    return model, data, context


@pytest.mark.parametrize(
    ("want", "time", "blocks"),
    [
        ("out_df_full", "t_df", None),
        ("out_df_causal2", "t_df", (2, 2, 2)),
        ("out_df_causal3", "t_df", (3, 3)),
        ("out_sync", "t_sync", None),
    ],
)
@torch.no_grad()
def test_released_outputs(want, time, blocks):
    model, data, context = golden("t2v")
    timestep = data[time] if time == "t_df" else data[time][:, None].expand(1, 6)
    assert error(model(data["x"], timestep, context, blocks=blocks), data[want]) < 1e-4


@pytest.mark.parametrize(("index", "want"), [(0, "out_df_fps16"), (1, "out_df_fps24")])
@torch.no_grad()
def test_released_frame_rates(index, want):
    model, data, context = golden("fps", inject_sample_info=True)
    assert error(model(data["x"], data["t_df"], context, fps_B=torch.tensor([index])), data[want]) < 1e-4


@torch.no_grad()
def test_released_image_to_video():
    model, data, context = golden("i2v", in_dim=36, image_dim=1280)
    x = torch.cat([data["x"], data["y"]], dim=1)
    assert error(model(x, data["t_sync"][:, None].expand(1, 6), context), data["out_sync"]) < 1e-4


@torch.no_grad()
def test_padding_folds_into_one_key_exactly():
    model = small()
    text = random(2, 512, 24)
    lengths = [7, 30]
    for row, length in enumerate(lengths):
        text[row, length:] = 0
    folded = model.encode_context(text, lengths)
    assert folded.layers[0][0].shape[1] == 31
    whole = model.encode_context(text, [512, 512])
    x, time = random(2, 16, 3, 4, 8), random(2, 3).abs() * 300
    assert error(model(x, time, folded), model(x, time, whole)) < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_agrees_with_diffusers(seed):
    from diffusers import SkyReelsV2Transformer3DModel

    from everreel.checkpoint.keymap import transformer_to_diffusers

    model = small(seed, inject_sample_info=True)
    other = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=24, freq_dim=32, ffn_dim=96, num_layers=2, inject_sample_info=True,
    ).eval()  # fmt: skip
    other.load_state_dict(transformer_to_diffusers(model.state_dict()))
    x, time, text = random(1, 16, 5, 6, 4), random(1, 5).abs() * 300, random(1, 20, 24)
    text = torch.nn.functional.pad(text, (0, 0, 0, 492))
    want = other(x, time, text, fps=[1], enable_diffusion_forcing=True, return_dict=False)[0]
    got = model(x, time, model.encode_context(text, [20]), fps_B=torch.tensor([1]))
    assert error(got, want) < 1e-4


@pytest.mark.parametrize("blocks", [(2, 2, 2), (1, 4, 1), (1, 2, 3)])
@torch.no_grad()
def test_cache_equals_block_causal_attention(blocks):
    model = small()
    context = model.encode_context(random(1, 9, 24), [9])
    x, time = random(1, 16, 6, 4, 8), random(1, 6).abs() * 300
    whole = model(x, time, context, blocks=blocks)
    cache, start, parts = KVCache(max_frames=6), 0, []
    for size in blocks:
        part = slice(start, start + size)
        looked = model(x[:, :, part], time[:, part], context, cache=cache)
        parts.append(model(x[:, :, part], time[:, part], context, cache=cache, write_cache=True))
        assert torch.equal(looked, parts[-1])
        start += size
    assert error(torch.cat(parts, dim=2), whole) < 1e-5


def dense(model: DiT, x: torch.Tensor, time: torch.Tensor, text: Context, block: int, window: int, sink: int):
    """What a cache with eviction must equal: every token against every token under a banded mask.

    Written from the rules alone: one layer's keys by absolute frame, positions inside the window of the query's block.
    """
    frames, tokens = x.shape[2], 8
    outs = model._patchify(x, range(8))
    time_BTC, modulation = model._modulation(time, None)
    keys: list[torch.Tensor] = []
    for layer, module in enumerate(model.blocks):
        shift, scale, gate, shift2, scale2, gate2 = (modulation + module.modulation[:, None]).unbind(2)

        def by_frame(value):
            return value.repeat_interleave(tokens, dim=1)

        normed = torch.nn.functional.layer_norm(outs, outs.shape[-1:], eps=1e-6)
        normed = normed * (1 + by_frame(scale)) + by_frame(shift)
        attention = module.self_attn
        q = attention.norm_q(attention.q(normed)).unflatten(2, (4, -1))
        k = attention.norm_k(attention.k(normed)).unflatten(2, (4, -1))
        v = attention.v(normed).unflatten(2, (4, -1))
        parts = []
        for start in range(0, frames, block):
            past = list(range(start))
            if len(past) > window:
                past = past[:sink] + past[len(past) - (window - sink) :]
            seen = past + list(range(start, start + block))
            index = torch.tensor([f * tokens + i for f in seen for i in range(tokens)])
            place = rope_table(0, len(seen), 2, 4, 12, x.device)

            def turned(value, table):
                pairs = torch.view_as_complex(value.unflatten(-1, (-1, 2)))
                return torch.view_as_real(pairs * torch.view_as_complex(table)[None, :, None]).flatten(-2)

            query = turned(q[:, start * tokens : (start + block) * tokens], place[-block * tokens :])
            logits = torch.einsum("blhd,bshd->bhls", query, turned(k[:, index], place)) / math.sqrt(12)
            parts.append(torch.einsum("bhls,bshd->blhd", logits.softmax(-1), v[:, index]))
        keys.append(k)
        outs = outs + attention.o(torch.cat(parts, dim=1).flatten(2)) * by_frame(gate)
        outs = outs + module.cross_attn(module.norm3(outs), [(outs.shape[1], text.of(layer))])
        normed = torch.nn.functional.layer_norm(outs, outs.shape[-1:], eps=1e-6)
        outs = outs + module.ffn(normed * (1 + by_frame(scale2)) + by_frame(shift2)) * by_frame(gate2)
    return model._unpatchify(model.head(outs, time_BTC), frames, 2, 4)


@pytest.mark.parametrize(("window", "sink"), [(2, 0), (4, 0), (4, 2), (3, 1)])
@torch.no_grad()
def test_eviction_and_sink_equal_a_banded_mask(window, sink):
    model = small()
    text = model.encode_context(random(1, 9, 24), [9])
    x, time, block = random(1, 16, 10, 4, 8), random(1, 10).abs() * 300, 2
    want = dense(model, x, time, text, block, window, sink)
    cache, parts = KVCache(window, sink), []
    for start in range(0, 10, block):
        part = slice(start, start + block)
        parts.append(model(x[:, :, part], time[:, part], text, cache=cache, write_cache=True))
        assert cache.num_frames <= window
    assert error(torch.cat(parts, dim=2), want) < 1e-5


@torch.no_grad()
def test_cache_memory_is_flat():
    model = small()
    text, cache, sizes = model.encode_context(random(1, 9, 24), [9]), KVCache(3), []
    for step in range(8):
        model(random(1, 16, 1, 4, 8, seed=step), torch.zeros(1, 1), text, cache=cache, write_cache=True)
        sizes.append(cache.num_bytes)
    assert sizes[3] == sizes[-1] > sizes[0]


def test_gradients_reach_every_weight():
    model = small(inject_sample_info=True)
    text = model.encode_context(random(2, 9, 24), [9, 4])
    out = model(random(2, 16, 3, 4, 8), random(2, 3).abs() * 300, text, fps_B=torch.tensor([0, 1]), blocks=(1, 2))
    out.square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_of_gelu_are_gelu(dtype):
    x = torch.linspace(-12, 12, 4097).to(dtype)
    want = torch.nn.functional.gelu(x.double(), approximate="tanh")
    with torch.no_grad():
        without_gradients = TanhGELU()(x)
    for got in (without_gradients, TanhGELU()(x)):
        assert (got.double() - want).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)
        assert error(got.double(), want) < (1e-6 if dtype == torch.float32 else 3e-3)


def test_clear_errors():
    model = small()
    text = model.encode_context(random(1, 9, 24), [9])
    with pytest.raises(ValueError, match="channels = 20: the model takes 16"):
        model(random(1, 20, 2, 4, 8), torch.zeros(1, 2), text)
    with pytest.raises(ValueError, match="multiples of 2"):
        model(random(1, 16, 2, 5, 8), torch.zeros(1, 2), text)
    with pytest.raises(ValueError, match="add up to the 2 latent frames"):
        model(random(1, 16, 2, 4, 8), torch.zeros(1, 2), text, blocks=(1, 2))
    with pytest.raises(ValueError, match="600 tokens"):
        model.encode_context(random(1, 600, 24), [600])
    with pytest.raises(ValueError, match="sink_frames = 3"):
        KVCache(3, 3)


@torch.no_grad()
def test_each_frame_reads_its_own_text():
    """Two texts in one pass: without attention between frames each part is what it is with its text alone."""
    model = small()
    first, second = (model.encode_context(random(1, length, 24, seed=length), [length]) for length in (9, 5))
    x, time = random(1, 16, 6, 4, 8), random(1, 6).abs() * 300
    both = model(x, time, [(4, first), (2, second)], blocks=[4, 2])
    assert error(both[:, :, :4], model(x, time, first, blocks=[4, 2])[:, :, :4]) < 1e-6
    cache = KVCache(6)
    model(x[:, :, :4], time[:, :4], first, cache=cache, write_cache=True)
    assert error(both[:, :, 4:], model(x[:, :, 4:], time[:, 4:], second, cache=cache)) < 1e-5
    assert error(both[:, :, 4:], model(x, time, first, blocks=[4, 2])[:, :, 4:]) > 1e-4
    with pytest.raises(ValueError, match=r"context = \[4, 1\] frames: must add up to the 6 latent frames"):
        model(x, time, [(4, first), (1, second)])


class Made(TorchDispatchMode):
    """The numbers of elements of what is computed, by operation; views are not."""

    def __init__(self):
        super().__init__()
        self.sizes: list[tuple[int, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.sizes.append((x.untyped_storage().nbytes() // x.element_size(), str(func)))
        return out


@pytest.mark.parametrize("blocks", [None, (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_neither_modulation_by_token_nor_a_mask_is_made__released_defect_20__released_defect_22(
    blocks, dtype, monkeypatch
):
    """The released code holds six vectors a token, twice over, and a mask of all tokens by all tokens in every pass."""
    monkeypatch.setattr("everreel.model.attention.QUERY_CHUNK", 64)  # of a size that goes with so few tokens
    model = small(ffn_dim=48).to(dtype)
    context = model.encode_context(random(1, 9, 24).to(dtype), [9])
    x, time = random(1, 16, 4, 32, 40), random(1, 4).abs() * 300
    tokens, dim = 4 * 16 * 20, 48
    with Made() as made:
        model(x, time, context, blocks=blocks)
    largest = max(made.sizes)
    assert largest[0] >= tokens * dim  # what goes from layer to layer was seen
    assert largest[0] < min(tokens * 6 * dim, tokens * tokens // 2), largest


@torch.no_grad()
def test_feeding_forward_by_parts_is_the_same(monkeypatch):
    """What is between the layers of the feed-forward nets, the largest of all, is made for a part of the tokens."""
    model = small()
    context = model.encode_context(random(1, 9, 24), [9])
    x, time = random(1, 16, 4, 8, 8), random(1, 4).abs() * 300
    whole = model(x, time, context)
    monkeypatch.setattr("everreel.model.dit.FFN_TOKENS_CPU", 24)
    with Made() as made:
        parts = model(x, time, context)
    assert error(parts, whole) < 1e-6
    assert 64 * 96 not in {size for size, _ in made.sizes}
