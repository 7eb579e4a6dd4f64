"""The page of benchmarks: goals beside what was measured, met or missed."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import against_diffusers, gpu, length
from benchmarks.__main__ import command_of
from benchmarks.measure import Comparison, Times, machine
from benchmarks.page import render_page


def comparison(what, goal, ours, theirs):
    return Comparison(what, goal, Times("bfloat16", ours), Times("float32, two calls", theirs))


AGAINST = against_diffusers.Result(
    film_of="97 frames of 160x96 at 24 fps",
    step=comparison("a step", 2.0, (0.1, 0.2, 0.3), (0.5, 0.5, 0.9)),
    decode=comparison("decoding", 3.0, (1.0,), (2.9,)),
    film=comparison("the film", 2.5, (8.9,), (20.0,)),
    recommended=Times("bfloat16, guidance from level 0.85 on", (7.9,)),
    asynchronous_of="97 frames, asynchronous, cached",
    asynchronous=comparison("in blocks", 2.5, (5.0,), (20.0,)),
)
SHORT = length.FilmCost(97, "97 frames, 1 block", 0.5, 2.0, 300 * 2**20, 500 * 2**20, [(97, 2.0)])
LONG = length.FilmCost(1457, "1457 frames, 73 blocks", 0.5, 30.0, 300 * 2**20, 600 * 2**20, [(17, 1.5)])
READ = {"subject": 0.75, "color": 1.0, "place": 0.875, "action": float("nan"), "camera_motion": 0.7}
READING = length.Reading(4, 10, READ, READ, READ)


def row(page, words):
    (line,) = [line for line in page.splitlines() if line.startswith("|") and words in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_met_and_missed_goals_stand_side_by_side():
    page = render_page(AGAINST, length.Result(SHORT, LONG, READING), machine(), "make benchmark")
    assert row(page, "a step")[1:] == [
        "at least 2× faster",
        "2.50×",
        "met",
        "0.2 s (0.1 to 0.3), bfloat16",
        "0.5 s (0.5 to 0.9), float32, two calls",
    ]
    assert row(page, "decoding")[2:4] == ["2.90×", "**missed**"]
    assert row(page, "the same film")[1:4] == ["under 8 s", "8.9 s", "**missed**"]
    assert row(page, "as the model recommends")[1:5] == [
        "under 8 s",
        "7.9 s",
        "met",
        "7.9 s (7.9 to 7.9), bfloat16, guidance from level 0.85 on",
    ]
    assert row(page, "in blocks")[1:4] == ["at least 2.5× faster", "4.00×", "met"]
    assert "In blocks: 97 frames, asynchronous, cached." in page
    assert row(page, "peak memory,")[1:] == ["at most 15% more", "20% more", "**missed**"]
    assert row(page, "first block of")[1:] == ["before 10% of the time", "at 5.0%", "met"]
    assert row(page, "subject")[1:4] == ["at least 80%", "75%", "**missed**"]
    assert row(page, "camera motion")[1:4] == ["at least 70%", "70%", "met"]
    assert row(page, "action")[2:4] == ["not seen", ""]
    assert "    make benchmark\n" in page and "torch" in page


def test_without_a_gpu_the_page_says_so_and_how_to_measure():
    """With the calls of the benchmark's own words, which its tests make, and so does the page that is shipped."""
    calls = [line for line in gpu.__doc__.splitlines() if "-m benchmarks.gpu" in line]
    shipped = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    for page in (render_page(None, None, machine(), "make benchmark"), shipped):
        assert "No GPU could be had" in page and "the rows are empty" in page
        assert calls and all(f"\n{call}\n" in page for call in calls)


def test_a_benchmark_that_did_not_run_has_no_section():
    page = render_page(None, length.Result(SHORT, LONG, None), machine(), "make benchmark")
    assert "Against diffusers" not in page and "no critic" in page


@pytest.mark.parametrize("peak,words", [(300, "40% less"), (575, "15% more")])
def test_less_memory_is_no_miss(peak, words):
    cost = dataclasses.replace(LONG, peak_bytes=peak * 2**20)
    page = render_page(None, length.Result(SHORT, cost, None), machine(), "make benchmark")
    assert row(page, "peak memory,")[2:] == [words, "met"]


def test_the_command_can_be_typed_anywhere():
    assert command_of(["--output", "page.md"]) == "make benchmark"
    typed = ["--model", "/some/place/fox", "--output=page.md", "--steps=2"]
    assert command_of(typed) == 'make benchmark ARGS="--model fox --steps 2"'
