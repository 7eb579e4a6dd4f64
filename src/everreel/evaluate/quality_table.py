"""Many films measured: a table with a row a film, written as it goes.

JSON Lines or CSV, by the ending of the name. The one invariant: a row is written in full or not at all, so that a run
killed at any moment loses the film it was at, and the same command goes on with those that have no row. A film is known
by its path as seen from the table's folder, and by its number of bytes: one that was made again is measured again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everreel.data.sources import FILMS, Skipped
from everreel.evaluate.follow import Report
from everreel.evaluate.quality import MEASURES, Quality, Reader, measure_film, request_of
from everreel.media import check_file
from everreel.prompt.filling import fill
from everreel.prompt.reading import read
from everreel.world.scene import visible_fields

NAME = "quality.jsonl"
"""What the table of a folder of films is called."""
ENDINGS = (".jsonl", ".csv")
_HEAD = ("file", "bytes", "num_frames", "fps", "height", "width")
_COLUMNS = (*_HEAD, *MEASURES, "missing")


@dataclass(frozen=True)
class Row:
    """A film in a table."""

    file: str
    num_bytes: int
    quality: Quality


def find_films(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are given, and the films directly in folders, by name; each once.

    Raises:
        ValueError: there is no such file, or a folder without a film.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            films = films_in(path)
            if not films:
                raise ValueError(f"files = {path}: there is no film in it; give a folder of MP4s")
            found |= dict.fromkeys(films)
        elif path.is_file():
            found[path] = None
        else:
            raise ValueError(f"files = {path}: does not exist; give films, or folders of them")
    return list(found)


def films_in(folder: Path) -> list[Path]:
    """The films directly in a folder, by name."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in FILMS and not path.name.startswith("."))
    return sorted(path for path in files if path.is_file())


def measure_files(
    films: Sequence[Path],
    table: Path,
    reader: Reader | None = None,
    on_film: Callable[[int, int], None] | None = None,
) -> list[Skipped]:
    """Measure the films that have no row yet, and write the rows; what was skipped is returned, and tried next time.

    Args:
        reader: a critic that reads off the films what the `report.json` beside them asked for, or else the prompt in a
            film's journal; by default the figures of that report are taken.
        on_film: called with how many are done of how many, before the first and after each.

    Raises:
        ValueError: the table's name or content is none of a table of these, or OpenCV is not installed.
    """
    check_table(table)
    there = read_table(table) if table.exists() else {}
    asked = _Asked(reader)
    names = [_name(film, table) for film in films]
    todo = [
        (name, film)
        for name, film in zip(names, films, strict=True)
        if name not in there or there[name].num_bytes != film.stat().st_size
    ]
    skipped = []
    with table.open("ab") as file:
        _mend(table)
        if table.suffix == ".csv" and not table.stat().st_size:
            file.write(_csv_line(_COLUMNS))
        for done, (name, film) in enumerate(todo):
            if on_film is not None and not done:
                on_film(len(films) - len(todo), len(films))
            try:  # no more than reading of: a full disk is no film's fault
                num_bytes = film.stat().st_size
                line = _line(Row(name, num_bytes, asked.measure(film)), table)
            except (ValueError, OSError) as error:
                skipped.append(Skipped(name, _reason(error, film)))
            else:
                file.write(line)
                file.flush()
            if on_film is not None:
                on_film(len(films) - len(todo) + done + 1, len(films))
    return skipped


def check_table(table: Path) -> None:
    """Refuse a table's path before anything is measured.

    Raises:
        ValueError: its ending is another one, it is a folder, or it lies in none.
    """
    check_file("output", table, NAME)
    if table.suffix not in ENDINGS:
        raise ValueError(f"output = {table}: must end in {' or '.join(ENDINGS)}; {table.with_suffix('.jsonl')} works")


def read_table(table: Path) -> dict[str, Row]:
    """The rows by the names of their films; of one film the last counts. What a killed run left of a line is not read.

    Raises:
        ValueError: a line is not of such a table.
    """
    rows: dict[str, Row] = {}
    whole = _whole(table.read_bytes()).decode("utf-8", "surrogateescape")
    lines = whole.split("\n")[:-1]
    if table.suffix == ".csv" and lines and tuple(next(csv.reader([lines[0]]))) != _COLUMNS:
        raise _foreign(table, 1)
    for number, line in enumerate(lines, 1):
        if (table.suffix == ".csv" and number == 1) or not line.strip():
            continue
        try:
            row = _of_csv(line) if table.suffix == ".csv" else _of_json(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _foreign(table, number) from None
        rows[row.file] = row
    return rows


class _Asked:
    """What films were asked to show, and how probable that was found, from the reports in their folders.

    Of a film that no report tells of, its journal has the prompt, of which a critic reads what the film world knows.
    """

    def __init__(self, reader: Reader | None) -> None:
        self._reader = reader
        self._reports: dict[Path, dict[str, tuple[dict[str, str], float]]] = {}

    def measure(self, film: Path) -> Quality:
        """All measures of a film. What was asked is read off it anew where there is a critic; else the report tells."""
        if film.parent not in self._reports:
            self._reports[film.parent] = self._read(film.parent / "report.json")
        asked, chance = self._reports[film.parent].get(film.name, ({}, math.nan))
        if not asked and self._reader is not None:
            asked = _said_by_journal(film)
        quality = measure_film(film, asked, self._reader)
        if not asked or self._reader is not None:
            return quality
        missing = {name: why for name, why in quality.missing.items() if name != "as_asked"}
        return replace(quality, values={**quality.values, "as_asked": chance}, missing=missing)

    @staticmethod
    def _read(path: Path) -> dict[str, tuple[dict[str, str], float]]:
        """By film, what was asked for and the mean probability of it."""
        found = {}
        try:
            for film in Report.load(path).films:
                asked = {name: answer.asked for name, answer in film.answers.items()}
                chances = [float(answer.probability) for answer in film.answers.values()]
                if asked:
                    found[film.file] = asked, sum(chances) / len(chances)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or one of another suite
            return {}
        return found


def _said_by_journal(film: Path) -> dict[str, str]:
    """The fields that a film's prompt says and that can be seen in it; none of one whose prompt changes on the way."""
    request = request_of(film)
    prompt = request.get("prompt")
    if not isinstance(prompt, str) or request.get("story"):
        return {}
    said = read(prompt).said
    seen = visible_fields(fill(said))
    return {name: value for name, value in said.items() if name in seen}


def _name(film: Path, table: Path) -> str:
    return Path(os.path.relpath(film, table.parent)).as_posix()


def _line(row: Row, table: Path) -> bytes:
    quality = row.quality
    head = (row.file, row.num_bytes, quality.num_frames, quality.fps, quality.height, quality.width)
    values = {name: value if math.isfinite(value) else None for name, value in quality.values.items()}
    if table.suffix == ".csv":
        if "\n" in row.file or "\r" in row.file:
            raise ValueError(f"file = {row.file!r}: has a line break in its name; a table in .jsonl can hold it")
        cells = ["" if values.get(name) is None else values[name] for name in MEASURES]
        return _csv_line((*head, *cells, json.dumps(dict(quality.missing))))
    content = {**dict(zip(_HEAD, head, strict=True)), "measures": values, "missing": dict(quality.missing)}
    return (json.dumps(content) + "\n").encode()


def _csv_line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _of_json(line: str) -> Row:
    content = json.loads(line)
    return _row(content, content["measures"], content["missing"])


def _of_csv(line: str) -> Row:
    content = dict(zip(_COLUMNS, next(csv.reader([line])), strict=True))
    values = {name: float(content[name]) if content[name] else None for name in MEASURES}
    return _row(content, values, json.loads(content["missing"]))


def _row(head: Mapping[str, Any], values: Mapping[str, float | None], missing: Mapping[str, str]) -> Row:
    known = {name: math.nan if values.get(name) is None else float(values[name] or 0) for name in MEASURES}
    size = int(head["num_frames"]), float(head["fps"]), int(head["height"]), int(head["width"])
    return Row(str(head["file"]), int(head["bytes"]), Quality(*size, known, {**missing}))


def _whole(content: bytes) -> bytes:
    """Without what stands behind the last line break: a killed run's last line."""
    return content[: content.rfind(b"\n") + 1]


def _mend(table: Path) -> None:
    """Cut off a line that is not there in full."""
    content = table.read_bytes()
    if (end := len(_whole(content))) < len(content):
        os.truncate(table, end)


def _foreign(table: Path, number: int) -> ValueError:
    rule = "is not of a table of everreel evaluate quality; give another name"
    return ValueError(f"output = {table}: its line {number} {rule}")


def _reason(error: Exception, film: Path) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix(f"video = {film}: ")
