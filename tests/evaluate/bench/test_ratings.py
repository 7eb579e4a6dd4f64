"""What raters answered: on disk at once, taken up after any stop, and nothing of another's."""

import errno
import json
import os
import threading

import pytest

from everreel.evaluate.bench import ratings as module
from everreel.evaluate.bench.ratings import NameTaken, RaterLog, Ratings, file_of, key_of
from everreel.evaluate.bench.study import load_study
from tests.evaluate.bench.studies import fake_study, nonce


@pytest.fixture
def opened(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 4, kinds=("scores", "pairs"))
    return folder, study, Ratings(folder, study).join("Anna")


def good(rater, task):
    return dict.fromkeys(
        rater.study.axes_of(rater.tasks[task].kind), 4 if rater.tasks[task].kind == "scores" else "tie"
    )


def answer(rater, place, **more):
    task = list(rater.tasks)[place]
    rater.answer(task, more.pop("nonce", None) or nonce(), more.pop("given", good(rater, task)), 2.5)
    return task


def test_an_answer_is_on_disk_when_it_is_given_and_is_read_back(opened):
    folder, study, rater = opened
    for place in (0, 1, len(rater.tasks) - 1):
        answer(rater, place)
    again = Ratings(folder, study).join("  anna ", rater.header.code)
    assert again.answers == rater.answers and again.num_done == 3 and again.name == "Anna"
    assert list(again.tasks) == list(rater.tasks)
    found = list(again.answers.values())[2]
    assert found.kind == "pairs" and len(found.films) == 2 and found.answer["overall"] == "tie" and found.seconds == 2.5


def test_what_is_answered_again_takes_the_place_of_the_first_and_undo_takes_it_back(opened):
    folder, study, rater = opened
    task = answer(rater, 0)
    answer(rater, 1)
    rater.answer(task, nonce(), dict.fromkeys(study.axes_of("scores"), 1))
    assert rater.num_done == 2 and list(rater.answers)[-1] == task
    rater.undo(task, nonce())
    rater.undo(task, nonce())  # of nothing
    again = Ratings(folder, study).raters["anna"]
    assert again.answers == rater.answers and again.num_done == 1 and again.taken_back == 1
    assert len(rater.path.read_text().splitlines()) == 1 + 3 + 1, "every word is kept"


def test_what_is_sent_twice_counts_once_even_after_it_was_taken_back(opened):
    folder, study, rater = opened
    task = answer(rater, 0, nonce="the-same-one")
    answer(rater, 0, nonce="the-same-one")
    rater.undo(task, "taken-back-1")
    answer(rater, 0, nonce="the-same-one")
    assert not rater.answers
    again = Ratings(folder, study).raters["anna"]
    answer(again, 0, nonce="the-same-one")
    again.undo(task, "taken-back-1")
    assert not again.answers and len(rater.path.read_text().splitlines()) == 3


def test_half_a_line_is_passed_over_and_goes_with_the_next_answer(opened):
    folder, study, rater = opened
    answer(rater, 0)
    whole = rater.path.read_bytes()
    answer(rater, 1)
    line = rater.path.read_bytes()[len(whole) :]
    for cut in (1, len(line) // 2, len(line) - 1):
        rater.path.write_bytes(whole + line[:cut])
        again = Ratings(folder, study).raters["anna"]
        assert again.num_done == 1 and not again.problems
        answer(again, 1)
        assert rater.path.read_bytes().count(b"\n") == 3
        assert Ratings(folder, study).raters["anna"].num_done == 2


def test_a_full_disk_refuses_the_answer_and_leaves_the_file_as_it_was(opened, monkeypatch):
    folder, study, rater = opened
    answer(rater, 0)
    before = rater.path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            answer(rater, 1, nonce="once-more-1")
    assert rater.path.read_bytes() == before and rater.num_done == 1
    answer(rater, 1, nonce="once-more-1")
    assert Ratings(folder, study).raters["anna"].num_done == 2


def test_a_rater_whom_the_disk_has_no_room_for_may_come_again(opened, monkeypatch):
    folder, study, _ = opened

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    there = Ratings(folder, study)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            there.join("Ben")
    assert [path.name for path in (folder / "ratings").iterdir()] == [file_of("Anna")]
    assert there.join("Ben").header.number == 1


def test_a_name_is_one_persons(opened):
    folder, study, rater = opened
    there = Ratings(folder, study)
    for name in ("Anna", " ANNA  ", "ａｎｎａ"):  # noqa: RUF001 -- wide letters, the same name
        with pytest.raises(NameTaken, match=r"has begun already\. If this is you, give your code"):
            there.join(name, "wrong")
    assert there.join("anna", rater.header.code.upper()).name == "Anna"
    ben = there.join("Ben")
    assert ben.header.number == 1 and ben.header.code != rater.header.code and ben.path != rater.path


@pytest.mark.parametrize("name", ["", "   ", "a" * 61, "a\x00b", "a\u202eb"])
def test_what_is_no_name_is_refused(opened, name):
    folder, study, _ = opened
    with pytest.raises(ValueError, match=r"name = .*: must have 1 to 60 letters"):
        Ratings(folder, study).join(name)


def test_names_never_become_paths(opened):
    folder, study, _ = opened
    there = Ratings(folder, study)
    for name in ("../../up", "/tmp/x", "<script>alert(1)</script>", "con", "a\\b", "'; rm -rf *"):
        rater = there.join(name)
        assert rater.path.parent == folder / "ratings" and rater.name == name
    assert not list(folder.glob("*up*")) and Ratings(folder, study).raters.keys() == there.raters.keys()


def test_raters_at_the_same_time_lose_nothing(opened):
    folder, study, _ = opened
    there = Ratings(folder, study)

    def all_of_it(number):
        rater = there.join(f"Rater {number}")
        for place in range(len(rater.tasks)):
            answer(rater, place)

    threads = [threading.Thread(target=all_of_it, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Ratings(folder, study)
    assert sorted(rater.header.number for rater in again.raters.values()) == list(range(7))
    assert sum(rater.num_done == len(rater.tasks) for rater in again.raters.values()) == 6 and not again.problems


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"consistency": 4}, "instruction_adherence = None: must be one of 1, 2, 3, 4, 5"),
        ({"overall": 4}, "answer = 'overall': is not asked"),
        (6, "instruction_adherence = 6: must be"),
        (True, "instruction_adherence = True: must be"),
        ("left", "instruction_adherence = 'left': must be"),
        (3.0, r"instruction_adherence = 3\.0: must be"),
    ],
)
def test_what_is_no_answer_is_refused(opened, given, rule):
    _, study, rater = opened
    scores = dict.fromkeys(study.axes_of("scores"), 3)
    given = {**scores, **given} if given == {"overall": 4} else given
    given = given if isinstance(given, dict) else dict.fromkeys(scores, given)
    with pytest.raises(ValueError, match=rule):
        answer(rater, 0, given=given)
    with pytest.raises(ValueError, match="task = 'none': is none of this rater's"):
        rater.answer("none", nonce(), scores)
    with pytest.raises(ValueError, match="seconds = nan"):
        rater.answer(next(iter(rater.tasks)), nonce(), scores, float("nan"))
    with pytest.raises(ValueError, match="nonce = 'x'"):
        rater.answer(next(iter(rater.tasks)), "x", scores)
    assert len(rater.path.read_text().splitlines()) == 1


def test_a_film_that_does_not_play_is_an_answer_too(opened):
    folder, study, rater = opened
    task = answer(rater, 0, given=None)
    again = Ratings(folder, study).raters["anna"]
    assert again.num_done == 1 and again.answers[task].unplayable and not again.answers[task].answer


def test_a_study_that_was_changed_after_ratings_began_is_refused(opened):
    folder, _, _ = opened
    record = json.loads((folder / "study.json").read_text())
    record["seed"] = 9
    (folder / "study.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"was changed after Anna had begun; put the old study\.json back"):
        Ratings(folder, load_study(folder))


def test_foreign_and_damaged_files_are_named_and_left_alone(opened):
    folder, study, rater = opened
    answer(rater, 0)
    inside = folder / "ratings"
    (inside / "notes.txt").write_text("mine")
    (inside / "rater-0000.jsonl").write_text("no JSON\n")
    (inside / "rater-copy.jsonl").write_bytes(rater.path.read_bytes())
    (inside / "rater-x.part").write_text("half")
    with rater.path.open("a") as file:
        other = json.loads(rater.path.read_text().splitlines()[1])
        file.write('{"nothing": 1}\nnothing\n' + json.dumps({**other, "nonce": "foreign-1", "films": ["none"]}) + "\n")
    there = Ratings(folder, study)
    assert there.raters.keys() == {"anna"} and there.raters["anna"].num_done == 1
    assert sorted(there.problems) == sorted(
        [
            "notes.txt: is no rater's file; left alone",
            "rater-0000.jsonl: does not begin as a rater's file; left out",
            *(f"{rater.path.name} line {n}: is no answer; left out" for n in (3, 4)),
            f"{rater.path.name} line 5: is about films of another study; left out",
            "rater-copy.jsonl: is a copy of the file of Anna; left out",
        ]
    )
    assert (inside / "notes.txt").read_text() == "mine"


def test_a_name_whose_file_is_damaged_is_not_written_over(opened):
    folder, study, rater = opened
    rater.path.write_text("gone\n")
    with pytest.raises(ValueError, match=r"name = 'Anna': its file rater-.* is damaged; take another name"):
        Ratings(folder, study).join("Anna")
    assert rater.path.read_text() == "gone\n"


def test_a_file_that_another_program_changed_is_not_written_to(opened):
    _, _, rater = opened
    answer(rater, 0)
    with rater.path.open("a") as file:
        file.write("more\n")
    before = rater.path.read_bytes()
    with pytest.raises(OSError, match="was changed by another program"):
        answer(rater, 1)
    assert rater.path.read_bytes() == before


def test_a_file_without_its_first_line_is_none(opened):
    _, study, rater = opened
    rater.path.write_bytes(rater.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not begin as a rater's file"):
        RaterLog(study, rater.path)


def test_names_are_compared_without_case_and_width():
    assert key_of("  ÉMILE  Zola ") == key_of("e\u0301mile zola") != key_of("emile zola")
