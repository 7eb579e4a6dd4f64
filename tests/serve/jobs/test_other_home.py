"""Another queue and another store take the place of those of a home: films, workers and HTTP are the same."""

import io
import threading

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from everreel.media import Video
from everreel.serve.agents import look
from everreel.serve.jobs import uploads
from everreel.serve.jobs.job import FilmStore, JobQueue, NotFoundError, Owner, QuotaError, Upload, new_id
from everreel.serve.jobs.service import Jobs
from tests.serve.jobs import test_queue, test_queue_model, test_turns
from tests.serve.jobs.conftest import Home
from tests.serve.jobs.memory import MemoryQueue, MemoryStore

LONG = {"num_frames": 57, "base_num_frames": 25, "overlap_history": 9}
# What is asked of the queue in a home, and says nothing of how that is made.
SAME = [
    test_queue.test_a_job_is_taken_on,
    test_queue.test_a_key_of_idempotency_is_used_once,
    test_queue.test_quotas,
    test_queue.test_of_a_film_that_is_over_counts_what_was_made,
    test_queue.test_of_an_endless_film_counts_what_is_made,
    test_queue.test_a_priority_has_bounds,
    test_queue.test_what_is_claimed_first,
    test_queue.test_claims_of_some_models,
    test_queue.test_reports_and_what_is_wanted,
    test_queue.test_only_a_films_own_worker_is_heard,
    test_queue.test_a_film_that_is_being_cancelled_cannot_be_gone_on_with_yet,
    test_queue.test_a_lost_workers_films_go_to_others,
    test_queue.test_failures_are_told,
    test_queue.test_pages,
    test_queue.test_a_removed_film_is_hidden_at_once_and_forgotten_later,
    test_queue.test_a_film_that_is_to_be_gone_on_with_is_kept_until_then,
    test_queue.test_needed_uploads,
    test_queue.test_many_threads_share_a_queue,
    test_turns.test_a_film_gives_way_to_those_that_wait,
    test_turns.test_films_that_give_way_take_turns_with_all_others,
    test_turns.test_a_film_that_gives_way_was_its_owners_turn,
    test_turns.test_a_film_gives_way_to_none_that_is_less_urgent,
    test_turns.test_no_film_is_gone_on_with_when_no_bytes_are_left,
]


@pytest.fixture
def other(tmp_path, small_model, loaded):
    """A home that has none of its queue and its store on disk."""
    path = tmp_path / "other"
    path.mkdir()
    queue, store = MemoryQueue(), MemoryStore()
    return Home(path, queue, store, Jobs(queue, store, {"small": small_model}), loaded)


@pytest.mark.parametrize("check", SAME, ids=lambda check: check.__name__)
def test_what_holds_of_a_queue_holds_of_another(check):
    check(MemoryQueue())


class Other(test_queue_model.Queue):
    """The other queue against the same plain model: statuses, turns, attempts, and what is refused."""

    def open(self):
        self.queues = [MemoryQueue(max_attempts=test_queue_model.MAX_ATTEMPTS)] * 2

    def teardown(self):
        pass


Other.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOther = Other.TestCase


def test_nothing_more_is_asked_of_either_than_its_interface_says():
    for interface, made in ((JobQueue, MemoryQueue), (FilmStore, MemoryStore)):
        names = {name for name in vars(interface) if not name.startswith("_")}
        assert not {name for name in names if not callable(getattr(made, name, None))}


def test_a_film_is_made_and_gone_on_with(home, other):
    films = {}
    for place in (home, other):
        job = place.order(seed=3)
        assert place.work().status == "completed"
        order = place.jobs.extension(job.id, Owner(), num_frames=8, num_inference_steps=2)
        longer = place.jobs.submit(order, Owner())[0]
        place.queue.remove(job.id)
        place.jobs.clean()
        assert place.store.size(job.id, "film.mp4"), "a film is still to go on with it"
        ended = place.work()
        assert (ended.id, ended.status, ended.progress) == (longer.id, "completed", 100)
        place.jobs.clean()
        assert not place.store.size(job.id, "film.mp4")
        with place.jobs.open(longer.id, "film.mp4") as file:
            films[place.path] = file.read()
        assert ended.num_bytes == len(films[place.path]) and Video(place.film(longer)).num_frames == 17
        assert all(place.store.size(longer.id, part) for part in ("thumbnail.webp", "spritesheet.jpg"))
        with look.opened(place.jobs, longer.id, Owner()) as video:  # as agents do
            assert video.num_frames == 17
    assert films[home.path] == films[other.path], "to the byte"
    assert not [*other.path.iterdir()], "nothing else has written to the folder"


def test_a_film_is_paused_cancelled_gone_on_with_and_removed(other, monkeypatch):
    monkeypatch.setattr("everreel.serve.jobs.worker.REPORT", 0.0)
    whole, job = other.order(**LONG), other.order(**LONG)
    assert other.work().status == "completed"

    def at_frames(frames, what):
        """Do something when there are so many frames."""
        report, done = MemoryQueue.report, []

        def reporting(job_id, worker, said):
            if said.num_frames >= frames and not done:
                done.append(what())
            return report(other.queue, job_id, worker, said)

        monkeypatch.setattr(other.queue, "report", reporting)

    def pause():
        other.queue.want(job.id, "pause")
        return other.order()  # it would stay in memory if nobody waited

    at_frames(1, pause)
    assert other.work().status == "paused"
    assert other.work().status == "completed", "the other film"
    frames = other.jobs.get(job.id).num_frames
    assert 0 < frames < 57
    other.jobs.want(job.id, "run", Owner())
    at_frames(frames + 1, lambda: other.queue.want(job.id, "cancel"))
    ended = other.work()
    assert ended.status == "cancelled" and other.store.size(job.id, "thumbnail.webp")
    other.jobs.want(job.id, "run", Owner())
    assert other.work().status == "completed"
    assert other.film(job).read_bytes() == other.film(whole).read_bytes()
    folder = other.store.workplace(job.id)
    other.jobs.remove(job.id, Owner())
    other.jobs.clean()
    assert not folder.exists() and other.queue.removed() == []
    with pytest.raises(NotFoundError):
        other.jobs.open(job.id, "film.mp4")


def test_a_lost_workers_film_goes_on_with_another(other, monkeypatch):
    job, report = other.order(**LONG), other.queue.report

    def losing(job_id, worker, said):
        if worker == "lost" and said.num_frames:
            other.queue.release("lost")
        return report(job_id, worker, said)

    monkeypatch.setattr("everreel.serve.jobs.worker.REPORT", 0.0)
    monkeypatch.setattr(other.queue, "report", losing)
    assert other.work("lost").status == "queued" and other.queue.get(job.id).attempts == 1
    ended = other.work("new")
    assert (ended.status, ended.num_frames, ended.attempts) == ("completed", 57, 0), "new frames are progress"


def test_uploads(other, tmp_path):
    def send(size, owner, most=None):
        path = other.store.incoming() / "sent"
        path.write_bytes(bytes(size))
        return other.store.keep(path, owner, ".png", most)

    mine = send(700, "anna")
    send(200, "ben")
    assert [other.store.uploads(owner) for owner in ("anna", "ben", "nobody", None)] == [700, 200, 0, 900]
    with pytest.raises(QuotaError):
        send(400, "anna", 1000)
    assert other.store.uploads("anna") == 700 and not [*other.store.incoming().iterdir()]
    assert other.store.upload(mine, "anna").name == f"{mine}.png"
    for name, owner in ((mine, "ben"), (new_id("file"), None)):
        with pytest.raises(NotFoundError):
            other.store.upload(name, owner)


@pytest.fixture
def client(other, monkeypatch):
    """The whole server as `everreel serve` puts it together, but for the page and for its workers."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    pytest.importorskip("mcp", reason="the extra `serve` is not installed")
    from starlette.testclient import TestClient

    from everreel.serve.jobs.keys import Keys
    from everreel.serving import Serving, build

    monkeypatch.setattr(uploads, "inspect", lambda source, limits: Upload("image", ".png", 64, 64))
    where = Serving("127.0.0.1", 8000, page=False, requests_per_minute=0, endless=True, allow_fetch=False, origins=())
    app = build(other.jobs, Keys(other.path), where, other.path, None)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


ASKED = {"prompt": "a red fox", "size": "32x32", "num_inference_steps": 2, "num_frames": 9, "model": "small"}


def test_films_are_ordered_and_fetched_over_http(other, client):
    made = client.post("/v1/videos", json=ASKED, headers={"Idempotency-Key": "once"}).json()
    assert made["status"] == "queued", made
    again = client.post("/v1/videos", json=ASKED, headers={"Idempotency-Key": "once"}).json()
    assert again["id"] == made["id"]
    assert client.get(f"/v1/videos/{made['id']}/content").status_code == 404
    assert other.work().id == made["id"]
    assert client.get(f"/v1/videos/{made['id']}").json()["status"] == "completed"
    content = client.get(f"/v1/videos/{made['id']}/content")
    assert (content.status_code, content.headers["content-type"]) == (200, "video/mp4")
    with other.store.open(made["id"], "film.mp4") as file:
        assert content.content == file.read()
    some = client.get(f"/v1/videos/{made['id']}/content", headers={"Range": "bytes=4-7"})
    assert (some.status_code, some.content) == (206, b"ftyp")
    assert client.get(f"/v1/videos/{made['id']}/stream").content[4:8] == b"ftyp"
    thumbnail = client.get(f"/v1/videos/{made['id']}/content", params={"variant": "thumbnail"})
    with Image.open(io.BytesIO(thumbnail.content)) as picture:
        assert picture.size == (32, 32)

    asked = {"prompt": "it runs", "video": {"id": made["id"]}, "num_frames": 8, "num_inference_steps": 2}
    longer = client.post("/v1/videos/extensions", json=asked).json()
    assert [film["id"] for film in client.get("/v1/videos").json()["data"]] == [longer["id"], made["id"]]
    assert other.work().num_frames == 17
    told = client.get(f"/v1/videos/{longer['id']}/events").text
    assert "event: done" in told and longer["id"] in told
    assert client.get("/readyz").json()["films"]["completed"] == 2
    assert "everreel_disk_free_bytes 1e+12" in client.get("/metrics").text, "the room of this store"

    assert client.delete(f"/v1/videos/{made['id']}").json()["deleted"]
    other.jobs.clean()
    for path in ("", "/content", "/stream", "/events"):
        assert client.get(f"/v1/videos/{made['id']}{path}").status_code == 404
    assert [film["id"] for film in client.get("/v1/videos").json()["data"]] == [longer["id"]]


def test_a_film_begins_with_a_picture_that_is_sent_over_http(other, client):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "png")
    given = {name: str(value) for name, value in ASKED.items()}
    sent = {"input_reference": ("fox.png", picture.getvalue(), "image/png")}
    made = client.post("/v1/videos", data=given, files=sent).json()
    (name,) = other.jobs.get(made["id"]).order.uploads
    assert other.store.upload(name).read_bytes() == picture.getvalue() and not [*other.store.incoming().iterdir()]
    assert other.work().status == "completed"


def test_a_film_is_held_and_stopped_over_http(other, client):
    film = client.post("/v1/videos", json=ASKED).json()["id"]

    def ask(what):
        answer = client.post(f"/v1/videos/{film}/{what}")
        return answer.json()["state"] if answer.status_code == 200 else answer.status_code

    assert [ask(what) for what in ("pause", "resume", "cancel", "pause", "resume")] == [
        "paused",
        "queued",
        "cancelled",
        409,
        "queued",
    ]
    worker = threading.Thread(target=other.work)
    worker.start()
    with client.stream("GET", f"/v1/videos/{film}/events") as told:
        assert "event: done" in "".join(told.iter_text()), "whoever looks on hears when it ends"
    worker.join()
    assert ask("cancel") == 409
