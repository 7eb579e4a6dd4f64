"""The tools as a model sees them and calls them, through the SDK's own client."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

from mcp.shared.exceptions import MCPError
from PIL import Image

from everreel.media import FilmWriter, Video
from everreel.serve.agents.caller import CALLER
from everreel.serve.agents.look import MOST_BYTES
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.service import Jobs
from tests.serve.agents.calls import MODES, ask, calling, order, png, refused, run
from tests.serve.agents.house import HEIGHT, WIDTH, WORKER, Painter, frames

TOOLS = {
    "generate_film",
    "plan_film",
    "extend_film",
    "continue_story",
    "add_keyframes",
    "enhance_prompt",
    "caption_film",
    "film_status",
    "wait_for_film",
    "cancel_film",
    "pause_film",
    "resume_film",
    "list_films",
    "delete_film",
    "look_at_film",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_tool_says_what_it_takes_what_it_gives_and_what_it_does(jobs: Jobs, mode: str) -> None:
    async def look() -> Any:
        async with calling(jobs, mode=mode) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in run(look())}
    assert tools.keys() == TOOLS
    for tool in tools.values():
        assert tool.description and len(tool.description) > 40, tool.name
        assert tool.output_schema and tool.input_schema["additionalProperties"] is False
        for name, field in tool.input_schema["properties"].items():
            assert field.get("description"), f"{tool.name}.{name}"
            if name not in tool.input_schema.get("required", ()):
                assert "efault" in field["description"], f"{tool.name}.{name} does not say what is taken without it"
        assert tool.annotations and tool.annotations.open_world_hint is False
    hints = {name: tool.annotations for name, tool in tools.items()}
    assert [name for name, hint in hints.items() if hint.destructive_hint] == ["delete_film"]
    reading = {name for name, hint in hints.items() if hint.read_only_hint}
    assert {"plan_film", "film_status", "wait_for_film", "look_at_film", "list_films", "caption_film"} < reading
    assert not {"generate_film", "extend_film", "cancel_film", "delete_film"} & reading
    assert "tiny, tiny-fast" in tools["generate_film"].input_schema["properties"]["model"]["description"]


@pytest.mark.parametrize("mode", MODES)
def test_a_film_is_made_while_its_progress_is_told(jobs: Jobs, painting: None, mode: str) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, total, message))

    async def make() -> Any:
        async with calling(jobs, mode=mode) as client:
            return await client.call_tool(
                "generate_film", {"prompt": "a red fox runs", "seconds": 1, "wait": True}, progress_callback=hear
            )

    result = run(make())
    film = result.structured_content
    assert film["status"] == "completed" and film["frames_ready"] == 24 and film["progress"] == 100
    assert Video(film["path"]).num_frames == 24
    assert [block.uri for block in result.content if block.type == "resource_link"] == [f"film://{film['film']}"]
    told = [done for done, _, _ in heard]
    assert told == sorted(set(told)) and told[-1] == 100, "progress goes up, never down"
    assert all(total == 100 for _, total, _ in heard)


def test_without_wait_the_answer_comes_at_once_and_says_how_to_go_on(jobs: Jobs) -> None:
    async def make() -> Any:
        async with calling(jobs) as client:
            film = await ask(client, "generate_film", prompt="a red fox runs")
            waited = await ask(client, "wait_for_film", film=film["film"], seconds=0.3)
            return film, waited

    film, waited = run(make())
    assert film["status"] == waited["status"] == "queued"
    assert "path" not in film, "there is nothing to see yet"
    assert f"wait_for_film(film='{film['film']}')" in waited["next"]


def test_a_film_is_endless_if_that_is_asked_for_until_it_is_cancelled(jobs: Jobs) -> None:
    async def make() -> Any:
        async with calling(jobs) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            plan = await ask(client, "plan_film", prompt="a red fox runs", endless=True)
            film = await ask(client, "generate_film", prompt="a red fox runs", endless=True)
            usual = await ask(client, "generate_film", prompt="a red fox runs")
            said = await refused(client, "generate_film", prompt="a red fox runs", endless=True, seconds=4)
            over = await ask(client, "cancel_film", film=film["film"])
            Painter(jobs).finish(usual["film"])
            longer = await ask(client, "extend_film", film=usual["film"], endless=True)
            return tools, plan, film, usual, longer, said, over

    tools, plan, film, usual, longer, said, over = run(make())
    assert plan["endless"] and order(jobs, film["film"]).endless and "cancel_film stops it" in film["next"]
    assert not order(jobs, usual["film"]).endless and "wait_for_film" in usual["next"], "an agent waits for its end"
    assert "endless = True: has no length and no end; leave out length" in said
    assert over["status"] == "cancelled" and order(jobs, longer["film"]).endless
    for name in ("generate_film", "plan_film", "extend_film"):
        says = tools[name].input_schema["properties"]["endless"]["description"]
        assert "until you call cancel_film" in says and says.endswith("Default: false.")


def test_waiting_ends_when_a_film_is_paused_and_when_it_is_deleted(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            film = (await ask(client, "generate_film", prompt="a fox"))["film"]
            paused = await ask(client, "pause_film", film=film)
            waited = await ask(client, "wait_for_film", film=film, seconds=30)
            resumed = await ask(client, "resume_film", film=film)
            waiting = asyncio.create_task(refused(client, "wait_for_film", film=film, seconds=30))
            await asyncio.sleep(0)
            await ask(client, "delete_film", film=film)
            return paused, waited, resumed, await waiting

    paused, waited, resumed, gone = run(go())
    assert (paused["status"], waited["status"], resumed["status"]) == ("paused", "paused", "queued")
    assert "resume_film" in waited["next"]
    assert "no such film" in gone


def test_a_film_that_was_cancelled_or_failed_says_so(jobs: Jobs) -> None:
    from everreel.serve.jobs.job import Failure

    async def go() -> Any:
        async with calling(jobs) as client:
            first = (await ask(client, "generate_film", prompt="a fox"))["film"]
            cancelled = await ask(client, "cancel_film", film=first)
            second = (await ask(client, "generate_film", prompt="a fox"))["film"]
            Painter(jobs).claim(second)
            jobs.queue.finish(second, WORKER, "failed", Failure("generation_failed", "memory: too little"))
            return cancelled, await ask(client, "film_status", film=second)

    cancelled, failed = run(go())
    assert cancelled["status"] == "cancelled" and "resume_film" in cancelled["next"]
    assert failed["error"] == "memory: too little"


def test_everything_that_was_asked_for_is_in_the_order(jobs: Jobs) -> None:
    async def make() -> str:
        async with calling(jobs) as client:
            told = await ask(
                client,
                "generate_film",
                prompt="a red fox runs",
                num_frames=97,
                size="96x160",
                seed=7,
                model="tiny-fast",
                negative_prompt="blurry",
                image=png(),
                end_image=f"data:image/png;base64,{png()}",
                keyframes=[{"frame": 40, "picture": png()}],
                story=[{"at": 1, "prompt": "it jumps"}, {"at": 2.5, "prompt": "it sleeps"}],
            )
            return str(told["film"])

    made = order(jobs, run(make()))
    request = made.request
    assert (request.num_frames, request.width, request.height, request.seed) == (97, 96, 160, 7)
    assert (made.model, request.negative_prompt) == ("tiny-fast", "blurry")
    assert request.story == {24: "it jumps", 60: "it sleeps"}
    assert made.image and made.end_image and list(made.keyframes) == [40]
    assert len(made.uploads) == 3
    for upload in made.uploads:
        with Image.open(jobs.store.upload(upload)) as picture:
            assert picture.size == (WIDTH, HEIGHT)


def test_a_plan_costs_nothing_and_tells_what_a_film_would_cost(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            plan = await ask(client, "plan_film", prompt="a fox", seconds=4, aspect="1:1")
            return plan, await ask(client, "list_films")

    plan, films = run(go())
    assert (plan["num_frames"], plan["seconds"], plan["fps"]) == (96, 4.0, 24)
    assert (plan["blocks"], plan["steps"], plan["passes"]) == (1, 30, 30)
    assert plan["width"] == plan["height"] and plan["takes_seconds"] > 0 and plan["memory_bytes"] > 0
    assert films["films"] == []


def test_a_film_is_gone_on_with(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            film = (await ask(client, "generate_film", prompt="a fox runs", seconds=1))["film"]
            early = await refused(client, "extend_film", film=film, seconds=2)
            Painter(jobs).finish(film)
            longer = await ask(client, "extend_film", film=film, seconds=2, seed=3)
            parts = [{"prompt": "it jumps", "seconds": 2}, {"prompt": "it sleeps", "seconds": 1.5}]
            story = await ask(client, "continue_story", film=film, parts=parts)
            return film, early, longer["film"], story["film"]

    film, early, longer, story = run(go())
    assert "is queued" in early and early.startswith("film = ")
    assert order(jobs, longer).extends == order(jobs, story).extends == film
    assert order(jobs, longer).request.prompt == "a fox runs" and order(jobs, longer).request.seed == 3
    told = order(jobs, story).request
    assert (told.prompt, told.story, told.num_frames) == ("it jumps", {48: "it sleeps"}, 84)


def test_keyframes_are_added_to_a_films_order(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            film = (
                await ask(
                    client,
                    "generate_film",
                    prompt="a fox",
                    num_frames=97,
                    seed=5,
                    keyframes=[{"frame": 32, "picture": png()}],
                )
            )["film"]
            Painter(jobs).finish(film)
            picture = {"film": film, "frame": -1}
            again = await ask(client, "add_keyframes", film=film, keyframes=[{"frame": 64, "picture": picture}])
            nothing = await refused(client, "add_keyframes", film=film)
            beyond = await refused(client, "add_keyframes", film=film, end_image={"film": film, "frame": 99})
            return film, again["film"], nothing, beyond

    film, again, nothing, beyond = run(go())
    made = order(jobs, again)
    assert list(made.keyframes) == [32, 64] and made.keyframes[32] == order(jobs, film).keyframes[32]
    assert made.remixed_from == film and made.request.seed == 5
    with Image.open(jobs.store.upload(made.keyframes[64])) as picture:
        assert picture.size == (WIDTH, HEIGHT)
        red = picture.convert("RGB").getpixel((150, 5))
    assert isinstance(red, tuple) and red[0] > 180, "the last frame is the reddest"
    assert "give at least one" in nothing
    assert "frames 0..23; nearest that works: 23" in beyond


def test_an_uploaded_film_is_gone_on_with_and_is_no_picture(jobs: Jobs) -> None:
    place = jobs.store.incoming() / "film"
    with FilmWriter(place, HEIGHT, WIDTH, 24) as writer:
        writer.append(frames(24))
    upload = jobs.upload(place, Owner()).id

    async def go() -> Any:
        async with calling(jobs) as client:
            longer = await ask(client, "extend_film", film=upload, prompt="the square stops", num_frames=24)
            film = base64.b64encode(jobs.store.upload(upload).read_bytes()).decode()
            return longer["film"], await refused(client, "generate_film", prompt="a", image=film)

    longer, wrong = run(go())
    assert order(jobs, longer).follows == upload and order(jobs, longer).request.num_frames == 24
    assert "image: is a film; give a picture" in wrong


def test_looking_at_a_film_shows_frames_that_can_be_told_apart(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            film = (await ask(client, "generate_film", prompt="a fox"))["film"]
            nothing = await refused(client, "look_at_film", film=film)
            Painter(jobs).block(film, 2)
            part = await client.call_tool("look_at_film", {"film": film, "frames": 4})
            chosen = await client.call_tool("look_at_film", {"film": film, "numbers": [-1]})
            return nothing, part, chosen, await refused(client, "look_at_film", film=film, numbers=[40])

    nothing, part, chosen, beyond = run(go())
    assert "no frames yet" in nothing and "queued" in nothing
    assert part.structured_content["frames"] == [0, 5, 10, 15] and part.structured_content["num_frames"] == 16
    assert chosen.structured_content["frames"] == [15]
    assert "numbers = 40: the film has frames 0..15; nearest that works: 15" in beyond
    (block,) = [block for block in part.content if block.type == "image"]
    data = base64.b64decode(block.data)
    assert block.mime_type == "image/jpeg" and len(data) <= MOST_BYTES
    sheet = Image.open(io.BytesIO(data)).convert("RGB")
    assert sheet.width > 4 * WIDTH
    reds = [sheet.getpixel((8 + 168 * cell + 155, 12))[0] for cell in range(4)]  # type: ignore[index]
    assert reds == sorted(reds) and reds[3] - reds[0] > 80


def test_a_film_is_captioned(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            film = (await ask(client, "generate_film", prompt="a fox"))["film"]
            Painter(jobs).finish(film)
            return await ask(client, "caption_film", film=film)

    told = run(go())
    assert told["caption"].endswith(".") and told["fields"]["shot_type"]


def test_a_prompt_is_made_whole(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            return await ask(client, "enhance_prompt", prompt="a fox")

    told = run(go())
    assert "fox" in told["prompt"] and len(told["prompt"].split()) > 6 and told["added"]


def test_films_are_listed_page_by_page(jobs: Jobs) -> None:
    async def go() -> Any:
        async with calling(jobs) as client:
            made = [(await ask(client, "generate_film", prompt=f"fox {n}"))["film"] for n in range(5)]
            found, cursor = [], None
            while True:
                page = await ask(client, "list_films", limit=2, cursor=cursor)
                found += [film["film"] for film in page["films"]]
                cursor = page.get("next_cursor")
                if cursor is None:
                    return made, found, await refused(client, "list_films", cursor="video_" + "0" * 32)

    made, found, unknown = run(go())
    assert found == made[::-1]
    assert "no such film" in unknown


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("generate_film", {}, "prompt: must be given"),
        ("generate_film", {"prompt": " "}, "prompt is empty"),
        ("generate_film", {"prompt": "a", "num_frame": 3}, "num_frame: is no argument of generate_film"),
        ("generate_film", {"prompt": "a", "seconds": "long"}, "seconds = 'long'"),
        ("generate_film", {"prompt": "a", "seconds": 4, "num_frames": 97}, "give num_frames or seconds, not both"),
        ("generate_film", {"prompt": "a", "seconds": 1e9}, "nearest that works"),
        ("generate_film", {"prompt": "a", "size": "big"}, "WIDTHxHEIGHT"),
        ("generate_film", {"prompt": "a", "size": "150x96"}, "nearest that works: 144"),
        ("generate_film", {"prompt": "a", "model": "tinny"}, "nearest that works: tiny"),
        ("generate_film", {"prompt": "a", "aspect": "4:3"}, "aspect = '4:3'"),
        ("generate_film", {"prompt": "a", "story": [{"at": 1}]}, "story[0].prompt: must be given"),
        ("generate_film", {"prompt": "a", "story": [{"at": 2, "prompt": "b"}, {"at": 1, "prompt": "c"}]}, "2.04"),
        ("generate_film", {"prompt": "a", "image": "not base64!"}, "must be base64 of a picture"),
        ("generate_film", {"prompt": "a", "image": "/etc/passwd"}, "image = '/etc/passwd'"),
        ("generate_film", {"prompt": "a", "image": "http://127.0.0.1/a.png"}, "must be base64 of a picture"),
        ("generate_film", {"prompt": "a", "image": "aGVsbG8="}, "cannot be read as a picture"),
        ("generate_film", {"prompt": "a", "image": "file_" + "0" * 32}, "no such upload"),
        ("generate_film", {"prompt": "a", "image": {"film": "video_" + "0" * 32}}, "no such film"),
        ("generate_film", {"prompt": "a", "loop": True, "end_image": "A" * 50_000_000}, "leave out end_image"),
        ("generate_film", {"prompt": "a", "image": "A" * 50_000_000}, "at most 16000000 may come as base64"),
        ("wait_for_film", {"film": "video_" + "0" * 32}, "no such film"),
        ("wait_for_film", {"film": "../../etc", "seconds": 1}, "no such film"),
        ("wait_for_film", {"film": "a", "seconds": 1000}, "nearest that works: 600"),
        ("list_films", {"limit": 0}, "nearest that works: 1"),
        ("film_status", {"film": 3}, "film = 3"),
        ("continue_story", {"film": "video_" + "0" * 32, "parts": []}, "parts = []"),
        ("extend_film", {"film": "file_" + "0" * 32}, "prompt: must be given for an uploaded film"),
        ("no_such_tool", {}, "no_such_tool"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(jobs: Jobs, tool: str, arguments: dict[str, Any], said: str) -> None:
    async def go() -> str:
        async with calling(jobs) as client:
            return await refused(client, tool, **arguments)

    found = run(go())
    assert said in found and len(found) < 500
    assert not list(jobs.store.incoming().iterdir()), "nothing is left of what was refused"


def test_what_nobody_expected_is_not_told(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "bad sector", "/secret/place")

    monkeypatch.setattr(jobs.queue, "page", broken)

    async def go() -> Any:
        async with calling(jobs) as client:
            with pytest.raises(MCPError) as error:
                await client.list_resources()
            return await refused(client, "list_films"), str(error.value)

    for said in run(go()):
        assert "secret" not in said and "sector" not in said


def test_a_path_is_told_only_where_the_agent_runs_on_this_machine(jobs: Jobs) -> None:
    async def go(local: bool) -> Any:
        async with calling(jobs, local=local) as client:
            film = (await ask(client, "generate_film", prompt="a fox"))["film"]
            Painter(jobs).finish(film)
            result = await client.call_tool("film_status", {"film": film})
            listed = await client.call_tool("list_films", {})
            return film, str(result) + str(listed)

    film, said = run(go(True))
    home = str(jobs.store.workplace(film).parent)
    assert home in said
    before = CALLER.set(Owner())
    try:
        assert home not in run(go(False))[1]
    finally:
        CALLER.reset(before)


def test_without_a_gate_nobody_calls_a_server_that_others_can_reach(jobs: Jobs) -> None:
    async def go() -> str:
        async with calling(jobs, local=False) as client:
            return await refused(client, "list_films")

    assert "key: must be given" in run(go())
