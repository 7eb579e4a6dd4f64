"""Bodies as they come in: JSON, or a form with files.

Bytes are counted while they arrive, so a body that is too large is refused before it is held; files are gone when the
request is, whatever ends it. The one invariant: nothing is guessed. A body that is cut off, names a
field twice, is not UTF-8, nests too deep or holds a number that is none is refused with a sentence.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Never

from anyio import CancelScope, to_thread
from fastapi import Request
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from everreel.serve.api.errors import ApiError
from everreel.serve.api.settings import Settings

DEEPEST = 16
MOST_FIELDS = 300
LONGEST_NAME = 100
WRITE = 1 << 20  # bytes of a file that are gathered before they are written
LONGEST_NOTHING = 4096  # bytes that are read of a body where none is taken
PART = re.compile(r"([A-Za-z_]\w*)((?:\[\w*\])*)")


@dataclass(frozen=True)
class Sent:
    """A file of a form."""

    path: Path
    filename: str = ""

    def __repr__(self) -> str:
        return "a file"  # messages repeat what was sent, and where it lies is nobody's business

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "binary", "description": "A file of the form."}


class Spool:
    """Files that are needed until a request is answered, in a folder whose store forgets what a lost server left."""

    def __init__(self, inbox: Path) -> None:
        self.inbox, self._made = inbox, list[Path]()

    def new(self) -> Path:
        """Where the next file goes."""
        return self.own(self.inbox / f"request-{secrets.token_hex(16)}")

    def own(self, path: Path) -> Path:
        """Let a file in the folder go with the others."""
        self._made.append(path)
        return path

    def clear(self) -> None:
        """Delete what was not taken over."""
        for path in self._made:
            path.unlink(missing_ok=True)


@dataclass
class Body:
    """The fields of a body by name; of a form all of them are text, files and what brackets make of these."""

    values: dict[str, Any]
    spool: Spool
    form: bool = False


@asynccontextmanager
async def received(request: Request, settings: Settings, upload_bytes: int) -> AsyncIterator[Body]:
    """The body of a request; its files are there as long as the context is.

    Raises:
        ApiError: it is not as it must be.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Content-Encoding: send the body as it is, not compressed")
    spool = Spool(settings.inbox)
    try:
        if kind == b"application/json":
            yield Body(read_json(await _all(request, settings.json_bytes)), spool)
        elif kind == b"multipart/form-data":
            form = _Form(options.get(b"boundary", b""), spool, settings, upload_bytes)
            yield Body(await form.read(request), spool, form=True)
        else:
            raise ApiError(415, "Content-Type: must be application/json or multipart/form-data")
    except ClientDisconnect:
        raise ApiError(400, "body: was cut off") from None
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(spool.clear)


async def nothing(request: Request) -> None:
    """Refuse a body that says something, where nothing can be said; an empty object says nothing.

    Raises:
        ApiError: with the rule.
    """
    try:
        said = (await _all(request, LONGEST_NOTHING)).strip()
    except ClientDisconnect:
        raise ApiError(400, "body: was cut off") from None
    if said not in (b"", b"{}"):
        raise ApiError(400, "body: this address takes none; leave it out", None, "unsupported_body")


def read_json(data: bytes | str) -> dict[str, Any]:
    """An object. Raises: ApiError."""
    found = json_value(data)
    if not isinstance(found, dict):
        raise ApiError(400, 'body: must be a JSON object, such as {"prompt": "a red fox runs"}')
    return found


def json_value(data: bytes | str, name: str = "body") -> Any:  # noqa: ANN401 -- whatever JSON holds
    """Any JSON, without what JSON has not: NaN, names that stand twice, half a character. Raises: ApiError."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number)
    except ApiError:
        raise
    except UnicodeDecodeError:
        raise ApiError(400, f"{name}: must be UTF-8") from None
    except RecursionError:
        raise ApiError(400, f"{name}: nests deeper than {DEEPEST}") from None
    except ValueError as error:
        where = f", line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, f"{name}: is not JSON{where}") from None
    _check(found, name, DEEPEST)
    return found


async def _all(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in _chunks(request, most):
        data += chunk
    return bytes(data)


async def _chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    told = request.headers.get("content-length", "0")
    if not told.isascii() or not told.isdecimal():
        raise ApiError(400, "Content-Length: must be a number")
    if int(told[:20]) > most:
        raise ApiError(413, f"body = {int(told[:20])} bytes: must be at most {most}")
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise ApiError(413, f"body: must be at most {most} bytes")
        yield chunk


class _Form:
    """A form that is being read; the parser calls back for each piece."""

    def __init__(self, boundary: bytes, spool: Spool, settings: Settings, upload_bytes: int) -> None:
        self._spool, self._most, self._most_files = spool, settings.json_bytes, settings.most_files
        self._upload_bytes = upload_bytes
        self._fields: list[tuple[str, str | Sent]] = []
        self._header, self._value, self._headers = bytearray(), bytearray(), dict[bytes, bytes]()
        self._name, self._filename, self._text, self._text_bytes = "", "", bytearray(), 0
        self._file: BinaryIO | None = None
        self._num_files, self._num_bytes, self._ended = 0, 0, False
        calls = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        names = (*calls, "headers_finished", "end")
        try:
            if not boundary:
                raise ApiError(400, "Content-Type: a form needs its boundary")
            callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise ApiError(400, "Content-Type: the boundary is too long") from None

    async def read(self, request: Request) -> dict[str, Any]:
        gathered = bytearray()
        try:
            async for chunk in _chunks(request, self._upload_bytes + self._most):
                gathered += chunk
                if len(gathered) >= WRITE:
                    await to_thread.run_sync(self._parser.write, bytes(gathered))
                    gathered.clear()
            await to_thread.run_sync(self._parser.write, bytes(gathered))
        except FormParserError:
            raise ApiError(400, "body: is not a form with this boundary") from None
        finally:
            if self._file is not None:
                self._file.close()
        if not self._ended:
            raise ApiError(400, "body: was cut off")
        return _together(self._fields)

    def _part_begin(self) -> None:
        self._headers = {}
        self._text = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise ApiError(400, "body: a part of the form has no name")
        self._name = _text(options[b"name"], "body")
        if len(self._name) > LONGEST_NAME:
            raise ApiError(400, f"body: a field has a name longer than {LONGEST_NAME}")
        if len(self._fields) >= MOST_FIELDS:
            raise ApiError(400, f"body: a form has at most {MOST_FIELDS} fields")
        if b"filename" in options:
            self._num_files += 1
            if self._num_files > self._most_files:
                raise ApiError(400, f"{self._name}: a form has at most {self._most_files} files")
            self._filename = _text(options[b"filename"], self._name)
            self._file = self._spool.new().open("wb")
            self._num_bytes = 0

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._num_bytes += end - start
            if self._num_bytes > self._upload_bytes:
                raise ApiError(413, f"{self._name}: must be at most {self._upload_bytes} bytes", self._name)
            self._file.write(data[start:end])
            return
        self._text_bytes += end - start
        if self._text_bytes > self._most:
            raise ApiError(413, f"{self._name}: all text of a form must be at most {self._most} bytes", self._name)
        self._text += data[start:end]

    def _part_end(self) -> None:
        if self._file is None:
            self._fields.append((self._name, _text(bytes(self._text), self._name)))
            return
        self._file.close()
        self._fields.append((self._name, Sent(Path(self._file.name), self._filename)))
        self._file = None

    def _end(self) -> None:
        self._ended = True


def _together(fields: list[tuple[str, str | Sent]]) -> dict[str, Any]:
    """Fields by name: `a[b]` is an object, `a[]` a list, and `a[][b]` a list of objects."""
    found: dict[str, Any] = {}
    for name, value in fields:
        match = PART.fullmatch(name)
        keys = re.findall(r"\[(\w*)\]", match[2]) if match else []
        if match is None or len(keys) > 2 or (len(keys) == 2 and (keys[0] or not keys[1])):
            raise ApiError(400, f"{name!r}: is no name of a field", name)
        top = match[1]
        if not keys:
            if top in found:
                raise ApiError(400, f"{name}: is there twice", name)
            found[top] = value
            continue
        empty: Any = {} if keys[0] else []
        held = found.setdefault(top, empty)
        if type(held) is not type(empty):
            raise ApiError(400, f"{name}: is there twice, in two ways", name)
        if keys[0]:
            if keys[0] in held:
                raise ApiError(400, f"{name}: is there twice", name)
            held[keys[0]] = value
        elif len(keys) == 1:
            held.append(value)
        else:
            _put(held, keys[1], value, name)
    return found


def _put(held: list[Any], key: str, value: str | Sent, name: str) -> None:
    """The next of a list of objects that has no such key yet; a form has all of a key before the next key, or not."""
    for one in held:
        if not isinstance(one, dict):
            raise ApiError(400, f"{name}: is there twice, in two ways", name)
        if key not in one:
            one[key] = value
            return
    held.append({key: value})


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, f"{name}: must be UTF-8", name if name != "body" else None) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, f"{twice!r}: is there twice", twice)
    return found


def _no_number(text: str) -> Never:
    raise ApiError(400, f"body: {text} is no number of JSON")


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ApiError(400, f"body: {text[:40]} is too large a number")
    return found


def _check(value: Any, name: str, deeper: int) -> None:  # noqa: ANN401 -- whatever JSON holds
    """Refuse what nests too deep, and text that is no Unicode."""
    if deeper < 0:
        raise ApiError(400, f"{name}: nests deeper than {DEEPEST}")
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ApiError(400, f"{name}: has half a character (a lone surrogate) in it") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check(key, name, deeper - 1)
            _check(inner, name if name != "body" else key, deeper - 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, name, deeper - 1)
