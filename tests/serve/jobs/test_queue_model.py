"""The queue against a plain model of it, whatever is done in whatever order; and many processes that claim at once."""

import multiprocessing
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from everreel.serve.jobs.job import OVER, ConflictError, Failure, LostJobError, NotFoundError, Owner, Report
from everreel.serve.jobs.queue import SqliteQueue
from tests.serve.jobs.orders import order

MAX_ATTEMPTS = 2
RESTING = {"run": "queued", "pause": "paused", "cancel": "cancelled"}
WORKERS = st.sampled_from(["one", "two", "three"])


class Queue(RuleBasedStateMachine):
    """What is known of each job is a dict, and each rule says in a few lines what should become of it."""

    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.model, self.turns, self.calls = {}, {}, 0
        self.open()

    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        # Two of them, as two processes would have.
        self.queues = [SqliteQueue(Path(self.folder.name), max_attempts=MAX_ATTEMPTS) for _ in range(2)]

    def teardown(self):
        for queue in self.queues:
            queue.close()
        self.folder.cleanup()

    @property
    def queue(self):
        self.calls += 1
        return self.queues[self.calls % 2]

    @rule(target=jobs, owner=st.sampled_from("ab"), priority=st.integers(0, 1))
    def put(self, owner, priority):
        job, new = self.queue.put(order(), Owner(owner, highest_priority=1), seconds=1, priority=priority)
        assert new and job.id not in self.model
        known = {"owner": owner, "priority": priority, "place": self.last(), "status": "queued", "wanted": "run"}
        self.model[job.id] = known | {"worker": None, "removed": False, "frames": 0, "most": 0, "attempts": 0}
        self.turns.setdefault(owner, 0)
        return job.id

    @rule(worker=WORKERS)
    def claim(self, worker):
        def rank(name):
            job = self.model[name]
            return -job["priority"], self.turns[job["owner"]], job["place"]

        waiting = [name for name, job in self.model.items() if job["status"] == "queued" and not job["removed"]]
        first = min(waiting, key=rank, default=None)
        claimed = self.queue.claim(worker)
        assert (claimed and claimed.id) == first
        if first is not None:
            self.model[first] |= {"status": "in_progress", "worker": worker}
            self.turns[self.model[first]["owner"]] = max(self.turns.values()) + 1

    @rule(name=jobs, worker=WORKERS, frames=st.integers(0, 3))
    def report(self, name, worker, frames):
        job = self.model.get(name, {"worker": None})
        if job["worker"] != worker:
            with pytest.raises(LostJobError):
                self.queue.report(name, worker, Report(1, 5, frames, frames))
            return
        assert self.queue.report(name, worker, Report(1, 5, frames, frames)) == job["wanted"]
        job["frames"] = frames
        if frames > job["most"]:
            job |= {"most": frames, "attempts": 0}

    @rule(name=jobs, worker=WORKERS, status=st.sampled_from(["completed", "failed", "cancelled", "paused", "queued"]))
    def finish(self, name, worker, status):
        job = self.model.get(name, {"worker": None})
        failure = Failure("generation_failed", "why") if status == "failed" else None
        if job["worker"] != worker:
            with pytest.raises(LostJobError):
                self.queue.finish(name, worker, status, failure)
            return
        status = RESTING[job["wanted"]] if status in ("paused", "queued") else status
        assert self.queue.finish(name, worker, status, failure).status == status
        self.rest(job, status)

    @rule(name=jobs, worker=WORKERS)
    def give_way(self, name, worker):
        job = self.model.get(name, {"worker": None})
        if job["worker"] != worker:
            with pytest.raises(LostJobError):
                self.queue.give_way(name, worker)
            return
        waiting = [one for one in self.model.values() if one["status"] == "queued" and not one["removed"]]
        gives = job["wanted"] == "run" and any(one["priority"] >= job["priority"] for one in waiting)
        assert self.queue.give_way(name, worker) == gives
        if gives:
            self.turns[job["owner"]] = max(self.turns.values()) + 1
            self.rest(job, "queued")
            job["place"] = self.last()

    @rule(worker=WORKERS | st.none())
    def release(self, worker):
        mine = [job for job in self.model.values() if job["worker"] and worker in (None, job["worker"])]
        assert self.queue.release(worker) == len(mine)
        for job in mine:
            job["attempts"] += job["wanted"] == "run" and worker is not None
            failed = job["wanted"] == "run" and job["attempts"] >= MAX_ATTEMPTS
            self.rest(job, "failed" if failed else RESTING[job["wanted"]])

    @rule(name=jobs, wanted=st.sampled_from(["run", "pause", "cancel"]))
    def want(self, name, wanted):
        job = self.model.get(name)
        if job is None or job["removed"]:
            with pytest.raises(NotFoundError):
                self.queue.want(name, wanted)
            return
        going = job["status"] in ("queued", "in_progress", "paused")
        again = job["status"] in ("failed", "cancelled") and wanted == "run"
        same = job["status"] == "cancelled" and wanted == "cancel"
        too_late = job["wanted"] == "cancel" and wanted != "cancel"
        if not ((going and not too_late) or again or same):
            with pytest.raises(ConflictError):
                self.queue.want(name, wanted)
            return
        self.queue.want(name, wanted)
        if again:
            job["attempts"] = 0
        if job["status"] == "in_progress":
            job["wanted"] = wanted
        elif not same:
            self.rest(job, RESTING[wanted])

    @rule(name=jobs)
    def remove(self, name):
        job = self.model.get(name)
        if job is None or job["removed"]:
            with pytest.raises(NotFoundError):
                self.queue.remove(name)
            return
        self.queue.remove(name)
        job |= {"removed": True, "wanted": "cancel"}

    @rule()
    def clean(self):
        gone = {name for name, job in self.model.items() if job["removed"] and not job["worker"]}
        assert set(self.queue.removed()) == gone
        for name in gone:
            self.queue.forget(name)
            del self.model[name]

    @invariant()
    def everybody_sees_the_same(self):
        kept = {name: job for name, job in self.model.items() if not job["removed"]}
        found = {job.id: job for job in self.queue.page(None, limit=1000)}
        assert found.keys() == kept.keys(), "none is lost, and none is there twice"
        for name, job in kept.items():
            there = found[name]
            assert (there.status, there.num_frames, there.attempts) == (job["status"], job["frames"], job["attempts"])
            assert there.wanted == job["wanted"] and there.over == (there.completed_at is not None)
            assert (there.status == "in_progress") == (job["worker"] is not None)
        assert {job.id for job in self.queue.running()} == {name for name in kept if kept[name]["worker"]}
        counts = self.queue.counts()
        assert all(counts[status] == sum(job["status"] == status for job in kept.values()) for status in counts)

    def last(self):
        return max((job["place"] for job in self.model.values()), default=0) + 1

    def rest(self, job, status):
        assert job["worker"] is not None or status not in OVER or status == "cancelled"
        wanted = {"queued": "run", "paused": "pause", "cancelled": "cancel"}.get(status, "run")
        job |= {"status": status, "worker": None, "wanted": wanted}


Queue.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestQueue = Queue.TestCase


def work(home, worker, taken):
    queue, mine = SqliteQueue(home), []
    while job := queue.claim(worker):
        queue.report(job.id, worker, Report(1, 2, 3, 4))
        mine.append(queue.finish(job.id, worker, "completed").id)
    queue.close()
    taken.put(mine)


def test_of_many_processes_each_job_has_one(tmp_path):
    queue = SqliteQueue(tmp_path)
    jobs = {queue.put(order(), Owner(f"owner {n % 3}"), seconds=1)[0].id for n in range(200)}
    context = multiprocessing.get_context("fork")
    taken = context.Queue()
    processes = [context.Process(target=work, args=(tmp_path, f"worker {n}", taken)) for n in range(4)]
    for process in processes:
        process.start()
    found = [name for _ in processes for name in taken.get(timeout=120)]
    for process in processes:
        process.join()
    assert sorted(found) == sorted(jobs)
    assert queue.counts()["completed"] == 200
    queue.close()


def inherited(queue, said):
    said.put(queue.put(order(), Owner("child"), seconds=1)[0].id)


def test_a_queue_may_be_inherited(tmp_path):
    """A process that is forked has connections of its own; its parent's stay whole."""
    queue = SqliteQueue(tmp_path)
    queue.put(order(), Owner("parent"), seconds=1)
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    process = context.Process(target=inherited, args=(queue, said))
    process.start()
    child = said.get(timeout=60)
    process.join()
    assert process.exitcode == 0 and queue.get(child).owner == "child"
    assert queue.put(order(), Owner("parent"), seconds=1)[1] and queue.counts()["queued"] == 3
    queue.close()


def opened(home, said):
    queue = SqliteQueue(home)
    said.put(queue.put(order(), Owner(), seconds=1)[1])
    queue.close()


def test_processes_may_make_a_queue_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    processes = [context.Process(target=opened, args=(tmp_path / "home", said)) for _ in range(6)]
    for process in processes:
        process.start()
    assert all(said.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    queue = SqliteQueue(tmp_path / "home")
    assert queue.counts()["queued"] == 6
    queue.close()
