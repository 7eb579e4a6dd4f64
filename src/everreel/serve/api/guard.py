"""Who may ask, how often, and what every answer carries: the keeper of the door, before any route.

Written as plain ASGI, so that streams pass through it piece by piece. The one invariant: no route under /v1 is reached
without an owner: by a key, by a token for one film, or, where there are no keys, from this machine by its own name and
from no other site's page.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everreel.serve.api.errors import ApiError, api_error, reply
from everreel.serve.api.settings import Settings
from everreel.serve.api.tokens import Tokens
from everreel.serve.jobs.job import Owner
from everreel.web import LOOPBACK

BURST = 6  # of a minute's requests a sixth may come at once
MOST_BUCKETS = 10_000
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
LOCKED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
STYLED = f"{LOCKED}; style-src 'unsafe-inline'"
_OPENED = re.compile(r"/v1/videos/(video_[0-9a-f]{32})/(?:content|stream|events)")
_PLAIN = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/mcp")
"""What is no page beside /v1; the page has a policy of its own."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_COUNTED = ("/mcp", "/login", "/gradio_api/upload")
"""What changes or tries something beside /v1."""
_PRESSED = ("/gradio_api/run/predict", "/gradio_api/queue/join")
"""The page's events: orders and questions for a language model, but also how films stand, each second, and a plan with
every letter that is typed; so of these there may be more.
"""
PRESSES = 5  # of them for each other request, as all behind a proxy have one address
log = logging.getLogger(__name__)


class Keys(Protocol):
    """Who has which key."""

    def any(self) -> bool:
        """Whether there are any; then every request needs one."""
        ...

    def owner(self, key: str) -> Owner | None:
        """Whose key it is."""
        ...


class NoKeys:
    """For a server that is reached from its own machine only."""

    def any(self) -> bool:
        """There are none."""
        return False

    def owner(self, key: str) -> Owner | None:
        """Nobody's."""
        return None


class Buckets:
    """How often each may ask: a bucket that fills at a rate, by a clock that never jumps."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = per_minute / 60, max(1.0, per_minute / BURST), clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one; else how many seconds until there is one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, at = self._held.pop(name, (self._most, now))
        level = min(self._most, level + (now - at) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._held[name] = (level if wait else level - 1), now
        if len(self._held) > MOST_BUCKETS:
            self._held.popitem(last=False)
        return wait

    def empty(self, name: str) -> float:
        """How many seconds until one may be taken, without taking one."""
        if not self._rate or name not in self._held:
            return 0.0
        level, at = self._held[name]
        level = min(self._most, level + (self._clock() - at) * self._rate)
        return 0.0 if level >= 1 else (1 - level) / self._rate


class Watched(Protocol):
    """Is told of every request when its answer has begun, or its end where there was none."""

    def __call__(self, scope: Scope, status: int, seconds: float) -> None: ...


class Polite:
    """The headers of every answer, and how often an address may ask: for an application without a `Guard`."""

    def __init__(self, app: ASGIApp, requests_per_minute: int) -> None:
        self._app, self._buckets = app, Buckets(requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                locked(protected(message))
            await send(message)

        try:
            refuse(self._buckets.take(_network(scope)))
        except ApiError as error:
            await reply(error)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)


class Guard:
    """See the module. `watched` is told of each answer."""

    def __init__(self, app: ASGIApp, keys: Keys, tokens: Tokens, settings: Settings, watched: Watched) -> None:
        self._app, self._keys, self._tokens, self._settings, self._watched = app, keys, tokens, settings, watched
        self._buckets = Buckets(settings.requests_per_minute)
        self._presses = Buckets(settings.requests_per_minute * PRESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket" and not await self._may_connect(scope):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope, message)
                self._watched(scope, status, time.perf_counter() - began)
            await send(message)

        try:
            preflight = self._preflight(scope)
            if preflight is not None:
                await answer({"type": "http.response.start", "status": 204, "headers": preflight.raw})
                await answer({"type": "http.response.body", "body": b""})
                return
            await self._admit(scope)
        except ApiError as error:
            await reply(error)(scope, receive, answer)
            return
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if status:
                raise
            log.error("a request failed", exc_info=error)
            await reply(api_error(RuntimeError()))(scope, receive, answer)

    async def _admit(self, scope: Scope) -> None:
        """Find the owner of a request under /v1, and refuse what may not be. Raises: ApiError."""
        headers, path = Headers(scope=scope), str(scope["path"])
        has_keys = await to_thread.run_sync(self._keys.any)
        if not has_keys:
            self._check_names(scope, headers)
        address = f"address {_network(scope)}"
        if not (path == "/metrics" or path == "/v1" or path.startswith("/v1/")):
            if scope["method"] not in _SAFE and path in (*_COUNTED, *_PRESSED):
                buckets = self._presses if path in _PRESSED else self._buckets
                refuse(buckets.take(f"{path} of {address}"))
            return
        refuse(self._buckets.empty(address))
        try:
            owner = await self._owner(scope, headers, has_keys)
        except ApiError:
            refuse(self._buckets.take(address))
            raise
        refuse(self._buckets.take(f"key {owner.name}" if has_keys else address))
        scope.setdefault("state", {})["owner"] = owner

    async def _owner(self, scope: Scope, headers: Headers, has_keys: bool) -> Owner:
        opened, token = _OPENED.fullmatch(scope["path"]), QueryParams(scope["query_string"]).get("token")
        if opened and token is not None and scope["method"] in _SAFE:
            name = self._tokens.owner(opened[1], token)
            if name is None:
                raise ApiError(401, "token: is of another film or too old; get a new one", "token", "invalid_token")
            return Owner(name)
        if not has_keys:
            return Owner()
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        asks = {"WWW-Authenticate": "Bearer"}
        if not key:
            raise ApiError(401, "a key is needed: Authorization: Bearer KEY", None, "missing_api_key", asks)
        owner = await to_thread.run_sync(self._keys.owner, key)
        if owner is None:
            raise ApiError(401, "this key is not known", None, "invalid_api_key", asks)
        return owner

    async def _may_connect(self, scope: Scope) -> bool:
        """Whether a page may open a socket; those have no other protection from other sites."""
        try:
            if not await to_thread.run_sync(self._keys.any):
                headers = Headers(scope=scope)
                self._check_names({**scope, "method": "POST"}, headers)
        except ApiError:
            return False
        return True

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        """Without keys: no site may point a name of its own at this server, or let its pages send something here."""
        host = headers.get("host", "")
        if _name_of(host) not in (*LOOPBACK, *self._settings.hosts):
            raise ApiError(403, "Host: without keys this server answers to its own machine's names only")
        if scope["method"] in _SAFE:
            return
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise ApiError(403, "Sec-Fetch-Site: a page of another site may not ask here")
        elif origin not in (f"http://{host}", f"https://{host}", *self._settings.origins):
            raise ApiError(403, "Origin: a page of another site may not ask here")

    def _preflight(self, scope: Scope) -> Headers | None:
        headers = Headers(scope=scope)
        asked = headers.get("access-control-request-method")
        if scope["method"] != "OPTIONS" or not asked or headers.get("origin") not in self._settings.origins:
            return None
        allowed = {
            "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Range, X-Api-Key",
            "Access-Control-Max-Age": "600",
        }
        return Headers(allowed)

    def _dress(self, scope: Scope, message: Message) -> None:
        headers = protected(message)
        path = scope["path"]
        plain = path in _PLAIN or (path == "/" and not self._settings.page)
        if path.startswith("/v1") or plain:
            locked(headers, STYLED if path == "/docs" else LOCKED)
            headers["Cross-Origin-Resource-Policy"] = "cross-origin" if self._settings.origins else "same-origin"
        origin = Headers(scope=scope).get("origin")
        if origin is not None and origin in self._settings.origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Content-Range, ETag, Retry-After, openai-poll-after-ms"
            headers.add_vary_header("Origin")


def protected(message: Message) -> MutableHeaders:
    """The headers of an answer that begins, with those that every answer has."""
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    return headers


def locked(headers: MutableHeaders, policy: str = LOCKED) -> None:
    """Let an answer that is no page be none in a browser either, and be kept by nobody unless it says otherwise."""
    headers["Content-Security-Policy"] = policy
    headers.setdefault("Cache-Control", "no-store")


def refuse(wait: float) -> None:
    """Raises: ApiError, where one has to wait."""
    if wait > 0:
        again: Mapping[str, str] = {"Retry-After": str(int(wait) + 1)}
        raise ApiError(429, f"too many requests; ask again in {int(wait) + 1} s", None, "rate_limit", again)


def _network(scope: Scope) -> str:
    """Whose address it is; of IPv6 the first half, as one client has all of the rest."""
    client = scope.get("client")
    host = str(client[0]) if client else ""
    return ":".join(host.split(":")[:4]) if host.count(":") > 1 else host


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
