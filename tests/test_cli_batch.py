"""`everreel batch`: films in their order, each to be gone on with; what is wrong is said before a model is loaded."""

import json

import pytest

from everreel.film.journal import read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.media import FilmWriter, Video
from tests.test_cli import Times, no_space

SMALL = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a fox"}
LINES = [SMALL | {"num_frames": 5}, SMALL | {"num_frames": 30, "causal_block_size": 3}, SMALL | {"output": "c.mp4"}]
LINES[2] |= {"num_frames": 9, "seed": 2}
NAMES = ["0001-a-fox.mp4", "0002-a-fox.mp4", "c.mp4"]


@pytest.fixture
def batch(run, tiny_folder, tmp_path, monkeypatch):
    """Runs a batch of lines into a folder of this name; counts in `loaded` how often a model was loaded."""
    monkeypatch.chdir(tmp_path)
    load = VideoPipeline.load

    def counted(*arguments, **options):
        batch.loaded += 1
        return load(*arguments, **options)

    monkeypatch.setattr(VideoPipeline, "load", counted)

    def batch(lines, folder="films", *flags):
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
        batch.loaded = 0
        return run("batch", "r.jsonl", "-o", folder, "--model", tiny_folder, "--dtype", "float32", *flags)

    return batch


def test_films_are_made_in_their_order_by_one_model(batch, tmp_path):
    code, out, err = batch(LINES)
    assert code == 0 and batch.loaded == 1
    said = [line for line in out.splitlines() if line.startswith("film ")]
    assert said[0].startswith("film 1/3: films/0001-a-fox.mp4: 5 frames of 48x32 at 24 fps")
    assert [line.split(":")[0] for line in said] == ["film 1/3", "film 2/3", "film 3/3"]
    assert [line.split(":")[0] for line in out.splitlines()[1::2]] == [f"wrote films/{name}" for name in NAMES]
    assert "block 1/1 step 2/2" in err
    assert [Video(tmp_path / "films" / name).num_frames for name in NAMES] == [5, 30, 9]
    code, out, err = batch(LINES)
    assert (code, batch.loaded, err) == (0, 0, "")
    assert out.splitlines() == [f"film {i}/3: films/{name} is finished" for i, name in enumerate(NAMES, 1)]


@pytest.mark.parametrize(
    ("error", "reason"), [(KeyboardInterrupt(), "stopped"), (no_space(), "[Errno 28] No space left on device")]
)
def test_a_batch_that_was_stopped_goes_on_with_the_same_command(batch, tmp_path, monkeypatch, error, reason):
    assert batch(LINES, "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 4, error))  # the third block of the second film
        code, out, err = batch(LINES)
    kept = "films/0002-a-fox.mp4 holds the first 21 frames; 1 of 3 films are done; go on with the same command"
    assert code == 2 and err.splitlines()[-1] == f"everreel: {reason}: {kept}"
    assert not (tmp_path / "films" / "c.mp4").exists()
    assert read_journal(tmp_path / "films" / NAMES[1]).num_frames == 21
    code, out, err = batch(LINES)
    assert code == 0 and out.splitlines()[0] == "film 1/3: films/0001-a-fox.mp4 is finished"
    assert "block 1/3" not in err and "block 3/3" in err
    for name in NAMES:
        assert (tmp_path / "films" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_film_that_fails_stops_the_batch(batch, tmp_path, monkeypatch):
    """And Ctrl-C while the model is loaded, which no film has to do with."""
    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 2, MemoryError()))
        code, _, err = batch(LINES)
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("everreel: memory: ") and "; 1 of 3 films are done; " in last
    monkeypatch.setattr(VideoPipeline, "load", Times(None, 1, KeyboardInterrupt()))
    code, _, err = batch(LINES)
    assert (code, err) == (2, "everreel: stopped; 1 of 3 films are done; go on with the same command\n")


def test_nothing_is_made_when_a_line_is_bad(batch, tmp_path):
    code, out, err = batch([LINES[0], SMALL | {"num_frames": 0}, LINES[2], SMALL | {"sed": 1}])
    assert (code, out, batch.loaded) == (2, "", 0) and not (tmp_path / "films").exists()
    assert err.splitlines() == [
        "everreel: r.jsonl:2: num_frames = 0: must be at least 1; nearest that works: 1",
        "everreel: r.jsonl:4: 'sed' is no field of a request; nearest that works: 'seed'",
    ]
    for flags, message in (
        (("--dtype", "int8"), "everreel: dtype = 'int8': must be one of "),
        (("--device", "cuba"), "everreel: device = cuba: is not on this machine"),
        (("--model", "tinny"), "everreel: model = 'tinny': must be one of "),
    ):
        code, out, err = batch(LINES, "films", *flags)
        assert (code, out, batch.loaded) == (2, "", 0) and err.startswith(message) and err.count("\n") == 1


def test_a_line_that_was_edited_is_refused(batch, tmp_path):
    batch(LINES[2:])
    before = (tmp_path / "films" / "c.mp4").read_bytes()
    code, _, err = batch([LINES[0], LINES[2] | {"seed": 3}])
    assert code == 2 and batch.loaded == 0 and (tmp_path / "films" / "c.mp4").read_bytes() == before
    said = "was made with seed = 2, and not 3; remove it or choose another output"
    assert err == f"everreel: r.jsonl:2: output = films/c.mp4: {said}\n"
