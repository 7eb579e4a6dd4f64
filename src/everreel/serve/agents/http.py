"""Agents over HTTP: the tools at one address of a FastAPI application, behind the same keys as its films.

Streamable HTTP, as the SDK has it. The one invariant: a request reaches the SDK only once it is known whose it is; a
session belongs to the key that began it, and to no other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from anyio import to_thread
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from everreel.serve.agents.caller import CALLER
from everreel.serve.agents.server import make_server
from everreel.serve.api.guard import Polite
from everreel.serve.jobs.job import JobError, Owner
from everreel.serve.jobs.service import Jobs
from everreel.web import LOOPBACK

if TYPE_CHECKING:
    from fastapi import FastAPI

CONTENT = "/v1/videos/{film}/content"
FILMS = "/films/{film}.mp4"
PIECE = 2**18
MOST_BODY, MOST_SESSIONS = 32 * 2**20, 1000
REQUESTS_PER_MINUTE = 600  # of an address
OwnerOf = Callable[[str], Owner | None]
"""Whose key it is; of no key (empty), whoever needs none. None: nobody's."""


def mount(
    app: FastAPI,
    jobs: Jobs,
    owner_of: OwnerOf,
    *,
    path: str = "/mcp",
    hosts: Sequence[str] | None = LOOPBACK,
    content: str | None = CONTENT,
) -> None:
    """Offer the tools at a path of an application that has not begun yet.

    Args:
        hosts: names of this machine that are answered to, so that no site can point a name of its own at the tools;
            None, which goes with keys: all.
        content: where the application has films, with `{film}` in it.
    """
    gate = Gate(owner_of)
    app.router.routes.insert(0, Route(path, endpoint=gate, include_in_schema=False))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def with_sessions(within: Any) -> AsyncIterator[Any]:  # noqa: ANN401 -- FastAPI's, and the state it gives
        # Sessions begin and end with the application; what holds them can be used once, so each time it is another.
        server = make_server(jobs, local=False, content=content)
        tools = server.streamable_http_app(
            streamable_http_path=path,
            max_request_body_size=MOST_BODY,
            max_sessions=MOST_SESSIONS,
            transport_security=_security(hosts),
        )
        async with inner(within) as state, server.session_manager.run():
            gate.tools = tools
            try:
                yield state
            finally:
                gate.tools = None

    app.router.lifespan_context = with_sessions


def make_app(
    jobs: Jobs, owner_of: OwnerOf, hosts: Sequence[str] | None, lifespan: Callable[[Any], Any] | None = None
) -> FastAPI:
    """An application with the tools, and with the films themselves for whoever they are too large to be sent to.

    Args:
        hosts: as for `mount`.
        lifespan: what runs as long as it does.
    """
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts, "[::1]"])

    async def film(request: Request) -> Response:
        owner = await to_thread.run_sync(owner_of, key_of(request.headers))
        if owner is None:
            return _no_key()
        name = request.path_params["film"]
        try:
            file = await to_thread.run_sync(jobs.open, name, "film.mp4", owner)
        except JobError as error:
            return JSONResponse({"error": str(error)}, 404)
        size = jobs.store.size(name, "film.mp4")
        headers = {"Content-Length": str(size), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(_pieces(file, size), media_type="video/mp4", headers=headers)

    app.add_middleware(Polite, requests_per_minute=REQUESTS_PER_MINUTE)
    app.router.routes.append(Route(FILMS, endpoint=film, methods=["GET"]))
    mount(app, jobs, owner_of, hosts=hosts, content=FILMS)
    return app


class Gate:
    """Lets in whoever has a key, and says who it is."""

    def __init__(self, owner_of: OwnerOf) -> None:
        self._owner_of = owner_of
        self.tools: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if self.tools is None:
            await JSONResponse({"error": "the server begins or ends"}, 503)(scope, receive, send)
            return
        owner = await to_thread.run_sync(self._owner_of, key_of(Headers(scope=scope)))
        if owner is None:
            await _no_key()(scope, receive, send)
            return
        # The SDK holds a session to the user that began it.
        user = AuthenticatedUser(AccessToken(token="", client_id=owner.name, scopes=[]))
        before = CALLER.set(owner)
        try:
            await self.tools({**scope, "user": user}, receive, send)
        finally:
            CALLER.reset(before)


def key_of(headers: Headers) -> str:
    """The key that a request brings, empty where there is none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def _no_key() -> Response:
    said = {"error": "no key, or a wrong one; send Authorization: Bearer KEY"}
    return JSONResponse(said, 401, headers={"WWW-Authenticate": "Bearer"})


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """As much as there was of a film that grows, so that the answer is as long as it says."""
    with file:
        while size and (piece := file.read(min(size, PIECE))):
            size -= len(piece)
            yield piece


def _security(hosts: Sequence[str] | None) -> TransportSecuritySettings:
    if hosts is None:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    names = [f"[{host}]" if ":" in host else host for host in hosts]
    allowed = [form for name in names for form in (name, f"{name}:*")]
    origins = [f"{scheme}://{form}" for form in allowed for scheme in ("http", "https")]
    return TransportSecuritySettings(allowed_hosts=allowed, allowed_origins=origins)
