"""What is wrong with a field of a body, in one sentence: the field whole, the value as far as it helps, and the rule.

A field that may be one of several things has a complaint of each from pydantic; the one is told that is meant: the
complaint about what lies deepest, of the kind that what was sent looks like. The one invariant: no name of a class and
no regular expression is told to a client.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from everreel.film.request import one_line
from everreel.serve.api import schema
from everreel.serve.api.errors import ApiError
from everreel.serve.jobs.order import FILM_PATTERN, UPLOAD_PATTERN

LONGEST = 60  # characters of a value that are shown
_PICTURE = "must be a file, the id of an uploaded one, or an object with file_id, image_url or video_url"
RULES = {
    "seconds": "must be a number of seconds, such as 4",
    "story": 'must be prompts by frame, such as {"48": "it jumps"}, or parts: [{"prompt": "it jumps", "seconds": 2}]',
    "keyframes": 'must be pictures by frame, such as {"48": {"file_id": "file_..."}}',
    "input_reference": _PICTURE,
    "end_image": _PICTURE,
    "video": 'must be a film made here, {"id": "video_..."}, an uploaded one, {"file_id": "file_..."}, or a file',
    "aspect_ratio": "must be WIDTH:HEIGHT; 16:9 works",
}
"""Of fields that may be one of several things."""
_PATTERNS = {
    FILM_PATTERN: "must be the id of a film, video_ and 32 of 0-9a-f",
    UPLOAD_PATTERN: "must be the id of an upload, file_ and 32 of 0-9a-f",
    schema.FRAME_PATTERN: "must be the number of a frame, such as 48",
}
_UNFITTING = ("extra_forbidden", "missing")


def what_is_wrong(error: ValidationError) -> ApiError:
    """The error for whoever sent it."""
    first = min(error.errors(), key=_how_far_off)
    field, said = _field_and_rule(error, first)
    return ApiError(400, said, field, "missing" if first["type"] == "missing" else "invalid_type")


def _field_and_rule(error: ValidationError, first: ErrorDetails) -> tuple[str | None, str]:
    """The field of the body, and what is wrong with it."""
    path = _path(first)
    if not path:
        return None, one_line(error)
    field = str(path[0])
    if len(path) > 1:
        name = field + "".join(f"[{part}]" if _is_key(path, part) else f".{part}" for part in path[1:])
        return field, f"{name}{_value(first)}: {_rule(first)}"
    if first["type"] != "missing" and field in RULES:
        return field, f"{field}{_value(first)}: {RULES[field]}"
    line = one_line(error)
    return field, line if len(line) < 300 or " = " not in line else f"{line.split(' = ')[0]}: {first['msg'].lower()}"


def _how_far_off(error: ErrorDetails) -> tuple[bool, bool, int]:
    """Complaints about another kind of thing come last, then those about fields that this kind does not have."""
    path = _path(error)
    return len(path) < 2, error["type"] in _UNFITTING, -len(path)


def _path(error: ErrorDetails) -> list[int | str]:
    """Where it is, without the names that pydantic gives the kinds of a union."""
    inside = [part for part in error["loc"][1:] if part != "[key]" and not _is_kind(part)]
    return [*error["loc"][:1], *inside]


def _is_kind(part: int | str) -> bool:
    return isinstance(part, str) and bool(re.search(r"[^\w]|^[A-Z]", part) or part in ("float", "str", "int"))


def _is_key(path: list[int | str], part: int | str) -> bool:
    return not isinstance(part, str) or (path[0] in ("keyframes", "story") and part == path[1])


def _rule(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "is not known"
    if error["type"] == "missing":
        return "must be given"
    pattern = error.get("ctx", {}).get("pattern")
    if pattern in _PATTERNS:
        return _PATTERNS[pattern]
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}".replace("should be", "must be")


def _value(error: ErrorDetails) -> str:
    """What was sent there, if that is short and plain."""
    if error["type"] in _UNFITTING:
        return ""
    value: Any = error["input"]
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a file
        return ""
    return f" = {shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + '...'}"
