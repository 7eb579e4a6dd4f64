"""The server that agents talk to: which tools there are, films as resources, and errors in one line.

On the official SDK (`mcp`, the extra `serve`). The one invariant: what goes wrong reaches the agent as one line that
says which field, which rule and what works, and with no trace and no path but those that the agent may name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import (
    ResourceError,
    ResourceNotFoundError,
    ToolError,
    UnexpectedResourceError,
    UnexpectedToolError,
)
from mcp_types import CallToolResult, Resource, Tool, ToolAnnotations
from pydantic import BaseModel, Field, ValidationError

from everreel import __version__
from everreel.film.request import RequestError
from everreel.serve.agents.catalog import TOOLS, Entry
from everreel.serve.agents.files import Folders
from everreel.serve.agents.resources import LISTED, add_films, listed
from everreel.serve.agents.tools import Tools
from everreel.serve.jobs.job import JobError, NotFoundError
from everreel.serve.jobs.service import Jobs, nameless

LONGEST = 400  # characters of an error
INSTRUCTIONS = """Makes films from words and pictures. A film takes time: generate_film answers at once with an id, \
wait_for_film waits, look_at_film shows frames so that you can judge the film, extend_film and continue_story go on \
with it, add_keyframes makes it again with pictures. Films play while they are made. Ask plan_film first when a film \
is long or large. An error says which value works."""
Lifespan = Callable[[MCPServer[None]], AbstractAsyncContextManager[None]]


class FilmServer(MCPServer[None]):
    """See the module; made by `make_server`."""

    def __init__(self, tools: Tools, lifespan: Lifespan | None) -> None:
        super().__init__(
            "everreel",
            title="everreel",
            description="Films of any length from words.",
            instructions=INSTRUCTIONS,
            version=__version__,
            log_level="WARNING",
            lifespan=lifespan,
        )
        self._tools = tools
        self._arguments: dict[str, type[BaseModel]] = {}
        for name, entry in TOOLS.items():
            self._arguments[name] = entry.takes
            self._add(name, entry)
        add_films(self, tools)

    async def list_tools(self) -> list[Tool]:
        """As the SDK has it, and that no other arguments are taken."""
        listed = await super().list_tools()
        for tool in listed:
            tool.input_schema["additionalProperties"] = False
        return listed

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None) -> Any:  # noqa: ANN401 -- the SDK's own union
        """As the SDK does, with errors in one line."""
        try:
            self._check_names(name, arguments)
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                raise ToolError(_one_line(cause)) from None
            if isinstance(cause, RequestError | JobError):
                raise ToolError(_told(cause)) from None
            if isinstance(error, UnexpectedToolError):
                raise
            raise ToolError(_told(cause or error)) from None

    async def list_resources(self) -> list[Resource]:
        """The latest films of whoever asks."""
        return [listed(self._tools.film(job)) for job in await self._tools.latest(LISTED)]

    async def read_resource(self, uri: Any, context: Context[None, Any] | None = None) -> Any:  # noqa: ANN401
        """As the SDK does, with errors in one line."""
        try:
            return await super().read_resource(uri, context)
        except UnexpectedResourceError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, RequestError | JobError):
                cause = cause.__cause__
            if cause is None:
                raise
            kind = ResourceNotFoundError if isinstance(cause, NotFoundError) else ResourceError
            raise kind(_told(cause)) from None

    def _check_names(self, tool: str, arguments: dict[str, Any]) -> None:
        if tool not in self._arguments:
            return  # the SDK says so
        known = self._arguments[tool].model_fields
        for name in arguments:
            if name not in known:
                raise ToolError(f"{name[:60]}: is no argument of {tool}; it takes {', '.join(known)}")

    def _add(self, name: str, entry: Entry) -> None:
        """A tool whose arguments are the fields of what it takes."""

        async def run(**values: Any) -> CallToolResult:  # noqa: ANN401 -- each has the type of its field
            ctx = values.pop("ctx")
            return await entry.work(self._tools, entry.takes(**values), ctx)

        parameters = [_parameter(field, info) for field, info in self._described(entry).items()]
        parameters.append(inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=Context))
        gives: Any = Annotated[CallToolResult, entry.gives]
        run.__name__ = name
        run.__signature__ = inspect.Signature(parameters, return_annotation=gives)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": gives}
        hints = ToolAnnotations(
            title=entry.title,
            read_only_hint=entry.reads,
            destructive_hint=entry.deletes,
            idempotent_hint=entry.reads or entry.again,
            open_world_hint=False,
        )
        self.add_tool(run, name=name, title=entry.title, description=entry.description, annotations=hints)

    def _described(self, entry: Entry) -> dict[str, Any]:
        """The fields; the one of models says which there are, and those that may be paths say which."""
        fields: dict[str, Any] = dict(entry.takes.model_fields)
        if "model" in fields:
            served = list(self._tools.jobs.models)
            says = f"{fields['model'].description} One of: {', '.join(served)}. Default: {served[0]}."
            fields["model"] = Field(default=None, description=says)
            fields["model"].annotation = str | None
        for name in entry.files:
            if says := self._tools.says_of_paths("film" if name == "film" else "picture"):
                fields[name] = copy(fields[name])
                fields[name].description += f" {says}"
        return fields


def make_server(
    jobs: Jobs,
    *,
    local: bool,
    content: str | None = None,
    lifespan: Lifespan | None = None,
    files: Folders | None = None,
) -> FilmServer:
    """The server of these jobs.

    Args:
        local: the agent runs on this machine, for its user: no key is needed, and paths are told.
        content: where films are to be fetched over HTTP, with `{film}` in it.
        lifespan: what runs as long as it does.
        files: whose files a local agent may name by path.
    """
    return FilmServer(Tools(jobs, local=local, content=content, files=files), lifespan)


def _parameter(name: str, field: Any) -> inspect.Parameter:  # noqa: ANN401 -- pydantic's FieldInfo
    says = Field(description=field.description, examples=field.examples)
    kind: Any = Annotated[(field.annotation, *field.metadata, says)]
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _told(error: BaseException) -> str:
    said = nameless(" ".join(str(error).split()))
    said = re.sub(r"^video = ", "film = ", said)  # as the tools call it
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def _one_line(error: ValidationError) -> str:
    """The first thing that is wrong with the shape of an argument; what may be long is cut."""
    first = error.errors(include_url=False)[0]
    where = [part for part in first["loc"] if not (isinstance(part, str) and re.search(r"[\[\]()A-Z]", part))]
    # The arms of a union are in the way of a field: 'str', 'FrameOf'.
    where = [part for part in where if part not in ("str", "int", "float", "bool")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if first["type"] == "missing":
        return f"{field}: must be given"
    value, bounds = repr(first["input"]), first.get("ctx", {})
    message = str(first["msg"]).removeprefix("Value error, ")
    works = "".join(f"; nearest that works: {bounds[bound]:g}" for bound in ("le", "ge") if bound in bounds)
    return f"{field} = {value if len(value) <= 60 else value[:60] + '...'}: {message[0].lower()}{message[1:]}{works}"
