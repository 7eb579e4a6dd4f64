"""One process leads, the others do at the same time what it does: commands over torch.distributed.

Source: none; the single-controller form of remote calls. The one invariant: a command is carried out by all processes,
the leader among them; whoever fails on its own takes all others with it, and the leader alone says why.
"""

from __future__ import annotations

import itertools
import signal
import threading
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map

from everreel.parallel.launch import Parallel
from everreel.parallel.part import Part
from everreel.parallel.talk import LostError, talking

FAILURE = "everreel/failure"  # where a process leaves word of why it ended
STOP = "stop"


class Crew:
    """All processes, as the leader has them; `close` lets the others end."""

    def __init__(self, parallel: Parallel) -> None:
        assert parallel.leads
        self.parallel = parallel
        self._part = Part(parallel)
        self._numbers = itertools.count()
        self._dropped: list[int] = []
        self._lock = threading.Lock()
        self._lost = False

    def run(self, command: str, *arguments: Any) -> Any:  # noqa: ANN401 -- whatever the command of `Part` takes and gives
        """Let all processes carry out a command of `Part`; what it gives here comes back.

        Raises:
            ValueError: from the command; nothing has happened.
            LostError: another process has ended, and why. No command works any more.
        """
        with self._lock:
            if self._lost:
                raise LostError("the other processes have ended; start again")
            try:
                return self._run(command, arguments)
            except LostError as error:
                self._lost = True
                raise LostError(self._why() or str(error)) from None
            except BaseException as error:  # the others may wait in the middle of a pass
                self._lost = not isinstance(error, ValueError)
                raise

    def number(self) -> int:
        """A new number, for a command that makes something."""
        return next(self._numbers)

    def keep(self, number: int, thing: object) -> None:
        """Let the number stand for a thing of the leader's. When nobody has the thing, all drop what has its number."""
        self._part.held[number] = thing
        weakref.finalize(thing, self._dropped.append, number).atexit = False

    def number_of(self, thing: object) -> int:
        """The number of a thing that is kept."""
        return next(number for number, kept in self._part.held.items() if kept is thing)

    def close(self) -> None:
        """Let the other processes end. They end by themselves when this one does, but take that for a failure."""
        with self._lock:
            if not self._lost:
                self._lost = True
                with talking():
                    dist.broadcast_object_list([([], STOP, ())], src=0, group=self.parallel.commands)
                dist.destroy_process_group()

    def _run(self, command: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 -- as `run`
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        with talking():
            dist.broadcast_object_list(
                [(dropped, command, tree_map(_portable, arguments))], src=0, group=self.parallel.commands
            )
        result, refused = None, None
        try:
            result = getattr(self._part, command)(*arguments)
        except ValueError as error:
            refused = error
        answers: list[str | None] = [None] * self.parallel.size
        with talking():
            dist.gather_object(None, answers, dst=0, group=self.parallel.commands)
        if refused is not None:
            raise refused
        for rank, answer in enumerate(answers):
            if answer is not None:
                raise ValueError(f"process {rank}: {answer}")
        return result

    def _why(self) -> str | None:
        """What the first process that failed has left word of."""
        store = self.parallel.store
        try:
            return store.get(FAILURE).decode() if store.check([FAILURE]) else None
        except RuntimeError:  # it went with the process that kept it
            return None


def serve(parallel: Parallel) -> int:
    """Do what the leader says until it says stop or is gone; all that the other processes do. Gives an exit code."""
    assert not parallel.leads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader decides what Ctrl-C means
    part = Part(parallel)
    try:
        while (command := _told(part)) != STOP:
            assert command
    except LostError:
        return 1
    except BaseException as error:
        words = (str(error).splitlines() or [""])[0]
        text = f"process {parallel.rank} of {parallel.size} has failed: {type(error).__name__}: {words}"
        if parallel.store.add(f"{FAILURE}/count", 1) == 1:
            parallel.store.set(FAILURE, text)
        return 1
    dist.destroy_process_group()
    return 0


def _told(part: Part) -> str:
    """Carry out the next command."""
    box: list[Any] = [None]
    with talking():
        dist.broadcast_object_list(box, src=0, group=part.parallel.commands)
    dropped, command, arguments = box[0]
    for number in dropped:
        part.held.pop(number, None)
    if command != STOP:
        refused = None
        try:
            getattr(part, command)(*arguments)
        except ValueError as error:
            refused = str(error)
        with talking():
            dist.gather_object(refused, None, dst=0, group=part.parallel.commands)
    return str(command)


def _portable(value: object) -> object:
    """Tensors on the CPU; a device of the leader's may not be there for others."""
    return value.cpu() if isinstance(value, torch.Tensor) else value
