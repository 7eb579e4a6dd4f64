"""The page that films are rated on, and its server.

FastAPI and uvicorn (the extra `serve`). The page is three files of the package, written by hand; it loads nothing from
elsewhere, and its content security policy would not let it. A rater is known by a code that the page keeps and sends in
a header, never in a cookie, so no other site can answer in a rater's name. The one invariant: what reaches a browser
tells no model. A film is asked for by the opaque name of a task, its headers are the same for every film of that
length, and only a rater who is asked about it can know its address.
"""

import asyncio
import hmac
import io
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from everreel import web
from everreel.evaluate.bench.found import PLAYABLE, digest_of
from everreel.evaluate.bench.ratings import NameTaken, RaterLog, Ratings
from everreel.evaluate.bench.study import PAIR_AXES, Film, Study, load_study
from everreel.evaluate.bench.tasks import Task
from everreel.media import read_image

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, JSONResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise ValueError(f"the rating page needs {error.name}: pip install 'everreel[serve]'") from None

LOOPBACK = (*web.LOOPBACK, "[::1]")
LONGEST_BODY = 16384
LARGEST_PICTURE = 1280  # pixels of its longer side, as it is shown
PAGE = {
    "/": ("rate.html", "text/html"),
    "/rate.js": ("rate.js", "text/javascript"),
    "/rate.css": ("rate.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HINTS = {
    "instruction_adherence": "Does it show what the words ask for: subject, action, place, shot, camera?",
    "consistency": "Do subject and scene stay themselves from the first frame to the last?",
    "visual_quality": "Is it clear, well coloured and free of broken shapes?",
    "motion_quality": "Is there motion, is it smooth, and could it happen?",
    "overall": "Which of the two would you rather have?",
}


class Refused(Exception):
    """An answer to the browser that says why not."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Desk:
    """A study while it is rated: its raters, and its films as long as they are what they were.

    Raises:
        ValueError: the folder holds no study, or the study was changed after ratings began.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.study = folder, load_study(folder)
        self.ratings = Ratings(folder, self.study)
        self._films = {film.id: film for film in self.study.films}
        self._seen: dict[str, tuple[int, int]] = {}
        self._asked: dict[str, Task] = {}
        self._raters: dict[str, RaterLog] = {}
        for rater in self.ratings.raters.values():
            self._know(rater)

    def join(self, name: str, code: str) -> RaterLog:
        """See `Ratings.join`."""
        rater = self.ratings.join(name, code)
        self._know(rater)
        return rater

    def rater(self, code: str) -> RaterLog | None:
        """Whose code it is."""
        return self._raters.get(code)

    def film(self, task: str, side: int) -> Path:
        """The file of a task's film.

        Raises:
            KeyError: there is no such task or side.
            ValueError: the film is gone, or is another than it was; it says so without telling the browser where.
        """
        asked = self._asked[task]
        if not 0 <= side < len(asked.films):
            raise KeyError(side)
        film = self._films[asked.films[side]]
        path = self.folder / film.path
        if not self._is_as_it_was(film, path):
            raise ValueError("this film is missing or was changed since the study was made")
        return path

    def picture(self, task: str) -> bytes:
        """What a task's films begin with, as a JPEG of which nothing tells what file it was.

        Raises:
            KeyError: there is no such task, or its films begin with none.
            ValueError: it is gone, or is another than it was.
        """
        start = self.study.prompts[self._asked[task].prompt].start
        if start is None:
            raise KeyError(task)
        path = self.folder / start.path
        if not path.is_file() or digest_of(path) != start.digest:
            raise ValueError("this picture is missing or was changed since the study was made")
        image, shown = Image.fromarray(read_image(path)), io.BytesIO()
        image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
        image.save(shown, "JPEG", quality=90)
        return shown.getvalue()

    def lost_films(self) -> Iterable[str]:
        """The films that are missing or have another length, by path, and pictures: quick, for the start."""
        for film in self.study.films:
            path = self.folder / film.path
            if not path.is_file():
                yield f"{film.path}: is missing"
            elif path.stat().st_size != film.num_bytes:
                yield f"{film.path}: was changed since the study was made"
        for start in filter(None, (prompt.start for prompt in self.study.prompts)):
            path = self.folder / start.path
            if not path.is_file() or digest_of(path) != start.digest:
                yield f"{start.path}: is missing or was changed since the study was made"

    def _know(self, rater: RaterLog) -> None:
        self._raters[rater.header.code] = rater
        self._asked |= rater.tasks

    def _is_as_it_was(self, film: Film, path: Path) -> bool:
        """By its contents, which are read again whenever its length or time is another."""
        try:
            found = path.stat()
            stamp = (found.st_size, found.st_mtime_ns)
            if self._seen.get(film.id) != stamp:
                if found.st_size != film.num_bytes or digest_of(path) != film.digest:
                    return False
                self._seen[film.id] = stamp
        except OSError:
            return False
        return True


def make_app(desk: Desk, key: str | None = None, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The page and what it asks for. With a `key`, only those who have it get more than the empty page.

    Without one, names of this machine other than `hosts` are refused, so that no site can point a name of its own at
    the page.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if key else list(hosts))
    _add_rules(app, key)
    _add_page(app)
    _add_films(app, desk)
    _add_ratings(app, desk)
    return app


def serve(desk: Desk, bound: socket.socket, key: str | None = None) -> None:
    """Serve on a bound socket until stopped by Ctrl-C; answers are on disk all the time."""
    hosts = (*LOOPBACK, bound.getsockname()[0])
    web.run(make_app(desk, key, hosts), bound)


def bind(host: str, port: int, key: str | None) -> socket.socket:
    """The address that the page will have.

    Raises:
        ValueError: others can reach it and there is no key, or it is not to be had.
    """
    if host not in LOOPBACK and not key:
        raise ValueError(f"host = {host}: others can reach it, so a key is needed; --key {os.urandom(6).hex()} works")
    if key is not None and not (len(key) >= 8 and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(f"key = {key!r}: must be 8 or more plain letters; {os.urandom(6).hex()} works")
    return web.bind(host, port)


def _add_rules(app: FastAPI, key: str | None) -> None:
    """What holds for every request: the key, the headers, and that whatever goes wrong is said in JSON."""

    @app.middleware("http")
    async def rules(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("x-key", "")
        if key and request.url.path.startswith("/api/") and not hmac.compare_digest(given.encode(), key.encode()):
            reply: Response = JSONResponse({"error": "this study needs its key: open the whole link again"}, 403)
        else:
            reply = await go_on(request)
        for name, value in HEADERS.items():
            reply.headers[name] = value
        reply.headers.setdefault("Cache-Control", "no-store")
        return reply

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"error": error.reason}, error.status)


def _add_page(app: FastAPI) -> None:
    folder = files("everreel.evaluate.bench") / "page"

    def add(url: str, content: bytes, kind: str) -> None:
        # A function without arguments: FastAPI takes what a function asks for from the address.
        def page() -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        app.add_api_route(url, page, methods=["GET", "HEAD"])

    for url, (name, kind) in PAGE.items():
        add(url, (folder / name).read_bytes(), kind)


def _add_films(app: FastAPI, desk: Desk) -> None:
    @app.api_route("/film/{task}/{side}", methods=["GET", "HEAD"])
    async def film(task: str, side: int) -> Response:
        try:
            path = await asyncio.to_thread(desk.film, task, side)
            found = await asyncio.to_thread(path.stat)
        except KeyError:
            raise Refused(404, "there is no such film") from None
        except (ValueError, OSError) as error:
            raise Refused(410, str(error) if isinstance(error, ValueError) else "this film is missing") from None
        # When a file was made, and by which bytes it is known, would tell whose it is.
        told = {"ETag": f'"{task}-{side}"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}
        told["Cache-Control"] = "private, max-age=86400"
        return FileResponse(path, headers=told, media_type=PLAYABLE[path.suffix.lower()], stat_result=found)

    @app.api_route("/picture/{task}", methods=["GET", "HEAD"])
    async def picture(task: str) -> Response:
        try:
            shown = await asyncio.to_thread(desk.picture, task)
        except KeyError:
            raise Refused(404, "there is no such picture") from None
        except (ValueError, OSError) as error:
            raise Refused(410, str(error) if isinstance(error, ValueError) else "this picture is missing") from None
        return Response(shown, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


def _add_ratings(app: FastAPI, desk: Desk) -> None:
    study = desk.study

    @app.get("/api/study")
    def about() -> dict[str, Any]:
        # The page keeps answers under this name, so that two studies at one address do not mix.
        return {"title": study.title, "study": study.digest, "kinds": study.kinds}

    @app.post("/api/join")
    async def join(request: Request) -> dict[str, Any]:
        body = await _body(request)
        try:
            rater = await asyncio.to_thread(desk.join, _text(body, "name"), str(body.get("code", "")))
        except NameTaken as error:
            raise Refused(409, str(error)) from None
        except ValueError as error:
            raise Refused(400, str(error)) from None
        except OSError as error:
            raise Refused(507, _unsaved(error)) from None
        return {"name": rater.name, "code": rater.header.code}

    @app.get("/api/tasks")
    def tasks(request: Request) -> dict[str, Any]:
        rater = _rater(desk, request)
        begun = any(prompt.start for prompt in study.prompts)
        hints = {**HINTS, "consistency": HINTS["consistency"] + " Does it begin with the picture?" * begun}
        axes = {
            kind: [{"id": axis, "name": PAIR_AXES[axis], "hint": hints[axis]} for axis in study.axes_of(kind)]
            for kind in study.kinds
        }
        answers = {
            task: None if found.unplayable else found.answer
            for task, found in rater.answers.items()
            if task in rater.tasks
        }
        return {"axes": axes, "tasks": [_shown(study, task) for task in rater.tasks.values()], "answers": answers}

    @app.post("/api/answer")
    async def answer(request: Request) -> dict[str, Any]:
        rater, body = _rater(desk, request), await _body(request)
        task, nonce = _text(body, "task"), _text(body, "nonce")
        given, seconds = body.get("answer"), body.get("seconds", 0.0)
        if not (given is None or isinstance(given, dict)) or not isinstance(seconds, int | float):
            raise Refused(400, "answer: must have a value for each axis")
        try:
            if body.get("undo") is True:
                await asyncio.to_thread(rater.undo, task, nonce)
            else:
                await asyncio.to_thread(rater.answer, task, nonce, given, float(seconds))
        except ValueError as error:
            raise Refused(400, str(error)) from None
        except OSError as error:
            raise Refused(507, _unsaved(error)) from None
        return {"saved": nonce, "done": rater.num_done}


def _shown(study: Study, task: Task) -> dict[str, Any]:
    """What the page is told of a task: no film's own name, and nothing of models."""
    prompt = study.prompts[task.prompt]
    shown = {"id": task.id, "kind": task.kind, "films": len(task.films), "prompt": prompt.text, "check": task.check}
    return {**shown, "picture": prompt.start is not None}


def _rater(desk: Desk, request: Request) -> RaterLog:
    code = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    rater = desk.rater(code) if code else None
    if rater is None:
        raise Refused(401, "nobody of this study has this code; say your name again")
    return rater


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LONGEST_BODY:
            raise Refused(413, f"longer than {LONGEST_BODY} bytes")
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused(400, "must be a JSON object")
    return body


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str):
        raise Refused(400, f"{field} = {value!r}: must be text")
    return value


def _unsaved(error: OSError) -> str:
    return f"could not be saved: {error.strerror or error}. Tell whoever runs the study; the page keeps your answer"
