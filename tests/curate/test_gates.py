"""The spot check: who is drawn, and what answers decide."""

import json

import pytest

from everreel.curate.gates import ALL, ANSWERS, GATES, SAMPLE, Gate, Sample, check, draw, folder_of, judge, read_answers
from everreel.curate.record import VERDICTS, Clip, write_clips
from everreel.data.draws import generator_for
from everreel.evaluate.follow import wilson

PRETRAINING = GATES["pretraining"]
GOOD = frozenset()


def clips(count, source="tv", verdict="kept"):
    return [Clip(f"{source}/{n:05}.mp4", 0, 48, 0.0, 2.0, 24.0, 320, 180, verdict=verdict) for n in range(count)]


def sample_of(*found, gate=PRETRAINING, seed=0):
    return draw([clip for part in found for clip in part], gate, generator_for(seed, "gate"))


def answers_of(sample, count, **bad):
    """So many answers, the first with these faults: `basic=2` is two clips."""
    wrong = [frozenset({group}) for group, number in bad.items() for _ in range(number)]
    names = [name for name, _ in sample.clips[:count]]
    return dict(zip(names, wrong + [GOOD] * (count - len(wrong)), strict=True))


def test_the_gates_are_the_papers():
    assert PRETRAINING.rate == 1e-4 and GATES["post-training"].rate == 1e-3
    assert list(PRETRAINING.limits.values()) == [0.15, 0.03, 0.05, 0.07]
    assert list(GATES["post-training"].limits.values()) == [0.03, 0.005, 0.01, 0.015]


def test_as_many_are_drawn_as_a_verdict_needs():
    assert wilson(0, PRETRAINING.least)[1] < 0.03 <= wilson(0, PRETRAINING.least - 1)[1]
    assert len(sample_of(clips(1000)).clips) == PRETRAINING.least
    assert len(sample_of(clips(7)).clips) == 7
    assert len(sample_of(clips(1000), gate=Gate("most", 0.5, {"total": 0.5})).clips) == 500


def test_a_draw_is_the_seeds_and_has_no_clip_twice_nor_one_that_was_dropped():
    found = sample_of(clips(400), clips(50, "dropped", "dropped"))
    names = [name for name, _ in found.clips]
    assert len(set(names)) == len(names) and found.sizes == {"tv": 400}
    assert found == sample_of(clips(400)[::-1]) and found.digest == sample_of(clips(400)).digest
    assert found.clips != sample_of(clips(400), seed=1).clips
    assert names != sorted(names)


def test_sources_take_turns():
    found = sample_of(clips(60, "film"), clips(60, "web"))
    assert 8 <= sum(source == "film" for _, source in found.clips[:20]) <= 12
    assert folder_of(Clip("a.mp4", 0, 1, 0, 1, 24, 2, 2)) == "."


def test_enough_good_ones_pass():
    sample = sample_of(clips(1000))
    [decision] = judge(sample, answers_of(sample, PRETRAINING.least))
    assert decision.outcome == "pass" and decision.bad["total"] == 0


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"basic": 20}, "basic"), ({"type": 20}, "type"), ({"post": 24}, "post"), ({"basic": 60}, "total")],
)
def test_too_many_of_a_group_discard(bad, named):
    sample = sample_of(clips(1000))
    [decision] = judge(sample, answers_of(sample, PRETRAINING.least, **bad))
    assert decision.outcome == "discard" and f"{named} {next(iter(bad.values()))} of" in str(decision)


def test_between_the_two_a_gate_is_undecided_and_says_so_with_the_interval():
    sample = sample_of(clips(1000))
    [decision] = judge(sample, answers_of(sample, PRETRAINING.least, basic=2))
    assert decision.outcome == "undecided" and "look at more" in decision.why
    low, high = wilson(2, PRETRAINING.least)
    assert f"{100 * low:.1f} to {100 * high:.1f} %, must be below 3 %" in decision.why


def test_few_answers_decide_nothing_and_none_neither():
    sample = sample_of(clips(1000))
    for count in (0, 40):
        [decision] = judge(sample, answers_of(sample, count))
        assert decision.outcome == "undecided" and f"{PRETRAINING.least} good ones are the least" in decision.why


def test_where_all_are_looked_at_the_share_is_known():
    sample = sample_of(clips(40))
    assert judge(sample, answers_of(sample, 40))[0].outcome == "pass"
    assert judge(sample, answers_of(sample, 40, basic=1))[0].outcome == "pass"
    assert judge(sample, answers_of(sample, 40, basic=2))[0].outcome == "discard"
    [part] = judge(sample, answers_of(sample, 39))
    assert part.outcome == "undecided" and "all 40 are looked at" in part.why


def test_a_bad_source_does_not_take_a_good_one_with_it():
    sample = sample_of(clips(30, "film"), clips(30, "web"))
    answers = {name: frozenset({"post"}) if source == "web" else GOOD for name, source in sample.clips}
    found = {decision.source: decision.outcome for decision in judge(sample, answers)}
    assert found == {"film": "pass", "web": "discard", ALL: "discard"}


def written(folder, sample, answers, digest=None):
    (folder / SAMPLE).write_text(json.dumps(sample.to_json()))
    rows = {name: sorted(bad) for name, bad in answers.items()}
    (folder / ANSWERS).write_text(json.dumps({"sample": digest or sample.digest, "answers": rows}))


def test_answers_are_read_from_the_run(tmp_path):
    sample = sample_of(clips(30))
    write_clips(tmp_path / VERDICTS, clips(30))
    written(tmp_path, sample, answers_of(sample, 30))
    assert [decision.outcome for decision in check(tmp_path)] == ["pass"]
    write_clips(tmp_path / VERDICTS, clips(29))
    with pytest.raises(ValueError, match="1 of 30 are not kept now"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "are none"),
        ('{"answers": {}}', "are none"),
        ('{"sample": "x", "answers": {}}', "those to sample x"),
        ('{"sample": "DIGEST", "answers": {"other": []}}', "'other' is no clip"),
        ('{"sample": "DIGEST", "answers": {"tv/00000.mp4#0+48": ["ugly"]}}', "has ugly; must be of basic"),
    ],
)
def test_what_are_no_answers_is_said(tmp_path, text, rule):
    sample = sample_of(clips(30))
    (tmp_path / ANSWERS).write_text(text.replace("DIGEST", sample.digest))
    with pytest.raises(ValueError, match=rule):
        read_answers(tmp_path / ANSWERS, sample)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"there is no sample; everreel data-check .* draws one"):
        check(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_answers(tmp_path / ANSWERS, sample_of(clips(3)))
    (tmp_path / SAMPLE).write_text("[]")
    with pytest.raises(ValueError, match="is no sample"):
        Sample.load(tmp_path / SAMPLE)
    with pytest.raises(ValueError, match="of which 0 are kept"):
        sample_of(clips(5, verdict="dropped"))
