"""One SQLite file that many processes and threads share: connections, transactions, and what a full disk does.

It is in WAL mode (https://www.sqlite.org/wal.html): readers and the one writer do not wait for each other. Connections
are kept and lent, one a call, since to open one costs more than a write (1.6 ms against 1.0; 6.6 ms where it is the
only one, which folds the log back when it is closed). The one invariant: a change is one `BEGIN IMMEDIATE` transaction,
which holds the write lock from its first read on, so what was read is still so when it is written.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from everreel.media import sync_folder
from everreel.serve.jobs.job import FULL_DISK, DiskFullError

PATIENCE = 60.0  # seconds to wait for the write lock, which is held for milliseconds; a disk may stall
OLDEST = (3, 35)  # which has RETURNING
LOG_BYTES = 16_000_000  # a log that grew beyond is cut back
SPARE_BYTES = 8_000_000  # twice what SQLite lets its log grow to before it folds that back
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ANOTHER_PROCESS: list[sqlite3.Connection] = []
"""Connections of the process that this one was forked from: to close them here would be to spoil them there."""
P = ParamSpec("P")
R = TypeVar("R")


class Database:
    """The file at `path`, made with `schema` if it is not there.

    `upgrades` are statements that lead from each version that was before to the next.

    Raises:
        ValueError: a newer program wrote it, or it is something else.
    """

    def __init__(self, path: Path, schema: str, version: int, upgrades: Mapping[int, str] | None = None) -> None:
        self._path, self._pid = path, os.getpid()
        self._idle: list[sqlite3.Connection] = []
        self._turn = threading.Lock()
        self._spare = path.with_name(f"{path.name}-spare")
        self._create(schema, version, upgrades or {})
        self._door = self._new_door()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with; what is read in one statement is of one moment."""
        self._after_fork()
        with self._lent() as db, _plain():
            yield db

    @contextmanager
    def writing(self, *, lasting: bool) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is done, or, if anything is raised, nothing.

        What is `lasting` is on disk when this returns, even if the power goes (`synchronous=FULL`: the log is synced
        with every commit). All else survives the death of any process, but the last moments of it may be lost with the
        power, never out of order (`NORMAL`); that is a fifteenth of the time.

        Raises:
            DiskFullError: there is no room to write it down.
        """
        self._after_fork()
        with self._turn, self._in_line(), self._lent() as db, _plain():
            db.execute(f"PRAGMA synchronous={'FULL' if lasting else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                if db.in_transaction:  # some errors of SQLite's have ended it already
                    db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                    _empty_log(db)  # it cannot grow: what is in it goes to its places, so that it can begin anew
                raise
            if lasting:
                self._grow(db)

    def keep_spare(self) -> None:
        """Keep some room for when the disk is full, when the most important thing to write down is what may go.

        Raises:
            DiskFullError: there is none to keep.
        """
        if self._spare.exists():
            return
        new = self._spare.with_name(f"{self._spare.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            new.touch(0o600, exist_ok=False)
            with new.open("r+b") as file:  # and not with a hole, which takes no room
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)
                else:
                    file.write(bytes(SPARE_BYTES))
            new.replace(self._spare)
        except OSError as error:
            new.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(FULL_DISK) from None

    def give_spare(self) -> bool:
        """Make room of what was kept; False where there is none."""
        try:
            self._spare.unlink()
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            self._idle.pop().close()
        self._door.close()

    def _grow(self, db: sqlite3.Connection) -> None:
        """Have the file as long as it will be, so that on a full disk what is in the log finds its places there."""
        with suppress(sqlite3.OperationalError, OSError):  # all is written down by now, whatever becomes of this
            (pages,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
            if self._path.stat().st_size < pages * size:
                _empty_log(db)

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        """Processes that want to write wait here, in line, and the system wakes the next.

        SQLite itself sleeps up to 0.1 s and tries again, so who is unlucky starves: of four processes that wrote all
        the time, one waited 2.7 s, and 0.03 s with this. Nothing depends on it but that; SQLite has locks of its own.
        """
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def _new_door(self) -> FileIO:
        handle = os.open(self._path.with_name(f"{self._path.name}-turn"), os.O_RDWR | os.O_CREAT, 0o600)
        return FileIO(handle, "r+")

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            _ANOTHER_PROCESS.extend(self._idle)
            self._idle, self._turn, self._pid = [], threading.Lock(), os.getpid()
            self._door = self._new_door()  # the other one is the parent's place in the line as well

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._idle.pop()
        except IndexError:
            with _plain():
                db = self._connect()
        try:
            yield db
        finally:
            self._idle.append(db)

    def _connect(self) -> sqlite3.Connection:
        # A connection is used by one thread at a time, though not always by the one that opened it.
        db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        return db

    def _create(self, schema: str, version: int, upgrades: Mapping[int, str]) -> None:
        name = self._path.name
        if sqlite3.sqlite_version_info < OLDEST:
            found, needed = sqlite3.sqlite_version, ".".join(map(str, OLDEST))
            raise ValueError(f"sqlite = {found}: the queue needs at least {needed}; use a Python with a newer one")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # it holds what people asked for
        try:
            with closing(self._connect()) as db, _plain():
                _use_log(db)
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN IMMEDIATE")
                (found,) = db.execute("PRAGMA user_version").fetchone()
                if found > version:
                    rule = f"was written by a newer everreel (version {found}, this one knows {version})"
                    raise ValueError(f"{name}: {rule}; update everreel, or give another home")
                if not found and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise ValueError(f"{name}: is another program's file; give another home")
                for script in (upgrades[old] for old in range(found, version)) if found else (schema,):
                    for statement in script.split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={version}")
                db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            raise ValueError(f"{name}: is damaged or no database; move it away, or give another home") from None
        sync_folder(self._path.parent)


def rows_of(db: sqlite3.Connection, query: str, *values: Any) -> list[sqlite3.Row]:  # noqa: ANN401
    """All rows that a statement gives."""
    return db.execute(query, values).fetchall()


class _Holder(Protocol):
    _db: Database


H = TypeVar("H", bound=_Holder)


def in_any_case(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """What must be possible on a full disk too, as to delete a film. It takes the room that was kept."""

    @functools.wraps(method)
    def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except DiskFullError:
            if not self._db.give_spare():
                raise
            return method(self, *args, **kwargs)

    return call


def _use_log(db: sqlite3.Connection) -> None:
    """Switch to WAL, for which SQLite itself does not wait where another process is just doing it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _empty_log(db: sqlite3.Connection) -> None:
    """As far as nobody reads it, and as there is room; waits for nobody."""
    with suppress(sqlite3.OperationalError):
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _is_full(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode in _FULL or error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL


@contextmanager
def _plain() -> Iterator[None]:
    """Errors of SQLite's that have a name here."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _is_full(error):
            raise DiskFullError(FULL_DISK) from error
        if error.sqlite_errorcode & 0xFF in _BUSY:
            raise TimeoutError(f"the queue was in use for {PATIENCE:g} s; try again") from error
        raise
