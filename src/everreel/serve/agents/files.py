"""Files of the user's machine that an agent may name by their paths: those in the folders that the user allowed.

The one invariant: of what an agent writes, nothing is looked at on the disk before it reads as a path into an allowed
folder; nothing is opened but a file that lies in one, wherever links lead; and of all else nothing is told, not even
whether it is there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from everreel.film.request import RequestError
from everreel.serve.jobs.job import FULL_DISK, DiskFullError

LONGEST, SHOWN = 4096, 80  # characters of a path, and of it those that are repeated
PIECE = 1 << 20
_JPEG = "/9j/"  # as base64, what every JPEG begins with; no PNG or WebP begins with a slash
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # not to wait for a pipe


def is_path(text: str) -> bool:
    """Whether a text stands for a path and not for a picture as base64, or for an id."""
    return text.startswith("/") and not text.startswith(_JPEG)


@dataclass(frozen=True)
class Folders:
    """The folders that were allowed, by the name that each was given and by where it is, links followed."""

    places: tuple[tuple[Path, Path], ...]

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Folders:
        """The folders at these paths.

        Raises:
            ValueError: one of them is not there, or is no folder.
        """
        places = []
        for folder in folders:
            given = folder.expanduser()  # agents start the command without a shell
            if not given.is_dir():
                raise ValueError(f"files = {folder}: must be a folder that is there; a folder of pictures works")
            real = given.resolve()
            places.append((real if ".." in given.parts else given.absolute(), real))
        return cls(tuple(places))

    def describe(self) -> str:
        """Their names, for people and agents."""
        return " or ".join(str(named) for named, _ in self.places)

    def copy(self, field: str, text: str, place: Path, most: int) -> None:
        """Copy the file at a path to a new place, where nobody else changes it.

        Args:
            field: what the path is given for; an error names it.
            most: bytes.

        Raises:
            RequestError: it does not lie in one of the folders, is not there, is no file or too large.
            DiskFullError: there is no room at the new place.
        """
        try:
            with self._opened(field, text) as file, place.open("xb") as copy:
                size = os.fstat(file.fileno()).st_size
                while size <= most and (piece := file.read(PIECE)):
                    copy.write(piece)
                    size = max(size, copy.tell())  # it may grow meanwhile
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(FULL_DISK) from None
        if size > most:
            raise RequestError(f"{field} = {_shown(text)}: must have at most {most} bytes; a smaller file works")

    @contextmanager
    def _opened(self, field: str, text: str) -> Iterator[BinaryIO]:
        """Raises: RequestError."""
        folder, inside = self._place(field, text)
        try:
            handle = _open_inside(folder, inside)
        except (OSError, ValueError) as error:
            raise RequestError(f"{field} = {_shown(text)}: {_reason(error)}; a picture or a film works") from None
        with os.fdopen(handle, "rb", buffering=0) as file:
            yield file

    def _place(self, field: str, text: str) -> tuple[Path, tuple[str, ...]]:
        """The allowed folder that a path leads into, and the names below it, of which none is a link by now.

        Raises:
            RequestError: it leads into none.
        """
        path = Path("" if "\0" in text or len(text) > LONGEST else text)
        for named, real in self.places:
            for folder in (named, real):
                # As it is written: whoever asks for something else learns nothing, as nothing is looked for.
                if ".." in path.parts or not path.is_relative_to(folder):
                    continue
                try:
                    target = Path(os.path.realpath(real / path.relative_to(folder)))
                except (OSError, ValueError):  # what cannot be a name of a file
                    continue
                for _, other in self.places:
                    if target.is_relative_to(other):
                        return other, target.relative_to(other).parts
        rule = f"must lie in {self.describe()}, without '..' and links that lead out"
        raise RequestError(f"{field} = {_shown(text)}: {rule}; no other files are read")


def _open_inside(folder: Path, names: Sequence[str]) -> int:
    """A file below a folder; each name is looked up in the folder before it, so that no link is followed that came in
    between.

    Raises:
        OSError: it is not there, is no file, or may not be read.
    """
    handle = os.open(folder, _FOLDER)
    try:
        for name in names[:-1]:
            handle, before = os.open(name, _FOLDER, dir_fd=handle), handle
            os.close(before)
        if not names:
            raise IsADirectoryError
        _check_file(os.stat(names[-1], dir_fd=handle, follow_symlinks=False))  # to open a device may do something
        file = os.open(names[-1], _FILE, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        _check_file(os.fstat(file))
    except OSError:
        os.close(file)
        raise
    return file


def _check_file(about: os.stat_result) -> None:
    """Raises: OSError, where it is no file."""
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "")


def _reason(error: Exception) -> str:
    """Why a file in an allowed folder cannot be read; of those it may be told."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "is not there"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    return "may not be read" if isinstance(error, PermissionError) else "is no file that can be read"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"...{text[-SHOWN:]}")  # a path's end is what tells it from others
