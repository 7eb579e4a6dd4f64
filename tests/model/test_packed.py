"""GGML blocks, unpacked: to the bit what the gguf package gives, on bytes that files may hold."""

import copy

import gguf
import numpy as np
import pytest
import torch

from everreel.model import packed as packing
from everreel.model.packed import PackedLinear, dequantize, packed_bytes

TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16", "F32"]
# Where a block has its half-precision numbers: of random bytes these alone can be no numbers at all.
HALVES = {"Q8_0": [0], "Q6_K": [208], "Q5_K": [0, 2], "Q4_K": [0, 2], "Q3_K": [108], "Q2_K": [80, 82]}
HALVES |= {"Q5_1": [0, 2], "Q5_0": [0], "Q4_1": [0, 2], "Q4_0": [0]}


def random_blocks(name, rows, columns, seed=0):
    """Blocks in which every bit of every field is drawn."""
    rng = np.random.default_rng(seed)
    if name not in HALVES:
        dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[name]
        values = torch.from_numpy(rng.normal(size=(rows, columns))).to(dtype)
        return values.view(torch.uint8).reshape(rows, -1)
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = rng.normal(0, 0.02, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


def oracle(packed, name):
    return torch.from_numpy(gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType[name]).copy())


@pytest.mark.parametrize("name", TYPES)
def test_blocks_unpack_to_what_the_oracle_gives(name):
    packed = random_blocks(name, 6, 512)
    found = dequantize(packed, name, (6, 512))
    assert torch.equal(found, oracle(packed, name))
    assert found.unique().numel() > 12  # not one of a few
    assert torch.equal(dequantize(packed, name, (3, 2, 512), torch.bfloat16), found.bfloat16().view(3, 2, 512))


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_the_oracle(name):
    shape = gguf.quant_shape_to_byte_shape((3, 512), gguf.GGMLQuantizationType[name])
    assert packed_bytes(name, (3, 512)) == np.prod(shape)


@pytest.mark.parametrize("name", TYPES)
def test_pieces_are_the_whole_and_any_offset_of_a_file_will_do(name, monkeypatch):
    packed = random_blocks(name, 5, 256)
    whole = dequantize(packed, name, (5, 256))
    monkeypatch.setattr(packing, "UNPACKED_AT_ONCE", 300)
    odd = torch.cat([torch.zeros(3, dtype=torch.uint8), packed.flatten()])[3:]
    assert torch.equal(dequantize(odd, name, (5, 256)), whole)


@pytest.mark.parametrize(("name", "most"), [("Q8_0", 0.01), ("Q5_1", 0.05), ("Q4_0", 0.12)])
def test_a_packed_layer_is_nearly_the_layer(name, most):
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 48).requires_grad_(False)
    torch.nn.init.normal_(layer.weight, generator=generator)
    blocks = gguf.quants.quantize(layer.weight.numpy(), gguf.GGMLQuantizationType[name])
    packed = PackedLinear(torch.from_numpy(blocks), name, (48, 64), layer.bias)
    x = torch.randn(2, 7, 64, generator=generator)
    expected, found = layer(x), packed(x)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < most
    exact = torch.nn.functional.linear(x, oracle(packed.packed, name), layer.bias)
    assert torch.allclose(found, exact, atol=1e-5)
    assert sum(b.numel() * b.element_size() for b in packed.buffers()) < 0.6 * 4 * layer.weight.numel()


def test_a_packed_layer_moves_and_is_saved_as_any_module():
    packed = random_blocks("Q4_K", 4, 256)
    layer = PackedLinear(packed, "Q4_K", (4, 256), torch.ones(4))
    assert dict(layer.state_dict()).keys() == {"packed", "bias"} and not list(layer.parameters())
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half.packed.dtype == torch.uint8 and torch.equal(half.packed, packed)
    x = torch.ones(2, 256)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    other = PackedLinear(torch.zeros_like(packed), "Q4_K", (4, 256), torch.zeros(4))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert layer.to("meta").packed.device.type == "meta"


@pytest.mark.parametrize(
    ("size", "name", "shape", "words"),
    [
        (34, "IQ2_XS", (1, 32), r"ggml_type = IQ2_XS: must be one of Q8_0, .*; convert the file to Q8_0"),
        (34, "Q8_0", (1, 33), r"shape = \(1, 33\): rows of Q8_0 must be a multiple of 32; F16 takes any"),
        (33, "Q8_0", (1, 32), r"packed = 33 values of uint8: Q8_0 of shape \(1, 32\) must be 34 of uint8"),
    ],
)
def test_what_does_not_fit_is_refused(size, name, shape, words):
    packed = torch.zeros(size, dtype=torch.uint8)
    with pytest.raises(ValueError, match=words):
        dequantize(packed, name, shape)
    with pytest.raises(ValueError, match=words):
        PackedLinear(packed, name, shape)
