"""Films as resources, read through the SDK's own client."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

from mcp.shared.exceptions import MCPError
from PIL import Image

from everreel.serve.jobs.service import Jobs
from tests.serve.agents.calls import MODES, ask, calling, run
from tests.serve.agents.house import HEIGHT, WIDTH, Painter


@pytest.mark.parametrize("mode", MODES)
def test_films_are_resources(jobs: Jobs, mode: str) -> None:
    async def go() -> Any:
        async with calling(jobs, mode=mode) as client:
            film = (await ask(client, "generate_film", prompt="a red fox", seconds=1))["film"]
            Painter(jobs).finish(film)
            read = {
                part: (await client.read_resource(f"film://{film}{part}")).contents[0]
                for part in ("", "/frame/0", "/frame/-1", "/thumbnail", "/order")
            }
            problems = []
            for part in ("/frame/24", "/frame/x", "/frame/99999999999999999999", "/../../keys.json", "/nothing"):
                with pytest.raises(MCPError) as error:
                    await client.read_resource(f"film://{film}{part}")
                problems.append(str(error.value))
            templates = (await client.list_resource_templates()).resource_templates
            return film, read, problems, (await client.list_resources()).resources, templates

    film, read, problems, listed, templates = run(go())
    assert base64.b64decode(read[""].blob) == (jobs.store.workplace(film) / "film.mp4").read_bytes()
    kinds = {part: content.mime_type for part, content in read.items()}
    assert kinds == {
        "": "video/mp4",
        "/frame/0": "image/jpeg",
        "/frame/-1": "image/jpeg",
        "/thumbnail": "image/webp",
        "/order": "application/json",
    }
    for part in ("/frame/0", "/frame/-1", "/thumbnail"):
        assert Image.open(io.BytesIO(base64.b64decode(read[part].blob))).size == (WIDTH, HEIGHT)
    assert json.loads(read["/order"].text)["request"]["prompt"] == "a red fox"
    assert "nearest that works: 23" in problems[0] and "must be a number" in problems[1]
    assert str(jobs.store.workplace(film).parent) not in " ".join(problems)
    assert [resource.uri for resource in listed] == [f"film://{film}"]
    assert {template.name for template in templates} == {"film", "frame", "thumbnail", "order"}


def test_a_film_that_is_too_large_for_a_message_is_told_where_it_is(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everreel.serve.agents.resources.MOST_LOCAL", 1000)

    async def go() -> Any:
        async with calling(jobs) as client:
            film = (await ask(client, "generate_film", prompt="a fox"))["film"]
            Painter(jobs).finish(film)
            with pytest.raises(MCPError) as error:
                await client.read_resource(f"film://{film}")
            return film, str(error.value)

    film, said = run(go())
    assert "at most 1000 are sent here" in said and f"{film}/film.mp4" in said
