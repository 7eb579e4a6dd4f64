"""A run of data curation: films in, clips with verdicts out, and a table of those that are kept.

The order is SkyReels-V2's (section 3.1): shots, the filters from cheap to dear, crop, then what concerns all clips
together, duplicates and concepts. The one invariant: a film is measured once. Its line is on the disk when it is done,
a process that is killed loses the film that it was at, and other thresholds judge anew what is known; only measures
that nobody has asked for before are taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from everreel.answers import UnreachableError
from everreel.curate.crop import write_clip
from everreel.curate.dedup import without_duplicates
from everreel.curate.filters import (
    FILTERS,
    KEEPS,
    REASONS,
    UNSELECTED,
    UNWANTED,
    Thresholds,
    is_measured,
    nearest_threshold,
    needed_groups,
    reasons_of,
)
from everreel.curate.measures import Tools, measure, save_thumbnail
from everreel.curate.record import SOURCES, THUMBNAILS, VERDICTS, Clip, Film, append_film, read_films, write_clips
from everreel.curate.report import PAGE, Bound, Told, write_report
from everreel.curate.shots import check_cutter, clips_of, cutter_of, scan
from everreel.curate.strips import Find
from everreel.data.sources import Item, Skipped, read_source
from everreel.film.source import SourceFilm

KEPT, CLIPS = "kept.jsonl", "clips"
_VERSION = 1  # of what is measured: another makes all films new
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CurateSettings:
    """What becomes of films.

    `longest` is the seconds of a clip: a longer shot is cut into equal parts. Of films whose table tells what they are,
    those of `source_types` are kept; none keeps all. `selected` are the names of clips that a person has picked.
    """

    stage: str
    thresholds: Thresholds
    cuts: str = "adaptive"
    longest: float = 20.0
    captioner: str = ""
    source_types: tuple[str, ...] = ()
    selected: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.longest) and self.longest > 0):
            raise ValueError(f"longest = {self.longest}: seconds of a clip must be more than 0; 20 works")

    @property
    def signature(self) -> str:
        """What clips depend on: with another, films are cut and measured anew."""
        return f"{_VERSION} {self.cuts} {self.longest:g}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of measures that are needed."""
        groups = needed_groups(self.thresholds)
        return (*groups, "concept") if self.captioner else groups


@dataclass(frozen=True)
class Curated:
    """What became of a run: all clips with their verdicts, and the files that could not be used."""

    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...]
    known: int
    """Films of which nothing had to be read."""

    @property
    def kept(self) -> list[Clip]:
        """The clips that are kept."""
        return [clip for clip in self.clips if clip.kept]


class NothingKept(ValueError):
    """The filters drop everything. `lines` say which dropped how many, and what would keep some."""

    def __init__(self, said: str, lines: Sequence[str]) -> None:
        super().__init__(said)
        self.lines = tuple(lines)


class Curation:
    """A folder or a table of films, and the folder that what is found goes into.

    Raises:
        ValueError: the source holds no film, or what finds cuts is not installed.
    """

    def __init__(self, source: str | Path, output: Path, settings: CurateSettings, tools: Tools) -> None:
        check_cutter(settings.cuts)
        self.output, self.settings, self.tools = output, settings, tools
        self.items, self.skipped = listed(source)
        if not self.items:
            first = f"; {self.skipped[0]}" if self.skipped else ""
            raise ValueError(f"source = {str(source)!r}: holds no film{first}; a folder of MP4 files works")
        if output.exists() and not output.is_dir():
            raise ValueError(f"output = {str(output)!r}: is a file; a folder works, such as {output}-clips")
        output.mkdir(parents=True, exist_ok=True)
        self._films = read_films(output / SOURCES)
        self._paths = {item.name: item.path for item in self.items}

    def make(self, progress: Progress | None = None) -> Curated:
        """Measure what is not measured, and judge; `progress(done, total)` is called before the first and after each.

        Raises:
            NothingKept: the filters drop every clip; verdicts are written all the same.
            ValueError: no film could be read.
            ToolError, UnreachableError: what measures is not there; what is known by then stays.
        """
        known, films = 0, []
        for number, item in enumerate(self.items):
            if progress is not None:
                progress(number, len(self.items))
            before = self._films.get(item.name)
            film = self._film(item, before)
            if film != before:
                append_film(self.output / SOURCES, film)
                self._films[item.name] = film
            known += film == before
            films.append(film)
        if progress is not None:
            progress(len(self.items), len(self.items))
        problems = [Skipped(film.source, film.problem) for film in films if film.problem]
        clips = tuple(judged([clip for film in films for clip in film.clips], self.settings))
        write_clips(self.output / VERDICTS, clips)
        self._write_kept([clip for clip in clips if clip.kept])
        self._report(clips, problems)
        curated = Curated(clips, (*self.skipped, *problems), known)
        if not clips:
            raise ValueError(f"source: no film of {len(films)} can be read: {problems[0]}")
        if not curated.kept:
            raise nothing_kept(clips, self.settings)
        return curated

    def write_clips(self, clips: Sequence[Clip], progress: Progress | None = None) -> None:
        """Put clips into files of their own, where they are not there yet, and have the table name these."""
        (self.output / CLIPS).mkdir(exist_ok=True)
        for number, clip in enumerate(clips):
            if progress is not None:
                progress(number, len(clips))
            file = self.output / _clip_file(clip)
            if not file.is_file():
                film = SourceFilm.open(self._path(clip.source))
                write_clip(film, clip.first, clip.frames, file, clip.crop)
        if progress is not None:
            progress(len(clips), len(clips))
        self._write_kept(clips, files=True)

    def _film(self, item: Item, before: Film | None) -> Film:
        """What is known of a film, with what has to be found.

        Raises:
            ToolError, UnreachableError: what measures is not there; nothing is said of the film.
        """
        num_bytes, signature = item.path.stat().st_size, self.settings.signature
        same = before is not None and (before.num_bytes, before.settings) == (num_bytes, signature)
        if before is not None and same and before.problem:
            return before
        file = _Opened(item.path)
        try:
            if not num_bytes:
                raise ValueError("is empty: 0 bytes")
            clips = before.clips if before is not None and same else self._cut(item, file)
            told = [replace(clip, source_type=item.source_type) for clip in clips]
            told = [replace(clip, captions=item.captions) for clip in told] if item.captions else told
            clips = tuple(self._measured(clip, file) for clip in told)
        except UnreachableError:
            raise
        except ValueError as error:
            text = " ".join(str(error).split()).removeprefix(f"video = {item.path}: ")
            return Film(item.name, num_bytes, problem=text.split("; ")[0], settings=signature)
        return Film(item.name, num_bytes, clips, settings=signature)

    def _cut(self, item: Item, file: _Opened) -> tuple[Clip, ...]:
        film = file.film
        found = scan(film, cutter_of(self.settings.cuts, film.fps))
        times, tick = film.timeline.shown_at, float(film.timeline.tick)
        clips = []
        for first, frames in clips_of(found, film.fps, self.settings.longest):
            stop = first + frames
            ends = (times[stop] - times[0]) * tick if stop < len(times) else film.duration
            span = (round((times[first] - times[0]) * tick, 6), round(ends, 6))
            clip = Clip(item.name, first, frames, *span, film.fps, film.width, film.height)
            name = hashlib.sha256(clip.name.encode()).hexdigest()[:16]
            clip = replace(clip, captions=item.captions, thumbnail=f"{THUMBNAILS}/{name}.jpg")
            for group in ("file", "scan"):
                clip = measure(group, film, clip, found, self.tools)
            save_thumbnail(film, clip, self.output / clip.thumbnail)
            clips.append(clip)
        return tuple(clips)

    def _measured(self, clip: Clip, file: _Opened) -> Clip:
        """The clip with all measures that are needed until a filter drops it."""
        for group in self.settings.groups:
            if _alone(clip, self.settings):
                return clip
            if not is_measured(clip, group):
                clip = measure(group, file.film, clip, None, self.tools)
        return clip

    def _write_kept(self, clips: Sequence[Clip], *, files: bool = False) -> None:
        """The table that `everreel prepare` reads."""
        path = self.output / KEPT
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as table:
            for clip in clips:
                row: dict[str, object] = {"file_name": _clip_file(clip).as_posix()}
                if not files:
                    row["file_name"] = os.path.relpath(self._path(clip.source), self.output)
                    row |= {"start": clip.start, "stop": clip.stop}
                    row |= {"crop": list(clip.crop)} if clip.crop else {}
                row |= {"text": list(clip.captions)} if clip.captions else {}
                row |= {"clip": clip.name, "film": os.path.relpath(self._path(clip.source), self.output)}
                row |= {"concept": clip.concept} if clip.concept else {}
                table.write(json.dumps(row, ensure_ascii=False) + "\n")
        part.replace(path)

    def _report(self, clips: Sequence[Clip], problems: Sequence[Skipped]) -> None:
        """The page with what was dropped and why."""
        asked = ((FILTERS[name], value) for name, value in self.settings.thresholds.items() if name in FILTERS)
        bounds = [Bound(f.name, f.measure, value, f.bound, f.what) for f, value in asked if value is not None]
        found = {missed.name: missed.reason for missed in (*self.skipped, *problems)}
        write_report(self.output / PAGE, Told(clips, bounds, found), self._path)

    def _path(self, name: str) -> Path:
        return self._paths[name]


@dataclass
class _Opened:
    """A film that is opened when it is needed."""

    path: Path

    @cached_property
    def film(self) -> SourceFilm:
        """Opened once."""
        return SourceFilm.open(self.path)


def listed(source: str | Path) -> tuple[list[Item], list[Skipped]]:
    """The films of a folder, a table or a file, with or without captions, and what of it is left out.

    Raises:
        ValueError: see `data.sources.read_source`.
    """
    found, skipped = read_source(source, captioned=False)
    films: list[Item] = []
    for item in found:
        if item.is_picture:
            skipped.append(Skipped(item.name, "is a picture; films are cut into clips"))
        elif item.is_part:
            skipped.append(Skipped(item.name, "is a part of a film, cut already; a table of whole films works"))
        else:
            films.append(item)
    return films, skipped


def films_of(output: Path) -> Find:
    """Where the films of clips lie that a run kept, by its table.

    Raises:
        ValueError: there is no such table.
    """
    table = output / KEPT
    try:
        rows = map(json.loads, table.read_text(encoding="utf-8").splitlines())
        films = {row["clip"].rpartition("#")[0]: output / row["film"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"films = {table}: is no table of a run ({error}); everreel data writes it anew") from None
    return lambda name: films.get(name, output / name)


def judged(clips: Sequence[Clip], settings: CurateSettings) -> list[Clip]:
    """The clips with their verdicts: each by itself, then all that pass together."""
    reasons = {clip.name: list(_alone(clip, settings)) for clip in clips}
    passing = [clip for clip in clips if not reasons[clip.name]]
    likes = {clip.name: clip.like for clip in without_duplicates(passing, settings.thresholds["duplicate"])}
    for name, like in likes.items():
        reasons[name] += ["duplicate"] if like else []
    passing = [clip for clip in passing if not likes[clip.name]]
    for name in too_many(passing, settings.thresholds["concept"]):
        reasons[name].append("concept")
    found = []
    for clip in clips:
        dropped = tuple(reasons[clip.name])
        verdict = {"verdict": "dropped" if dropped else "kept", "stage": settings.stage, "reasons": dropped}
        found.append(replace(clip, like=likes.get(clip.name, ""), **verdict))  # type: ignore[arg-type]
    return found


def too_many(clips: Sequence[Clip], most: float | None) -> set[str]:
    """The names of clips to drop so that no type of subject takes more than a share; the plainest of it go first.

    Where all clips show one type nothing can be balanced, and none is dropped.
    """
    by_type: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.concept:
            by_type.setdefault(clip.concept, []).append(clip)
    if most is None or len(by_type) < 2:
        return set()
    for several in by_type.values():
        several.sort(key=lambda clip: (-clip.measures.get("aesthetic", 0.0), clip.name))
    dropped: set[str] = set()
    while True:
        largest = max(by_type, key=lambda name: (len(by_type[name]), name))
        if len(by_type[largest]) <= max(1.0, most * sum(map(len, by_type.values()))):
            return dropped
        dropped.add(by_type[largest].pop().name)


def summary(clips: Sequence[Clip]) -> list[str]:
    """A line for what is kept and for each reason: clips, hours. A clip counts for the first of its reasons."""
    by_reason = {name: [clip for clip in clips if clip.reasons[:1] == (name,)] for name in REASONS}
    rows = [("kept", [clip for clip in clips if clip.kept]), *((f"dropped: {n}", c) for n, c in by_reason.items() if c)]
    lines = [f"{'':24}{'clips':>8}{'hours':>10}"]
    for name, several in [*rows, ("all", list(clips))]:
        lines.append(f"{name:24}{len(several):8}{sum(clip.seconds for clip in several) / 3600:10.4f}")
    return lines


def nothing_kept(clips: Sequence[Clip], settings: CurateSettings) -> NothingKept:
    """Which filter dropped how many, and the threshold that would keep a tenth."""
    counts = {name: sum(name in clip.reasons for clip in clips) for name in REASONS}
    lines = [f"{'filter':16}{'dropped':>8}{'measured':>10}{'threshold':>11}   {KEEPS:.0%} are kept with"]
    hints = {}
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if not count:
            continue
        each = FILTERS.get(name)
        measured = sum(each.measure in clip.measures for clip in clips) if each else len(clips)
        nearest = nearest_threshold(each, clips) if each else None
        hints[name] = f"{name}={'off' if nearest is None else f'{nearest:g}'}" if name not in _SETTINGS else "-"
        limit = settings.thresholds.get(name)
        told = "-" if limit is None else f"{limit:g}"
        lines.append(f"{name:16}{count:8}{measured:10}{told:>11}   {hints[name]}")
    worst = next(iter(hints))
    share = f"{worst} drops {counts[worst]}"
    works = f"--set {hints[worst]} keeps {KEEPS:.0%} of them" if worst not in _SETTINGS else _SETTINGS[worst]
    return NothingKept(f"stage = {settings.stage}: all of {len(clips)} clips are dropped, {share}; {works}", lines)


_SETTINGS = {UNWANTED: "--source-types any keeps them", UNSELECTED: "--selected with names of verdicts.jsonl works"}


def _alone(clip: Clip, settings: CurateSettings) -> tuple[str, ...]:
    """Why a clip is dropped whatever others there are."""
    reasons = reasons_of(clip, settings.thresholds)
    if clip.source_type and settings.source_types and clip.source_type not in settings.source_types:
        reasons = (UNWANTED, *reasons)
    if settings.selected is not None and clip.name not in settings.selected:
        reasons = (*reasons, UNSELECTED)
    return reasons


def _clip_file(clip: Clip) -> Path:
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in Path(clip.source).stem)
    mark = hashlib.sha256(f"{clip.source} {clip.crop}".encode()).hexdigest()[:8]
    return Path(CLIPS) / f"{stem[:80]}-{mark}-{clip.first:07}-{clip.frames}.mp4"
