"""The command `everreel serve`: HTTP, tools for agents and the page, on one home.

The one invariant: whoever can reach the server from elsewhere needs a key, and whatever ends it, the films that it has
go on when it is started again.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.enhance import EnhanceOptions, takes_enhancer
from everreel.film.loading import ModelOptions
from everreel.options import takes_model
from everreel.serve.jobs.beside import beside
from everreel.web import LOOPBACK, bind, run

if TYPE_CHECKING:
    from fastapi import FastAPI

    from everreel.serve.jobs.job import Limits
    from everreel.serve.jobs.keys import Keys
    from everreel.serve.jobs.service import Jobs
    from everreel.serve.jobs.supervisor import Supervisor

CLEAN = 60.0  # seconds between two times that what is too old is deleted
DAY = 86400
LARGEST_MESSAGE = 1 << 20  # of a socket of the page
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """Where and for whom."""

    host: str
    port: int
    page: bool
    requests_per_minute: int
    endless: bool
    allow_fetch: bool
    origins: tuple[str, ...]


@takes_model
@takes_enhancer
def serve(
    *,
    host: Annotated[str, typer.Option(help="Where it is reached; other than this machine needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    home: Annotated[Path | None, typer.Option(help="Where films and jobs are kept; default: the user's data.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="Another model to serve; any number of them.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Films that are made at a time.")] = 1,
    page: Annotated[bool, typer.Option(help="With the page, or without.")] = True,
    retention: Annotated[float | None, typer.Option(help="Days that a film is kept; default: for ever.")] = None,
    max_seconds: Annotated[float, typer.Option(help="Of a film with an end.")] = 600,
    endless: Annotated[
        bool, typer.Option(help="Over HTTP a film without a length goes on until it is stopped or its quota is used.")
    ] = True,
    max_size: Annotated[str, typer.Option(help="WIDTHxHEIGHT: as many pixels a frame at most.")] = "1280x736",
    requests_per_minute: Annotated[int, typer.Option(help="Of a key, or an address; 0: no limit.")] = 1200,
    allow_fetch: Annotated[bool, typer.Option("--allow-fetch", help="Fetch pictures that requests name.")] = False,
    allow_origin: Annotated[list[str] | None, typer.Option(help="A site whose pages may ask; any number.")] = None,
    model: ModelOptions,
    enhancer: EnhanceOptions,
) -> None:
    """Serve films: OpenAI's Videos API and more, tools for agents at /mcp, and a page; until Ctrl-C."""
    limits = _limits(retention, max_seconds, max_size)
    for origin in allow_origin or ():
        if not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise ValueError(f"allow-origin = {origin}: must be a site, such as https://films.example")
    if requests_per_minute < 0:
        raise ValueError(f"requests-per-minute = {requests_per_minute}: must be 0 or more; 1200 works")
    where = Serving(host, port, page, requests_per_minute, endless, allow_fetch, tuple(allow_origin or ()))
    _serve(where, home, limits, model, tuple(also or ()), workers, enhancer)


def _serve(
    where: Serving,
    home: Path | None,
    limits: Limits,
    model: ModelOptions,
    also: tuple[str, ...],
    workers: int,
    enhancer: EnhanceOptions,
) -> None:
    from everreel.serve.jobs.home import default_home, open_home
    from everreel.serve.jobs.keys import Keys
    from everreel.serve.jobs.service import Jobs, serve_options
    from everreel.serve.jobs.supervisor import Supervisor

    folder = home or default_home()
    queue, store = open_home(folder)
    keys = Keys(folder)
    check_host(where.host, keys.any())
    jobs = Jobs(queue, store, serve_options(model, also), limits, enhancer)
    with ExitStack() as stack:
        bound = stack.enter_context(bind(where.host, where.port))
        supervisor = Supervisor(folder, queue, jobs.models, workers)
        app = build(jobs, keys, where, folder, supervisor)
        supervisor.start()
        stack.callback(supervisor.stop)
        stack.enter_context(cleaning(jobs))
        shown = f"[{where.host}]" if ":" in where.host else where.host
        typer.echo(f"http://{shown}:{bound.getsockname()[1]}/ serves {', '.join(jobs.models)}; Ctrl-C ends it")
        typer.echo(f"films are kept in {folder}")
        with suppress(KeyboardInterrupt):  # the way to end it
            run(app, bound, ws_max_size=LARGEST_MESSAGE)


def build(jobs: Jobs, keys: Keys, where: Serving, home: Path, supervisor: Supervisor | None) -> FastAPI:
    """The whole server: HTTP, tools for agents, and the page."""
    from everreel.serve.agents.http import mount as add_tools
    from everreel.serve.api.app import make_app
    from everreel.serve.api.settings import Settings
    from everreel.serve.api.tokens import Tokens
    from everreel.serve.jobs.job import Owner

    tokens = Tokens.of(home)
    settings = Settings(
        inbox=jobs.store.incoming(),
        hosts=(*LOOPBACK, where.host),
        origins=where.origins,
        requests_per_minute=where.requests_per_minute,
        allow_fetch=where.allow_fetch,
        endless=where.endless,
        page=where.page,
    )
    pids, held = (supervisor.pids, supervisor.device_memory) if supervisor else (None, None)
    app = make_app(jobs, keys, settings, tokens, pids, device_memory=held)

    def owner_of(key: str) -> Owner | None:
        return keys.owner(key) if keys.any() else Owner()

    add_tools(app, jobs, owner_of, hosts=None if keys.any() else settings.hosts)
    if where.page:
        from everreel.serve.ui.page import mount as add_page

        add_page(app, jobs, owner_of, tokens)
    return app


def check_host(host: str, has_keys: bool) -> None:
    """Refuse an address that others can reach, where anybody could then ask.

    Raises:
        ValueError: with what to do first.
    """
    if host not in LOOPBACK and not has_keys:
        first = "everreel keys add NAME"
        raise ValueError(f"host = {host}: others can reach it, so a key is needed; make one first: {first}")


def cleaning(jobs: Jobs, every: float = CLEAN) -> AbstractContextManager[None]:
    """Let what was removed or is too old go from the disk, now and then."""

    def clean(stopping: threading.Event) -> None:
        while True:
            try:
                jobs.clean()
            except Exception:
                log.exception("what is too old could not be deleted; the next try is soon")
            if stopping.wait(every):
                return

    return beside(clean, "cleaner")


def _limits(retention: float | None, max_seconds: float, max_size: str) -> Limits:
    from everreel.serve.jobs.job import Limits

    size = re.fullmatch(r"(\d{2,5})x(\d{2,5})", max_size)
    if size is None:
        raise ValueError(f"max-size = {max_size}: must be WIDTHxHEIGHT; 1280x736 works")
    if not max_seconds > 0:
        raise ValueError(f"max-seconds = {max_seconds}: must be more than 0; 600 works")
    if retention is not None and not retention > 0:
        raise ValueError(f"retention = {retention}: days, more than 0; 30 works")
    kept = None if retention is None else retention * DAY
    return Limits(seconds=max_seconds, pixels=int(size[1]) * int(size[2]), retention=kept)
