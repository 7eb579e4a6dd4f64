"""Prompts that were made whole and the words that came of them, in a file: whoever asks again gets the same words.

A language model may answer otherwise tomorrow, and rules and tables of synonyms grow; films that were begun are to go
on as they were begun. The one invariant: an answer is on the disk before it is given.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from everreel.lines import append_line, read_lines
from everreel.prompt.enhancer import Enhanced, Enhancer

_Key = tuple[str, bool, bool, str]


class Remembered:
    """An `Enhancer` that asks another one only what was not asked before.

    Args:
        enhancer: the other one.
        path: the file, JSON Lines; it need not be there yet, its folder must.
        backend: the name under which the other one answers, and
        world: whether it does so for a model of the film world; of others in the file nothing is taken.

    Raises:
        ValueError: the file is another one; it is left as it is.
        OSError: it cannot be read.
    """

    def __init__(self, enhancer: Enhancer, path: Path, backend: str, world: bool) -> None:
        self._enhancer, self._path, self._backend, self._world = enhancer, path, backend, world
        rows = read_lines(path, "prompts") if path.exists() else ()
        self._known: dict[_Key, Enhanced] = dict(_entry(row, path) for row in rows)

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        """See `Enhancer`.

        Raises:
            ValueError: a language model gives no answer that can be used.
            OSError: the answer cannot be written down.
        """
        key = (self._backend, self._world, has_image, prompt)
        if key not in self._known:
            made = self._enhancer.enhance(prompt, has_image=has_image)
            given = {"prompt": prompt, "has_image": has_image, "world": self._world, "backend": self._backend}
            append_line(self._path, {**given, "enhanced": asdict(made)})
            self._known[key] = made
        return self._known[key]


def _entry(row: dict[str, Any], path: Path) -> tuple[_Key, Enhanced]:
    """A question and its answer. Raises: ValueError."""
    try:
        key = (row["backend"], row["world"], row["has_image"], row["prompt"])
        made = Enhanced(**{**row["enhanced"], "unknown": tuple(row["enhanced"]["unknown"])})
        if [type(part) for part in (*key, made.text)] == [str, bool, bool, str, str]:
            return key, made
    except (KeyError, TypeError):
        pass
    raise ValueError(f"prompts = {str(path)!r}: is no file of prompts that were made whole; move it elsewhere")
