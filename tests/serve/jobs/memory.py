"""Another queue and another store, in the memory of one process, written from what the interfaces say and nothing else.

They show that `JobQueue` and `FilmStore` say all that the rest of the server relies on: nothing here is as it is in a
home, neither SQL, nor where files lie, nor what they are called.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
import shutil
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from everreel.film.request import RequestError
from everreel.serve.jobs.job import (
    FILM_ID,
    OVER,
    PRIORITIES,
    ROUNDING,
    ConflictError,
    Failure,
    Job,
    LostJobError,
    NotFoundError,
    Part,
    Quota,
    QuotaError,
    Status,
    Usage,
    new_id,
)

RESTS = {"run": "queued", "pause": "paused", "cancel": "cancelled"}
DAY = 86400.0


def alone(method):
    """Every call is one transaction: no other is under way."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with self.lock:
            return method(self, *args, **kwargs)

    return call


@dataclass
class Entry:
    """A job, and what only the queue knows of it."""

    job: Job
    seconds: float
    place: int
    once: object = None
    worker: str | None = None
    removed: bool = False
    most_frames: int = 0
    over_since: float = 0.0

    @property
    def made(self):
        return self.job.num_frames / self.job.order.request.fps

    @property
    def counted(self):
        """Seconds that count towards the quota."""
        return self.made if self.job.over else max(self.seconds, self.made)

    @property
    def of_use(self):
        """Whether what it needs is still needed."""
        return not self.removed or self.worker is not None

    def change(self, **values):
        self.job = replace(self.job, version=self.job.version + 1, **values)


class MemoryQueue:
    """`JobQueue`."""

    def __init__(self, max_attempts=20):
        self.lock, self.max_attempts = threading.RLock(), max_attempts
        self.entries, self.turns, self.quotas = {}, {}, {}
        self.count, self.retention = itertools.count(1), None

    @alone
    def put(self, order, owner, *, seconds, uploaded=0, priority=0, once=None):
        if priority not in PRIORITIES:
            nearest = min(max(priority, PRIORITIES[0]), PRIORITIES[-1])
            raise RequestError(f"priority = {priority}: nearest that works: {nearest}")
        if once and (known := self.known(owner.name, once)):
            return known, False
        if order.extends:
            self.find(order.extends, owner.name)
        seconds = 0 if order.endless else seconds
        owner.quota.check(self.usage(owner.name), seconds, uploaded)
        self.quotas[owner.name] = owner.quota
        self.turns.setdefault(owner.name, 0)
        number, now = next(self.count), int(time.time())
        job = Job(new_id("video"), owner.name, order, "queued", now, number, version=1, priority=priority)
        self.entries[job.id] = Entry(job, seconds, number, once)
        return job, True

    @alone
    def known(self, owner, once):
        for entry in self.shown(owner):
            if entry.once and entry.once.key == once.key:
                if entry.once.digest != once.digest:
                    raise ConflictError(f"idempotency_key: is that of {entry.job.id}, another request")
                return self.told(entry)
        return None

    @alone
    def get(self, job_id, owner=None):
        return self.told(self.find(job_id, owner))

    @alone
    def page(self, owner, *, after=None, limit=20, newest_first=True):
        found = [entry.job for entry in self.shown(owner)]
        if after is not None:
            behind = self.find(after, owner).job.number
            found = [job for job in found if (job.number < behind if newest_first else job.number > behind)]
        found.sort(key=lambda job: job.number, reverse=newest_first)
        return [self.get(job.id) for job in found[: max(limit, 0)]]

    @alone
    def claim(self, worker, models=None):
        waiting = self.waiting(models)
        if not waiting:
            return None
        entry = min(waiting, key=lambda one: (-one.job.priority, self.turns[one.job.owner], one.place))
        self.turns[entry.job.owner] = next(self.count)
        entry.worker = worker
        entry.change(status="in_progress", started_at=entry.job.started_at or int(time.time()))
        return self.told(entry)

    @alone
    def report(self, job_id, worker, report):
        entry, said = self.own(job_id, worker), asdict(report)
        if any(getattr(entry.job, name) != value for name, value in said.items()):
            if report.num_frames > entry.most_frames:
                entry.most_frames, said["attempts"] = report.num_frames, 0
            entry.change(**said)
        return entry.job.wanted

    @alone
    def finish(self, job_id, worker, status, failure=None):
        entry = self.own(job_id, worker)
        return self.let_go(entry, RESTS[entry.job.wanted] if status in ("paused", "queued") else status, failure)

    @alone
    def give_way(self, job_id, worker, models=None):
        entry = self.own(job_id, worker)
        others = [one for one in self.waiting(models) if one.job.priority >= entry.job.priority]
        if entry.job.wanted != "run" or not others:
            return False
        entry.place, self.turns[entry.job.owner] = next(self.count), next(self.count)
        self.let_go(entry, "queued")
        return True

    @alone
    def release(self, worker=None):
        mine = [one for one in self.entries.values() if one.worker and worker in (None, one.worker)]
        for entry in mine:
            status, failure = RESTS[entry.job.wanted], None
            attempts = entry.job.attempts + (status == "queued" and worker is not None)
            if status == "queued" and attempts >= self.max_attempts:
                status, failure = "failed", Failure("worker_lost", f"{attempts} workers were lost at it")
            self.let_go(entry, status, failure, attempts=attempts)
        return len(mine)

    @alone
    def want(self, job_id, wanted, owner=None):
        entry = self.find(job_id, owner)
        job = entry.job
        if job.over:
            if wanted == "run" and job.status != "completed":
                self.go_on_again(entry)
            elif (wanted, job.status) != ("cancel", "cancelled"):
                raise ConflictError(f"video = {job_id}: is {job.status}")
        elif job.wanted == "cancel" != wanted:
            raise ConflictError(f"video = {job_id}: is being cancelled; wait until it is")
        elif wanted != job.wanted:
            if job.status == "paused" and wanted == "run":
                self.check_bytes(job.owner)
            if job.status == "in_progress":
                entry.change(wanted=wanted)
            else:
                self.let_go(entry, RESTS[wanted])
        return self.told(entry)

    @alone
    def remove(self, job_id, owner=None):
        entry = self.find(job_id, owner)
        entry.removed = True
        entry.change(wanted="cancel")

    @alone
    def removed(self):
        needed = {one.job.order.extends for one in self.entries.values() if one.of_use and not one.job.over}
        return [name for name, one in self.entries.items() if not one.of_use and name not in needed]

    @alone
    def forget(self, job_id):
        if job_id in self.entries and not self.entries[job_id].of_use:
            del self.entries[job_id]

    @alone
    def expire(self, seconds):
        self.retention, now = seconds, time.monotonic()
        old = [one for one in self.shown() if one.job.over and now - one.over_since >= seconds]
        for entry in old:
            self.remove(entry.job.id)
        return len(old)

    @alone
    def usage(self, owner):
        mine = self.shown(owner)
        return Usage(len(mine), sum(one.counted for one in mine), sum(one.job.num_bytes for one in mine))

    @alone
    def check_bytes(self, owner, uploaded=0):
        Quota(bytes=self.quotas.get(owner, Quota()).bytes).check_bytes(self.usage(owner), uploaded)

    @alone
    def seconds_left(self, owner):
        quota, used = self.quotas.get(owner, Quota()), self.usage(owner)
        if quota.bytes is not None and used.bytes >= quota.bytes:
            return 0.0
        return None if quota.seconds is None else max(0.0, quota.seconds - used.seconds)

    @alone
    def needed(self):
        return {name for one in self.entries.values() if one.of_use for name in one.job.order.uploads}

    @alone
    def running(self):
        return [self.told(one) for one in self.shown() if one.worker]

    @alone
    def counts(self):
        there = [one.job.status for one in self.shown()]
        return {status: there.count(status) for status in get_args(Status)}

    def shown(self, owner=None):
        there = self.entries.values()
        return [one for one in there if not one.removed and owner in (None, one.job.owner)]

    def waiting(self, models):
        queued = [one for one in self.shown() if one.job.status == "queued"]
        return [one for one in queued if models is None or one.job.order.model in models]

    def find(self, job_id, owner=None):
        entry = self.entries.get(job_id)
        if entry is None or entry.removed or owner not in (None, entry.job.owner):
            raise NotFoundError(f"video = {job_id[:80]!a}: there is no such film")
        return entry

    def own(self, job_id, worker):
        entry = self.entries.get(job_id)
        if entry is None or entry.worker != worker:
            raise LostJobError(job_id)
        return entry

    def let_go(self, entry, status, failure=None, **more):
        over = status in OVER
        wanted = {"paused": "pause", "cancelled": "cancel"}.get(status, "run")
        done = int(time.time()) if over else None
        entry.worker, entry.over_since = None, time.monotonic()
        entry.change(status=status, wanted=wanted, waiting="", completed_at=done, failure=failure, **more)
        return self.told(entry)

    def go_on_again(self, entry):
        job = entry.job
        self.check_bytes(job.owner)
        left, lacks = self.seconds_left(job.owner), max(entry.seconds - entry.made, 0)
        if left is not None and (lacks > left + ROUNDING or (job.order.endless and not left)):
            raise QuotaError(f"seconds = {entry.seconds:g}: you have {left:g} s of film left")
        self.let_go(entry, "queued", attempts=0)

    def told(self, entry):
        done = entry.job.completed_at
        expires = None if done is None or self.retention is None else int(done + self.retention)
        return replace(entry.job, expires_at=expires)


@dataclass
class Kept:
    """An upload."""

    owner: str
    path: Path
    since: float


class MemoryStore:
    """`FilmStore`. A film's files are in a folder that is named after nothing; what is opened is read whole."""

    def __init__(self):
        self.lock, self.room = threading.RLock(), 10**12
        self.disk = tempfile.TemporaryDirectory(prefix="everreel-memory-")
        self.films, self.kept, self.wishes = {}, {}, set()
        self.inbox = self.folder()

    def folder(self):
        return Path(tempfile.mkdtemp(dir=self.disk.name))

    @alone
    def workplace(self, job_id):
        if not re.fullmatch(FILM_ID, job_id):
            raise NotFoundError(f"video = {job_id[:80]!a}: there is no such film")
        if job_id not in self.films:
            self.films[job_id] = self.folder()
        return self.films[job_id]

    @alone
    def open(self, job_id, part):
        if not self.size(job_id, part):
            raise NotFoundError(f"video = {job_id[:80]!a}: has no such part yet")
        return io.BytesIO((self.films[job_id] / part).read_bytes())

    @alone
    def size(self, job_id, part):
        if part not in get_args(Part) or not re.fullmatch(FILM_ID, job_id):
            raise NotFoundError(f"video = {job_id[:80]!a}: has no such part")
        path = self.films.get(job_id, Path(self.disk.name) / "none") / part
        return path.stat().st_size if path.is_file() else 0

    @alone
    def wish(self, job_id):
        self.wishes.add(job_id)

    @alone
    def take_wish(self, job_id):
        wished = job_id in self.wishes
        self.wishes.discard(job_id)
        return wished

    @alone
    def delete(self, job_id):
        self.wishes.discard(job_id)
        if job_id in self.films:
            shutil.rmtree(self.films.pop(job_id))

    def incoming(self):
        return self.inbox

    @alone
    def keep(self, source, owner, suffix, most=None):
        name = new_id("file")
        path = self.folder() / f"{name}{suffix}"
        shutil.move(source, path)
        if most is not None and self.uploads(owner) + path.stat().st_size > most:
            path.unlink()
            raise QuotaError(f"upload: at most {most} bytes of all together")
        self.kept[name] = Kept(owner, path, time.monotonic())
        return name

    @alone
    def upload(self, upload_id, owner=None):
        found = self.kept.get(upload_id)
        if found is None or owner not in (None, found.owner):
            raise NotFoundError(f"upload = {upload_id[:80]!a}: there is no such upload")
        return found.path

    @alone
    def uploads(self, owner):
        return sum(one.path.stat().st_size for one in self.kept.values() if owner in (None, one.owner))

    @alone
    def drop_uploads(self, but):
        old = {name for name, one in self.kept.items() if time.monotonic() - one.since > DAY}
        for name in old - but:
            self.kept.pop(name).path.unlink()

    def free_bytes(self):
        return self.room
