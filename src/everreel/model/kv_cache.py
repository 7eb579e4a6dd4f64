"""Keys and values of finished frames, so that a block attends to the film before it without computing it again.

Source: the causal fine-tuning of section 4c of the paper, which the released code never used. The one invariant: keys
are kept as they are before rotation, so that when old frames leave, positions can start again at the window's first
frame; a sink (the first frames of the film, kept for ever) sits directly before the window.

Shape suffixes: B batch, S cached tokens, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from everreel.model.attention import rotate


@dataclass(frozen=True)
class CacheState:
    """The frames that a cache holds, and each layer's unrotated keys and values (B, S, H, D)."""

    num_frames: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass
class KVCache:
    """The cache of one generation (one batch of guidance branches).

    Args:
        max_frames: how many latent frames are kept, the sink included.
        sink_frames: how many of the first frames are never dropped.
    """

    max_frames: int
    sink_frames: int = 0
    num_frames: int = 0  # latent frames held; the next frame's position in the window
    _keys: list[Tensor] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)
    _rotated: dict[int, Tensor] = field(default_factory=dict)
    _pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.sink_frames < self.max_frames:
            raise ValueError(f"sink_frames = {self.sink_frames}: must be 0 to max_frames - 1 = {self.max_frames - 1}")

    def context(self, layer: int, table_SD2: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's cached keys, rotated to their places in the window, and its values: (B, S, H, D) each."""
        if layer not in self._rotated:
            self._rotated[layer] = rotate(self._keys[layer], table_SD2)
        return self._rotated[layer], self._values[layer]

    def write(self, key_BSHD: Tensor, value_BSHD: Tensor) -> None:
        """Hand in the unrotated keys and the values of the next layer, first layer first; `commit` makes them count."""
        self._pending.append((key_BSHD, value_BSHD))

    def commit(self, frames: int) -> None:
        """Take in what every layer wrote for `frames` new latent frames, and drop the oldest beyond `max_frames`."""
        first = not self._keys
        for layer, (key, value) in enumerate(self._pending):
            tokens = key.shape[1] // frames
            if first:
                self._keys.append(key[:, :0])
                self._values.append(value[:, :0])
            self._keys[layer] = self._keep(self._keys[layer], key, tokens)
            self._values[layer] = self._keep(self._values[layer], value, tokens)
        self._pending.clear()
        self._rotated.clear()
        self.num_frames = min(self.num_frames + frames, self.max_frames)

    def _keep(self, old_BSHD: Tensor, new_BSHD: Tensor, tokens: int) -> Tensor:
        joined = torch.cat([old_BSHD, new_BSHD], dim=1)
        excess = joined.shape[1] - self.max_frames * tokens
        if excess <= 0:
            return joined
        sink = self.sink_frames * tokens
        return torch.cat([joined[:, :sink], joined[:, sink + excess :]], dim=1)

    def save(self) -> CacheState:
        """What is held, to go on from later. Nothing is copied: what a cache holds is replaced, never written over."""
        return CacheState(self.num_frames, tuple(self._keys), tuple(self._values))

    def load(self, state: CacheState) -> None:
        """Hold what `save` gave, and nothing else."""
        self._hold(state)

    def forget(self) -> None:
        """Hold nothing but the sink: what comes next does not follow what was held."""
        kept = min(self.sink_frames, self.num_frames)
        tokens = self._keys[0].shape[1] // self.num_frames * kept if self._keys and self.num_frames else 0
        self._hold(
            CacheState(kept, tuple(k[:, :tokens] for k in self._keys), tuple(v[:, :tokens] for v in self._values))
        )

    def _hold(self, state: CacheState) -> None:
        self.num_frames = state.num_frames
        self._keys, self._values = list(state.keys), list(state.values)
        self._rotated.clear()

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        tensors = [*self._keys, *self._values, *self._rotated.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
