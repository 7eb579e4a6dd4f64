"""Records of clips: what is written comes back, and a torn line is as if it were not there."""

import math
from pathlib import Path

import pytest

from everreel.curate.record import Clip, Crop, Film, append_film, read_clips, read_films, write_clips


def clip(source="a.mp4", **values):
    return Clip(source, 3, 20, 0.3, 2.3, 10.0, 64, 48, **values)


def test_a_clip_comes_back_as_it_was(tmp_path: Path) -> None:
    full = clip(
        crop=Crop(1, 2, 30, 40),
        measures={"luma": 0.25},
        hashes=("00ff",),
        captions=("a fox",),
        concept="Animal",
        verdict="dropped",
        stage="360p",
        reasons=("static", "short"),
        like="b.mp4#0+20",
        thumbnail="thumbnails/a.jpg",
    )
    write_clips(tmp_path / "v.jsonl", [full, clip()])
    assert read_clips(tmp_path / "v.jsonl") == [full, clip()]


def test_what_is_not_known_stays_not_known(tmp_path: Path) -> None:
    write_clips(tmp_path / "v.jsonl", [clip(measures={"shake": math.nan})])
    assert math.isnan(read_clips(tmp_path / "v.jsonl")[0].measures["shake"])


def test_a_torn_line_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    first, second = Film("a", 1, (clip("a"),), settings="x"), Film("b", 2, problem="is empty")
    append_film(path, first)
    whole = path.read_bytes()
    append_film(path, second)
    path.write_bytes(path.read_bytes()[:-5])
    assert read_films(path) == {"a": first}
    append_film(path, second)
    assert read_films(path) == {"a": first, "b": second}
    assert path.read_bytes().startswith(whole)


def test_the_last_line_of_a_film_counts(tmp_path: Path) -> None:
    for size in (1, 2):
        append_film(tmp_path / "c", Film("a", size))
    assert read_films(tmp_path / "c")["a"].num_bytes == 2


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text('{"source": "a"}\n')
    with pytest.raises(ValueError, match="is no clip"):
        read_clips(path)
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1 is no JSON"):
        read_clips(path)
    with pytest.raises(ValueError, match="no such file"):
        read_clips(tmp_path / "none")
