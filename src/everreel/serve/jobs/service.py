"""Everything that the HTTP interface, agents and the page may do with films: one front door to jobs.

The one invariant: an order is checked here, whole, before it is a job: against the model's card, the server's limits
and what its owner has. So a job that exists can be made, and what is wrong is said in one line, without a path.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from everreel.checkpoint.catalog import ModelCard
from everreel.film.loading import EMBEDDED, ModelOptions
from everreel.film.plan import Plan, check_can_go_on, make_plan
from everreel.film.request import RequestError, VideoRequest, make_request
from everreel.serve.jobs.enhancer import ServedEnhancer, unusable
from everreel.serve.jobs.job import (
    FULL_DISK,
    ConflictError,
    DiskFullError,
    FilmStore,
    Job,
    JobError,
    JobQueue,
    Limits,
    NotFoundError,
    Once,
    Owner,
    Part,
    QuotaError,
    Upload,
    Wanted,
)
from everreel.serve.jobs.order import Order, make_order, piece_frames
from everreel.shapes import SIZE_STEP, TEMPORAL, latent_frames

if TYPE_CHECKING:
    from everreel.enhance import EnhanceOptions
    from everreel.model.text_encoder import Tokenizer

R = TypeVar("R")
PULSE = 0.15  # seconds between two looks at a job that somebody watches


@dataclass(frozen=True)
class Outlook:
    """What an order would cost, before it is one."""

    summary: str
    lines: tuple[str, ...]
    num_frames: int
    seconds: float
    """Of film."""
    width: int
    height: int
    fps: int
    blocks: int
    steps: int
    """Of each block."""
    passes: int
    """Denoising passes in all, at most; blocks made together share theirs."""
    takes: float
    """Seconds of work, about; not a number where they cannot be told."""
    memory: float
    """Bytes of the device, about."""
    endless: bool = False
    """Whether it goes on after these frames, until it is stopped."""


class Jobs:
    """See the module. `models` are those that are served, by name, the default one first; `enhancer` says who makes
    prompts whole, by default the built-in rules.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: FilmStore,
        models: Mapping[str, ModelOptions],
        limits: Limits | None = None,
        enhancer: EnhanceOptions | None = None,
    ) -> None:
        self.queue, self.store, self.limits = queue, store, limits or Limits()
        self.models, self.enhancer = dict(models), ServedEnhancer(enhancer)
        self.card = cache(self._card)
        self._tokenizer = cache(self._read_tokenizer)
        self._only_the_world = cache(self._knows_only_the_world)

    @property
    def default_model(self) -> str:
        """The one that is taken where none is named."""
        return next(iter(self.models))

    def submit(self, order: Order, owner: Owner, *, priority: int = 0, once: Once | None = None) -> tuple[Job, bool]:
        """A new job, or the one that was submitted `once`; True where it is new.

        Raises:
            RequestError: the order cannot be made, with the field, the value, the rule and what works.
            NotFoundError: a film or an upload that it names.
            EnhancerError, BusyError: its prompts cannot be made whole now.
            JobError: as from `JobQueue.put`.
        """
        if priority > owner.highest_priority:
            highest = owner.highest_priority
            raise RequestError(f"priority = {priority}: yours may be at most {highest}; nearest that works: {highest}")
        if not self.store.free_bytes() and (once is None or self.queue.known(owner.name, once) is None):
            raise DiskFullError(FULL_DISK)  # there may be room for the order, and there is none for the film
        order, plan = self._whole(order, owner)
        assert plan.request.num_frames
        seconds = 0 if order.endless else plan.request.num_frames / plan.request.fps
        # Written down as settled: what follows the film later, and what tells of it, need not ask for its source again.
        settled = {"height": plan.request.height, "width": plan.request.width, "resolution": None, "aspect": None}
        settled |= {} if order.endless else {"num_frames": plan.request.num_frames, "seconds": None}
        order = order.model_copy(update={"request": order.request.model_copy(update=settled)})
        uploaded = self.store.uploads(owner.name) if owner.quota.bytes is not None else 0
        return self.queue.put(order, owner, seconds=seconds, uploaded=uploaded, priority=priority, once=once)

    def without_end(self, order: Order) -> Order:
        """The order, endless if nothing in it says when its film ends and its model can go on with one."""
        can = order.model in self.models and self.card(order.model).forcing
        return order.model_copy(update={"endless": True}) if can and order.open_ended else order

    def outlook(self, order: Order, owner: Owner) -> Outlook:
        """What an order would cost. Raises as `submit`."""
        from everreel.film.budget import placed
        from everreel.film.estimate import estimate
        from everreel.film.parts import parts_of

        plan, options, card = self._check(order, owner), self.models[order.model].resolve(), self.card(order.model)
        request = plan.request
        assert request.num_frames and request.width and request.height
        parts = parts_of(card, options.parts)
        cost = estimate(plan, card, options.device, placed(options, card, plan, parts), parts, options)
        lines = [nameless(line) for line in (*plan.explain(), *cost.describe())]
        if order.endless:
            lines.insert(0, f"goes on until it is stopped; these figures are of its first {request.num_frames} frames")
        return Outlook(
            plan.describe(),
            tuple(lines),
            request.num_frames,
            request.num_frames / request.fps,
            request.width,
            request.height,
            request.fps,
            plan.num_blocks,
            plan.schedule.num_steps,
            cost.rows,
            cost.seconds,
            cost.total,
            order.endless,
        )

    def enhanced(self, prompt: str, model: str | None = None, *, has_image: bool = False) -> tuple[str, str]:
        """A prompt made whole for a model, and a line that says what was added.

        Where a language model is asked, which `enhancer.asks` tells, it may take minutes.

        Raises:
            RequestError: there is no such prompt, or no such model.
            EnhancerError, BusyError: it cannot be made whole now.
        """
        name, most = self._known(model or self.default_model), self.limits.prompt
        prompt = make_request(prompt=prompt).prompt
        self._check_length(len(prompt))
        with self.enhancer.at_work(self._only_the_world(name)) as enhancer:
            made = enhancer.enhance(prompt, has_image=has_image)
        if self.enhancer.asks and len(made.text) > most:
            raise unusable(f"{made.backend} wrote {len(made.text)} characters, of {most} at most")
        return made.text, made.describe()

    def enhanced_order(self, order: Order, owner: Owner) -> Order:
        """An order with its prompts made whole, where it wants that and they are not yet, as `submit` makes it.

        For whoever has no thread to spare for as long as a language model may take. Raises as `submit`.
        """
        return self._whole(order, owner)[0]

    def get(self, job_id: str, owner: Owner | None = None) -> Job:
        """Raises: NotFoundError; with `owner`, also where the film is somebody else's."""
        return self.queue.get(job_id, owner.name if owner else None)

    def want(self, job_id: str, wanted: Wanted, owner: Owner) -> Job:
        """Pause, cancel or go on. Raises: NotFoundError, ConflictError."""
        return self.queue.want(job_id, wanted, owner.name)

    def remove(self, job_id: str, owner: Owner) -> None:
        """Cancel if need be, and delete. Raises: NotFoundError."""
        self.queue.remove(job_id, owner.name)

    def open(self, job_id: str, part: Part, owner: Owner | None = None) -> BinaryIO:
        """A part of a film, as far as it is there. Raises: NotFoundError."""
        self.get(job_id, owner)
        return self.store.open(job_id, part)

    def remix(self, job_id: str, prompt: str, owner: Owner) -> Order:
        """The order of a film with another prompt. Raises: NotFoundError, RequestError."""
        old = self.get(job_id, owner).order
        given = old.request.model_dump(exclude_unset=True) | {"prompt": prompt, "story": {}}
        changed = {"request": make_request(**given), "remixed_from": job_id, "enhanced": None}
        changed["enhanced_notes"] = {}
        return Order(**old.model_dump(exclude={"request"}) | changed)

    def extension(self, job_id: str, owner: Owner, **values: Any) -> Order:  # noqa: ANN401 -- fields of an order
        """The order of a longer film that goes on with one made here, at its size and rate, by its model.

        Raises: NotFoundError, RequestError.
        """
        job = self.get(job_id, owner)
        given = {name: value for name, value in values.items() if value is not None}
        given = {"prompt": job.order.request.last_prompt, **given, "fps": job.order.request.fps}
        return make_order(**given, model=job.order.model, extends=job_id)

    def upload(self, source: Path, owner: Owner) -> Upload:
        """Take over a picture or a film that a client sent; the file at `source` is used up.

        It is read here, in a process of its own with limits to its memory and its time, before anything else may.

        Raises:
            RequestError: it is neither, or too large; with the rule and what works.
            QuotaError: its owner has as much as is allowed.
            DiskFullError: there is no room for it.
        """
        from everreel.serve.jobs.uploads import inspect

        found = inspect(source, self.limits)
        most, size = owner.quota.bytes, source.stat().st_size
        left = None if most is None else most - self.queue.usage(owner.name).bytes
        try:
            upload_id = self.store.keep(source, owner.name, found.suffix, left)
        except QuotaError:
            rule = f"you may have {most} bytes of films and uploads; delete some"
            raise QuotaError(f"upload = {size} bytes: {rule}") from None
        return replace(found, id=upload_id, num_bytes=size)

    async def watch(self, job_id: str, owner: Owner | None = None) -> AsyncIterator[Job]:
        """The job now, and again after every change, until it is over or gone."""
        seen = -1
        while True:
            try:
                job = await asyncio.to_thread(self.get, job_id, owner)
            except NotFoundError:
                return
            if job.version != seen:
                seen = job.version
                yield job
            if job.over:
                return
            await asyncio.sleep(PULSE)

    def clean(self) -> None:
        """What was removed or is too old goes from the disk; called now and then."""
        if self.limits.retention is not None:
            self.queue.expire(self.limits.retention)
        for job_id in self.queue.removed():
            self.store.delete(job_id)
            self.queue.forget(job_id)
        self.store.drop_uploads(self.queue.needed())

    def _card(self, model: str) -> ModelCard:
        return self.models[model].card()

    def _read_tokenizer(self, model: str) -> Tokenizer:
        from everreel.checkpoint.load import load_tokenizer

        return load_tokenizer(self.models[model].source(self.card(model)))

    def _knows_only_the_world(self, model: str) -> bool:
        from everreel.enhance import knows_only_the_world

        return knows_only_the_world(self.card(model))

    def _known(self, model: str) -> str:
        if model not in self.models:
            nearest = max(self.models, key=lambda name: difflib.SequenceMatcher(None, model, name).ratio())
            names = ", ".join(self.models)
            raise RequestError(f"model = {model!r}: must be one of {names}; nearest that works: {nearest}")
        return model

    def _check(self, order: Order, owner: Owner) -> Plan:
        """How an order would be made; all that can be wrong with it is found, the quick things first."""
        from everreel.film.given import read_pictures
        from everreel.film.prompts import check_prompts

        self._known(order.model)
        request, most = order.request, self.limits
        told = len(request.prompt) + sum(map(len, request.story.values())) + len(request.negative_prompt or "")
        self._check_length(told)
        plan = self._plan(order, owner)
        request = plan.request
        assert request.num_frames and request.width and request.height and request.num_inference_steps
        frames = max(request.story, default=0) if order.endless else request.num_frames
        if frames > most.seconds * request.fps:
            rule, works = f"this server makes at most {most.seconds:g} s", f"{most.seconds:g}"
            said = f"seconds = {frames / request.fps:g}"
            if order.request.num_frames:
                said, works = f"num_frames = {request.num_frames}", str(max(1, int(most.seconds * request.fps)))
            raise RequestError(f"{said}: {rule}; nearest that works: {works}")
        if request.width * request.height > most.pixels:
            smaller = math.sqrt(most.pixels / (request.width * request.height))
            width, height = (int(side * smaller) // SIZE_STEP * SIZE_STEP for side in (request.width, request.height))
            works = f"; nearest that works: {width}x{height}" if width and height else ""
            rule = f"this server makes at most {most.pixels} pixels a frame{works}"
            raise RequestError(f"size = {request.width}x{request.height}: {rule}")
        if request.num_inference_steps > most.steps:
            rule = f"this server takes at most {most.steps}; nearest that works: {most.steps}"
            raise RequestError(f"num_inference_steps = {request.num_inference_steps}: {rule}")
        check_prompts(request, self._tokenizer(order.model))
        try:
            read_pictures(request)
        except RequestError as error:
            raise RequestError(nameless(str(error))) from None
        return plan

    def _plan(self, order: Order, owner: Owner) -> Plan:
        """How an order would be made.

        Raises:
            NotFoundError: a film or an upload is not there, or somebody else's.
            ConflictError: the film to go on with is still to get longer, or was cut off.
            RequestError: it cannot be made.
        """
        from everreel.film import making

        card, place = self.card(order.model), {name: self.store.upload(name, owner.name) for name in order.uploads}
        try:
            request = order.whole(place)
            if order.endless:  # as its first piece is made
                check_can_go_on(card)
                request = request.model_copy(update={"num_frames": piece_frames(request)})
            if order.extends:
                return make_plan(*self._going_on(order.extends, request, card, owner))
            if order.follows:
                check_can_go_on(card)
                request = making.fitted(request, _seen_size(place[order.follows]), card)
                return make_plan(request, card, latent_frames(making.history_frames(request, card)))
            return make_plan(request, card)
        except RequestError as error:
            raise RequestError(nameless(str(error))) from None

    def _going_on(self, job_id: str, request: VideoRequest, card: ModelCard, owner: Owner) -> tuple[Any, ...]:
        job = self.get(job_id, owner)
        if not job.whole:
            raise ConflictError(
                f"video = {job_id}: is {job.status.replace('_', ' ')}; go on with one that is completed"
            )
        if job.order.request.loop:
            raise RequestError(f"video = {job_id}: its end meets its beginning, so nothing can follow; take another")
        check_can_go_on(card)
        old, history = job.order.request, min(latent_frames(max(job.num_frames, 1)), card.context)
        num_frames = request.length or TEMPORAL * (latent_frames(card.num_frames) - history)
        size = dict(zip(("height", "width"), old.size(card), strict=True))
        clear = {"seconds": None, "resolution": None, "aspect": None}
        return request.model_copy(update={**clear, **size, "num_frames": num_frames}), card, history

    def _check_length(self, told: int) -> None:
        """Whether so many characters are too many. Raises: RequestError."""
        if told > self.limits.prompt:
            raise RequestError(f"prompt = {told} characters: this server takes at most {self.limits.prompt}")

    def _whole(self, order: Order, owner: Owner) -> tuple[Order, Plan]:
        """An order as it is made, and how: with the prompts that are sent."""
        from everreel.enhance import whole_prompts

        if not order.enhance or order.enhanced is not None:
            return order, self._check(order, owner)
        with self.enhancer.at_work(self._only_the_world(self._known(order.model))) as enhancer:
            self._check(order, owner)  # nobody is asked about what cannot be made anyway
            request, made = whole_prompts(order.request, enhancer, goes_on=bool(order.uploads or order.extends))
        notes = {frame: enhanced.describe() for frame, enhanced in made.items()}
        changed = {"request": request, "enhanced": request.prompt, "enhanced_notes": notes}
        whole = order.model_copy(update=changed)
        try:
            return whole, self._check(whole, owner)  # what was made whole is longer
        except RequestError as error:
            if self.enhancer.asks:  # it was right as it was sent
                raise unusable(str(error)) from None
            raise


def serve_options(model: ModelOptions, also: tuple[str, ...] = ()) -> dict[str, ModelOptions]:
    """The models of a server by the names that clients use: the given one first, run as it says, others likewise.

    Raises:
        ValueError: one of them is not on this machine.
    """
    names = [model.model, *also]
    if model.model == EMBEDDED and not also and not model.lora:
        names.append("tiny-fast")
    served = {}
    for name in names:
        options = model.model_copy(update={"model": name}).resolve()
        served[options.card().name if len(Path(name).parts) == 1 else Path(name).name] = options
    return served


@lru_cache(maxsize=1024)  # an upload never changes
def _seen_size(path: Path) -> tuple[int, int]:
    """Height and width of an uploaded film. Raises: RequestError: its end is missing, and so on."""
    from everreel.serve.jobs.sent import looked_at

    with looked_at(path) as film:
        return film.height, film.width


def nameless(line: str) -> str:
    """A line of the engine without the paths of uploads and films on this machine."""
    return re.sub(r"(?:/[^\s/:;,']+)*/((?:file|video)_[0-9a-f]{32})[^\s:;,']*", r"\1", line)


def pathless(line: str) -> str:
    """A line of the engine in which every file goes by its last name."""
    return re.sub(r"(?<![\w/])(?:/[^\s/:;,'\"]+)+/([^\s/:;,'\"]+)", r"\1", nameless(line))


def naming(field: str, do: Callable[[], R]) -> R:
    """What `do` gives; what is wrong with it is said of the field that a client sent, and not of where it lies here."""
    try:
        return do()
    except (RequestError, JobError) as error:
        said = re.sub(r"^(?:upload|image|video|source|file|film|url)(?: = [^:]*)?: ", "", str(error))
        raise type(error)(f"{field}: {said}") from None
