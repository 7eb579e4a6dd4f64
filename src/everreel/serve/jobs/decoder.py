"""A process that decodes a film which is, or begins with, what a client sent: `sent` starts one for each use.

What it may and which film it is stand in its only argument, as JSON. It tells on its output what the film is, and then
answers a line of JSON after the other with a line of JSON, behind which pixels may follow. The one invariant: before
the first byte of the film is read, memory and time have a limit that nothing lifts; and it ends with who started it.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOMEM
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everreel.film.source import FilmFrames, SourceFilm
from everreel.film.splice import Splice
from everreel.media import Pixels
from everreel.serve.jobs.beside import questions_and_answers
from everreel.serve.jobs.reader import limit


def main() -> None:
    """Answer what is asked of the film, until there is nobody to ask more."""
    questions, answers = questions_and_answers()
    rules: dict[str, Any] = json.loads(sys.argv[1])
    limit(rules["memory"], rules["cpu"], rules["output"])
    film: _Film | None = None
    question = b'{"open": []}'
    while True:
        try:
            if film is None:
                film = _Film.of(SourceFilm.open(rules["path"], rules["options"]))
            (name, given), *_ = json.loads(question).items()
            told, pixels = film.answer(name, given)
        except ValueError as error:
            told, pixels = {"refused": str(error)}, None
        except (MemoryError, OSError) as error:
            errno = getattr(error, "errno", None)
            told, pixels = {"errno": ENOMEM if errno is None else errno}, None
        _tell(answers, told, pixels)
        question = questions.get()


@dataclass(frozen=True)
class _Film:
    source: SourceFilm
    frames: FilmFrames

    @classmethod
    def of(cls, source: SourceFilm) -> _Film:
        return cls(source, FilmFrames(source))

    def answer(self, name: str, given: list[Any]) -> tuple[dict[str, Any], Pixels | None]:
        """What is told, and pixels with it.

        Raises:
            ValueError: it cannot be decoded.
            OSError: no film can be written.
        """
        match name, given:
            case "open", []:
                told = {name: getattr(self.source, name) for name in ("height", "width", "fps")}
                return {**told, "num_frames": len(self.frames)}, None
            case "frame", [number]:
                return {}, self.frames[number][np.newaxis]
            case "tail", [num_frames, fps, height, width]:
                return {}, self.source.tail(num_frames, fps, (height, width))
            case "splice", [output, fps]:
                with Splice(self.source, Path(output), fps) as film:
                    return {"seam": film.hand_over().facts()}, None
        raise AssertionError(f"nobody asks for {name}")


def _tell(answers: BinaryIO, told: dict[str, Any], pixels: Pixels | None) -> None:
    if pixels is not None:
        told = {"shape": pixels.shape}
    with suppress(BrokenPipeError):
        answers.write(json.dumps(told).encode() + b"\n")
        if pixels is not None:
            answers.write(np.ascontiguousarray(pixels).data)
        answers.flush()


if __name__ == "__main__":
    main()
