"""What a captioner and meters say of the clips of a latent store: what later stages balance and select by.

Source: sections 1 and 4a of the paper, which balances by the captioner's subject types and trains its last stage on
what quality scores let pass. The one invariant: a store's `labels.jsonl` has a line a clip in the store's order; what
is not there yet is added behind it, so a run that was stopped goes on.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everreel.caption.runs import captioner_of
from everreel.caption.schema import StructuralCaption
from everreel.checkpoint.load import load_vae
from everreel.data.clips import ClipStore, Frames, to_bytes
from everreel.data.latents import LatentStore
from everreel.evaluate.quality import QualityMeter
from everreel.film.loading import source_of

LABELS = "labels.jsonl"


@dataclass(frozen=True)
class ClipLook:
    """One clip's caption, and what was measured of how it looks (names as in `everreel evaluate quality`)."""

    caption: StructuralCaption
    measures: dict[str, float]


@dataclass(frozen=True)
class LabelRecipe:
    """Looks at the first `latents` of each clip of `store`: at the pixels of `clips`, the clip store that it was
    encoded from, or else at what `vae` (a model's name, or a folder) makes of its latents.

    `captioner` is a name as in `everreel caption --captioner`; with `measured=False` nothing but captions is written.
    """

    store: str
    clips: str | None = None
    vae: str | None = None
    captioner: str = "tiny"
    latents: int = 5
    measured: bool = True
    device: str = "cpu"
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.clips is None) == (self.vae is None):
            raise ValueError("clips: give either it or vae, whose decoder shows the clips; vae='tiny' works")
        if self.latents < 1:
            raise ValueError(f"latents={self.latents}: must be 1 or more; 5 works")

    def run(self, run_dir: Path, quiet: bool = False) -> list[ClipLook]:
        """Label what is missing. The labels lie in the store; the run folder is not used."""
        path = Path(self.store) / LABELS
        deadline = time.monotonic() + (self.max_seconds or math.inf)
        store = LatentStore(self.store)
        done, total = _whole_lines(path), len(store)
        if done < total:
            captioner = captioner_of(self.captioner, self.device)
            with path.open("a", encoding="utf-8") as file:
                for index, (frames, fps) in enumerate(self._films(store, done), done):
                    if time.monotonic() > deadline:
                        break
                    caption = captioner.caption(frames, fps)
                    measures = _measures(frames, fps) if self.measured else {}
                    file.write(json.dumps({"caption": caption.model_dump(), "measures": measures}) + "\n")
                    file.flush()
                    if not quiet and (index + 1) % 200 in (0, total % 200):
                        sys.stderr.write(f"labels: {index + 1}/{total}\n")
        return read_labels(store)

    def is_done(self, run_dir: Path) -> bool:
        """Whether every clip is labelled."""
        path = Path(self.store) / LABELS
        return path.is_file() and path.read_bytes().count(b"\n") >= len(LatentStore(self.store))

    @torch.no_grad()
    def _films(self, store: LatentStore, first: int) -> Iterator[tuple[Frames, float]]:
        if self.clips is not None:
            clips = ClipStore(self.clips)
            if clips.labels[: len(store)] != store.labels:
                rule = f"its {len(clips)} clips are not those of the {len(store)} latents"
                raise ValueError(f"clips={self.clips!r}: {rule}; name the store that they were encoded from")
            for index in range(first, len(store)):
                frames = clips.clip(index)[: 4 * self.latents - 3]
                yield np.asarray(frames), float(store.fps(index))
            return
        assert self.vae is not None
        vae = load_vae(self.vae if Path(self.vae).is_dir() else source_of(self.vae), self.device)
        parameter = next(vae.parameters())
        for index in range(first, len(store)):
            latents_BCTHW = store.batch([index], [(0, self.latents)]).to(parameter)
            yield to_bytes(vae.decode(latents_BCTHW))[0], float(store.fps(index))


def read_labels(store: LatentStore) -> list[ClipLook]:
    """The labels of a store, in its order.

    Raises:
        ValueError: there are none, or not of every clip.
    """
    path, total = store.path / LABELS, len(store)
    if not path.is_file():
        raise ValueError(f"store={str(store.path)!r}: has no {LABELS}; run a LabelRecipe on it first")
    looks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record: dict[str, Any] = json.loads(line)
            looks.append(ClipLook(StructuralCaption.model_validate(record["caption"]), dict(record["measures"])))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}: line {number} is no label; delete the file and run the LabelRecipe again"
            ) from None
    if len(looks) != total:
        rule = f"{len(looks)} labels for {total} clips"
        raise ValueError(f"store={str(store.path)!r}: {rule}; run the LabelRecipe on it to its end")
    return looks


def _measures(frames: Frames, fps: float) -> dict[str, float]:
    meter = QualityMeter(fps)
    meter.add(frames)
    return {name: round(value, 5) for name, value in meter.result().values.items() if math.isfinite(value)}


def _whole_lines(path: Path) -> int:
    """How many lines are there; half a line at the end, of a run that was killed, is taken away."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return content[:whole].count(b"\n")
