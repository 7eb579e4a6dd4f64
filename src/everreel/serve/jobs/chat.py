"""A language model that is run here for a server: in a process of its own, from the first question to the last answer.

In the server's own it could not be stopped, would slow every other answer down, and would take the server with it where
memory runs out. It computes on the processor, so that no film in the making loses the memory of its device to a prompt,
and it is as nice as the workers are. The one invariant: when `close` returns, or the server is gone, so is the process
with all that it held.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from everreel.answers import ChatError, LateError, Message, Schema, UnreachableError
from everreel.serve.jobs.beside import questions_and_answers

NICER = 10


class ChatProcess:
    """See the module, and `everreel.chat.ChatModel`.

    Args:
        path: as for `LocalChat`.
        seconds: from the first question on; then the process is ended, whatever it does.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._path, self._seconds, self._ends = path, seconds, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None

    def answer(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        max_tokens: int = 2048,
        temperature: float = 0.0,
    ) -> str:
        """See `ChatModel`."""
        asked = {"messages": list(messages), "schema": schema, "max_tokens": max_tokens, "temperature": temperature}
        process = self._process = self._process or self._begin()
        assert process.stdin is not None and process.stdout is not None
        line = b""
        with contextlib.suppress(OSError):  # it ended meanwhile, which a line without an end tells
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line.endswith(b"\n"):
            found: dict[str, str] = json.loads(line)
            if "answer" in found:
                return found["answer"]
            raise (UnreachableError if found["kind"] == UnreachableError.__name__ else ChatError)(found["error"])
        if time.monotonic() >= self._ends:
            raise LateError(f"model = {self._path!r}: no answer within {self._seconds:g} s; a smaller model is quicker")
        rule = f"its process ended with status {process.wait()}; is there memory for it?"
        raise UnreachableError(f"model = {self._path!r}: {rule}")

    def close(self) -> None:
        """Free the model; asked again, it is loaded again."""
        if self._timer:
            self._timer.cancel()
        if self._process:
            # Its pipes are closed with it, over which there may be nobody any more.
            with contextlib.suppress(OSError), self._process as process:
                process.kill()
        self._process = self._timer = None

    def _begin(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "everreel.serve.jobs.chat", self._path]
        # In a session of its own, as the workers: the Ctrl-C that ends the server is not for it.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._ends = time.monotonic() + self._seconds
        self._timer = threading.Timer(self._seconds, process.kill)
        self._timer.daemon = True
        self._timer.start()
        return process


def main() -> None:
    """Answer questions, a line of JSON each, until there is nobody to ask more."""
    questions, answers = questions_and_answers()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICER)
    from everreel.chat import LocalChat

    chat = LocalChat(sys.argv[1], "cpu")
    while True:
        told: dict[str, str]
        try:
            told = {"answer": chat.answer(**json.loads(questions.get()))}
        except Exception as error:  # whatever transformers makes of a stranger's weights
            told = {"kind": type(error).__name__, "error": " ".join(str(error).split()) or type(error).__name__}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
