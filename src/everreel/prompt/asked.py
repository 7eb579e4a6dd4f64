"""The enhancer that asks a language model, and finishes what that one leaves undone by the built-in rules.

For models that read any words the language model writes the prompt; for a model of the film world it only says which of
the world's values come nearest, and the built-in enhancer says them. The one invariant: a prompt that says all of the
pattern is not asked about, and what the answer says differently from the prompt is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from everreel.answers import ChatError, Message
from everreel.chat import ChatModel
from everreel.prompt.builtin import BuiltIn
from everreel.prompt.enhancer import Enhanced
from everreel.prompt.reading import Reading, read
from everreel.world.scene import VOCABULARY

MAX_TOKENS = 512  # what the text encoders of the released models read
LONGEST = 8 * MAX_TOKENS  # characters, more than so many tokens ever have; whoever answers more was not asked for it
_WRITE = (
    "You write prompts for a model that makes short films. Turn what the user asks for into one paragraph of 40 to 120 "
    "words in English, in this order: the type of shot, the subject and what it does, details of its looks, the "
    "environment, the light, and how the camera moves. Keep every thing, colour, number, name and action that the user "
    "mentions, and contradict none of them. Where the subject stays where it is, let the camera move slowly. Answer "
    "with the paragraph alone."
)
_WRITE_FOR_IMAGE = (
    "You write prompts for a model that makes a short film out of a given picture, which you do not see. Turn what the "
    "user asks for into one or two sentences in English about what moves: the action, its pace, the expression, and "
    "how the camera moves. Say nothing of looks, places or light that the user does not mention. Keep all that the "
    "user mentions. Answer with the sentences alone."
)
_TRANSLATE = (
    "A film shows one subject doing one thing in one place. Say of the user's text which of the allowed values come "
    'nearest to what it says, field by field, and "" for every field that it says nothing of.'
)


@dataclass(frozen=True)
class Asked:
    """See the module.

    Args:
        name: of the language model, for people.
        world: for a model that knows the film world's words and no others.
    """

    chat: ChatModel
    name: str
    world: bool = False

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        """See `Enhancer`.

        Raises:
            ChatError: the model gives no answer that can be used.
        """
        reading, built_in = read(prompt), BuiltIn(self.world)
        done = built_in.complete(prompt, reading, has_image=has_image)
        whole = not done.changed and not reading.nothing
        if whole or not prompt.strip():
            return Enhanced(prompt, self.name, False, done.unknown, "says everything already; nothing was asked")
        if self.world:
            return self._translated(prompt, reading, has_image)
        asked = _WRITE_FOR_IMAGE if has_image else _WRITE
        answer = _one_paragraph(self.chat.answer(_messages(asked, prompt), max_tokens=MAX_TOKENS))
        if not answer:
            raise ChatError(f"model = {self.name!r}: its answer holds no words; try another model")
        if len(answer) > LONGEST:
            rule = f"its answer has {len(answer)} characters, and {MAX_TOKENS} tokens were asked for; try another model"
            raise ChatError(f"model = {self.name!r}: {rule}")
        written = read(answer)
        finished = built_in.complete(answer, written, has_image=has_image)
        reasons = ["written anew"]
        other = [name for name, value in reading.said.items() if written.said.get(name, value) != value]
        if other:
            reasons.append(f"says otherwise: {', '.join(other)}")
        missing = [word for word in reading.unknown if word.lower() not in answer.lower()]
        if missing:
            reasons.append(f"left out: {', '.join(missing)}")
        if finished.changed:
            reasons.append(finished.reason)
        return Enhanced(finished.text, self.name, finished.text != prompt, (), "; ".join(reasons))

    def _translated(self, prompt: str, reading: Reading, has_image: bool) -> Enhanced:
        """In the world's words: as the prompt says it where that is known, else as the model understands it."""
        answer: dict[str, Any] = json.loads(self.chat.answer(_messages(_TRANSLATE, prompt), schema=_fields()))
        found = {
            name: value
            for name, value in answer.items()
            if name not in reading.said and isinstance(value, str) and value in VOCABULARY.get(name, ())
        }
        reading.said |= found
        reading.own &= not found
        said = BuiltIn(world=True).complete(prompt, reading, has_image=has_image)
        understood = ", ".join(f"{name} {value}" for name, value in found.items())
        reason = "; ".join(part for part in (understood and f"understood as {understood}", said.reason) if part)
        return Enhanced(said.text, self.name, said.changed, said.unknown, reason)


def _messages(asked: str, prompt: str) -> list[Message]:
    return [{"role": "system", "content": asked}, {"role": "user", "content": prompt}]


def _fields() -> dict[str, Any]:
    """The schema of a scene in which every field may be left open."""
    properties = {name: {"type": "string", "enum": ["", *values]} for name, values in VOCABULARY.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(VOCABULARY),
        "additionalProperties": False,
    }


def _one_paragraph(answer: str) -> str:
    """An answer on one line, without the marks that some models put around it."""
    return " ".join(answer.strip('`*" \n\u201c\u201d').split())
