"""The tools over HTTP, on a real server at a free port: keys, hosts, sessions, and films that are fetched."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

import uvicorn
from fastapi import FastAPI
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from everreel.media import Video
from everreel.serve.agents import http
from everreel.serve.agents.http import LOOPBACK, make_app, mount
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.service import Jobs
from tests.serve.agents.house import Painter

KEYS = {"key-of-ann": Owner("ann"), "key-of-bob": Owner("bob")}
MODES = ("auto", "legacy")


class Served:
    """An application at a port of its own."""

    def __init__(self, app: Any) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def served(jobs: Jobs) -> Iterator[Served]:
    """With keys."""
    one = Served(make_app(jobs, KEYS.get, hosts=None))
    yield one
    one.stop()


@asynccontextmanager
async def calling(served: Served, key: str, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as plain,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=plain), mode=mode, cache=None) as client,
    ):
        yield client


def run(what: Any) -> Any:
    return asyncio.run(asyncio.wait_for(what, 60))


@pytest.mark.parametrize("mode", MODES)
def test_a_film_is_made_and_fetched_over_http(served: Served, jobs: Jobs, mode: str) -> None:
    heard: list[float] = []
    stop = threading.Event()
    painter = threading.Thread(target=Painter(jobs).run, args=(stop,))

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append(done)

    async def go() -> Any:
        async with calling(served, "key-of-ann", mode) as client:
            asked = {"prompt": "a red fox", "seconds": 1, "wait": True}
            made = await client.call_tool("generate_film", asked, progress_callback=hear)
            film = made.structured_content
            read = await client.read_resource(film["resource"])
            listed = await client.list_resources()
            return film, read.contents[0], [each.uri for each in listed.resources]

    painter.start()
    try:
        film, read, listed = run(go())
    finally:
        stop.set()
        painter.join()
    assert film["status"] == "completed" and "path" not in film
    assert heard == sorted(set(heard)) and heard[-1] == 100
    assert listed == [film["resource"]]
    fetched = httpx2.get(served.url + film["content"], headers={"Authorization": "Bearer key-of-ann"})
    whole = (jobs.store.workplace(film["film"]) / "film.mp4").read_bytes()
    assert fetched.status_code == 200 and fetched.content == whole and fetched.headers["content-type"] == "video/mp4"
    assert len(read.blob) * 3 // 4 >= len(whole)


@pytest.mark.parametrize("mode", MODES)
def test_a_key_sees_its_own_films_and_no_others(served: Served, jobs: Jobs, mode: str) -> None:
    async def go() -> Any:
        async with calling(served, "key-of-ann", mode) as ann, calling(served, "key-of-bob", mode) as bob:
            film = (await ann.call_tool("generate_film", {"prompt": "a fox"})).structured_content["film"]
            Painter(jobs).finish(film)
            calls = [
                await bob.call_tool(tool, {"film": film})
                for tool in ("film_status", "wait_for_film", "look_at_film", "cancel_film", "delete_film")
            ]
            calls.append(await bob.call_tool("generate_film", {"prompt": "a", "image": {"film": film}}))
            with pytest.raises(MCPError, match="no such film"):
                await bob.read_resource(f"film://{film}/frame/0")
            seen = [len((await each.call_tool("list_films", {})).structured_content["films"]) for each in (ann, bob)]
            resources = [len((await each.list_resources()).resources) for each in (ann, bob)]
            return film, calls, seen, resources

    film, calls, seen, resources = run(go())
    for call in calls:
        assert call.is_error and "no such film" in call.content[0].text
    assert seen == resources == [1, 0]
    assert (
        httpx2.get(f"{served.url}/films/{film}.mp4", headers={"Authorization": "Bearer key-of-bob"}).status_code == 404
    )
    assert jobs.get(film).owner == "ann"


def test_answers_have_headers_that_protect_and_an_address_asks_so_often(jobs: Jobs, monkeypatch: Any) -> None:
    monkeypatch.setattr(http, "REQUESTS_PER_MINUTE", 30)
    one = Served(make_app(jobs, KEYS.get, hosts=None))
    try:
        replies = [httpx2.get(f"{one.url}/films/none.mp4") for _ in range(7)]
    finally:
        one.stop()
    assert [reply.status_code for reply in replies] == [401] * 5 + [429] * 2
    assert all(reply.headers["x-content-type-options"] == "nosniff" for reply in replies)


def test_without_a_key_nothing_is_answered(served: Served, jobs: Jobs) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic key-of-ann"}):
        for path in ("/mcp", "/films/video_0.mp4"):
            call = httpx2.post if path == "/mcp" else httpx2.get
            more = {"json": body} if path == "/mcp" else {}
            answer = call(served.url + path, headers=headers, **more)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_a_session_belongs_to_the_key_that_began_it(served: Served) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    accept = {"Accept": "application/json, text/event-stream"}
    ann, bob = ({"Authorization": f"Bearer {key}"} | accept for key in KEYS)
    began = httpx2.post(f"{served.url}/mcp", headers=ann, json=hello)
    session = {"Mcp-Session-Id": began.headers["mcp-session-id"]}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    assert httpx2.post(f"{served.url}/mcp", headers=bob | session, json=listing).status_code == 404
    assert httpx2.post(f"{served.url}/mcp", headers=ann | session, json=listing).status_code == 200


def test_without_keys_only_this_machine_by_its_own_name_is_answered(jobs: Jobs) -> None:
    served = Served(make_app(jobs, lambda key: Owner(), hosts=LOOPBACK))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    try:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert httpx2.post(f"{served.url}/mcp", headers=headers, json=body).status_code in (400, 403, 421)
        assert httpx2.get(f"{served.url}/films/a.mp4", headers={"Host": "evil.example"}).status_code == 400

        async def go() -> Any:
            async with Client(f"{served.url}/mcp") as client:
                return (await client.list_tools()).tools

        assert len(run(go())) == 15
    finally:
        served.stop()


def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Authorization": "Bearer key-of-ann", "Content-Type": "application/json"}
    answer = httpx2.post(f"{served.url}/mcp", headers=headers, content=b" " * (http.MOST_BODY + 1))
    assert answer.status_code == 413


def test_a_large_film_is_fetched_where_the_refusal_says(served: Served, jobs: Jobs, monkeypatch: Any) -> None:
    monkeypatch.setattr("everreel.serve.agents.resources.MOST_SENT", 100)

    async def go() -> Any:
        async with calling(served, "key-of-ann") as client:
            film = (await client.call_tool("generate_film", {"prompt": "a fox"})).structured_content["film"]
            Painter(jobs).finish(film)
            with pytest.raises(MCPError) as error:
                await client.read_resource(f"film://{film}")
            return film, str(error.value)

    film, said = run(go())
    assert f"GET /films/{film}.mp4 with the same key" in said and str(jobs.store.workplace(film).parent) not in said


def test_the_tools_stand_in_any_application_beside_its_own_lifespan(jobs: Jobs) -> None:
    lived: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lived.append("began")
        yield
        lived.append("ended")

    app = FastAPI(lifespan=lifespan)
    app.get("/other")(lambda: "other")
    mount(app, jobs, KEYS.get, hosts=None)
    for _ in range(2):  # an application may be started again, as tests do
        served = Served(app)

        async def go(served: Served = served) -> Any:
            async with calling(served, "key-of-bob") as client:
                return (await client.call_tool("generate_film", {"prompt": "a fox"})).structured_content

        film = run(go())
        assert httpx2.get(f"{served.url}/other").json() == "other"
        served.stop()
    assert lived == ["began", "ended"] * 2
    Painter(jobs).finish(film["film"])
    assert Video(jobs.store.workplace(film["film"]) / "film.mp4").num_frames == 24
