"""One caption in prose of a structured one, for text-to-video and for image-to-video.

Follows the released fusion (its caption-fusion script) in what is told and in which order. For text-to-video: the shot,
then of each subject action, appearance, expression and position, then environment and lighting. For image-to-video,
where the picture shows the rest: action and expression. The camera's motion comes last, as it is. `BuiltInFusion` needs
no model; `ChatFusion` asks one and checks its answer. The one invariant: nothing is left out by chance (`dropped`, the
augmentation of training, is asked for by itself), and whatever the fields are, a caption of whole sentences comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch

from everreel.caption.clauses import (
    clause,
    cleaned,
    expression_clause,
    is_noun_phrase,
    noun_of,
    numbered,
    opens_sentence,
    ordinary,
    position_clause,
    sentence,
    with_article,
)
from everreel.caption.schema import TASKS, Fuser, StructuralCaption, Subject, Task
from everreel.chat import ChatError, ChatModel, Message, UnreachableError

SHOTS = {
    "long_shot": "a long shot",
    "full_shot": "a full shot",
    "medium_shot": "a medium shot",
    "close_up": "a close-up",
    "extreme_close_up": "an extreme close-up",
    "other": "a shot",
}
ANGLES = {"eye_level": "at eye level", "high_angle": "from a high angle", "low_angle": "from a low angle"}
POSITIONS = {
    "front_view": "seen from the front",
    "back_view": "seen from behind",
    "side_view": "seen from the side",
    "over_the_shoulder": "over the shoulder",
    "overhead_view": "seen from straight above",
    "point_of_view": "from a first-person point of view",
    "aerial_view": "seen from the air",
    "overlooking_view": "overlooking the scene",
}
STILL = "The camera is still."  # what is true of a caption that says nothing else
EXPRESSIVE = ("human", "animal")
MOST_WORDS, LEAST_WORDS, MOST_TOKENS = 400, 3, 1024
_STILL_WORDS = {"static", "still", "fixed", "stationary", "static camera", "static shot", "the camera is static"}
_FIELD_NAMES = re.compile(r"\b(?:shot_type|shot_angle|shot_position|is_main_subject|sub_type|camera_motion|TYPES)\b")
_LABEL = re.compile(r"^(?:\*\*)?(?:the )?(?:fused |final )?(?:caption|description)(?:\*\*)?\s*:\s*(?:\*\*)?\s*", re.I)


class BuiltInFusion:
    """Fusion by rules: the same caption always gives the same words."""

    name = "built-in"

    def fuse(self, caption: StructuralCaption, task: Task) -> str:
        """See `Fuser`.

        Raises:
            ValueError: there is no such task.
        """
        caption = told_fields(caption, task)
        body = [*_shot(caption), *_subjects(caption, task), *_surroundings(caption)]
        return " ".join(part for part in (*body, camera_sentence(caption)) if part) or STILL


class ChatFusion:
    """Fusion by a language model. What it must not change, the camera's motion, it is not shown.

    Where its answer cannot be used, it is told so, once; then `otherwise` writes the caption, and `on_problem` is told
    why. Whoever is not there at all is an `UnreachableError`: the next caption would fare no better.
    """

    def __init__(
        self,
        chat: ChatModel,
        name: str = "chat",
        *,
        otherwise: Fuser | None = None,
        on_problem: Callable[[str], None] | None = None,
    ) -> None:
        self.chat, self.name = chat, name
        self.otherwise: Fuser = otherwise or BuiltInFusion()
        self.on_problem = on_problem

    def fuse(self, caption: StructuralCaption, task: Task) -> str:
        """See `Fuser`.

        Raises:
            ValueError: there is no such task; of it `UnreachableError`: there is nobody to ask.
        """
        told = told_fields(caption, task)
        fields = _for_model(told, task)
        if not fields:
            return self.otherwise.fuse(caption, task)
        question = f"{_INSTRUCTIONS[task]}\n\n{json.dumps(fields, ensure_ascii=False, indent=1)}"
        messages: list[Message] = [{"role": "user", "content": question}]
        problem = ""
        for _ in range(2):
            try:
                answer = self.chat.answer(messages, max_tokens=MOST_TOKENS)
                return " ".join(part for part in (checked_answer(answer), camera_sentence(told)) if part)
            except UnreachableError:
                raise
            except ChatError as error:
                problem = str(error)
                break
            except ValueError as error:
                problem = str(error)
                complaint = f"That answer {problem}. Write the caption alone, as plain sentences."
                messages = [*messages[:1], {"role": "assistant", "content": answer}]
                messages.append({"role": "user", "content": complaint})
        if self.on_problem is not None:
            self.on_problem(f"{self.name}: {problem}; fused by rules instead")
        return self.otherwise.fuse(caption, task)


def told_fields(caption: StructuralCaption, task: Task) -> StructuralCaption:
    """The caption with what the task tells, each field cleaned: for i2v subjects that act or show a mood, and no shot.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"task = {task!r}: must be one of {', '.join(TASKS)}")
    subjects = []
    for subject in sorted(caption.subjects, key=lambda each: not each.is_main_subject):
        kind, sub_kind = subject.TYPES.type.lower(), subject.TYPES.sub_type.lower()
        feels = kind in EXPRESSIVE and (kind, sub_kind) != ("human", "accessory")
        fields = {name: cleaned(getattr(subject, name)) for name in ("appearance", "action", "position")}
        fields["expression"] = cleaned(subject.expression) if feels else ""
        if task == "t2v" or fields["action"] or fields["expression"]:
            subjects.append(subject.model_copy(update=fields))
    motion = cleaned(caption.camera_motion)
    update: dict[str, Any] = {
        "subjects": tuple(subjects),
        "camera_motion": "" if motion.lower().strip(".") in _STILL_WORDS else motion,
        **{name: cleaned(getattr(caption, name)) for name in ("environment", "lighting")},
    }
    if task == "i2v":
        update |= dict.fromkeys(("environment", "lighting"), "")
        update |= dict.fromkeys(("shot_type", "shot_angle", "shot_position"), "other")
    return caption.model_copy(update=update)


def dropped(caption: StructuralCaption, share: float, generator: torch.Generator) -> StructuralCaption:
    """The caption without some of its fields, each left out with the probability `share`.

    For training alone: prompts are incomplete too, and the paper leaves out a tenth. Who it is and what it does stay.

    Raises:
        ValueError: it is no share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}: must lie in 0..1; 0.1 works")

    def kept(values: dict[str, str], without: str) -> dict[str, str]:
        chances = torch.rand(len(values), generator=generator).tolist()
        pairs = zip(values.items(), chances, strict=True)
        return {name: without if chance < share else value for (name, value), chance in pairs}

    subjects = []
    for subject in caption.subjects:
        words = {name: getattr(subject, name) for name in ("appearance", "expression", "position")}
        subjects.append(subject.model_copy(update=kept(words, "")))
    shot = {name: getattr(caption, name) for name in ("shot_type", "shot_angle", "shot_position")}
    rest = {name: getattr(caption, name) for name in ("camera_motion", "environment", "lighting")}
    left = kept(shot, "other") | kept(rest, "")
    says_nothing = not subjects and set(left.values()) <= {"other", ""}
    return caption if says_nothing else caption.model_copy(update={"subjects": tuple(subjects), **left})


def camera_sentence(caption: StructuralCaption) -> str:
    """The camera's motion as a sentence; empty for a still camera."""
    motion = caption.camera_motion
    if motion.lower().startswith("camera "):
        motion = clause("the camera", motion[7:]) or f"the {motion}"
    if re.match(r"\w+ shot\b", motion):  # tracking shot to the left
        return sentence(with_article(motion))
    return sentence(clause("the camera", motion) or motion)


def checked_answer(answer: str) -> str:
    """A model's answer as a caption.

    Raises:
        ValueError: it is none; says why.
    """
    text = re.sub(r"^```\w*\s*|\s*```$", "", answer.strip())
    text = _LABEL.sub("", text.strip()).strip()
    if text[:1] == text[-1:] == '"':
        text = text[1:-1]
    text = sentence(text)
    words = text.split()
    if len(words) < LEAST_WORDS:
        raise ValueError(f"has {len(words)} words, and a caption has at least {LEAST_WORDS}")
    if len(words) > MOST_WORDS:
        raise ValueError(f"has {len(words)} words, and a caption has at most {MOST_WORDS}")
    if text[0] in "{[" or _FIELD_NAMES.search(text):
        raise ValueError("is not prose but names the fields")
    said = [part for part in re.split(r"(?<=[.!?])\s+", text) if len(part.split()) > LEAST_WORDS]
    if any(said.count(part) > 2 for part in said):
        raise ValueError("repeats itself")
    return text


def _shot(caption: StructuralCaption) -> list[str]:
    angle, position = ANGLES.get(caption.shot_angle), POSITIONS.get(caption.shot_position)
    if caption.shot_type == "other" and not angle and not position:
        return []
    head = " ".join(part for part in (SHOTS[caption.shot_type], angle) if part)
    return [sentence(", ".join(part for part in (head, position) if part))]


def _subjects(caption: StructuralCaption, task: Task) -> list[str]:
    names = numbered([noun_of(subject) for subject in caption.subjects])
    sentences = []
    for subject, (new, known) in zip(caption.subjects, names, strict=True):
        if task == "t2v":
            sentences += _about(subject, new, known)
        else:
            acts = clause(known, subject.action) or subject.action
            feels = expression_clause(known, subject.expression) or subject.expression
            sentences += [sentence(acts), sentence(feels)]
    return sentences


def _about(subject: Subject, new: str, known: str) -> list[str]:
    """All of a subject. It is brought in by its first sentence, as what it looks like where that is a name for it."""
    appearance = subject.appearance.rstrip(".")
    names_it = is_noun_phrase(appearance)
    name = appearance if names_it else new
    told = [(clause, subject.action), (clause, "" if names_it else appearance)]
    told += [(expression_clause, subject.expression), (position_clause, subject.position)]
    sentences = []
    for make, text in told:
        if not text:
            continue
        made = None if opens_sentence(text) and make is not expression_clause else make(name, text)
        if made is None and name == appearance:
            sentences.append(sentence(text))
            continue
        sentences.append(sentence(made or text))
        name = known
    if name == appearance:  # nothing else has said what it looks like
        return [*sentences, sentence(appearance)]
    return sentences or [sentence(f"there is {new}")]


def _surroundings(caption: StructuralCaption) -> list[str]:
    place, light = caption.environment, caption.lighting
    if is_noun_phrase(place.split(",")[0].rstrip(".")):
        place = f"the setting is {place[0].lower()}{place[1:]}"
    else:
        place = clause("the scene", place) or place
    if light and len(light.split()) <= 2 and "light" not in light.lower():
        light = f"the lighting is {ordinary(light)}"
    return [sentence(place), sentence(light)]


def _for_model(caption: StructuralCaption, task: Task) -> dict[str, Any]:
    """What a model is shown: the fields that say something, under their names and in the order of the telling."""
    found: dict[str, Any] = {}
    for name in ("shot_type", "shot_angle", "shot_position"):
        if getattr(caption, name) != "other":
            found[name] = getattr(caption, name)
    names = ("action", "appearance", "expression", "position") if task == "t2v" else ("action", "expression")
    subjects = []
    for subject in caption.subjects:
        fields = {name: getattr(subject, name) for name in names if getattr(subject, name)}
        subjects.append({"name": noun_of(subject), **fields})
    if subjects:
        found["subjects"] = subjects
    return found | {name: getattr(caption, name) for name in ("environment", "lighting") if getattr(caption, name)}


_COMMON = (
    "Answer with the caption alone: one paragraph of plain English sentences, without a heading, a list or quotation "
    "marks. Say nothing that the fields do not say, and spell names as they do."
)
_INSTRUCTIONS: dict[str, str] = {
    "t2v": (
        "Below are the fields of a description of a video, as JSON. Write them as one caption that flows. Begin with "
        "the type of shot, its angle and where it is seen from. Then take the subjects in turn, and of each tell first "
        "what it does, and only that, then what it looks like, its expression, and where it is. End with the "
        f"surroundings and the light. Leave no field out. {_COMMON}"
    ),
    "i2v": (
        "Below is, as JSON, what the subjects of a video do and which expression they have. Their picture is known, so "
        "write a caption of their actions and expressions alone: not what they look like, where they are, nor what is "
        f"around them, even where an action mentions it. {_COMMON}"
    ),
}
