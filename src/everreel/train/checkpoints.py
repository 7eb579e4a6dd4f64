"""The file that a run goes on from.

The one invariant: a file of this name is whole. It is written beside the old one and takes its place in one step, so
whatever happens while it is written, the old one stays and can be read; and nothing of a run is overwritten before all
of the file fits it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from everreel.train.settings import TrainerSettings, TrainingFailed

CHECKPOINT = "checkpoint.pt"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, that takes the place of `path` once its bytes are on the disk.

    Raises:
        TrainingFailed: it cannot be written. What was at `path` is still there, and nothing beside it.
    """
    half_done = path.with_name(path.name + ".part")
    try:
        yield half_done
        with half_done.open("rb+") as file:
            os.fsync(file.fileno())
        half_done.replace(path)
        _settle(path.parent)
    except BaseException as error:
        half_done.unlink(missing_ok=True)
        if not isinstance(error, OSError | RuntimeError) and type(error).__name__ != "SafetensorError":
            raise
        raise TrainingFailed(_not_written(path, error)) from error


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of a run folder.

    Raises:
        TrainingFailed: as `written_whole`.
    """
    # A file of Python's knows why it cannot be written; given a path, torch only tells where in the file it stopped.
    with written_whole(folder / CHECKPOINT) as half_done, half_done.open("wb") as file:
        torch.save(state, file)


def write_weights(path: Path, tensors: Mapping[str, Tensor], step: int) -> None:
    """Write whole tensors as safetensors.

    Raises:
        TrainingFailed: as `written_whole`.
    """
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with written_whole(path) as half_done:
        save_file(plain, half_done, metadata={"format": "pt", "step": str(step)})


def read_checkpoint(
    folder: Path,
    settings: TrainerSettings,
    modules: Mapping[str, nn.Module],
    trained: Mapping[str, list[list[int]]],
) -> dict[str, Any]:
    """The state in a run folder, on the CPU, once all of it fits.

    Args:
        modules: what it is for, by role.
        trained: the sizes of the groups of weights of each optimizer, by role.

    Raises:
        ValueError: it cannot be read, or is of another seed, accumulation, optimizer, stage or size.
    """
    path = folder / CHECKPOINT
    try:
        state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of a damaged file torch raises whatever its bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read ({reason}); train in another run folder") from error
    missing = {"step", "skipped", "skips_in_a_row", "settings", "modules", "averages", "optimizers"} - state.keys()
    if missing:
        raise ValueError(f"{path}: is no checkpoint of a training run, it has no {sorted(missing)[0]!r}")
    for field in ("seed", "accumulation", "optimizer"):
        found, wanted = state["settings"][field], getattr(settings, field)
        if found != wanted:
            raise ValueError(
                f"{field}={wanted!r}: the checkpoint in {folder} was trained with {found!r}; "
                "use that or another run folder"
            )
    if misfit := _misfit(state, modules, trained):
        raise ValueError(f"{path}: is of another stage or size: {misfit}; train in another run folder")
    return state


def _misfit(
    state: Mapping[str, Any], modules: Mapping[str, nn.Module], trained: Mapping[str, list[list[int]]]
) -> str | None:
    """The first thing that does not fit, in words."""
    found, wanted = list(state["modules"]), list(modules)
    if set(found) != set(wanted):
        return f"it holds {', '.join(found)} where {', '.join(wanted)} is trained"
    for role, module in modules.items():
        for part in ("modules", "averages"):
            shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            stored = {name: tuple(value.shape) for name, value in state[part][role].items()}
            for name in [*shapes, *stored]:
                if shapes.get(name) != stored.get(name):
                    sides = stored.get(name, "absent"), shapes.get(name, "absent")
                    return f"{role}.{name} is {sides[0]} in it and {sides[1]} in the network"
        groups = [[len(group["params"]) for group in one["param_groups"]] for one in state["optimizers"][role]]
        if groups != trained[role]:
            return f"{role} trains groups of {trained[role]} tensors, and in it groups of {groups}"
    return None


def _not_written(path: Path, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = (str(cause or error).splitlines() or [""])[0]
    kept = f"the {path.name} before it is kept" if path.exists() else "there was none before it"
    return f"{path}: could not be written ({reason}); {kept}; make room and start again"


def _settle(folder: Path) -> None:
    """Have the folder's new entry on the disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
