"""A transformer with smaller numbers: the weights of its blocks' linear layers in 8 or 4 bits, and what that costs.

Of weights alone or ("dynamic") of matrix products whole: through torchao for int8 and fp8, in the blocks of GGUF files
for q8_0 and q4_0, and `Int8Linear` for int8_dynamic. The one invariant: embeddings, modulation, norms and the head keep
every bit, and a way that the device cannot compute is refused before a weight is touched.
"""

from __future__ import annotations

import copy
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from everreel.model.config import Quantization
from everreel.model.dit import Blocks, DiT
from everreel.model.int8 import SIDE, Int8Linear
from everreel.model.packed import PackedLinear
from everreel.model.quiet import quiet

QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
BYTES_PER_WEIGHT: Mapping[Quantization, float] = {
    "int8": 1.0,
    "fp8": 1.0,
    "int8_dynamic": 1.0,
    "fp8_dynamic": 1.0,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
}
"""Of a linear layer; what torchao keeps of a row beside it, one scale, does not count."""

_FP8_PRODUCTS = (8, 9)  # the first CUDA devices that multiply fp8, and int8 in a form that torch has
_INT8_PRODUCTS = (8, 0)


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a transformer."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def quantize(
    model: DiT, how: Quantization, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> DiT:
    """Quantise the linear layers of a transformer's blocks, in place; the same object.

    `device` is where it will compute, by default where it is, and `dtype` the type it will compute in, by default its
    own. A block is brought into that type as it is quantised, so mapped weights are never all there in another one;
    q8_0 and q4_0 are made of the weights as they are.

    Raises:
        ValueError: the device cannot compute so, a package is missing, or a layer is quantised already or does not fit.
    """
    where = torch.device(device) if device is not None else model.patch_embedding.weight.device
    check_quantization(how, where)
    _check_layers(model, [*_linears(model.blocks)], how)
    _quantised(model.blocks, how, where, dtype)
    for child in model.children():
        if child is not model.blocks:  # whose scales keep their type
            child.to(dtype)
    return model


def check_quantization(how: str, device: torch.device) -> None:
    """Refuse a way that is unknown, or that a device cannot compute.

    Raises:
        ValueError: with the nearest that works there.
    """
    if how not in QUANTIZATIONS:
        raise ValueError(f"quantization = {how}: must be one of {', '.join(QUANTIZATIONS)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        return  # a plan for another machine: it is said there
    if device.type == "cuda":
        can = torch.cuda.get_device_capability(device)
        if how == "fp8_dynamic" and can < _FP8_PRODUCTS:
            nearest = "int8_dynamic" if can >= _INT8_PRODUCTS else "fp8"
            rule = f"needs a CUDA device of capability 8.9 or more, this one has {can[0]}.{can[1]}"
            raise ValueError(f"quantization = {how}: {rule}; nearest that works: {nearest}")
        if how == "int8_dynamic" and can < _INT8_PRODUCTS:
            rule = f"needs a CUDA device of capability 8.0 or more, this one has {can[0]}.{can[1]}"
            raise ValueError(f"quantization = {how}: {rule}; nearest that works: int8")
    elif how == "fp8_dynamic":
        nearest = "int8_dynamic" if device.type == "cpu" else "int8"
        rule = "needs a CUDA device of capability 8.9 or more"
        raise ValueError(f"quantization = {how}: {rule}; nearest that works on {device.type}: {nearest}")
    elif device.type != "cpu" and how in ("fp8", "int8_dynamic"):
        raise ValueError(f"quantization = {how}: not on {device.type}; nearest that works: int8")


@contextmanager
def recorded(model: DiT, most: int = 4) -> Iterator[list[Call]]:
    """The transformer's calls meanwhile, as the list that this gives: `most` of them, those without a cache.

    Of a film of one window; `quantisation_error` takes them.
    """
    calls: list[Call] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(calls) < most and kwargs.get("cache") is None:
            calls.append(Call(args, kwargs))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def quantisation_error(model: DiT, how: Quantization, calls: Sequence[Call]) -> list[float]:
    """How far each block's output is from what the exact block makes of the same input, root mean square, relative.

    The inputs are those of the exact transformer in `calls`, so that no block is blamed for those before it. One block
    at a time is quantised, as it lies on the device that computes, so blocks that stream there need no more room.

    Raises:
        ValueError: as from `quantize`.
    """
    assert all(call.kwargs.get("cache") is None for call in calls)
    check_quantization(how, model.patch_embedding.weight.device)
    _check_layers(model, [*_linears(model.blocks)], how)
    squares = [torch.zeros(2, dtype=torch.float64) for _ in range(len(model.blocks))]
    exact = model.blocks
    model.blocks = _Compared(exact, how, squares)
    try:
        for call in calls:
            model(*call.args, **call.kwargs)
    finally:
        model.blocks = exact
    return [float((off / whole).sqrt()) for off, whole in squares]


class _Compared(Blocks):
    """A transformer's blocks, each of which is compared with a quantised copy of itself as it computes."""

    def __init__(self, blocks: Blocks, how: Quantization, squares: list[Tensor]) -> None:
        super().__init__()
        self._exact, self._how, self._squares = [blocks], how, squares  # in a list, so as not to be a part of it

    def __iter__(self) -> Iterator[nn.Module]:
        for block in self._exact[0]:
            handle = block.register_forward_hook(self._compare)
            try:
                yield block
            finally:
                handle.remove()

    def _compare(self, block: nn.Module, args: tuple[Any, ...], exact: Tensor) -> None:
        layer: int = args[3]
        # But for its hooks: one of them is this, and has all blocks.
        copied = copy.deepcopy(block, {id(block._forward_hooks): OrderedDict()})
        quantised = _quantised(nn.ModuleList([copied]), self._how, exact.device)[0]
        off = (quantised(*args).double() - exact.double()).square().sum()
        self._squares[layer] += torch.stack([off, exact.double().square().sum()]).cpu()


def _quantised(
    blocks: nn.ModuleList, how: Quantization, where: torch.device, dtype: torch.dtype | None = None
) -> nn.ModuleList:
    """Blocks with quantised linear layers, in place, each where it can be and no more at once; see `quantize`."""
    if how == "q8_0" or how == "q4_0":
        for block in blocks:
            for owner, name, layer in [*_linears(block)]:
                setattr(owner, name, _packed(layer, how))
            block.to(dtype)
        return blocks
    if how == "int8_dynamic":
        for block in blocks:
            block.to(dtype)
            for owner, name, layer in [*_linears(block)]:
                home = layer.weight.device
                setattr(owner, name, Int8Linear(layer.to(where)).to(home))
        return blocks
    with quiet():
        torchao = _package("torchao.quantization", how)
        try:
            for block in blocks.requires_grad_(False):
                first = next(block.to(dtype).parameters())
                torchao.quantize_(block, _config(torchao, how, first.dtype), device=where)
                block.to(first.device)
        except (AssertionError, NotImplementedError, RuntimeError) as error:  # its kinds for a device it cannot use
            reason = str(error).splitlines()[0]
            raise ValueError(f"quantization = {how}: {reason}; nearest that works: q8_0") from error
    return blocks


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for owner in module.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.Linear):
                yield owner, name, child


def _check_layers(model: DiT, linears: Sequence[tuple[nn.Module, str, nn.Linear]], how: Quantization) -> None:
    """What would fail half-way fails before the first layer."""
    smaller = [layer for _, _, layer in linears if hasattr(layer.weight, "__tensor_flatten__")]
    if smaller or any(isinstance(module, PackedLinear | Int8Linear) for module in model.blocks.modules()):
        raise ValueError(f"quantization = {how}: the weights are quantised already; load them as they were published")
    odd = [layer.in_features for _, _, layer in linears if layer.in_features % 32]
    if odd and how in ("q8_0", "q4_0"):
        rule = f"needs layers whose inputs are a multiple of 32, one has {odd[0]}"
        raise ValueError(f"quantization = {how}: {rule}; nearest that works: int8")
    sides = [side for _, _, layer in linears for side in layer.weight.shape if side % SIDE]
    if sides and how == "int8_dynamic":
        rule = f"needs layers whose sides are multiples of {SIDE}, one has {sides[0]}"
        raise ValueError(f"quantization = {how}: {rule}; nearest that works: int8")


def _packed(layer: nn.Linear, how: str) -> PackedLinear:
    quants = _package("gguf.quants", how)
    weight = layer.weight.detach()
    packed = quants.quantize(weight.float().cpu().numpy(), quants.GGMLQuantizationType[how.upper()])
    return PackedLinear(torch.from_numpy(packed).to(weight.device), how.upper(), weight.shape, layer.bias, weight.dtype)


def _config(torchao: Any, how: Quantization, dtype: torch.dtype) -> object:  # noqa: ANN401 -- a module
    """Without torchao's settings for torch.compile, which are the whole process's and not this model's.

    fp8_dynamic has a scale for each row and each token, as all the others have; torchao does that in bfloat16 alone.
    """
    configs = {
        "int8": torchao.Int8WeightOnlyConfig,
        "fp8": torchao.Float8WeightOnlyConfig,
        "fp8_dynamic": torchao.Float8DynamicActivationFloat8WeightConfig,
    }
    by_row = {"granularity": torchao.PerRow()} if how == "fp8_dynamic" and dtype == torch.bfloat16 else {}
    config: object = configs[how](set_inductor_config=False, **by_row)
    return config


def _package(name: str, how: str) -> Any:  # noqa: ANN401 -- a module
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ValueError(
            f"quantization = {how}: needs the package {package}; pip install 'everreel[quantize]'"
        ) from None
