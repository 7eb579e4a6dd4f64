"""What an I2V model is shown of the first picture of every clip of a latent store, computed ahead.

A store is a folder of shards; `channels-00000.npy` (clips, channels, frames, height, width; float16) is the encoded
film of the picture and grey from then on, `tokens-00000.npy` (clips, tokens, width; float16) the image encoder's, and
`shard-00000.json` says which clips they are of. The VAE is causal: a shorter window is shown the first latents of the
longest. The one invariant: a shard's `.json` appears last, and all shards are of the networks that `kind.json` names.

Shape suffixes: B batch, C channels, T latent frames, H height, W width, N image tokens, D their width.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everreel.checkpoint.load import load_image_encoder, load_vae
from everreel.checkpoint.source import Source
from everreel.data.clips import ClipStore, Frames, to_bytes
from everreel.data.latents import Latents, LatentStore
from everreel.film.image_to_video import first_frame_mask, image_channels, image_tokens
from everreel.film.loading import source_of
from everreel.model.image_encoder import ImageEncoder
from everreel.model.vae import CausalVAE

KIND = "kind.json"
SHARD_CLIPS = 32


@dataclass(frozen=True)
class PictureRecipe:
    """Which networks see the first pictures of which clips.

    `latents` is a latent store. `clips` is the clip store that it was made of; without one a picture is what the VAE
    makes of the clip's first latent. `vae` and `image_encoder` are folders or models. `frames` is the longest window in
    latent frames that will be asked for; by default that of the longest clip.
    """

    latents: str
    vae: str
    image_encoder: str
    clips: str | None = None
    frames: int | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    max_seconds: float | None = None

    def run(self, run_dir: Path, quiet: bool = False) -> None:
        """Make what is missing; stops early after `max_seconds`.

        Raises:
            ValueError: the folder holds what other networks have made, or the clips are not those of the latents.
        """
        latents = LatentStore(self.latents)
        clips = None if self.clips is None else _matching(ClipStore(self.clips), latents)
        vae = load_vae(folder_or_model(self.vae), self.device, self.dtype)
        encoder = load_image_encoder(folder_or_model(self.image_encoder), self.device)
        _settle(run_dir / KIND, self._kind(latents, vae, encoder))
        began, done = time.monotonic(), 0
        for shard, members in enumerate(_shards(latents)):
            if not _is_there(run_dir, shard, members):
                if self.max_seconds is not None and time.monotonic() - began > self.max_seconds:
                    return
                _write(run_dir, shard, members, self._made(members, latents, clips, vae, encoder))
            done += len(members)
            if not quiet:
                sys.stderr.write(f"pictures: {done}/{len(latents)}\n")

    def is_done(self, run_dir: Path) -> bool:
        """Whether every shard is there."""
        return all(_is_there(run_dir, *shard) for shard in enumerate(_shards(LatentStore(self.latents))))

    def _kind(self, latents: LatentStore, vae: CausalVAE, encoder: ImageEncoder) -> dict[str, Any]:
        frames = self.frames or max(frames for frames, *_ in latents.groups)
        source = "the first latent" if self.clips is None else "clips"
        return {"frames": frames, "pictures": source, "vae": _digest(vae), "image_encoder": _digest(encoder)}

    def _made(
        self, members: range, latents: LatentStore, clips: ClipStore | None, vae: CausalVAE, encoder: ImageEncoder
    ) -> tuple[Latents, Latents]:
        """The encoded pictures of some clips of one size, and their tokens."""
        channels, tokens = [], []
        for index in members:
            first_CTHW = torch.from_numpy(latents.latents(index, 0, 1).astype(np.float32)).to(self.device)
            picture_HWC = _decoded(first_CTHW, vae) if clips is None else np.ascontiguousarray(clips.clip(index)[0])
            frames = min(latents.latents(index).shape[1], self.frames or sys.maxsize)
            shown_CTHW = image_channels(picture_HWC, frames, vae)[4:]
            if clips is None:  # the picture is known only through it
                shown_CTHW[:, :1] = first_CTHW
            channels.append(shown_CTHW.cpu().numpy().astype(np.float16))
            tokens.append(image_tokens(picture_HWC, encoder)[0].cpu().numpy().astype(np.float16))
        return np.stack(channels), np.stack(tokens)


class PictureStore:
    """A folder of what is shown of the first pictures of a latent store, by the numbers of its clips; mapped."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open = lru_cache(maxsize=1024)(self._open_array)
        self._where: dict[int, tuple[int, int]] = {}
        for record in sorted(self.path.glob("shard-*.json")):
            start, stop = json.loads(record.read_text(encoding="utf-8"))["clips"]
            shard = int(record.stem.split("-")[1])
            self._where |= {index: (shard, row) for row, index in enumerate(range(start, stop))}
        if not self._where:
            raise ValueError(f"pictures={str(path)!r}: no complete shard here; run a PictureRecipe for the films first")

    def __len__(self) -> int:
        return len(self._where)

    @property
    def width(self) -> int:
        """Channels of an image token."""
        return int(self._open("tokens", 0).shape[-1])

    def encoded(self, index: int, frames: int | None = None) -> Latents:
        """The encoded picture of a clip and the grey behind it (C, T, H, W), as long as asked for or as there is."""
        shard, row = self._where[index]
        encoded: Latents = self._open("channels", shard)[row, :, :frames]
        return encoded

    def shown(self, indices: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
        """The channels (B, 4 + C, T, H, W) and tokens (B, N, D) of clips of one size, float32."""
        encoded = [torch.from_numpy(self.encoded(index, frames).astype(np.float32)) for index in indices]
        tokens = [self._open("tokens", shard)[row] for shard, row in (self._where[index] for index in indices)]
        channels_BCTHW = torch.stack([torch.cat([first_frame_mask(latents), latents]) for latents in encoded])
        return channels_BCTHW, torch.from_numpy(np.stack(tokens)).float()

    def check(self, latents: LatentStore, frames: int) -> None:
        """Refuse a store that is not of these latents, or too short for windows of so many latent frames.

        Raises:
            ValueError: with the clip that shows it.
        """
        made = "run its PictureRecipe for this store, into an empty folder"
        if len(self) != len(latents):
            raise ValueError(f"pictures={str(self.path)!r}: are of {len(self)} clips, films has {len(latents)}; {made}")
        for index in {members[place] for members in latents.groups.values() for place in (0, -1)}:
            have, size = self.encoded(index), latents.latents(index).shape
            least = min(frames, size[1])
            if have.shape[1] < least:
                rule = f"hold {have.shape[1]} latent frames of clip {index}, windows have {least}"
                raise ValueError(f"pictures={str(self.path)!r}: {rule}; {have.shape[1]} works, or make them anew")
            first = latents.latents(index, 0, 1).astype(np.float32)
            # In a causal VAE the first latent is the first frame's alone, so it is the film's own.
            if have[:, :1].shape != first.shape or not _alike(have[:, :1].astype(np.float32), first):
                raise ValueError(f"pictures={str(self.path)!r}: that of clip {index} is not its first; {made}")

    def _open_array(self, kind: str, shard: int) -> Latents:
        array: Latents = np.load(_path(self.path, kind, shard), mmap_mode="r")
        return array


def folder_or_model(where: str) -> str | Source:
    """A folder of parts as it is, else the parts of a model that is named."""
    return where if Path(where).is_dir() else source_of(where)


def _alike(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether two latents differ by no more than their rounding and that of the networks."""
    return float(np.square(one - other).mean()) <= 0.02 * float(np.square(other).mean()) + 1e-4


def _matching(clips: ClipStore, latents: LatentStore) -> ClipStore:
    if clips.labels != latents.labels:
        rule = f"are not those that {latents.path} was made of; name that clip store, or none"
        raise ValueError(f"clips={str(clips.path)!r}: {rule}")
    return clips


def _decoded(first_CTHW: Tensor, vae: CausalVAE) -> Frames:
    with torch.no_grad():
        picture_HWC: Frames = to_bytes(vae.decode(first_CTHW.to(next(vae.parameters()).dtype)[None])[0])[0]
    return picture_HWC


def _shards(latents: LatentStore) -> Iterator[range]:
    """Clips that follow each other and are of one size."""
    sizes = {index: size for size, members in latents.groups.items() for index in members}
    start = 0
    for stop in range(1, len(latents) + 1):
        if stop == len(latents) or sizes[stop] != sizes[start] or stop - start == SHARD_CLIPS:
            yield range(start, stop)
            start = stop


def _is_there(folder: Path, shard: int, members: range) -> bool:
    record = _path(folder, "shard", shard)
    if not record.is_file():
        return False
    found: list[int] = json.loads(record.read_text(encoding="utf-8"))["clips"]
    return found == [members.start, members.stop]  # a store may have grown since


def _write(folder: Path, shard: int, members: range, made: tuple[Latents, Latents]) -> None:
    _path(folder, "shard", shard).unlink(missing_ok=True)
    for kind, array in zip(("channels", "tokens"), made, strict=True):
        half_done = _path(folder, kind, shard).with_suffix(".part")
        with half_done.open("wb") as file:
            np.save(file, array)
        half_done.replace(_path(folder, kind, shard))
    half_done = _path(folder, "shard", shard).with_suffix(".part")
    half_done.write_text(json.dumps({"clips": [members.start, members.stop]}) + "\n", encoding="utf-8")
    half_done.replace(_path(folder, "shard", shard))


def _settle(record: Path, kind: dict[str, Any]) -> None:
    """Write down what a folder holds, or refuse to mix two kinds in it."""
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found != kind:
            changed = ", ".join(name for name, value in kind.items() if found.get(name) != value)
            raise ValueError(f"run_dir={str(record.parent)!r}: holds pictures of another {changed}; take an empty one")
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(kind, indent=1) + "\n", encoding="utf-8")


def _digest(network: nn.Module) -> str:
    """Of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _path(folder: Path, kind: str, shard: int) -> Path:
    return folder / f"{kind}-{shard:05d}.{'json' if kind == 'shard' else 'npy'}"
