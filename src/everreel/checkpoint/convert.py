"""A model from one layout to another: the released folder, diffusers' folder, one safetensors file, GGUF.

Source: the layouts that `source` finds. The one invariant: what stands at the target is whole. It is written under
another name beside it and renamed when its last byte is there; whatever goes wrong, nothing of it stays behind. Nothing
is changed that is not asked for: without quantisation and with the stored type every tensor comes back to the bit.

Tensors go one by one from the mapped source into the file. Only `.pth` files, which torch writes at once, hold what
has to be converted to another type in memory, and so does CLIP, whose official names fuse tensors.
"""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from everreel.checkpoint import configs, keymap
from everreel.checkpoint.configs import Kind
from everreel.checkpoint.contents import CONFIG, Role
from everreel.checkpoint.gguf import check_quantization, write_gguf
from everreel.checkpoint.load import (
    Opened,
    State,
    load_tokenizer,
    open_part,
    part_of,
    save_tokenizer,
    with_prefix,
)
from everreel.checkpoint.places import OFFICIAL, RECORD
from everreel.checkpoint.source import KINDS, Part, Source, find_source, lacking
from everreel.checkpoint.tensors import TensorInfo, describe, write_safetensors
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.image_encoder import ImageEncoder

Target = Literal["official", "diffusers", "gguf", "safetensors"]
TARGETS: tuple[Target, ...] = ("official", "diffusers", "gguf", "safetensors")

Tensors = Mapping[str, tuple[TensorInfo, Callable[[], Tensor]]]
_SHIFTS: Mapping[Kind, float] = {"df": 8.0, "t2v": 8.0, "i2v": 5.0}
_INDEX: Mapping[Kind, Mapping[str, Any]] = {
    configs.KIND_OF_PIPELINE[str(index["_class_name"])]: index
    for index in (configs.MODEL_INDEX, configs.TEXT_MODEL_INDEX, configs.IMAGE_MODEL_INDEX)
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")


def convert(
    source: str | Path | Source,
    target: str | Path,
    *,
    to: Target,
    quantization: str | None = None,
    dtype: torch.dtype | None = None,
    kind: Kind | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model in another layout.

    Args:
        source: a model's path, or what `find_source` found there.
        target: a folder for `official` and `diffusers`; for `safetensors` and `gguf` a file of the transformer alone.
        to: the layout.
        quantization: of a GGUF file; None keeps every tensor's own type.
        dtype: of all tensors; None keeps the stored type, and bfloat16 for what is stored quantised or in 8 bits.
        kind: what the model was trained for, where the source does not say it.
        overwrite: replace what stands at the target, when the new is whole.
        on_progress: told the tensors written and how many there are.

    Raises:
        ValueError: the source cannot be read, a part is missing, the target exists, or the disk is full.
    """
    path = Path(target).expanduser()
    if to not in TARGETS:
        raise ValueError(f"to = {to!r}: must be one of {', '.join(TARGETS)}")
    if quantization is not None and to != "gguf":
        raise ValueError(f"quantization = {quantization!r}: only GGUF is written quantised; use to = 'gguf'")
    check_quantization(quantization)
    model = source if isinstance(source, Source) else find_source(source)
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise ValueError(f"target = {str(target)!r}: is there already; give another name, or overwrite it")
    if path.exists() and path.resolve() in (file.resolve() for file in (model.path, *model.path.absolute().parents)):
        raise ValueError(f"target = {str(target)!r}: holds the source; give another name")
    job = _Job(model, _kind_of(model, kind, to), dtype, on_progress)
    with _whole(path) as partial_path:
        if to == "official":
            job.official(partial_path)
        elif to == "diffusers":
            job.diffusers(partial_path)
        else:
            job.single(partial_path, to, quantization)


@dataclass
class _Job:
    """One conversion; `done` of `total` tensors are written."""

    model: Source
    kind: Kind | None
    dtype: torch.dtype | None
    on_progress: Callable[[int, int], None] | None
    done: int = 0
    total: int = 0

    def single(self, file: Path, to: Target, quantization: str | None) -> None:
        """The transformer alone, under official names."""
        opened = open_part(self.model.transformer)
        tensors = _tensors(opened, dict, self.dtype)
        self.total = len(tensors)
        notes = self.notes()
        metadata = {f"everreel.{key}": value for key, value in notes.items()}
        metadata[CONFIG] = json.dumps(configs.transformer_config_to_diffusers(self.model.config))
        if to == "gguf":
            title = {"general.name": notes["name"]} if "name" in notes else {}
            self.follow(write_gguf(file, tensors, {**metadata, **title}, quantization))
        else:
            self.follow(write_safetensors(file, tensors, {"format": "pt", **metadata}))

    def official(self, folder: Path) -> None:
        """As the released repositories are."""
        parts, notes = self.parts(), dict[str, Any](self.notes())
        renames = {"text_encoder": keymap.umt5_to_official, "image_encoder": keymap.clip_to_official}
        configs.write_json(folder / "config.json", configs.transformer_config_to_official(self.model.config))
        for role, (part, opened) in parts.items():
            tensors = _tensors(opened, renames.get(role, dict), self.dtype)
            if role == "transformer":
                self.follow(write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"}))
                continue
            notes[role] = _fields(part, tensors)
            _save_pickle({name: _alone(read()) for name, (_, read) in tensors.items()}, folder / OFFICIAL[role])
            self.follow(iter(opened.shards.infos))
        configs.write_json(folder / RECORD, notes)
        _copy_tokenizer(self.model, folder / "google" / "umt5-xxl")

    def diffusers(self, folder: Path) -> None:
        """As diffusers reads it."""
        assert self.kind is not None
        parts = self.parts()
        configs.write_json(folder / "model_index.json", _INDEX[self.kind])
        scheduler = self.model.path / "scheduler" / "scheduler_config.json"
        settings = configs.read_json(scheduler) if scheduler.is_file() else configs.scheduler_config(_SHIFTS[self.kind])
        configs.write_json(folder / "scheduler" / "scheduler_config.json", settings)
        for role, (part, opened) in parts.items():
            tensors = _tensors(opened, _to_diffusers(part), self.dtype)
            configs.write_json(folder / role / "config.json", _fields(part, tensors))
            stem = "model" if role in ("text_encoder", "image_encoder") else "diffusion_pytorch_model"
            self.follow(write_safetensors(folder / role / f"{stem}.safetensors", tensors, {"format": "pt"}))
            if isinstance(part.config, ImageEncoderConfig):
                settings = configs.image_processor_config(part.config.image_size)
                configs.write_json(folder / "image_processor" / "preprocessor_config.json", settings)
        configs.write_json(folder / RECORD, self.notes())
        _copy_tokenizer(self.model, folder / "tokenizer")

    def parts(self) -> dict[Role, tuple[Part, Opened]]:
        """Every network that the model needs, checked before a byte is written."""
        if self.model.tokenizer is None:
            raise lacking(self.model.path, "tokenizer")
        load_tokenizer(self.model)  # its files are copied as they are: whole, as is known now
        roles: list[Role] = ["vae", "text_encoder"]
        if self.model.config.image_dim is not None:
            roles.append("image_encoder")
        found: dict[Role, Part] = {"transformer": self.model.transformer}
        found |= {role: part_of(self.model, role) for role in roles}
        opened = {role: (part, open_part(part)) for role, part in found.items()}
        self.total = sum(len(each.shards.infos) for _, each in opened.values())
        return opened

    def notes(self) -> dict[str, str]:
        """What the model is for, and its published name, as far as they are known."""
        return {key: value for key, value in (("kind", self.kind), ("name", self.model.name)) if value is not None}

    def follow(self, written: Iterator[str]) -> None:
        """Run a writer to its end."""
        for _ in written:
            self.done = min(self.done + 1, self.total)
            if self.on_progress is not None:
                self.on_progress(self.done, self.total)


def _kind_of(model: Source, kind: Kind | None, to: Target) -> Kind | None:
    """What the model was trained for, by the source or else as it was given."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    if kind is not None and model.kind is not None and kind != model.kind:
        raise ValueError(f"kind = {kind!r}: {model.path} says {model.kind!r}; leave it out")
    kind = kind or model.kind
    if kind is not None and (kind == "i2v") != (model.config.image_dim is not None):
        has = "has no" if kind == "i2v" else "has an"
        raise ValueError(
            f"kind = {kind!r}: {model.path} {has} image branch; must be {'df or t2v' if kind == 'i2v' else 'i2v'}"
        )
    if kind is None and to == "diffusers":
        raise ValueError(
            f"kind: {model.path} does not say what it was trained for, and the folder has to; give df or t2v"
        )
    return kind


def _tensors(opened: Opened, rename: Callable[[State], dict[str, Tensor]], dtype: torch.dtype | None) -> Tensors:
    """The tensors of a network under other names: what each will be, and how to get it."""
    shards = opened.shards
    wanted = {name: dtype or _stored(info.dtype) for name, info in shards.infos.items()}
    if isinstance(opened.module, ImageEncoder):
        # Its maps split and fuse tensors, so they need them all.
        state = rename(opened.from_file({name: shards.read(name, "cpu", wanted[name]) for name in shards.infos}))
        return {name: (describe(tensor), partial(_given, tensor)) for name, tensor in state.items()}
    found = {}
    for name, info in shards.infos.items():
        (new,) = rename(opened.from_file({name: torch.empty(0)}))
        size = math.prod(info.shape) * wanted[name].itemsize
        kept = TensorInfo(info.shape, str(wanted[name]).removeprefix("torch."), size)
        found[new] = (kept, partial(shards.read, name, "cpu", wanted[name]))
    return found


def _stored(dtype: str) -> torch.dtype:
    """The type that a tensor is written in when none is asked for."""
    found = getattr(torch, dtype, None)
    return found if isinstance(found, torch.dtype) and not dtype.startswith("float8") else torch.bfloat16


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _to_diffusers(part: Part) -> Callable[[State], dict[str, Tensor]]:
    if isinstance(part.config, TransformerConfig):
        return keymap.transformer_to_diffusers
    if isinstance(part.config, VAEConfig):
        return partial(keymap.vae_to_diffusers, config=part.config)
    return with_prefix if isinstance(part.config, ImageEncoderConfig) else dict


def _fields(part: Part, tensors: Tensors) -> dict[str, Any]:
    """The words of a part's config.json."""
    config = part.config
    dtype = Counter(info.dtype for info, _ in tensors.values()).most_common(1)[0][0]
    if isinstance(config, TransformerConfig):
        return configs.transformer_config_to_diffusers(config)
    if isinstance(config, VAEConfig):
        return configs.vae_config_to_diffusers(config)
    if isinstance(config, TextEncoderConfig):
        return configs.text_config_to_transformers(config, dtype)
    return configs.image_config_to_transformers(config, dtype)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor as the only one of its storage, not copied: torch saves whole storages, and this may be a file's."""
    bytes_alone = torch.from_numpy(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return bytes_alone.view(tensor.dtype).reshape(tensor.shape)


def _save_pickle(state: State, file: Path) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's own words for a disk that takes no more
        raise OSError(errno.EIO, f"{file.name} could not be written") from error


def _copy_tokenizer(model: Source, folder: Path) -> None:
    where = model.tokenizer
    if where is None or where.is_file():
        save_tokenizer(folder, load_tokenizer(model))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES:
        if (where / name).is_file():
            shutil.copyfile(where / name, folder / name)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Another name for `path`, that becomes it when all went well, and is gone when not."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(unfinished)
        yield unfinished
        replaced = path.with_name(f".{path.name}.replaced")
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)
        _remove(replaced)
    except BaseException as error:
        _remove(unfinished)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise ValueError(f"target = {str(path)!r}: {reason}; nothing of it was kept") from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
