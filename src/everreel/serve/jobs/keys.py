"""API keys: who asks, and how much they may have. `keys.json` in a home.

A key is 256 bits drawn at random, so nobody can try them all, and a plain SHA-256 of it is all that is kept: the slow
hashes that passwords need would only slow every request down. The one invariant: a key is known to whoever was given
it, and to nobody who reads the file; and a file that cannot be read lets nobody in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from everreel.serve.jobs.age import write_whole
from everreel.serve.jobs.job import LOCAL, Owner, Quota

FILE, VERSION = "keys.json", 1
PREFIX = "er_"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    sha256: str
    owner: Owner
    created_at: int


class Keys:
    """The keys of a home. `add` and `remove` act at once in a server that is running on it.

    Raises:
        ValueError: the file is not what was written.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / FILE
        self._seen, self._keys = self._state(), self._read()
        self._needed = bool(self._keys)

    def any(self) -> bool:
        """Whether a key is needed. Once one was, it stays so: to remove the last key must not open a server to all."""
        self._load()
        return self._needed

    def owner(self, key: str) -> Owner | None:
        """Whose key it is, if anybody's. Every key is compared, each in constant time."""
        given, found = _hash(key), None
        for one in self._load():
            if hmac.compare_digest(one.sha256, given):
                found = one.owner
        return found

    def list(self) -> tuple[Key, ...]:
        """All of them, by name."""
        return tuple(sorted(self._load(), key=lambda one: one.owner.name))

    def add(self, owner: Owner) -> str:
        """The key of a new owner, which is told only here. Films of an earlier owner of that name are theirs.

        Raises:
            ValueError: the name cannot be used, or has a key.
        """
        check_name(owner.name)
        key = PREFIX + secrets.token_urlsafe(32)
        with self._changing():
            keys = self._read()
            if any(one.owner.name == owner.name for one in keys):
                rule = "has a key already, which cannot be shown again"
                raise ValueError(f"name = {owner.name}: {rule}; remove it first: everreel keys remove {owner.name}")
            self._write((*keys, Key(_hash(key), owner, int(time.time()))))
        return key

    def remove(self, name: str) -> None:
        """Its holder is let in no more; films and uploads stay.

        Raises:
            ValueError: nobody is called so.
        """
        with self._changing():
            keys = self._read()
            left = tuple(one for one in keys if one.owner.name != name)
            if len(left) == len(keys):
                names = ", ".join(sorted(one.owner.name for one in keys)) or "nobody"
                raise ValueError(f"name = {name}: has no key; {names} has one")
            self._write(left)

    def _changing(self) -> FileLock:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(self._file.with_suffix(".lock"), mode=0o600)

    def _load(self) -> tuple[Key, ...]:
        state = self._state()
        if state != self._seen:
            try:
                self._keys = self._read()
            except (ValueError, OSError) as error:
                log.error("nobody is let in: %s", error)
                self._keys, self._needed = (), True
            self._seen = state
            self._needed = self._needed or bool(self._keys)
        return self._keys

    def _state(self) -> tuple[int, ...] | None:
        """What is another whenever the file was replaced or written to."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> tuple[Key, ...]:
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return ()
        try:
            record = json.loads(data)
            if record["version"] == VERSION:
                return tuple(_key(**entry) for entry in record["keys"])
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise ValueError(f"{FILE}: is damaged, or of a newer everreel; put back what it was, or move it away")

    def _write(self, keys: tuple[Key, ...]) -> None:
        entries = [{"name": one.owner.name, "sha256": one.sha256, "created_at": one.created_at} | _rest(one.owner)
                   for one in keys]  # fmt: skip
        text = json.dumps({"version": VERSION, "keys": entries}, indent=1) + "\n"
        write_whole(self._file, text.encode(), sync=True)


def check_name(name: str) -> None:
    """Refuse what cannot be an owner's name.

    Raises:
        ValueError: with the rule and what works.
    """
    if not re.fullmatch(_NAME, name):
        nearest = re.sub(r"[^A-Za-z0-9_-]+", "-", name[:64]).strip("-_") or "anna"
        rule = "must be 1 to 64 letters, digits, - and _, and begin with a letter or a digit"
        raise ValueError(f"name = {name[:80]!a}: {rule}; {nearest} works")
    if name.lower() == LOCAL:
        raise ValueError(f"name = {name}: is that of who asks without a key; {name}-1 works")


def _rest(owner: Owner) -> dict[str, Any]:
    return {"quota": asdict(owner.quota), "highest_priority": owner.highest_priority}


def _key(name: str, sha256: str, created_at: int, quota: Mapping[str, Any], highest_priority: int) -> Key:
    check_name(name)
    numbers = [value for value in quota.values() if value is not None]
    whole = all(isinstance(value, int | float) and value >= 0 for value in (created_at, *numbers))
    if not whole or not isinstance(highest_priority, int) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("keys")
    return Key(sha256, Owner(name, Quota(**quota), highest_priority), created_at)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
