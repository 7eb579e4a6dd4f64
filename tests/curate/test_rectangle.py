"""The largest free rectangle, against every rectangle there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everreel.curate.rectangle import (
    CropLimits,
    Rectangle,
    aspect_change_of,
    even,
    largest_free,
    share_of,
)


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.integers(0, 3), min_size=height * width, max_size=height * width))
    return np.array(cells).reshape(height, width) == 0


def by_trying_all(covered):
    """The largest, of equal ones the topmost end, as a plain reading has it: only its area is compared."""
    height, width = covered.shape
    return max(
        (
            (bottom - top) * (right - left)
            for top in range(height)
            for bottom in range(top + 1, height + 1)
            for left in range(width)
            for right in range(left + 1, width + 1)
            if not covered[top:bottom, left:right].any()
        ),
        default=0,
    )


@settings(max_examples=100, deadline=None)
@given(masks())
def test_it_is_free_and_none_is_larger(covered):
    found = largest_free(covered)
    if found is None:
        assert covered.all()
    else:
        assert not covered[found.slices].any()
        assert covered[found.slices].shape == (found.height, found.width), "it lies within the picture"
        assert found.area == by_trying_all(covered)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_even_ends_lie_within_and_lose_at_most_a_row_at_either_end(top, left, height, width):
    whole, found = Rectangle(top, left, height, width), even(Rectangle(top, left, height, width))
    if found is None:
        assert height <= 2 or width <= 2
        return
    assert not any(value % 2 for value in (found.top, found.left, found.height, found.width))
    assert 0 <= found.top - whole.top <= 1 and found.top + found.height <= whole.top + whole.height
    assert found.height >= whole.height - 2 and found.width >= whole.width - 2


def test_a_film_with_a_line_of_words_at_its_foot_keeps_what_is_above():
    covered = np.zeros((1080, 1920), bool)
    covered[960:1020, 400:1500] = True
    assert largest_free(covered) == Rectangle(0, 0, 960, 1920)


def test_nothing_is_free_where_all_is_covered():
    assert largest_free(np.ones((4, 5), bool)) is None


def test_share_and_aspect():
    found = Rectangle(0, 0, 90, 160)
    assert share_of(found, 100, 160) == pytest.approx(0.9)
    assert aspect_change_of(found, 100, 160) == pytest.approx(1 / 0.9 - 1)
    assert aspect_change_of(Rectangle(0, 0, 100, 144), 100, 160) == pytest.approx(1 / 0.9 - 1)


@pytest.mark.parametrize(
    "wrong", [{"least_share": 0.0}, {"least_share": 1.0}, {"aspect_change": -0.1}, {"aspect_change": float("nan")}]
)
def test_limits_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CropLimits(**wrong)
