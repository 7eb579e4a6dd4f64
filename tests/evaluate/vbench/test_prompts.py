"""The suite's prompts: its list, its text files, its wheel; longer ones; names that are no names of files."""

import json
import zipfile

import pytest

from everreel.evaluate.vbench.prompts import INFO, LONGEST_STEM, Prompt, read_prompts, renamed, select

ENTRIES = [
    {"prompt_en": "a red car", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "an alley", "dimension": ["scene", "background_consistency"], "auxiliary_info": {"scene": {}}},
    {"prompt_en": "a green car", "dimension": ["color"], "auxiliary_info": {"color": {"color": "green"}}},
    {"prompt_en": "a red car", "dimension": ["overall_consistency", "aesthetic_quality", "imaging_quality"]},
]


@pytest.fixture
def info(tmp_path):
    path = tmp_path / INFO
    path.write_text(json.dumps(ENTRIES))
    return path


def test_the_list_and_the_wheel_say_the_same(info, tmp_path):
    prompts = read_prompts(info)
    assert [prompt.entry() for prompt in prompts] == ENTRIES
    assert prompts[0].auxiliary == {"color": {"color": "red"}} and prompts[0].shown == "a red car"
    with zipfile.ZipFile(tmp_path / "vbench-0.1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"vbench/{INFO}", info.read_text())
    assert read_prompts(tmp_path / "vbench-0.1.5-py3-none-any.whl") == prompts


def test_text_files_name_their_dimensions(tmp_path):
    (tmp_path / "scene.txt").write_text("an alley\n\n  an arch \n")
    (tmp_path / "subject_consistency.txt").write_text("a person eating a burger\n")
    assert read_prompts(tmp_path) == [
        Prompt("a person eating a burger", ("subject_consistency", "motion_smoothness", "dynamic_degree")),
        Prompt("an alley", ("scene", "background_consistency")),
        Prompt("an arch", ("scene", "background_consistency")),
    ]


def test_a_longer_version_is_shown_and_the_short_one_names(info, tmp_path):
    (tmp_path / "long.txt").write_text("LONG red\nLONG alley\nLONG green\nLONG red again\n")
    prompts = read_prompts(info, tmp_path / "long.txt")
    assert [(prompt.stem, prompt.shown) for prompt in prompts] == [
        ("a red car", "LONG red"),
        ("an alley", "LONG alley"),
        ("a green car", "LONG green"),
        ("a red car", "LONG red"),  # one text, one set of films
    ]
    folder = tmp_path / "longer"
    folder.mkdir()
    (folder / "scene_longer.txt").write_text("LONG alley\n")
    (folder / "color_longer.txt").write_text("LONG red\nLONG green\n")
    with pytest.raises(ValueError, match=r"has no overall_consistency_longer.txt"):
        read_prompts(info, folder)
    (folder / "overall_consistency.txt").write_text("LONG red again\n")
    assert read_prompts(info, folder) == prompts
    (folder / "color_longer.txt").write_text("LONG red\n")
    with pytest.raises(ValueError, match=r"color_longer.txt: has 1 prompts for 2; a line for each works"):
        read_prompts(info, folder)
    with pytest.raises(ValueError, match=r"longer = .*scene_longer.txt: has 1 prompts for 4"):
        read_prompts(info, folder / "scene_longer.txt")


def test_some_dimensions_and_the_first_of_each(info):
    prompts = read_prompts(info)
    assert [prompt.text for prompt in select(prompts)] == [entry["prompt_en"] for entry in ENTRIES]
    picked = select(prompts, ["color", "imaging_quality"], num_prompts=1)
    assert [(prompt.text, prompt.dimensions) for prompt in picked] == [
        ("a red car", ("color",)),
        ("a red car", ("imaging_quality",)),
    ]
    assert picked[0].auxiliary and not picked[1].auxiliary
    with pytest.raises(ValueError, match="num_prompts = 0: must be at least 1"):
        select(prompts, num_prompts=0)
    with pytest.raises(ValueError, match="nearest that works: color"):
        select(prompts, ["colour"])
    with pytest.raises(ValueError, match="human_action: these prompts have none of it; color works"):
        select(prompts, ["human_action"])


def test_names_that_are_none_are_changed_and_told():
    slash, long = Prompt("black and/or white\tcat", ("color",)), Prompt("ä" * 200, ("color",))
    assert slash.stem == "black and_or white_cat" and slash.entry()["prompt_en"] == slash.stem
    assert len(long.stem.encode()) <= LONGEST_STEM and long.stem.startswith("ääää")
    assert long.stem != Prompt("ä" * 201, ("color",)).stem
    usual = Prompt('with the "façade", 50% off: a cat?', ("color",))
    assert usual.stem == usual.text
    told = renamed([slash, usual, slash])
    assert len(told) == 1 and "cannot be a file's name; its films are called 'black and_or white_cat'" in told[0]


def test_names_that_collide_are_refused(tmp_path):
    path = tmp_path / "info.json"
    path.write_text(json.dumps([{"prompt_en": text, "dimension": ["color"]} for text in ("a/b", "a_b")]))
    with pytest.raises(ValueError, match="prompts = 'a_b': its films would be called as those of 'a/b'; leave one out"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"a": 1}', "is no list"),
        ("[]", "holds none"),
        ("[1]", "entry 1 has no prompt_en"),
        ('[{"prompt_en": " ", "dimension": ["color"]}]', "entry 1 has no prompt_en"),
        ('[{"prompt_en": "a", "dimension": []}]', "entry 1 has no list of dimensions"),
        ('[{"prompt_en": "a", "dimension": "color"}]', "entry 1 has no list of dimensions"),
        ('[{"prompt_en": "a", "dimension": ["color", "Human_Anatomy"]}]', "entry 1: .*is one of VBench-2.0"),
        ('[{"prompt_en": "a", "dimension": ["i2v_subject"]}]', "entry 1: .*is none of VBench's"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_prompts(tmp_path / "x.json")
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_refused(info, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_prompts(tmp_path / "none.json")
    (tmp_path / "vbench.whl").write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "vbench.whl")
    (tmp_path / "long.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        read_prompts(info, tmp_path / "long.txt")
    with pytest.raises(ValueError, match=r"longer.txt: No such file"):
        read_prompts(info, tmp_path / "longer.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds none"):
        read_prompts(tmp_path / "empty")
