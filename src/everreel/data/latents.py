"""Clips as the transformer trains on them: normalised latents computed ahead, sentences, and stills.

A store is a folder of shards; all clips of one have one size. A shard is `latents-00000.npy` (clips, channels, frames,
height, width; float16), `stills-00000.npy` (clips, stills, channels, height, width) and `shard-00000.jsonl` with what
is known of each clip: `fps`, `sentences`, `stills`, and `scene` where it is one of the film world. A still is what a
picture looks like that is given later than frame 0: the second latent of five equal frames. Where it is known,
`subject-00000.npy` (clips, frames, height, width; float16) says how much of each latent the subject covers. Where
sentences were embedded ahead, `text-00000.npy` (positions, channels; float16) holds them one after the other, none
padded, the `text` of a clip's record says where, and `prompts.npy` with `prompts.json` holds those of no clip, the
empty one first.

The one invariant: a shard's `.jsonl` appears last, and what it holds depends on the clips, the VAE and the seed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
from everreel.model.vae import CausalVAE
from everreel.shapes import SPATIAL, TEMPORAL, LatentShape, frames_of, latent_frames, latent_index
from everreel.world.caption import sentence
from everreel.world.scene import Scene

Latents = npt.NDArray[np.float16]
Group = tuple[int, int, int]
Key = TypeVar("Key", bound=tuple[int, ...])
Span = tuple[int, int]

STILL_FRAMES = 1 + TEMPORAL
PROMPTS, PROMPT_TEXT = "prompts.json", "prompts.npy"


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
    """A folder of encoded clips; latents and embeddings are mapped, not read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.labels: list[ClipLabel | None] = []
        """What is known of clips of the film world; None of any other."""
        self.sentences: list[tuple[str, ...]] = []
        self.groups: dict[Group, list[int]] = defaultdict(list)
        self.prompts: dict[str, Span] = {}
        """Sentences of no clip that were embedded ahead, and where."""
        self._fps: list[int] = []
        self._spans: list[tuple[Span, ...]] = []
        self._still_frames: list[tuple[int, ...]] = []
        self._where: list[tuple[int, int]] = []
        self._open = lru_cache(maxsize=1024)(self._open_array)
        for labels_path in sorted(self.path.glob("shard-*.jsonl")):
            self._add_shard(labels_path)
        if not self.labels:
            raise ValueError(f"path={self.path}: no complete shard here; encode a clip store into it first")
        if (self.path / PROMPTS).is_file():
            known = json.loads((self.path / PROMPTS).read_text(encoding="utf-8"))
            self.prompts = {prompt: (start, stop) for prompt, (start, stop) in known.items()}

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

    @property
    def knows_subjects(self) -> bool:
        """Whether the place of the subject is known of any clip."""
        return bool(self._knowing)

    def subjects(self, indices: Sequence[int], windows: Sequence[Span]) -> Tensor:
        """How much of each latent the subject covers, (B, frames, height, width) of 0..1, in windows of a group.

        0 of a clip of which it is not known.
        """
        parts = []
        for index, (start, stop) in zip(indices, windows, strict=True):
            shard, row = self._where[index]
            if shard in self._knowing:
                parts.append(self._open("subject", shard)[row, start:stop])
            else:
                parts.append(np.zeros(self.latents(index, start, stop).shape[1:], np.float16))
        return torch.from_numpy(np.stack(parts)).float()

    def scene(self, index: int) -> Scene:
        """What one clip of the film world shows; any other has none, and asking is a defect."""
        label = self.labels[index]
        assert label is not None, f"clip {index} of {self.path} is not of the film world"
        return label.scene

    def fps(self, index: int) -> int:
        """The frame rate of one clip."""
        return self._fps[index]

    @property
    def text_dim(self) -> int:
        """Channels of the embedded sentences, 0 where they were not embedded ahead."""
        return int(self._prompts.shape[1]) if self.prompts else 0

    def embedding(self, index: int, sentence: int) -> Latents:
        """The embedding (positions, channels) of a sentence of one clip; for index -1 of one of `prompts`."""
        if index < 0:
            start, stop = list(self.prompts.values())[sentence]
            return self._prompts[start:stop]
        start, stop = self._spans[index][sentence]
        return self._open("text", self._where[index][0])[start:stop]

    def batch(self, indices: Sequence[int], windows: Sequence[Span] | None = None) -> Tensor:
        """Latents (B, channels, frames, height, width) of clips of one group, float32, each cut to its
        window.
        """
        spans: Sequence[tuple[int, int | None]] = windows if windows is not None else [(0, None)] * len(indices)
        parts = [self.latents(index, *span) for index, span in zip(indices, spans, strict=True)]
        return torch.from_numpy(np.stack(parts)).float()

    @cached_property
    def _knowing(self) -> frozenset[int]:
        """The shards that say where subjects are."""
        shards = {shard for shard, _ in self._where}
        return frozenset(shard for shard in shards if _path(self.path, "subject", shard).is_file())

    @cached_property
    def _prompts(self) -> Latents:
        prompts: Latents = np.load(self.path / PROMPT_TEXT, mmap_mode="r")
        return prompts

    def _add_shard(self, labels_path: Path) -> None:
        shard = int(labels_path.stem.split("-")[1])
        _, _, frames, height, width = self._open("latents", shard).shape
        for row, line in enumerate(labels_path.read_text(encoding="utf-8").splitlines()):
            record = json.loads(line)
            self.groups[frames, height, width].append(len(self.labels))
            scene, fps = record.get("scene"), int(record["fps"])
            self.labels.append(ClipLabel(Scene(**scene), fps, float(record["start"])) if scene else None)
            self.sentences.append(tuple(record["sentences"]))
            self._fps.append(fps)
            self._spans.append(tuple((start, stop) for start, stop in record.get("text", ())))
            self._still_frames.append(tuple(record["stills"]))
            self._where.append((shard, row))

    def _open_array(self, kind: str, shard: int) -> Latents:
        latents: Latents = np.load(_path(self.path, kind, shard), mmap_mode="r")
        return latents


def write_shard(
    path: Path, shard: int, arrays: Mapping[str, npt.NDArray[np.float16]], records: Iterable[Mapping[str, object]]
) -> None:
    """Put a shard on the disk, its arrays by kind (latents, stills, text); it is complete when this returns."""
    for kind, array in arrays.items():
        with _part(path, kind, shard).open("wb") as file:
            np.save(file, array)
    _complete(path, shard, arrays, [json.dumps(record, ensure_ascii=False) for record in records])


def write_prompts(path: Path, embeddings: Mapping[str, npt.NDArray[np.float16]]) -> None:
    """Put the embeddings (positions, channels) of sentences of no clip on the disk.

    Those that are there already must be the first, as they are: then a reader finds them whenever this is stopped.
    """
    ends = np.cumsum([len(embedding) for embedding in embeddings.values()]).tolist()
    spans = {text: (end - len(e), end) for (text, e), end in zip(embeddings.items(), ends, strict=True)}
    for name, write in (
        (PROMPT_TEXT, lambda file: np.save(file, np.concatenate(list(embeddings.values())))),
        (PROMPTS, lambda file: file.write(json.dumps(spans, ensure_ascii=False).encode())),
    ):
        half_done = path / f"{name}.part"
        with half_done.open("wb") as file:
            write(file)
        half_done.replace(path / name)


@torch.no_grad()
def encode_video(vae: CausalVAE, video: Tensor) -> Latents:
    """Latents (B, channels, T, H, W) of a video of -1..1, computed where the VAE is and in its type."""
    parameter = next(vae.parameters())
    latents: Latents = vae.encode(video.to(parameter.device, parameter.dtype)).float().cpu().numpy().astype(np.float16)
    return latents


def subject_of(label: ClipLabel, frames: int, height: int, width: int) -> Latents:
    """How much of each latent (T, H, W) the subject covers in a clip of the film world, 0..1."""
    from everreel.world.render import coverage  # the drawing library is needed here alone

    return of_latents(coverage(label.scene, frames, height=height, width=width, fps=label.fps, start=label.start))


def of_latents(coverage_THW: npt.NDArray[np.uint8]) -> Latents:
    """What of each latent (T, H, W) is covered, 0..1, where 0..255 of each pixel is: the mean of what it stands for."""
    frames, height, width = coverage_THW.shape
    cells = coverage_THW.reshape(frames, height // SPATIAL, SPATIAL, width // SPATIAL, SPATIAL).mean((2, 4)) / 255
    stands_for = [frames_of(latent) for latent in range(latent_frames(frames))]
    return np.stack([cells[span.start : span.stop].mean(0) for span in stands_for]).astype(np.float16)


def encode_stills(vae: CausalVAE, clip: Frames, at: Sequence[int]) -> Latents:
    """Stills (stills, channels, H, W) of some frames of a clip."""
    pictures = np.repeat(clip[np.asarray(at)][:, None], STILL_FRAMES, axis=1)
    return encode_video(vae, to_unit_range(pictures))[:, :, 1]


def draw_group(
    groups: Mapping[Group, Sequence[int]], generator: torch.Generator, batch: int
) -> tuple[Group, list[int]]:
    """A group, drawn by its number of clips, and `batch` of its clips."""
    key = draw_key(groups, generator)
    return key, draw_members(groups[key], generator, batch)


def draw_key(groups: Mapping[Key, Sequence[int]], generator: torch.Generator) -> Key:
    """A group, drawn by the number of its members."""
    keys = sorted(groups)
    place = draw_int(generator, 0, sum(len(groups[key]) for key in keys))
    for key in keys:
        if place < len(groups[key]):
            return key
        place -= len(groups[key])
    raise AssertionError("unreachable")


def draw_members(members: Sequence[int], generator: torch.Generator, count: int) -> list[int]:
    """So many of them, one as likely as the other, each time anew."""
    return [members[draw_int(generator, 0, len(members))] for _ in range(count)]


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
    arrays["subject"] = _new_array(path, "subject", shard, (len(indices), *size[1:]))
    lines = []
    for row, index in enumerate(indices):
        generator = generator_for(settings.seed, "latents", index)
        at = [draw_int(generator, 1, frames) for _ in range(stills)]
        if at:
            arrays["stills"][row] = encode_stills(vae, clips.clip(index), at)
        label = clips.labels[index]
        arrays["subject"][row] = subject_of(label, frames, height, width)
        record = {
            "scene": asdict(label.scene),
            "fps": label.fps,
            "start": label.start,
            "stills": [latent_index(frame) for frame in at],
            "sentences": [sentence(label.scene, generator) for _ in range(settings.sentences)],
        }
        lines.append(json.dumps(record))
    together = max(1, settings.batch // frames)
    for start in range(0, len(indices), together):
        video = to_unit_range([clips.clip(index) for index in indices[start : start + together]])
        latents[start : start + together] = encode_video(vae, video)
    for array in arrays.values():
        array.flush()
    _complete(path, shard, arrays, lines)


def _complete(path: Path, shard: int, kinds: Iterable[str], lines: Sequence[str]) -> None:
    """Give the arrays of a shard their names, and write what is known of its clips last."""
    for kind in kinds:
        _part(path, kind, shard).replace(_path(path, kind, shard))
    _part(path, "shard", shard).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _part(path, "shard", shard).replace(_path(path, "shard", shard))


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
