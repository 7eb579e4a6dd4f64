"""A server that speaks OpenAI's chat format on this machine, and says and does what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What comes back for one question."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    """Bytes that are promised and never come."""
    drip: float = 0.0
    """Seconds between two bytes."""


def said(text: str | None, finish_reason: str = "stop", **more: Any) -> Reply:
    message = {"role": "assistant", "content": text, **more}
    return Reply({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]})


@dataclass
class Server:
    """Answers by `reply`, which is given the question; keeps what it was asked."""

    reply: Callable[[dict[str, Any]], Reply]
    questions: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: tuple[str, ...] = ()
    address: str = ""


@contextmanager
def serving(*replies: Reply | Callable[[dict[str, Any]], Reply], models: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server whose answers are these, one after the other, the last for ever; a single function answers all."""
    left = list(replies)

    def next_reply(question: dict[str, Any]) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply if isinstance(reply, Reply) else reply(question)

    server = Server(next_reply, models=models)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(Reply({"data": [{"id": name} for name in server.models]}, 200 if server.models else 404))

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.questions.append(question)
            server.headers.append(dict(self.headers))
            self._send(server.reply(question) if self.path == "/v1/chat/completions" else Reply("no such path", 404))

        def _send(self, reply: Reply) -> None:
            content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in ({"Content-Length": str(len(content) + reply.cut)} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for start in range(0, len(content), 1 if reply.drip else len(content)):
                    if reply.drip:
                        time.sleep(reply.drip)
                    self.wfile.write(content[start : start + 1] if reply.drip else content)
            except OSError:  # who asked has gone
                pass

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
