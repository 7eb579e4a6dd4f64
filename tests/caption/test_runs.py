"""Runs over many films: what is listed, what is skipped, what goes on, and the released scripts' tables."""

import csv
import json
import os

import numpy as np
import pytest

from everreel.caption.camera import SIX, Measured
from everreel.caption.fusion import BuiltInFusion
from everreel.caption.runs import (
    BUILT_IN,
    CAMERA,
    FIELDS,
    STOOD_IN,
    Run,
    RunSettings,
    caption_file,
    captioner_of,
    fuser_of,
    listed_films,
)
from everreel.caption.schema import StructuralCaption
from everreel.caption.tiny import TinyCaptioner, caption_of
from everreel.chat import UnreachableError
from everreel.data.sources import read_rows
from everreel.media import write_image
from tests.film.films import natural, numbered, numbers, write


class Counts:
    """A captioner that remembers what it was shown."""

    def __init__(self, fails=None):
        self.shown, self.fails, self.closed = [], fails or {}, False

    def caption(self, frames, fps):
        self.shown.append((len(frames), frames[0].shape, fps))
        error = self.fails.get(len(frames))
        if error is not None:
            raise error
        return caption_of({"subject": "fox", "action": "runs", "color": "red", "camera_motion": "pan_left"})

    def close(self):
        self.closed = True


def film(path, num_frames=3, height=32, width=48, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, natural(num_frames, height, width), **more)


def make(files, output, used=None, **settings):
    listed, left_out = listed_films(files)
    used = used or Counts()
    run = Run(listed, output, RunSettings(**settings), lambda: used, lambda said: fuser_of(BUILT_IN, "cpu", said))
    return run.make(), left_out, used


def rows_of(path):
    return [row for _, row in read_rows(path)]


def test_films_pictures_and_folders_are_captioned(tmp_path):
    film(tmp_path / "films/b.mp4", 4)
    film(tmp_path / "films/deep/a.webm", 5, codec="libvpx-vp9", fps=12)
    film(tmp_path / "films/.hidden/c.mp4")
    (tmp_path / "films/notes.txt").write_text("no film")
    write_image(tmp_path / "still.png", natural(1)[0])
    outcome, left_out, used = make([tmp_path / "films", tmp_path / "still.png"], tmp_path / "out.jsonl")
    assert (outcome.known, outcome.made, outcome.skipped, left_out) == (0, 3, (), [])
    assert used.shown == [(4, (32, 48, 3), 24), (5, (32, 48, 3), pytest.approx(12, rel=0.01)), (1, (48, 64, 3), 24)]
    assert used.closed
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["path"] for row in rows] == [
        str(tmp_path / name) for name in ("films/b.mp4", "films/deep/a.webm", "still.png")
    ]
    for row in rows:
        assert StructuralCaption.model_validate_json(row["structural_caption"]).subjects[0].action == "runs"
        assert row["t2v_fusion_caption"] == "A red fox runs. The camera pans left."
        assert row["i2v_fusion_caption"] == "The fox runs. The camera pans left."
        assert (row["captioner"], row["fusion"]) == ("tiny", "built-in")


def test_what_cannot_be_read_is_skipped_with_the_reason_and_ends_nothing__released_defect_46(tmp_path):
    whole = film(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) - 40])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("this is no film")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    film(tmp_path / "silent.mkv")
    film(tmp_path / "odd.avi", 5, 34, 50, codec="ffv1", pix_fmt="bgr0")
    film(tmp_path / "strange.mp4", 7)
    captioner = Counts(fails={7: ValueError("made no sense of it")})
    outcome, _, _ = make([tmp_path, tmp_path / "gone.mp4"], tmp_path / "out.csv", captioner)
    why = {skipped.name.rpartition("/")[2]: skipped.reason for skipped in outcome.skipped}
    assert sorted(why) == ["cut.mp4", "empty.mp4", "gone.mp4", "strange.mp4", "torn.png", "words.mp4"]
    assert why["empty.mp4"] == "is empty: 0 bytes" and why["gone.mp4"] == "does not exist"
    assert why["cut.mp4"].startswith("is cut off") and why["words.mp4"].startswith("cannot be read as a film")
    assert why["torn.png"].startswith("cannot be read as a picture") and why["strange.mp4"] == "made no sense of it"
    assert outcome.made == 3 and len(rows_of(tmp_path / "out.csv")) == 3
    (tmp_path / "empty.mp4").write_bytes(whole)
    again, _, _ = make([tmp_path, tmp_path / "gone.mp4"], tmp_path / "out.csv", Counts())
    assert (again.known, again.made) == (3, 2)


def test_in_a_folder_a_link_to_nothing_is_named_and_a_folder_with_a_films_name_is_searched(tmp_path):
    film(tmp_path / "films/a.mp4/b.mp4")
    (tmp_path / "films/c.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "films/d.mp4").symlink_to(tmp_path / "films/a.mp4/b.mp4")
    outcome, left_out, _ = make([tmp_path / "films"], tmp_path / "out.jsonl")
    assert [str(each) for each in outcome.skipped] == [f"{tmp_path / 'films/c.mp4'}: does not exist"]
    assert (outcome.made, left_out) == (2, [])
    (tmp_path / "films.csv").write_text("path\nfilms/a.mp4\n")
    outcome, _, _ = make([tmp_path / "films.csv"], tmp_path / "out.csv")
    assert [str(each) for each in outcome.skipped] == ["films/a.mp4: is a folder"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_file_whose_name_is_no_utf_8_keeps_no_other_from_its_caption(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    film(tmp_path / "films/a.mp4")
    try:
        film(tmp_path / "films/b.mp4").rename(tmp_path / "films" / os.fsdecode(b"caf\xe9.mp4"))
    except OSError:
        pytest.skip("no file here can have such a name")
    outcome, _, _ = make([tmp_path / "films"], tmp_path / f"out{ending}")
    assert (outcome.made, len(outcome.skipped)) == ((2, 0) if ending == ".jsonl" else (1, 1))
    assert len(rows_of(tmp_path / f"out{ending}")) == outcome.made
    again, _, _ = make([tmp_path / "films"], tmp_path / f"out{ending}")
    assert (again.known, again.made) == (outcome.made, 0)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_run_that_was_stopped_goes_on__released_defect_46(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    for number in range(4):
        film(tmp_path / f"films/{number}.mp4", number + 2)
    output = tmp_path / f"captions{ending}"
    stopped = Counts(fails={4: UnreachableError("endpoint = here: no answer")})
    with pytest.raises(UnreachableError):
        make([tmp_path / "films"], output, stopped)
    assert stopped.closed
    outcome, _, used = make([tmp_path / "films"], output)
    assert (outcome.known, outcome.made) == (2, 2)
    assert [length for length, *_ in used.shown] == [4, 5]
    nothing, _, unused = make([tmp_path / "films"], output)
    assert (nothing.known, nothing.made, unused.shown) == (4, 0, [])
    assert len({row["path"] for row in rows_of(output)}) == len(rows_of(output)) == 4


def test_progress_is_told_before_the_first_and_after_each(tmp_path):
    film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"")
    listed, _ = listed_films([tmp_path])
    told = []
    run = Run(listed, tmp_path / "out.jsonl", RunSettings(), Counts, lambda said: fuser_of(BUILT_IN))
    run.make(lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_the_released_scripts_tables_are_read_and_written(tmp_path):
    film(tmp_path / "clips/a.mp4")
    with (tmp_path / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "path"], ["7", "clips/a.mp4"], ["8", "clips/b.mp4"], ["9", ""]])
    outcome, left_out, _ = make([tmp_path / "test.csv"], tmp_path / "test_result.csv", tasks=())
    assert [str(each) for each in outcome.skipped] == ["clips/b.mp4: does not exist"]
    assert [str(each) for each in left_out] == ["test.csv line 4: path is empty"]
    (row,) = rows_of(tmp_path / "test_result.csv")
    assert (row["path"], row["id"]) == ("clips/a.mp4", "7") and "t2v_fusion_caption" not in row
    # The second script's step: what has a structured caption is fused, and no film is read.
    (tmp_path / "clips/a.mp4").unlink()
    outcome, _, unused = make([tmp_path / "test_result.csv"], tmp_path / "fused.csv", tasks=("t2v",))
    (row,) = rows_of(tmp_path / "fused.csv")
    assert row["t2v_fusion_caption"] == "A red fox runs. The camera pans left." and row["id"] == "7"
    assert outcome.made == 1 and not unused.shown and row["captioner"] == "given"


def test_a_row_whose_structured_caption_is_none_is_skipped_by_its_rule__released_defect_45(tmp_path):
    film(tmp_path / "a.mp4")
    rows = [{"path": "a.mp4", "structural_caption": '{"subjects": []}'}, {"path": "a.mp4", "note": 1}, {"path": 3}, []]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n{torn\n")
    outcome, left_out, _ = make([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert "shot_type is missing" in outcome.skipped[0].reason
    assert [each.reason for each in left_out] == [
        "is named twice; the first is taken",
        "path is empty",
        "is no JSON object",
        "is no JSON (Expecting property name enclosed in double quotes)",
    ]


@pytest.mark.parametrize("levels", [200, 900, 100_000])
def test_brackets_within_brackets_end_no_run(tmp_path, levels):
    deep = '{"subjects": ' + "[" * levels + "]" * levels + "}"
    given = caption_of({"subject": "fox"}).model_dump()
    rows = [json.dumps({"path": "a.mp4", "structural_caption": deep}), f'{{"path": "b.mp4", "note": {deep}}}']
    rows += [f'{{"path": "c.mp4", "structural_caption": {deep}}}']
    rows += [json.dumps({"path": "d.mp4", "structural_caption": given})]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    outcome, left_out, _ = make([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert outcome.made == 1 and [each.name for each in outcome.skipped] == ["a.mp4"]
    assert [str(each) for each in left_out] == [f"in.jsonl line {line}: is nested too deeply" for line in (2, 3)]
    (tmp_path / "out.jsonl").write_text(f'{{"path": {deep}}}\n')
    with pytest.raises(ValueError, match=r"is no table of captions|has the columns path"):
        make([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")


def test_a_structured_caption_may_come_as_an_object_too(tmp_path):
    row = {"path": "a.mp4", "structural_caption": caption_of({"subject": "fox", "action": "runs"}).model_dump()}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    make([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl")[0]["t2v_fusion_caption"] == "A fox runs."


def test_fields_are_columns_where_they_are_asked_for(tmp_path):
    film(tmp_path / "a.mp4")
    make([tmp_path / "a.mp4"], tmp_path / "out.jsonl", fields=True)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert list(row)[4:-2] == list(FIELDS)
    assert (row["sub_type"], row["action"], row["shot_type"]) == ("Mammal", "runs", "other")


def test_the_cameras_six_axes_are_columns_where_they_are_measured(tmp_path):
    pytest.importorskip("cv2")
    film(tmp_path / "a.mp4", 1)
    large = natural(1, 96, 320)[0]
    write(tmp_path / "b.mp4", np.stack([large[:, 4 * n : 160 + 4 * n] for n in range(24)]))
    given = {"path": "c.mp4", "structural_caption": caption_of({"subject": "fox"}).to_json()}
    (tmp_path / "c.jsonl").write_text(json.dumps(given))
    files = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.jsonl")]
    make(files, tmp_path / "out.jsonl", Measured(Counts()), fields=True, captioner="tiny+flow")
    found = [[row[name] for name in CAMERA] for row in rows_of(tmp_path / "out.jsonl")]
    assert found == [[""] * 6, [0, 0, 0, 0, 0, 1], [""] * 6]
    assert tuple(rows_of(tmp_path / "out.jsonl")[0])[-8:-2] == CAMERA == SIX


def test_captions_of_two_captioners_are_not_mixed(tmp_path):
    film(tmp_path / "a.mp4")
    make([tmp_path / "a.mp4"], tmp_path / "out.jsonl")
    there = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ValueError, match="has captions with captioner = 'tiny', and this run has 'other'"):
        make([tmp_path / "a.mp4"], tmp_path / "out.jsonl", captioner="other")
    with pytest.raises(ValueError, match=r"has the columns path, .* give another file"):
        make([tmp_path / "a.mp4"], tmp_path / "out.jsonl", tasks=("t2v",))
    assert (tmp_path / "out.jsonl").read_bytes() == there


def test_what_a_model_could_not_fuse_is_said_and_signed(tmp_path):
    film(tmp_path / "a.mp4")

    class Fails:
        def __init__(self, said):
            self.said = said

        def fuse(self, caption, task):
            if task == "i2v":
                self.said("big: has 0 words; fused by rules instead")
            return "A fox."

    listed, _ = listed_films([tmp_path / "a.mp4"])
    run = Run(listed, tmp_path / "out.jsonl", RunSettings(fusion="big"), Counts, Fails)
    outcome = run.make()
    assert [each.reason for each in outcome.replaced] == ["big: has 0 words; fused by rules instead"]
    assert rows_of(tmp_path / "out.jsonl")[0]["fusion"] == STOOD_IN
    assert not Run(listed, tmp_path / "out.jsonl", RunSettings(fusion="big"), Counts, Fails).missing()


def test_captions_that_another_fusion_was_asked_for_are_not_taken_for_a_models(tmp_path):
    """As if there were nothing to do; one that stood in for the model is its own."""
    film(tmp_path / "a.mp4")
    make([tmp_path / "a.mp4"], tmp_path / "out.jsonl")
    listed, _ = listed_films([tmp_path / "a.mp4"])
    with pytest.raises(ValueError, match=r"has captions with fusion = 'built-in', and this run has 'big'"):
        Run(listed, tmp_path / "out.jsonl", RunSettings(fusion="big"), Counts, lambda said: BuiltInFusion())


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError()])
def test_a_film_that_a_captioner_fails_with_ends_nothing(tmp_path, error):
    film(tmp_path / "a.mp4")
    film(tmp_path / "b.mp4", 7)
    outcome, _, _ = make([tmp_path], tmp_path / "out.jsonl", Counts(fails={7: error}))
    assert outcome.made == 1 and [each.reason for each in outcome.skipped] == [str(error) or "MemoryError"]


def test_frames_are_read_when_they_are_looked_at(tmp_path):
    path = write(tmp_path / "long.mp4", numbered(140), options={"g": "12", "crf": "1"})

    class Looks:
        def caption(self, frames, fps):
            self.seen = numbers([frames[n] for n in (0, 5, 6, 6, 139, 70, 71, 3)])
            return caption_of({})

    looks = Looks()
    caption_file(looks, path)
    assert looks.seen == [0, 5, 6, 6, 139, 70, 71, 3]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gone", "captioner = 'gone': is no captioner; tiny, "),
        ("http://127.0.0.1:1/v1", "must name the model too; http://127.0.0.1:1/v1#Qwen2.5-VL-7B-Instruct works"),
    ],
)
def test_captioners_are_known_by_name(tmp_path, name, rule):
    assert isinstance(captioner_of("tiny"), TinyCaptioner)
    with pytest.raises(ValueError, match=rule):
        captioner_of(name)


def test_fusions_are_known_by_name():
    assert fuser_of("built-in").name == "built-in"
    chat = fuser_of("http://127.0.0.1:1/v1#small")
    assert chat.name == "http://127.0.0.1:1/v1#small" and chat.chat.model == "small"
    with pytest.raises(ValueError, match="fusion = 'gone': is no fusion; built-in, "):
        fuser_of("gone")


def test_what_is_nothing_that_can_be_captioned_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match="no such file or folder"):
        listed_films([tmp_path / "none"])
    with pytest.raises(ValueError, match="is no film, picture or table"):
        listed_films([tmp_path / "a.txt"])
    (tmp_path / "a.csv").write_text("text\nwords\n")
    with pytest.raises(ValueError, match="has the columns text; must have one of file_name, path"):
        listed_films([tmp_path / "a.csv"])


def test_a_folder_of_a_critic_is_a_captioner(tmp_path):
    from everreel.caption.critic import Critic, CriticConfig, save_critic

    save_critic(tmp_path, Critic(CriticConfig((4, 8), (1, 1), fine=0, dim=16, num_heads=2, num_layers=1, num_slots=4)))
    mine = captioner_of(str(tmp_path))
    assert isinstance(mine, TinyCaptioner) and mine.critic.config.dim == 16
    assert mine.caption(np.zeros((2, 16, 16, 3), np.uint8), 24).shot_type
