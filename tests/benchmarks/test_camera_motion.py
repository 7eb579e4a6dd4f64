"""The page on camera motion: what it counts, what it says, and the fit of its model."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import camera_motion
from benchmarks.camera_clips import HELD_OUT, KINDS, LEARNT_FROM, TURNS, Conditions, make_clip, photograph
from benchmarks.camera_motion import Answer, Result, conditions_of, confusion, logistic, measure, page, world_scene
from everreel.caption.depth import COEFFICIENTS, FEATURES
from everreel.world.scene import CAMERA_MOTIONS, is_held_out


def test_the_page_counts_what_was_read() -> None:
    photographs = [Answer(kind, kind, True, "slow", "slow") for kind in KINDS]
    photographs[1] = Answer("pan_left", "tilt_up", True, "slow", "slow")
    world = [Answer("static", "static", True), Answer("zoom_in", "static")]
    text = "\n".join(page(Result(photographs, world), "python -m it"))
    turns = 1 + len(TURNS) + 1
    assert f"| static, pan, tilt, zoom, roll, handheld | {turns - 1} of {turns} |" in text
    assert "95%: **missed**" in text
    assert "| films of the film world | 1 of 2 | 50.0% |" in text
    assert "| those of them that it is sure of | 1 of 1 | 100.0% |" in text
    assert "    python -m it" in text


def test_what_is_taken_for_what() -> None:
    answers = [Answer("a_b", "a_b"), Answer("a_b", "c"), Answer("a_b", "c"), Answer("c", "c")]
    assert confusion(answers)[2:] == ["| a b | 1 of 3 | c 2 |", "| c | 1 of 1 |  |"]


def test_what_is_held_out_is_no_part_of_what_was_learnt_from() -> None:
    assert not set(LEARNT_FROM) & set(HELD_OUT)
    assert all(photograph(name).ndim == 3 for name in (*LEARNT_FROM, *HELD_OUT))
    for number in range(2):
        assert is_held_out(world_scene(number))
        assert world_scene(number).camera_motion == CAMERA_MOTIONS[number]


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def read(what: object) -> Answer:
        made.append(what)
        return Answer("static", "static", seconds=2.0, core=0.1)

    monkeypatch.setattr(camera_motion, "read_photograph", read)
    monkeypatch.setattr(camera_motion, "read_world", read)
    kept = tmp_path / "answers.jsonl"
    whole = measure(1, 2, kept)
    assert len(made) == len(HELD_OUT) * len(KINDS) + 2
    assert whole.core == pytest.approx(0.05)
    kept.write_text(kept.read_text()[:-30])  # killed while it wrote the last one
    assert measure(1, 2, kept) == whole
    assert made[-1] == made[-2] == 1
    assert measure(1, 2, kept) == whole


def test_a_clip_is_a_function_of_its_kind_its_photograph_and_its_seed() -> None:
    asked = Conditions(64, 96, 12.0, 0.4, noise=3.0, flicker=0.05, crf=28, walker=True)
    one, other = (make_clip("pan_left", "coffee", seed, asked) for seed in (1, 2))
    assert one.shape == (5, 64, 96, 3)
    assert all(np.array_equal(one, make_clip("pan_left", "coffee", 1, asked)) for _ in range(20))
    assert not np.array_equal(one, other)
    assert conditions_of("static", "coffee", 0) != conditions_of("static", "coffee", 1)


def test_the_fit_finds_what_tells_two_groups_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 40
    rows = rng.normal(0.2, 0.05, (80, len(FEATURES)))
    rows[labels, 0] += 0.2
    weights = logistic(rows, labels)
    assert tuple(weights) == (*FEATURES, "offset")
    assert weights["shear"] > 5 * abs(weights["uneven"])
    chance = rows @ list(weights.values())[:-1] + weights["offset"]
    assert ((chance > 0) == labels).mean() > 0.95


def test_the_model_has_a_number_for_each_feature() -> None:
    assert len(COEFFICIENTS) == len(FEATURES)
    shear, uneven, bend = COEFFICIENTS
    assert shear > 0 < uneven
    assert bend < 0


@pytest.mark.parametrize("kind", ["tracking_right", "pedestal_up"])
def test_what_is_near_passes_faster_where_the_camera_travels(kind: str) -> None:
    clip = make_clip(kind, "motorcycle_left", 3, Conditions(96, 128, 8.0, 1.0, rate=0.3)).astype(int)
    assert np.abs(clip[0] - clip[-1]).mean() > 5
