"""Automatic preference pairs: a real clip over a distortion of it, matched so that motion alone differs.

Source: SkyReels-V2's automatic pairs (arXiv 2504.13074). Each clip is on one side, training or held out, whatever
kinds of pairs are made of it. The one invariant: a pair depends on its number, the recipe and the weights alone; which
clip and which kind it is of does not change when more are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from everreel.caption.critic import load_critic, shipped_critic
from everreel.checkpoint.load import load_transformer, load_vae
from everreel.checkpoint.lora import merge
from everreel.checkpoint.lora_files import read_lora
from everreel.data.clips import ClipStore, to_bytes
from everreel.data.draws import draw_float, draw_int, generator_for, seed_for
from everreel.data.latents import LatentStore
from everreel.data.text import FrozenText
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.evaluate.meters import opencv
from everreel.film.loading import source_of
from everreel.media import Pixels, contact_sheet, write_image
from everreel.model.vae import CausalVAE
from everreel.shapes import video_frames
from everreel.train.generate import Way
from everreel.train.motion.distort import FILMED, KINDS, Distorter, Distortions, RealClip, shows
from everreel.train.motion.match import Matching, Tally, appearance_of, difference_of
from everreel.train.motion.pairs import PairLabel, PairStore
from everreel.train.motion.shards import Made, missing_shards, shares, write_shards
from everreel.world.caption import sentence

SHEET = "sheet.png"
Size = tuple[int, int, int]
"""Frames, height and width of clips."""
Members = Mapping[Size, Mapping[str, Sequence[int]]]
"""The clips of each size of which each kind can be made."""


@dataclass(frozen=True)
class AutomaticPairsRecipe:
    """`count` pairs are tried; fewer are kept, as `matching` says.

    `clips` is a clip store of the film world and `latents` its latent store, whose sentences are then the prompts;
    without it the VAE encodes the clips. A film is the first `frames` latent frames of its clip. `model` is a name or a
    folder, with a `lora` merged into it; `text` and `vae` are folders where they are not the model's own. `kinds` have
    shares of any sum, and `held_out` is the share of the clips on that side.
    """

    clips: str
    count: int
    model: str = "tiny"
    latents: str | None = None
    lora: str | None = None
    text: str | None = None
    vae: str | None = None
    frames: int = 9
    kinds: tuple[tuple[str, float], ...] = tuple((kind, 1.0) for kind in KINDS)
    held_out: float = 0.1
    way: Way = field(default_factory=lambda: Way(30, guidance_scale=5.0))
    distortions: Distortions = field(default_factory=Distortions)
    matching: Matching = field(default_factory=Matching)
    critic: str | None = None
    seed: int = 0
    shard_pairs: int = 16
    sheet_pairs: int = 2
    processes: int = 1
    threads: int | None = None
    max_seconds: float | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        check_counts(self, "count", "shard_pairs", "processes")
        check_share("held_out", self.held_out)
        if self.frames < 2:
            raise ValueError(f"frames={self.frames}: one latent frame has no motion; the nearest that works is 2")
        for kind, share in self.kinds:
            if kind not in KINDS or not share > 0:
                raise ValueError(f"kinds={(kind, share)}: {', '.join(KINDS)}, each with a share above 0")
        if not self.kinds or len(dict(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds={self.kinds}: at least one, and each once; (({KINDS[0]!r}, 1.0),) works")
        self.distortions.check_way([kind for kind, _ in self.kinds], self.way)

    def run(self, run_dir: Path, quiet: bool = False) -> PairStore | None:
        """Make what is missing, and the sheet when nothing is; None where nothing was kept yet."""
        opencv()
        self.members  # noqa: B018 -- clips of which nothing can be made are refused before models are loaded
        store, _ = write_shards(self, run_dir, quiet)
        if store is not None and self.is_done(run_dir) and not (run_dir / SHEET).exists():
            vae = load_vae(self.vae or source_of(self.model), self.device, self.dtype)
            write_image(run_dir / SHEET, sheet(store, vae, self.sheet_pairs))
        return store

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        return not missing_shards(self, run_dir)

    def slots(self) -> list[int]:
        """How many pairs are tried for each shard."""
        return shares(self.count, self.shard_pairs)

    def maker(self) -> Callable[[int], Made]:
        """What makes a shard."""
        return _Making(self).make

    def check(self, tally: Tally, ended: bool) -> None:
        """Refuse rules that drop everything."""
        tally.check_kept(self.matching, ended)

    @property
    def members(self) -> Members:
        """The clips of each size of which each kind can be made.

        Raises:
            ValueError: the clips are too short, or there is none for a kind; or the latents are of other clips.
        """
        clips, wanted = ClipStore(self.clips), [kind for kind, _ in self.kinds]
        if self.latents is not None:
            _check_same(self, clips)
        frames = max(self.distortions.frames_needed(kind, video_frames(self.frames)) for kind in wanted)
        longest = max(length for length, _, _ in clips.groups)
        if longest < frames:
            rule = f"with kinds {', '.join(wanted)} a clip needs {frames} frames, and the longest has {longest}"
            fits = max((n for n in range(2, self.frames) if self._needs(n) <= longest), default=None)
            nearest = "longer clips are needed" if fits is None else f"the nearest that works is {fits}"
            raise ValueError(f"frames={self.frames}: {rule}; {nearest}")
        members = {
            size: {kind: [i for i in found if shows(kind, clips.scene(i))] for kind in wanted}
            for size, found in clips.groups.items()
            if size[0] >= frames
        }
        for kind in wanted:
            if not any(found[kind] for found in members.values()):
                rule = "none of the clips shows it: it takes one that gets along, seen from its side"
                raise ValueError(f"kinds={kind!r}: {rule}; render more clips or leave it out")
        return members

    def _needs(self, frames: int) -> int:
        return max(self.distortions.frames_needed(kind, video_frames(frames)) for kind, _ in self.kinds)


def split_of(seed: int, held_out: float, *purpose: str | int) -> str:
    """The side of a clip, a scene or a prompt."""
    return "held_out" if draw_float(generator_for(seed, "side", *purpose)) < held_out else "train"


def sheet(store: PairStore, vae: CausalVAE, each: int = 2, frames: int = 4) -> Pixels:
    """Some pairs of each kind to look at: the better films in a row, and below each the worse one."""
    parameter, films, captions = next(vae.parameters()), [], []
    kinds: dict[str, list[int]] = {}
    for number, label in enumerate(store.labels):
        if len(kinds.setdefault(label.kind, [])) < each:
            kinds[label.kind].append(number)
    for numbers in kinds.values():
        for place, word in enumerate(("better", "worse")):
            for number in (numbers * each)[:each]:
                label, latents_CTHW = store.labels[number], store.pair(number)[place]
                with torch.no_grad():
                    film = vae.decode(latents_CTHW[None].to(parameter.device, parameter.dtype))[0]
                films.append(to_bytes(film))
                said = " ".join(f"{name} {value}" for name, value in label.facts.items() if name in _SAID)
                captions.append(f"{label.kind} {said} · {'one of a tie' if label.tie else word}: {label.prompt}")
    return contact_sheet(films, columns=each, frames_per_film=frames, captions=captions)


def check_counts(recipe: object, *names: str) -> None:
    """Refuse a number below 1."""
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{name}={getattr(recipe, name)}: must be 1 or more; the nearest that works is 1")


def check_share(name: str, value: float) -> None:
    """Refuse a share outside of 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value:g}: a share lies in 0..1; the nearest that works is {min(max(value, 0), 1):g}")


def distorter_of(
    model: str,
    lora: str | None,
    text: str | None,
    vae: str | None,
    way: Way,
    placed: tuple[str, torch.dtype],
    distortions: Distortions | None = None,
) -> Distorter:
    """A model with all that makes films, loaded in a type onto a device, `placed`."""
    source, (device, dtype) = source_of(model), placed
    transformer = load_transformer(source, device, dtype)
    if transformer.config.image_dim is not None:
        raise ValueError(f"model={model!r}: begins with a picture; a model of the kind df or t2v works")
    if lora is not None:
        merge(transformer, [(read_lora(Path(lora), transformer.config), 1.0)], keep=False)
    loaded = load_vae(vae or source, device, dtype)
    made = Distorter(transformer.eval(), FrozenText.load(text or source), loaded, way, distortions or Distortions())
    return made


_SAID = ("strength", "rate", "limit")


class _Making:
    """Models at work for a recipe."""

    def __init__(self, recipe: AutomaticPairsRecipe) -> None:
        self.recipe, self.clips, self.members = recipe, ClipStore(recipe.clips), recipe.members
        self.store = None if recipe.latents is None else LatentStore(recipe.latents)
        placed = (recipe.device, recipe.dtype)
        self.tool = distorter_of(
            recipe.model, recipe.lora, recipe.text, recipe.vae, recipe.way, placed, recipe.distortions
        )  # fmt: skip
        self.critic = load_critic(recipe.critic or shipped_critic()).to(recipe.device)

    def make(self, shard: int) -> Made:
        """A shard: pairs of one size, each of the kind and the clip that its number says."""
        made, first = Made([], [], Tally()), shard * self.recipe.shard_pairs
        for number in range(first, first + self.recipe.slots()[shard]):
            self._try(number, *self._plan[number], made)
        return made

    @cached_property
    def _plan(self) -> list[tuple[str, int]]:
        """Of each pair the kind and the clip; a kind takes each clip of a size once before it takes any again."""
        recipe, taken = self.recipe, Counter[tuple[Size, str]]()
        plan, orders = [], {}
        for number in range(recipe.count):
            size = self._size(number // recipe.shard_pairs)
            kind = self._kind(number, size)
            members, turn = self.members[size][kind], taken[size, kind]
            if (size, kind) not in orders:
                generator = generator_for(recipe.seed, "order", kind, *size)
                orders[size, kind] = torch.randperm(len(members), generator=generator).tolist()
            plan.append((kind, members[orders[size, kind][turn % len(members)]]))
            taken[size, kind] += 1
        return plan

    def _try(self, number: int, kind: str, index: int, made: Made) -> None:
        recipe = self.recipe
        generator = generator_for(recipe.seed, "pair", number)
        clip = self._clip(index, generator)
        worse_CTHW, facts = self.tool.distort(kind, clip, generator, seed_for(recipe.seed, "film", number))
        films = [self.tool.decode(latents_CTHW) for latents_CTHW in (clip.latents_CTHW, worse_CTHW)]
        # Frames of the clip itself show what it shows; that the critic reads them otherwise is because of their motion.
        scene = None if kind in FILMED else self.clips.scene(index)
        better, worse = (appearance_of(film, self.clips.fps(index), scene, self.critic) for film in films)
        failed = recipe.matching.mismatch(better, worse, difference_of(*films))
        if failed is not None:
            made.tally.drop(kind, *failed)
            return
        made.tally.keep(kind)
        made.pairs.append(torch.stack([clip.latents_CTHW, worse_CTHW]))
        facts |= {"clip": index, "sharpness": [round(look.sharpness, 4) for look in (better, worse)]}
        if scene is not None:
            facts["alignment"] = [round(look.alignment, 4) for look in (better, worse)]
        side = split_of(recipe.seed, recipe.held_out, "clip", index)
        made.labels.append(PairLabel(clip.prompt, kind, clip.fps_index, split=side, facts=facts))

    def _clip(self, index: int, generator: torch.Generator) -> RealClip:
        frames = self.clips.clip(index)
        if self.store is None:
            prompt = sentence(self.clips.scene(index), generator)
            latents_CTHW = self.tool.encode(frames[: video_frames(self.recipe.frames)])
        else:
            sentences = self.store.sentences[index]
            prompt = sentences[draw_int(generator, 0, len(sentences))]
            # The VAE is causal: the first latents of a clip are those of its first frames.
            latents_CTHW = self.store.batch([index], [(0, self.recipe.frames)])[0]
        return RealClip(frames, latents_CTHW, prompt, FPS_INDEX[self.clips.fps(index)])

    def _size(self, shard: int) -> Size:
        """As often as there are clips of it."""
        counts = {size: sum(map(len, found.values())) for size, found in sorted(self.members.items())}
        point = draw_int(generator_for(self.recipe.seed, "size", shard), 0, sum(counts.values()))
        for size, count in counts.items():
            point -= count
            if point < 0:
                return size
        raise AssertionError("unreachable")

    def _kind(self, number: int, size: Size) -> str:
        """Evenly by share in any run of pairs, of those that clips of the size show."""
        shares = [(kind, share) for kind, share in self.recipe.kinds if self.members[size][kind]]
        point = (number + 0.5) * 0.6180339887498949 % 1.0 * sum(share for _, share in shares)
        for kind, share in shares:
            point -= share
            if point < 0:
                return kind
        return shares[-1][0]


def _check_same(recipe: AutomaticPairsRecipe, clips: ClipStore) -> None:
    """Latents of other clips are refused."""
    assert recipe.latents is not None
    store = LatentStore(recipe.latents)
    if len(store) != len(clips):
        rule = f"has {len(store)} clips, and clips={recipe.clips!r} has {len(clips)}"
        raise ValueError(f"latents={recipe.latents!r}: {rule}; encode that store to its end, or leave latents out")
    strange = [index for index in range(len(store)) if store.labels[index] != clips.labels[index]]
    if strange:
        rule = f"clip {strange[0]} is another than that of clips={recipe.clips!r}"
        raise ValueError(f"latents={recipe.latents!r}: {rule}; encode that store, or leave latents out")
