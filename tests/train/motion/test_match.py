"""Matching: alike but for motion, counted by reason; and words that contradict each other."""

import json
import math
from dataclasses import replace

import pytest

from everreel.caption.critic import Critic
from everreel.train.motion.match import (
    Appearance,
    Judgement,
    Matching,
    Tally,
    appearance_of,
    difference_of,
    verdicts,
    without_indifferent,
)
from tests.train.motion.clips import FOX, frames_of

LIKE = Appearance(0.6, 0.5, 0.3, 0.2, 0.8, {"subject": "fox"})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, None),
        ({"alignment": 0.5}, ("alignment", 0.3)),
        ({"alignment": 0.3}, ("least_alignment", 0.3)),
        ({"shown": {"subject": "dog"}}, ("same subject", 1.0)),
        ({"sharpness": 0.45}, ("sharpness", 0.15)),
        ({"brightness": 0.9}, ("brightness", 0.4)),
        ({"contrast": 0.1}, ("contrast", 0.1)),
        ({"alignment": math.nan, "shown": {}}, None),
    ],
)
def test_films_are_alike_but_for_their_motion(other, reason):
    matching = Matching(alignment=0.25, least_alignment=0.4)
    found = matching.mismatch(LIKE, replace(LIKE, **other), 0.1)
    assert found == matching.mismatch(replace(LIKE, **other), LIKE, 0.1)
    assert found == (reason and (reason[0], pytest.approx(reason[1])))


def test_two_films_that_are_one_and_a_film_of_one_colour_make_no_pair():
    assert Matching().mismatch(LIKE, LIKE, 0.001) == ("least_difference", 0.001)
    reason, figure = Matching().mismatch(LIKE, replace(LIKE, sharpness=math.nan), 0.1)
    assert reason == "sharpness" and math.isnan(figure)


def test_a_film_is_measured_and_motion_is_not_asked_for():
    bright = appearance_of(frames_of(0), 24)
    dark = appearance_of(frames_of(0) // 2, 24)
    assert dark.brightness == pytest.approx(bright.brightness / 2, rel=0.02) and math.isnan(bright.alignment)
    read = appearance_of(frames_of(0), 24, FOX, Critic().eval())
    assert 0 < read.alignment < 1 and "subject" in read.shown
    assert not {"action", "direction", "camera_motion"} & set(read.shown)
    assert difference_of(frames_of(0), frames_of(0)) == 0 < difference_of(frames_of(0), frames_of(0)[::-1])


def test_rules_that_drop_everything_are_refused_with_the_figures():
    tally = Tally()
    for figure in (0.2, 0.3, 0.4):
        tally.drop("from_text", "sharpness", figure)
    tally.drop("reversed", "same subject", 1.0)
    tally.check_kept(Matching(), ended=False)  # more may come
    with pytest.raises(ValueError, match=r"all of 4 pairs; dropped: 3 by sharpness .median 0.3.*sharpness=0.3 would"):
        tally.check_kept(Matching(), ended=True)
    tally.keep("reversed", tie=True)
    tally.check_kept(Matching(), ended=True)
    assert tally.lines()[1] == "reversed: 1 of 2 kept, 1 of them ties; dropped: 1 by same subject (median 1)"
    again = Tally.from_json(json.loads(json.dumps(tally.as_json())))
    again.add(tally)
    assert (again.num_kept, again.num_dropped) == (2, 8)


def test_who_always_says_tie_is_named_and_who_said_little_is_heard():
    def answers(rater, values):
        return [Judgement(str(n), "a", "b", value, rater) for n, value in enumerate(values)]

    said = answers("anna", [0] * 19 + [1]) + answers("ben", [0] * 9 + [1]) + answers("eva", [0] * 4)
    heard, named = without_indifferent(said)
    assert {judgement.rater for judgement in heard} == {"ben", "eva"}
    assert named == ["anna: 19 of 20 answers are ties (95%), at most 90% count; left out"]


def says(first, second, value, rater="anna", prompt="a fox"):
    return Judgement(prompt, first, second, value, rater)


def test_opposite_answers_are_left_out_whichever_way_round_they_were_given():
    found, said = verdicts([says("a", "b", 1), says("b", "a", 1), says("a", "c", 0), says("c", "a", 0, "ben")])
    assert [(v.first, v.second, v.value) for v in found] == [("a", "c", 0)]
    assert said == ["anna: a and b for 'a fox' was answered in opposite ways; left out"]


def test_the_more_decide_and_as_many_on_both_sides_do_not():
    found, said = verdicts([says("b", "a", 1), says("a", "b", -1, "ben"), says("a", "b", 1, "eva")])
    assert [(v.value, v.votes, v.margin) for v in found] == [(-1, (1, 0, 2), pytest.approx(1 / 3))] and not said
    found, said = verdicts([says("a", "b", 1), says("a", "b", -1, "ben")])
    assert not found and said == ["a and b for 'a fox': 1 found the one better and 1 the other; left out"]
    found, _ = verdicts([says("a", "b", 1), says("a", "b", 0, "ben"), says("a", "b", 0, "eva")])
    assert found[0].value == 0


def test_circles_of_any_length_are_left_out_and_what_hangs_on_them_stays():
    ring = [says("a", "b", 1), says("b", "c", 1), says("c", "d", 1), says("a", "d", -1)]
    found, said = verdicts([*ring, says("d", "e", 1), says("b", "a", 1, prompt="a swan")])
    assert [(v.prompt, v.first, v.second) for v in found] == [("a fox", "d", "e"), ("a swan", "a", "b")]
    assert len(said) == 4 and all("in a circle" in line for line in said)


def test_limits_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"sharpness=1.5: lies in 0..1; the nearest that works is 1"):
        Matching(sharpness=1.5)
    with pytest.raises(ValueError, match="same='action': must be one of subject"):
        Matching(same=("action",))
