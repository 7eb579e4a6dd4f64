"""What each process holds of a transformer that several share, and does when all do it.

Source: none. The one invariant: all processes carry out the same commands in the same order, so a number stands for the
same model, text or cache everywhere; of a cache each has the rows and heads that it attends with.

Shape suffixes: B batch, T latent frames, S cached tokens or text positions, H heads, D widths.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from everreel.model.dit import Context, DiT
from everreel.model.kv_cache import CacheState, KVCache
from everreel.parallel.launch import Parallel
from everreel.parallel.talk import talking


@dataclass(frozen=True)
class Own:
    """Which rows and heads of a cache a process has, and whether it speaks for them: others may have them too."""

    rows: slice
    heads: slice
    speaks: bool


class PartCache(KVCache):
    """This process's part of a cache."""

    own: Own | None = None  # of a cache that holds nothing yet


class Part:
    """The commands. Tensors come on the CPU, or in the leader on any device, and are whole; results too."""

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        # In the leader things live as long as somebody there has them, and then they are dropped everywhere.
        self.held: MutableMapping[int, Any] = weakref.WeakValueDictionary() if parallel.leads else {}

    def open(self, number: int, load: Callable[[torch.device], DiT]) -> DiT:
        """Load a transformer."""
        self.held[number] = model = load(self.parallel.device).eval()
        return model

    @torch.no_grad()
    def encode(
        self, number: int, model: int, text_BSD: Tensor, length_B: Sequence[int], image_BSD: Tensor | None
    ) -> Context:
        """See `DiT.encode_context`; every process has all rows."""
        image_BSD = None if image_BSD is None else self._here(image_BSD)
        self.held[number] = context = self._model(model).encode_context(self._here(text_BSD), length_B, image_BSD)
        return context

    @torch.no_grad()
    def forward(
        self,
        model: int,
        x_BCTHW: Tensor,
        timestep_BT: Tensor,
        texts: Sequence[tuple[int, int]],
        fps_B: Tensor | None,
        blocks: Sequence[int] | None,
        cache: int | None,
        write_cache: bool,
        skip: Sequence[int],
    ) -> Tensor:
        """See `DiT.forward`; `texts` are numbers of frames and the numbers of the contexts that they read."""
        dit, batch = self._model(model), x_BCTHW.shape[0]
        own = self._own(batch, dit.config.num_heads)
        mesh, past = self.parallel.mesh(batch), None
        if cache is not None:
            past = self._cache(cache)
            past.own = own
        velocity = dit(
            self._here(x_BCTHW[own.rows]),
            self._here(timestep_BT[own.rows]),
            [(frames, _rows(self.held[number], own.rows)) for frames, number in texts],
            fps_B=None if fps_B is None else self._here(fps_B[own.rows]),
            blocks=blocks,
            cache=past,
            write_cache=write_cache,
            skip=skip,
            group=mesh.sequence,
        )
        whole_BCTHW: Tensor = velocity if mesh.guidance is None else mesh.guidance.gather(velocity)
        return whole_BCTHW

    def new_cache(self, number: int, max_frames: int, sink_frames: int) -> None:
        """Begin a cache; the leader has its own."""
        if not self.parallel.leads:
            self.held[number] = PartCache(max_frames, sink_frames)

    def forget(self, number: int) -> None:
        """See `KVCache.forget`."""
        KVCache.forget(self._cache(number))

    def load(self, number: int, num_frames: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """See `KVCache.load`; the keys and values are whole, (B, S, H, D)."""
        cache = self._cache(number)
        if keys:
            cache.own = own = self._own(keys[0].shape[0], keys[0].shape[2])
            keys, values = (
                # A copy, so that what it is taken from can go.
                [self._here(x_BSHD[own.rows, :, own.heads].clone()) for x_BSHD in whole]
                for whole in (keys, values)
            )
        KVCache.load(cache, CacheState(num_frames, tuple(keys), tuple(values)))

    def save(self, number: int) -> CacheState | None:
        """See `KVCache.save`: in the leader all of it, on the CPU; None in the others."""
        cache = self._cache(number)
        mine, own = KVCache.save(cache), cache.own
        answer = None
        if own is not None and own.speaks:
            sides = [[x_BSHD.cpu().contiguous() for x_BSHD in side] for side in (mine.keys, mine.values)]
            answer = own.rows.start, own.heads.start, sides
        answers: list[Any] | None = [None] * self.parallel.size if self.parallel.leads else None
        with talking():
            dist.gather_object(answer, answers, dst=0, group=self.parallel.commands)
        if answers is None:
            return None
        pieces = {(row, head): sides for row, head, sides in filter(None, answers)}
        keys, values = (
            tuple(
                _joined({place: sides[side][layer] for place, sides in pieces.items()})
                for layer in range(len(mine.keys))
            )
            for side in (0, 1)
        )
        return CacheState(mine.num_frames, keys, values)

    def _own(self, batch: int, heads: int) -> Own:
        mesh = self.parallel.mesh(batch)
        rows = slice(0, batch) if mesh.guidance is None else mesh.guidance.rows(batch)
        if mesh.sequence is None:
            return Own(rows, slice(0, heads), True)
        return Own(rows, mesh.sequence.heads(heads), mesh.sequence.is_first_team(heads))

    def _model(self, number: int) -> DiT:
        model = self.held[number]
        assert isinstance(model, DiT)
        return model

    def _cache(self, number: int) -> PartCache:
        cache = self.held[number]
        assert isinstance(cache, PartCache)
        return cache

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.parallel.device)


def _rows(context: Context, rows: slice) -> Context:
    """Some rows of a batch of texts."""
    layers, image_layers = (
        tuple((k[rows], v[rows]) for k, v in pairs) for pairs in (context.layers, context.image_layers)
    )
    return Context(layers, context.bias[rows], image_layers)


def _joined(pieces: dict[tuple[int, int], Tensor]) -> Tensor:
    """The whole of (B, S, H, D) from its pieces by their first row and first head."""
    rows = sorted({row for row, _ in pieces})
    return torch.cat([torch.cat([pieces[place] for place in sorted(pieces) if place[0] == row], dim=2) for row in rows])
