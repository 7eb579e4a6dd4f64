"""Films and uploads of a home, in folders of this machine: `films/<video id>/` and `uploads/<owner>/<file id>...`.

The one invariant: of what a client says, only an id becomes part of a path, after it was found to be nothing but an id;
and no link is followed, so what is read and deleted lies in the home.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC, EXDEV
from pathlib import Path
from typing import BinaryIO, get_args

from filelock import FileLock

from everreel.media import sync_folder
from everreel.serve.jobs.age import Age
from everreel.serve.jobs.job import (
    FILM_ID,
    FULL_DISK,
    UPLOAD_ID,
    DiskFullError,
    NotFoundError,
    Part,
    QuotaError,
    new_id,
)

RESERVE = 200_000_000
"""Bytes of the disk that are left alone: for the queue, for journals, and for others."""
UPLOAD_AGE, SPOOL_AGE = 24 * 3600.0, 3600.0
WISH = "wish"


class FolderStore:
    """`FilmStore` in a home. `reserve`: bytes of the disk that are left alone."""

    def __init__(self, home: Path, *, reserve: int = RESERVE) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home, self._reserve = home, reserve
        self._films, self._uploads, self._incoming = home / "films", home / "uploads", home / "incoming"
        for folder in (self._films, self._uploads, self._incoming):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._age = Age(home / "age.json")
        self._spooled: dict[str, tuple[int, int, float]] = {}

    def workplace(self, job_id: str) -> Path:
        """See `FilmStore`."""
        folder = self._film(job_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def open(self, job_id: str, part: Part) -> BinaryIO:
        """See `FilmStore`."""
        path = self._part(job_id, part)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # not to wait for a pipe either
        except OSError:
            raise NotFoundError(f"video = {job_id}: has no {part} yet") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise NotFoundError(f"video = {job_id}: has no {part} yet")
        return os.fdopen(handle, "rb")

    def size(self, job_id: str, part: Part) -> int:
        """See `FilmStore`."""
        return _size(self._part(job_id, part))

    def wish(self, job_id: str) -> None:
        """See `FilmStore`. A film that was not begun has no folder, and nothing to show."""
        with suppress(OSError):
            os.close(os.open(self._film(job_id) / WISH, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))

    def take_wish(self, job_id: str) -> bool:
        """See `FilmStore`."""
        try:
            (self._film(job_id) / WISH).unlink()
        except OSError:
            return False
        return True

    def delete(self, job_id: str) -> None:
        """See `FilmStore`. Who reads a part of it just then can read on."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._film(job_id))

    def incoming(self) -> Path:
        """See `FilmStore`. It lies in the home, as a file can only be moved within one file system in one moment."""
        return self._incoming

    def keep(self, source: Path, owner: str, suffix: str, most: int | None = None) -> str:
        """See `FilmStore`. From elsewhere than `incoming` it may have to be copied."""
        assert re.fullmatch(r"\.[a-z0-9]{1,8}", suffix), suffix
        if not stat.S_ISREG(source.lstat().st_mode):
            raise ValueError("upload: must be a file")
        if not self.free_bytes():
            raise DiskFullError(FULL_DISK)
        upload_id, folder = new_id("file"), self._uploads / _hash(owner)
        # Its age is part of its name, as the date of a file is by the clock that jumps.
        path = folder / f"{upload_id}.{int(self._age.now())}{suffix}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with _moved_into(source, self.incoming()) as inside:
                _sync(inside)
                with FileLock(self._home / "uploads.lock", mode=0o600):  # two at once would both find room
                    if most is not None and self.uploads(owner) + _size(inside) > most:
                        raise QuotaError(f"upload = {_size(inside)} bytes: at most {most} of all together")
                    inside.replace(path)
            sync_folder(folder)
            sync_folder(self._uploads)
        except OSError as error:
            if error.errno not in (ENOSPC, EDQUOT):
                raise
            raise DiskFullError(FULL_DISK) from None
        return upload_id

    def upload(self, upload_id: str, owner: str | None = None) -> Path:
        """See `FilmStore`."""
        if re.fullmatch(UPLOAD_ID, upload_id):
            for folder in self._folders(owner):
                for entry in _files(folder):
                    if entry.name.startswith(f"{upload_id}."):
                        return Path(entry.path)
        raise NotFoundError(f"upload = {upload_id[:80]!a}: there is no such upload; it may have been deleted")

    def uploads(self, owner: str | None) -> int:
        """See `FilmStore`."""
        folders = self._folders(owner)
        return sum(_size(Path(entry.path)) for folder in folders for entry in _files(folder))

    def drop_uploads(self, but: set[str]) -> None:
        """See `FilmStore`. What was being received and was forgotten, as the server was killed, goes as well."""
        now = self._age.now()
        for folder in self._folders(None):
            for entry in _files(folder):
                name, _, rest = entry.name.partition(".")
                born = rest.partition(".")[0]
                if name not in but and born.isdecimal() and now - int(born) > UPLOAD_AGE:
                    _unlink(Path(entry.path))
        self._drop_spooled()

    def free_bytes(self) -> int:
        """See `FilmStore`."""
        return max(0, shutil.disk_usage(self._home).free - self._reserve)

    def _drop_spooled(self) -> None:
        """Files in `incoming` that nothing was added to for an hour, by this process's own watch: one that was started
        again begins to watch anew.
        """
        seen, now = self._spooled, time.monotonic()
        self._spooled = {}
        for entry in _files(self.incoming()):
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                size, changed, since = seen.get(entry.name, (-1, -1, now))
                since = since if (size, changed) == (found.st_size, found.st_mtime_ns) else now
                if now - since > SPOOL_AGE:
                    _unlink(Path(entry.path))
                else:
                    self._spooled[entry.name] = (found.st_size, found.st_mtime_ns, since)

    def _folders(self, owner: str | None) -> Iterable[Path]:
        """Of uploads: an owner's, there or not, or everybody's."""
        return self._uploads.iterdir() if owner is None else [self._uploads / _hash(owner)]

    def _film(self, job_id: str) -> Path:
        """Its folder, there or not."""
        folder = self._films / job_id if re.fullmatch(FILM_ID, job_id) else None
        if folder is None or folder.is_symlink():
            raise NotFoundError(f"video = {job_id[:80]!a}: there is no such film")
        return folder

    def _part(self, job_id: str, part: Part) -> Path:
        if part not in get_args(Part):
            raise NotFoundError(f"video = {job_id[:80]!a}: has no such part")
        return self._film(job_id) / part


@contextmanager
def _moved_into(source: Path, folder: Path) -> Iterator[Path]:
    """The source, by a new name in a folder of the home; what is left there when something fails is deleted."""
    inside = folder / secrets.token_hex(16)
    try:
        try:
            source.replace(inside)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            shutil.copyfile(source, inside, follow_symlinks=False)
            _unlink(source)
        yield inside
    finally:
        _unlink(inside)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Files in a folder, no links; none if there is no folder."""
    if folder.is_symlink():
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))


def _hash(owner: str) -> str:
    """An owner's folder: a name may be anything, and differ from another only in its case."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
