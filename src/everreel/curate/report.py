"""What a run of curation dropped and why, as a page: counts and hours, pictures of what went, crops, and duplicates.

The one invariant: every clip is counted once as kept or dropped, and under each of its reasons; pictures are few of
each kind, and those that are not shown are counted too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everreel.curate.page import render
from everreel.curate.plots import bars, histogram
from everreel.curate.record import Clip
from everreel.curate.strips import Find, Strips
from everreel.evaluate.page import check_page, shown, write_page

PAGE = "report.html"
MOST_SHOWN, MOST_ALIKE, MOST_FILMS = 12, 4, 200
"""Clips of a reason, of a group of duplicates, and films that could not be read, that the page shows."""


@dataclass(frozen=True)
class Bound:
    """A threshold of a filter: what it is called, what it measures, and where it lies."""

    reason: str
    measure: str
    threshold: float
    keeps: str
    """As in "at most"."""
    what: str = ""
    """The measure in words, with its unit."""


@dataclass(frozen=True)
class Told:
    """What a report is made of: all clips with their verdicts, the bounds that were asked, and films with problems."""

    clips: Sequence[Clip]
    bounds: Sequence[Bound] = ()
    problems: Mapping[str, str] | None = None
    """By film, why nothing could be read of it."""
    title: str = "What was kept, and what was dropped"


def write_report(path: Path, told: Told, find: Find, *, most: int = MOST_SHOWN) -> None:
    """Write the page; strips of its clips lie beside it, and are made once.

    Args:
        find: where the film lies that a clip names.
        most: so many clips of a reason are shown.

    Raises:
        ValueError: the path is none of a page, or a number below 0.
    """
    check_page(path)
    if most < 0:
        raise ValueError(f"most = {most}: must be at least 0; {MOST_SHOWN} works")
    write_page(path, report_page(told, Strips(path.parent, find), most))


def report_page(told: Told, strips: Strips, most: int = MOST_SHOWN) -> str:
    """The page as text."""
    dropped = [clip for clip in told.clips if clip.verdict == "dropped"]
    kept = [clip for clip in told.clips if clip.kept]
    problems = list((told.problems or {}).items())
    return render(
        "curation.html",
        title=shown(told.title),
        statement=_statement(told.clips, kept, dropped, len(problems)),
        plots=_plots(kept, dropped),
        histograms=_histograms(told),
        reasons=[_reason(reason, clips, told.bounds, strips, most) for reason, clips in _by_reason(dropped)],
        crops=_crops(told.clips, strips, most),
        groups=_duplicates(told.clips, strips, most),
        kept={**_shown(_spread(kept, most), strips), "more": max(0, len(kept) - most)},
        problems=[(shown(name), shown(why)) for name, why in problems[:MOST_FILMS]],
        more_problems=max(0, len(problems) - MOST_FILMS),
    )


def _statement(clips: Sequence[Clip], kept: Sequence[Clip], dropped: Sequence[Clip], problems: int) -> str:
    films = len({clip.source for clip in clips})
    text = (
        f"{_count(len(clips), 'clip')} of {_count(films, 'film')}, {_time(clips)}: {len(kept):,} kept ({_time(kept)})"
    )
    text += f", {len(dropped):,} dropped ({_time(dropped)})"
    cut = sum(clip.crop is not None for clip in kept)
    text += f"; of those kept, {cut:,} cropped" if cut else ""
    return text + (f". {_count(problems, 'film')} could not be read." if problems else ".")


def _plots(kept: Sequence[Clip], dropped: Sequence[Clip]) -> list[dict[str, Any]]:
    plots = []
    stages = sorted({clip.stage for clip in (*kept, *dropped)})
    if len(stages) > 1:
        by_stage = [(stage or "none", [clip for clip in kept if clip.stage == stage]) for stage in stages]
        plots.append(_bars("Kept by stage", "", by_stage))
    if dropped:
        plots.append(
            _bars(
                "Dropped by reason",
                "a clip may have several reasons.",
                _by_reason(dropped),
            )
        )
        first = _grouped((clip, clip.reasons[:1] or ("no reason",)) for clip in dropped)
        plots.append(_bars("Dropped by the first reason", "each clip once.", first))
    return plots


def _bars(title: str, what: str, groups: Sequence[tuple[str, Sequence[Clip]]]) -> dict[str, Any]:
    rows = [(name, float(len(clips)), f"{_count(len(clips), 'clip')}, {_time(clips)}") for name, clips in groups]
    return {"plot": bars(rows, title), "title": title, "what": what}


def _histograms(told: Told) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for clip in told.clips for name in clip.measures)
    plots = []
    for name in names:
        values = [clip.measures[name] for clip in told.clips if name in clip.measures]
        bounds = [bound for bound in told.bounds if bound.measure == name]
        plot = histogram(values, [bound.threshold for bound in bounds], name)
        if plot:
            what = "; ".join(f"{bound.keeps} {bound.threshold:g}, else {bound.reason}" for bound in bounds)
            unknown = sum(not math.isfinite(value) for value in values)
            told_by = next((bound.what for bound in bounds if bound.what), "")
            words = [told_by, f"kept: {what}" if what else "no threshold", f"{unknown} not known" if unknown else ""]
            plots.append({"plot": plot, "title": name, "what": "; ".join(word for word in words if word) + "."})
    return plots


def _reason(reason: str, clips: Sequence[Clip], bounds: Sequence[Bound], strips: Strips, most: int) -> dict[str, Any]:
    mine = [bound for bound in bounds if bound.reason == reason]
    rule = "; ".join(f"{bound.what or bound.measure}: {bound.keeps} {bound.threshold:g}" for bound in mine)
    measures = [bound.measure for bound in mine]
    return {
        "name": reason,
        "count": f"{_count(len(clips), 'clip')}, {_time(clips)}",
        "rule": rule,
        **_shown(_spread(clips, most), strips, measures),
        "more": max(0, len(clips) - most),
    }


def _shown(clips: Sequence[Clip], strips: Strips, measures: Sequence[str] = ()) -> dict[str, Any]:
    return {"cards": [_card(clip, strips, measures) for clip in clips]}


def _card(clip: Clip, strips: Strips, measures: Sequence[str] = ()) -> dict[str, Any]:
    figures = [f"{name} {clip.measures[name]:.3g}" for name in measures if name in clip.measures]
    also = list(clip.reasons)
    return {
        "strip": strips.strip(clip),
        "name": shown(clip.name),
        "facts": ", ".join([f"{clip.seconds:.1f} s", f"{clip.width}x{clip.height}", *figures]),
        "reasons": ", ".join(also),
    }


def _crops(clips: Sequence[Clip], strips: Strips, most: int) -> dict[str, Any]:
    cut = [clip for clip in clips if clip.crop is not None]
    cards = []
    for clip in _spread(cut, most):
        assert clip.crop is not None
        share = clip.crop.width * clip.crop.height / (clip.width * clip.height)
        size = f"{clip.width}x{clip.height} cut to {clip.crop.width}x{clip.crop.height}, {share:.0%}"
        card = {"strip": strips.outlined(clip), "name": shown(clip.name), "facts": size}
        cards.append({**card, "reasons": ", ".join(clip.reasons)})
    return {"cards": cards, "more": max(0, len(cut) - most), "count": _count(len(cut), "clip")}


def _duplicates(clips: Sequence[Clip], strips: Strips, most: int) -> dict[str, Any]:
    """Groups of clips that are the same, the largest first, each beside the one that was kept."""
    by_name = {clip.name: clip for clip in clips}
    found = _grouped((clip, (clip.like,)) for clip in clips if clip.like)
    groups = []
    for name, alike in found[:most]:
        first = [by_name[name]] if name in by_name else []
        cards = [_card(clip, strips) for clip in [*first, *alike[:MOST_ALIKE]]]
        groups.append({"name": shown(name), "cards": cards, "more": max(0, len(alike) - MOST_ALIKE)})
    count = sum(len(alike) for _, alike in found)
    return {
        "groups": groups,
        "more": max(0, len(found) - most),
        "count": f"{_count(count, 'clip')} like {_count(len(found), 'other')}",
    }


def _by_reason(dropped: Sequence[Clip]) -> list[tuple[str, list[Clip]]]:
    return _grouped((clip, clip.reasons or ("no reason",)) for clip in dropped)


def _grouped(named: Iterable[tuple[Clip, Sequence[str]]]) -> list[tuple[str, list[Clip]]]:
    """Clips by name, the largest group first, and of equal ones by name."""
    groups: dict[str, list[Clip]] = {}
    for clip, names in named:
        for name in names:
            groups.setdefault(name, []).append(clip)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most so many, from all over."""
    if len(clips) <= most:
        return list(clips)
    return [clips[number * len(clips) // most] for number in range(most)]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _time(clips: Sequence[Clip]) -> str:
    """Hours, or what is told better in minutes or seconds."""
    seconds = math.fsum(clip.seconds for clip in clips)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
