"""LoRA files: read for a transformer, and written in the key style of one's choice.

Sources: the files of diffusers and peft, of kohya's trainers, and of the few-step distilled Wan models (`lora_keys`
says what their keys mean). The one invariant: every tensor of a file is used, or named in a note, or an error; a LoRA
written in one style and read again is the same LoRA.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from everreel.checkpoint import lora_keys
from everreel.checkpoint.lora import Lora, Pair, Preset, preset_of
from everreel.checkpoint.lora_keys import Key, Names, Role
from everreel.checkpoint.tensors import and_more, open_tensors
from everreel.model.config import TransformerConfig
from everreel.shapes import LATENT_CHANNELS, TEMPORAL

LORA_FILE = "pytorch_lora_weights.safetensors"  # where diffusers looks for one in a folder
Style = Literal["diffusers", "kohya", "official"]


def read_lora(path: str | Path, config: TransformerConfig) -> Lora:
    """A LoRA file (safetensors, or a torch zip file), or a folder that holds one, for a transformer of that config.

    Raises:
        ValueError: the file cannot be read, is no LoRA, is one of another model, or holds tensors without a meaning.
    """
    file = _one_file(Path(path))
    tensors, metadata = _read_file(file)
    lora_keys.refuse(str(file), tensors)
    names = Names(config)
    found = {name: names.find(name) for name in tensors}
    keys = [key for key in found.values() if key is not None]
    here, notes = _sort_out(file, keys, names, tensors)
    _check_shapes(file, here, names, tensors, config)
    if unknown := [name for name, key in found.items() if key is None]:
        raise ValueError(
            f"lora = {str(file)!r}: tensor {unknown[0]!r} is for nothing in this transformer "
            f"({len(unknown)} of {len(tensors)} are): must be a LoRA of Wan2.1 or SkyReels-V2"
        )
    if beyond := [key.name for key in keys if names.is_beyond(key.target)]:
        raise ValueError(
            f"lora = {str(file)!r}: tensor {beyond[0]!r} is of a block that this model of {config.num_layers} "
            f"has not{and_more(beyond)}: it is for a deeper model"
        )
    if not here:
        raise ValueError(f"lora = {str(file)!r}: holds nothing for this model; {' '.join(notes) or 'it is empty'}")
    where, settings = _settings(file, keys, metadata)
    pairs, diffs = _gather(file, here, tensors, settings)
    if where != file:
        notes.append(f"{file.name}: alpha is what {where.name} beside it says")
    return Lora(file, pairs, diffs, tuple(notes), metadata)


def preset_for(path: str | Path) -> Preset | None:
    """The settings of a published few-step LoRA, by its file's name or title alone; see `preset_of`.

    Raises:
        ValueError: there is no such file, or it is torn.
    """
    file = _one_file(Path(path).expanduser())
    return preset_of(Lora(file, {}, {}, metadata=open_tensors(file).metadata))


def write_lora(path: str | Path, lora: Lora, style: Style = "diffusers") -> None:
    """Write a LoRA as safetensors, in the keys that diffusers and peft, kohya's trainers or ComfyUI read.

    The diffusers style has no words for whole differences but biases beside a pair, which it multiplies by the
    pair's scale, so that they are written divided by it: exact where the scale is a power of two.

    Raises:
        ValueError: the style is unknown, or cannot say what the LoRA does.
    """
    if style == "diffusers":
        tensors, metadata = _in_diffusers_style(lora)
    elif style in ("kohya", "official"):
        tensors, metadata = _in_dotted_style(lora, style), {}
    else:
        raise ValueError(f"style = {style!r}: must be diffusers, kohya or official")
    kept = {name: value for name, value in lora.metadata.items() if name not in _SETTINGS}
    target = Path(path)
    half_done = target.with_name(f"{target.name}.part")
    try:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, half_done, metadata={**kept, **metadata, "format": "pt"})
        half_done.replace(target)
    finally:
        half_done.unlink(missing_ok=True)


_FOLDER_FILES = ("adapter_model.safetensors", LORA_FILE, "adapter_model.bin")
_PEFT = "lora_adapter_metadata"  # where diffusers keeps peft's settings
_KOHYA_ALPHA = "ss_network_alpha"
_SETTINGS = {_PEFT, _KOHYA_ALPHA, "ss_network_dim", "ss_network_args", "format"}  # written anew or by the tensors
_NOISE, _NOISE_AND_PICTURE = LATENT_CHANNELS, 2 * LATENT_CHANNELS + TEMPORAL  # channels of the input
_DIFFS = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}


def _one_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"lora = {str(path)!r}: no such file")
    files = [path / name for name in _FOLDER_FILES if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"lora = {str(path)!r}: holds {len(files)} LoRA files: give one of them")
    return files[0]


def _read_file(file: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        opened = open_tensors(file)
    except ValueError as error:
        raise ValueError(f"lora = {str(file)!r}: cannot be read: {error}") from None
    tensors = {name: opened.read(name) for name in opened.tensors}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and not name.endswith(".alpha"):
            raise ValueError(f"lora = {str(file)!r}: tensor {name!r} holds {tensor.dtype}: must be floating point")
    return tensors, opened.metadata


def _sort_out(
    file: Path, keys: Sequence[Key], names: Names, tensors: Mapping[str, Tensor]
) -> tuple[list[Key], list[str]]:
    """The keys that change this model, and a note for each kind that has no place in it."""
    why: dict[str, str] = {}  # by the module's name in the file
    for key in keys:
        shape, found = names.shape(key.target), tensors[key.name].shape
        if shape is None and not names.is_beyond(key.target):
            what = "the frame rate" if key.target.startswith("fps_") else "an image"
            why[key.module] = f"for {what}, which this model does not take"
        elif key.target == "patch_embedding.weight" and _takes_other_input(key, found, shape or ()):
            why[key.module] = f"for another number of channels ({found[1]}) than this model takes"
    left_out: dict[str, list[str]] = {}
    for key in keys:
        if key.module in why:
            left_out.setdefault(why[key.module], []).append(key.name)
    here = [key for key in keys if key.module not in why and not names.is_beyond(key.target)]
    return here, [f"{file.name}: left out {len(some)} tensors {what} ({some[0]!r})" for what, some in left_out.items()]


def _takes_other_input(key: Key, found: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether one of the two takes noise alone, the other noise with the mask and the picture of an I2V model."""
    is_whole = key.role in ("down", "diff") and len(found) == len(shape) and found[2:] == shape[2:]
    return is_whole and {found[1], shape[1]} == {_NOISE, _NOISE_AND_PICTURE}


def _check_shapes(
    file: Path, keys: Sequence[Key], names: Names, tensors: Mapping[str, Tensor], config: TransformerConfig
) -> None:
    for key in keys:
        shape, found = names.shape(key.target), tuple(tensors[key.name].shape)
        assert shape is not None
        is_matrix = len(found) == len(shape) > 1 and 0 not in found
        fits = {
            "down": is_matrix and found[1:] == shape[1:],
            "up": is_matrix and found[0] == shape[0] and set(found[2:]) <= {1},
            "alpha": math.prod(found) == 1,
        }.get(key.role, found == shape)
        if not fits:
            raise ValueError(
                f"lora = {str(file)!r}: tensor {key.name!r} has the shape {found}, but {key.target!r} of this model, "
                f"{config.dim} wide, has {shape}: {lora_keys.made_for(found, config)}"
            )


def _settings(file: Path, keys: Sequence[Key], metadata: Mapping[str, str]) -> tuple[Path, Mapping[str, object]]:
    """peft's settings, and where they are: in the file, or beside one with peft's keys that says no alpha itself.

    kohya's alpha of a whole file is given in the same words.
    """
    beside = file.with_name("adapter_config.json")
    where, text = file, metadata.get(_PEFT)
    if text is None and beside.is_file() and _needs_settings(keys):
        where, text = beside, beside.read_text(encoding="utf-8")
    try:
        if text is None:
            return file, {"lora_alpha": float(metadata[_KOHYA_ALPHA])} if _KOHYA_ALPHA in metadata else {}
        fields: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"lora = {str(where)!r}: its settings cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"lora = {str(where)!r}: its settings must be fields with values")
    settings: dict[str, object] = {name.removeprefix("transformer."): value for name, value in fields.items()}
    if settings.get("use_dora"):
        raise ValueError(f"lora = {str(where)!r}: use_dora: only LoRA can be merged")
    lora_keys.check_alphas(str(where), settings, {key.module for key in keys})
    return where, settings


def _needs_settings(keys: Sequence[Key]) -> bool:
    return any(".lora_A." in key.name for key in keys) and not any(key.role == "alpha" for key in keys)


def _gather(
    file: Path, keys: Sequence[Key], tensors: Mapping[str, Tensor], settings: Mapping[str, object]
) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    by_target: dict[str, dict[Role, Key]] = {}
    for key in keys:
        roles = by_target.setdefault(key.target, {})
        if key.role in roles:
            raise ValueError(f"lora = {str(file)!r}: {roles[key.role].name!r} and {key.name!r} are for the same")
        roles[key.role] = key
    pairs: dict[str, Pair] = {}
    diffs: dict[str, Tensor] = {}
    for target, roles in sorted(by_target.items(), key=lambda item: item[0].endswith(".bias")):
        module = target.rpartition(".")[0]
        if roles.keys() & {"down", "up", "alpha"}:
            pairs[module] = _pair(file, roles, tensors, settings)
        parts = [tensors[key.name] for role, key in roles.items() if role.startswith("diff")]
        if up_bias := roles.get("up_bias"):
            if module not in pairs:
                raise ValueError(f"lora = {str(file)!r}: tensor {up_bias.name!r} has no lora_A and lora_B beside it")
            scale = pairs[module].scale
            part = tensors[up_bias.name]
            parts.append(part if scale == 1 else part.float() * scale)
        total = parts[0] if len(parts) == 1 else sum((part.float() for part in parts), torch.tensor(0.0))
        # Extracted LoRAs hold zeros for every norm, and peft a bias for all pairs or none.
        if parts and total.float().any():
            diffs[target] = total
    return dict(sorted(pairs.items())), dict(sorted(diffs.items()))


def _pair(file: Path, roles: Mapping[Role, Key], tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> Pair:
    if missing := [role for role in ("down", "up") if role not in roles]:
        name = next(iter(roles.values())).name
        raise ValueError(f"lora = {str(file)!r}: tensor {name!r} has no {missing[0]} half beside it")
    down, up = tensors[roles["down"].name], tensors[roles["up"].name]
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise ValueError(
            f"lora = {str(file)!r}: tensor {roles['up'].name!r} has the rank {up.shape[1]}, its other half {rank}"
        )
    if "alpha" in roles:
        alpha = float(tensors[roles["alpha"].name])
    else:
        given = lora_keys.alpha_of(roles["down"].module, settings)
        alpha = float(rank) if given is None else given * (math.sqrt(rank) if settings.get("use_rslora") else 1)
    # As a file can hold it, so that another file of it is the same.
    alpha = float(torch.tensor(alpha, dtype=torch.float32))
    if not math.isfinite(alpha):
        raise ValueError(f"lora = {str(file)!r}: alpha = {alpha} of {roles['down'].name!r}: must be finite")
    return Pair(down, up, alpha)


def _in_dotted_style(lora: Lora, style: Style) -> dict[str, Tensor]:
    def name(module: str) -> str:
        return f"lora_unet_{module.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{module}"

    tensors: dict[str, Tensor] = {}
    for module, pair in lora.pairs.items():
        tensors |= {f"{name(module)}.lora_down.weight": pair.down, f"{name(module)}.lora_up.weight": pair.up}
        # kohya's readers need it, and some of the others take none for a module that is not in a block.
        if style == "kohya" or pair.scale != 1:
            tensors[f"{name(module)}.alpha"] = torch.tensor(pair.alpha, dtype=torch.float32)
    for target, diff in lora.diffs.items():
        module, _, leaf = target.rpartition(".")
        tensors[f"{name(module)}.{_DIFFS[leaf]}"] = diff
    return tensors


def _in_diffusers_style(lora: Lora) -> tuple[dict[str, Tensor], dict[str, str]]:
    biases = {f"{module}.bias" for module in lora.pairs}
    if others := [target for target in lora.diffs if target not in biases]:
        raise ValueError(
            f"style = 'diffusers': has no key for the difference of {others[0]!r}{and_more(others)}; nearest 'official'"
        )
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module, pair in lora.pairs.items():
        name = lora_keys.diffusers_module(module)
        ranks[name], alphas[name] = pair.down.shape[0], pair.alpha
        tensors |= {f"transformer.{name}.lora_A.weight": pair.down, f"transformer.{name}.lora_B.weight": pair.up}
        if lora.diffs:
            # peft has a bias for every pair or for none.
            bias = lora.diffs.get(f"{module}.bias", torch.zeros_like(pair.up[:, 0]).flatten())
            tensors[f"transformer.{name}.lora_B.bias"] = bias if pair.scale == 1 else bias.float() / pair.scale
    rank, alpha = max(ranks.values(), default=1), max(alphas.values(), default=1.0)
    fields = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(ranks),
        "lora_bias": bool(lora.diffs),
    }
    return tensors, {_PEFT: json.dumps({f"transformer.{name}": value for name, value in fields.items()})}
