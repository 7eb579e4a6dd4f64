"""`everreel mcp` as agents start it: a process that is spoken to over its input and output, or over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

import httpx2
import numpy as np
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from everreel.media import FilmWriter, Video
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.keys import Keys
from everreel.world.scene import VOCABULARY
from tests.chat_server import said as chat_says
from tests.chat_server import serving

Run = Callable[..., tuple[int, str, str]]
SOURCES = Path(__file__).parents[1] / "src"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}


def started(home: Path, *options: str) -> StdioServerParameters:
    arguments = ["-m", "everreel", "mcp", "--home", str(home), *options]
    return StdioServerParameters(command=sys.executable, args=arguments, env=environment())


def talk(home: Path, what: Callable[[Client], Any], *options: str) -> Any:
    """What comes of talking to a process; anything on its output that is no message is an error."""
    strays: list[Exception] = []

    async def stray(message: Any) -> None:
        if isinstance(message, Exception):
            strays.append(message)

    async def go() -> Any:
        async with Client(started(home, *options), message_handler=stray, cache=None) as client:
            return await what(client)

    found = asyncio.run(asyncio.wait_for(go(), 240))
    assert not strays
    return found


def test_an_agent_has_a_film_made_on_its_own_machine(tmp_path: Path) -> None:
    """By a worker of its own, from the plan to the file; what the worker says goes to the error stream."""
    home, heard = tmp_path / "home", []
    asked = {"prompt": "a red fox runs", "num_frames": 5, "model": "tiny-fast"}

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append(done)

    async def make(client: Client) -> Any:
        tools = (await client.list_tools()).tools
        plan = await client.call_tool("plan_film", asked)
        result = await client.call_tool("generate_film", {**asked, "wait": True}, progress_callback=hear)
        while result.structured_content["status"] in ("queued", "in_progress"):
            film = result.structured_content["film"]
            result = await client.call_tool("wait_for_film", {"film": film}, progress_callback=hear)
        film = result.structured_content
        return tools, plan.structured_content, film, await client.call_tool("look_at_film", {"film": film["film"]})

    tools, plan, film, look = talk(home, make)
    assert len(tools) == 15
    assert (plan["num_frames"], plan["width"], plan["height"]) == (5, 160, 96)
    assert film["status"] == "completed" and film["frames_ready"] == 5, film
    assert Path(film["path"]).is_relative_to(home) and Video(film["path"]).num_frames == 5
    assert look.structured_content["frames"] == [0, 1, 2, 3, 4]
    assert max(heard) == 100


def test_an_agent_names_files_of_the_folders_that_its_user_allowed(tmp_path: Path) -> None:
    """By their paths: pictures, and a film to go on with and to say what it shows. And none beside them."""
    home, allowed, other = tmp_path / "home", tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed / "of a day", other):
        folder.mkdir(parents=True)
    picture, film, secret = allowed / "of a day" / "fox.png", allowed / "fox.mp4", other / "secret.png"
    Image.new("RGB", (160, 96), "teal").save(picture)
    shutil.copyfile(picture, secret)
    with FilmWriter(film, 96, 160, 24) as writer:
        writer.append(np.zeros((24, 96, 160, 3), np.uint8))
    (allowed / "notes.png").write_text("no picture")
    (allowed / "inside.png").symlink_to(picture)
    (allowed / "out.png").symlink_to(secret)
    (allowed / "nowhere.png").symlink_to(other / "none.png")
    (allowed / "elsewhere").symlink_to(other)
    os.mkfifo(allowed / "pipe.png")
    refusals = {
        secret: "must lie in",
        other / "none.png": "must lie in",
        allowed / ".." / "other" / "secret.png": "must lie in",
        allowed / "out.png": "must lie in",
        allowed / "nowhere.png": "must lie in",
        allowed / "elsewhere" / "secret.png": "must lie in",
        allowed / "none.png": "is not there",
        allowed / "of a day": "is a folder",
        allowed / "pipe.png": "is no file",
        allowed / "notes.png": "cannot be read as a picture",
        film: "is a film; give a picture",
    }
    with suppress(OSError):  # only the superuser makes devices, and not everywhere
        os.mknod(allowed / "zero.png", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        refusals[allowed / "zero.png"] = "is no file"

    async def use(client: Client) -> Any:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        shown = {"prompt": "a fox", "image": str(picture), "end_image": str(allowed / "inside.png")}
        shown["keyframes"] = [{"frame": 40, "picture": str(picture)}]
        made = await client.call_tool("generate_film", shown)
        longer = await client.call_tool("extend_film", {"film": str(film), "prompt": "it runs", "num_frames": 24})
        caption = await client.call_tool("caption_film", {"film": str(film)})
        told = [await client.call_tool("generate_film", {"prompt": "a", "image": str(path)}) for path in refusals]
        return tools, made, longer, caption, [str(result.content) for result in told if result.is_error]

    options = "--workers", "0", "--files", str(allowed)
    tools, made, longer, caption, told = talk(home, use, *options)
    assert f"Or the whole path of a picture in {allowed};" in str(tools["generate_film"].input_schema)
    assert not made.is_error and not longer.is_error and not caption.is_error, (made, longer, caption)
    assert caption.structured_content["film"] == str(film)
    for said, (path, rule) in zip(told, refusals.items(), strict=True):
        assert "image" in said and rule in said, (path, said)
        assert rule != "must lie in" or f"must lie in {allowed}, without" in said
    assert len({said.partition("must lie in")[2] for said in told[:6]}) == 1, "whether it is there is not told"
    assert not [*(home / "incoming").iterdir()]


def test_prompts_are_made_whole_by_the_endpoint_that_the_agents_user_chose(tmp_path: Path) -> None:
    scene = dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"}

    async def enhance(client: Client) -> Any:
        return (await client.call_tool("enhance_prompt", {"prompt": "a dragon"})).structured_content

    with serving(chat_says(json.dumps(scene))) as llm:
        options = "--workers", "0", "--endpoint", llm.address, "--llm", "qwen"
        whole = talk(tmp_path / "home", enhance, *options)
    assert "red turtle" in whole["prompt"] and whole["added"].startswith("qwen: understood as"), whole


def test_over_http_it_says_where_and_answers_there_whoever_has_a_key(tmp_path: Path) -> None:
    key = Keys(tmp_path).add(Owner("ann"))
    command = [sys.executable, "-m", "everreel", "mcp", "--home", str(tmp_path), "--workers", "0", "--http", "--port"]
    process = subprocess.Popen(
        [*command, "0"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/mcp", process.stdout.readline())
        assert found, process.stderr.read() if process.stderr else ""

        async def go() -> int:
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as plain,
                Client(streamable_http_client(found[0], http_client=plain)) as client,
            ):
                return len((await client.list_tools()).tools)

        assert httpx2.post(found[0], json={}).status_code == 401
        assert asyncio.run(asyncio.wait_for(go(), 60)) == 15
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "1"), "port = 1: goes with --http"),
        (("--host", "127.0.0.1"), "host = 127.0.0.1: goes with --http"),
        (("--workers", "-1"), "workers = -1: must be 0 to 64; nearest that works: 0"),
        (("--http", "--files", "."), "files = .: goes with standard input and output"),
        (("--files", "no/such/folder"), "files = no/such/folder: must be a folder that is there"),
        (("--files", __file__), "must be a folder that is there"),
        (("--http", "--host", "0.0.0.0"), "host = 0.0.0.0: others can reach it, so a key is needed"),
        (("--http", "--port", "70000"), "port = 70000"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "llm: must be given for enhancer endpoint"),
        (("--endpoint", "nowhere", "--llm", "qwen"), "endpoint = 'nowhere': must begin with http:// or https://"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(
    run: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    code, output, errors = run("mcp", "--home", tmp_path / "home", *options)
    assert code == 2 and output == ""
    assert said in errors and errors.count("\n") == 1
