"""Calls of the tools, through the SDK's own client in memory."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image

from everreel.serve.agents.files import Folders
from everreel.serve.agents.server import make_server
from everreel.serve.jobs.service import Jobs
from tests.serve.agents.house import HEIGHT, WIDTH

MODES = ("auto", "legacy")
"""The protocol of today, and the handshake of those before it."""


@asynccontextmanager
async def calling(
    jobs: Jobs, *, local: bool = True, mode: str = "auto", files: Folders | None = None
) -> AsyncIterator[Client]:
    async with Client(make_server(jobs, local=local, files=files), mode=mode, cache=None) as client:
        yield client


def run(what: Any) -> Any:
    return asyncio.run(asyncio.wait_for(what, 60))


def words(result: CallToolResult) -> str:
    return " ".join(block.text for block in result.content if block.type == "text")


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, words(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    said = words(result)
    assert "\n" not in said and "Traceback" not in said and "pydantic" not in said
    return said


def png(width: int = WIDTH, height: int = HEIGHT) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def order(jobs: Jobs, film: str) -> Any:
    return jobs.get(film).order
