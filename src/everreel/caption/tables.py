"""Captions on the disk: a table that grows by a row a film, as JSON Lines, CSV or Parquet.

JSON Lines and CSV are written as they go. A Parquet file cannot grow, so its rows go into `NAME.parquet.part.jsonl`
beside it, which `finish` makes the table of. The one invariant: a row is on the disk when `append` returns, and a run
that is killed at any moment loses no row but the one that it was writing; what a file held before stays. Of the rows
only the names are held in memory, whatever their number.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from everreel.data.sources import Row, read_rows
from everreel.media import check_file

ENDINGS = (".jsonl", ".csv", ".parquet")
KEY = "path"
_AT_ONCE = 4096  # rows of a Parquet table that are in memory while it is made


class CaptionTable:
    """The table at a path, with these columns, of which the first is `KEY`: it tells rows apart.

    Args:
        on_row: is shown each row that is there already, and may refuse it with a `ValueError`.

    Raises:
        ValueError: the path cannot be a table, or is one with other columns; it is left as it is.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], on_row: Callable[[Row], None] | None = None) -> None:
        assert columns[0] == KEY, columns
        self.path, self.columns = Path(path), tuple(columns)
        ending = self.path.suffix.lower()
        if ending not in ENDINGS:
            raise ValueError(f"output = {str(path)!r}: must end in {', '.join(ENDINGS)}; try {self.path.stem}.jsonl")
        check_file("output", self.path, "captions.jsonl")
        self._is_parquet, self._is_csv = ending == ".parquet", ending == ".csv"
        if self._is_parquet:
            _pyarrow(self.path)
        self.log = self.path.with_name(self.path.name + ".part.jsonl") if self._is_parquet else self.path
        """The file that grows: the table itself, or what a Parquet table will be made of."""
        self.names: set[str] = set()
        """What is in the table."""
        for file in self._files():
            self._take(file, on_row)

    def rows(self) -> Iterator[Row]:
        """The rows that are on the disk, each read when it is asked for."""
        given: set[str] = set()
        for file in self._files():
            for row in self._rows_of(file):
                name = str(row[KEY])
                if name not in given:  # one killed while it finished has some in both files
                    given.add(name)
                    yield row

    def check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row that this table cannot hold.

        Raises:
            ValueError: a text in it is not UTF-8, as the name of a file may be; in JSON Lines that is escaped.
        """
        if not (self._is_csv or self._is_parquet):
            return
        for name, value in row.items():
            try:
                str(value).encode()
            except UnicodeEncodeError:
                rule = f"is not UTF-8, as a table in {self.path.suffix} must be; rename it, or write .jsonl"
                raise ValueError(f"its {name} {rule}") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Put a row on the disk."""
        line = self._line({name: row.get(name) for name in self.columns})
        # One write, so that a row is there or is not; without a buffer, so that it is there now.
        with self.log.open("ab", buffering=0) as file:
            file.write(line)
        self.names.add(str(row[KEY]))

    def finish(self) -> None:
        """Make the table of its rows, where it is not one already."""
        if not self._is_parquet or not self.log.is_file():
            return
        half_done = self.path.with_name(self.path.name + ".part")
        try:
            self._write_parquet(half_done, lambda row: row)
        except (ValueError, TypeError):  # a column that came with the films has values of several kinds
            self._write_parquet(half_done, _in_words)
        half_done.replace(self.path)
        self.log.unlink()

    def _write_parquet(self, file: Path, form: Callable[[Row], Row]) -> None:
        """Twice through the rows: what kinds the columns are of, and then the table."""
        arrow, parquet = _pyarrow(self.path)
        schema = arrow.schema([])
        for some in _batches(map(form, self.rows())):
            found = arrow.Table.from_pylist(some).schema
            schema = arrow.unify_schemas([schema, found], promote_options="permissive")
        with parquet.ParquetWriter(file, schema) as writer:
            for some in _batches(map(form, self.rows())):
                writer.write_table(arrow.Table.from_pylist(some, schema))

    def _line(self, row: Row) -> bytes:
        """A row as the file that grows has it."""
        if not self._is_csv:
            try:
                return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()
            except UnicodeEncodeError:
                return (json.dumps(row, default=str) + "\n").encode()
        # A carriage return ends a row for who reads it, and is none of those for which a cell is quoted.
        is_odd = any("\r" in value for value in row.values() if isinstance(value, str))
        text = io.StringIO(newline="")
        if not self.log.is_file() or not self.log.stat().st_size:
            csv.writer(text, lineterminator="\n").writerow(self.columns)
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if is_odd else csv.QUOTE_MINIMAL)
        writer.writerow(row.values())
        return text.getvalue().encode()

    def _files(self) -> tuple[Path, ...]:
        """What holds rows, as far as it is there."""
        return tuple(file for file in dict.fromkeys((self.path, self.log)) if file.is_file() and file.stat().st_size)

    def _take(self, file: Path, on_row: Callable[[Row], None] | None) -> None:
        """Note the rows that are there; half a row at the end is cut off, once the file is known to be one of these."""
        is_text = file.suffix.lower() != ".parquet"
        whole = _whole(file, self._is_csv) if is_text else 0
        if is_text:
            self._check_rest(file, whole)
        for row in self._rows_of(file):
            if on_row is not None:
                on_row(row)
            self.names.add(str(row[KEY]))
        if is_text and whole < file.stat().st_size:
            with file.open("r+b") as opened:
                opened.truncate(whole)

    def _rows_of(self, file: Path) -> Iterator[Row]:
        found: Iterator[Any] = (row for _, row in read_rows(file))
        if file.suffix.lower() != ".parquet":
            found = self._parsed(file)
        for row in found:
            if not isinstance(row, dict) or tuple(row) != self.columns:
                there = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
                raise ValueError(
                    f"output = {str(file)!r}: has the columns {there}, and this run writes {', '.join(self.columns)}; "
                    "give another file"
                )
            yield row

    def _parsed(self, file: Path) -> Iterator[Any]:
        lines = _lines(file, _whole(file, self._is_csv))
        try:
            if self._is_csv:
                yield from csv.DictReader(lines)
            else:
                yield from (json.loads(line) for line in lines if line.strip())
        except (ValueError, csv.Error, RecursionError) as error:
            raise ValueError(f"output = {str(file)!r}: is no table of captions ({error}); give another file") from None

    def _check_rest(self, file: Path, whole: int) -> None:
        """Half a row is one that this table would have begun in the same way."""
        begin = f"{','.join(self.columns)}\n".encode() if self._is_csv else f'{{"{KEY}": '.encode()
        with file.open("rb") as opened:
            opened.seek(whole)
            rest = opened.read(len(begin))
        if (self._is_csv and whole) or rest.startswith(begin) or begin.startswith(rest):
            return
        raise ValueError(f"output = {str(file)!r}: ends in what is no row of captions; give another file")


def _whole(file: Path, is_csv: bool) -> int:
    """How many bytes are whole rows: up to the last end of a line that is not within quotation marks."""
    end = position = quotes = 0
    with file.open("rb") as opened:
        for line in opened:
            position += len(line)
            quotes += line.count(b'"') if is_csv else 0
            if quotes % 2 == 0 and line.endswith(b"\n"):
                end = position
    return end


def _lines(file: Path, end: int) -> Iterator[str]:
    """Its lines up to this byte. Tables that were written before names were escaped have them as they are."""
    with file.open("rb") as opened:
        while opened.tell() < end:
            yield opened.readline().decode("utf-8", "surrogateescape")


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while some := list(islice(rows, _AT_ONCE)):
        yield some


def _in_words(row: Row) -> Row:
    return {name: value if value is None or isinstance(value, str) else str(value) for name, value in row.items()}


def _pyarrow(path: Path) -> tuple[Any, Any]:
    with suppress(ImportError):
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    rule = "a Parquet table needs pyarrow: pip install pyarrow, or write .csv or .jsonl"
    raise ValueError(f"output = {str(path)!r}: {rule}")
