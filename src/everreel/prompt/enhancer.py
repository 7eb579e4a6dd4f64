"""What makes prompts whole, whoever does it: the interface, and what comes back.

The pattern is the released enhancer's: shot, subject and what it does, detail, environment, lighting, and how the
camera moves. The one invariant: what comes back says what will be sent, whether that is what was given, and which of
the given words nobody knew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Enhanced:
    """A prompt as it is sent to a model of films."""

    text: str
    backend: str
    """`built-in`, or the language model's name."""
    changed: bool
    unknown: tuple[str, ...] = ()
    """Words of the given prompt that are kept, and that the film world has nothing for."""
    reason: str = ""
    """What was added or taken for something else, or why nothing was; a line for people."""

    def describe(self) -> str:
        """One line for people, to be shown beside the text."""
        unknown = f"not known, kept: {', '.join(self.unknown)}" if self.unknown else ""
        return "; ".join(part for part in (f"{self.backend}: {self.reason}", unknown) if part)


class Enhancer(Protocol):
    """Whatever makes prompts whole."""

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        """A prompt with what it leaves open filled in; as it was given where there is nothing to fill in.

        With an image, how things look and where they are is the image's to say: action, expression and camera are
        added at most.

        Raises:
            ValueError: a language model gives no answer that can be used.
        """
