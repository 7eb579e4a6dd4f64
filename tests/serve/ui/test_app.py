"""The public page: everybody is a visitor of their own with a small quota, and the HTTP interface stays shut."""

import importlib.util
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from starlette.testclient import TestClient

from everreel.serve.jobs import uploads
from everreel.serve.jobs.job import Owner, QuotaError, Upload
from everreel.serve.jobs.order import make_order

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("everreel_app", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_session_is_a_visitor_of_its_own_with_a_small_quota(app, tmp_path):
    _, jobs, _ = app.make(tmp_path)
    anna, ben = app.visitor("session-1"), app.visitor("session-2")
    assert anna.name != ben.name
    assert "session" not in anna.name
    for seed in range(app.QUOTA.films):
        jobs.submit(make_order(prompt="a fox", seconds=1, seed=seed, model="tiny-fast"), anna)
    with pytest.raises(QuotaError):
        jobs.submit(make_order(prompt="a fox", seconds=1, model="tiny-fast"), anna)
    jobs.submit(make_order(prompt="a fox", seconds=1, model="tiny-fast"), ben)


def test_who_makes_up_sessions_comes_to_the_end_of_what_all_have_together(app, tmp_path, monkeypatch):
    _, jobs, _ = app.make(tmp_path)
    numbers = iter(range(10_000))

    def ask():
        """With another session each time."""
        return jobs.submit(make_order(prompt="a fox", seconds=1, model="tiny-fast"), app.visitor(str(next(numbers))))[0]

    monkeypatch.setattr(app, "WAITING", 3)
    films = [ask() for _ in range(3)]
    with pytest.raises(QuotaError, match="3 wait to be made, everybody's together; come again"):
        ask()
    owner = Owner(films[0].owner, app.QUOTA)
    jobs.want(films[0].id, "pause", owner)
    films.append(ask())
    with pytest.raises(QuotaError):  # what was paused is no way around it
        jobs.want(films[0].id, "run", owner)
    monkeypatch.setattr(app, "WAITING", 100)
    monkeypatch.setattr(app, "KEPT", 4)
    with pytest.raises(QuotaError, match="4 are kept"):
        ask()
    assert jobs.want(films[0].id, "run", owner).status == "queued"


def test_a_film_is_not_paused_for_ever(app, tmp_path, monkeypatch):
    _, jobs, _ = app.make(tmp_path)
    owner = app.visitor("a")
    film = jobs.submit(make_order(prompt="a fox", seconds=1, model="tiny-fast"), owner)[0].id
    jobs.want(film, "pause", owner)
    now = time.monotonic()
    monkeypatch.setattr(app.time, "monotonic", lambda: now)
    jobs.clean()
    assert jobs.get(film).status == "paused"
    now += app.RETENTION + 1
    jobs.clean()
    assert jobs.get(film).status == "cancelled"


def test_everybodys_pictures_together_have_an_end(app, tmp_path, monkeypatch):
    _, jobs, _ = app.make(tmp_path)
    monkeypatch.setattr(uploads, "inspect", lambda source, limits: Upload("image", ".png", 16, 16))
    monkeypatch.setattr(app, "UPLOADED", 1000)
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * 800)
        jobs.upload(tmp_path / name, app.visitor(name))
    (tmp_path / "c").write_bytes(b"x")
    with pytest.raises(QuotaError, match="everybody's pictures together"):
        jobs.upload(tmp_path / "c", app.visitor("c"))


def test_the_page_is_open_to_all_and_the_interface_to_nobody(app, tmp_path):
    served, jobs, _ = app.make(tmp_path)
    film = jobs.submit(make_order(prompt="a fox", seconds=1, model="tiny-fast"), app.visitor("a"))[0].id
    client = TestClient(served, base_url="https://somebody-everreel.hf.space")
    page = client.get("/")
    assert page.status_code == 200
    assert "https://huggingface.co" in page.headers["content-security-policy"]
    assert client.post("/v1/videos", json={"prompt": "a fox"}).status_code == 401
    assert client.get("/v1/videos").status_code == 401
    assert client.get(f"/v1/videos/{film}/content").status_code == 401
    assert client.get(f"/v1/videos/{film}/content?token=x.y.z").status_code == 401
    assert client.post("/v1/videos", json={"prompt": "a fox"}, headers={"X-Api-Key": "x"}).status_code == 401
    assert client.post("/login", data={"key": "x"}).status_code in (401, 403)
