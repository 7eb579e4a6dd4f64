"""GGUF: what is written is read to the bit, or to the quantisation's error; the package's dequantiser decides."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from everreel.checkpoint.gguf import QUANTIZATIONS, write_gguf
from everreel.checkpoint.tensors import describe, open_tensors

# The largest error of a weight, in the largest weight of its block.
ERRORS = {"q8_0": 1 / 200, "q5_1": 1 / 30, "q5_0": 1 / 15, "q4_1": 1 / 14, "q4_0": 1 / 7, "bf16": 1 / 256, "f16": 1e-3}


def some(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "patch_embedding.weight": (48, 16, 1, 2, 2),
        "text_embedding.0.weight": (48, 64),
        "blocks.0.self_attn.q.weight": (48, 64),
        "blocks.0.self_attn.q.bias": (48,),
        "blocks.0.self_attn.norm_q.weight": (48,),
        "blocks.0.modulation": (1, 6, 48),
        "blocks.0.ffn.0.weight": (64, 48),  # no whole number of blocks in a row
        "head.head.weight": (64, 64),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def write(file, state, quantization=None, metadata=()):
    tensors = {name: (describe(tensor), lambda tensor=tensor: tensor) for name, tensor in state.items()}
    assert list(write_gguf(file, tensors, dict(metadata), quantization)) == list(state)
    return open_tensors(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unquantised_it_comes_back_to_the_bit(tmp_path, dtype):
    state = some(dtype) | {"scalar": torch.tensor(2.0, dtype=dtype)}
    found = write(tmp_path / "x.bin", state, metadata={"everreel.kind": "df"})
    assert found.format == "gguf"
    assert found.metadata["general.architecture"] == "wan" and found.metadata["everreel.kind"] == "df"
    scalar = found.read("scalar")
    assert scalar.numel() == 1 and scalar.item() == 2
    for name, tensor in some(dtype).items():
        assert found.tensors[name] == describe(tensor)
        read = found.read(name)
        assert read.dtype == dtype and torch.equal(read, tensor)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_matrices_of_the_blocks_are_quantised_and_nothing_else(tmp_path, quantization):
    state = some()
    found = write(tmp_path / "x.gguf", state, quantization)
    quantised = {"blocks.0.self_attn.q.weight"} | (
        {"blocks.0.ffn.0.weight"} if quantization in ("bf16", "f16") else set()
    )
    quantised -= quantised if quantization == "f32" else set()
    changed = {name for name, info in found.tensors.items() if info.dtype != "float32"}
    assert changed == quantised
    for name, tensor in state.items():
        read, info = found.read(name), found.tensors[name]
        assert info.shape == read.shape == tensor.shape
        if name not in quantised:
            assert torch.equal(read, tensor)
            continue
        error, largest = ((blocks.reshape(-1, 16).abs().amax(1)) for blocks in (read.float() - tensor, tensor))
        largest = largest.reshape(-1, 2).amax(1).repeat_interleave(2)  # GGML's blocks are of 32
        assert 0 < (error / largest).max() < ERRORS[quantization]


def test_blocks_are_handed_out_as_they_are(tmp_path):
    """Mapped, and what the package makes of them is what `read` gives."""
    found = write(tmp_path / "x.gguf", some(), "q4_0")
    name = "blocks.0.self_attn.q.weight"
    packed, kind = found.packed(name)
    assert (packed.dtype, kind, packed.numel()) == (torch.uint8, "Q4_0", 48 * 64 // 32 * 18)
    expected = dequantize(packed.numpy().reshape(48, -1), GGMLQuantizationType.Q4_0)
    assert np.array_equal(found.read(name).numpy(), expected)
    raw, kind = found.packed("blocks.0.modulation")
    assert kind == "F32" and torch.equal(raw.view(torch.float32), some()["blocks.0.modulation"].flatten())
    begin = (tmp_path / "x.gguf").read_bytes().index(packed.numpy().tobytes())
    with (tmp_path / "x.gguf").open("r+b") as stream:
        stream.seek(begin)
        stream.write(b"\x07" * 18)
    assert packed[:18].tolist() == [7] * 18


@pytest.mark.parametrize("kind", ["Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"])
def test_k_types_are_read(tmp_path, kind):
    """The package writes none of them, so their bytes are made up; its dequantiser says what they mean."""
    ggml = GGMLQuantizationType[kind]
    from gguf.constants import GGML_QUANT_SIZES

    width = GGML_QUANT_SIZES[ggml][1]
    rows = np.random.default_rng(0).integers(0, 60, (3, 2 * width), dtype=np.uint8)
    writer = GGUFWriter(tmp_path / "k.gguf", "wan")
    writer.add_tensor("blocks.0.ffn.0.weight", rows, raw_dtype=ggml)
    close(writer)
    found = open_tensors(tmp_path / "k.gguf")
    info = found.tensors["blocks.0.ffn.0.weight"]
    assert (info.shape, info.dtype) == ((3, 512), kind)
    expected = torch.from_numpy(dequantize(rows, ggml))
    assert torch.equal(found.read("blocks.0.ffn.0.weight"), expected) and expected.abs().max() > 0


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_files_of_others_keep_shapes_in_two_ways(tmp_path):
    """Five dimensions as they are, and any shape beside rows that fit a block."""
    writer = GGUFWriter(tmp_path / "x.gguf", "wan")
    five = np.arange(48 * 16 * 4, dtype=np.float32).reshape(48, 16, 1, 2, 2)
    writer.add_tensor("patch_embedding.weight", five)
    rows = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(4, 32)
    writer.add_array("comfy.gguf.orig_shape.a.weight", [2, 64])
    writer.add_tensor("a.weight", quantize(rows, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    close(writer)
    found = open_tensors(tmp_path / "x.gguf")
    assert torch.equal(found.read("patch_embedding.weight"), torch.from_numpy(five))
    assert found.tensors["a.weight"].shape == (2, 64)
    assert torch.allclose(found.read("a.weight").flatten(), torch.from_numpy(rows).flatten(), atol=1 / 100)


def test_the_packages_reader_reads_what_is_written(tmp_path):
    state = some(torch.bfloat16)
    write(tmp_path / "x.gguf", state, "q8_0")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "x.gguf").tensors}
    assert tensors.keys() == state.keys() and max(len(tensor.shape) for tensor in tensors.values()) <= 4
    assert tensors["blocks.0.self_attn.q.weight"].tensor_type == GGMLQuantizationType.Q8_0
    assert tensors["patch_embedding.weight"].tensor_type == GGMLQuantizationType.BF16


@pytest.mark.parametrize("kept", [6, 30, 200, -1])
def test_a_torn_file_is_named(tmp_path, kept):
    write(tmp_path / "x.gguf", some(), "q8_0")
    (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.gguf is torn.*download it again") as caught:
        open_tensors(tmp_path / "x.gguf")
    assert "\n" not in str(caught.value)


def test_a_version_that_is_not_known_is_named(tmp_path):
    write(tmp_path / "x.gguf", some(), "q8_0")
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    data[4] = 9
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.gguf is a GGUF of version 9: must be one of 2, 3"):
        open_tensors(tmp_path / "x.gguf")


@pytest.mark.parametrize("quantization,rule", [("q4_k", "K types can be read"), ("Q9", "not known")])
def test_what_cannot_be_written_is_refused(tmp_path, quantization, rule):
    with pytest.raises(ValueError, match=f"quantization = '{quantization}': {rule}.*nearest 'q8_0'"):
        write(tmp_path / "x.gguf", some(), quantization)
    assert not (tmp_path / "x.gguf").exists()
