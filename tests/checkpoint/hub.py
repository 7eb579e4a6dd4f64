"""Both hubs on this machine: a server in a thread that answers as they do, and misbehaves where it is told to."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Repositories by name, each a dict of its files; what goes wrong is set on it."""

    repositories: dict = field(default_factory=dict)
    url: str = ""
    status: int = 200
    """Of every answer."""
    tampered: set = field(default_factory=set)
    """Files whose last byte is another one."""
    cut: dict = field(default_factory=dict)
    """File → bytes after which the connection breaks, once."""
    ignores_range: bool = False
    asked: list = field(default_factory=list)
    """(file, Range) of each file that was sent."""
    tokens: list = field(default_factory=list)
    """Authorization of each request."""
    redirect: str = ""
    """Another server, to which requests for files are sent on."""


@contextmanager
def serving():
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        parts, query = unquote(url.path).strip("/").split("/"), parse_qs(url.query)
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.status != 200:
            self.answer(b"{}", self.hub.status)
        elif parts[:3] == ["api", "v1", "models"]:
            repository = "/".join(parts[3:5])
            if parts[5:] == ["repo", "files"]:
                self.listed(repository, self.modelscope)
            else:
                self.file(repository, query["FilePath"][0])
        elif parts[:2] == ["api", "models"]:
            self.listed("/".join(parts[2:4]), self.hugging_face)
        else:
            self.file("/".join(parts[:2]), "/".join(parts[4:]))

    def listed(self, repository, entries):
        if repository not in self.hub.repositories:
            self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        else:
            self.answer(json.dumps(entries(repository, self.hub.repositories[repository])).encode())

    def hugging_face(self, repository, files):
        siblings = []
        for path, content in files.items():
            entry = {"rfilename": path, "size": len(content)}
            if is_large(path):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(entry)
        return {"id": repository, "sha": COMMIT, "siblings": siblings}

    def modelscope(self, _, files):
        entries = [{"Path": "transformer", "Type": "tree", "Size": 0, "Sha256": ""}]
        entries += [
            {"Path": path, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
            for path, content in files.items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": entries}}

    def file(self, repository, path):
        if path not in self.hub.repositories.get(repository, {}):
            self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        if self.hub.redirect:
            self.answer(b"", 302, {"Location": self.hub.redirect + self.path})
            return
        content = self.hub.repositories[repository][path]
        headers = {}
        if path in self.hub.tampered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = self.headers.get("Range")
        self.hub.asked.append((path, wanted))
        if wanted and not self.hub.ignores_range:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(content[start:], 206, headers, path)
        else:
            self.answer(content, 200, headers, path)

    def answer(self, content, status=200, headers=None, path=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = self.hub.cut.pop(path, None)
        self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.close_connection = True


def is_large(path):
    return path.endswith((".safetensors", ".pth", ".bin"))


def sha256(content):
    return hashlib.sha256(content).hexdigest()
