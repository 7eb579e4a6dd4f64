"""A crowd at a server, while a benchmark does something to it: clients that order films, some of them from a picture
that they send, ask how films stand, watch them while they are made, fetch them in pieces, and have the page open.

The one invariant: every answer is counted, and whatever is not as it must be is written down in a line; a connection
may only break where the server was killed. What was ordered stays in the ledger, with all that it takes to order it
again.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
from PIL import Image

from benchmarks.served import ANSWER, Server
from everreel.evaluate.markdown import verdict

QUIET = 20.0  # seconds without a byte after which a watcher leaves
KEEP = 2.0  # seconds that a connection is used again: fewer than the server keeps it, or it would break now and then
LOOKS, SECOND = 5, 1.0  # of an open page
AGAIN = 0.3  # of what is ordered is ordered once more, at once and with the same key
WATCHED, WRONGS = 20, 200  # streams that a watcher keeps until their films are done; lines that are written down
TOLD = {"progress", "preview", "done", "deleted"}
Row = tuple[str, str, str, str]


@dataclass
class Order:
    """All that it takes to order a film."""

    fields: dict[str, Any]
    picture: int | None = None
    """The number of a picture that it begins with, which is sent along."""
    first: bool = False
    """The picture is uploaded before, and named."""
    file: str = ""
    """The name of the uploaded picture, once it has one."""


class Ledger:
    """What was ordered, by the key of idempotency, and which films that are."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.films: dict[str, str] = {}
        """No film: whether the order was taken is not known."""
        self._turn = threading.Lock()

    def add(self, order: Order) -> str:
        """Write it down; the key that it gets."""
        with self._turn:
            key = str(len(self.orders))
            self.orders[key], self.films[key] = order, ""
            return key

    def unknown(self, keys: Sequence[str] | None = None) -> list[str]:
        """Those that nobody knows whether they were taken."""
        return [key for key in list(self.orders if keys is None else keys) if not self.films[key]]

    def ask(self, http: httpx2.Client, key: str) -> httpx2.Response:
        """Order it, once more or for the first time."""
        answer = place(http, key, self.orders[key])
        if answer.status_code == 200 and not self.films[key]:
            self.films[key] = str(answer.json()["id"])
        return answer

    def order(self, server: Server, key: str) -> str:
        """The same for who needs the film. Raises: ValueError, it is not taken; HTTPError, the server is gone."""
        answer = self.ask(server.client, key)
        if answer.status_code != 200:
            raise ValueError(f"server: {answer.status_code} {answer.text[:200]}")
        return self.films[key]

    def repeat(self, server: Server) -> dict[str, str]:
        """Order all of it anew, of another server; its films by key."""
        again = Ledger()
        for key, order in self.orders.items():
            again.orders[key], again.films[key] = Order(order.fields, order.picture, order.first), ""
            again.order(server, key)
        return again.films


def place(http: httpx2.Client, key: str, order: Order) -> httpx2.Response:
    """Send one order, with its picture if it has one; the answer to the upload where that was refused."""
    headers = {"Idempotency-Key": key}
    if order.picture is None:
        return http.post("/v1/videos", json=order.fields, headers=headers)
    sent = {"input_reference": ("a.png", picture(order.picture), "image/png")}
    if not order.first:
        told = {name: str(value) for name, value in order.fields.items()}
        return http.post("/v1/videos", data=told, files=sent, headers=headers)
    if not order.file:  # another name would be another order
        answer = http.post("/v1/files", files={"file": sent["input_reference"]})
        if answer.status_code != 200:
            return answer
        order.file = str(answer.json()["id"])
    reference = {"input_reference": {"file_id": order.file}}
    return http.post("/v1/videos", json=order.fields | reference, headers=headers)


def picture(number: int) -> bytes:
    """A PNG, another for each number."""
    draw, file = random.Random(number), io.BytesIO()
    small = Image.new("RGB", (5, 3))
    small.putdata([tuple(draw.randbytes(3)) for _ in range(15)])
    small.resize((160, 96), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@dataclass
class Tally:
    """What a crowd saw."""

    answers: Counter[str] = field(default_factory=Counter)
    """By what was asked."""
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Connections that ended with the server."""
    streams: int = 0
    """Live streams that were compared with their film."""
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0

    def note(self, line: str) -> None:
        """Something that must not be."""
        self.wrongs += 1
        if len(self.wrong) < WRONGS:
            self.wrong.append(line)

    @property
    def errors(self) -> int:
        """Answers of 500 and above."""
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def good(self) -> bool:
        """Whether all was as it must be."""
        return not self.wrongs and not self.errors

    def rows(self) -> list[Row]:
        """For a table of what, goal, measured, and whether it is met."""
        statuses = ", ".join(f"{count} of {status}" for status, count in sorted(self.statuses.items()))
        kinds = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        return [
            ("answers that the crowd got", "", f"{kinds}: {statuses}", ""),
            ("answers of 500 and above", "0", str(self.errors), verdict(not self.errors)),
            ("what was not as it must be", "0", str(self.wrongs), verdict(not self.wrongs)),
            ("live streams compared with their film", "", str(self.streams), ""),
            ("connections that ended with a killed server", "", str(self.broken), ""),
        ]


class Crowd:
    """Clients in threads, from entry to exit; each has one of `ROLES`.

    Args:
        every: seconds between two orders.
        pause: seconds between two things that a client does, on average.
        films_go: somebody deletes films, so that one may be gone; else none may be.
    """

    def __init__(
        self,
        server: Server,
        ledger: Ledger,
        clients: int,
        *,
        every: float,
        seed: int = 0,
        pause: float = 0.5,
        films_go: bool = False,
    ) -> None:
        self.server, self.ledger, self.every, self.films_go = server, ledger, every, films_go
        self.tally, self.over, self.turn = Tally(), threading.Event(), threading.Lock()
        self.digests: dict[str, str] = {}
        """Of films that were fetched: they stay what they are."""
        self._pause = pause
        self._clients = [Client(self, number, random.Random(1000 * seed + number)) for number in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=[client]) for client in self._clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Compare what is still to be compared, when all films are over."""
        for client in self._clients:
            client.compare()

    def note(self, line: str) -> None:
        """Something that must not be."""
        with self.turn:
            self.tally.note(line)

    def _run(self, client: Client) -> None:
        role = ROLES[client.number % len(ROLES)]
        while not self.over.wait(client.draw.uniform(0, 2 * self._pause)):
            try:
                with suppress(_GoneError):
                    role(client)
            except Exception as error:  # a thread that ended would be no load any more, and nobody would see it
                client.crowd.note(f"{role.__name__}: {error!r}")


class _GoneError(Exception):  # no answer, since the server was killed, or none that one can go on with
    pass


class Client:
    """One client: its connections, what it asks, and what it waits for."""

    def __init__(self, crowd: Crowd, number: int, draw: random.Random) -> None:
        self.crowd, self.number, self.draw = crowd, number, draw
        self.keys: list[str] = []
        """Of its own orders."""
        self.ordered = 0.0
        self._watched: list[tuple[str, bytes, bool]] = []
        self._http, self._address = httpx2.Client(), ""

    @property
    def http(self) -> httpx2.Client:
        """To where the server is now."""
        if self._address != self.crowd.server.address:
            self._http.close()
            self._address = self.crowd.server.address
            limits = httpx2.Limits(keepalive_expiry=KEEP)
            self._http = httpx2.Client(base_url=self._address, timeout=ANSWER, trust_env=False, limits=limits)
        return self._http

    def ask(self, what: str, method: str, path: str, *good: int, **more: Any) -> httpx2.Response:  # noqa: ANN401
        """An answer of one of these statuses, or of 200; all is counted. Raises: _GoneError."""
        with self.connected(what):
            answer = self.http.request(method, path, **more)
        return self.counted(what, answer, *good)

    def counted(self, what: str, answer: httpx2.Response, *good: int) -> httpx2.Response:
        """The same answer, counted. Raises: _GoneError, it is none that one can go on with."""
        with self.crowd.turn:
            self.crowd.tally.answers[what] += 1
            self.crowd.tally.statuses[answer.status_code] += 1
        if answer.status_code in (good or (200,)):
            return answer
        if answer.status_code != 404 or not self.crowd.films_go:
            with suppress(httpx2.HTTPError):
                answer.read()
                self.crowd.note(f"{what}: {answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
        raise _GoneError

    @contextmanager
    def connected(self, what: str) -> Iterator[None]:
        """What breaks in here has to be the server's end. Raises: _GoneError."""
        life = self.crowd.server.life
        try:
            yield
        except httpx2.TransportError as error:
            if life is None or life != self.crowd.server.life:
                with self.crowd.turn:
                    self.crowd.tally.broken += not isinstance(error, httpx2.ConnectError)
                self.crowd.over.wait(0.2)  # until there is another
            else:
                self.crowd.note(f"{what}: {error!r}")
            raise _GoneError from None

    def pick(self, *statuses: str) -> dict[str, Any]:
        """A film, of the first of these statuses that any has. Raises: _GoneError, there is none."""
        films = self.ask("lists", "GET", "/v1/videos", params={"limit": str(self.draw.randint(20, 100))}).json()["data"]
        for status in statuses:
            if found := [film for film in films if film["status"] == status]:
                film: dict[str, Any] = self.draw.choice(found)
                return film
        raise _GoneError

    def pieces(self, what: str, path: str, **params: str) -> Iterator[bytes]:
        """The bytes of an answer that goes on for as long as a film is made. Raises: _GoneError, it was left early."""
        quiet = httpx2.Timeout(ANSWER, read=QUIET)
        with self.connected(what), self.http.stream("GET", path, params=params, timeout=quiet) as answer:
            self.counted(what, answer)
            try:
                for piece in answer.iter_bytes():
                    yield piece
                    if self.crowd.over.is_set():
                        raise _GoneError
            except httpx2.ReadTimeout:
                raise _GoneError from None

    def keep(self, film: str, data: bytes, whole: bool) -> None:
        """What a live stream gave, until the film is there to compare it with."""
        if data:
            self._watched = [*self._watched, (film, data, whole)][-WATCHED:]

    def compare(self) -> None:
        """Hold what was streamed against the films that are there by now."""
        for seen in list(self._watched):
            film, data, whole = seen
            with suppress(_GoneError):
                answer = self.ask("films", "GET", f"/v1/videos/{film}/content", 200, 404)
                if answer.status_code == 404 and "not_completed" in answer.text:
                    continue
                if answer.status_code == 404:
                    self._check_gone(film, answer)
                elif not same(data, answer.content, whole):
                    self.crowd.note(f"stream: {len(data)} bytes are not those of {film}, {len(answer.content)} bytes")
                else:
                    with self.crowd.turn:
                        self.crowd.tally.streams += 1
                self._watched.remove(seen)

    def fetched(self, film: str, data: bytes) -> None:
        """A whole film, that has to be what it was the last time."""
        digest = hashlib.sha256(data).hexdigest()
        if self.crowd.digests.setdefault(film, digest) != digest:
            self.crowd.note(f"film: {film} is not what it was")

    def _check_gone(self, film: str, answer: httpx2.Response) -> None:
        if not self.crowd.films_go:
            self.crowd.note(f"film: {film} is gone: {answer.text[:200]}")


def same(streamed: bytes, film: bytes, whole: bool) -> bool:
    """Whether a live stream is the film, or its beginning, but for the length that the header says."""
    at = film.find(b"mehd")
    end = len(streamed)
    beginning = film[:at] == streamed[:at] and film[at + 16 : end] == streamed[at + 16 :]
    return at >= 0 and end <= len(film) and beginning and (end == len(film) or not whole)


def poll(client: Client) -> None:
    """Lists, how films stand, and what there is else."""
    films = [film for film in list(client.crowd.ledger.films.values()) if film]
    for film in client.draw.sample(films, min(4, len(films))):
        client.ask("states", "GET", f"/v1/videos/{film}")
    params = {"limit": str(client.draw.randint(1, 100)), "order": client.draw.choice(("asc", "desc"))}
    client.ask("lists", "GET", "/v1/videos", params=params)
    what = client.draw.choice(("/v1/models", "/metrics", "/healthz", "/v1/videos/plan"))
    if what.endswith("plan"):
        client.ask("plans", "POST", what, json={"prompt": "a red fox", "seconds": 4})
    else:
        client.ask("others", "GET", what)


def follow(client: Client) -> None:
    """A live stream, from the first byte to the end."""
    film, data, whole = client.pick("in_progress", "queued", "completed")["id"], b"", False
    try:
        for piece in client.pieces("streams", f"/v1/videos/{film}/stream"):
            data += piece
        whole = True
    finally:
        client.keep(film, data, whole)
    client.compare()


def hear(client: Client) -> None:
    """What happens to a film, with or without pictures."""
    film, text, last = client.pick("in_progress", "queued", "completed")["id"], "", ""
    versions: list[int] = []
    preview = {"preview": "1"} if client.draw.random() < 0.5 else {}
    for piece in client.pieces("event streams", f"/v1/videos/{film}/events", **preview):
        *said, text = (text + piece.decode()).split("\n\n")
        for event in (one for one in said if not one.startswith(":")):
            told = dict(line.split(": ", 1) for line in event.split("\n"))
            last = told["event"]
            versions += [int(told["id"])] if "id" in told else []
            if last not in TOLD or json.loads(told["data"])["id"] != film:
                client.crowd.note(f"events: {film}: {event[:200]}")
    if last not in ("done", "deleted"):
        client.crowd.note(f"events: {film}: ended with {last!r}")
    if versions != sorted(set(versions)):
        client.crowd.note(f"events: {film}: came as {versions[-20:]}")


def order(client: Client) -> None:
    """A film from a picture: sent along, or uploaded and named. What was not answered is ordered again."""
    crowd, ledger = client.crowd, client.crowd.ledger
    keys = ledger.unknown(client.keys)
    if not keys:
        if time.monotonic() - client.ordered < crowd.every:
            raise _GoneError
        number = len(client.keys)
        fields = {"prompt": f"a red fox runs from picture {number}", "num_frames": 17, "num_inference_steps": 2}
        keys = [ledger.add(Order(fields | {"seed": number}, number, first=client.draw.random() < 0.5))]
        client.keys += keys
        client.ordered = time.monotonic()
    for key in keys:
        with client.connected("orders"):
            answer = ledger.ask(client.http, key)
        client.counted("orders", answer)
        if client.draw.random() < AGAIN:
            with client.connected("orders"):
                answer = ledger.ask(client.http, key)
            found = client.counted("orders", answer).json()["id"]
            if found != ledger.films[key]:
                client.crowd.note(f"order: {key} is {ledger.films[key]}, and {found} when it is ordered again")


def fetch(client: Client) -> None:
    """A film whole, pieces of it, and its pictures."""
    film = client.pick("completed")["id"]
    path = f"/v1/videos/{film}/content"
    data = client.ask("films", "GET", path).content
    client.fetched(film, data)
    if client.ask("films", "HEAD", path).headers["content-length"] != str(len(data)):
        client.crowd.note(f"film: {film} is not as long as it says")
    for _ in range(3):
        begin = client.draw.randrange(1, len(data))
        end = client.draw.randrange(begin, len(data))
        asked, right = client.draw.choice(
            [(f"{begin}-{end}", data[begin : end + 1]), (f"{begin}-", data[begin:]), (f"-{begin}", data[-begin:])]
        )
        if client.ask("ranges", "GET", path, 206, headers={"Range": f"bytes={asked}"}).content != right:
            client.crowd.note(f"film: {film}: bytes={asked} are others")
    for variant in ("thumbnail", "spritesheet"):
        client.ask("pictures", "GET", path, params={"variant": variant})


def browse(client: Client) -> None:
    """The page as a browser has it open: its file, its plan, and a look each second while its heart beats."""
    client.ask("pages", "GET", "/")
    config = client.ask("pages", "GET", "/config").json()
    parts = {part["id"]: part["props"].get("value") for part in config["components"]}
    events = {one["api_name"]: one for one in config["dependencies"]}
    session = f"{client.draw.getrandbits(64):016x}"

    def tell(name: str, *values: Any) -> list[Any]:  # noqa: ANN401 -- what fields hold
        given = [*values, *(parts[number] for number in events[name]["inputs"][len(values) :])]
        sent = {"fn_index": events[name]["id"], "data": given, "session_hash": session}
        answer = client.ask("events of the page", "POST", "/gradio_api/run/predict", json=sent)
        data: list[Any] = answer.json()["data"]
        return data

    beat = client.http.stream("GET", f"/gradio_api/heartbeat/{session}")
    with client.connected("pages"), beat as answer:
        client.counted("pages", answer)
        _, _, current, mark, _ = tell("open")
        tell("plan", "a red fox")
        for _ in range(client.draw.randint(1, LOOKS)):
            if client.crowd.over.wait(SECOND):
                return
            now = tell("look", current, 24, mark)[3]
            mark = now if isinstance(now, str) else mark


ROLES: tuple[Callable[[Client], None], ...] = (poll, follow, hear, order, fetch, browse)
