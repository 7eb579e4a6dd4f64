"""Rendered clips of the film world on disk: raw frames in shards, read memory-mapped.

A store is a folder of shards; a shard is `shard-00000.npy` (clips, frames, height, width, 3; uint8) and
`shard-00000.jsonl`, one line a clip: its scene, frame rate and start. All clips of a shard have one size
and one frame rate; sizes vary from shard to shard. An image is a clip of one frame. The one invariant: what
a shard holds depends on the layout and the shard's number alone, and its `.jsonl` appears last, so a
rendering that was stopped goes on where it was, and the result is the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from everreel.data.draws import draw_float, generator_for
from everreel.world.scene import Odds, Scene, check_odds, sample_scene
from everreel.world.style import check_style

Frames = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
Size = tuple[int, int]

FRAME_RATES = (16, 24)
STARTS_SECONDS = 60
MOST_STARTS = 20  # that are tried


@dataclass(frozen=True)
class StoreLayout:
    """What a store holds: `sizes` are (height, width, share); `slow_share` of the shards run at 16 fps,
    others at 24. `style` is a print of `world.style`; None is the world as it is. `odds` make some of what scenes show
    more frequent than the rest (see `world.scene.sample_scene`): a world in which most films are of people.
    """

    count: int
    num_frames: int
    sizes: tuple[tuple[int, int, float], ...] = ((96, 160, 0.8), (160, 96, 0.1), (128, 128, 0.1))
    slow_share: float = 0.15
    seed: int = 0
    split: str = "train"
    shard_clips: int = 64
    style: str | None = None
    odds: Odds = ()

    def __post_init__(self) -> None:
        for field in ("count", "num_frames", "shard_clips"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field}={value}: must be 1 or more; the nearest that works is 1")
        check_style(self.style)
        check_odds(self.odds)
        if not self.sizes:
            raise ValueError("sizes=(): name at least one (height, width, share), such as (96, 160, 1.0)")
        if not 0 <= self.slow_share <= 1:
            nearest = min(max(self.slow_share, 0), 1)
            raise ValueError(f"slow_share={self.slow_share}: a share lies in 0..1; the nearest that works is {nearest}")

    @property
    def num_shards(self) -> int:
        """How many shards hold `count` clips."""
        return -(-self.count // self.shard_clips)

    def shard_shape(self, shard: int) -> tuple[int, int, int, int]:
        """Clips, frames, height and width of one shard."""
        clips = min(self.shard_clips, self.count - shard * self.shard_clips)
        height, width = self._shard_size(shard)
        return clips, self.num_frames, height, width

    def shard_fps(self, shard: int) -> int:
        """The frame rate of one shard: 16 for an even spread of `slow_share` of them."""
        return FRAME_RATES[0] if _spread(shard, 0.7548776662466927) < self.slow_share else FRAME_RATES[1]

    def _shard_size(self, shard: int) -> Size:
        total = sum(share for *_, share in self.sizes)
        # A golden-ratio walk keeps the shares even in any run of shards, so that a small store has every
        # size too.
        point, passed = _spread(shard, 0.6180339887498949) * total, 0.0
        for height, width, share in self.sizes:
            passed += share
            if point < passed:
                return height, width
        return self.sizes[-1][:2]


def render_store(
    path: str | Path,
    layout: StoreLayout,
    *,
    processes: int = 2,
    max_seconds: float | None = None,
    progress: Progress | None = None,
) -> ClipStore:
    """Render what is missing of a store; shards that are complete are kept. Stops early after `max_seconds`.

    `progress(done, total)` is called after each shard, in clips.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    _check_layout(path, layout)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    missing = [shard for shard in range(layout.num_shards) if not has_shard(path, shard)]
    done = layout.count - sum(layout.shard_shape(shard)[0] for shard in missing)
    for shard in _render_shards(path, layout, missing, processes, deadline):
        done += layout.shard_shape(shard)[0]
        if progress is not None:
            progress(done, layout.count)
    return ClipStore(path)


@dataclass(frozen=True)
class ClipLabel:
    """All that is known of a clip but its frames."""

    scene: Scene
    fps: int
    start: float


class ClipStore:
    """A folder of rendered clips; frames are mapped, not read, so opening a store of any size costs
    nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.labels: list[ClipLabel] = []
        self._where: list[tuple[int, int]] = []
        self.groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for labels_path in sorted(self.path.glob("shard-*.jsonl")):
            self._add_shard(labels_path)
        if not self.labels:
            raise ValueError(f"path={self.path}: no complete shard here; render a store into it first")
        self._shard = lru_cache(maxsize=512)(self._open_shard)

    def __len__(self) -> int:
        return len(self.labels)

    def clip(self, index: int) -> Frames:
        """Frames (frames, height, width, 3) of one clip, mapped from the disk; index it before you copy
        it.
        """
        shard, row = self._where[index]
        frames: Frames = self._shard(shard)[row]
        return frames

    def scene(self, index: int) -> Scene:
        """What one clip shows."""
        return self.labels[index].scene

    def fps(self, index: int) -> int:
        """The frame rate of one clip."""
        return self.labels[index].fps

    def start(self, index: int) -> float:
        """The second of its endless scene at which one clip starts."""
        return self.labels[index].start

    def shards(self) -> dict[int, list[int]]:
        """The clips of each shard; all of one shard have one size and frame rate."""
        members: dict[int, list[int]] = defaultdict(list)
        for index, (shard, _) in enumerate(self._where):
            members[shard].append(index)
        return dict(members)

    def _add_shard(self, labels_path: Path) -> None:
        shard = int(labels_path.stem.split("-")[1])
        clips, frames, height, width, _ = np.load(_frames_path(self.path, shard), mmap_mode="r").shape
        lines = labels_path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == clips, (labels_path, len(lines), clips)
        for row, line in enumerate(lines):
            record = json.loads(line)
            self.groups[frames, height, width].append(len(self.labels))
            self.labels.append(ClipLabel(Scene(**record["scene"]), int(record["fps"]), float(record["start"])))
            self._where.append((shard, row))

    def _open_shard(self, shard: int) -> Frames:
        frames: Frames = np.load(_frames_path(self.path, shard), mmap_mode="r")
        return frames


def clip_label(layout: StoreLayout, index: int) -> ClipLabel:
    """The scene, frame rate and start of clip `index`: a pure function of the layout.

    The start is drawn until the subject is in view, since the labels name it.
    """
    from everreel.world.render import is_in_view

    generator = generator_for(layout.seed, layout.split, "clip", index)
    scene = sample_scene(generator, layout.split, layout.odds)
    fps = layout.shard_fps(index // layout.shard_clips)
    _, num_frames, height, width = layout.shard_shape(index // layout.shard_clips)
    for _ in range(MOST_STARTS):
        start = round(draw_float(generator) * STARTS_SECONDS, 3)
        if is_in_view(scene, num_frames, height=height, width=width, fps=fps, start=start):
            break
    return ClipLabel(scene, fps, start)


@contextmanager
def shard_writer(
    path: Path, shard: int, shape: tuple[int, int, int, int], labels: Sequence[ClipLabel]
) -> Iterator[Frames]:
    """An array on the disk to fill with frames; the shard is complete once this context ends without an
    error, and by then has to have its labels.
    """
    target, half_done = _frames_path(path, shard), _frames_path(path, shard).with_suffix(".part")
    frames = np.lib.format.open_memmap(half_done, mode="w+", dtype=np.uint8, shape=(*shape, 3))
    yield frames
    frames.flush()
    half_done.replace(target)
    lines = [{"scene": asdict(label.scene), "fps": label.fps, "start": label.start} for label in labels]
    half_done.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    half_done.replace(_labels_path(path, shard))


def has_shard(path: Path, shard: int) -> bool:
    """Whether a shard is complete."""
    return _labels_path(path, shard).exists()


def to_unit_range(frames: Frames | Sequence[Frames]) -> torch.Tensor:
    """Frames (…, frames, height, width, 3) of 0..255 as a float32 video (…, 3, frames, height, width) of
    -1..1.
    """
    video = torch.from_numpy(np.array(frames))
    return video.movedim(-1, -4).float().div_(127.5).sub_(1.0)


def to_bytes(video: torch.Tensor) -> Frames:
    """The inverse of `to_unit_range`, rounded: (…, 3, frames, height, width) to (…, frames, height,
    width, 3).
    """
    scaled = video.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    frames: Frames = scaled.movedim(-4, -1).cpu().numpy()
    return frames


def _render_shards(
    path: Path, layout: StoreLayout, shards: list[int], processes: int, deadline: float | None
) -> Iterator[int]:
    if processes <= 1:
        for shard in shards:
            if deadline is not None and time.monotonic() > deadline:
                return
            yield _render_shard(path, layout, shard)
        return
    # Drawing holds the interpreter, and a forked torch may hang in its thread pool: hence processes, and
    # fresh ones.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        jobs = [pool.submit(_render_shard, path, layout, shard) for shard in shards]
        for job in as_completed(jobs):
            if not job.cancelled():
                yield job.result()
            if deadline is not None and time.monotonic() > deadline:
                for waiting in jobs:
                    waiting.cancel()


def _render_shard(path: Path, layout: StoreLayout, shard: int) -> int:
    from everreel.world.render import render

    shape = layout.shard_shape(shard)
    clips, num_frames, height, width = shape
    labels: list[ClipLabel] = []
    with shard_writer(path, shard, shape, labels) as frames:
        for row in range(clips):
            label = clip_label(layout, shard * layout.shard_clips + row)
            labels.append(label)  # one after the other: what was prepared to look at a scene also draws it
            size = {"height": height, "width": width}
            frames[row] = render(label.scene, num_frames, **size, fps=label.fps, start=label.start, style=layout.style)
    return shard


def _start_worker() -> None:
    torch.set_num_threads(1)
    os.nice(5)


def _check_layout(path: Path, layout: StoreLayout) -> None:
    """Refuse to mix two layouts in one folder; a larger count of the same layout is an extension and
    welcome.
    """
    record = path / "layout.json"
    wanted = json.loads(json.dumps(asdict(layout)))
    if record.exists():
        found = {"odds": [], **json.loads(record.read_text(encoding="utf-8"))}
        changed = [name for name in wanted if name != "count" and found.get(name) != wanted[name]]
        partial_end = found["count"] % layout.shard_clips and found["count"] < layout.count
        if changed or (partial_end and _labels_path(path, found["count"] // layout.shard_clips).exists()):
            what = ", ".join(f"{name}={found.get(name)!r}" for name in changed) or f"count={found['count']}"
            raise ValueError(f"path={path}: holds another layout ({what}); render into an empty folder")
    record.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _spread(index: int, ratio: float) -> float:
    return ((index + 0.5) * ratio) % 1.0


def _frames_path(path: Path, shard: int) -> Path:
    return path / f"shard-{shard:05d}.npy"


def _labels_path(path: Path, shard: int) -> Path:
    return path / f"shard-{shard:05d}.jsonl"
