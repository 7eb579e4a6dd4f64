"""The page's server: what reaches a browser tells no model, and nothing is answered for those who may not ask."""

import contextlib
import errno
import io
import json
import os
import re

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient
from PIL import Image

from everreel.evaluate.bench import ratings
from everreel.evaluate.bench.ratings import Ratings
from everreel.evaluate.bench.server import PAGE, Desk, bind, make_app
from tests.evaluate.bench.studies import fake_study, nonce, pictures, study_of

KEY = "a-long-enough-key"


@pytest.fixture
def made(tmp_path):
    return fake_study(tmp_path, ("Old One", "Newer"), 3, kinds=("scores", "pairs"), checks=1, repeats=1)


def client_of(folder, key=None, **headers):
    return TestClient(make_app(Desk(folder), key), base_url="http://127.0.0.1:8720", headers=headers)


def joined(client, name="Anna"):
    told = client.post("/api/join", json={"name": name}).json()
    client.headers["Authorization"] = f"Bearer {told['code']}"
    return client.get("/api/tasks").json()


def send(client, task, value, **more):
    body = {"task": task, "nonce": nonce(), "answer": value, "seconds": 1.5, **more}
    return client.post("/api/answer", json=body)


def scores(told, value=3):
    return {axis["id"]: value for axis in told["axes"]["scores"]}


def test_a_rater_is_asked_answers_and_goes_on_after_a_restart(made):
    folder, study = made
    client = client_of(folder)
    told = joined(client)
    assert len(told["tasks"]) == (6 + 2) + (3 + 2) and told["answers"] == {}
    first, second = (task["id"] for task in told["tasks"][:2])
    assert send(client, first, scores(told)).json()["done"] == 1
    assert send(client, second, None).json()["done"] == 2
    again = client_of(folder, **{"Authorization": client.headers["Authorization"]})
    assert again.get("/api/tasks").json() == {**told, "answers": {first: scores(told), second: None}}
    assert send(again, second, None, undo=True).json()["done"] == 1
    assert Ratings(folder, study).raters["anna"].num_done == 1


def test_nothing_that_reaches_a_browser_names_a_model_or_a_film(made):
    folder, study = made
    client = client_of(folder)
    told = joined(client)
    replies = [client.get(url) for url in (*PAGE, "/api/study", "/api/tasks")]
    replies += [
        client.get(f"/film/{task['id']}/{side}", headers={"Range": "bytes=0-2"})
        for task in told["tasks"]
        for side in range(task["films"])
    ]
    replies.append(send(client, told["tasks"][0]["id"], scores(told)))
    seen = "\n".join(
        f"{reply.url} {reply.headers} {reply.text if reply.status_code != 206 else ''}" for reply in replies
    )
    hidden = [film.id for film in study.films] + [film.digest for film in study.films] + [study.secret]
    hidden += ["Old One", "Newer", "of-old", "film-0", str(folder), "uvicorn"]
    assert not [word for word in hidden if word in seen]


def test_a_picture_is_shown_to_those_who_are_asked_and_tells_nothing_else(tmp_path):
    folder, study = study_of(tmp_path, kinds=("scores",), pictures=pictures(tmp_path), medium="i2v")
    client = client_of(folder)
    assert client.get("/picture/0").status_code == 404
    told = joined(client)
    (consistency,) = (axis for axis in told["axes"]["scores"] if axis["id"] == "consistency")
    assert "Does it begin with the picture?" in consistency["hint"] and all(task["picture"] for task in told["tasks"])
    colors = {prompt.text: number for number, prompt in enumerate(study.prompts)}
    for task in told["tasks"]:
        reply = client.get(f"/picture/{task['id']}")
        image = Image.open(io.BytesIO(reply.content))
        assert reply.headers["content-type"] == "image/jpeg" and b"secret" not in reply.content
        assert abs(image.getpixel((9, 9))[1] - 40 * colors[task["prompt"]]) < 8
    (tmp_path / "pictures" / "film-0.png").write_bytes(b"another")
    first = next(task["id"] for task in told["tasks"] if colors[task["prompt"]] == 0)
    reply = client.get(f"/picture/{first}")
    assert reply.status_code == 410 and "missing or was changed" in reply.json()["error"]
    (lost,) = Desk(folder).lost_films()
    assert lost == "../pictures/film-0.png: is missing or was changed since the study was made"


def test_the_same_film_has_the_same_headers_whoever_made_it_and_whenever(made):
    folder, study = made
    client = client_of(folder)
    joined(client)
    lengths = {}
    for film in study.films:
        os.utime(folder / film.path, (1e9 + film.num_bytes, 1e9 + film.num_bytes))
    for task in client.get("/api/tasks").json()["tasks"]:
        told = client.get(f"/film/{task['id']}/0").headers
        assert told["last-modified"] == "Thu, 01 Jan 1970 00:00:00 GMT" and told["etag"] == f'"{task["id"]}-0"'
        rest = {name: value for name, value in told.items() if name not in ("etag", "content-length", "date")}
        lengths.setdefault(told["content-length"], []).append(rest)
    assert all(rest == many[0] for many in lengths.values() for rest in many) and len(lengths) == 2


def test_a_film_comes_in_the_bytes_that_are_asked_for(made):
    folder, study = made
    client = client_of(folder)
    desk_task = next(task for task in joined(client)["tasks"])
    rater = Ratings(folder, study).raters["anna"]
    film = next(film for film in study.films if film.id == rater.tasks[desk_task["id"]].films[0])
    data, url = (folder / film.path).read_bytes(), f"/film/{desk_task['id']}/0"
    whole = client.get(url)
    assert whole.content == data and whole.headers["content-type"] == "video/mp4"
    for asked, found in (("0-3", data[:4]), ("4-", data[4:]), ("-2", data[-2:]), ("2-999", data[2:])):
        part = client.get(url, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == found
        assert part.headers["content-range"].endswith(f"/{len(data)}")
    assert client.get(url, headers={"Range": "bytes=999-"}).status_code == 416
    head = client.head(url)
    assert head.headers["content-length"] == str(len(data)) and not head.content
    for wrong in (f"/film/{desk_task['id']}/1", f"/film/{film.id}/0", "/film/none/0", f"{url[:-1]}-1"):
        assert client.get(wrong).status_code == 404, wrong


def test_a_film_that_is_gone_or_another_is_not_shown_and_named_at_the_start(made):
    folder, study = made
    client = client_of(folder)
    told = joined(client)
    rater = Ratings(folder, study).raters["anna"]
    shown = [(task, rater.tasks[task["id"]].films[0]) for task in told["tasks"] if task["kind"] == "scores"]
    paths = {film.id: folder / film.path for film in study.films}
    assert client.get(f"/film/{shown[0][0]['id']}/0").status_code == 200
    data = paths[shown[0][1]].read_bytes()
    paths[shown[0][1]].write_bytes(data[::-1])  # as long as before
    os.utime(paths[shown[0][1]], (1, 1))
    gone = client.get(f"/film/{shown[0][0]['id']}/0")
    assert gone.status_code == 410 and gone.json() == {
        "error": "this film is missing or was changed since the study was made"
    }
    other = next(film for _, film in shown if film != shown[0][1])
    paths[other].unlink()
    assert [line.split(": ")[1] for line in Desk(folder).lost_films()] == ["is missing"]
    paths[shown[0][1]].write_bytes(data)
    assert client.get(f"/film/{shown[0][0]['id']}/0").content == data


def test_every_reply_forbids_scripts_and_requests_from_elsewhere(made):
    client = client_of(made[0])
    for url in (*PAGE, "/api/study", "/api/tasks", "/none"):
        headers = client.get(url).headers
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules["default-src"] == "'none'" and rules["script-src"] == rules["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    page = client.get("/").text
    assert not re.findall(r"https?://|\son\w+=|style=|<script>", page)
    script = client.get("/rate.js").text
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|https?://", script)
    assert client.get("/?content=no&kind=text/plain").text == page, "what is in the address changes no page"
    assert client.get("/?content=no&kind=text/plain").headers["content-type"].startswith("text/html")


def test_without_a_code_nothing_is_told_and_nothing_answered(made):
    client = client_of(made[0])
    told = joined(client)
    task = told["tasks"][0]["id"]
    for code in ("", "Bearer ", "Bearer wrong", "Basic abc"):
        client.headers["Authorization"] = code
        assert client.get("/api/tasks").status_code == 401
        assert send(client, task, scores(told)).status_code == 401
    other = client_of(made[0])
    joined(other, "Ben")
    refused = send(other, task, scores(told))
    assert refused.status_code == 400 and "is none of this rater's" in refused.json()["error"]


def test_a_name_that_is_taken_needs_its_code(made):
    client = client_of(made[0])
    code = client.post("/api/join", json={"name": "Anna"}).json()["code"]
    taken = client.post("/api/join", json={"name": "anna"})
    assert taken.status_code == 409 and "take another name" in taken.json()["error"] and code not in taken.text
    assert client.post("/api/join", json={"name": "anna", "code": code}).json() == {"name": "Anna", "code": code}
    assert client.post("/api/join", json={"name": " "}).status_code == 400


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"name": "Anna"}', "text/plain", 400),
        (b'{"name": 3}', "application/json", 400),
        (b'{"name": "' + b"a" * 20000 + b'"}', "application/json", 413),
    ],
)
def test_what_is_no_request_is_refused(made, body, kind, status):
    client = client_of(made[0])
    refused = client.post("/api/join", content=body, headers={"Content-Type": kind})
    assert refused.status_code == status and refused.json()["error"]
    assert not (made[0] / "ratings").exists()


def test_a_wrong_answer_is_refused_with_the_reason(made):
    client = client_of(made[0])
    told = joined(client)
    task = told["tasks"][0]["id"]
    for answer, rule in ((scores(told, 9), "must be one of 1, 2"), ({}, "= None"), ([1], "a value for each axis")):
        refused = send(client, task, answer)
        assert refused.status_code == 400 and rule in refused.json()["error"], answer
    assert send(client, task, scores(told), nonce="x").status_code == 400
    assert send(client, task, scores(told), seconds=True).status_code == 200
    assert client.get("/api/tasks").json()["answers"] == {task: scores(told)}


def test_a_full_disk_is_said_and_the_answer_can_be_sent_again(made, monkeypatch):
    folder, _ = made
    client = client_of(folder)
    told = joined(client)
    task, name = told["tasks"][0]["id"], nonce()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ratings.os, "fsync", full)
        refused = send(client, task, scores(told), nonce=name)
    assert refused.status_code == 507
    assert refused.json()["error"].startswith(
        "could not be saved: No space left on device. Tell whoever runs the study"
    )
    assert send(client, task, scores(told), nonce=name).json() == {"saved": name, "done": 1}


def test_with_a_key_only_those_who_have_it_are_answered(made):
    client = client_of(made[0], KEY)
    assert client.get("/").status_code == 200, "the empty page tells nothing"
    for given in ("", "a-wrong-one", "ключ".encode()):
        refused = client.get("/api/study", headers={"X-Key": given})
        assert refused.status_code == 403 and "needs its key" in refused.json()["error"]
    assert client.post("/api/join", json={"name": "Anna"}).status_code == 403
    client.headers["X-Key"] = KEY
    assert client.get("/api/study").status_code == 200 and len(joined(client)["tasks"]) == 13


def test_another_sites_name_for_this_machine_is_refused_without_a_key(made):
    app = make_app(Desk(made[0]))
    for host in ("127.0.0.1:8720", "localhost", "[::1]:8720"):
        assert TestClient(app).get("/", headers={"Host": host}).status_code == 200, host
    assert TestClient(app).get("/", headers={"Host": "films.example"}).status_code == 400
    with_key = TestClient(make_app(Desk(made[0]), KEY))
    assert with_key.get("/", headers={"Host": "films.example"}).status_code == 200


def test_an_address_that_others_reach_needs_a_key():
    with pytest.raises(
        ValueError, match=r"host = 0\.0\.0\.0: others can reach it, so a key is needed; --key \w+ works"
    ):
        bind("0.0.0.0", 0, None)
    with pytest.raises(ValueError, match="key = 'short': must be 8 or more plain letters"):
        bind("127.0.0.1", 0, "short")
    with contextlib.closing(bind("127.0.0.1", 0, None)) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port = {port}: .*in use.*port 0 takes a free one"):
            bind("127.0.0.1", port, None)
    with pytest.raises(ValueError, match="port = 99999: "):
        bind("127.0.0.1", 99999, None)


def test_a_study_of_a_changed_file_is_not_opened(made):
    folder, _ = made
    joined(client_of(folder))
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**record, "repeats": 0}))
    with pytest.raises(ValueError, match="was changed after Anna had begun"):
        Desk(folder)
