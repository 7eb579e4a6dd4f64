"""`everreel caption`: what it prints, what it leaves, where it goes on."""

import json
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from everreel.caption.tiny import TinyCaptioner
from everreel.captions import caption
from everreel.chat import UnreachableError
from everreel.data.sources import read_rows
from everreel.world.render import render
from everreel.world.scene import Scene
from tests.chat_server import said, serving
from tests.film.films import natural, write

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(caption)
FOX = Scene("fox", "red", "runs", "right", "meadow", "day", "clear", "full_shot", "eye_level", "side_view", "pan_right")


class Stops:
    called = False

    def __call__(self, *_):
        self.called = True
        raise KeyboardInterrupt


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])


def test_films_are_captioned_by_the_tiny_captioner(tmp_path):
    (tmp_path / "films").mkdir()
    write(tmp_path / "films/fox.mp4", render(FOX, 25))
    (tmp_path / "films/torn.mp4").write_bytes(b"torn")
    output = tmp_path / "captions.jsonl"
    result = run(tmp_path / "films", "-o", output)
    assert result.exit_code == 0, result
    assert result.stdout == f"1 captions in {output}, 1 of them new, 1 skipped\n"
    assert f"skipped {tmp_path / 'films/torn.mp4'}: cannot be read as a film" in result.stderr
    assert (tmp_path / "captions.jsonl.skipped.txt").read_text().startswith(str(tmp_path / "films/torn.mp4"))
    (row,) = (row for _, row in read_rows(output))
    assert json.loads(row["structural_caption"])["subjects"] and row["t2v_fusion_caption"].endswith(".")
    (tmp_path / "films/torn.mp4").unlink()
    again = run(tmp_path / "films", "-o", output)
    assert again.stdout == f"1 captions in {output}, 0 of them new, 0 skipped\n"
    assert not (tmp_path / "captions.jsonl.skipped.txt").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), UnreachableError("endpoint = here: no answer")])
def test_a_run_that_was_stopped_has_said_why_films_were_skipped(tmp_path, monkeypatch, stop):
    (tmp_path / "a.mp4").write_bytes(b"torn")
    (tmp_path / "b.mp4").write_bytes(b"")
    write(tmp_path / "c.mp4", natural(2, 32, 32))
    (tmp_path / "films.csv").write_text('path\na.mp4\nb.mp4\nc.mp4\n""\n')
    listing = tmp_path / "out.jsonl.skipped.txt"
    listing.write_text("b.mp4: was worse before\n")

    def stopped(self, frames, fps):
        raise stop

    monkeypatch.setattr(TinyCaptioner, "caption", stopped)
    assert run(tmp_path / "films.csv", "-o", tmp_path / "out.jsonl").exit_code != 0
    was, table, torn, empty = listing.read_text().splitlines()
    assert was == "b.mp4: was worse before" and table == "films.csv line 5: path is empty"
    assert torn.startswith("a.mp4: cannot be read as a film") and empty == "b.mp4: is empty: 0 bytes"
    run(tmp_path / "films.csv", "-o", tmp_path / "out.jsonl")
    assert len(listing.read_text().splitlines()) == 4  # said once
    monkeypatch.undo()
    assert run(tmp_path / "films.csv", "-o", tmp_path / "out.jsonl").exit_code == 0
    assert listing.read_text().splitlines() == [table, torn, empty]


def test_a_run_that_was_stopped_says_in_which_file_its_captions_are(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    write(tmp_path / "a.mp4", natural(2, 32, 32))
    write(tmp_path / "b.mp4", natural(2, 32, 32))
    ways = iter([TinyCaptioner.caption, stopping := Stops()])

    monkeypatch.setattr(TinyCaptioner, "caption", lambda *given: next(ways)(*given))
    result = run(tmp_path, "-o", tmp_path / "out.parquet")
    growing = tmp_path / "out.parquet.part.jsonl"
    assert stopping.called and f"1 of 2 captions are in {growing}; go on with the same command" in result.stderr
    assert len(growing.read_text().splitlines()) == 1


def test_killed_while_it_lists_what_was_skipped_the_list_of_before_stays(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"")
    listing = tmp_path / "out.csv.skipped.txt"
    listing.write_text("a.mp4: was worse before\n")

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    assert run(tmp_path, "-o", tmp_path / "out.csv").exit_code != 0
    was, now = listing.read_text().splitlines()
    assert was == "a.mp4: was worse before" and now == f"{tmp_path / 'a.mp4'}: is empty: 0 bytes"


def test_a_served_captioner_is_waited_for_as_long_as_is_said(tmp_path):
    write(tmp_path / "a.mp4", natural(2, 32, 32))
    over = threading.Event()

    def slow(_):
        over.wait(30)
        return said("too late")

    with serving(slow) as server:
        served = f"{server.address}#m"
        result = run(tmp_path / "a.mp4", "-o", tmp_path / "out.jsonl", "--captioner", served, "--timeout", 0.2)
        over.set()
    assert "no answer within 0.2 s; try timeout = 0.4" in result.stderr


def test_one_task_and_fields(tmp_path):
    write(tmp_path / "a.mp4", natural(2, 32, 32))
    assert run(tmp_path / "a.mp4", "-o", tmp_path / "out.csv", "--task", "i2v", "--fields").exit_code == 0
    ((_, row),) = read_rows(tmp_path / "out.csv")
    assert "t2v_fusion_caption" not in row and {"i2v_fusion_caption", "lighting", "sub_type"} <= row.keys()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--task", "t2i"), "task = 't2i': must be one of t2v, i2v, both"),
        (("--captioner", "gone"), "captioner = 'gone': is no captioner"),
        (("--timeout", "9"), "timeout = 9: goes with a captioner or fusion at an address; leave it out"),
        (("--fusion", "gone"), "fusion = 'gone': is no fusion"),
        (("-o", "out.txt"), "must end in .jsonl, .csv, .parquet"),
    ],
)
def test_bad_options_are_refused_by_name(tmp_path, options, rule):
    write(tmp_path / "a.mp4", natural(1, 32, 32))
    result = run(tmp_path / "a.mp4", "-o", tmp_path / "out.jsonl", *options)
    assert rule in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()
