"""What long films promise: each figure beside its goal, met or missed."""

from dataclasses import replace

import pytest
import torch

from benchmarks import length, promises
from everreel.film.pipeline import VideoPipeline

MB = 2**20


def cost(num_frames, peak, late):
    """A film whose frames take 10 ms at first, and `late` ms after half a minute."""
    blocks, at = [], 0.0
    for frames in range(17, num_frames, 20):
        at += 0.02 * (10 if frames < 30 * 24 else late)
        blocks.append((frames, at))
    return length.FilmCost(num_frames, "a film", 1.0, at, MB, peak * MB, blocks)


@pytest.mark.parametrize(("peak", "late", "met"), [(105, 10.5, True), (120, 12, False)])
def test_memory_and_time_that_grow_are_missed(monkeypatch, peak, late, met):
    costs = {1457: cost(1457, 100, 10), 10_000: cost(10_000, peak, late)}
    monkeypatch.setattr(length, "film_in_own_process", lambda setting, frames: costs[frames])
    lines = promises.costs("tiny")
    assert [line[-1] for line in lines] == ["met" if met else "**missed**"] * 2
    assert ("+5%" if met else "+20%") in lines[0][2] and "10.0 ms" in lines[1][2]


def test_ends_and_loops_are_measured(tiny_folder, monkeypatch):
    monkeypatch.setattr(promises, "ENDS", (("one window", {"num_frames": 13}), ("blockwise", {"num_frames": 101})))
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    pipe.card = replace(pipe.card, height=32, width=48)
    lines = promises.ends(pipe, 1)
    assert [line[0].split(":")[0] for line in lines] == [
        "end image, one window, 13 frames", "end image, blockwise, 101 frames",
    ]  # fmt: skip
    assert promises.ends(pipe, 1, 50) == lines[:1]
    loops = promises.loops(pipe, 1)
    assert len(loops) == 2 and all(float(line[2].split()[0]) > 0 for line in (*lines, *loops))


def test_ends_are_measured_alone(tiny_folder, monkeypatch, capsys):
    """Films of other lengths are left out, and neither costs nor loops are measured."""
    for name in ("costs", "loops", "kill_and_resume"):
        monkeypatch.setattr(promises, name, None)
    monkeypatch.setattr(promises, "ENDS", (("one window", {"num_frames": 6}), ("one window", {"num_frames": 99})))
    promises.main(["--model", str(tiny_folder), "--steps", "1", "--up-to", "23"])
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| end image, one window, 6 frames: ") and " dB | " in line
