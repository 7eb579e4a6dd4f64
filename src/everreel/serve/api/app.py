"""The HTTP interface as one app: films, uploads, models, and what operators look at.

The one invariant: nothing under /v1 blocks the event loop, is reached past the guard or drops what was asked of it in
silence.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from everreel import __version__
from everreel.serve.jobs.job import NotFoundError
from everreel.serve.jobs.service import Jobs, naming

try:
    from anyio import to_thread
    from fastapi import APIRouter, Depends, FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, JSONResponse
    from fastapi.routing import APIRoute

    from everreel.serve.api.body import Sent, received
    from everreel.serve.api.desk import Desk, owner_of
    from everreel.serve.api.errors import ApiError, add_handlers, documented
    from everreel.serve.api.guard import Guard, Keys
    from everreel.serve.api.metrics import DeviceMemory, Metrics
    from everreel.serve.api.openapi import ABOUT, ENDLESS, body_of, describe, page
    from everreel.serve.api.orders import fields_of
    from everreel.serve.api.schema import EnhanceBody, Enhanced, FileCreate, FileObject, Model, ModelList
    from everreel.serve.api.settings import Settings
    from everreel.serve.api.tokens import Tokens
    from everreel.serve.api.videos import add_films, add_orders, add_sequels, add_unserved, add_waiting, add_watching
except ImportError as error:
    raise ValueError(f"the server needs {error.name}: pip install 'everreel[serve]'") from None

THREADS = 64  # of short answers
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form is told to who sent it
Pids = Callable[[], Sequence[int]]


def make_app(
    jobs: Jobs,
    keys: Keys,
    settings: Settings,
    tokens: Tokens,
    pids: Pids | None = None,
    *,
    device_memory: DeviceMemory | None = None,
) -> FastAPI:
    """The app. `pids` tells the workers that are alive; None: nobody here looks after them. The last: see `Metrics`."""
    metrics, desk = Metrics(jobs, pids or (lambda: ()), device_memory), Desk(jobs, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        metrics.start()
        try:
            yield
        finally:
            await to_thread.run_sync(metrics.stop)

    app = FastAPI(
        title="everreel",
        version=__version__,
        description=ABOUT + (ENDLESS if settings.endless else ""),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.add_middleware(Guard, keys=keys, tokens=tokens, settings=settings, watched=metrics.answered)
    app.state.live, app.state.metrics = desk.live, metrics
    add_handlers(app)
    router = APIRouter(prefix="/v1", dependencies=[Depends(only_known_parameters)])
    add_unserved(router)
    add_orders(router, desk)
    add_waiting(router, desk)
    add_sequels(router, desk)
    add_films(router, desk)
    add_watching(router, desk)
    _add_files(router, desk)
    _add_models(router, desk)
    app.include_router(router)
    _add_health(app, jobs, metrics, pids)
    _add_front(app, settings)
    describe(app, keys.any)
    return app


async def only_known_parameters(request: Request) -> None:
    """Refuse what stands in an address and its route does not know.

    Raises:
        ApiError: with the parameter, and the nearest that is known.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [one.alias for one in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            nearest = max(known, key=lambda one: difflib.SequenceMatcher(None, name[:40], one).ratio(), default=None)
            works = f"nearest that is: {nearest}" if nearest else "this address takes none"
            said = f"{name[:40]!r}: is no parameter of this address; {works}"
            raise ApiError(400, said, name[:40], "unknown_parameter")


def _add_files(router: APIRouter, desk: Desk) -> None:
    jobs, settings, most = desk.jobs, desk.settings, desk.jobs.limits.upload_bytes

    @router.post(
        "/files",
        response_model=FileObject,
        responses=documented(507),
        openapi_extra=body_of(FileCreate, {"file": "(the file)", "purpose": "vision"}, json_too=False),
        summary="Upload a picture or a film, to be named in requests",
    )
    async def upload(request: Request) -> FileObject:
        async with received(request, settings, most) as body:
            if not body.form:
                raise ApiError(415, "Content-Type: must be multipart/form-data")

            def take() -> FileObject:
                fields = fields_of(body, FileCreate)
                sent = fields["file"]
                assert isinstance(sent, Sent)
                found = naming("file", lambda: jobs.upload(sent.path, owner_of(request)))
                given: dict[str, Any] = {"id": found.id, "bytes": found.num_bytes, "created_at": int(time.time())}
                size: dict[str, Any] = {"width": found.width, "height": found.height, "seconds": found.seconds}
                name = "".join(c for c in sent.filename if c.isprintable())[-200:] or found.id + found.suffix
                purpose = fields.get("purpose", "vision")
                return FileObject(kind=found.kind, filename=name, purpose=purpose, **given, **size)

            return await desk.work(take, files=True)

    @router.post(
        "/prompts/enhance",
        response_model=Enhanced,
        responses=documented(502, 504),
        openapi_extra=body_of(EnhanceBody, {"prompt": "a fox"}),
        summary="Make a prompt whole, as films of a model want it",
    )
    async def enhance(request: Request) -> Enhanced:
        async with received(request, settings, most) as body:

            def make() -> Enhanced:
                given = fields_of(body, EnhanceBody)
                has_image = given.get("has_image", False)
                prompt, note = jobs.enhanced(given["prompt"], given.get("model"), has_image=has_image)
                return Enhanced(prompt=prompt, note=note)

            return await desk.ask(make)


def _add_models(router: APIRouter, desk: Desk) -> None:
    jobs, began = desk.jobs, int(time.time())

    def model_of(name: str) -> Model:
        card = jobs.card(name)
        told = ("height", "width", "num_frames", "num_inference_steps", "streams")
        return Model(id=name, created=began, **{field: getattr(card, field) for field in told})

    @router.get("/models", response_model=ModelList, responses=documented(), summary="What films are made with")
    def models() -> ModelList:
        return ModelList(data=[model_of(name) for name in jobs.models])

    @router.get("/models/{model}", response_model=Model, responses=documented(), summary="One of them")
    def model(model: str) -> Model:
        if model not in jobs.models:
            names = ", ".join(jobs.models)
            raise NotFoundError(f"model = {model[:60]!r}: is not served; there are {names}")
        return model_of(model)


def _add_health(app: FastAPI, jobs: Jobs, metrics: Metrics, pids: Pids | None) -> None:
    not_ready: Any = {503: {"description": "No worker is alive, or the queue cannot be read."}}

    @app.get("/healthz", summary="Whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses=not_ready, summary="Whether films can be made now")
    def ready() -> Response:
        try:
            queue = dict(jobs.queue.counts())
        except Exception:  # whatever the queue is, it cannot be read
            return JSONResponse({"status": "the queue cannot be read"}, 503)
        workers = None if pids is None else len(pids())
        told = {"status": "no worker is alive" if workers == 0 else "ready", "workers": workers, "films": queue}
        return JSONResponse(told, 503 if workers == 0 else 200)

    text: Any = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()}

    @app.get("/metrics", response_class=Response, responses=text, summary="For Prometheus")
    def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_front(app: FastAPI, settings: Settings) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(page(app.openapi()))

    if not settings.page:

        @app.get("/", summary="What this is")
        async def front() -> dict[str, str]:
            return {"name": "everreel", "version": __version__, "docs": "/docs", "openapi": "/openapi.json"}
