"""Prompts made whole over HTTP by whom the operator chose: answers, refusals, and nobody else waits for either."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everreel.enhance import EnhanceOptions
from everreel.serve.jobs.enhancer import AT_ONCE
from everreel.serve.jobs.job import Limits
from everreel.world.scene import VOCABULARY
from tests.chat_server import Reply, Server, said, serving
from tests.serve.api.servers import picture, small_film, wait

TURTLE = json.dumps(dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"})
PATH, KEY = "/srv/weights/qwen", "sk-secret-123"
CHOICES = {
    "endpoint": "http://127.0.0.1:9/v1",
    "llm": "other",
    "backend": "endpoint",
    "enhancer": "local",
    "timeout": 1,
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everreel.chat.FIRST_PAUSE", 0.0)
    monkeypatch.setenv("EVERREEL_API_KEY", KEY)


def options(server: Server, **more: Any) -> EnhanceOptions:
    return EnhanceOptions(llm=PATH, endpoint=server.address, **more)


def test_prompts_and_orders_are_made_whole_by_the_endpoint_that_the_operator_chose(serve: Any, tmp_path: Path) -> None:
    with serving(said(TURTLE)) as llm:
        server = serve(enhancer=options(llm), make=False)
        with server.client() as client:
            found = client.post("/v1/prompts/enhance", json={"prompt": "a dragon"}).json()
            assert "red turtle" in found["prompt"] and found["note"].startswith("qwen: understood as ")
            asked = {
                "prompt": "a dragon",
                "num_frames": 5,
                "enhance": True,
                "story": [{"frame": 3, "prompt": "a gnome"}],
            }
            film = client.post("/v1/videos", json=asked).json()
            order = server.jobs.get(film["id"]).order
            assert film["enhanced_prompt"] == film["prompt"] == order.request.prompt and "red turtle" in film["prompt"]
            assert "turtle" in order.request.story[3] and film["enhanced_story"] == {"3": order.request.story[3]}
            assert client.get(f"/v1/videos/{film['id']}").json()["enhanced_story"] == film["enhanced_story"]
            again = client.post(f"/v1/videos/{film['id']}/remix", json={"prompt": "a wyvern"}).json()
            assert "red turtle" in again["enhanced_prompt"]
            with small_film(tmp_path).open("rb") as sent:
                told = {"prompt": "a wyvern", "num_frames": "4", "enhance": "true"}
                longer = client.post("/v1/videos/extensions", data=told, files={"video": sent})
            assert "turtle" in longer.json()["enhanced_prompt"], longer.text
            plain = client.post("/v1/videos", json={"prompt": "a dragon", "num_frames": 5}).json()
            assert plain["prompt"] == "a dragon" and plain["enhanced_prompt"] is None
            assert plain["enhanced_story"] is None and again["enhanced_story"] == {}
    assert {question["model"] for question in llm.questions} == {PATH} and len(llm.questions) == 5


def test_words_that_nobody_knows_are_named_wherever_the_film_is_told(serve: Any) -> None:
    server = serve(make=False)
    asked = {"prompt": "a quagga runs", "num_frames": 5, "story": {"3": "a snark jumps"}}
    with server.client() as client:
        film = client.post("/v1/videos", json=asked | {"enhance": True}).json()
        notes = film["enhanced_notes"]
        assert "quagga" in film["enhanced_prompt"] and "not known, kept: quagga" in notes["0"]
        assert notes.keys() == {"0", "3"} and "not known, kept: snark" in notes["3"]
        assert client.get(f"/v1/videos/{film['id']}").json()["enhanced_notes"] == notes
        assert client.get("/v1/videos").json()["data"][0]["enhanced_notes"] == notes
        assert client.post("/v1/videos", json=asked).json()["enhanced_notes"] is None
        chosen = client.post("/v1/videos", json=asked | {"enhanced_notes": {"0": "nothing"}})
        assert chosen.status_code == 400 and chosen.json()["error"]["code"] == "unknown_field"
        document = client.get("/openapi.json").json()["components"]["schemas"]["Video"]
    assert "not known, kept" in document["properties"]["enhanced_notes"]["examples"][0]["0"]


def test_the_same_order_is_asked_about_once(serve: Any) -> None:
    with serving(said(TURTLE)) as llm:
        server = serve(enhancer=options(llm), make=False)
        with server.client(**{"Idempotency-Key": "one"}) as client:
            asked = {"prompt": "a dragon", "num_frames": 5, "enhance": True}
            films = [client.post("/v1/videos", json=asked).json()["id"] for _ in range(2)]
    assert films[0] == films[1] and len(llm.questions) == 1


@pytest.mark.parametrize("name", CHOICES)
def test_no_request_chooses_whom_to_ask(serve: Any, name: str) -> None:
    with serving(said(TURTLE)) as llm:
        server = serve(enhancer=options(llm), make=False)
        with server.client() as client:
            asked = {"prompt": "a dragon", name: CHOICES[name]}
            replies = [client.post("/v1/prompts/enhance", json=asked)]
            replies.append(client.post("/v1/videos", json=asked | {"enhance": True}))
            replies.append(client.post("/v1/videos", json={"prompt": "a dragon", "enhance": True, "extra_body": asked}))
    assert [reply.status_code for reply in replies] == [400] * 3
    assert all(reply.json()["error"]["code"] == "unknown_field" for reply in replies) and not llm.questions


def test_what_cannot_be_made_is_not_asked_about(serve: Any) -> None:
    with serving(said(TURTLE)) as llm:
        server = serve(enhancer=options(llm), make=False)
        with server.client() as client:
            for body in ({"seed": -1}, {"model": "huge"}, {"seconds": "10000"}, {"prompt": "a dragon " * 1000}):
                reply = client.post("/v1/videos", json={"prompt": "a dragon", "enhance": True} | body)
                assert reply.status_code == 400, reply.text
            reply = client.post("/v1/prompts/enhance", json={"prompt": "a dragon " * 1000})
            assert reply.json()["error"]["message"] == "prompt = 8999 characters: this server takes at most 8000"
    assert not llm.questions


@pytest.mark.parametrize(
    ("reply", "status", "rule"),
    [
        (Reply({"error": f"{KEY} is not good at /etc/llm"}, 418), 502, "gave no answer that can be used"),
        (said("I will not"), 502, "gave no answer that can be used"),
        (Reply("who are you?", 401), 502, "cannot be asked now"),
        (Reply("too much to do", 503), 502, "cannot be asked now"),
        (None, 502, "cannot be asked now"),
        ("slow", 504, "gave no answer in time"),
    ],
)
def test_no_answer_is_a_status_and_a_line_without_address_path_or_key(
    serve: Any, reply: Any, status: int, rule: str
) -> None:
    over = threading.Event()

    def slow(_: Any) -> Reply:
        over.wait(30)
        return said(TURTLE)

    with serving(slow if reply == "slow" else reply or said(TURTLE)) as llm:
        server = serve(enhancer=options(llm, timeout=0.2 if reply == "slow" else None), make=False)
        if reply:
            replies = ask_both(server)
        over.set()
    if not reply:  # there is nobody any more
        replies = ask_both(server)
    for found in replies:
        assert found.status_code == status and found.headers["x-should-retry"] == "false"
        error = found.json()["error"]
        assert rule in error["message"] and error["message"].endswith("send it without enhance")
        assert (error["code"], error["param"]) == ("enhancer_failed", "prompt")
        assert not any(hidden in found.text for hidden in ("http", "127.0.0.1", "/srv", "/etc", "qwen", KEY))
    assert not server.jobs.queue.page(None)


def ask_both(server: Any) -> list[Any]:
    with server.client() as client:
        films = client.post("/v1/videos", json={"prompt": "a dragon", "num_frames": 5, "enhance": True})
        return [client.post("/v1/prompts/enhance", json={"prompt": "a dragon"}), films]


def test_what_is_written_too_long_is_not_the_clients_fault(serve: Any) -> None:
    with serving(said("a dragon " * 400)) as llm:
        server = serve(enhancer=options(llm), make=False, limits=Limits(prompt=1000))
        server.jobs.enhancer.at_work = as_if_it_read_all(server.jobs.enhancer.at_work)
        for found in ask_both(server):
            assert found.status_code == 502 and "gave no answer that can be used" in found.text


def as_if_it_read_all(at_work: Any) -> Any:
    """For a model that reads any words, so that what the language model writes is what is sent."""

    @contextmanager
    def of_any_world(world: bool) -> Iterator[Any]:
        with at_work(False) as enhancer:
            yield enhancer

    return of_any_world


def test_while_a_slow_endpoint_is_asked_everything_else_is_answered(serve: Any, tmp_path: Path) -> None:
    over = threading.Event()

    def slow(_: Any) -> Reply:
        assert over.wait(60)
        return said(TURTLE)

    with serving(slow) as llm, ThreadPoolExecutor(AT_ONCE) as pool:
        server = serve(enhancer=options(llm), make=False)
        asked = {"prompt": "a dragon", "num_frames": 5, "enhance": True}
        with server.client() as client:
            waiting = [pool.submit(client.post, "/v1/videos", json=asked, timeout=60) for _ in range(AT_ONCE)]
            wait(lambda: len(llm.questions) == AT_ONCE, "so many questions")
            for url, body in (("/v1/videos", asked), ("/v1/prompts/enhance", {"prompt": "a dragon"})):
                busy = client.post(url, json=body)
                assert busy.status_code == 503 and busy.headers["retry-after"] == "30", busy.text
            film = client.post("/v1/videos", json={"prompt": "a red fox", "num_frames": 5})
            with picture(tmp_path).open("rb") as sent:
                upload = client.post("/v1/files", files={"file": sent})
            listed = client.get("/v1/videos").json()["data"]
            assert (film.status_code, upload.status_code) == (200, 200)
            assert [one["id"] for one in listed] == [film.json()["id"]] and not any(one.done() for one in waiting)
            over.set()
            assert all("red turtle" in one.result().json()["prompt"] for one in waiting)
