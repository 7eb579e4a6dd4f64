"""The queue in a file: what it takes, whose turn it is, what is wanted of a film, and what is left of a lost worker."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everreel.film.request import RequestError
from everreel.serve.jobs import queue as module
from everreel.serve.jobs.job import (
    ConflictError,
    Failure,
    LostJobError,
    NotFoundError,
    Once,
    QuotaError,
    new_id,
)
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.queue import SqliteQueue
from tests.serve.jobs.orders import ANNA, BEN, order, owner, put, report

ONCE = Once("\ud800 ключ" * 1000, "a digest")
FAILURE = Failure("generation_failed", "too many pixels")


@pytest.fixture
def queue(tmp_path):
    queue = SqliteQueue(tmp_path)
    yield queue
    queue.close()


def made(queue, whose=ANNA, frames=24, **values):
    """A completed film."""
    job = put(queue, whose, **values)
    claimed = queue.claim("maker")
    assert claimed.id == job.id
    queue.report(job.id, "maker", report(frames))
    return queue.finish(job.id, "maker", "completed")


def in_status(queue, status):
    job = put(queue)
    if status == "paused":
        return queue.want(job.id, "pause")
    if status != "queued":
        queue.claim("maker")
    if status in ("completed", "failed"):
        return queue.finish(job.id, "maker", status, FAILURE if status == "failed" else None)
    return queue.want(job.id, "cancel") and queue.finish(job.id, "maker", status) if status == "cancelled" else job


def test_a_job_is_taken_on(queue):
    job = put(queue, prompt="a red fox", seed=3, priority=2)
    assert (job.status, job.wanted, job.owner, job.priority, job.num_frames) == ("queued", "run", "anna", 2, 0)
    assert queue.get(job.id) == job == queue.get(job.id, "anna")
    assert job.order == order(seed=3)
    with pytest.raises(NotFoundError):
        queue.get(job.id, "ben")
    for wrong in ("video_", new_id("video"), "../../etc", "\ud800", job.id + "\n", "x" * 10**6):
        with pytest.raises(NotFoundError, match=r"^video = ") as error:
            queue.get(wrong)
        assert len(str(error.value)) < 600


upload_ids = st.integers(0, 2**64).map(lambda number: f"file_{number:032x}")
orders = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)},
    optional={
        "negative_prompt": st.text(st.characters(codec="utf-8")),
        "story": st.just({7: "a swan", 12: "a fox"}),
        "seconds": st.floats(0.04, 400_000),
        "fps": st.sampled_from([16, 24]),
        "guidance_scale": st.floats(1, 50),
        "shift": st.floats(0.01, 100) | st.none(),
        "guidance_level": st.floats(0, 1) | st.none(),
        "guidance_until": st.floats(0, 1) | st.none(),
        "skip_layer_guidance_scale": st.floats(0, 20),
        "skip_guidance_layers": st.sets(st.integers(0, 99), min_size=1).map(sorted).map(tuple) | st.none(),
        "step_cache": st.just(0) | st.floats(0, 1),
        "seed": st.integers(0, 2**62),
        "loop": st.just(False),
        "image": upload_ids,
        "keyframes": st.dictionaries(st.integers(0, 10**7), upload_ids, max_size=3),
        "enhance": st.booleans(),
        "enhanced": st.text(st.characters(codec="utf-8")),
        "enhanced_notes": st.dictionaries(st.integers(0, 10**7), st.text(st.characters(codec="utf-8")), max_size=3),
        "remixed_from": st.integers(0, 9).map(lambda number: f"video_{number:032x}"),
    },
)


@settings(deadline=None, max_examples=150)
@given(orders)
def test_an_order_is_read_as_it_was_written(tmp_path_factory, values):
    asked = make_order(**values)
    # As a request that says itself what others leave open.
    explicit = asked.model_copy(update={"request": asked.request.model_copy(update={"anchor_color": None})})
    queue = SqliteQueue(tmp_path_factory.getbasetemp() / "orders")
    for given_order in (asked, explicit):
        read = queue.get(queue.put(given_order, ANNA, seconds=1)[0].id).order
        assert read == given_order and read.uploads == given_order.uploads
        assert read.model_fields_set == given_order.model_fields_set
        assert read.request.model_fields_set == given_order.request.model_fields_set
    queue.close()


def test_a_key_of_idempotency_is_used_once(queue):
    first, new = queue.put(order(), ANNA, seconds=1, once=ONCE)
    assert new
    for same in (order(), order(loop=False)):
        assert queue.put(same, ANNA, seconds=1, once=ONCE) == (first, False)
    with pytest.raises(ConflictError, match=f"idempotency_key: is that of {first.id}"):
        queue.put(order(seed=1), ANNA, seconds=1, once=Once(ONCE.key, "other"))
    assert queue.put(order(), BEN, seconds=1, once=ONCE)[1], "another owner's are other keys"
    assert queue.put(order(), ANNA, seconds=1)[1] and queue.put(order(), ANNA, seconds=1)[1], "no key"
    full = owner(films=1)
    assert not queue.put(order(), full, seconds=1, once=ONCE)[1], "nothing new is asked for"
    queue.remove(first.id)
    assert queue.put(order(seed=1), ANNA, seconds=1, once=ONCE)[1]


def test_quotas(queue):
    few = owner(films=2, seconds=5)
    put(queue, few, seconds=2)
    with pytest.raises(QuotaError, match="seconds = 4: you may have 5 s of film and have 2 s; 3 works"):
        put(queue, few, seconds=4)
    second = put(queue, few, seconds=3)
    assert queue.seconds_left("anna") == 0 and queue.usage("anna").films == 2
    with pytest.raises(QuotaError, match="films = 2: you may have 2 at once; delete some"):
        put(queue, few, seconds=0)
    put(queue, BEN, seconds=4)
    assert queue.seconds_left("ben") is None and queue.seconds_left("nobody") is None
    queue.remove(second.id)
    assert queue.seconds_left("anna") == 3
    with pytest.raises(QuotaError, match="bytes = 1000: you may have 1000 of films and uploads"):
        queue.put(order(), owner(bytes=1000), seconds=1, uploaded=1000)


def test_of_a_film_that_is_over_counts_what_was_made(queue):
    job = put(queue, owner(seconds=10), seconds=8)
    queue.claim("maker")
    queue.report(job.id, "maker", report(48))
    assert queue.usage("anna").seconds == 8 and queue.usage("anna").bytes == 4800
    queue.want(job.id, "cancel")
    queue.finish(job.id, "maker", "cancelled")
    assert queue.usage("anna").seconds == 2 and queue.seconds_left("anna") == 8
    other = put(queue, owner(seconds=10), seconds=3)
    with pytest.raises(QuotaError, match=r"seconds = 8: you have 5 s of film left"):
        queue.want(job.id, "run")
    queue.remove(other.id)
    assert queue.want(job.id, "run").status == "queued" and queue.seconds_left("anna") == 2


def test_of_an_endless_film_counts_what_is_made(queue):
    job = put(queue, owner(seconds=10, bytes=100_000), seconds=600, endless=True)
    assert queue.seconds_left("anna") == 10
    queue.claim("maker")
    queue.report(job.id, "maker", report(48))
    assert queue.seconds_left("anna") == 8
    queue.report(job.id, "maker", report(48, num_bytes=100_000))
    assert queue.seconds_left("anna") == 0, "no bytes are left"
    queue.report(job.id, "maker", report(240))
    queue.finish(job.id, "maker", "completed")
    with pytest.raises(QuotaError, match="seconds = 0: you may have 10 s of film and have 10 s; delete some"):
        put(queue, owner(seconds=10), seconds=0, endless=True)


def test_a_priority_has_bounds(queue):
    for priority, nearest in ((10**30, 1000), (-(10**30), -1000)):
        with pytest.raises(RequestError, match=f"priority = {priority}: .* works: {nearest}"):
            put(queue, priority=priority)


def test_what_is_claimed_first(queue):
    a, b, c = (put(queue, ANNA) for _ in range(3))
    d, e = (put(queue, BEN) for _ in range(2))
    urgent = put(queue, ANNA, priority=1)
    taken = [queue.claim("maker") for _ in range(6)]
    # The urgent one first; then Ben, who has had no turn; then by turns, the oldest first; then what is left.
    assert [job.id for job in taken] == [job.id for job in (urgent, d, a, e, b, c)]
    assert all(job.status == "in_progress" and job.started_at for job in taken)
    assert queue.claim("maker") is None
    f, g = put(queue, ANNA), put(queue, BEN)
    assert [queue.claim("x").id, queue.claim("x").id] == [g.id, f.id], "Anna had the last turn"


def test_claims_of_some_models(queue):
    urgent, plain = put(queue, model="large", priority=5), put(queue)
    assert queue.claim("maker", []) is None and queue.claim("maker", ["other"]) is None
    assert queue.claim("maker", ["tiny", plain.order.model]).id == plain.id
    assert queue.claim("maker", ["tiny"]) is None
    assert queue.claim("maker", ["large", "tiny"]).id == urgent.id


def test_reports_and_what_is_wanted(queue):
    job = put(queue)
    queue.claim("maker")
    assert queue.report(job.id, "maker", report(5, waiting="the disk is full")) == "run"
    seen = queue.get(job.id)
    assert (seen.row, seen.num_rows, seen.num_frames, seen.num_bytes, seen.progress) == (1, 10, 5, 500, 10)
    assert seen.waiting == "the disk is full"
    assert queue.report(job.id, "maker", report(5, waiting="the disk is full")) == "run"
    assert queue.get(job.id).version == seen.version, "nothing new was said"
    queue.want(job.id, "pause")
    assert queue.report(job.id, "maker", report(5, waiting="the disk is full")) == "pause"
    assert queue.report(job.id, "maker", report(6)) == "pause"
    assert queue.get(job.id).version > seen.version
    queue.remove(job.id)
    assert queue.report(job.id, "maker", report(6)) == "cancel"
    assert queue.finish(job.id, "maker", "cancelled").waiting == ""


def test_only_a_films_own_worker_is_heard(queue):
    job = put(queue)
    calls = [
        lambda worker: queue.report(job.id, worker, report(3)),
        lambda worker: queue.finish(job.id, worker, "completed"),
    ]
    for call in calls:
        with pytest.raises(LostJobError):
            call("maker")
    queue.claim("maker")
    for call in calls:
        with pytest.raises(LostJobError):
            call("other")
    queue.release("maker")
    for call in calls:
        with pytest.raises(LostJobError):
            call("maker")
    assert queue.get(job.id).num_frames == 0
    queue.claim("other")
    calls[0]("other")
    assert calls[1]("other").status == "completed"
    with pytest.raises(LostJobError):
        calls[1]("other")


# What becomes of a film that somebody wants something of; an error's words where it cannot be.
WANTED = {
    ("queued", "run"): "queued",
    ("queued", "pause"): "paused",
    ("queued", "cancel"): "cancelled",
    ("paused", "run"): "queued",
    ("paused", "pause"): "paused",
    ("paused", "cancel"): "cancelled",
    ("in_progress", "run"): "in_progress",
    ("in_progress", "pause"): "in_progress",
    ("in_progress", "cancel"): "in_progress",
    ("completed", "run"): "is completed; it can be made longer, remixed or deleted",
    ("completed", "pause"): "is completed",
    ("completed", "cancel"): "is completed",
    ("failed", "run"): "queued",
    ("failed", "pause"): "has failed; it can be gone on with or deleted",
    ("failed", "cancel"): "has failed",
    ("cancelled", "run"): "queued",
    ("cancelled", "pause"): "is cancelled; it can be gone on with or deleted",
    ("cancelled", "cancel"): "cancelled",
}


@pytest.mark.parametrize(("status", "wanted"), WANTED)
def test_what_may_be_wanted(queue, status, wanted):
    job, then = in_status(queue, status), WANTED[status, wanted]
    assert job.status == status or status == "in_progress"
    if " " in then:
        with pytest.raises(ConflictError, match=f"video = {job.id}: {then}"):
            queue.want(job.id, wanted)
        assert queue.get(job.id) == job
        return
    with pytest.raises(NotFoundError):
        queue.want(job.id, wanted, "ben")
    after = queue.want(job.id, wanted, "anna")
    assert after == queue.get(job.id) and (after.status, after.wanted) == (then, wanted)
    if after.status == "queued":
        assert after.failure is after.completed_at is None and queue.claim("maker").id == job.id


@pytest.mark.parametrize("said", ["paused", "queued"])
@pytest.mark.parametrize(("wanted", "then"), [("run", "queued"), ("pause", "paused"), ("cancel", "cancelled")])
def test_a_worker_that_lets_go_leaves_what_was_wanted_last(queue, said, wanted, then):
    job = put(queue)
    queue.claim("maker")
    queue.want(job.id, "pause")
    queue.want(job.id, wanted)
    assert queue.finish(job.id, "maker", said).status == then


def test_a_film_that_is_being_cancelled_cannot_be_gone_on_with_yet(queue):
    job = put(queue)
    queue.claim("maker")
    queue.want(job.id, "cancel")
    for wanted in ("run", "pause"):
        with pytest.raises(ConflictError, match="is being cancelled; wait until it is"):
            queue.want(job.id, wanted)
    assert queue.finish(job.id, "maker", "cancelled").over
    assert queue.want(job.id, "run").status == "queued"


def test_a_lost_workers_films_go_to_others(queue):
    runs, paused, cancelled, removed, others = (put(queue, seed=seed) for seed in range(5))
    for _ in range(4):
        queue.claim("lost")
    queue.claim("alive")
    queue.want(paused.id, "pause")
    queue.want(cancelled.id, "cancel")
    queue.remove(removed.id)
    assert queue.removed() == []
    assert queue.release("lost") == 4 and queue.release("lost") == 0
    assert [queue.get(job.id).status for job in (runs, paused, cancelled)] == ["queued", "paused", "cancelled"]
    assert queue.removed() == [removed.id]
    assert queue.report(others.id, "alive", report(1)) == "run"
    assert queue.claim("new").id == runs.id and queue.get(runs.id).attempts == 1
    assert queue.release() == 2


def test_a_film_that_loses_every_worker_fails(tmp_path):
    queue = SqliteQueue(tmp_path, max_attempts=3)
    job = put(queue)

    def lose(frames):
        queue.claim("maker")
        queue.report(job.id, "maker", report(0))  # as when the model is loaded again
        queue.report(job.id, "maker", report(frames))
        queue.release("maker")
        return queue.get(job.id)

    assert [lose(frames).attempts for frames in (0, 0, 5, 5)] == [1, 2, 1, 2], "new frames are progress"
    failed = lose(5)  # the same frames once more are none
    assert (failed.status, failed.failure.code) == ("failed", "worker_lost") and "3 workers" in failed.failure.message
    again = queue.want(job.id, "run")
    assert (again.status, again.attempts, again.failure) == ("queued", 0, None)
    for _ in range(5):
        queue.claim("maker")
        queue.release()  # as when the server is started again
    assert (queue.get(job.id).status, queue.get(job.id).attempts) == ("queued", 0)


def test_failures_are_told(queue):
    job = put(queue)
    queue.claim("maker")
    failed = queue.finish(job.id, "maker", "failed", FAILURE)
    assert failed == queue.get(job.id) and failed.failure == FAILURE and failed.completed_at


def test_pages(queue):
    jobs = [put(queue, whose) for whose in (ANNA, BEN, ANNA, ANNA, BEN)]
    ids = [job.id for job in jobs]
    assert [job.id for job in queue.page(None)] == ids[::-1]
    assert [job.id for job in queue.page("anna", newest_first=False)] == [ids[0], ids[2], ids[3]]
    assert [job.id for job in queue.page("anna", limit=2)] == [ids[3], ids[2]]
    newer = put(queue)
    assert [job.id for job in queue.page("anna", after=ids[2])] == [ids[0]], "whatever comes meanwhile"
    assert [job.id for job in queue.page(None, after=ids[2], newest_first=False, limit=10**30)] == [*ids[3:], newer.id]
    with pytest.raises(NotFoundError):
        queue.page("ben", after=ids[0])
    queue.remove(ids[2])
    assert ids[2] not in [job.id for job in queue.page(None)]
    with pytest.raises(NotFoundError):
        queue.page(None, after=ids[2])
    assert queue.page(None, limit=-5) == []


def test_a_removed_film_is_hidden_at_once_and_forgotten_later(queue):
    waiting, worked_at = put(queue), put(queue)
    queue.want(waiting.id, "pause")
    queue.claim("maker")
    for job in (waiting, worked_at):
        with pytest.raises(NotFoundError):
            queue.remove(job.id, "ben")
        queue.remove(job.id, "anna")
        for call in (queue.get, queue.remove, lambda name: queue.want(name, "run")):
            with pytest.raises(NotFoundError):
                call(job.id)
    assert queue.usage("anna").films == 0 and sum(queue.counts().values()) == 0 and queue.page(None) == []
    assert queue.removed() == [waiting.id]
    queue.forget(worked_at.id)  # too early
    assert queue.report(worked_at.id, "maker", report(2)) == "cancel"
    queue.finish(worked_at.id, "maker", "cancelled")
    assert set(queue.removed()) == {waiting.id, worked_at.id}
    for job in (waiting, worked_at, put(queue)):
        queue.forget(job.id)
    assert queue.removed() == [] and queue.counts()["queued"] == 1, "only what was removed can be forgotten"
    assert queue.page(None)[0].number > worked_at.number


def test_a_film_that_is_to_be_gone_on_with_is_kept_until_then(queue):
    film = made(queue)
    for wrong in (new_id("video"), film.id):
        with pytest.raises(NotFoundError):
            put(queue, BEN, extends=wrong)
    longer = put(queue, extends=film.id)
    queue.remove(film.id)
    assert queue.removed() == []
    queue.claim("maker")
    queue.remove(longer.id)
    assert queue.removed() == [], "its worker may be reading it"
    queue.release()
    assert set(queue.removed()) == {film.id, longer.id}


def test_needed_uploads(queue):
    first, second = new_id("file"), new_id("file")
    a = put(queue, image=first)
    b = put(queue, keyframes={3: first, 9: second})
    put(queue)
    assert queue.needed() == {first, second}
    queue.claim("maker")
    queue.remove(a.id)
    queue.remove(b.id)
    assert queue.needed() == {first}, "its worker may be reading it"
    queue.release()
    assert queue.needed() == set()


@pytest.fixture
def clocks(monkeypatch):
    """The clock that may jump, the one that only runs, and how often the machine was started."""
    clocks = {"date": 1.7e9, "run": 1000.0, "starts": 1}
    monkeypatch.setattr(module.time, "time", lambda: clocks["date"])
    monkeypatch.setattr("everreel.serve.jobs.age.time.monotonic", lambda: clocks["run"])
    monkeypatch.setattr("everreel.serve.jobs.age.running", lambda: f"run {clocks['starts']}")
    return clocks


def test_films_expire_by_the_time_that_passes(queue, clocks, tmp_path):
    kept = put(queue, seed=1)
    queue.want(kept.id, "pause")
    film = made(queue)
    assert film.expires_at is None and queue.expire(10_000) == 0
    assert queue.get(film.id).expires_at == film.completed_at + 10_000
    for year in (1, 30, -50):
        clocks["date"] += year * 366 * 86400
        assert queue.expire(10_000) == 0
    clocks["run"] += 5_000
    assert queue.expire(10_000) == 0
    clocks |= {"run": 3.0, "starts": 2}  # nobody knows how long it was off
    assert queue.expire(10_000) == 0
    clocks["run"] += 4_000
    later = made(queue, seed=2)
    assert queue.expire(10_000) == 0
    clocks["run"] += 2_000
    other = SqliteQueue(tmp_path)  # another process does the same
    assert other.expire(10_000) == 1 and queue.expire(10_000) == 0
    assert queue.removed() == [film.id]
    clocks["run"] += 10_000
    assert queue.expire(10_000) == 1 and later.id in queue.removed()
    assert queue.get(kept.id).status == "paused", "only what is over grows old"


def test_films_outlive_the_file_of_ages(queue, clocks, tmp_path):
    clocks["run"] = 0
    queue.expire(100)
    clocks["run"] = 10_000
    made(queue)
    (tmp_path / "age.json").write_text("nonsense")
    assert queue.expire(100) == 0
    clocks["run"] += 99
    assert queue.expire(100) == 0
    clocks["run"] += 2
    assert queue.expire(100) == 1


def test_many_threads_share_a_queue(queue):
    jobs, taken, errors = {put(queue, seed=seed).id for seed in range(40)}, [], []

    def work(worker):
        try:
            while job := queue.claim(worker):
                for frames in range(1, 4):
                    queue.report(job.id, worker, report(frames))
                taken.append(queue.finish(job.id, worker, "completed").id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"worker {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and sorted(taken) == sorted(jobs) and queue.counts()["completed"] == 40
