"""What a film has finished, on disk beside it, so that nothing is lost: request, known frames, and all that goes on.

`film.mp4.journal` is one safetensors file: numbers and nothing that could be run. The one invariant: it is only ever
replaced whole, and after the film's own bytes are on disk. So whenever the power goes, the journal names a moment at
which the film had at least the frames that it says, and what goes on from there has the bytes of a film never stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from everreel.diffusion.rollout import RolloutState
from everreel.diffusion.solver import SolverState
from everreel.film.request import VideoRequest, make_request
from everreel.film.source import Followed
from everreel.film.splice import Seam, Splice, spliced
from everreel.film.state import Beginning, FilmState
from everreel.media import FilmWriter, Pixels, sync_folder
from everreel.model.kv_cache import CacheState
from everreel.model.vae import DecoderState

VERSION = 1
KEY = "everreel"
PIECES, PIECE_BYTES = 64, 4096  # that are read of each file of a model
SUFFIX = ".journal"


@dataclass(frozen=True)
class Maker:
    """Who makes a film: with another model, device or dtype it would not go on as it was begun."""

    model: str
    """The model's folder, or its name."""
    fingerprint: str
    """Of the model's files, see `fingerprint`."""
    device: str
    dtype: str
    threads: int
    """Of the CPU: sums split among threads are not the same to the last bit."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The other `ModelOptions` that were given."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    """What of `Placement` is not said by these."""
    rules: int = 1
    """Of which time the model's defaults were, see `ModelOptions.rules`; the first ones were not written down."""


@dataclass(frozen=True)
class Source:
    """A film made elsewhere that comes first in the same file; needed until a block of new frames is behind it."""

    path: Path
    num_bytes: int
    sha256: str
    seam: Seam | None = None
    """Where it ends in the film; none before that was written."""

    @classmethod
    def of(cls, source: Followed) -> Source:
        """All of its bytes are read."""
        return cls(source.path.resolve(), source.num_bytes, _sha256(source.path))

    def check(self) -> None:
        """Whether it is what it was.

        Raises:
            ValueError: it is gone, or is another film by now.
        """
        if not self.path.is_file():
            raise ValueError(f"video = {self.path}: is gone, and no block of new frames is finished yet; put it back")
        if self.path.stat().st_size != self.num_bytes or _sha256(self.path) != self.sha256:
            rule = "is not the film any more that was to be made longer; put that back, or begin anew: everreel extend"
            raise ValueError(f"video = {self.path}: {rule}")


@dataclass(frozen=True)
class Journal:
    """A film as it stands. `state` is none before its first block is done."""

    request: VideoRequest
    """With nothing left open."""
    maker: Maker
    beginning: Beginning
    state: FilmState | None = None
    num_bytes: int = 0
    """How long the film's file was then."""
    frames_before: int = 0
    """Frames of the film that this one goes on with, in the same file; the request counts from there."""
    source: Source | None = None
    """What comes before all of them, if that was made elsewhere."""

    @property
    def num_frames(self) -> int:
        """Frames on disk, without those of a source."""
        return self.frames_before + (self.state.num_frames if self.state else 0)

    @property
    def finished(self) -> bool:
        """Whether the film has all of its frames."""
        return (self.state.num_frames if self.state else 0) == self.request.num_frames

    @property
    def is_unopened(self) -> bool:
        """Whether it is a loop whose opening is not made yet."""
        return self.request.loop and self.state is None and not self.beginning.known

    def open_film(self, film: Path, splice: Callable[[Path, Path, int], Splice] = spliced) -> FilmWriter:
        """The writer of the film, behind what is there already; `splice` puts a source before it.

        Raises:
            OSError: the film is gone, or cannot be written.
            ValueError: it is not the film that the journal tells of, or the source is not what it was.
        """
        height, width, fps = self.request.height, self.request.width, self.request.fps
        assert height and width
        if self.source is not None:
            if not self.num_frames:
                self.check_source()
                return splice(self.source.path, film, fps)
            seam = self.source.seam
            assert seam is not None, "it is written down before the first frame"
            return Splice.go_on(film, seam, fps, num_frames=self.num_frames, num_bytes=self.num_bytes)
        if not self.num_frames:
            return FilmWriter(film, height, width, fps)
        return FilmWriter.resume(film, height, width, fps, num_frames=self.num_frames, num_bytes=self.num_bytes)

    def check_source(self) -> None:
        """Whether a source that is still needed can be used.

        Raises:
            ValueError: it is not what it was.
        """
        if self.source is not None and not self.num_frames:
            self.source.check()

    def save(self, film: Path) -> None:
        """Put it on disk beside the film, whole, in the place of the one before."""
        path = journal_path(film)
        part = path.with_name(path.name + ".part")
        try:
            save_file(_tensors(self), part, metadata=_metadata(self))
        except SafetensorError as error:  # what it makes of a full disk
            part.unlink(missing_ok=True)
            raise OSError(errno.EIO, str(error), str(path)) from error
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)

    def at_rest(self) -> Journal:
        """Of a finished film: the latents of its end and its colours, from which it goes on. It is small."""
        assert self.state is not None
        rollout = self.state.rollout
        solver = SolverState(rollout.solver.latents, (), torch.zeros_like(rollout.solver.count))
        state = replace(self.state, caches=(), decoder=None, tail=None, rollout=replace(rollout, solver=solver))
        return replace(self, state=state, beginning=Beginning(offset=self.beginning.offset))


def journal_path(film: Path) -> Path:
    """Where a film's journal lies."""
    return film.with_name(film.name + SUFFIX)


def read_journal(film: Path, device: str | torch.device = "cpu") -> Journal:
    """The journal beside a film, its tensors on a device.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = journal_path(film)
    if not path.is_file():
        raise ValueError(f"film = {film}: has no journal; {path} must lie beside it")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        if facts["version"] != VERSION:
            raise ValueError(f"is of version {facts['version']}, this program reads version {VERSION}")
        return _journal(facts, {name: tensor.to(device) for name, tensor in tensors.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"journal = {path}: cannot be read: {reason}; make the film again") from error


def fingerprint(*places: Path) -> str:
    """The files of a model and of what goes with it, hashed: their names, their sizes and pieces of each.

    All of many gigabytes would take longer than a film.
    """
    hashed = hashlib.sha256()
    within = [(place, path) for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    for place, path in within:
        if path != place and path.suffix not in (".safetensors", ".json", ".pth", ".gguf"):
            continue
        size = path.stat().st_size
        hashed.update(f"{path.relative_to(place).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for piece in range(PIECES):
                file.seek(piece * size // PIECES)
                hashed.update(file.read(PIECE_BYTES))
    return hashed.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(journal: Journal) -> dict[str, str]:
    state, beginning, source = journal.state, journal.beginning, journal.source
    facts: dict[str, Any] = {
        "num_bytes": journal.num_bytes,
        "frames_before": journal.frames_before,
        "history": beginning.history,
        "offset": beginning.offset,
    }
    if state:
        rollout = state.rollout
        facts |= {
            "num_frames": state.num_frames,
            "num_made": state.num_made,
            "row": rollout.row,
            "start": rollout.start,
            "remembered": rollout.remembered,
            "decoder": len(state.decoder.tails) if state.decoder else 0,
            "solver_history": len(rollout.solver.history),
            "caches": [[cache.num_frames, len(cache.keys)] for cache in state.caches],
        }
    if source:
        facts["source"] = vars(source) | {"path": str(source.path), "seam": source.seam and source.seam.facts()}
    facts |= {"version": VERSION, "request": journal.request.model_dump(mode="json"), "maker": vars(journal.maker)}
    return {KEY: json.dumps(facts)}  # several keys would be written in any order


def _tensors(journal: Journal) -> dict[str, Tensor]:
    state, beginning = journal.state, journal.beginning
    named: dict[str, Tensor] = {f"known.{frame}": latent for frame, latent in beginning.known.items()}
    named["beginning.spare"] = torch.from_numpy(beginning.spare)
    named |= {} if beginning.channels is None else {"beginning.channels": beginning.channels}
    named |= {} if beginning.image_tokens is None else {"beginning.image_tokens": beginning.image_tokens}
    named |= {} if beginning.anchor is None else {"beginning.anchor": beginning.anchor}
    if state:
        solver = state.rollout.solver
        named |= {"latents": solver.latents, "count": solver.count, "spare": torch.from_numpy(state.spare)}
        kept = {"tail": state.tail, "held": state.held, "anchor": state.anchor}
        named |= {name: tensor for name, tensor in kept.items() if tensor is not None}
        named |= _numbered("history", solver.history)
        named |= _numbered("decoder", state.decoder.tails if state.decoder else ())
        for i, cache in enumerate(state.caches):
            named |= _numbered(f"cache.{i}.key", cache.keys) | _numbered(f"cache.{i}.value", cache.values)
    # Views of one tensor would be refused, and slices would be written with all that they are cut from.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}


def _journal(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Journal:
    maker = Maker(**facts["maker"])

    def several(name: str, count: int) -> tuple[Tensor, ...]:
        return tuple(tensors[f"{name}.{i}"] for i in range(count))

    known = {int(name.split(".")[1]): latent for name, latent in tensors.items() if name.startswith("known.")}
    beginning = Beginning(
        {frame: known[frame] for frame in sorted(known)},
        facts["history"],
        facts["offset"],
        _pixels(tensors["beginning.spare"]),
        tensors.get("beginning.channels"),
        tensors.get("beginning.image_tokens"),
        tensors.get("beginning.anchor"),
    )
    state = None
    if "row" in facts:
        solver = SolverState(tensors["latents"], several("history", facts["solver_history"]), tensors["count"])
        caches = tuple(
            CacheState(frames, several(f"cache.{i}.key", layers), several(f"cache.{i}.value", layers))
            for i, (frames, layers) in enumerate(facts["caches"])
        )
        state = FilmState(
            RolloutState(facts["row"], facts["start"], solver, facts["remembered"]),
            caches,
            DecoderState(several("decoder", facts["decoder"])) if facts["decoder"] else None,
            tensors.get("tail"),
            facts["num_frames"],
            _pixels(tensors["spare"]),
            facts.get("num_made", facts["num_frames"]),
            tensors.get("held"),
            tensors.get("anchor"),
        )
    source = None
    if "source" in facts:
        seam = facts["source"]["seam"]
        found = {"path": Path(facts["source"]["path"]), "seam": Seam.of(seam) if seam else None}
        source = Source(**{**facts["source"], **found})
    asked = facts["request"]
    if maker.rules < 2 and asked["schedule"] == "rolling" and asked["cache"] is None:  # which then was without
        asked = {**asked, "cache": False}
    request = make_request(**asked)
    return Journal(request, maker, beginning, state, facts["num_bytes"], facts["frames_before"], source)


def _numbered(name: str, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}


def _pixels(tensor: Tensor) -> Pixels:
    return np.ascontiguousarray(tensor.cpu().numpy())
