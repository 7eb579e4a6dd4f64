"""A film that was stopped goes on from where it stands, as if it had been asked for at that length."""

from dataclasses import replace

import numpy as np
import pytest

from everreel.film import making
from everreel.film.journal import journal_path, read_journal
from everreel.film.plan import make_plan
from everreel.film.request import RequestError, make_request
from everreel.media import Video
from tests.film.test_making import FILMS, SMALL, Stopped, make, more_frames, stop_after


@pytest.mark.parametrize("kind", ["asynchronous", "windows encoded again", "rolling with a cache and a sink"])
def test_a_stopped_film_goes_on_from_where_it_stands(pipe, tmp_path, kind):
    film = tmp_path / "film.mp4"
    cut = stopped_early(pipe, making.begin(pipe, make_request(**SMALL, **FILMS[kind])), film, 5)
    before = Video(film).frames[: cut.num_frames]
    make(pipe, making.go_on_with(pipe, cut, more_frames(18), told=False), film)
    after = Video(film).frames[:]
    assert len(after) == cut.num_frames + 18 and np.array_equal(after[: cut.num_frames], before)


@pytest.mark.parametrize("first", [62, 21], ids=["a film", "a grown film"])
def test_what_was_in_the_making_leaves_no_trace(pipe, tmp_path, first):
    """A film whose blocks do not depend on its length becomes what it would be, asked for as long as it came to."""
    film, short = tmp_path / "film.mp4", tmp_path / "short.mp4"
    begun = making.begin(pipe, make_request(**SMALL, num_frames=first))
    if first == 21:
        start = make(pipe, begun, film)
        short.write_bytes(film.read_bytes())
        journal_path(short).write_bytes(journal_path(film).read_bytes())
        begun = making.go_on_with(pipe, start, more_frames(62), told=False)
    cut = stopped_early(pipe, begun, film, 9)
    assert make_plan(cut.request, pipe.card).is_long
    make(pipe, making.go_on_with(pipe, cut, more_frames(18), told=False), film)
    asked = replace(begun, request=begun.request.model_copy(update={"num_frames": cut.request.num_frames}))
    make(pipe, making.go_on_with(pipe, make(pipe, asked, short), more_frames(18), told=False), short)
    assert film.read_bytes() == short.read_bytes()


def stopped_early(pipe, begun, film, count):
    """The journal of a film that was stopped, as of one that is finished."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, count)
        make(pipe, begun, film)
    stopped = read_journal(film)
    cut = making.cut_short(stopped)
    assert not stopped.finished and cut.finished and cut.num_frames == stopped.num_frames
    return cut


def test_a_film_without_frames_cannot_end_there(pipe, tmp_path):
    with pytest.raises(RequestError, match="has 0 of its frames and cannot end there"):
        making.cut_short(making.begin(pipe, make_request(**SMALL, num_frames=21)))
