"""The pairs of several stores as the reward model is trained on them: checked, drawn, and changed alike.

The one invariant: what is done to a pair for variety is done to both of its films, the same mirroring and the same
window of time and space, so that it says no more and no less of which moves better.

Shape suffixes: B pairs, 2 the films of a pair, the better one first, C channels, T latent frames, H W latent height and
width.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from everreel.data.draws import draw_float, draw_int
from everreel.data.latents import draw_key, draw_members
from everreel.shapes import LatentShape
from everreel.train.motion.pairs import Group, PairLabel, PairStore

TRAIN, HELD_OUT = "train", "held_out"
SMALLEST = 4  # latents of a window's height and width


@dataclass(frozen=True)
class Variety:
    """How pairs are changed at random in training. A window has at least the shares `time` of the latent frames and
    `space` of height and width; what is wrong with a film may lie outside it, so they should not be small. `noise` is
    the greatest standard deviation of what is added.
    """

    mirrored: float = 0.5
    time: float = 0.75
    space: float = 0.75
    noise: float = 0.05

    def __post_init__(self) -> None:
        for name in ("mirrored", "time", "space"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must lie in 0..1; the nearest that works is {float(value > 1):g}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise}: must be 0 or more; the nearest that works is 0")


NONE = Variety(mirrored=0.0, time=1.0, space=1.0, noise=0.0)


class PairBatch(NamedTuple):
    """Pairs of one size."""

    films_B2CTHW: Tensor
    fps_B: Tensor
    tie_B: Tensor
    begins: bool


class Comparisons:
    """Pairs of one or more stores, by number; of some `kinds`, or of all.

    Raises:
        ValueError: a split has no pairs, or none that is decided; the judgements contradict each other; the latents
            have other channels, or do not move.
    """

    def __init__(self, folders: Sequence[str], channels: int, kinds: Sequence[str] = ()) -> None:
        if not folders:
            raise ValueError("pairs=(): a reward model learns from pairs; name at least one folder of them")
        self.folders, self.kinds = tuple(folders), tuple(kinds)
        stores = [PairStore(folder) for folder in folders]
        self.labels: list[PairLabel] = []
        self._where: list[tuple[PairStore, int]] = []
        self._groups: dict[str, dict[Group, list[int]]] = {
            split: defaultdict(list) for split in (TRAIN, HELD_OUT)
        }  # fmt: skip
        for store in stores:
            _check_sizes(store, channels)
            for split, groups in self._groups.items():
                for size, members in store.members(split, kinds).items():
                    for index in members:
                        groups[size].append(len(self.labels))
                        self.labels.append(store.labels[index])
                        self._where.append((store, index))
        self.contradicting = contradicting(self.labels)
        self._check_splits(stores)
        self._check_agreement()

    def groups(self, split: str) -> dict[Group, list[int]]:
        """The pairs of a split by size."""
        return self._groups[split]

    def members(self, split: str) -> list[int]:
        """The pairs of a split."""
        return sorted(index for members in self._groups[split].values() for index in members)

    def pair(self, index: int) -> Tensor:
        """Both films (2, C, T, H, W), the better one first, float32."""
        store, row = self._where[index]
        return store.pair(row)

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """Pairs of one size as they are."""
        labels = [self.labels[index] for index in indices]
        films_B2CTHW = torch.stack([self.pair(index) for index in indices])
        fps_B = torch.tensor([label.fps_index for label in labels])
        return PairBatch(films_B2CTHW, fps_B, torch.tensor([label.tie for label in labels]), begins=True)

    def draw(self, tokens: int, variety: Variety, generator: torch.Generator) -> PairBatch:
        """Pairs of a size that is drawn by how many there are, as many as so many tokens hold, changed at random."""
        groups = self._groups[TRAIN]
        size = draw_key(groups, generator)
        chosen = draw_members(groups[size], generator, fitting(size, tokens))
        return varied(self.batch(chosen), variety, generator)

    def parts(self, indices: Sequence[int], tokens: int) -> Iterator[list[int]]:
        """The pairs in parts, each of one size and of so many tokens."""
        wanted = set(indices)
        for groups in self._groups.values():
            for size, members in groups.items():
                chosen, count = [index for index in members if index in wanted], fitting(size, tokens)
                yield from (chosen[start : start + count] for start in range(0, len(chosen), count))

    def _check_splits(self, stores: Sequence[PairStore]) -> None:
        found = Counter(label.split for store in stores for label in store.labels)
        kinds = Counter(label.kind for store in stores for label in store.labels)
        where = f"pairs={', '.join(self.folders)}"
        for split in (TRAIN, HELD_OUT):
            labels = [self.labels[index] for index in self.members(split)]
            if not labels:
                there = ", ".join(f"{count} of {name}" for name, count in sorted(found.items()))
                chosen = f" of kinds={self.kinds}" if self.kinds else ""
                known = f", by kind {_told(kinds)}" if self.kinds else ""
                raise ValueError(f"{where}: no pair of split {split!r}{chosen}, there are {there}{known}; make some")
            if all(label.tie for label in labels):
                raise ValueError(
                    f"{where}: all {len(labels)} pairs of split {split!r} are ties ({_told(Counter(_kinds(labels)))}); "
                    "nothing can be learnt of what is better, add pairs that are decided"
                )

    def _check_agreement(self) -> None:
        decided = sum(not label.tie for label in self.labels)
        if 2 * len(self.contradicting) > decided:
            raise ValueError(
                f"pairs={', '.join(self.folders)}: {len(self.contradicting)} of {decided} decided pairs contradict "
                "another of the same films, which is more than half; have them judged again, or leave them out"
            )


def contradicting(labels: Sequence[PairLabel]) -> list[int]:
    """The decided pairs of which another, of the same prompt and films, says the opposite. The films of a pair are
    known where its `facts` name them: `films`, the better one first.
    """
    orders: dict[tuple[str, frozenset[str]], dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, label in enumerate(labels):
        films = label.facts.get("films")
        if not label.tie and isinstance(films, list | tuple) and len(films) == 2:
            names = tuple(map(str, films))
            orders[label.prompt, frozenset(names)][names].append(index)
    both = [found for found in orders.values() if len(found) > 1]
    return sorted(index for found in both for indices in found.values() for index in indices)


def fitting(size: Group, tokens: int) -> int:
    """How many pairs of a size so many tokens hold, at least one."""
    return max(1, tokens // max(1, 2 * LatentShape(*size).tokens))


def varied(batch: PairBatch, variety: Variety, generator: torch.Generator) -> PairBatch:
    """A window of the pairs, of one size in the batch, each pair at a place of its own; at times mirrored; noisy."""
    films_B2CTHW = batch.films_B2CTHW
    *_, frames, height, width = films_B2CTHW.shape
    length = _drawn_length(frames, variety.time, 2, generator)
    start = draw_int(generator, 0, frames - length + 1)
    size = [_drawn_length(side, variety.space, SMALLEST, generator) for side in (height, width)]
    changed = []
    for films_2CTHW in films_B2CTHW[:, :, :, start : start + length]:
        top, left = (draw_int(generator, 0, side - part + 1) for side, part in zip((height, width), size, strict=True))
        window = films_2CTHW[..., top : top + size[0], left : left + size[1]]
        changed.append(window.flip(-1) if draw_float(generator) < variety.mirrored else window)
    films_B2CTHW = torch.stack(changed)
    if variety.noise:
        level_B = torch.rand(len(films_B2CTHW), generator=generator) * variety.noise
        noise = torch.randn(films_B2CTHW.shape, generator=generator)
        films_B2CTHW = films_B2CTHW + level_B[:, None, None, None, None, None] * noise
    return batch._replace(films_B2CTHW=films_B2CTHW, begins=start == 0)


def _drawn_length(whole: int, share: float, least: int, generator: torch.Generator) -> int:
    shortest = min(whole, max(least, math.ceil(share * whole)))
    return draw_int(generator, shortest, whole + 1)


def _check_sizes(store: PairStore, channels: int) -> None:
    for size, members in store.groups.items():
        found = store.pair(members[0]).shape[1]
        if found != channels:
            raise ValueError(
                f"channels={channels}: the latents of {store.path} have {found}; the nearest that works is {found}"
            )
        if size[0] < 2:
            raise ValueError(f"pairs={str(store.path)!r}: {size[0]} latent frame does not move; 2 or more do")


def _kinds(labels: Sequence[PairLabel]) -> list[str]:
    return [label.kind for label in labels]


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
