"""What language models are asked and what they answer, whoever asks them: errors, JSON out of words, no thoughts.

The one invariant: what is taken for an answer's JSON is an object that has the keys which its schema requires.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

Message = dict[str, Any]
"""`role`, and `content`: a string, or a list of parts (`text`, `image_url` with a `data:` address)."""
Schema = dict[str, Any]
"""A JSON schema of an object, as pydantic's `model_json_schema` makes it."""

SHOWN = 160  # characters of what a server says that are shown


class ChatError(ValueError):
    """A language model gave no answer that can be used. One line."""


class UnreachableError(ChatError):
    """There is nobody to ask, now: the next question would fare no better."""


class LateError(ChatError):
    """No answer came in time."""


class NotJsonError(ChatError):
    """An answer is not what the schema wants. `str` begins with a verb."""


def json_answer(text: str, schema: Schema) -> str:
    """The JSON object in an answer, fenced or with words around it, as the schema's outermost level wants it.

    Raises:
        ChatError: there is none, or it lacks a key.
    """
    missing: list[str] = []
    for found in _objects(text):
        missing = [key for key in schema.get("required", ()) if key not in found]
        if not missing:
            return json.dumps(found, ensure_ascii=False)
    if missing:
        raise NotJsonError(f"answered JSON without {', '.join(missing)}: {shorten(text)}")
    raise NotJsonError(f"answered no JSON object: {shorten(text)}")


def in_words(schema: Schema) -> str:
    """What a schema wants, to be put behind a question."""
    return f"Answer with one JSON object and nothing else. Its JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"


def with_words(messages: Sequence[Message], words: str) -> list[Message]:
    """The messages with something said at the end of the last one."""
    *before, last = messages
    content = last["content"]
    more = [*content, {"type": "text", "text": words}] if isinstance(content, list) else f"{content}\n\n{words}"
    return [*before, {**last, "content": more}]


def without_thoughts(text: str) -> str:
    """An answer without the thoughts that some models put before it, between <think> marks."""
    return re.sub(r"^.*</think>", "", text, flags=re.DOTALL).strip()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, the outermost first."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            found, end = None, place + 1
        if isinstance(found, dict):
            yield found
        place = text.find("{", end)


def shorten(text: str) -> str:
    """On one line, and no longer than can be read."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
