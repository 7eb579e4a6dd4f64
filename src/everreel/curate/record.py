"""What is known of a clip: where it lies in which film, what was measured of it, and whether it is kept.

Two files of JSON Lines in a run's folder. `clips.jsonl` has a line a film, appended when all its clips are measured,
without verdicts. `verdicts.jsonl` has a line a clip, with its verdict, and is written anew whenever a run ends. The one
invariant: a line that is there in full is true; a torn last line, of a process that was killed, is as if it were not
there, and the next line is written over it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from everreel.lines import append_line, read_lines

SOURCES, VERDICTS, THUMBNAILS = "clips.jsonl", "verdicts.jsonl", "thumbnails"
Verdict = Literal["", "kept", "dropped"]
"""Empty as long as nobody has judged."""


class Crop(NamedTuple):
    """A rectangle in pixels of the film as it is seen, upright and with square pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Clip:
    """A single shot, or a part of one. `start` and `stop` are seconds of the film's first frame on."""

    source: str
    """The film's path as the source of the run names it."""
    first: int
    """The number of its first frame, from 0."""
    frames: int
    start: float
    stop: float
    fps: float
    width: int
    height: int
    crop: Crop | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """By name; what was not measured, because the clip was dropped before, is not there. nan is not known."""
    hashes: tuple[str, ...] = ()
    """Perceptual hashes of frames in their order, as hexadecimal digits."""
    captions: tuple[str, ...] = ()
    source_type: str = ""
    """What the film is, where a table tells: film, tv, stock, ugc, ..."""
    concept: str = ""
    """The type of its main subject, where a captioner was asked."""
    verdict: Verdict = ""
    stage: str = ""
    """The stage whose thresholds judged it."""
    reasons: tuple[str, ...] = ()
    """Names of the filters that dropped it, the first first; see `filters.FILTERS`."""
    like: str = ""
    """The name of the clip that it is a duplicate of."""
    thumbnail: str = ""
    """A JPEG, by its path in the run's folder."""

    @property
    def name(self) -> str:
        """What tells it from all other clips of a run."""
        return f"{self.source}#{self.first}+{self.frames}"

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.stop - self.start

    @property
    def kept(self) -> bool:
        """Whether it was judged and found good."""
        return self.verdict == "kept"

    def with_measures(self, **values: float) -> Clip:
        """The same with more measures, to the digits that the file has, so that a verdict is the same from there."""
        return replace(self, measures={**self.measures, **{name: round(value, 6) for name, value in values.items()}})

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, without what is empty."""
        found = asdict(self)
        measures = {name: None if math.isnan(value) else value for name, value in self.measures.items()}
        found |= {"measures": measures, "crop": list(self.crop) if self.crop else None}
        return {name: value for name, value in found.items() if value not in (None, "", (), {}, [])}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Clip:
        """What `to_json` made.

        Raises:
            ValueError: it is no such thing.
        """
        try:
            known = dict(found)
            measures = {
                name: math.nan if value is None else float(value) for name, value in known.get("measures", {}).items()
            }
            known["measures"] = measures
            known["crop"] = Crop(*map(int, known["crop"])) if known.get("crop") else None
            for name in ("hashes", "captions", "reasons"):
                known[name] = tuple(map(str, known.get(name, ())))
            return cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"clip = {str(found)[:80]!r}: is no clip ({error}); a line of {VERDICTS} works") from None


@dataclass(frozen=True)
class Film:
    """What a run knows of one film: its size in bytes, which tells whether it is still the same, and its clips."""

    source: str
    num_bytes: int
    clips: tuple[Clip, ...] = ()
    problem: str = ""
    """Why nothing could be read of it."""
    settings: str = ""
    """What it was cut and measured with, where that changes the clips themselves."""

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        known = {"source": self.source, "bytes": self.num_bytes, "settings": self.settings}
        known |= {"problem": self.problem} if self.problem else {}
        return known | {"clips": [clip.to_json() for clip in self.clips]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Film:
        """What `to_json` made.

        Raises:
            ValueError: it is no such thing.
        """
        try:
            clips = tuple(Clip.from_json(clip) for clip in found["clips"])
            return cls(found["source"], int(found["bytes"]), clips, found.get("problem", ""), found["settings"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"film = {str(found)[:80]!r}: is no film ({error}); a line of {SOURCES} works") from None


def read_films(path: Path) -> dict[str, Film]:
    """The films of `clips.jsonl` by their names; of two lines of one film the last counts. None where there is no file.

    Raises:
        ValueError: a line in the midst of it is none.
    """
    films = (Film.from_json(row) for row in read_lines(path, "clips")) if path.is_file() else iter(())
    return {film.source: film for film in films}


def append_film(path: Path, film: Film) -> None:
    """Put a film behind the others, on the disk when this returns."""
    append_line(path, film.to_json())


def read_clips(path: Path) -> list[Clip]:
    """The clips of `verdicts.jsonl`, with their verdicts.

    Raises:
        ValueError: there is no such file, or a line of it is no clip.
    """
    if not path.is_file():
        raise ValueError(f"clips = {str(path)!r}: no such file; `everreel data FOLDER -o {path.parent}` makes it")
    return [Clip.from_json(row) for row in read_lines(path, "clips")]


def write_clips(path: Path, clips: Iterable[Clip]) -> None:
    """Write a file of clips anew; killed while it does, the old one is there."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(clip.to_json(), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
