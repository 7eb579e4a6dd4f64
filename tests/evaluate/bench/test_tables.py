"""The tables: means as anyone would compute them, intervals that hold what they should, the paper's figures beside."""

import csv
import io
import json
import statistics

import numpy as np
import pytest

from everreel.evaluate.bench.study import AXES
from everreel.evaluate.bench.tables import COLUMNS, csv_rows, markdown, published, results_of
from everreel.evaluate.bench.votes import estimate, resample
from tests.evaluate.bench.studies import fake_study, prefers, rate


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return fake_study(folder, ("a", "b"), 15, kinds=("scores", "pairs"), repeats=2, checks=2)


def fair(study, said, rng, offset):
    """Scores about what a film deserves: model a a point more than b; repeats and checks are nonsense on purpose."""

    def say(task, shown):
        if task.repeat or task.check:
            return 1 if task.kind == "scores" else "left"
        if task.kind == "pairs":
            return prefers("a", "b")(task, shown)
        film = shown[0]
        given = {axis: int(np.clip(3 + (film.model == "a") + offset + rng.integers(-1, 2), 1, 5)) for axis in AXES}
        said.append((film.model, given))
        return given

    return say


@pytest.fixture(scope="module")
def rated(study):
    folder, study = study
    said, rng = [], np.random.default_rng(0)
    raters = [rate(folder, study, f"rater {n}", fair(study, said, rng, n % 2 - 1)) for n in range(3)]
    return study, raters, said


def test_the_means_are_those_of_the_answers_that_count(rated):
    study, raters, said = rated
    results = results_of(study, raters)
    for model in study.models:
        means = [statistics.mean(given[axis] for name, given in said if name == model) for axis in AXES]
        assert [results.scores[model][axis].value for axis in AXES] == pytest.approx(means)
        assert results.scores[model]["average"].value == pytest.approx(statistics.mean(means))
        assert results.scores[model]["average"].count == 45
        for found in results.scores[model].values():
            assert found.low < found.value < found.high
    difference = results.differences["a − b"]
    assert difference.differs and difference.low > 0.5
    assert difference.value == pytest.approx(
        results.scores["a"]["average"].value - results.scores["b"]["average"].value
    )


def test_a_difference_is_surer_than_its_two_models(rated):
    """Raters who are strict are strict with both models, so the difference moves less than either."""
    study, raters, _ = rated
    results = results_of(study, raters)
    wide = results.scores["a"]["average"]
    assert results.differences["a − b"].high - results.differences["a − b"].low < wide.high - wide.low


def test_the_bootstrap_moves_as_means_of_prompts_and_raters_do():
    """Effects of deviation 1 of 40 prompts and of 20 raters: the mean's deviation is √(1/40 + 1/20)."""
    draw = np.random.default_rng(0)
    prompts, raters = draw.normal(0, 1, 40), draw.normal(0, 1, 20)
    values = (prompts - prompts.mean()) / prompts.std() + ((raters - raters.mean()) / raters.std())[:, None]
    sums = resample(values.T[:, :, None], draws=4000)
    means = (sums / resample(np.ones((40, 20, 1)), draws=4000))[:, 0]
    assert means[0] == pytest.approx(0) and means[1:].std() == pytest.approx((1 / 40 + 1 / 20) ** 0.5, rel=0.05)
    found = estimate(means, 800)
    assert found.high == pytest.approx(1.96 * (1 / 40 + 1 / 20) ** 0.5, rel=0.1) and not found.differs


def test_the_same_answers_give_the_same_figures(rated):
    study, raters, _ = rated
    assert results_of(study, raters).record() == results_of(study, raters).record()


def test_the_page_has_the_papers_columns_and_its_figures_apart(rated):
    study, raters, _ = rated
    results = results_of(study, raters, ["a line of a file: left out"])
    page = markdown(results, published("t2v"))
    own, theirs = page.split("## As published")
    head = "| model | Average | Instruction adherence | Consistency | Visual quality | Motion quality |"
    assert head in own and head in theirs
    assert "SkyReels-V2 | 3.14 | 3.15 | 3.35 | 3.34 | 2.74 |" in theirs and "SkyReels" not in own
    assert "Other prompts, other raters" in " ".join(theirs.split()) and "a line of a file: left out" in own
    assert "- a − b, on average: " in own and "more than chance explains" in own
    assert "As published" not in markdown(results)


def test_all_figures_of_the_paper_are_there():
    assert [row["model"] for row in published("t2v").rows] == [
        "Runway-Gen3 Alpha",
        "HunyuanVideo-13B",
        "Kling-1.6 STD Mode",
        "Hailuo-01",
        "Wan2.1-14B",
        "SkyReels-V2",
    ]
    assert [row["model"] for row in published("i2v").rows][-2:] == ["SkyReels-V2-DF", "SkyReels-V2-I2V"]
    for row in (*published("t2v").rows, *published("i2v").rows):
        assert row.keys() == {"model", *COLUMNS}
        mean = statistics.mean(row[axis] for axis in AXES)
        # One of the published averages is not the mean of its row; it is given as it was published.
        assert abs(row["average"] - mean) < (0.05 if row["model"] == "Runway-Gen4" else 0.026), row


def test_csv_and_json_hold_every_figure_and_no_nan(rated, study):
    own, raters, _ = rated
    results = results_of(own, raters)
    file = io.StringIO()
    rows = csv_rows(results, published("i2v"))
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writerows(rows)
    kinds = [row["kind"] for row in rows]
    assert kinds.count("score") == 10 and kinds.count("strength") == 10 and kinds.count("difference") == 1
    assert kinds.count("score alpha") == 4 and kinds.count("pair alpha") == 5 and kinds.count("published") == 35
    record = json.loads(json.dumps(results.record(), allow_nan=False))
    assert record["scores"]["a"]["average"]["count"] == 45 and len(record["raters"]) == 3


def test_a_study_that_has_only_begun_has_a_page_too(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 4, kinds=("scores", "pairs"))
    one = rate(folder, study, "<b>Anna</b> | x", lambda task, shown: 4, limit=1)
    results = results_of(study, [one])
    page = markdown(results)
    assert "| – |" in page and "nan" not in page and "## Pairs" not in page
    assert "<b>" not in page and "&lt;b>Anna&lt;/b> \\| x" in page
    json.dumps(results.record(), allow_nan=False)
    assert markdown(results_of(study, [])).startswith("# Which films are good?")


def test_one_axis_has_no_average(tmp_path):
    folder, study = fake_study(tmp_path, ("a", "b"), 4, kinds=("scores",), axes=("motion_quality",))
    results = results_of(study, [rate(folder, study, "Anna", lambda task, shown: 4)])
    assert list(results.scores["a"]) == ["motion_quality"] and "| model | Motion quality |" in markdown(results)
