"""Films and pictures with their captions, wherever somebody keeps them: a folder, a table, or one file.

A folder has captions beside its files (`fox.mp4`, `fox.txt`: a caption a line) or in a table (`metadata.jsonl`, `.csv`
or `.parquet`), as the datasets library has it: `file_name`, and `text` or `caption`. A table may also stand alone, with
paths from its own folder on; `start` and `stop` (seconds) and `crop` (left, top, width, height) in it take a part of a
film, as `everreel data` writes them. `fox-masklabel.png`, or what a table has as `mask`, is white where the subject is,
as OneTrainer has it: a picture, or a film for a film. The one invariant: a file is in the one list or in the other, as
an item that has captions or as skipped for a reason; files are not opened here, and their order is that of their names.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FILMS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
PATH_COLUMNS = ("file_name", "path", "video", "video_path", "image", "image_path", "file")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "sentences")
MASK = "-masklabel"
_AT_ONCE = 4096  # rows of a Parquet table
_LEVELS = 64  # of lists and objects in each other, in a row of JSON Lines; whoever writes it again goes down them all

Row = dict[str, Any]
_Part = tuple[float, float | None, tuple[int, int, int, int] | None]


@dataclass(frozen=True)
class Item:
    """A film or a picture, and what it shows in words."""

    name: str
    """Its path as the source has it, which a store knows it by."""
    path: Path
    captions: tuple[str, ...]
    start: float = 0.0
    """Seconds of the film's first frame on, where a part of it is meant."""
    stop: float | None = None
    crop: tuple[int, int, int, int] | None = None
    """Left, top, width and height, in pixels of the film as it is seen."""
    source_type: str = ""
    """What a table says that it is: film, tv, stock, ugc, ..."""
    mask: Path | None = None
    """Where its subject is."""

    @property
    def is_part(self) -> bool:
        """Whether it is less than its file."""
        return bool(self.start) or self.stop is not None or self.crop is not None

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture rather than a film, by its ending."""
        return self.path.suffix.lower() in PICTURES


@dataclass(frozen=True)
class Skipped:
    """A file that is left out."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_source(source: str | Path, *, captioned: bool = True) -> tuple[list[Item], list[Skipped]]:
    """What a folder, a table or a file holds, and what of it has to be left out.

    Args:
        captioned: whether to leave out what has no caption.

    Raises:
        ValueError: there is no such thing, or it is no table that names files and captions.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path, captioned)
    if not path.is_file():
        raise ValueError(f"source = {str(source)!r}: no such file or folder; a folder of films with captions works")
    if path.suffix.lower() in TABLES:
        return _sorted(*_of_table(path, captioned))
    if path.suffix.lower() in FILMS | PICTURES:
        return _beside(path.parent, [path], captioned, _masks_beside([path]))
    endings = ", ".join(sorted(TABLES))
    raise ValueError(f"source = {str(source)!r}: must be a folder, a film, a picture or a table ({endings})")


def read_rows(table: Path) -> Iterator[tuple[int, Row | str]]:
    """The rows of a table with the numbers of their lines; what is wrong with one in the place of it.

    Raises:
        ValueError: it cannot be read as a table.
    """
    ending = table.suffix.lower()
    try:
        if ending == ".parquet":
            yield from enumerate(_parquet_rows(table), 1)
        elif ending == ".jsonl":
            with table.open(encoding="utf-8-sig", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _json_row(line)
        else:
            with table.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",")
                for row in reader:
                    yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"source = {str(table)!r}: cannot be read as a table ({error}); UTF-8 text works") from None


def _of_folder(folder: Path, captioned: bool) -> tuple[list[Item], list[Skipped]]:
    """Files of its table by the table, all others by the captions beside them."""
    tables = [folder / f"metadata{ending}" for ending in sorted(TABLES) if (folder / f"metadata{ending}").is_file()]
    items: list[Item] = []
    skipped: list[Skipped] = []
    for table in tables[:1]:
        items, skipped = _of_table(table, captioned)
    named = {item.path for item in items} | {folder / missed.name for missed in skipped}
    files = (file for file in folder.rglob("*") if file.suffix.lower() in FILMS | PICTURES and file.is_file())
    visible = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    masks = _masks_beside(visible)
    named |= {masks[file.with_suffix("")] for file in visible if file.with_suffix("") in masks}
    named |= {item.mask for item in items if item.mask is not None}
    more, missed = _beside(folder, [file for file in visible if file not in named], captioned, masks)
    return _sorted([*items, *more], [*skipped, *missed])


def _beside(
    folder: Path, files: Sequence[Path], captioned: bool, masks: Mapping[Path, Path]
) -> tuple[list[Item], list[Skipped]]:
    """Files whose captions stand in text files of their names."""
    items, skipped = [], []
    for file in files:
        name, words = file.relative_to(folder).as_posix(), file.with_suffix(".txt")
        try:
            captions = _captions(words.read_text(encoding="utf-8-sig").splitlines())
        except UnicodeDecodeError:
            skipped.append(Skipped(name, f"its caption {words.name} is no text in UTF-8"))
        except OSError:
            if captioned:
                skipped.append(Skipped(name, f"has no caption; write one into {words.name} beside it"))
            else:
                items.append(Item(name, file, (), mask=masks.get(file.with_suffix(""))))
        else:
            if captions or not captioned:
                items.append(Item(name, file, captions, mask=masks.get(file.with_suffix(""))))
            else:
                skipped.append(Skipped(name, f"its caption {words.name} is empty"))
    return _sorted(items, skipped)


def _of_table(table: Path, captioned: bool) -> tuple[list[Item], list[Skipped]]:
    """A row a file, or a part of one; several rows of the same are several captions."""
    found: dict[tuple[str, _Part], list[str]] = {}
    types: dict[str, str] = {}
    drawn: dict[str, str] = {}
    skipped = []
    rows = list(read_rows(table))
    path_column, caption_columns = _columns(table, rows, captioned)
    for number, row in rows:
        if isinstance(row, str):
            skipped.append(Skipped(f"{table.name} line {number}", row))
            continue
        name = row.get(path_column)
        if not isinstance(name, str) or not name.strip():
            skipped.append(Skipped(f"{table.name} line {number}", f"{path_column} is empty"))
            continue
        try:
            part = _part(row)
        except ValueError as error:
            skipped.append(Skipped(f"{table.name} line {number}", str(error)))
            continue
        captions = _captions([row.get(column) for column in caption_columns])
        found.setdefault((name.strip(), part), []).extend(captions)
        types[name.strip()] = str(row.get("source_type") or "").strip().lower()
        drawn[name.strip()] = str(row.get("mask") or "").strip() or drawn.get(name.strip(), "")
    items = []
    masks = _masks_beside([table.parent / Path(name).expanduser() for name in drawn])
    for (name, part), captions_of_part in found.items():
        path = table.parent / Path(name).expanduser()
        mask = table.parent / Path(drawn[name]).expanduser() if drawn[name] else masks.get(path.with_suffix(""))
        if not path.is_file():
            skipped.append(Skipped(name, "is a folder" if path.is_dir() else "does not exist"))
        elif mask is not None and not mask.is_file():
            skipped.append(Skipped(name, f"its mask {drawn[name]} does not exist"))
        elif captioned and not captions_of_part:
            skipped.append(Skipped(name, f"has no caption in {table.name}"))
        else:
            captions = tuple(dict.fromkeys(captions_of_part))
            items.append(Item(_part_name(name, part), path, captions, *part, source_type=types[name], mask=mask))
    return items, skipped


def _masks_beside(files: Sequence[Path]) -> dict[Path, Path]:
    """The masks in the folders of these files, by the paths of what they belong to, without its ending."""
    folders = {file.parent for file in files}
    seen = (each for folder in folders if folder.is_dir() for each in folder.iterdir() if each.stem.endswith(MASK))
    masks = [each for each in seen if each.suffix.lower() in PICTURES | FILMS and each.is_file()]
    return {mask.with_name(mask.stem.removesuffix(MASK)): mask for mask in sorted(masks, reverse=True)}


def _columns(table: Path, rows: Sequence[tuple[int, Row | str]], captioned: bool) -> tuple[str, list[str]]:
    """The column of paths, and those of captions."""
    columns = {column for _, row in rows if isinstance(row, dict) for column in row}
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    caption_columns = [name for name in CAPTION_COLUMNS if name in columns]
    if path_column is None or (captioned and not caption_columns):
        needed = PATH_COLUMNS if path_column is None else CAPTION_COLUMNS
        there = ", ".join(sorted(columns)) or "none"
        raise ValueError(f"source = {str(table)!r}: has the columns {there}; must have one of {', '.join(needed)}")
    return path_column, caption_columns


def _part(row: Row) -> _Part:
    """The part of a film that a row means: start, stop and crop."""
    start, stop = (_seconds(name, row.get(name)) for name in ("start", "stop"))
    if stop is not None and stop <= (start or 0.0):
        raise ValueError(f"stop = {stop:g}: must be more than start, {start or 0.0:g}")
    crop = row.get("crop")
    if crop in (None, ""):
        return start or 0.0, stop, None
    try:
        found = json.loads(crop) if isinstance(crop, str) else crop
        left, top, width, height = (int(value) for value in found)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"crop = {str(crop)!r}: must be [left, top, width, height] in pixels") from None
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError(f"crop = {str(crop)!r}: must begin at 0 or more and have a width and a height")
    return start or 0.0, stop, (left, top, width, height)


def _seconds(name: str, value: Any) -> float | None:  # noqa: ANN401 -- whatever a table has in a cell
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} = {str(value)!r}: must be seconds, 0 or more")
    return seconds


def _part_name(name: str, part: _Part) -> str:
    """What a store knows a part by; a film that is taken whole keeps its path."""
    start, stop, crop = part
    if part == (0.0, None, None):
        return name
    span = f"{start:.3f}-{'' if stop is None else f'{stop:.3f}'}"
    return f"{name}#{span}" + (f"@{','.join(map(str, crop))}" if crop else "")


def _json_row(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is no JSON ({error.msg})"
    except RecursionError:
        return "is nested too deeply"
    if not isinstance(row, dict):
        return "is no JSON object"
    return row if _is_flat(row) else "is nested too deeply"


def _is_flat(row: Row) -> bool:
    """Whether it can be gone through level by level, by functions that call themselves."""
    some: list[Any] = [row]
    for _ in range(_LEVELS):
        inner = [each for each in some if isinstance(each, dict | list)]
        some = [value for each in inner for value in (each.values() if isinstance(each, dict) else each)]
        if not some:
            return True
    return False


def _parquet_rows(table: Path) -> Iterator[Row]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        rule = "needs pyarrow: pip install pyarrow, or write the table as CSV or JSON Lines"
        raise ValueError(f"source = {str(table)!r}: a Parquet table {rule}") from None
    try:
        with parquet.ParquetFile(table) as file:
            for some in file.iter_batches(_AT_ONCE):
                yield from some.to_pylist()
    except (OSError, ValueError) as error:  # what it raises for a file that is none is one of them
        reason = str(error).splitlines()[0]
        raise ValueError(f"source = {str(table)!r}: cannot be read as a Parquet table ({reason})") from None


def _captions(values: Any) -> tuple[str, ...]:  # noqa: ANN401 -- whatever a table has in a cell
    """The sentences in a cell: text, a list of texts, or nothing."""
    if isinstance(values, str):
        return (text,) if (text := " ".join(values.split())) else ()
    if not isinstance(values, list | tuple):
        return ()
    return tuple(text for value in values for text in _captions(value))


def _sorted(items: list[Item], skipped: list[Skipped]) -> tuple[list[Item], list[Skipped]]:
    return sorted(items, key=lambda item: item.name), sorted(skipped, key=lambda missed: missed.name)
