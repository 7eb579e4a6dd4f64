"""Who calls: told by the gate of the HTTP interface for each request, and nobody else's word counts.

The one invariant: without a gate before it, a server that others can reach has no callers.
"""

from __future__ import annotations

from contextvars import ContextVar

from everreel.serve.jobs.job import NotFoundError, Owner

CALLER: ContextVar[Owner | None] = ContextVar("caller", default=None)


def caller(local: bool) -> Owner:
    """The owner of this call's films; `local`: whoever runs the server.

    Raises:
        NotFoundError: nobody has said who calls.
    """
    owner = CALLER.get()
    if owner is None and not local:
        raise NotFoundError("key: must be given; the server's administrator makes one: everreel keys add NAME")
    return owner or Owner()
