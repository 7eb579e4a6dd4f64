"""What raters are shown: all of it, in an order of their own, the sides balanced, and the same after a restart."""

from collections import Counter

import pytest

from everreel.evaluate.bench.tasks import tasks_for
from tests.evaluate.bench.studies import fake_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return fake_study(folder, ("a", "b", "c"), 20, kinds=("scores", "pairs"), repeats=4, checks=3)[1]


def test_everything_is_shown_once_with_repeats_and_checks_beside(study):
    tasks = tasks_for(study, "anna", 0)
    assert len({task.id for task in tasks}) == len(tasks) == (60 + 4 + 3) * 2
    assert [task.kind for task in tasks] == sorted((task.kind for task in tasks), reverse=True), "scores come first"
    once = [task for task in tasks if not (task.repeat or task.check)]
    scored = Counter(task.films for task in once if task.kind == "scores")
    assert set(scored) == {(film.id,) for film in study.films} and set(scored.values()) == {1}
    pairs = Counter(frozenset(task.films) for task in once if task.kind == "pairs")
    assert len(pairs) == 60 and set(pairs.values()) == {1} and {len(pair) for pair in pairs} == {2}


def test_both_films_of_a_pair_are_of_one_prompt(study):
    prompts = {film.id: film.prompt for film in study.films}
    for task in tasks_for(study, "anna", 0):
        assert {prompts[film] for film in task.films} == {task.prompt}


def test_sides_are_balanced_for_every_two_models(study):
    models = {film.id: film.model for film in study.films}
    for rater in ("anna", "ben", "cleo"):
        tasks = tasks_for(study, rater, 0)
        sides = Counter(
            tuple(models[film] for film in task.films)
            for task in tasks
            if task.kind == "pairs" and not (task.repeat or task.check)
        )
        assert sides == dict.fromkeys([(x, y) for x in "abc" for y in "abc" if x != y], 10)


def test_raters_have_orders_of_their_own_which_a_restart_keeps(study):
    first = tasks_for(study, "anna", 0)
    assert first == tasks_for(study, "anna", 0)
    other = tasks_for(study, "ben", 0)
    assert [task.films for task in first] != [task.films for task in other]
    assert not {task.id for task in first} & {task.id for task in other}
    before = [task.films for task in first if task.kind == "scores"]
    assert before != sorted(before)


def test_a_repeat_comes_later_with_its_sides_changed(study):
    tasks = tasks_for(study, "anna", 0)
    repeats = [(place, task) for place, task in enumerate(tasks) if task.repeat]
    assert Counter(task.kind for _, task in repeats) == {"scores": 4, "pairs": 4}
    asked = [(n, task) for n, task in enumerate(tasks) if not task.check]  # a check may show what a repeat shows
    for place, task in repeats:
        first = next(n for n, t in asked if t.kind == task.kind and set(t.films) == set(task.films))
        assert first < place and tasks[first].films == task.films[::-1] and not tasks[first].repeat


def test_a_check_asks_for_an_answer_that_its_kind_has(study):
    checks = [task for task in tasks_for(study, "anna", 0) if task.check]
    for task in checks:
        assert task.check in (("1", "2", "3", "4", "5") if task.kind == "scores" else ("left", "right"))
    assert len(checks) == 6


def test_parts_of_the_prompts_go_round_so_that_all_are_rated_equally_often(tmp_path):
    _, study = fake_study(tmp_path, ("a", "b"), 10, prompts_per_rater=4)
    shown = [Counter(task.prompt for task in tasks_for(study, f"rater {n}", n)) for n in range(5)]
    assert all(len(prompts) == 4 and set(prompts.values()) == {2} for prompts in shown), "all models of a prompt"
    assert Counter(prompt for prompts in shown for prompt in prompts) == dict.fromkeys(range(10), 2)
