"""The routes of films: ask for them, watch them, fetch them, stop them.

The one invariant: a route only translates. What a film may be is `Jobs`' to say, and whose it is the guard's.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from everreel.serve.api.body import nothing, received
from everreel.serve.api.content import content
from everreel.serve.api.desk import Desk, has_files, owner_of
from everreel.serve.api.errors import ApiError, ErrorBody, documented
from everreel.serve.api.openapi import body_of
from everreel.serve.api.orders import asked, extension_of, fields_of, order_of
from everreel.serve.api.schema import (
    EXAMPLE_ID,
    Video,
    VideoCreate,
    VideoDeleted,
    VideoExtend,
    VideoList,
    VideoPlan,
    VideoRemix,
    video_of,
)
from everreel.serve.jobs.job import Job, NotFoundError, Owner, Wanted
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs, Outlook

EXAMPLE = {"prompt": "a red fox runs through a snowy forest", "seconds": "4", "size": "160x96", "seed": 7}
EXTEND_EXAMPLE = {"prompt": "it finds a frozen lake", "seconds": "4", "video": {"id": EXAMPLE_ID}}
_TOKEN = "Opens the film without a key, for players that send no headers."
VideoId = Annotated[str, Path(description="Of the film.", examples=[EXAMPLE_ID])]
Token = Annotated[str | None, Query(description=_TOKEN)]
_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event": {"enum": ["progress", "preview", "done", "deleted"]},
        "id": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def add_orders(router: APIRouter, desk: Desk) -> None:
    """Asking for films."""
    jobs, settings, most = desk.jobs, desk.settings, desk.jobs.limits.upload_bytes

    @router.post(
        "/videos",
        response_model=Video,
        responses=documented(409, 502, 504, 507),
        openapi_extra=body_of(VideoCreate, EXAMPLE),
        summary="Ask for a film",
    )
    async def create(request: Request, response: Response) -> Video:
        async with received(request, settings, most) as body:

            def make(owner: Owner) -> tuple[Order, int]:
                found = asked(body)
                return order_of(found, body, jobs, owner, settings), found.priority

            return _told(response, desk, await desk.submit(request, body, make))

    @router.post(
        "/videos/plan",
        response_model=VideoPlan,
        responses=documented(409, 507),
        openapi_extra=body_of(VideoCreate, EXAMPLE),
        summary="What a film would cost, without making it",
    )
    async def plan(request: Request) -> VideoPlan:
        async with received(request, settings, most) as body:

            def look() -> VideoPlan:
                owner = owner_of(request)
                return _plan(jobs.outlook(order_of(asked(body), body, jobs, owner, settings), owner))

            return await desk.work(look, files=has_files(body))


def add_waiting(router: APIRouter, desk: Desk) -> None:
    """Asking for a film, and waiting for it in the same request."""
    jobs, settings, most = desk.jobs, desk.settings, desk.jobs.limits.upload_bytes

    @router.post(
        "/videos/sync",
        response_class=Response,
        responses={200: {"content": {"video/mp4": _BINARY}}, **documented(409, 502, 504, 507)},
        openapi_extra=body_of(VideoCreate, EXAMPLE),
        summary="A film itself, when it is finished",
        description="As POST /v1/videos, and then its content, with its id as X-Video-Id. Without a length it has the "
        "model's usual one. If the connection is lost the film is made none the less; asked for again with the same "
        "Idempotency-Key it is the same one.",
    )
    async def whole(request: Request) -> Response:
        def make(owner: Owner) -> tuple[Order, int]:
            found = asked(body)
            order = order_of(found, body, jobs, owner, replace(settings, endless=False))
            if order.endless:
                said = "endless: a film that is waited for has an end; POST /v1/videos makes one without"
                raise ApiError(400, said, "endless", "invalid_value")
            return order, found.priority

        owner = owner_of(request)
        desk.live.check_room()
        with desk.live.seat():
            async with received(request, settings, most) as body:
                video = await desk.submit(request, body, make)
            job = await desk.live.over(request, video.id, owner)
        if job is None or not job.whole:
            why = "was deleted" if job is None else f"is {job.status}"
            why += f": {job.failure.message}" if job and job.failure else ""
            raise ApiError(409, f"video = {video.id}: {why}", None, "not_completed")
        reply = await desk.work(lambda: content(jobs, job, owner, "video", {}, head=False))
        reply.headers["X-Video-Id"] = video.id
        return reply


def add_sequels(router: APIRouter, desk: Desk) -> None:
    """Asking for films that come of others."""
    jobs, settings, most = desk.jobs, desk.settings, desk.jobs.limits.upload_bytes

    @router.post(
        "/videos/extensions",
        response_model=Video,
        responses=documented(409, 502, 504, 507),
        openapi_extra=body_of(VideoExtend, EXTEND_EXAMPLE),
        summary="Go on with a film made here, or with one that is sent",
    )
    async def extend(request: Request, response: Response) -> Video:
        async with received(request, settings, most) as body:
            make = functools.partial(extension_of, body, jobs, settings=settings)
            return _told(response, desk, await desk.submit(request, body, make))

    @router.post(
        "/videos/{video_id}/remix",
        response_model=Video,
        responses=documented(409, 502, 504, 507),
        openapi_extra=body_of(VideoRemix, {"prompt": "a blue fox runs through a snowy forest"}),
        summary="Make a film again with another prompt",
    )
    async def remix(request: Request, response: Response, video_id: VideoId) -> Video:
        async with received(request, settings, most) as body:

            def make(owner: Owner) -> tuple[Order, int]:
                prompt = fields_of(body, VideoRemix)["prompt"]
                return jobs.remix(_known(video_id), prompt, owner), 0

            return _told(response, desk, await desk.submit(request, body, make))


def add_films(router: APIRouter, desk: Desk) -> None:
    """Films that were asked for."""
    jobs = desk.jobs

    @router.get("/videos", response_model=VideoList, responses=documented(), summary="Your films")
    def page(
        request: Request,
        after: Annotated[str | None, Query(description="The last film of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        owner = owner_of(request)
        behind = None if after is None else _known(after, "after")
        found = jobs.queue.page(owner.name, after=behind, limit=limit + 1, newest_first=order == "desc")
        films = [video_of(job, jobs) for job in found[:limit]]
        first, last = (films[0].id, films[-1].id) if films else (None, None)
        return VideoList(data=films, has_more=len(found) > limit, first_id=first, last_id=last)

    @router.get("/videos/{video_id}", response_model=Video, responses=documented(), summary="How a film stands")
    def retrieve(request: Request, response: Response, video_id: VideoId) -> Video:
        return _told(response, desk, video_of(_job(jobs, request, video_id), jobs))

    @router.delete(
        "/videos/{video_id}",
        response_model=VideoDeleted,
        responses=documented(),
        summary="Delete a film, also one that is being made",
    )
    def delete(request: Request, video_id: VideoId) -> VideoDeleted:
        jobs.remove(_known(video_id), owner_of(request))
        return VideoDeleted(id=video_id, deleted=True)

    def add(name: str, wanted: Wanted, summary: str) -> None:
        def want(request: Request, video_id: VideoId) -> Video:
            return video_of(jobs.want(_known(video_id), wanted, owner_of(request)), jobs)

        more: dict[str, Any] = {"response_model": Video, "responses": documented(409), "summary": summary}
        more["dependencies"] = [Depends(nothing)]
        router.add_api_route(f"/videos/{{video_id}}/{name}", want, methods=["POST"], operation_id=name, **more)

    add("cancel", "cancel", "Stop making a film; what is there stays, and resume goes on with it")
    add("pause", "pause", "Hold a film")
    add("resume", "run", "Go on with a film that is paused, failed or cancelled")


def add_watching(router: APIRouter, desk: Desk) -> None:
    """What a film looks like, finished or not."""
    jobs, live = desk.jobs, desk.live
    whole = dict.fromkeys(("video/mp4", "image/webp", "image/jpeg"), _BINARY)
    found = {200: {"content": whole}, 206: {"content": whole, "description": "Some bytes of it."}}

    def fetch(
        request: Request,
        video_id: VideoId,
        variant: Literal["video", "thumbnail", "spritesheet"] = "video",
        token: Token = None,
    ) -> Response:
        job = _job(jobs, request, video_id)
        return content(jobs, job, owner_of(request), variant, request.headers, request.method == "HEAD")

    more: dict[str, Any] = {"response_class": Response, "summary": "A finished film, or pictures of it"}
    unchanged = {304: {"description": "It is the one that If-None-Match names."}}
    responses: Any = {**found, **unchanged, **documented(416)}
    for method in ("GET", "HEAD"):
        told = {"methods": [method], "operation_id": f"{method.lower()}_content", "responses": responses}
        router.add_api_route("/videos/{video_id}/content", fetch, **told, **more)

    @router.get(
        "/videos/{video_id}/stream",
        response_class=StreamingResponse,
        responses={200: {"content": {"video/mp4": _BINARY}}, **documented()},
        summary="A film while it is made",
        description="Fragmented MP4 from the first byte to the film's end, for as long as it is made.",
    )
    async def stream(request: Request, video_id: VideoId, token: Token = None) -> Response:
        job = await desk.work(lambda: _job(jobs, request, video_id))
        live.check_room()
        return StreamingResponse(live.film(request, job, owner_of(request)), media_type="video/mp4")

    @router.get(
        "/videos/{video_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}, **documented()},
        summary="What happens to a film, as server-sent events",
        description="`progress` with the film, `preview` with a picture, and at the end `done` or `deleted`.",
    )
    async def events(
        request: Request,
        video_id: VideoId,
        preview: Annotated[bool, Query(description="With preview pictures.")] = False,
        token: Token = None,
    ) -> Response:
        job = await desk.work(lambda: _job(jobs, request, video_id))
        live.check_room()
        told = live.events(request, job, owner_of(request), preview)
        return StreamingResponse(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def add_unserved(router: APIRouter) -> None:
    """What OpenAI has and this has not; one sentence each."""
    unserved: Any = {501: {"model": ErrorBody, "description": "Not served."}, **documented()}

    def add(method: str, path: str, said: str) -> None:
        def no() -> Response:
            raise ApiError(501, said, None, "not_served", {"x-should-retry": "false"})

        name = f"{method}_{path.strip('/').replace('/', '_')}"
        more: dict[str, Any] = {"responses": unserved, "status_code": 501, "response_class": Response}
        router.add_api_route(
            path, no, methods=[method.upper()], operation_id=name, name=name, summary="Not served", **more
        )

    characters = "characters are not served here; say in the prompt who is to be seen, or give a picture"
    add("post", "/videos/edits", "films are not edited here; remix makes one again with another prompt")
    add("post", "/videos/characters", characters)
    add("get", "/videos/characters/{character_id}", characters)


def _told(response: Response, desk: Desk, video: Video) -> Video:
    response.headers["openai-poll-after-ms"] = str(desk.settings.poll_after_ms)
    return video


def _known(video_id: str, param: str = "video_id") -> str:
    if not re.fullmatch(r"video_[0-9a-f]{32}", video_id):
        raise ApiError(404, f"video = {video_id[:60]!r}: there is no such film", param, "not_found")
    return video_id


def _job(jobs: Jobs, request: Request, video_id: str) -> Job:
    try:
        return jobs.get(_known(video_id), owner_of(request))
    except NotFoundError as error:
        raise ApiError(404, str(error), "video_id", "not_found") from None


def _plan(found: Outlook) -> VideoPlan:
    takes = found.takes if found.takes == found.takes else None  # not a number: it cannot be told
    memory = int(found.memory) if found.memory == found.memory else None
    names = ("summary", "num_frames", "seconds", "width", "height", "fps", "blocks", "steps", "passes", "endless")
    told: dict[str, Any] = {name: getattr(found, name) for name in names}
    return VideoPlan(lines=list(found.lines), takes_seconds=takes, memory_bytes=memory, **told)
