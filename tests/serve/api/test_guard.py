"""Who may ask and how often, and what every answer carries."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from everreel.memory import Held
from everreel.serve.api.guard import Buckets, Polite
from everreel.serve.api.metrics import Metrics
from everreel.serve.api.tokens import LASTS, Tokens
from everreel.serve.jobs.job import HELD, Report
from everreel.serve.jobs.order import make_order
from tests.serve.api.servers import ANNA, KEYS, wait

ASKED = {"prompt": "a red fox", "num_frames": 17}


def test_with_keys_every_route_of_v1_needs_one(serve):
    server = serve(make=False, keys=KEYS)
    document = server.app.openapi()
    paths = [path for path in document["paths"] if path.startswith("/v1") or path == "/metrics"]
    assert len(paths) > 15
    with server.client() as nobody, server.client("wrong") as wrong:
        for path in paths:
            for method in document["paths"][path]:
                for client in (nobody, wrong):
                    reply = client.request(method, path.replace("{video_id}", "video_" + "0" * 32))
                    assert reply.status_code == 401, path
                    assert reply.headers["www-authenticate"] == "Bearer"
        assert nobody.get("/healthz").status_code == 200
        assert nobody.get("/v1/models", headers={"x-api-key": "key-of-anna"}).status_code == 200
        assert nobody.get("/v1/models", headers={"Authorization": "bearer key-of-anna"}).status_code == 200
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "films.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_without_keys_no_other_site_may_ask(serve, headers, status):
    with serve(make=False).client() as client:
        assert client.post("/v1/videos", json=ASKED, headers=headers).status_code == status


def test_the_page_of_this_server_may_ask(serve):
    server = serve(make=False)
    with server.client() as client:
        assert client.post("/v1/videos", json=ASKED, headers={"Origin": server.url}).status_code == 200


def test_other_sites_may_ask_where_they_are_named(serve):
    with serve(make=False, origins=("https://films.example",)).client() as client:
        for origin, allowed in (("https://films.example", "https://films.example"), ("https://evil.example", None)):
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            reply = client.options("/v1/videos", headers=asks)
            assert reply.headers.get("access-control-allow-origin") == allowed
            assert (reply.status_code == 204) == (allowed is not None)
        reply = client.post("/v1/videos", json=ASKED, headers={"Origin": "https://films.example"})
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == "https://films.example"


def test_whoever_asks_too_often_waits(serve):
    server = serve(make=False, keys=KEYS, requests_per_minute=30)
    with server.client("key-of-anna") as anna, server.client("key-of-bert") as bert, server.client("x") as wrong:
        replies = [anna.get("/v1/models") for _ in range(7)]
        assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 2
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
        assert bert.get("/v1/models").status_code == 200
        assert [wrong.get("/v1/models").status_code for _ in range(7)] == [401] * 5 + [429] * 2
        assert anna.get("/healthz").status_code == 200


def test_whoever_tries_keys_on_the_page_or_asks_the_tools_too_often_waits(serve):
    with serve(make=False, requests_per_minute=30).client() as client:
        for path in ("/mcp", "/login", "/gradio_api/upload"):
            found = [client.post(path).status_code for _ in range(7)]
            assert found.count(429) == 2 and found[-1] == 429, path
            assert client.get(path).status_code != 429


def test_whoever_presses_the_pages_buttons_too_often_waits_but_may_type(serve):
    with serve(make=False, requests_per_minute=30).client() as client:
        for path in ("/gradio_api/run/predict", "/gradio_api/queue/join"):
            found = [client.post(path).status_code for _ in range(32)]
            assert 429 not in found[:25] and found.count(429) > 4 and found[-1] == 429, path
        assert client.get("/v1/models").status_code == 200


def test_a_bucket_fills_with_time_and_only_so_far():
    now = [0.0]
    bucket = Buckets(60, lambda: now[0])
    assert [bucket.take("a") > 0 for _ in range(11)] == [False] * 10 + [True]
    assert bucket.take("b") == 0
    assert bucket.empty("a") == pytest.approx(1.0)
    now[0] = 1.0
    assert bucket.take("a") == 0 and bucket.take("a") > 0
    now[0] = 1e6
    assert [bucket.take("a") > 0 for _ in range(11)] == [False] * 10 + [True]


def test_a_secret_is_made_once_and_is_its_users(tmp_path):
    first, second = Tokens.of(tmp_path), Tokens.of(tmp_path)
    assert second.owner("video_1", first.sign("video_1", "anna")) == "anna"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["age.json", "secret"]


def test_a_token_ends_when_its_hour_was_lived_through(tmp_path, monkeypatch):
    now = [5000.0]
    monkeypatch.setattr("everreel.serve.jobs.age.time.monotonic", lambda: now[0])
    tokens = Tokens.of(tmp_path)
    token = tokens.sign("video_1", "anna")
    monkeypatch.setattr("everreel.serve.jobs.age.time.time", lambda: 4e9)  # a date that jumps opens and shuts nothing
    now[0] += LASTS - 1
    assert tokens.owner("video_1", token) == "anna" and tokens.owner("video_2", token) is None
    now[0] += 2
    assert tokens.owner("video_1", token) is None
    late = tokens.sign("video_1", "anna")
    (tmp_path / "age.json").unlink()  # the count begins anew
    assert tokens.owner("video_1", late) is None


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "YW5uYQ.99999999999.0", "YW5uYQ.-1.0", "é.1.é", "x" * 5000])
def test_what_is_no_token_opens_nothing(tmp_path, token):
    assert Tokens.of(tmp_path).owner("video_1", token) is None


def test_every_answer_has_the_headers_that_protect(serve):
    with serve(make=False).client() as client:
        for path in ("/v1/videos", "/v1/nothing", "/healthz", "/docs", "/", "/metrics", "/mcp"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"].startswith("default-src 'none'"), path
            assert headers["cache-control"] == "no-store", path
            assert "server" not in headers


def test_the_tools_alone_are_as_well_protected():
    client = TestClient(Polite(PlainTextResponse("tools"), 0))
    headers = client.get("/mcp").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"


def test_bytes_of_a_film_are_served_as_asked_for(serve):
    server = serve()
    with server.client() as client:
        film = client.post("/v1/videos", json=ASKED).json()["id"]
        wait(lambda: server.jobs.get(film).over)
        path = f"/v1/videos/{film}/content"
        whole = client.get(path)
        data, tag = whole.content, whole.headers["etag"]
        assert whole.headers["accept-ranges"] == "bytes" and int(whole.headers["content-length"]) == len(data)

        def part(asked, **headers):
            return client.get(path, headers={"Range": asked, **headers})

        for asked, begin, end in (("0-0", 0, 1), ("5-9", 5, 10), ("10-", 10, len(data)), ("-7", -7, None)):
            reply = part(f"bytes={asked}")
            assert reply.status_code == 206 and reply.content == data[begin:end], asked
        assert part("bytes=5-9").headers["content-range"] == f"bytes 5-9/{len(data)}"
        assert part(f"bytes=3-{len(data) * 2}").content == data[3:]
        refused = part(f"bytes={len(data)}-")
        assert refused.status_code == 416 and refused.headers["content-range"] == f"bytes */{len(data)}"
        assert part("bytes=-0").status_code == 416
        for odd in ("bytes=9-5", "bytes=0-1,4-5", "frames=1-2", "bytes=", "bytes=x-y"):
            assert part(odd).content == data
        assert part("bytes=0-3", **{"If-Range": tag}).status_code == 206
        assert part("bytes=0-3", **{"If-Range": '"other"'}).content == data
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        head = client.head(path, headers={"Range": "bytes=0-3"})
        assert (head.status_code, head.content, head.headers["content-length"]) == (206, b"", "4")


def test_what_may_still_be_gone_on_with_is_not_kept_by_browsers(serve):
    server = serve(step=True)
    with server.client() as client:
        film = client.post("/v1/videos", json={"prompt": "a fox", "endless": True}).json()["id"]
        path = f"/v1/videos/{film}"
        server.maker.go()
        wait(lambda: server.jobs.get(film).num_frames)
        client.post(f"{path}/cancel")
        wait(lambda: server.jobs.get(film).over)
        first = client.get(f"{path}/content")
        assert first.headers["cache-control"] == "private, no-cache"
        client.post(f"{path}/resume")
        server.maker.go()
        wait(lambda: server.jobs.get(film).num_frames > 8)
        client.post(f"{path}/cancel")
        wait(lambda: server.jobs.get(film).over)
        second = client.get(f"{path}/content", headers={"If-None-Match": first.headers["etag"]})
        assert second.status_code == 200 and len(second.content) > len(first.content)
        done = client.post("/v1/videos", json=ASKED).json()["id"]
        server.maker.go(99)
        wait(lambda: server.jobs.get(done).over)
        assert "max-age=3600" in client.get(f"/v1/videos/{done}/content").headers["cache-control"]


def test_operators_see_what_goes_on(serve):
    server = serve(step=True)
    with server.client() as client:
        film = client.post("/v1/videos", json=ASKED).json()["id"]
        wait(lambda: server.jobs.get(film).status == "in_progress")

        def value(name):
            lines = client.get("/metrics").text.splitlines()
            return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)

        wait(lambda: server.app.state.metrics.watches(film), "a look at the film")
        assert value('everreel_films{state="in_progress"}') == 1
        server.maker.go(9)
        wait(lambda: value("everreel_frames_total") == 17, "the count of its frames")
        assert value('everreel_films{state="completed"}') == 1 and value('everreel_memory_bytes{part="server"}') > 1e6
        assert value("everreel_block_seconds_count") >= 1 and value("everreel_workers") == 1
        assert value("everreel_frames_per_second") > 0 and value('everreel_memory_bytes{part="workers"}') > 0
        assert 'route="/v1/videos",status="200"' in client.get("/metrics").text
        ready = client.get("/readyz")
        assert ready.status_code == 200 and ready.json()["workers"] == 1


def test_what_a_film_waits_for_is_no_time_of_a_block(serve, monkeypatch):
    server, now = serve(make=False), [100.0]
    metrics, queue = Metrics(server.jobs, lambda: ()), server.jobs.queue
    monkeypatch.setattr("everreel.serve.api.metrics.time.monotonic", lambda: now[0])
    film = server.jobs.submit(make_order(prompt="a red fox", num_frames=97), ANNA)[0].id
    queue.claim("maker")

    def told(after, num_frames, waiting=""):
        """How many blocks were measured, and how long they took, when the film is so far."""
        now[0] += after
        queue.report(film, "maker", Report(num_frames, 97, num_frames, num_frames, waiting))
        metrics.look()
        lines = [line.split() for line in metrics.text().decode().splitlines()]
        return tuple(
            float(line[1])
            for line in lines
            if line[0] in ("everreel_block_seconds_count", "everreel_block_seconds_sum")
        )

    assert told(0, 8) == (0, 0) and told(3, 16) == (1, 3)
    for block, held in enumerate((HELD, "the disk is full")):
        have, frames = (1 + block, 3 + block), 24 + 16 * block
        assert told(1, frames - 8, held) == have and told(5000, frames - 8) == have
        assert told(2, frames) == have  # when it went on nobody knows to the second
        assert told(1, frames + 8) == (have[0] + 1, have[1] + 1)


def test_what_workers_hold_of_gpus_is_told_by_worker_and_absent_on_a_cpu(serve):
    jobs, held = serve(make=False).jobs, {}
    metrics = Metrics(jobs, lambda: (), lambda: held)
    assert b"everreel_device_memory" not in metrics.text()
    assert b"everreel_device_memory" not in Metrics(jobs, lambda: ()).text()
    held[1] = {"mps": Held(2)}
    assert "_peak_" not in metrics.text().decode()
    held[0] = {"cuda:0": Held(0, 3 * 2**30)}
    lines = metrics.text().decode().splitlines()
    assert {line for line in lines if line.startswith("everreel_device_memory")} == {
        'everreel_device_memory_bytes{device="cuda:0",worker="0"} 0.0',
        'everreel_device_memory_bytes{device="mps",worker="1"} 2.0',
        'everreel_device_memory_peak_bytes{device="cuda:0",worker="0"} 3.221225472e+09',
    }


def test_a_server_without_workers_or_queue_is_not_ready(serve, monkeypatch):
    server = serve(make=False)
    with server.client() as client:
        server.pids.clear()
        assert client.get("/readyz").status_code == 503
        server.pids.append(1)
        monkeypatch.setattr(server.jobs.queue, "counts", lambda: 1 / 0)
        assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200


def test_the_document_and_the_page_of_it(serve):
    with serve(make=False).client() as client:
        document = client.get("/openapi.json").json()
        create = document["paths"]["/v1/videos"]["post"]
        assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
        fields = document["components"]["schemas"]["VideoCreate"]["properties"]
        assert {"prompt", "seconds", "num_frames", "keyframes", "story", "ar_step", "endless"} <= set(fields)
        assert all("422" not in route["responses"] for path in document["paths"].values() for route in path.values())
        bodies = [
            content
            for routes in document["paths"].values()
            for route in routes.values()
            for content in route.get("requestBody", {}).get("content", {}).values()
        ]
        assert len(bodies) > 8 and all(content["example"] for content in bodies)
        example = create["requestBody"]["content"]["application/json"]["example"]
        assert client.post("/v1/videos", json=example).status_code == 200
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html") and "num_frames" in page.text
        assert "http://" not in page.text.replace("http://127.0.0.1:8000", "")
        assert client.get("/").json()["docs"] == "/docs"
