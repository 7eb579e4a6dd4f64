"""A policy's films ranked by a reward: the best and the worst of a prompt become a pair, where they are apart.

And what of films can be read off their latents alone, where a reward that is being hacked shows. The one invariant:
what is dropped is counted by its reason, and a filter that drops everything is an error with the figures.

Shape suffixes: N films of one prompt, B films, C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from everreel.train.motion.pairs import Group, PairLabel, write_pairs
from everreel.train.motion.samples import Asked, SampleStore

Keep = Callable[[Tensor, Tensor, Asked], str | None]
"""Why the best film (C, T, H, W) and the worst of what was asked make no pair, None where they do."""
KIND = "samples"
PAIRS_A_SHARD = 16
RANKING = "ranking.json"


@dataclass(frozen=True)
class Signs:
    """Means over films of what latents alone say: how much changes from frame to frame, their spread, their mean."""

    amplitude: float
    std: float
    mean: float


@dataclass
class Ranking:
    """What became of a policy's films."""

    prompts: int = 0
    films: int = 0
    reward: float = 0.0
    reward_std: float = 0.0
    gap: float = 0.0
    """The mean over all prompts of how far best and worst are apart."""
    kept: int = 0
    held_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    signs: Signs = field(default_factory=lambda: Signs(math.nan, math.nan, math.nan))

    def values(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def signs_of(films_BCTHW: Tensor) -> Signs:
    """Of some films. The first latent frame stands for one picture and the others for four, so it is left out of the
    changes where there are more.
    """
    moving = films_BCTHW[:, :, 1:] if films_BCTHW.shape[2] > 2 else films_BCTHW
    amplitude = float(moving.diff(dim=2).abs().mean())
    std_B = films_BCTHW.flatten(1).std(dim=1)
    return Signs(amplitude, float(std_B.mean()), float(films_BCTHW.mean()))


def mean_signs(signs: Sequence[Signs]) -> Signs:
    """The mean of those of as many films each."""
    return Signs(*(fmean(getattr(one, name) for one in signs) for name in ("amplitude", "std", "mean")))


@torch.no_grad()
def scores_of(reward: nn.Module, films_NCTHW: Tensor, fps_index: int) -> list[float]:
    """What a reward gives each film, on the device where it is: latents (N, C, T, H, W) and frame-rate indices (N,) to
    scores (N,).

    Raises:
        ValueError: a score is not finite.
    """
    device = next(reward.parameters()).device
    fps_N = torch.full((len(films_NCTHW),), fps_index, device=device)
    scores: list[float] = reward(films_NCTHW.to(device), fps_N).float().cpu().tolist()
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"reward: gives films of size {tuple(films_NCTHW.shape[1:])} scores that are not finite")
    return scores


def rank(store: SampleStore, reward: nn.Module, min_gap: float, keep: Keep | None, folder: Path) -> Ranking:
    """Make a pair store of a policy's films, whole or not at all; again, it only reads what came out.

    Raises:
        ValueError: no prompt gives a pair.
    """
    done = folder / RANKING
    if done.exists():
        values = json.loads(done.read_text(encoding="utf-8"))
        return Ranking(**values | {"signs": Signs(**values["signs"])})
    half_done = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half_done, ignore_errors=True)
    half_done.mkdir(parents=True)
    ranking = _Ranker(store, reward, min_gap, keep, half_done).run()
    (half_done / RANKING).write_text(json.dumps(ranking.values(), indent=1) + "\n", encoding="utf-8")
    half_done.replace(folder)
    return ranking


class _Ranker:
    def __init__(self, store: SampleStore, reward: nn.Module, min_gap: float, keep: Keep | None, folder: Path) -> None:
        self.store, self.reward, self.min_gap, self.keep, self.folder = store, reward, min_gap, keep, folder
        self._waiting: dict[Group, list[tuple[Tensor, PairLabel]]] = defaultdict(list)
        self._shards, self._dropped = 0, Counter[str]()
        self._kept = self._held_out = 0

    def run(self) -> Ranking:
        rewards: list[float] = []
        gaps: list[float] = []
        signs = []
        for index in range(len(self.store)):
            films_NCTHW = self.store.films(index)
            scores = scores_of(self.reward, films_NCTHW, self.store.asked[index].fps_index)
            rewards += scores
            gaps.append(max(scores) - min(scores))
            signs.append(signs_of(films_NCTHW))
            self._pair(index, films_NCTHW, scores)
        for group in list(self._waiting):
            self._flush(group)
        if not self._kept:
            raise ValueError(_nothing(len(self.store), gaps, self.min_gap, self._dropped))
        std = float(torch.tensor(rewards).std(correction=0))
        return Ranking(
            len(self.store), len(rewards), fmean(rewards), std, fmean(gaps), self._kept, self._held_out,
            dict(sorted(self._dropped.items())), mean_signs(signs),
        )  # fmt: skip

    def _pair(self, index: int, films_NCTHW: Tensor, scores: Sequence[float]) -> None:
        asked = self.store.asked[index]
        best, worst = (choose(range(len(scores)), key=scores.__getitem__) for choose in (max, min))
        gap = scores[best] - scores[worst]
        reason = "gap" if gap < self.min_gap or gap == 0 else None
        if reason is None and self.keep is not None:
            reason = self.keep(films_NCTHW[best], films_NCTHW[worst], asked)
        if reason is not None:
            self._dropped[reason] += 1
            return
        facts = {"scores": [scores[best], scores[worst]], "seeds": [asked.seeds[best], asked.seeds[worst]]}
        label = PairLabel(asked.prompt, KIND, asked.fps_index, split=asked.split, margin=gap, facts=facts)
        self._waiting[asked.size].append((films_NCTHW[[best, worst]], label))
        self._kept += 1
        self._held_out += asked.split == "held_out"
        if len(self._waiting[asked.size]) == PAIRS_A_SHARD:
            self._flush(asked.size)

    def _flush(self, group: Group) -> None:
        """A shard holds pairs of one size."""
        if waiting := self._waiting.pop(group, []):
            write_pairs(self.folder, self._shards, [pair for pair, _ in waiting], [label for _, label in waiting])
            self._shards += 1


def _nothing(prompts: int, gaps: Sequence[float], min_gap: float, dropped: Counter[str]) -> str:
    """Why there is no pair, in figures."""
    reasons = ", ".join(f"{count} for {reason!r}" for reason, count in dropped.most_common())
    apart = f"best and worst are {median(gaps):.3g} apart in the middle, at most {max(gaps):.3g}"
    if dropped["gap"] == prompts:
        instead = f"min_gap={median(gaps):.3g} keeps half of them" if max(gaps) > 0 else "the reward tells no two apart"
    else:
        instead = "loosen match, or make more samples"
    return f"min_gap={min_gap:g}: of {prompts} prompts none gives a pair, dropped {reasons}; {apart}; {instead}"
