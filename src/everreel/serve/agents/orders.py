"""From what an agent gave to an order: times become frames, and pictures become uploads.

The one invariant: everything that can be checked without a picture is checked before one is read; and what came as
base64, out of a film or from a path is an upload like any other, read where all uploads are.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from everreel.film.request import RequestError as Refusal
from everreel.film.request import VideoRequest, make_request
from everreel.serve.agents.asked import (
    AddKeyframes,
    Continue,
    Extend,
    FrameOf,
    Keyframe,
    NextPart,
    Part,
    Picture,
    Planned,
)
from everreel.serve.agents.files import Folders, is_path
from everreel.serve.agents.look import number_of, opened
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.order import Order, make_order
from everreel.serve.jobs.service import Jobs, naming

MOST_PICTURE = 16_000_000
"""Bytes of a picture that comes as base64."""
UPLOAD = re.compile(r"file_[0-9a-f]{32}")
STAND_IN = "file_" + "0" * 32
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)
_OPEN = ("seconds", "num_frames", "endless", "aspect", "seed", "model", "negative_prompt", "loop", "enhance")


def order_of(asked: Planned, jobs: Jobs, owner: Owner, files: Folders | None = None) -> Order:
    """The order of a new film; `files` are those that may be named by path.

    Raises:
        RequestError: it cannot be made, with the field, the value, the rule and what works.
        JobError: an upload or a film is not there, or there is no room.
    """
    values = {name: getattr(asked, name) for name in _OPEN} | _size(asked.size)
    values["model"] = asked.model or jobs.default_model
    plain = make_order(prompt=asked.prompt, story=_story(asked.story), **values)
    return _with_pictures(plain, asked, jobs, owner, files)


def longer(asked: Extend, jobs: Jobs, owner: Owner, files: Folders | None = None) -> Order:
    """The order of a film that goes on with another. Raises as `order_of`."""
    by_path = files if is_path(asked.film) else None
    values = {name: getattr(asked, name) for name in ("prompt", "seconds", "num_frames", "seed", "endless")}
    if not by_path and not UPLOAD.fullmatch(asked.film):
        return jobs.extension(asked.film, owner, **{name: value for name, value in values.items() if value is not None})
    if asked.prompt is None:
        raise Refusal("prompt: must be given for an uploaded film, since nobody here knows what it shows")
    order = make_order(follows=STAND_IN if by_path else asked.film, model=jobs.default_model, **values)
    if by_path:
        with copied("film", asked.film, jobs, by_path) as place:
            order = order.model_copy(update={"follows": _kept("film", place, jobs, owner, "video")})
    return order


def next_parts(asked: Continue, jobs: Jobs, owner: Owner) -> Order:
    """The order of a film whose story goes on. Raises as `order_of`."""
    rate = jobs.get(asked.film, owner).order.request.fps
    frames = [_frames(f"parts[{number}].seconds", part, rate) for number, part in enumerate(asked.parts)]
    begins = [sum(frames[:number]) for number in range(1, len(frames))]
    story = dict(zip(begins, (part.prompt for part in asked.parts[1:]), strict=True))
    values: dict[str, Any] = {"num_frames": sum(frames), "seed": asked.seed, "story": story}
    return jobs.extension(asked.film, owner, prompt=asked.parts[0].prompt, **values)


def with_keyframes(asked: AddKeyframes, jobs: Jobs, owner: Owner, files: Folders | None = None) -> Order:
    """The order of a film again, with pictures. Raises as `order_of`."""
    old = jobs.get(asked.film, owner).order
    if not (asked.keyframes or asked.image or asked.end_image):
        raise Refusal("keyframes: give at least one, or image or end_image")
    if old.extends or old.follows:
        raise Refusal(f"film = {asked.film}: goes on with another film and takes no pictures; take one that does not")
    request = old.request
    if asked.seed is not None:
        request = make_request(**request.model_dump(exclude_unset=True) | {"seed": asked.seed})
    again = Order(**old.model_dump(exclude={"request"}) | {"request": request, "remixed_from": asked.film})
    return _with_pictures(again, asked, jobs, owner, files)


@contextmanager
def copied(field: str, path: str, jobs: Jobs, files: Folders) -> Iterator[Path]:
    """A copy of a file that an agent names, as if it had been sent; it is gone afterwards. Raises as `order_of`."""
    place = _new_place(jobs)
    try:
        files.copy(field, path, place, jobs.limits.upload_bytes)
        yield place
    finally:
        place.unlink(missing_ok=True)


def _with_pictures(
    order: Order, given: Planned | AddKeyframes, jobs: Jobs, owner: Owner, files: Folders | None
) -> Order:
    """The order with pictures beside those that it has."""
    named: dict[str, Picture] = {}
    for field, picture in (("image", given.image), ("end_image", given.end_image)):
        if picture is not None:
            named[field] = picture
    asked = _by_frame(given.keyframes)
    if not named and not asked:
        return order
    # A stand-in of the right form tells whether the rest goes together, before anything is read.
    likely = _changed(order, dict.fromkeys(named, STAND_IN), dict.fromkeys(asked, STAND_IN))
    likely.whole(dict.fromkeys(likely.uploads, Path(STAND_IN)))
    upload = functools.partial(_uploaded, jobs=jobs, owner=owner, files=files)
    kept = {field: upload(field, picture) for field, picture in named.items()}
    placed = {frame: upload(f"keyframes[{frame}]", picture) for frame, picture in asked.items()}
    return _changed(order, kept, placed)


def _changed(order: Order, named: Mapping[str, str], keyframes: Mapping[int, str]) -> Order:
    given = order.model_dump(exclude={"request"}) | dict(named) | {"keyframes": {**order.keyframes, **keyframes}}
    request = {name: getattr(order.request, name) for name in order.request.model_fields_set}
    return make_order(**request, **given)


def _by_frame(keyframes: Sequence[Keyframe]) -> dict[int, Picture]:
    found: dict[int, Picture] = {}
    for keyframe in keyframes:
        if keyframe.frame in found:
            raise Refusal(f"keyframes: frame {keyframe.frame} has two pictures; leave one out")
        if keyframe.frame < 0:
            raise Refusal(f"keyframes: frame = {keyframe.frame}: the first frame is 0; nearest that works: 0")
        found[keyframe.frame] = keyframe.picture
    return found


def _uploaded(field: str, picture: Picture, jobs: Jobs, owner: Owner, files: Folders | None) -> str:
    """The id of the upload that a picture is, or becomes."""
    if isinstance(picture, FrameOf):
        with opened(jobs, picture.film, owner) as video:
            pixels = video.frames[number_of(picture.frame, video, f"{field}.frame")]
        place = _new_place(jobs)
        Image.fromarray(pixels).save(place, format="PNG")
        return _kept(field, place, jobs, owner)
    text = picture.strip()
    if UPLOAD.fullmatch(text):
        return text
    if files is not None and is_path(text):
        with copied(field, text, jobs, files) as place:
            return _kept(field, place, jobs, owner)
    data = _decoded(field, text, min(MOST_PICTURE, jobs.limits.upload_bytes), files)
    place = _new_place(jobs)
    place.write_bytes(data)
    return _kept(field, place, jobs, owner)


def _new_place(jobs: Jobs) -> Path:
    return jobs.store.incoming() / secrets.token_hex(16)


def _kept(field: str, place: Path, jobs: Jobs, owner: Owner, kind: Literal["image", "video"] = "image") -> str:
    try:
        upload = naming(field, lambda: jobs.upload(place, owner))
    finally:
        place.unlink(missing_ok=True)
    if upload.kind != kind:
        is_film = "is a film; give a picture, or go on with the film by extend_film"
        raise Refusal(f"{field}: {is_film if kind == 'image' else 'is a picture; give a film'}")
    return upload.id


def _decoded(field: str, text: str, most: int, files: Folders | None) -> bytes:
    """The bytes of a base64 text, which is measured before it is decoded."""
    if found := _DATA.match(text):
        text = text[found.end() :]
    if len(text) * 3 // 4 > most + 3:
        raise Refusal(f"{field} = {len(text) * 3 // 4} bytes: at most {most} may come as base64; make it smaller")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        shown = f"{text[:40]}..." if len(text) > 40 else text
        rule = "must be base64 of a picture, the id of an upload, or {'film': id, 'frame': number}"
        path = f", or a whole path in {files.describe()}" if files is not None else ""
        raise Refusal(f"{field} = {shown!r}: {rule}{path}")
    return data


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise Refusal(f"size = {text[:40]!r}: must be WIDTHxHEIGHT in pixels, as in 160x96")
    return {"width": int(found[1]), "height": int(found[2])}


def _story(parts: Sequence[Part]) -> dict[int, str]:
    rate: int = VideoRequest.model_fields["fps"].default
    told: dict[int, str] = {}
    for part in parts:
        if not 0 < part.at < 1e6:
            raise Refusal(f"story = {part.at:g} s: must come after 0 s, which is the prompt's")
        frame = round(part.at * rate)
        if told and frame <= max(told):
            nearest = (max(told) + 1) / rate
            raise Refusal(
                f"story = {part.at:g} s: comes after {max(told) / rate:g} s; nearest that works: {nearest:.2f}"
            )
        told[frame] = part.prompt
    return told


def _frames(field: str, part: NextPart, rate: int) -> int:
    if not 1 / rate <= part.seconds < 1e6:
        raise Refusal(f"{field} = {part.seconds:g}: must be above 0; 4 works")
    return round(part.seconds * rate)
