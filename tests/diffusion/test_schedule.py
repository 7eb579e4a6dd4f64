"""Schedules: the released matrices, a plain reading of the rules, and what every schedule promises."""

import itertools
import json
import re
from pathlib import Path

import pytest

from everreel.diffusion.schedule import Schedule, asynchronous, blockwise, partition, rolling, synchronous

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "official-step-matrices.json").read_text())


def expand(schedule: Schedule) -> list[tuple[list[int], list[bool]]]:
    """Rows over the whole film; frames outside the window are clean before it and noise after it."""
    rows = []
    for row in schedule:
        start, stop = row.window
        after = schedule.num_frames - stop
        after_levels = [schedule.num_steps * (f in schedule.given) for f in range(stop, schedule.num_frames)]
        levels = [schedule.num_steps] * start + list(row.levels) + after_levels
        rows.append((levels, [False] * start + list(row.update) + [False] * after))
    return rows


def by_the_rules(sizes, num_steps, ar_step, given):
    """Row by row: a block goes on if it is first or the one before is done, else keeps ar_step behind."""
    edges = [0, *itertools.accumulate(sizes)]
    blocks = [[f for f in range(a, b) if f not in given] for a, b in itertools.pairwise(edges)]
    blocks = [block for block in blocks if block]
    levels = [num_steps if f in given else 0 for f in range(edges[-1])]
    done = [0] * len(blocks)
    rows = []
    while min(done) < num_steps:
        now = []
        for i in range(len(blocks)):
            free = i == 0 or done[i - 1] >= num_steps
            step = done[i] + 1 if free else now[i - 1] - ar_step
            now.append(min(max(step, done[i]), num_steps))
        moved = [b > a for a, b in zip(done, now, strict=True)]
        frames = {f for block, moves in zip(blocks, moved, strict=True) if moves for f in block}
        rows.append((list(levels), [f in frames for f in range(edges[-1])]))
        for f in frames:
            levels[f] += 1
        done = now
    return rows


def check_promises(schedule: Schedule) -> None:
    """The invariants of every schedule, seen from outside."""
    steps = [0] * schedule.num_frames
    finished = []
    for row in schedule:
        start, stop = row.window
        assert len(row.levels) == len(row.update) == stop - start
        assert any(row.update)
        for frame, level, moves in zip(range(start, stop), row.levels, row.update, strict=True):
            known = frame in schedule.given
            assert level == (schedule.num_steps if known else steps[frame])
            assert not (known and moves)
            steps[frame] += moves
        finished += row.finished
        assert all(steps[f] == schedule.num_steps or f in schedule.given for f in row.finished)
        assert all(f in range(start, stop) or f in schedule.given for f in row.finished)
    want = [0 if f in schedule.given else schedule.num_steps for f in range(schedule.num_frames)]
    assert steps == want
    assert finished == list(range(schedule.num_frames))


@pytest.mark.parametrize("name", RELEASED)
def test_equals_the_released_matrices(name):
    """Timesteps, mask and window, row for row."""
    released = RELEASED[name]
    frames, steps, base, ar_step, prefix, block = map(int, re.findall(r"\d+", name))
    schedule = asynchronous(frames, steps, ar_step, block, given=range(prefix), base=base)
    assert len(schedule) == len(released["step_index"])
    rows = expand(schedule)
    # The released counter is 0 before a frame begins, 1 in its first row, and steps + 1 when it is done.
    assert [row[0] for row in rows] == [[min(max(c - 1, 0), steps) for c in row] for row in released["step_index"]]
    assert [row[1] for row in rows] == [[bool(u) for u in row] for row in released["update_mask"]]
    assert [list(row.window) for row in schedule] == released["valid_interval"]
    check_promises(schedule)


def test_released_timesteps_are_those_of_the_levels():
    """`step_matrix` is the solver's timestep at our level, in every row."""
    from everreel.diffusion.solver import timesteps_for

    for name, released in RELEASED.items():
        frames, steps, base, ar_step, prefix, block = map(int, re.findall(r"\d+", name))
        table = timesteps_for(steps, 8.0).tolist()
        rows = expand(asynchronous(frames, steps, ar_step, block, given=range(prefix), base=base))
        assert [[table[level] for level in row[0]] for row in rows] == released["step_matrix"]


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 11, 24])
@pytest.mark.parametrize("block", [1, 3, 5])
@pytest.mark.parametrize("ar_step", [0, 1, 3, 6, 7, 50])
@pytest.mark.parametrize("prefix", [0, 1, 4, 5])
def test_any_partition_follows_the_rules(frames, block, ar_step, prefix):
    """Tails, and prefixes that are no whole block."""
    if prefix >= frames:
        return
    schedule = asynchronous(frames, 6, ar_step, block, given=range(prefix))
    assert expand(schedule) == by_the_rules(schedule.sizes, 6, ar_step, range(prefix))
    moving = -(-(frames - prefix) // block)
    assert len(schedule) == 6 + (moving - 1) * min(ar_step, 6)
    check_promises(schedule)


@pytest.mark.parametrize("given", [{3}, {9}, {0, 9}, {4, 5}, {0, 1, 2, 3, 8}, {2, 3}, set(range(9))])
@pytest.mark.parametrize("ar_step", [0, 2, 6])
def test_given_frames_anywhere(given, ar_step):
    """Pictures in the middle and at the end are seen and never stepped."""
    schedule = asynchronous(10, 6, ar_step, 2, given=given)
    assert expand(schedule) == by_the_rules(schedule.sizes, 6, ar_step, given)
    check_promises(schedule)
    check_promises(asynchronous(10, 6, 6, 2, given=given, base=4))
    check_promises(blockwise(10, 6, 2, given=given, context=3))
    check_promises(synchronous(10, 6, given))


def test_partition():
    """The partitions of the issue."""
    assert partition(24, 5) == (5, 5, 5, 5, 4)
    assert partition(25, 4, first=1) == (1, 4, 4, 4, 4, 4, 4)
    assert partition(3, 5) == (3,)
    assert partition(1, 1) == (1,)
    assert asynchronous(25, 30, 5, 4, given=[0]).sizes == (1, 4, 4, 4, 4, 4, 4)
    assert asynchronous(26, 30, 5, 5, given=[0]).sizes == (1, 5, 5, 5, 5, 5)
    assert asynchronous(24, 30, 5, 5, given=range(7)).sizes == (2, 5, 5, 5, 5, 2)
    assert asynchronous(9, 4, 1, [2, 3, 4]).sizes == (2, 3, 4)


def test_given_and_tail__released_defect_1__released_defect_2__released_defect_3__released_defect_4():
    """An async prefix of one is protected, a tail is denoised, an end picture is seen."""
    rows = expand(asynchronous(25, 30, 5, 5, given=[0]))
    assert not any(update[0] for _, update in rows)
    for frames in (6, 9, 24, 26, 31):
        check_promises(asynchronous(frames, 30, 5, 5))
    rows = expand(asynchronous(26, 30, 5, 5, given=[0, 25]))
    assert all(levels[25] == 30 for levels, _ in rows)


@pytest.mark.parametrize("frames", [20, 33, 60])
@pytest.mark.parametrize("block", [1, 4, 5, 7])
@pytest.mark.parametrize("prefix", [0, 1, 9, 14])
@pytest.mark.parametrize("base", [7, 10, 12, 25])
def test_sliding_windows__released_defect_10(frames, block, prefix, base):
    """At the smallest ar_step that works the window holds all that moves; one less is refused and says so."""
    smallest = 0
    for ar_step in range(9):
        try:
            schedule = asynchronous(frames, 8, ar_step, block, given=range(prefix), base=base)
        except ValueError as error:
            match = re.search(r"the smallest that works is (\d+)$", str(error))
            assert match and int(match[1]) > ar_step
            assert smallest in (0, int(match[1]))
            smallest = int(match[1])
            continue
        assert ar_step >= smallest
        check_promises(schedule)
        widest = max(row.window[1] - row.window[0] for row in schedule)
        assert widest == schedule.longest_window <= base
        starts = [row.window for row in schedule]
        assert starts == sorted(starts)
        edges = {0, *itertools.accumulate(schedule.sizes)}
        assert all(start in edges and stop in edges for start, stop in starts)


@pytest.mark.parametrize("frames", [7, 20, 33])
@pytest.mark.parametrize("given", [(), (0,), (0, 1, 2, 3), (0, 6), (5, 6), (3, 6)])
@pytest.mark.parametrize("history", [0, 3, 8])
def test_with_a_cache_what_has_not_begun_is_out_of_sight(frames, given, history):
    """Unless a frame is given behind it; and so many finished frames more are in sight."""
    plain = rolling(frames, 6, 2, given, base=6)
    for schedule, full in (
        (asynchronous(frames, 6, 3, 2, given, cached=0), asynchronous(frames, 6, 3, 2, given)),
        (rolling(frames, 6, 2, given, base=6, cached=history), plain),
    ):
        check_promises(schedule)
        assert len(schedule) == len(full)
        stops = [row.window[1] for row in schedule]
        assert stops == sorted(stops)  # what has come into sight stays until it is done
        for row, whole in zip(schedule, full, strict=True):
            more = history if full is plain else 0
            assert row.window[0] == max(0, whole.window[0] - more)
            assert row.window[1] <= whole.window[1] and row.ahead == whole.ahead
            moved = [f for f, moves in zip(range(*row.window), row.update, strict=True) if moves]
            assert moved == [f for f, moves in zip(range(*whole.window), whole.update, strict=True) if moves]
            behind = [f for f in given if moved[-1] < f < whole.window[1]]
            newest = {0, *itertools.accumulate(schedule.sizes)}
            assert row.window[1] == min(edge for edge in newest if edge > max([moved[-1], *behind]))


@pytest.mark.parametrize(("frames", "block", "context", "prefix"), [(24, 5, 20, 0), (11, 4, 3, 1), (7, 3, 0, 2)])
def test_blockwise(frames, block, context, prefix):
    """One block at a time, with the context behind it."""
    schedule = blockwise(frames, 3, block, given=range(prefix), context=context)
    check_promises(schedule)
    assert len(schedule) == 3 * -(-(frames - prefix) // block)
    for row in schedule:
        moving = [f for f, u in zip(range(*row.window), row.update, strict=True) if u]
        assert row.window == (max(0, moving[0] - context), moving[-1] + 1)
    assert blockwise(20, 3, 5, context=10).longest_window == 15


def test_a_long_film_costs_nothing_to_hold():
    """100,000 latent frames: any row at once, none kept."""
    schedule = blockwise(100_000, 30, 5, context=20)
    assert len(schedule) == 600_000
    row = schedule[-1]
    assert row.window == (99_975, 100_000) and row.finished == range(99_995, 100_000)
    assert row.levels == (30,) * 20 + (29,) * 5
    assert schedule[0].window == (0, 5)
    assert next(iter(schedule)) == schedule[0]
    assert [r.levels[-1] for r in schedule[28:31]] == [28, 29, 0]
    with pytest.raises(IndexError):
        schedule[600_000]


def test_blocks_in():
    """Blocks cut to a window."""
    schedule = blockwise(24, 4, 5, context=7)
    assert schedule.blocks_in(0, 24) == (5, 5, 5, 5, 4)
    assert schedule.blocks_in(3, 12) == (2, 5, 2)
    assert schedule.blocks_in(5, 10) == (5,)
    assert schedule.blocks_in(6, 8) == (2,)
    assert schedule.blocks_in(10, 10) == schedule.blocks_in(7, 7) == ()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: synchronous(0, 4), "num_frames = 0: must be at least 1, nearest 1"),
        (lambda: synchronous(4, 0), "num_steps = 0: must be at least 1"),
        (lambda: synchronous(4, 4, [4]), "given = 4: must be from 0 to 3, nearest 3"),
        (lambda: synchronous(4, 4, range(4)), "given = all of num_frames = 4: .* nearest num_frames with these: 5"),
        (lambda: asynchronous(4, 4, -1, 2), "ar_step = -1: must be 0 or more"),
        (lambda: asynchronous(4, 4, 1, 0), "block_size = 0: must be at least 1"),
        (lambda: asynchronous(4, 4, 1, [1, 2]), "sum must be num_frames = 4"),
        (lambda: asynchronous(9, 4, 1, 3, base=2), "base = 2: must hold the longest block, nearest 3"),
        (
            lambda: asynchronous(100, 30, 5, 5, base=25),
            "ar_step = 5.*base = 25.*the smallest that works is 6$",
        ),
        (lambda: asynchronous(100, 30, 0, 5, base=25), "ar_step = 0.*the smallest that works is 6$"),
        (lambda: blockwise(9, 4, 3, context=-1), "context = -1: must be 0 or more"),
        (lambda: partition(4, 2, first=5), "first = 5: must be from 0 to num_frames = 4"),
    ],
)
def test_bad_values_are_named(make, words):
    """Field, value, rule, nearest."""
    with pytest.raises(ValueError, match=words):
        make()
