"""What a server allows, beside the limits of an order. The one invariant: what is not said here is not allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everreel.web import LOOPBACK


@dataclass(frozen=True)
class Settings:
    """See `everreel serve --help`; sizes in bytes."""

    inbox: Path
    """A folder for what is being received; it is there, and nothing stays in it."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names of this machine that are answered to while there are no keys."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may ask."""
    requests_per_minute: int = 0
    """Of a key, or of an address without one; 0 is without a limit."""
    allow_fetch: bool = False
    """Whether pictures may be fetched from the addresses that requests name."""
    endless: bool = True
    """Whether a film that is asked for without a length goes on until it is stopped; see `Jobs.without_end`."""
    page: bool = False
    """Whether something else answers at /."""
    json_bytes: int = 16_000_000
    """Of a body in JSON, and of all fields of a form that are not files."""
    most_files: int = 32
    most_live: int = 128
    """Streams and events at a time."""
    poll_after_ms: int = 1000
    """What clients that ask again and again are told to wait; the openai SDK takes the first that it sees."""
