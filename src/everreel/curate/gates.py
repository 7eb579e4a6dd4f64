"""The spot checks by people, between curation and training: a page to look at some clips, and a verdict on all of them.

SkyReels-V2 looks at one clip in 10,000 before pretraining and one in 1,000 before post-training, and discards a batch,
by source, with more bad ones than a limit (section 3.1). The one invariant: a verdict is passed only where Wilson's 95
% interval lies on one side of every limit, or every clip was looked at; else the gate is undecided, with the interval.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from everreel.curate.record import VERDICTS, Clip, read_clips
from everreel.evaluate.follow import wilson

PAGE, SAMPLE, ANSWERS = "check.html", "check.json", "answers.json"
GROUPS = {
    "basic": "basic: too small, too slow, black, static, shaky, cut",
    "type": "type: surveillance, a game, animation, nothing in it",
    "post": "post-production: subtitles, a logo, bars, split, speed, effects",
}
"""What is wrong with a clip, by the paper's taxonomy."""
ALL, TOP = "all sources", "."
"""All sources together, and what lies in no folder of its own."""

Outcome = Literal["pass", "discard", "undecided"]


@dataclass(frozen=True)
class Gate:
    """How many clips are looked at, and which share of them may be bad: in all, and by group."""

    name: str
    rate: float
    limits: Mapping[str, float]

    @property
    def least(self) -> int:
        """The fewest clips that can pass it, all of them good."""
        lowest, count = min(self.limits.values()), 1
        while wilson(0, count)[1] >= lowest:
            count += 1
        return count


GATES = {
    gate.name: gate
    for gate in (
        Gate("pretraining", 1e-4, {"total": 0.15, "basic": 0.03, "type": 0.05, "post": 0.07}),
        Gate("post-training", 1e-3, {"total": 0.03, "basic": 0.005, "type": 0.01, "post": 0.015}),
    )
}


@dataclass(frozen=True)
class Sample:
    """The clips to look at, in the order in which they are shown, and how many each source has."""

    gate: Gate
    clips: tuple[tuple[str, str], ...]
    """Name and source of each."""
    sizes: Mapping[str, int]

    @property
    def digest(self) -> str:
        """What tells it from another sample; answers name it."""
        return hashlib.sha256(json.dumps([self.gate.name, self.clips, dict(self.sizes)]).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"gate": self.gate.name, "clips": [list(clip) for clip in self.clips], "sizes": dict(self.sizes)}

    @classmethod
    def load(cls, path: Path) -> Sample:
        """What `to_json` made.

        Raises:
            ValueError: it is no such file.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            clips = tuple((str(name), str(source)) for name, source in found["clips"])
            return cls(gate_of(found["gate"]), clips, {str(name): int(size) for name, size in found["sizes"].items()})
        except FileNotFoundError:
            rule = f"there is no sample; everreel data-check {path.parent} draws one"
            raise ValueError(f"check = {path}: {rule}") from None
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"check = {path}: is no sample ({error}); --new draws one") from None


@dataclass(frozen=True)
class Decision:
    """The verdict on a source, with how many of the clips looked at are bad, and the interval of each share."""

    source: str
    size: int
    checked: int
    bad: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]]
    outcome: Outcome
    why: str

    def __str__(self) -> str:
        source = "films in no folder" if self.source == TOP else self.source
        return f"{source}: {self.outcome}; {self.checked} of {self.size} clips looked at, {self.why}"


def gate_of(name: str) -> Gate:
    """A gate by its name.

    Raises:
        ValueError: there is none.
    """
    if name not in GATES:
        raise ValueError(f"gate = {name!r}: must be one of {', '.join(GATES)}")
    return GATES[name]


def folder_of(clip: Clip) -> str:
    """Of which source a clip is, unless told otherwise: the folder that its film lies in, at the top of the run's."""
    parts = PurePosixPath(clip.source).parts
    return parts[0] if len(parts) > 1 else TOP


def draw(
    clips: Sequence[Clip], gate: Gate, generator: torch.Generator, by: Callable[[Clip], str] = folder_of
) -> Sample:
    """Draw clips that were kept: of each source the gate's share, and as many as a verdict needs, or all there are.

    Sources take turns, in an order that is drawn: whoever stops half-way has looked at a fair sample of each.

    Raises:
        ValueError: no clip was kept.
    """
    sources: dict[str, list[Clip]] = {}
    for clip in sorted((clip for clip in clips if clip.kept), key=lambda clip: clip.name):
        sources.setdefault(by(clip), []).append(clip)
    if not sources:
        raise ValueError(f"clips = {len(clips)}, of which 0 are kept: there is nothing to look at; loosen the filters")
    turns = []
    for source, found in sorted(sources.items()):
        count = min(len(found), max(gate.least, math.ceil(gate.rate * len(found))))
        order = torch.randperm(len(found), generator=generator).tolist()[:count]
        turns += [((place + 1) / (count + 1), found[number].name, source) for place, number in enumerate(order)]
    shown = tuple((name, source) for _, name, source in sorted(turns))
    return Sample(gate, shown, {source: len(found) for source, found in sorted(sources.items())})


def read_answers(path: Path, sample: Sample) -> dict[str, frozenset[str]]:
    """By the name of a clip that was looked at, what is wrong with it: nothing, or some of `GROUPS`.

    Raises:
        ValueError: they are no answers, or those to another sample.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        digest, answers = found["sample"], {str(name): frozenset(bad) for name, bad in found["answers"].items()}
    except FileNotFoundError:
        raise ValueError(f"answers = {path}: does not exist; open {PAGE}, and save the answers there") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"answers = {path}: are none ({error}); the file that {PAGE} saves works") from None
    if digest != sample.digest:
        rule = f"are those to sample {digest}, and this one is {sample.digest}; the file that {PAGE} saves now works"
        raise ValueError(f"answers = {path}: {rule}")
    for name, bad in answers.items():
        if name not in dict(sample.clips):
            raise ValueError(f"answers = {path}: {name!r} is no clip of the sample; the file that {PAGE} saves works")
        if bad - GROUPS.keys():
            rule = f"must be of {', '.join(GROUPS)}"
            raise ValueError(f"answers = {path}: {name!r} has {', '.join(sorted(map(str, bad)))}; {rule}")
    return answers


def judge(sample: Sample, answers: Mapping[str, frozenset[str]]) -> list[Decision]:
    """The verdict on each source, and on all together if there are several."""
    sources = dict(sample.clips)
    names = [*sample.sizes, *([ALL] if len(sample.sizes) > 1 else [])]
    found = []
    for source in names:
        size = sum(sample.sizes.values()) if source == ALL else sample.sizes[source]
        bads = [bad for name, bad in answers.items() if source in (ALL, sources[name])]
        found.append(_decide(sample.gate, source, size, bads))
    return found


def check(folder: Path, answers: Path | None = None) -> list[Decision]:
    """What the answers to a run's page say of its clips; by default those that lie in its folder.

    Raises:
        ValueError: there is no page, no answer, or the clips were curated anew since.
    """
    sample = Sample.load(folder / SAMPLE)
    kept = {clip.name for clip in read_clips(folder / VERDICTS) if clip.kept}
    if gone := [name for name, _ in sample.clips if name not in kept]:
        rule = "the run was made anew since; --new draws others"
        raise ValueError(f"check = {folder / SAMPLE}: {len(gone)} of {len(sample.clips)} are not kept now; {rule}")
    return judge(sample, read_answers(answers or folder / ANSWERS, sample))


def _decide(gate: Gate, source: str, size: int, bads: Sequence[frozenset[str]]) -> Decision:
    count = len(bads)
    by_group = Counter(group for bad in bads for group in bad)
    bad = {"total": sum(1 for wrong in bads if wrong), **{group: by_group[group] for group in GROUPS}}
    intervals = {name: _interval(number, count, size) for name, number in bad.items()}
    over = [name for name in bad if intervals[name][0] >= gate.limits[name]]
    open_ones = [name for name in bad if intervals[name][1] >= gate.limits[name]]
    told = over or open_ones
    outcome: Outcome = "discard" if over else "undecided" if open_ones else "pass"
    if not told:
        return Decision(source, size, count, bad, intervals, outcome, f"{bad['total']} bad, within every limit")
    why = "; ".join(_words(name, bad[name], count, intervals[name], gate.limits[name]) for name in told)
    if outcome == "undecided":
        why += f"; {_more(gate, count, size)}"
    return Decision(source, size, count, bad, intervals, outcome, why)


def _interval(bad: int, count: int, size: int) -> tuple[float, float]:
    """Of a share; where all were looked at, there is nothing to infer."""
    return (bad / count, bad / count) if count and count >= size else wilson(bad, count)


def _words(name: str, bad: int, count: int, interval: tuple[float, float], limit: float) -> str:
    share = f"{bad} of {count}" if count else "nothing known"
    return f"{name} {share} bad ({100 * interval[0]:.1f} to {100 * interval[1]:.1f} %, must be below {100 * limit:g} %)"


def _more(gate: Gate, count: int, size: int) -> str:
    if size < gate.least:
        return f"so few clips are judged only when all {size} are looked at"
    least = gate.least
    return f"{least} good ones are the least that passes" if count < least else "look at more: --share draws them"
