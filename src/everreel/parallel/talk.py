"""What happens when another process is gone in the middle of a transfer.

Source: none. The one invariant: a lost process is one error of one type, whatever the backend calls it, so it is never
mistaken for an error of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LostError(RuntimeError):
    """Another process has ended, or does not answer."""


@contextmanager
def talking() -> Iterator[None]:
    """Around every transfer; it holds nothing that computes.

    Raises:
        LostError: another process has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostError("another process has ended or does not answer") from error
