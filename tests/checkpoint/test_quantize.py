"""Quantised blocks: how far they are off, what stays exact, and what a device cannot do."""

import copy
import subprocess
import sys

import pytest
import torch
import torchao.quantization as ao

from everreel.checkpoint import quantize as quantizing
from everreel.checkpoint.offload import OffloadedBlocks, offload
from everreel.checkpoint.quantize import check_quantization, quantisation_error, quantize, recorded
from everreel.model.int8 import Int8Linear
from tests.checkpoint.conftest import random_transformer

LAYERS = 3
MOST = {"int8": 0.02, "fp8": 0.05, "int8_dynamic": 0.03, "q8_0": 0.02, "q4_0": 0.15}  # of a block's output
LINEARS = 10  # of a block


@pytest.fixture(scope="module")
def model():
    return random_transformer(LAYERS)


@pytest.fixture(scope="module")
def calls(model):
    generator = torch.Generator().manual_seed(1)
    context = model.encode_context(torch.randn(1, 5, 24, generator=generator), [5])
    with recorded(model, most=2) as calls, torch.no_grad():
        for level in (900.0, 500.0, 100.0):
            x = torch.randn(1, 16, 2, 4, 6, generator=generator)
            model(x, torch.full((1, 2), level), context)
    return calls


def run(model, calls):
    with torch.no_grad():
        return model(*calls[0].args, **calls[0].kwargs)


def num_bytes(module):
    from everreel.checkpoint.offload import _tensors

    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(module))


@pytest.mark.parametrize("how", MOST)
def test_a_block_is_off_by_little_and_smaller_by_much(model, calls, how):
    quantised = quantize(copy.deepcopy(model), how)
    errors = quantisation_error(model, how, calls)
    assert len(calls) == 2 and len(errors) == LAYERS
    assert all(1e-4 < error < MOST[how] for error in errors), errors
    off = (run(quantised, calls) - run(model, calls)).norm() / run(model, calls).norm()
    assert 1e-4 < float(off) < 4 * MOST[how]
    weights = 4 * sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    saved = num_bytes(model.blocks) - num_bytes(quantised.blocks)
    assert saved == pytest.approx(weights * (1 - quantizing.BYTES_PER_WEIGHT[how] / 4), rel=0.05)


@pytest.mark.parametrize("how", MOST)
def test_what_is_not_a_linear_layer_of_a_block_keeps_every_bit(model, how):
    quantised = quantize(copy.deepcopy(model), how)
    exact, changed = model.state_dict(), quantised.state_dict()
    kept = [name for name in exact if not (name.startswith("blocks.") and exact[name].ndim == 2)]
    assert len(kept) == len(exact) - LINEARS * LAYERS
    assert all(torch.equal(changed[name], exact[name]) for name in kept)


def test_the_exact_blocks_are_off_by_nothing_and_stay_as_they_are(model, calls, monkeypatch):
    before, blocks = copy.deepcopy(model.state_dict()), model.blocks
    monkeypatch.setattr(quantizing._Compared, "__deepcopy__", lambda *_: pytest.fail("all of it"), raising=False)
    quantisation_error(model, "int8", calls)
    assert model.blocks is blocks and not any(block._forward_hooks for block in blocks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    monkeypatch.setattr(quantizing, "_quantised", lambda blocks, *_: blocks)
    assert quantisation_error(model, "int8", calls) == [0.0] * LAYERS


@pytest.mark.parametrize("how", MOST)
@pytest.mark.parametrize("resident", [0, 1])
def test_blocks_that_stream_are_measured_where_they_compute(model, calls, how, resident):
    """A copy of the whole model has them in host memory, and their inputs are on the device."""
    whole = quantisation_error(model, how, calls)
    streamed = offload(copy.deepcopy(model), "cpu", resident)
    assert quantisation_error(streamed, how, calls) == whole
    with pytest.raises(ValueError, match="quantised already"):
        quantisation_error(quantize(copy.deepcopy(model), "int8"), how, calls)


@pytest.mark.parametrize("how", MOST)
def test_blocks_are_brought_into_their_type_one_at_a_time(model, monkeypatch, how):
    """Mapped weights in float32 were all there in bfloat16 before the first was made smaller."""
    mapped, most = copy.deepcopy(model), []
    count = sum(layer.weight.numel() for *_, layer in quantizing._linears(model.blocks[0]))
    to = torch.nn.Module.to

    def watched(module, *args, **kwargs):
        moved = to(module, *args, **kwargs)
        weights = [layer.weight for *_, layer in quantizing._linears(mapped.blocks)]
        plain = [w for w in weights if not hasattr(w, "__tensor_flatten__")]
        most.append(sum(w.numel() for w in plain if w.dtype == torch.bfloat16))
        return moved

    monkeypatch.setattr(torch.nn.Module, "to", watched)
    quantize(mapped, how, dtype=torch.bfloat16)
    assert max(most) <= count
    assert {p.dtype for p in mapped.blocks.parameters() if p.is_floating_point()} == {torch.bfloat16}
    assert mapped.patch_embedding.weight.dtype == mapped.head.head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["int8", "fp8", "int8_dynamic", "q4_0"])
def test_quantised_blocks_are_offloaded_as_others(model, calls, how):
    quantised = quantize(copy.deepcopy(model), how)
    expected = run(quantised, calls)
    quantised.blocks = OffloadedBlocks(quantised.blocks, "cpu", 1)
    assert torch.equal(run(quantised, calls), expected)


@pytest.mark.parametrize(
    ("how", "device", "capability", "words"),
    [
        ("int3", "cpu", None, "quantization = int3: must be one of int8, fp8, "),
        ("fp8_dynamic", "cpu", None, "capability 8.9 or more; nearest that works on cpu: int8_dynamic"),
        ("fp8_dynamic", "cuda", (8, 6), "this one has 8.6; nearest that works: int8_dynamic"),
        ("fp8_dynamic", "cuda", (7, 5), "this one has 7.5; nearest that works: fp8"),
        ("int8_dynamic", "cuda", (7, 5), "this one has 7.5; nearest that works: int8"),
        ("fp8", "mps", None, "not on mps; nearest that works: int8"),
        ("fp8_dynamic", "cuda", (8, 9), None),
        ("int8", "mps", None, None),
    ],
)
def test_what_a_device_cannot_do_is_refused(monkeypatch, how, device, capability, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if words is None:
        check_quantization(how, torch.device(device))
    else:
        with pytest.raises(ValueError, match=words):
            check_quantization(how, torch.device(device))


def test_a_missing_package_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"int8: needs the package torchao; pip install 'everreel\[quantize\]'"):
        quantize(copy.deepcopy(model), "int8")


def test_fp8_products_have_a_scale_for_each_row_where_torchao_can():
    """One for a whole layer gives way to its largest weight, and torchao has rows in bfloat16 alone."""
    found = {dtype: quantizing._config(ao, "fp8_dynamic", dtype).granularity for dtype in (torch.bfloat16, torch.half)}
    assert found == {torch.bfloat16: [ao.PerRow(), ao.PerRow()], torch.half: [ao.PerTensor(), ao.PerTensor()]}


@pytest.mark.parametrize("first", ["int8", "q8_0"])
def test_quantising_twice_is_refused(model, first):
    quantised = quantize(copy.deepcopy(model), first)
    with pytest.raises(ValueError, match="quantised already"):
        quantize(quantised, "int8")


@pytest.mark.parametrize("tokens", [(1, 3), (2, 40), (50,)])
def test_the_product_of_integers_is_exact(tokens):
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(24, 16).requires_grad_(False)
    layer.weight.copy_(torch.randint(-126, 127, (16, 24), generator=generator) / 127)
    layer.weight[:, 0] = 1
    x = torch.randint(-126, 127, (*tokens, 24), generator=generator) / 127.0
    x[..., 1] = -1
    found = Int8Linear(layer)(x)
    assert found.shape == (*tokens, 16)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


def test_nothing_of_the_input_is_read_on_the_host(monkeypatch):
    """On a GPU each look waits for all that is under way."""
    layer = Int8Linear(torch.nn.Linear(24, 16).requires_grad_(False)).to("meta")
    assert layer(torch.ones(2, 40, 24, device="meta", dtype=torch.bfloat16)).shape == (2, 40, 16)


def test_torchao_says_nothing():
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "import torch\nfrom everreel.checkpoint.quantize import quantize\n"
        "from everreel.model.config import TransformerConfig\nfrom everreel.model.dit import DiT\n"
        "model = DiT(TransformerConfig(dim=64, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=1))\n"
        "block = quantize(model, 'int8').blocks[0]\n"
        "with torch.no_grad(): block.ffn(torch.ones(1, 3, 64))\n"
    )
    assert what_it_says(code) == ""


def test_transformers_says_nothing_of_torchao():
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "from everreel.model.config import TextEncoderConfig\nfrom everreel.model.text_encoder import TextEncoder\n"
        "TextEncoder(TextEncoderConfig(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1))\n"
    )
    assert what_it_says(code) == ""


def what_it_says(code):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout + ended.stderr
