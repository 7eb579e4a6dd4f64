"""The command `everreel serve`: what it refuses before anything is started, and what it puts together."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from typer.testing import CliRunner

from everreel import serving
from everreel.cli import app
from everreel.media import Video
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.keys import Keys
from everreel.world.scene import VOCABULARY
from tests import chat_server


def refused(*arguments):
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "everreel keys add NAME"),
        (("--max-size", "big"), "1280x736 works"),
        (("--max-seconds", "0"), "600 works"),
        (("--retention", "-1"), "30 works"),
        (("--allow-origin", "*"), "must be a site"),
        (("--requests-per-minute", "-1"), "1200 works"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--port", "99999999"), "port 0 takes a free one"),
        (("--enhancer", "endpoint", "--llm", "qwen"), "endpoint: must be given for enhancer endpoint"),
        (("--endpoint", "nowhere", "--llm", "qwen"), "endpoint = 'nowhere': must begin with http:// or https://"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_started(tmp_path, arguments, said):
    assert said in refused("--home", str(tmp_path), *arguments)
    assert not (tmp_path / "workers.lock").exists()


@pytest.mark.parametrize(("given", "endless"), [((), True), (("--no-endless",), False)])
def test_whether_films_without_a_length_are_endless_is_the_operators_choice(tmp_path, monkeypatch, given, endless):
    found = []
    monkeypatch.setattr(serving, "_serve", lambda where, *rest: found.append(where))
    assert CliRunner().invoke(app, ["serve", "--home", str(tmp_path), *given]).exit_code == 0
    assert [where.endless for where in found] == [endless]


def test_with_a_key_others_may_reach_it(tmp_path):
    Keys(tmp_path).add(Owner("anna"))
    serving.check_host("0.0.0.0", Keys(tmp_path).any())


def test_a_port_that_is_taken_is_named():
    with serving.bind("127.0.0.1", 0) as bound, pytest.raises(ValueError, match="port 0 takes a free one"):
        serving.bind("127.0.0.1", bound.getsockname()[1])


def test_what_is_too_old_goes_now_and_then():
    twice = threading.Semaphore(0)

    class Jobs:
        def clean(self):
            twice.release()
            raise OSError("a full disk stops nothing")

    with serving.cleaning(Jobs(), every=0.01):
        for _ in range(2):
            assert twice.acquire(timeout=10)


def test_it_serves_films_until_it_is_told_to_stop_and_says_where(tmp_path):
    openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
    command = [sys.executable, "-m", "everreel", "serve", "--port", "0", "--no-page", "--home", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        first, second = process.stdout.readline(), process.stdout.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+/) serves tiny, tiny-fast", first)
        assert address and second == f"films are kept in {tmp_path}\n", first + second
        import httpx2

        with httpx2.Client(base_url=address[1], timeout=20) as client:
            assert client.get("/").json()["name"] == "everreel"
            assert client.get("/v1/models").status_code == 200
        sdk, more = openai.OpenAI(base_url=f"{address[1]}v1", api_key="none"), {"num_frames": 5, "seed": 3}
        made = sdk.videos.create_and_poll(prompt="a red fox", model="tiny-fast", extra_body=more)
        assert made.status == "completed", made
        sdk.videos.download_content(made.id).write_to_file(tmp_path / "film.mp4")
        assert Video(tmp_path / "film.mp4").num_frames == 5
        endless = sdk.videos.create(prompt="a red fox", model="tiny-fast", extra_body={"seed": 3})
        with (
            httpx2.Client(base_url=address[1], timeout=20) as client,
            client.stream("GET", f"/v1/videos/{endless.id}/events") as told,
        ):
            assert next(told.iter_lines()).startswith("id: ")
            process.send_signal(signal.SIGINT)  # while somebody watches
            process.wait(timeout=30)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert said == "", "whoever ends it reads of no error"


def test_one_process_gives_the_page_the_tools_and_the_interface_to_whoever_has_a_key(tmp_path):
    openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    pytest.importorskip("mcp", reason="the extra `serve` is not installed")
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    key = Keys(tmp_path).add(Owner("anna"))
    command = [sys.executable, "-m", "everreel", "serve", "--port", "0", "--home", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)

    async def ask(url):
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as plain,
            Client(streamable_http_client(url, http_client=plain)) as client,
        ):
            asked = {"prompt": "a blue swan", "num_frames": 5, "model": "tiny-fast"}
            made = (await client.call_tool("generate_film", asked)).structured_content
            return made["film"], (await client.call_tool("list_films", {})).structured_content

    try:
        url = re.match(r"(http://127\.0\.0\.1:\d+)/ ", process.stdout.readline())[1]
        with httpx2.Client(base_url=url, timeout=60) as page:
            front = page.get("/")
            assert 'name="key"' in front.text and "a director" not in front.text
            assert "frame-ancestors 'none'" in front.headers["content-security-policy"]
            assert page.post("/mcp", json={}).status_code == page.get("/v1/videos").status_code == 401
            assert page.post("/login", data={"key": key}).headers["location"] == "/"
            assert "gradio" in page.get("/").text and "a director" in page.get("/config").text
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
        more = {"num_frames": 5, "seed": 3}
        made = sdk.videos.create_and_poll(prompt="a red fox", model="tiny-fast", extra_body=more, poll_interval_ms=200)
        assert made.status == "completed", made
        film, listed = asyncio.run(asyncio.wait_for(ask(f"{url}/mcp"), 120))
        # What is ordered at one door is there at the others.
        assert made.id in str(listed) and film in {video.id for video in sdk.videos.list()}
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said and process.returncode == 0


def test_prompts_are_made_whole_by_the_endpoint_that_was_chosen_and_the_end_does_not_wait_for_it(tmp_path):
    import httpx2

    scene = dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"}
    over, replies = threading.Event(), {}

    def answer(question):
        if "dragon" not in question["messages"][-1]["content"]:
            over.wait(120)
        return chat_server.said(json.dumps(scene))

    def ask(client, prompt):
        replies[prompt] = client.post("/v1/prompts/enhance", json={"prompt": prompt})

    with chat_server.serving(answer) as llm:
        command = [sys.executable, "-m", "everreel", "serve", "--port", "0", "--no-page", "--home", str(tmp_path)]
        command += ["--enhancer", "endpoint", "--endpoint", llm.address, "--llm", "qwen"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        try:
            address = process.stdout.readline().split()[0]
            with httpx2.Client(base_url=address, timeout=60) as client:
                ask(client, "a dragon")
                waiting = threading.Thread(target=ask, args=(client, "a wizard"))
                waiting.start()
                while len(llm.questions) < 2:
                    assert waiting.is_alive(), replies
                    time.sleep(0.02)
                process.send_signal(signal.SIGINT)
                waiting.join(60)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
            over.set()
    assert "red turtle" in replies["a dragon"].json()["prompt"]
    assert replies["a wizard"].status_code == 503 and "the server ends" in replies["a wizard"].text
    assert "Traceback" not in told and process.returncode == 0
