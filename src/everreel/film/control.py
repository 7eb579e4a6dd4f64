"""Pause, go on and cancel, from another thread, while a film is being made.

The one invariant: it acts between two rows of the schedule, so a film that is cancelled has every block that it had
finished, and its journal says so.
"""

from __future__ import annotations

import threading
import time


class CancelledError(Exception):
    """The film was cancelled; what is on disk stays, and can be gone on with."""


class Control:
    """Handed to a film that is being made, kept by whoever may want to stop it."""

    def __init__(self) -> None:
        self._going = threading.Event()
        self._going.set()
        self._cancelled = False

    @property
    def paused(self) -> bool:
        """Whether the film waits."""
        return not self._going.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether the film has been told to stop."""
        return self._cancelled

    def pause(self) -> None:
        """Let the film wait after the row that is being computed."""
        self._going.clear()

    def go_on(self) -> None:
        """Undo `pause`."""
        self._going.set()

    def cancel(self) -> None:
        """Let the film end after the row that is being computed, paused or not: its maker raises `CancelledError`."""
        self._cancelled = True
        self._going.set()

    def check(self) -> float:
        """Wait while paused, and say how many seconds that took.

        Raises:
            CancelledError: the film has been told to stop.
        """
        began = time.monotonic()
        self._going.wait()
        if self._cancelled:
            raise CancelledError("cancelled")
        return time.monotonic() - began
