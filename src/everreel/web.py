"""A server's address, and serving there until Ctrl-C.

The one invariant: an address that is not to be had is said in one line, before anything is loaded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other can reach."""
MOST_WAITING = 512  # connections that the system holds until they are taken


def bind(host: str, port: int) -> socket.socket:
    """The address that a server will have.

    Raises:
        ValueError: it is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MOST_WAITING)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"host = {host}, port = {port}: {reason}; 127.0.0.1 with port 0 takes a free one") from None


def run(app: Any, bound: socket.socket, **more: Any) -> None:  # noqa: ANN401 -- whatever uvicorn serves, and its options
    """Serve an application on a bound socket until Ctrl-C. Streams end then, and can be asked for again."""
    import uvicorn

    quiet: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=2, **quiet, **more))
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    server.run(sockets=[bound])


def _is_news(record: logging.LogRecord) -> bool:
    """That streams were cut off when the server ended is none: uvicorn shows where each of them was."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and not str(record.msg).startswith("Cancel %s running task")
