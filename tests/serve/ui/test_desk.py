"""What the page's buttons do, without a browser: for whoever presses, and with one line for whatever is wrong."""

import asyncio
import json
import time

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

import gradio as gr
from gradio.state_holder import StateHolder

from everreel.enhance import EnhanceOptions
from everreel.serve.jobs.job import HELD, JobError, Limits, NotFoundError, Owner, Report, Upload
from everreel.serve.jobs.order import make_order
from everreel.serve.ui.desk import FIELDS, LATER, Desk
from everreel.serve.ui.page import OPEN_PAGES, _blocks
from everreel.world.scene import VOCABULARY
from tests import chat_server
from tests.serve.ui.desks import Painter, make_jobs

ANNA, BEN = "anna", "ben"
SCENE = dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"}
FORM = {"prompt": "a red fox", "timeline": {"seconds": 1}, "model": "tiny", "aspect": "16:9", "fps": 24, "seed": 0}


class Signer:
    def sign(self, film, owner):
        return f"{film}-{owner}-{time.monotonic_ns()}"


def request(who=ANNA):
    return gr.Request(session_hash=who)


def event(**data):
    return gr.EventData(None, data)


def form(**values):
    return [(FORM | values).get(name) for name in FIELDS]


@pytest.fixture
def jobs(tmp_path):
    return make_jobs(tmp_path / "home")


@pytest.fixture
def desk(jobs, tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    return Desk(jobs, lambda request: Owner(request.session_hash) if request.session_hash else None, Signer(), uploads)


@pytest.fixture
def painter(jobs):
    painter = Painter(jobs)
    painter.hurry.set()
    painter.start()
    yield painter
    painter.stop()


def until(jobs, film, status):
    deadline = time.monotonic() + 60
    while jobs.get(film).status != status:
        assert time.monotonic() < deadline, jobs.get(film)
        time.sleep(0.02)


def made(desk, who=ANNA, **values):
    screen, _, film, *_ = desk.make(request(who), "", 24, *form(**values))
    assert screen["id"] == film
    return film


def test_an_order_is_made_shown_continued_and_put_back_on_the_desk(desk, jobs, painter):
    film = made(desk, seed=3)
    until(jobs, film, "completed")
    screen, gallery, _, mark, timer = desk.look(request(), film, 24, "")
    assert (screen["status"], screen["frames"], screen["can_extend"]) == ("completed", 24, True)
    assert [card["id"] for card in gallery["films"]] == [film]
    assert (timer.active, timer.value) == (True, LATER), "films are ordered elsewhere too"
    again = desk.look(request(), film, 24, mark)
    assert all(value == gr.skip() for value in again), "nothing is sent where nothing changed"
    _, _, second, *_ = desk.act(request(), event(action="extend", id=film, prompt="it jumps", seconds=0.5), 24)
    order = jobs.get(second).order
    assert (order.extends, order.request.prompt, order.request.length, order.request.seed) == (film, "it jumps", 12, 3)
    back = dict(zip(FIELDS, desk.draft(request(), event(id=film)), strict=True))
    assert (back["prompt"], back["timeline"]["seconds"], back["seed"], back["aspect"]) == ("a red fox", 1, 3, "16:9")


def test_films_are_paused_resumed_stopped_and_deleted(desk, jobs):
    film = made(desk)
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("resume", "queued")):
        screen, *_ = desk.act(request(), event(action=action, id=film), 24)
        assert (screen["status"], jobs.get(film).status) == (status, status)
    screen, gallery, current, *_ = desk.act(request(), event(action="delete", id=film), 24)
    assert (screen, gallery["films"], current) == ({}, [], "")
    with pytest.raises(NotFoundError):
        jobs.get(film)


def test_a_film_that_its_worker_holds_is_paused_on_the_screen(desk, jobs):
    film = made(desk)
    jobs.queue.claim("worker")
    jobs.queue.report(film, "worker", Report(1, 9, 8, 100))
    assert desk.look(request(), film, 24, "")[0]["status"] == "in_progress"
    jobs.queue.report(film, "worker", Report(1, 9, 8, 100, waiting=HELD))
    assert desk.look(request(), film, 24, "")[0]["status"] == "paused"


def test_a_film_that_was_stopped_has_its_picture_in_the_gallery(desk, jobs):
    film = made(desk)
    jobs.queue.claim("worker")
    (jobs.store.workplace(film) / "thumbnail.webp").write_bytes(b"picture")
    assert desk.look(request(), film, 24, "")[1]["films"][0]["picture"] == ""
    jobs.queue.finish(film, "worker", "cancelled")
    assert "variant=thumbnail" in desk.look(request(), film, 24, "")[1]["films"][0]["picture"]


def test_an_endless_film_that_was_stopped_is_whole_and_can_be_gone_on_with(desk, jobs):
    film = jobs.submit(make_order(prompt="a red fox", endless=True, model="tiny"), Owner(ANNA))[0].id
    jobs.queue.claim("worker")
    jobs.queue.report(film, "worker", Report(3, 9, 24, 1000))
    screen = desk.look(request(), film, 24, "")[0]
    assert not screen["whole"] and not screen["can_extend"] and "/stream?" in screen["video"]
    assert desk.look(request(), film, 24, "")[1]["films"][0]["label"] == "Being made", "nobody knows how much of it"
    jobs.queue.finish(film, "worker", "cancelled")
    screen = desk.look(request(), film, 24, "")[0]
    assert screen["whole"] and screen["can_extend"] and "/content?" in screen["video"]
    _, _, longer, *_ = desk.act(request(), event(action="extend", id=film, prompt="it jumps", seconds=0.5), 24)
    assert jobs.get(longer).order.extends == film


def test_a_look_that_is_answered_after_a_press_does_not_undo_it(desk):
    first, second = made(desk, seed=1), made(desk, seed=2)
    _, _, current, mark, _ = desk.show(request(), event(id=first), 24)
    late, _, other, late_mark, _ = desk.look(request(), second, 24, "")  # it was asked before that press
    assert (late["id"], other) == (second, gr.skip())
    assert desk.look(request(), current, 24, late_mark)[0]["id"] == first
    assert desk.look(request(), current, 24, mark)[0] == gr.skip()


def test_a_token_stays_the_same_for_a_while_so_that_nothing_is_loaded_again(desk):
    film = made(desk)
    one, two = (desk.look(request(), film, 24, "")[0]["video"] for _ in range(2))
    assert one == two
    assert film in one


def test_nobody_gets_at_another_ones_films(desk, jobs):
    film = made(desk)
    for action in ("pause", "cancel", "delete", "extend", "resume"):
        screen, gallery, *_ = desk.act(request(BEN), event(action=action, id=film, seconds=1), 24)
        assert screen == {}
        assert gallery["films"] == []
    assert desk.show(request(BEN), event(id=film), 24)[0] == {}
    assert desk.draft(request(BEN), event(id=film)) == [gr.skip()] * len(FIELDS)
    assert jobs.get(film).status == "queued"
    assert desk.show(request(), event(id=film), 24)[0]["id"] == film


def test_who_has_no_key_gets_nothing(desk, jobs):
    nobody = gr.Request(session_hash=None)
    with pytest.raises(JobError, match="give a key"):
        desk.open(nobody)
    assert "give a key" in desk.make(nobody, "", 24, *form())[-1]
    assert "give a key" in desk.plan(nobody, *form())
    assert not jobs.queue.page(None)


@pytest.mark.parametrize(
    "data",
    [{}, {"action": "fly"}, {"action": "pause", "id": "../x"}, {"action": ["pause"]}, {"action": "extend", "id": 5}],
)
def test_an_event_that_makes_no_sense_changes_nothing(desk, jobs, data):
    film = made(desk)
    desk.act(request(), event(**data), 24)
    assert jobs.get(film).status == "queued"


def test_the_plan_is_there_before_the_button_and_says_what_is_wrong(desk):
    assert "97" in desk.plan(request(), *form(timeline={"seconds": 97 / 24}))
    assert "Say what the film shows" in desk.plan(request(), *form(prompt=" "))
    for values, said in (
        ({"seed": -1}, "seed = -1"),
        ({"timeline": {"seconds": 10_000}}, "seconds = 10000"),
        ({"model": "huge"}, "model = &#x27;huge&#x27;"),
        ({"timeline": {"seconds": 1, "pictures": [{"at": "start", "id": f"file_{'0' * 32}"}]}}, "er-wrong"),
    ):
        assert said in desk.plan(request(), *form(**values))
        assert said in desk.make(request(), "", 24, *form(**values))[-1]


def test_the_prompt_is_made_whole_and_one_sees_what_was_added(desk):
    text, added, before = asyncio.run(desk.enhance("a fox runs", "tiny", {"seconds": 4}))
    assert "fox" in text
    assert len(text) > len("a fox runs")
    assert "added" in added.lower()
    assert before == "a fox runs"
    text, said, _ = asyncio.run(desk.enhance("", "tiny", {}))
    assert text == gr.skip()
    assert "prompt is empty" in said


def test_the_prompt_is_made_whole_by_whom_the_operator_chose_or_one_reads_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr("everreel.chat.FIRST_PAUSE", 0.0)
    with chat_server.serving(chat_server.said(json.dumps(SCENE))) as server:
        chosen = EnhanceOptions(llm="/models/qwen", endpoint=server.address)
        desk = Desk(make_jobs(tmp_path / "home", enhancer=chosen), lambda request: Owner(ANNA), Signer(), tmp_path)
        text, added, before = asyncio.run(desk.enhance("a dragon", "tiny", {}))
        assert "red turtle" in text and added.startswith("Qwen: understood as ") and before == "a dragon"
    text, line, before = asyncio.run(desk.enhance("a wizard", "tiny", {}))
    assert (text, before) == (gr.skip(), "") and "cannot be asked now; ask again later" in line
    assert server.address not in line and "/models" not in added + line


def test_a_picture_is_taken_over_and_its_file_is_gone(desk, jobs, tmp_path, monkeypatch):
    seen = []

    def upload(source, owner):
        seen.append((source.read_bytes(), owner.name))
        return Upload("image", ".png", 16, 16, id=f"file_{'a' * 32}")

    monkeypatch.setattr(jobs, "upload", upload)
    place = tmp_path / "uploads" / "abc"
    place.mkdir()
    sent = place / "fox.png"
    sent.write_bytes(b"picture")
    assert desk.picture(request(), event(key="k", path=str(sent))) == {"key": "k", "id": f"file_{'a' * 32}"}
    assert seen == [(b"picture", ANNA)]
    assert not place.exists()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    (tmp_path / "uploads" / "link").symlink_to(secret)
    for path in (secret, tmp_path / "uploads" / "link", tmp_path / "uploads", tmp_path / "uploads/../secret.png", "\0"):
        assert "error" in desk.picture(request(), event(key="k", path=str(path)))
    assert secret.exists()
    assert len(seen) == 1


def test_a_picture_that_is_none_is_refused_in_one_line_and_gone(desk, tmp_path):
    sent = tmp_path / "uploads" / "fox.png"
    sent.write_bytes(b"no picture at all")
    error = desk.picture(request(), event(key="k", path=str(sent)))["error"]
    assert str(tmp_path) not in error
    assert "\n" not in error
    assert not sent.exists()


def test_the_gallery_has_pages(desk):
    for seed in range(30):
        film = made(desk, seed=seed)
    first = desk.open(request())
    assert (len(first[1]["films"]), first[1]["more"], first[2]) == (24, True, film)
    *_, count = desk.older(request(), film, 24)
    more = desk.look(request(), film, count, "")
    assert (len(more[1]["films"]), more[1]["more"]) == (30, False)
    for hostile in (-1, 10**9, float("nan"), "x", None):
        assert len(desk.look(request(), film, hostile, "")[1]["films"]) in (24, 30)


def test_limits_hold_for_what_is_continued_too(tmp_path):
    jobs = make_jobs(tmp_path / "home", Limits(seconds=2))
    desk = Desk(jobs, lambda request: Owner(), Signer(), tmp_path)
    painter = Painter(jobs)
    painter.hurry.set()
    painter.start()
    try:
        film = made(desk)
        until(jobs, film, "completed")
        screen = desk.act(request(), event(action="extend", id=film, seconds=100), 24)[0]
        assert "seconds = 100" in screen["notice"]
        assert screen["id"] == film
        for seconds in ("x", None, float("nan"), -1):
            assert desk.act(request(), event(action="extend", id=film, seconds=seconds), 24)[0]["notice"]
    finally:
        painter.stop()


def test_of_pages_that_are_gone_no_more_than_so_many_are_remembered(desk):
    """Gradio keeps what it knows of every page that was ever open, up to 10,000 if nothing else is said."""
    holder = StateHolder()
    holder.set_blocks(_blocks(desk))
    for visit in range(OPEN_PAGES + 20):
        holder[f"visit-{visit}"]
    assert len(holder.session_data) <= OPEN_PAGES and f"visit-{OPEN_PAGES + 19}" in holder
