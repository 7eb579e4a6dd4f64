"""What stands on the desk, and the order that it means: both ways.

The one invariant: what a browser sends is checked here before it means anything, and an order that goes onto the desk
and comes back is the same order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from everreel.film.request import RequestError, checked
from everreel.serve.jobs.order import Order, UploadId, make_order

Place = Literal["start", "end"]
SECONDS = 4.0
MOST_PARTS, MOST_PICTURES = 64, 64


class Part(BaseModel):
    """What happens from a time on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float = Field(allow_inf_nan=False, ge=0, le=1e6)
    text: str


class Picture(BaseModel):
    """A picture that was sent, at the film's start, at its end, or at a time."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: Place | Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e6)]
    id: UploadId


class Timeline(BaseModel):
    """What the strip under the prompt holds; what else the browser keeps in it is for the browser."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seconds: float = SECONDS
    parts: list[Part] = Field(default=[], max_length=MOST_PARTS)
    pictures: list[Picture] = Field(default=[], max_length=MOST_PICTURES)
    loop: bool = False
    endless: bool = False


class Form(BaseModel):
    """All that one can set; empty text and 0 for steps and guidance are left to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = ""
    timeline: Timeline = Timeline()
    model: str = ""
    aspect: Literal["16:9", "9:16", "1:1"] = "16:9"
    size: str = ""
    fps: int = 24
    seed: int = 0
    steps: int = 0
    guidance: float = 0
    schedule: str = ""
    negative: str = ""


def form_of(values: Mapping[str, Any]) -> Form:
    """A form from what the browser sent.

    Raises:
        RequestError: with one line for the first thing that is wrong.
    """
    given = {name: value for name, value in values.items() if value is not None}
    timeline = given.get("timeline", {})
    if not isinstance(timeline, Mapping):
        raise RequestError("timeline: must hold seconds, parts and pictures")
    given["timeline"] = checked(Timeline, dict(timeline), RequestError)
    return checked(Form, given, RequestError)


def order_of(form: Form) -> Order:
    """The order that the desk means.

    Raises:
        RequestError: with one line for the first thing that is wrong.
    """
    line = form.timeline
    pictures: dict[Any, str] = {}
    for picture in line.pictures:
        at = picture.at if isinstance(picture.at, str) else round(picture.at * form.fps)
        if at in pictures:
            raise RequestError(f"picture at {_told(picture.at)}: there is one already; move it or take one away")
        pictures[at] = picture.id
    if line.endless and "end" in pictures:
        raise RequestError("picture at the end: an endless film has no end; move it, take it away or turn Endless off")
    values: dict[str, Any] = {
        "prompt": form.prompt,
        "story": _story(line.parts, form.fps),
        "seconds": None if line.endless else line.seconds,
        "fps": form.fps,
        "seed": form.seed,
        "num_inference_steps": form.steps or None,
        "guidance_scale": form.guidance or None,
        "schedule": form.schedule or None,
        "negative_prompt": form.negative.strip() or None,
        "loop": line.loop or None,
        "endless": line.endless or None,
        "model": form.model or None,
        "image": pictures.pop("start", None),
        "end_image": pictures.pop("end", None),
        "keyframes": dict(sorted(pictures.items())) or None,
    }
    return make_order(**values | _size(form.size, form.aspect))


def back_on_desk(order: Order, sizes: Mapping[str, tuple[int, int]]) -> Form:
    """The form that means this order; what the desk has no place for is left out.

    `sizes` are the model's own heights and widths by aspect.
    """
    request = order.request
    named = {"start": order.image, "end": order.end_image}
    pictures = [Picture(at=at, id=id) for at, id in named.items() if id]  # type: ignore[arg-type]
    pictures += [Picture(at=frame / request.fps, id=id) for frame, id in sorted(order.keyframes.items())]
    seconds = request.length / request.fps if request.length else SECONDS
    own = {size: aspect for aspect, size in sizes.items()}.get((request.height or 0, request.width or 0))
    size = request.resolution or (f"{request.width}x{request.height}" if request.width and not own else "")
    return Form(
        prompt=request.prompt,
        timeline=Timeline(
            seconds=seconds if request.seconds is None else request.seconds,
            parts=[Part(at=frame / request.fps, text=text) for frame, text in request.story.items()],
            pictures=pictures,
            loop=request.loop,
            endless=order.endless,
        ),
        model=order.model,
        aspect=request.aspect or own or "16:9",  # type: ignore[arg-type]
        size=size,
        fps=request.fps,
        seed=request.seed,
        steps=request.num_inference_steps or 0,
        guidance=request.guidance_scale or 0,
        schedule=request.schedule or "",
        negative=request.negative_prompt or "",
    )


def _story(parts: list[Part], fps: int) -> dict[int, str] | None:
    story: dict[int, str] = {}
    for part in sorted(parts, key=lambda part: part.at):
        frame = round(part.at * fps)
        if not part.text.strip():
            raise RequestError(f"story at {part.at:g} s: says nothing; write what happens then, or remove it")
        if frame in story:
            raise RequestError(f"story at {part.at:g} s: another part begins there too; move one of them")
        story[frame] = part.text
    return story or None


def _size(size: str, aspect: str) -> dict[str, Any]:
    size = size.strip()
    if not size:
        return {"aspect": aspect}
    if size in ("540P", "720P"):
        return {"resolution": size, "aspect": aspect}
    found = re.fullmatch(r"(\d{1,5})\s*[x×]\s*(\d{1,5})", size)
    if not found:
        raise RequestError(f"size = {size[:40]!r}: must be WIDTHxHEIGHT, 540P or 720P; 320x192 works")
    return {"width": int(found[1]), "height": int(found[2])}


def _told(at: Place | float) -> str:
    return f"the {at}" if isinstance(at, str) else f"{at:g} s"
