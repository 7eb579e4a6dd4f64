"""Preference pairs: a line an answer and axis, no contradictions among them, and those are named."""

from everreel.evaluate.bench.preferences import preferences
from tests.evaluate.bench.studies import fake_study, prefers, rate


def test_a_line_tells_prompt_films_rater_and_axis(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 3, kinds=("pairs",), axes=("motion_quality", "overall"))

    def say(task, shown):
        return {"motion_quality": prefers("b", "a")(task, shown), "overall": "tie"}

    lines, said = preferences(study, [rate(folder, study, "Anna", say)], folder)
    assert not said and len(lines) == 6
    motion = [line for line in lines if line["axis"] == "motion_quality"]
    assert {line["prompt"] for line in motion} == {"prompt 0", "prompt 1", "prompt 2"}
    for line in motion:
        number = line["prompt"][-1]
        a, b = (str((tmp_path / f"of-{model}" / f"film-00{number}.mp4").resolve()) for model in "ab")
        assert line["films"] == [a, b] and line["models"] == ["a", "b"] and line["rater"] == "Anna"
        assert (line["better"], line["worse"], line["tie"]) == (b, a, False)
    ties = [line for line in lines if line["axis"] == "overall"]
    assert all((line["better"], line["worse"], line["tie"]) == (None, None, True) for line in ties)


def test_checks_repeats_and_films_that_did_not_play_have_no_line(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 8, kinds=("scores", "pairs"), repeats=3, checks=3)

    def say(task, shown):
        if task.kind == "scores":
            return 5
        return None if shown[0].prompt == 2 else prefers("a", "b")(task, shown)

    lines, said = preferences(study, [rate(folder, study, "Anna", say)], folder)
    assert len(lines) == 7 * 5 and not said and "prompt 2" not in {line["prompt"] for line in lines}


def test_who_answers_in_opposite_ways_is_named_and_left_out(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 6, kinds=("pairs",), axes=("overall",), repeats=2)
    rater = rate(folder, study, "Lefty", lambda task, shown: "left")
    again = {frozenset(task.films) for task in rater.tasks.values() if task.repeat}
    lines, said = preferences(study, [rater], folder)
    assert len(again) == 2 and len(lines) == 4 and len(said) == 2
    assert all("Lefty on Overall: a and b for film-00" in line and line.endswith("left out") for line in said)
    ties = rate(folder, study, "Tied", lambda task, shown: "tie" if task.repeat else "left")
    assert len(preferences(study, [ties], folder)[0]) == 6, "a tie contradicts nothing"


def test_three_films_in_a_circle_are_named(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b", "c"), 2, kinds=("pairs",), axes=("overall",))
    ring = {("a", "b"): "a", ("b", "c"): "b", ("a", "c"): "c"}

    def say(task, shown):
        if shown[0].prompt:
            return prefers("a", "b", "c")(task, shown)
        return "left" if ring[tuple(sorted(film.model for film in shown))] == shown[0].model else "right"

    lines, said = preferences(study, [rate(folder, study, "Anna", say)], folder)
    assert len(lines) == 6 and len(said) == 1
    assert said[0] in [
        f"Anna on Overall: {r} for film-000"
        for r in ("a over b over c over a", "b over c over a over b", "c over a over b over c")
    ]
