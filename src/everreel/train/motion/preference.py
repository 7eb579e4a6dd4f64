"""Flow-DPO: a policy learns which of two films of a prompt is the better one, held against what it began as.

Source: section 4b of the paper and VideoAlign's Flow-DPO (arXiv 2501.13918) with a constant beta; the one that falls
with the noise level is known to be hacked. The one invariant: both films of a pair are shown in one pass, with the same
noise at the same levels, cut at the same place, so all that is compared is the films.

Beta multiplies errors that are means over channels, space and the frames that count. Shape suffixes: B batch (pairs,
or films: first the better ones of all pairs, then the worse), C channels, T latent frames, H W height and width, L
numbers of a prompt.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from everreel.checkpoint.lora_files import LORA_FILE
from everreel.data.draws import draw_float, draw_int, generator_for
from everreel.data.latents import draw_key, draw_members
from everreel.diffusion.noise import LevelMixture, add_noise
from everreel.evaluate.films import write_json
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.shapes import LatentShape
from everreel.train.diffusion_forcing import random_blocks, window_levels
from everreel.train.generate import SampleFilms, Way, context_of
from everreel.train.lora import AdapterShape
from everreel.train.motion.checks import Check, Look, summary
from everreel.train.motion.pairs import Group, PairStore
from everreel.train.motion.policy import Policy, write_policy_lora
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

FULL_SEQUENCE = LevelMixture(equal=1.0, non_decreasing=0.0, clean_prefix=0.0, given_anywhere=0.0)
REPORT = "report.json"
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class PreferenceRecipe:
    """The values of one stage against one reference.

    The policy begins as `model` or as `config` with the weights in `init`, with a `lora` merged into it; what it begins
    as is the reference. With an `adapter` that alone is trained, on weights held in `dtype`; what it leaves is one LoRA
    with `lora` in it. `text` is the folder of the text encoder, the model's own where it is None; `prompts` are latent
    stores whose embedded sentences are read instead.

    `pairs` is the folder of a pair store, `others` are (folder, share of the steps) of more of them, `kinds` those of
    their pairs that are taken, all where it is empty. `windows` are (latent frames, weight), as in diffusion forcing;
    without them films are taken whole. `tokens` is the size of a batch in video tokens, both films of a pair counted.
    The levels default to a model's of full sequences; one of diffusion forcing takes a `mixture`, `causal` and
    `inside` of its own. `empty` is the share of pairs that lose their prompt.

    `sft` weighs the plain loss on the better films, against a policy that grows worse at both. With `stop_at` the run
    ends once the mean implicit accuracy of the last `stop_over` steps has reached it: the pairs are told apart, and it
    is time for new ones. At its end `check_pairs` pairs of each split are looked at `looks` times each.
    """

    settings: TrainerSettings
    pairs: str = ""
    config: TransformerConfig | None = None
    model: str | None = None
    init: str | None = None
    lora: str | None = None
    adapter: AdapterShape | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    text: str | None = None
    prompts: tuple[str, ...] = ()
    vae: str | None = None
    beta: float = 100.0
    sft: float = 0.0
    others: tuple[tuple[str, float], ...] = ()
    kinds: tuple[str, ...] = ()
    windows: tuple[tuple[int, float], ...] = ()
    tokens: int = 4096
    mixture: LevelMixture = field(default_factory=lambda: FULL_SEQUENCE)
    inside: float = 0.5
    causal: float = 0.0
    largest_block: int = 6
    empty: float = 0.0
    stop_at: float | None = None
    stop_over: int = 50
    check_pairs: int = 200
    looks: int = 4
    sample_prompts: tuple[str, ...] = ()
    sample_frames: int = 9
    sample_size: tuple[int, int] = (96, 160)

    def __post_init__(self) -> None:
        if (self.config is None) == (self.model is None):
            raise ValueError("model: give either it or config, the sizes of what init holds; model='tiny' works")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta={self.beta:g}: must be above 0; 100 works")
        if not (math.isfinite(self.sft) and self.sft >= 0):
            raise ValueError(f"sft={self.sft:g}: must be 0 or more; the nearest that works is 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}: must be float32 or bfloat16")
        if self.adapter is None and self.dtype != "float32":
            raise ValueError(f"dtype={self.dtype!r}: what is trained is held in float32; give an adapter, or float32")
        if self.stop_at is not None and not 0.5 < self.stop_at <= 1:
            raise ValueError(f"stop_at={self.stop_at:g}: must lie above 0.5, up to 1; 0.9 works")
        for name in ("stop_over", "looks", "check_pairs", "tokens", "largest_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more; the nearest that works is 1")
        for name in ("inside", "causal", "empty"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name}={share:g}: must lie in 0..1; the nearest that works is {int(share > 0)}")
        shares = [share for _, share in self.others]
        if any(not share > 0 for share in shares) or sum(shares) >= 1:
            raise ValueError(f"others: shares of {shares} must be above 0 and leave some of 1 to pairs; 0.2 works")

    def objective(self) -> Preference:
        """The objective, the policy still as its reference."""
        return Preference(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, and say in `report.json` how the pairs of each split are told apart.

        `transformer.safetensors`, or with an adapter the LoRA, holds the averaged weights.
        """
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        if self.adapter is not None:
            write_policy_lora(run_dir / LORA_FILE, trainer, self.lora, objective.policy.config)
        if outcome.finished:
            with trainer.averaged(), trainer.autocast():
                if trainer.first:
                    if not quiet:
                        sys.stderr.write("the pairs of each split are looked at\n")
                    write_json(run_dir / REPORT, objective.report(trainer.device, outcome))
        return outcome

    def after(self, run_dir: Path) -> PreferenceRecipe:
        """The same values, beginning with what a run of these has left."""
        if self.adapter is None:
            return replace(self, init=str(run_dir / "transformer.safetensors"), lora=None)
        return replace(self, lora=str(run_dir / LORA_FILE))


class PairBatch(NamedTuple):
    """Pairs of one size. The films (2B) are the better ones, then the worse; all else is once a pair (B)."""

    x0_BCTHW: Tensor
    ids_BL: Tensor
    fps_B: Tensor
    sigma_BT: Tensor
    loss_BT: Tensor
    blocks: tuple[int, ...] | None


class Errors(NamedTuple):
    """Of each pair's films, with the mean over the frames that count, float32."""

    better_B: Tensor
    worse_B: Tensor
    better_reference_B: Tensor
    worse_reference_B: Tensor

    @property
    def better_shift_B(self) -> Tensor:
        """How much worse the policy has become at the better film; below 0 it has become better."""
        return self.better_B - self.better_reference_B

    @property
    def worse_shift_B(self) -> Tensor:
        """How much worse the policy has become at the worse film."""
        return self.worse_B - self.worse_reference_B

    @property
    def margin_B(self) -> Tensor:
        """How far the policy has moved towards the better film, seen from the reference."""
        return self.worse_shift_B - self.better_shift_B


class Preference:
    """See the module. `metrics` holds how pairs are told apart and where both films have gone."""

    def __init__(self, recipe: PreferenceRecipe) -> None:
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        self.sources = _sources(recipe)
        self.policy = Policy(recipe)
        self._check_channels()
        self.text = self.policy.text
        self.text.ids(recipe.sample_prompts)
        for source in self.sources:  # of a prompt that was not embedded ahead one should hear now
            self.text.ids(sorted({label.prompt for label in source.store.labels}))
        self._recent: deque[float] = deque(maxlen=recipe.stop_over)
        shape = LatentShape.from_pixels(1, *recipe.sample_size)
        size = (recipe.sample_frames, shape.height, shape.width)
        where = recipe.vae or self.policy.source
        self._samples = SampleFilms(recipe.sample_prompts, size, Way(20, guidance_scale=5.0), self.text, where)

    def modules(self) -> dict[str, nn.Module]:
        """The one role: the transformer, or the adapter."""
        return self.policy.roles

    def batch(self, step: int, generator: torch.Generator) -> PairBatch:
        """Pairs of one store and size, both films of each cut at one place."""
        recipe, source = self.recipe, _drawn(self.sources, generator)
        frames = self._length(generator)
        groups = {key: members for key, members in source.train.items() if key[0] >= frames}
        key = draw_key(groups, generator)
        frames = frames or key[0]
        count = max(1, recipe.tokens // (2 * LatentShape(frames, *key[1:]).tokens))
        chosen = draw_members(groups[key], generator, count)
        return self._cut(source.store, chosen, frames, generator, recipe.empty)

    def losses(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """How surprising the preferences are to the policy, and its plain loss on the better films if that counts."""
        found = self.errors(batch, generator)
        loss = -logsigmoid(self.recipe.beta / 2 * found.margin_B).mean()
        self.metrics = {
            "implicit_accuracy": float(_told_apart(found.margin_B).mean()),
            "margin": float(found.margin_B.detach().mean()),
            "better_shift": float(found.better_shift_B.detach().mean()),
            "worse_shift": float(found.worse_shift_B.detach().mean()),
            "preference": float(loss.detach()),
        }
        if self.recipe.sft:
            loss = loss + self.recipe.sft * found.better_B.mean()
        return dict.fromkeys(self.policy.roles, loss)

    def errors(self, batch: PairBatch, generator: torch.Generator) -> Errors:
        """The mean squared error of the velocity of each film, the policy's with gradients, and the reference's."""
        self.policy.follow(batch.x0_BCTHW.device)
        noise_BCTHW = torch.randn(
            (len(batch.sigma_BT), *batch.x0_BCTHW.shape[1:]), generator=generator
        ).to(batch.x0_BCTHW)  # fmt: skip
        with self.policy.reference() as reference:
            theirs_B = self._films(reference, batch, noise_BCTHW)
        ours_B = self._films(self.policy.transformer, batch, noise_BCTHW)
        return Errors(*ours_B.chunk(2), *theirs_B.chunk(2))

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts."""
        # Of a finished run that is started again no batch has been seen, and the trainer has moved the adapter alone.
        (trained,) = self.policy.roles.values()
        self.policy.follow(next(trained.parameters()).device)
        self._samples.write(folder, step, self.policy.transformer)

    def told(self, values: Mapping[str, float]) -> None:
        """What a step has given."""
        if math.isfinite(accuracy := values.get("implicit_accuracy", math.nan)):
            self._recent.append(accuracy)

    @property
    def enough(self) -> bool:
        """Whether the pairs are told apart as well as the recipe asks."""
        stop_at, recent = self.recipe.stop_at, self._recent
        return stop_at is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= stop_at

    def memory(self) -> list[float]:
        """The implicit accuracy of the last steps."""
        return list(self._recent)

    def remember(self, memory: Sequence[float]) -> None:
        """Go on from these."""
        self._recent.clear()
        self._recent.extend(memory)

    @torch.no_grad()
    def check(self, split: str, device: torch.device) -> Check | None:
        """How pairs of a split are told apart, each looked at with the same draws every time; None if it has none."""
        recipe, looks = self.recipe, list[Look]()
        places = [(s.store, i) for s in self.sources for pairs in s.of(split).values() for i in sorted(pairs)]
        order = torch.randperm(len(places), generator=generator_for(0, "check", split)).tolist()
        for number in order[: recipe.check_pairs]:
            store, index = places[number]
            generator = generator_for(0, "check", split, number)
            frames = self._length(generator, longest=store.pair(index).shape[2])
            batch = self._cut(store, [index] * recipe.looks, frames, generator, empty=0.0)
            found = self.errors(PairBatch(*(_on(value, device) for value in batch)), generator)
            means = (value.mean().item() for value in (found.margin_B, found.better_shift_B, found.worse_shift_B))
            looks.append(Look(store.labels[index].kind, *means))
        return summary(looks) if looks else None

    def report(self, device: torch.device, outcome: Outcome) -> dict[str, Any]:
        """What is to be known of a finished run."""
        checks = {split: self.check(split, device) for split in SPLITS}
        return {
            "beta": self.recipe.beta,
            "sft": self.recipe.sft,
            "step": outcome.step,
            "reason": outcome.reason,
            "pairs": {str(source.store.path): source.counts for source in self.sources},
            "checks": {split: None if check is None else check.values() for split, check in checks.items()},
        }

    def _films(self, model: DiT, batch: PairBatch, noise_BCTHW: Tensor) -> Tensor:
        """The error of each film (2B,)."""
        once = noise_BCTHW, batch.sigma_BT, batch.loss_BT, batch.fps_B, batch.ids_BL
        noise_BCTHW, sigma_BT, counts_BT, fps_B, ids_BL = (torch.cat([value, value]) for value in once)
        x_BCTHW = add_noise(batch.x0_BCTHW, noise_BCTHW, sigma_BT)
        context = context_of(model, self.text, ids_BL)
        velocity_BCTHW = model(x_BCTHW, 1000 * sigma_BT, context, fps_B=fps_B, blocks=batch.blocks)
        error_BT = (velocity_BCTHW.float() - (noise_BCTHW - batch.x0_BCTHW)).square().mean(dim=(1, 3, 4))
        counts_BT = counts_BT.to(error_BT)
        error_B: Tensor = (error_BT * counts_BT).sum(1) / counts_BT.sum(1).clamp(min=1)
        return error_B

    def _length(self, generator: torch.Generator, longest: int | None = None) -> int:
        """Latent frames of a window, 0 for whole films; of those that fit where there is a longest."""
        windows = [(n, weight) for n, weight in self.recipe.windows if longest is None or n <= longest]
        if not windows:
            return longest or 0
        weights = torch.tensor([weight for _, weight in windows], dtype=torch.float64)
        return windows[int(torch.multinomial(weights, 1, generator=generator))][0]

    def _cut(
        self, store: PairStore, chosen: Sequence[int], frames: int, generator: torch.Generator, empty: float
    ) -> PairBatch:
        """Windows of pairs with their levels."""
        recipe = self.recipe
        films = [store.pair(index) for index in chosen]
        last = films[0].shape[2] - frames
        starts = [self._start(last, generator) for _ in chosen]
        cut_B2CTHW = torch.stack([film[:, :, at : at + frames] for film, at in zip(films, starts, strict=True)])
        causal = frames > 1 and draw_float(generator) < recipe.causal
        blocks = random_blocks(frames, recipe.largest_block, generator) if causal else None
        sigma_BT, loss_BT = window_levels(recipe.mixture, starts, frames, generator, blocks)
        said = ["" if draw_float(generator) < empty else store.labels[index].prompt for index in chosen]
        fps_B = torch.tensor([store.labels[index].fps_index for index in chosen])
        x0_BCTHW = cut_B2CTHW.transpose(0, 1).flatten(0, 1)
        return PairBatch(x0_BCTHW, self.text.ids(said), fps_B, sigma_BT, loss_BT, blocks)

    def _start(self, last: int, generator: torch.Generator) -> int:
        """The first latent of a window: that of the film, or one from inside it."""
        inside = draw_float(generator) < self.recipe.inside
        return draw_int(generator, 1, last + 1) if inside and last > 0 else 0

    def _check_channels(self) -> None:
        wanted = self.policy.config.out_dim
        for source in self.sources:
            found = source.store.pair(0).shape[1]
            if found != wanted:
                raise ValueError(
                    f"pairs={str(source.store.path)!r}: latents have {found} channels, the model's have {wanted}; "
                    "make pairs with its own VAE"
                )


@dataclass(frozen=True)
class Source:
    """A store, its share of the steps, and the pairs of it that say which film is better, by split."""

    store: PairStore
    share: float
    train: Mapping[Group, Sequence[int]]
    held_out: Mapping[Group, Sequence[int]]
    ties: int

    def of(self, split: str) -> Mapping[Group, Sequence[int]]:
        """The pairs of a split."""
        return self.train if split == "train" else self.held_out

    @property
    def counts(self) -> dict[str, int]:
        """For the report."""
        sizes = {split: sum(map(len, self.of(split).values())) for split in SPLITS}
        return {**sizes, "ties_left_out": self.ties}


def _sources(recipe: PreferenceRecipe) -> list[Source]:
    """The stores, each with pairs to learn from.

    Raises:
        ValueError: one has none, or none that is as long as a window.
    """
    if not recipe.pairs:
        raise ValueError("pairs='': name the folder of a pair store")
    rest = 1.0 - sum(share for _, share in recipe.others)
    found = []
    for path, share in ((recipe.pairs, rest), *recipe.others):
        store = PairStore(path)
        train, held_out = (store.members(split, recipe.kinds, ties=False) for split in SPLITS)
        ties = [label for label in store.labels if label.tie and (not recipe.kinds or label.kind in recipe.kinds)]
        if not train:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(store.counts.items()))
            rule = f"none says which film is better in the split train: it has {len(ties)} ties, of {kinds}"
            wanted = f" and kinds={recipe.kinds!r}" if recipe.kinds else ""
            raise ValueError(f"pairs={path!r}: of {len(store)} pairs{wanted} {rule}; label or make more")
        longest = max(key[0] for key in train)
        for frames, _ in recipe.windows:
            if frames > longest:
                raise ValueError(f"windows: {frames} latent frames: no pair of {path} is so long; {longest} works")
        found.append(Source(store, share, train, held_out, len(ties)))
    return found


def _drawn(sources: Sequence[Source], generator: torch.Generator) -> Source:
    """One of them by its share."""
    place = draw_float(generator)
    for source in sources[:-1]:
        if place < source.share:
            return source
        place -= source.share
    return sources[-1]


def _told_apart(margin_B: Tensor) -> Tensor:
    """1 where the better film is favoured, 0 where the worse one is, a half where neither."""
    return 0.5 + 0.5 * margin_B.detach().sign()


def _on(value: Any, device: torch.device) -> Any:  # noqa: ANN401
    return value.to(device) if isinstance(value, Tensor) else value
