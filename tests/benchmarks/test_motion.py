"""Two folders of films are held against each other by motion, and what else changed is told."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import motion
from benchmarks.motion import Judged, Pair, main, render_check, render_summary, summary
from benchmarks.motion_kinds import KINDS, wrong_films
from everreel.evaluate.follow import Answer, FilmAnswers, Report
from everreel.evaluate.physics import Motion
from everreel.world.render import render
from everreel.world.scene import Scene
from tests.film.films import write

FPS, FRAMES = 24, 13
SCENE = Scene(
    subject="boat", color="red", action="swims", direction="right", place="lake", time="day", weather="clear",
    shot_type="full_shot", shot_angle="eye_level", shot_position="side_view", camera_motion="static", seed=5,
)  # fmt: skip
FILM = render(SCENE, FRAMES, height=48, width=80, fps=FPS)


def folder(path, film, right, prompt="a boat", scene=SCENE):
    path.mkdir()
    write(path / "film-000.mp4", film, fps=FPS)
    answers = {"color": Answer("red", "red" if right else "blue", 0.5), "action": Answer("swims", "swims", 0.5)}
    told = FilmAnswers("film-000.mp4", prompt, 7, asdict(scene) if scene else {}, answers)
    Report({"model": path.name}, (told,)).save(path / "report.json")
    return path


def test_a_film_that_moves_wins_against_one_that_stands(tmp_path):
    before = folder(tmp_path / "before", np.repeat(FILM[:1], FRAMES, 0), right=True)
    after = folder(tmp_path / "after", FILM, right=False)
    main([str(before), str(after), "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["films"], figures["wins"], figures["win_rate"][0]) == (1, 1, 1.0)
    assert (figures["frozen"]["before"], figures["frozen"]["after"]) == (1.0, 0.0)
    assert figures["axes"]["amplitude"]["change"][0] > 0.2
    assert figures["other_fields"]["change"][0] == -1.0 and figures["fields"]["action"]["change"][0] == 0.0


def judged(score, sharpness=0.5, right=True, energy=(-1.0, -1.0)):
    moves = Motion(score, score, score, score, score, score, (), {"energy": energy})
    return Judged(moves, {"color": right, "action": False}, {"color": 0.5}, {"sharpness": sharpness})


def test_ties_are_halves_and_a_cheated_reward_is_seen():
    pairs = [Pair("a", judged(0.5), judged(0.9, 0.3, energy=(-5.0, -1.0)), 1)] * 6
    pairs += [Pair("b", judged(0.5), judged(0.5, 0.3), 0)] * 2 + [Pair("c", judged(0.9), judged(0.2, 0.3), -1)] * 2
    figures = summary(pairs)
    assert figures["win_rate"][0] == pytest.approx(0.7) and figures["win_rate"][1] < 0.7 < figures["win_rate"][2]
    assert figures["frozen"]["after"] == pytest.approx(0.6)
    words = render_summary(figures, "one", "two")
    assert "6, as good in 2, worse in 2" in words and "more films are frozen" in words and "sharpness went" in words
    assert "| critic: all but motion | 10 | 100.0 | 100.0 |" in words
    calm = render_summary(summary([Pair("a", judged(0.5), judged(0.9), 1)] * 4), "one", "two")
    assert "Signs of a cheated reward: none." in calm


def test_folders_that_cannot_be_compared_are_refused_in_one_line(tmp_path):
    one = folder(tmp_path / "one", FILM, right=True)
    other = folder(tmp_path / "other", FILM, right=True, prompt="a bus")
    for films, words in (
        ([one, other], "no prompt and seed of 1 and 1 films"),
        ([one, tmp_path], "has no report.json"),
        ([one, folder(tmp_path / "blank", FILM, right=True, scene=None)], "tells no scene"),
    ):
        with pytest.raises(SystemExit) as refused:
            main([str(path) for path in films])
        assert words in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(SystemExit):
        main([str(one)])


def test_wrong_films_are_those_that_somebody_could_notice():
    made = dict(wrong_films(SCENE, FRAMES, FPS, 48, 80))
    assert set(made) == set(KINDS) and all(film.shape == FILM.shape for film in made.values())
    assert np.array_equal(made["reversed"], FILM[::-1]) and not np.array_equal(made["wobble"], FILM)
    still = replace(SCENE, action="stays")
    assert {"reversed", "mirrored"} & set(dict(wrong_films(still, FRAMES, FPS, 48, 80))) == set()


def test_the_check_counts_by_kind(monkeypatch):
    monkeypatch.setattr(motion, "sample_scene", lambda generator: SCENE)
    for name, value in {"FRAMES": FRAMES, "HEIGHT": 48, "WIDTH": 80}.items():
        monkeypatch.setattr(motion, name, value)
    figures = motion.check(1, 0)
    assert set(figures["kinds"]) == {*KINDS, "another render"} and figures["own_score"][0] > 0.5
    assert figures["kinds"]["frozen"]["accuracy"][0] == 1.0
    assert "| frozen | 1 | 100% (100% to 100%)" in render_check(figures)
