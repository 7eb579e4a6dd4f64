"""Result files of VBench: what the suite, or somebody else with it, has measured.

The suite writes `*_eval_results.json`, `{dimension: [score, [one entry a film]]}`, one file or one a dimension; a
submission to its leaderboard is a ZIP of them. The one invariant: a score is read as it is written or not at all, and a
file that cannot be read is named, whether it lies in a folder (where the others are read) or was given itself.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everreel.evaluate.vbench.scores import SEEDS, SUITES, VBENCH, check_dimension, suite_of

ENDING = "_eval_results.json"
NO_RESULTS = ("_full_info.json", "settings.json", "prompts.json", "stamps.json")
LARGEST = 256 * 2**20  # bytes of one file; the suite's largest has some megabytes
EDGE = 1e-3  # a mean of cosines may lie a hair above 1
# Fewer films than the suite asks for are what it does by itself: those that move are left out of one of these, and
# those in which the object is not found out of the other.
FEWER_BY_ITSELF = ("temporal_flickering", "color")


@dataclass(frozen=True)
class Score:
    """One dimension's raw score, 0 to 1, of how many films it is made (where the file tells it), and the file."""

    raw: float
    num_films: int | None
    source: str


@dataclass(frozen=True)
class Results:
    """What was read, and what of it could not be: `skipped` has a line for each such file."""

    scores: Mapping[str, Score]
    skipped: tuple[str, ...] = field(default=())

    @property
    def raw(self) -> dict[str, float]:
        """The raw scores by dimension."""
        return {name: score.raw for name, score in self.scores.items()}

    def notes(self) -> list[str]:
        """What a person should know: a dimension that is made of fewer films than the suite asks for is another."""
        notes = list(self.skipped)
        for name, score in self.scores.items():
            prompts = VBENCH[name].num_prompts if name in VBENCH.names else None
            if suite_of(self.scores) is not VBENCH or prompts is None or name in FEWER_BY_ITSELF:
                continue
            if score.num_films is not None and score.num_films < prompts * SEEDS:
                asked = f"the suite asks for {prompts * SEEDS}, so this is not comparable with published ones"
                notes.append(f"{name}: made of {score.num_films} films; {asked}")
        return notes


def read_results(paths: Sequence[str | Path]) -> Results:
    """What result files, folders of them or ZIPs of them say together.

    Raises:
        ValueError: there is no result in them, a file that was given by name cannot be read, or two differ.
    """
    scores: dict[str, Score] = {}
    skipped: list[str] = []
    for path in map(Path, paths):
        single = path.is_file() and not zipfile.is_zipfile(path)
        for source, text in _files(path):
            try:
                found = parse_results(text, source)
            except ValueError as error:
                if single:
                    raise
                skipped.append(f"skipped {error}")
                continue
            for name, score in found.items():
                before = scores.setdefault(name, score)
                if before.raw != score.raw:
                    both = f"{before.raw:.4f} in {before.source} and {score.raw:.4f} in {score.source}"
                    raise ValueError(f"results = {name}: is {both}; leave one out")
    if not scores:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        where = ", ".join(map(str, paths)) or "nothing"
        raise ValueError(f"results = {where}: no result of VBench in it{why}; files named *{ENDING} work")
    suite_of(scores)  # refuses a mixture
    return Results(scores, tuple(skipped))


def parse_results(text: str | bytes, source: str) -> dict[str, Score]:
    """The scores that one result file holds.

    Raises:
        ValueError: it is none of VBench's or VBench-I2V's, or a score is no number from -1 to 1.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a file whose writer was killed, or not text at all
        raise ValueError(f"results = {source}: is no whole JSON file ({error}); measure it again") from None
    if not isinstance(content, dict) or not content:
        rule = 'must be {dimension: [score, ...]}; {"color": [0.87, []]} works'
        raise ValueError(f"results = {source}: holds {_kind(content)}, and {rule}")
    scores = {}
    for key, value in content.items():
        name = key.strip().replace(" ", "_")
        try:
            check_dimension(name, SUITES)
            scores[name] = Score(*_score(name, value), source)
        except ValueError as error:
            raise ValueError(f"results = {source}: {error}") from None
    return scores


def _score(name: str, value: Any) -> tuple[float, int | None]:  # noqa: ANN401 -- whatever the file holds
    """The number, and of how many films it is made."""
    films = value[1] if isinstance(value, list) and len(value) > 1 else None
    raw = value[0] if isinstance(value, list) and value else value
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{name} = {_kind(raw)}: must be a number, or a list that begins with one; 0.87 works")
    if not math.isfinite(raw):
        raise ValueError(f"{name} = {raw}: must be a number from 0 to 1; measure it again")
    if not -1 - EDGE <= raw <= 1 + EDGE:
        rule = f"must be from 0 to 1; nearest that works: {raw / 100:g}" if 1 < raw <= 100 else "must be from 0 to 1"
        raise ValueError(f"{name} = {raw:g}: {rule}")
    return float(raw), len(films) if isinstance(films, list) and films else None


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The result files at a path: their names and what is in them."""
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*.json")) if _may_be(file.relative_to(path).parts)]
        named = [file for file in found if file.name.endswith(ENDING)]
        for file in named or found:
            yield str(file), file.read_bytes()
    elif not path.is_file():
        raise ValueError(f"results = {path}: does not exist; give a result file, or a folder or ZIP of such")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [one for one in archive.infolist() if _may_be(tuple(one.filename.split("/")))]
            for one in inside:
                if one.file_size > LARGEST:
                    raise ValueError(f"results = {path}: {one.filename} has {one.file_size} bytes; give it by itself")
                try:
                    yield f"{path}:{one.filename}", archive.read(one)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # torn, or with a password
                    raise ValueError(f"results = {path}: {one.filename} cannot be read ({error})") from None
    else:
        yield str(path), path.read_bytes()


def _may_be(parts: tuple[str, ...]) -> bool:
    """Whether a path within a folder or a ZIP is that of a result file, by its name; hidden ones are not."""
    if any(part.startswith((".", "__")) for part in parts):
        return False
    return parts[-1].endswith(".json") and not parts[-1].endswith(NO_RESULTS)


def _kind(value: Any) -> str:  # noqa: ANN401 -- whatever the file holds
    if value in ({}, []):
        return "nothing"
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), json.dumps(value))
