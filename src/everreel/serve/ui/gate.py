"""What stands before the page: who may see it, and what of Gradio's server it needs.

Gradio answers many addresses that the page has no use for; the one invariant: only those that are listed here are
reached, from pages of this server alone, and, where keys are needed, by a browser that has given one. The key stays
in a cookie that no script can read and that no other site's page can make the browser send.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everreel.serve.jobs.job import Owner

COOKIE = "everreel_key"
KEPT = 30 * 24 * 3600  # seconds
LONGEST_KEY = 512
LONGEST_EVENT = 2_000_000  # bytes of one event of the page, that has small pictures of pictures in it
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {parents}"
)
# A folder ends with a stroke.
NEEDED = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/gradio_api/heartbeat/",
    "/gradio_api/run/predict",
    "/gradio_api/startup-events",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
)


class Gate:
    """See the module.

    Args:
        app: Gradio's.
        owner_of: whose key it is; of no key (empty), whoever needs none.
        upload_bytes: how long a picture may be.
        parents: sites that may show the page in a frame; none by default.
        visitors: everybody may come in without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        owner_of: Callable[[str], Owner | None],
        upload_bytes: int,
        *,
        parents: str = "'none'",
        visitors: bool = False,
    ) -> None:
        self._app, self._owner_of, self._upload_bytes, self._visitors = app, owner_of, upload_bytes, visitors
        self._login = (files("everreel.serve.ui") / "page" / "login.html").read_text(encoding="utf-8")
        self._headers = {
            "Content-Security-Policy": POLICY.format(parents=parents),
            "X-Content-Type-Options": "nosniff",
            # With no-referrer browsers would send forms without their origin, which is asked for below.
            "Referrer-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        answer = await self._answer(Request(scope, receive))
        if answer is not None:
            await answer(scope, receive, send_with_headers)
            return
        most = self._upload_bytes + 10_000 if scope["path"].endswith("/upload") else LONGEST_EVENT
        counted = _Counted(receive, most)
        if counted.told(Headers(scope=scope)) > most:
            await _refused(413, f"longer than {most} bytes")(scope, receive, send_with_headers)
            return
        await self._app(scope, counted, send_with_headers)

    async def _answer(self, request: Request) -> Response | None:
        path, is_read = request.url.path, request.method in ("GET", "HEAD")
        if not is_read and not _is_ours(request):
            return _refused(403, "this page's own buttons only")
        if path == "/login":
            return await self._let_in(request)
        if path == "/logout" and not is_read:
            gone = RedirectResponse("/", 303)
            gone.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
            return gone
        if path != "/" and not any(path == way or (way.endswith("/") and path.startswith(way)) for way in NEEDED):
            return _refused(404, "there is nothing here")
        if self._visitors or await to_thread.run_sync(self._owner_of, key_in(request.headers)) is not None:
            return None
        if path == "/" and is_read:
            return self._ask()
        return _refused(401, "open the page again and give a key")

    async def _let_in(self, request: Request) -> Response:
        if request.method != "POST":
            return RedirectResponse("/", 303)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > 4 * LONGEST_KEY:
                    return self._ask("This is longer than any key.", 413)
        except ClientDisconnect:
            return _refused(400, "cut off")
        key = parse_qs(body.decode("latin-1")).get("key", [""])[0].strip()
        # What a cookie cannot hold was never a key.
        is_one = re.fullmatch(rf"[\w.~+/=-]{{1,{LONGEST_KEY}}}", key, re.ASCII)
        if not is_one or await to_thread.run_sync(self._owner_of, key) is None:
            return self._ask("Nobody here has this key.", 401)
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, key, KEPT, path="/", secure=is_secure, httponly=True, samesite="strict")
        return answer

    def _ask(self, line: str = "", status: int = 200) -> Response:
        page = self._login.replace("<!-- line -->", html.escape(line))
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})


class _Counted:
    """A request's body, that ends as if cut off where it is longer than it may be."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        return message if self._left >= 0 else {"type": "http.disconnect"}

    @staticmethod
    def told(headers: Headers) -> int:
        """How long the body is, as its sender says."""
        told = headers.get("content-length", "0")
        return int(told) if told.isdecimal() and len(told) < 20 else 0


def key_in(headers: Headers) -> str:
    """The key that the browser was given, or nothing."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _is_ours(request: Request) -> bool:
    """Whether a page of this server sends it; browsers say so, and what is no browser has no cookie to steal."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _refused(status: int, line: str) -> Response:
    return PlainTextResponse(line, status, {"Cache-Control": "no-store"})
