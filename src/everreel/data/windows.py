"""The clips of a latent store, by the windows that can be cut from them.

The one invariant: a draw is a function of its generator and of what the store holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from everreel.data.draws import draw_int
from everreel.data.latents import Group, LatentStore
from everreel.data.text import Text, TextTable


@dataclass
class WindowSource:
    """A store, its sentences as numbers, and its clips by size."""

    store: LatentStore
    text: TextTable
    _groups: dict[int, Group] = field(default_factory=dict)
    _members: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, store: LatentStore, text: Text) -> WindowSource:
        """Number the sentences of a store."""
        groups = {member: key for key, members in store.groups.items() for member in members}
        return cls(store, TextTable.build(store.sentences, text), groups)

    def group_of(self, index: int) -> Group:
        """Latent frames, height and width of a clip."""
        return self._groups[index]

    def members(self, frames: int) -> Sequence[int]:
        """The clips that hold a window of so many latent frames; for one latent the pictures, if there are any.

        Raises:
            ValueError: there are none.
        """
        if frames not in self._members:
            long_enough = {key for key in self.store.groups if key[0] >= frames}
            pictures = {key for key in long_enough if key[0] == 1 == frames}
            kept = pictures or long_enough
            self._members[frames] = [index for index in range(len(self.store)) if self._groups[index] in kept]
        if not self._members[frames]:
            longest = max(key[0] for key in self.store.groups)
            rule = f"no clip of {self.store.path} is so long; the longest has {longest}"
            raise ValueError(f"windows: {frames} latent frames: {rule}")
        return self._members[frames]

    def draw_size(self, generator: torch.Generator, frames: int) -> Sequence[int]:
        """The clips of one size that hold such a window, sizes drawn by how many there are."""
        members = self.members(frames)
        return self.store.groups[self._groups[members[draw_int(generator, 0, len(members))]]]
