"""Talking to language models: servers that are slow, down, busy or wrong, and one that is loaded here."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import socket
import threading
import time
import traceback
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from everreel import chat
from everreel.answers import json_answer
from everreel.chat import ChatError, Endpoint, LateError, LocalChat, UnreachableError
from tests.chat_server import Reply, said, serving

QUESTION = [{"role": "user", "content": "a red fox"}]
SCHEMA = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
RED = '{"color": "red"}'
KEY = "sk-secret-123"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between two tries are written down, not slept."""
    pauses: list[float] = []
    monkeypatch.setattr(chat, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    for name in ("EVERREEL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return pauses


def test_an_answer_comes_back_and_the_question_is_openais() -> None:
    with serving(said("a fox, said in many words")) as server:
        text = Endpoint(server.address, "some-model", api_key=KEY).answer(QUESTION, max_tokens=7, temperature=0.5)
    assert text == "a fox, said in many words"
    assert server.questions == [
        {"model": "some-model", "messages": QUESTION, "max_tokens": 7, "temperature": 0.5},
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_thoughts_are_no_part_of_an_answer_and_parts_are_one() -> None:
    parts: Any = [{"type": "text", "text": "a "}, {"type": "text", "text": "swan"}]
    with serving(said("<think>a fox? no</think>\n\na fox"), said(parts)) as server:
        endpoint = Endpoint(server.address, "m")
        assert [endpoint.answer(QUESTION), endpoint.answer(QUESTION)] == ["a fox", "a swan"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_who_is_busy_is_asked_again(status: int, no_pauses: list[float]) -> None:
    busy = Reply({"error": {"message": "too much to do"}}, status)
    with serving(busy, busy, said("a fox")) as server:
        assert Endpoint(server.address, "m").answer(QUESTION) == "a fox"
    assert len(server.questions) == 3 and no_pauses == [0.5, 1.0]


def test_who_stays_busy_is_named_with_what_it_says(no_pauses: list[float]) -> None:
    busy = Reply({"error": {"message": "come back\nlater"}}, 503)
    with serving(busy) as server, pytest.raises(UnreachableError) as caught:
        Endpoint(server.address, "m", retries=2).answer(QUESTION)
    assert str(caught.value) == f"endpoint = {server.address}: no answer in 3 tries (503, come back later); is it up?"
    assert len(server.questions) == 3


@pytest.mark.parametrize(("header", "pause"), [("7", 7.0), ("9999", 60.0), ("soon", 0.5)])
def test_a_server_may_say_when_to_come_back(header: str, pause: float, no_pauses: list[float]) -> None:
    with serving(Reply("busy", 429, {"Retry-After": header}), said("a fox")) as server:
        Endpoint(server.address, "m").answer(QUESTION)
    assert no_pauses == [pause]


def test_nobody_there(no_pauses: list[float]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UnreachableError, match=rf"^endpoint = {address}: no answer in 4 tries .*refused"):
            Endpoint(address, "m").answer(QUESTION)
    assert no_pauses == [0.5, 1.0, 2.0]


def test_an_answer_that_breaks_off_on_the_way_is_asked_for_again() -> None:
    broken = said("a fox")
    broken.cut = 10
    with serving(broken, said("a whole fox")) as server:
        assert Endpoint(server.address, "m").answer(QUESTION) == "a whole fox"


@pytest.mark.parametrize("drip", [0.0, 0.1])
def test_slow_is_named_and_not_asked_again(drip: float) -> None:
    """Whether nothing comes, or a byte now and then."""
    over = threading.Event()

    def slow(_: Any) -> Reply:
        if not drip:
            over.wait(30)
        reply = said("a fox" * 100)
        reply.drip = drip
        return reply

    with serving(slow) as server:
        started = time.monotonic()
        with pytest.raises(LateError, match=r"no answer within 0.3 s; try timeout = 0.6$"):
            Endpoint(server.address, "m", timeout=0.3).answer(QUESTION)
        taken = time.monotonic() - started
        over.set()
    assert taken < 20 and len(server.questions) == 1  # all of it takes a minute


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        (Reply("<html>hello</html>"), r"its answer is not JSON; .* It said <html>hello</html>"),
        (Reply({"answer": "a fox"}), r"its answer has no choices\[0\].message: \{\"answer\": \"a fox\"\}"),
        (Reply({"choices": []}), r"its answer has no choices"),
        (Reply([1]), r"its answer has no choices"),
        (said(None, refusal="I will not"), r"m answered nothing: I will not"),
        (said("   "), r"m answered nothing: stop"),
        (said("a fox ru", "length"), r"m's answer was cut off at max_tokens = 2048; try 4096"),
        (Reply({"detail": "no"}, 418), r"418, no"),
        (Reply({"error": "context too long"}, 400), r"400, context too long"),
        (Reply("", 307, {"Location": "http://elsewhere/v1"}), r"307, is elsewhere now; try http://elsewhere/v1"),
        (Reply({"error": {"message": "who?"}}, 401), r"401, wants a key; set EVERREEL_API_KEY"),
        (Reply("a fox", 200, {"Content-Encoding": "gzip"}), r"its answer cannot be unpacked \(.*\)"),
        (Reply("[" * 100_000), r"its answer is not JSON"),
        (Reply('{"error": ' * 100_000, 400), r"400, \{\"error\": "),
        (Reply({"choices": [{"message": {"content": [{"type": "text", "text": 5}]}}]}), r"m answered nothing"),
    ],
)
def test_what_is_no_answer_is_one_line(reply: Reply, rule: str) -> None:
    with serving(reply) as server, pytest.raises(ChatError, match=f"^endpoint = {server.address}: {rule}") as caught:
        Endpoint(server.address, "m").answer(QUESTION)
    assert "\n" not in str(caught.value) and len(server.questions) == 1


def test_a_model_that_is_not_there_is_named_with_those_that_are() -> None:
    gone = Reply({"error": {"message": "no model m"}}, 404)
    there = r"404, no model m; it serves qwen, llama$"
    with serving(gone, models=("qwen", "llama")) as server, pytest.raises(UnreachableError, match=there):
        Endpoint(server.address, "m").answer(QUESTION)
    with serving(gone) as server, pytest.raises(UnreachableError, match=r"an address ending in /v1 works$"):
        Endpoint(server.address.replace("/v1", "/v2"), "m").answer(QUESTION)


def test_a_schema_is_the_servers_to_keep() -> None:
    with serving(said(RED)) as server:
        assert json.loads(Endpoint(server.address, "m").answer(QUESTION, schema=SCHEMA)) == {"color": "red"}
    (question,) = server.questions
    assert question["messages"] == QUESTION
    assert question["response_format"]["type"] == "json_schema"
    assert question["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_server_that_refuses_schemas_is_asked_in_words_and_remembered() -> None:
    def old(question: dict[str, Any]) -> Reply:
        if "response_format" in question:
            return Reply({"error": {"message": "response_format is not supported"}}, 400)
        return said(f"Here you are:\n```json\n{RED}\n```")

    with serving(old) as server:
        endpoint = Endpoint(server.address, "m")
        for _ in range(2):
            assert json.loads(endpoint.answer(QUESTION, schema=SCHEMA)) == {"color": "red"}
    forms = [question.get("response_format", {}).get("type") for question in server.questions]
    assert forms == ["json_schema", "json_object", None, None]
    assert '"required": ["color"]' in server.questions[-1]["messages"][-1]["content"]


def test_a_server_that_takes_a_schema_and_ignores_it_is_asked_in_words() -> None:
    with serving(said("I like foxes"), said('{"colour": "red"}'), said(RED)) as server:
        assert json.loads(Endpoint(server.address, "m").answer(QUESTION, schema=SCHEMA)) == {"color": "red"}
    lacks = r"^endpoint = http://[\d.:]+/v1: m answered JSON without color: "
    with serving(said('{"colour": "red"}')) as server, pytest.raises(ChatError, match=lacks):
        Endpoint(server.address, "m").answer(QUESTION, schema=SCHEMA)
    assert len(server.questions) == 3


def test_models_that_think_are_asked_their_way() -> None:
    def thinker(question: dict[str, Any]) -> Reply:
        if "max_tokens" in question:
            return Reply({"error": {"message": "use 'max_completion_tokens' instead of 'max_tokens'"}}, 400)
        if "temperature" in question:
            return Reply({"error": {"message": "temperature does not support 0"}}, 400)
        return said("a fox")

    with serving(thinker) as server:
        endpoint = Endpoint(server.address, "m")
        assert [endpoint.answer(QUESTION), endpoint.answer(QUESTION, max_tokens=5)] == ["a fox", "a fox"]
    assert len(server.questions) == 4 and server.questions[-1] == {
        "model": "m",
        "messages": QUESTION,
        "max_completion_tokens": 5,
    }


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where a server says it back."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("EVERREEL_API_KEY", KEY)
    with serving(Reply({"error": {"message": f"{KEY} is no key"}}, 401), Reply(f"no {KEY}")) as server:
        endpoint = Endpoint(server.address, "m", retries=0)
        for _ in range(2):
            with pytest.raises(ChatError) as caught:
                endpoint.answer(QUESTION)
            told = "".join(traceback.format_exception(caught.value))
            assert KEY not in told + repr(endpoint) + caplog.text
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(ValueError, match="EVERREEL_API_KEY") as bad:
        Endpoint("http://127.0.0.1:1/v1", "m", api_key="not\na-key")
    assert "a-key" not in str(bad.value)


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(said("a fox")) as server:
        Endpoint(server.address, "m").answer(QUESTION)
    assert "Authorization" not in server.headers[0]
    assert Endpoint("https://api.openai.com/v1", "m")._key == KEY


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1"),
        ("https://some.where/openai/v1/", "https://some.where/openai/v1"),
    ],
)
def test_addresses_as_people_write_them(given: str, address: str) -> None:
    assert Endpoint(given, "m").base_url == address


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "nearest that works: http://127.0.0.1:8000/v1"),
        ({"base_url": ""}, "must begin with http"),
        ({"base_url": "ftp://127.0.0.1"}, "must be an http or https address"),
        ({"base_url": "http://127.0.0.1:99999"}, "is no address"),
        ({"base_url": "http://me:secret@host/v1"}, "must not hold a name or password"),
        ({"model": " "}, "model: must be the name"),
        ({"timeout": 0}, "timeout = 0: must be seconds above 0, a day at most; 120 works"),
        ({"timeout": float("inf")}, "timeout = inf: .* 86400 works"),
        ({"timeout": float("nan")}, "timeout = nan"),
        ({"retries": -1}, "retries = -1: must not be negative"),
    ],
)
def test_what_is_no_endpoint_is_refused(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        Endpoint(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", **values})
    assert "secret" not in str(caught.value)


def test_the_object_that_has_the_keys_is_the_answer() -> None:
    text = f'{{"a": 1}} and then {{ {RED} }} or {{"b": {RED}}}'
    assert json.loads(json_answer(text, SCHEMA)) == {"color": "red"}
    with pytest.raises(ChatError, match="answered no JSON object: plain words"):
        json_answer("plain words", SCHEMA)
    with pytest.raises(ChatError, match="answered no JSON object"):
        json_answer("{" * 5000, SCHEMA)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a few thousand numbers that knows ten words and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("local")
    words = ["<pad>", "</s>", "<unk>", "user", "assistant", "a", "red", "fox", "swan", "runs"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    turn = "{{ m.role }} {{ m.content }} "
    begins = "{% if add_generation_prompt %}assistant {% endif %}"
    tokenizer.chat_template = f"{{% for m in messages %}}{turn}{{% endfor %}}{begins}"
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data[1] = 0  # the end is never the likeliest, and never impossible
        model.save_pretrained(folder)
    return folder


def test_a_local_model_answers_the_same_each_time_and_is_freed(local: Path) -> None:
    model = LocalChat(local)
    assert model._loaded is None  # not before it is asked
    with pytest.raises(ChatError, match=r"cut off at max_tokens = 3; try 6$"):
        model.answer(QUESTION, max_tokens=3)
    assert model._loaded is not None
    weights = weakref.ref(model._loaded[1].model.embed_tokens.weight)
    model.close()
    gc.collect()
    assert weights() is None


def test_draws_of_a_local_model_are_its_seeds(local: Path) -> None:
    def drawn(seed: int) -> list[str]:
        model, found = LocalChat(local, seed=seed), []
        for _ in range(4):
            try:
                found.append(model.answer(QUESTION, max_tokens=40, temperature=1.0))
            except ChatError as error:
                found.append(str(error))
        return found

    assert drawn(0) == drawn(0) != drawn(1)
    assert any("model =" not in text for text in drawn(0))  # some end by themselves


def test_noise_makes_draws_of_the_softmax() -> None:
    draw = chat._Drawn(2.0, torch.Generator().manual_seed(0))
    scores = torch.tensor([[0.0, 2.0, -2.0, 1.0]]).expand(4000, 4)
    picked = torch.bincount(draw(torch.zeros(0), scores).argmax(-1), minlength=4) / 4000
    assert torch.allclose(picked, torch.softmax(scores[0] / 2.0, 0), atol=0.03)


def test_a_local_model_that_gives_no_json_is_told_once(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, Any]]] = []
    answers = iter(["a fox", RED, "a fox", "a swan"])

    def say(self: LocalChat, messages: list[dict[str, Any]], *_: Any) -> str:
        asked.append(messages)
        return next(answers)

    monkeypatch.setattr(LocalChat, "_said", say)
    assert json.loads(LocalChat(local).answer(QUESTION, schema=SCHEMA)) == {"color": "red"}
    assert [len(messages) for messages in asked] == [1, 3] and "answered no JSON object" in asked[1][2]["content"]
    with pytest.raises(ChatError, match=r"^model = .*: it answered no JSON object: a swan$"):
        LocalChat(local).answer(QUESTION, schema=SCHEMA)


def _without_one(data: bytes) -> bytes:
    """Weights that lack a tensor."""
    tensors = load(data)
    return save(
        {name: tensor for name, tensor in tensors.items() if not name.endswith("q_proj.weight")}, {"format": "pt"}
    )


def test_what_a_local_model_cannot_do_is_one_line(local: Path, tmp_path: Path) -> None:
    model = LocalChat(local)
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    with pytest.raises(ChatError, match="it reads words, no pictures"):
        model.answer(picture)
    with pytest.raises(ChatError, match=r"the question has 1.. tokens, and it reads at most 64"):
        model.answer([{"role": "user", "content": "fox " * 100}])
    with pytest.raises(UnreachableError, match=r"is no causal language model that can be loaded here") as caught:
        LocalChat(tmp_path).answer(QUESTION)
    assert "\n" not in str(caught.value)
    spoilt = {"that can be loaded here": lambda data: data[:-100], "its files lack .*; download it again": _without_one}
    for number, (line, spoil) in enumerate(spoilt.items()):
        folder = Path(shutil.copytree(local, tmp_path / str(number)))
        (weights,) = folder.glob("*.safetensors")
        weights.write_bytes(spoil(weights.read_bytes()))
        with pytest.raises(UnreachableError, match=line):
            LocalChat(folder).answer(QUESTION)
    with pytest.raises(ValueError, match="device = nowhere: is not on this machine"):
        LocalChat(local, "nowhere")
