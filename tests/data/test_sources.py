"""Films with captions, as people keep them: folders, tables, single files, and what is wrong with some of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from everreel.data.sources import read_source


def put(folder: Path, **captions: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in captions.items():
        (folder / f"{name}.mp4").write_bytes(b"film")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8-sig")
    return folder


def found(source: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    items, skipped = read_source(source)
    assert [item.name for item in items] == sorted(item.name for item in items)
    assert all(item.path.is_file() for item in items)
    return {item.name: item.captions for item in items}, {missed.name: missed.reason for missed in skipped}


def test_captions_beside_their_files(tmp_path: Path) -> None:
    put(tmp_path, fox="a red  fox\n\na fox runs\n", mute=None, blank=" \n")
    put(tmp_path / "deep", swan="a swan")
    put(tmp_path / ".hidden", cat="a cat")
    (tmp_path / "odd.png").write_bytes(b"picture")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "notes.md").write_text("no film")
    items, skipped = found(tmp_path)
    assert items == {"deep/swan.mp4": ("a swan",), "fox.mp4": ("a red fox", "a fox runs")}
    assert skipped == {
        "mute.mp4": "has no caption; write one into mute.txt beside it",
        "blank.mp4": "its caption blank.txt is empty",
        "odd.png": "its caption odd.txt is no text in UTF-8",
    }


def test_masks_belong_to_their_films(tmp_path: Path) -> None:
    put(tmp_path, fox="a fox", swan=None, cat="a cat", dog=None)
    for name in ("fox-masklabel.png", "swan-masklabel.webm", "drawn.png"):
        (tmp_path / name).write_bytes(b"mask")
    rows = [{"file_name": "swan.mp4", "text": "a swan"}, {"file_name": "cat.mp4", "text": "a cat", "mask": "drawn.png"}]
    rows += [{"file_name": "dog.mp4", "text": "a dog", "mask": "gone.png"}, {"file_name": "cat.mp4", "text": "a tom"}]
    items, skipped = read_source(tmp_path)
    assert [(item.name, item.mask) for item in items] == [
        ("cat.mp4", None),
        ("fox.mp4", tmp_path / "fox-masklabel.png"),
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items, skipped = read_source(tmp_path / "table.jsonl")
    assert {item.name: item.mask for item in items} == {
        "cat.mp4": tmp_path / "drawn.png",
        "swan.mp4": tmp_path / "swan-masklabel.webm",
    }
    assert [str(missed) for missed in skipped] == ["dog.mp4: its mask gone.png does not exist"]
    (tmp_path / "table.jsonl").replace(tmp_path / "metadata.jsonl")
    items, skipped = read_source(tmp_path)
    assert [item.name for item in items] == ["cat.mp4", "fox.mp4", "swan.mp4"]
    assert [missed.name for missed in skipped] == ["dog.mp4"]


def test_a_folder_with_a_table_and_captions_beside_other_files(tmp_path: Path) -> None:
    put(tmp_path, fox=None, swan="a swan", cat=None)
    rows = [{"file_name": "fox.mp4", "text": ["a fox", "a fox again"]}, {"file_name": "gone.mp4", "text": "gone"}]
    rows += [{"file_name": "fox.mp4", "text": "a third"}, {"file_name": "cat.mp4", "text": None}, {"text": "lost"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{torn\n[1]\n")
    items, skipped = found(tmp_path)
    assert items == {"fox.mp4": ("a fox", "a fox again", "a third"), "swan.mp4": ("a swan",)}
    assert skipped.pop("metadata.jsonl line 6").startswith("is no JSON")
    assert skipped == {
        "gone.mp4": "does not exist",
        "cat.mp4": "has no caption in metadata.jsonl",
        "metadata.jsonl line 5": "file_name is empty",
        "metadata.jsonl line 7": "is no JSON object",
    }


@pytest.mark.parametrize(("ending", "comma"), [("csv", ","), ("tsv", "\t")])
def test_tables_of_text_with_paths_from_their_own_folder(tmp_path: Path, ending: str, comma: str) -> None:
    put(tmp_path / "films", fox=None, swan=None)
    lines = [("path", "caption", "prompt", "other"), ("films/fox.mp4", '"a, fox"', "it runs", "3")]
    lines += [(str(tmp_path / "films/swan.mp4"), "a swan", "", "4"), ("films", "x", "", "")]
    table = tmp_path / f"list.{ending}"
    table.write_text("\n".join(comma.join(line) for line in lines), encoding="utf-8-sig")
    items, skipped = found(table)
    swan = str(tmp_path / "films/swan.mp4")
    assert items == {"films/fox.mp4": ("a, fox", "it runs"), swan: ("a swan",)}
    assert skipped == {"films": "is a folder"}


def test_a_parquet_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, fox=None)
    table = tmp_path / "list.parquet"
    table.write_bytes(b"no table")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        without.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(ValueError, match="needs pyarrow: pip install pyarrow"):
            read_source(table)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with pytest.raises(ValueError, match="cannot be read as a Parquet table"):
        read_source(table)
    parquet.write_table(pyarrow.table({"video": ["fox.mp4"], "captions": [["a fox", "it runs"]]}), table)
    assert found(table) == ({"fox.mp4": ("a fox", "it runs")}, {})


def test_one_film_alone(tmp_path: Path) -> None:
    put(tmp_path, fox="a fox", swan="a swan")
    assert found(tmp_path / "fox.mp4") == ({"fox.mp4": ("a fox",)}, {})


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("none", None, "no such file or folder"),
        ("a.docx", b"x", r"must be a folder, a film, a picture or a table \(.csv, .jsonl"),
        ("a.csv", b"name,words\nx,y\n", "has the columns name, words; must have one of file_name"),
        ("b.csv", b"path,words\nx,y\n", "must have one of text, caption"),
        ("c.csv", b"path,text\n\xff\xfe,y\n", "cannot be read as a table"),
        ("d.jsonl", b"", "has the columns none"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes | None, rule: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rule) as error:
        read_source(tmp_path / name)
    assert "\n" not in str(error.value) and "source = " in str(error.value)


def test_parts_of_films_are_items_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, fox=None)
    rows = [
        {"path": "fox.mp4", "text": "all of it"},
        {"path": "fox.mp4", "text": ["one", "two"], "start": 1.5, "stop": 3, "crop": [2, 0, 40, 30]},
        {
            "path": "fox.mp4",
            "text": "one",
            "start": "1.5",
            "stop": "3",
            "crop": "[2, 0, 40, 30]",
            "source_type": "Film",
        },
        {"path": "fox.mp4", "text": "bad", "start": 3, "stop": 2},
        {"path": "fox.mp4", "text": "bad", "start": -1},
        {"path": "fox.mp4", "text": "bad", "crop": [0, 0, 0, 3]},
        {"path": "fox.mp4", "text": "bad", "crop": "left"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items, skipped = read_source(tmp_path / "t.jsonl")
    whole, part = items
    assert (whole.name, whole.is_part, whole.source_type) == ("fox.mp4", False, "film")
    assert (part.name, part.captions) == ("fox.mp4#1.500-3.000@2,0,40,30", ("one", "two"))
    assert (part.start, part.stop, part.crop) == (1.5, 3.0, (2, 0, 40, 30))
    assert [missed.name for missed in skipped] == [f"t.jsonl line {number}" for number in (4, 5, 6, 7)]


@pytest.mark.parametrize("levels", [100, 900, 100_000])
def test_brackets_within_brackets_leave_out_their_row_alone(tmp_path: Path, levels: int) -> None:
    put(tmp_path, fox=None)
    deep = "[" * levels + "]" * levels
    rows = [f'{{"path": "fox.mp4", "text": {deep}}}', json.dumps({"path": "fox.mp4", "text": "no", "crop": deep})]
    rows += [json.dumps({"path": "fox.mp4", "text": "a fox"})]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    items, skipped = read_source(tmp_path / "t.jsonl")
    assert [item.captions for item in items] == [("a fox",)]
    assert skipped[0].reason == "is nested too deeply" and "must be [left, top" in skipped[1].reason


def test_films_without_captions_where_none_are_needed(tmp_path: Path) -> None:
    put(tmp_path, fox=None, swan="a swan", blank=" ")
    items, skipped = read_source(tmp_path, captioned=False)
    assert {item.name: item.captions for item in items} == {"blank.mp4": (), "fox.mp4": (), "swan.mp4": ("a swan",)}
    assert not skipped
    (tmp_path / "t.csv").write_text("path\nfox.mp4\n")
    assert [item.name for item in read_source(tmp_path / "t.csv", captioned=False)[0]] == ["fox.mp4"]
    with pytest.raises(ValueError, match="must have one of text"):
        read_source(tmp_path / "t.csv")
