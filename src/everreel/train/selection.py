"""Which clips of a store a stage draws, and how often: balanced by what they show, and the best of them alone.

Source: section 4a of the paper: post-training is balanced by the captioner's subject types, people going from 84.8 to
63.2 % of the clips; the cap's form is ours. The one invariant: a clip's chance is a function of the store's labels and
these values, and no value of the field that is balanced is drawn more often than its cap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everreel.caption.schema import StructuralCaption, Subject
from everreel.caption.tiny import fields_of
from everreel.data.latents import LatentStore
from everreel.evaluate.quality import MEASURES
from everreel.train.labels import ClipLook, read_labels


class Selection(Protocol):
    """What says which clips of a store are drawn, and how often."""

    def chances(self, labels: Sequence[ClipLook]) -> Tensor:
        """How likely each clip is, relative to the others."""
        ...


def _main(caption: StructuralCaption) -> Subject | None:
    return next((each for each in caption.subjects if each.is_main_subject), next(iter(caption.subjects), None))


def _type(caption: StructuralCaption) -> str:
    subject = _main(caption)
    return subject.TYPES.type if subject else ""


def _sub_type(caption: StructuralCaption) -> str:
    subject = _main(caption)
    return "/".join(filter(None, (subject.TYPES.type, subject.TYPES.sub_type))) if subject else ""


def _camera_motion(caption: StructuralCaption) -> str:
    # The captioner's free text has a value of its own for each way to say it; the film world's are told apart.
    return fields_of(caption).get("camera_motion", caption.camera_motion)


FIELDS: dict[str, Callable[[StructuralCaption], str]] = {
    "type": _type,
    "sub_type": _sub_type,
    "shot_type": lambda caption: caption.shot_type,
    "shot_angle": lambda caption: caption.shot_angle,
    "shot_position": lambda caption: caption.shot_position,
    "camera_motion": _camera_motion,
}
"""What clips can be balanced by, and how a caption tells it; nothing said is a value too, the empty one."""


@dataclass(frozen=True)
class Balance:
    """No value of the field `by` is more than `cap` of what is drawn; those below keep their proportions."""

    by: str = "type"
    cap: float = 0.5

    def __post_init__(self) -> None:
        if self.by not in FIELDS:
            raise ValueError(f"by={self.by!r}: must be one of {', '.join(FIELDS)}")
        if not 0 < self.cap <= 1:
            raise ValueError(f"cap={self.cap}: a share lies in 0..1; 0.5 works")

    def values(self, labels: Sequence[ClipLook]) -> list[str]:
        """The field's value of each clip."""
        return [FIELDS[self.by](look.caption) for look in labels]

    def chances(self, labels: Sequence[ClipLook]) -> Tensor:
        """How likely each clip is, relative to the others; 1 of a value that is not held back.

        Raises:
            ValueError: there are too few values for such a cap.
        """
        values = self.values(labels)
        counts = Counter(values)
        kept = capped(counts, self.cap)
        each = {value: kept[value] / counts[value] for value in counts}
        return torch.tensor([each[value] for value in values], dtype=torch.float64)

    def shares(self, labels: Sequence[ClipLook]) -> dict[str, tuple[float, float]]:
        """The histogram: of each value the share of clips, before and after, the commonest first."""
        counts = Counter(self.values(labels))
        kept = capped(counts, self.cap)
        before, after = sum(counts.values()), sum(kept.values())
        return {value: (count / before, kept[value] / after) for value, count in counts.most_common()}


@dataclass(frozen=True)
class Best:
    """The `share` of the clips that have the highest `measure`, one of `everreel evaluate quality`, and no others.

    Where less is better it is the lowest that counts. Clips of which it could not be measured are left out.
    """

    measure: str = "sharpness"
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r}: must be one of {', '.join(MEASURES)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: a share lies in 0..1; 0.5 works")

    def chances(self, labels: Sequence[ClipLook]) -> Tensor:
        """1 of a clip that stays, 0 of any other.

        Raises:
            ValueError: it was measured of no clip.
        """
        sign = 1.0 if MEASURES[self.measure].better == "higher" else -1.0
        found = [look.measures.get(self.measure, math.nan) for look in labels]
        measured = sorted((sign * value for value in found if math.isfinite(value)), reverse=True)
        if not measured:
            raise ValueError(
                f"measure={self.measure!r}: was measured of none of the {len(labels)} clips; label them anew"
            )
        limit = measured[max(1, round(self.share * len(measured))) - 1]
        kept = [math.isfinite(value) and sign * value >= limit for value in found]
        return torch.tensor(kept, dtype=torch.float64)


def chances_of(store: LatentStore, select: Sequence[Selection]) -> Tensor | None:
    """How likely each clip of a store is; none where nothing is selected, all being alike.

    Raises:
        ValueError: the store has no labels, or a selection cannot be made of them.
    """
    if not select:
        return None
    labels = read_labels(store)
    return torch.stack([each.chances(labels) for each in select]).prod(0)


def capped(counts: Mapping[str, int], cap: float) -> dict[str, float]:
    """How much of each value stays so that none is more than `cap` of what stays; the largest such amounts.

    Raises:
        ValueError: there are fewer than 1 / cap values.
    """
    if len(counts) * cap < 1 - 1e-9:
        least = 1 / len(counts)
        rule = f"{len(counts)} values cannot be {cap:.3g} or less each; the nearest that works is {least:.3g}"
        raise ValueError(f"cap={cap:.3g}: {rule} ({', '.join(sorted(counts))})")
    ordered = sorted(counts.values(), reverse=True)
    limit = float(ordered[0])
    if limit > cap * sum(ordered):
        for held, following in enumerate([*ordered[1:], 0], 1):
            if held * cap >= 1:  # by rounding alone: the values are as many as they must be
                break
            # With the first `held` values cut down to the limit: limit = cap * (held * limit + the rest).
            limit = cap * sum(ordered[held:]) / (1 - held * cap)
            if limit >= following:
                break
    limit = max(limit, float(ordered[-1]))
    return {value: min(float(count), limit) for value, count in counts.items()}
