"""Jobs done one after the other here, or side by side in processes of their own.

The one invariant: what does the jobs is made once a process, and a job that nobody waits for any more is not begun.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

J = TypeVar("J")
R = TypeVar("R")

_work: Callable[[Any], Any] | None = None  # of a process that does jobs


def done(
    begin: Callable[[], Callable[[J], R]], jobs: Sequence[J], processes: int, threads: int | None = None
) -> Iterator[R]:
    """The results, as they come. Without any job nothing is made.

    Args:
        begin: makes what does a job. Several processes get it pickled: a function of a module, or a partial of one.
        threads: of torch in each process; None leaves them as they are.
    """
    if not jobs:
        return
    if processes == 1:
        yield from map(_begun(begin, threads), jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, spawn, _begin, (begin, threads)) as pool:
        waiting = [pool.submit(_do, job) for job in jobs]
        try:
            yield from (job.result() for job in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def _begun(begin: Callable[[], Callable[[J], R]], threads: int | None) -> Callable[[J], R]:
    if threads is not None:
        torch.set_num_threads(threads)
    return begin()


def _begin(begin: Callable[[], Callable[[Any], Any]], threads: int | None) -> None:
    global _work
    _work = _begun(begin, threads)


def _do(job: Any) -> Any:  # noqa: ANN401 -- whatever the work takes and gives
    assert _work is not None
    return _work(job)
