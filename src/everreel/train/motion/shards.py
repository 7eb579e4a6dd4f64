"""Stores of pairs made shard by shard, here or in several processes, by any recipe that can make one shard.

Beside a shard of pairs lies `tally-00000.json`, what became of all that were tried for it: a shard of which nothing was
kept has that alone. `recipe.json` says which recipe the folder is of. The one invariant: the tally of a shard appears
last, and both depend on the recipe and the weights alone, so what was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from everreel.evaluate.films import write_json
from everreel.train import pool
from everreel.train.motion.match import Tally
from everreel.train.motion.pairs import PairLabel, PairStore, write_pairs

RECIPE = "recipe.json"
FREE = ("processes", "threads", "max_seconds", "device", "count", "prompts")
"""Values of a recipe that change how a store is made, or how much of it, and not what a shard of it holds."""


class Made(NamedTuple):
    """A shard: its pairs (2, C, T, H, W), their labels, and what became of those that were tried."""

    pairs: list[Tensor]
    labels: list[PairLabel]
    tally: Tally


class InShards(Protocol):
    """A recipe of pairs."""

    @property
    def processes(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def max_seconds(self) -> float | None: ...

    def slots(self) -> list[int]:
        """How much is tried for each shard."""

    def maker(self) -> Callable[[int], Made]:
        """What makes a shard, by its number; the models are loaded now."""

    def check(self, tally: Tally, ended: bool) -> None:
        """Refuse what became of the pairs so far, or of all of them."""


@runtime_checkable
class Stamped(Protocol):
    """A recipe of what a file says, which may change under its name."""

    @property
    def stamp(self) -> str: ...


def write_shards(recipe: InShards, folder: Path, quiet: bool, name: str = "pairs") -> tuple[PairStore | None, Tally]:
    """Make what is missing; the store, if anything was kept, and what became of all that were tried.

    Raises:
        ValueError: the folder is of another recipe, or what was made is refused.
    """
    _settle(folder, recipe)
    slots, missing = recipe.slots(), missing_shards(recipe, folder)
    total = Tally()
    for shard in set(range(len(slots))) - set(missing):
        total.add(_tally_of(folder, shard))
    recipe.check(total, not missing)
    done, began = sum(slots) - sum(slots[shard] for shard in missing), time.time()
    deadline = began + (recipe.max_seconds or math.inf)
    for made in pool.done(partial(_begin, recipe, folder, deadline), missing, recipe.processes, recipe.threads):
        if made is None:
            continue
        done += slots[made]
        total.add(_tally_of(folder, made))
        if not quiet:
            sys.stderr.write(f"{name}: {done}/{sum(slots)}, {total.num_kept} pairs kept\n")
        recipe.check(total, ended=False)
    if missing and not missing_shards(recipe, folder):
        recipe.check(total, ended=True)
        if not quiet:
            sys.stderr.write("".join(f"{name}: {line}\n" for line in (*total.lines(), *total.said)))
    return (PairStore(folder) if total.num_kept else None), total


def missing_shards(recipe: InShards, folder: Path) -> list[int]:
    """The shards that are not there, or not whole because less was asked for."""
    return [shard for shard, slots in enumerate(recipe.slots()) if _slots_of(folder, shard) != slots]


def shares(total: int, size: int) -> list[int]:
    """`total` in parts of `size`, and what is left."""
    return [min(size, total - start) for start in range(0, total, size)]


def _begin(recipe: InShards, folder: Path, deadline: float) -> Callable[[int], int | None]:
    """What writes a shard, if it is not too late."""
    return partial(_write_shard, recipe.maker(), recipe.slots(), folder, deadline)


def _write_shard(
    make: Callable[[int], Made], slots: list[int], folder: Path, deadline: float, shard: int
) -> int | None:
    """The shard's number; None if it was too late."""
    if time.time() > deadline:
        return None
    made = make(shard)
    target = folder / f"tally-{shard:05d}.json"
    target.unlink(missing_ok=True)
    if made.pairs:
        write_pairs(folder, shard, made.pairs, made.labels)
    write_json(target, {"slots": slots[shard], "tally": made.tally.as_json()})
    return shard


def _settle(folder: Path, recipe: InShards) -> None:
    """Say which recipe a folder is of, once.

    Raises:
        ValueError: it is of another, or of more.
    """
    kind, path = json.loads(json.dumps(_values(recipe))), folder / RECIPE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{name}={found.get(name)!r}" for name in {**found, **kind} if found.get(name) != kind.get(name)]
        if changed:
            raise ValueError(f"run_dir={str(folder)!r}: holds pairs made with {', '.join(changed)}; use another folder")
        more = max((int(tally.stem.split("-")[1]) for tally in folder.glob("tally-*.json")), default=-1)
        if more >= len(recipe.slots()):
            raise ValueError(
                f"run_dir={str(folder)!r}: holds {more + 1} shards, more than asked for; use another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, kind)


def _values(recipe: InShards) -> dict[str, Any]:
    assert is_dataclass(recipe)
    values = {one.name: getattr(recipe, one.name) for one in fields(recipe) if one.name not in FREE}
    stamp = {"stamp": recipe.stamp} if isinstance(recipe, Stamped) else {}
    return {"recipe": type(recipe).__name__} | stamp | {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever a recipe holds
    """As JSON has it; of what is called, its name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return str(value)


def _slots_of(folder: Path, shard: int) -> int | None:
    path = folder / f"tally-{shard:05d}.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["slots"]) if path.exists() else None


def _tally_of(folder: Path, shard: int) -> Tally:
    record = json.loads((folder / f"tally-{shard:05d}.json").read_text(encoding="utf-8"))
    return Tally.from_json(record["tally"])
