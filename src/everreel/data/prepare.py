"""Anybody's films as a latent store: read, cut to buckets, encoded with their captions, and put on the disk by shards.

The one invariant: a store is a function of its files, its settings and the model. A shard is on the disk when its clips
are encoded; a run that was stopped goes on behind the last one, and ends with the same bytes. What cannot be used is
skipped by name and never stops the rest; another run tries it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from everreel.data.buckets import Buckets, Cut, Size, latent_bytes
from everreel.data.clips import Frames, Progress, to_unit_range
from everreel.data.draws import draw_int, generator_for
from everreel.data.latents import (
    PROMPTS,
    Latents,
    LatentStore,
    encode_stills,
    encode_video,
    of_latents,
    write_prompts,
    write_shard,
)
from everreel.data.sources import PICTURES, Item, Skipped, read_source
from everreel.data.text import FrozenText
from everreel.film.source import WORKS, SourceFilm
from everreel.media import read_image, resize_cover
from everreel.model.vae import CausalVAE
from everreel.shapes import SIZE_STEP, latent_index

RECORD, REPORT = "store.json", "skipped.txt"
MOST_CLIPS = 512  # of a shard, however small they are
SENTENCES = 16  # that are embedded together
VAE_TOLERANCE = 0.1  # of a normalised latent; types differ by a tenth of it, and models by tens of it


@dataclass(frozen=True)
class PrepareSettings:
    """What becomes of a film.

    `every` is the seconds from one clip of a film to the next; without it a film gives one, from its beginning. So many
    `stills` are drawn of each clip. `batch` is in frames that are encoded together. A shard takes about `shard_bytes`.
    """

    buckets: Buckets
    every: float | None = None
    stills: int = 4
    batch: int = 97
    shard_bytes: int = 64_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every is not None and self.every <= 0:
            raise ValueError(f"every = {self.every}: seconds between two clips must be more than 0; 4 works")
        if self.stills < 0:
            raise ValueError(f"stills = {self.stills}: must be 0 or more; 4 works")

    def record(self) -> dict[str, Any]:
        """What a store notes of them, as JSON has it."""
        buckets = self.buckets
        return {
            "sizes": [f"{height}x{width}" for height, width in buckets.sizes],
            "frames": list(buckets.frames),
            "fps": buckets.fps,
            "every": self.every,
            "stills": self.stills,
            "shard_bytes": self.shard_bytes,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Encoders:
    """The networks that a store is made with, each where it computes and in its type, and their model's name."""

    vae: CausalVAE
    text: FrozenText
    name: str


@dataclass(frozen=True)
class Prepared:
    """A store, what of its source was left out, and how many captions were longer than the model reads."""

    store: LatentStore
    skipped: tuple[Skipped, ...]
    num_cut_captions: int


def prepare(
    source: str | Path,
    path: str | Path,
    encoders: Encoders,
    settings: PrepareSettings,
    *,
    prompts: Sequence[str] = (),
    progress: Progress | None = None,
) -> Prepared:
    """Put what is missing of a source into a store; `progress(done, total)` is called after each file.

    `prompts` are sentences to embed beside the captions, for samples during training. What is left out stands in
    `skipped.txt` too.

    Raises:
        ValueError: nothing of the source can be used, or the store was made in another way.
    """
    path = Path(path)
    items, skipped = read_source(source)
    path.mkdir(parents=True, exist_ok=True)
    _check_record(path, settings, encoders)
    _add_prompts(path, prompts, encoders.text)
    job = _Job(path, encoders, settings)
    for number, item in enumerate(items, 1):
        skipped += job.add(item)
        if progress is not None:
            progress(number, len(items))
    job.finish()
    report = path / REPORT
    if skipped:
        report.write_text("".join(f"{missed}\n" for missed in skipped), encoding="utf-8")
    else:
        report.unlink(missing_ok=True)
    if not job.num_clips:
        raise ValueError(f"source = {str(source)!r}: {_nothing(skipped, report)}")
    return Prepared(LatentStore(path), tuple(skipped), job.num_cut_captions)


def is_prepared(path: str | Path) -> bool:
    """Whether a store says what it was made with; one of the film world does not."""
    return (Path(path) / RECORD).is_file()


def check_vae(path: str | Path, vae: CausalVAE) -> None:
    """Refuse a prepared store whose latents are another VAE's.

    Raises:
        ValueError: with the model that it was prepared for.
    """
    record = json.loads((Path(path) / RECORD).read_text(encoding="utf-8"))
    if not np.allclose(record["latents"], _latents_of_a_ramp(vae), atol=VAE_TOLERANCE):
        made = f"was prepared with the VAE of {record['model']}, which is another"
        raise ValueError(f"store = {str(path)!r}: {made}; prepare an empty folder with this model")


def describe(store: LatentStore) -> list[str]:
    """A line a bucket: length, size, tokens of a clip for the transformer, and clips."""
    lines = []
    for (frames, height, width), clips in sorted(store.groups.items()):
        tokens, size = frames * height * width // 4, f"{8 * height}x{8 * width}"
        rates = "+".join(str(fps) for fps in sorted({store.fps(clip) for clip in clips}))
        length = f"{1 + 4 * (frames - 1)} frames at {rates} a second" if frames > 1 else "pictures"
        lines.append(f"{size}, {length}, {tokens} tokens: {len(clips)}")
    return lines


@dataclass
class _Clip:
    """A clip that is read, and its record."""

    pixels: Frames
    record: dict[str, Any]
    mask: Frames | None
    """As its pixels, white where the subject is."""


@dataclass
class _Shelf:
    """The clips of one bucket that wait for their shard to be full: first as pixels, then as latents."""

    waiting: list[_Clip] = field(default_factory=list)
    latents: list[Latents] = field(default_factory=list)
    stills: list[Latents] = field(default_factory=list)
    subjects: list[Latents | None] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


class _Job:
    """One run: files in, shards out."""

    def __init__(self, path: Path, encoders: Encoders, settings: PrepareSettings) -> None:
        self.path, self.encoders, self.settings = path, encoders, settings
        self.num_clips = 0
        self.num_cut_captions = 0
        self._shelves: dict[tuple[int, int, int], _Shelf] = {}
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._shard = 0
        for labels in sorted(path.glob("shard-*.jsonl")):
            self._shard = int(labels.stem.split("-")[1]) + 1
            for line in labels.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._known.setdefault(record["file"], []).append(record)
                self.num_clips += 1

    def add(self, item: Item) -> list[Skipped]:
        """Take the clips of a file that are not in the store yet; what is wrong with it is returned."""
        clips = self._clips(item)
        while True:
            try:  # no more than the reading: a full disk is nobody's fault here
                clip = next(clips, None)
            except (ValueError, OSError, av.error.FFmpegError) as error:
                return [Skipped(item.name, _reason(error, item.path))]
            if clip is None:
                return []
            self._put(clip)

    def finish(self) -> None:
        """Put what is left on the disk, in shards that are not full."""
        for _, shelf in sorted(self._shelves.items()):  # in an order that a run which was stopped has too
            self._write(shelf)

    def _clips(self, item: Item) -> Iterator[_Clip]:
        num_bytes, known = item.path.stat().st_size, self._known.get(item.name, [])
        self._check_known(item, num_bytes, known)
        if known and len(known) == known[0]["clips"]:
            return
        if not num_bytes:
            raise ValueError("is empty: 0 bytes")
        if item.is_picture:
            whole = read_image(item.path)
            pixels = _cut_out(whole, item)
            if min(pixels.shape[:2]) < SIZE_STEP:
                raise ValueError(f"is {pixels.shape[1]}x{pixels.shape[0]}: must be at least {SIZE_STEP} on each side")
            size = self.settings.buckets.size_for(*pixels.shape[:2])
            fps = self.settings.buckets.rates_for(0)[0]
            masks = _Masks(item, *whole.shape[:2])
            record = _record(item, num_bytes, Cut((0,), fps, 0.0), 1)
            yield _Clip(resize_cover(pixels, *size)[None], record, masks.read((0,), size))
            return
        film = SourceFilm.open(item.path)
        height, width = (item.crop[3], item.crop[2]) if item.crop else (film.height, film.width)
        _check_crop(item, film)
        size, cuts = self.settings.buckets.size_for(height, width), self._cuts(film, item)
        masks = _Masks(item, film.height, film.width, film.timeline.shown_at)
        done = {record["start"] for record in known}
        for cut in cuts:
            if cut.start not in done:
                record = _record(item, num_bytes, cut, len(cuts))
                yield _Clip(_read(film, item, cut.times, size), record, masks.read(cut.times, size))

    def _cuts(self, film: SourceFilm, item: Item) -> list[Cut]:
        buckets, every, tick = self.settings.buckets, self.settings.every, film.timeline.tick
        shown_at = _within(film, item)
        duration = float((shown_at[-1] - shown_at[0]) * tick) + 1 / film.fps if shown_at else 0.0
        starts = [0.0] if every is None else [round(n * every, 3) for n in range(int(duration / every) + 1)]
        found = (buckets.cut(shown_at, tick, start) for start in starts if shown_at)
        if cuts := [cut for cut in found if cut is not None]:
            return cuts
        frames, slowest = min(buckets.frames), min(buckets.rates_for(film.fps))
        if duration < frames / slowest:
            shortest = f"the shortest clip, {frames} frames at {slowest} a second, takes {frames / slowest:.2f}"
            raise ValueError(f"is too short: {duration:.2f} s; {shortest}")
        raise ValueError(f"has too few frames: {film.fps:.4g} a second, unevenly perhaps; {slowest} are needed")

    def _put(self, clip: _Clip) -> None:
        frames, height, width, _ = clip.pixels.shape
        shelf = self._shelves.setdefault((frames, height, width), _Shelf())
        shelf.waiting.append(clip)
        self.num_clips += 1
        size = latent_bytes((height, width), frames, self.encoders.vae.config.z_dim)
        most = max(1, min(MOST_CLIPS, self.settings.shard_bytes // size))
        is_full = len(shelf.latents) + len(shelf.waiting) == most
        if is_full or len(shelf.waiting) * frames >= self.settings.batch:
            self._encode(shelf)
        if is_full:
            self._write(shelf)

    def _encode(self, shelf: _Shelf) -> None:
        vae = self.encoders.vae
        shelf.latents += list(encode_video(vae, to_unit_range([clip.pixels for clip in shelf.waiting])))
        for clip in shelf.waiting:
            record, frames = clip.record, len(clip.pixels)
            shelf.subjects.append(None if clip.mask is None else of_latents(clip.mask[..., 0]))
            generator = generator_for(self.settings.seed, "latents", record["file"], repr(record["start"]))
            at = [draw_int(generator, 1, frames) for _ in range(self.settings.stills)] if frames > 1 else []
            if at:
                shelf.stills.append(encode_stills(vae, clip.pixels, at))
            shelf.records.append(record | {"stills": [latent_index(frame) for frame in at]})
        shelf.waiting.clear()

    def _write(self, shelf: _Shelf) -> None:
        if shelf.waiting:
            self._encode(shelf)
        if not shelf.latents:
            return
        sentences = list(dict.fromkeys(text for record in shelf.records for text in record["sentences"]))
        embedded, cut = _embed(sentences, self.encoders.text)
        self.num_cut_captions += cut
        ends = np.cumsum([len(part) for part in embedded]).tolist()
        spans = {text: [end - len(e), end] for text, e, end in zip(sentences, embedded, ends, strict=True)}
        records = [record | {"text": [spans[text] for text in record["sentences"]]} for record in shelf.records]
        arrays = {"latents": np.stack(shelf.latents), "text": np.concatenate(embedded)}
        if shelf.stills:
            arrays["stills"] = np.stack(shelf.stills)
        if any(subject is not None for subject in shelf.subjects):
            nowhere = np.zeros(shelf.latents[0].shape[1:], np.float16)
            arrays["subject"] = np.stack([nowhere if each is None else each for each in shelf.subjects])
        write_shard(self.path, self._shard, arrays, records)
        self._shard += 1
        for part in (shelf.latents, shelf.stills, shelf.subjects, shelf.records):
            part.clear()

    def _check_known(self, item: Item, num_bytes: int, known: Sequence[dict[str, Any]]) -> None:
        for record in known:
            same = {
                "file": record["bytes"] == num_bytes,
                "captions": tuple(record["sentences"]) == item.captions,
                "mask": record.get("mask") == _num_bytes(item.mask),
            }
            if what := next((name for name, kept in same.items() if not kept), None):
                raise ValueError(
                    f"its {what} changed since {self.path} was made; prepare an empty folder to have it new"
                )


def _read(film: SourceFilm, item: Item, times: Sequence[int], size: Size) -> Frames:
    pixels = np.empty((len(times), *size, 3), np.uint8)
    for number, frame_HWC in enumerate(film.frames_at(times)):
        pixels[number] = resize_cover(_cut_out(frame_HWC, item), *size)
    return pixels


class _Masks:
    """The mask of an item, cut and scaled as the item is."""

    def __init__(self, item: Item, height: int, width: int, shown_at: Sequence[int] = (0,)) -> None:
        """`shown_at` is when the film's frames are shown; a picture has one.

        Raises:
            ValueError: it is of another size or length.
        """
        self.item, self._film, self._still = item, None, None
        self._place = {time: place for place, time in enumerate(shown_at)}
        if item.mask is None:
            return
        if item.mask.suffix.lower() in PICTURES:
            self._still = read_image(item.mask)
            found = self._still.shape[:2]
        else:
            self._film = SourceFilm.open(item.mask)
            found = (self._film.height, self._film.width)
            frames = len(self._film.timeline.shown_at)
            if frames != len(shown_at):
                raise ValueError(f"its mask {item.mask.name} has {frames} frames: must have {len(shown_at)}")
        if found != (height, width):
            raise ValueError(f"its mask {item.mask.name} is {found[1]}x{found[0]}: must be {width}x{height}")

    def read(self, times: Sequence[int], size: Size) -> Frames | None:
        """The mask at these moments of the film, (T, H, W, 3), if there is one."""
        if self._still is not None:
            return np.repeat(resize_cover(_cut_out(self._still, self.item), *size)[None], len(times), axis=0)
        if self._film is None:
            return None
        shown_at = self._film.timeline.shown_at
        return _read(self._film, self.item, [shown_at[self._place[time]] for time in times], size)


def _num_bytes(path: Path | None) -> int | None:
    return None if path is None else path.stat().st_size


def _within(film: SourceFilm, item: Item) -> tuple[int, ...]:
    """When the frames of a part of a film are shown; a frame that begins with the part is in it, to a half."""
    times, tick = film.timeline.shown_at, float(film.timeline.tick)
    half = 0.5 / film.fps
    first, last = item.start - half, math.inf if item.stop is None else item.stop - half
    return tuple(time for time in times if first <= (time - times[0]) * tick < last)


def _cut_out(frame_HWC: Frames, item: Item) -> Frames:
    if item.crop is None:
        return frame_HWC
    left, top, width, height = item.crop
    return frame_HWC[top : top + height, left : left + width]


def _check_crop(item: Item, film: SourceFilm) -> None:
    if item.crop is None:
        return
    left, top, width, height = item.crop
    if left + width > film.width or top + height > film.height:
        raise ValueError(f"crop = {list(item.crop)}: must lie within the film, {film.width}x{film.height}")


def _record(item: Item, num_bytes: int, cut: Cut, clips: int) -> dict[str, Any]:
    known = {"file": item.name, "bytes": num_bytes, "clips": clips, "start": cut.start, "fps": cut.fps}
    if item.mask is not None:
        known["mask"] = _num_bytes(item.mask)
    return known | {"sentences": list(item.captions)}


def _reason(error: Exception, path: Path) -> str:
    """Why a file was skipped, without its name and without advice."""
    text = " ".join(str(error).split())
    for field_name in ("video", "image"):
        text = text.removeprefix(f"{field_name} = {path}: ")
    return text.removesuffix(f"; {WORKS}")


def _embed(sentences: Sequence[str], text: FrozenText) -> tuple[list[Latents], int]:
    """Embeddings (positions, channels) of sentences, as long as they are, and how many were cut.

    The last thing that the encoder does is a norm, so that its numbers lie well within float16.
    """
    device = next(text.encoder.parameters()).device
    parts: list[Latents] = []
    num_cut = 0
    for start in range(0, len(sentences), SENTENCES):
        tokens = text.tokenizer(sentences[start : start + SENTENCES], length=text.length)
        num_cut += sum(dropped > 0 for dropped in tokens.num_dropped)
        embedding_BLD, mask_BL = text.embed(tokens.ids.to(device))
        lengths = mask_BL.sum(1).tolist()
        rows = embedding_BLD.float().cpu().numpy().astype(np.float16)
        parts += [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return parts, num_cut


def _add_prompts(path: Path, prompts: Sequence[str], text: FrozenText) -> None:
    """The empty sentence, which training needs, those that are there, and those asked for."""
    known = json.loads((path / PROMPTS).read_text(encoding="utf-8")) if (path / PROMPTS).is_file() else {}
    wanted = list(dict.fromkeys(["", *known, *prompts]))
    if len(wanted) > len(known):
        write_prompts(path, dict(zip(wanted, _embed(wanted, text)[0], strict=True)))


def _check_record(path: Path, settings: PrepareSettings, encoders: Encoders) -> None:
    """Refuse to mix two ways of preparing in one store."""
    file, wanted = path / RECORD, settings.record()
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if changed := [name for name in wanted if found.get(name) != wanted[name]]:
            what = ", ".join(f"{name} = {found.get(name)}" for name in changed)
            raise ValueError(f"store = {str(path)!r}: was prepared with {what}; prepare an empty folder, or use these")
        check_vae(path, encoders.vae)
        return
    if any(path.glob("shard-*.jsonl")):
        raise ValueError(f"store = {str(path)!r}: holds clips of another kind; prepare an empty folder")
    wanted |= {"model": encoders.name, "latents": _latents_of_a_ramp(encoders.vae)}
    half_done = file.with_suffix(".part")
    half_done.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    half_done.replace(file)


def _latents_of_a_ramp(vae: CausalVAE) -> list[float]:
    """What tells one VAE from another: its latents of a small picture whose colours rise in three directions."""
    rise = torch.linspace(-1, 1, SIZE_STEP)
    ramps = torch.stack(torch.broadcast_tensors(rise[:, None], rise[None], (rise[:, None] + rise[None]) / 2))
    return [round(float(value), 4) for value in encode_video(vae, ramps[None, :, None]).flatten()]


def _nothing(skipped: Sequence[Skipped], report: Path) -> str:
    if not skipped:
        return "holds no film and no picture; put films there, each with its caption in a .txt beside it"
    rest = f", and {len(skipped) - 1} more, listed in {report}" if len(skipped) > 1 else ""
    return f"nothing in it can be used: {skipped[0]}{rest}"
