"""The wire format: OpenAI's Videos API, our own models of it, and the fields that a film has here beyond it.

OpenAI has four states, and typed clients refuse a fifth; the openai SDK's `poll` sleeps at queued and in_progress only.
So `status` is one of the four: a cancelled film is `failed` with the error code `cancelled`, and a paused one is
in_progress (queued, if it was never begun), since whoever waits for it should go on waiting. `state` tells all six.

The one invariant: what a film may be asked for is written down in `VideoRequest`; the fields here are made of it.
"""

from __future__ import annotations

import functools
import operator
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from everreel.film.request import VideoRequest
from everreel.serve.api.body import Sent
from everreel.serve.jobs.job import Job, NotFoundError, Status
from everreel.serve.jobs.order import REQUEST_FIELDS, FilmId, Order, UploadId
from everreel.serve.jobs.service import Jobs

WireStatus = Literal["queued", "in_progress", "completed", "failed"]
EXAMPLE_ID = "video_" + "0123456789abcdef" * 2
EXAMPLE_FILE = "file_" + "0123456789abcdef" * 2
_RATIO = r"^[1-9]\d{0,4}:[1-9]\d{0,4}$"
FRAME_PATTERN = r"^\d{1,8}$"
_SECONDS = r"^\s*\d{1,6}(\.\d{1,6})?\s*$"


class FileReference(BaseModel):
    """A picture or a film that was uploaded, or is to be fetched."""

    model_config = ConfigDict(extra="forbid")

    file_id: UploadId | None = Field(None, description="From POST /v1/files.")
    image_url: str | None = Field(None, description="A data: URL, or an address if this server may fetch files.")
    video_url: str | None = Field(None, description="The same of a film.")


class FilmReference(BaseModel):
    """A film made here."""

    model_config = ConfigDict(extra="forbid")

    id: FilmId


class StoryPart(BaseModel):
    """What the film shows from a moment on."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    seconds: float | None = Field(None, ge=0, le=400_000, description="When it begins.")
    frame: int | None = Field(None, ge=0, le=10_000_000, description="When it begins, in frames instead.")


Reference = FileReference | str | Sent
Keyframes = dict[Annotated[str, Field(pattern=FRAME_PATTERN)], Reference]
Film: Any = FileReference | FilmReference | str | Sent
Seconds = float | Annotated[str, Field(pattern=_SECONDS)]


class _Common(BaseModel):
    """What a film may be asked for, beside what `VideoRequest` says."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, description="What the film shows.")
    seconds: Seconds | None = Field(
        None, description="Length in seconds, as a number or as text; num_frames counts before it."
    )
    model: str | None = Field(None, description="One of GET /v1/models; by default the first.")
    story: list[StoryPart] | dict[Annotated[str, Field(pattern=FRAME_PATTERN)], str] | None = Field(
        None, description="Prompts that take over later: a list of parts, or prompts by the number of a frame."
    )
    endless: bool | None = Field(
        None,
        description="Go on until it is cancelled, or the owner's quota is used up. A film that has no length "
        "does so, unless the server was started with --no-endless; false is the model's usual length.",
    )
    priority: int | None = Field(None, description="Higher ones are made sooner; each key has its highest.")
    enhance: bool | None = Field(None, description="Make the prompt whole first.")
    user: str | None = Field(None, description="Taken because other servers take it; not used, and not kept.")


class _Pictures(_Common):
    size: str | None = Field(
        None, description="WIDTHxHEIGHT, both multiples of 16; counts before width and height.", examples=["160x96"]
    )
    aspect_ratio: Annotated[str, Field(pattern=_RATIO)] | None = Field(
        None, description="As other servers have aspect; beside a size it has to be the size's own."
    )
    video_params: dict[str, Any] | None = Field(
        None, description="Taken because other servers take it: fields of a film that are not in the body itself."
    )
    input_reference: Reference | None = Field(
        None, description="A picture that the film begins with, or a film that it goes on with."
    )
    end_image: Reference | None = Field(None, description="A picture that the film ends with.")
    keyframes: Keyframes | None = Field(None, description="Pictures by the number of their frame, the first is 0.")
    quality: str | None = Field(None, description="Taken because other servers take it; films have one quality here.")


def _in_json(annotation: Any) -> Any:  # noqa: ANN401 -- a type
    """Several numbers are a list there, which a strict reader takes for no tuple."""
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    kinds = tuple(list[get_args(kind)[0]] if get_origin(kind) is tuple else kind for kind in kinds)  # type: ignore[misc]
    return functools.reduce(operator.or_, kinds)


def _asked(*without: str) -> dict[str, Any]:
    """Fields of `VideoRequest` as the wire has them: each may be left out, or null."""
    fields = {name: VideoRequest.model_fields[name] for name in REQUEST_FIELDS if name not in without}
    return {name: (_in_json(field.annotation) | None, Field(None, description=field.description))
            for name, field in fields.items()}  # fmt: skip


VideoCreate = create_model(
    "VideoCreate", __base__=_Pictures, __doc__="A film to be made.", **_asked("prompt", "story", "seconds")
)
VideoExtend = create_model(
    "VideoExtend",
    __base__=_Common,
    __doc__="A film that goes on with another, at its size and rate.",
    prompt=(str | None, Field(None, min_length=1, description="What is to be seen now; else what was last.")),
    video=(Film, Field(description="A film: its id, or a file.")),
    **_asked("prompt", "story", "seconds", "height", "width", "resolution", "aspect", "loop"),
)


class VideoRemix(BaseModel):
    """A film like another, with another prompt."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)


class EnhanceBody(BaseModel):
    """A prompt to be made whole."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    model: str | None = Field(None, description="The model that it is for; by default the first.")
    has_image: bool | None = Field(None, description="Whether a picture goes with it.")


class FileCreate(BaseModel):
    """A picture or a film to be used in requests."""

    model_config = ConfigDict(extra="forbid")

    file: Sent
    purpose: Literal["vision", "user_data"] = "vision"


class VideoError(BaseModel):
    """Why a film failed."""

    code: str
    message: str


class Video(BaseModel):
    """A film: OpenAI's fields first, then what it has here beyond them."""

    id: str = Field(examples=[EXAMPLE_ID])
    object: Literal["video"] = "video"
    model: str
    status: WireStatus = Field(description="As OpenAI has it: a cancelled film is failed, a paused one in progress.")
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str = Field(description="Of an extended film, all of it.")
    prompt: str | None
    remixed_from_video_id: str | None
    error: VideoError | None
    state: Status = Field(description="As it is: also paused and cancelled.")
    fps: int
    seed: int
    num_frames: int = Field(description="Frames that are there already.")
    row: int = Field(description="Rows of the schedule that are done.")
    num_rows: int
    waiting: str = Field(description="What holds the film up, such as a full disk.")
    priority: int
    started_at: int | None
    endless: bool
    extended_from_video_id: str | None
    enhanced_prompt: str | None = Field(description="The prompt as it was made whole, where that was asked for.")
    enhanced_story: dict[str, str] | None = Field(
        description="The story's parts as they were made whole, by the number of their first frame; else null."
    )
    enhanced_notes: dict[str, str] | None = Field(
        description="What was added to each prompt, and which of its words are not known and kept, by the number of "
        "its first frame, which is 0 for the film's own; else null.",
        examples=[{"0": "built-in: added shot, light; not known, kept: quagga"}],
    )


class VideoList(BaseModel):
    """A page of films."""

    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None


class VideoDeleted(BaseModel):
    """A film that is gone."""

    id: str
    deleted: bool
    object: Literal["video.deleted"] = "video.deleted"


class VideoPlan(BaseModel):
    """What a film would cost."""

    object: Literal["video.plan"] = "video.plan"
    summary: str
    lines: list[str]
    num_frames: int
    seconds: float
    width: int
    height: int
    fps: int
    blocks: int
    steps: int = Field(description="Denoising steps of each block.")
    passes: int = Field(description="Denoising passes in all, at most; blocks made together share theirs.")
    endless: bool = Field(description="It goes on until it is stopped; the figures are of its first num_frames.")
    takes_seconds: float | None = Field(description="Of work, about; null where it cannot be told.")
    memory_bytes: int | None = Field(description="Of the device, about; null where it cannot be told.")


class Enhanced(BaseModel):
    """A prompt made whole."""

    object: Literal["prompt"] = "prompt"
    prompt: str
    note: str


class FileObject(BaseModel):
    """An upload."""

    id: str = Field(examples=[EXAMPLE_FILE])
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    kind: Literal["image", "video"]
    width: int
    height: int
    seconds: float


class Model(BaseModel):
    """A model that films are made with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "everreel"
    height: int
    width: int
    num_frames: int = Field(description="Of a film whose length is left open, and that is not endless.")
    num_inference_steps: int
    streams: bool = Field(description="Made for films block by block.")


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[Model]


def video_of(job: Job, jobs: Jobs) -> Video:
    """A film as clients see it."""
    order, request = job.order, job.order.request
    error = VideoError(code=job.failure.code, message=job.failure.message) if job.failure else None
    if job.status == "cancelled":
        error = VideoError(code="cancelled", message="the film was cancelled; resume goes on with it")
    return Video(
        id=job.id,
        model=order.model,
        status=wire_status(job),
        progress=job.progress,
        created_at=job.created_at,
        completed_at=job.completed_at,
        expires_at=job.expires_at,
        size=_size(job, jobs),
        seconds=f"{_num_frames(job, jobs) / request.fps:.10g}",
        prompt=request.prompt,
        remixed_from_video_id=order.remixed_from,
        error=error,
        state=job.state,
        fps=request.fps,
        seed=request.seed,
        num_frames=job.num_frames,
        row=job.row,
        num_rows=job.num_rows,
        waiting=job.waiting,
        priority=job.priority,
        started_at=job.started_at,
        endless=order.endless,
        extended_from_video_id=order.extends,
        enhanced_prompt=order.enhanced,
        enhanced_story=_enhanced_story(order),
        enhanced_notes=_enhanced_notes(order),
    )


def wire_status(job: Job) -> WireStatus:
    """One of the four; see the module."""
    if job.status == "paused":
        return "queued" if job.started_at is None else "in_progress"
    return "failed" if job.status == "cancelled" else job.status


def _enhanced_story(order: Order) -> dict[str, str] | None:
    """All prompts of an order are made whole together, or none."""
    return None if order.enhanced is None else {str(frame): told for frame, told in order.request.story.items()}


def _enhanced_notes(order: Order) -> dict[str, str] | None:
    """Empty where a server made the prompts whole that wrote none down."""
    return None if order.enhanced is None else {str(frame): note for frame, note in order.enhanced_notes.items()}


def _size(job: Job, jobs: Jobs) -> str:
    request = job.order.request
    if request.height is not None and request.width is not None:
        return f"{request.width}x{request.height}"
    try:
        height, width = request.size(jobs.card(job.order.model))
    except (KeyError, ValueError):  # the model is not served any more
        return ""
    return f"{width}x{height}"


def _num_frames(job: Job, jobs: Jobs) -> int:
    """All that the film has, or will have."""
    if job.status == "completed" or job.order.endless:
        return job.num_frames
    length = job.order.request.length or 0
    if not job.order.extends:
        return length
    try:
        return length + jobs.get(job.order.extends).num_frames
    except NotFoundError:
        return max(length, job.num_frames)
