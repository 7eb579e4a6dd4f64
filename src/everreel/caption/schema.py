"""The structured caption: what a film shows, field by field, under the names that the released captioner gives them.

Follows the JSON of SkyCaptioner-V1 (its structural-caption script and the example that is published with it). The
taxonomy of types is not published, so `type` and `sub_type` are words; the three shot fields are of fixed lists, and
`camera_motion` is free text, empty where the camera is still. The one invariant: what a `StructuralCaption` holds can
be written as released JSON and read back the same.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from everreel.media import FrameSource

Task = Literal["t2v", "i2v"]
ShotType = Literal["long_shot", "full_shot", "medium_shot", "close_up", "extreme_close_up", "other"]
ShotAngle = Literal["eye_level", "high_angle", "low_angle", "other"]
ShotPosition = Literal[
    "front_view",
    "back_view",
    "side_view",
    "over_the_shoulder",
    "overhead_view",
    "point_of_view",
    "aerial_view",
    "overlooking_view",
    "other",
]

TASKS: tuple[str, ...] = get_args(Task)
SHOT_TYPES: tuple[str, ...] = get_args(ShotType)
SHOT_ANGLES: tuple[str, ...] = get_args(ShotAngle)
SHOT_POSITIONS: tuple[str, ...] = get_args(ShotPosition)

_FENCE = re.compile(r"```(?:json)?\s*(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def _text(value: Any) -> Any:  # noqa: ANN401 -- whatever the JSON has there
    """One line without doubled spaces; null is nothing said."""
    return " ".join(value.split()) if isinstance(value, str) else "" if value is None else value


def _name(value: Any) -> Any:  # noqa: ANN401
    """As the lists spell it: `Close-up` is `close_up`."""
    return re.sub(r"[\s\-]+", "_", value.strip().lower()) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_text)]


class _Model(BaseModel):
    # What is not of the schema is left out: a caption is not lost for a field too many.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SubjectTypes(_Model):
    """What a subject is: ("Animal", "Mammal"), ("Human", "Woman"), ("Vehicles", "Ship")."""

    type: Text = ""
    sub_type: Text = ""


class Subject(_Model):
    """One subject. `expression` is told of people and animals alone; what is not told is empty."""

    TYPES: SubjectTypes
    appearance: Text = ""
    action: Text = ""
    expression: Text = ""
    position: Text = ""
    is_main_subject: bool = False


class StructuralCaption(_Model):
    """What a film shows. A landscape has no subjects; a still camera has an empty `camera_motion`."""

    subjects: tuple[Subject, ...]
    shot_type: Annotated[ShotType, BeforeValidator(_name)]
    shot_angle: Annotated[ShotAngle, BeforeValidator(_name)]
    shot_position: Annotated[ShotPosition, BeforeValidator(_name)]
    camera_motion: Text = ""
    environment: Text = ""
    lighting: Text = ""

    def to_json(self) -> str:
        """The released JSON on one line."""
        return json.dumps(self.model_dump(), ensure_ascii=False)


class Captioner(Protocol):
    """Writes the structured caption of a film."""

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        """Of frames uint8 (T, H, W, 3), `fps` of them a second: an array, or frames that lie in a file, of which only
        those are read that are looked at. T may be 1, and H and W odd.

        Raises:
            ValueError: this film cannot be captioned; others can.
        """
        ...


class Fuser(Protocol):
    """Makes one caption in prose of a structured one."""

    def fuse(self, caption: StructuralCaption, task: Task) -> str:
        """For text-to-video everything; for image-to-video what the picture does not show, action and expression."""
        ...


def parse_caption(text: str) -> StructuralCaption:
    """Read a structured caption out of JSON, or out of a model's answer that has it in a fence or among words.

    Raises:
        ValueError: it holds none; names the field, its value and the rule.
    """
    fenced = _FENCE.search(text)
    try:
        found = _first_object(fenced.group(1) if fenced else text)
        try:
            return StructuralCaption.model_validate(found)
        except ValidationError as error:
            raise ValueError(f"caption: {'; '.join(_told(problem) for problem in error.errors()[:3])}") from None
    except RecursionError:  # of brackets, where it is read or where it is told
        raise ValueError(f"caption = {_short(text)}: is nested too deeply; must be of the released schema") from None


def caption_schema() -> dict[str, Any]:
    """The JSON schema that an answer is held to: every field is asked for, in the released order, and no other.

    It has no references, so that the simplest constrained decoder can follow it.
    """
    schema = StructuralCaption.model_json_schema()
    strict: dict[str, Any] = _strict(schema, schema.get("$defs", {}))
    return strict


def _first_object(text: str) -> dict[str, Any]:
    """The JSON object that a text has first."""
    begin = text.find("{")
    if begin < 0:
        raise ValueError(f"caption = {_short(text)}: is no JSON object; must be one of the released schema")
    try:
        found, _ = json.JSONDecoder().raw_decode(text, begin)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
        where = "ends in the middle of" if cut else f"has at character {error.pos} no valid"
        raise ValueError(f"caption = {_short(text)}: {where} JSON ({error.msg})") from None
    assert isinstance(found, dict)
    return found


def _told(problem: Any) -> str:  # noqa: ANN401 -- pydantic's record of an error
    """A problem as field, value and rule."""
    field = ".".join(str(part) for part in problem["loc"]) or "caption"
    if problem["type"] == "missing":
        return f"{field} is missing"
    value = problem["input"]
    if problem["type"] == "literal_error":
        names = {"shot_type": SHOT_TYPES, "shot_angle": SHOT_ANGLES, "shot_position": SHOT_POSITIONS}[field]
        near = difflib.get_close_matches(str(value), names, 1) or ["other"]
        return f"{field} = {_short(value)}: must be one of {', '.join(names)}; nearest {near[0]!r}"
    return f"{field} = {_short(value)}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _short(value: object) -> str:
    """A value as it fits into one line."""
    shown = repr(" ".join(value.split())) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _strict(node: Any, named: dict[str, Any]) -> Any:  # noqa: ANN401 -- any piece of a JSON schema
    if isinstance(node, list):
        return [_strict(each, named) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _strict(named[node["$ref"].rsplit("/", 1)[1]], named)
    if "properties" in node:
        fields = {name: _strict(field, named) for name, field in node["properties"].items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {key: _strict(value, named) for key, value in node.items() if key not in ("title", "default", "description")}
