"""What tensors are: which network, under which names, and of what size, read off names and shapes alone.

Sources: the tensor lists of the released files and of those that ComfyUI users have. The one invariant: what a file is
called says nothing; a config that contradicts the tensors is refused, with the field and the tensor named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from everreel.checkpoint import configs, keymap
from everreel.checkpoint.tensors import AGAIN, Device, TensorFile, TensorInfo, open_tensors
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig

Role = Literal["transformer", "vae", "text_encoder", "image_encoder"]
Names = Literal["official", "diffusers", "transformers"]
Config = TransformerConfig | VAEConfig | TextEncoderConfig | ImageEncoderConfig
Shapes = Mapping[str, tuple[int, ...]]

TIED = "encoder.embed_tokens.weight"  # a second name of umT5's token embedding
SENTENCEPIECE = "spiece_model"  # the tokenizer's file as a tensor of bytes, in ComfyUI's umT5
CONFIG = "everreel.config"  # metadata: the network's config, in the words of its config.json
HEAD, NARROWEST = 128, 1024  # of all published models: the width of a head, and about that of the smallest
TOGETHER = "take both from the same download"
OTHER = "it is of another model, or was changed; take the file as its publisher has it"

_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.", "vision_model.", "first_stage_model.", "vae.")
_TELLTALES: tuple[tuple[Role, Names, tuple[str, ...]], ...] = (
    ("transformer", "official", ("patch_embedding.weight", "blocks.0.self_attn.q.weight")),
    ("transformer", "diffusers", ("patch_embedding.weight", "blocks.0.attn1.to_q.weight")),
    ("vae", "official", ("encoder.conv1.weight", "decoder.upsamples.0.residual.0.gamma")),
    ("vae", "diffusers", ("quant_conv.weight", "decoder.conv_in.weight")),
    # Each layer of umT5 has positions of its own; those of other T5 are in the first alone.
    ("text_encoder", "official", ("token_embedding.weight", "blocks.1.pos_embedding.embedding.weight")),
    ("text_encoder", "transformers", ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",)),
    ("image_encoder", "official", ("visual.patch_embedding.weight", "visual.cls_embedding")),
    ("image_encoder", "transformers", ("embeddings.patch_embedding.weight", "pre_layrnorm.weight")),
)


@dataclass(frozen=True)
class Content:
    """A network as it lies in files: what it is, how its tensors are called, and what stands before every name."""

    role: Role
    names: Names
    prefix: str = ""


def recognise(names: Collection[str]) -> Content | None:
    """What network these tensors are; None if none that we have."""
    for prefix in _PREFIXES:
        for role, layout, telltales in _TELLTALES:
            if all(prefix + name in names for name in telltales):
                return Content(role, layout, prefix)
    return None


class Shards:
    """The tensors of one network by their names in `content.names`, whatever file each is in.

    Raises:
        ValueError: two of the files hold the same tensor, or one cannot be read.
    """

    def __init__(self, paths: Sequence[Path], content: Content) -> None:
        self.content = content
        self.infos: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._files: dict[str, TensorFile] = {}
        strays: list[str] = []
        for path in paths:
            file = open_tensors(path)
            self.metadata |= file.metadata
            strays += file.strays
            for name, info in file.tensors.items():
                ours = name.removeprefix(content.prefix)
                if ours in self._files:
                    raise ValueError(f"tensor {name!r} is in {self._files[ours].path} and in {path}")
                self.infos[ours], self._files[ours] = info, file
        unused = [name for name in self.infos if _is_stray(name, content, self.infos)]
        for name in unused:
            del self.infos[name], self._files[name]
        self.strays = tuple(sorted({*strays, *unused}))
        """Tensors that the files hold and the network has no use for."""

    @property
    def shapes(self) -> Shapes:
        """The shape of every tensor."""
        return {name: info.shape for name, info in self.infos.items()}

    @property
    def where(self) -> str:
        """The files, for people."""
        paths = sorted({file.path for file in self._files.values()})
        return f"{paths[0]}{f' and the {len(paths) - 1} that go with it' * (len(paths) > 1)}"

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name].path

    def read(self, name: str, device: Device = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """As `TensorFile.read`."""
        return self._files[name].read(self._name(name), device, dtype)

    def packed(self, name: str) -> tuple[Tensor, str]:
        """As `TensorFile.packed`."""
        return self._files[name].packed(self._name(name))

    def _name(self, name: str) -> str:
        return self.content.prefix + name if self.content.prefix + name in self._files[name].tensors else name


def official_names(shards: Shards) -> dict[str, str]:
    """The transformer's tensors: official name → name in the files; raises ValueError for one that is unknown."""
    if shards.content.names == "official":
        return {name: name for name in shards.infos}
    found = {}
    for name in shards.infos:
        try:
            (ours,) = keymap.transformer_from_diffusers({name: torch.empty(0)})
        except ValueError:
            raise ValueError(f"tensor {name!r} in {shards.path(name)} is not one of this network: {OTHER}") from None
        found[ours] = name
    return found


def transformer_config(shards: Shards) -> TransformerConfig:
    """The config that the tensors have, with what shapes cannot say from the files' metadata.

    Raises:
        ValueError: a telling tensor is missing, or the number of heads cannot be told.
    """
    if CONFIG in shards.metadata:
        fields = _json(shards, CONFIG)
        config = configs.transformer_config_from_diffusers(fields)
        check_transformer(config, shards, f"the metadata {CONFIG}")
        return config
    found = {field: value for field, (value, _) in _evidence(shards).items()}
    dim = found["dim"]
    if dim % HEAD or HEAD < dim < NARROWEST:  # a small one may have heads of any width
        where = shards.path(next(iter(shards.infos)))
        raise ValueError(f"{where}: dim = {dim} has heads that shapes do not tell: put its config.json beside it")
    return TransformerConfig(num_heads=dim // HEAD, **found)


def check_transformer(config: TransformerConfig, shards: Shards, where: str | Path) -> None:
    """Refuse a config, read from `where`, that the tensors contradict."""
    for field, (value, name) in _evidence(shards).items():
        stated = getattr(config, field)
        if stated == value:
            continue
        if name not in shards.infos or (field == "num_layers" and stated > value):
            lacking = name if field != "num_layers" else f"blocks.{value}."
            missing = f"tensor {lacking!r} is missing in {shards.where}"
            raise ValueError(f"{field} = {stated!r} in {where}: {missing}; {TOGETHER}")
        raise ValueError(
            f"tensor {name!r} in {shards.path(name)} contradicts {field} = {stated!r} in {where}: "
            f"its tensors say {value!r}; {TOGETHER}"
        )


def vae_config(shards: Shards) -> VAEConfig:
    """The config of a VAE: of the files' metadata, or that of the released one at the size of these tensors."""
    if CONFIG in shards.metadata:
        return configs.vae_config_from_diffusers(_json(shards, CONFIG))
    released = configs.released_vae_config()
    if shards.content.names != "official":
        return released
    shapes = shards.shapes
    base = _shape(shards, "encoder.conv1.weight")[0]
    stages: list[int] = []
    blocks, downsample = 0, []
    width = base
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"encoder\.downsamples\.(\d+)\.", name))}
    for number in sorted(numbers):
        inner = f"encoder.downsamples.{number}"
        if f"{inner}.resample.1.weight" in shapes:
            stages.append(width // base)
            downsample.append(f"{inner}.time_conv.weight" in shapes)
        else:
            width = _shape(shards, f"{inner}.residual.2.weight")[0]
            blocks += 1
    stages.append(width // base)
    decoder = _shape(shards, "decoder.head.0.gamma")[0] // stages[0]
    return replace(
        released,
        base_dim=base,
        decoder_base_dim=released.decoder_base_dim if decoder in (base, released.decoder_base_dim) else decoder,
        z_dim=_shape(shards, "conv2.weight")[0],
        dim_mult=tuple(stages),
        num_res_blocks=blocks // len(stages),
        temporal_downsample=tuple(downsample),
    )


def text_config(shards: Shards) -> TextEncoderConfig:
    """The config of an umT5 encoder: of the files' metadata, or off its shapes."""
    if CONFIG in shards.metadata:
        return configs.text_config_from_transformers(_json(shards, CONFIG))
    official = shards.content.names == "official"
    block = "blocks.{}." if official else "encoder.block.{}.layer."
    table = "pos_embedding.embedding.weight" if official else "0.SelfAttention.relative_attention_bias.weight"
    embedding = "token_embedding.weight" if official else "shared.weight" if "shared.weight" in shards.infos else TIED
    vocab_size, d_model = _shape(shards, embedding)
    num_buckets, num_heads = _shape(shards, block.format(0) + table)
    query = _shape(shards, block.format(0) + ("attn.q.weight" if official else "0.SelfAttention.q.weight"))
    d_ff = _shape(shards, block.format(0) + ("ffn.fc1.weight" if official else "1.DenseReluDense.wi_1.weight"))[0]
    layers = sum(name.endswith(table) for name in shards.infos)
    return TextEncoderConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=query[0] // num_heads,
        d_ff=d_ff,
        num_heads=num_heads,
        num_layers=layers,
        num_buckets=num_buckets,
    )


def image_config(shards: Shards) -> ImageEncoderConfig:
    """The config of a CLIP tower: of the files' metadata, or off its shapes; its heads are as wide as ViT-H's."""
    if CONFIG in shards.metadata:
        return configs.image_config_from_transformers(_json(shards, CONFIG))
    official, released = shards.content.names == "official", ImageEncoderConfig()
    at = "visual." if official else "embeddings."
    dim, _, patch, _ = _shape(shards, f"{at}patch_embedding.weight")
    positions = _shape(shards, f"{at}pos_embedding" if official else f"{at}position_embedding.weight")[-2]
    layer = "visual.transformer.{}.mlp.0.weight" if official else "encoder.layers.{}.mlp.fc1.weight"
    ffn = _shape(shards, layer.format(0))[0]
    layers = 0
    while layer.format(layers) in shards.infos:
        layers += 1
    size = round((positions - 1) ** 0.5) * patch
    heads = max(1, dim * released.num_heads // released.dim)
    return replace(
        released, image_size=size, patch_size=patch, dim=dim, ffn_dim=ffn, num_heads=heads, num_layers=layers
    )


def _evidence(shards: Shards) -> dict[str, tuple[Any, str]]:
    """Field of the transformer's config → what the tensors say, and the tensor that says it, as the files call it."""
    names = official_names(shards)
    shapes = {ours: shards.infos[theirs].shape for ours, theirs in names.items()}
    found: dict[str, tuple[Any, str]] = {}

    def tell(field: str, name: str, axis: int, ndim: int = 2) -> None:
        if name not in shapes:
            (theirs,) = keymap.transformer_to_diffusers({name: torch.empty(0)})
            shown = name if shards.content.names == "official" else theirs
            raise ValueError(f"tensor {shown!r} is missing in {shards.where}: {AGAIN}")
        if len(shapes[name]) == ndim:  # any other is refused with its shape when it is to be loaded
            found[field] = (shapes[name][axis], names[name])

    tell("dim", "patch_embedding.weight", 0, 5)
    tell("in_dim", "patch_embedding.weight", 1, 5)
    tell("ffn_dim", "blocks.0.ffn.0.weight", 0)
    tell("text_dim", "text_embedding.0.weight", 1)
    tell("freq_dim", "time_embedding.0.weight", 1)
    tell("out_dim", "head.head.weight", 0)
    if "out_dim" in found:
        found["out_dim"] = (found["out_dim"][0] // 4, found["out_dim"][1])
    for field, name, absent in (
        ("inject_sample_info", "fps_embedding.weight", False),
        ("image_dim", "img_emb.proj.1.weight", None),
    ):
        found[field] = (absent, name)
        if name in shapes:
            tell(field, name, 1)
    if found["inject_sample_info"][0]:
        found["inject_sample_info"] = (True, names["fps_embedding.weight"])
    numbers = {int(match[1]): name for name in names if (match := re.match(r"blocks\.(\d+)\.", name))}
    found["num_layers"] = (max(numbers) + 1, names[numbers[max(numbers)]])
    return found


def _is_stray(name: str, content: Content, names: Collection[str]) -> bool:
    """Whether a tensor of the files is known to be none of the network's."""
    if content.role == "transformer":
        return name.startswith("model_type.")  # a community file of the 14B model carries its name as a tensor
    if content.role == "text_encoder":
        return name == SENTENCEPIECE or (name == TIED and "shared.weight" in names)
    if content.role == "image_encoder" and content.names == "official":
        # The file holds the text half of CLIP too, and the projection into the space that both share.
        return not name.startswith("visual.") or name == "visual.head"
    return content.role == "image_encoder" and name in ("visual_projection.weight", "embeddings.position_ids")


def _shape(shards: Shards, name: str) -> tuple[int, ...]:
    if name not in shards.infos:
        raise ValueError(f"tensor {name!r} is missing in {shards.where}: {AGAIN}")
    return shards.infos[name].shape


def _json(shards: Shards, key: str) -> dict[str, Any]:
    try:
        content = json.loads(shards.metadata[key])
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{shards.path(next(iter(shards.infos)))}: the metadata {key} must hold a JSON object")
    return content
