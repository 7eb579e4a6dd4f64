"""Before the page: nothing without a key where keys are needed, and nothing of Gradio's that it has no use for."""

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from everreel.serve.jobs.job import Owner
from everreel.serve.ui.gate import COOKIE, LONGEST_EVENT, Gate

KEY = "er_0123456789abcdef"
OURS = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
THEIRS = [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]


async def inner(scope, receive, send):
    """Stands for Gradio: it reads all of a body and says how long it was."""
    length = 0
    while (message := await receive())["type"] == "http.request":
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await PlainTextResponse(f"{scope['path']} {length}")(scope, receive, send)


def client_of(keys=(), visitors=False, **more):
    def owner_of(key):
        return Owner("anna") if key in keys else Owner() if not keys and not visitors else None

    gate = Gate(inner, owner_of, 5_000_000, visitors=visitors, **more)
    return TestClient(gate, base_url="http://127.0.0.1:8000", follow_redirects=False)


def test_without_keys_the_page_is_there():
    answer = client_of().get("/")
    assert (answer.status_code, answer.text) == (200, "/ 0")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_with_keys_one_gives_one_and_is_in_until_one_leaves():
    client = client_of({KEY})
    asked = client.get("/")
    assert asked.status_code == 200
    assert 'name="key"' in asked.text
    assert client.post("/gradio_api/run/predict", headers=OURS).status_code == 401
    assert client.get("/assets/index.js").status_code == 401
    given = client.post("/login", data={"key": KEY}, headers=OURS)
    assert (given.status_code, given.headers["location"]) == (303, "/")
    kept = given.headers["set-cookie"].lower()
    assert "httponly" in kept
    assert "samesite=strict" in kept
    assert client.get("/").text == "/ 0"
    assert client.post("/gradio_api/run/predict", content=b"{}", headers=OURS).text == "/gradio_api/run/predict 2"
    client.post("/logout", headers=OURS)
    assert 'name="key"' in client.get("/").text


@pytest.mark.parametrize("key", ["", "er_wrong", "a;b", "a\nb", "é", "x" * 600, "<script>", KEY + " x"])
def test_a_key_that_is_not_known_opens_nothing(key):
    client = client_of({KEY})
    answer = client.post("/login", data={"key": key}, headers=OURS)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "<script>" not in answer.text.split("</style>")[1]
    assert client.post("/login", content=b"key=" + b"x" * 10_000, headers=OURS).status_code == 413


@pytest.mark.parametrize("cookie", [f"{COOKIE}=", f"{COOKIE}=wrong", '"', "a=b; ;;=", f"x={KEY}"])
def test_a_cookie_that_is_none_opens_nothing(cookie):
    client = client_of({KEY})
    assert client.post("/gradio_api/run/predict", headers={**OURS, "Cookie": cookie}).status_code == 401


@pytest.mark.parametrize("headers", THEIRS)
def test_other_sites_cannot_press_the_buttons(headers):
    assert client_of().post("/gradio_api/run/predict", headers=headers).status_code == 403
    assert client_of({KEY}).post("/login", data={"key": KEY}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/deep_link",
        "/gradio_api/vibe-edit",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/info",
        "/gradio_api/run-history/buckets",
        "/gradio_api/component_server",
        "/gradio_api/run/something",
        "/gradio_api/queue/join",
        "/gradio_api/stream/x",
        "/monitoring",
        "/custom_component/x",
        "/page",
    ],
)
def test_what_the_page_has_no_use_for_is_not_there(path):
    assert client_of().get(path).status_code == 404
    assert client_of().post(path, headers=OURS).status_code == 404


@pytest.mark.parametrize(
    ("path", "most"), [("/gradio_api/upload", 5_010_000), ("/gradio_api/run/predict", LONGEST_EVENT)]
)
def test_bodies_have_an_end(path, most):
    client = client_of()
    assert client.post(path, content=b"x" * most, headers=OURS).text == f"{path} {most}"
    assert client.post(path, content=b"x" * (most + 1), headers=OURS).status_code == 413
    untold = client.post(path, content=(b"x" * 100_000 for _ in range(most // 100_000 + 2)), headers=OURS)
    assert int(untold.text.split()[1]) <= most


def test_visitors_need_no_key_and_may_see_the_page_in_a_frame():
    client = client_of(visitors=True, parents="https://huggingface.co")
    answer = client.get("/")
    assert answer.text == "/ 0"
    assert "frame-ancestors https://huggingface.co" in answer.headers["content-security-policy"]
