"""Files of which some are broken, a command that is killed and goes on, and what counts as a fault."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks import many_captions
from benchmarks.many_captions import (
    A_FOLDER,
    BROKEN,
    CAPTIONS,
    Check,
    File,
    Moment,
    Result,
    Seen,
    Setting,
    caption,
    check,
    make_files,
    page,
    watch,
)
from everreel.caption.runs import caption_file, listed_films
from everreel.caption.tiny import caption_of

TRUTH = {scene: {name: f"{name} of {scene}" for name in CAPTIONS} for scene in (0, 1)}


class Nothing:
    def caption(self, frames, fps):
        assert frames[len(frames) - 1].shape[2] == 3
        return caption_of({})


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(many_captions, "LENGTHS", (1, 3))
    monkeypatch.setattr(many_captions, "SIZES", ((32, 48),))


def test_the_files_are_links_to_a_few_films_and_each_kind_of_what_is_broken(tmp_path, small):
    files = make_files(tmp_path, Setting(files=28, scenes=2, every=4, part=14))
    broken = [file for file in files if file.kind]
    assert [file.number for file in broken] == [3, 7, 11, 15, 19, 23, 27] and [f.kind for f in broken] == list(BROKEN)
    assert Counter(file.scene for file in files) == {-1: 7, 0: 11, 1: 10}
    assert {file.name.partition("/")[0] for file in files} == {"part-000", "part-001"}
    listed, _ = listed_films([tmp_path / "films"])
    assert [f"{tmp_path}/films/{file.name}" for file in files if file.kind != A_FOLDER] == [e.name for e in listed]
    for file in files:
        path = tmp_path / "films" / file.name
        if file.kind:
            with pytest.raises(ValueError) as caught:
                caption_file(Nothing(), path)
            said = str(caught.value).removeprefix(f"video = {path}: ")
            assert said.startswith(BROKEN[file.kind]), file
        else:
            assert path.samefile(next((tmp_path / "scenes").glob(f"{file.scene}.*")))
            caption_file(Nothing(), path)


def test_a_few_files_that_do_not_hold_each_film_are_refused():
    with pytest.raises(ValueError, match="scenes = 24: the first 20 files must hold each; fewer scenes work"):
        Setting(files=20)


def test_a_command_that_is_killed_goes_on(tmp_path, small):
    files = make_files(tmp_path, Setting(files=8, scenes=2, every=4, part=8))
    killed = caption(tmp_path, "films", "captions.jsonl", Moment(1, 0.0))
    assert killed.killed and not killed.said
    there = many_captions.whole_lines(tmp_path / "captions.jsonl")
    seen = caption(tmp_path, "films", "captions.jsonl")
    assert not seen.killed and seen.said.startswith("6 captions in captions.jsonl")
    assert seen.lines == 6 - there.count(b"\n") and seen.samples[-1][2] > 100e6
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    truth = {scene: next(row for row in rows if f"{scene:06d}" in row["path"]) for scene in (0, 1)}
    ended = check(tmp_path / "captions.jsonl", files, truth, lambda file: f"films/{file.name}")
    assert (ended.captions, ended.skipped, ended.wrong) == (6, 2, [])
    with pytest.raises(ValueError, match=r"none ended with 2: .*no such file or folder"):
        caption(tmp_path, "none", "other.jsonl")


def test_a_process_that_writes_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(many_captions, "STUCK", 0.2)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(ValueError, match=r"a.jsonl has not grown for"):
            watch(process, tmp_path / "a.jsonl", None)
        process.kill()


def written(folder, rows, listed):
    output = folder / "out.jsonl"
    lines = (json.dumps({"path": name, **TRUTH[scene], **more}) for name, scene, more in rows)
    output.write_text("".join(f"{line}\n" for line in lines))
    (folder / "out.jsonl.skipped.txt").write_text("".join(f"{line}\n" for line in listed))
    return output


def test_every_fault_is_found(tmp_path):
    kinds = list(BROKEN)
    good = [File(number, f"{number}.mp4", number % 2) for number in range(5)]
    broken = [File(number, f"{number}.mp4", kind=kinds[number - 5]) for number in range(5, 9)]
    rows = [("0.mp4", 0, {}), ("1.mp4", 1, {}), ("1.mp4", 1, {}), ("2.mp4", 1, {}), ("4.mp4", 0, {}), ("x.mp4", 0, {})]
    reasons = {number: BROKEN[kinds[number - 5]][0] for number in range(5, 9)}
    listed = [f"5.mp4: {reasons[5]}; more", f"6.mp4: {reasons[6]}", f"6.mp4: {reasons[6]}", f"7.mp4: {reasons[5]}"]
    output = written(tmp_path, rows, [*listed, "4.mp4: is empty", "y.mp4: is empty"])
    found = check(output, [*good, *broken], TRUTH, lambda file: file.name)
    assert (found.captions, found.skipped) == (6, 6)
    assert (found.missing, found.doubled, found.other) == (["3.mp4"], ["1.mp4"], ["2.mp4", "x.mp4"])
    assert found.unlisted == ["4.mp4", "6.mp4", "7.mp4", "8.mp4", "y.mp4"]


def test_what_a_list_has_beside_a_film_must_come_back(tmp_path):
    files = [File(0, "0.mp4", 0), File(1, "1.mp4", 1)]
    rows = [("0.mp4", 0, {"id": "0", "note": files[0].note}), ("1.mp4", 1, {"id": 1, "note": "another"})]
    found = check(written(tmp_path, rows, []), files, TRUTH, lambda file: file.name, noted=True)
    assert found.wrong == ["1.mp4"]


def test_the_page_says_what_is_missed():
    samples = [(0.0, 40, 10), (4.0, 40, 100), (5.0, 41, 200), (6.0, 60, 400), (25.0, 141, 419), (26.0, 141, 419)]
    whole = Check(captions=95, skipped=3)
    found = Result(95, Counter({A_FOLDER: 2, "a text": 3}), 8, 0, whole, True, Seen(samples=samples), Seen())
    found.tables = [("one into another", Check(captions=9), 2, Seen(seconds=3.0))]
    setting = Setting(files=100, scenes=20, part=50)
    written = page(found, setting, "a command")
    assert found.fine and "**missed**" not in written and "    a command\n" in written
    assert "| seconds a film |  | 0.200 |  |" in written and "| seconds until the first |  | 5.0 |  |" in written
    assert "| memory, after 141 captions | at most 5% more | 0 MB, 4.8% more | met |" in written
    assert "| one into another | 2 | 9 | 0 | 0 | 3.0 s | met |" in written
    found.last.samples[-1] = (26.0, 141, 421)
    found.lost, found.as_undisturbed = 1, False
    whole.doubled, whole.unlisted, whole.skipped = ["a.mp4"], ["b.mp4"], 4
    found.tables[0][1].other = ["c.mp4"]
    assert not found.fine and page(found, setting, "").count("**missed**") == 7
