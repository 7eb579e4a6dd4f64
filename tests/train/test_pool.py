"""Jobs here and in processes give the same; nothing is made for no job, and what goes wrong comes out."""

from functools import partial

import pytest

from everreel.train import pool


def _times(factor):
    def work(job):
        if job < 0:
            raise ValueError(f"job={job}")
        return factor * job

    return work


def test_here_and_in_processes_the_same():
    jobs = [3, 1, 2]
    assert list(pool.done(partial(_times, 10), jobs, 1)) == [30, 10, 20]
    assert sorted(pool.done(partial(_times, 10), jobs, 2, threads=1)) == [10, 20, 30]


def test_nothing_is_made_for_no_job():
    def never():
        raise AssertionError("was made")

    assert list(pool.done(never, [], 1)) == [] == list(pool.done(never, [], 2))


def test_what_goes_wrong_comes_out():
    for processes in (1, 2):
        with pytest.raises(ValueError, match="job=-1"):
            list(pool.done(partial(_times, 10), [-1], processes))
