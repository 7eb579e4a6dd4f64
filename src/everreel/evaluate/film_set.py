"""A set of films as it lies in a folder: the films, what was asked of them and read off them, and how they look.

A folder of films; or one of `everreel evaluate`, with its `report.json`; either may have the `quality.jsonl` of
`everreel evaluate quality`. The one invariant: nothing outside of the folder is ever named, read or linked to, whatever
its files say, and what cannot be used is skipped by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from everreel.data.sources import FILMS, Skipped
from everreel.evaluate.follow import Answer, Report
from everreel.evaluate.quality import MEASURES, Quality, request_of
from everreel.evaluate.quality_table import NAME, Row, films_in, read_table
from everreel.film.source import SourceFilm

REPORT = "report.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Film:
    """One film of a set. `path` is none of a film that a report tells of and that is not there any more."""

    name: str
    path: Path | None
    prompt: str | None = None
    seed: int | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    quality: Quality | None = None
    num_frames: int | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None

    @property
    def right(self) -> dict[str, bool]:
        """By field, whether it is read as it was asked for."""
        return {name: answer.read == answer.asked for name, answer in self.answers.items()}

    @property
    def share_right(self) -> float | None:
        """Of the fields that were asked for; none where nothing was read."""
        return sum(self.right.values()) / len(self.answers) if self.answers else None

    @property
    def figures(self) -> dict[str, float]:
        """How it looks, by measure, without what could not be measured."""
        values = self.quality.values if self.quality else {}
        return {name: value for name, value in values.items() if name in MEASURES and value == value}


@dataclass(frozen=True)
class FilmSet:
    """The films of a folder, by name; `settings` are those of a report, or empty."""

    name: str
    folder: Path
    films: tuple[Film, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


def gather(path: str | Path, name: str | None = None) -> FilmSet:
    """What a folder, or the `report.json` in one, tells of its films.

    Args:
        name: what to call them; by default the model that made them, or the folder.

    Raises:
        ValueError: there is no such folder, no film in it, or its report is one of another program.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if not folder.is_dir() or (path.is_file() and path.suffix != ".json"):
        raise ValueError(f"films = {path}: is no folder of films; give one, or the {REPORT} in one")
    skipped: list[Skipped] = []
    report = read_report(path) if path.is_file() else _beside(folder / REPORT, read_report, skipped)
    rows = _beside(folder / NAME, read_table, skipped) or {}
    films = []
    told = {film.file: film for film in report.films} if report else {}
    for file in [*told, *(path.name for path in films_in(folder) if path.name not in told)]:
        if not _is_plain(file):
            skipped.append(Skipped(repr(file), "is no name of a film in this folder"))
            continue
        try:
            films.append(_film(folder, file, told.get(file), rows.get(file)))
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"video = {folder / file}: ")
            skipped.append(Skipped(file, reason))
    if not films:
        why = f" that could be used: {skipped[0]}" if skipped else ""
        raise ValueError(f"films = {path}: there is no film in it{why}; give a folder of MP4s")
    settings = dict(report.settings) if report else {}
    name = name or str(settings.get("model") or "") or folder.resolve().name
    return FilmSet(Path(name).name or name, folder, tuple(films), settings, tuple(skipped))


def read_report(path: Path) -> Report:
    """The report of `everreel evaluate`.

    Raises:
        ValueError: it is not one.
    """
    try:
        report = Report.load(path)
        if not isinstance(report.settings, Mapping):
            raise TypeError("settings")
        for film in report.films:
            if not isinstance(film.file, str) or not isinstance(film.prompt, str) or not isinstance(film.seed, int):
                raise TypeError(f"file, prompt or seed of {film.file!r}")
            for answer in film.answers.values():
                float(answer.probability)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ValueError(f"report = {path}: is no report of everreel evaluate ({reason}); make one with it") from None
    return report


def told_by_journal(film: Path) -> tuple[str | None, int | None]:
    """Prompt and seed of a film that was made here, from the journal beside it."""
    request = request_of(film)
    try:
        return str(request["prompt"]), int(request["seed"])
    except (ValueError, KeyError, TypeError):
        return None, None


def _film(folder: Path, name: str, told: Any, row: Row | None) -> Film:  # noqa: ANN401 -- FilmAnswers or none
    path: Path | None = folder / name
    assert path is not None
    prompt, seed = (told.prompt, told.seed) if told else told_by_journal(path)
    answers = told.answers if told else {}
    if not path.is_file():  # only a report can have told of it
        return Film(name, None, prompt, seed, answers)
    source = SourceFilm.open(path)
    quality = row.quality if row is not None and row.num_bytes == source.num_bytes else None
    size = (len(source.timeline.shown_at), source.fps, source.height, source.width)
    return Film(name, path, prompt, seed, answers, quality, *size)


def _beside(path: Path, read: Callable[[Path], T], skipped: list[Skipped]) -> T | None:
    """What lies beside the films, if it does; what is of another program is skipped, for the films are there still."""
    try:
        return read(path) if path.is_file() else None
    except ValueError as error:
        skipped.append(Skipped(path.name, str(error).split(": ", 1)[-1]))
        return None


def _is_plain(file: str) -> bool:
    """A file's name and no way out of the folder."""
    plain = file not in ("", ".", "..") and "/" not in file and "\\" not in file and "\0" not in file
    return plain and Path(file).suffix.lower() in FILMS
