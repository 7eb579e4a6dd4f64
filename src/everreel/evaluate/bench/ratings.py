"""What raters answered: a file of JSON Lines for each, which is only ever added to.

The first line says who it is and of which study; every other line is an answer or takes one back, with a name of its
own (`nonce`), so that an answer that is sent twice counts once. An answer says which films it is about, so a file is
understood without knowing how the tasks were drawn. The one invariant: an answer is on disk when `RaterLog.answer`
returns, and if it raises, the file is as it was. A process killed at any moment leaves at most the half of a line,
which is passed over and goes with the next answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import unicodedata
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everreel.evaluate.bench.study import RATINGS, Kind, Study
from everreel.evaluate.bench.tasks import LEFT, RIGHT, SCORES, TIE, Task, tasks_for
from everreel.media import sync_folder

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
LONGEST_NAME = 60


class Answer(BaseModel):
    """What was answered. `answer` has a value for each axis, or none where a film could not be played."""

    model_config = ConfigDict(frozen=True)
    nonce: str = Field(min_length=8, max_length=64)
    task: str
    kind: Kind
    films: tuple[str, ...]
    answer: dict[str, int | str]
    unplayable: bool = False
    repeat: bool = False
    check: str | None = None
    seconds: float = Field(ge=0, allow_inf_nan=False)
    at: str


class Header(BaseModel):
    """The first line of a rater's file. `number` counts the raters; `code` lets a rater go on on another device."""

    model_config = ConfigDict(frozen=True)
    rater: str
    code: str
    number: int
    study: str


class NameTaken(ValueError):
    """Somebody of this name has begun, and the code is not theirs."""


class RaterLog:
    """One rater: who it is, what is asked and what was answered, and the file behind it.

    Raises:
        ValueError: the file is no rater's.
        OSError: it cannot be read.
    """

    def __init__(self, study: Study, path: Path) -> None:
        self.study, self.path = study, path
        self.problems: list[str] = []
        self.answers: dict[str, Answer] = {}
        """By task, in the order they were given."""
        self.taken_back = 0
        self._lock = threading.Lock()
        self._nonces: set[str] = set()
        data = path.read_bytes()
        self._length, self._end = len(data), data.rfind(b"\n") + 1
        lines = data[: self._end].splitlines()
        try:
            self.header = Header.model_validate_json(lines[0] if lines else b"")
        except ValidationError:
            raise ValueError(f"{path.name}: does not begin as a rater's file") from None
        self.tasks = {task.id: task for task in tasks_for(study, key_of(self.name), self.header.number)}
        if self.header.study == study.digest:
            self._read(lines)

    @property
    def name(self) -> str:
        """As the rater wrote it."""
        return self.header.rater

    @property
    def num_done(self) -> int:
        """How many of the tasks are answered."""
        return sum(task in self.answers for task in self.tasks)

    def answer(self, task: str, nonce: str, answer: dict[str, Any] | None, seconds: float = 0.0) -> None:
        """Save an answer; None: the film could not be played. An answer to an answered task takes its place.

        Raises:
            ValueError: there is no such task, or the answer is none.
            OSError: it could not be saved; the file is as it was.
        """
        if task not in self.tasks:
            raise ValueError(f"task = {task!r}: is none of this rater's; load the page again")
        asked = self.tasks[task]
        record = {
            "nonce": nonce,
            "task": task,
            "kind": asked.kind,
            "films": asked.films,
            "answer": {} if answer is None else check_answer(self.study, asked.kind, answer),
            "unplayable": answer is None,
            "repeat": asked.repeat,
            "check": asked.check,
            "seconds": seconds,
            "at": _now(),
        }
        try:
            found = Answer.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}") from None
        with self._lock:
            if nonce not in self._nonces:
                self._append(found.model_dump(mode="json"))
                self._take(found)

    def undo(self, task: str, nonce: str) -> None:
        """Take back the answer to a task; if there is none, nothing happens.

        Raises:
            OSError: that could not be saved; the file is as it was.
        """
        with self._lock:
            if nonce not in self._nonces and task in self.answers:
                self._append({"nonce": nonce, "undo": task, "at": _now()})
                self._take_back(task, nonce)

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        with self.path.open("r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self._length:
                raise OSError(None, f"{self.path.name} was changed by another program; start the page again")
            file.truncate(self._end)
            self._length = self._end
            file.seek(self._end)
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:]) or 0
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(self._end)
                raise
        self._length = self._end = self._end + len(line)

    def _read(self, lines: list[bytes]) -> None:
        films = {film.id for film in self.study.films}
        for number, line in enumerate(lines[1:], 2):
            try:
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("undo"), str):
                    self._take_back(record["undo"], str(record.get("nonce")))
                    continue
                found = Answer.model_validate(record)
                if not found.unplayable:
                    check_answer(self.study, found.kind, found.answer)
            except ValueError:  # as are those of JSON and pydantic
                self.problems.append(f"{self.path.name} line {number}: is no answer; left out")
                continue
            if len(found.films) != 1 + (found.kind == "pairs") or not films.issuperset(found.films):
                self.problems.append(f"{self.path.name} line {number}: is about films of another study; left out")
            elif found.nonce not in self._nonces:
                self._take(found)

    def _take(self, found: Answer) -> None:
        self._nonces.add(found.nonce)
        self.answers.pop(found.task, None)  # what is answered again goes to the end
        self.answers[found.task] = found

    def _take_back(self, task: str, nonce: str) -> None:
        self._nonces.add(nonce)
        self.taken_back += self.answers.pop(task, None) is not None


class Ratings:
    """The raters of a study, by their names.

    Raises:
        ValueError: the study was changed after somebody began.
        OSError: a file cannot be read.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self.study = folder / RATINGS, study
        self.raters: dict[str, RaterLog] = {}
        self.problems: list[str] = []
        self._lock = threading.Lock()
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            self._open(path, folder)

    def join(self, name: str, code: str = "") -> RaterLog:
        """The rater of a name: a new one, or one who has begun and gives the code.

        Raises:
            NameTaken: the name is somebody else's.
            ValueError: it is no name.
            OSError: the file of a new rater could not be made.
        """
        name = " ".join(unicodedata.normalize("NFC", name).split())
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise ValueError(f"name = {name[:LONGEST_NAME]!r}: must have 1 to {LONGEST_NAME} letters; Anna works")
        with self._lock:
            if (rater := self.raters.get(key_of(name))) is not None:
                if secrets.compare_digest(rater.header.code.encode(), code.strip().lower().encode()):
                    return rater
                raise NameTaken(
                    f"name = {name!r}: has begun already. If this is you, give your code; if not, take another name"
                )
            rater = self._begin(name)
            self.raters[key_of(name)] = rater
            return rater

    def _begin(self, name: str) -> RaterLog:
        path = self.folder / file_of(name)
        if path.exists():
            raise ValueError(f"name = {name!r}: its file {path.name} is damaged; take another name")
        number = 1 + max((rater.header.number for rater in self.raters.values()), default=-1)
        code = "".join(secrets.choice(LETTERS) for _ in range(10))
        header = Header(rater=name, code=code, number=number, study=self.study.digest)
        self.folder.mkdir(exist_ok=True)
        half_done = path.with_suffix(".part")
        try:
            with half_done.open("wb") as file:
                file.write(header.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            half_done.replace(path)
        finally:
            with suppress(OSError):
                half_done.unlink(missing_ok=True)
        sync_folder(self.folder)
        return RaterLog(self.study, path)

    def _open(self, path: Path, folder: Path) -> None:
        if path.suffix == ".part":  # a rater who was let in when the process was killed, and asked nothing yet
            return
        if not path.name.startswith("rater-") or path.suffix != ".jsonl":
            self.problems.append(f"{path.name}: is no rater's file; left alone")
            return
        try:
            rater = RaterLog(self.study, path)
        except ValueError as error:
            self.problems.append(f"{error}; left out")
            return
        if path.name != file_of(rater.name):
            self.problems.append(f"{path.name}: is a copy of the file of {rater.name}; left out")
            return
        if rater.header.study != self.study.digest:
            raise ValueError(
                f"study = {folder}: was changed after {rater.name} had begun; put the old study.json back, or make a "
                "new study in another folder"
            )
        self.raters[key_of(rater.name)] = rater
        self.problems += rater.problems


def check_answer(study: Study, kind: Kind, answer: dict[str, Any]) -> dict[str, int | str]:
    """The answer, if it has an allowed value for each axis and no more.

    Raises:
        ValueError: with the axis, the value and the rule.
    """
    axes = study.axes_of(kind)
    allowed: tuple[int | str, ...] = SCORES if kind == "scores" else (LEFT, TIE, RIGHT)
    for axis in (*axes, *answer):
        value = answer.get(axis)
        if axis not in axes:
            raise ValueError(f"answer = {axis!r}: is not asked; {', '.join(axes)} are")
        if isinstance(value, bool) or not isinstance(value, int | str) or value not in allowed:
            raise ValueError(f"{axis} = {value!r}: must be one of {', '.join(map(str, allowed))}")
    return {axis: answer[axis] for axis in axes}


def right_answer(task: Task | Answer, given: dict[str, int | str]) -> bool:
    """Whether a check was answered as it asks."""
    return all(str(value) == task.check for value in given.values())


def key_of(name: str) -> str:
    """What two spellings of one name share."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def file_of(name: str) -> str:
    """The file of a rater; nothing that somebody typed becomes a path."""
    return f"rater-{hashlib.sha256(key_of(name).encode()).hexdigest()[:16]}.jsonl"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
