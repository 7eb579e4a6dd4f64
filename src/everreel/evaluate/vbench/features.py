"""Three of VBench's dimensions by its own formulas, from frames and a vision model that one has.

Source: Vchitect/VBench, `vbench/subject_consistency.py` (DINO ViT-B/16), `background_consistency.py` (CLIP ViT-B/32)
and `temporal_flickering.py` (no model). Frames are sized as its transforms size them (shorter side 224, no filter
against aliasing; CLIP's middle is cut out, DINO sees the whole frame).

The one invariant: a measure has the suite's name only if it is the suite's measure. So smoothness, which it takes from
a network that draws frames between frames, and motion, aesthetics and the rest, which need their own networks, are not
here: `runner` has the suite measure them. Two differences are left: other weights than DINO's and CLIP's give other
numbers (`measured.json` says whose they are), and flickering is measured on every film, where the suite first leaves
out those that move.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everreel.data.sources import FILMS
from everreel.evaluate.films import write_json
from everreel.evaluate.vbench.films import FLICKERING, VIDEOS, listed_films
from everreel.evaluate.vbench.results import ENDING
from everreel.media import Pixels, Video

SIDE = 224
BATCH = 16  # frames that a model sees at once
DINO, CLIP = "subject_consistency", "background_consistency"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class FeatureExtractor(Protocol):
    """Frames, uint8 (T, H, W, 3), to what a model sees in each, (T, D)."""

    def __call__(self, frames: Pixels, /) -> Tensor: ...


@dataclass(frozen=True)
class FilmScore:
    """One film: its score, and how many frames it is the mean of."""

    path: str
    score: float
    num_frames: int


@dataclass(frozen=True)
class Measured:
    """Films measured in one dimension, and those that could not be: `skipped` has a line for each."""

    dimension: str
    films: tuple[FilmScore, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def score(self) -> float:
        """As the suite averages: over frames for the two consistencies, over films for flickering."""
        weights = [1 if self.dimension == FLICKERING else film.num_frames for film in self.films]
        total = sum(film.score * weight for film, weight in zip(self.films, weights, strict=True))
        return total / sum(weights) if weights else math.nan

    def save(self, output: Path, source: Mapping[str, str]) -> Path:
        """A result file in the suite's form, and beside it `measured.json`: by what each dimension was measured."""
        rows = [{"video_path": film.path, "video_results": film.score} for film in self.films]
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{self.dimension}{ENDING}"
        write_json(path, {self.dimension: [self.score, rows]})
        record = output / "measured.json"
        before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        write_json(record, {**before, self.dimension: dict(source)})
        return path


def consistency(frames: Iterable[Pixels], features: FeatureExtractor) -> FilmScore:
    """How alike frames look to a model: to the one before and to the first, the mean of both, never below nought.

    Raises:
        ValueError: a single frame, which is like nothing.
    """
    first = before = None
    total, pairs = 0.0, -1
    for batch in _batches(frames):
        for seen in F.normalize(features(batch).float(), dim=-1):
            if first is not None and before is not None:
                total += (max(0.0, float(before @ seen)) + max(0.0, float(first @ seen))) / 2
            first, before = seen if first is None else first, seen
            pairs += 1
    return _score(total, pairs)


def temporal_flickering(frames: Iterable[Pixels]) -> FilmScore:
    """One less the mean difference of neighbouring frames, in shares of 255.

    Raises:
        ValueError: a single frame, which has no neighbour.
    """
    before, total, pairs = None, 0.0, -1
    for frame in frames:
        now = frame.astype(np.float32)
        total += 0.0 if before is None else 1 - float(np.abs(now - before).mean(dtype=np.float64)) / 255
        before = now
        pairs += 1
    return _score(total, pairs)


def measure(
    dimension: str,
    films: Sequence[Path],
    score: Callable[[Iterable[Pixels]], FilmScore],
    on_film: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure films; one that cannot be read or has a single frame is skipped and told.

    Raises:
        ValueError: none could be measured.
    """
    scores, skipped = [], []
    for number, path in enumerate(films):
        if on_film is not None:
            on_film(number, len(films))
        try:
            found = score(Video(path).frames)
            scores.append(FilmScore(str(path), found.score, found.num_frames))
        except (ValueError, OSError) as error:
            skipped.append(f"skipped {path.name}: {' '.join(str(error).split())}")
    if on_film is not None:
        on_film(len(films), len(films))
    if not scores:
        why = f" ({skipped[0]})" if skipped else ""
        raise ValueError(f"films = {len(films)} files: none could be measured{why}; films of two frames and more work")
    return Measured(dimension, tuple(scores), tuple(skipped))


def films_of(folder: Path, dimension: str) -> list[Path]:
    """The films of a dimension in a folder that was filled for the suite, or all films of any other folder.

    Raises:
        ValueError: it holds no film at all.
    """
    if listed := listed_films(folder):
        files = (folder / VIDEOS / film.file for film in listed if dimension in film.dimensions)
        return [file for file in files if file.is_file()]
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in FILMS)
    if not found:
        raise ValueError(f"films = {folder}: holds no film; give a folder of films, such as MP4s")
    return found


def dino(path: str | Path, device: str = "cpu") -> FeatureExtractor:
    """What a vision transformer's first token says of a frame; the suite's is `facebook/dino-vitb16`.

    Frames keep their shape, so its positions are stretched, by transformers' rule. DINO's own rule adds a tenth of a
    patch, so where the weights are the same the scores are still not the suite's to the last decimal.

    Raises:
        ValueError: there is no such model at the path.
    """
    model = _load(path, "AutoModel", device)

    def features(frames: Pixels) -> Tensor:
        pixels = _normalized(_resized(frames, "bilinear"), *IMAGENET).to(device)
        tokens: Tensor = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 0]

    return _checked(features, path, "a vision transformer, such as facebook/dino-vitb16")


def clip(path: str | Path, device: str = "cpu") -> FeatureExtractor:
    """What CLIP says of a frame's middle; the suite's is `openai/clip-vit-base-patch32`.

    Raises:
        ValueError: there is no such model at the path.
    """
    model = _load(path, "CLIPVisionModelWithProjection", device)

    def features(frames: Pixels) -> Tensor:
        pixels = _resized(frames, "bicubic")
        top, left = (round((size - SIDE) / 2) for size in pixels.shape[-2:])
        middle = pixels[..., top : top + SIDE, left : left + SIDE]
        embeds: Tensor = model(pixel_values=_normalized(middle, *OPENAI).to(device)).image_embeds
        return embeds

    return _checked(features, path, "a CLIP model, such as openai/clip-vit-base-patch32")


def _load(path: str | Path, kind: str, device: str) -> Any:  # noqa: ANN401 -- one of transformers' classes
    import transformers

    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(f"model = {folder}: has no config.json; give the folder of a model that transformers saved")
    try:
        model, info = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"model = {folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    # What a file lacks is drawn at random, and a measure made of that means nothing. The pooler is not looked at.
    lacking = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if lacking:
        raise ValueError(f"model = {folder}: has no weights for {lacking[0]}; a whole {kind} works")
    return model.to(device).eval()


def _checked(features: Callable[[Pixels], Tensor], path: str | Path, works: str) -> FeatureExtractor:
    """Refuse a model of another kind before any film is read."""

    @torch.no_grad()
    def extract(frames: Pixels, /) -> Tensor:
        return features(frames)

    try:
        seen = extract(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(f"model = {path}: does not look at frames ({str(error)[:120]}); {works} works") from None
    if seen.ndim != 2:
        raise ValueError(f"model = {path}: gives {tuple(seen.shape)} for a frame; {works} works")
    return extract


def _resized(frames: Pixels, mode: str) -> Tensor:
    """(T, 3, H, W), 0 to 255, the shorter side `SIDE`; the longer is rounded down, as torchvision does."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    height, width = pixels.shape[-2:]
    short = min(height, width)
    size = (SIDE * height // short, SIDE * width // short)
    return F.interpolate(pixels, size, mode=mode, align_corners=False)


def _normalized(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    shape = (1, 3, 1, 1)
    return (pixels / 255 - torch.tensor(mean).view(shape)) / torch.tensor(deviation).view(shape)


def _batches(frames: Iterable[Pixels]) -> Iterator[Pixels]:
    rest = iter(frames)
    while batch := list(islice(rest, BATCH)):
        yield np.stack(batch)


def _score(total: float, pairs: int) -> FilmScore:
    if pairs < 1:
        raise ValueError(f"frames = {pairs + 1}: must be at least 2; a film has neighbouring frames")
    return FilmScore("", total / pairs, pairs)
