"""Preference pairs on disk: two films of one prompt, as latents, the better one first, or neither better.

A store is a folder of shards; all pairs of one have one size. A shard is `pairs-00000.npy` (pairs, 2, channels, frames,
height, width; float16) and `shard-00000.jsonl`, one line a pair. The one invariant: a shard's `.jsonl` appears last, so
what a store holds is whole; and which of two equal films is first says nothing.

Shape suffixes: C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Group = tuple[int, int, int]


@dataclass(frozen=True)
class PairLabel:
    """What is known of a pair but its latents.

    `kind` is how it came about: a distortion's name, `samples` of one model ranked by a reward, `labeller`, or `rating`
    by a person. `fps_index` is that of the frame-rate embedding, 0 at 16 frames a second. `split` keeps pairs of one
    clip or prompt on one side: `train` or `held_out`. `margin` is what is said of how far they are apart, if anything.
    `facts` is all else that is known; `films` in it are the names of both, the better one first.
    """

    prompt: str
    kind: str
    fps_index: int = 1
    tie: bool = False
    split: str = "train"
    margin: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class PairStore:
    """A folder of pairs; latents are mapped, not read.

    Raises:
        ValueError: no shard is complete.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.labels: list[PairLabel] = []
        self.groups: dict[Group, list[int]] = defaultdict(list)
        self._where: list[tuple[int, int]] = []
        self._open = lru_cache(maxsize=1024)(self._open_array)
        for lines in sorted(self.path.glob("shard-*.jsonl")):
            shard = int(lines.stem.split("-")[1])
            frames, height, width = self._open(shard).shape[-3:]
            for row, line in enumerate(lines.read_text(encoding="utf-8").splitlines()):
                self.groups[frames, height, width].append(len(self.labels))
                self.labels.append(PairLabel(**json.loads(line)))
                self._where.append((shard, row))
        if not self.labels:
            raise ValueError(f"pairs={str(path)!r}: no complete shard here; make pairs into it first")

    def __len__(self) -> int:
        return len(self.labels)

    def pair(self, index: int) -> Tensor:
        """Both films (2, C, T, H, W), the better one first, float32."""
        shard, row = self._where[index]
        return torch.from_numpy(self._open(shard)[row].astype(np.float32))

    def members(self, split: str, kinds: Sequence[str] = (), ties: bool = True) -> dict[Group, list[int]]:
        """The pairs of a split by size, of some kinds or all."""

        def wanted(label: PairLabel) -> bool:
            return label.split == split and (not kinds or label.kind in kinds) and (ties or not label.tie)

        found = {key: [i for i in pairs if wanted(self.labels[i])] for key, pairs in self.groups.items()}
        return {key: pairs for key, pairs in found.items() if pairs}

    @property
    def counts(self) -> Counter[str]:
        """How many pairs of each kind."""
        return Counter(label.kind for label in self.labels)

    def _open_array(self, shard: int) -> npt.NDArray[np.float16]:
        pairs: npt.NDArray[np.float16] = np.load(self.path / f"pairs-{shard:05d}.npy", mmap_mode="r")
        return pairs


def has_pairs(folder: Path, shard: int) -> bool:
    """Whether a shard is there, to its end."""
    return (folder / f"shard-{shard:05d}.jsonl").exists()


def write_pairs(folder: Path, shard: int, pairs: Sequence[Tensor], labels: Sequence[PairLabel]) -> None:
    """Write a shard of pairs (2, C, T, H, W) of one size. Films without names in `facts` are named by what they are.

    Raises:
        ValueError: there are none, or as many labels as pairs there are not.
    """
    if not pairs or len(pairs) != len(labels):
        raise ValueError(f"pairs: {len(pairs)} with {len(labels)} labels; a shard has as many of both, 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    array = torch.stack([pair.float().cpu() for pair in pairs]).half().numpy()
    named = [_named(label, films) for label, films in zip(labels, array, strict=True)]
    lines = "".join(json.dumps(asdict(label)) + "\n" for label in named)
    half_done = folder / f"half-done-{shard:05d}"
    with half_done.open("wb") as file:
        np.save(file, array)
    half_done.replace(folder / f"pairs-{shard:05d}.npy")
    half_done.write_text(lines, encoding="utf-8")
    half_done.replace(folder / f"shard-{shard:05d}.jsonl")


def _named(label: PairLabel, films: npt.NDArray[np.float16]) -> PairLabel:
    """The label with names of its films: of one film the same in every store, so that contradictions are found."""
    names = [hashlib.sha256(film.tobytes()).hexdigest()[:16] for film in films]
    return replace(label, facts={"films": names, **label.facts})
