"""The motion reward model: the loss with ties, the network, what it learns, its report, and what is refused."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from everreel.data.draws import draw_float, generator_for
from everreel.train.motion.bradley_terry import FIRST, SECOND, TIE
from everreel.train.motion.comparisons import Comparisons, PairBatch, Variety, contradicting, varied
from everreel.train.motion.pairs import PairLabel, write_pairs
from everreel.train.motion.reward import (
    MotionReward,
    MotionRewardConfig,
    RewardRecipe,
    bradley_terry_with_ties,
    load_reward,
    log_probabilities,
    probabilities,
    save_reward,
)
from everreel.train.motion.reward_report import table_of
from everreel.train.trainer import Trainer, TrainerSettings

CONFIG = MotionRewardConfig(channels=4, width=24, layers=2, match_heads=1, match_dim=4, pools=2, dropout=0.0)
SETTINGS = TrainerSettings(
    steps=90, learning_rate=1e-2, warmup=5, ema_decay=0.95, log_every=20, sample_every=40,
    device="cpu", threads=1,
)  # fmt: skip
FRAMES, SIDE = 6, 8


# The loss


@given(
    first=st.floats(-1e4, 1e4, width=32), second=st.floats(-1e4, 1e4, width=32), theta=st.floats(1.125, 50, width=32)
)
@settings(max_examples=100, deadline=None)
def test_the_three_probabilities_sum_to_one(first, second, theta):
    found = probabilities(torch.tensor([first]), torch.tensor([second]), theta)
    assert found.sum().item() == pytest.approx(1, abs=1e-5) and (found >= 0).all()
    turned = probabilities(torch.tensor([second]), torch.tensor([first]), theta)
    torch.testing.assert_close(turned, found[:, [SECOND, FIRST, TIE]])


def test_probabilities_are_those_of_the_formula():
    for difference, theta in product((-7.0, -1.0, 0.0, 0.3, 6.0), (1.5, 5.0)):

        def sigma(x):
            return 1 / (1 + math.exp(-x))

        first, second = sigma(difference - math.log(theta)), sigma(-difference - math.log(theta))
        wanted = torch.tensor([[first, second, (theta**2 - 1) * first * second]])
        torch.testing.assert_close(probabilities(torch.tensor([difference]), torch.zeros(1), theta), wanted)


@pytest.mark.parametrize("difference", [-1e4, -90.0, 0.0, 90.0, 1e4])
def test_far_apart_scores_have_finite_losses_and_gradients(difference):
    score_B = torch.full((2,), difference, requires_grad=True)
    loss_B = bradley_terry_with_ties(score_B, torch.zeros(2), torch.tensor([False, True]))
    loss_B.sum().backward()
    assert torch.isfinite(loss_B).all() and torch.isfinite(score_B.grad).all()
    assert loss_B[0].item() == pytest.approx(max(0.0, math.log(5) - difference), rel=1e-3, abs=2.0)
    assert loss_B[1].item() == pytest.approx(max(0.4, abs(difference) + math.log(5 / 24)), rel=1e-3, abs=1e-2)


def test_strengths_are_found_from_comparisons():
    """The greatest likelihood lies at the strengths that the comparisons were drawn with."""
    strengths = torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.5])
    first, second = torch.combinations(torch.arange(5)).repeat(4000, 1).T
    chances = probabilities(strengths[first], strengths[second], 3.0)
    drawn = torch.multinomial(chances, 1, generator=generator_for(0))[:, 0]
    tie = drawn == TIE
    better, worse = torch.where(drawn == SECOND, second, first), torch.where(drawn == SECOND, first, second)
    found = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = bradley_terry_with_ties(found[better], found[worse], tie, 3.0).mean()
        value.backward()
        return value

    optimizer.step(loss)
    centred = found.detach() - found.detach().mean()
    torch.testing.assert_close(centred, strengths - strengths.mean(), atol=0.1, rtol=0)


@pytest.mark.parametrize("theta", [1.0, 0.5, math.nan, math.inf])
def test_a_theta_without_ties_is_refused(theta):
    with pytest.raises(ValueError, match=r"theta=.*above 1.*; 5 works"):
        log_probabilities(torch.zeros(1), torch.zeros(1), theta)


# The network


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = MotionReward(CONFIG).eval()
    torch.nn.init.normal_(network.head.weight, std=1.0)
    torch.nn.init.normal_(network.picture)
    torch.nn.init.normal_(network.rate.weight)
    return network


def scores(network, latents, fps=1, **options):
    with torch.no_grad():
        return network(latents, torch.full((len(latents),), fps), **options)


def noise(*shape):
    return torch.randn(*shape, generator=generator_for(5))


@pytest.mark.parametrize("size", [(2, 4, 4), (3, 5, 7), (2, 90, 160), (40, 4, 6), (5, 1, 1)])
def test_any_size_is_read(model, size):
    found = scores(model, noise(2, 4, *size))
    assert found.shape == (2,) and torch.isfinite(found).all() and found.dtype == torch.float32


def test_a_score_is_the_films_alone(model):
    films = noise(3, 4, 5, 6, 8)
    together = scores(model, films)
    torch.testing.assert_close(together, torch.cat([scores(model, film[None]) for film in films]))
    assert torch.equal(together, scores(model, films))


def test_direction_of_time_rate_and_beginning_matter(model):
    films = noise(3, 4, 5, 6, 8)
    plain = scores(model, films)
    for other in (scores(model, films.flip(2)), scores(model, films, fps=0), scores(model, films, begins=False)):
        assert ((plain - other).abs() > 1e-3).all()


def test_half_precision_gives_nearly_the_same(model):
    films = noise(4, 4, 5, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = scores(model, films)
    assert half.dtype == torch.float32
    whole = scores(model, films)
    torch.testing.assert_close(half, whole, atol=0.05 * float(whole.abs().max()), rtol=0.05)


def test_about_a_million_weights():
    assert 0.6e6 < sum(p.numel() for p in MotionReward(MotionRewardConfig()).parameters()) < 1.5e6


def test_other_latents_are_refused(model):
    with pytest.raises(ValueError, match=r"reads \(batch, 4, frames"):
        scores(model, noise(1, 16, 3, 4, 4))
    with pytest.raises(ValueError, match="1 latent frame does not move"):
        scores(model, noise(1, 4, 1, 4, 4))


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("reach", 9), ("dropout", 1.0), ("layers", 1.5)])
def test_sizes_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: must"):
        MotionRewardConfig(**{name: value})


def test_what_is_saved_is_loaded(model, tmp_path):
    save_reward(tmp_path, model)
    loaded = load_reward(tmp_path)
    films = noise(2, 4, 3, 4, 4)
    assert loaded.config == CONFIG and not loaded.training
    assert torch.equal(scores(loaded, films), scores(model, films))


def test_what_is_no_reward_model_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"there is no config.json; give the reward/"):
        load_reward(tmp_path)
    save_reward(tmp_path, model)
    config, tensors = (tmp_path / "config.json").read_text(), load_file(tmp_path / "model.safetensors")

    def refused(match):
        with pytest.raises(ValueError, match=match) as caught:
            load_reward(tmp_path)
        assert "\n" not in str(caught.value)

    missing = {name: value for name, value in tensors.items() if name != "pool.weight"}
    save_file(missing, tmp_path / "model.safetensors")
    refused(r"pool.weight is absent in model.safetensors and \(2, 24\)")
    save_file({**tensors, "stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused("stray is .* and absent by")
    save_file({**tensors, "pool.weight": torch.zeros(3, 24)}, tmp_path / "model.safetensors")
    refused(r"pool.weight is \(3, 24\)")
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    refused("cannot be read")
    (tmp_path / "config.json").write_text(config.replace("layers", "lairs"))
    refused("config.json does not fit")
    for other in ('{"dim": 5}', "[]"):
        (tmp_path / "config.json").write_text(other)
        refused("is not a reward model")
    (tmp_path / "config.json").write_text("{")
    refused("is not JSON")


# Pairs


def film(generator):
    """A blob that moves smoothly with another behind it: its order and its direction in time can be seen."""
    angle, speed = 2 * math.pi * draw_float(generator), 0.8 + 0.3 * draw_float(generator)
    way = torch.tensor([math.cos(angle), math.sin(angle)])
    start = torch.tensor([2.0 + 3 * draw_float(generator), 2.0 + 3 * draw_float(generator)])
    color = torch.randn(4, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    frames = []
    for t in range(FRAMES):
        head = (start + t * speed * way) % SIDE
        blobs = [(head, 1.0), ((head - 1.5 * way) % SIDE, -0.7)]
        shapes = [share * torch.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 1.5) for at, share in blobs]
        frames.append(2 * color * torch.stack(shapes).sum(0))
    latents = torch.stack(frames, dim=1)
    return latents + 0.05 * torch.randn(latents.shape, generator=generator)


def worse(kind, latents, generator):
    if kind == "shuffled":
        return latents[:, [3, 0, 5, 2, 4, 1]]
    if kind == "reversed":
        return latents.flip(1)
    return latents + 0.05 * torch.randn(latents.shape, generator=generator)


def fill(folder, count, kinds=("shuffled", "reversed", "same")):
    generator = generator_for(11)
    pairs, labels = [], []
    for index in range(count):
        kind, good = kinds[index % len(kinds)], film(generator)
        pairs.append(torch.stack([good, worse(kind, good, generator)]))
        split = "held_out" if index // len(kinds) % 4 == 0 else "train"
        labels.append(PairLabel("a blob", kind, tie=kind == "same", split=split))
    write_pairs(folder, 0, pairs, labels)
    return str(folder)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("pairs"), 480)
    variety = Variety(mirrored=0.5, time=0.8, space=0.8, noise=0.05)
    return RewardRecipe(SETTINGS, (folder,), CONFIG, tokens=16 * 2 * 16 * FRAMES, variety=variety)


def test_motion_is_learnt_and_reported(recipe, tmp_path, capsys):
    assert recipe.run(tmp_path).reason == "done"
    report = json.loads((tmp_path / "report.json").read_text())
    accuracy, baseline = report["accuracy"], report["baseline"]
    assert report["pairs"] == {"train": 360, "held_out": 120}
    assert [accuracy[name]["pairs"] for name in ("all", "shuffled", "reversed")] == [80, 40, 40]
    assert all(accuracy[name]["share"] > 0.9 for name in ("all", "shuffled", "reversed"))
    low, high = accuracy["all"]["interval"]
    assert low < accuracy["all"]["share"] <= high
    assert report["ties"]["pairs"] == 40 and report["ties"]["share"] > 0.8
    assert report["log_likelihood"]["model"] > report["log_likelihood"]["constant"] + 0.3
    assert report["log_likelihood"]["constant"] == pytest.approx(-math.log(3), abs=0.01)
    # Frames are as sharp in another order, and what changes between them is the same the other way round.
    assert baseline["sharpness"]["accuracy"]["all"]["share"] == 0.5
    assert baseline["amplitude"]["better"] == "less" and baseline["amplitude"]["accuracy"]["shuffled"]["share"] > 0.9
    assert baseline["amplitude"]["accuracy"]["reversed"]["share"] == 0.5
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["accuracy"] > 0.9 and all("accuracy" in line for line in metrics)
    held_out = load_reward(tmp_path / "reward")
    assert held_out.config == CONFIG
    assert "less amplitude" in capsys.readouterr().err
    assert table_of(report).splitlines()[1].split()[:2] == ["all", "80"]


def test_a_run_resumes_exactly(recipe, tmp_path):
    settings = replace(SETTINGS, steps=6, decay="constant", sample_every=100)
    config = replace(CONFIG, dropout=0.2)
    recipe = replace(recipe, settings=settings, config=config, tokens=4 * 2 * 16 * FRAMES)
    whole, again = recipe.objective(), recipe.objective()
    Trainer(whole, settings, tmp_path / "whole", quiet=True).run()
    Trainer(recipe.objective(), replace(settings, steps=3), tmp_path / "cut", quiet=True).run()
    Trainer(again, settings, tmp_path / "cut", quiet=True).run()
    found = again.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.model.state_dict().items())


def test_both_films_of_a_pair_are_changed_alike():
    row = (
        torch.arange(8.0).expand(4, 6, 8, 8) + 10 * torch.arange(8.0)[:, None] + 100 * torch.arange(6.0)[:, None, None]
    )
    films = torch.stack([row, row]).expand(5, 2, 4, 6, 8, 8)
    batch = PairBatch(films, torch.ones(5), torch.zeros(5, dtype=torch.bool), True)
    variety = Variety(mirrored=0.5, time=0.5, space=0.5, noise=0.0)
    sizes, mirrored, began = set(), set(), set()
    for number in range(30):
        found = varied(batch, variety, generator_for(number))
        assert torch.equal(found.films_B2CTHW[:, 0], found.films_B2CTHW[:, 1])
        sizes.add(found.films_B2CTHW.shape[3:])
        mirrored |= {bool(pair[0, 0, 0, 0, 0] > pair[0, 0, 0, 0, 1]) for pair in found.films_B2CTHW}
        began.add(found.begins)
        assert found.begins == bool(found.films_B2CTHW[0, 0, 0, 0].max() < 100)
    assert len(sizes) > 10 and mirrored == began == {True, False}
    assert min(frames for frames, _, _ in sizes) == 3 and min(height for _, height, _ in sizes) == 4
    noisy = varied(batch, Variety(noise=0.1), generator_for(0)).films_B2CTHW
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


@pytest.mark.parametrize(
    ("name", "value", "nearest"), [("mirrored", 1.5, "1"), ("time", -0.1, "0"), ("space", 2, "1"), ("noise", -1, "0")]
)
def test_variety_that_cannot_be_is_refused(name, value, nearest):
    with pytest.raises(ValueError, match=rf"{name}={value}: must.*nearest that works is {nearest}$"):
        Variety(**{name: value})


# Refused before anything is trained


def write(folder, labels, channels=4, frames=3):
    write_pairs(folder, 0, [torch.zeros(2, channels, frames, 4, 4)] * len(labels), labels)
    return RewardRecipe(SETTINGS, (str(folder),), CONFIG)


def refused(recipe, match):
    with pytest.raises(ValueError, match=match) as caught:
        recipe.objective()
    assert "\n" not in str(caught.value)


TRAINED, CHECKED = PairLabel("a fox", "jump"), PairLabel("a swan", "jump", split="held_out")


def test_a_split_without_pairs_is_refused(tmp_path):
    recipe = write(tmp_path, [TRAINED, TRAINED])
    refused(recipe, "no pair of split 'held_out', there are 2 of train")
    refused(replace(recipe, kinds=("jmup",)), r"'train' of kinds=\('jmup',\), there are 2 of train, by kind 2 jump")
    refused(replace(recipe, pairs=()), r"pairs=\(\): .* name at least one folder")


def test_nothing_but_ties_is_refused(tmp_path):
    ties = [replace(TRAINED, tie=True), replace(TRAINED, tie=True, kind="rating"), CHECKED]
    refused(write(tmp_path, ties), r"all 2 pairs of split 'train' are ties \(1 jump, 1 rating\)")
    refused(write(tmp_path / "b", [TRAINED, replace(CHECKED, tie=True)]), "all 1 pairs of split 'held_out' are ties")


def test_contradictions_are_counted_and_refused_beyond_half(tmp_path):
    one, other = (replace(TRAINED, facts={"films": films}) for films in (["a", "b"], ["b", "a"]))
    elsewhere = replace(other, prompt="a swan")
    assert contradicting([one, one, other, elsewhere, replace(other, tie=True), TRAINED]) == [0, 1, 2]
    refused(write(tmp_path / "a", [one, other, CHECKED]), "2 of 3 decided pairs contradict")
    some = write(tmp_path / "b", [one, other, TRAINED, CHECKED])
    assert len(some.objective().pairs.contradicting) == 2


def test_latents_of_another_model_are_refused(tmp_path):
    refused(write(tmp_path / "a", [TRAINED, CHECKED], channels=6), "channels=4: .* have 6; the nearest that works is 6")
    refused(write(tmp_path / "b", [TRAINED, CHECKED], frames=1), "1 latent frame does not move")


@pytest.mark.parametrize(("name", "value"), [("theta", 1.0), ("tokens", 0), ("checked", 0)])
def test_values_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: must"):
        RewardRecipe(SETTINGS, ("pairs",), **{name: value})


def test_stores_of_several_sizes_are_one(tmp_path):
    for name, frames in (("a", 3), ("b", 5)):
        write(tmp_path / name, [TRAINED, TRAINED, CHECKED], frames=frames)
    pairs = Comparisons((str(tmp_path / "a"), str(tmp_path / "b")), 4)
    assert pairs.groups("train") == {(3, 4, 4): [0, 1], (5, 4, 4): [3, 4]} and pairs.members("held_out") == [2, 5]
    seen = {pairs.draw(1000, Variety(), generator_for(n)).films_B2CTHW.shape[1:3] for n in range(4)}
    assert seen == {(2, 4)}
    assert list(pairs.parts([0, 1, 4], 20)) == [[0], [1], [4]]
