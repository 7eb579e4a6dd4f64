"""The stages behind the model, of one that knows nothing: each reads what the one before left, and what ships loads."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from everreel.data.draws import generator_for
from everreel.evaluate.physics import prefer
from everreel.evaluate.stage import EvaluateRecipe
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.model.config import ImageEncoderConfig
from everreel.model.dit import DiT
from everreel.train.clip import ClipRecipe
from everreel.train.generate import Way
from everreel.train.image_to_video import ImageToVideoRecipe
from everreel.train.motion.make import AutomaticPairsRecipe
from everreel.train.motion.pairs import PairStore
from everreel.train.motion.rated import LabelledPairsRecipe
from everreel.train.motion.reward import MotionRewardConfig, RewardRecipe, load_reward
from everreel.train.motion.stages import MotionStagesRecipe
from everreel.train.pack import PackRecipe
from everreel.train.run import LatentRecipe, WorldRecipe, load_recipe, run_recipe
from everreel.train.selection import Balance
from tests.train.motion.clips import ANYTHING, FOX, write_clips

RUNS, RECIPES = Path("runs/smallest"), Path(__file__).parents[2] / "recipes"
NETWORK = ImageEncoderConfig(image_size=28, patch_size=7, dim=40, ffn_dim=80, num_heads=4, num_layers=3)
SIZES = {"tail-films": (48, 64, 1.0), "large-films": (64, 80, 1.0)}


def closer(one, other):
    """The labeller of the recipe, who says tie of nothing but equals."""
    return prefer(one, other, margin=0.0)


def tiny(stage, config):
    """The stage on a few small clips, with a few steps."""
    if isinstance(stage, tuple):
        return tuple((name, tiny(inner, config)) for name, inner in stage)
    if isinstance(stage, WorldRecipe):
        stores = [
            (name, replace(layout, count=4, num_frames=9, shard_clips=4, sizes=(SIZES[name],)))
            for name, layout in stage.stores
        ]
        return replace(stage, stores=tuple(stores), processes=1)
    if isinstance(stage, MotionStagesRecipe):
        learning = stage.preference
        settings = replace(learning.settings, steps=4, warmup=1, learning_rate=1e-3, ema_decay=0.5)
        learning = replace(learning, settings=settings, tokens=96, check_pairs=2, looks=1)
        return replace(
            stage, preference=learning, prompts_per_stage=3, samples=2, frames=3, way=Way(2), dtype="float32",
            held_out=0.0, processes=1, threads=None,
        )  # fmt: skip
    if isinstance(stage, AutomaticPairsRecipe | LabelledPairsRecipe):
        more = {"prefer": closer, "prompts": 3, "films": 2} if isinstance(stage, LabelledPairsRecipe) else {"count": 8}
        return replace(
            stage, frames=3, way=Way(8), matching=ANYTHING, held_out=0.5, processes=1, threads=None,
            dtype=torch.float32, **more,
        )  # fmt: skip
    if isinstance(stage, EvaluateRecipe):
        films = replace(stage.films, num_films=1, num_frames=5, height=48, width=64, num_inference_steps=2)
        return replace(stage, films=films)
    if isinstance(stage, PackRecipe):
        wide = {"in_dim": 36, "image_dim": NETWORK.dim} if stage.image_encoder else {}
        return replace(stage, config=replace(config, **wide))
    if not hasattr(stage, "settings"):
        return stage
    stage = replace(stage, settings=replace(stage.settings, steps=3, warmup=1, ema_decay=0.5, sample_every=100))
    if isinstance(stage, RewardRecipe):
        return replace(stage, config=MotionRewardConfig(width=8, layers=1, match_dim=4), tokens=96)
    if isinstance(stage, ClipRecipe):
        return replace(stage, network=NETWORK, width=16, batch=4)
    windows = ((2, 0.5), (3, 0.5)) if isinstance(stage, ImageToVideoRecipe) else ((1, 0.5), (3, 0.5))
    select = tuple(replace(each, cap=1.0) if isinstance(each, Balance) else each for each in stage.select)
    return replace(stage, windows=windows, tokens=120, select=select)


@pytest.fixture(scope="module")
def folder(recipe, tmp_path_factory):
    """Where the stages of the smallest recipe ran that come after its model."""
    where = tmp_path_factory.mktemp("post")
    write_clips(where, [replace(FOX, subject=subject) for subject in ("fox", "dog", "cat", "rabbit")], recipe.vae)
    for kind in ("world", "latents"):
        (where / RUNS / kind).mkdir(parents=True)
        inside = "" if kind == "world" else "latents/"
        (where / RUNS / kind / "images").symlink_to(Path(recipe.vae) / f"{inside}images")
    (where / RUNS / "latents/films").symlink_to(where / "latents")
    for name in ("vae", "text"):
        (where / RUNS / name).symlink_to(recipe.vae)
    for name in ("films", "films-held-out"):
        (where / RUNS / "world" / name).symlink_to(where / "clips")
    model = DiT(recipe.config)
    model.init_weights(generator_for(1))
    torch.nn.init.normal_(model.head.head.weight, std=0.2, generator=generator_for(2))
    save_file(model.state_dict(), where / "begun.safetensors")
    stages = dict(load_recipe(RECIPES / "smallest.py"))
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(where)
        begun = replace(tiny(stages["model"], recipe.config), transformer="begun.safetensors", dtype=torch.float32)
        begun.run(RUNS / "model")
        assert run_recipe(tiny(stages["post"], recipe.config), RUNS / "post", quiet=True)
    return where


@pytest.fixture
def post(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder / RUNS / "post"


@pytest.mark.parametrize("name", ["balanced", "camera", "best", "motion/stages"])
def test_each_stage_has_moved_the_model_that_it_began_with(post, folder, name):
    begun, left = load_file(folder / "begun.safetensors"), load_file(post / name / "transformer.safetensors")
    assert begun.keys() == left.keys() and all(value.isfinite().all() for value in left.values())
    assert max(float((left[key] - begun[key]).abs().max()) for key in begun) > 1e-4


def test_the_reward_has_learnt_from_both_stores_and_the_policy_from_its_own_films(post):
    stores = {name: PairStore(post / "motion" / name) for name in ("pairs", "labelled")}
    assert set(stores["pairs"].counts) >= {"renoised", "from_first_frame"} and len(stores["labelled"]) == 3
    latents = next(iter(stores.values())).pair(0)
    reward = load_reward(post / "motion/reward/reward")
    assert reward(latents, torch.ones(2, dtype=torch.long)).isfinite().all()
    stage = post / "motion/stages/stage-1"
    own = PairStore(stage / "pairs")
    for label, pair in ((label, own.pair(index)) for index, label in enumerate(own.labels)):
        better, worse = reward(pair, torch.full((2,), label.fps_index)).tolist()
        assert better > worse and len(set(label.facts["films"])) == 2
    used = json.loads((stage / "policy/report.json").read_text())["pairs"]
    assert [Path(path).name for path in used] == ["pairs", "pairs"] and len(used) == 2


def test_motion_run_again_does_nothing_new(post, recipe):
    whole = tiny(dict(load_recipe(RECIPES / "smallest.py"))["post"], recipe.config)
    made = [*post.glob("motion/**/*.safetensors"), *post.glob("motion/**/*.npy"), *post.glob("motion/**/*.jsonl")]
    before = {path: path.read_bytes() for path in made if path.name != "metrics.jsonl" and path.parent.name != "reward"}
    assert len(before) > 8 and run_recipe(dict(whole)["motion"], post / "motion", quiet=True)
    assert all(path.read_bytes() == held for path, held in before.items())


def test_every_model_was_measured(post):
    reports = {path.parent.name: json.loads(path.read_text()) for path in post.glob("evaluate/*/report.json")}
    assert reports.keys() == {"balanced", "camera", "best", "motion"}
    films = {name: (post / "evaluate" / name / "film-000.mp4").read_bytes() for name in reports}
    assert all(len(report["films"]) == 1 for report in reports.values()) and len({*films.values()}) == 4


def test_the_model_of_pictures_makes_a_film_of_one(post, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    pipeline = VideoPipeline.from_pretrained(post / "models/image_to_video", dtype=torch.float32, device="cpu")
    request = make_request(
        prompt="a red fox", num_frames=9, height=32, width=32, image=str(tmp_path / "first.png"), num_inference_steps=2
    )
    assert sum(len(block.frames) for block in pipeline.stream(request)) == 9


def read_by(value):
    """All words in a recipe's values."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, tuple | list):
        return set().union(*map(read_by, value))
    if is_dataclass(value):
        return set().union(*(read_by(getattr(value, one.name)) for one in fields(value)))
    return set()


def stores_of(stage):
    """The names of the stores that a recipe leaves in its folder."""
    return [name for name, _ in stage.stores] if isinstance(stage, WorldRecipe | LatentRecipe) else []


def in_order(recipe, before):
    """Each recipe with its folder."""
    for name, stage in recipe:
        if isinstance(stage, tuple):
            yield from in_order(stage, f"{before}/{name}")
        else:
            yield f"{before}/{name}", stage


@pytest.mark.parametrize(
    ("files", "runs"), [(("smallest",), "runs/smallest"), (("post_training", "motion"), "runs/post_training")]
)
def test_a_stage_reads_what_one_before_it_leaves(files, runs):
    left = set()
    for file in files:
        for folder, stage in in_order(load_recipe(RECIPES / f"{file}.py"), runs):
            for path in {word for word in read_by(stage) if word.startswith(f"{runs}/")}:
                assert any(f"{path}/".startswith(f"{one}/") for one in left), (folder, path)
            left |= {f"{folder}/{name}" for name in stores_of(stage)} or {folder}
