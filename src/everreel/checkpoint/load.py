"""Networks from files, in every layout that weights are published in, and to the diffusers folder layout.

Source: what `source` finds. The one invariant: loading is strict. Every tensor of the network is in the files, every
tensor of the files is in the network (but for strays that are known by name), and every shape agrees, before the first
byte of weights is read; a module never holds a weight that no file gave it. Tensors go one by one from the mapped file
to the device, and stay mapped where the CPU is the device and the type is the stored one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from everreel.checkpoint import configs, keymap
from everreel.checkpoint.contents import TIED, Role, Shapes, Shards
from everreel.checkpoint.source import Part, Source, find_part, find_tokenizer, find_transformer, lacking
from everreel.checkpoint.tensors import Device
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE

State = Mapping[str, Tensor]
Rename = Callable[[State], dict[str, Tensor]]

_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
_TRANSFORMERS_WEIGHTS = "model"


def load_transformer(model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> DiT:
    """The transformer of a model: of its path, in any layout, or of what `find_source` found there.

    Raises:
        ValueError: a file, a field of the config or a tensor is missing, unknown or of the wrong shape.
    """
    part = model.transformer if isinstance(model, Source) else find_transformer(Path(model))[0]
    assert isinstance(part.config, TransformerConfig)
    with torch.device("meta"):
        module = DiT(part.config)
    to_file, from_file = transformer_names(part)
    _fill(module, part.open(), to_file, from_file, device, dtype)
    return module.eval()


def load_vae(model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> CausalVAE:
    """The VAE of a model; as `load_transformer`."""
    part = _part(model, "vae")
    assert isinstance(part.config, VAEConfig)
    with torch.device("meta"):
        module = CausalVAE(part.config)
    to_file, from_file = vae_names(part)
    _fill(module, part.open(), to_file, from_file, device, dtype)
    return module.eval()


def load_text_encoder(
    model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> TextEncoder:
    """The text encoder of a model; as `load_transformer`."""
    part = _part(model, "text_encoder")
    assert isinstance(part.config, TextEncoderConfig)
    with torch.device("meta"):
        module = TextEncoder(part.config)
    shards = part.open()
    to_file, from_file = text_names(part, shards)
    _fill(module.model, shards, lambda state: to_file(_untied(state)), lambda s: _tied(from_file(s)), device, dtype)
    module.tie()
    return module.eval()


def load_image_encoder(
    model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> ImageEncoder:
    """The image encoder of an I2V model; as `load_transformer`."""
    part = _part(model, "image_encoder")
    assert isinstance(part.config, ImageEncoderConfig)
    with torch.device("meta"):
        module = ImageEncoder(part.config)
    to_file, from_file = image_names(part)
    _fill(module.model, part.open(), to_file, from_file, device, dtype)
    module.number_positions(device)
    return module.eval()


def load_tokenizer(model: str | Path | Source) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        ValueError: there is no `tokenizer.json`, or its padding token is not in its vocabulary.
    """
    import tokenizers

    path = model.path if isinstance(model, Source) else Path(model)
    where = model.tokenizer if isinstance(model, Source) else find_tokenizer(path)
    if where is None:
        raise lacking(path, "tokenizer")
    settings = configs.read_json(where / "tokenizer_config.json")
    pad = settings.get("pad_token") or "<pad>"
    pad_token = str(pad["content"] if isinstance(pad, dict) else pad)
    # transformers writes an astronomic number where it knows no limit; the released models read 512.
    max_length = min(int(settings.get("model_max_length", 512)), 512)
    backend = tokenizers.Tokenizer.from_file(str(where / "tokenizer.json"))
    return Tokenizer(backend, pad_token=pad_token, max_length=max_length)


def transformer_names(part: Part) -> tuple[Rename, Rename]:
    """How the transformer's tensors are renamed from our module to its files, and back."""
    if part.content.names == "official":
        return dict, dict
    return keymap.transformer_to_diffusers, keymap.transformer_from_diffusers


def vae_names(part: Part) -> tuple[Rename, Rename]:
    """As `transformer_names`, of the VAE."""
    if part.content.names == "official":
        return dict, dict
    assert isinstance(part.config, VAEConfig)
    return (
        partial(keymap.vae_to_diffusers, config=part.config),
        partial(keymap.vae_from_diffusers, config=part.config),
    )


def text_names(part: Part, shards: Shards) -> tuple[Rename, Rename]:
    """As `transformer_names`, of the text encoder, whose token embedding is called `shared.weight` alone."""
    if part.content.names == "official":
        return keymap.umt5_to_official, keymap.umt5_from_official
    if TIED in shards.infos:
        return partial(_renamed, old="shared.weight", new=TIED), partial(_renamed, old=TIED, new="shared.weight")
    return dict, dict


def image_names(part: Part) -> tuple[Rename, Rename]:
    """As `transformer_names`, of the image encoder."""
    if part.content.names == "official":
        return keymap.clip_to_official, keymap.clip_from_official
    return dict, dict


def save_diffusers(
    folder: str | Path,
    *,
    transformer: DiT,
    vae: CausalVAE,
    text_encoder: TextEncoder,
    tokenizer: Tokenizer,
    shift: float = 8.0,
    dtype: torch.dtype = torch.bfloat16,
    image_encoder: ImageEncoder | None = None,
) -> None:
    """Write a folder that `load_*` and diffusers' `SkyReelsV2DiffusionForcingPipeline` read.

    With an image encoder it is one of an I2V model, for its `SkyReelsV2ImageToVideoPipeline`.
    """
    root = Path(folder)
    _write_json(root / "model_index.json", configs.MODEL_INDEX if image_encoder is None else configs.IMAGE_MODEL_INDEX)
    _write_json(root / "scheduler" / "scheduler_config.json", configs.scheduler_config(shift))
    fields = configs.transformer_config_to_diffusers(transformer.config)
    state = keymap.transformer_to_diffusers(transformer.state_dict())
    _save_network(root / "transformer", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.vae_config_to_diffusers(vae.config)
    state = keymap.vae_to_diffusers(vae.state_dict(), vae.config)
    _save_network(root / "vae", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.text_config_to_transformers(text_encoder.config, str(dtype).removeprefix("torch."))
    state = _untied(text_encoder.model.state_dict())
    _save_network(root / "text_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
    _save_tokenizer(root / "tokenizer", tokenizer)
    if image_encoder is not None:
        fields = configs.image_config_to_transformers(image_encoder.config, str(dtype).removeprefix("torch."))
        state = _with_prefix(image_encoder.model.state_dict(), "vision_model.")
        _save_network(root / "image_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
        settings = configs.image_processor_config(image_encoder.config.image_size)
        _write_json(root / "image_processor" / "preprocessor_config.json", settings)


def _part(model: str | Path | Source, role: Role) -> Part:
    path = model.path if isinstance(model, Source) else Path(model)
    part: Part | None = getattr(model, role) if isinstance(model, Source) else find_part(path, role)
    if part is None:
        raise lacking(path, role)
    return part


def _fill(
    module: nn.Module, shards: Shards, to_file: Rename, from_file: Rename, device: Device, dtype: torch.dtype
) -> None:
    """Give `module`, whose tensors are on the meta device, those of its files: one after the other, none copied that
    is in the device's memory and in `dtype` already."""
    _check(shards, {name: tuple(tensor.shape) for name, tensor in to_file(module.state_dict()).items()})
    state = {name: shards.read(name, device, dtype) for name in shards.infos}
    module.load_state_dict(from_file(state), strict=True, assign=True)


def _check(shards: Shards, expected: Shapes) -> None:
    missing = [name for name in expected if name not in shards.infos]
    extra = [name for name in shards.infos if name not in expected]
    wrong = [name for name, shape in shards.shapes.items() if name in expected and expected[name] != shape]
    if missing:
        where = shards.path(next(iter(shards.infos))).parent
        raise ValueError(f"tensor {missing[0]!r} is missing in {where}{_more(missing)}")
    if extra:
        raise ValueError(f"tensor {extra[0]!r} in {shards.path(extra[0])} is not one of this network{_more(extra)}")
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"tensor {name!r} in {shards.path(name)} has the shape {shards.shapes[name]}: "
            f"must be {expected[name]}{_more(wrong)}"
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _renamed(state: State, old: str, new: str) -> dict[str, Tensor]:
    return {new if name == old else name: tensor for name, tensor in state.items()}


def _with_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _untied(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != TIED}


def _tied(state: State) -> dict[str, Tensor]:
    return {**state, TIED: state["shared.weight"]}


def _save_network(folder: Path, stem: str, fields: Mapping[str, object], state: State, dtype: torch.dtype) -> None:
    _write_json(folder / "config.json", fields)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    marks = {"pad_token": tokenizer.pad_token, "eos_token": "</s>", "unk_token": "<unk>"}
    settings: dict[str, object] = {
        name: mark for name, mark in marks.items() if tokenizer.backend.token_to_id(mark) is not None
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.max_length}
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
