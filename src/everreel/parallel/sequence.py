"""Sequence parallelism for any number of heads: each process has a share of every frame's tokens, and of the heads.

Source: DeepSpeed-Ulysses, made to fit where its rule (heads divisible by processes) does not. With g the greatest
common divisor of heads and processes, heads are cut into g parts. Processes come in teams of g: a team shares the heads
of its own tokens' queries, and every process gets the keys and values of all tokens for its part of the heads. With g
the number of processes that is Ulysses; with g = 1 it is a gather of keys and values. The one invariant: every process
has the same number of scores to compute, but for the remainder of a frame's tokens.

Shape suffixes: B batch, T latent frames, P tokens of a frame, L tokens of this process, H heads, D head width,
C channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from everreel.model.group import Split
from everreel.parallel.talk import talking


class SequenceParallel:
    """The processes of `group`, as `DiT.forward` takes them."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = group.rank(), group.size()

    def split(self, frames: int, tokens: int, heads: int) -> Split:
        """See `SequenceGroup.split`."""
        if tokens < self.size:
            raise ValueError(
                f"processes = {self.size}: share the tokens of a frame, of which this size has {tokens}; "
                f"make the film larger or use at most {tokens}"
            )
        team = self._team(heads)
        edges = [tokens * rank // self.size for rank in range(self.size + 1)]
        shares = [range(*pair) for pair in itertools.pairwise(edges)]
        return _Split(self, frames, shares, team)

    def heads(self, heads: int) -> slice:
        """Which of so many heads this process attends with, and has in its cache."""
        team = self._team(heads)
        part, at = heads // len(team), self.rank - team.start
        return slice(at * part, (at + 1) * part)

    def is_first_team(self, heads: int) -> bool:
        """Whether of all that have its heads in their caches this process is the first."""
        return self._team(heads).start == 0

    def _team(self, heads: int) -> range:
        """The processes that share the heads of one another's queries, this one among them."""
        size = math.gcd(heads, self.size)
        first = self.rank // size * size
        return range(first, first + size)


class _Split:
    """See `Split`.

    Args:
        shares: the positions that each process has of a frame.
        team: the processes that share the heads of one another's queries, this one among them.
    """

    def __init__(self, processes: SequenceParallel, frames: int, shares: Sequence[range], team: range) -> None:
        self._group, self._rank, self._size = processes.group, processes.rank, processes.size
        self._frames, self._team = frames, team
        self._tokens = [len(share) for share in shares]
        self.positions = shares[self._rank]

    def exchange(self, q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Split.exchange`: one transfer of everything."""
        B, _, H, D = q_BLHD.shape
        team = self._team
        part = H // len(team)
        q, k, v = (x.unflatten(1, (self._frames, -1)) for x in (q_BLHD, k_BLHD, v_BLHD))
        parcels = []
        for other in range(self._size):
            first = other % len(team) * part
            sent = [q, k, v] if other in team else [k, v]
            parcels.append([x[:, :, :, first : first + part] for x in sent])
        shapes = [
            [(B, self._frames, tokens, part, D)] * (3 if other in team else 2)
            for other, tokens in enumerate(self._tokens)
        ]
        received = _transfer(self._group, parcels, shapes)
        q_BLHD = torch.cat([received[other][0] for other in team], dim=2).flatten(1, 2)
        k_BLHD, v_BLHD = (torch.cat([x[at] for x in received], dim=2).flatten(1, 2) for at in (-2, -1))
        return q_BLHD, k_BLHD, v_BLHD

    def give_back(self, out_BLHD: Tensor) -> Tensor:
        """See `Split.give_back`: a transfer within the team."""
        B, _, part, D = out_BLHD.shape
        team = self._team
        if len(team) == 1:
            return out_BLHD
        pieces = out_BLHD.unflatten(1, (self._frames, -1)).split([self._tokens[mate] for mate in team], dim=2)
        shape = (B, self._frames, self._tokens[self._rank], part, D)
        parcels: list[list[Tensor]] = [[] for _ in range(self._size)]
        shapes: list[list[tuple[int, ...]]] = [[] for _ in range(self._size)]
        for mate, piece in zip(team, pieces, strict=True):
            parcels[mate], shapes[mate] = [piece], [shape]
        received = _transfer(self._group, parcels, shapes)
        return torch.cat([received[mate][0] for mate in team], dim=3).flatten(1, 2)

    def gather(self, x_BLC: Tensor) -> Tensor:
        """See `Split.gather`."""
        x_BTPC = x_BLC.unflatten(1, (self._frames, -1))
        shapes = [[(x_BTPC.shape[0], self._frames, tokens, x_BTPC.shape[3])] for tokens in self._tokens]
        received = _transfer(self._group, [[x_BTPC]] * self._size, shapes)
        return torch.cat([piece for (piece,) in received], dim=2).flatten(1, 2)


def _transfer(
    group: dist.ProcessGroup, parcels: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[tuple[int, ...]]]
) -> list[list[Tensor]]:
    """Send each process its tensors, all of one type, and get from each those of the shapes that it sends."""
    sizes = [sum(piece.numel() for piece in parcel) for parcel in parcels]
    some = next(piece for parcel in parcels for piece in parcel)
    sent = some.new_empty(sum(sizes))
    at = 0
    for piece in (piece for parcel in parcels for piece in parcel):
        assert piece.dtype == some.dtype
        sent[at : at + piece.numel()].view(piece.shape).copy_(piece)
        at += piece.numel()
    lengths = [[math.prod(shape) for shape in wanted] for wanted in shapes]
    got = some.new_empty(sum(map(sum, lengths)))
    with talking():
        dist.all_to_all_single(got, sent, [sum(each) for each in lengths], sizes, group=group)
    return [
        [flat.view(shape) for flat, shape in zip(mine.split(each), wanted, strict=True)]
        for mine, each, wanted in zip(got.split([sum(each) for each in lengths]), lengths, shapes, strict=True)
    ]
