"""Files of tensors, told apart by what is in them: safetensors, the zip pickles of torch, GGUF.

Sources: the safetensors format; `torch.save` since 1.6; ComfyUI's scaled fp8 files, where `X.scale_weight` (or
`X.weight_scale`) multiplies `X.weight`. The one invariant: opening reads names, shapes and types, never weights, and
runs nothing that a file carries; a tensor that is read in the type it is stored in stays mapped from the file.
"""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Device = str | torch.device
AGAIN = "download it again"

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _SAFETENSORS_DTYPES.items()}
# What ComfyUI puts beside a scaled weight. The last three say how it may be multiplied, not what it is.
_SCALES = ("scale_weight", "weight_scale")
_HINTS = ("scale_input", "input_scale", "comfy_quant")
_MARKER = "scaled_fp8"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that has not been read: its shape, its type (torch's name, or that of a GGML block) and its size."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


class TensorFile(ABC):
    """One file of named tensors.

    `tensors` leaves out what serves other tensors: scales, and marks, which nothing reads. `strays` names the marks.
    """

    format: str

    def __init__(
        self, path: Path, metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo], strays: tuple[str, ...] = ()
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self.strays = strays

    def read(self, name: str, device: Device = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name`, dequantised if need be; in `dtype` if it holds floats and one is given."""
        tensor = self._read(name).to(device)
        return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)

    def packed(self, name: str) -> tuple[Tensor, str]:
        """The bytes of `name` as they are in the file, mapped, and the name of their GGML type.

        Raises:
            ValueError: the file is no GGUF.
        """
        raise ValueError(f"tensor {name!r} in {self.path} is no GGML block: only GGUF files hold them")

    @abstractmethod
    def _read(self, name: str) -> Tensor:
        """The tensor on the CPU, as it is stored or, where that is no type to compute with, in float32."""


def open_tensors(path: str | Path) -> TensorFile:
    """The tensors of a file, whatever it is called.

    Raises:
        ValueError: the file is missing, torn, or none of the formats; the message says which, and what to do.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ValueError(f"{file} is missing" if not file.exists() else f"{file} cannot be read: {error}") from None
    size = file.stat().st_size
    if not size:
        raise ValueError(f"{file} is empty: {AGAIN}")
    if _looks_like_safetensors(head):
        return _Safetensors.open(file, size)
    if head.startswith(b"GGUF"):
        from everreel.checkpoint.gguf import GGUFFile

        return GGUFFile.open(file)
    if head.startswith(b"PK\x03\x04"):
        return _Pickled.open(file)
    if head.startswith(b"\x80"):
        raise ValueError(f"{file} is a bare pickle, which could run code: take the model as safetensors")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{file} is what git puts in the place of a large file: run `git lfs pull`, or {AGAIN}")
    raise ValueError(f"{file} is neither safetensors nor GGUF nor a file of torch: {AGAIN}")


def write_safetensors(
    file: Path, tensors: Mapping[str, tuple[TensorInfo, Callable[[], Tensor]]], metadata: Mapping[str, str]
) -> Iterator[str]:
    """Write tensors one after the other, so that one is in memory at a time; yields the name of each that is written.

    The library's own writer holds them all at once, which is the whole of a model.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    # Types with the widest elements first, as the library does, so that every tensor lies on a multiple of its width.
    order = sorted(tensors, key=lambda name: (-_dtype(tensors[name][0].dtype).itemsize, name))
    for name in order:
        info = tensors[name][0]
        begin, end = end, end + info.num_bytes
        code = _CODES[_dtype(info.dtype)]
        header[name] = {"dtype": code, "shape": list(info.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            info, read = tensors[name]
            tensor = read().detach().cpu().contiguous()
            assert tensor.dtype == _dtype(info.dtype) and tuple(tensor.shape) == info.shape, name
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            yield name


def describe(tensor: Tensor) -> TensorInfo:
    """The `TensorInfo` of a tensor."""
    return TensorInfo(tuple(tensor.shape), _name(tensor.dtype), tensor.numel() * tensor.element_size())


def and_more(names: Sequence[str]) -> str:
    """Behind the first of some names: how many there are beside it."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


class _Safetensors(TensorFile):
    format = "safetensors"

    @classmethod
    def open(cls, path: Path, size: int) -> _Safetensors:
        from safetensors import safe_open

        try:
            handle: Any = safe_open(path, framework="pt")
            names = list(handle.keys())
            metadata = handle.metadata() or {}
            pieces = {name: handle.get_slice(name) for name in names}
            listed = {name: _info(tuple(piece.get_shape()), piece.get_dtype()) for name, piece in pieces.items()}
        except Exception as error:  # the library raises its own kinds
            raise ValueError(f"{path} is torn: {_size_of(path, size)}{AGAIN} ({_first_line(error)})") from None
        scales: dict[str, str] = {}
        strays = {name for name in listed if name.rpartition(".")[2] == _MARKER}
        for name in listed:
            module, _, leaf = name.rpartition(".")
            if leaf in _SCALES and f"{module}.weight" in listed:
                scales[f"{module}.weight"] = name
            elif leaf in _HINTS and f"{module}.weight" in listed:
                strays.add(name)
        beside = strays | set(scales.values())
        file = cls(path, metadata, {n: i for n, i in listed.items() if n not in beside}, tuple(sorted(strays)))
        file._handle, file._scales = handle, scales
        for weight, scale in scales.items():
            file._check_scale(weight, listed[weight], scale, listed[scale])
        return file

    _handle: Any
    _scales: dict[str, str]

    def _check_scale(self, name: str, info: TensorInfo, scale: str, other: TensorInfo) -> None:
        rows = info.shape[0] if info.shape else 1
        elements = other.num_bytes // max(1, _dtype(other.dtype).itemsize)
        if not info.dtype.startswith(("float", "bfloat")) or elements not in (1, rows):
            raise ValueError(
                f"tensor {name!r} in {self.path} is {info.dtype} with {scale!r} of the shape {other.shape}: "
                "only floats with one scale, or one a row, can be read; take it in bf16, fp8 or as GGUF"
            )

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(name)
        if name in self._scales:
            scale = self._handle.get_tensor(self._scales[name]).float()
            scaled: Tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
            return scaled
        # fp8 is a way to store; no network computes with it as it is.
        return tensor.float() if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else tensor


class _Pickled(TensorFile):
    format = "torch"

    @classmethod
    def open(cls, path: Path) -> _Pickled:
        try:
            with warnings.catch_warnings(), path.open("rb") as stream:
                warnings.simplefilter("ignore")  # of TorchScript archives, which are refused below in our words
                # By such a name torch takes it for what it is not; handed over open, it cannot be mapped.
                misnamed = path.suffix == ".safetensors"
                file = stream if misnamed else path
                state = torch.load(file, map_location="cpu", weights_only=True, mmap=not misnamed)
        except Exception as error:  # torch and pickle raise their own kinds
            raise ValueError(_pickle_error(path, error)) from None
        if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError(f"{path}: must hold tensors by name and nothing else; take the model as safetensors")
        found = cls(path, {}, {str(name): describe(tensor) for name, tensor in state.items()})
        found._state = {str(name): tensor.detach() for name, tensor in state.items()}
        return found

    _state: dict[str, Tensor]

    def _read(self, name: str) -> Tensor:
        return self._state[name]


def _info(shape: tuple[int, ...], code: str) -> TensorInfo:
    dtype = _SAFETENSORS_DTYPES.get(code)
    if dtype is None:
        raise ValueError(f"its type {code} is not known")
    return TensorInfo(shape, _name(dtype), math.prod(shape) * dtype.itemsize)


def _looks_like_safetensors(head: bytes) -> bool:
    if len(head) < 9:
        return False
    length = struct.unpack("<Q", head[:8])[0]
    return bool(length < 2**32 and head[8:9] == b"{")


def _size_of(path: Path, size: int) -> str:
    """How much of a safetensors file is there, as far as its header says."""
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(min(length, size)))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, IndexError):
        return ""
    whole = 8 + length + max(ends, default=0)
    return f"{size} of {whole} bytes are there; " if size < whole else ""


def _pickle_error(path: Path, error: Exception) -> str:
    text = str(error)
    called = re.search(r"GLOBAL (\S+)", text)
    if called:
        return f"{path} carries code ({called[1]}), which is never run: take the model as safetensors"
    if "TorchScript" in text:
        return f"{path} is a TorchScript program, which is never run: take the model as safetensors"
    if "Weights only load failed" in text:
        return f"{path} holds more than tensors, which is not read: take the model as safetensors"
    return f"{path} is torn: {AGAIN} ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), name
    return dtype
