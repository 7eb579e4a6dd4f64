"""What the tools answer: structured, and in a sentence that says what can be done next.

The one invariant: a path of this machine is told only where the agent runs on it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from mcp_types import CallToolResult, ContentBlock, ResourceLink, TextContent
from pydantic import BaseModel, Field

from everreel.serve.jobs.job import Job, Status
from everreel.serve.jobs.service import Outlook

FILM_FILE = "film.mp4"


class Film(BaseModel):
    """A film, as far as it is."""

    film: Annotated[str, Field(description="Its id, which the other tools take.")]
    status: Status
    progress: Annotated[int | None, Field(description="Percent; none of a film without an end.")] = None
    prompt: str
    story: Annotated[dict[int, str], Field(description="Prompts that take over later, by frame.")] = {}
    enhanced: Annotated[
        dict[int, str] | None,
        Field(description="Where prompts were made whole: what was added to each, and words nobody knew, by frame."),
    ] = None
    model: str
    seed: int
    fps: int
    frames_ready: Annotated[int, Field(description="Frames that can be looked at already.")]
    seconds_ready: float
    created_at: Annotated[int, Field(description="Seconds since 1970.")]
    completed_at: int | None = None
    extends: Annotated[str | None, Field(description="The film that this one goes on with.")] = None
    remade_from: Annotated[str | None, Field(description="The film whose order this was, changed.")] = None
    waiting: Annotated[str | None, Field(description="What holds it up.")] = None
    error: Annotated[str | None, Field(description="Why it failed.")] = None
    resource: Annotated[str, Field(description="The resource with its MP4.")]
    content: Annotated[str | None, Field(description="Where this server has the MP4, with the same key.")] = None
    path: Annotated[str | None, Field(description="The MP4 on this machine.")] = None
    next: Annotated[str, Field(description="What can be done now.")]


class Films(BaseModel):
    """A page of films, the latest first."""

    films: list[Film]
    next_cursor: Annotated[str | None, Field(description="For list_films; none on the last page.")] = None


class FilmPlan(BaseModel):
    """What a film would cost."""

    summary: str
    details: list[str]
    num_frames: int
    seconds: Annotated[float, Field(description="Of film.")]
    width: int
    height: int
    fps: int
    blocks: Annotated[int, Field(description="Pieces in which it is made; each can be watched when it is done.")]
    steps: Annotated[int, Field(description="Denoising steps of each block.")]
    passes: Annotated[int, Field(description="Denoising passes in all, at most; blocks made together share theirs.")]
    endless: Annotated[
        bool, Field(description="It goes on until it is stopped; the figures are of its first num_frames.")
    ] = False
    takes_seconds: Annotated[float | None, Field(description="Of work, about; none where nobody knows.")] = None
    memory_bytes: Annotated[float | None, Field(description="Of the device, about.")] = None


class EnhancedPrompt(BaseModel):
    """A prompt made whole."""

    prompt: str
    added: Annotated[str, Field(description="What was added to it.")]


class FilmCaption(BaseModel):
    """What a film shows, as the captioner sees it."""

    film: str
    caption: Annotated[str, Field(description="In prose.")]
    fields: Annotated[dict[str, Any], Field(description="Subjects, shot, camera, place and light, each by itself.")]


class FilmLook(BaseModel):
    """The frames on the picture that comes with this, by rows."""

    film: str
    frames: list[int]
    seconds: Annotated[list[float], Field(description="When each is shown.")]
    num_frames: Annotated[int, Field(description="Of the film so far.")]
    width: int
    height: int


class DeletedFilm(BaseModel):
    """A film that is gone."""

    film: str
    deleted: bool = True


def film_of(job: Job, *, content: str | None, path: str | None) -> Film:
    """What is told of a job; `content` and `path` are where its MP4 is to be had, if anywhere."""
    order, request = job.order, job.order.request
    return Film(
        film=job.id,
        status=job.state,
        progress=None if order.endless else job.progress,
        prompt=request.prompt,
        story=request.story,
        enhanced=None if order.enhanced is None else order.enhanced_notes,
        model=order.model,
        seed=request.seed,
        fps=request.fps,
        frames_ready=job.num_frames,
        seconds_ready=round(job.num_frames / request.fps, 2),
        created_at=job.created_at,
        completed_at=job.completed_at,
        extends=order.extends,
        remade_from=order.remixed_from,
        waiting=None if job.state == "paused" else job.waiting or None,
        error=job.failure.message if job.failure else None,
        resource=address(job.id),
        content=content if job.num_frames else None,
        path=path if job.num_frames else None,
        next=_next(job),
    )


def address(film: str, part: str = "") -> str:
    """The resource of a film or of a part of it."""
    return f"film://{film}" + (f"/{part}" if part else "")


def told_film(film: Film, *, ordered: bool = False) -> CallToolResult:
    """A film with a sentence, and a link to it once there is something to see.

    An answer to an order also says in words what was made of its prompts: some clients show their users nothing else.
    """
    where = f" File: {film.path}." if film.path else ""
    link = []
    if film.frames_ready:
        link = [ResourceLink(uri=film.resource, name=film.film, mime_type="video/mp4", description=film.prompt)]
    sentence = f"{in_words(film)}{where} {film.next}"
    return told(film, "\n".join([sentence, *(_made_whole(film) if ordered else [])]), *link)


def in_words(film: Film) -> str:
    """How far a film is, in a sentence."""
    words = [film.status.replace("_", " ")]
    if film.status in ("in_progress", "paused") and film.progress is not None:
        words.append(f"{film.progress} %")
    if film.frames_ready:
        words.append(f"{film.frames_ready} frames ({film.seconds_ready:g} s) ready")
    words += [film.waiting] if film.waiting else []
    return f"{film.film}: {', '.join(words)}{f': {film.error}' if film.error else ''}."


def told(answer: BaseModel, sentence: str, *more: ContentBlock) -> CallToolResult:
    """An answer as a tool gives it; what is not known is left out."""
    content: list[ContentBlock] = [TextContent(text=sentence), *more]
    return CallToolResult(content=content, structured_content=answer.model_dump(mode="json", exclude_none=True))


def plan_of(outlook: Outlook) -> FilmPlan:
    """What is told of an outlook."""
    return FilmPlan(
        summary=outlook.summary,
        details=list(outlook.lines),
        num_frames=outlook.num_frames,
        seconds=round(outlook.seconds, 3),
        width=outlook.width,
        height=outlook.height,
        fps=outlook.fps,
        blocks=outlook.blocks,
        steps=outlook.steps,
        passes=outlook.passes,
        endless=outlook.endless,
        takes_seconds=_known(outlook.takes),
        memory_bytes=_known(outlook.memory),
    )


def _made_whole(film: Film) -> list[str]:
    """Each prompt as it is sent, with what was added to it; nothing where they are sent as they were given."""
    prompts = {0: film.prompt, **film.story}
    return [
        f"{f'Prompt from frame {frame}' if frame else 'Prompt'}, made whole: {prompts[frame]}\n({note})"
        for frame, note in (film.enhanced or {}).items()
        if frame in prompts
    ]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _next(job: Job) -> str:
    """What an agent may do now."""
    if job.wanted == "pause" or job.state == "paused":
        return "It waits: resume_film goes on."
    if job.status in ("queued", "in_progress"):
        look = "; look_at_film shows what is ready" if job.num_frames else ""
        if job.order.endless:
            return f"It has no end: cancel_film stops it{look}."
        return f"Go on waiting with wait_for_film(film='{job.id}'){look}."
    if job.whole:
        return "Judge it with look_at_film; extend_film or continue_story goes on with it."
    return "resume_film goes on with it; delete_film removes it."
