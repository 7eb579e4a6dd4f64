"""JSON Lines that grow: what is there in full counts, and what was torn is written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from everreel import lines
from everreel.lines import append_line, read_lines


def test_a_torn_line_is_not_read_and_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for row in ({"a": 1}, {"b": "ö\u2028"}):
        append_line(path, row)
    path.write_bytes(path.read_bytes() + b'{"c": "tor')
    assert list(read_lines(path, "rows")) == [{"a": 1}, {"b": "ö\u2028"}]
    append_line(path, {"c": 3})
    assert [list(row) for row in read_lines(path, "rows")] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(("line", "rule"), [("nonsense", "is no JSON"), ("[1]", "is no JSON object; delete it")])
def test_what_is_no_row_is_refused_by_name(tmp_path: Path, line: str, rule: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"rows = .*rows\.jsonl.*: line 2 {rule}"):
        list(read_lines(path, "rows"))


def test_half_a_line_is_found_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_TAIL", 7)
    path = tmp_path / "rows.jsonl"
    whole = b'{"source": "a"}\n{"source": "b"}\n'
    for torn in (b"", b'{"sou', b'{"source": "a film of a long name'):
        path.write_bytes(whole + torn)
        with path.open("rb") as file:
            assert lines._end_of_lines(file) == len(whole)
    path.write_bytes(b"no line at all")
    with path.open("rb") as file:
        assert lines._end_of_lines(file) == 0
