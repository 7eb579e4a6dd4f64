"""GGUF files of the transformer: read with their blocks as they are, and written.

Sources: the `gguf` package, which reads, quantises and dequantises; the files that ComfyUI's GGUF nodes read, with
official names, architecture `wan`, and `comfy.gguf.orig_shape.NAME` for a tensor stored in another shape. The one
invariant: blocks stay in the file, mapped, until they are asked for; a file that is written reads back to the bit
where it is not quantised, and to what the package's dequantiser gives where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from everreel.checkpoint.tensors import AGAIN, TensorFile, TensorInfo

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURE = "wan"
QUANTIZATIONS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "bf16", "f16", "f32")
"""What can be written; more types are read."""

_ORIGINAL = "comfy.gguf.orig_shape."
_PLAIN: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
_WHOLE: Mapping[str, torch.dtype] = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_VERSIONS = (2, 3)  # that the package reads
_FEW = 1024  # values: as small a tensor costs nothing as it is
# Of the blocks' matrices the weights are quantised. All else is small, and a film is sensitive to it.
_KEPT = ("modulation", "norm", "patch_embedding", "embedding", "projection", "img_emb", "head.")


class GGUFFile(TensorFile):
    """One GGUF file; `tensors` has the shapes of the network, and GGML's names of types that torch has not."""

    format = "gguf"
    _reader: GGUFReader

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Read the header of `path`; raises ValueError if it is torn."""
        from gguf import GGUFReader

        try:
            # Copy on write: nothing is ever written, but torch wants memory that could be.
            reader = GGUFReader(path, "c")
            fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        except Exception:  # numpy and the package raise their own kinds
            raise ValueError(f"{path} {_why_not(path)}") from None
        tensors = {}
        plain = {**_PLAIN, **_WHOLE}
        for tensor in reader.tensors:
            shape = fields.get(_ORIGINAL + tensor.name) or reversed(tensor.shape.tolist())
            kind = tensor.tensor_type.name
            dtype = str(plain[kind]).removeprefix("torch.") if kind in plain else kind
            tensors[tensor.name] = TensorInfo(tuple(int(n) for n in shape), dtype, int(tensor.n_bytes))
        metadata = {name: str(value) for name, value in fields.items() if isinstance(value, str | int | float)}
        file = cls(path, metadata, tensors)
        file._reader = reader
        file._by_name = {tensor.name: tensor for tensor in reader.tensors}
        return file

    _by_name: dict[str, Any]

    def packed(self, name: str) -> tuple[Tensor, str]:
        """The bytes of `name`, uint8, mapped, and the name of their type: Q8_0, Q4_K, F32, …"""
        tensor = self._by_name[name]
        return torch.from_numpy(tensor.data.reshape(-1).view("uint8")), str(tensor.tensor_type.name)

    def _read(self, name: str) -> Tensor:
        packed, kind = self.packed(name)
        shape = self.tensors[name].shape
        plain = {**_PLAIN, **_WHOLE}
        if kind in plain:
            return packed.view(plain[kind]).reshape(shape)
        from gguf.quants import dequantize

        tensor = self._by_name[name]
        try:
            return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).reshape(shape)
        except NotImplementedError:
            rule = "the gguf package cannot dequantise that; take the file in Q8_0 or a K type"
            raise ValueError(f"tensor {name!r} in {self.path} is {kind}: {rule}") from None


def _why_not(path: Path) -> str:
    """What is wrong with a file that the package cannot read."""
    with path.open("rb") as file:
        version = int.from_bytes(file.read(8)[4:], "little")  # behind the four letters that `open_tensors` knows it by
    if version not in _VERSIONS:
        return f"is a GGUF of version {version}: must be one of {', '.join(map(str, _VERSIONS))}; convert it again"
    return f"is torn: it ends after {path.stat().st_size:,} bytes, before all that its header names: {AGAIN}"


def write_gguf(
    file: Path,
    tensors: Mapping[str, tuple[TensorInfo, Callable[[], Tensor]]],
    metadata: Mapping[str, str],
    quantization: str | None = None,
) -> Iterator[str]:
    """Write tensors of official names one after the other; yields the name of each that is written.

    Args:
        file: is written over.
        tensors: what each is, and how to get it.
        metadata: strings beside the tensors.
        quantization: one of `QUANTIZATIONS`, for the matrices of the blocks; None keeps every tensor's own type.

    Raises:
        ValueError: the quantization is none that can be written.
    """
    check_quantization(quantization)
    import numpy as np
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.quants import quantize

    writer = GGUFWriter(None, ARCHITECTURE)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    for key, value in metadata.items():
        writer.add_string(key, value)
    kinds = {}
    for name, (info, _) in tensors.items():
        kinds[name] = kind = GGMLQuantizationType[_kind(name, info, quantization)]
        shape = info.shape or (1,)
        if len(shape) > 4 or not info.shape:
            # GGML knows four dimensions, and no scalar.
            writer.add_array(_ORIGINAL + name, [int(n) for n in shape])
            shape = (shape[0], math.prod(shape[1:]))
        values, num_bytes = GGML_QUANT_SIZES[kind]
        size = math.prod(shape) // values * num_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float16), size, raw_dtype=kind)
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (_, read) in tensors.items():
            tensor, kind = read().detach().cpu().contiguous(), kinds[name]
            if kind.name in _PLAIN:
                data = tensor.to(_PLAIN[kind.name]).reshape(-1).view(torch.uint8).numpy()
            else:
                data = quantize(tensor.float().numpy(), kind)
            writer.write_tensor_data(data)
            yield name
    finally:
        writer.close()


def check_quantization(quantization: str | None) -> None:
    """Refuse what cannot be written, with the nearest that can."""
    if quantization is None or quantization in QUANTIZATIONS:
        return
    rule = "K types can be read and not written" if "_k" in quantization.lower() else "not known"
    raise ValueError(
        f"quantization = {quantization!r}: {rule}; must be one of {', '.join(QUANTIZATIONS)}; nearest 'q8_0'"
    )


def _kind(name: str, info: TensorInfo, quantization: str | None) -> str:
    """The GGML type that a tensor is written in."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    own = next((kind for kind, dtype in _PLAIN.items() if str(dtype).removeprefix("torch.") == info.dtype), "F32")
    if quantization is None:
        return own
    kind, few = quantization.upper(), math.prod(info.shape) <= _FEW
    if len(info.shape) != 2 or few or any(part in name for part in _KEPT):
        return own
    # GGML blocks lie along a row.
    whole = info.shape[1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 0
    return kind if whole else own
