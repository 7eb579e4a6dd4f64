"""Agreement: the published examples of alpha, a plain reading of its definition, and what is said of raters."""

import itertools

import numpy as np
import pytest

from everreel.evaluate.bench.agreement import krippendorff, pair_agreement, rater_reports, score_agreement
from tests.evaluate.bench.studies import fake_study, prefers, rate

# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section E: four observers, twelve units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def counts_of(table, values=5):
    """(raters, units), 0 for no answer → (units, values)."""
    return np.stack([(np.asarray(table) == value).sum(0) for value in range(1, values + 1)], axis=-1).astype(float)


def plainly(table, values=5):
    """Alpha from its definition, pair by pair: 1 - mean difference within units / mean difference of all."""
    units = [[v for v in column if v] for column in np.asarray(table).T]
    units = [unit for unit in units if len(unit) > 1]
    given = [v for unit in units for v in unit]
    count = {v: given.count(v) for v in range(1, values + 1)}

    def differ(a, b):
        low, high = sorted((a, b))
        return (sum(count[v] for v in range(low, high + 1)) - (count[a] + count[b]) / 2) ** 2

    within = sum(differ(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)) / len(
        given
    )
    all_of_them = sum(differ(a, b) for a, b in itertools.permutations(given, 2)) / (len(given) * (len(given) - 1))
    return 1 - within / all_of_them


def test_alpha_is_the_published_one():
    assert krippendorff(counts_of(PUBLISHED)) == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_what_its_definition_says():
    draw = np.random.default_rng(0)
    for _ in range(5):
        table = draw.integers(0, 6, (3, 15))
        assert krippendorff(counts_of(table)) == pytest.approx(plainly(table), abs=1e-12)


def test_alpha_of_raters_who_agree_is_one_and_of_what_tells_nothing_is_no_number():
    assert krippendorff(counts_of([[1, 2, 3], [1, 2, 3]])) == 1
    assert np.isnan(krippendorff(counts_of([[2, 2, 2], [2, 2, 2]]))), "nobody ever differed"
    assert np.isnan(krippendorff(counts_of([[1, 2, 3], [0, 0, 0]]))), "one rater"
    assert krippendorff(counts_of([[1, 5, 1, 5], [5, 1, 5, 1]])) < 0


def test_a_studys_agreement_is_that_of_its_films_and_pairs(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 12, kinds=("scores", "pairs"), repeats=3, checks=3)
    table = np.zeros((2, 24), int)

    def by_film(number, noise):
        def say(task, shown):
            if task.kind == "pairs":
                return prefers("a", "b")(task, shown) if shown[0].prompt % 2 else prefers("b", "a")(task, shown)
            place = study.films.index(shown[0])
            value = 1 + (place * 7 + noise * (place % 3)) % 5
            if not (task.repeat or task.check):
                table[number, place] = value
            return value if not (task.repeat or task.check) else 5

        return say

    raters = [rate(folder, study, f"rater {n}", by_film(n, n)) for n in range(2)]
    found = score_agreement(study, raters)
    for axis in study.axes_of("scores"):
        assert found[axis].value == pytest.approx(plainly(table)) and found[axis].count == 48
        assert found[axis].low < found[axis].value < found[axis].high
    assert {axis: value.value for axis, value in pair_agreement(study, raters).items()} == dict.fromkeys(
        study.axes_of("pairs"), 1
    ), "sides do not matter"


def test_what_is_remarkable_about_raters_is_said(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 10, kinds=("scores", "pairs"), repeats=4, checks=2)
    careful = prefers("a", "b")

    def carefully(task, shown):
        if task.check:
            return int(task.check) if task.kind == "scores" else task.check
        return 1 + study.films.index(shown[0]) % 5 if task.kind == "scores" else careful(task, shown)

    raters = [
        rate(folder, study, "careful", carefully),
        rate(folder, study, "asleep", lambda task, shown: 3 if task.kind == "scores" else "tie"),
        rate(folder, study, "left", lambda task, shown: None if task.kind == "scores" else "left"),
        rate(folder, study, "began", lambda task, shown: int(task.check or 4), limit=2),
    ]
    reports = {report.name: report for report in rater_reports(study, raters)}
    good = reports["careful"]
    assert good.remarks == [] and good.checks == (4, 4) and good.repeats == (4 * 4 + 4 * 5,) * 2
    assert good.done == good.of == (20 + 4 + 2) + (10 + 4 + 2) and good.median_seconds == 3.0
    asleep = reports["asleep"]
    assert "gave every film 3 on everything" in asleep.remarks and "always says Tie" in asleep.remarks
    assert asleep.ties == 1 and asleep.left is None and asleep.checks[0] < asleep.checks[1] == 4
    assert any(remark.startswith("failed ") for remark in asleep.remarks)
    left = reports["left"]
    assert left.unplayable == 26 and left.left == 1 and left.repeats == (0, 20), "a repeat has its sides changed"
    assert "prefers one side: the left film in 14 of 14 pairs" in left.remarks
    assert reports["began"].remarks == [] and reports["began"].done == 2
