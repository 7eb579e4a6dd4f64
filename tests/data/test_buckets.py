"""Sizes, lengths and frame rates: least is cut off, and no frame is invented."""

from __future__ import annotations

from fractions import Fraction

import pytest

from everreel.data.buckets import Buckets, lengths_up_to, sizes_around

MILLI = Fraction(1, 1000)
BUCKETS = Buckets(((96, 160), (160, 96), (128, 128), (192, 320)), (9, 33, 97))


def times(num_frames: int, fps: float) -> list[int]:
    return [round(1000 * n / fps) for n in range(num_frames)]


@pytest.mark.parametrize(
    ("seen", "size"),
    [
        ((1080, 1920), (192, 320)),  # of the two of its aspect the one it is scaled least to
        ((100, 170), (96, 160)),
        ((1920, 1080), (160, 96)),
        ((500, 520), (128, 128)),
        ((96, 160), (96, 160)),
    ],
)
def test_the_size_that_cuts_off_least(seen: tuple[int, int], size: tuple[int, int]) -> None:
    assert BUCKETS.size_for(*seen) == size


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (24, 24),
        (23.976, 24),
        (25, 24),
        (29.97, 24),
        (30, 24),
        (48, 24),
        (60, 24),
        (16, 16),
        (18, 16),
        (20, 16),
        (32, 16),
    ],
)
def test_the_rate_with_the_least_rest(fps: float, rate: int) -> None:
    cut = BUCKETS.cut(times(250, fps), MILLI)
    assert cut is not None and cut.fps == rate and len(cut.times) == 97
    # Every moment shows the frame nearest to it.
    for number, time in enumerate(cut.times):
        assert abs(time / 1000 - number / rate) <= 0.5 / fps + 0.001


def test_a_film_as_fast_as_asked_gives_every_frame() -> None:
    for fps in (23.976, 24, 16):
        cut = BUCKETS.cut(times(97, fps), MILLI)
        assert cut is not None and list(cut.times) == times(97, fps)


def test_the_rate_that_is_asked_for_or_the_one_that_the_film_has() -> None:
    def rate(asked: int, fps: float) -> int | None:
        cut = Buckets(((96, 160),), (33,), asked).cut(times(100, fps), MILLI)
        return cut.fps if cut else None

    assert [rate(24, 30), rate(16, 30), rate(24, 20), rate(16, 24)] == [24, 16, 16, 16]
    assert rate(24, 12) is rate(16, 12) is None


def test_a_film_with_gaps_is_not_stretched() -> None:
    """It has a second in which one frame stands: what would show that is not taken, what ends before it is."""
    even = times(48, 48)
    shown = [*even, *(time + 2000 for time in even)]
    cut = BUCKETS.cut(shown, MILLI, 0.5)
    assert cut is not None and len(cut.times) == 9 and max(cut.times) < 1000
    assert Buckets(((96, 160),), (33,)).cut(shown, MILLI, 0.5) is None


def test_the_longest_that_the_rest_of_a_film_holds() -> None:
    shown = times(120, 24)
    lengths = [len(cut.times) if (cut := BUCKETS.cut(shown, MILLI, start)) else 0 for start in (0, 2, 4.5, 4.9)]
    assert lengths == [97, 33, 9, 0]
    cut = BUCKETS.cut(shown, MILLI, 2.0)
    assert cut is not None and cut.start == 2.0 and cut.times[0] == 2000


def test_buckets_of_a_model() -> None:
    assert sizes_around(544, 960) == ((544, 960), (624, 832), (720, 720), (832, 624), (960, 544))
    assert lengths_up_to(97) == (97, 49, 25)


@pytest.mark.parametrize(
    ("sizes", "frames", "fps", "rule"),
    [
        (((100, 160),), (9,), None, "sizes = 100x160: must be multiples of 16, nearest 96x160"),
        (((96, 160),), (10,), None, "frames = 10: must be 4k \\+ 1, nearest 9"),
        (((96, 160),), (9,), 30, "fps = 30: must be 16 or 24, nearest 24"),
        ((), (9,), None, "sizes: name at least one"),
        (((96, 160),), (), None, "frames: name at least one"),
    ],
)
def test_what_is_no_bucket_is_refused(sizes: object, frames: object, fps: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Buckets(sizes, frames, fps)  # type: ignore[arg-type]
