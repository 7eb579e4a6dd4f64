"""A worker does what is wanted of its film, and loses nothing of it whatever goes wrong."""

import errno
import threading

import pytest

from everreel.diffusion.denoiser import Denoiser
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import RequestError
from everreel.media import FilmWriter, Video
from everreel.serve.jobs.job import DiskFullError, LostJobError, Owner
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.service import Jobs
from everreel.serve.jobs.worker import Worker
from tests.serve.jobs.conftest import SMALL

LONG = {"num_frames": 57, "base_num_frames": 25, "overlap_history": 9}


@pytest.fixture
def whole(home):
    """The bytes of the long film that nothing disturbed."""
    job = home.order(**LONG)
    assert home.work().status == "completed"
    return home.film(job).read_bytes()


@pytest.fixture
def at_row(home, monkeypatch):
    """Do something when a worker reports for the n-th time."""

    def at_row(count, what):
        left, report = [count], home.queue.report

        def reporting(job_id, worker, said):
            left[0] -= 1
            if left[0] == 0:
                what(job_id)
            return report(job_id, worker, said)

        monkeypatch.setattr(home.queue, "report", reporting)
        monkeypatch.setattr("everreel.serve.jobs.worker.REPORT", 0.0)

    return at_row


def test_a_film_is_made_and_shown(home):
    job = home.order()
    ended = home.work()
    assert (ended.id, ended.status, ended.progress, ended.num_frames) == (job.id, "completed", 100, 9)
    assert ended.num_bytes == home.film(job).stat().st_size
    assert Video(home.film(job)).num_frames == 9
    assert all(home.store.size(job.id, part) for part in ("thumbnail.webp", "spritesheet.jpg"))


def test_a_film_is_cancelled_and_can_be_gone_on_with(home, whole, at_row):
    job = home.order(**LONG)
    at_row(4, lambda job_id: home.queue.want(job_id, "cancel"))
    assert home.work().status == "cancelled"
    assert home.store.size(job.id, "thumbnail.webp"), "what there is of it can be looked at"
    home.queue.want(job.id, "run")
    assert home.work().status == "completed"
    assert home.film(job).read_bytes() == whole


def test_a_paused_film_lets_others_pass(home, whole, at_row):
    job = home.order(**LONG)

    def pause(job_id):
        home.queue.want(job_id, "pause")
        home.order()

    at_row(4, pause)
    assert home.work().status == "paused"
    assert home.work().status == "completed", "the other film"
    home.queue.want(job.id, "run")
    assert home.work().status == "completed"
    assert home.film(job).read_bytes() == whole


def test_a_paused_film_stays_in_memory_while_nobody_else_waits(home, whole, at_row, monkeypatch):
    job, slept = home.order(**LONG), []

    def sleep(seconds):
        slept.append((seconds, home.queue.get(job.id).state))
        if len(slept) == 3:
            home.queue.want(job.id, "run")

    monkeypatch.setattr("everreel.serve.jobs.worker.time.sleep", sleep)
    at_row(4, lambda job_id: home.queue.want(job_id, "pause"))
    assert home.work().status == "completed"
    assert len(slept) == 3 and slept[-1][1] == "paused", "whoever looks on sees that it is"
    assert home.film(job).read_bytes() == whole


def test_a_film_that_is_somebody_elses_by_now_is_let_go_of(home, whole, at_row):
    job = home.order(**LONG)
    at_row(4, lambda job_id: home.queue.release("slow"))
    assert home.work("slow").status == "queued"
    assert home.work("quick").status == "completed"
    with pytest.raises(LostJobError):
        home.queue.finish(job.id, "slow", "completed")
    assert home.film(job).read_bytes() == whole


def test_a_removed_film_is_stopped_and_its_files_go(home, at_row):
    job = home.order(**LONG)
    at_row(4, lambda job_id: home.queue.remove(job_id))
    worker = home.worker()
    worker.work(home.queue.claim(worker.name))
    folder = home.film(job).parent
    assert folder.exists()
    home.jobs.clean()
    assert not folder.exists()


@pytest.mark.parametrize("how", ["cancelled", "removed"])
def test_a_row_of_minutes_of_a_film_that_nobody_wants_is_not_waited_for(home, monkeypatch, how):
    monkeypatch.setattr("everreel.serve.jobs.worker.PATIENCE", 0.2)
    job, rows, left, run = home.order(**LONG), [], threading.Event(), Denoiser._run

    def slow(self, *args, **kwargs):
        rows.append(None)
        if len(rows) == 3:
            home.queue.want(job.id, "cancel") if how == "cancelled" else home.queue.remove(job.id)
            assert left.wait(30), "its worker goes on"
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Denoiser, "_run", slow)
    worker = Worker("slow", home.queue, home.store, home.models, left.set)
    worker.work(home.queue.claim("slow"))
    assert len(rows) == 3 and not [one for one in threading.enumerate() if one.name == "impatient"]


@pytest.mark.parametrize("where", ["film", "journal"])
def test_a_film_waits_while_the_disk_is_full(home, whole, monkeypatch, where):
    job, said, put = home.order(**LONG), [], FilmWriter._put
    room = [2]

    def full(self, *arguments):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        put(self, *arguments)

    def full_journal(self, film):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.EIO, "I/O error", str(film))
        save(self, film)

    from everreel.film.journal import Journal

    save = Journal.save
    if where == "film":
        monkeypatch.setattr(FilmWriter, "_put", full)
    else:
        monkeypatch.setattr(Journal, "save", full_journal)
    monkeypatch.setattr(home.store, "free_bytes", lambda: 1 if room[0] > 0 else 0)

    def sleep(seconds):
        said.append(home.queue.get(job.id).waiting)
        room[0] = 1000 if len(said) == 2 else room[0]

    monkeypatch.setattr("everreel.serve.jobs.worker.time.sleep", sleep)
    assert home.work().status == "completed"
    assert said == ["the disk is full"] * 2
    assert home.film(job).read_bytes() == whole


def test_a_queue_that_cannot_be_written_is_waited_for(home, monkeypatch):
    finish, tries = home.queue.finish, []

    def full(*arguments):
        tries.append(arguments)
        if len(tries) < 3:
            raise DiskFullError("no room")
        return finish(*arguments)

    monkeypatch.setattr(home.queue, "finish", full)
    monkeypatch.setattr("everreel.serve.jobs.worker.FULL", 0)
    home.order()
    assert home.work().status == "completed"
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequestError("steps = 2: too few"), "invalid_request", "steps = 2: too few"),
        (RequestError("image = /secret/place/fox.png: is no picture"), "invalid_request", "fox.png: is no picture"),
        (ValueError("/secret/x.safetensors: is missing"), "internal_error", "the server's log"),
        (MemoryError(), "generation_failed", "memory: "),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate"), "generation_failed", "memory: "),
        (RuntimeError("shape of /secret/place"), "internal_error", "the server's log"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/place"), "internal_error", "Permission denied"),
        (KeyError("/secret/place"), "internal_error", "the server's log"),
    ],
)
def test_why_a_film_failed_is_one_line_without_a_path(home, monkeypatch, capsys, error, code, said):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(VideoPipeline, "stream", broken)
    job = home.order()
    ended = home.work()
    assert (ended.status, ended.failure.code) == ("failed", code)
    assert said in ended.failure.message and "/" not in ended.failure.message and "\n" not in ended.failure.message
    monkeypatch.undo()
    home.queue.want(job.id, "run")
    assert home.work().status == "completed", "what has failed can be tried again"


def test_a_preview_is_made_for_those_who_watch(home, at_row):
    job = home.order(**LONG)
    at_row(2, lambda job_id: home.store.wish(job_id))
    home.work()
    assert home.store.size(job.id, "preview.jpg") and not home.store.take_wish(job.id)
    unwatched = home.order()
    home.work()
    assert not home.store.size(unwatched.id, "preview.jpg")


def test_nobody_writes_a_film_that_another_still_writes(home):
    from filelock import FileLock

    job = home.order()
    lock = FileLock(home.film(job).parent / "lock", thread_local=False)
    lock.acquire()
    claimed = home.queue.claim("new")
    thread = threading.Thread(target=home.worker("new").work, args=(claimed,))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not home.film(job).exists()
    lock.release()
    thread.join(60)
    assert home.queue.get(job.id).status == "completed"


def test_models_take_turns(home, small_model):
    models = {"small": small_model, "other": small_model}
    home.jobs = Jobs(home.queue, home.store, models)
    home.models = type(home.models)(models)
    made = []
    for name in ("small", "other", "small"):
        job = home.jobs.submit(make_order(**SMALL | {"model": name, "num_frames": 9}), Owner())[0]
        assert home.work().status == "completed"
        made.append(home.film(job).read_bytes())
    assert made[0] == made[1] == made[2]
