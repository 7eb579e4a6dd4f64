"""A journal is replaced whole: what a power cut leaves of one that was being written does no harm."""

import pytest

from everreel.film import making
from everreel.film.journal import journal_path, read_journal
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
