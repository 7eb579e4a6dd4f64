"""What a folder was begun with, so that nobody goes on in it with other values.

The one invariant: a folder that was begun keeps its values; which of them is another is said by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everreel.evaluate.films import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FREE_SETTINGS = ("max_seconds", "threads", "device", "prefetch", "checkpoint_every", "sample_every", "log_every")
"""Of the trainer's, what changes nothing of the result."""


def settle(folder: Path, name: str, values: DataclassInstance, free: Sequence[str] = ()) -> None:
    """Write into `NAME.json` what a folder is begun with, but for what is free to change; once.

    Raises:
        ValueError: it was begun with something else.
    """
    wanted = _flat(json.loads(json.dumps(asdict(values), default=str)))
    wanted = {key: value for key, value in wanted.items() if not _is_free(key, free)}
    path = folder / f"{name}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for key in [*wanted, *found]:
            if wanted.get(key) != found.get(key):
                said = f"{key}={wanted.get(key)!r}: {folder} was begun with {found.get(key)!r}"
                raise ValueError(f"{said}; use that or another run folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _is_free(key: str, free: Sequence[str]) -> bool:
    *_, parent, last = ("", *key.split("."))
    return key.split(".")[0] in free or (parent == "settings" and last in FREE_SETTINGS)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """By dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found
