"""From a body to an order: names of other servers, text of forms, pictures and films that are sent or named.

Order of precedence: what stands in the body itself, then `extra_body`, then `extra_params`, then `video_params`. Where
two fields say the same in two ways, the one counts that the servers take whose clients send both: num_frames before
seconds, size before width and height. The one invariant: what a field cannot mean here is refused by name; nothing else
that was asked for is dropped in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from everreel.film.request import LARGEST_SIDE, RESOLUTIONS, SEVERAL, RequestError
from everreel.serve.api.body import Body, Sent, Spool, json_value
from everreel.serve.api.errors import ApiError
from everreel.serve.api.schema import FilmReference, VideoCreate, VideoExtend
from everreel.serve.api.settings import Settings
from everreel.serve.api.wrong import what_is_wrong
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.order import EXTENDED, REQUEST_FIELDS, Order, make_order
from everreel.serve.jobs.service import Jobs, naming
from everreel.shapes import SIZE_STEP, nearest_size

MERGED = ("extra_body", "extra_params")
PICTURES: tuple[str, ...] = ("input_reference", "end_image", "keyframes")
ALIASES = {
    "flow_shift": "shift",
    "prompt_schedule": "story",
    "reference_url": "input_reference",
    "image_reference": "input_reference",
    "video_reference": "input_reference",
}
_CHARACTERS = "characters are not served here; say in the prompt who is to be seen"
_LORA = "start the server with --lora instead"
_ONE_SCALE = "there is one guidance scale here: guidance_scale"
_SEND = "no path of a request is read; send the file itself"
_KEPT = "films are kept by the server; fetch them from /v1/videos/{id}/content"
_RATE = "films are made at their rate, not filled in: fps"
_SIZE = "films are made at their size, not made larger: size"
_ROLLOUT = "films are made without noise on the way"
_ONE_FILM = "one film a request; send the request again with another seed"
MEANINGLESS = {
    "character_ids": _CHARACTERS,
    "output_path": _KEPT,
    "save_result_path": _KEPT,
    "file_path": _KEPT,
    "response_format": _KEPT,
    "diffusers_kwargs": "no other engine's arguments are taken; see /docs for the fields",
    "enable_teacache": "say step_cache = 0.1 instead",
    "guidance_scale_2": _ONE_SCALE,
    "true_cfg_scale": _ONE_SCALE,
    "boundary_ratio": "one model makes all of a film; leave it out",
    "generator_device": "noise is the same on every device here; seed is all it takes",
    "generate_sound": "films have no sound here; leave it out",
    "output_quality": "films have one quality here",
    "output_compression": "films have one quality here",
    "rollout": "schedule says how a film is made",
    "rollout_sde_type": _ROLLOUT,
    "rollout_noise_level": _ROLLOUT,
    "lora": _LORA,
    "lora_name": _LORA,
    "lora_path": _LORA,
    "lora_strength": _LORA,
    "image_path": f"{_SEND} as input_reference",
    "video_path": f"{_SEND} as input_reference",
    "last_frame_path": f"{_SEND} as end_image",
    "use_prompt_enhancer": "say enhance = true instead",
    "enable_frame_interpolation": _RATE,
    "frame_interpolation_exp": _RATE,
    "frame_interpolation_scale": _RATE,
    "frame_interpolation_model_path": _RATE,
    "enable_upscaling": _SIZE,
    "upscaling_scale": _SIZE,
    "upscaling_model_path": _SIZE,
    "stream": "every film streams: GET /v1/videos/{id}/stream",
    "n": _ONE_FILM,
    "num_outputs_per_prompt": _ONE_FILM,
}
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "generator_device": ("cuda", "cpu"),
    "output_quality": ("default",),
    "rollout_sde_type": ("sde",),
    "rollout_noise_level": ("0.7",),
    "frame_interpolation_exp": ("1",),
    "frame_interpolation_scale": ("1", "1.0"),
    "upscaling_scale": ("4",),
    "n": ("1",),
    "num_outputs_per_prompt": ("1",),
}
"""What of these others' clients send by themselves, as text; it counts only beside a switch that is refused."""
NEAR = 0.1  # a size is a shape's as far as that: sides are multiples of 16
_JSON_IN_FORMS = {*MERGED, "input_reference", "end_image", "keyframes", "story", "video", "video_params", *ALIASES}


@dataclass(frozen=True)
class Asked:
    """An order that is checked as far as its words go; `order` also takes over what was sent with it."""

    values: dict[str, Any]
    pictures: dict[str, Any]
    priority: int


def asked(body: Body, model: type[BaseModel] = VideoCreate) -> Asked:
    """The fields of a body, checked.

    Raises:
        ApiError: a field is unknown, or is not of its type.
        RequestError: a value cannot be.
    """
    values = fields_of(body, model)
    pictures = {name: values.pop(name) for name in PICTURES if name in values}
    priority = values.pop("priority", 0)
    for name in ("user", "quality"):
        values.pop(name, None)
    if size := values.pop("size", ""):  # SGLang's clients leave it empty
        values |= _size(size, values)
    if "num_frames" in values:  # SGLang's clients send 4 seconds with every film
        values.pop("seconds", None)
    if "seconds" in values:
        values["seconds"] = float(values["seconds"])
    if ratio := values.pop("aspect_ratio", ""):
        values |= _shape(ratio, values)
    if "story" in values:
        values["story"] = _story(values["story"], values.get("fps") or 24)
    return Asked(values, pictures, priority)


def fields_of(body: Body, model: type[BaseModel]) -> dict[str, Any]:
    """What a body says, by the names of a model's fields; what is null, or empty in a form, is left out.

    Raises: ApiError.
    """
    values = _merged(body, "video_params" in model.model_fields)
    for alias, name in ALIASES.items():
        if alias in values and name in model.model_fields:
            if name in values:
                raise ApiError(400, f"{alias}: says the same as {name}; leave one out", alias, "invalid_value")
            values[name] = values.pop(alias)
    for name in [*values]:
        if name not in model.model_fields:
            if name not in MEANINGLESS or not _asks_nothing(name, values[name]):
                _unknown(name, model)
            del values[name]
    for name in [name for name in SEVERAL.keys() & values.keys() if body.form and isinstance(values[name], str)]:
        values[name] = values[name].strip().removeprefix("[").removesuffix("]").split(",")
    try:
        checked = model.model_validate(values, strict=not body.form)
    except ValidationError as error:
        raise what_is_wrong(error) from None
    return {name: getattr(checked, name) for name in checked.model_fields_set if getattr(checked, name) is not None}


def order_of(asked: Asked, body: Body, jobs: Jobs, owner: Owner, settings: Settings) -> Order:
    """The order, endless where it has no length and the server has it so; what was sent becomes the owner's uploads.

    Raises:
        ApiError: a reference is none.
        RequestError: it cannot be made.
        JobError: as from `Jobs.upload`.
    """
    values = {"model": jobs.default_model, **asked.values}
    make_order(**values)  # what is wrong with the words is said before files are read
    take = _Take(jobs, owner, body.spool, settings.allow_fetch)
    given: dict[str, Any] = {}
    for name, reference in asked.pictures.items():
        if name == "keyframes":
            given[name] = {int(frame): take(one, f"keyframes[{frame}]")[1] for frame, one in reference.items()}
        elif name == "end_image":
            given[name] = take(reference, name)[1]
        else:
            kind, upload = take(reference, name, film=True)
            given["image" if kind == "image" else "follows"] = upload
    try:
        order = make_order(**values, **given)
    except RequestError as error:
        raise RequestError(_wire_name(str(error))) from None
    return _open_ended(order, jobs, settings)


def extension_of(body: Body, jobs: Jobs, owner: Owner, settings: Settings) -> tuple[Order, int]:
    """The order of a film that goes on with another, and its priority. Raises: as `asked` and `order_of`."""
    found = asked(body, VideoExtend)
    values = dict(found.values)
    video = values.pop("video")
    named = video.id if isinstance(video, FilmReference) else video
    if isinstance(named, str) and re.fullmatch(r"video_[0-9a-f]{32}", named):
        if values.get("model") not in (None, jobs.get(named, owner).order.model):
            raise ApiError(400, "model: a film goes on with the model that made it; leave it out", "model")
        for name in (values.keys() & set(REQUEST_FIELDS)) - set(EXTENDED):
            raise ApiError(400, f"{name}: a film goes on as it was made; leave it out", name, "invalid_value")
        values.pop("model", None)
        return _open_ended(jobs.extension(named, owner, **values), jobs, settings), found.priority
    if "prompt" not in values:
        raise ApiError(400, "prompt: must be given, as this film is not known here", "prompt", "missing")
    values = {"model": jobs.default_model, **values}
    make_order(**values)
    kind, upload = _Take(jobs, owner, body.spool, settings.allow_fetch)(video, "video", film=True)
    if kind != "video":
        raise ApiError(400, "video: is a picture; POST /v1/videos begins a film with one", "video", "invalid_value")
    return _open_ended(make_order(**values, follows=upload), jobs, settings), found.priority


def _open_ended(order: Order, jobs: Jobs, settings: Settings) -> Order:
    """The order, endless where it has no length and the server has it so."""
    return jobs.without_end(order) if settings.endless else order


class _Take:
    """Makes uploads of what a request sends or names."""

    def __init__(self, jobs: Jobs, owner: Owner, spool: Spool, fetch: bool) -> None:
        self._jobs, self._owner, self._spool, self._fetch = jobs, owner, spool, fetch

    def __call__(self, reference: Any, name: str, *, film: bool = False) -> tuple[str, str]:  # noqa: ANN401
        """Whether it is an image or a video, and its id."""
        kind, upload = self._found(reference, name)
        if kind == "video" and not film:
            raise ApiError(400, f"{name}: is a film; a picture is needed", name, "invalid_value")
        return kind, upload

    def _found(self, reference: Any, name: str) -> tuple[str, str]:  # noqa: ANN401 -- a `Reference`
        if isinstance(reference, Sent):
            return self._upload(reference.path, name)
        if isinstance(reference, str):
            given = {"file_id" if reference.startswith("file_") else "image_url": reference}
        else:
            given = reference.model_dump(exclude_none=True)
        if len(given) != 1:
            rule = "must have file_id, image_url or video_url, and only one of them"
            raise ApiError(400, f"{name}: {rule}", name, "invalid_value")
        ((kind, value),) = given.items()
        return self._known(value, name) if kind == "file_id" else self._upload(self._from_url(value, name), name)

    def _known(self, upload: str, name: str) -> tuple[str, str]:
        if not re.fullmatch(r"file_[0-9a-f]{32}", upload):
            raise ApiError(400, f"{name} = {upload[:60]!r}: is no id of a file", name, "invalid_value")
        path = naming(name, lambda: self._jobs.store.upload(upload, self._owner.name))
        return "image" if path.suffix == ".png" else "video", upload

    def _upload(self, path: Path, name: str) -> tuple[str, str]:
        upload = naming(name, lambda: self._jobs.upload(path, self._owner))
        return upload.kind, upload.id

    def _from_url(self, url: str, name: str) -> Path:
        from everreel.serve.jobs.fetch import data_file, fetch_file

        limits, inbox = self._jobs.limits, self._spool.inbox
        if url[:5].lower() == "data:":
            return self._spool.own(naming(name, lambda: data_file(url, limits, inbox)))
        if not url.lower().startswith(("http://", "https://")):
            rule = "must be a file, the id of one, or a data: URL of one in base64"
            raise ApiError(400, f"{name} = {url[:60]!r}: {rule}", name, "invalid_value")
        if not self._fetch:
            rule = "this server fetches nothing; send the file itself, or a data: URL of it"
            raise ApiError(400, f"{name}: {rule}", name, "invalid_value")
        return self._spool.own(naming(name, lambda: fetch_file(url, limits, inbox)))


def _merged(body: Body, nested: bool) -> dict[str, Any]:
    """The body with what `extra_body`, `extra_params` and, where it is `nested`, `video_params` add.

    In a form, JSON is read where a field may hold it.
    """
    values = {name: _opened(name, value) for name, value in body.values.items()} if body.form else dict(body.values)
    for name in (*MERGED, *(("video_params",) if nested else ())):
        more = values.pop(name, None)
        if more is None:
            continue
        if not isinstance(more, dict):
            raise ApiError(400, f"{name}: must be a JSON object", name, "invalid_type")
        values = {**more, **values}
    if body.form:
        values = {name: value for name, value in values.items() if value != "" or name == "prompt"}
    return {name: value for name, value in values.items() if value is not None}


def _opened(name: str, value: Any) -> Any:  # noqa: ANN401 -- whatever a form holds
    if name in _JSON_IN_FORMS and isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        return json_value(value, name)
    return value


def _asks_nothing(name: str, value: Any) -> bool:  # noqa: ANN401 -- whatever a body holds
    """Of a field that is not served: others' clients send their defaults, of which these mean no more than silence."""
    if value is False or value in ("", "false", "False", "{}", "[]", {}, []):
        return True
    return isinstance(value, str | int | float) and str(value) in DEFAULTS.get(name, ())


def _unknown(name: str, model: type[BaseModel]) -> NoReturn:
    if name in MEANINGLESS:
        raise ApiError(400, f"{name}: has no meaning here: {MEANINGLESS[name]}", name, "unsupported_field")
    names = [*model.model_fields, *(alias for alias, real in ALIASES.items() if real in model.model_fields)]
    nearest = max(names, key=lambda known: difflib.SequenceMatcher(None, name, known).ratio())
    shown = name if name.isidentifier() and len(name) <= 40 else repr(name[:40])
    raise ApiError(400, f"{shown}: is not known; nearest that is: {nearest}", name[:40], "unknown_field")


def _size(size: str, values: Mapping[str, Any]) -> dict[str, int]:
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", size)
    if not found:
        raise RequestError(f"size = {size[:40]!r}: must be WIDTHxHEIGHT; 160x96 works")
    for name in ("resolution", "aspect"):
        if name in values:
            raise RequestError(f"{name} = {values[name]!r}: size says it already; leave one out")
    sides = int(found[1]), int(found[2])
    nearest = tuple(min(nearest_size(side), LARGEST_SIDE) for side in sides)
    if sides != nearest:
        rule = f"both must be multiples of {SIZE_STEP}, and at most {LARGEST_SIDE}"
        raise RequestError(f"size = {size}: {rule}; nearest that works: {nearest[0]}x{nearest[1]}")
    return {"width": sides[0], "height": sides[1]}


def _shape(ratio: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The aspect that others' clients ask for; nothing where the size has it already. Raises: ApiError."""
    if "aspect" in values:
        raise ApiError(400, "aspect_ratio: says the same as aspect; leave one out", "aspect_ratio", "invalid_value")
    width, height = values.get("width"), values.get("height")
    if width and height:
        across, down = map(int, ratio.split(":"))
        if abs(width * down / (height * across) - 1) > NEAR:
            said = f"aspect_ratio = {ratio!r}: is not that of {width}x{height}; leave it out"
            raise ApiError(400, said, "aspect_ratio", "invalid_value")
        return {}
    known = (*RESOLUTIONS["540P"],)
    if ratio not in known:
        said = f"aspect_ratio = {ratio!r}: must be one of {', '.join(known)}; or give a size, such as 160x96"
        raise ApiError(400, said, "aspect_ratio", "invalid_value")
    return {"aspect": ratio}


def _story(story: Any, fps: int) -> dict[int, str]:  # noqa: ANN401 -- as the model of the body has it
    if isinstance(story, dict):
        return {int(frame): told for frame, told in story.items()}
    told: dict[int, str] = {}
    for number, part in enumerate(story):
        if (part.seconds is None) == (part.frame is None):
            raise RequestError(f"story[{number}]: must have seconds or frame, and only one of them")
        frame = part.frame if part.frame is not None else round(part.seconds * fps)
        if frame in told:
            raise RequestError(f"story[{number}]: begins at frame {frame}, as the part before it; {frame + 1} works")
        told[frame] = part.prompt
    return told


def _wire_name(said: str) -> str:
    """Our name of a field, as a client knows it."""
    return re.sub(r"^(?:image|follows)\b", "input_reference", said)
