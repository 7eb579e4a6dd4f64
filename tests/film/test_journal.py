"""A journal is replaced whole, so that a power cut does no harm, and says by which rules its film was begun."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from everreel.film import making
from everreel.film.journal import journal_path, read_journal
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.media import Video
from tests.film.test_making import SMALL, Stopped, make, stop_after


@pytest.mark.parametrize("left", ["torn", "empty", "stale", "longer"])
def test_a_journal_that_was_being_written_does_no_harm(pipe, tmp_path, left):
    request = make_request(**SMALL, num_frames=58)
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, request), whole)
    part = journal_path(film).with_name(journal_path(film).name + ".part")
    stale = None
    for count in (4, 6):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stop_after(patch, count)
            make(pipe, making.begin(pipe, request), film)
        stale, written = stale or journal_path(film).read_bytes(), journal_path(film).read_bytes()
        if count == 4:
            film.unlink()
    assert stale != written
    contents = {"torn": written[: len(written) // 2], "empty": b"", "stale": stale, "longer": written + bytes(10**6)}
    part.write_bytes(contents[left])
    assert read_journal(film).num_frames <= Video(film).num_frames
    make(pipe, read_journal(film), film)
    assert (
        film.read_bytes() == whole.read_bytes() and journal_path(film).read_bytes() == journal_path(whole).read_bytes()
    )
    assert not part.exists()


@pytest.mark.parametrize("options", [{}, {"schedule": "rolling"}])
def test_a_film_begun_before_long_ones_rolled_goes_on_as_it_was_begun(tiny_folder, tmp_path, options):
    """Its journal knows of no rules. What a model recommends for long films was another way, and other noise; and films
    that rolled were not cached unless that was asked for.
    """
    old = model_options(model=str(tiny_folder), device="cpu", dtype="float32").of_rules(1)
    pipe, asked = VideoPipeline.load(old), make_request(**SMALL, num_frames=189, **options)
    before = asked.model_copy(update={"cache": False}) if options else asked
    assert pipe.card.schedule == "blockwise" and pipe.card.addnoise_condition == 20
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, before), whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 9)
        make(pipe, making.begin(pipe, before), film)
    path = journal_path(film)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["everreel"])
    assert facts["maker"].pop("rules") == 1
    facts["request"]["cache"] = None
    save_file(load_file(path), path, metadata={"everreel": json.dumps(facts)})
    assert 0 < read_journal(film).num_frames < 189
    making.resume(film)
    assert film.read_bytes() == whole.read_bytes()
    assert making.options_of(read_journal(film).maker).card().schedule == "blockwise"  # and so is what follows it
