"""Something that goes on in a thread of its own while something else does; and listening, in a process of one's own."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import BinaryIO


@contextmanager
def beside(run: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Meanwhile `run`, which ends soon after the event that it is given is set."""
    over = threading.Event()
    thread = threading.Thread(target=run, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def questions_and_answers() -> tuple[SimpleQueue[bytes], BinaryIO]:
    """The lines that a process is sent, and where it answers; the end of its input ends it, also amid an answer.

    Whatever a library prints goes where errors do: it is no answer.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            questions.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return questions, answers
