"""A student beside its teacher: goals met and missed, and points lost film by film."""

from dataclasses import replace

import pytest

from benchmarks.length import FilmCost
from benchmarks.streaming import Costs, page
from everreel.evaluate.follow import Answer, FilmAnswers, Report


def costs(model, seconds, frames=97):
    blocks = [(17, seconds / 5), (frames, seconds)]
    return Costs(model, {frames: [FilmCost(frames, "a film", 1.0, seconds, 1, 2, blocks)]})


def report(*right, prompt="a fox"):
    films = [
        FilmAnswers(f"{n}.mp4", prompt, n, {}, {"subject": Answer("fox", "fox" if yes else "dog", 0.5)})
        for n, yes in enumerate(right)
    ]
    return Report({"num_frames": 97}, tuple(films))


def test_goals_that_are_met_and_missed():
    text = page(costs("fast", 1.0), costs("slow", 9.0), None, "a command")
    assert "| frames a second, a film of 97 frames | at least 72 | 97 | met |" in text
    assert "| its first block on disk | under 1 s | 0.20 s | met |" in text
    assert "Missing here" in text and "    a command" in text
    slow = page(costs("fast", 6.0), costs("slow", 9.0), None, "a command")
    assert "| at least 72 | 16 | **missed** |" in slow and "| under 1 s | 1.20 s | **missed** |" in slow


def test_points_are_lost_film_by_film():
    teacher, student = report(True, True, True, False), report(True, True, False, False)
    text = page(costs("fast", 1.0), costs("slow", 9.0), (student, teacher), "a command")
    assert "| points of accuracy lost to the teacher | under 3 | 25.0 (0.0 to 75.0) | **missed** |" in text
    assert "| subject | 50% | 75% | 4 |" in text
    same = page(costs("fast", 1.0), costs("slow", 9.0), (teacher, teacher), "a command")
    assert "| under 3 | 0.0 (0.0 to 0.0) | met |" in same


def test_other_films_are_not_compared():
    with pytest.raises(ValueError, match="asked for in other words"):
        page(costs("a", 1.0), costs("b", 1.0), (report(True), report(True, prompt="a dog")), "")


def test_reports_are_paired_by_seed():
    teacher = report(True, False)
    turned = replace(teacher, films=teacher.films[::-1])
    assert "| under 3 | 0.0 (0.0 to 0.0) | met |" in page(costs("a", 1.0), costs("b", 1.0), (turned, teacher), "")
