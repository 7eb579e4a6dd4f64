"""What each tool does: an order, a look, or a word to the queue, for whoever calls.

The one invariant: nothing here blocks the server; whatever reads, writes or computes does so in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from anyio import to_thread
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, ImageContent

from everreel.serve.agents import asked, look, orders
from everreel.serve.agents.caller import caller
from everreel.serve.agents.files import Folders, is_path
from everreel.serve.agents.told import (
    FILM_FILE,
    DeletedFilm,
    EnhancedPrompt,
    Film,
    FilmCaption,
    FilmLook,
    Films,
    address,
    film_of,
    in_words,
    plan_of,
    told,
    told_film,
)
from everreel.serve.jobs.enhancer import apart
from everreel.serve.jobs.job import Job, Owner, Wanted
from everreel.serve.jobs.order import Order
from everreel.serve.jobs.service import Jobs

R = TypeVar("R")
WAIT = 50.0  # seconds; many clients give a call up after 60


class Tools:
    """The tools of one server.

    Args:
        local: the agent runs on this machine, for its user, so paths are told.
        content: where films are to be fetched over HTTP, with `{film}` in it.
        files: whose files a local agent may name by path.
    """

    def __init__(self, jobs: Jobs, *, local: bool, content: str | None, files: Folders | None = None) -> None:
        assert local or files is None, "paths of this machine are nobody else's business"
        self.jobs, self.local, self._content, self._files = jobs, local, content, files
        self._order_of = functools.partial(orders.order_of, files=files)
        self._captioner: Any = None
        self._captioning = asyncio.Lock()

    def film(self, job: Job) -> Film:
        """What is told of a job."""
        content = self._content.format(film=job.id) if self._content else None
        path = str(self.jobs.store.workplace(job.id) / FILM_FILE) if self.local and job.num_frames else None
        return film_of(job, content=content, path=path)

    def says_of_paths(self, what: Literal["picture", "film"]) -> str:
        """What an argument that may be a picture or a film says of paths."""
        if self._files is None:
            return asked.NO_PATH if what == "picture" else ""
        return f"Or the whole path of a {what} in {self._files.describe()}; never another path or a web address."

    async def generate(self, given: asked.Generate, ctx: Context[Any]) -> CallToolResult:
        """A new film."""
        return await self._make(self._order_of, given, given.wait, ctx)

    async def plan(self, given: asked.Planned, ctx: Context[Any]) -> CallToolResult:
        """What it would cost."""
        owner = caller(self.local)
        order = await in_thread(self._order_of, given, self.jobs, owner)
        plan = plan_of(await in_thread(self.jobs.outlook, order, owner))
        return told(plan, "\n".join((plan.summary, *plan.details)))

    async def extend(self, given: asked.Extend, ctx: Context[Any]) -> CallToolResult:
        """A longer film."""
        return await self._make(functools.partial(orders.longer, files=self._files), given, given.wait, ctx)

    async def go_on(self, given: asked.Continue, ctx: Context[Any]) -> CallToolResult:
        """The next parts of a story."""
        return await self._make(orders.next_parts, given, given.wait, ctx)

    async def keyframes(self, given: asked.AddKeyframes, ctx: Context[Any]) -> CallToolResult:
        """A film again, with pictures."""
        to_order = functools.partial(orders.with_keyframes, files=self._files)
        return await self._make(to_order, given, given.wait, ctx)

    async def enhance(self, given: asked.Enhance, ctx: Context[Any]) -> CallToolResult:
        """A prompt made whole."""
        make = functools.partial(self.jobs.enhanced, given.prompt, given.model, has_image=given.has_image)
        prompt, added = await self._ask(make)
        return told(EnhancedPrompt(prompt=prompt, added=added), f"{prompt}\n({added})")

    async def caption(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """What a film shows."""
        owner = caller(self.local)
        async with self._captioning:  # one at a time: it takes all of the processor
            caption = await in_thread(self._caption, given.film, owner)
        return told(caption, caption.caption)

    async def status(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """How far a film is."""
        return told_film(self.film(await in_thread(self.jobs.get, given.film, caller(self.local))))

    async def wait(self, given: asked.WaitFor, ctx: Context[Any]) -> CallToolResult:
        """The same, when it is over."""
        return told_film(self.film(await self._over(given.film, caller(self.local), given.seconds, ctx)))

    async def cancel(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """No more of it."""
        return await self._want(given.film, "cancel")

    async def pause(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """Not now."""
        return await self._want(given.film, "pause")

    async def resume(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """On with it."""
        return await self._want(given.film, "run")

    async def films(self, given: asked.ListFilms, ctx: Context[Any]) -> CallToolResult:
        """What there is."""
        name = caller(self.local).name
        found = await in_thread(self.jobs.queue.page, name, after=given.cursor, limit=given.limit + 1)
        films = [self.film(job) for job in found[: given.limit]]
        more = films[-1].film if len(found) > given.limit else None
        lines = [f"{in_words(film)} {film.prompt}" for film in films] or ["There are no films yet; generate_film."]
        lines += [f"More with cursor = '{more}'."] if more else []
        return told(Films(films=films, next_cursor=more), "\n".join(lines))

    async def delete(self, given: asked.Named, ctx: Context[Any]) -> CallToolResult:
        """No film any more."""
        await in_thread(self.jobs.remove, given.film, caller(self.local))
        await ctx.notify_resources_changed()
        return told(DeletedFilm(film=given.film), f"{given.film} is deleted.")

    async def look(self, given: asked.LookAt, ctx: Context[Any]) -> CallToolResult:
        """Some of its frames."""
        seen, data = await in_thread(self._look, given, caller(self.local))
        picture = ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type="image/jpeg")
        size = f"{seen.width}x{seen.height}, {seen.num_frames} frames so far"
        return told(seen, f"{given.film}, {size}: frames {', '.join(map(str, seen.frames))}, by rows.", picture)

    async def latest(self, count: int) -> list[Job]:
        """The latest films of whoever calls."""
        name = caller(self.local).name
        return [*await in_thread(self.jobs.queue.page, name, limit=count)]

    async def _make(
        self, to_order: Callable[[Any, Jobs, Owner], Order], given: asked.Arguments, wait: bool, ctx: Context[Any]
    ) -> CallToolResult:
        owner = caller(self.local)
        order = await in_thread(to_order, given, self.jobs, owner)
        if order.enhance:
            order = await self._ask(functools.partial(self.jobs.enhanced_order, order, owner))
        job, _ = await in_thread(self.jobs.submit, order, owner)
        await ctx.notify_resources_changed()
        if wait:
            job = await self._over(job.id, owner, WAIT, ctx)
        return told_film(self.film(job), ordered=True)

    async def _ask(self, make: Callable[[], R]) -> R:
        """Make prompts whole; a language model, if it is one that does, takes no thread of others meanwhile."""
        return await (apart(make) if self.jobs.enhancer.asks else in_thread(make))

    async def _over(self, film: str, owner: Owner, seconds: float, ctx: Context[Any]) -> Job:
        """A film when nothing more happens to it, or the time is over; meanwhile its progress is told."""
        said = -1.0
        await in_thread(self.jobs.get, film, owner)
        try:
            async with asyncio.timeout(seconds):
                async for job in self.jobs.watch(film, owner):
                    done, total = _progress(job)
                    if done > said:  # a film that a lost worker left may go back a little; progress never does
                        said = done
                        await ctx.report_progress(done, total, in_words(self.film(job)))
                    if job.status == "paused" or job.wanted == "pause":
                        break
        except TimeoutError:
            pass
        job = await in_thread(self.jobs.get, film, owner)
        if job.over:
            await ctx.notify_resource_updated(address(film))
        return job

    async def _want(self, film: str, wanted: Wanted) -> CallToolResult:
        return told_film(self.film(await in_thread(self.jobs.want, film, wanted, caller(self.local))))

    def _look(self, given: asked.LookAt, owner: Owner) -> tuple[FilmLook, bytes]:
        with look.opened(self.jobs, given.film, owner) as video:
            asked_for = [look.number_of(number, video, "numbers") for number in given.numbers]
            numbers = asked_for or look.spread_over(video, given.frames)
            data = look.sheet(video, numbers)
            return FilmLook(
                film=given.film,
                frames=numbers,
                seconds=[round(number / video.fps, 3) for number in numbers],
                num_frames=video.num_frames,
                width=video.width,
                height=video.height,
            ), data

    def _caption(self, film: str, owner: Owner) -> FilmCaption:
        from everreel.caption.fusion import BuiltInFusion
        from everreel.caption.tiny import TinyCaptioner

        self._captioner = self._captioner or TinyCaptioner()
        if self._files is not None and is_path(film):
            with orders.copied("film", film, self.jobs, self._files) as place:
                found = look.captioned("film", place, self._captioner, self.jobs.limits)
        else:
            with look.opened(self.jobs, film, owner) as video:
                found = self._captioner.caption(video.frames, video.fps)
        return FilmCaption(film=film, caption=BuiltInFusion().fuse(found, "t2v"), fields=found.model_dump())

    def picture(self, film: str, frame: int, owner: Owner) -> bytes:
        """A frame as a JPEG. Raises: NotFoundError, RequestError."""
        with look.opened(self.jobs, film, owner) as video:
            return look.jpeg(video.frames[look.number_of(frame, video)])


async def in_thread(work: Callable[..., R], *given: Any, **named: Any) -> R:  # noqa: ANN401 -- what `work` takes
    """Of the forty that answers share; asyncio's own are few where processors are, and a picture may take one long."""
    return await to_thread.run_sync(functools.partial(work, *given, **named))


def _progress(job: Job) -> tuple[float, float | None]:
    """How much of a film is done, of how much: frames of an endless one, percent of any other."""
    if job.order.endless:
        return float(job.num_frames), None
    return (100.0 if job.status == "completed" else 100.0 * job.row / max(job.num_rows, job.row, 1)), 100.0
