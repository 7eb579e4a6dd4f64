"""What clients send, read for the first time: in a process of its own, with limits to its memory and its time."""

from __future__ import annotations

from pathlib import Path

from everreel.serve.jobs.job import Limits, Upload


def inspect(source: Path, limits: Limits) -> Upload:
    """What a file is. A picture is written anew in its place, as a PNG without anything else in it.

    Raises:
        RequestError: it is neither a picture nor a film that can be used.
    """
    raise NotImplementedError
