"""Preference pairs that somebody judged: people on the rating page, or a labeller that knows the film's scene.

Source: SkyReels-V2's labelled pairs (arXiv 2504.13074): several films of a prompt, paired, those dropped that differ in
more than motion, the rest called better, worse or a tie. The one invariant: ties are kept, and what contradicts itself
or comes from who sees no difference is left out and named; a prompt's pairs are on one side, training or held out.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from everreel.caption.critic import load_critic, shipped_critic
from everreel.checkpoint.load import load_vae
from everreel.data.clips import to_unit_range
from everreel.data.draws import draw_int, generator_for, seed_for
from everreel.data.latents import LatentStore, encode_video
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.evaluate.bench.study import PAIR_AXES
from everreel.evaluate.meters import opencv
from everreel.film.loading import source_of
from everreel.media import Pixels, Video, resize_cover
from everreel.shapes import LatentShape, video_frames
from everreel.train.generate import Wanted, Way
from everreel.train.motion.distort import film_of
from everreel.train.motion.make import check_counts, check_share, distorter_of, split_of
from everreel.train.motion.match import (
    Appearance,
    Judgement,
    Matching,
    Tally,
    Verdict,
    appearance_of,
    difference_of,
    verdicts,
    without_indifferent,
)
from everreel.train.motion.pairs import PairLabel, PairStore
from everreel.train.motion.shards import Made, missing_shards, shares, write_shards
from everreel.world.scene import Scene, is_held_out

LABELLER, RATING = "labeller", "rating"
LEAST_COMPARED = 30
"""So many pairs of a labeller, most of them ties, end a run before its end."""


class Scored(Protocol):
    """What a labeller says of a film."""

    @property
    def score(self) -> float: ...


Judge = Callable[[Pixels, float, Scene], Any]
"""Frames, their rate and the scene that was asked for → what is `Scored`."""
Prefer = Callable[[Any, Any], int]
"""What was said of two films → 1 the first is better, -1 the second, 0 neither."""


@dataclass(frozen=True)
class RatedPairsRecipe:
    """Pairs of the preferences that `everreel rate` exports, on one `axis`.

    Films are taken from their first frame on, at `fps` frames a second, which the model must know, and cropped to
    `height` and `width`. `matching` is of looks alone, as nothing tells what people's films should show; None asks
    nothing. Who says tie in more than `most_ties` of `least_answers` or more is left out.
    """

    preferences: str
    model: str = "tiny"
    vae: str | None = None
    axis: str = "motion_quality"
    frames: int = 9
    height: int = 96
    width: int = 160
    fps: int = 24
    held_out: float = 0.1
    most_ties: float = 0.9
    least_answers: int = 5
    matching: Matching | None = None
    seed: int = 0
    shard_pairs: int = 16
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        check_counts(self, "frames", "shard_pairs", "processes", "least_answers")
        check_share("held_out", self.held_out)
        check_share("most_ties", self.most_ties)
        LatentShape.from_pixels(video_frames(self.frames), self.height, self.width)
        if self.fps not in FPS_INDEX:
            raise ValueError(f"fps={self.fps}: the model knows 16 and 24; the nearest that works is 24")
        if self.axis not in PAIR_AXES:
            raise ValueError(f"axis={self.axis!r}: must be one of {', '.join(PAIR_AXES)}")

    def run(self, run_dir: Path, quiet: bool = False) -> PairStore | None:
        """Make what is missing, and say whom and what was left out; None where nothing was kept yet."""
        if self.matching is not None:
            opencv()
        store, _ = write_shards(self, run_dir, quiet, "rated pairs")
        return store

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        return not missing_shards(self, run_dir)

    def slots(self) -> list[int]:
        """How many verdicts are tried for each shard."""
        return shares(len(self.heard[0]), self.shard_pairs)

    @property
    def heard(self) -> tuple[list[Verdict], list[str]]:
        """The verdicts that count, and what was left out, in words.

        Raises:
            ValueError: a line is not one of a preference, a film is missing, or nothing is left.
        """
        path = Path(self.preferences)
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        return _heard(path, stamp, self.axis, self.most_ties, self.least_answers)

    @property
    def stamp(self) -> str:
        """Of the verdicts: a folder holds pairs of the same ones alone, even if more is said later."""
        said = json.dumps([asdict(verdict) for verdict in self.heard[0]])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def maker(self) -> Callable[[int], Made]:
        """What makes a shard."""
        return _Rating(self).make

    def check(self, tally: Tally, ended: bool) -> None:
        """Refuse rules that drop everything."""
        tally.check_kept(self.matching, ended)


@dataclass(frozen=True)
class LabelledPairsRecipe:
    """Pairs of the films that a model makes of `prompts` prompts, `films` each, compared by a labeller.

    `latents` is a latent store of the film world, whose scenes give the prompts; those that are kept for evaluation are
    passed over. `judge` and `prefer` are the labeller's: functions of a module, as of `evaluate.physics`. A labeller
    who says tie of more than `most_ties` is refused. See `AutomaticPairsRecipe` for the rest.
    """

    latents: str
    prompts: int
    judge: Judge
    prefer: Prefer
    model: str = "tiny"
    films: int = 4
    lora: str | None = None
    text: str | None = None
    vae: str | None = None
    frames: int = 9
    held_out: float = 0.1
    most_ties: float = 0.9
    way: Way = field(default_factory=lambda: Way(30, guidance_scale=5.0))
    matching: Matching = field(default_factory=Matching)
    critic: str | None = None
    seed: int = 0
    shard_prompts: int = 4
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        check_counts(self, "prompts", "shard_prompts", "processes")
        check_share("held_out", self.held_out)
        check_share("most_ties", self.most_ties)
        for name, value in (("films", self.films), ("frames", self.frames)):
            if value < 2:
                raise ValueError(f"{name}={value}: nothing to compare; the nearest that works is 2")

    def run(self, run_dir: Path, quiet: bool = False) -> PairStore | None:
        """Make what is missing; None where nothing was kept yet."""
        opencv()
        _prompted(self.latents)
        store, _ = write_shards(self, run_dir, quiet, "labelled pairs, by prompt")
        return store

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        return not missing_shards(self, run_dir)

    def slots(self) -> list[int]:
        """How many prompts each shard is of."""
        return shares(self.prompts, self.shard_prompts)

    def maker(self) -> Callable[[int], Made]:
        """What makes a shard."""
        return _Labelling(self).make

    def check(self, tally: Tally, ended: bool) -> None:
        """Refuse rules that drop everything, and a labeller who sees no difference."""
        tally.check_kept(self.matching, ended)
        ties, compared = tally.ties[LABELLER], tally.kept[LABELLER]
        if ties > self.most_ties * compared and (ended or compared >= LEAST_COMPARED):
            share = (
                f"{ties} of {compared} pairs are ties ({ties / compared:.0%}), and at most {self.most_ties:.0%} may be"
            )
            raise ValueError(f"prefer: {share}; a finer labeller is needed, or longer films than frames={self.frames}")


class _Rating:
    """A VAE at work for rated pairs."""

    def __init__(self, recipe: RatedPairsRecipe) -> None:
        self.recipe = recipe
        self.verdicts, self.said = recipe.heard
        self.vae = load_vae(recipe.vae or source_of(recipe.model), recipe.device, recipe.dtype)

    def make(self, shard: int) -> Made:
        """A shard: verdicts in the order in which they were said."""
        recipe, made = self.recipe, Made([], [], Tally(said=list(self.said) if shard == 0 else []))
        first = shard * recipe.shard_pairs
        known: dict[str, tuple[Pixels, Tensor] | float] = {}
        for verdict in self.verdicts[first : first + recipe.slots()[shard]]:
            for film in (verdict.first, verdict.second):
                if film not in known:
                    known[film] = self._film(film)
            self._try(verdict, known, made)
        return made

    def _try(self, verdict: Verdict, known: Mapping[str, tuple[Pixels, Tensor] | float], made: Made) -> None:
        recipe, films = self.recipe, []
        for name in (verdict.first, verdict.second)[:: verdict.value or 1]:  # the better one first
            found = known[name]
            if isinstance(found, float):
                made.tally.drop(RATING, "seconds", found)
                made.tally.said.append(f"{name}: lasts {found:.2f} s, a pair needs {self._seconds:.2f} s; left out")
                return
            films.append(found)
        (better, better_CTHW), (worse, worse_CTHW) = films
        if recipe.matching is not None:
            looks = [appearance_of(film, recipe.fps) for film in (better, worse)]
            failed = recipe.matching.mismatch(looks[0], looks[1], difference_of(better, worse))
            if failed is not None:
                made.tally.drop(RATING, *failed)
                return
        made.tally.keep(RATING, verdict.value == 0)
        made.pairs.append(torch.stack([better_CTHW, worse_CTHW]))
        side = split_of(recipe.seed, recipe.held_out, "prompt", verdict.prompt)
        facts = {"films": [verdict.first, verdict.second][:: verdict.value or 1], "votes": list(verdict.votes)}
        margin = verdict.margin if verdict.value else None
        made.labels.append(
            PairLabel(
                verdict.prompt, RATING, FPS_INDEX[recipe.fps], verdict.value == 0, side, margin=margin, facts=facts
            )
        )

    @property
    def _seconds(self) -> float:
        return video_frames(self.recipe.frames) / self.recipe.fps

    def _film(self, path: str) -> tuple[Pixels, Tensor] | float:
        """Its frames and latents, or its seconds where they are too few."""
        recipe, video = self.recipe, Video(path)
        # The frame that is shown at each moment of the model's clock; a hair later, as rates are rounded.
        numbers = ((np.arange(video_frames(recipe.frames)) / recipe.fps + 1e-4) * video.fps).astype(int)
        if numbers[-1] >= video.num_frames:
            return video.num_frames / video.fps
        shown = video.frames[: int(numbers[-1]) + 1]
        frames = np.stack([resize_cover(shown[number], recipe.height, recipe.width) for number in numbers])
        return frames, torch.from_numpy(encode_video(self.vae, to_unit_range([frames]))[0]).float()


@dataclass(frozen=True)
class _Film:
    """A film that a model made."""

    latents_CTHW: Tensor
    frames: Pixels
    look: Appearance
    judged: Scored
    seed: int


class _Labelling:
    """Models and a labeller at work."""

    def __init__(self, recipe: LabelledPairsRecipe) -> None:
        self.recipe, self.store = recipe, LatentStore(recipe.latents)
        self.sizes = _prompted(recipe.latents)
        placed = (recipe.device, recipe.dtype)
        self.tool = distorter_of(recipe.model, recipe.lora, recipe.text, recipe.vae, recipe.way, placed)
        self.critic = load_critic(recipe.critic or shipped_critic()).to(recipe.device)

    def make(self, shard: int) -> Made:
        """A shard: the pairs of some prompts, all of one size."""
        recipe, made = self.recipe, Made([], [], Tally())
        height, width = self._size(shard)
        members = self.sizes[height, width]
        order = torch.randperm(len(members), generator=generator_for(recipe.seed, "prompts", height, width)).tolist()
        for row in range(recipe.slots()[shard]):
            number = shard * recipe.shard_prompts + row
            index = members[order[number % len(members)]]
            generator = generator_for(recipe.seed, "prompt", number)
            sentences = self.store.sentences[index]
            prompt = sentences[draw_int(generator, 0, len(sentences))]
            seeds = [seed_for(recipe.seed, "film", number, film) for film in range(recipe.films)]
            size = (recipe.frames, height, width)
            fps_index = FPS_INDEX[self.store.fps(index)]
            films = {str(seed): self._film(index, Wanted(prompt, size, fps_index, seed)) for seed in seeds}
            self._compare(index, films, prompt, made)
        return made

    def _film(self, index: int, wanted: Wanted) -> _Film:
        scene, fps = self.store.scene(index), self.store.fps(index)
        latents_CTHW = film_of(self.tool.model, self.tool.text, wanted, self.recipe.way)
        frames = self.tool.decode(latents_CTHW)
        look = appearance_of(frames, fps, scene, self.critic)
        return _Film(latents_CTHW, frames, look, self.recipe.judge(frames, fps, scene), wanted.seed)

    def _compare(self, index: int, films: Mapping[str, _Film], prompt: str, made: Made) -> None:
        recipe, said = self.recipe, []
        for first, second in itertools.combinations(films, 2):
            one, other = films[first], films[second]
            failed = recipe.matching.mismatch(one.look, other.look, difference_of(one.frames, other.frames))
            if failed is None:
                said.append(Judgement(prompt, first, second, self._preferred(one, other), LABELLER))
            else:
                made.tally.drop(LABELLER, *failed)
        agreed, contradictions = verdicts(said)
        made.tally.said.extend(contradictions)
        for _ in range(len(said) - len(agreed)):
            made.tally.drop(LABELLER, "contradiction", 1.0)
        for verdict in agreed:
            better, worse = (films[name] for name in (verdict.first, verdict.second)[:: verdict.value or 1])
            made.tally.keep(LABELLER, verdict.value == 0)
            made.pairs.append(torch.stack([better.latents_CTHW, worse.latents_CTHW]))
            side = split_of(recipe.seed, recipe.held_out, "clip", index)
            scores = [round(film.judged.score, 4) for film in (better, worse)]
            facts = {"clip": index, "seeds": [better.seed, worse.seed], "scores": scores}
            made.labels.append(
                PairLabel(
                    prompt, LABELLER, FPS_INDEX[self.store.fps(index)], verdict.value == 0, side,
                    margin=abs(better.judged.score - worse.judged.score), facts=facts,
                )
            )  # fmt: skip

    def _preferred(self, one: _Film, other: _Film) -> int:
        """What the labeller says.

        Raises:
            ValueError: it says something else when the films are turned round.
        """
        said, turned = self.recipe.prefer(one.judged, other.judged), self.recipe.prefer(other.judged, one.judged)
        if said not in (-1, 0, 1) or turned != -said:
            raise ValueError(f"prefer: says {said} of two films and {turned} of them turned round; must be 1, 0 or -1")
        return said

    def _size(self, shard: int) -> tuple[int, int]:
        point = draw_int(generator_for(self.recipe.seed, "size", shard), 0, sum(map(len, self.sizes.values())))
        for size, members in self.sizes.items():
            point -= len(members)
            if point < 0:
                return size
        raise AssertionError("unreachable")


def _prompted(latents: str) -> dict[tuple[int, int], list[int]]:
    """The clips of a store that may give prompts, by their height and width in latents.

    Raises:
        ValueError: there is none.
    """
    store = LatentStore(latents)
    sizes: dict[tuple[int, int], list[int]] = {}
    for (_, height, width), members in sorted(store.groups.items()):
        for index in members:
            label = store.labels[index]
            if label is not None and not is_held_out(label.scene):
                sizes.setdefault((height, width), []).append(index)
    if not sizes:
        known = sum(label is not None for label in store.labels)
        rule = f"of {len(store)} clips {known} are of the film world, and all of those are kept for evaluation"
        raise ValueError(f"latents={latents!r}: {rule}; encode a store of the split train")
    return sizes


@lru_cache(maxsize=4)
def _heard(
    path: Path, stamp: int, axis: str, most_ties: float, least: int
) -> tuple[list[Verdict], list[str]]:  # a file is read once while it is the same
    said = _read(path, axis)
    heard, out = without_indifferent(said, most_ties, least)
    found, contradictions = verdicts(heard)
    if not found:
        why = "; ".join([*out, *contradictions][:3])
        rule = f"nothing is left of {len(said)} answers on {axis}: {why}"
        raise ValueError(f"preferences={str(path)!r}: {rule}; more raters are needed")
    missing = sorted({film for v in found for film in (v.first, v.second) if not Path(film).is_file()})
    if missing:
        films = len({film for verdict in found for film in (verdict.first, verdict.second)})
        rule = f"{len(missing)} of its {films} films are not there, the first {missing[0]}"
        raise ValueError(f"preferences={str(path)!r}: {rule}; export them again where the films are")
    return found, [*out, *contradictions]


def _read(path: Path, axis: str) -> list[Judgement]:
    """The answers on an axis."""
    if not path.is_file():
        raise ValueError(f"preferences={str(path)!r}: no such file; export one from the rating page")
    found, axes = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            axes.add(record["axis"])
            if record["axis"] == axis:
                found.append(_judgement(record))
        except (ValueError, KeyError, TypeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"preferences={str(path)!r}: line {number} is no preference ({said})") from error
    if not found:
        there = ", ".join(sorted(axes)) or "no line at all"
        raise ValueError(f"preferences={str(path)!r}: nothing on axis={axis!r}; it has {there}")
    return found


def _judgement(record: Mapping[str, Any]) -> Judgement:
    films: Sequence[str] = record["films"]
    first, second = (str(film) for film in films)
    if first == second:
        raise ValueError("both films are one")
    if record["tie"]:
        value = 0
    else:
        value = 1 if (first, second) == (record["better"], record["worse"]) else -1
        if {record["better"], record["worse"]} != {first, second}:
            raise ValueError("better and worse are not its films")
    return Judgement(str(record["prompt"]), first, second, value, str(record["rater"]))
