"""A server as a benchmark needs it: `everreel serve` in a process of its own, its workers, and their memory.

The one invariant: what is measured is the command that users start, over HTTP; nothing of it runs in this process.
Processes are looked at through Linux's /proc.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
START, ANSWER = 120.0, 60.0  # seconds that a server has to start, and to answer
LONGEST = 900.0  # seconds in which something has to happen to a film
LOOK = 0.1


class Server:
    """`everreel serve` on a free port, from entry to exit; with `home`, on films that are there already.

    Args:
        page: with the page, as it is unless one says otherwise.
        threads: how many of the processors each worker has; by default all.
    """

    def __init__(
        self,
        workers: int = 1,
        home: Path | None = None,
        model: str = "tiny-fast",
        *,
        page: bool = False,
        threads: int | None = None,
    ) -> None:
        self._made = tempfile.TemporaryDirectory() if home is None else None
        self.home = home or Path(self._made.name if self._made else "")
        self._flags = ["--home", str(self.home), "--workers", str(workers), "--model", model]
        self._flags += [] if page else ["--no-page"]
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self.address = ""
        self.life: int | None = None
        """Another number each time that it is started; none while nobody can count on an answer."""
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx2.Client()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._made:
            self._made.cleanup()

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            ValueError: it does not.
        """
        flags = ["--port", "0", "--requests-per-minute", "0", *self._flags]
        with (self.home / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "everreel", "serve", *flags]
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=self._environment
            )
        self.address = self._address()
        self.client = httpx2.Client(base_url=self.address, timeout=ANSWER, trust_env=False)
        deadline = time.monotonic() + START
        while not self.healthy():
            if time.monotonic() > deadline:
                raise ValueError("server: does not answer")
            time.sleep(LOOK)
        self.life = self.pid

    def stop(self) -> None:
        """End it as Ctrl-C does, and its workers with it."""
        self.life = None
        self.client.close()
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the server, and only it, without a word."""
        assert self._process
        self.life = None  # before its clients can notice
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def workers(self) -> list[int]:
        """The processes that make films."""
        return [pid for pid in _children(self.pid) if b"everreel.serve.jobs.worker" in _command(pid)]

    def healthy(self) -> bool:
        """Whether it answers."""
        with suppress(httpx2.HTTPError):
            return self.client.get("/healthz").status_code == 200
        return False

    def peak(self) -> int:
        """The most bytes that the server ever held."""
        return most_resident(self.pid)

    def order(self, key: str, **fields: Any) -> str:  # noqa: ANN401 -- of a request
        """The id of a film that is asked for, once for a key.

        Raises:
            HTTPError: the server was gone before it could answer; whether there is such a film nobody knows then.
            ValueError: it does not take the order.
        """
        answer = self.client.post("/v1/videos", json=fields, headers={"Idempotency-Key": key})
        if answer.status_code != 200:
            raise ValueError(f"server: {answer.status_code} {answer.text[:200]}")
        return str(answer.json()["id"])

    def films(self) -> dict[str, Mapping[str, Any]]:
        """All that it has, by id."""
        found: dict[str, Mapping[str, Any]] = {}
        after: dict[str, str] = {}
        while True:
            page = self.client.get("/v1/videos", params={"limit": "100", "order": "asc", **after}).json()
            found |= {film["id"]: film for film in page["data"]}
            if not page["has_more"]:
                return found
            after = {"after": page["last_id"]}

    def _address(self) -> str:
        """What it says when it listens."""
        assert self._process and self._process.stdout
        said, deadline = b"", time.monotonic() + START
        while not (found := re.search(rb"http://\S+:\d+", said)):
            ready = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]
            more = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not more:
                log = (self.home / "server.log").read_text(errors="replace")
                raise ValueError(f"server: did not start: {log[-500:]}")
            said += more
        return found[0].decode()


def settled(server: Server) -> dict[str, Mapping[str, Any]]:
    """All films, when nothing more will happen to any of them.

    Raises:
        ValueError: nothing happens for too long.
    """
    before, deadline = "", time.monotonic() + LONGEST
    while True:
        films = server.films()
        if all(film["status"] in ("completed", "failed", "cancelled") for film in films.values()):
            return films
        now = str([(film["status"], film["progress"]) for film in films.values()])
        if now != before:
            before, deadline = now, time.monotonic() + LONGEST
        if time.monotonic() > deadline:
            raise ValueError(f"server: nothing happens any more: {Counter(film['status'] for film in films.values())}")
        time.sleep(0.5)


def digest(server: Server, film: str) -> str:
    """Of a film's bytes, as a client gets them."""
    answer = server.client.get(f"/v1/videos/{film}/content")
    return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else f"status {answer.status_code}"


def resident(pid: int | None = None) -> int:
    """Bytes of memory that a process holds now; this one, unless told."""
    return _memory(pid or os.getpid(), "VmRSS")


def most_resident(pid: int) -> int:
    """The most bytes of memory that a process has held; 0 of one that is over."""
    return _memory(pid, "VmHWM")


def put_section(name: str, lines: list[str], page: Path = PAGE) -> None:
    """Put lines into a page, in the place of those that the same program wrote there before."""
    begin, end = f"<!-- {name}: written by a program -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Serving\n"
    section = "\n".join([begin, "", *lines, "", end])
    if begin in text:
        before, _, rest = text.partition(begin)
        text = before + section + rest.partition(end)[2]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    page.write_text(text, encoding="utf-8")


def _memory(pid: int, what: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    return b""
