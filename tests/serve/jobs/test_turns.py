"""Whose turn it is between two pieces of an endless film, and what is not begun when its owner has no bytes left."""

import pytest

from everreel.film.control import Control
from everreel.media import Video
from everreel.serve.jobs.job import Failure, LostJobError, Owner, Quota, QuotaError
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.produce import Film
from everreel.serve.jobs.queue import SqliteQueue
from tests.serve.jobs.conftest import SMALL
from tests.serve.jobs.orders import BEN, owner, put, report

LONG = {"num_frames": 57, "base_num_frames": 25, "overlap_history": 9}


@pytest.fixture
def queue(tmp_path):
    queue = SqliteQueue(tmp_path)
    yield queue
    queue.close()


def take(queue, *turns):
    """Each worker's film gives way to whoever waits; the ids of those that are claimed next, one after the other."""
    claimed = []
    for job in turns:
        assert queue.give_way(job.id, "maker")
        claimed.append(queue.claim("maker"))
    return [job.id for job in claimed]


def test_a_film_gives_way_to_those_that_wait(queue):
    endless = put(queue, endless=True)
    queue.claim("maker")
    queue.report(endless.id, "maker", report(480))
    assert not queue.give_way(endless.id, "maker"), "nobody waits"
    assert queue.get(endless.id).status == "in_progress"
    waiting = put(queue, BEN)
    assert not queue.give_way(endless.id, "maker", ["another model"])
    assert queue.give_way(endless.id, "maker", [endless.order.model])
    rests = queue.get(endless.id)
    assert (rests.status, rests.wanted, rests.attempts, rests.num_frames) == ("queued", "run", 0, 480)
    assert rests.started_at
    with pytest.raises(LostJobError):
        queue.give_way(endless.id, "maker")
    assert [queue.claim("maker").id for _ in range(2)] == [waiting.id, endless.id]


def test_films_that_give_way_take_turns_with_all_others(queue):
    first, second, third = (put(queue, seed=seed, endless=True) for seed in range(3))
    queue.claim("maker")
    order = take(queue, first, second, third, first)
    assert order == [second.id, third.id, first.id, second.id], "of one owner the oldest is not always first"
    finite = put(queue, seed=3)
    assert take(queue, second, third) == [third.id, first.id] and queue.claim("maker").id == finite.id


def test_a_film_that_gives_way_was_its_owners_turn(queue):
    endless = put(queue, endless=True)
    queue.claim("maker")
    at_work, waiting = put(queue, BEN), put(queue, BEN)
    assert queue.claim("other").id == at_work.id, "Ben had a turn after Anna's began"
    assert take(queue, endless) == [waiting.id]


def test_a_film_gives_way_to_none_that_is_less_urgent(queue):
    endless = put(queue, endless=True, priority=1)
    queue.claim("maker")
    put(queue, BEN)
    assert not queue.give_way(endless.id, "maker"), "it would win again at once"
    put(queue, BEN, priority=1)
    queue.want(endless.id, "pause")
    assert not queue.give_way(endless.id, "maker"), "its worker will hear what is wanted"
    queue.want(endless.id, "run")
    assert queue.give_way(endless.id, "maker")


def test_no_film_is_gone_on_with_when_no_bytes_are_left(queue):
    paused, failed, big = (put(queue, owner(bytes=1000), seed=seed) for seed in range(3))
    queue.want(paused.id, "pause")
    assert queue.claim("maker").id == failed.id and queue.claim("maker").id == big.id
    queue.finish(failed.id, "maker", "failed", Failure("generation_failed", "too many pixels"))
    queue.check_bytes("anna", 999)
    queue.check_bytes("nobody", 10**30)
    with pytest.raises(QuotaError, match="bytes = 1000: you may have 1000 of films and uploads; delete some"):
        queue.check_bytes("anna", 1000)
    queue.report(big.id, "maker", report(10))
    for job in (paused, failed):
        with pytest.raises(QuotaError, match="bytes = 1000: you may have 1000 of films and uploads; delete some"):
            queue.want(job.id, "run")
    queue.finish(big.id, "maker", "completed")
    queue.remove(big.id)
    assert all(queue.want(job.id, "run").status == "queued" for job in (paused, failed))


@pytest.fixture
def pieces(monkeypatch):
    """Pieces of a second."""
    monkeypatch.setattr("everreel.serve.jobs.order.PIECE_SECONDS", 1)


def endless(home, name, seconds=3):
    """An endless film that ends with its owner's seconds."""
    order = make_order(**SMALL, endless=True, fps=16)
    return home.jobs.submit(order, Owner(name, Quota(seconds=seconds)))[0]


def test_an_endless_film_lets_others_pass_between_two_pieces(home, pieces, monkeypatch):
    lone = endless(home, "ben")
    whole = home.work()
    assert whole.status == "completed", "nobody else waits, so it is not interrupted"
    assert whole.num_frames == 48, "and it is not longer than its owner may have"
    film = endless(home, "anna")
    others, give_way = [], home.queue.give_way

    def others_come(*given):
        others.extend(home.order() for _ in range(2 - len(others)))
        return give_way(*given)

    monkeypatch.setattr(home.queue, "give_way", others_come)
    for frames in (16, 32):
        rests = home.work()
        assert (rests.id, rests.status, rests.num_frames, rests.attempts) == (film.id, "queued", frames, 0)
        assert rests.num_bytes == home.film(film).stat().st_size and Video(home.film(film)).num_frames == frames
        other = home.work()
        assert other.id == others[frames // 16 - 1].id and other.status == "completed"
    assert home.work().status == "completed"
    assert home.film(film).read_bytes() == home.film(lone).read_bytes()


def test_an_endless_film_that_is_complete_gives_no_way(home, pieces):
    film = endless(home, "anna", seconds=1)
    other = home.order()
    assert home.work().id == film.id and home.queue.get(film.id).status == "completed"
    assert home.queue.get(other.id).status == "queued"


def test_an_endless_film_has_a_piece_in_each_turn_however_many_wait(home, pieces):
    job = endless(home, "anna")
    film = Film(job, home.store, home.models, lambda: 3 - home_frames(home, job) / 16)
    made = [film.make(Control(), lambda *_: None, lambda: True) for _ in range(3)]
    assert made == [False, False, True] and home_frames(home, job) == 48


def home_frames(home, job):
    return Film(job, home.store, home.models, lambda: None).standing()[0]


@pytest.mark.parametrize("uploaded", [0, 400])
def test_a_film_is_not_begun_when_its_owner_has_no_bytes_left(home, monkeypatch, uploaded):
    """All of them were ordered when there was nothing yet."""
    monkeypatch.setattr(home.store, "uploads", lambda owner: uploaded)
    orders = [make_order(**SMALL | {"num_frames": 9, "seed": seed}) for seed in range(3)]
    anna = Owner("anna", Quota(bytes=500))
    first, second, third = (home.jobs.submit(order, anna)[0] for order in orders)
    assert home.work().status == "completed"
    kept = home.film(first).read_bytes()
    for job in (second, third):
        ended = home.work()
        assert (ended.id, ended.status, ended.failure.code) == (job.id, "failed", "invalid_request")
        bytes_used = len(kept) + uploaded
        said = f"bytes = {bytes_used}: you may have 500 of films and uploads; delete some, then go on with this film"
        assert ended.failure.message == said and not home.film(job).exists()
    assert home.film(first).read_bytes() == kept
    home.queue.remove(first.id)
    home.queue.want(second.id, "run")
    assert home.work().status == "completed"


def test_a_film_that_was_begun_is_finished_whatever_its_owner_has_by_then(home, monkeypatch):
    whole, job = home.order(**LONG), home.order(**LONG)
    assert home.work().status == "completed"
    with monkeypatch.context() as patch:
        patch.setattr("everreel.serve.jobs.worker.REPORT", 0.0)
        patch.setattr(home.queue, "report", stopping(home.queue, job.id))
        assert home.work().status == "paused"
    assert home_frames(home, job)
    home.queue.want(job.id, "run")
    monkeypatch.setattr(home.queue, "check_bytes", refuse)
    assert home.work().status == "completed"
    assert home.film(job).read_bytes() == home.film(whole).read_bytes()


def stopping(queue, job_id):
    """Let the film be paused when it has frames, and another wait."""
    report = queue.report

    def reporting(name, worker, said):
        if said.num_frames:
            queue.want(job_id, "pause")
            queue.counts = lambda: {"queued": 1}
        return report(name, worker, said)

    return reporting


def refuse(*_):
    raise QuotaError("bytes = 1")
