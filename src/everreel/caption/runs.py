"""Captions of many films: which films, by whom, and a table of them that grows as they are written.

Stands where the released captioner has its two scripts, one for structured captions and one for fusion, and reads and
writes their tables: `path` in, `structural_caption`, `t2v_fusion_caption` and `i2v_fusion_caption` out, whatever else a
row had stays in it. A row that comes with a structured caption is only fused. The one invariant: every film that was
asked for is in the table or in the list of those that were skipped, with the reason; what is in the table is not made
again, and one film's fault never ends a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from everreel.caption.fusion import BuiltInFusion, ChatFusion
from everreel.caption.schema import TASKS, Captioner, Fuser, StructuralCaption, Task, parse_caption
from everreel.caption.tables import KEY, CaptionTable
from everreel.chat import TIMEOUT, Endpoint, LocalChat, UnreachableError
from everreel.data.sources import FILMS, PATH_COLUMNS, PICTURES, TABLES, Row, Skipped, read_rows
from everreel.film.source import FilmFrames, SourceFilm
from everreel.media import read_image

TINY, BUILT_IN, GIVEN = "tiny", "built-in", "given"
STOOD_IN = "built-in instead"
"""Who fused a caption whose model failed."""
FLOW = "+flow"
STRUCTURED = "structural_caption"
FIELDS = (
    *("type", "sub_type", "appearance", "action", "expression", "position"),  # of the main subject
    *("shot_type", "shot_angle", "shot_position", "camera_motion", "environment", "lighting"),
)
CAMERA = ("tx", "ty", "tz", "roll", "pitch", "yaw")
"""The signs of the camera's six axes, where `+flow` measures them; empty where nothing could be followed."""
_WORKS = "films, pictures, folders of them, and tables with a column of paths work"


@dataclass(frozen=True)
class Listed:
    """A film that is to have a caption."""

    name: str
    """Its path as it was given, which the table knows it by."""
    file: Path
    row: Row = field(default_factory=dict)
    """What a table has beside its path."""


@dataclass(frozen=True)
class RunSettings:
    """What is written, and by whom: `captioner` and `fusion` are what rows are signed with."""

    captioner: str = TINY
    fusion: str = BUILT_IN
    tasks: tuple[Task, ...] = ("t2v", "i2v")
    fields: bool = False

    def columns(self, listed: Sequence[Listed]) -> tuple[str, ...]:
        """The columns of the table."""
        own = [STRUCTURED, *(fused_column(task) for task in self.tasks), *(FIELDS if self.fields else ())]
        own += CAMERA if self.fields and self.captioner.endswith(FLOW) else ()
        own += ["captioner", "fusion"]
        brought = dict.fromkeys(name for each in listed for name in each.row if name not in (KEY, *own))
        return (KEY, *brought, *own)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: rows that were there, rows that are new, films that were skipped, and captions that the
    built-in fusion wrote because the model's answer could not be used.
    """

    known: int
    made: int
    skipped: tuple[Skipped, ...]
    replaced: tuple[Skipped, ...]


class Run:
    """Films to caption, and the table that they go into.

    Args:
        captioner: makes what reads films, once there is a film to read.
        fuser: makes what fuses captions; it gets what it has to call with a problem that it has solved.

    Raises:
        ValueError: the table is another's, or its captions are another captioner's.
    """

    def __init__(
        self,
        listed: Sequence[Listed],
        output: str | Path,
        settings: RunSettings,
        captioner: Callable[[], Captioner],
        fuser: Callable[[Callable[[str], None]], Fuser],
    ) -> None:
        self.listed, self.settings = listed, settings
        self.table = CaptionTable(output, settings.columns(listed), lambda row: self._check_known(row, output))
        self._make_captioner = captioner
        self._captioner: Captioner | None = None
        self._problems: list[str] = []
        self._fuser = fuser(self._problems.append)

    def missing(self) -> list[Listed]:
        """The films that are not in the table yet."""
        return [each for each in self.listed if each.name not in self.table.names]

    def make(
        self,
        on_film: Callable[[int, int], None] | None = None,
        on_skipped: Callable[[Skipped], None] | None = None,
    ) -> Outcome:
        """Write the captions that are missing; `on_film(done, total)` is called before the first and after each,
        `on_skipped` as soon as a film has to be left out.

        Raises:
            UnreachableError: nobody answers; what is written stays, and the same run goes on.
        """
        missing, total = self.missing(), len(self.listed)
        skipped: list[Skipped] = []
        replaced: list[Skipped] = []
        try:
            for number, each in enumerate(missing):
                if on_film is not None:
                    on_film(total - len(missing) + number, total)
                if self._captioner is None and not each.row.get(STRUCTURED):
                    self._captioner = self._make_captioner()
                try:  # no more than reading and writing of: a full disk is no film's fault
                    row = self._row(each)
                except UnreachableError:
                    raise
                except (ValueError, OSError, RuntimeError, MemoryError, av.error.FFmpegError) as error:
                    skipped.append(Skipped(each.name, _reason(error, each.file)))
                    if on_skipped is not None:
                        on_skipped(skipped[-1])
                else:
                    self.table.append(row)
                    replaced += [Skipped(each.name, problem) for problem in self._problems]
                self._problems.clear()
            if on_film is not None:
                on_film(total, total)
        finally:
            for used in (self._captioner, self._fuser):
                close = getattr(used, "close", None)
                if close is not None:
                    close()
        self.table.finish()
        return Outcome(total - len(missing), len(missing) - len(skipped), tuple(skipped), tuple(replaced))

    def _row(self, listed: Listed) -> Row:
        given = listed.row.get(STRUCTURED)
        if given:
            caption, by = parse_caption(given if isinstance(given, str) else json.dumps(given, default=str)), GIVEN
        else:
            assert self._captioner is not None, listed
            caption, by = caption_file(self._captioner, listed.file), self.settings.captioner
        row: Row = {**listed.row, KEY: listed.name, STRUCTURED: caption.to_json(), "captioner": by}
        for task in self.settings.tasks:
            row[fused_column(task)] = self._fuser.fuse(caption, task)
        row["fusion"] = STOOD_IN if self._problems else self.settings.fusion
        if self.settings.fields:
            row |= fields_row(caption) | camera_row(None if by == GIVEN else self._captioner)
        self.table.check(row)
        return row

    def _check_known(self, row: Row, output: str | Path) -> None:
        allowed = {"captioner": GIVEN, "fusion": STOOD_IN}
        for name, other in allowed.items():
            mine = getattr(self.settings, name)
            if row[name] not in (mine, other):
                raise ValueError(
                    f"output = {str(output)!r}: has captions with {name} = {row[name]!r}, and this run has {mine!r}; "
                    "give another file"
                )


def listed_films(sources: Sequence[str | Path]) -> tuple[list[Listed], list[Skipped]]:
    """The films and pictures that files, folders and tables name, and what of them has to be left out.

    Paths in a table are from its own folder on, or from where the program runs, as in the released scripts.

    Raises:
        ValueError: there is no such file, or it is of no kind that is known.
    """
    listed: dict[str, Listed] = {}
    skipped: list[Skipped] = []
    for source in sources:
        path = Path(source).expanduser()
        found: Callable[[Path], Iterator[Listed | Skipped]] = _in_folder
        if not path.is_dir():
            ending = path.suffix.lower()
            if not path.exists() and ending not in FILMS | PICTURES:
                raise ValueError(f"files = {str(source)!r}: no such file or folder; {_WORKS}")
            if ending not in FILMS | PICTURES | TABLES:
                raise ValueError(f"files = {str(source)!r}: is no film, picture or table; {_WORKS}")
            found = _alone
            if ending in TABLES:
                found = _in_table
        for each in found(path):
            if isinstance(each, Skipped):
                skipped.append(each)
            elif each.name in listed:
                if listed[each.name] != each:
                    skipped.append(Skipped(each.name, "is named twice; the first is taken"))
            else:
                listed[each.name] = each
    return list(listed.values()), skipped


def caption_file(captioner: Captioner, file: Path) -> StructuralCaption:
    """The caption of a film or a picture on the disk, of which only the frames are held that are looked at.

    Raises:
        ValueError: it cannot be read, or the captioner can make nothing of it.
    """
    if not file.is_file():
        raise ValueError("is a folder" if file.is_dir() else "does not exist")
    if not file.stat().st_size:
        raise ValueError("is empty: 0 bytes")
    if file.suffix.lower() in PICTURES:
        return captioner.caption(read_image(file)[np.newaxis], 24.0)
    film = SourceFilm.open(file)
    with closing(FilmFrames(film)) as frames:
        return captioner.caption(frames, film.fps)


def captioner_of(name: str, device: str = "cpu", timeout: float = TIMEOUT) -> Captioner:
    """A captioner by its name: `tiny`, a folder, a hub's repository, or `http://HOST:PORT/v1#MODEL`.

    A folder holds a critic of ours, or a Qwen2.5-VL such as SkyCaptioner-V1. With `+flow` behind the name, how the
    camera moves is measured. `timeout` is how many seconds a served model has for one answer.

    Raises:
        ValueError: there is no such captioner.
    """
    from everreel.caption.tiny import TinyCaptioner

    if name.endswith(FLOW):
        from everreel.caption.camera import Measured

        return Measured(captioner_of(name.removesuffix(FLOW), device, timeout))
    folder = Path(name).expanduser()
    if name == TINY:
        return TinyCaptioner()
    if is_address(name):
        endpoint = endpoint_of(name, "captioner", timeout)
        from everreel.caption.served import ServedCaptioner

        return ServedCaptioner(endpoint, name)
    if folder.exists() or name.count("/") == 1:
        if (folder / "config.json").is_file() and '"num_slots"' in (folder / "config.json").read_text(encoding="utf-8"):
            return TinyCaptioner(folder)
        from everreel.caption.qwen import QwenCaptioner

        return QwenCaptioner(folder if folder.exists() else name, device)
    works = f"{TINY}, a model's folder, Skywork/SkyCaptioner-V1, or http://127.0.0.1:8000/v1#MODEL works"
    raise ValueError(f"captioner = {name!r}: is no captioner; {works}")


def fuser_of(
    name: str, device: str = "cpu", on_problem: Callable[[str], None] | None = None, timeout: float = TIMEOUT
) -> Fuser:
    """What fuses captions, by its name: `built-in`, a language model's folder or repository, or an address as above.

    Raises:
        ValueError: there is no such thing.
    """
    if name == BUILT_IN:
        return BuiltInFusion()
    if is_address(name):
        return ChatFusion(endpoint_of(name, "fusion", timeout), name, on_problem=on_problem)
    if Path(name).expanduser().exists() or name.count("/") == 1:
        return _LocalFusion(LocalChat(name, device), name, on_problem=on_problem)
    works = f"{BUILT_IN}, a language model's folder, or http://127.0.0.1:8000/v1#MODEL works"
    raise ValueError(f"fusion = {name!r}: is no fusion; {works}")


def endpoint_of(address: str, what: str, timeout: float = TIMEOUT) -> Endpoint:
    """A served model by its address and, behind a #, its name.

    Raises:
        ValueError: one of the two is missing, or the timeout is none.
    """
    base, _, model = address.partition("#")
    if not model:
        raise ValueError(f"{what} = {address!r}: must name the model too; {base}#Qwen2.5-VL-7B-Instruct works")
    return Endpoint(base, model, timeout=timeout)


def is_address(name: str) -> bool:
    """Whether this is the name of a served model."""
    return name.startswith(("http://", "https://"))


def fused_column(task: Task) -> str:
    """The released scripts' name of the column."""
    assert task in TASKS
    return f"{task}_fusion_caption"


def fields_row(caption: StructuralCaption) -> Row:
    """A column a field, of the main subject and of the film."""
    found: Row = dict.fromkeys(FIELDS, "")
    for subject in sorted(caption.subjects, key=lambda each: not each.is_main_subject)[:1]:
        found |= subject.TYPES.model_dump() | subject.model_dump(exclude={"TYPES", "is_main_subject"})
    return found | caption.model_dump(exclude={"subjects"})


def camera_row(captioner: Captioner | None) -> Row:
    """A column an axis, of the film that a captioner which measures how the camera moves was shown last."""
    motion = getattr(captioner, "motion", None)
    return dict.fromkeys(CAMERA, "") if motion is None or motion.kind == "unknown" else dict(motion.axes)


class _LocalFusion(ChatFusion):
    """A model that is loaded here, and freed when it is done with."""

    def close(self) -> None:
        if isinstance(self.chat, LocalChat):
            self.chat.close()


def _alone(file: Path) -> Iterator[Listed | Skipped]:
    yield Listed(str(file), file)


def _in_folder(folder: Path) -> Iterator[Listed | Skipped]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in FILMS | PICTURES and not file.is_dir())
    for file in files:
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield Listed(str(file), file)


def _in_table(table: Path) -> Iterator[Listed | Skipped]:
    rows = list(read_rows(table))
    columns = {column for _, row in rows if isinstance(row, dict) for column in row}
    column = next((name for name in (KEY, *PATH_COLUMNS) if name in columns), None)
    if column is None:
        there = ", ".join(sorted(map(str, columns))) or "none"
        raise ValueError(f"files = {str(table)!r}: has the columns {there}; must have one of {', '.join(PATH_COLUMNS)}")
    for number, row in rows:
        name = row.get(column) if isinstance(row, dict) else None
        if not isinstance(name, str) or not name.strip():
            why = row if isinstance(row, str) else f"{column} is empty"
            yield Skipped(f"{table.name} line {number}", why)
            continue
        assert isinstance(row, dict)
        beside = table.parent / Path(name.strip()).expanduser()
        rest = {str(key): value for key, value in row.items() if key is not None}
        yield Listed(name.strip(), beside if beside.exists() else Path(name.strip()).expanduser(), rest)


def _reason(error: Exception, file: Path) -> str:
    """Why, on one line, without the name that stands before it in the list."""
    said: Any = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(str(said).split())
    for begin in (f"video = {file}: ", f"image = {file}: "):
        text = text.removeprefix(begin)
    return text
