"""Bodies as clients of other servers send them: SGLang's, FastVideo's and vLLM-Omni's fields, spelled as theirs are."""

import base64
import json

import pytest

from tests.serve.api.servers import picture, small_film

PROMPT = "a red fox"
SGLANG = {
    "prompt": PROMPT, "model": "tiny", "seconds": 2, "size": "", "seed": 1024, "generator_device": "",
    "num_inference_steps": 4, "guidance_scale": 5.0, "negative_prompt": "rain", "enable_teacache": False,
}  # fmt: skip
FASTVIDEO = {"prompt": PROMPT, "num_frames": 49, "fps": 24, "size": "160x96", "seed": 3, "enable_teacache": False}
VLLM_OMNI = {
    "prompt": PROMPT, "width": "160", "height": "96", "num_frames": "49", "fps": "24", "flow_shift": "3.0",
    "guidance_scale": "5.0", "seed": "3", "user": "ann", "enable_frame_interpolation": "false", "n": "1",
    "extra_params": "{}",
}  # fmt: skip


def data_url(path, kind):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.mark.parametrize("body", [SGLANG, FASTVIDEO], ids=["SGLang", "FastVideo"])
@pytest.mark.parametrize("form", [False, True])
def test_their_bodies_are_taken(serve, body, form):
    server = serve(make=False)
    files = {
        name: (None, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in body.items()
    }
    with server.client() as client:
        reply = client.post("/v1/videos", files=files) if form else client.post("/v1/videos", json=body)
    assert reply.status_code == 200, reply.text
    request = server.jobs.get(reply.json()["id"]).order.request
    assert (request.prompt, request.seed, request.length) == (PROMPT, body["seed"], body.get("num_frames", 48))


@pytest.mark.parametrize(("field", "url", "made", "kind"), [
    ("image_reference", "image_url", picture, "image/png"),
    ("video_reference", "video_url", small_film, "video/mp4"),
])  # fmt: skip
@pytest.mark.parametrize("form", [False, True])
def test_references_of_vllm_omni_are_taken(serve, tmp_path, field, url, made, kind, form):
    server = serve(make=False)
    reference = {url: data_url(made(tmp_path), kind)}
    with server.client() as client:
        if form:
            fields = VLLM_OMNI | {field: json.dumps(reference), "prompt_schedule": json.dumps({"24": "it jumps"})}
            reply = client.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})
        else:
            body = {"prompt": PROMPT, "prompt_schedule": {"24": "it jumps"}, "num_frames": 49, field: reference}
            reply = client.post("/v1/videos", json=body)
    assert reply.status_code == 200, reply.text
    order = server.jobs.get(reply.json()["id"]).order
    assert bool(order.image) == (made is picture) and bool(order.follows) == (made is small_film)
    assert order.request.story == {24: "it jumps"}


def test_what_asks_for_something_that_is_not_served_is_still_refused(serve):
    with serve(make=False).client() as client:
        for name, value in (("enable_teacache", True), ("n", 2), ("generator_device", "cuda"), ("lora", {})):
            reply = client.post("/v1/videos", json={"prompt": PROMPT, name: value})
            assert reply.status_code == 400 and reply.json()["error"]["param"] == name
        assert client.post("/v1/videos/sync", json={"prompt": PROMPT}).status_code == 501
