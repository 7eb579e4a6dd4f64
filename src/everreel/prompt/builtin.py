"""The enhancer that needs no model and no network: words are looked up, and what is not said is filled in by rules.

For a model of the film world the prompt is said anew in the words which that model was taught; other models read any
words, so theirs get the pattern's missing parts around them: the shot in front, the rest behind. The one invariant: a
prompt that was made whole is whole: enhanced again, it comes back as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from everreel.prompt.enhancer import Enhanced
from everreel.prompt.filling import complaint, fill
from everreel.prompt.reading import Nearest, Reading, read
from everreel.prompt.saying import additions, additions_chinese, phrases, picker, sentence, with_shot
from everreel.world.scene import VOCABULARY, Scene, visible_fields

BUILT_IN = "built-in"
# What any model's prompt should say; the colour stands for details.
_PATTERN = {"color", "action", "place", "time", "shot_type", "camera_motion"}
_OF_MOTION = {"action", "camera_motion"}  # what a picture does not show
# What can be put behind a sentence of the world, as its captions do.
_APPENDED = frozenset({"place", "time", "weather", "shot_type", "shot_angle", "shot_position", "camera_motion"})
_OF_SUBJECT = frozenset({"subject", "color", "action", "direction", "expression", "shot_position"})


@dataclass(frozen=True)
class BuiltIn:
    """See the module.

    Args:
        world: for a model that knows the film world's words and no others.
        nearest: what an English word that is in no table is taken for, if anything.
        generator: picks among ways to say the same; without it the plain one is taken.
    """

    world: bool = True
    nearest: Nearest | None = None
    generator: torch.Generator | None = None

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        """See `Enhancer`. Never raises."""
        return self.complete(prompt, read(prompt, self.nearest if self.world else None), has_image=has_image)

    def complete(self, prompt: str, reading: Reading, *, has_image: bool) -> Enhanced:
        """The same for a prompt that was read, by whomever."""
        if reading.nothing:
            unknown = tuple(reading.unknown)
            return Enhanced(prompt, BUILT_IN, False, unknown, "nothing of it is known, so nothing is added")
        scene = fill({**_assumed(reading, has_image, self.world), **reading.said})
        missing = _missing(reading, scene, has_image, self.world)
        if not missing and (reading.own or not self.world):
            return Enhanced(prompt, BUILT_IN, False, tuple(reading.unknown), "says everything already")
        pick = picker(self.generator)
        if self.world and reading.own and _APPENDED.issuperset(missing):
            text = _behind(prompt, phrases(scene, missing, pick))
        elif self.world:
            text = sentence(scene, {*reading.said, *missing}, reading, pick)
        elif reading.chinese:
            front, said = additions_chinese(scene, missing)
            text = "\uff0c".join([*front, _behind(prompt, said, "\uff0c", "\u3002\uff0c")])
        else:
            front, said = additions(scene, missing)
            text = with_shot(front, _behind(prompt, said))
        return Enhanced(text, BUILT_IN, True, tuple(reading.unknown), _reason(reading, scene, missing, self.world))


def _invents(reading: Reading, has_image: bool, world: bool) -> bool:
    """Whether a subject is to be made up: where no word can be one, and the model knows no film without."""
    return world and not has_image and not reading.unknown


def _assumed(reading: Reading, has_image: bool, world: bool) -> dict[str, str]:
    """What is filmed, where it is not told what the subject does: nothing that the camera would have to follow."""
    subject = "subject" in reading.said
    if not subject and not reading.unknown and not _invents(reading, has_image, world):
        return {"action": "stays", "shot_position": "front_view"}  # a landscape
    if has_image or "action" in reading.hints or not (subject or _invents(reading, has_image, world)):
        return {"shot_position": "front_view"} if "direction" not in reading.said else {}
    return {}


def _missing(reading: Reading, scene: Scene, has_image: bool, world: bool) -> list[str]:
    """The fields that are to be filled in, in the vocabulary's order."""
    wanted = {*visible_fields(scene), "action"}
    if scene.shot_type == "extreme_close_up":  # where only what falls from the sky would show
        wanted.discard("weather")
    if "subject" not in reading.said and not _invents(reading, has_image, world):
        wanted -= _OF_SUBJECT
    if "action" in reading.hints:
        wanted.discard("direction")
    if has_image:
        wanted &= _OF_MOTION
    elif not world:
        wanted &= _PATTERN
        # Kin that is told by another word has its own looks: a zebra is no brown horse.
        if not reading.own or reading.unknown or "expression" in reading.said:
            wanted.discard("color")
        if reading.unknown:
            wanted -= {"action", "place"}
    return [name for name in VOCABULARY if name in wanted and name not in reading.settled]


def _behind(prompt: str, said: list[str], comma: str = ", ", stops: str = ".,;") -> str:
    """A prompt and what it lacks."""
    return comma.join([prompt.strip().rstrip(stops + " "), *said])


def _reason(reading: Reading, scene: Scene, missing: list[str], world: bool) -> str:
    """A line for people."""
    parts = []
    if world and reading.taken:
        parts.append("taken for others: " + ", ".join(f"{word} = {value}" for word, value in reading.taken.items()))
    if reading.repeated:
        parts.append(f"no room in the scene for: {', '.join(reading.repeated)}")
    if missing:
        parts.append("added " + ", ".join(f"{name} {getattr(scene, name)}" for name in missing))
    elif not parts:
        parts.append("said in the words that the model knows")
    if "subject" in reading.said and (why := complaint(scene)):
        parts.append(f"{why}, and is kept as it was said")
    return "; ".join(parts)
