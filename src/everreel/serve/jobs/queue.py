"""The queue of a home: one SQLite file, `queue.sqlite3`, which the server, its workers and its agents share.

Nothing in it is ordered or decided by a date: films have numbers, owners take turns by a counter, and what is old is
old by `age.Age`. What was promised to somebody (a job taken on, paused, cancelled, removed, finished) is on disk before
they hear of it; who works at what, and how far, may be forgotten with the power, since the film's own journal knows and
the worker is gone as well. The one invariant: a job is in progress if and only if it has a worker, and one that is not
removed is in exactly one status, so whatever dies when, `release` makes it claimable again.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from everreel.film.request import RequestError
from everreel.serve.jobs.age import Age
from everreel.serve.jobs.database import Database, in_any_case, rows_of
from everreel.serve.jobs.job import (
    FILM_ID,
    OVER,
    PRIORITIES,
    ROUNDING,
    ConflictError,
    DiskFullError,
    Failure,
    Job,
    LostJobError,
    NotFoundError,
    Once,
    Owner,
    Quota,
    QuotaError,
    Report,
    Status,
    Usage,
    Wanted,
    new_id,
)
from everreel.serve.jobs.order import Order

FILE, VERSION = "queue.sqlite3", 2
LONGEST_PAGE = 1000
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    place INTEGER NOT NULL DEFAULT 0,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    wanted TEXT NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    version INTEGER NOT NULL DEFAULT 1,
    priority INTEGER NOT NULL,
    model TEXT NOT NULL,
    endless INTEGER NOT NULL,
    fps INTEGER NOT NULL,
    seconds REAL NOT NULL,
    "row" INTEGER NOT NULL DEFAULT 0,
    num_rows INTEGER NOT NULL DEFAULT 0,
    num_frames INTEGER NOT NULL DEFAULT 0,
    most_frames INTEGER NOT NULL DEFAULT 0,
    num_bytes INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    waiting TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    over_age REAL,
    failure_code TEXT,
    failure_message TEXT,
    idempotency TEXT,
    digest TEXT,
    extends TEXT,
    uploads TEXT NOT NULL,
    ordered TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX jobs_owner ON jobs (owner, number);
CREATE INDEX jobs_line ON jobs (status, removed, priority, owner, place, model);
CREATE INDEX jobs_place ON jobs (place);
CREATE INDEX jobs_removed ON jobs (id) WHERE removed = 1;
CREATE TABLE owners (
    name TEXT PRIMARY KEY,
    turn INTEGER NOT NULL DEFAULT 0,
    films INTEGER,
    seconds REAL,
    bytes INTEGER
)
"""
# By the version that a file has. Films that wait there have their place by their number.
_UPGRADES = {
    1: "ALTER TABLE jobs ADD COLUMN place INTEGER NOT NULL DEFAULT 0; UPDATE jobs SET place = number;"
    "DROP INDEX jobs_status; CREATE INDEX jobs_place ON jobs (place);"
    "CREATE INDEX jobs_line ON jobs (status, removed, priority, owner, place, model)"
}
_LIVE = "('queued', 'in_progress', 'paused')"
_MADE = "1.0 * num_frames / fps"
_USAGE = f"""SELECT count(*) AS films, coalesce(sum(num_bytes), 0) AS bytes,
    coalesce(sum(CASE WHEN status IN {_LIVE} THEN max(seconds, {_MADE}) ELSE {_MADE} END), 0) AS seconds
    FROM jobs WHERE owner = ? AND removed = 0"""
_OTHERS = """SELECT 1 FROM jobs
    WHERE status = 'queued' AND removed = 0 AND {models} AND priority >= ? LIMIT 1"""
_LAST = "(SELECT coalesce(max(place), 0) + 1 FROM jobs)"
_NEXT = """SELECT number, owner FROM (
        SELECT number, owner, min(place) AS place FROM jobs
        WHERE status = 'queued' AND removed = 0 AND {models} AND priority = (
            SELECT max(priority) FROM jobs WHERE status = 'queued' AND removed = 0 AND {models})
        GROUP BY owner
    ) JOIN owners ON owners.name = owner ORDER BY turn, place LIMIT 1"""
# A film that is still to be gone on with is kept for that, though nobody sees it any more.
_REMOVED = f"""SELECT id FROM jobs WHERE removed = 1 AND status != 'in_progress' AND id NOT IN (
    SELECT extends FROM jobs WHERE extends IS NOT NULL AND status IN {_LIVE}
    AND (removed = 0 OR status = 'in_progress'))"""
_WORKS = {
    "completed": "is completed; it can be made longer, remixed or deleted",
    "failed": "has failed; it can be gone on with or deleted",
    "cancelled": "is cancelled; it can be gone on with or deleted",
}


class SqliteQueue:
    """`JobQueue` in a home. `max_attempts`: so many workers may be lost at a film without a new frame.

    Enough that a film which kills its workers is given up, and one whose workers are killed by others is not: with 5,
    fifty kills at random failed two films of twelve.
    """

    def __init__(self, home: Path, *, max_attempts: int = 20) -> None:
        self._max_attempts = max_attempts
        self._db = Database(home / FILE, _SCHEMA, VERSION, _UPGRADES)
        self._age = Age(home / "age.json")
        self._retention: float | None = None

    def close(self) -> None:
        """Close the file, where no call is under way."""
        self._db.close()

    def put(
        self,
        order: Order,
        owner: Owner,
        *,
        seconds: float,
        uploaded: int = 0,
        priority: int = 0,
        once: Once | None = None,
    ) -> tuple[Job, bool]:
        """See `JobQueue`."""
        if priority not in PRIORITIES:
            low, high = PRIORITIES[0], PRIORITIES[-1]
            nearest = min(max(priority, low), high)
            raise RequestError(f"priority = {priority}: must be {low} to {high}; nearest that works: {nearest}")
        self._db.keep_spare()
        with self._db.writing(lasting=True) as db:
            if once is not None and (job := self._known(db, owner.name, once)):
                return job, False
            if order.extends is not None:
                self._find(db, order.extends, owner.name)
            owner.quota.check(_usage(db, owner.name), 0 if order.endless else seconds, uploaded)
            db.execute(
                "INSERT INTO owners (name, films, seconds, bytes) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET films = excluded.films, seconds = excluded.seconds, bytes = excluded.bytes",
                (owner.name, owner.quota.films, owner.quota.seconds, owner.quota.bytes),
            )
            return self._job(_insert(db, order, owner.name, seconds, priority, once)), True

    def known(self, owner: str, once: Once) -> Job | None:
        """See `JobQueue`."""
        with self._db.reading() as db:
            return self._known(db, owner, once)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """See `JobQueue`."""
        with self._db.reading() as db:
            return self._job(self._find(db, job_id, owner))

    def page(
        self, owner: str | None, *, after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> Sequence[Job]:
        """See `JobQueue`; 1000 jobs at most."""
        conditions, values = ["removed = 0"], []
        if owner is not None:
            conditions.append("owner = ?")
            values.append(owner)
        with self._db.reading() as db:
            if after is not None:
                conditions.append(f"number {'<' if newest_first else '>'} ?")
                values.append(self._find(db, after, owner)["number"])
            direction = "DESC" if newest_first else "ASC"
            where = f"WHERE {' AND '.join(conditions)} ORDER BY number {direction} LIMIT ?"
            rows = rows_of(db, f"SELECT * FROM jobs {where}", *values, min(max(limit, 0), LONGEST_PAGE))
            return [self._job(row) for row in rows]

    def claim(self, worker: str, models: Sequence[str] | None = None) -> Job | None:
        """See `JobQueue`. It looks before it takes the lock, so that workers with nothing to do disturb nobody."""
        query, values = _NEXT.format(models=_served(models)), tuple(models or ()) * 2
        with self._db.reading() as db:
            if not rows_of(db, query, *values):
                return None
        try:
            with self._db.writing(lasting=False) as db:
                for number, owner in rows_of(db, query, *values):
                    _had_its_turn(db, owner)
                    (row,) = rows_of(
                        db,
                        "UPDATE jobs SET status = 'in_progress', worker = ?, version = version + 1,"
                        " started_at = coalesce(started_at, ?) WHERE number = ? RETURNING *",
                        *(worker, int(time.time()), number),
                    )
                    return self._job(row)
        except DiskFullError:  # a film could not be written down either, so nothing is lost by waiting
            pass
        return None

    def report(self, job_id: str, worker: str, report: Report) -> Wanted:
        """See `JobQueue`. A report with nothing new in it only reads."""
        told = {name: getattr(report, name) for name in Report.__dataclass_fields__}
        with self._db.reading() as db:
            row = _own(db, job_id, worker)
        if all(row[name] == value for name, value in told.items()):
            return _wanted(row["wanted"])
        with self._db.writing(lasting=False) as db:
            row = _own(db, job_id, worker)
            if report.num_frames > row["most_frames"]:
                # Not those of the last report: a worker that begins where the journal ends reports fewer at first.
                told |= {"most_frames": report.num_frames, "attempts": 0}
            return _wanted(_change(db, row["number"], **told)["wanted"])

    @in_any_case
    def finish(self, job_id: str, worker: str, status: Status, failure: Failure | None = None) -> Job:
        """See `JobQueue`."""
        assert status != "in_progress" and (status == "failed") == (failure is not None)
        with self._db.writing(lasting=True) as db:
            row = _own(db, job_id, worker)
            if status in ("paused", "queued"):  # something else may be wanted by now
                status = _resting(row["wanted"])
            return self._job(self._let_go(db, row, status, failure))

    def give_way(self, job_id: str, worker: str, models: Sequence[str] | None = None) -> bool:
        """See `JobQueue`. Its owner's turn ends only now, so that another owner's is next."""
        query, values = _OTHERS.format(models=_served(models)), tuple(models or ())
        with self._db.writing(lasting=False) as db:
            row = _own(db, job_id, worker)
            if row["wanted"] != "run" or not rows_of(db, query, *values, row["priority"]):
                return False
            db.execute(f"UPDATE jobs SET place = {_LAST} WHERE number = ?", (row["number"],))
            _had_its_turn(db, row["owner"])
            self._let_go(db, row, "queued")
            return True

    @in_any_case
    def release(self, worker: str | None = None) -> int:
        """See `JobQueue`. That all are gone is because their server is, which says nothing against a film."""
        with self._db.writing(lasting=True) as db:
            mine, values = ("", ()) if worker is None else (" AND worker = ?", (worker,))
            rows = rows_of(db, f"SELECT * FROM jobs WHERE status = 'in_progress'{mine}", *values)
            for row in rows:
                status, failure = _resting(row["wanted"]), None
                attempts = row["attempts"] + (status == "queued" and worker is not None)
                if status == "queued" and attempts >= self._max_attempts:
                    said = f"{attempts} workers were lost at it, one after the other, without a new frame"
                    status, failure = "failed", Failure("worker_lost", said)
                self._let_go(db, row, status, failure, attempts=attempts)
            return len(rows)

    @in_any_case
    def want(self, job_id: str, wanted: Wanted, owner: str | None = None) -> Job:
        """See `JobQueue`. A cancelled film is cancelled, and only then can be gone on with: its worker may have stopped
        already.
        """
        with self._db.writing(lasting=True) as db:
            row = self._find(db, job_id, owner)
            status, before = row["status"], row["wanted"]
            if status in OVER:
                if wanted == "run" and status != "completed":
                    return self._job(_again(db, row))
                if not (wanted == "cancel" and status == "cancelled"):
                    raise ConflictError(f"video = {job_id}: {_WORKS[status]}")
            elif before == "cancel" and wanted != "cancel":
                raise ConflictError(f"video = {job_id}: is being cancelled; wait until it is")
            elif wanted != before:
                if status == "paused" and wanted == "run":
                    _check_bytes(db, row["owner"])
                if status == "in_progress":
                    row = _change(db, row["number"], wanted=wanted)
                else:
                    row = self._let_go(db, row, _resting(wanted))
            return self._job(row)

    @in_any_case
    def remove(self, job_id: str, owner: str | None = None) -> None:
        """See `JobQueue`."""
        with self._db.writing(lasting=True) as db:
            row = self._find(db, job_id, owner)
            _change(db, row["number"], removed=1, wanted="cancel", idempotency=None)

    def removed(self) -> Sequence[str]:
        """See `JobQueue`."""
        with self._db.reading() as db:
            return [row["id"] for row in rows_of(db, _REMOVED)]

    @in_any_case
    def forget(self, job_id: str) -> None:
        """See `JobQueue`."""
        with self._db.writing(lasting=False) as db:
            db.execute("DELETE FROM jobs WHERE id = ? AND removed = 1 AND status != 'in_progress'", (job_id,))

    @in_any_case
    def expire(self, seconds: float) -> int:
        """See `JobQueue`."""
        self._retention = seconds
        now, over = self._age.now(), "status IN ('completed', 'failed', 'cancelled') AND removed = 0"
        with self._db.reading() as db:
            if not rows_of(
                db, f"SELECT 1 FROM jobs WHERE {over} AND (over_age > ? OR over_age <= ?)", now, now - seconds
            ):
                return 0
        with self._db.writing(lasting=False) as db:
            # Ages beyond today's are of a file that was lost; from here they count anew.
            db.execute(f"UPDATE jobs SET over_age = ? WHERE {over} AND over_age > ?", (now, now))
            gone = "UPDATE jobs SET removed = 1, wanted = 'cancel', idempotency = NULL, version = version + 1"
            return db.execute(f"{gone} WHERE {over} AND over_age <= ?", (now - seconds,)).rowcount

    def usage(self, owner: str) -> Usage:
        """See `JobQueue`."""
        with self._db.reading() as db:
            return _usage(db, owner)

    def check_bytes(self, owner: str, uploaded: int = 0) -> None:
        """See `JobQueue`."""
        with self._db.reading() as db:
            _check_bytes(db, owner, uploaded)

    def seconds_left(self, owner: str) -> float | None:
        """See `JobQueue`."""
        with self._db.reading() as db:
            return _seconds_left(db, owner)

    def needed(self) -> set[str]:
        """See `JobQueue`."""
        with self._db.reading() as db:
            query = "SELECT uploads FROM jobs WHERE uploads != '' AND (removed = 0 OR status = 'in_progress')"
            return {name for row in rows_of(db, query) for name in row["uploads"].split()}

    def running(self) -> Sequence[Job]:
        """See `JobQueue`."""
        with self._db.reading() as db:
            query = "SELECT * FROM jobs WHERE status = 'in_progress' AND removed = 0 ORDER BY number"
            return [self._job(row) for row in rows_of(db, query)]

    def counts(self) -> Mapping[Status, int]:
        """See `JobQueue`."""
        counts: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
        with self._db.reading() as db:
            for row in rows_of(db, "SELECT status, count(*) AS jobs FROM jobs WHERE removed = 0 GROUP BY status"):
                counts[row["status"]] = row["jobs"]
        return counts

    def _known(self, db: sqlite3.Connection, owner: str, once: Once) -> Job | None:
        old = rows_of(db, "SELECT * FROM jobs WHERE owner = ? AND idempotency = ?", owner, once.hashed)
        if not old:
            return None
        if old[0]["digest"] != once.digest:
            raise ConflictError(f"idempotency_key: is that of {old[0]['id']}, another request; take a new one")
        return self._job(old[0])

    def _find(self, db: sqlite3.Connection, job_id: str, owner: str | None) -> sqlite3.Row:
        known = re.fullmatch(FILM_ID, job_id)  # whatever else may have been sent
        rows = rows_of(db, "SELECT * FROM jobs WHERE id = ? AND removed = 0", job_id) if known else []
        if not rows or owner not in (None, rows[0]["owner"]):
            raise NotFoundError(f"video = {job_id[:80]!a}: there is no such film")
        return rows[0]

    def _let_go(
        self, db: sqlite3.Connection, row: sqlite3.Row, status: Status, failure: Failure | None = None, **more: int
    ) -> sqlite3.Row:
        """A job that no worker has, from now on or still."""
        over = status in OVER
        return _change(
            db,
            row["number"],
            status=status,
            wanted={"paused": "pause", "cancelled": "cancel"}.get(status, "run"),
            worker=None,
            waiting="",
            completed_at=int(time.time()) if over else None,
            over_age=self._age.now() if over else None,
            failure_code=failure.code if failure else None,
            failure_message=failure.message if failure else None,
            **more,
        )

    def _job(self, row: sqlite3.Row) -> Job:
        names = Job.__dataclass_fields__.keys() - {"order", "failure", "expires_at"}
        done, kept = row["completed_at"], self._retention
        return Job(
            order=Order.model_validate_json(row["ordered"]),
            failure=Failure(row["failure_code"], row["failure_message"]) if row["failure_code"] else None,
            expires_at=None if done is None or kept is None else int(done + kept),
            **{name: row[name] for name in names},
        )


def _change(db: sqlite3.Connection, number: int, **columns: Any) -> sqlite3.Row:  # noqa: ANN401
    sets = ", ".join(f'"{name}" = ?' for name in columns)
    query = f"UPDATE jobs SET version = version + 1, {sets} WHERE number = ? RETURNING *"
    row: sqlite3.Row = rows_of(db, query, *columns.values(), number)[0]
    return row


def _own(db: sqlite3.Connection, job_id: str, worker: str) -> sqlite3.Row:
    """A worker's own job, removed or not."""
    rows = rows_of(db, "SELECT * FROM jobs WHERE id = ? AND worker = ? AND status = 'in_progress'", job_id, worker)
    if not rows:
        raise LostJobError(f"{job_id} is not {worker}'s any more")
    return rows[0]


def _served(models: Sequence[str] | None) -> str:
    """The condition that a job is of one of these models, if any are named."""
    return "1" if models is None else f"model IN ({', '.join('?' * len(models))})"


def _had_its_turn(db: sqlite3.Connection, owner: str) -> None:
    db.execute("UPDATE owners SET turn = (SELECT max(turn) FROM owners) + 1 WHERE name = ?", (owner,))


def _insert(
    db: sqlite3.Connection, order: Order, owner: str, seconds: float, priority: int, once: Once | None
) -> sqlite3.Row:
    columns = {
        "id": new_id("video"),
        "owner": owner,
        "status": "queued",
        "wanted": "run",
        "priority": priority,
        "model": order.model,
        "endless": order.endless,
        "fps": order.request.fps,
        "seconds": 0 if order.endless else seconds,
        "created_at": int(time.time()),
        "idempotency": once.hashed if once else None,
        "digest": once.digest if once else None,
        "extends": order.extends,
        "uploads": " ".join(sorted(order.uploads)),
        # What was left open is not written down, as it is not the same as what was asked for.
        "ordered": order.model_dump_json(exclude_unset=True),
    }
    names, values = ", ".join(columns), ", ".join("?" * len(columns))
    query = f"INSERT INTO jobs ({names}, place) VALUES ({values}, {_LAST}) RETURNING *"
    row: sqlite3.Row = rows_of(db, query, *columns.values())[0]
    return row


def _again(db: sqlite3.Connection, row: sqlite3.Row) -> sqlite3.Row:
    """A film that was failed or cancelled is to be gone on with: it needs the seconds that it lacks, and bytes."""
    _check_bytes(db, row["owner"])
    left, made = _seconds_left(db, row["owner"]), row["num_frames"] / row["fps"]
    if left is not None and (max(row["seconds"] - made, 0) > left + ROUNDING or (row["endless"] and left <= 0)):
        raise QuotaError(f"seconds = {row['seconds']:g}: you have {left:g} s of film left; delete some")
    cleared = dict.fromkeys(("completed_at", "over_age", "failure_code", "failure_message"))
    return _change(db, row["number"], status="queued", wanted="run", attempts=0, **cleared)


def _usage(db: sqlite3.Connection, owner: str) -> Usage:
    return Usage(**dict(rows_of(db, _USAGE, owner)[0]))


def _seconds_left(db: sqlite3.Connection, owner: str) -> float | None:
    for quota in rows_of(db, "SELECT * FROM owners WHERE name = ?", owner):
        if quota["seconds"] is None and quota["bytes"] is None:
            break
        used = _usage(db, owner)
        if quota["bytes"] is not None and used.bytes >= quota["bytes"]:
            return 0
        if quota["seconds"] is not None:
            return max(0.0, float(quota["seconds"]) - used.seconds)
    return None


def _check_bytes(db: sqlite3.Connection, owner: str, uploaded: int = 0) -> None:
    for quota in rows_of(db, "SELECT bytes FROM owners WHERE name = ? AND bytes IS NOT NULL", owner):
        Quota(bytes=quota["bytes"]).check_bytes(_usage(db, owner), uploaded)


def _resting(wanted: str) -> Status:
    """The status of a film that is not done, and that nobody works at."""
    resting: dict[str, Status] = {"run": "queued", "pause": "paused", "cancel": "cancelled"}
    return resting[wanted]


def _wanted(value: str) -> Wanted:
    wanted: Wanted = value  # type: ignore[assignment]
    return wanted
