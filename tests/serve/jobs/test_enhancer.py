"""Who makes prompts whole for a server: whom its operator chose, so many at a time, so long, and unseen by clients."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from everreel.answers import ChatError, LateError, UnreachableError
from everreel.enhance import EnhanceOptions
from everreel.serve.jobs import enhancer
from everreel.serve.jobs.chat import ChatProcess
from everreel.serve.jobs.enhancer import AT_ONCE, ServedEnhancer, apart
from everreel.serve.jobs.job import BusyError, EnhancerError, LateEnhancerError
from tests.chat_server import Reply, said, serving

WORDS = ["<pad>", "</s>", "<unk>", "user", "assistant", "a", "red", "fox", "swan", "runs"]
SAYS = ["assistant", "red", "fox", "runs", "</s>"]
KEY = "sk-secret-123"
DRAGON = "Close-up of a dragon at night, static camera"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everreel.chat.FIRST_PAUSE", 0.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model without a mind: after each word of `SAYS` it says the next one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("local")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}assistant"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS), 16))
        for word, following in itertools.pairwise(SAYS):
            model.lm_head.weight[WORDS.index(following), WORDS.index(word)] = 1
    model.save_pretrained(folder)
    return folder


def served(address: str, **more: Any) -> ServedEnhancer:
    return ServedEnhancer(EnhanceOptions(llm="/models/qwen", endpoint=address, **more))


def made(served: ServedEnhancer, prompt: str = "a dragon") -> Any:
    with served.at_work(world=False) as enhancer:
        return enhancer.enhance(prompt, has_image=False)


def test_by_default_the_built_in_rules_are_enough_and_nobody_waits_for_them() -> None:
    built_in = ServedEnhancer()
    assert not built_in.asks
    with built_in.at_work(world=True) as enhancer:
        assert enhancer.enhance("a swan", has_image=False).backend == "built-in"


def test_an_endpoint_makes_prompts_whole_and_its_models_path_stays_here() -> None:
    with serving(said(DRAGON)) as server:
        found = made(served(server.address))
    assert served(server.address).asks and server.questions[0]["model"] == "/models/qwen"
    assert found.text == DRAGON and found.describe().startswith("qwen: written anew")


def test_an_address_that_is_none_is_told_when_the_server_starts() -> None:
    with pytest.raises(ValueError, match=r"^endpoint = 'nowhere': must begin with http:// or https://"):
        served("nowhere")


def test_why_there_is_no_answer_is_for_the_log_and_no_client_reads_an_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVERREEL_API_KEY", KEY)
    over = threading.Event()

    def slow(_: Any) -> Reply:
        over.wait(30)
        return said("too late")

    replies = {
        "gave no answer that can be used": Reply({"error": f"no, {KEY}, at /srv/weights"}, 400),
        "cannot be asked now": Reply("who are you?", 401),
        "gave no answer in time": slow,
    }
    for rule, reply in replies.items():
        caplog.clear()
        with serving(reply) as server, pytest.raises(EnhancerError) as refused:
            made(served(server.address, timeout=0.2 if reply is slow else 20.0))
        if reply is slow:
            over.set()
        told = f"the language model that makes prompts whole here {rule}"
        assert str(refused.value) == f"prompt: {told}; ask again later, or send it without enhance"
        assert isinstance(refused.value, LateEnhancerError) == (reply is slow)
        assert refused.value.__cause__ is None and f"endpoint = {server.address}: " in caplog.text
        assert KEY not in caplog.text
    with pytest.raises(EnhancerError, match="cannot be asked now"):  # there is nobody any more
        made(served(server.address))


def test_so_many_ask_at_a_time_and_a_failure_gives_the_place_back() -> None:
    with serving(Reply("no", 400)) as server:
        asked = served(server.address)
        for _ in range(AT_ONCE + 1):
            with pytest.raises(EnhancerError):
                made(asked)
    holding = [asked.at_work(world=False) for _ in range(AT_ONCE)]
    for one in holding:
        one.__enter__()
    with pytest.raises(BusyError, match="ask again in a minute"), asked.at_work(world=False):
        pass
    holding[0].__exit__(None, None, None)
    with asked.at_work(world=False):
        pass


def test_all_prompts_of_a_request_have_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(said(DRAGON)) as server, served(server.address).at_work(world=False) as enhancer:
        enhancer.enhance("a dragon", has_image=False)
    monkeypatch.setattr("everreel.serve.jobs.enhancer.LONGEST", 0.0)
    with serving(said(DRAGON)) as server, pytest.raises(LateEnhancerError):
        made(served(server.address))
    assert not server.questions


def test_a_local_model_answers_in_a_process_of_its_own_that_is_gone_afterwards(local: Path) -> None:
    asked, processes = ServedEnhancer(EnhanceOptions(llm=str(local))), []
    with asked.at_work(world=False) as enhancer:
        found = enhancer.enhance("a swan", has_image=False)
        assert found.text.startswith("Full shot, red fox runs") and found.backend == local.name
        chat = enhancer.enhancer.chat
        processes.append(chat._process)
        again = enhancer.enhance("a fox", has_image=False)
        assert again.text == found.text and chat._process is processes[0], "it is loaded once for a request"
        with pytest.raises(BusyError), asked.at_work(world=False):
            pass
        with pytest.raises(ChatError, match=r"^model = .*: the question has .* tokens, and it reads at most 1024"):
            chat.answer([{"role": "user", "content": "a fox " * 600}])
    assert processes[0].returncode is not None


def test_what_a_local_model_says_of_itself_is_for_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = {"kind": "UnreachableError", "error": "model = '/srv/qwen': is no causal language model"}
    program = f"import json, sys; sys.stdin.readline(); print(json.dumps({told}), flush=True); sys.stdin.read()"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: popen([sys.executable, "-c", program], **how))
    with pytest.raises(EnhancerError, match="cannot be asked now") as refused:
        made(ServedEnhancer(EnhanceOptions(llm="/srv/qwen")))
    assert "/srv" not in str(refused.value) and told["error"] in caplog.text


def test_a_local_model_has_so_long_and_one_that_ends_is_named() -> None:
    late = ChatProcess("no/such/model", 0.05)
    with pytest.raises(LateError, match=r"^model = 'no/such/model': no answer within 0.05 s"):
        late.answer([{"role": "user", "content": "a fox"}])
    late.close()
    lost = ChatProcess("no/such/model", 60)
    process = lost._process = lost._begin()
    process.kill()
    lost._process.wait()
    with pytest.raises(UnreachableError, match="its process ended with status -9; is there memory for it"):
        lost.answer([{"role": "user", "content": "a fox"}])
    lost.close()
    assert process.stdin.closed and process.stdout.closed


def test_a_local_model_ends_with_the_server() -> None:
    command = [sys.executable, "-m", "everreel.serve.jobs.chat", "no/such/model"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.communicate(timeout=60) == (b"", None) and process.returncode == 0


def test_what_may_take_minutes_is_done_apart_and_ends_with_the_program() -> None:
    def call() -> threading.Thread:
        return threading.current_thread()

    def fail() -> None:
        raise EnhancerError("prompt: not now")

    thread = asyncio.run(apart(call))
    assert thread.daemon and thread is not threading.main_thread()
    with pytest.raises(EnhancerError, match="not now"):
        asyncio.run(apart(fail))

    async def ended() -> None:
        waiting = asyncio.create_task(apart(threading.Event().wait))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await waiting

    with pytest.raises(BusyError, match="the server ends"):
        asyncio.run(ended())


def test_what_was_written_and_cannot_be_sent_is_told_without_it(caplog: pytest.LogCaptureFixture) -> None:
    assert "can be used" in str(enhancer.unusable("qwen wrote 9000 characters")) and "9000" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
