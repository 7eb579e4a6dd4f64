"""The file behind the queue: what a full disk does, what is on disk when, who may read it, and files of others."""

import dataclasses
import random
import sqlite3

import pytest

from everreel.serve.jobs.job import DiskFullError, Failure, new_id
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.queue import SqliteQueue
from tests.serve.jobs.orders import put, report


@pytest.fixture
def queue(tmp_path):
    queue = SqliteQueue(tmp_path)
    yield queue
    queue.close()


class Full(SqliteQueue):
    """A queue on a disk that is full, until it is not."""

    def fill(self):
        with self._db.reading() as db:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
        self.limit(pages)

    def limit(self, pages):
        with self._db.reading() as db:  # the same connection is lent again, as it is the only one
            db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_loses_nothing(tmp_path):
    queue = Full(tmp_path)
    job = put(queue)
    queue.claim("maker")
    queue.fill()
    long = "x" * 1_000_000
    before = queue.get(job.id), queue.page(None)
    with pytest.raises(DiskFullError, match=r"^disk: is full on the server"):
        put(queue, negative_prompt=long)
    with pytest.raises(DiskFullError):
        queue.report(job.id, "maker", report(4, waiting=long))
    with pytest.raises(DiskFullError):
        queue.finish(job.id, "maker", "failed", Failure("internal_error", long))
    assert (queue.get(job.id), queue.page(None)) == before
    assert queue.report(job.id, "maker", report(2)) == "run"
    queue.limit(10**6)
    assert queue.report(job.id, "maker", report(4, waiting=long)) == "run"
    assert queue.finish(job.id, "maker", "completed").num_frames == 4
    put(queue, negative_prompt=long)


def test_on_a_full_disk_the_log_begins_anew(tmp_path):
    """Else it cannot grow, and with it nothing that a film says on its way."""
    queue, log = Full(tmp_path), tmp_path / "queue.sqlite3-wal"
    job = put(queue)
    queue.claim("maker")
    for frames in range(5):
        queue.report(job.id, "maker", report(frames))
    size = log.stat().st_size
    queue.report(job.id, "maker", report(5))
    assert log.stat().st_size > size, "it grows as long as nobody looks"
    queue.fill()
    with pytest.raises(DiskFullError):
        queue.report(job.id, "maker", report(6, waiting="x" * 1_000_000))
    size = log.stat().st_size
    for frames in range(6, 9):
        queue.report(job.id, "maker", report(frames))
    assert log.stat().st_size == size and queue.get(job.id).num_frames == 8


def test_the_file_has_the_places_of_all_that_was_ordered(tmp_path):
    """What is in the log alone would need room on a full disk, and the log could not begin anew."""
    queue = Full(tmp_path)
    for _ in range(30):
        put(queue, negative_prompt="x" * 3000)
        with queue._db.reading() as db:
            (pages,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        assert (tmp_path / "queue.sqlite3").stat().st_size == pages * size


@pytest.mark.parametrize("how", ["want", "finish", "release", "remove", "forget"])
def test_on_a_full_disk_there_is_room_to_let_go(tmp_path, monkeypatch, how):
    queue, spare = Full(tmp_path), tmp_path / "queue.sqlite3-spare"
    job, gone = put(queue, negative_prompt="x" * 100_000), put(queue)
    assert spare.stat().st_blocks * 512 >= spare.stat().st_size == 8_000_000
    queue.claim("maker")
    queue.remove(gone.id)
    calls = {
        "want": lambda: queue.want(job.id, "pause"),
        "finish": lambda: queue.finish(job.id, "maker", "completed"),
        "release": queue.release,
        "remove": lambda: queue.remove(job.id),
        "forget": lambda: queue.forget(gone.id),
    }
    writing = queue._db.writing

    def full(**options):
        if spare.exists():
            raise DiskFullError("disk: is full")
        return writing(**options)

    monkeypatch.setattr(queue._db, "writing", full)
    with pytest.raises(DiskFullError):
        queue.report(job.id, "maker", report(3))
    assert spare.exists(), "how far it is can wait"
    calls[how]()
    assert not spare.exists()
    monkeypatch.undo()
    put(queue)
    assert spare.exists(), "kept anew as soon as there is room"


def test_no_film_is_taken_on_without_room_to_let_go(queue, tmp_path, monkeypatch):
    monkeypatch.setattr("os.posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DiskFullError):
        put(queue)
    assert queue.page(None) == [] and not list(tmp_path.glob("*spare*"))


def test_nothing_is_claimed_while_the_disk_is_full(queue, monkeypatch):
    job = put(queue)

    def full(**_):
        raise DiskFullError("disk: is full")

    with monkeypatch.context() as patch:
        patch.setattr(queue._db, "writing", full)
        assert queue.claim("maker") is None
    assert queue.claim("maker").id == job.id


def test_what_was_promised_is_on_disk(queue, monkeypatch):
    """The log is synced with what somebody was told, and not with what a worker says of its film."""
    seen = []
    connect = queue._db._connect

    def watched():
        db = connect()
        db.set_trace_callback(lambda statement: seen.append(statement))
        return db

    monkeypatch.setattr(queue._db, "_connect", watched)
    queue._db._idle.clear()

    def synced(call):
        seen.clear()
        result = call()
        modes = [statement.split("=")[1] for statement in seen if statement.startswith("PRAGMA synchronous=")]
        assert len(modes) == seen.count("BEGIN IMMEDIATE") == seen.count("COMMIT") == 1
        return modes == ["FULL"], result

    durable, job = synced(lambda: put(queue))
    assert durable
    assert not synced(lambda: queue.claim("maker"))[0]
    assert not synced(lambda: queue.report(job.id, "maker", report(3)))[0]
    assert synced(lambda: queue.want(job.id, "pause"))[0]
    assert synced(lambda: queue.finish(job.id, "maker", "paused"))[0]
    assert synced(lambda: queue.remove(job.id))[0]


def test_files_are_for_their_owner_alone(queue, tmp_path):
    put(queue)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.keys() >= {"queue.sqlite3", "queue.sqlite3-wal"} and set(modes.values()) == {0o600}


def test_files_of_others_are_refused(tmp_path):
    for name, script in (("newer", "PRAGMA user_version = 7"), ("another", "CREATE TABLE films (name TEXT)")):
        (tmp_path / name).mkdir()
        with sqlite3.connect(tmp_path / name / "queue.sqlite3") as db:
            db.executescript(script)
        db.close()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "queue.sqlite3").write_bytes(random.Random(0).randbytes(5000))
    said = {
        "newer": r"queue.sqlite3: was written by a newer everreel \(version 7, this one knows 2\)",
        "another": "queue.sqlite3: is another program's file",
        "none": "queue.sqlite3: is damaged or no database",
    }
    for name, words in said.items():
        before = (tmp_path / name / "queue.sqlite3").read_bytes()
        with pytest.raises(ValueError, match=words) as error:
            SqliteQueue(tmp_path / name)
        assert str(tmp_path) not in str(error.value)
        if name == "none":
            assert (tmp_path / name / "queue.sqlite3").read_bytes() == before


def test_a_queue_of_an_older_version_is_taken_over(tmp_path):
    """Version 1 had no places: whoever waited goes on waiting in the same order."""
    queue = SqliteQueue(tmp_path)
    jobs = [put(queue, seed=seed) for seed in range(3)]
    queue.close()
    with sqlite3.connect(tmp_path / "queue.sqlite3") as db:
        db.executescript(
            "DROP INDEX jobs_line; DROP INDEX jobs_place; ALTER TABLE jobs DROP COLUMN place;"
            "CREATE INDEX jobs_status ON jobs (status, removed, priority, owner, number, model);"
            "PRAGMA user_version = 1"
        )
    db.close()
    for _ in range(2):
        again = SqliteQueue(tmp_path)
        newer = put(again)
        assert again.page(None, limit=1) == [newer]
        again.remove(newer.id)
        again.close()
    again = SqliteQueue(tmp_path)
    assert [again.claim("maker").id for _ in range(3)] == [job.id for job in jobs]
    again.close()


def test_jobs_are_there_when_the_queue_is_opened_again(tmp_path):
    first = SqliteQueue(tmp_path)
    job = put(first, image=new_id("file"))
    first.close()
    again = SqliteQueue(tmp_path)
    assert again.get(job.id) == job and dataclasses.is_dataclass(job) and isinstance(job.order, Order)
    assert put(again).number == job.number + 1
