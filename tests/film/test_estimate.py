"""What a film will cost: proportions that must hold on any machine."""

import math
from dataclasses import replace

import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.film import estimate as costs
from everreel.film.budget import place
from everreel.film.estimate import Calibration, calibrate, estimate
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.placement import Placement
from everreel.film.plan import make_plan, opening_of
from everreel.film.request import make_request


@pytest.fixture(autouse=True)
def one_speed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(costs, "_speed", lambda device, dtype: 1e11)


def cost(model="tiny", **options):
    card = find_model(model, here=False)
    return estimate(make_plan(make_request(prompt="a fox", **options), card), card, "cpu")


def test_work_grows_as_it_does():
    always = {"guidance_level": 1, "guidance_until": 0}
    film = cost(**always)
    assert cost(num_inference_steps=60, **always).seconds == pytest.approx(2 * film.seconds)
    assert cost(guidance_level=0).seconds == cost(guidance_scale=1).seconds == pytest.approx(film.seconds / 2)
    assert film.seconds / 2 < cost(guidance_level=0.5).seconds < cost().seconds < 0.9 * film.seconds
    assert cost(guidance_scale=1).seconds == pytest.approx(film.seconds / 2)
    skips = {"skip_layer_guidance_scale": 2}
    assert cost(**always, **skips).seconds == pytest.approx(1.5 * film.seconds)
    assert cost().seconds < cost(**skips).seconds < 1.5 * cost().seconds
    long = {"num_frames": 1457, "schedule": "blockwise"}  # rows that are branches of their own need not be kept in step
    assert cost(**long, **skips, guidance_until=0.5).seconds < cost(**long, guidance_until=0.5).seconds
    blocks = {
        "num_frames": 1457,
        "schedule": "blockwise",
    }  # its sink is some of what is looked back at
    assert cost(**blocks).seconds == pytest.approx(cost(**blocks, sink=0).seconds, rel=0.02)
    assert cost(num_frames=1457).seconds > 10 * film.seconds / 2  # blocks with a cache do less each
    assert cost(num_frames=2897, schedule="windows").seconds == pytest.approx(
        2 * cost(num_frames=1457, schedule="windows").seconds, rel=0.05
    )


def test_a_step_of_the_embedded_model_is_a_tenth_of_a_teraflop():
    """Counted by hand: 3,000 tokens, ten layers of 256 x 1,024."""
    products = 2 * 1500 * (6 * 256**2 + 2 * 256 * 1024)
    attention = 4 * 1500 * (1500 + 64) * 256
    film = cost(guidance_level=1, guidance_until=0)
    assert film.seconds == pytest.approx(30 * 2 * 10 * (products + attention) * 1.1 / 0.5e11)


def test_memory_does_not_follow_the_length_and_weights_are_those_of_the_model():
    assert cost(num_frames=1457).held == cost(num_frames=14570).held
    assert 30e6 < cost().weights < 100e6
    assert 38e9 < cost("DF-14B-540P").weights < 100e9
    assert 13e9 < cost("DF-1.3B-540P").weights < 16e9  # most of it the text encoder


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < costs._speed(costs.torch.device("cpu"), costs.torch.float32) < 1e14


@pytest.mark.parametrize(("kind", "owner"), [("cuda", torch.cuda), ("mps", torch.mps)])
def test_what_is_timed_has_ended(monkeypatch, kind, owner):
    """Devices other than the CPU give back what they have only begun."""
    waited = []
    monkeypatch.setattr(owner, "synchronize", lambda *_: waited.append(kind))
    costs._seconds(lambda: None, torch.device(kind))
    assert len(waited) == 4


def test_a_loop_is_its_opening_and_the_rest():
    request = make_request(prompt="a fox", num_frames=61, loop=True)
    card = find_model("tiny")
    plan = make_plan(request, card)
    opening, found = make_plan(opening_of(plan), card), estimate(plan, card, "cpu")
    bare = estimate(replace(plan, ring=None), card, "cpu")
    first = estimate(opening, card, "cpu")
    assert found.rows == len(plan.schedule) + len(opening.schedule)
    assert found.seconds == pytest.approx(bare.seconds + first.seconds)
    Calibration(math.inf, 1.0).save("tiny", found.placement)
    frames = plan.shape.num_frames + opening.shape.num_frames  # of the opening all are decoded as well
    assert estimate(plan, card, "cpu").seconds == frames * plan.request.height * plan.request.width


PLACED = Placement(torch.device("cpu"), torch.bfloat16)


def test_a_calibration_is_kept_and_used(tmp_path):
    card = find_model("tiny")
    before = cost()
    assert Calibration.find("tiny", before.placement) is None and not before.calibrated
    kept = Calibration(operations=5e10, pixels=1e6).save("tiny", before.placement)
    assert kept.is_relative_to(tmp_path)
    after = cost()
    work = before.seconds * 0.5e11 / 1.1
    assert after.calibrated and after.seconds == pytest.approx(work / 5e10 + 97 * card.height * card.width / 1e6)
    # Another model or number of threads is another machine.
    Calibration(1.0, 1.0).save("other", before.placement)
    assert Calibration.find("tiny", before.placement) == Calibration(5e10, 1e6)
    torch.set_num_threads(2)
    assert Calibration.find("tiny", before.placement) is None


@pytest.mark.parametrize(
    ("placed", "options"),
    [
        ({"dtype": torch.float32}, {}),
        ({"quantization": "q8_0"}, {}),
        ({"resident": 7, "parked": True}, {}),
        ({"parked": True}, {}),
        ({"tile": 32}, {}),
        ({}, {"attention": "flash"}),
        ({}, {"compile": True}),
    ],
)
def test_a_calibration_of_another_way_is_none_of_this_one(placed, options):
    card, way, given = find_model("tiny"), replace(PLACED, **placed), model_options(**options)
    plan = make_plan(make_request(prompt="a fox"), card)
    Calibration(5e10, 1e6).save("tiny", PLACED, model_options())
    assert not estimate(plan, card, "cpu", way, options=given).calibrated
    Calibration(1e10, 1e6).save("tiny", way, given)
    assert estimate(plan, card, "cpu", way, options=given).calibrated
    assert Calibration.find("tiny", PLACED) == Calibration(5e10, 1e6)


def test_how_many_blocks_stay_is_another_number_for_every_film():
    """And so is the size of the tiles: whoever calibrates has one of them."""
    streams = replace(PLACED, resident=7, parked=True, tile=32)
    Calibration(5e10, 1e6).save("tiny", streams)
    assert Calibration.find("tiny", replace(streams, resident=9, tile=64)) == Calibration(5e10, 1e6)
    assert Calibration.find("tiny", replace(streams, resident=None)) is None


def test_weights_that_are_unpacked_as_they_are_used_are_another_speed():
    Calibration(5e10, 1e6).save("tiny", PLACED, packed=18 / 32)
    assert Calibration.find("tiny", PLACED) is None is Calibration.find("tiny", PLACED, packed=34 / 32)
    assert Calibration.find("tiny", replace(PLACED, packed=False), packed=18 / 32) is None, "merged: nothing is packed"
    assert Calibration.find("tiny", PLACED, packed=18 / 32) == Calibration(5e10, 1e6)


def test_what_only_a_budget_says_is_the_same_speed():
    Calibration(5e10, 1e6).save("tiny", PLACED, model_options())
    assert Calibration.find("tiny", replace(PLACED, together=True, decode_latents=5, memory=1e9)) is not None


def test_several_processes_are_another_machine(monkeypatch):
    Calibration(5e10, 1e6).save("tiny", PLACED)
    monkeypatch.setattr(costs.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(costs.dist, "get_world_size", lambda: 2)
    assert not cost().calibrated
    Calibration(9e10, 1e6).save("tiny", PLACED, processes=2)
    assert cost().calibrated and Calibration.find("tiny", PLACED) == Calibration(5e10, 1e6)


def test_what_every_pass_takes_is_counted_for_every_pass():
    card = find_model("tiny")
    for request in (make_request(prompt="a fox"), make_request(prompt="a fox", num_frames=481)):
        plan = make_plan(request, card)
        placement = estimate(plan, card, "cpu").placement
        Calibration(5e10, 1e6).save("tiny", placement)
        before = estimate(plan, card, "cpu").seconds
        Calibration(5e10, 1e6, latency=0.25).save("tiny", placement)
        passes = len(plan.schedule) + (plan.num_blocks if plan.remembers else 0)  # a block that is kept is seen again
        assert estimate(plan, card, "cpu").seconds == pytest.approx(before + 0.25 * passes)


def test_what_is_kept_of_a_block_is_work_too():
    card = find_model("tiny")
    plan = make_plan(make_request(prompt="a fox", num_frames=481), card)
    assert plan.remembers
    rows = sum(costs._branches(plan, card)(row) * costs._row_work(row, plan, card) for row in plan.schedule)
    assert 1.02 * rows < costs._work(plan, card) < 1.2 * rows  # one pass more than the thirty of each block


@pytest.mark.parametrize(
    ("took", "speed", "latency"),
    [
        ({5: 0.05 + 5e9 / 1e11, 25: 0.05 + 25e9 / 1e11}, 1e11, 0.05),  # both by the same line
        ({5: 2.0}, 2.5e9, 0.0),  # slow: nothing next to it, and nobody waits for a window
        ({5: 0.04, 25: 0.25}, 1e11, 0.0),  # a block that is as fast as none has nothing besides
        ({5: 0.3, 25: 0.25}, 1e11, 0.0),  # as where one of them was disturbed
    ],
)
def test_two_measurements_tell_the_speed_and_what_a_pass_takes_besides(took, speed, latency):
    found = costs._speed_of(lambda frames: (frames * 1e9, took[frames]))
    assert found == (pytest.approx(speed), pytest.approx(latency))


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"tiny, cpu, 1 threads, bfloat16": {"operations": "?"}}'])
def test_a_spoilt_file_is_as_none(spoilt):
    Calibration(5e10, 1e6).save("tiny", PLACED).write_text(spoilt)
    assert Calibration.find("tiny", PLACED) is None


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_calibrating_measures_the_loaded_model(tiny_folder, quantization):
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32, quantization=quantization)
    found = calibrate(pipe)
    assert 1e6 < found.operations < 1e14 and 1e2 < found.pixels < 1e10
    plan = make_plan(make_request(prompt="a fox"), pipe.card)
    way = replace(PLACED, dtype=torch.float32, quantization=quantization)
    assert estimate(plan, pipe.card, "cpu", way).calibrated
    assert not estimate(plan, pipe.card, "cpu", replace(way, quantization="q4_0")).calibrated


@pytest.mark.parametrize(
    ("dtype", "options", "measured"),
    # Megabytes above the program's own, of the embedded model on one thread: the most and the least of equal films.
    [
        (torch.bfloat16, {"num_frames": 97}, (200, 182)),
        (torch.bfloat16, {"num_frames": 97, "guidance_scale": 1}, (188, 181)),
        (torch.bfloat16, {"num_frames": 481}, (253, 244)),
        (torch.bfloat16, {"num_frames": 49, "height": 192, "width": 320}, (435, 414)),
        (torch.bfloat16, {"num_frames": 33, "height": 256, "width": 448}, (458, 450)),
        (torch.bfloat16, {"num_frames": 97, "height": 128, "width": 224, "guidance_scale": 1}, (264, 243)),
        (torch.float32, {"num_frames": 97}, (346, 346)),
        (torch.float32, {"num_frames": 49, "height": 192, "width": 320}, (950, 950)),
    ],
)
def test_memory_is_that_which_was_measured(dtype, options, measured):
    card = find_model("tiny")
    plan = make_plan(make_request(prompt="a fox", **options), card)
    found = estimate(plan, card, "cpu", replace(place(plan, card, "cpu"), dtype=dtype))
    most, least = measured
    assert most <= found.memory / 1e6 <= 1.25 * least
