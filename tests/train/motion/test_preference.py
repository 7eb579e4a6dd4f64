"""Flow-DPO: it begins at its reference, learns which film is better, shows both films the same noise, and resumes."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from everreel.checkpoint.lora_files import LORA_FILE
from everreel.data.draws import generator_for
from everreel.data.latents import LatentStore
from everreel.diffusion.noise import LevelMixture
from everreel.train.generate import Wanted, Way, dit_of, latents_of
from everreel.train.lora import AdapterShape
from everreel.train.motion.pairs import PairLabel, write_pairs
from everreel.train.motion.preference import PairBatch
from everreel.train.trainer import Trainer

ADAPTER = AdapterShape(rank=4, alpha=8.0)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def moved(objective):
    """Another policy than the reference: an adapter's ends, or a transformer's head, are not what they were."""
    for name, value in next(iter(objective.modules().values())).named_parameters():
        if name.endswith("lora_B.weight") or name == "head.head.weight":
            torch.nn.init.normal_(value, std=0.1, generator=generator_for(3, name))


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_it_begins_at_its_reference_and_goes_towards_the_better_film(preference, adapter):
    objective = replace(preference, adapter=adapter).objective()
    batch, (role,) = objective.batch(0, generator_for(0)), objective.modules()
    loss = objective.losses(batch, generator_for(1))[role]
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-7)
    assert objective.metrics["implicit_accuracy"] == 0.5 and objective.metrics["margin"] == 0
    loss.backward()
    with torch.no_grad():  # against the gradient the margin grows
        for value in objective.modules()[role].parameters():
            if value.grad is not None:
                value -= 1e-3 * value.grad / value.grad.norm().clamp(min=1e-6)
    after = objective.losses(batch, generator_for(1))[role]
    assert float(after.detach()) < math.log(2) and objective.metrics["margin"] > 0


def test_both_films_have_the_same_noise_and_levels(preference):
    objective = replace(preference, mixture=LevelMixture(independent=1.0)).objective()
    batch = objective.batch(0, generator_for(0))
    seen = []
    model = objective.policy.transformer
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    objective.policy._copy.register_forward_pre_hook(lambda _, args: seen.append((args, None)))
    objective.losses(batch, generator_for(1))
    (reference, _), (policy, named) = seen
    assert torch.equal(reference[0], policy[0]) and torch.equal(reference[1], policy[1])
    x_BCTHW, time_BT = policy[0], policy[1]
    better, worse = x_BCTHW.chunk(2)
    assert torch.equal(*time_BT.chunk(2)) and torch.equal(*named["fps_B"].chunk(2))
    sigma = batch.sigma_BT[:, None, :, None, None]
    clean_better, clean_worse = batch.x0_BCTHW.chunk(2)
    noises = (better - (1 - sigma) * clean_better) / sigma, (worse - (1 - sigma) * clean_worse) / sigma
    torch.testing.assert_close(*noises, rtol=1e-3, atol=1e-3)
    assert len(x_BCTHW) == 2 * len(batch.ids_BL) and not torch.equal(clean_better, clean_worse)


def test_the_better_film_stands_first_and_both_are_cut_at_one_place(preference):
    objective = replace(preference, windows=((2, 1.0),), inside=1.0).objective()
    store, starts = objective.sources[0].store, set()
    for step in range(6):
        batch = objective.batch(step, generator_for(0, step))
        better, worse = batch.x0_BCTHW.chunk(2)
        for row in range(len(better)):
            places = [
                (index, at)
                for index in range(len(store))
                for at in range(1, store.pair(index).shape[2] - 1)
                if torch.equal(store.pair(index)[0, :, at : at + 2], better[row])
                and torch.equal(store.pair(index)[1, :, at : at + 2], worse[row])
            ]
            assert places and all(store.labels[i].split == "train" and not store.labels[i].tie for i, _ in places)
            starts |= {at for _, at in places}
        assert (batch.sigma_BT[:, 0] <= 0.1).all() and not batch.loss_BT[:, 0].any()  # known, as in diffusion forcing
    assert len(starts) > 1


def test_preferences_are_learnt_and_told_of(preference, pairs, tmp_path):
    outcome = replace(preference, sample_prompts=("a fox",), sample_size=(32, 32), sample_frames=3).run(
        tmp_path, quiet=True
    )
    found = records(tmp_path)
    assert outcome.finished and found[0]["preference"] == pytest.approx(math.log(2), abs=1e-6)
    last = [record for record in found if record["event"] == "train"][-10:]
    mean = {name: sum(record[name] for record in last) / len(last) for name in ("preference", "implicit_accuracy")}
    assert mean["preference"] < 0.4 and mean["implicit_accuracy"] > 0.9
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"][pairs] == {"train": 12, "held_out": 4, "ties_left_out": 2}
    held_out = report["checks"]["held_out"]
    assert held_out["pairs"] == 4 and held_out["implicit_accuracy"] > 0.9
    assert held_out["margin"] == pytest.approx(held_out["worse_shift"] - held_out["better_shift"])
    assert report["checks"]["train"]["by_kind"].keys() == {"jitter", "shiver"}
    assert list((tmp_path / "samples").glob("*.png"))


def test_the_reference_stays_where_it_was(preference, begun):
    objective = preference.objective()
    optimizer = torch.optim.SGD(objective.policy.transformer.parameters(), lr=0.1)
    for step in range(2):
        objective.losses(objective.batch(step, generator_for(step)), generator_for(step))["transformer"].backward()
        optimizer.step()
    start = load_file(begun)
    with objective.policy.reference() as reference:
        assert all(torch.equal(value, start[name]) for name, value in reference.state_dict().items())
    assert any(not torch.equal(v, start[n]) for n, v in objective.policy.transformer.state_dict().items())


def test_an_adapters_reference_is_the_model_without_it(preference):
    plain, adapted = preference.objective(), replace(preference, adapter=ADAPTER).objective()
    moved(adapted)
    batch = plain.batch(0, generator_for(0))
    one, other = (objective.errors(batch, generator_for(1)) for objective in (plain, adapted))
    torch.testing.assert_close(one.better_reference_B, other.better_reference_B)
    torch.testing.assert_close(one.worse_reference_B, other.worse_reference_B)
    assert not torch.allclose(other.better_B, other.better_reference_B)


def test_errors_count_the_frames_that_are_made(preference):
    objective = preference.objective()
    batch = objective.batch(0, generator_for(0))
    moved(objective)
    one = batch.loss_BT.clone()
    one[:, 1:] = False
    first = objective.errors(batch._replace(loss_BT=one), generator_for(1))
    rest = objective.errors(batch._replace(loss_BT=~one), generator_for(1))
    both = objective.errors(batch, generator_for(1))
    frames = batch.loss_BT.shape[1]
    torch.testing.assert_close(both.better_B, (first.better_B + (frames - 1) * rest.better_B) / frames)


def test_the_pull_is_the_plain_loss_on_the_better_film(preference):
    one, other = preference.objective(), replace(preference, sft=0.5).objective()
    batch = one.batch(0, generator_for(0))
    losses = [float(o.losses(batch, generator_for(1))["transformer"].detach()) for o in (one, other)]
    better = one.errors(batch, generator_for(1)).better_B.mean()
    assert losses[1] - losses[0] == pytest.approx(0.5 * float(better.detach()), rel=1e-5)


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_a_run_resumes_exactly(preference, adapter, tmp_path):
    stage = replace(preference, adapter=adapter, mixture=LevelMixture(), causal=0.5, empty=0.3)
    settings = replace(stage.settings, steps=6, decay="constant")
    whole, again = stage.objective(), stage.objective()
    Trainer(whole, settings, tmp_path / "whole", quiet=True).run()
    Trainer(stage.objective(), replace(settings, steps=3), tmp_path / "cut", quiet=True).run()
    Trainer(again, settings, tmp_path / "cut", quiet=True).run()
    for role, module in whole.modules().items():
        assert all(torch.equal(again.modules()[role].state_dict()[n], v) for n, v in module.state_dict().items())
    assert whole.memory() == again.memory() and len(whole.memory()) == 6


def test_pairs_that_are_told_apart_end_a_run(preference, tmp_path):
    stage = replace(preference, stop_at=0.9, stop_over=4)
    outcome = stage.run(tmp_path, quiet=True)
    assert outcome.reason == "enough" and outcome.finished and 4 <= outcome.step < 40
    assert json.loads((tmp_path / "report.json").read_text())["reason"] == "enough"
    assert stage.run(tmp_path, quiet=True).step == outcome.step  # it does not begin to train again
    cut = replace(stage, settings=replace(stage.settings, steps=3))
    assert cut.run(tmp_path / "cut", quiet=True).reason == "done"
    settings = replace(stage.settings, decay="constant")
    for steps, folder in ((3, "two"), (40, "two"), (40, "one")):
        last = replace(stage, settings=replace(settings, steps=steps)).run(tmp_path / folder, quiet=True)
        if steps == 40 and folder == "two":
            resumed = last.step
    assert resumed == last.step
    one, two = (load_file(tmp_path / name / "transformer.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_samples_are_made_where_the_trained_part_is_before_there_was_a_batch(preference, adapter):
    """A finished run that is started again begins with its samples, and the trainer has moved what is trained alone."""
    objective = replace(preference, adapter=adapter).objective()
    for module in objective.modules().values():
        module.to("meta")
    seen = []
    objective._samples = SimpleNamespace(write=lambda folder, step, model: seen.append(model))
    objective.sample(None, 3)
    (model,) = seen
    assert model is objective.policy.transformer and {p.device.type for p in model.parameters()} == {"meta"}


def test_an_adapter_leaves_one_lora_with_that_it_began_with(preference, recipe, begun, tmp_path):
    stage = replace(preference, adapter=ADAPTER, settings=replace(preference.settings, steps=4))
    stage.run(tmp_path / "first", quiet=True)
    again = stage.after(tmp_path / "first")
    objective = again.objective()
    merged = dit_of(recipe.config, begun, str(tmp_path / "first" / LORA_FILE))
    with objective.policy.reference() as reference:  # what the first left is what the second is held against
        names = ("blocks.0.self_attn.q", "blocks.1.ffn.0")
        for name in names:
            torch.testing.assert_close(
                reference.get_submodule(name).base_layer.weight, merged.get_submodule(name).weight
            )
    again.run(tmp_path / "second", quiet=True)
    trained = Trainer(again.objective(), again.settings, tmp_path / "second", quiet=True)
    both = dit_of(recipe.config, begun, str(tmp_path / "second" / LORA_FILE)).eval()
    wanted = Wanted("a red fox runs", (2, 4, 4))
    with trained.averaged():
        policy = trained.objective.policy
        one, other = (
            torch.cat([b.latents_CTHW for b in latents_of(model, policy.text, wanted, Way(2))], dim=1)
            for model in (policy.transformer, both)
        )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_other_stores_have_their_share(preference, tmp_path):
    write_pairs(tmp_path, 0, [torch.ones(2, 16, 3, 4, 4)] * 2, [PairLabel("a fox", "reversal")] * 2)
    objective = replace(preference, others=((str(tmp_path), 0.25),)).objective()
    drawn = [objective.batch(step, generator_for(0, step)).x0_BCTHW.unique().numel() == 1 for step in range(200)]
    assert 0.15 < sum(drawn) / len(drawn) < 0.35


def test_no_group_is_short_of_its_window(preference):
    objective = replace(preference, windows=((4, 1.0),), inside=0.0).objective()
    batch = objective.batch(0, generator_for(0))
    assert isinstance(batch, PairBatch) and batch.x0_BCTHW.shape[2] == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beta": 0.0}, "beta=0: must be above 0; 100 works"),
        ({"beta": math.nan}, "beta=nan"),
        ({"sft": -1.0}, "nearest that works is 0"),
        ({"stop_at": 0.5}, "stop_at=0.5"),
        ({"inside": 1.5}, "inside=1.5.*nearest that works is 1"),
        ({"looks": 0}, "looks=0"),
        ({"dtype": "bfloat16"}, "give an adapter"),
        ({"others": (("x", 1.0),)}, "others: shares"),
        ({"model": "tiny"}, "model: give either"),
    ],
)
def test_bad_values_are_refused(preference, values, words):
    with pytest.raises(ValueError, match=words):
        replace(preference, **values)


def test_what_cannot_be_learnt_from_is_refused(preference, recipe, pairs, tmp_path):
    for values, words in (
        ({"pairs": ""}, "name the folder of a pair store"),
        ({"init": None}, "init=None: preferences move a model that makes films"),
        ({"windows": ((9, 1.0),)}, "windows: 9 latent frames: no pair of .* 5 works"),
        ({"kinds": ("labeller",)}, "of 18 pairs and kinds=.*it has 2 ties"),
        ({"text": None}, "text=None: name the folder"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(preference, **values).objective()
    ties = tmp_path / "ties"
    write_pairs(ties, 0, [torch.ones(2, 16, 3, 4, 4)] * 3, [PairLabel("a fox", "rating", tie=True)] * 3)
    with pytest.raises(ValueError, match=r"of 3 pairs none says which film is better .* 3 ties, of 3 rating"):
        replace(preference, pairs=str(ties)).objective()
    other = tmp_path / "other"
    write_pairs(other, 0, [torch.ones(2, 4, 3, 4, 4)], [PairLabel("a fox", "rating")])
    with pytest.raises(ValueError, match="latents have 4 channels, the model's have 16"):
        replace(preference, pairs=str(other)).objective()
    assert LatentStore(recipe.films).text_dim == 0
    with pytest.raises(ValueError, match=r"text: .* holds no embedded text"):
        replace(preference, prompts=(recipe.films,), text=None).objective()
