"""Films with one fault each: each is dropped for its own reason, clean ones stay, nothing is made twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from everreel.answers import UnreachableError
from everreel.curate import run as running
from everreel.curate.filters import thresholds_of
from everreel.curate.measures import ToolError, Tools
from everreel.curate.record import Clip, read_clips, read_films
from everreel.curate.run import CurateSettings, Curation, NothingKept, judged, too_many
from everreel.film.source import SourceFilm
from tests.curate.clips import FRAMES, letterboxed, mosaicked, moving, put, scaled
from tests.film.films import cut

NO_TEXT = [("text", "off"), ("covered", "off"), ("stretched", "off")]
SMALL = [("small", 64), ("short", 1), *NO_TEXT]


def settings(*changes, stage="360p", **more):
    return CurateSettings(stage, thresholds_of(stage, [*SMALL, *changes]), **more)


def no_text():
    raise AssertionError("nobody asked for words")


def curate(source, output, *changes, **more):
    return Curation(source, output, settings(*changes, **more), Tools(no_text))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    clean = moving()
    put(folder / "clean.mp4", clean)
    (folder / "clean.txt").write_text("coloured patches go by")
    three = [moving(40, seed=1), moving(31, seed=2, speed=(-0.5, 1)), moving(37, seed=3, speed=(0, -1))]
    put(folder / "three.mp4", np.concatenate(three))
    put(folder / "black.mp4", np.zeros_like(clean))
    put(folder / "static.mp4", np.repeat(moving(1, seed=4), FRAMES, 0))
    put(folder / "letterboxed.mp4", letterboxed(moving(seed=5)))
    put(folder / "mosaic.mp4", mosaicked(moving(seed=6)))
    put(folder / "again.mp4", scaled(clean, 72, 120), crf=28)
    put(folder / "slowed.mp4", np.repeat(moving(24, seed=8, speed=(1, 3)), 2, 0))
    put(folder / "shaky.mp4", moving(seed=9, shake=9))
    cut(put(folder / "corrupt.mp4", moving(seed=10)), 9000).replace(folder / "corrupt.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "still.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def done(films: Path, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("out")
    return output, curate(films, output).make()


def test_each_is_dropped_for_its_own_reason(done) -> None:
    reasons = {clip.source: clip.reasons[0] for clip in done[1].clips if not clip.kept}
    expected = {"black": "black", "static": "static", "letterboxed": "bars", "mosaic": "mosaic"}
    expected |= {"again": "duplicate", "slowed": "slowed", "shaky": "shaky"}
    assert reasons == {f"{name}.mp4": reason for name, reason in expected.items()}


def test_clean_clips_stay_and_a_film_is_cut_at_its_cuts(done) -> None:
    kept = {(clip.source, clip.first, clip.frames) for clip in done[1].kept}
    assert kept == {("clean.mp4", 0, 48), ("three.mp4", 0, 40), ("three.mp4", 40, 31), ("three.mp4", 71, 37)}


def test_a_duplicate_names_the_larger_one(done) -> None:
    assert {clip.source: clip.like for clip in done[1].clips if clip.like} == {"again.mp4": "clean.mp4#0+48"}


def test_what_cannot_be_used_is_listed(done) -> None:
    problems = {missed.name: missed.reason for missed in done[1].skipped}
    assert "cut off" in problems["corrupt.mp4"]
    assert problems["empty.mp4"] == "is empty: 0 bytes"
    assert "picture" in problems["still.png"]


def test_a_clip_dropped_early_costs_no_more(done) -> None:
    measures = {clip.source: set(clip.measures) for clip in done[1].clips}
    assert "sharpness" not in measures["black.mp4"]
    assert "sharpness" in measures["mosaic.mp4"] and "motion" not in measures["mosaic.mp4"]
    assert "motion" in measures["shaky.mp4"] and "flicker" not in measures["shaky.mp4"]


def test_every_clip_has_a_thumbnail(done) -> None:
    output, curated = done
    assert all((output / clip.thumbnail).is_file() for clip in curated.clips)


def test_other_thresholds_judge_anew_without_measuring(films: Path, done, monkeypatch) -> None:
    output, before = done
    for work in ("scan", "measure"):
        monkeypatch.setattr(running, work, lambda *_: pytest.fail("measured again"))
    stricter = curate(films, output, ("lifeless", 0.4)).make()
    assert stricter.known == len(read_films(output / "clips.jsonl"))
    assert {clip.name for clip in stricter.kept} < {clip.name for clip in before.kept}
    assert curate(films, output).make().clips == before.clips == tuple(read_clips(output / "verdicts.jsonl"))


def test_looser_thresholds_measure_only_what_is_missing(films: Path, done, tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "clips.jsonl").write_bytes((done[0] / "clips.jsonl").read_bytes())
    asked = []
    measure = running.measure
    monkeypatch.setattr(running, "measure", lambda group, *rest: asked.append(group) or measure(group, *rest))
    loose = curate(films, output, ("mosaic", "off"), ("blocky", "off")).make()
    assert asked == ["motion", "quality"]
    assert "mosaic.mp4" in {clip.source for clip in loose.kept}


def test_a_run_that_is_stopped_loses_the_film_it_was_at(films: Path, done, tmp_path: Path, monkeypatch) -> None:
    def stop(film, cutter):
        if film.path.name == "clean.mp4":
            raise KeyboardInterrupt
        return scan(film, cutter)

    scan = running.scan
    monkeypatch.setattr(running, "scan", stop)
    with pytest.raises(KeyboardInterrupt):
        curate(films, tmp_path).make()
    assert list(read_films(tmp_path / "clips.jsonl")) == ["again.mp4", "black.mp4"]
    with (tmp_path / "clips.jsonl").open("a") as file:
        file.write('{"source": "clean.mp4", "by')  # as a process leaves it that is killed while it writes
    read = []
    monkeypatch.setattr(running, "scan", lambda film, cutter: read.append(film.path.name) or scan(film, cutter))
    (tmp_path / "few").mkdir()
    for name in ("again.mp4", "black.mp4", "clean.mp4"):
        (tmp_path / "few" / name).hardlink_to(films / name)
    assert curate(tmp_path / "few", tmp_path).make().known == 2
    assert read == ["clean.mp4"]


def test_the_table_of_what_is_kept_has_spans_and_captions(films: Path, done) -> None:
    rows = [json.loads(line) for line in (done[0] / "kept.jsonl").read_text().splitlines()]
    clean, first, second, _ = rows
    assert (done[0] / clean["file_name"]).samefile(films / "clean.mp4")
    assert clean["text"] == ["coloured patches go by"] and "text" not in first
    assert (second["start"], second["stop"]) == pytest.approx((40 / 24, 71 / 24))


def test_clips_are_written_to_files(films: Path, done, tmp_path: Path) -> None:
    output, curated = done
    run = curate(films, output)
    second = [clip for clip in curated.kept if clip.first == 40]
    run.write_clips(second)
    row = json.loads((output / "kept.jsonl").read_text())
    assert len(SourceFilm.open(output / row["file_name"]).timeline.shown_at) == 31
    assert "start" not in row


def test_a_filter_that_drops_everything_is_said_with_its_figures(films: Path, done) -> None:
    with pytest.raises(NothingKept, match="small drops 11") as caught:
        curate(films, done[0], ("small", 999)).make()
    small = next(line for line in caught.value.lines if line.startswith("small"))
    assert small.split() == ["small", "11", "11", "999", "small=96"]
    nearest = curate(films, done[0], ("small", 96)).make()
    assert nearest.kept
    curate(films, done[0]).make()


def test_a_folder_without_films_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no film"):
        curate(tmp_path, tmp_path / "out")


def named(name: str, **more) -> Clip:
    return Clip(name, 0, 48, 0.0, 2.0, 24.0, 160, 96, **more)


def test_only_wanted_sources_and_selected_clips_stay() -> None:
    clips = [named("a", source_type="ugc"), named("b", source_type="film"), named("c")]
    found = judged(clips, settings(source_types=("film",), selected=frozenset({"a#0+48", "b#0+48"})))
    assert [clip.reasons for clip in found] == [("source",), (), ("unselected",)]


def test_no_concept_takes_more_than_its_share() -> None:
    people = [named(f"p{n}", concept="Human", measures={"aesthetic": n / 10}) for n in range(8)]
    others = [named(f"a{n}", concept="Animal") for n in range(3)]
    dropped = too_many([*people, *others], 0.5)
    assert dropped == {"p0#0+48", "p1#0+48", "p2#0+48", "p3#0+48", "p4#0+48"}
    assert too_many(people, 0.5) == set()
    assert too_many([*people, *others], None) == set()


def test_words_are_looked_for_when_a_stage_asks(films: Path, done, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "clean.mp4").hardlink_to(films / "clean.mp4")
    from everreel.curate.rectangle import Rectangle

    def words(frame_HWC):
        height, width = frame_HWC.shape[:2]
        return [Rectangle(round(0.4 * height), round(0.3 * width), round(0.3 * height), round(0.4 * width))]

    asking = replace(settings(), thresholds=thresholds_of("360p", SMALL[:2]))
    with pytest.raises(NothingKept, match="text drops 1"):
        Curation(tmp_path / "films", tmp_path / "out", asking, Tools(lambda: words)).make()


class Away:
    """A captioner at an address where nobody answers."""

    def caption(self, frames, fps):
        raise UnreachableError("endpoint = http://nowhere: no answer")


def unknown():
    raise ValueError("captioner = 'foo': is no captioner")


@pytest.mark.parametrize(("captioner", "problem"), [(Away, UnreachableError), (unknown, ToolError)])
def test_a_captioner_that_is_not_there_is_no_fault_of_a_film(films: Path, tmp_path: Path, captioner, problem) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "clean.mp4").hardlink_to(films / "clean.mp4")
    run = Curation(tmp_path / "films", tmp_path / "out", settings(captioner="x"), Tools(no_text, captioner))
    with pytest.raises(problem, match=r"no answer|is no captioner"):
        run.make()
    assert not read_films(tmp_path / "out" / "clips.jsonl")


def test_a_file_in_the_place_of_the_folder_is_named(films: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"output = .*: is a file"):
        curate(films, tmp_path / "out")
