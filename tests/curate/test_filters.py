"""Filters: a table that grows stricter, and changes to it that are refused where they mean nothing."""

from pathlib import Path

import pytest

from everreel.curate.filters import (
    FILTERS,
    OTHERS,
    STAGES,
    changes_in,
    nearest_threshold,
    needed_groups,
    read_thresholds,
    reasons_of,
    show_thresholds,
    thresholds_of,
)
from everreel.curate.gates import GATES
from everreel.curate.record import Clip


def clip(**measures: float) -> Clip:
    return Clip("a", 0, 48, 0, 2, 24.0, 64, 64, measures=measures)


@pytest.mark.parametrize("name", FILTERS)
def test_no_stage_is_looser_than_the_one_before(name: str) -> None:
    each = FILTERS[name]
    sign = 1 if each.bound == "at least" else -1
    found = [float("-inf") if value is None else sign * value for value in each.by_stage]
    assert found == sorted(found)


def test_what_a_stage_adds_is_the_papers() -> None:
    assert "text" not in needed_groups(thresholds_of("256p"))
    for stage in STAGES[1:]:
        assert {"motion", "quality", "text"} <= set(needed_groups(thresholds_of(stage)))
    assert thresholds_of("post")["concept"] and not thresholds_of("540p")["concept"]


def test_a_measure_that_is_not_known_drops_nothing() -> None:
    assert reasons_of(clip(), thresholds_of("post")) == ()
    assert reasons_of(clip(sharpness=float("nan")), thresholds_of("post")) == ()
    assert reasons_of(clip(side=255, fps=16), thresholds_of("256p")) == ("small",)
    assert reasons_of(clip(side=256, fps=15.9), thresholds_of("256p")) == ("slow-rate",)


def test_printed_thresholds_read_back_as_they_are(tmp_path: Path) -> None:
    changed = thresholds_of("540p", [("small", 96), ("text", "off")])
    (tmp_path / "t.toml").write_text(show_thresholds("540p", changed))
    assert thresholds_of("256p", read_thresholds(tmp_path / "t.toml")) == changed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["stratic=3"], "set = 'stratic': is no filter; static is one"),
        (["small=big"], "set small = 'big': must be a number, or off"),
        (["small=nan"], "must be a number"),
        (["small"], "must be NAME=VALUE"),
    ],
)
def test_changes_that_mean_nothing_are_refused(changes: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        thresholds_of("256p", changes_in(changes))


def test_a_stage_that_is_none_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage = '1080p': must be one of 256p"):
        thresholds_of("1080p")
    (tmp_path / "t.toml").write_text("small 96")
    with pytest.raises(ValueError, match="cannot be read"):
        read_thresholds(tmp_path / "t.toml")


def test_the_nearest_threshold_keeps_a_tenth() -> None:
    clips = [clip(side=10.0 + n, black=n / 100) for n in range(50)]
    for name in ("small", "black"):
        nearest = nearest_threshold(FILTERS[name], clips)
        kept = sum(FILTERS[name].keeps(each, nearest) for each in clips)
        assert kept == 5
    assert nearest_threshold(FILTERS["shaky"], clips) is None


def table_of_the_page() -> str:
    """What `docs/curation.md` has between its two marks."""
    lines = [
        "",
        f"| name | kept | {' | '.join(STAGES)} | what is measured |",
        "| --- | --- |" + " ---: |" * 4 + " --- |",
    ]
    rows = [(each.name, each.bound, each.by_stage, each.what) for each in FILTERS.values()]
    rows += [(name, "at most", by_stage, what) for name, (by_stage, what) in OTHERS.items()]
    for name, bound, by_stage, what in rows:
        told = " | ".join("off" if value is None else f"{value:g}" for value in by_stage)
        lines.append(f"| `{name}` | {bound} | {told} | {what} |")
    return "\n".join([*lines, ""])


def test_the_page_has_these_thresholds_and_gates():
    page = (Path(__file__).parents[2] / "docs" / "curation.md").read_text(encoding="utf-8")
    found = page.split("<!-- thresholds -->\n")[1].split("\n<!-- /thresholds -->")[0]
    assert found == table_of_the_page()
    for gate in GATES.values():
        limits = " | ".join(f"{100 * limit:g} %" for limit in gate.limits.values())
        assert f"| `{gate.name}` | 1 in {1 / gate.rate:,.0f} | {limits} |" in page
        assert f"{gate.least} clips at `{gate.name}`" in page or f"{gate.least} at `{gate.name}`" in page
