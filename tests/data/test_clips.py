"""Clip stores: layout, resuming, memory mapping, and the bytes being those of the renderer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.data.clips import ClipStore, StoreLayout, clip_label, render_store, to_bytes, to_unit_range
from everreel.world.render import coverage
from everreel.world.scene import Scene, is_held_out
from everreel.world.style import off_inks, printed

LAYOUT = StoreLayout(
    count=10,
    num_frames=3,
    sizes=((16, 32, 0.5), (32, 16, 0.5)),
    slow_share=0.5,
    shard_clips=4,
    seed=5,
)
rendered: list[int] = []


def quick_render(
    scene: Scene, num_frames: int, *, height: int, width: int, fps: int, start: float, style: str | None = None
) -> np.ndarray:
    rendered.append(scene.seed)
    values = np.random.default_rng(scene.seed + fps).integers(0, 256, (num_frames, height, width, 3)).astype(np.uint8)
    return values if style is None else printed(values, style)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered.clear()
    monkeypatch.setattr("everreel.world.render.render", quick_render)


def test_a_store_holds_what_the_renderer_drew(tmp_path: Path) -> None:
    store = render_store(tmp_path, LAYOUT, processes=1)
    assert len(store) == 10
    assert {store.clip(i).shape for i in range(10)} == {(3, 16, 32, 3), (3, 32, 16, 3)}
    assert {store.fps(i) for i in range(10)} == {16, 24}
    assert sorted(i for members in store.groups.values() for i in members) == list(range(10))
    for i in (0, 5, 9):
        _, height, width, _ = store.clip(i).shape
        again = quick_render(store.scene(i), 3, height=height, width=width, fps=store.fps(i), start=store.start(i))
        assert np.array_equal(store.clip(i), again)
        assert store.labels[i] == clip_label(LAYOUT, i)
        assert 0 <= store.start(i) < 60
    assert isinstance(store.clip(0).base, np.memmap)
    assert [len(members) for members in store.shards().values()] == [4, 4, 2]


def test_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = render_store(tmp_path / "whole", LAYOUT, processes=1)
    render_store(tmp_path / "cut", replace(LAYOUT, count=4), processes=1)
    (tmp_path / "cut/shard-00001.part").write_bytes(b"half a shard")
    rendered.clear()
    seen: list[tuple[int, int]] = []
    cut = render_store(tmp_path / "cut", LAYOUT, processes=1, progress=lambda done, all_: seen.append((done, all_)))
    assert len(rendered) == 6 and seen == [(8, 10), (10, 10)]
    assert all(np.array_equal(whole.clip(i), cut.clip(i)) for i in range(10))
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_folder_with_another_layout_is_refused(tmp_path: Path) -> None:
    render_store(tmp_path, LAYOUT, processes=1)
    with pytest.raises(ValueError, match="another layout \\(seed=5\\)"):
        render_store(tmp_path, replace(LAYOUT, seed=6), processes=1)
    with pytest.raises(ValueError, match="another layout \\(count=10\\)"):
        render_store(tmp_path, replace(LAYOUT, count=12), processes=1)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete shard"):
        ClipStore(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("count", 0), ("num_frames", -1), ("sizes", ()), ("slow_share", 2)])
def test_bad_layouts_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        replace(LAYOUT, **{field: value})


def test_the_shares_of_sizes_and_rates_are_kept() -> None:
    layout = StoreLayout(count=64 * 100, num_frames=1)
    sizes = Counter(layout.shard_shape(shard)[2:] for shard in range(100))
    assert abs(sizes[96, 160] - 80) <= 2 and abs(sizes[160, 96] - 10) <= 2
    slow = sum(layout.shard_fps(shard) == 16 for shard in range(100))
    assert abs(slow - 15) <= 2


def test_a_picture_shows_the_subject_that_it_is_labelled_with() -> None:
    layout = StoreLayout(count=80, num_frames=1, sizes=((48, 80, 1.0),), seed=51)
    resting = []
    for index in range(80):
        label = clip_label(layout, index)
        assert label == clip_label(layout, index)
        seen = coverage(label.scene, 1, height=48, width=80, fps=label.fps, start=label.start)
        assert seen.mean() > 0.006 * 255, (index, label)
        blind = [coverage(label.scene, 1, height=48, width=80, start=second).mean() for second in (0.0, 2.0, 4.0, 6.0)]
        resting.append(min(blind) == 0)
    assert any(resting)  # of these scenes some have moments without their subject


def test_splits_do_not_meet() -> None:
    held_out = replace(LAYOUT, split="held_out")
    assert all(is_held_out(clip_label(held_out, i).scene) for i in range(20))
    assert not any(is_held_out(clip_label(LAYOUT, i).scene) for i in range(20))


def test_bytes_and_unit_range_are_inverse() -> None:
    frames = np.arange(2 * 3 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 3, 4, 5, 3)
    video = to_unit_range(frames)
    assert video.shape == (2, 3, 3, 4, 5) and video.dtype == torch.float32
    assert float(video.min()) >= -1 and float(video.max()) <= 1
    assert np.array_equal(to_bytes(video), frames)
    assert to_unit_range([frames[0], frames[1]]).equal(video)


def test_processes_render_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    layout = StoreLayout(count=2, num_frames=2, sizes=((32, 48, 1.0),), shard_clips=1)
    alone = render_store(tmp_path / "alone", layout, processes=1)
    many = render_store(tmp_path / "many", layout, processes=2)
    assert all(np.array_equal(alone.clip(i), many.clip(i)) for i in range(2))


def test_a_store_in_a_style_is_another_layout(tmp_path):
    layout = StoreLayout(count=1, num_frames=1, sizes=((32, 48, 1.0),))
    plain = render_store(tmp_path / "plain", layout, processes=1)
    sepia = render_store(tmp_path / "sepia", replace(layout, style="sepia"), processes=1)
    assert plain.labels == sepia.labels
    assert off_inks(sepia.clip(0), "sepia") < 1 < 5 < off_inks(plain.clip(0), "sepia")
    with pytest.raises(ValueError, match="style=None"):
        render_store(tmp_path / "plain", replace(layout, style="sepia"), processes=1)
    with pytest.raises(ValueError, match="style='noir'"):
        replace(layout, style="noir")


def test_a_store_from_before_there_were_styles_is_extended(tmp_path):
    layout = StoreLayout(count=1, num_frames=1, sizes=((32, 48, 1.0),), shard_clips=1)
    render_store(tmp_path, layout, processes=1)
    record = json.loads((tmp_path / "layout.json").read_text())
    del record["style"]
    (tmp_path / "layout.json").write_text(json.dumps(record))
    assert len(render_store(tmp_path, replace(layout, count=2), processes=1)) == 2
