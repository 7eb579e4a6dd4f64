"""Result files: the suite's, half done ones, and those that are something else."""

import json
import zipfile

import pytest

from everreel.evaluate.vbench.results import parse_results, read_results
from everreel.evaluate.vbench.scores import VBENCH, totals


def films(count, score=0.5):
    return [{"video_path": f"{number}.mp4", "video_results": score} for number in range(count)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_one_file_and_one_a_dimension_say_the_same(tmp_path):
    whole = {name: [0.9, films(3, 0.9)] for name in VBENCH.names}
    one = write(tmp_path / "one" / "results_2025-01-01_eval_results.json", whole)
    for name, value in whole.items():
        write(tmp_path / "many" / name / f"results_{name}_eval_results.json", {name: value})
        write(tmp_path / "many" / name / f"results_{name}_full_info.json", [{"prompt_en": "a"}])  # the suite's own
    single, folder = read_results([one]), read_results([tmp_path / "many"])
    assert single.raw == folder.raw == dict.fromkeys(VBENCH.names, 0.9) and not folder.skipped
    assert totals(single.raw) == totals(folder.raw)
    assert single.scores["color"].num_films == 3


def test_a_submission_is_a_zip(tmp_path):
    path = tmp_path / "evaluation_results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("results/color_eval_results.json", json.dumps({"color": [0.8, films(2)]}))
        archive.writestr("scene.json", json.dumps({"scene": [0.4, []]}))
        archive.writestr("__MACOSX/results/color_eval_results.json", "junk")
        archive.writestr("results/.hidden.json", "junk")
        archive.writestr("results/x_full_info.json", "[]")
        archive.writestr("results/torn.json", '{"object_class": [0.')
    found = read_results([path])
    assert found.raw == {"color": 0.8, "scene": 0.4}
    assert len(found.skipped) == 1 and "torn.json: is no whole JSON file" in found.skipped[0]


def test_spaces_and_bare_numbers_are_read_too():
    assert parse_results('{"subject consistency": 0.96}', "x")["subject_consistency"].raw == 0.96
    assert parse_results('{"subject consistency": 0.96}', "x")["subject_consistency"].num_films is None


def test_a_torn_file_in_a_folder_is_named_and_the_others_are_read(tmp_path):
    write(tmp_path / "a_eval_results.json", {"color": [0.8, films(2)]})
    torn = write(tmp_path / "b_eval_results.json", '{"scene": [0.41, [{"video_pa')
    found = read_results([tmp_path])
    assert found.raw == {"color": 0.8}
    assert found.skipped[0].startswith(f"skipped results = {torn}: is no whole JSON file")
    with pytest.raises(ValueError, match="is no whole JSON file"):
        read_results([torn])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Human_Anatomy": [0.9, []]}, "dimension = Human_Anatomy: is one of VBench-2.0"),
        ({"gender_bias": [0.9, []]}, "is one of VBench-Trustworthiness"),
        ({"colour": [0.9, []]}, "nearest that works: color"),
        ({"settings": {}, "films": []}, "dimension = 'settings': is none of VBench's"),
        ([{"prompt_en": "a"}], "holds a list"),
        ({}, "holds nothing"),
        ("null", "holds null"),
        ({"color": []}, "color = nothing: must be a number"),
        ({"color": [None, []]}, "color = null: must be a number"),
        ({"color": ["0.8", []]}, "color = text: must be a number"),
        ({"color": [True, []]}, "color = true or false: must be a number"),
        ('{"color": [NaN, []]}', "color = nan: must be a number from 0 to 1"),
        ('{"color": [Infinity, []]}', "color = inf: must be a number from 0 to 1"),
        ({"color": [87.5, []]}, "color = 87.5: must be from 0 to 1; nearest that works: 0.875"),
        ({"color": [-3, []]}, "color = -3: must be from 0 to 1"),
        ("[" * 100_000, "is no whole JSON file"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_results([write(tmp_path / "x.json", content)])
    assert str(tmp_path / "x.json") in str(refused.value) and "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00garbage\x81")
    with pytest.raises(ValueError, match="is no whole JSON file"):
        read_results([tmp_path / "x.json"])


def test_two_runs_that_differ_are_not_mixed(tmp_path):
    write(tmp_path / "a_eval_results.json", {"color": [0.8, []]})
    write(tmp_path / "b_eval_results.json", {"color": [0.8, []]})
    assert read_results([tmp_path]).raw == {"color": 0.8}
    write(tmp_path / "b_eval_results.json", {"color": [0.7, []]})
    with pytest.raises(ValueError, match=r"color: is 0.8000 in .*a_eval.* and 0.7000 in .*b_eval.*; leave one out"):
        read_results([tmp_path])
    write(tmp_path / "b_eval_results.json", {"i2v_subject": [0.7, []]})
    with pytest.raises(ValueError, match="two suites are mixed"):
        read_results([tmp_path])


def test_nothing_is_no_result(tmp_path):
    with pytest.raises(ValueError, match="no result of VBench in it"):
        read_results([tmp_path])
    with pytest.raises(ValueError, match="does not exist"):
        read_results([tmp_path / "none"])


def test_fewer_films_than_the_suite_asks_for_are_told(tmp_path):
    content = {"color": [0.8, films(3)], "scene": [0.4, films(430)], "human_action": [0.9, films(20)]}
    notes = read_results([write(tmp_path / "x.json", content)]).notes()
    assert len(notes) == 1 and notes[0].startswith("human_action: made of 20 films; the suite asks for 500")
