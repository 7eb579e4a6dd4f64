"""VBench's prompts: what it asks for in which dimension, and what it wants the files to be called.

Source: Vchitect/VBench, `vbench/VBench_full_info.json` (946 prompts with their dimensions and what is to be found in
their films) or `prompts/prompts_per_dimension/*.txt`; for the longer version `prompts/augmented_prompts`, a line for
each line. The one invariant: a film is called by its short prompt, whatever it was made from, as the suite finds it by
that name; where a prompt cannot be a file's name, the suite is given it as it is in the name.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everreel.evaluate.vbench.scores import VBENCH, check_dimension

INFO = "VBench_full_info.json"
LONGEST_STEM = 255 - len("-24.mp4")  # bytes: what file systems allow, less what is put behind it
ILLEGAL = re.compile(r"[/\x00-\x1f\x7f]")
# The text files that dimensions share, `dimension_to_folder.json`.
SHARED = {
    "background_consistency": "scene",
    "motion_smoothness": "subject_consistency",
    "dynamic_degree": "subject_consistency",
    "aesthetic_quality": "overall_consistency",
    "imaging_quality": "overall_consistency",
}


@dataclass(frozen=True)
class Prompt:
    """One prompt of the suite."""

    text: str
    """The short one: films are called by it."""
    dimensions: tuple[str, ...]
    long: str | None = None
    """What the films are made from instead."""
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    """What is to be found in the films, by dimension: `{"color": {"color": "red"}}`."""

    @property
    def shown(self) -> str:
        """What a model is given."""
        return self.long or self.text

    @property
    def stem(self) -> str:
        """What its films are called, without their number: the text, unless no file can be called so."""
        stem = ILLEGAL.sub("_", self.text)
        if len(stem.encode()) > LONGEST_STEM:
            mark = hashlib.sha256(self.text.encode()).hexdigest()[:8]
            stem = stem.encode()[: LONGEST_STEM - 9].decode(errors="ignore").rstrip() + "_" + mark
        return stem

    def entry(self) -> dict[str, Any]:
        """As the suite's own list has it, with the text that its films are called by."""
        entry = {"prompt_en": self.stem, "dimension": list(self.dimensions)}
        return {**entry, "auxiliary_info": dict(self.auxiliary)} if self.auxiliary else entry


def read_prompts(source: str | Path, longer: str | Path | None = None) -> list[Prompt]:
    """The suite's prompts, in its order.

    Args:
        source: `VBench_full_info.json` or a file like it, a folder of a text file a dimension, or the suite's wheel.
        longer: a text file with a longer version of each prompt, line by line, or a folder of one a dimension.

    Raises:
        ValueError: it holds no prompts, a dimension is unknown, lines do not fit, or two prompts make one file's name.
    """
    path = Path(source).expanduser()
    prompts = _of_folder(path) if path.is_dir() else _of_list(path)
    if not prompts:
        raise ValueError(f"prompts = {path}: holds none; the {INFO} of the vbench package works")
    named: dict[str, str] = {}
    for prompt in prompts:
        other = named.setdefault(prompt.stem, prompt.text)
        if other != prompt.text:
            raise ValueError(
                f"prompts = {prompt.text!r}: its films would be called as those of {other!r}; leave one out"
            )
    return prompts if longer is None else _with_longer(prompts, Path(longer).expanduser())


def select(
    prompts: Sequence[Prompt], dimensions: Sequence[str] | None = None, num_prompts: int | None = None
) -> list[Prompt]:
    """The prompts of some dimensions, and the first `num_prompts` of each of them.

    A prompt keeps those of its dimensions that it was chosen for.

    Raises:
        ValueError: a dimension is unknown or has no prompt here, or the number is none that can be.
    """
    if num_prompts is not None and num_prompts < 1:
        raise ValueError(f"num_prompts = {num_prompts}: must be at least 1; nearest that works: 1")
    wanted = list(dimensions) if dimensions else list(VBENCH.names)
    chosen: dict[int, list[str]] = {}
    for name in wanted:
        check_dimension(name, [VBENCH])
        numbers = [number for number, prompt in enumerate(prompts) if name in prompt.dimensions]
        if dimensions and not numbers:
            raise ValueError(f"dimensions = {name}: these prompts have none of it; {prompts[0].dimensions[0]} works")
        for number in numbers[:num_prompts]:
            chosen.setdefault(number, []).append(name)
    picked = []
    for number, names in sorted(chosen.items()):
        prompt = prompts[number]
        keep = tuple(name for name in prompt.dimensions if name in names)
        auxiliary = {name: value for name, value in prompt.auxiliary.items() if name in keep}
        picked.append(replace(prompt, dimensions=keep, auxiliary=auxiliary))
    return picked


def renamed(prompts: Iterable[Prompt]) -> list[str]:
    """A line for each prompt that its films cannot be called by."""
    return [
        f"{prompt.text!r} cannot be a file's name; its films are called {prompt.stem!r}, and the suite is told so"
        for prompt in {prompt.text: prompt for prompt in prompts}.values()
        if prompt.stem != prompt.text
    ]


def _of_list(path: Path) -> list[Prompt]:
    """Of the suite's JSON list, by itself or in the wheel."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                text = wheel.read(f"vbench/{INFO}")
        else:
            text = path.read_bytes()
        entries = json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"prompts = {path}: does not exist; the {INFO} of the vbench package works") from None
    except (KeyError, zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise ValueError(f"prompts = {path}: cannot be read ({error}); the vbench package's {INFO} works") from None
    if not isinstance(entries, list):
        raise ValueError(f"prompts = {path}: is no list; the {INFO} of the vbench package works")
    return [_of_entry(entry, f"prompts = {path}: entry {number}") for number, entry in enumerate(entries, 1)]


def _of_entry(entry: Any, where: str) -> Prompt:  # noqa: ANN401 -- whatever the file holds
    values = entry if isinstance(entry, dict) else {}
    text, dimensions, auxiliary = (values.get(name) for name in ("prompt_en", "dimension", "auxiliary_info"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no prompt_en; {{'prompt_en': 'a red fox', 'dimension': ['color']}} works")
    if not isinstance(dimensions, list) or not dimensions or not all(isinstance(name, str) for name in dimensions):
        raise ValueError(f"{where} has no list of dimensions; ['color'] works")
    for name in dimensions:
        try:
            check_dimension(name, [VBENCH])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return Prompt(text, tuple(dimensions), auxiliary=auxiliary if isinstance(auxiliary, dict) else {})


def _of_folder(folder: Path) -> list[Prompt]:
    """Of a text file a dimension; `auxiliary` is known from the JSON list alone."""
    found: list[Prompt] = []
    for name in VBENCH.names:
        file = folder / f"{name}.txt"
        if file.is_file() and name not in SHARED:
            dimensions = (name, *(other for other, owner in SHARED.items() if owner == name))
            found += [Prompt(text, dimensions) for text in _lines(file)]
    return found


def _with_longer(prompts: list[Prompt], path: Path) -> list[Prompt]:
    """Each with its longer version; prompts of one text are made from the first."""
    if path.is_dir():
        longer: list[str | None] = [None] * len(prompts)
        for name in VBENCH.names:
            if name not in SHARED:
                numbers = [number for number, prompt in enumerate(prompts) if name in prompt.dimensions]
                file = next((f for f in (path / f"{name}_longer.txt", path / f"{name}.txt") if f.is_file()), None)
                if numbers and file is None:
                    raise ValueError(f"longer = {path}: has no {name}_longer.txt; give a folder of one a dimension")
                if file is not None and numbers:
                    for number, text in zip(numbers, _as_many(file, len(numbers)), strict=True):
                        longer[number] = text
    else:
        longer = list(_as_many(path, len(prompts)))
    first: dict[str, str | None] = {}
    for prompt, long in zip(prompts, longer, strict=True):
        first.setdefault(prompt.text, long)
    return [replace(prompt, long=first[prompt.text]) for prompt in prompts]


def _as_many(file: Path, count: int) -> list[str]:
    lines = _lines(file)
    if len(lines) != count:
        raise ValueError(f"longer = {file}: has {len(lines)} prompts for {count}; a line for each works")
    return lines


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"prompts = {file}: must be text in UTF-8, a prompt a line") from None
    except OSError as error:
        raise ValueError(f"prompts = {file}: {error.strerror}; give a file with a prompt a line") from None
    return [line.strip() for line in lines if line.strip()]
