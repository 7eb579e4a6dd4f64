"""Training of the critic on renders, on single pictures, and on what a VAE makes of renders.

The one invariant: a field that cannot be seen in a film adds nothing to the loss, and a single picture
teaches nothing about motion. Films are mirrored at random; what is left and right in their labels then
changes places.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from everreel.world.scene import VOCABULARY, WIDE_SHOTS, Scene, visible_fields

SHIPPED = "shipped"
UNSEEN = -100
CROP = 64  # pixels a side
CROP_FIELDS = ("subject", "color", "shot_position")
CLEARLY = 127  # of 255: how much of a pixel is the subject
BLURRED_SHARE = 0.3


@dataclass(frozen=True)
class CriticRecipe:
    """Which clips teach and which check.

    Each step takes one store of `films` and one of `images`, as often as the square root of its size says; a stage may
    do without either. Of `crops_per_step` further pictures it is shown what is around a subject far away, which costs a
    quarter and says nothing but what that is, in which colour and from which side. `init` is the `critic.safetensors`
    of an earlier stage, a critic's folder, or "shipped"; of what `network` has and it lacks, only that may be new which
    begins by adding nothing.
    """

    settings: TrainerSettings
    held_out: str
    films: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    init: str | None = None
    films_per_step: int = 24
    images_per_step: int = 96
    crops_per_step: int = 0
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

    def batch(self, step: int, generator: torch.Generator) -> dict[str, tuple[Look, Tensor]]:
        """Looks and classes (B, F; -100 where unseen) of some films, and of some single pictures."""
        batch = {}
        if self.films:
            batch["films"] = _draw(self.films, self.recipe.films_per_step, generator)
        if self.images:
            look, classes = _draw(self.images, self.recipe.images_per_step, generator)
            for name in MOTION_FIELDS:
                classes[:, list(VOCABULARY).index(name)] = UNSEEN
            batch["images"] = look, classes
        if self.images and self.recipe.crops_per_step:
            batch["crops"] = _draw_crops(self.images, self.recipe.crops_per_step, generator)
        return batch

    def losses(self, batch: Mapping[str, tuple[Look, Tensor]], generator: torch.Generator) -> dict[str, Tensor]:
        """The sum over the fields of their cross-entropies, a field's mean taken over films and pictures
        together.
        """
        sums = {name: (torch.zeros(()), 0, 0) for name in VOCABULARY}
        for look, classes in batch.values():
            logits = self.critic(_roughened(look, generator))
            for name, target in zip(VOCABULARY, classes.unbind(1), strict=True):
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
        return {"critic": torch.stack([loss / max(count, 1) for loss, _, count in sums.values()]).sum()}

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


def _draw(stores: Sequence[ClipStore], count: int, generator: torch.Generator) -> tuple[Look, Tensor]:
    store = _draw_store(stores, generator)
    _, indices = draw_group(store.groups, generator, count)
    looks, classes = [], []
    for index in indices:
        frames, fps = store.clip(index), store.fps(index)
        # Later than this the last moments would be missing.
        first = draw_int(generator, 0, max(1, len(frames) - look_length(fps) + 1))
        look, seen = _mirrored_at_times(look_at(frames, fps, first), store.scene(index), generator)
        looks.append(look)
        classes.append(seen)
    shortest = min(look.moments.shape[1] for look in looks)
    cut = [Look(look.moments[:, :shortest], look.seconds[:, :shortest]) for look in looks]
    return stack_looks(cut), torch.tensor(classes)


def _draw_crops(stores: Sequence[ClipStore], count: int, generator: torch.Generator) -> tuple[Look, Tensor]:
    """Looks at squares of single pictures, each around a subject far away.

    Raises:
        ValueError: hardly any picture shows one.
    """
    looks, classes = list[Look](), list[list[int]]()
    for _ in range(100 * count):
        store = _draw_store(stores, generator)
        index = draw_int(generator, 0, len(store))
        scene, frames = store.scene(index), store.clip(index)[:1]
        if scene.shot_type not in WIDE_SHOTS:
            continue
        height, width = frames.shape[1:3]
        size = min(CROP, height, width)
        covered = coverage(scene, 1, height=height, width=width, fps=store.fps(index), start=store.start(index))[0]
        places = [np.flatnonzero(covered.max(axis) > CLEARLY) for axis in (1, 0)]
        if not len(places[0]):  # the camera has passed it
            continue
        corner = [
            min(max(int(place.mean()) - size // 2 + draw_int(generator, -size // 8, size // 8 + 1), 0), side - size)
            for place, side in zip(places, (height, width), strict=True)
        ]
        crop = frames[:, corner[0] : corner[0] + size, corner[1] : corner[1] + size]
        look, seen = _mirrored_at_times(look_at(crop, store.fps(index)), scene, generator)
        looks.append(look)
        told = zip(VOCABULARY, seen, strict=True)
        classes.append([value if name in CROP_FIELDS else UNSEEN for name, value in told])
        if len(looks) == count:
            return stack_looks(looks), torch.tensor(classes)
    raise ValueError(f"crops_per_step={count}: the pictures show no subjects far away; 0 works")


def _mirrored_at_times(look: Look, scene: Scene, generator: torch.Generator) -> tuple[Look, list[int]]:
    """A look as it is or in a mirror, and the classes of the scene as it is seen so."""
    mirrored = draw_float(generator) < 0.5
    return look.mirrored() if mirrored else look, classes_of(scene, mirrored)


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
