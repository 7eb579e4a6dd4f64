"""A house of films, and somebody who makes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from everreel.serve.jobs.service import Jobs
from tests.serve.agents.house import Painter, house


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return house(tmp_path / "home")


@pytest.fixture
def painting(jobs: Jobs) -> Iterator[None]:
    """Somebody who makes whatever is ordered."""
    stop = threading.Event()
    thread = threading.Thread(target=Painter(jobs).run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()
