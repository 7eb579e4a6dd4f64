"""Windows one after the other: the released lengths, and what every schedule promises, whatever is given."""

import random

import pytest

from everreel.diffusion.schedule import asynchronous, blockwise, rolling, synchronous
from everreel.diffusion.windows import windows


def check(schedule, given, num_frames, num_steps):
    """The promises of every schedule, seen from outside: each latent steps to the end, what is given never."""
    steps = dict.fromkeys(range(num_frames), 0)
    handed_out = 0
    for row in schedule:
        start, stop = row.window
        assert len(row.levels) == len(row.update) == stop - start and any(row.update)
        for frame, level, moves in zip(range(start, stop), row.levels, row.update, strict=True):
            assert level == (num_steps if frame in given else steps[frame])
            assert not (moves and frame in given)
            steps[frame] += moves
        first = start + row.update.index(True)
        assert row.ahead == any(frame in given for frame in range(first, stop))
        for frame in row.finished:
            assert frame == handed_out and (frame in given or (steps[frame] == num_steps and start <= frame < stop))
            handed_out += 1
        assert sum(schedule.blocks_in(start, stop)) == stop - start
    assert handed_out == num_frames
    assert all(count == (0 if frame in given else num_steps) for frame, count in steps.items())


def test_the_released_windows():
    """97 frames are 25 latents and 17 are 5: windows of 25, then 20 new ones each, then what is left."""
    schedule = windows(65 + 3, 4, base=25, overlap=5)
    rows = [row for row in schedule if row.finished]
    assert [row.window for row in rows] == [(0, 25), (20, 45), (40, 65), (60, 68)]
    assert [row.finished for row in rows] == [range(25), range(25, 45), range(45, 65), range(65, 68)]
    assert [row.joined for row in schedule] == [0] * 4 + [5, 0, 0, 0] * 3
    assert len(schedule) == 16 and schedule.longest_window == 25 and schedule.num_finished == 4


def test_each_window_is_a_schedule_of_its_own():
    """The overlap is given, and blocks start one after the other within the window, as the released code has it."""
    schedule = windows(45, 6, base=25, overlap=5, ar_step=2, block_size=5)
    inner = asynchronous(25, 6, 2, 5, given=range(5))
    rows = list(schedule)[len(asynchronous(25, 6, 2, 5)) :]
    assert [row.levels for row in rows] == [row.levels for row in inner]
    assert [row.update for row in rows] == [row.update for row in inner]


@pytest.mark.parametrize(
    ("frames", "given", "ar_step"), [(121, [], 0), (121, [], 2), (80, [10, 44], 0), (80, range(30), 2), (25, [], 0)]
)
def test_windows_are_counted_as_they_come(frames, given, ar_step):
    """Each but the first begins with what it has of the one before."""
    schedule = windows(frames, 6, base=25, overlap=5, given=given, ar_step=ar_step, block_size=5)
    joined = sum(row.joined > 0 for row in schedule)
    assert schedule.num_windows == joined + 1


def test_a_window_ends_where_a_picture_soon_after_it_has_a_run_up():
    assert windows(26, 2, base=25, overlap=5, given=[25]).sizes == (15, 11)
    assert windows(26, 2, base=25, overlap=5).sizes == (25, 1)
    assert windows(80, 2, base=25, overlap=5, given=[70]).sizes == (25, 20, 15, 20)
    assert windows(80, 2, base=25, overlap=5, given=[10, 44]).sizes == (25, 20, 20, 15)


CASES = range(200)


@pytest.mark.parametrize("case", CASES)
def test_any_film_in_any_schedule(case):
    """Drawn films of 1 to 226 latents: every schedule, block size 1 to 7, overlap, and pictures anywhere."""
    draw = random.Random(case)
    frames = draw.choice([draw.randint(2, 40), draw.randint(2, 226)])
    steps, block = draw.randint(1, 5), draw.randint(1, 7)
    base = draw.randint(max(block, 2), 30)
    overlap = draw.randint(1, base - 1)
    given = set(draw.sample(range(frames), draw.randint(0, min(4, frames - 1))))
    given |= {0} if draw.random() < 0.5 else set()
    given |= {frames - 1} if draw.random() < 0.5 else set()
    if len(given) == frames:
        given.pop()
    schedules = [
        synchronous(frames, steps, given),
        asynchronous(frames, steps, draw.randint(0, 6), block, given),
        rolling(frames, steps, block, given, base=base),
        blockwise(frames, steps, block, given, context=overlap, base=base),
        blockwise(frames, steps, block, given, context=overlap),
        windows(frames, steps, base=base, overlap=overlap, given=given),
        windows(frames, steps, base=base, overlap=overlap, given=given, ar_step=draw.randint(1, 6), block_size=block),
    ]
    for schedule in schedules:
        check(schedule, given, frames, steps)
    assert all(schedule.longest_window <= base for schedule in (*schedules[2:4], *schedules[5:]))


def test_a_long_beginning_that_is_given_takes_no_window():
    schedule = windows(60, 2, base=10, overlap=4, given=range(33))
    check(schedule, set(range(33)), 60, 2)
    assert schedule.longest_window <= 10 and schedule[0].window[0] > 20


def test_a_row_is_found_at_once_in_an_endless_film():
    schedule = windows(1_000_000, 30, base=25, overlap=5)
    assert schedule[len(schedule) - 1].finished.stop == 1_000_000


def test_rolling_takes_the_fewest_rows():
    assert len(rolling(100, 30, 5, base=25)) == 30 + 19 * 6
    with pytest.raises(ValueError, match="the smallest that works is 6"):
        asynchronous(100, 30, 5, 5, base=25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": 1, "overlap": 1}, "base = 1: must be at least 2, nearest 2"),
        ({"base": 5, "overlap": 0}, "overlap = 0: must be 1 to base - 1 = 4, nearest 1"),
        ({"base": 5, "overlap": 5}, "overlap = 5: must be 1 to base - 1 = 4, nearest 4"),
    ],
)
def test_windows_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        windows(20, 2, **values)
