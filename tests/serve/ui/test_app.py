"""The public page: everybody is a visitor of their own with a small quota, and the HTTP interface stays shut."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from starlette.testclient import TestClient

from everreel.serve.jobs.job import QuotaError
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
