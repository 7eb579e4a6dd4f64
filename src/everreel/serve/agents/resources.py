"""Films as resources: `film://ID`, and a frame, the thumbnail and the order of each.

The one invariant: what does not fit into a message is not sent; whoever asks is told where it is to be had.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.exceptions import ResourceError
from mcp_types import Resource

from everreel.film.request import RequestError
from everreel.serve.agents.caller import caller
from everreel.serve.agents.told import Film, address
from everreel.serve.agents.tools import Tools

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

LISTED = 20
MOST_LOCAL, MOST_SENT = 16_000_000, 750_000
"""Bytes of a film as a resource: over HTTP, clients take a MiB in one message, and base64 makes three bytes four."""


def listed(film: Film) -> Resource:
    """A film in the list of resources."""
    words = film.prompt if len(film.prompt) <= 80 else f"{film.prompt[:79]}…"
    told = f"{film.status.replace('_', ' ')}, {film.frames_ready} frames"
    return Resource(uri=film.resource, name=film.film, title=words, description=told, mime_type="video/mp4")


def add_films(server: MCPServer[Any], tools: Tools) -> None:
    """Films and what belongs to them, by address."""
    jobs = tools.jobs

    def film_bytes(film: str) -> bytes:
        """The MP4 of a film, as far as it is made."""
        owner = caller(tools.local)
        told = tools.film(jobs.get(film, owner))
        most = MOST_LOCAL if tools.local else MOST_SENT
        size = jobs.store.size(film, "film.mp4")
        if size > most:
            where = told.path or (f"GET {told.content} with the same key" if told.content else "the server's operator")
            raise ResourceError(f"film = {film}: has {size} bytes, and at most {most} are sent here; get it: {where}")
        with jobs.open(film, "film.mp4", owner) as file:
            return file.read(most)

    def frame_bytes(film: str, number: str) -> bytes:
        """A frame of a film as a JPEG; the first is 0, -1 is the last."""
        if not number.removeprefix("-").isdecimal() or len(number) > 9:
            raise RequestError(f"frame = {number[:20]}: must be a number; the first is 0, -1 is the last")
        return tools.picture(film, int(number), caller(tools.local))

    def thumbnail_bytes(film: str) -> bytes:
        """A small picture of a film that is done."""
        with jobs.open(film, "thumbnail.webp", caller(tools.local)) as file:
            return file.read()

    def order_text(film: str) -> str:
        """What was asked for, as JSON."""
        order = jobs.get(film, caller(tools.local)).order
        return json.dumps(order.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False, indent=2)

    whole = address("{film}")
    server.resource(whole, name="film", title="A film", mime_type="video/mp4")(film_bytes)
    server.resource(address("{film}", "frame/{number}"), name="frame", title="A frame", mime_type="image/jpeg")(
        frame_bytes
    )
    server.resource(address("{film}", "thumbnail"), name="thumbnail", title="A thumbnail", mime_type="image/webp")(
        thumbnail_bytes
    )
    server.resource(address("{film}", "order"), name="order", title="An order", mime_type="application/json")(
        order_text
    )
