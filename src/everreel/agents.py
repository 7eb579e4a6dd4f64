"""The command that lets agents make films: `everreel mcp`, over standard input and output or over HTTP.

The one invariant: over standard output goes nothing but the protocol; workers and whatever else speaks begin only once
the SDK has put the error stream in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.enhance import EnhanceOptions, takes_enhancer
from everreel.film.loading import ModelOptions
from everreel.serving import check_host, cleaning
from everreel.web import LOOPBACK, bind, run

if TYPE_CHECKING:
    from everreel.serve.agents.files import Folders
    from everreel.serve.jobs.service import Jobs
    from everreel.serve.jobs.supervisor import Supervisor

PORT = 8765
MOST_WORKERS = 64


@takes_enhancer
def mcp(
    *,
    http: Annotated[
        bool, typer.Option("--http", help="Over streamable HTTP; else over standard input and output.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="With --http: address; any but 127.0.0.1 needs a key (everreel keys add).")
    ] = None,
    port: Annotated[int | None, typer.Option(help=f"With --http: port, {PORT} by default; 0 takes a free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where films are; shared with everreel serve.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that make films; 0 leaves that to a server that has the same home.")
    ] = 1,
    files: Annotated[
        list[Path] | None,
        typer.Option(help="Without --http: a folder whose pictures and films the agent may name by path; any number."),
    ] = None,
    model: ModelOptions,
    enhancer: EnhanceOptions,
) -> None:
    """Offer tools to agents: make films, watch them, judge them, go on with them (Model Context Protocol).

    Films are made by workers of this command, or of a server that has the same home. When the command ends, a film in
    progress waits and goes on the next time.
    """
    _check_transport(http, {"host": host, "port": port}, files)
    if not 0 <= workers <= MOST_WORKERS:
        nearest = min(max(workers, 0), MOST_WORKERS)
        raise ValueError(f"workers = {workers}: must be 0 to {MOST_WORKERS}; nearest that works: {nearest}")
    try:
        import mcp as sdk  # noqa: F401 -- only whether it is there
    except ImportError:
        raise ValueError("mcp: needs the extra serve; pip install 'everreel[serve]'") from None
    from everreel.serve.jobs.home import default_home, open_home
    from everreel.serve.jobs.service import Jobs, serve_options
    from everreel.serve.jobs.supervisor import Supervisor

    folders = _folders(files)
    home = home or default_home()
    queue, store = open_home(home)
    jobs = Jobs(queue, store, serve_options(model), enhancer=enhancer)
    supervisor = Supervisor(home, queue, jobs.models, workers) if workers else None
    if http:
        _over_http(jobs, supervisor, home, host or "127.0.0.1", PORT if port is None else port)
        return
    from everreel.serve.agents.server import make_server

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with _working(jobs, supervisor):
            yield

    make_server(jobs, local=True, lifespan=lifespan, files=folders).run("stdio")


def _check_transport(http: bool, for_http: Mapping[str, object], files: list[Path] | None) -> None:
    """Raises: ValueError, where an option goes with the other way to talk."""
    for name, value in for_http.items():
        if value is not None and not http:
            raise ValueError(f"{name} = {value}: goes with --http; add that or leave this out")
    if files and http:
        rule = "goes with standard input and output, where this machine's user asks; leave out this or --http"
        raise ValueError(f"files = {files[0]}: {rule}")


def _folders(files: list[Path] | None) -> Folders | None:
    """Whose files may be named by path. Raises: ValueError."""
    from everreel.serve.agents.files import Folders

    return Folders.of(files) if files else None


@asynccontextmanager
async def _working(jobs: Jobs, supervisor: Supervisor | None) -> AsyncIterator[None]:
    """While agents are served, films are made, and what was deleted goes."""
    if supervisor:
        supervisor.start()
    try:
        with cleaning(jobs):
            yield
    finally:
        if supervisor:
            await asyncio.to_thread(supervisor.stop)


def _over_http(jobs: Jobs, supervisor: Supervisor | None, home: Path, host: str, port: int) -> None:
    from everreel.serve.agents.http import make_app
    from everreel.serve.jobs.job import Owner
    from everreel.serve.jobs.keys import Keys

    keys = Keys(home)
    check_host(host, keys.any())
    bound = bind(host, port)
    hosts = None if keys.any() else (*LOOPBACK, host)
    app = make_app(
        jobs, lambda key: keys.owner(key) if keys.any() else Owner(), hosts, lambda _: _working(jobs, supervisor)
    )
    name = f"[{host}]" if ":" in host else host
    typer.echo(f"tools for agents at http://{name}:{bound.getsockname()[1]}/mcp")
    run(app, bound)
