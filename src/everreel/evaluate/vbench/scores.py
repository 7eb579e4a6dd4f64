"""VBench's totals: raw scores, one a dimension, become Quality, Semantic and Total.

Source: Vchitect/VBench 45e79ec, `scripts/constant.py` and `scripts/cal_final_score.py` (`cal_i2v_final_score.py` for
VBench-I2V): each raw score is put between its bounds, each half is the weighted mean of its dimensions, and the Total
that of the halves. The one invariant: nothing is counted that was not measured. The released script takes a dimension
that is missing for a score of nought; here it is named, and totals of a part are made only where that is asked for.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

SEEDS = 5
"""Films of each prompt that the suite scores."""


@dataclass(frozen=True)
class Dimension:
    """What one of the suite's dimensions counts for."""

    name: str
    half: str
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    num_prompts: int | None = None
    """In the suite's list; unknown where it is None."""

    def normalized(self, raw: float) -> float:
        """Where a raw score lies between the published bounds; the ends are not cut off, as the suite does not."""
        return (raw - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Suite:
    """Dimensions, and what their halves count for in the Total."""

    name: str
    dimensions: tuple[Dimension, ...]
    halves: Mapping[str, float]
    uncounted: tuple[str, ...] = ()
    """Dimensions that it measures and leaves out of its totals."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the dimensions that count."""
        return tuple(dimension.name for dimension in self.dimensions)

    def __getitem__(self, name: str) -> Dimension:
        return next(dimension for dimension in self.dimensions if dimension.name == name)


VBENCH = Suite(
    "VBench",
    (
        Dimension("subject_consistency", "quality", low=0.1462, num_prompts=72),
        Dimension("background_consistency", "quality", low=0.2615, num_prompts=86),
        Dimension("temporal_flickering", "quality", low=0.6293, num_prompts=75),
        Dimension("motion_smoothness", "quality", low=0.706, high=0.9975, num_prompts=72),
        Dimension("dynamic_degree", "quality", weight=0.5, num_prompts=72),
        Dimension("aesthetic_quality", "quality", num_prompts=93),
        Dimension("imaging_quality", "quality", num_prompts=93),
        Dimension("object_class", "semantic", num_prompts=79),
        Dimension("multiple_objects", "semantic", num_prompts=82),
        Dimension("human_action", "semantic", num_prompts=100),
        Dimension("color", "semantic", num_prompts=85),
        Dimension("spatial_relationship", "semantic", num_prompts=84),
        Dimension("scene", "semantic", high=0.8222, num_prompts=86),
        Dimension("appearance_style", "semantic", low=0.0009, high=0.2855, num_prompts=90),
        Dimension("temporal_style", "semantic", high=0.364, num_prompts=100),
        Dimension("overall_consistency", "semantic", high=0.364, num_prompts=93),
    ),
    {"quality": 4.0, "semantic": 1.0},
)

VBENCH_I2V = Suite(
    "VBench-I2V",
    (
        Dimension("camera_motion", "i2v", weight=0.1),
        Dimension("i2v_subject", "i2v", low=0.1462),
        Dimension("i2v_background", "i2v", low=0.2615),
        Dimension("subject_consistency", "quality", low=0.1462),
        Dimension("background_consistency", "quality", low=0.2615),
        Dimension("motion_smoothness", "quality", low=0.706, high=0.9975),
        Dimension("dynamic_degree", "quality", weight=0.5),
        Dimension("aesthetic_quality", "quality"),
        Dimension("imaging_quality", "quality"),
    ),
    {"i2v": 1.0, "quality": 1.0},
    uncounted=("temporal_flickering",),
)
SUITES = (VBENCH, VBENCH_I2V)

# Suites whose files look the same and whose scores mean something else.
OTHER_SUITES = {
    "VBench-2.0": (
        "Camera_Motion",
        "Complex_Landscape",
        "Complex_Plot",
        "Composition",
        "Diversity",
        "Dynamic_Attribute",
        "Dynamic_Spatial_Relationship",
        "Human_Anatomy",
        "Human_Clothes",
        "Human_Identity",
        "Human_Interaction",
        "Instance_Preservation",
        "Material",
        "Mechanics",
        "Motion_Order_Understanding",
        "Motion_Rationality",
        "Multi-View_Consistency",
        "Thermotics",
    ),
    "VBench-Trustworthiness": ("culture_fairness", "gender_bias", "safety", "skin_bias"),
}
_LONGEST = max(len(name) for suite in SUITES for name in suite.names)


@dataclass(frozen=True)
class Totals:
    """Of one model. `halves` has no half of which nothing was measured, and the `total` is made of both."""

    suite: Suite
    raw: Mapping[str, float]
    halves: Mapping[str, float]
    total: float | None

    @property
    def missing(self) -> tuple[str, ...]:
        """The dimensions that count and are not there."""
        return tuple(name for name in self.suite.names if name not in self.raw)

    def describe(self) -> str:
        """The table for people, in per cent."""
        lines = [f"{'dimension':<{_LONGEST}}{'raw':>8}{'within':>9}{'weight':>8}"]
        for dimension in self.suite.dimensions:
            if dimension.name in self.raw:
                raw = self.raw[dimension.name]
                within = f"{raw:>8.2%}{dimension.normalized(raw):>9.2%}"
                lines.append(f"{dimension.name:<{_LONGEST}}{within}{dimension.weight:>8g}")
            else:
                lines.append(f"{dimension.name:<{_LONGEST}}{'missing':>8}")
        of = (
            f" of {len(self.suite.names) - len(self.missing)} of {len(self.suite.names)} dimensions"
            if self.missing
            else ""
        )
        for half, score in self.halves.items():
            lines.append(f"{half.capitalize() if half != 'i2v' else 'I2V'}{of}: {score:.2%}")
        lines.append(f"Total{of}: {self.total:.2%}" if self.total is not None else "Total: a half is missing")
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """What a file of them holds."""
        return {
            "suite": self.suite.name,
            "total": self.total,
            **self.halves,
            "missing": list(self.missing),
            "raw": dict(self.raw),
        }


def totals(raw: Mapping[str, float], suite: Suite | None = None, *, partial: bool = False) -> Totals:
    """Put raw scores (0 to 1, by dimension) together.

    Args:
        suite: by default the one whose dimensions these are.
        partial: make totals of what is there; such are no totals of the suite, and `describe` says so.

    Raises:
        ValueError: dimensions are missing (without `partial`), unknown, or those of another suite.
    """
    suite = suite or suite_of(raw)
    counted = {name: raw[name] for name in suite.names if name in raw}
    missing = [name for name in suite.names if name not in counted]
    if not counted:
        raise ValueError(f"dimensions = none: {suite.name} is made of {len(suite.names)}; {suite.names[0]} is one")
    if missing and not partial:
        rule = f"{suite.name}'s totals are made of all {len(suite.names)}"
        raise ValueError(f"dimensions: {', '.join(missing)} missing; {rule}; --partial gives totals of what is there")
    halves = {}
    for half in suite.halves:
        there = [dimension for dimension in suite.dimensions if dimension.half == half and dimension.name in counted]
        if there:
            scores = [dimension.normalized(counted[dimension.name]) * dimension.weight for dimension in there]
            halves[half] = sum(scores) / sum(dimension.weight for dimension in there)
    whole = len(halves) == len(suite.halves)
    return Totals(suite, counted, halves, total_of(halves, suite) if whole else None)


def published() -> Iterator[str]:
    """The paper's table for people, which ships as `paper.json`: totals of VBench in per cent, a line a model."""
    content = json.loads((files("everreel.evaluate.vbench") / "paper.json").read_text(encoding="utf-8"))
    yield f"{content['source']}:"
    wide = max(len(row["model"]) for row in content["rows"]) + 2
    yield f"{'model':<{wide}}{'total':>8}{'quality':>9}{'semantic':>10}"
    for row in content["rows"]:
        yield f"{row['model']:<{wide}}{row['total']:>8.1%}{row['quality']:>9.1%}{row['semantic']:>10.1%}"
    yield content["note"]


def total_of(halves: Mapping[str, float], suite: Suite = VBENCH) -> float:
    """The Total that two halves make: (4 Quality + Semantic) / 5 in VBench."""
    return sum(halves[half] * weight for half, weight in suite.halves.items()) / sum(suite.halves.values())


def suite_of(names: Iterable[str]) -> Suite:
    """The suite that has all of these dimensions; where both have them, VBench.

    Raises:
        ValueError: none has: one of them is unknown, or another suite's, or two suites are mixed.
    """
    names = list(names)
    for name in names:
        check_dimension(name)
    for suite in SUITES:
        if set(names) <= {*suite.names, *suite.uncounted}:
            return suite
    only = {suite.name: [name for name in names if name not in other.names] for suite, other in (SUITES, SUITES[::-1])}
    mixed = " and ".join(f"{', '.join(found)} of {name}" for name, found in only.items())
    raise ValueError(f"dimensions = {mixed}: two suites are mixed; give the results of one")


def check_dimension(name: str, suites: Iterable[Suite] = SUITES) -> None:
    """Refuse a name that none of the suites has.

    Raises:
        ValueError: naming the suite that it belongs to, or the nearest name.
    """
    known = [known for suite in suites for known in (*suite.names, *suite.uncounted)]
    if name in known:
        return
    for other, dimensions in OTHER_SUITES.items():
        if name in dimensions:
            raise ValueError(f"dimension = {name}: is one of {other}, which is scored in another way; VBench's work")
    nearest = max(known, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
    raise ValueError(f"dimension = {name!r}: is none of VBench's; nearest that works: {nearest}")
