"""Bodies as clients of other servers send them: SGLang's, FastVideo's and vLLM-Omni's fields, spelled as theirs are."""

import base64
import json

import pytest

from tests.serve.api.servers import Served, picture, small_film

PROMPT = "a red fox"
# What their clients send by themselves is written out, as theirs are documented to fill it in.
SGLANG = {
    "prompt": PROMPT, "model": "tiny", "n": 1, "num_outputs_per_prompt": 1, "seconds": 4, "size": "", "seed": 1024,
    "generator_device": "cuda", "num_inference_steps": 4, "guidance_scale": 5.0, "negative_prompt": "rain",
    "num_frames": 49, "fps": 24, "width": 160, "height": 96, "guidance_scale_2": None, "true_cfg_scale": None,
    "boundary_ratio": None, "enable_teacache": False, "enable_frame_interpolation": False,
    "frame_interpolation_exp": 1, "frame_interpolation_scale": 1.0, "frame_interpolation_model_path": None,
    "enable_upscaling": False, "upscaling_scale": 4, "output_quality": "default", "output_compression": None,
    "rollout": False, "rollout_sde_type": "sde", "rollout_noise_level": 0.7, "diffusers_kwargs": {},
    "character_ids": [],
}  # fmt: skip
FASTVIDEO = {
    "prompt": PROMPT, "seconds": 4, "num_frames": 49, "fps": 24, "size": "160x96", "width": 320, "height": 192,
    "aspect_ratio": "16:9", "seed": 3, "enable_teacache": False, "generate_sound": False,
}  # fmt: skip
VLLM_OMNI = {
    "prompt": PROMPT, "width": "160", "height": "96", "num_frames": "49", "fps": "24", "flow_shift": "3.0",
    "guidance_scale": "5.0", "seed": "3", "user": "ann", "enable_frame_interpolation": "false", "n": "1",
    "extra_params": "{}", "seconds": "4", "boundary_ratio": "", "frame_interpolation_exp": "1",
    "frame_interpolation_scale": "1.0", "generate_sound": "false", "aspect_ratio": "16:9",
}  # fmt: skip


def data_url(path, kind):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.mark.parametrize("body", [SGLANG, FASTVIDEO], ids=["SGLang", "FastVideo"])
@pytest.mark.parametrize("form", [False, True])
def test_their_bodies_are_taken(serve, body, form):
    server = serve(make=False)
    files = {
        name: (None, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in body.items()
        if value is not None
    }
    with server.client() as client:
        reply = client.post("/v1/videos", files=files) if form else client.post("/v1/videos", json=body)
    assert reply.status_code == 200, reply.text
    request = server.jobs.get(reply.json()["id"]).order.request
    assert (request.prompt, request.seed, request.length) == (PROMPT, body["seed"], 49)  # num_frames before seconds
    assert (request.width, request.height) == (160, 96)  # size before width and height


@pytest.mark.parametrize("form", [False, True])
def test_video_params_are_fields_of_the_body(serve, form):
    server = serve(make=False)
    nested = {"width": 160, "height": 96, "num_frames": 33, "fps": 16}
    with server.client() as client:
        if form:
            given = {"prompt": (None, PROMPT), "fps": (None, "24"), "video_params": (None, json.dumps(nested))}
            reply = client.post("/v1/videos", files=given)
        else:
            reply = client.post("/v1/videos", json={"prompt": PROMPT, "fps": 24, "video_params": nested})
    assert reply.status_code == 200, reply.text
    request = server.jobs.get(reply.json()["id"]).order.request
    # What stands in the body itself counts first.
    assert (request.width, request.height, request.length, request.fps) == (160, 96, 33, 24)


@pytest.mark.parametrize(
    ("more", "size"), [({}, "96x160"), ({"size": "96x160"}, "96x160"), ({"size": "96x176"}, "96x176")]
)
def test_an_aspect_ratio_chooses_the_size_or_fits_it(serve, more, size):
    with serve(make=False).client() as client:
        reply = client.post("/v1/videos", json={"prompt": PROMPT, "num_frames": 5, "aspect_ratio": "9:16"} | more)
    assert reply.status_code == 200 and reply.json()["size"] == size, reply.text


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


@pytest.mark.parametrize(("name", "value", "said"), [
    ("enable_teacache", True, "step_cache = 0.1"),
    ("n", 2, "with another seed"),
    ("n", True, "with another seed"),
    ("num_outputs_per_prompt", 4, "with another seed"),
    ("generator_device", "moon", "seed is all it takes"),
    ("output_quality", "maximum", "one quality"),
    ("rollout", True, "schedule"),
    ("rollout_sde_type", "cps", "without noise"),
    ("enable_frame_interpolation", True, "fps"),
    ("frame_interpolation_exp", 2, "fps"),
    ("upscaling_scale", 2, "size"),
    ("boundary_ratio", 0.9, "one model"),
    ("generate_sound", True, "no sound"),
    ("lora", {"scale": 1}, "--lora"),
    ("character_ids", ["char_1"], "who is to be seen"),
])  # fmt: skip
def test_what_asks_for_something_that_is_not_served_is_still_refused(asking, name, value, said):
    reply = asking.post("/v1/videos", json={"prompt": PROMPT, name: value})
    error = reply.json()["error"]
    assert reply.status_code == 400 and (error["param"], error["code"]) == (name, "unsupported_field")
    assert said in error["message"]


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("home"), make=False) as server, server.client() as client:
        yield client
        assert not server.jobs.queue.page(None)
