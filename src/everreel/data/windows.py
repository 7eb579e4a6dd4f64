"""The clips of a latent store, by the windows that can be cut from them.

The one invariant: a draw is a function of its generator and of what the store holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everreel.data.latents import Group, LatentStore, draw_members
from everreel.data.text import Text, TextTable


@dataclass
class WindowSource:
    """A store, its sentences as numbers, and its clips by size."""

    store: LatentStore
    text: TextTable
    groups: Mapping[Group, Sequence[int]]
    """The clips of each size that may be drawn."""
    chances: Tensor | None = None
    """How likely each clip is, relative to the others; all are alike without."""
    _groups: dict[int, Group] = field(default_factory=dict)
    _members: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, store: LatentStore, text: Text, chances: Tensor | None = None) -> WindowSource:
        """Number the sentences of a store; clips without a chance are as if they were not there.

        Raises:
            ValueError: none has one.
        """
        drawn: Mapping[Group, Sequence[int]] = store.groups
        if chances is not None:
            allowed = set((chances > 0).nonzero().flatten().tolist())
            if not allowed:
                raise ValueError(f"select: leaves none of the {len(store)} clips of {store.path}; ask for less")
            found = {key: [index for index in members if index in allowed] for key, members in store.groups.items()}
            drawn = {key: members for key, members in found.items() if members}
        groups = {member: key for key, members in store.groups.items() for member in members}
        return cls(store, TextTable.build(store.sentences, text), drawn, chances, groups)

    def group_of(self, index: int) -> Group:
        """Latent frames, height and width of a clip."""
        return self._groups[index]

    def members(self, frames: int) -> Sequence[int]:
        """The clips that hold a window of so many latent frames; for one latent the pictures, if there are any.

        Raises:
            ValueError: there are none.
        """
        if frames not in self._members:
            long_enough = {key for key in self.groups if key[0] >= frames}
            pictures = {key for key in long_enough if key[0] == 1 == frames}
            kept = pictures or long_enough
            self._members[frames] = sorted(index for key in kept for index in self.groups[key])
        if not self._members[frames]:
            longest = max(key[0] for key in self.groups)
            rule = f"no clip of {self.store.path} is so long; the longest has {longest}"
            raise ValueError(f"windows: {frames} latent frames: {rule}")
        return self._members[frames]

    def draw_size(self, generator: torch.Generator, frames: int) -> Sequence[int]:
        """The clips of one size that hold such a window, sizes drawn by how many there are."""
        (one,) = self.draw(self.members(frames), generator, 1)
        return self.groups[self._groups[one]]

    def draw(self, members: Sequence[int], generator: torch.Generator, count: int) -> list[int]:
        """So many of them by their chances, each time anew."""
        if self.chances is None:
            return draw_members(members, generator, count)
        chances = self.chances[torch.tensor(members)]
        return [members[n] for n in torch.multinomial(chances, count, True, generator=generator).tolist()]
