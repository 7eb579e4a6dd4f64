"""Prompts made whole for agents by whom the operator chose, or one line why not; others go on meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

from everreel.enhance import EnhanceOptions
from everreel.serve.jobs.enhancer import AT_ONCE
from everreel.world.scene import VOCABULARY
from tests.chat_server import Reply, said, serving
from tests.serve.agents.calls import ask, calling, order, refused, run, words
from tests.serve.agents.house import house

TURTLE = json.dumps(dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everreel.chat.FIRST_PAUSE", 0.0)


def test_an_agent_sees_what_the_operators_endpoint_made_of_a_prompt(tmp_path: Path) -> None:
    with serving(said(TURTLE)) as llm:
        jobs = house(tmp_path / "home", EnhanceOptions(llm="qwen", endpoint=llm.address))

        async def go() -> Any:
            async with calling(jobs) as client:
                whole = await ask(client, "enhance_prompt", prompt="a dragon")
                film = await ask(client, "generate_film", prompt="a dragon", seconds=1, enhance=True)
                elsewhere = await refused(client, "enhance_prompt", prompt="a dragon", endpoint="http://10.0.0.1/v1")
                return whole, film, elsewhere

        whole, film, elsewhere = run(go())
    assert "red turtle" in whole["prompt"] and whole["added"].startswith("qwen: understood as")
    assert "red turtle" in film["prompt"] and order(jobs, film["film"]).enhanced == film["prompt"]
    assert elsewhere.startswith("endpoint: is no argument of enhance_prompt") and len(llm.questions) == 2

    async def again() -> Any:
        async with calling(jobs) as client:
            film = {"prompt": "a dragon", "seconds": 1, "enhance": True}
            return await refused(client, "enhance_prompt", prompt="a dragon"), await refused(
                client, "generate_film", **film
            )

    for line in run(again()):
        assert "cannot be asked now; ask again later" in line and "127.0.0.1" not in line and "qwen" not in line


def test_an_agent_hears_which_words_of_its_order_nobody_knows(tmp_path: Path) -> None:
    jobs = house(tmp_path / "home")

    async def go() -> Any:
        async with calling(jobs) as client:
            asked = {"prompt": "a quagga runs", "story": [{"at": 1, "prompt": "a snark jumps"}], "seconds": 2}
            made = await client.call_tool("generate_film", asked | {"enhance": True})
            later = await client.call_tool("film_status", {"film": made.structured_content["film"]})
            return made, later, await ask(client, "generate_film", **asked)

    made, later, plain = run(go())
    film, said = made.structured_content, words(made)
    assert "not known, kept: quagga" in film["enhanced"]["0"] and "not known, kept: snark" in film["enhanced"]["24"]
    assert later.structured_content["enhanced"] == film["enhanced"] and "enhanced" not in plain
    assert f"Prompt, made whole: {film['prompt']}\n({film['enhanced']['0']})" in said
    assert f"Prompt from frame 24, made whole: {film['story']['24']}\n({film['enhanced']['24']})" in said
    assert "made whole" not in words(later)


def test_a_slow_endpoint_holds_up_nobody_else(tmp_path: Path) -> None:
    over = threading.Event()

    def slow(_: Any) -> Reply:
        assert over.wait(60)
        return said(TURTLE)

    with serving(slow) as llm:
        jobs = house(tmp_path / "home", EnhanceOptions(llm="qwen", endpoint=llm.address))

        async def go() -> Any:
            async with calling(jobs) as client:
                asked = [asyncio.create_task(ask(client, "enhance_prompt", prompt="a dragon")) for _ in range(AT_ONCE)]
                while len(llm.questions) < AT_ONCE:
                    await asyncio.sleep(0.02)
                busy = await refused(client, "enhance_prompt", prompt="a dragon")
                film = await ask(client, "generate_film", prompt="a red fox", seconds=1)
                over.set()
                return busy, film, await asyncio.gather(*asked)

        busy, film, whole = run(go())
    assert "ask again in a minute" in busy and film["status"] == "queued"
    assert all("red turtle" in one["prompt"] for one in whole)
