"""Studies: films paired by name, prompts from wherever they stand, and nothing changes once ratings began."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from everreel.evaluate.bench.found import find_films, model_name
from everreel.evaluate.bench.ratings import Ratings
from everreel.evaluate.bench.study import AXES, StudySettings, load_study, make_study
from everreel.media import write_image
from tests.evaluate.bench.studies import film, films, study_of
from tests.film.films import natural, write


def test_a_study_holds_every_film_of_every_model_and_is_read_back(tmp_path):
    folder, study = study_of(tmp_path)
    assert load_study(folder) == study
    assert [prompt.text for prompt in study.prompts] == ["a red fox runs", "a blue swan waits", "a cat jumps"]
    assert len(study.films) == 6 and len({film.id for film in study.films}) == 6
    for one in study.films:
        path = folder / one.path
        assert path.stat().st_size == one.num_bytes and path.parent.name == f"of-{one.model}"
        assert study.prompts[one.prompt].key == path.stem
    assert study.axes_of("scores") == tuple(AXES) and study.axes_of("pairs") == (*AXES, "overall")


def test_names_of_films_tell_nothing(tmp_path):
    _, study = study_of(tmp_path)
    other = study_of(tmp_path / "again")[1]
    assert all(len(one.id) == 32 and set(one.id) <= set("0123456789abcdef") for one in study.films)
    assert not {one.id for one in study.films} & {one.id for one in other.films}, "the secret is each study's own"


@pytest.mark.parametrize("by_name", [True, False], ids=["as written now", "as written before"])
def test_prompts_stand_in_captions_reports_settings_and_names(tmp_path, by_name):
    prompts = {f"film-00{n}.mp4": "of the settings" for n in range(3)}
    told = {"model": "tiny", "prompts": prompts if by_name else list(prompts.values())}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    (tmp_path / "report.json").write_text(json.dumps({"films": [{"file": "film-001.mp4", "prompt": "of the report"}]}))
    names = ["film-000", "film-001", "film-002", "a grey cat sits-3", "mute"]
    for number, name in enumerate(names):
        (tmp_path / f"{name}.mp4").write_bytes(film(number))
    (tmp_path / "film-002.txt").write_text("of the caption")
    found, skipped = find_films(tmp_path)
    prompts = {one.key: one.prompt for one in found}
    assert prompts == {
        "film-000": "of the settings",
        "film-001": "of the report",
        "film-002": "of the caption",
        "a grey cat sits-3": "a grey cat sits",
    }
    assert [str(one) for one in skipped] == ["mute.mp4: has no prompt; write it into mute.txt beside it"]
    assert model_name(tmp_path) == "tiny"


def test_what_cannot_be_shown_is_named_and_so_is_a_report_of_another_program(tmp_path):
    write(tmp_path / "long way.mov", natural(3, 32, 48))
    (tmp_path / "no film.mp4").write_bytes(b"words")
    (tmp_path / "cut off.mp4").write_bytes(film(0)[:200])
    (tmp_path / "a fine film.mp4").write_bytes(film(0))
    (tmp_path / "notes.txt").write_text("not a film")
    (tmp_path / "report.json").write_text('{"subject_consistency": [0.9, []]}')
    found, skipped = find_films(tmp_path)
    assert [one.key for one in found] == ["a fine film"]
    assert {one.name: one.reason.split(";")[0] for one in skipped} == {
        "report.json": "tells no films with prompts: it is another program's",
        "cut off.mp4": "cannot be read as a film",
        "no film.mp4": "cannot be read as a film",
        "long way.mov": "browsers do not play .mov",
    }


def test_a_prompt_that_a_model_lacks_is_left_out_for_all(tmp_path):
    made = films(tmp_path)
    (made["new"] / "film-1.mp4").write_bytes(b"broken")
    (made["old"] / "film-2.txt").write_text("something else")
    study = make_study(tmp_path / "study", made, StudySettings())
    assert [prompt.key for prompt in study.prompts] == ["film-0"] and len(study.films) == 2
    assert study.left_out == (
        "new: film-1.mp4: cannot be read as a film",
        "film-1: is left out, as there is no film of new",
        "film-2: is left out, as models have other prompts: 'something else', 'a cat jumps'",
    )


def test_films_may_move_with_their_study_and_the_study_is_the_same(tmp_path):
    folder, study = study_of(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = load_study(tmp_path / "there" / "study")
    assert (tmp_path / "there" / "study" / moved.films[0].path).is_file() and not folder.exists()
    paths = tuple(one.model_copy(update={"path": "elsewhere.mp4"}) for one in study.films)
    assert study.model_copy(update={"films": paths, "title": "Another"}).digest == study.digest
    assert study.model_copy(update={"seed": 1}).digest != study.digest


def test_films_may_begin_with_pictures_that_are_called_as_they_are(tmp_path):
    made = films(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    plain = make_study(tmp_path / "study", made, StudySettings())
    with pytest.raises(ValueError, match=r"pictures = .*pictures: none is of a film of the study; film-2: is left out"):
        make_study(tmp_path / "study", made, StudySettings(), pictures)
    write_image(pictures / "film-0.PNG", np.full((8, 8, 3), 9, np.uint8))
    (pictures / "film-1.jpg").write_bytes(b"no picture")
    study = make_study(tmp_path / "study", made, StudySettings(medium="i2v"), pictures)
    assert [prompt.start.path for prompt in study.prompts] == ["../pictures/film-0.PNG"]
    lost = "\n".join(study.left_out)
    assert "film-1: is left out: image = " in lost and "film-2: is left out: there is no film-2.png in " in lost
    assert load_study(tmp_path / "study") == study and study.digest != plain.digest
    moved = study.prompts[0].start.model_copy(update={"path": "elsewhere.png"})
    other = moved.model_copy(update={"digest": "0"})
    told = [
        study.model_copy(update={"prompts": (study.prompts[0].model_copy(update={"start": start}),)}).digest
        for start in (moved, other)
    ]
    assert told[0] == study.digest != told[1]
    with pytest.raises(ValueError, match=r"pictures = nowhere: no such folder"):
        make_study(tmp_path / "study", made, StudySettings(), Path("nowhere"))


def test_a_study_without_pictures_is_what_it_was_before_there_were_any(tmp_path):
    """Ratings are of a study by its digest: those of older versions still count."""
    _, study = study_of(tmp_path)
    told = json.loads(study.model_dump_json(exclude={"title": True, "left_out": True, "films": {"__all__": {"path"}}}))
    assert all(prompt.pop("start") is None for prompt in told["prompts"])
    before = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    assert study.digest == hashlib.sha256(before.encode()).hexdigest()[:16]


def test_a_study_with_ratings_does_not_change(tmp_path):
    folder, study = study_of(tmp_path)
    made = {model: tmp_path / f"of-{model}" for model in study.models}
    both = ("scores", "pairs")
    assert make_study(folder, made, StudySettings(kinds=both)).digest == study.digest
    study = make_study(folder, made, StudySettings(kinds=both, seed=2))
    Ratings(folder, study).join("Anna")
    with pytest.raises(
        ValueError, match=r"study = .*: holds ratings of other films or rules; give a new folder, .*study-2 works"
    ):
        make_study(folder, made, StudySettings(kinds=both, seed=3))
    assert load_study(folder) == study
    make_study(folder, made, StudySettings(kinds=both, seed=2))
    assert load_study(folder).films == study.films, "the same films keep their names"
    (folder / "study.json").unlink()
    with pytest.raises(ValueError, match=r"holds ratings but no study\.json"):
        make_study(folder, made, StudySettings())


@pytest.mark.parametrize(
    ("settings", "models", "rule"),
    [
        ({"kinds": ("marks",)}, 2, "kind = 'marks': must be one of scores, pairs"),
        ({"kinds": ("pairs", "pairs")}, 2, "kind = pairs, pairs: must name one or more, each once"),
        ({"axes": ("beauty",)}, 2, "axis = 'beauty': must be one of instruction_adherence, "),
        ({"axes": ("overall",)}, 2, "axis = overall: is asked of pairs alone; add one of"),
        ({"medium": "v2v"}, 2, "medium = 'v2v': must be one of t2v, i2v"),
        ({"repeats": -1}, 2, "repeats = -1: must be 0 or more"),
        ({"prompts_per_rater": 0}, 2, "prompts_per_rater = 0: must be 1 or more"),
        ({"kinds": ("pairs",)}, 1, "films = 1 folders: pairs need two models or more"),
    ],
)
def test_wrong_settings_are_refused_before_a_film_is_read(tmp_path, settings, models, rule):
    with pytest.raises(ValueError, match=rule):
        make_study(tmp_path / "study", {str(n): tmp_path / "nowhere" for n in range(models)}, StudySettings(**settings))
    assert not (tmp_path / "study").exists()


def test_folders_that_are_none_or_share_nothing_are_refused(tmp_path):
    made = films(tmp_path)
    with pytest.raises(ValueError, match=r"films = '.*nowhere': no such folder"):
        make_study(tmp_path / "study", {"a": tmp_path / "nowhere"}, StudySettings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"films = .*empty: holds no film that can be shown"):
        make_study(tmp_path / "study", {"a": tmp_path / "empty"}, StudySettings())
    for path in made["new"].glob("film-*"):
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(ValueError, match="no prompt has a film of every model; film-0: is left out"):
        make_study(tmp_path / "study", made, StudySettings())


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "is no JSON; put back"),
        ('{"version": 2}', "put back what `everreel rate make` wrote"),
        (None, r"has no study\.json; make one with: everreel rate make"),
    ],
)
def test_a_folder_without_a_study_is_refused(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=rule):
        load_study(tmp_path)
