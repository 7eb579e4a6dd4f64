"""Training of the critic on renders, on single pictures, and on what a VAE makes of renders.

The one invariant: a field that cannot be seen in a film adds nothing to the loss, and a single picture
teaches nothing about motion. Films are mirrored at random; what is left and right in their labels then
changes places.

Where subjects are is told to a critic that looks twice: of one moment of each film, and of some pictures, since the
drawing of it costs as much as theirs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.caption.critic import (
    MOTION_FIELDS,
    Critic,
    CriticConfig,
    Look,
    is_grown,
    load_critic,
    look_at,
    look_length,
    mirrored_value,
    read,
    save_critic,
    shipped_critic,
    stack_looks,
)
from everreel.data.clips import ClipStore
from everreel.data.draws import draw_float, draw_int
from everreel.data.latents import draw_group
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.world.render import coverage
from everreel.world.scene import VOCABULARY, Scene, visible_fields

SHIPPED = "shipped"
UNSEEN = -100
PLACED = 8  # pictures of a step in which the place of the subject is told
BLURRED_SHARE = 0.3


@dataclass(frozen=True)
class CriticRecipe:
    """Which clips teach and which check.

    Each step takes one store of `films` and one of `images`, as often as the square root of its size says; a stage may
    do without either. `init` is the `critic.safetensors` of an earlier stage, a critic's folder, or "shipped"; of what
    `network` has and it lacks, only that may be new which begins by adding nothing.
    """

    settings: TrainerSettings
    held_out: str
    films: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    init: str | None = None
    films_per_step: int = 24
    images_per_step: int = 96
    network: CriticConfig = field(default_factory=CriticConfig)
    checked: int = 100

    def objective(self) -> CriticObjective:
        """The objective with a fresh critic, or with one that was trained before.

        Raises:
            ValueError: there is nothing to learn from, or no critic to begin with.
        """
        if not self.films and not self.images:
            raise ValueError("films=(), images=(): a critic learns from something; name stores of one of them")
        torch.manual_seed(self.settings.seed)
        critic = Critic(self.network)
        if self.init is not None:
            grown = {name: value for name, value in critic.state_dict().items() if is_grown(name)}
            critic.load_state_dict({**grown, **_known(self.init)})
        films = [ClipStore(path) for path in self.films]
        images = [ClipStore(path) for path in self.images]
        return CriticObjective(critic, films, images, ClipStore(self.held_out), self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, then leave `critic/` and `report.json`, the accuracy of each field on all held-out films."""
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            save_critic(run_dir / "critic", objective.critic)
            report, confused = objective.check(len(objective.held_out))
        text = json.dumps({"accuracy": report, "confused": confused}, indent=1)
        (run_dir / "report.json").write_text(text + "\n", encoding="utf-8")
        return outcome


class Shown(NamedTuple):
    """Films or pictures as a critic sees them."""

    look: Look
    classes: Tensor
    """(B, F), `UNSEEN` for what cannot be seen."""
    moment: Tensor
    """Of the first of them, the moment in which the place of the subject is told, (M)."""
    covered: Tensor
    """How much of each pixel the subject covers there, (M, H, W)."""


@dataclass
class CriticObjective:
    """Looks at films and pictures → cross-entropy of every field that can be seen."""

    critic: Critic
    films: Sequence[ClipStore]
    images: Sequence[ClipStore]
    held_out: ClipStore
    recipe: CriticRecipe
    metrics: dict[str, float] = field(default_factory=dict)

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"critic": self.critic}

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Shown]:
        """What some films show, and some single pictures."""
        recipe, batch = self.recipe, dict[str, Shown]()
        twice = recipe.network.twice
        if self.films:
            batch["films"] = _draw(self.films, recipe.films_per_step, generator, recipe.films_per_step * twice)
        if self.images:
            batch["images"] = images = _draw(self.images, recipe.images_per_step, generator, PLACED * twice)
            for name in MOTION_FIELDS:
                images.classes[:, list(VOCABULARY).index(name)] = UNSEEN
        return batch

    def losses(self, batch: Mapping[str, Shown], generator: torch.Generator) -> dict[str, Tensor]:
        """The sum over the fields of their cross-entropies, a field's mean taken over films and pictures
        together; and that of where subjects are.
        """
        sums = {name: (torch.zeros(()), 0, 0) for name in VOCABULARY}
        places = list[Tensor]()
        for shown in batch.values():
            logits, where = self.critic.look(_roughened(shown.look, generator))
            if where is not None and len(shown.moment):
                places.append(_misplaced(where, shown))
            for name, target in zip(VOCABULARY, shown.classes.unbind(1), strict=True):
                scores = logits[name].float()
                loss, hits, count = sums[name]
                loss = loss.to(scores.device) + F.cross_entropy(scores, target, reduction="sum", ignore_index=UNSEEN)
                seen = target != UNSEEN
                sums[name] = (
                    loss,
                    hits + int((scores.argmax(-1)[seen] == target[seen]).sum()),
                    count + int(seen.sum()),
                )
        self.metrics = {f"accuracy/{name}": hits / n for name, (_, hits, n) in sums.items() if n}
        errors = [loss / max(count, 1) for loss, _, count in sums.values()]
        if places:
            errors.append(torch.stack(places).mean())
            self.metrics["where"] = float(errors[-1].detach())
        return {"critic": torch.stack(errors).sum()}

    def sample(self, folder: Path, step: int) -> None:
        """The accuracy on some held-out films as metrics, and what is taken for what in a file."""
        report, confused = self.check(self.recipe.checked)
        self.metrics = report
        (folder / f"confused-{step:06d}.json").write_text(json.dumps(confused, indent=1) + "\n", encoding="utf-8")

    def check(self, count: int) -> tuple[dict[str, float], dict[str, int]]:
        """Accuracy of each field on the first held-out films, and the commonest mistakes."""
        right, total, confused = Counter[str](), Counter[str](), Counter[str]()
        for index in range(min(count, len(self.held_out))):
            answers = read(self.critic, self.held_out.clip(index), self.held_out.fps(index))
            for name, value in visible_fields(self.held_out.scene(index)).items():
                answer = max(answers[name], key=answers[name].__getitem__)
                total[name] += 1
                right[name] += answer == value
                if answer != value:
                    confused[f"{name}: {value} read as {answer}"] += 1
        accuracy = {name: right[name] / total[name] for name in VOCABULARY if total[name]}
        return accuracy, dict(confused.most_common(40))


def classes_of(scene: Scene, mirrored: bool = False) -> list[int]:
    """The class of each field, `UNSEEN` for those that cannot be seen; mirrored, left and right change
    places.
    """
    seen = visible_fields(scene)
    if mirrored:
        seen = {name: mirrored_value(name, value) for name, value in seen.items()}
    return [VOCABULARY[name].index(seen[name]) if name in seen else UNSEEN for name in VOCABULARY]


def _known(init: str) -> dict[str, Tensor]:
    """The weights of a critic by the name that a recipe gives it. Raises: ValueError."""
    path = shipped_critic() if init == SHIPPED else Path(init)
    if path.is_dir():
        return load_critic(path).state_dict()
    if not path.is_file():
        raise ValueError(f"init = {init!r}: is no critic.safetensors and no critic's folder; {SHIPPED} works")
    from safetensors.torch import load_file

    return load_file(path)


def _draw_store(stores: Sequence[ClipStore], generator: torch.Generator) -> ClipStore:
    # By the root: a small store would be learnt by heart if all were met alike, and hardly be met at all by size.
    often = torch.tensor([len(store) for store in stores], dtype=torch.float64).sqrt()
    return stores[int(torch.multinomial(often, 1, generator=generator))]


def _draw(stores: Sequence[ClipStore], count: int, generator: torch.Generator, placed: int = 0) -> Shown:
    """Clips of one store and size, mirrored at times; of the first `placed`, where in a moment the subject is."""
    store = _draw_store(stores, generator)
    (_, height, width), indices = draw_group(store.groups, generator, count)
    looks, classes, views = list[Look](), list[list[int]](), list[tuple[int, int, bool]]()
    for index in indices:
        frames, fps = store.clip(index), store.fps(index)
        # Later than this the last moments would be missing.
        first = draw_int(generator, 0, max(1, len(frames) - look_length(fps) + 1))
        look, mirrored = look_at(frames, fps, first), draw_float(generator) < 0.5
        looks.append(look.mirrored() if mirrored else look)
        classes.append(classes_of(store.scene(index), mirrored))
        views.append((index, first, mirrored))
    shortest = min(look.moments.shape[1] for look in looks)
    look = stack_looks([Look(look.moments[:, :shortest], look.seconds[:, :shortest]) for look in looks])
    moments = [draw_int(generator, 0, shortest) for _ in views[:placed]]
    covered = np.zeros((len(moments), height, width), np.float32)
    for row, (moment, (index, first, mirrored)) in enumerate(zip(moments, views, strict=False)):
        start = store.start(index) + first / store.fps(index) + float(look.seconds[row, moment])
        seen = coverage(store.scene(index), 1, height=height, width=width, fps=store.fps(index), start=start)[0]
        covered[row] = (seen[:, ::-1] if mirrored else seen) / 255
    return Shown(look, torch.tensor(classes), torch.tensor(moments, dtype=torch.long), torch.from_numpy(covered))


def _misplaced(where: Tensor, shown: Shown) -> Tensor:
    """How wrong the critic is about where subjects are: binary cross-entropy by cell."""
    told = where[torch.arange(len(shown.moment), device=where.device), shown.moment].float()
    covered = F.adaptive_avg_pool2d(shown.covered[:, None], (told.shape[1], told.shape[2]))[:, 0]
    return F.binary_cross_entropy_with_logits(told, covered.to(told.device))


def _roughened(look: Look, generator: torch.Generator) -> Look:
    """With another exposure, grain, and at times a blur: a made film is never as clean as a render."""
    moments = look.moments
    batch = len(moments)

    def amounts(low: float, high: float) -> Tensor:
        return (low + torch.rand(batch, 1, 1, 1, 1, generator=generator) * (high - low)).to(moments.device)

    if draw_float(generator) < BLURRED_SHARE:
        softened = F.avg_pool2d(moments.flatten(0, 2), 3, 1, 1, count_include_pad=False).view_as(moments)
        moments = moments.lerp(softened, amounts(0.0, 1.0))
    # One film's worth of grain serves the batch: random numbers cost as much as a convolution.
    grain = torch.randn(moments.shape[1:], generator=generator).to(moments.device)
    moments = torch.addcmul(grain * amounts(0.0, 0.04), moments, amounts(0.95, 1.05))
    moments[:, :, :3] += amounts(-0.05, 0.05)
    return Look(moments, look.seconds)
