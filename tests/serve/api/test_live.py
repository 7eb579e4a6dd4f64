"""Streams and events: whole fragments of a film that grows, each once, and nothing left of a client that leaves."""

import io
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import av
import httpx2
import pytest

from everreel.media import FilmWriter
from everreel.serve.api.live import LiveError, Tail, without_length
from everreel.serve.jobs.job import NotFoundError
from tests.serve.api.servers import ANNA, BLOCK, KEYS, frames, wait

BEFORE = ("queued", "in_progress")
ASKED = {"prompt": "a red fox", "num_frames": 4 * BLOCK}


def boxes(data):
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at, "half a box"
        found.append(kind)
        at += size
    return found


def num_frames(data):
    with av.open(io.BytesIO(data)) as film:
        return sum(1 for _ in film.decode(video=0))


def asked(client, **more):
    reply = client.post("/v1/videos", json=ASKED | more)
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


def until(pieces, data, count):
    """Read on until so many frames are there."""
    while not boxes_whole(data) or num_fragments(data) < count:
        data += next(pieces)
    return data


def boxes_whole(data):
    try:
        return bool(boxes(data))
    except (AssertionError, struct.error):
        return False


def num_fragments(data):
    return boxes(data).count(b"moof")


def test_a_stream_gives_each_block_as_soon_as_it_is_there(serve):
    server = serve(step=True)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/stream") as reply:
            assert reply.status_code == 200 and reply.headers["content-type"] == "video/mp4"
            pieces, data = reply.iter_raw(), b""
            for count in range(1, 5):
                server.maker.go()
                data = until(pieces, data, count)
                assert num_frames(data) == count * BLOCK
            assert list(pieces) == []  # it ends when the film does
        found = boxes(data)
        assert found[:2] == [b"ftyp", b"moov"] and found[2:] == [b"moof", b"mdat"] * 4
        assert b"mehd" not in data
        whole = bytearray(client.get(f"/v1/videos/{film}/content").content)
        without_length(whole)
        assert data == whole


def test_a_finished_film_streams_at_once(serve):
    server = serve()
    with server.client() as client:
        film = asked(client)
        wait(lambda: server.jobs.get(film).over)
        assert num_frames(client.get(f"/v1/videos/{film}/stream").content) == 4 * BLOCK


@contextmanager
def first_block_streamed(serve):
    """A film whose first block was made and streamed: its server, a client, its id, the stream and what came."""
    server = serve(step=True)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/stream") as reply:
            pieces = reply.iter_raw()
            server.maker.go()
            yield server, client, film, pieces, until(pieces, b"", 1)


def test_a_stream_waits_while_the_film_is_paused_and_has_the_rest_then(serve):
    with first_block_streamed(serve) as (server, client, film, pieces, data):
        client.post(f"/v1/videos/{film}/pause")
        wait(lambda: server.jobs.get(film).state == "paused")
        client.post(f"/v1/videos/{film}/resume")
        server.maker.go(3)
        assert num_frames(data + b"".join(pieces)) == 4 * BLOCK


def test_a_stream_ends_with_what_is_there_when_the_film_is_stopped(serve):
    with first_block_streamed(serve) as (_, client, film, pieces, data):
        client.post(f"/v1/videos/{film}/cancel")
        assert num_frames(data + b"".join(pieces)) == BLOCK


def test_an_endless_film_streams_until_it_is_cancelled(serve):
    server = serve()
    with server.client() as client:
        film = asked(client, endless=True, num_frames=None)
        unfinished = client.get(f"/v1/videos/{film}/content").json()["error"]["message"]
        assert "is there when it is stopped, and GET" in unfinished and "%" not in unfinished
        with client.stream("GET", f"/v1/videos/{film}/stream") as reply:
            pieces = reply.iter_raw()
            data = until(pieces, b"", 6)
            client.post(f"/v1/videos/{film}/cancel")
            data += b"".join(pieces)
        assert num_frames(data) == server.jobs.get(film).num_frames >= 6 * BLOCK


@pytest.mark.parametrize("kind", ["json", "data"])
def test_without_a_length_a_film_is_endless_unless_the_server_has_it_otherwise(serve, kind):
    server, usual = serve(), serve(make=False, endless=False)
    with server.client() as client, usual.client() as other:
        form = {"files": {"user": (None, "anna")}} if kind == "data" else {}  # which makes a multipart of it
        ask = {kind: {"prompt": "a red fox"}} | form
        film = client.post("/v1/videos", **ask).json()
        assert film["endless"] and client.post("/v1/videos/plan", **ask).json()["endless"]
        with client.stream("GET", f"/v1/videos/{film['id']}/stream") as reply:
            pieces = reply.iter_raw()
            data = until(pieces, b"", 6)
            assert client.post(f"/v1/videos/{film['id']}/cancel").json()["state"] in ("in_progress", "cancelled")
            data += b"".join(pieces)
        assert num_frames(data) >= 6 * BLOCK
        for wanted in ({"seconds": "2"}, {"endless": "false" if kind == "data" else False}):
            found = client.post("/v1/videos", **form, **{kind: {"prompt": "a red fox"} | wanted}).json()
            assert not found["endless"] and float(found["seconds"]) > 0
        again = {kind: {"video": film["id"]}} | form
        longer = client.post("/v1/videos/extensions", **again).json()
        assert longer["endless"] and client.post(f"/v1/videos/{longer['id']}/cancel").status_code == 200
        for wanted in ({"seconds": "2"}, {"endless": "false" if kind == "data" else False}):
            found = client.post("/v1/videos/extensions", **form, **{kind: {"video": film["id"]} | wanted}).json()
            assert not found["endless"]
        found = other.post("/v1/videos", **ask).json()
        assert not found["endless"] and float(found["seconds"]) > 0
        for one, says in ((client, True), (other, False)):
            said = one.get("/openapi.json").json()["info"]["description"]
            assert ("without a length are endless here" in said) == says
            assert ("without a length are endless here" in one.get("/docs").text) == says


@pytest.mark.parametrize("kind", ["json", "data"])
def test_a_film_can_be_waited_for_in_one_request(serve, kind):
    """As vLLM-Omni's clients do; it has an end, also where films without a length have none."""
    server = serve()
    with server.client() as client:
        form = {"files": {"user": (None, "anna")}} if kind == "data" else {}
        reply = client.post("/v1/videos/sync", **{kind: {"prompt": "a red fox"}}, **form)
        assert reply.status_code == 200 and reply.headers["content-type"] == "video/mp4"
        film = reply.headers["x-video-id"]
        assert reply.content == client.get(f"/v1/videos/{film}/content").content and num_frames(reply.content) > 0
        assert not client.get(f"/v1/videos/{film}").json()["endless"]
        refused = client.post("/v1/videos/sync", **{kind: {"prompt": "a", "endless": "true" if form else True}}, **form)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "endless"


def test_who_waits_for_a_film_is_told_why_there_is_none(serve):
    server = serve(step=True)

    def ask():
        with server.client() as client:
            return client.post("/v1/videos/sync", json=ASKED)

    with server.client() as client, ThreadPoolExecutor() as pool:
        for end, said in (("cancel", "is cancelled"), ("delete", "was deleted")):
            reply = pool.submit(ask)
            film = wait(
                lambda: [one["id"] for one in client.get("/v1/videos").json()["data"] if one["state"] in BEFORE]
            )[0]
            server.maker.go()
            address = f"/v1/videos/{film}"
            client.delete(address) if end == "delete" else client.post(f"{address}/cancel")
            server.maker.go(3)
            assert reply.result().status_code == 409 and said in reply.result().json()["error"]["message"]
        server.maker.failing = True
        reply = pool.submit(ask)
        server.maker.go(4)
        assert reply.result().status_code == 409 and "is failed: " in reply.result().json()["error"]["message"]


def test_a_film_that_was_waited_for_is_made_also_when_nobody_waits_any_more(serve):
    server = serve(step=True)
    headers = {"Idempotency-Key": "once"}
    with server.client() as client:
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/v1/videos/sync", json=ASKED, headers=headers, timeout=0.5)
        wait(lambda: server.app.state.live.watching == 0, "that nobody waits")
        server.maker.go(4)
        reply = client.post("/v1/videos/sync", json=ASKED, headers=headers)
        assert num_frames(reply.content) == 4 * BLOCK
        assert [film["id"] for film in client.get("/v1/videos").json()["data"]] == [reply.headers["x-video-id"]]


def test_a_client_that_leaves_leaves_nothing(serve):
    server = serve(step=True)
    live = server.app.state.live
    with server.client() as client:
        film = asked(client)
        for path in ("stream", "events?preview=1"):
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                line.sendall(f"GET /v1/videos/{film}/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                wait(lambda: live.watching == 1, "the stream's begin")
            wait(lambda: live.watching == 0, "its end")
        server.maker.go(9)
        wait(lambda: server.jobs.get(film).over)


def test_only_so_many_watch_at_a_time(serve):
    server = serve(step=True, most_live=1)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/events"):
            wait(lambda: server.app.state.live.watching == 1)
            reply = client.get(f"/v1/videos/{film}/stream")
            assert reply.status_code == 429 and int(reply.headers["retry-after"]) > 0


def events(reply):
    """(name, data) of each event."""
    name = None
    for line in reply.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_events_tell_of_every_block_and_of_the_end(serve):
    server = serve(step=True)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/events") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            told = events(reply)
            assert next(told)[1]["progress"] == 0
            for row in range(1, 5):
                server.maker.go()
                while (found := next(told))[0] == "progress" and found[1]["row"] < row:
                    pass
                assert found[1]["num_frames"] == row * BLOCK
            rest = [("progress", found[1]), *told]
    assert rest[-1] == ("done", {"id": film, "state": "completed"})
    assert rest[-2][1]["status"] == "completed"


def test_events_bring_pictures_to_those_who_ask_for_them(serve):
    server = serve(step=True)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/events?preview=1") as reply:
            told = events(reply)
            wait(lambda: server.store.take_wish(film), "the wish for a picture")
            server.maker.go()
            first = next(data for name, data in told if name == "preview")
            server.maker.go()
            second = next(data for name, data in told if name == "preview")
    assert first["image_url"].startswith("data:image/jpeg;base64,") and first != second


def test_events_tell_when_a_film_is_deleted(serve):
    server = serve(make=False)
    with server.client() as client:
        film = asked(client)
        with client.stream("GET", f"/v1/videos/{film}/events") as reply:
            told = events(reply)
            next(told)
            client.delete(f"/v1/videos/{film}")
            assert list(told) == [("deleted", {"id": film})]


def test_a_token_opens_one_film_for_a_while_and_nothing_else(serve, monkeypatch):
    server = serve(keys=KEYS)
    with server.client("key-of-anna") as anna, server.client() as nobody:
        film, other = asked(anna), asked(anna)
        wait(lambda: server.jobs.get(other).over)
        token = {"token": server.tokens.sign(film, ANNA.name)}
        for path in ("content", "stream", "events"):
            assert nobody.get(f"/v1/videos/{film}/{path}", params=token).status_code == 200
            assert nobody.get(f"/v1/videos/{other}/{path}", params=token).status_code == 401
            with monkeypatch.context() as patch:
                patch.setattr("everreel.serve.api.tokens.LASTS", -1)
                old = {"token": server.tokens.sign(film, ANNA.name)}
            assert nobody.get(f"/v1/videos/{film}/{path}", params=old).status_code == 401
        assert nobody.get(f"/v1/videos/{film}", params=token).status_code == 401
        assert nobody.delete(f"/v1/videos/{film}", params=token).status_code == 401
        stolen = {"token": server.tokens.sign(film, "bert")}
        assert nobody.get(f"/v1/videos/{film}/content", params=stolen).status_code == 404


class Growing:
    """A film of which only so many bytes are there."""

    def __init__(self, data):
        self.data, self.length = data, 0

    def __call__(self):
        if not self.length:
            raise NotFoundError("not yet")
        return io.BytesIO(self.data[: self.length])


def film_bytes(tmp_path, blocks=3):
    with FilmWriter(tmp_path / "film.mp4", 32, 32, 24) as writer:
        for number in range(blocks):
            writer.append(frames(5, 32, 32, number))
    return (tmp_path / "film.mp4").read_bytes()


def test_whatever_is_there_of_a_file_only_whole_fragments_are_sent(tmp_path):
    data = film_bytes(tmp_path)
    growing = Growing(data)
    tail, sent = Tail(growing), b""
    for length in range(0, len(data) + 1, 7):
        growing.length = min(length, len(data))
        while (piece := tail.read()) is not None:
            assert boxes(piece)[-1] in (b"mdat", b"moov"), "a piece of a fragment"
            sent += piece
    growing.length = len(data)
    while (piece := tail.read()) is not None:
        sent += piece
    whole = bytearray(data)
    without_length(whole)
    assert sent == whole


def test_a_block_that_is_being_written_is_not_sent(tmp_path):
    """A writer hides it behind a box without a size until it is there in full."""
    data = bytearray(film_bytes(tmp_path))
    last = data.rfind(b"moof") - 4
    data[last : last + 8] = struct.pack(">I4s", 0, b"free")
    growing = Growing(bytes(data))
    growing.length = len(data)
    tail, sent = Tail(growing), b""
    while (piece := tail.read()) is not None:
        sent += piece
    assert len(sent) == last


def test_boxes_of_64_bits_are_refused():
    growing = Growing(struct.pack(">I4sQ", 1, b"moov", 16))
    growing.length = 16
    with pytest.raises(LiveError, match="64"):
        Tail(growing).read()


def test_a_header_without_a_length_stays_as_it_is():
    header = bytearray(struct.pack(">I4s", 8, b"moov"))
    without_length(header)
    assert header == struct.pack(">I4s", 8, b"moov")
