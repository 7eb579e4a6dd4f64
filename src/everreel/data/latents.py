"""Clips as the transformer trains on them: normalised latents computed ahead, sentences, and stills.

A store mirrors a `ClipStore`, shard by shard: `latents-00000.npy` (clips, channels, frames, height, width;
float16), `stills-00000.npy` (clips, stills, channels, height, width) and `shard-00000.jsonl` with what is
known of each clip. A still is what a picture looks like that is given later than frame 0: the second latent
of five equal frames. The one invariant: like its clips', a shard's `.jsonl` appears last, and what it holds
depends on the clips, the VAE and the seed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from everreel.checkpoint.load import load_text_encoder, load_tokenizer
from everreel.data.clips import (
    ClipLabel,
    ClipStore,
    Frames,
    Progress,
    has_shard,
    shard_writer,
    to_bytes,
    to_unit_range,
)
from everreel.data.draws import draw_int, generator_for
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE
from everreel.shapes import TEMPORAL, LatentShape
from everreel.world.caption import sentence
from everreel.world.scene import Scene

Latents = npt.NDArray[np.float16]
Group = tuple[int, int, int]

STILL_FRAMES = 1 + TEMPORAL


@dataclass(frozen=True)
class EncodeSettings:
    """How clips become latents: `batch` is in frames, so that images go in many at a time and films one
    by one.
    """

    stills: int = 4
    sentences: int = 4
    batch: int = 97
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    seed: int = 0


def encode_store(
    path: str | Path,
    clips: ClipStore,
    vae: CausalVAE,
    settings: EncodeSettings,
    *,
    max_seconds: float | None = None,
    progress: Progress | None = None,
) -> LatentStore:
    """Encode what is missing of a store; shards that are complete are kept. Stops early after
    `max_seconds`.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vae = vae.to(settings.device, settings.dtype).eval()
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    done = 0
    for shard, indices in clips.shards().items():
        if not _path(path, "shard", shard).exists():
            if deadline is not None and time.monotonic() > deadline:
                break
            _encode_shard(path, shard, indices, clips, vae, settings)
        done += len(indices)
        if progress is not None:
            progress(done, len(clips))
    return LatentStore(path)


def reconstruct_store(
    path: str | Path,
    clips: ClipStore,
    vae: CausalVAE,
    settings: EncodeSettings,
    *,
    num_shards: int | None = None,
    max_seconds: float | None = None,
    progress: Progress | None = None,
) -> ClipStore:
    """Clips as the VAE gives them back, for the critic: the first shards of a store, under their own
    labels.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vae = vae.to(settings.device, settings.dtype).eval()
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    shards = list(clips.shards().items())[:num_shards]
    for done, (shard, indices) in enumerate(shards):
        if not has_shard(path, shard):
            if deadline is not None and time.monotonic() > deadline:
                break
            num_frames, height, width, _ = clips.clip(indices[0]).shape
            shape = (len(indices), num_frames, height, width)
            together = max(1, settings.batch // num_frames)
            with shard_writer(path, shard, shape, [clips.labels[index] for index in indices]) as frames:
                for start in range(0, len(indices), together):
                    video = to_unit_range([clips.clip(index) for index in indices[start : start + together]])
                    frames[start : start + together] = _there_and_back(vae, video, settings)
        if progress is not None:
            progress(done + 1, len(shards))
    return ClipStore(path)


class LatentStore:
    """A folder of encoded clips; latents are mapped, not read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.labels: list[ClipLabel] = []
        self.sentences: list[tuple[str, ...]] = []
        self.groups: dict[Group, list[int]] = defaultdict(list)
        self._still_frames: list[tuple[int, ...]] = []
        self._where: list[tuple[int, int]] = []
        self._open = lru_cache(maxsize=1024)(self._open_array)
        for labels_path in sorted(self.path.glob("shard-*.jsonl")):
            self._add_shard(labels_path)
        if not self.labels:
            raise ValueError(f"path={self.path}: no complete shard here; encode a clip store into it first")

    def __len__(self) -> int:
        return len(self.labels)

    def latents(self, index: int, start: int = 0, stop: int | None = None) -> Latents:
        """Latents (channels, frames, height, width) of one clip, or of a window of its latent frames."""
        shard, row = self._where[index]
        latents: Latents = self._open("latents", shard)[row, :, start:stop]
        return latents

    def stills(self, index: int) -> tuple[tuple[int, ...], Latents]:
        """Stills of one clip: the latent frames (1 or later) that they stand for, and them (stills,
        channels, h, w).
        """
        shard, row = self._where[index]
        frames = self._still_frames[index]
        return frames, self._open("stills", shard)[row] if frames else np.zeros((0, 0, 0, 0), np.float16)

    def scene(self, index: int) -> Scene:
        """What one clip shows."""
        return self.labels[index].scene

    def fps(self, index: int) -> int:
        """The frame rate of one clip."""
        return self.labels[index].fps

    def batch(self, indices: Sequence[int], windows: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Latents (B, channels, frames, height, width) of clips of one group, float32, each cut to its
        window.
        """
        spans: Sequence[tuple[int, int | None]] = windows if windows is not None else [(0, None)] * len(indices)
        parts = [self.latents(index, *span) for index, span in zip(indices, spans, strict=True)]
        return torch.from_numpy(np.stack(parts)).float()

    def _add_shard(self, labels_path: Path) -> None:
        shard = int(labels_path.stem.split("-")[1])
        _, _, frames, height, width = self._open("latents", shard).shape
        for row, line in enumerate(labels_path.read_text(encoding="utf-8").splitlines()):
            record = json.loads(line)
            self.groups[frames, height, width].append(len(self.labels))
            self.labels.append(ClipLabel(Scene(**record["scene"]), int(record["fps"]), float(record["start"])))
            self.sentences.append(tuple(record["sentences"]))
            self._still_frames.append(tuple(record["stills"]))
            self._where.append((shard, row))

    def _open_array(self, kind: str, shard: int) -> Latents:
        latents: Latents = np.load(_path(self.path, kind, shard), mmap_mode="r")
        return latents


def draw_group(
    groups: Mapping[Group, Sequence[int]], generator: torch.Generator, batch: int
) -> tuple[Group, list[int]]:
    """A group, drawn by its number of clips, and `batch` of its clips."""
    keys = sorted(groups)
    place = draw_int(generator, 0, sum(len(groups[key]) for key in keys))
    for key in keys:
        if place < len(groups[key]):
            members = groups[key]
            return key, [members[draw_int(generator, 0, len(members))] for _ in range(batch)]
        place -= len(groups[key])
    raise AssertionError("unreachable")


@dataclass
class FrozenText:
    """A trained tokenizer and encoder: what later stages turn prompts into embeddings with."""

    tokenizer: Tokenizer
    encoder: TextEncoder
    length: int = 64

    @classmethod
    def load(cls, folder: str | Path, length: int = 64) -> FrozenText:
        """From a folder with `tokenizer/` and `text_encoder/`: a text run's, or a whole model's."""
        encoder = load_text_encoder(folder)
        encoder.requires_grad_(False)
        return cls(load_tokenizer(folder), encoder, length)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers (B, length), 0 where padded."""
        return self.tokenizer(prompts, length=self.length).ids

    @torch.no_grad()
    def embed(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, length, D), zero where padded, and mask (B, length) of token numbers, on their
        device.
        """
        if self.encoder.model.get_parameter("shared.weight").device != ids_BL.device:
            self.encoder.to(ids_BL.device)
        mask_BL = (ids_BL != self.tokenizer.pad_id).long()
        return self.encoder(ids_BL, mask_BL), mask_BL


@dataclass
class TextTable:
    """The sentences of a store as token numbers; embeddings are made a batch at a time, which is cheap."""

    ids_NSL: Tensor
    text: FrozenText

    @classmethod
    def build(cls, sentences: Sequence[Sequence[str]], text: FrozenText) -> TextTable:
        """Tokenise the sentences of each clip, as many for each."""
        flat = [line for lines in sentences for line in lines]
        ids = torch.cat([text.ids(flat[start : start + 4096]) for start in range(0, len(flat), 4096)])
        return cls(ids.to(torch.int32).view(len(sentences), -1, text.length), text)

    def draw(self, indices: Sequence[int], generator: torch.Generator, empty: float = 0.1) -> Tensor:
        """Token numbers (B, length) of one sentence a clip, or of the empty prompt with probability
        `empty`.
        """
        count = len(indices)
        which = torch.randint(0, self.ids_NSL.shape[1], (count,), generator=generator)
        ids_BL = self.ids_NSL[torch.tensor(indices), which].long()
        dropped_B = torch.rand(count, generator=generator) < empty
        return torch.where(dropped_B[:, None], self.text.ids([""]), ids_BL)


def _encode_shard(
    path: Path, shard: int, indices: list[int], clips: ClipStore, vae: CausalVAE, settings: EncodeSettings
) -> None:
    frames, height, width, _ = clips.clip(indices[0]).shape
    shape = LatentShape.from_pixels(frames, height, width)
    size = (vae.config.z_dim, shape.frames, shape.height, shape.width)
    stills = settings.stills if shape.frames > 1 else 0
    latents = _new_array(path, "latents", shard, (len(indices), *size))
    arrays = {"latents": latents}
    if stills:
        arrays["stills"] = _new_array(path, "stills", shard, (len(indices), stills, size[0], *size[2:]))
    lines = []
    for row, index in enumerate(indices):
        generator = generator_for(settings.seed, "latents", index)
        at = [draw_int(generator, 1, frames) for _ in range(stills)]
        if at:
            arrays["stills"][row] = _encode(vae, _stills_of(clips, index, at), settings)[:, :, 1]
        label = clips.labels[index]
        record = {
            "scene": asdict(label.scene),
            "fps": label.fps,
            "start": label.start,
            "stills": [1 + (frame - 1) // TEMPORAL for frame in at],
            "sentences": [sentence(label.scene, generator) for _ in range(settings.sentences)],
        }
        lines.append(json.dumps(record))
    together = max(1, settings.batch // frames)
    for start in range(0, len(indices), together):
        video = to_unit_range([clips.clip(index) for index in indices[start : start + together]])
        latents[start : start + together] = _encode(vae, video, settings)
    for kind, array in arrays.items():
        array.flush()
        _part(path, kind, shard).replace(_path(path, kind, shard))
    _part(path, "shard", shard).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _part(path, "shard", shard).replace(_path(path, "shard", shard))


def _stills_of(clips: ClipStore, index: int, at: Sequence[int]) -> Tensor:
    pictures = clips.clip(index)[np.asarray(at)]
    return to_unit_range(np.repeat(pictures[:, None], STILL_FRAMES, axis=1))


@torch.no_grad()
def _encode(vae: CausalVAE, video: Tensor, settings: EncodeSettings) -> Latents:
    latents: Latents = vae.encode(video.to(settings.device, settings.dtype)).float().cpu().numpy().astype(np.float16)
    return latents


@torch.no_grad()
def _there_and_back(vae: CausalVAE, video: Tensor, settings: EncodeSettings) -> Frames:
    return to_bytes(vae.decode(vae.encode(video.to(settings.device, settings.dtype))))


def _new_array(
    path: Path, kind: str, shard: int, shape: tuple[int, ...]
) -> np.memmap[tuple[int, ...], np.dtype[np.float16]]:
    return np.lib.format.open_memmap(_part(path, kind, shard), mode="w+", dtype=np.float16, shape=shape)


def _path(path: Path, kind: str, shard: int) -> Path:
    return path / f"{kind}-{shard:05d}{'.jsonl' if kind == 'shard' else '.npy'}"


def _part(path: Path, kind: str, shard: int) -> Path:
    return path / f"{kind}-{shard:05d}.part"
