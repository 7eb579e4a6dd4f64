"""A transformer larger than its device: blocks are copied there while the ones before them compute.

Also encoders and VAEs that are on the device only while they work. The usual double buffer of streamed weights. The one
invariant: beside the resident blocks the device holds two, whatever the depth, and no number of the result changes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everreel.model.dit import Blocks, DiT

SLOTS = 2  # one block computes, the next one is copied
_ALIGNED = 256  # bytes: what matrix products on a GPU want their operands to begin at


class Lane(Protocol):
    """Copies blocks into slots, perhaps while the device computes."""

    def copy(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begin to copy the second of each pair to the first, once what reads the slot now is through."""

    def wait(self, slot: int) -> None:
        """What is computed from now on comes after the slot's copy."""

    def done(self, slot: int) -> None:
        """What has been asked for up to now is all that reads the slot's present block."""


class OffloadedBlocks(Blocks):
    """Stands in for a transformer's `blocks`: iterating gives them on the device, one after the other.

    A streamed block is valid until the next one is asked for, so they are to be used as they come and by one loop at a
    time. The names of `state_dict` are unchanged, and its tensors are those in host memory, which must not be changed
    any more. Resident blocks are spread evenly, so that every copy has about as long a computation to hide behind.

    Args:
        blocks: all in host memory; memory-mapped weights stay so, but on CUDA they are copied to pinned memory.
        device: where to compute.
        resident: how many blocks stay on the device for good.
        lane: how to copy; by default a stream beside the computing one where there are such.

    Raises:
        ValueError: `resident` is negative or more than there are blocks.
    """

    def __init__(
        self, blocks: nn.ModuleList, device: str | torch.device, resident: int = 0, lane: Lane | None = None
    ) -> None:
        super().__init__(blocks)
        count = len(blocks)
        if not 0 <= resident <= count:
            nearest = max(0, min(resident, count))
            raise ValueError(f"resident = {resident}: must be 0 to the {count} blocks; nearest that works: {nearest}")
        where = torch.device(device)
        stays = [(i + 1) * resident // count > i * resident // count for i in range(count)]
        self._streamed = [i for i in range(count) if not stays[i]]
        for index in set(range(count)) - set(self._streamed):
            self[index].to(where)
        self._shells: dict[tuple[int, int], nn.Module] = {}
        self._holds: list[int | None] = [None] * SLOTS
        room = max((_room([*_tensors(self[i])]) for i in self._streamed), default=0)
        self._slots = [torch.empty(room, dtype=torch.uint8, device=where) for _ in range(SLOTS)]
        self._pinned: dict[int, Tensor] = {}
        if lane is None:
            lane = _Stream(self._slots) if where.type == "cuda" else _AtOnce()
            if where.type == "cuda":
                self._pin()
        self._lane = lane

    def __iter__(self) -> Iterator[nn.Module]:
        """The blocks on the device, first to last."""
        for slot in range(SLOTS):  # a loop that was left half-way, or new slots: nothing older reads them later
            self._lane.done(slot)
        for index, block in enumerate(self._modules.values()):
            assert block is not None
            if index not in self._streamed:
                yield block
                continue
            slot = self._load(index)
            after = self._streamed[(self._streamed.index(index) + 1) % len(self._streamed)]
            self._load(after)  # behind the last comes the first, for the next pass
            self._lane.wait(slot)
            yield self._shell(index, slot)
            self._lane.done(slot)

    def compile_each(self, backend: str | Callable[..., Any]) -> None:
        """See `Blocks.compile_each`; of a streamed block its copies on the device, which are what computes."""
        for index, block in enumerate(self._modules.values()):
            assert block is not None
            copies = [self._shell(index, slot) for slot in range(SLOTS)] if index in self._streamed else [block]
            for each in copies:
                each.compile(backend=backend)

    def _load(self, index: int) -> int:
        """The slot that holds a block, or will when what is under way is through."""
        if index in self._holds:
            return self._holds.index(index)
        # In turns: of two slots the one that does not hold the block before it, which is about to compute.
        slot = self._holds.index(None) if None in self._holds else self._turn(index)
        self._holds[slot] = index
        if index in self._pinned:
            host = self._pinned[index]
            pairs = [(self._slots[slot][: len(host)], host)]
        else:
            sources = [*_tensors(self[index])]
            pairs = [*zip(_views(self._slots[slot], sources), sources, strict=True)]
        self._lane.copy(slot, pairs)
        return slot

    def _turn(self, index: int) -> int:
        before = self._streamed[self._streamed.index(index) - 1]
        return 1 - self._holds.index(before) if before in self._holds else 0

    def _shell(self, index: int, slot: int) -> nn.Module:
        """The block once more, its tensors being those of a slot."""
        if (index, slot) not in self._shells:
            block = self[index]
            shared = {id(tensor): tensor for tensor in (*block.parameters(), *block.buffers())}
            shell = copy.deepcopy(block, shared)
            _replace(shell, iter(_views(self._slots[slot], [*_tensors(block)])))
            self._shells[index, slot] = shell
        return self._shells[index, slot]

    def _pin(self) -> None:
        """Move the streamed blocks into page-locked memory, each in one piece, from which the device reads by itself.

        Registered and not allocated as pinned: torch rounds such allocations up to a power of two. Where the system
        locks no more memory, copies are slower and as right.
        """
        runtime = torch.cuda.cudart()
        for index in self._streamed:
            block = self[index]
            sources = [*_tensors(block)]
            host = torch.empty(_room(sources), dtype=torch.uint8)
            views = _views(host, sources)
            for view, source in zip(views, sources, strict=True):
                view.copy_(source)
            _replace(block, iter(views))
            self._pinned[index] = host
            if int(runtime.cudaHostRegister(host.data_ptr(), host.numel(), 0)) == 0:
                weakref.finalize(host, runtime.cudaHostUnregister, host.data_ptr())
            else:
                with suppress(RuntimeError):  # the refusal is kept as the device's last error; this takes it away
                    self._slots[0][:1].zero_()


def offload(model: DiT, device: str | torch.device, resident: int = 0) -> DiT:
    """Let a transformer in host memory compute on `device`, `resident` of its blocks there for good; the same object.

    Raises:
        ValueError: as `OffloadedBlocks`.
    """
    model.blocks = OffloadedBlocks(model.blocks, device, resident)
    for name, child in model.named_children():
        if name != "blocks":
            child.to(device)
    return model


@contextmanager
def parked(module: nn.Module, device: str | torch.device) -> Iterator[None]:
    """Have a module on `device` for a while; afterwards it has the very tensors that it had before.

    So nothing is copied back, and weights that were memory-mapped are so again.
    """
    stores: list[dict[str, Any]] = [s for owner in module.modules() for s in (owner._parameters, owner._buffers)]
    at_home = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
    data = [tensor.data for _, _, tensor in at_home]  # torch moves a parameter by giving it other data
    try:  # all of it: where the device is full, what came is given back too
        module.to(device)
        yield
    finally:
        for (store, name, tensor), kept in zip(at_home, data, strict=True):
            tensor.data = kept
            store[name] = tensor
        module.train(module.training)  # the VAE's convolutions keep reordered weights, and drop them at this word


class _AtOnce:
    """Copies when asked: for devices without streams."""

    def copy(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        for target, source in pairs:
            target.copy_(source)

    def wait(self, slot: int) -> None:
        pass

    def done(self, slot: int) -> None:
        pass


class _Stream:
    """Copies on a CUDA stream of its own. Streams wait for each other by events; the host waits for nothing."""

    def __init__(self, slots: Sequence[Tensor]) -> None:
        self._device = slots[0].device
        self._side = torch.cuda.Stream(self._device)
        self._copied = [torch.cuda.Event() for _ in slots]
        self._read = [torch.cuda.Event() for _ in slots]
        for slot in slots:  # their memory is not given to others while a copy into it is under way
            slot.record_stream(self._side)

    def copy(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._side.wait_event(self._read[slot])
        with torch.cuda.stream(self._side):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
        self._copied[slot].record(self._side)

    def wait(self, slot: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._copied[slot])

    def done(self, slot: int) -> None:
        self._read[slot].record(torch.cuda.current_stream(self._device))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """The plain tensors that a module's parameters and buffers are made of, always in the same order."""
    for owner in module.modules():
        for tensor in (*owner._parameters.values(), *owner._buffers.values()):
            if tensor is not None:
                yield from _plain(tensor)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """A quantised tensor is one object around several plain ones."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor.detach()


def _replace(module: nn.Module, pieces: Iterator[Tensor]) -> None:
    """Give a module other tensors, in the order of `_tensors`."""
    for owner in module.modules():
        for name, old in owner._parameters.items():
            if old is not None:
                owner._parameters[name] = nn.Parameter(_like(old, pieces), requires_grad=False)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = _like(buffer, pieces)


def _like(tensor: Tensor, pieces: Iterator[Tensor]) -> Tensor:
    """The inverse of `_plain`."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return next(pieces)
    names, context = tensor.__tensor_flatten__()
    inner = {name: _like(getattr(tensor, name), pieces) for name in names}
    made: Tensor = type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())  # type: ignore[attr-defined]
    return made


def _views(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Places in a buffer of bytes for tensors one after the other."""
    views, start = [], 0
    for tensor in tensors:
        stop = start + _span(tensor)
        views.append(buffer[start:stop].view(tensor.dtype).as_strided(tensor.shape, tensor.stride()))
        start = -(-stop // _ALIGNED) * _ALIGNED
    return views


def _room(tensors: Sequence[Tensor]) -> int:
    """Bytes that `_views` need."""
    return sum(-(-_span(tensor) // _ALIGNED) * _ALIGNED for tensor in tensors)


def _span(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last one."""
    if not tensor.numel():
        return 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()
