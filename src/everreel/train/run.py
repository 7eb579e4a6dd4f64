"""From a recipe file to a finished run: `python -m everreel.train.run recipes/text.py --run-dir runs/text`.

A recipe file holds one name, `recipe`: a frozen dataclass of values that knows how to run itself, an
objective with settings, or a tuple of named recipes that are run one after the other. The one invariant:
running the same file in the same folder again goes on where it stopped, and does nothing when all is done. So a recipe
that was stopped before its end, by its seconds or by a signal, stops those behind it, which would read half of it.

`torchrun --nproc-per-node N -m everreel train recipes/x.py` trains with N processes. All of them run what trains, the
first alone what does not; the folder in which the others would leave things is thrown away.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from everreel.data.clips import ClipStore, StoreLayout, has_shard, render_store
from everreel.memory import keep_freed_memory
from everreel.parallel.talk import LostError
from everreel.train import processes
from everreel.train.trainer import Outcome, Trainer, TrainerSettings, TrainingFailed, device_for


@runtime_checkable
class Recipe(Protocol):
    """A recipe that knows how to run itself. What it gives back is read where it is an `Outcome`."""

    def run(self, run_dir: Path, quiet: bool = False) -> Any: ...  # noqa: ANN401


@runtime_checkable
class InParts(Recipe, Protocol):
    """A recipe of what is made part by part, of which some may be missing when its seconds are over."""

    def is_done(self, run_dir: Path) -> bool: ...


@dataclass(frozen=True)
class WorldRecipe:
    """Clip stores that are rendered, each in a folder of its name."""

    stores: tuple[tuple[str, StoreLayout], ...]
    processes: int = 2
    max_seconds: float | None = None

    def run(self, run_dir: Path, quiet: bool = False) -> dict[str, ClipStore]:
        """Render what is missing."""
        rendered = {}
        for name, layout in self.stores:
            tell = _teller(name, quiet)
            rendered[name] = render_store(
                run_dir / name, layout, processes=self.processes, max_seconds=self.max_seconds, progress=tell
            )
        return rendered

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        shards = ((run_dir / name, shard) for name, layout in self.stores for shard in range(layout.num_shards))
        return all(has_shard(folder, shard) for folder, shard in shards)


@dataclass(frozen=True)
class LatentRecipe:
    """Clip stores that a VAE encodes, and shards of them that it encodes and decodes for the critic.

    `vae` is a folder with `vae/` in the diffusers layout. Latents go to a folder of the store's name,
    reconstructions to `NAME-reconstructed`.
    """

    vae: str
    stores: tuple[tuple[str, str], ...]
    reconstructed_shards: tuple[tuple[str, int], ...] = ()
    stills: int = 4
    sentences: int = 4
    batch: int = 97
    device: str = "cpu"
    max_seconds: float | None = None

    def run(self, run_dir: Path, quiet: bool = False) -> None:
        """Encode what is missing, in bfloat16."""
        from everreel.checkpoint.load import load_vae
        from everreel.data.latents import EncodeSettings, encode_store, reconstruct_store

        vae = load_vae(self.vae)
        settings = EncodeSettings(self.stills, self.sentences, self.batch, device=self.device)
        shards = dict(self.reconstructed_shards)
        for name, path in self.stores:
            clips, limit, tell = ClipStore(path), self.max_seconds, _teller(name, quiet)
            encode_store(run_dir / name, clips, vae, settings, max_seconds=limit, progress=tell)
            if name in shards:
                target, tell = (
                    run_dir / f"{name}-reconstructed",
                    _teller(f"{name} shards, reconstructed", quiet),
                )
                reconstruct_store(target, clips, vae, settings, num_shards=shards[name], progress=tell)

    def is_done(self, run_dir: Path) -> bool:
        """Whether every clip is encoded."""
        from everreel.data.latents import LatentStore

        return all(len(LatentStore(run_dir / name)) == len(ClipStore(path)) for name, path in self.stores)


def load_recipe(path: str | Path) -> Any:  # noqa: ANN401 (a recipe is any of three things, see above)
    """The `recipe` of a recipe file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe={str(path)!r}: no such file; see the folder recipes/")
    names = runpy.run_path(str(path))
    if "recipe" not in names:
        raise ValueError(f"recipe={str(path)!r}: defines no name 'recipe'")
    return names["recipe"]


def run_recipe(recipe: Any, run_dir: str | Path, quiet: bool = False, **overrides: Any) -> bool:  # noqa: ANN401
    """Run a recipe in a folder; `overrides` (max_seconds, device, threads, accumulation, …) replace values of it or
    of its settings. Whether it came to its end is returned: what is named behind one that did not is not begun.
    """
    run_dir, together = Path(run_dir), processes.here()
    if overrides.get("device") == "auto":
        overrides["device"] = _automatic(together)
    if isinstance(recipe, tuple):
        return all(run_recipe(stage, run_dir / name, quiet, **overrides) for name, stage in recipe)
    recipe, done = _overridden(recipe, overrides), True
    if together is None or together.first:
        done = _run_one(recipe, run_dir, quiet)
        if not done and not quiet:
            sys.stderr.write(f"everreel: {run_dir} was stopped before its end; run the same again to go on there\n")
    elif _trains(recipe):
        with tempfile.TemporaryDirectory() as folder:
            _run_one(recipe, Path(folder), quiet=True)
    # Nobody goes on before the first is here: what comes next may read what it has written.
    return done if together is None else together.from_first(done)


def _run_one(recipe: Any, run_dir: Path, quiet: bool) -> bool:  # noqa: ANN401
    """Run it; whether it came to its end."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, Recipe):
        ended = recipe.run(run_dir, quiet)
    elif _trains(recipe) and hasattr(recipe, "objective"):
        ended = Trainer(recipe.objective(), recipe.settings, run_dir, quiet).run()
    else:
        raise ValueError(f"recipe={type(recipe).__name__}: has no run(run_dir), and no settings with objective()")
    if isinstance(ended, Outcome):
        return ended.finished
    return not isinstance(recipe, InParts) or recipe.is_done(run_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 is returned for what the user can put right."""
    parser = argparse.ArgumentParser(prog="everreel train", description="Run a recipe, or go on with it.")
    parser.add_argument("recipe", help="a file of the folder recipes/")
    parser.add_argument("--run-dir", help="where the run keeps all that it makes; by default runs/ and the file's name")
    parser.add_argument("--max-seconds", type=float, help="stop with a checkpoint after this time")
    parser.add_argument("--device", help="cpu, cuda or auto")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--processes", type=int, help="processes that render")
    parser.add_argument("--accumulation", type=int, help="micro-batches of a step")
    options = vars(parser.parse_args(arguments))
    keep_freed_memory()
    return start(Path(options.pop("recipe")), options.pop("run_dir"), **options)


def start(path: Path, run_dir: str | Path | None = None, **options: Any) -> int:  # noqa: ANN401
    """Run a recipe's file, by all processes that torchrun has started; 2 is returned, and a line written, for what
    the user can put right. Options that are None are left as the recipe has them.
    """
    try:
        recipe = load_recipe(path)
        together = processes.meet(options.get("device") or _device_of(recipe))
    except ValueError as error:
        return _failed(error)
    try:
        given = {name: value for name, value in options.items() if value is not None}
        run_recipe(recipe, run_dir or Path("runs") / path.stem, **given)
    except Exception as error:
        if together is not None and not together.fails_first():
            return 2  # another has said why
        if together is not None and processes.is_lost(error):
            return _failed(LostError("another process has ended or does not answer; the last checkpoint is kept"))
        if not isinstance(error, ValueError | TrainingFailed | OSError):
            raise
        return _failed(error)
    if together is not None:
        together.part()
    return 0


def _failed(error: Exception) -> int:
    sys.stderr.write(f"everreel: {' '.join(str(error).split())}\n")
    return 2


def _trains(recipe: Any) -> bool:  # noqa: ANN401
    return isinstance(getattr(recipe, "settings", None), TrainerSettings)


def _automatic(together: processes.Processes | None) -> str:
    """The device that trainers take for "auto", by its name: recipes that do not train know no "auto"."""
    if together is not None:
        return together.device.type
    return device_for(TrainerSettings(steps=1, device="auto"), None).type


def _device_of(recipe: Any) -> str:  # noqa: ANN401
    """What the stages of a recipe are to be trained on, "auto" where they do not agree."""
    stages = [stage for _, stage in recipe] if isinstance(recipe, tuple) else [recipe]
    devices = {one.settings.device for one in stages if _trains(one)}
    return devices.pop() if len(devices) == 1 else "auto"


def _overridden(recipe: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
    """The recipe with the values that it, its settings or those of a recipe inside it have a field for."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        return recipe
    own = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    changes = {name: value for name, value in values.items() if name in own}
    for name, inner in own.items():
        if isinstance(inner, TrainerSettings) or _trains(inner):
            changes[name] = _overridden(inner, values)
    return replace(recipe, **changes)


def _teller(name: str, quiet: bool) -> Any:  # noqa: ANN401
    def tell(done: int, total: int) -> None:
        if not quiet:
            sys.stderr.write(f"{name}: {done}/{total}\n")
            sys.stderr.flush()

    return tell


if __name__ == "__main__":
    sys.exit(main())
