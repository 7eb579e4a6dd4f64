"""A file of requests and a folder of films: what each line asks for, and what of it is on disk already.

The one invariant: every line is checked, against the model's card and against what lies in the folder, before a model
is loaded or a language model asked, and a film that is there is never replaced by another.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from everreel.answers import UnreachableError
from everreel.checkpoint.catalog import ModelCard
from everreel.checkpoint.load import load_tokenizer
from everreel.film import making
from everreel.film.given import read_pictures
from everreel.film.journal import Journal, Maker, journal_path, read_journal
from everreel.film.pipeline import Progress, VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.prompts import check_prompts
from everreel.film.request import RequestError, VideoRequest, make_request
from everreel.model.text_encoder import Tokenizer

FIELDS = ("output", "enhance", *VideoRequest.model_fields)
SLUG_LENGTH = 40  # characters of a prompt in the name of its film
LONGEST_NAME = 255 - len(".journal.part")  # bytes: what file systems allow, less what is put behind it
REMEDY = "remove it or choose another output"

Whole = Callable[[VideoRequest], tuple[VideoRequest, list[str]]]
"""Gives a request with its prompts made whole, and lines for people that say so; of the same request always the same,
also when the command is run again. Raises: ValueError, OSError."""


class BatchError(ValueError):
    """`lines` for the user, one for each line of the file that is wrong."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Enhancing:
    """How prompts are made whole for a batch: begun at most once, when a line needs it."""

    begin: Callable[[], Whole]
    """Raises: ValueError, OSError, where nothing can be made whole at all."""
    say: Callable[[str], None]
    """Is given what is sent, a line at a time."""
    every: bool
    """Whether a line is made whole that says nothing of it."""


@dataclass(frozen=True)
class _Line:
    """What a line asks for."""

    number: int
    request: VideoRequest
    output: Path
    enhance: bool


@dataclass(frozen=True)
class BatchItem:
    """A line of the file, and where its film stands."""

    line: int
    """Counted from 1."""
    request: VideoRequest
    """With nothing left open."""
    output: Path
    status: Literal["new", "stopped", "finished"]
    threads: int
    """Of the CPU, that the film is made with: sums split among threads are not the same to the last bit."""
    summary: str
    """How it is made, for people."""
    notes: tuple[str, ...] = ()
    """What a person should know of its pictures."""


def read_batch(requests: Path, folder: Path, card: ModelCard, maker: Maker, enhancing: Enhancing) -> list[BatchItem]:
    """The films that a JSON Lines file asks for, in its order.

    Nobody is asked to make a prompt whole while a line is known to be wrong.

    Args:
        folder: where the films go; it need not be there yet.
        maker: who would make them, `making.maker_for` the model of `card`.

    Raises:
        BatchError: lines are wrong, or films in the folder are not those that the lines ask for.
        ValueError: the file cannot be read or has no requests, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output = {folder}: is a file, must be a folder; nearest that works: {folder.parent}")
    lines: list[_Line] = []
    items: list[BatchItem] = []
    wrong: dict[int, str] = {}
    taken: dict[str, int] = {}
    tokenizer = load_tokenizer(making.options_of(maker).source(card))
    for number, text in _lines(requests):
        try:
            line = _line(number, text, requests.parent, folder, enhancing)
            # Some file systems take these for one name.
            first = taken.setdefault(unicodedata.normalize("NFC", line.output.name).casefold(), number)
            if first != number:
                raise RequestError(f"output = {line.output.name}: line {first} has it already; choose another")
            lines.append(line)
            if line.enhance:
                _check_likely(line, card)
            else:
                items.append(_item(line, card, maker, tokenizer))
        except (ValueError, OSError) as error:
            wrong[number] = str(error)
    asking = [line for line in lines if line.enhance]
    for line, said in _enhanced(asking, enhancing, wrong) if asking and not wrong else ():
        try:
            items.append(_item(line, card, maker, tokenizer))
        except (ValueError, OSError) as error:
            wrong[line.number] = str(error)
        else:
            for told in said if items[-1].status != "finished" else ():
                enhancing.say(told if told.startswith(" ") else f"line {line.number}, {told}")
    if wrong:
        raise BatchError([f"{requests}:{number}: {_printable(wrong[number])}" for number in sorted(wrong)])
    if not items:
        raise ValueError(f'requests = {requests}: has none; a line such as {{"prompt": "a red fox"}} works')
    return sorted(items, key=lambda item: item.line)


def open_journal(
    item: BatchItem, pipe: VideoPipeline, on_progress: Callable[[Progress], None] | None = None
) -> Journal:
    """What a film is made from, or gone on with; the CPU's threads are set to those that it was begun with.

    `on_progress` is told of a loop's opening, as it is made.

    Raises:
        RequestError: a picture cannot be used any more, or the film's name has been taken since.
        ValueError: the journal cannot be read any more.
    """
    torch.set_num_threads(item.threads)
    if item.status == "stopped":
        return read_journal(item.output, pipe.device)
    if item.output.exists():
        raise RequestError(f"output = {item.output}: was put there while others were made; {REMEDY}")
    return making.begin(pipe, item.request, on_progress=on_progress)


def _lines(requests: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number; only a line feed ends one, as JSON Lines has it."""
    try:
        data = requests.read_bytes()
    except OSError as error:
        reason = f"{error.strerror}; give a file with a JSON object a line"
        raise ValueError(f"requests = {requests}: {reason}") from None
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, line


def _values(line: bytes) -> dict[str, Any]:
    """The fields of one line."""
    try:
        values = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RequestError(f"must be text in UTF-8, byte {error.start + 1} is not; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg[0].lower()}{error.msg[1:]}, at column {error.colno}"
        raise RequestError(f'is not JSON: {reason}; {{"prompt": "a red fox"}} works') from None
    except RequestError:
        raise
    except (ValueError, RecursionError):  # of a number, of brackets
        raise RequestError('is too long or too deep to be read; {"prompt": "a red fox"} works') from None
    if not isinstance(values, dict):
        raise RequestError(f'{reprlib.repr(values)}: must be a JSON object; {{"prompt": "a red fox"}} works')
    for field in values:
        if field not in FIELDS:
            nearest = max(FIELDS, key=lambda name: difflib.SequenceMatcher(None, field, name).ratio())
            raise RequestError(f"{field!r} is no field of a request; nearest that works: {nearest!r}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one name the first would be lost without a word."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise RequestError(f"{name} = {reprlib.repr(value)}: is given twice; leave one out")
        values[name] = value
    return values


def _located(request: VideoRequest, folder: Path) -> VideoRequest:
    """The request with whole paths of its pictures: the same wherever the command is run."""
    folder = folder.resolve()
    places: dict[str, Any] = {"keyframes": {frame: folder / path for frame, path in request.keyframes.items()}}
    for field in ("image", "end_image"):
        path = getattr(request, field)
        places[field] = None if path is None else folder / path
    return request.model_copy(update=places)


def _name(name: Any, number: int, prompt: str) -> str:  # noqa: ANN401 -- whatever the line holds
    """The file name that a line gives its film, or its number and the first words of its prompt."""
    if name is None:
        plain = unicodedata.normalize("NFKD", prompt.lower()).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
        if len(slug) > SLUG_LENGTH:
            slug = slug[: SLUG_LENGTH + 1].rpartition("-")[0] or slug[:SLUG_LENGTH]
        return f"{number:04d}-{slug}.mp4" if slug else f"{number:04d}.mp4"
    if not isinstance(name, str) or not name.isprintable():
        raise RequestError(f"output = {reprlib.repr(name)}: must be a file name; nearest that works: {number:04d}.mp4")
    last = re.split(r"[/\\]", name)[-1]
    if last != name:
        nearest = last if last.lower().endswith(".mp4") else f"{number:04d}.mp4"
        raise RequestError(
            f"output = {name}: must be a file name, films lie in one folder; nearest that works: {nearest}"
        )
    if Path(name).suffix.lower() != ".mp4":
        nearest = f"{Path(name).stem.strip('.') or f'{number:04d}'}.mp4"
        raise RequestError(f"output = {name}: must end in .mp4; nearest that works: {nearest}")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise RequestError(f"output = {name}: must have at most {LONGEST_NAME} bytes; {number:04d}.mp4 works")
    return name


def _line(number: int, text: bytes, beside: Path, folder: Path, enhancing: Enhancing) -> _Line:
    """A line of the file, its pictures looked for beside that."""
    values = _values(text)
    name, enhance = values.pop("output", None), values.pop("enhance", enhancing.every)
    if not isinstance(enhance, bool):
        raise RequestError(f"enhance = {reprlib.repr(enhance)}: must be true or false; nearest that works: true")
    request = _located(make_request(**values), beside)
    # Of the prompt as it was given: however it is made whole, the film has its name.
    return _Line(number, request, folder / _name(name, number, request.prompt), enhance)


def _enhanced(lines: list[_Line], enhancing: Enhancing, wrong: dict[int, str]) -> Iterator[tuple[_Line, list[str]]]:
    """Lines with their prompts made whole, and what is said of them; why that fails goes to `wrong`."""
    whole = enhancing.begin()
    for line in lines:
        try:
            request, said = whole(line.request)
        except (ValueError, OSError) as error:
            wrong[line.number] = str(error)
            if isinstance(error, UnreachableError):  # nobody answers the next line either
                return
        else:
            yield replace(line, request=request), said


def _check_likely(line: _Line, card: ModelCard) -> None:
    """Of a line whose prompt is yet to be made whole, all that can be said before somebody is asked."""
    plan = make_plan(line.request, card)
    if not line.output.exists():
        read_pictures(plan.request)
        _check_place(line.output)


def _item(line: _Line, card: ModelCard, maker: Maker, tokenizer: Tokenizer) -> BatchItem:
    """The film of a line. What only its beginning needs is checked only where it is still to begin."""
    plan = make_plan(line.request, card)
    status, threads = _standing(plan.request, line.output, maker)
    notes: list[str] = []
    if status == "new":
        notes = [*plan.notes]
        notes += [note for picture in read_pictures(plan.request).values() for note in picture.notes]
        check_prompts(plan.request, tokenizer)
    if status != "finished":
        _check_place(line.output)
    return BatchItem(line.number, plan.request, line.output, status, threads, plan.describe(), tuple(notes))


def _check_place(output: Path) -> None:
    if output.parent.is_dir():
        making.check_output(output)


def _standing(request: VideoRequest, output: Path, maker: Maker) -> tuple[Literal["new", "stopped", "finished"], int]:
    """How far a film is, and with how many threads it is made.

    Raises:
        ValueError: what is there is another film, or it cannot be gone on with by this maker.
    """
    if not output.exists():  # a journal alone has nothing that could be lost
        return "new", maker.threads
    if output.is_dir():
        raise RequestError(f"output = {output}: is a folder; {REMEDY}")
    if not journal_path(output).exists():
        raise RequestError(f"output = {output}: is there already and has no journal; {REMEDY}")
    journal = read_journal(output)
    if journal.frames_before or journal.beginning.history:
        raise RequestError(f"output = {output}: was made longer since; {REMEDY}")
    for field in VideoRequest.model_fields:
        made, wanted = getattr(journal.request, field), getattr(request, field)
        if made != wanted:
            found = f"was made with {field} = {_short(made)}, and not {_short(wanted)}"
            raise RequestError(f"output = {output}: {found}; {REMEDY}")
    if output.stat().st_size < journal.num_bytes:
        raise RequestError(f"output = {output}: is shorter than its journal says; {REMEDY}")
    if journal.maker.fingerprint != maker.fingerprint:
        raise RequestError(f"output = {output}: was made by the model {journal.maker.model} as it was then; {REMEDY}")
    there, asked = dict(journal.maker.options), maker.options
    if "memory" in asked and "quantization" not in asked:
        there.pop("quantization", None)  # what the plan chose for that much memory
    if journal.finished:
        for name in ("lora", "quantization"):
            if there.get(name) != asked.get(name):
                found = f"was made with {name} = {_short(there.get(name))}, and not {_short(asked.get(name))}"
                raise RequestError(f"output = {output}: {found}; {REMEDY}")
        return "finished", journal.maker.threads
    for name in sorted(there.keys() | asked.keys()):
        if there.get(name) != asked.get(name):
            begun, rest = there.get(name), f"{output} was begun"
            rest += f" with {_short(begun)}; give that" if name in there else f" without; leave out --{name}"
            raise RequestError(f"{name} = {_short(asked.get(name))}: {rest}")
    for field in ("device", "dtype"):
        begun, asked_now = getattr(journal.maker, field), getattr(maker, field)
        smaller = field == "dtype" and "memory" in asked and (asked_now, begun) == ("float32", "bfloat16")
        if begun != asked_now and not smaller:
            raise RequestError(f"{field} = {asked_now}: {output} was begun with {begun}; give --{field} {begun}")
    return "stopped", journal.maker.threads


def _short(value: object) -> str:
    return str(value) if isinstance(value, Path) else reprlib.repr(value)


def _printable(text: str) -> str:
    """One line that cannot steer a terminal."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in " ".join(text.split())
    )
