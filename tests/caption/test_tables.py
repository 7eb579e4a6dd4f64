"""Tables that grow a row at a time, and go on where they were cut off."""

import json
import os
import tracemalloc

import pytest

from everreel.caption import tables
from everreel.caption.tables import CaptionTable
from everreel.data import sources
from everreel.data.sources import read_rows

COLUMNS = ("path", "structural_caption", "note")
FORMATS = [".jsonl", ".csv", ".parquet"]


def row(number, note='a, "b"\nc'):
    return {"path": f"film {number}.mp4", "structural_caption": json.dumps({"n": number}), "note": note}


def table(path, columns=COLUMNS):
    return CaptionTable(path, columns)


def needs_pyarrow(ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("ending", FORMATS)
def test_rows_come_back_as_they_were_written_and_more_are_added(tmp_path, ending):
    needs_pyarrow(ending)
    path = tmp_path / f"captions{ending}"
    first = table(path)
    first.append(row(0))
    first.finish()
    again = table(path)
    assert again.names == {"film 0.mp4"} and list(again.rows()) == [row(0)]
    again.append(row(1, note="Zürich\u2028東京"))
    again.finish()
    assert [found for _, found in read_rows(path)] == [row(0), row(1, note="Zürich\u2028東京")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_row_is_on_the_disk_before_the_table_is_finished(tmp_path, ending):
    needs_pyarrow(ending)
    path = tmp_path / f"captions{ending}"
    table(path).append(row(0))
    assert list(table(path).rows()) == [row(0)]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_killed_anywhere_it_loses_the_row_it_was_at_and_no_other(tmp_path, ending):
    path = tmp_path / f"captions{ending}"
    begun = table(path)
    for number in range(2):
        begun.append(row(number))
    one, both = len(path.read_bytes()), path.read_bytes()
    begun.append(row(2))
    written = path.read_bytes()
    for cut in range(one, len(written)):
        path.write_bytes(written[:cut])
        resumed = table(path)
        assert list(resumed.rows()) == [row(0), row(1)] and len(resumed.names) == 2, written[one:cut]
        assert path.read_bytes() == both
        resumed.append(row(2))
        assert path.read_bytes() == written


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_killed_in_its_first_row_it_begins_again(tmp_path, ending):
    path = tmp_path / f"captions{ending}"
    table(path).append(row(0))
    written = path.read_bytes()
    for cut in (1, 5, 9, len(written) - 1):
        path.write_bytes(written[:cut])
        again = table(path)
        again.append(row(0))
        assert path.read_bytes() == written


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.jsonl", '{"path": "a", "text": "b"}\n', "has the columns path, text, and this run writes path"),
        ("a.jsonl", "[1]\n", "has the columns none"),
        ("a.jsonl", "poem\n", "is no table of captions"),
        ("a.jsonl", "a poem of one line", "ends in what is no row of captions"),
        ("a.csv", "a poem of one line", "ends in what is no row of captions"),
        ("a.csv", "path,text\na,b\n", "has the columns path, text"),
        ("a.csv", "path,structural_caption,note\na,b,c,d\n", "has the columns path"),
        ("a.txt", None, "must end in .jsonl, .csv, .parquet; try a.jsonl"),
        ("none/a.csv", None, "does not exist"),
    ],
)
def test_what_is_anothers_is_refused_and_left_as_it_is(tmp_path, name, content, rule):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rule):
        table(path)
    assert content is None or path.read_text() == content


@pytest.mark.parametrize("at_once", [1, 2, 4096])
@pytest.mark.parametrize(
    ("notes", "held"),
    [
        ([1, "one", None], ["1", "one", None]),
        ([None, 2, 2.5], [None, 2.0, 2.5]),
        ([2**60 + 1, None, 0.5], [str(2**60 + 1), None, "0.5"]),  # no number of the table's holds both
        ([[1], [], None], [[1], [], None]),
    ],
)
def test_a_parquet_table_takes_columns_of_mixed_kinds(tmp_path, monkeypatch, notes, held, at_once):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(tables, "_AT_ONCE", at_once)
    path = tmp_path / "captions.parquet"
    mixed = table(path)
    for number, note in enumerate(notes):
        mixed.append(row(number, note=note))
    mixed.finish()
    assert [found["note"] for _, found in read_rows(path)] == held


def test_killed_when_it_is_made_and_its_rows_are_not_yet_gone_a_parquet_table_has_each_once(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "captions.parquet"
    begun = table(path)
    begun.append(row(0))
    rows_of = begun.log.read_bytes()
    begun.finish()
    begun.log.write_bytes(rows_of)
    again = table(path)
    again.append(row(1))
    again.finish()
    assert [found for _, found in read_rows(path)] == [row(0), row(1)]


@pytest.mark.parametrize("ending", FORMATS)
def test_memory_holds_no_rows(tmp_path, monkeypatch, ending):
    """Two thousand of 5 kB: whoever held them, or read the file in one piece, would need ten megabytes."""
    needs_pyarrow(ending)
    for module in (tables, sources):
        monkeypatch.setattr(module, "_AT_ONCE", 50)
    path = tmp_path / f"captions{ending}"
    table(path).append(row(0))  # whatever is imported and compiled once is not counted
    table(path).finish()
    tracemalloc.start()
    try:
        begun = table(path)
        for number in range(2000):
            begun.append(row(number, note=f"{number:05000}"))
        assert len(table(path).names) == 2000
        begun.finish()
        assert sum(1 for _ in table(path).rows()) == 2000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", FORMATS)
def test_a_cell_may_have_any_end_of_a_line_in_it(tmp_path, ending):
    needs_pyarrow(ending)
    path = tmp_path / f"captions{ending}"
    begun = table(path)
    odd = [row(number, note) for number, note in enumerate(["a\rb", "a\r\nb", "\n", "\r", 'a"\rb'])]
    for each in odd:
        begun.append(each)
    assert list(table(path).rows()) == odd
    begun.finish()
    assert [found for _, found in read_rows(path)] == odd


def test_a_name_that_is_no_utf_8_is_escaped_in_json_lines(tmp_path):
    odd = {"path": os.fsdecode(b"caf\xe9.mp4"), "structural_caption": "{}", "note": "東京"}
    path = tmp_path / "captions.jsonl"
    begun = table(path)
    begun.check(odd)
    begun.append(odd)
    begun.append(row(1))
    assert table(path).names == {odd["path"], "film 1.mp4"}
    assert [found for _, found in read_rows(path)] == [odd, row(1)]
    path.write_bytes(json.dumps(odd, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")  # as it once was
    assert list(table(path).rows()) == [odd]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_name_that_is_no_utf_8_is_refused_where_it_cannot_be_escaped(tmp_path, ending):
    needs_pyarrow(ending)
    captions = table(tmp_path / f"captions{ending}")
    captions.check(row(1, note="Zürich 東京"))
    with pytest.raises(ValueError, match=rf"its path is not UTF-8, as a table in {ending} must be; rename it, or"):
        captions.check({"path": os.fsdecode(b"caf\xe9.mp4"), "structural_caption": "{}", "note": ""})
