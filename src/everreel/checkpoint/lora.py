"""LoRA: small changes to a transformer's weights, merged into it, and taken out again.

Sources: the LoRA paper (a weight grows by alpha / rank · up · down), and what the extractors of few-step distilled Wan
models add to it: whole differences of biases, norms and modulations. The one invariant: everything is checked before
the first weight changes, and `Merged.unmerge` gives back the very bytes that were there.

Shape suffixes: O and I the sizes of a weight (a convolution's kernel is part of I), R the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from everreel.checkpoint.catalog import SolverName
from everreel.model.dit import DiT

SETTINGS = "everreel.settings"
"""Where a file's metadata says how it is best used."""


@dataclass(frozen=True)
class Pair:
    """The low-rank change of one weight: alpha / rank · up · down."""

    down: Tensor  # (R, I), or (R, in, kernel) of a convolution
    up: Tensor  # (O, R), or (O, R, 1, 1, 1)
    alpha: float

    @property
    def scale(self) -> float:
        """What up · down is multiplied by."""
        return self.alpha / self.down.shape[0]

    def of_rank(self, rank: int) -> Pair:
        """The nearest change of at most this rank (Eckart and Young, 1936), of the same type and scale."""
        if rank >= self.down.shape[0]:
            return self
        # The product of two thin matrices has the singular values of a small one.
        up_OR, rest_RR = torch.linalg.qr(self.up.flatten(1).float())
        down_IR, last_RR = torch.linalg.qr(self.down.flatten(1).float().T)
        left_RR, values_R, right_RR = torch.linalg.svd(rest_RR @ last_RR.T)
        roots_R = values_R[:rank].sqrt()
        up_OR = up_OR @ left_RR[:, :rank] * roots_R
        down_RI = roots_R[:, None] * (right_RR[:rank] @ down_IR.T)
        down = down_RI.reshape(rank, *self.down.shape[1:]).to(self.down.dtype)
        up = up_OR.reshape(len(self.up), rank, *self.up.shape[2:]).to(self.up.dtype)
        return Pair(down, up, self.scale * rank)


@dataclass(frozen=True)
class Lora:
    """What a file changes in a transformer, by official names."""

    path: Path
    pairs: Mapping[str, Pair]  # by module
    diffs: Mapping[str, Tensor]  # by parameter: added as it is
    notes: tuple[str, ...] = ()  # what its user should know: tensors left out, settings found elsewhere
    metadata: Mapping[str, str] = field(default_factory=dict)

    def of_rank(self, rank: int) -> Lora:
        """With every pair at most of this rank.

        Raises:
            ValueError: the rank is below 1.
        """
        if rank < 1:
            raise ValueError(f"rank = {rank}: must be 1 or more; nearest that works: 1")
        return replace(self, pairs={module: pair.of_rank(rank) for module, pair in self.pairs.items()})


@dataclass(frozen=True)
class Preset:
    """The settings that a few-step distilled LoRA was made for."""

    name: str
    num_inference_steps: Annotated[int, Field(ge=1)]
    guidance_scale: Annotated[float, Field(ge=1)]
    shift: Annotated[float, Field(gt=0)]
    solver: SolverName = "unipc"
    streams: bool = False  # block by block from the first frame on

    def metadata(self) -> dict[str, str]:
        """What a file says of itself that was made for these settings."""
        return {SETTINGS: json.dumps(asdict(self))}


@dataclass
class Merged:
    """What `merge` did to a model, and how to undo it."""

    model: DiT
    changed: tuple[str, ...]  # the names of the parameters
    _kept: dict[str, Tensor] | None
    _sums: dict[str, int]  # of each parameter as it was left

    def unmerge(self) -> None:
        """Put the kept bytes back; the model may have moved to another device since. Again, it does nothing.

        Raises:
            ValueError: nothing was kept, or the weights are not those that were left; nothing is put back.
        """
        if self._kept is None:
            raise ValueError("lora: what was there was not kept: merge with keep = True, or load the model again")
        parameters = {name: _parameter(self.model, name) for name in self._kept}
        for name, parameter in parameters.items():
            if parameter.dtype != self._kept[name].dtype or _sum_of_bits(parameter) != self._sums[name]:
                raise ValueError(
                    f"lora: {name!r} was changed since this merge: take out what was merged later first, "
                    f"or load the model again"
                )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._kept[name])
        self._kept, self.changed = {}, ()


def merge(model: DiT, loras: Sequence[tuple[Lora, float]], *, keep: bool = True) -> Merged:
    """Add LoRAs to a transformer's weights, each times its strength.

    The changes of a weight are added up in float32 in the order given, and to the weight at once.

    Args:
        model: its weights are written to, not replaced.
        loras: with the strength of each; one of strength 0 is left out.
        keep: keep what was there on the CPU, for `Merged.unmerge`: as much again as the weights that change.

    Raises:
        ValueError: a strength is not finite, a LoRA is of another model, or a weight is quantised; nothing changes.
    """
    for lora, strength in loras:
        if not math.isfinite(strength):
            raise ValueError(f"strength = {strength} of {lora.path.name}: must be finite")
    active = [(lora, strength) for lora, strength in loras if strength]
    wanted = {name for lora, _ in active for name in (*(f"{module}.weight" for module in lora.pairs), *lora.diffs)}
    parameters = {name: _parameter(model, name) for name in sorted(wanted)}
    for lora, _ in active:
        _check_fits(lora, parameters)
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in parameters.items():
            if keep:
                kept[name] = parameter.detach().to("cpu", copy=True)
            parameter.copy_(parameter.float() + _change(name, parameter, active))
    sums = {name: _sum_of_bits(parameter) for name, parameter in parameters.items()} if keep else {}
    return Merged(model, tuple(parameters), kept if keep else None, sums)


def preset_of(lora: Lora) -> Preset | None:
    """The settings of a few-step LoRA: those it names, or of a published one by its file's name or title.

    None of any other. They are for the caller to offer: what is generated with a LoRA that was renamed does not depend
    on them.

    Raises:
        ValueError: it names settings that are none.
    """
    if SETTINGS in lora.metadata:
        return _named_settings(lora)
    titles = [lora.metadata[name] for name in _TITLES if name in lora.metadata]
    for title in (lora.path.stem, *titles):
        words = re.sub(r"[^a-z0-9.]", "", title.lower())
        if any(word in words for word in _TWO_EXPERTS):
            continue
        for word, preset in _PRESETS.items():
            if word in words:
                return preset
    return None


def _named_settings(lora: Lora) -> Preset:
    try:
        return TypeAdapter(Preset).validate_json(lora.metadata[SETTINGS])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or SETTINGS
        raise ValueError(f"lora {lora.path.name}: its settings say {where}: {first['msg'].lower()}") from None


_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TITLES = ("modelspec.title", "ss_output_name", "name")
# Sources: LightX2V's settings for its Wan2.1 LoRA (levels 1, 3/4, 1/2, 1/4 at shift 5) and for CausVid (8 to 9 steps
# at shift 8; fewer do), and the commands of AccVideo's page. FastWan's levels (1, 0.757, 0.522) are those of no shift.
_PRESETS = {
    "lightx2v": Preset("LightX2V", num_inference_steps=4, guidance_scale=1.0, shift=5.0),
    "stepdistill": Preset("LightX2V", num_inference_steps=4, guidance_scale=1.0, shift=5.0),
    "causvid": Preset("CausVid", num_inference_steps=8, guidance_scale=1.0, shift=8.0),
    "accvid": Preset("AccVid", num_inference_steps=10, guidance_scale=1.0, shift=5.0),
}
_TWO_EXPERTS = ("wan2.2", "wan22", "a14b")  # LoRAs of models that change in the middle, with steps for both halves


def _parameter(model: DiT, name: str) -> nn.Parameter:
    """A parameter that can be added to."""
    try:
        parameter = model.get_parameter(name)
    except AttributeError:
        parameter = None
    if parameter is None or type(parameter.data) is not Tensor or parameter.dtype not in _FLOATS:
        raise ValueError(f"lora: {name!r} of this model is quantised or missing: merge before the model is quantised")
    return parameter


def _sum_of_bits(tensor: Tensor) -> int:
    """Tells two states of a weight apart: the sum of its numbers as integers of the same bits."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().view(integers).sum(dtype=torch.int64))


def _check_fits(lora: Lora, parameters: Mapping[str, nn.Parameter]) -> None:
    shapes = {f"{name}.weight": (*pair.up.shape[:1], *pair.down.shape[1:]) for name, pair in lora.pairs.items()}
    for name, shape in (*shapes.items(), *((name, tuple(diff.shape)) for name, diff in lora.diffs.items())):
        expected = tuple(parameters[name].shape)
        if shape != expected:
            raise ValueError(
                f"lora = {str(lora.path)!r}: changes {name!r} by {shape}, but in this model it has the shape {expected}"
            )


def _change(name: str, parameter: Tensor, loras: Sequence[tuple[Lora, float]]) -> Tensor:
    """What all LoRAs together add to a parameter, in float32, on the parameter's device."""
    total = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
    module = name.removesuffix(".weight")
    for lora, strength in loras:
        if name != module and (pair := lora.pairs.get(module)):
            up_OR, down_RI = (half.to(parameter.device, torch.float32).flatten(1) for half in (pair.up, pair.down))
            total += (strength * pair.scale * (up_OR @ down_RI)).view_as(total)
        if (diff := lora.diffs.get(name)) is not None:
            total += strength * diff.to(parameter.device, torch.float32)
    return total
