"""Everything that can be wrong with a request: the right status, one line that names the field, and never a path."""

import json
import socket

import pytest

from everreel.serve.api.schema import VideoExtend
from everreel.serve.jobs import uploads
from everreel.serve.jobs.job import BusyError, DiskFullError, Limits, Owner, Quota
from everreel.serve.jobs.order import EXTENDED
from tests.serve.api.servers import KEYS, picture, small_film, wait

ASKED = {"prompt": "a red fox", "num_frames": 17}


def told(reply, status, param=None):
    """The message of an error, which has the one shape."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(reply.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param, error
    assert "\n" not in error["message"] and "/home" not in error["message"] and "Traceback" not in reply.text
    return error["message"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"prompt": "  "}, "prompt", "is empty"),
        ({"num_frames": 17}, "prompt", "must be given"),
        ({"prompt": 5}, "prompt", "string"),
        (ASKED | {"num_framse": 5}, "num_framse", "nearest that is: num_frames"),
        (ASKED | {"output_path": "/etc/passwd"}, "output_path", "films are kept by the server"),
        (ASKED | {"diffusers_kwargs": {"eta": 1}}, "diffusers_kwargs", "no meaning here"),
        (ASKED | {"enable_teacache": True}, "enable_teacache", "step_cache"),
        (ASKED | {"character_ids": ["x"]}, "character_ids", "characters are not served"),
        (ASKED | {"fps": 25}, "fps", "nearest that works: 24"),
        (ASKED | {"fps": "24"}, "fps", "integer"),
        (ASKED | {"seconds": "long"}, "seconds", 'seconds = "long": must be a number of seconds, such as 4'),
        ({"prompt": "a", "seconds": []}, "seconds", "seconds = []: must be a number of seconds, such as 4"),
        (ASKED | {"num_frames": 10**7}, "num_frames", "at most 600 s; nearest that works: 14400"),
        ({"prompt": "a", "seconds": 601}, "seconds", "nearest that works: 600"),
        (ASKED | {"size": "big"}, "size", "160x96 works"),
        (ASKED | {"size": "161x96"}, "size", "size = 161x96: both must be multiples of 16"),
        (ASKED | {"size": "10x99999"}, "size", "nearest that works: 16x4096"),
        (ASKED | {"size": "4096x4096"}, "size", "pixels a frame"),
        (ASKED | {"size": "160x96", "aspect": "16:9"}, "aspect", "leave one out"),
        (ASKED | {"size": "160x96", "aspect_ratio": "9:16"}, "aspect_ratio", "is not that of 160x96"),
        (ASKED | {"aspect_ratio": "4:3"}, "aspect_ratio", "must be one of 16:9, 9:16, 1:1"),
        (ASKED | {"aspect_ratio": "16:9", "aspect": "16:9"}, "aspect_ratio", "leave one out"),
        (ASKED | {"aspect_ratio": "0:0"}, "aspect_ratio", 'aspect_ratio = "0:0": must be WIDTH:HEIGHT'),
        (ASKED | {"video_params": [1]}, "video_params", "JSON object"),
        (ASKED | {"video_params": {"widht": 160}}, "widht", "nearest that is: width"),
        (ASKED | {"video_params": {"video_params": {}}}, "video_params", ""),
        (ASKED | {"model": "sora-2"}, "model", "must be one of tiny"),
        (ASKED | {"priority": 3}, "priority", "at most 0"),
        (ASKED | {"shift": 3.0, "flow_shift": 4.0}, "flow_shift", "leave one out"),
        (ASKED | {"story": [{"prompt": "b"}]}, "story[0]", "seconds or frame"),
        (ASKED | {"story": [{"prompt": "b", "frame": 1, "at": 3}]}, "story", "story[0].at: is not known"),
        (ASKED | {"story": {"8": 5}}, "story", "story[8] = 5: must be a valid string"),
        (ASKED | {"story": {"a": "b"}}, "story", "must be the number of a frame, such as 48"),
        (ASKED | {"story": 5}, "story", "story = 5: must be prompts by frame, such as"),
        (ASKED | {"story": {"0": "b"}}, "story[0]", "frame 0"),
        (ASKED | {"keyframes": {"x": "file_" + "0" * 32}}, "keyframes", "the number of a frame, such as 48"),
        (
            ASKED | {"keyframes": {"99": {"file_id": "file_0"}}},
            "keyframes",
            'keyframes[99].file_id = "file_0": must be',
        ),
        (ASKED | {"input_reference": 7}, "input_reference", "input_reference = 7: must be a file, the id of"),
        (ASKED | {"input_reference": {}}, "input_reference", "file_id, image_url or video_url"),
        (ASKED | {"input_reference": "/etc/passwd"}, "input_reference", "must be a file"),
        (ASKED | {"input_reference": {"image_url": "file:///etc/passwd"}}, "input_reference", "must be a file"),
        (ASKED | {"input_reference": {"image_url": "http://localhost/"}}, "input_reference", "fetches nothing"),
        (ASKED | {"input_reference": {"image_url": "data:image/png;base64,?"}}, "input_reference", "base64"),
        (ASKED | {"input_reference": {"image_url": "data:image/png;base64,AAAA"}}, "input_reference", "picture"),
        (ASKED | {"endless": True}, None, "endless"),
        (ASKED | {"extra_params": [1]}, "extra_params", "JSON object"),
    ],
)
def test_what_cannot_be_is_refused_by_name(refusing, body, param, said):
    assert said in told(refusing.post("/v1/videos", json=body), 400, param)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """One server for all that it refuses."""
    from tests.serve.api.servers import Served, inspect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "inspect", inspect)
        with Served(tmp_path_factory.mktemp("home"), make=False) as server, server.client() as client:
            client.server = server
            yield client
            assert not list(server.settings.inbox.iterdir()), "something stayed"
            assert not server.jobs.queue.page(None), "a film was made of nonsense"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b'{"prompt": ', "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"prompt": NaN}', "NaN is no number"),
        (b'{"prompt": "a", "shift": 1e999}', "too large a number"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"prompt": "\xff"}', "must be UTF-8"),
        (b'{"prompt": "\\ud800"}', "half a character"),
        (b'{"prompt": "a", "prompt": "b"}', "is there twice"),
        (b'{"prompt": ' + b"[" * 50 + b"]" * 50 + b"}", "nests deeper"),
        (b"[" * 100_000, ""),
    ],
)
def test_json_that_is_none_is_refused(refusing, data, said):
    reply = refusing.post("/v1/videos", content=data, headers={"Content-Type": "application/json"})
    assert said in told(reply, 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml"])
def test_other_kinds_of_bodies_are_not_read(refusing, kind):
    told(refusing.post("/v1/videos", content=b"{}", headers={"Content-Type": kind}), 415)


def form(*parts, end=b"--b--\r\n"):
    head = b"--b\r\nContent-Disposition: form-data; "
    return b"".join(head + disposition + b"\r\n\r\n" + value + b"\r\n" for disposition, value in parts) + end


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (form((b'name="prompt"', b"a"), (b'name="prompt"', b"b")), "prompt: is there twice"),
        (form((b'name="prompt"', b"a"), end=b""), "cut off"),
        (form((b'name="video"; filename="x"', b"half"), end=b""), "cut off"),
        (form((b'name="prompt"', b"\xff")), "must be UTF-8"),
        (form((b'name="prompt"', b"a"), (b'name="a[b][c][d]"', b"1")), "is no name of a field"),
        (form((b'name="prompt"', b"a"), (b'name="../x"; filename="/etc/passwd"', b"1")), "is no name of a field"),
        (form((b"filename=x", b"1")), "has no name"),
        (form((b'name="prompt"; filename="a.txt"', b"a fox")), "prompt"),
        (form((b'name="prompt"', b"a"), (b'name="seed"', b"x")), "seed"),
        (form((b'name="prompt"', b"a"), (b'name="keyframes"', b"{")), "keyframes: is not JSON"),
        (b"nothing of a form", "is not a form"),
        (b"", "cut off"),
    ],
)
def test_forms_that_are_none_are_refused(refusing, data, said):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert said in told(refusing.post("/v1/videos", content=data, headers=headers), 400)


def test_a_form_without_a_boundary_is_refused(refusing):
    assert "boundary" in told(
        refusing.post("/v1/videos", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400
    )


def test_a_file_that_is_neither_picture_nor_film_is_refused(refusing):
    reply = refusing.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": b"nothing"})
    assert told(reply, 400, "input_reference").startswith("input_reference: ")
    told(refusing.post("/v1/files", files={"file": b"nothing"}), 400)
    told(refusing.post("/v1/files", json={"file": "x"}), 415)
    told(refusing.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": b"x"}), 400, "purpose")


def test_a_film_is_no_keyframe(serve, tmp_path):
    server = serve(make=False)
    with server.client() as client:
        sent = {"keyframes[48]": small_film(tmp_path).read_bytes()}
        assert "a picture is needed" in told(client.post("/v1/videos", data={"prompt": "a"}, files=sent), 400)
        named = client.post("/v1/videos", data={"prompt": "a"}, files={"keyframes[48]": picture(tmp_path).read_bytes()})
        assert named.status_code == 200 and 48 in server.jobs.get(named.json()["id"]).order.keyframes


def raw(server, data):
    """What the server answers to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        line.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = line.recv(65536)
            assert piece, "no answer"
            answer += piece
    return int(answer.split()[1])


HEAD = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(serve):
    server = serve(make=False)
    assert raw(server, HEAD + b"Content-Length: 99999999999\r\n\r\n") == 413


def test_a_body_of_no_announced_length_is_counted(serve):
    server = serve(make=False, json_bytes=1000)
    pieces = b"".join(b"3e8\r\n" + b"a" * 1000 + b"\r\n" for _ in range(2))
    assert raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + pieces) == 413


def test_a_file_that_is_too_large_is_refused_while_it_comes(serve):
    server = serve(make=False, limits=Limits(upload_bytes=1000))
    with server.client() as client:
        told(client.post("/v1/files", files={"file": b"x" * 2000}), 413, "file")
    assert not list(server.settings.inbox.iterdir())


def test_a_client_that_leaves_while_it_sends_leaves_nothing(serve):
    server = serve(make=False)
    kind = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n" + kind
        line.sendall(head + form((b'name="file"; filename="x"', b"x" * 3_000_000), end=b""))
        wait(lambda: list(server.settings.inbox.iterdir()), "the file's begin")
    wait(lambda: not list(server.settings.inbox.iterdir()), "its end")


def test_unknown_films_addresses_and_methods(refusing):
    nobody = "video_" + "0" * 32
    for path in (nobody, f"{nobody}/content", f"{nobody}/stream", f"{nobody}/events", "x", "%00", "..%2f..%2fetc"):
        told(refusing.get(f"/v1/videos/{path}"), 404)
    for path in ("cancel", "pause", "resume"):
        told(refusing.post(f"/v1/videos/{nobody}/{path}"), 404)
    told(refusing.post(f"/v1/videos/{nobody}/remix", json={"prompt": "a"}), 404)
    told(refusing.post("/v1/videos/extensions", json={"video": {"id": nobody}, "prompt": "a"}), 404)
    told(refusing.get("/v1/videos", params={"after": nobody}), 404)
    told(refusing.get("/v1/models/sora-2"), 404, "model")
    told(refusing.get("/v1/nothing"), 404)
    reply = refusing.put("/v1/videos", json={})
    told(reply, 405)
    assert "GET" in reply.headers["allow"] or "POST" in reply.headers["allow"]
    named = {"prompt": "a", "input_reference": {"file_id": "file_" + "0" * 32}}
    told(refusing.post("/v1/videos", json=named), 404, "input_reference")


def test_several_numbers_are_a_list(serve):
    """In JSON, where a number more than whole ones is refused as anywhere else, and in a form."""
    server = serve(make=False)
    several = {
        "causal_block_size": [1, 4],
        "ar_step": 5,
        "skip_layer_guidance_scale": 2,
        "skip_guidance_layers": [1, 0],
    }
    with server.client() as client:
        form = {name: (None, json.dumps(value)) for name, value in (ASKED | several).items()}
        for body in ({"json": ASKED | several}, {"files": form | {"prompt": (None, "a fox")}}):
            made = client.post("/v1/videos", **body)
            assert made.status_code == 200, made.text
            request = server.jobs.get(made.json()["id"]).order.request
            assert (request.causal_block_size, request.skip_guidance_layers) == ((1, 4), (0, 1))
        sent = {"prompt": (None, "a fox"), "skip_guidance_layers": ("a.png", b"not numbers", "image/png")}
        told(client.post("/v1/videos", files=sent), 400, "skip_guidance_layers")
        for wrong in ("3,5", ["a"], [1.5], [True], 3):
            body = {**ASKED, "skip_layer_guidance_scale": 2, "skip_guidance_layers": wrong}
            told(client.post("/v1/videos", json=body), 400)


EXTENSIONS_OWN = {"video", "model", "priority", "enhance", "endless", "user"}
OF_A_NEW_FILM = sorted(set(VideoExtend.model_fields) - set(EXTENDED) - EXTENSIONS_OWN)
VALUES = {
    "schedule": "blockwise",
    "join": "carry",
    "negative_prompt": "rain",
    "fps": 24,
    "cache": True,
    "blend_overlap": True,
    "skip_guidance_layers": [1],
}


@pytest.mark.parametrize("field", OF_A_NEW_FILM)
def test_a_film_made_here_goes_on_as_it_was_made(serve, field):
    server = serve(make=False)
    with server.client() as client:
        film = client.post("/v1/videos", json=ASKED).json()["id"]
        body = {"video": {"id": film}, "prompt": "a", field: VALUES.get(field, 1)}
        assert "as it was made" in told(client.post("/v1/videos/extensions", json=body), 400, field)


@pytest.mark.parametrize("video", [{}, {"id": "x"}, {"id": None}, "video_x", 5, {"file_id": "x"}])
def test_an_extension_needs_a_film(refusing, video):
    told(refusing.post("/v1/videos/extensions", json={"video": video, "prompt": "a", "model": "tiny"}), 400, "video")


def test_parameters_that_cannot_be(refusing):
    for name, value in (("limit", 0), ("limit", 101), ("limit", "x"), ("order", "up")):
        told(refusing.get("/v1/videos", params={name: value}), 400, name)
    told(refusing.get("/v1/videos/x/content", params={"variant": "gif"}), 400, "variant")


@pytest.mark.parametrize(
    ("path", "name", "works"),
    [
        ("?limt=5", "limt", "nearest that is: limit"),
        ("?limit=5&oder=asc", "oder", "nearest that is: order"),
        ("/{film}/content?varient=thumbnail", "varient", "nearest that is: variant"),
        ("/{film}/events?preveiw=1", "preveiw", "nearest that is: preview"),
        ("/{film}/stream?variant=x", "variant", "nearest that is: token"),
        ("/{film}?token=x", "token", "takes none"),
    ],
)
def test_a_parameter_that_is_not_known_is_refused_by_name(refusing, path, name, works):
    assert works in told(refusing.get(f"/v1/videos{path.format(film='video_' + '0' * 32)}"), 400, name)


def test_every_route_of_v1_refuses_a_parameter_that_it_does_not_know_and_says_so(refusing):
    document, asked = refusing.server.app.openapi(), 0
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            if path.startswith("/v1"):
                asked += 1
                assert "400" in route["responses"], path
                reply = refusing.request(method, path.replace("{video_id}", "video_" + "0" * 32), params={"nope": "1"})
                assert reply.status_code == 400, path
                if method != "head":
                    told(reply, 400, "nope")
    assert asked > 15


@pytest.mark.parametrize("way", ["cancel", "pause", "resume"])
def test_what_takes_no_body_refuses_one_that_says_something(serve, way):
    server = serve(make=False)
    with server.client() as client:
        film = client.post("/v1/videos", json=ASKED).json()["id"]
        if way == "resume":
            client.post(f"/v1/videos/{film}/pause")
        before = server.jobs.get(film)
        for body in ({"reason": "too long"}, [1]):
            assert "takes none" in told(client.post(f"/v1/videos/{film}/{way}", json=body), 400)
        told(client.post(f"/v1/videos/{film}/{way}", content=b" " * 10_000), 413)
        assert server.jobs.get(film) == before
        assert client.post(f"/v1/videos/{film}/{way}", json={}).status_code == 200  # as some clients send it


def test_a_films_state_may_not_allow_it(serve):
    server = serve(step=True)
    with server.client() as client:
        film = client.post("/v1/videos", json=ASKED).json()["id"]
        assert "completed" in told(client.get(f"/v1/videos/{film}/content"), 404)
        told(client.get(f"/v1/videos/{film}/content?variant=thumbnail"), 404, "variant")
        told(client.post("/v1/videos/extensions", json={"video": {"id": film}, "prompt": "b"}), 409)
        server.maker.go(9)
        wait(lambda: server.jobs.get(film).over)
        refused = client.post(f"/v1/videos/{film}/cancel")
        told(refused, 409)
        assert refused.headers["x-should-retry"] == "false"
        longer = {"video": film, "prompt": "b", "fps": 16}
        told(client.post("/v1/videos/extensions", json=longer), 400, "fps")
        told(client.post("/v1/videos/extensions", json={"video": film, "size": "160x96"}), 400)


def test_a_quota_and_a_full_disk_have_their_own_answers(serve, monkeypatch):
    poor = Owner("anna", Quota(films=1))
    server = serve(make=False, keys={"key": poor})
    with server.client("key") as client:
        assert client.post("/v1/videos", json=ASKED).status_code == 200
        reply = client.post("/v1/videos", json=ASKED)
        assert told(reply, 429) and int(reply.headers["retry-after"]) > 0

        def full(*_, **__):
            raise DiskFullError("disk: is full on the server")

        monkeypatch.setattr(server.jobs.queue, "put", full)
        told(client.post("/v1/videos", json=ASKED), 507)


def test_no_film_is_ordered_that_there_is_no_room_for(serve, monkeypatch):
    """Though there may be room to write the order down."""
    server = serve(make=False)
    with server.client() as client:
        once = {"Idempotency-Key": "a"}
        film = client.post("/v1/videos", json=ASKED, headers=once).json()["id"]
        turned = dict(reversed(ASKED.items()))  # the same, in another order
        assert client.post("/v1/videos", json=turned, headers=once).json()["id"] == film
        monkeypatch.setattr(server.jobs.store, "free_bytes", lambda: 0)
        assert "disk: is full" in told(client.post("/v1/videos", json=ASKED), 507)
        assert client.post("/v1/videos", json=ASKED, headers=once).json()["id"] == film, "it is ordered already"
        assert [one["id"] for one in client.get("/v1/videos").json()["data"]] == [film]


@pytest.mark.parametrize("kind", [BusyError, TimeoutError])
def test_what_cannot_be_done_just_now_says_when_to_ask_again(serve, monkeypatch, kind):
    server = serve(make=False)

    def busy(*_, **__):
        raise kind("upload: too many are being read; try again in a minute")

    monkeypatch.setattr(server.jobs.queue, "put", busy)
    with server.client() as client:
        reply = client.post("/v1/videos", json=ASKED)
        assert reply.status_code == 503 and int(reply.headers["Retry-After"]) > 0
        assert reply.json()["error"]["code"] == "busy"


def test_a_fault_of_our_own_says_nothing_of_the_inside(serve, monkeypatch):
    server = serve(make=False)

    def broken(*_, **__):
        raise KeyError("/secret/path")

    monkeypatch.setattr(server.jobs.queue, "page", broken)
    with server.client() as client:
        reply = client.get("/v1/videos")
        assert (
            reply.status_code == 500 and "secret" not in reply.text and reply.json()["error"]["type"] == "server_error"
        )
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_each_sees_only_their_own(serve):
    server = serve(make=False, keys=KEYS)
    with server.client("key-of-anna") as anna, server.client("key-of-bert") as bert:
        film = anna.post("/v1/videos", json=ASKED).json()["id"]
        assert bert.get("/v1/videos").json()["data"] == []
        for reply in (
            bert.get(f"/v1/videos/{film}"),
            bert.delete(f"/v1/videos/{film}"),
            bert.post(f"/v1/videos/{film}/cancel"),
            bert.post(f"/v1/videos/{film}/remix", json={"prompt": "a"}),
            bert.get("/v1/videos", params={"after": film}),
        ):
            told(reply, 404)
        assert len(anna.get("/v1/videos").json()["data"]) == 1


def test_idempotency_keys_are_plain_and_short(refusing):
    for key in ("", "x" * 300):
        reply = refusing.post("/v1/videos", json=ASKED, headers={"Idempotency-Key": key})
        told(reply, 400, "Idempotency-Key")


def test_a_plan_makes_nothing(serve):
    server = serve(make=False)
    with server.client() as client:
        reply = client.post("/v1/videos/plan", json={"prompt": "a red fox", "seconds": 2})
        assert reply.status_code == 200, reply.text
        plan = reply.json()
        assert (plan["num_frames"], plan["width"], plan["height"], plan["fps"]) == (48, 160, 96, 24)
        assert (plan["blocks"], plan["steps"], plan["passes"]) == (1, 30, 30)
        assert "1 block of 30 steps, 30 denoising passes" in plan["summary"] and json.dumps(plan["lines"])
        assert server.jobs.queue.page(None) == []
