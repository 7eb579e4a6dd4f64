"""`everreel enhance`, `--enhance`, and requests whose prompts are made whole."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner, Result

from everreel import cli
from everreel.chat import LocalChat
from everreel.checkpoint.catalog import find_model
from everreel.enhance import (
    EnhanceOptions,
    enhance,
    enhance_options,
    enhanced_request,
    enhancer_of,
    knows_only_the_world,
    takes_enhancement,
    takes_enhancer,
)
from everreel.film.request import make_request
from everreel.parallel.crew import Crew
from tests.chat_server import Reply, said, serving
from tests.parallel.processes import together

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(enhance)
TINY = find_model("tiny")


@pytest.fixture(autouse=True)
def no_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the package of words is installed changes nothing here."""
    monkeypatch.setattr("everreel.prompt.nearest.PACKAGE", "no_such_package_of_words")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_prompts_come_out_and_what_was_done_beside_them() -> None:
    result = run("a swan", "asdf")
    assert result.exit_code == 0, result
    first, second = result.stdout.splitlines()
    assert first.startswith("full shot of a white swan swimming right on a lake") and second == "asdf"
    assert (
        result.stderr.splitlines()[1] == "built-in: nothing of it is known, so nothing is added; not known, kept: asdf"
    )
    assert run("a swan", "--image").stdout == "a swan swimming, static camera\n"


def test_a_released_model_reads_any_words_and_need_not_be_here() -> None:
    made = run("a swan", "--model", "DF-1.3B-540P").stdout
    assert made.startswith("Full shot of a swan, swimming, with white feathers, on a lake, in bright daylight")
    assert knows_only_the_world(TINY) and not knows_only_the_world(find_model("T2V-14B-540P", here=False))


def test_an_endpoint_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(said("Close-up of a dragon at night, static camera")) as server:
        options = ("--endpoint", server.address, "--llm", "qwen", "--model", "DF-1.3B-540P")
        result = run("a dragon", *options)
        assert result.stdout == "Close-up of a dragon at night, static camera\n"
        assert result.stderr.startswith("qwen: written anew") and server.questions[0]["model"] == "qwen"
    with serving(Reply("no", 400)) as server:
        result = run("a dragon", "--endpoint", server.address, "--llm", "q", "--model", "DF-1.3B-540P")
    assert f"endpoint = {server.address}: 400, no" in str(result.exception)


def test_an_endpoint_is_waited_for_as_long_as_is_said() -> None:
    over = threading.Event()

    def slow(_: Any) -> Reply:
        over.wait(30)
        return said("too late")

    with serving(slow) as server:
        result = run(
            "a dragon", "--endpoint", server.address, "--llm", "q", "--model", "DF-1.3B-540P", "--timeout", 0.2
        )
        over.set()
    assert str(result.exception) == f"endpoint = {server.address}: no answer within 0.2 s; try timeout = 0.4"


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"timeout": 9.0}, "timeout = 9: goes with backend endpoint, not with built-in"),
        ({"backend": "endpoint", "llm": "m"}, "endpoint: must be given for backend endpoint"),
        ({"endpoint": "http://x/v1"}, "llm: must be given for backend endpoint"),
        ({"backend": "local"}, "llm: must be given for backend local"),
        ({"backend": "built-in", "llm": "m"}, "llm = m: goes with backend endpoint or local, not with built-in"),
        ({"backend": "local", "llm": "m", "endpoint": "http://x"}, "endpoint = http://x: goes with backend endpoint"),
        ({"backend": "locl"}, "backend = 'locl': must be one of built-in, endpoint, local; nearest that works: local"),
    ],
)
def test_options_that_do_not_go_together_are_refused(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        enhance_options(**values)


def test_a_request_is_made_whole_and_nothing_else_of_it_changes() -> None:
    request = make_request(prompt="a crimson swan", story={40: "it flies"}, seconds=5, seed=3)
    whole, lines = enhanced_request(request, EnhanceOptions(), TINY)
    assert whole.prompt.startswith("full shot of a red swan swimming") and whole.story[40].startswith("it flies")
    same = {"prompt": request.prompt, "story": request.story}
    assert whole.model_copy(update=same) == request and whole.model_fields_set == request.model_fields_set
    assert lines[0] == f"prompt: {whole.prompt}" and lines[2] == f"prompt from frame 40: {whole.story[40]}"
    assert "crimson = red" in lines[1]


@pytest.mark.parametrize("more", [{"image": Path("fox.png")}, {"keyframes": {0: Path("fox.png")}}, {}])
def test_with_a_picture_or_a_film_before_it_looks_are_left_alone__released_defect_47(more: dict[str, Any]) -> None:
    whole, _ = enhanced_request(make_request(prompt="a swan", **more), EnhanceOptions(), TINY, goes_on=not more)
    assert "swimming" in whole.prompt and not {"white", "lake", "day"} & set(whole.prompt.split())


def test_a_local_model_is_freed_when_the_prompts_are_done__released_defect_47(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []

    class Weights:
        pass

    def say(self: LocalChat, *_: Any) -> str:
        weights = Weights()
        self._loaded = (None, weights)
        loaded.append(weakref.ref(weights))
        return "Close-up of a dragon at night, static camera"

    monkeypatch.setattr(LocalChat, "_said", say)
    with enhancer_of(EnhanceOptions(llm="somewhere"), world=False) as enhancer:
        assert enhancer.enhance("a dragon", has_image=False).text.startswith("Close-up")
        assert loaded[0]() is not None
    assert loaded[0]() is None


def generated(crew: Crew, output: Path) -> str:
    """What `everreel generate --enhance` says in the first of several processes."""
    cli._crew = crew
    size = ("--height", "32", "--width", "48", "--num-frames", "5", "--num-inference-steps", "1")
    result = CliRunner().invoke(cli.app, ["generate", "a swan", "--enhance", *size, "--output", str(output)])
    return result.stdout if result.exception is None else repr(result.exception)


def test_with_several_processes_prompts_are_made_whole_too__released_defect_47(tmp_path: Path) -> None:
    told, codes = together(2, generated, tmp_path / "swan.mp4")
    assert told.startswith("prompt: full shot of a white swan swimming right on a lake"), told
    assert codes == [0, 0] and (tmp_path / "swan.mp4").stat().st_size


def test_any_command_can_take_it() -> None:
    seen: list[Any] = []
    other = typer.Typer(pretty_exceptions_enable=False)

    @other.command()
    @takes_enhancement
    def make(
        prompt: str,
        *,
        size: Annotated[int, typer.Option()] = 1,
        enhance: EnhanceOptions | None,
    ) -> None:
        seen.append((prompt, size, enhance))

    invoke = CliRunner().invoke
    assert invoke(other, ["a fox"]).exit_code == 0
    assert invoke(other, ["a fox", "--size", "2", "--enhance", "--llm", "qwen"]).exit_code == 0
    served = {"llm": "qwen", "endpoint": "http://here/v1", "timeout": 9.5}
    flags = [text for name, value in served.items() for text in (f"--{name}", str(value))]
    assert invoke(other, ["a fox", "--enhance", *flags]).exit_code == 0
    assert seen == [
        ("a fox", 1, None),
        ("a fox", 2, EnhanceOptions(llm="qwen")),
        ("a fox", 1, EnhanceOptions(**served)),
    ]
    assert "goes with --enhance" in str(invoke(other, ["a fox", "--llm", "qwen"]).exception)


def test_a_server_is_told_whom_to_ask_in_the_same_words() -> None:
    seen: list[Any] = []
    other = typer.Typer(pretty_exceptions_enable=False)

    @other.command()
    @takes_enhancer
    def serve(*, port: Annotated[int, typer.Option()] = 1, enhancer: EnhanceOptions) -> None:
        seen.append((port, enhancer))

    def refused(*flags: str) -> str:
        return str(CliRunner().invoke(other, [*flags]).exception)

    served = {"llm": "qwen", "endpoint": "http://backend/v1", "timeout": 9.5}
    flags = [text for name, value in served.items() for text in (f"--{name}", str(value))]
    for given in ([], ["--port", "2", *flags], ["--enhancer", "local", "--llm", "qwen"]):
        assert CliRunner().invoke(other, given).exit_code == 0
    assert seen == [
        (1, EnhanceOptions()),
        (2, EnhanceOptions(**served)),
        (1, EnhanceOptions(backend="local", llm="qwen")),
    ]
    assert refused("--enhancer", "locl").startswith("enhancer = 'locl': must be one of built-in, endpoint, local")
    assert refused("--enhancer", "local").startswith("llm: must be given for enhancer local")
    said = "endpoint = http://backend/v1: goes with enhancer endpoint, not with local"
    assert refused("--enhancer", "local", *flags) == said
