"""Captions on the disk: a table that grows by a row a film, as JSON Lines, CSV or Parquet.

JSON Lines and CSV are written as they go. A Parquet file cannot grow, so its rows go into `NAME.parquet.part.jsonl`
beside it, which `finish` makes the table of. The one invariant: a row is on the disk when `append` returns, and a run
that is killed at any moment loses no row but the one that it was writing; what a file held before stays.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from everreel.data.sources import Row, read_rows
from everreel.media import check_file

ENDINGS = (".jsonl", ".csv", ".parquet")
KEY = "path"


class CaptionTable:
    """The table at a path, with these columns, of which the first is `KEY`: it tells rows apart.

    Raises:
        ValueError: the path cannot be a table, or is one with other columns; it is left as it is.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        assert columns[0] == KEY, columns
        self.path, self.columns = Path(path), tuple(columns)
        ending = self.path.suffix.lower()
        if ending not in ENDINGS:
            raise ValueError(f"output = {str(path)!r}: must end in {', '.join(ENDINGS)}; try {self.path.stem}.jsonl")
        check_file("output", self.path, "captions.jsonl")
        self._is_parquet, self._is_csv = ending == ".parquet", ending == ".csv"
        if self._is_parquet:
            _pyarrow(self.path)
        self._log = self.path.with_name(self.path.name + ".part.jsonl") if self._is_parquet else self.path
        self.rows: dict[str, Row] = {}
        for file in dict.fromkeys((self.path, self._log)):
            self._read(file)

    def append(self, row: Mapping[str, Any]) -> None:
        """Put a row on the disk."""
        self._log_row({name: row.get(name) for name in self.columns})

    def finish(self) -> None:
        """Make the table of its rows, where it is not one already."""
        if not self._is_parquet or not self._log.is_file():
            return
        half_done = self.path.with_name(self.path.name + ".part")
        arrow, parquet = _pyarrow(self.path)
        rows = list(self.rows.values())
        try:
            table = arrow.Table.from_pylist(rows)
        except (ValueError, TypeError):  # a column that came with the films has values of several kinds
            rows = [{name: v if v is None or isinstance(v, str) else str(v) for name, v in r.items()} for r in rows]
            table = arrow.Table.from_pylist(rows)
        parquet.write_table(table, half_done)
        half_done.replace(self.path)
        self._log.unlink()

    def _log_row(self, row: Row) -> None:
        text = io.StringIO(newline="")
        if self._is_csv:
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            if not self._log.is_file() or not self._log.stat().st_size:
                writer.writeheader()
            writer.writerow(row)
        else:
            text.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        # One write, so that a row is there or is not; without a buffer, so that it is there now.
        with self._log.open("ab", buffering=0) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        self.rows[str(row[KEY])] = row

    def _read(self, file: Path) -> None:
        """Take the rows that are there; half a row at the end is cut off, once the file is known to be one of these."""
        if not file.is_file() or not (size := file.stat().st_size):
            return
        if file.suffix.lower() == ".parquet":
            found = [row for _, row in read_rows(file)]
        else:
            data = file.read_bytes()
            whole = _whole(data, self._is_csv)
            self._check_rest(file, data[whole:], is_first=not whole)
            found = self._parsed(file, data[:whole].decode("utf-8", "surrogateescape"))
        for row in found:
            if not isinstance(row, dict) or tuple(row) != self.columns:
                there = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
                raise ValueError(
                    f"output = {str(file)!r}: has the columns {there}, and this run writes {', '.join(self.columns)}; "
                    "give another file"
                )
            self.rows[str(row[KEY])] = row
        if file.suffix.lower() != ".parquet" and whole < size:
            with file.open("r+b") as opened:
                opened.truncate(whole)

    def _parsed(self, file: Path, text: str) -> list[Any]:
        try:
            if self._is_csv:
                return list(csv.DictReader(io.StringIO(text, newline="")))
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, csv.Error) as error:
            raise ValueError(f"output = {str(file)!r}: is no table of captions ({error}); give another file") from None

    def _check_rest(self, file: Path, rest: bytes, is_first: bool) -> None:
        """Half a row is one that this table would have begun in the same way."""
        begin = f"{','.join(self.columns)}\n".encode() if self._is_csv else f'{{"{KEY}": '.encode()
        if (self._is_csv and not is_first) or rest.startswith(begin) or begin.startswith(rest):
            return
        raise ValueError(f"output = {str(file)!r}: ends in what is no row of captions; give another file")


def _whole(data: bytes, is_csv: bool) -> int:
    """How many bytes are whole rows: up to the last end of a line that is not within quotation marks."""
    if not is_csv:
        return data.rfind(b"\n") + 1
    end = position = quotes = 0
    for line in data.splitlines(keepends=True):
        position += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\n"):
            end = position
    return end


def _pyarrow(path: Path) -> tuple[Any, Any]:
    with suppress(ImportError):
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    rule = "a Parquet table needs pyarrow: pip install pyarrow, or write .csv or .jsonl"
    raise ValueError(f"output = {str(path)!r}: {rule}")
