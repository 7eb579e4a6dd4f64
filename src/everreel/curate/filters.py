"""The filters, in the order in which they are asked, and their thresholds by stage: loose at 256p, strict at the end.

The order of the stages and which filters each adds are the paper's (SkyReels-V2, section 3.1); its thresholds are not
published, so these are ours. The one invariant: a verdict is a function of measures and thresholds; a measure that was
not taken, or is not known, drops no clip.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from everreel.curate.measures import GROUPS
from everreel.curate.record import Clip

STAGES = ("256p", "360p", "540p", "post")
KEEPS = 0.1
"""The share of the clips that the threshold would keep which is named where none is kept."""
OFF = "off"
Thresholds = Mapping[str, float | None]


@dataclass(frozen=True)
class Filter:
    """A measure of a clip and its bound: `at least` or `at most` the threshold is kept; none is off."""

    name: str
    measure: str
    bound: Literal["at least", "at most"]
    group: str
    by_stage: tuple[float | None, float | None, float | None, float | None]
    what: str

    def keeps(self, clip: Clip, threshold: float | None) -> bool:
        """Whether a clip passes."""
        value = clip.measures.get(self.measure, math.nan)
        if threshold is None or math.isnan(value):
            return True
        return value >= threshold if self.bound == "at least" else value <= threshold


_TABLE = (
    Filter("small", "side", "at least", "file", (256, 360, 540, 720), "pixels of the shorter side, within the crop"),
    Filter("slow-rate", "fps", "at least", "file", (16, 16, 16, 23.9), "frames a second"),
    Filter("short", "seconds", "at least", "file", (0.5, 1.5, 2.0, 3.0), "how long it is"),
    Filter("uneven", "gap", "at most", "file", (8, 4, 3, 3), "the longest pause between two frames, in usual ones"),
    Filter("black", "black", "at most", "scan", (0.5, 0.2, 0.05, 0.02), "share of frames that are black"),
    Filter("white", "white", "at most", "scan", (0.5, 0.2, 0.05, 0.02), "share of frames that are white"),
    Filter("flat", "flat", "at most", "scan", (0.5, 0.2, 0.05, 0.02), "share of frames of one colour"),
    Filter("static", "still", "at most", "scan", (0.95, 0.8, 0.5, 0.3), "share of looks in which nothing moves"),
    Filter("slowed", "repeated", "at most", "scan", (0.4, 0.3, 0.15, 0.1), "share of frames that are shown again"),
    Filter("bars", "bars", "at most", "looks", (0.2, 0.2, 0.2, 0.2), "share of the frame in bars, which are cut off"),
    Filter("blurred", "sharpness", "at least", "looks", (0.2, 0.25, 0.3, 0.35), "1 less Crete's blur"),
    Filter("mosaic", "mosaic", "at most", "looks", (0.05, 0.03, 0.01, 0.01), "share of the frame on a coarse grid"),
    Filter("blocky", "blocks", "at most", "looks", (1.5, 1.0, 0.6, 0.4), "steps at blocks of 8 over others, less 1"),
    Filter("noisy", "noise", "at most", "looks", (15, 10, 7, 5), "grey levels of 255, where it is calmest"),
    Filter("clipped", "clipped", "at most", "looks", (0.6, 0.5, 0.35, 0.25), "share lost in shadow and glare"),
    Filter("gray", "colors", "at least", "looks", (None, None, 5, 8), "colourfulness; 33 is moderate"),
    Filter("split", "split", "at most", "looks", (0.9, 0.85, 0.8, 0.75), "share of a side that a fixed edge takes"),
    Filter("inset", "inset", "at most", "looks", (None, 0.75, 0.7, 0.65), "how complete the sides of a fixed box are"),
    Filter("plain", "aesthetic", "at least", "looks", (None, 0.25, 0.35, 0.45), "contrast, colour, sharpness: 0 to 1"),
    Filter("cut", "cuts", "at most", "motion", (0, 0, 0, 0), "cuts that are left"),
    Filter("shaky", "shake", "at most", "motion", (0.3, 0.15, 0.1, 0.06), "frames a second about the camera's way"),
    Filter("unsteady", "lost", "at most", "motion", (0.8, 0.6, 0.4, 0.3), "share of looks that cannot be followed"),
    Filter("abrupt", "abrupt", "at most", "motion", (None, None, 0, 0), "1 if the camera whips round"),
    Filter("lifeless", "motion", "at least", "motion", (None, 0.01, 0.02, 0.03), "frame heights a second"),
    Filter("frantic", "motion", "at most", "motion", (None, 2.5, 2.0, 1.5), "frame heights a second"),
    Filter("flickering", "flicker", "at most", "quality", (None, 8, 5, 3), "grey levels that come and go"),
    Filter("rough", "smoothness", "at least", "quality", (None, 0.9, 0.93, 0.95), "how well frames are told by others"),
    Filter("jumping", "largest_jump", "at most", "quality", (None, 60, 45, 30), "grey levels that motion leaves over"),
    Filter("text", "text", "at most", "text", (None, 0.05, 0.02, 0.01), "share of words in what a crop keeps"),
    Filter("covered", "covered", "at most", "text", (None, 0.2, 0.2, 0.2), "share that a crop takes off"),
    Filter("stretched", "stretched", "at most", "text", (None, 0.25, 0.25, 0.25), "change of aspect by the crop"),
)  # fmt: skip
FILTERS = {each.name: each for each in _TABLE}
OTHERS: Mapping[str, tuple[tuple[float | None, ...], str]] = {
    "duplicate": ((8, 10, 10, 12), "bits of 64 by which frames of the same may differ"),
    "concept": ((None, None, None, 0.632), "the most that one type of subject may take of what is kept"),
}
"""Of all clips together, after the others."""
UNWANTED, UNSELECTED = "source", "unselected"
REASONS = (*FILTERS, *OTHERS, UNWANTED, UNSELECTED)
SOURCE_TYPES = {stage: ("film", "tv", "stock") if stage in ("540p", "post") else () for stage in STAGES}
"""Where a table tells what its files are, only these are kept; the paper drops what users have generated."""


def thresholds_of(stage: str, changes: Iterable[tuple[str, Any]] = ()) -> dict[str, float | None]:
    """The thresholds of a stage by name, with changes: numbers, or `off`.

    Raises:
        ValueError: there is no such stage or filter, or a threshold is none.
    """
    if stage not in STAGES:
        raise ValueError(f"stage = {stage!r}: must be one of {', '.join(STAGES)}")
    place = STAGES.index(stage)
    found = {each.name: each.by_stage[place] for each in _TABLE}
    found |= {name: by_stage[place] for name, (by_stage, _) in OTHERS.items()}
    for name, value in changes:
        if name not in found:
            nearest = (get_close_matches(str(name), found, 1, 0) or ["small"])[0]
            raise ValueError(f"set = {name!r}: is no filter; {nearest} is one, and --show-thresholds has all")
        found[name] = _number(name, value)
    return found


def changes_in(assignments: Sequence[str]) -> list[tuple[str, str]]:
    """Of `NAME=VALUE`, any number.

    Raises:
        ValueError: one has no sign of equality.
    """
    found = []
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"set = {text!r}: must be NAME=VALUE, or NAME=off; small=96 works")
        found.append((name.strip(), value.strip()))
    return found


def read_thresholds(path: Path) -> list[tuple[str, Any]]:
    """The changes that a TOML file tells, as `--show-thresholds` prints them.

    Raises:
        ValueError: it is no such file.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"thresholds = {str(path)!r}: cannot be read ({reason}); a line small = 96 works") from None
    return list(found.items())


def show_thresholds(stage: str, thresholds: Thresholds) -> str:
    """The table in TOML, with what each is."""
    lines = [f"# Thresholds of stage {stage}, in the order in which they are asked; off lets everything pass."]
    for name, value in thresholds.items():
        each = FILTERS.get(name)
        what = f"{each.group}: {each.bound}; {each.what}" if each else f"all clips: at most; {OTHERS[name][1]}"
        told = f'"{OFF}"' if value is None else f"{value:g}"
        lines.append(f"{f'{name} = {told}':24}# {what}")
    return "\n".join(lines)


def reasons_of(clip: Clip, thresholds: Thresholds) -> tuple[str, ...]:
    """The filters that drop a clip, by what is known of it."""
    return tuple(each.name for each in _TABLE if not each.keeps(clip, thresholds[each.name]))


def needed_groups(thresholds: Thresholds) -> tuple[str, ...]:
    """The groups of measures that these thresholds ask for; hashes come with the looks."""
    asked = {each.group for each in _TABLE if thresholds[each.name] is not None}
    asked |= {"file", "scan", "looks"}
    return tuple(group for group in GROUPS if group in asked)


def is_measured(clip: Clip, group: str) -> bool:
    """Whether the measures of a group are there."""
    if group == "concept":
        return bool(clip.concept)
    return all(each.measure in clip.measures for each in _TABLE if each.group == group)


def nearest_threshold(each: Filter, clips: Sequence[Clip], share: float = KEEPS) -> float | None:
    """The threshold nearest to strict with which a filter alone keeps that share of the clips; none of no figures."""
    values = sorted(
        value for clip in clips if not math.isnan(value := clip.measures.get(each.measure, math.nan))
    )  # fmt: skip
    if not values:
        return None
    count = max(1, math.ceil(share * len(values)))
    value = values[-count] if each.bound == "at least" else values[count - 1]
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2) if value else 1.0
    rounded = (math.floor if each.bound == "at least" else math.ceil)(value / step) * step
    return float(f"{rounded:.6g}")


def _number(name: str, value: Any) -> float | None:  # noqa: ANN401 -- whatever TOML has
    if value == OFF:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"set {name} = {value!r}: must be a number, or off; {name}=off works")
    return number
