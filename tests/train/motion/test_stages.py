"""Motion learning in stages: films of the newest policy, ranked and learnt from; each folder made once."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from everreel.data.latents import LatentStore
from everreel.train.generate import Way
from everreel.train.lora import AdapterShape
from everreel.train.motion import matching
from everreel.train.motion import stages as code
from everreel.train.motion.pairs import PairStore
from everreel.train.motion.ranking import rank, scores_of, signs_of
from everreel.train.motion.samples import SamplesRecipe, SampleStore
from everreel.train.motion.stages import MotionStagesRecipe
from everreel.train.trainer import TrainingFailed

from .conftest import StandIn


@pytest.fixture
def making(preference, recipe):
    return SamplesRecipe(
        policy=preference, prompts=((recipe.films, 1.0), (recipe.images, 1.0)), count=4, samples=3, frames=3,
        way=Way(2), dtype="float32", held_out=0.5,
    )  # fmt: skip


@pytest.fixture
def stages(preference, recipe, reward):
    learning = replace(
        preference, pairs="", settings=replace(preference.settings, steps=4), check_pairs=4, beta=200.0
    )  # fmt: skip
    return MotionStagesRecipe(
        preference=learning, prompts=((recipe.films, 0.5), (recipe.images, 0.5)), reward=reward, stages=2,
        prompts_per_stage=4, samples=3, frames=3, way=Way(2), dtype="float32", held_out=0.3,
    )  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_prompts_are_those_of_the_stores_by_their_shares(making, recipe):
    asked = replace(making, count=6, prompts=((recipe.films, 2.0), (recipe.images, 1.0))).asked()
    films, images = LatentStore(recipe.films), LatentStore(recipe.images)
    for sentences, some in ((films.sentences, asked[:4]), (images.sentences, asked[4:])):
        found = [next(n for n, lines in enumerate(sentences) if one.prompt in lines) for one in some]
        assert len(set(found[:3])) == len(found[:3])  # no clip twice before all have had their turn
    seeds = [seed for one in asked for seed in one.seeds]
    assert len(set(seeds)) == 18 and all(one.size == (3, 4, 4) for one in asked)
    later = replace(making, round=1, count=6).asked()
    assert not set(seeds) & {seed for one in later for seed in one.seeds}
    every = replace(making, count=40).asked()
    sides = {one.prompt: {other.split for other in every if other.prompt == one.prompt} for one in every}
    assert all(len(splits) == 1 for splits in sides.values()) and len({*map(min, sides.values())}) == 2


def test_films_go_on_where_they_stopped(making, tmp_path):
    store = making.run(tmp_path, quiet=True)
    first = contents(tmp_path)
    assert len(store) == 4 and store.films(0).shape == (3, 16, 3, 4, 4) and making.is_done(tmp_path)
    assert not torch.equal(*store.films(0)[:2])
    (tmp_path / "prompt-00002.json").unlink()
    assert len(SampleStore(tmp_path)) == 3 and not making.is_done(tmp_path)
    making.run(tmp_path, quiet=True)
    assert contents(tmp_path) == first
    with pytest.raises(ValueError, match=r"way.steps=3: .* was begun with 2; use that or another run folder"):
        replace(making, way=Way(3)).run(tmp_path, quiet=True)
    replace(making, max_seconds=5.0, threads=1).run(tmp_path, quiet=True)  # which change nothing of the result


def test_best_and_worst_are_the_pair(making, tmp_path):
    store = making.run(tmp_path / "samples", quiet=True)
    ranking = rank(store, StandIn(), 0.0, None, tmp_path / "pairs")
    pairs = PairStore(tmp_path / "pairs")
    assert len(pairs) == ranking.kept == 4 and ranking.films == 12 and ranking.dropped == {}
    for index, label in enumerate(pairs.labels):
        at = next(
            n for n, asked in enumerate(store.asked) if asked.seeds[0] <= label.facts["seeds"][0] <= asked.seeds[-1]
        )
        scores = scores_of(StandIn(), store.films(at), label.fps_index)
        better, worse = scores_of(StandIn(), pairs.pair(index), label.fps_index)
        assert (better, worse) == pytest.approx((max(scores), min(scores)), rel=1e-4)
        assert label.kind == "samples" and label.split == store.asked[at].split
        assert label.margin == pytest.approx(better - worse, rel=1e-3)
    assert rank(store, StandIn(), 1e9, None, tmp_path / "pairs") == ranking  # made once


def test_what_is_dropped_is_counted(making, tmp_path):
    store = making.run(tmp_path / "samples", quiet=True)
    gaps = sorted(
        max(scores) - min(scores) for scores in (scores_of(StandIn(), store.films(n), 1) for n in range(len(store)))
    )
    ranking = rank(store, StandIn(), (gaps[1] + gaps[2]) / 2, None, tmp_path / "pairs")
    assert (ranking.kept, ranking.dropped) == (2, {"gap": 2})
    first = store.asked[0].prompt
    filtered = rank(
        store, StandIn(), 0.0, lambda best, worst, asked: "sharpness" if asked.prompt == first else None,
        tmp_path / "filtered",
    )  # fmt: skip
    assert filtered.dropped["sharpness"] >= 1 and filtered.kept == 4 - filtered.dropped["sharpness"]


def test_a_filter_that_drops_everything_is_an_error(making, tmp_path):
    store = making.run(tmp_path / "samples", quiet=True)
    with pytest.raises(ValueError, match=r"min_gap=1e\+09: of 4 prompts none .* dropped 4 for 'gap'; .* keeps half"):
        rank(store, StandIn(), 1e9, None, tmp_path / "pairs")
    with pytest.raises(ValueError, match=r"dropped 4 for 'brightness'; .*; loosen match"):
        rank(store, StandIn(), 0.0, lambda *_: "brightness", tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()
    same = StandIn()
    same.scale.data.zero_()
    with pytest.raises(ValueError, match="the reward tells no two apart"):
        rank(store, same, 0.0, None, tmp_path / "pairs")
    same.scale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="scores that are not finite"):
        rank(store, same, 0.0, None, tmp_path / "pairs")


def test_signs_of_hacking_are_read_off_latents():
    still = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0)).expand(2, 4, 5, 3, 3)
    moving = still * torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0])[:, None, None]
    assert signs_of(still).amplitude == 0
    assert signs_of(moving).amplitude == pytest.approx(float(still[:, :, 0].abs().mean()), rel=1e-5)
    assert signs_of(still + 1).mean == pytest.approx(signs_of(still).mean + 1)
    assert signs_of(3 * still).std == pytest.approx(3 * signs_of(still).std)


def test_each_stage_begins_as_the_one_before_has_ended(stages, tmp_path):
    outcome = stages.run(tmp_path, quiet=True)
    assert (outcome.step, outcome.reason) == (2, "done")
    lines = [json.loads(line) for line in (tmp_path / "stages.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [1, 2]
    for line in lines:
        assert line["films"] == 12 and line["kept"] + sum(line["dropped"].values()) == 4 and line["steps"] == 4
        assert 0 <= line["checks"]["train"]["implicit_accuracy"] <= 1 and line["signs"]["amplitude"] > 0
    one, two, last = (
        load_file(tmp_path / path / "transformer.safetensors") for path in ("stage-1/policy", "stage-2/policy", ".")
    )
    assert all(torch.equal(two[name], last[name]) for name in two)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    begun = json.loads((tmp_path / "stage-2/samples/samples.json").read_text())
    assert begun["policy.init"] == str(tmp_path / "stage-1/policy/transformer.safetensors")


def test_stages_go_on_where_they_stopped(stages, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    stages.run(whole, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(code, "rank", lambda *_: (_ for _ in ()).throw(TrainingFailed("pulled out")))
        with pytest.raises(TrainingFailed, match="pulled out"):
            stages.run(cut, quiet=True)
    assert (cut / "stage-1/samples").is_dir() and not (cut / "stage-1/pairs").exists()
    assert replace(stages, stages=1).run(cut, quiet=True).step == 1
    times = {path: path.stat().st_mtime_ns for path in (cut / "stage-1").rglob("*")}
    assert stages.run(cut, quiet=True).step == 2
    assert times == {path: path.stat().st_mtime_ns for path in (cut / "stage-1").rglob("*")}  # it is left alone
    one, other = (load_file(folder / "transformer.safetensors") for folder in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_ends_as_one_lora(stages, tmp_path):
    adapted = replace(stages, preference=replace(stages.preference, adapter=AdapterShape(rank=2, alpha=2.0)))
    adapted.run(tmp_path, quiet=True)
    ranks = {
        folder: load_file(tmp_path / folder / "pytorch_lora_weights.safetensors") for folder in ("stage-1/policy", ".")
    }
    down = next(name for name in ranks["."] if name.endswith("lora_A.weight"))
    assert [len(found[down]) for found in ranks.values()] == [2, 4]


def test_time_that_is_over_ends_it_between_films(stages, tmp_path):
    outcome = replace(stages, max_seconds=1e-9).run(tmp_path, quiet=True)
    assert outcome.reason == "time" and not outcome.finished and outcome.step == 0
    assert not (tmp_path / "stage-1/policy").exists()


def test_another_value_refuses_the_folder(stages, tmp_path):
    replace(stages, max_seconds=1e-9).run(tmp_path, quiet=True)
    other = replace(stages, preference=replace(stages.preference, beta=300.0))
    with pytest.raises(ValueError, match=r"preference.beta=300.0: .* was begun with 200.0; use that or another"):
        other.run(tmp_path, quiet=True)


@dataclass(frozen=True)
class Never:
    """Lets no two films be a pair."""

    sharpness: float = 0.1

    def mismatch(self, one, other, difference):
        assert difference >= 0
        return "sharpness", 1.0


def test_what_differs_beside_motion_is_no_pair(stages, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(matching, "appearance_of", lambda *given: seen.append(given))
    with pytest.raises(ValueError, match="dropped 4 for 'sharpness'"):
        replace(stages, match=Never()).run(tmp_path, quiet=True)
    asked = SampleStore(tmp_path / "stage-1/samples").asked
    assert len(seen) == 8 and all(frames.shape == (9, 32, 32, 3) and critic for frames, _, _, critic in seen)
    assert [fps for _, fps, _, _ in seen[::2]] == [(16, 24)[one.fps_index] for one in asked]
    assert all(scene is not None for _, _, scene, _ in seen)
    without = replace(stages, match=Never(), preference=replace(stages.preference, vae=None))
    with pytest.raises(ValueError, match="vae=None: match looks at films"):
        without.run(tmp_path / "without", quiet=True)
    assert not (tmp_path / "without").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stages": 0}, "stages=0"),
        ({"samples": 1}, "samples=1: a best and a worst take 2"),
        ({"min_gap": -1.0}, "min_gap=-1"),
        ({"frames": 1}, "frames=1: nothing moves"),
        ({"prompts": ()}, "name latent stores with shares above 0"),
        ({"mixed": (("x", 1.5),)}, "others: shares"),
        ({"held_out": 1.0}, "held_out=1"),
        ({"dtype": "float16"}, "dtype='float16'"),
    ],
)
def test_bad_values_are_refused(stages, values, words):
    with pytest.raises(ValueError, match=words):
        replace(stages, **values)


def test_pairs_of_its_own_are_refused(stages, pairs):
    with pytest.raises(ValueError, match="its pairs are those of the stages"):
        replace(stages, preference=replace(stages.preference, pairs=pairs))
