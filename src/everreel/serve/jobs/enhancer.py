"""Who makes prompts whole for a server's clients: the built-in rules, or a language model that its operator has chosen.

The one invariant: a client chooses neither the model nor its address, and hears of no address, path or key. Why there
is no answer stands in the server's log; the client is told that there is none, and what works.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

from everreel.answers import ChatError, LateError, UnreachableError
from everreel.enhance import EnhanceOptions, enhance_options, enhancer_of
from everreel.prompt.asked import Asked
from everreel.prompt.enhancer import Enhanced, Enhancer
from everreel.serve.jobs.chat import ChatProcess
from everreel.serve.jobs.job import BusyError, EnhancerError, LateEnhancerError

R = TypeVar("R")
AT_ONCE = 8  # requests whose prompts an endpoint makes whole; whoever comes then is told to come again
LONGEST = 600.0  # seconds for all prompts of a request: as long as OpenAI's SDK waits for an answer
log = logging.getLogger(__name__)


class ServedEnhancer:
    """See the module. Any number of threads may use it.

    Raises:
        ValueError: the address of the endpoint is none; said when the server starts, and not to its first client.
    """

    def __init__(self, options: EnhanceOptions | None = None) -> None:
        self._options = options or enhance_options()
        if self._options.chosen == "endpoint":
            with enhancer_of(self._options, world=False):
                pass
        self._places = threading.BoundedSemaphore(1 if self._options.chosen == "local" else AT_ONCE)

    @property
    def asks(self) -> bool:
        """Whether a language model is asked, which may take minutes."""
        return self._options.chosen != "built-in"

    @contextmanager
    def at_work(self, world: bool) -> Iterator[Enhancer]:
        """Who makes the prompts of one request whole; `world` as for `enhancer_of`.

        Raises:
            BusyError: as many requests as may ask at a time do so.
            EnhancerError: a language model gives no answer that can be used.
        """
        if not self.asks:
            with enhancer_of(self._options, world=world) as enhancer:
                yield enhancer
            return
        if not self._places.acquire(blocking=False):
            raise BusyError("prompt: this server makes as many whole as it does at a time; ask again in a minute")
        try:
            with self._asked(world) as enhancer:
                yield _Served(enhancer, time.monotonic() + LONGEST)
        except ChatError as error:
            log.warning("a prompt was not made whole: %s", error)
            raise _told(error) from None
        finally:
            self._places.release()

    @contextmanager
    def _asked(self, world: bool) -> Iterator[Enhancer]:
        if self._options.chosen == "endpoint":
            with enhancer_of(self._options, world=world) as enhancer:
                yield enhancer
            return
        # Loaded for each request and gone before its film is ordered: the films' model is other processes' business, at
        # any time, so one that stayed would always be beside it. Who is asked often is better served, as an endpoint.
        assert self._options.llm is not None
        with closing(ChatProcess(self._options.llm, LONGEST)) as chat:
            yield Asked(chat, self._options.llm, world)


@dataclass(frozen=True)
class _Served:
    """An `Enhancer` with an end to its time; of a model that may lie at a path, clients hear the last name."""

    enhancer: Enhancer
    ends: float

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        """See `Enhancer`."""
        if time.monotonic() >= self.ends:
            raise LateError(f"the prompts of one request took {LONGEST:g} s, and some are left")
        made = self.enhancer.enhance(prompt, has_image=has_image)
        return replace(made, backend=PurePath(made.backend).name)


async def apart(call: Callable[[], R]) -> R:
    """What a call gives that may wait for minutes, done in a thread of its own.

    Threads of a pool are for short answers, and a program waits at its end for those that it has.

    Raises:
        BusyError: the server ends.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, name="enhancer", daemon=True).start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:  # which a server makes an error of, with a trace
        raise BusyError("prompt: the server ends; ask again in a minute") from None


def unusable(why: str) -> EnhancerError:
    """For what a language model wrote and a film cannot be made of."""
    log.warning("a prompt was not made whole: %s", why)
    return _told(ChatError(why))


def _told(error: ChatError) -> EnhancerError:
    """What a client hears of an error that names addresses and paths."""
    kind, what = EnhancerError, "gave no answer that can be used"
    if isinstance(error, LateError):
        kind, what = LateEnhancerError, "gave no answer in time"
    elif isinstance(error, UnreachableError):
        what = "cannot be asked now"
    rule = f"the language model that makes prompts whole here {what}"
    return kind(f"prompt: {rule}; ask again later, or send it without enhance")
