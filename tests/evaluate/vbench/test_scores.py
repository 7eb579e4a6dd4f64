"""VBench's totals, checked against raw scores and totals that were published together."""

import pytest

from everreel.evaluate.vbench.prompts import SHARED
from everreel.evaluate.vbench.scores import VBENCH, VBENCH_I2V, check_dimension, published, suite_of, total_of, totals

# FlashVideo (arXiv 2502.05179), table 1, and the README of AccVideo (arXiv 2503.19462): Total, Quality, Semantic, then
# the raw scores of the sixteen dimensions in this order. (The table's row "FlashVideo, 8 fps" is left out: its Semantic
# score is a tenth of a point off what its own raw scores make, where all others agree.)
ORDER = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)
PUBLISHED = """
Vchitect-2.0 (VEnhancer)|82.24 83.54 77.06|96.83 96.66 98.57 98.98 63.89 60.41 65.35 86.61 68.84 97.20 87.04 57.55 56.57 23.73 25.01 27.57
CogVideoX-1.5|82.17 82.78 79.76|96.87 97.35 98.88 98.31 50.93 62.79 65.02 87.47 69.65 97.20 87.55 80.25 52.91 24.89 25.19 27.30
CogVideoX-5B|81.61 82.75 77.04|96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 82.81 66.35 53.20 24.91 25.38 27.59
CogVideoX-2B|81.57 82.51 77.79|96.42 96.53 98.45 97.76 58.33 61.47 65.60 87.81 69.35 97.00 86.87 54.64 57.51 24.93 25.56 28.01
Mochi-1|80.13 82.64 70.08|96.99 97.28 99.40 99.02 61.85 56.94 60.64 86.51 50.47 94.60 79.73 69.24 36.99 20.33 23.65 25.15
LTX-Video|80.00 82.30 70.79|96.56 97.20 99.34 98.96 54.35 59.81 60.28 83.45 45.43 92.80 81.45 65.43 51.07 21.47 22.62 25.19
OpenSoraPlan-V1.1|78.00 80.91 66.38|95.73 96.73 99.03 98.28 47.72 56.85 62.28 76.30 40.35 86.80 89.19 53.11 27.17 22.90 23.87 26.52
FlashVideo, 24 fps|82.99 83.35 81.56|97.19 97.09 98.52 98.89 56.88 62.11 65.40 88.38 78.93 99.40 84.84 82.16 57.43 24.36 25.26 27.59
AccVideo-HunyuanT2V|83.26 84.58 77.96|94.46 97.45 99.18 98.79 75.00 62.08 65.64 92.99 67.33 95.60 94.11 75.70 54.72 19.87 23.71 27.21
AccVideo-WanXT2V|85.95 86.62 83.25|95.02 97.75 99.54 97.95 93.33 64.21 68.42 98.38 86.58 97.40 92.04 75.68 59.82 23.88 24.62 27.34
"""  # noqa: E501 -- a model a line, as published

# The README of MUG-V 10B (its table of VBench-I2V's leaderboard): I2V, Quality, Total, then raw scores in this order.
I2V_ORDER = (
    "camera_motion",
    "i2v_subject",
    "i2v_background",
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
PUBLISHED_I2V = """
CogVideoX|94.79 78.61 86.70|67.68 97.19 96.74 94.34 96.42 98.40 33.17 61.87 70.01
STIV|93.48 79.98 86.73|11.17 98.96 97.35 98.40 98.39 99.61 15.28 66.00 70.81
Step-Video|95.50 81.22 88.36|49.23 97.86 98.63 96.02 97.06 99.24 48.78 62.29 70.44
Dynamic-I2V|98.12 78.78 88.45|88.10 98.83 98.97 96.21 98.39 98.88 27.15 60.10 69.23
HunyuanVideo|95.10 78.54 86.82|49.91 98.53 97.37 95.26 96.70 99.23 22.20 62.55 70.14
Wan2.1|92.90 80.82 86.86|34.76 96.95 96.44 94.86 97.07 97.90 51.38 64.75 70.44
MAGI-1|96.12 82.44 89.28|50.85 98.39 99.00 93.96 96.74 98.68 68.21 64.74 69.71
"""


def rows(table, order):
    for line in table.strip().splitlines():
        name, published, raw = line.split("|")
        values = [float(value) for value in raw.split()]
        assert len(values) == len(order)
        scores = dict(zip(order, (value / 100 for value in values), strict=True))
        yield pytest.param(scores, [float(value) for value in published.split()], id=name)


def rounding(suite, half):
    """How far a half may be off, in points, since the published raw scores are rounded to a hundredth."""
    there = [dimension for dimension in suite.dimensions if dimension.half == half]
    share = sum(dimension.weight / (dimension.high - dimension.low) for dimension in there)
    return 0.005 * share / sum(dimension.weight for dimension in there)


@pytest.mark.parametrize(("raw", "published"), list(rows(PUBLISHED, ORDER)))
def test_totals_are_the_published_ones(raw, published):
    made = totals(raw)
    total, quality, semantic = published
    of_rounding = total_of({"quality": rounding(VBENCH, "quality"), "semantic": rounding(VBENCH, "semantic")})
    assert 100 * made.total == pytest.approx(total, abs=0.005 + of_rounding)
    assert 100 * made.halves["quality"] == pytest.approx(quality, abs=0.005 + rounding(VBENCH, "quality"))
    assert 100 * made.halves["semantic"] == pytest.approx(semantic, abs=0.005 + rounding(VBENCH, "semantic"))
    assert made.missing == () and set(made.raw) == set(VBENCH.names)


def test_rounding_is_all_that_may_differ():
    assert rounding(VBENCH, "quality") < 0.01 and rounding(VBENCH, "semantic") < 0.01


@pytest.mark.parametrize(("raw", "published"), list(rows(PUBLISHED_I2V, I2V_ORDER)))
def test_totals_of_i2v_are_the_published_ones(raw, published):
    made = totals(raw)
    i2v, quality, total = published
    assert made.suite is VBENCH_I2V and round(100 * made.total, 2) == total
    assert 100 * made.halves["i2v"] == pytest.approx(i2v, abs=0.005 + rounding(VBENCH_I2V, "i2v"))
    assert 100 * made.halves["quality"] == pytest.approx(quality, abs=0.005 + rounding(VBENCH_I2V, "quality"))


# SkyReels-V2 (arXiv 2504.13074), and the README of ContentV (arXiv 2506.05343).
@pytest.mark.parametrize(
    ("quality", "semantic", "total"),
    [
        (84.7, 80.8, 83.9),
        (86.67, 84.44, 86.22),
        (85.40, 80.12, 84.34),
        (85.51, 79.35, 84.28),
        (85.09, 75.82, 83.24),
        (82.92, 71.77, 80.69),
    ],
)
def test_the_total_of_published_halves(quality, semantic, total):
    digits = 1 if total == 83.9 else 2
    assert round(total_of({"quality": quality, "semantic": semantic}), digits) == total


def test_the_suite_has_as_many_prompts_as_it_says():
    assert len(VBENCH.names) == 16 and set(VBENCH.names) == set(ORDER)
    own = [dimension.num_prompts for dimension in VBENCH.dimensions if dimension.name not in SHARED]
    assert sum(own) == 946
    assert all(VBENCH[name].num_prompts == VBENCH[owner].num_prompts for name, owner in SHARED.items())
    assert {dimension.name: dimension.weight for dimension in VBENCH.dimensions if dimension.weight != 1} == {
        "dynamic_degree": 0.5
    }


def test_what_is_missing_is_named_and_counts_for_nothing():
    raw = dict.fromkeys(ORDER, 0.5)
    del raw["scene"], raw["color"]
    with pytest.raises(
        ValueError, match=r"dimensions: color, scene missing; VBench's totals are made of all 16; --part"
    ):
        totals(raw)
    made = totals(raw, partial=True)
    assert made.missing == ("color", "scene") and made.total is not None
    whole = totals(dict.fromkeys(ORDER, 0.5))
    assert made.halves["quality"] == whole.halves["quality"] != made.halves["semantic"]
    assert "Semantic of 14 of 16 dimensions" in made.describe() and "Total of 14 of 16 dimensions" in made.describe()
    assert " of " not in whole.describe()


def test_a_half_of_which_nothing_is_there_has_no_score():
    made = totals({"temporal_flickering": 0.99}, partial=True)
    assert set(made.halves) == {"quality"} and made.total is None
    assert made.halves["quality"] == pytest.approx((0.99 - 0.6293) / (1 - 0.6293))
    assert made.describe().endswith("Total: a half is missing")
    assert made.record()["total"] is None and len(made.record()["missing"]) == 15
    with pytest.raises(ValueError, match="dimensions = none"):
        totals({}, partial=True)


def test_bounds_do_not_cut_off():
    assert totals({"motion_smoothness": 0.9999}, partial=True).halves["quality"] > 1
    assert totals({"subject_consistency": 0.1}, partial=True).halves["quality"] < 0


def test_dimensions_tell_their_suite():
    assert suite_of(["color"]) is VBENCH and suite_of(["subject_consistency"]) is VBENCH
    assert suite_of(["i2v_subject", "subject_consistency", "temporal_flickering"]) is VBENCH_I2V
    with pytest.raises(ValueError, match="color of VBench and i2v_subject of VBench-I2V: two suites are mixed"):
        suite_of(["color", "i2v_subject"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Human_Anatomy", "is one of VBench-2.0, which is scored in another way"),
        ("Camera_Motion", "is one of VBench-2.0"),
        ("gender_bias", "is one of VBench-Trustworthiness"),
        ("colour", "is none of VBench's; nearest that works: color"),
    ],
)
def test_dimensions_of_others_are_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        check_dimension(name)


def test_the_papers_totals_are_those_that_its_halves_make():
    rows = [line.split() for line in published() if line.endswith("%")]
    assert [row[0] for row in rows] == ["OpenSora", "CogVideoX1.5-5B", "HunyuanVideo-13B", "Wan2.1-14B", "SkyReels-V2"]
    for *_, total, quality, semantic in rows:
        found, *halves = (float(cell.rstrip("%")) for cell in (total, quality, semantic))
        assert total_of(dict(zip(("quality", "semantic"), halves, strict=True))) == pytest.approx(found, abs=0.2)
