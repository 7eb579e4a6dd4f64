"""Files of tensors: told apart by content, read to the bit, and refused in one line that says what to do."""

import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint.tensors import describe, open_tensors, write_safetensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def some(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(6, 4, generator=generator).to(dtype),
        "a.bias": torch.randn(6, generator=generator).to(dtype),
        "scalar": torch.tensor(0.5, dtype=dtype),
    }


def refused(path, *words):
    """The message of the refusal: one line, with the file's name and `words` in it."""
    with pytest.raises(ValueError) as caught:
        open_tensors(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message, message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_what_was_written_is_read_to_the_bit(tmp_path, dtype, form):
    file = tmp_path / "named.wrongly"
    state = some(dtype)
    (save_file if form == "safetensors" else torch.save)(state, file)
    found = open_tensors(file)
    assert (found.format, found.path, found.strays) == (form, file, ())
    assert found.tensors == {name: describe(tensor) for name, tensor in state.items()}
    for name, tensor in state.items():
        assert torch.equal(found.read(name), tensor) and found.read(name).dtype == dtype
        assert found.read(name, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ValueError, match="only GGUF"):
        found.packed("a.weight")


def test_no_length_of_a_header_looks_like_another_format(tmp_path):
    """A header of 128 bytes and more of 256 begins a file with the mark of a pickle."""
    for length in range(200):
        save_file({"a": torch.ones(1)}, tmp_path / "f", metadata={"x": "y" * 8 * length})
        assert open_tensors(tmp_path / "f").format == "safetensors"


def test_whole_numbers_keep_their_type(tmp_path):
    save_file({"n": torch.arange(3)}, tmp_path / "n")
    assert open_tensors(tmp_path / "n").read("n", dtype=torch.float16).dtype == torch.int64


def test_metadata_is_read(tmp_path):
    save_file(some(), tmp_path / "m", metadata={"modelspec.title": "x"})
    assert open_tensors(tmp_path / "m").metadata == {"modelspec.title": "x"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("leaf,hint", [("scale_weight", "scale_input"), ("weight_scale", "input_scale")])
def test_scaled_fp8_is_multiplied_out(tmp_path, dtype, leaf, hint):
    weight = some()["a.weight"].to(dtype)
    state = {
        "a.weight": weight,
        "a.bias": torch.ones(6, dtype=torch.bfloat16),
        f"a.{leaf}": torch.tensor(0.25),
        f"a.{hint}": torch.tensor(3.0),
        "scaled_fp8": torch.empty(2, dtype=dtype),
        "model.diffusion_model.scaled_fp8": torch.empty(2, dtype=dtype),
        "b.weight": weight.clone(),
    }
    save_file(state, tmp_path / "fp8")
    found = open_tensors(tmp_path / "fp8")
    assert found.tensors.keys() == {"a.weight", "a.bias", "b.weight"}
    assert found.tensors["a.weight"].dtype == str(dtype).removeprefix("torch.")
    assert set(found.strays) == {f"a.{hint}", "scaled_fp8", "model.diffusion_model.scaled_fp8"}
    assert torch.equal(found.read("a.weight"), weight.float() * 0.25)
    assert torch.equal(found.read("b.weight"), weight.float())
    assert found.read("a.weight", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_scale_for_each_row(tmp_path):
    weight, scale = some()["a.weight"].to(torch.float8_e4m3fn), torch.rand(6, 1)
    save_file({"a.weight": weight, "a.weight_scale": scale}, tmp_path / "fp8")
    assert torch.equal(open_tensors(tmp_path / "fp8").read("a.weight"), weight.float() * scale)


@pytest.mark.parametrize(
    "weight,scale",
    [(torch.zeros(6, 4, dtype=torch.uint8), torch.ones(1)), (torch.zeros(6, 4), torch.ones(6, 2))],
)
def test_other_ways_of_scaling_are_refused(tmp_path, weight, scale):
    save_file({"a.weight": weight, "a.weight_scale": scale}, tmp_path / "nvfp4.safetensors")
    refused(tmp_path / "nvfp4.safetensors", "'a.weight'", "take it in bf16")


def test_a_tensor_in_its_own_type_stays_in_the_file(tmp_path):
    """Mapped: what is written to the file afterwards is seen, which no copy would do."""
    for save, name in ((save_file, "s"), (torch.save, "t")):
        state = {"w": torch.full((4096,), 3.0)}
        save(state, tmp_path / name)
        tensor = open_tensors(tmp_path / name).read("w", dtype=torch.float32)
        content = (tmp_path / name).read_bytes()
        begin = content.index(struct.pack("<f", 3.0) * 4096)
        with (tmp_path / name).open("r+b") as stream:
            stream.seek(begin)
            stream.write(struct.pack("<f", 1.0) * 4096)
        assert tensor.sum() == 4096


@pytest.mark.parametrize("kept", [0, 5, 40, 200, -1])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_torn_file_is_named(tmp_path, kept, save):
    file = tmp_path / "half.safetensors"
    save({"a": torch.randn(300)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    message = refused(file, "download it again")
    if save is save_file and kept in (200, -1):
        assert f"{file.stat().st_size} of " in message and "bytes are there" in message


def test_what_is_no_file_of_tensors_is_named(tmp_path):
    refused(tmp_path / "none.safetensors", "missing")
    for content, word in (
        (b"<html><body>not found</body></html>", "neither"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (pickle.dumps({"a": 1}), "safetensors"),
    ):
        (tmp_path / "x").write_bytes(content)
        refused(tmp_path / "x", word)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "cannot be read")


class Evil:
    """What a pickle may ask for: a call."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_carries_code_runs_nothing__released_defect_39(tmp_path, legacy):
    proof = tmp_path / "it-ran"
    torch.save({"a": Evil(proof)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "evil.pth", "safetensors")
    assert not proof.exists()
    if not legacy:
        refused(tmp_path / "evil.pth", "mkdir", "never run")
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists()  # it would have run


def test_a_pickle_of_other_things_is_refused(tmp_path):
    torch.save({"a": 3}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "nothing else")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(tmp_path / "b.pth")


def test_safetensors_are_written_one_by_one(tmp_path):
    """Our own writer, against the library's reader: names, metadata, types of every width, nothing at the end."""
    state = some(torch.bfloat16) | {
        "long": torch.arange(3),
        "byte": torch.arange(5, dtype=torch.uint8),
        "fp8": torch.ones(3).to(torch.float8_e4m3fn),
        "äöü": torch.eye(2),
        "none": torch.zeros(0, 3),
    }
    tensors = {name: (describe(tensor), lambda tensor=tensor: tensor) for name, tensor in state.items()}
    written = list(write_safetensors(tmp_path / "w", tensors, {"a": "b"}))
    assert sorted(written) == sorted(state)
    from safetensors import safe_open

    with safe_open(tmp_path / "w", framework="pt") as found:
        assert found.metadata() == {"a": "b"} and set(found.keys()) == set(state)
        for name, tensor in state.items():
            read = found.get_tensor(name)
            assert read.dtype == tensor.dtype and torch.equal(read.float(), tensor.float())


def test_a_file_of_torch_is_told_by_its_content_whatever_it_is_called(tmp_path):
    for name in ("x.safetensors", "x.gguf", "x"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
        assert torch.equal(open_tensors(tmp_path / name).read("a"), torch.ones(2))
