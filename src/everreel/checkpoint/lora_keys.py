"""What the tensors of a LoRA file are for: the key styles that people have for Wan and SkyReels-V2, read strictly.

Sources: the keys that peft and diffusers save (`transformer.blocks.0.attn1.to_q.lora_A.weight`), that kohya's trainers
save (`lora_unet_blocks_0_self_attn_q.lora_down.weight`, dots made underscores), and that official Wan names carry in
the files for ComfyUI and LightX2V (`diffusion_model.blocks.0.self_attn.q.lora_A.weight`; `.diff`, `.diff_b` and
`.diff_m` add to a weight, a bias and a modulation as they are). The one invariant: a key is looked up among the names
that the transformer has, never put together by rule, so that each has one meaning or is named as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from everreel.checkpoint import keymap
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT

Role = Literal["down", "up", "up_bias", "alpha", "diff", "diff_b", "diff_m"]


@dataclass(frozen=True)
class Key:
    """A tensor of a LoRA file: what it does to which tensor of the transformer."""

    name: str  # as the file has it
    module: str  # as the file has it, without what comes before and after
    role: Role
    target: str  # the parameter that it changes, by its official name


class Names:
    """The parameters of a transformer: official names and shapes, and the other names that files give them."""

    def __init__(self, config: TransformerConfig) -> None:
        self.num_layers = config.num_layers
        self._shapes = _shapes(config)
        # What only some models have is known by name, so that it can be told from what no model has.
        self._known = _shapes(replace(config, image_dim=config.image_dim or 1280, inject_sample_info=True))
        self._modules: dict[str, str] = {}
        diffusers = keymap.transformer_to_diffusers({name: torch.empty(0) for name in self._known})
        for official, theirs in zip(self._known, diffusers, strict=True):
            for name in (official, theirs):
                self._modules[_module(name)] = _module(official)
            self._modules[_parent(official)] = _parent(official)
        # Distinct dotted names stay distinct with underscores.
        self._underscored = {name.replace(".", "_"): module for name, module in self._modules.items()}
        assert len(self._underscored) == len(self._modules)

    def shape(self, target: str) -> tuple[int, ...] | None:
        """The shape of a parameter, None where this model has none of that name."""
        number = _block(target)
        if number is not None and number >= self.num_layers:
            return None
        return self._shapes.get(_first_block(target))

    def is_beyond(self, target: str) -> bool:
        """Whether a parameter is one of a deeper model."""
        number = _block(target)
        return number is not None and number >= self.num_layers

    def find(self, name: str) -> Key | None:
        """What a key means; None where nothing in any of these transformers has that name."""
        match = _KEY.fullmatch(name)
        if match is None:
            return None
        role = next(role for role in _ROLES if match[role] is not None)
        file_module = match["module"]
        kohya = _KOHYA.match(file_module)
        if kohya:
            file_module = file_module[kohya.end() :]
        else:
            while prefix := next((prefix for prefix in _PREFIXES if file_module.startswith(prefix)), None):
                file_module = file_module.removeprefix(prefix)
        module = (self._underscored if kohya else self._modules).get(_first_block(file_module))
        if module is None:
            return None
        number = _block(file_module)
        leaves = _LEAVES[role]
        target = next((found for leaf in leaves if (found := f"{module}{leaf}") in self._known), None)
        if target is None:
            return None
        if number is not None:
            target = target.replace("blocks.0", f"blocks.{number}", 1)
        return Key(name, file_module, role, target)


def refuse(file: str, names: Iterable[str]) -> None:
    """Say so where a file is none of the LoRAs that can be merged.

    Raises:
        ValueError: it holds DoRA, LoHa, LoKr, Tucker or text encoder tensors.
    """
    for name in names:
        for pattern, what in _REFUSED.items():
            if re.search(pattern, name):
                raise ValueError(f"lora = {file!r}: tensor {name!r} {what}")


def diffusers_module(module: str) -> str:
    """diffusers' name of a module of the transformer that has a weight, given by its official name."""
    (name,) = keymap.transformer_to_diffusers({f"{module}.weight": torch.empty(0)})
    return name.removesuffix(".weight")


def made_for(shape: tuple[int, ...], config: TransformerConfig) -> str:
    """Of which released models a tensor of another shape is, in words."""
    for size in shape:
        if size in _SIZES and size not in (config.dim, config.ffn_dim):
            return f"it is probably for the {_SIZES[size]} models"
    return "it is for another model"


def check_alphas(file: str, fields: Mapping[str, object], modules: Iterable[str]) -> None:
    """Check the alphas of peft's settings against the modules of a file, by their names there.

    Raises:
        ValueError: one is no number, or is for none of the modules.
    """
    patterns = fields.get("alpha_pattern") or {}
    alphas = list(patterns.values()) if isinstance(patterns, Mapping) else [patterns]
    alphas += [fields["lora_alpha"]] if "lora_alpha" in fields else []
    for alpha in alphas:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ValueError(f"lora = {file!r}: alpha = {alpha!r}: must be a number")
    modules = list(modules)
    for pattern in patterns if isinstance(patterns, Mapping) else ():
        if not any(_is_of(pattern, module) for module in modules):
            raise ValueError(f"lora = {file!r}: alpha_pattern {pattern!r} is for none of its tensors")


def alpha_of(module: str, fields: Mapping[str, Any]) -> float | None:
    """The alpha that checked settings give a module, by its name in the file."""
    for pattern, alpha in (fields.get("alpha_pattern") or {}).items():
        if _is_of(pattern, module):
            return float(alpha)
    alpha = fields.get("lora_alpha")
    return None if alpha is None else float(alpha)


_ROLES: tuple[Role, ...] = ("down", "up", "up_bias", "alpha", "diff", "diff_b", "diff_m")
# peft may put an adapter's name between `lora_A` and `weight`.
_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<down>(?:lora_A(?:\.\w+)?|lora_down|lora\.down)\.weight)|"
    r"(?P<up>(?:lora_B(?:\.\w+)?|lora_up|lora\.up)\.weight)|"
    r"(?P<up_bias>lora_B(?:\.\w+)?\.bias)|"
    r"(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_b>diff_b)|(?P<diff_m>diff_m))"
)
_LEAVES: Mapping[Role, tuple[str, ...]] = {
    "down": (".weight",),
    "up": (".weight",),
    "alpha": (".weight",),
    "up_bias": (".bias",),
    "diff": (".weight", ""),
    "diff_b": (".bias",),
    "diff_m": (".modulation",),
}
_KOHYA = re.compile(r"(?:lora_unet|lycoris)_+")
_PREFIXES = ("base_model.model.", "model.", "diffusion_model.", "transformer.", "pipe.", "dit.", "module.")
_REFUSED = {
    r"\.(dora_scale|lora_magnitude_vector)\b": "is of a DoRA, which scales whole columns: only LoRA can be merged",
    r"\.(hada|lokr)_": "is of a LoHa or LoKr: only LoRA can be merged",
    r"\.lora_mid\b": "is of a LoRA in Tucker form: only pairs of two can be merged",
    r"^(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?\.|cond_stage_model\.)": (
        "is for a text encoder: only the transformer takes a LoRA"
    ),
}
# Width and feed-forward width of the models of this family.
_SIZES = {
    **dict.fromkeys((1536, 8960), "1.3B"),
    **dict.fromkeys((3072, 14336), "5B"),
    **dict.fromkeys((5120, 13824), "14B"),
}
_BLOCK = re.compile(r"blocks([._])(\d+)(?=[._]|$)")


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter but those of the blocks beyond the first."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in DiT(replace(config, num_layers=1)).state_dict().items()}


def _module(name: str) -> str:
    """What a file calls the owner of a parameter: its module, or the parameter where that is no weight or bias."""
    return name.removesuffix(".weight").removesuffix(".bias")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _block(name: str) -> int | None:
    match = _BLOCK.match(name)
    return int(match[2]) if match else None


def _first_block(name: str) -> str:
    return _BLOCK.sub(r"blocks\g<1>0", name, count=1)


def _is_of(pattern: str, module: str) -> bool:
    """Whether peft means this module. A pattern may be any regular expression; those that are written are names."""
    name = pattern.removeprefix("^").removesuffix("$")
    return module == name or module.endswith(f".{name}")
