"""What is shown of a film: the command and the request that make it again, and figures of what it would cost."""

import shlex
from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from everreel import cli
from everreel.film.loading import ModelOptions, model_options
from everreel.film.request import make_request
from everreel.serve.api.schema import VideoCreate, VideoExtend
from everreel.serve.jobs.job import Job, Owner
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.service import Outlook
from everreel.serve.ui import shown
from tests.serve.ui.desks import make_jobs

FILE, FILM = f"file_{'a' * 32}", f"video_{'b' * 32}"
ORDERS = [
    make_order(prompt='a red fox\'s run & "more" $(rm -rf ~); `ls`', seconds=2.5, seed=7),
    make_order(prompt="-o evil.mp4", num_frames=49, height=96, width=160, resolution=None, loop=True, cache=False),
    make_order(
        prompt="a fox",
        story={36: "it jumps: high\nand far", 72: "--it sleeps"},
        negative_prompt="blur",
        num_frames=97,
        guidance_scale=3.5,
        num_inference_steps=12,
        schedule="rolling",
        model="tiny-fast",
    ),
    make_order(prompt="a fox", image=FILE, end_image=FILE, keyframes={48: FILE, 60: FILE}, num_frames=97),
]


@pytest.mark.parametrize("order", ORDERS, ids=range(len(ORDERS)))
def test_the_command_makes_the_same_request(order):
    from typer.main import get_command

    words = shlex.split(shown.command_of(order))
    assert words[:2] == ["everreel", "generate"]
    command = get_command(cli.app).commands["generate"]
    context = command.make_context("generate", words[2:], resilient_parsing=False)
    given = context.params
    from everreel.options import _keyframes, prompts_of

    told = prompts_of(given["prompt"], list(given["part"] or []), None, given["fps"])
    request = order.request
    assert told["prompt"].split() == request.prompt.split()
    assert {frame: " ".join(text.split()) for frame, text in told["story"].items()} == request.story
    assert set(_keyframes(list(given["keyframe"] or []))) == set(order.keyframes)
    assert (given["image"] is None, given["end_image"] is None) == (order.image is None, order.end_image is None)
    assert given["model"] == order.model
    for name in request.model_fields_set - {"prompt", "story"}:
        assert given[name] == getattr(request, name), name


def test_the_command_of_a_longer_film_extends_it():
    order = make_order(prompt="it's night", num_frames=48, seed=3, height=96, width=160, extends=FILM)
    words = shlex.split(shown.command_of(order))
    assert words[:3] == ["everreel", "extend", "film.mp4"]
    assert words[3:] == ["--output", "longer.mp4", "--prompt=it's night", "--num-frames", "48", "--seed", "3"]


def test_the_command_of_a_longer_film_has_its_story_and_is_one_that_is_taken():
    from typer.main import get_command

    order = make_order(prompt="it wakes", num_frames=48, story={24: "it jumps"}, fps=24, shift=4.0, extends=FILM)
    words = shlex.split(shown.command_of(order))
    given = get_command(cli.app).commands["extend"].make_context("extend", words[2:]).params
    assert given["prompt"] == ["it wakes", "24f: it jumps"] and given["num_frames"] == 48
    assert set(shown.body_of(order)) == {"video", "prompt", "story", "num_frames"}


def test_the_command_of_an_endless_film_makes_as_much_of_it():
    order = make_order(prompt="a fox", endless=True)
    assert "--num-frames 241" in shown.command_of(order, made=241)


def test_the_command_names_what_the_server_runs_the_model_with(tmp_path):
    (tmp_path / "ink.safetensors").touch()
    how = model_options(lora=(f"{tmp_path}/ink.safetensors=0.8",), quantization="int8")
    assert "--lora ink.safetensors=0.8 --quantization int8" in shown.command_of(ORDERS[0], how)


@pytest.mark.parametrize("order", [ORDERS[0], make_order(prompt="a fox", num_frames=48, follows=FILE)])
def test_the_command_has_every_option_of_the_model_that_is_set(tmp_path, order):
    from typer.main import get_command

    (tmp_path / "ink.safetensors").touch()
    how = {"kind": "df", "device": "cuda:1", "dtype": "float16", "memory": "24 GB", "quantization": "int8",
           "attention": "sdpa", "compile": True}  # fmt: skip
    model = model_options(parts=tmp_path / "wan", lora=(f"{tmp_path}/ink.safetensors=0.8",), **how)
    assert set(ModelOptions.model_fields) == {*how, "model", "parts", "lora"}
    command = shown.command_of(order, model)
    assert str(tmp_path) not in command
    words = shlex.split(command)
    given = get_command(cli.app).commands[words[1]].make_context(words[1], words[2:]).params
    assert {name: given[name] for name in how} == how
    assert str(given["parts"]) == "wan" and list(given["lora"]) == ["ink.safetensors=0.8"]
    plain = shown.command_of(order, model_options())
    assert not any(f"--{name}" in plain for name in (*how, "parts", "lora"))


def test_of_a_film_whose_prompts_were_made_whole_one_sees_what_was_added(tmp_path):
    jobs = make_jobs(tmp_path)
    asked = {"prompt": "a quagga runs", "num_frames": 49, "story": {36: "a snark jumps"}}
    film = jobs.submit(make_order(**asked, enhance=True), Owner())[0]
    told = shown.screen_of(film, jobs, "token")
    first, second = told["added"].split("\n")
    assert first.startswith("Built-in: ") and first.endswith("not known, kept: quagga")
    assert second.startswith("From 1.5 s: built-in: ") and second.endswith("not known, kept: snark")
    plain = jobs.submit(make_order(**asked), Owner())[0]
    assert shown.screen_of(plain, jobs, "token")["added"] == ""


def test_of_a_longer_film_it_is_said_that_the_command_needs_the_journal(tmp_path):
    jobs = make_jobs(tmp_path)
    first = jobs.submit(make_order(prompt="a fox", num_frames=5), Owner())[0]
    assert shown.screen_of(first, jobs, "token")["note"] == ""
    longer = replace(first, order=make_order(prompt="it sleeps", num_frames=48, height=96, width=160, extends=first.id))
    told = shown.screen_of(longer, jobs, "token")
    assert "The JSON makes exactly this film" in told["note"] and "journal" in told["note"]
    assert f'"id": "{first.id}"' in told["body"]


@pytest.mark.parametrize("order", ORDERS, ids=range(len(ORDERS)))
def test_the_body_is_one_that_the_interface_takes(order):
    body = shown.body_of(order)
    VideoCreate.model_validate(body)
    assert shown.address_of(order) == "/v1/videos"
    given = {name: body[name] for name in order.request.model_fields_set if name in body and name != "story"}
    story = {int(frame): text for frame, text in body.get("story", {}).items()}
    assert make_request(**given, story=story) == order.request


@pytest.mark.parametrize("source", [{"extends": FILM}, {"follows": FILE}])
def test_the_body_of_a_longer_film_is_one_for_extensions(source):
    order = make_order(prompt="it sleeps", num_frames=48, seed=3, height=96, width=160, **source)
    VideoExtend.model_validate(shown.body_of(order))
    assert shown.address_of(order) == "/v1/videos/extensions"


def test_a_plan_escapes_what_it_is_given_and_knows_what_cannot_be_told():
    outlook = Outlook("<b>", ("from frame 5 on: <script>",), 97, 4.04, 160, 96, 24, 3, 30, 50, float("nan"), 2.4e9)
    made = shown.plan_html(outlook)
    assert "<script>" not in made
    assert "<b>" not in made
    for figure in ("97", "4.0 s", "160×96", "<dd>3</dd><dt>blocks of 30 steps</dt>", "unknown", "2.4 GB"):
        assert figure in made
    assert "<img" not in shown.error_html("<img src=x>")


def test_the_plan_of_an_endless_film_has_no_length():
    outlook = Outlook("", (), 97, 4.04, 160, 96, 24, 3, 30, 50, 7.0, 2.4e9, endless=True)
    made = shown.plan_html(outlook)
    assert "<dd>∞</dd><dt>film</dt>" in made and "<dd>7 s</dd><dt>for the first 4.0 s</dt>" in made
    assert "97" not in made and "takes about" not in made


@pytest.mark.parametrize(
    ("status", "wanted", "may"),
    [
        ("queued", "run", ["pause", "cancel"]),
        ("in_progress", "run", ["pause", "cancel"]),
        ("in_progress", "pause", ["resume", "cancel"]),
        ("paused", "pause", ["resume", "cancel"]),
        ("completed", "run", ["edit", "delete"]),
        ("failed", "run", ["resume", "edit", "delete"]),
        ("cancelled", "cancel", ["resume", "edit", "delete"]),
    ],
)
def test_only_what_works_is_offered(status, wanted, may):
    assert shown.can(Job(FILM, "local", ORDERS[0], status, 0, 1, 1, wanted=wanted)) == may
