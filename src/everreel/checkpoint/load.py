"""Networks from files, in every layout that weights are published in, and to the diffusers folder layout.

Source: what `source` finds. The one invariant: loading is strict. Every tensor of the network is in the files, every
tensor of the files is in the network (but for strays that are known by name), and every shape agrees, before the first
byte of weights is read; a module never holds a weight that no file gave it. Tensors go one by one from the mapped file
to the device, and stay mapped where the CPU is the device and the type is the stored one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from everreel.checkpoint import configs, keymap
from everreel.checkpoint.contents import OTHER, SENTENCEPIECE, TIED, Role, Shapes, Shards, official_names
from everreel.checkpoint.source import Part, Source, find_part, find_tokenizer, find_transformer, lacking
from everreel.checkpoint.spiece import tokenizer_from_spiece
from everreel.checkpoint.tensors import AGAIN, Device, and_more, open_tensors
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.packed import PackedLinear, is_packed
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE

State = Mapping[str, Tensor]
Rename = Callable[[State], dict[str, Tensor]]

_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
_TRANSFORMERS_WEIGHTS = "model"


def load_transformer(
    model: str | Path | Source,
    device: Device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    keep_packed: bool = False,
) -> DiT:
    """The transformer of a model: of its path, in any layout, or of what `find_source` found there.

    Without a `dtype` every tensor is of the type that it is stored in, and on the CPU stays mapped.
    With `keep_packed`, linear layers that a GGUF file holds quantised stay so, and are unpacked as they are used.

    Raises:
        ValueError: a file, a field of the config or a tensor is missing, unknown or of the wrong shape.
    """
    part = model.transformer if isinstance(model, Source) else find_transformer(Path(model))[0]
    module = _load(part, device, dtype, keep_packed)
    assert isinstance(module, DiT)
    return module


def load_vae(model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> CausalVAE:
    """The VAE of a model; as `load_transformer`."""
    module = _load(part_of(model, "vae"), device, dtype)
    assert isinstance(module, CausalVAE)
    return module


def load_text_encoder(
    model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> TextEncoder:
    """The text encoder of a model; as `load_transformer`."""
    module = _load(part_of(model, "text_encoder"), device, dtype)
    assert isinstance(module, TextEncoder)
    module.tie()
    return module


def load_image_encoder(
    model: str | Path | Source, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> ImageEncoder:
    """The image encoder of an I2V model; as `load_transformer`."""
    module = _load(part_of(model, "image_encoder"), device, dtype)
    assert isinstance(module, ImageEncoder)
    module.number_positions(device)
    return module


def load_tokenizer(model: str | Path | Source) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        ValueError: there is no `tokenizer.json` and no text encoder that holds one, or its padding token is not in its
            vocabulary.
    """
    import tokenizers

    path = model.path if isinstance(model, Source) else Path(model)
    where = model.tokenizer if isinstance(model, Source) else find_tokenizer(path)
    if where is None:
        raise lacking(path, "tokenizer")
    if where.is_file():
        content = open_tensors(where).read(SENTENCEPIECE)
        try:
            return Tokenizer(tokenizer_from_spiece(bytes(content.to(torch.uint8).tolist())))
        except ValueError as error:
            raise ValueError(f"tensor {SENTENCEPIECE!r} in {where}: {error}") from None
    settings = configs.read_json(where / "tokenizer_config.json")
    pad = settings.get("pad_token") or "<pad>"
    pad_token = str(pad["content"] if isinstance(pad, dict) else pad)
    # transformers writes an astronomic number where it knows no limit; the released models read 512.
    max_length = min(int(settings.get("model_max_length", 512)), 512)
    try:
        backend = tokenizers.Tokenizer.from_file(str(where / "tokenizer.json"))
    except Exception as error:  # that library has no class of its own
        raise ValueError(f"{where / 'tokenizer.json'} cannot be read: {error}; {AGAIN}") from None
    return Tokenizer(backend, pad_token=pad_token, max_length=max_length)


def part_of(model: str | Path | Source, role: Role) -> Part:
    """A network of a model; raises ValueError where it is nowhere."""
    path = model.path if isinstance(model, Source) else Path(model)
    part: Part | None = getattr(model, role) if isinstance(model, Source) else find_part(path, role)
    if part is None:
        raise lacking(path, role)
    return part


@dataclass(frozen=True)
class Opened:
    """A network on the meta device, and its tensors: unread, but all there and of the right shapes."""

    module: nn.Module
    inner: nn.Module
    """What of it the tensors are of."""
    shards: Shards
    from_file: Rename
    """The tensors of the files, by the names of `inner`."""


def check_parts(source: Source, *, image: bool) -> Tokenizer:
    """See that everything a model is loaded from is there and as it must be, before any of it is read; its tokenizer.

    With `image` an image encoder is one of its parts.

    Raises:
        ValueError: a part is nowhere, or a tensor is missing, unknown or of the wrong shape.
    """
    open_part(source.transformer)
    beside: tuple[Role, ...] = ("vae", "text_encoder", "image_encoder") if image else ("vae", "text_encoder")
    if absent := [part for part in (*beside, "tokenizer") if getattr(source, part) is None]:
        raise lacking(source.path, *absent)
    for role in beside:
        open_part(part_of(source, role))
    return load_tokenizer(source)


def open_part(part: Part) -> Opened:
    """A network before its weights are read.

    Raises:
        ValueError: a tensor is missing, unknown or of the wrong shape.
    """
    config, shards = part.config, part.open()
    with torch.device("meta"):
        module: nn.Module
        if isinstance(config, TransformerConfig):
            module = DiT(config)
        elif isinstance(config, VAEConfig):
            module = CausalVAE(config)
        else:
            module = TextEncoder(config) if isinstance(config, TextEncoderConfig) else ImageEncoder(config)
    to_file, from_file = _renames(part, shards)
    inner = module.model if isinstance(module, TextEncoder | ImageEncoder) else module
    shapes = {name: tuple(tensor.shape) for name, tensor in to_file(_untied(inner.state_dict())).items()}
    _check(shards, shapes)
    return Opened(module, inner, shards, from_file)


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
    configs.write_json(
        root / "model_index.json", configs.MODEL_INDEX if image_encoder is None else configs.IMAGE_MODEL_INDEX
    )
    configs.write_json(root / "scheduler" / "scheduler_config.json", configs.scheduler_config(shift))
    fields = configs.transformer_config_to_diffusers(transformer.config)
    state = keymap.transformer_to_diffusers(transformer.state_dict())
    _save_network(root / "transformer", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.vae_config_to_diffusers(vae.config)
    state = keymap.vae_to_diffusers(vae.state_dict(), vae.config)
    _save_network(root / "vae", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.text_config_to_transformers(text_encoder.config, str(dtype).removeprefix("torch."))
    state = _untied(text_encoder.model.state_dict())
    _save_network(root / "text_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
    save_tokenizer(root / "tokenizer", tokenizer)
    if image_encoder is not None:
        fields = configs.image_config_to_transformers(image_encoder.config, str(dtype).removeprefix("torch."))
        state = with_prefix(image_encoder.model.state_dict())
        _save_network(root / "image_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
        settings = configs.image_processor_config(image_encoder.config.image_size)
        configs.write_json(root / "image_processor" / "preprocessor_config.json", settings)


def _load(part: Part, device: Device, dtype: torch.dtype | None, keep_packed: bool = False) -> nn.Module:
    opened = open_part(part)
    held = _keep_packed(opened, device, dtype) if keep_packed else set()
    names = (name for name in opened.shards.infos if name not in held)
    state = opened.from_file({name: opened.shards.read(name, device, dtype) for name in names})
    state |= {name: tensor for name, tensor in opened.inner.state_dict().items() if not tensor.is_meta}
    if isinstance(opened.module, TextEncoder):
        state[TIED] = state["shared.weight"]
    opened.inner.load_state_dict(state, strict=True, assign=True)
    return opened.module.eval()


def _keep_packed(opened: Opened, device: Device, dtype: torch.dtype | None) -> set[str]:
    """Put layers in that keep their weights as the file has them; the names of the tensors that are in their places."""
    held = set()
    layers = dict(opened.inner.named_modules())
    for ours, name in official_names(opened.shards).items():
        linear, info = ours.removesuffix(".weight"), opened.shards.infos[name]
        # Embeddings, and blocks of types that are not known, are unpacked for good.
        if not is_packed(info.dtype) or not isinstance(layers.get(linear), nn.Linear):
            continue
        packed, ggml_type = opened.shards.packed(name)
        bias_name = f"{name.removesuffix('.weight')}.bias"
        bias = opened.shards.read(bias_name, device, dtype)
        opened.inner.set_submodule(linear, PackedLinear(packed.to(device), ggml_type, info.shape, bias, bias.dtype))
        held |= {name, bias_name}
    return held


def _renames(part: Part, shards: Shards) -> tuple[Rename, Rename]:
    """How tensors are renamed from our module to the files, and back."""
    official = part.content.names == "official"
    if isinstance(part.config, VAEConfig) and not official:
        size = part.config
        return partial(keymap.vae_to_diffusers, config=size), partial(keymap.vae_from_diffusers, config=size)
    if isinstance(part.config, TransformerConfig) and not official:
        return keymap.transformer_to_diffusers, keymap.transformer_from_diffusers
    if isinstance(part.config, TextEncoderConfig) and official:
        return keymap.umt5_to_official, keymap.umt5_from_official
    if isinstance(part.config, ImageEncoderConfig) and official:
        return keymap.clip_to_official, keymap.clip_from_official
    if TIED in shards.infos:  # under its second name alone
        return partial(_renamed, old="shared.weight", new=TIED), partial(_renamed, old=TIED, new="shared.weight")
    return dict, dict


def _check(shards: Shards, expected: Shapes) -> None:
    missing = [name for name in expected if name not in shards.infos]
    extra = [name for name in shards.infos if name not in expected]
    wrong = [name for name, shape in shards.shapes.items() if name in expected and expected[name] != shape]
    if missing:
        raise ValueError(f"tensor {missing[0]!r} is missing in {shards.where}{and_more(missing)}: {AGAIN}")
    if extra:
        rule = f"is not one of this network{and_more(extra)}: {OTHER}"
        raise ValueError(f"tensor {extra[0]!r} in {shards.path(extra[0])} {rule}")
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"tensor {name!r} in {shards.path(name)} has the shape {shards.shapes[name]}: "
            f"must be {expected[name]}{and_more(wrong)}; take it and its config from the same download"
        )


def _renamed(state: State, old: str, new: str) -> dict[str, Tensor]:
    return {new if name == old else name: tensor for name, tensor in state.items()}


def with_prefix(state: State) -> dict[str, Tensor]:
    """The names of an image encoder as published files have them."""
    return {f"vision_model.{name}": tensor for name, tensor in state.items()}


def _untied(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != TIED}


def _save_network(folder: Path, stem: str, fields: Mapping[str, object], state: State, dtype: torch.dtype) -> None:
    configs.write_json(folder / "config.json", fields)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a folder of `tokenizer.json`, as transformers and `load_tokenizer` read it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    marks = {"pad_token": tokenizer.pad_token, "eos_token": "</s>", "unk_token": "<unk>"}
    settings: dict[str, object] = {
        name: mark for name, mark in marks.items() if tokenizer.backend.token_to_id(mark) is not None
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.max_length}
    configs.write_json(folder / "tokenizer_config.json", settings)
