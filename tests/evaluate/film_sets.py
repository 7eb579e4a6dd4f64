"""Folders of small films with reports, for the tests of pages and comparisons."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everreel.evaluate.follow import Answer, FilmAnswers, Report
from tests.film.films import natural, write


@functools.cache
def a_film(num_frames: int = 6, height: int = 32, width: int = 48) -> Path:
    """A film that all can copy."""
    folder = Path(tempfile.mkdtemp())
    return write(folder / "film.mp4", natural(num_frames, height, width))


def answers(rights: Mapping[str, bool], chance: float = 0.5) -> dict[str, Answer]:
    """Fields that are read as asked, or not."""
    return {name: Answer("one", "one" if right else "two", chance) for name, right in rights.items()}


def folder(
    path: Path,
    films: Sequence[Mapping[str, bool]],
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    source: Path | None = None,
    **settings: Any,
) -> Path:
    """A folder as `everreel evaluate` leaves it: a film for each of `films`, which say what is right of each."""
    path.mkdir()
    told = []
    for number, rights in enumerate(films):
        name = f"film-{number:03d}.mp4"
        shutil.copyfile(source or a_film(), path / name)
        prompt = prompts[number] if prompts else f"prompt {number}"
        seed = seeds[number] if seeds else number
        told.append(FilmAnswers(name, prompt, seed, {}, answers(rights)))
    Report({"model": path.name, "num_films": len(films), **settings}, tuple(told)).save(path / "report.json")
    return path


def looks(path: Path, values: Mapping[str, Sequence[float | None]]) -> None:
    """Rows of `quality.jsonl` for the films of a folder: figures by measure, one for each film."""
    lines = []
    for number, film in enumerate(sorted(path.glob("*.mp4"))):
        measures = {name: found[number] for name, found in values.items()}
        size = {"num_frames": 6, "fps": 24.0, "height": 32, "width": 48}
        row = {"file": film.name, "bytes": film.stat().st_size, **size, "measures": measures, "missing": {}}
        lines.append(json.dumps(row) + "\n")
    (path / "quality.jsonl").write_text("".join(lines))
