"""Tables that grow a row at a time, and go on where they were cut off."""

import json

import pytest

from everreel.caption.tables import CaptionTable
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
    assert again.rows == {"film 0.mp4": row(0)}
    again.append(row(1, note="Zürich\u2028東京"))
    again.finish()
    assert [found for _, found in read_rows(path)] == [row(0), row(1, note="Zürich\u2028東京")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_row_is_on_the_disk_before_the_table_is_finished(tmp_path, ending):
    needs_pyarrow(ending)
    path = tmp_path / f"captions{ending}"
    table(path).append(row(0))
    assert table(path).rows == {"film 0.mp4": row(0)}


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
        assert list(resumed.rows) == ["film 0.mp4", "film 1.mp4"], written[one:cut]
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


def test_a_parquet_table_takes_columns_of_mixed_kinds(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "captions.parquet"
    mixed = table(path)
    mixed.append(row(0, note=1))
    mixed.append(row(1, note="one"))
    mixed.append(row(2, note=None))
    mixed.finish()
    assert [found["note"] for _, found in read_rows(path)] == ["1", "one", None]
