"""What a film will cost: proportions that must hold on any machine."""

from dataclasses import replace

import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.film import estimate as costs
from everreel.film.budget import place
from everreel.film.estimate import Calibration, calibrate, estimate
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
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


def test_a_calibration_is_kept_and_used(tmp_path):
    card = find_model("tiny")
    before = cost()
    dtype, device = before.placement.dtype, torch.device("cpu")
    assert Calibration.find("tiny", device, dtype) is None and not before.calibrated
    kept = Calibration(operations=5e10, pixels=1e6).save("tiny", device, dtype)
    assert kept.is_relative_to(tmp_path)
    after = cost()
    work = before.seconds * 0.5e11 / 1.1
    assert after.calibrated and after.seconds == pytest.approx(work / 5e10 + 97 * card.height * card.width / 1e6)
    # Another model, dtype or number of threads is another machine.
    Calibration(1.0, 1.0).save("other", device, dtype)
    assert Calibration.find("tiny", device, dtype) == Calibration(5e10, 1e6)
    assert Calibration.find("tiny", device, torch.float64) is None
    torch.set_num_threads(2)
    assert Calibration.find("tiny", device, dtype) is None


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"tiny, cpu, 1 threads, bfloat16": {"operations": "?"}}'])
def test_a_spoilt_file_is_as_none(tmp_path, spoilt):
    kept = Calibration(5e10, 1e6).save("tiny", torch.device("cpu"), torch.bfloat16)
    kept.write_text(spoilt)
    assert Calibration.find("tiny", torch.device("cpu"), torch.bfloat16) is None


def test_calibrating_measures_the_loaded_model(tiny_folder):
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    found = calibrate(pipe)
    assert 1e6 < found.operations < 1e14 and 1e2 < found.pixels < 1e10
    assert Calibration.find(pipe.card.name, torch.device("cpu"), torch.float32) == found


@pytest.mark.parametrize(
    ("dtype", "options", "measured"),
    # Megabytes above the program's own, of the embedded model on one thread: the most and the least of equal films.
    [
        (torch.bfloat16, {"num_frames": 97}, (208, 192)),
        (torch.bfloat16, {"num_frames": 481}, (280, 280)),
        (torch.bfloat16, {"num_frames": 49, "height": 192, "width": 320}, (705, 598)),
        (torch.bfloat16, {"num_frames": 33, "height": 256, "width": 448}, (563, 563)),
        (torch.bfloat16, {"num_frames": 97, "height": 128, "width": 224, "guidance_scale": 1}, (313, 313)),
        (torch.float32, {"num_frames": 97}, (435, 435)),
        (torch.float32, {"num_frames": 49, "height": 192, "width": 320}, (1242, 1242)),
    ],
)
def test_memory_is_that_which_was_measured(dtype, options, measured):
    card = find_model("tiny")
    plan = make_plan(make_request(prompt="a fox", **options), card)
    found = estimate(plan, card, "cpu", replace(place(plan, card, "cpu"), dtype=dtype))
    most, least = measured
    assert most <= found.memory / 1e6 <= 1.25 * least
