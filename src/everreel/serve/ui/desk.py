"""What the page's buttons do. Each is a function of what the browser sends and of who sends it.

The one invariant: whoever presses is asked for at every event, and gets at films only through `Jobs` with their name;
what the browser says of itself decides nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import gradio as gr

from everreel.film.request import RequestError
from everreel.serve.jobs.enhancer import apart
from everreel.serve.jobs.job import Job, JobError, NotFoundError, Owner, Wanted
from everreel.serve.jobs.service import Jobs, naming
from everreel.serve.ui.form import Form, back_on_desk, form_of, order_of
from everreel.serve.ui.shown import card_of, error_html, plan_html, screen_of

Who = Callable[[gr.Request], Owner | None]
SETTINGS = ("model", "aspect", "size", "fps", "seed", "steps", "guidance", "schedule", "negative")
FIELDS = ("prompt", "timeline", *SETTINGS)
A_PAGE, MOST = 24, 480  # films in the gallery: at first and with each press for older ones, and at most
SOON, LATER = 1.0, 3.0  # seconds between two looks while films are being made, and else
FRESH = 1200  # seconds that a token is used again, so that what a browser has of a film stays its address
WANTED: Mapping[str, Wanted] = {"pause": "pause", "resume": "run", "cancel": "cancel"}
REFUSALS = (RequestError, JobError)
MOST_TOKENS = 10_000
NOTHING: dict[str, Any] = {}


class Tokens(Protocol):
    """What lets a plain video element see one film of an owner, for an hour or so."""

    def sign(self, film: str, owner: str) -> str:
        """A token for the query of an address."""
        ...


class Desk:
    """See the module. `uploads` is the folder in which Gradio puts what browsers send."""

    def __init__(self, jobs: Jobs, who: Who, tokens: Tokens, uploads: Path) -> None:
        self.jobs, self._who, self._tokens, self._uploads = jobs, who, tokens, uploads
        self._signed: dict[tuple[str, str], tuple[float, str]] = {}

    def open(self, request: gr.Request) -> list[Any]:
        """The page as it opens: on the screen what is being made, else the newest film."""
        owner = self.owner(request)
        films = self.jobs.queue.page(owner.name, limit=A_PAGE)
        going = [job for job in films if not job.over and job.status != "paused"]
        first = next(iter([*going, *films]), None)
        return self._view(owner, first.id if first else "", A_PAGE)

    def look(self, request: gr.Request, current: str, count: float, mark: str) -> list[Any]:
        """The same, each second while something is being made; nothing is sent where nothing changed.

        Which film it is stays: what was asked before a press may be answered after it, and then the next look, whose
        mark is another film's, puts the pressed one back.
        """
        try:
            screen, gallery, _, *rest = self._view(self.owner(request), current, _count(count), mark)
            return [screen, gallery, gr.skip(), *rest]
        except JobError as error:
            return self._noticed(str(error))

    def show(self, request: gr.Request, event: gr.EventData, count: float) -> list[Any]:
        """Another film on the screen."""
        return self._view(self.owner(request), _said(event, "id"), _count(count))

    def older(self, request: gr.Request, current: str, count: float) -> list[Any]:
        """More films in the gallery."""
        more = min(_count(count) + A_PAGE, MOST)
        return [*self._view(self.owner(request), current, more), more]

    def plan(self, request: gr.Request, *values: object) -> str:
        """What the order on the desk would cost, or what is wrong with it."""
        try:
            form, owner = _form(values), self.owner(request)
            if not form.prompt.strip():
                return "<p>Say what the film shows, and its plan appears here.</p>"
            return plan_html(self.jobs.outlook(order_of(form), owner))
        except REFUSALS as error:
            return error_html(str(error))

    async def enhance(self, prompt: str, model: str, timeline: Mapping[str, Any]) -> tuple[Any, str, str]:
        """The prompt made whole, what was added, and the prompt as it was."""
        has_image = isinstance(timeline, Mapping) and bool(timeline.get("pictures"))
        make = functools.partial(self.jobs.enhanced, str(prompt), str(model) or None, has_image=has_image)
        try:
            # Not by Gradio's own threads, which are few and everybody's.
            text, added = await (apart(make) if self.jobs.enhancer.asks else asyncio.to_thread(make))
        except REFUSALS as error:
            return gr.skip(), str(error), ""
        return text, f"{added[:1].upper()}{added[1:]}", str(prompt)

    def make(self, request: gr.Request, current: str, count: float, *values: object) -> list[Any]:
        """Order the film that is on the desk."""
        try:
            owner = self.owner(request)
            job, _ = self.jobs.submit(order_of(_form(values)), owner)
        except REFUSALS as error:
            return [*[gr.skip()] * 5, error_html(str(error))]
        return [*self._view(owner, job.id, _count(count)), ""]

    def act(self, request: gr.Request, event: gr.EventData, count: float) -> list[Any]:
        """Pause, resume, stop, delete, or continue the film on the screen."""
        action, current = _said(event, "action"), _said(event, "id")
        try:
            owner = self.owner(request)
            if action in WANTED:
                self.jobs.want(current, WANTED[action], owner)
            elif action == "delete":
                self.jobs.remove(current, owner)
                current = ""
            elif action == "extend":
                current = self._extend(current, owner, event).id
            return self._view(owner, current, _count(count))
        except REFUSALS as error:
            return self._noticed(str(error), current, request)

    def draft(self, request: gr.Request, event: gr.EventData) -> list[Any]:
        """The order of a film, back on the desk; in the order of `FIELDS`."""
        try:
            order = self.jobs.get(_said(event, "id"), self.owner(request)).order
        except JobError:
            return [gr.skip()] * len(FIELDS)
        form = back_on_desk(order, self.jobs.card(order.model).sizes).model_dump(mode="json")
        return [form[name] for name in FIELDS]

    def picture(self, request: gr.Request, event: gr.EventData) -> dict[str, str]:
        """Take over a picture that the browser has sent; its file is gone afterwards in any case."""
        key = _said(event, "key")
        sent = self._sent(_said(event, "path"))
        if sent is None:
            return {"key": key, "error": "The picture did not arrive; send it again"}
        try:
            owner = self.owner(request)
            taken = naming("picture", lambda: self.jobs.upload(sent, owner))
            if taken.kind != "image":
                return {"key": key, "error": "This is a film; a picture is needed here"}
            return {"key": key, "id": taken.id}
        except REFUSALS as error:
            return {"key": key, "error": str(error)}
        finally:
            with suppress(OSError):
                sent.unlink(missing_ok=True)
                sent.parent.rmdir()

    def owner(self, request: gr.Request) -> Owner:
        """Raises: JobError: nobody who may."""
        owner = self._who(request)
        if owner is None:
            raise JobError("open the page again and give a key")
        return owner

    def _extend(self, job_id: str, owner: Owner, event: gr.EventData) -> Job:
        seconds = _data(event).get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise RequestError("seconds: must be how much longer the film is to be; 2 works")
        told = _said(event, "prompt").strip()
        values: dict[str, Any] = {"prompt": told} if told else {}
        seed = self.jobs.get(job_id, owner).order.request.seed
        order = self.jobs.extension(job_id, owner, seconds=seconds, seed=seed, **values)
        return self.jobs.submit(order, owner)[0]

    def _view(self, owner: Owner, current: str, count: int, mark: str = "") -> list[Any]:
        """Screen, gallery, which film it is, a mark of all that is shown, and when to look again.

        It is looked again in any case: on a busy machine the answer to a look may come after that to a press that was
        later, and would stay; and films are ordered elsewhere too.
        """
        films = list(self.jobs.queue.page(owner.name, limit=count + 1))
        shown, more = films[:count], len(films) > count and count < MOST
        film = next((job for job in shown if job.id == current), None)
        if film is None and current:
            with suppress(NotFoundError):
                film = self.jobs.get(current, owner)
        if film is None and shown:
            film = shown[0]
        now = _mark([*shown, *([film] if film else [])], more, film.id if film else "")
        if now == mark:
            return [gr.skip()] * 5
        token = self._token
        cards = [card_of(job, self.jobs, token(job.id, owner)) for job in shown]
        return [
            screen_of(film, self.jobs, token(film.id, owner)) if film else NOTHING,
            {"films": cards, "chosen": film.id if film else "", "more": more},
            film.id if film else "",
            now,
            gr.Timer(SOON if any(_moves(job) for job in (*shown, *filter(None, [film]))) else LATER, active=True),
        ]

    def _token(self, film: str, owner: Owner) -> str:
        now, key = time.monotonic(), (film, owner.name)
        made, token = self._signed.get(key, (-math.inf, ""))
        if now - made > FRESH:
            if len(self._signed) > MOST_TOKENS:
                self._signed.clear()
            token = self._tokens.sign(film, owner.name)
            self._signed[key] = now, token
        return token

    def _noticed(self, line: str, current: str = "", request: gr.Request | None = None) -> list[Any]:
        """The view, with a line on the screen; where even the view cannot be had, nothing changes."""
        with suppress(JobError):
            if request is not None:
                view = self._view(self.owner(request), current, A_PAGE)
                return [{**view[0], "notice": line} if view[0] else view[0], *view[1:]]
        return [gr.skip()] * 5

    def _sent(self, path: str) -> Path | None:
        """A file that Gradio took from a browser, and no other."""
        try:
            found = Path(os.path.realpath(path))
            inside = found.is_relative_to(self._uploads) and found.is_file()
        except (OSError, ValueError):
            return None
        return found if inside else None


def _moves(job: Job) -> bool:
    return not job.over and job.status != "paused"


def _form(values: Sequence[object]) -> Form:
    return form_of(dict(zip(FIELDS, values, strict=True)))


def _mark(films: Sequence[Job], more: bool, current: str) -> str:
    told = repr(([(job.id, job.version) for job in films], more, current))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _count(value: object) -> int:
    return min(max(int(value), A_PAGE), MOST) if isinstance(value, int | float) and math.isfinite(value) else A_PAGE


def _data(event: gr.EventData) -> dict[str, Any]:
    return cast(dict[str, Any], event._data) if isinstance(event._data, dict) else {}


def _said(event: gr.EventData, name: str) -> str:
    value = _data(event).get(name, "")
    return value if isinstance(value, str) else ""
