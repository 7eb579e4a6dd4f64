"""Talking to a language model: at any address that speaks OpenAI's chat format, or one that transformers loads here.

vLLM, Ollama, llama.cpp and OpenAI answer alike at `/chat/completions`; pictures are parts of a message there. What is
asked with a JSON schema is answered with JSON: first by the server's own constraint (`response_format`), and where it
refuses that, or says yes and does otherwise, by words. The one invariant: an answer that is returned is whole and, with
a schema, an object that has what the schema requires; all else is one line that names the address and the rule, and no
line, `repr` or exception holds the key.
"""

from __future__ import annotations

import copy
import gc
import ipaddress
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from everreel.answers import (
    ChatError,
    LateError,
    Message,
    NotJsonError,
    Schema,
    UnreachableError,
    in_words,
    json_answer,
    shorten,
    with_words,
    without_thoughts,
)
from everreel.film.device import check_device, default_dtype
from everreel.memory import give_back_freed_memory
from everreel.model.quiet import no_bars, quiet

if TYPE_CHECKING:
    import httpx2

__all__ = ["ChatError", "ChatModel", "Endpoint", "LateError", "LocalChat", "Message", "Schema", "UnreachableError"]

KEY_VARIABLE = "EVERREEL_API_KEY"
OPENAI, OPENAI_KEY_VARIABLE = "api.openai.com", "OPENAI_API_KEY"  # that key goes to nobody else
TIMEOUT, LONGEST_TIMEOUT = 120.0, 86_400.0  # seconds
CONNECT_SECONDS, LONGEST_PAUSE = 10.0, 60.0
FIRST_PAUSE = 0.5  # seconds, doubled from one try to the next
MOST_BYTES = 16 << 20  # of an answer: beyond what any model says
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_MISFIT = {400, 415, 422}  # something of what was asked is not taken
_FORMS = ("json_schema", "json_object", "words")  # ways to ask for JSON, the firmest first


class ChatModel(Protocol):
    """Whatever answers messages."""

    def answer(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        max_tokens: int = 2048,
        temperature: float = 0.0,
    ) -> str:
        """What the model says; with a schema, JSON of an object that has the keys which the schema requires.

        Whether values are what the schema wants beyond that is for its reader to check.

        Raises:
            ChatError: there is no such answer; `UnreachableError` where none is to be had for other questions either.
        """


@dataclass
class Endpoint:
    """A served model, at an address as `http://127.0.0.1:8000/v1`.

    Args:
        api_key: by default that of the environment: EVERREEL_API_KEY, and of OpenAI itself OPENAI_API_KEY.
        timeout: seconds for one answer; a server may be silent that long once, and no new byte is waited for after it.
        retries: how often a question is asked again that the server was too busy for, or could not be brought to it.

    Raises:
        ValueError: the address or a number is not what it must be.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = TIMEOUT
    retries: int = 3
    _form: int = field(default=0, init=False, repr=False)
    """The firmest of `_FORMS` that the server has not refused."""
    _limit: Literal["max_tokens", "max_completion_tokens"] = field(default="max_tokens", init=False, repr=False)
    _takes_temperature: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        self.base_url = _address(self.base_url)
        if not self.model.strip():
            raise ValueError(f"model: must be the name of a model that {self.base_url} serves")
        if not 0 < self.timeout <= LONGEST_TIMEOUT:
            nearest = LONGEST_TIMEOUT if self.timeout > 0 else TIMEOUT
            raise ValueError(f"timeout = {self.timeout:g}: must be seconds above 0, a day at most; {nearest:g} works")
        if self.retries < 0:
            raise ValueError(f"retries = {self.retries}: must not be negative; nearest that works: 0")
        if not re.fullmatch(r"[!-~]*", self._key or ""):
            raise ValueError(f"{KEY_VARIABLE}: the key has a character that no key has; it is not shown here")

    def answer(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        max_tokens: int = 2048,
        temperature: float = 0.0,
    ) -> str:
        """See `ChatModel`."""
        body = {"model": self.model, "messages": list(messages)}
        if schema is None:
            return self._said(body, max_tokens, temperature)
        problem: Exception | None = None
        for number in range(self._form, len(_FORMS)):
            try:
                text = self._said({**body, **_asking_for(schema, _FORMS[number], messages)}, max_tokens, temperature)
                return json_answer(text, schema)
            except _RefusedError as error:
                if number == len(_FORMS) - 1:
                    raise
                self._form, problem = number + 1, error
            except NotJsonError as error:  # it said it would; words may do better
                problem = error
        raise ChatError(f"endpoint = {self.base_url}: {self.model} {problem}") from None

    def _said(self, body: dict[str, Any], max_tokens: int, temperature: float) -> str:
        """The words of the answer, asked in the way that this server takes."""
        while True:
            body = {**body, self._limit: max_tokens}
            if self._takes_temperature:
                body["temperature"] = temperature
            try:
                return self._words(self._ask(body), max_tokens)
            except _RefusedError as error:  # models that think have other ways of saying both
                body = {k: v for k, v in body.items() if k not in (self._limit, "temperature")}
                if self._limit == "max_tokens" and "max_completion_tokens" in str(error):
                    self._limit = "max_completion_tokens"
                elif self._takes_temperature and "temperature" in str(error):
                    self._takes_temperature = False
                else:
                    raise

    def _words(self, reply: Any, max_tokens: int) -> str:  # noqa: ANN401 -- whatever JSON the server sent
        """What the first choice says, without its thoughts.

        Raises:
            ChatError: it says nothing, or was cut off.
        """
        try:
            choice = reply["choices"][0]
            content, why = choice["message"].get("content"), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise self._error(f"its answer has no choices[0].message: {shorten(json.dumps(reply))}") from None
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(text for text in texts if isinstance(text, str))
        if why == "length":
            raise self._error(f"{self.model}'s answer was cut off at max_tokens = {max_tokens}; try {2 * max_tokens}")
        text = without_thoughts(content) if isinstance(content, str) else ""
        text = text.encode("utf-8", "replace").decode()  # half a character pair cannot be printed
        if not text:
            refusal = choice["message"].get("refusal") or why or "no reason given"
            raise self._error(f"{self.model} answered nothing: {shorten(str(refusal))}")
        return text

    def _ask(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 -- whatever JSON the server sends
        """The server's answer to one question, asked again while it is too busy or does not hear.

        Raises:
            ChatError: it answers no JSON, or that this cannot be.
        """
        import httpx2

        pause, problem = FIRST_PAUSE, ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(pause)
                pause *= 2
            try:
                status, headers, content = self._send("POST", "/chat/completions", body)
            except (httpx2.ReadTimeout, httpx2.WriteTimeout):
                late = f"no answer within {self.timeout:g} s; try timeout = {2 * self.timeout:g}"
                raise self._error(late, LateError) from None
            except httpx2.TransportError as error:
                problem = str(error) or type(error).__name__
                continue
            except httpx2.DecodingError as error:
                raise self._error(f"its answer cannot be unpacked ({shorten(str(error))})") from None
            if status not in _BUSY:
                return self._checked(status, headers, content)
            problem = f"{status}, {self._reason(content)}"
            pause = max(pause, min(_retry_after(headers), LONGEST_PAUSE))
        tries = f"{self.retries + 1} tries" if self.retries else "one try"
        raise self._error(f"no answer in {tries} ({shorten(problem)}); is it up?", UnreachableError)

    def _checked(self, status: int, headers: httpx2.Headers, content: bytes) -> Any:  # noqa: ANN401 -- as above
        if status in (401, 403):
            rule = f"{status}, the key is refused; set {KEY_VARIABLE}" if self._key else f"{status}, wants a key; set"
            raise self._error(rule if self._key else f"{rule} {KEY_VARIABLE}", UnreachableError)
        if 300 <= status < 400:
            raise self._error(f"{status}, is elsewhere now; try {headers.get('location', 'its new address')}")
        if status == 404:
            raise self._error(f"404, {self._reason(content)}; {self._what_works()}", UnreachableError)
        if status in _MISFIT:
            raise self._error(f"{status}, {self._reason(content)}", _RefusedError)
        if status != 200:
            raise self._error(f"{status}, {self._reason(content)}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            rule = "its answer is not JSON; is it an address of an OpenAI-compatible server, ending in /v1?"
            raise self._error(f"{rule} It said {self._reason(content)}") from None

    def _send(self, method: str, path: str, body: Any = None) -> tuple[int, httpx2.Headers, bytes]:  # noqa: ANN401 -- JSON
        """One exchange: status, headers, content; ended when the time is over, however slowly bytes still come."""
        import httpx2

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        question = None if body is None else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        limits = httpx2.Timeout(self.timeout, connect=CONNECT_SECONDS)
        # What this machine serves is asked directly, whatever proxy there is for the rest of the world.
        proxies, certificates = not _is_here(self.base_url), self.base_url.startswith("https:")
        client = httpx2.Client(timeout=limits, trust_env=proxies, verify=certificates)
        ends = time.monotonic() + self.timeout
        with client, client.stream(method, self.base_url + path, content=question, headers=headers) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > ends:
                    raise httpx2.ReadTimeout("too slow")
                if len(content) > MOST_BYTES:
                    raise self._error(f"its answer has more than {MOST_BYTES >> 20} MB")
            return response.status_code, response.headers, bytes(content)

    def _what_works(self) -> str:
        """The models that the server has, if it says so."""
        import httpx2

        try:
            status, _, content = replace(self, timeout=min(self.timeout, CONNECT_SECONDS))._send("GET", "/models")
            names = [str(model["id"]) for model in json.loads(content)["data"]] if status == 200 else []
        except (httpx2.HTTPError, ValueError, KeyError, TypeError, RecursionError):
            names = []
        return f"it serves {shorten(', '.join(names))}" if names else "an address ending in /v1 works"

    @property
    def _key(self) -> str | None:
        own = os.environ.get(OPENAI_KEY_VARIABLE) if _host(self.base_url) == OPENAI else None
        return (self.api_key or os.environ.get(KEY_VARIABLE) or own or "").strip() or None

    def _reason(self, content: bytes) -> str:
        """What a server says is wrong, in whichever of the usual places."""
        text = content.decode("utf-8", "replace")
        try:
            said = json.loads(text)
            for name in ("error", "message", "detail"):
                if isinstance(said, dict) and said.get(name):
                    said = said[name]
            text = said if isinstance(said, str) else json.dumps(said)
        except (ValueError, RecursionError):
            pass
        return shorten(self._without_key(text)) or "no reason given"

    def _error(self, rule: str, kind: type[ChatError] = ChatError) -> ChatError:
        return kind(self._without_key(f"endpoint = {self.base_url}: {rule}"))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class LocalChat:
    """A causal language model in a folder, a GGUF file or a hub's repository, loaded when it is first asked.

    With a temperature, words are drawn by `seed`; the same questions in the same order give the same answers.
    """

    def __init__(self, path: str | Path, device: str = "cpu", *, seed: int = 0) -> None:
        self.path, self.device = str(path), device
        check_device(device)
        self._generator = torch.Generator().manual_seed(seed)
        self._loaded: tuple[Any, Any] | None = None

    def answer(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        max_tokens: int = 2048,
        temperature: float = 0.0,
    ) -> str:
        """See `ChatModel`. Where an answer is not what the schema wants, the model is told so, once."""
        if schema is None:
            return self._said(messages, max_tokens, temperature)
        asked = with_words(messages, in_words(schema))
        text = self._said(asked, max_tokens, temperature)
        try:
            return json_answer(text, schema)
        except NotJsonError as error:
            told = {"role": "user", "content": f"You {error}\n\n{in_words(schema)}"}
        text = self._said([*asked, {"role": "assistant", "content": text}, told], max_tokens, temperature)
        try:
            return json_answer(text, schema)
        except NotJsonError as error:
            raise self._error(f"it {error}") from None

    def close(self) -> None:
        """Free the model; asked again, it is loaded again."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_freed_memory()

    def _said(self, messages: Sequence[Message], max_tokens: int, temperature: float) -> str:
        if any(not isinstance(message["content"], str) for message in messages):
            raise self._error("it reads words, no pictures; an endpoint with a model that sees works")
        if self._loaded is None:
            self._loaded = self._load()
        tokenizer, model = self._loaded
        from transformers import LogitsProcessorList

        ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.device)
        length, room = ids["input_ids"].shape[1], getattr(model.config, "max_position_embeddings", None)
        if room is not None and length >= room:
            raise self._error(f"the question has {length} tokens, and it reads at most {room}")
        most = max_tokens if room is None else min(max_tokens, room - length)
        settings = copy.deepcopy(model.generation_config)
        settings.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=most)
        settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        draw = [_Drawn(temperature, self._generator)] if temperature > 0 else []
        with torch.inference_mode(), quiet():
            rows = model.generate(**ids, generation_config=settings, logits_processor=LogitsProcessorList(draw))
        said = rows[0, length:]
        ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
        if len(said) >= most and int(said[-1]) not in ends:
            raise self._error(f"its answer was cut off at max_tokens = {most}; try {2 * most}")
        text = without_thoughts(str(tokenizer.decode(said, skip_special_tokens=True)))
        if not text:
            raise self._error("it answered nothing")
        return text

    def _load(self) -> tuple[Any, Any]:
        """The tokenizer and the model, in the type that suits the device."""
        path = Path(self.path).expanduser()
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(path) if path.exists() else self.path}
        if path.is_file():
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        with quiet():
            from safetensors import SafetensorError
            from transformers import AutoModelForCausalLM, AutoTokenizer

            device = torch.device(self.device)
            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(**where)
                with no_bars():
                    loaded: Any = AutoModelForCausalLM.from_pretrained(
                        **where, dtype=default_dtype(device), output_loading_info=True
                    )
            except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
                rule = "is no causal language model that can be loaded here; a folder of one works"
                raise self._error(f"{rule} ({shorten(str(error))})", UnreachableError) from None
        model, notes = loaded
        if missing := sorted(notes["missing_keys"]):
            raise self._error(f"its files lack {missing[0]}; download it again", UnreachableError)
        if not getattr(tokenizer, "chat_template", None):
            raise self._error("has no chat template; a model that was taught to answer works", UnreachableError)
        return tokenizer, model.to(device).eval()

    def _error(self, rule: str, kind: type[ChatError] = ChatError) -> ChatError:
        return kind(f"model = {self.path!r}: {rule}")


class _Drawn:
    """Gumbel's trick: the largest of scores with this noise on them is a draw of their softmax."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature, self._generator = temperature, generator

    def __call__(self, ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
        """Scores of the next token with noise on them."""
        uniform = torch.rand(scores_BV.shape, generator=self._generator, dtype=torch.float64).clamp_min(1e-300)
        noise_BV = -torch.log((-torch.log(uniform)).clamp_min(1e-300))
        return scores_BV / self._temperature + noise_BV.to(scores_BV)


class _RefusedError(ChatError):
    """The server does not take something of the question."""


def _asking_for(schema: Schema, form: str, messages: Sequence[Message]) -> dict[str, Any]:
    """What a question has beside or instead of its words, so that it is answered with JSON."""
    if form == "json_schema":
        named = {"name": "answer", "schema": schema, "strict": True}
        return {"response_format": {"type": form, "json_schema": named}}
    asked = {"messages": with_words(messages, in_words(schema))}
    return asked if form == "words" else {**asked, "response_format": {"type": form}}


def _address(text: str) -> str:
    """An address as it is asked: with its scheme, without what comes after `/v1`, and with that where there is none."""
    import httpx2

    given = text.strip().rstrip("/")
    shown = given.rpartition("@")[2]  # what is before an @ may be a password
    if "://" not in given:
        nearest = f"http://{shown or '127.0.0.1:8000/v1'}"
        raise ValueError(f"endpoint = {shown!r}: must begin with http:// or https://; nearest that works: {nearest}")
    try:
        url = httpx2.URL(given.removesuffix("/chat/completions"))
        if url.port is not None and not 1 <= url.port <= 65535:
            raise ValueError(f"port {url.port}")
    except (httpx2.InvalidURL, ValueError) as error:
        raise ValueError(f"endpoint = {shown!r}: is no address ({error}); http://127.0.0.1:8000/v1 works") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"endpoint = {shown!r}: must be an http or https address; http://127.0.0.1:8000/v1 works")
    if url.userinfo:
        raise ValueError(f"endpoint = {shown!r}: must not hold a name or password; a key is set by {KEY_VARIABLE}")
    return str(url).rstrip("/") + ("/v1" if url.path in ("", "/") else "")


def _host(address: str) -> str:
    import httpx2

    return httpx2.URL(address).host


def _is_here(address: str) -> bool:
    host = _host(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(headers: httpx2.Headers) -> float:
    """Seconds that the server wants to be left alone for; 0 if it names none, or a date."""
    text = headers.get("retry-after", "").strip()
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
