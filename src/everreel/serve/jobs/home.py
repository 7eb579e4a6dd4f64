"""A home: where a server, its workers and its agents find their films.

The one invariant: which queue and which store these are is said here and nowhere else. A worker is told the folder
alone, so whoever puts another engine in their place does it here, for every process at once. Keys, the secret of tokens
and the lock of the supervisor are files of the folder in any case.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from everreel.serve.jobs.job import FilmStore, JobQueue
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.store import FolderStore


class Home(NamedTuple):
    """What is to be made, and what is made."""

    queue: JobQueue
    store: FilmStore


def open_home(folder: Path) -> Home:
    """The queue and the store of a home; the folder is there from now on. Any number of processes may open it.

    Raises:
        ValueError: a newer program wrote it, or it is something else.
    """
    store = FolderStore(folder)  # first: a folder that it makes is for its user alone
    return Home(SqliteQueue(folder), store)


def default_home() -> Path:
    """Where films are kept if nothing else is said: $XDG_DATA_HOME/everreel, or ~/.local/share/everreel."""
    given = os.environ.get("XDG_DATA_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share") / "everreel"
