"""The smallest recipe from end to end, smaller still: every stage learns, and the next one starts with what it left."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everreel.caption.critic import Critic, save_critic
from everreel.evaluate.follow import FIELDS
from everreel.evaluate.stage import EvaluateRecipe
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.model.config import TransformerConfig, VAEConfig
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.distill import RegressionRecipe
from everreel.train.generate import dit_of
from everreel.train.lora import AdapterShape
from everreel.train.pack import PackRecipe, StudentPackRecipe
from everreel.train.progress import read_metrics
from everreel.train.run import WorldRecipe, load_recipe, run_recipe
from everreel.train.text import TextRecipe
from everreel.train.trajectories import Strides, TrajectoryRecipe
from everreel.train.vae import Draw, VAERecipe

RUNS = Path("runs/smallest")
RECIPE = Path(__file__).parents[2] / "recipes" / "smallest.py"
CONFIG = TransformerConfig(
    dim=32, ffn_dim=64, freq_dim=32, text_dim=24, num_heads=2, num_layers=2, inject_sample_info=True
)
SIZES = {"images-low": (32, 48, 1.0)}  # the others are of the full size
FULL, FRAMES, CROP = (48, 64, 1.0), 9, (32, 32)
STEPS = {"text": 30, "vae": 24, "low": 60, "images": 40, "films": 40, "causal": 40, "regression": 60}


def tiny(name, stage):
    """The stage with a few steps of a network that knows nothing, on a few clips."""
    if isinstance(stage, tuple):
        return tuple((inner, tiny(inner, one)) for inner, one in stage)
    if isinstance(stage, EvaluateRecipe):
        asked = stage.films
        films = replace(asked, num_films=2, num_frames=5, height=48, width=64, num_inference_steps=2)
        if asked.cache:
            films = replace(films, ar_step=2, causal_block_size=1)
        return replace(stage, films=films, critic="critic")
    if name in STEPS:
        every, settings = STEPS[name], stage.settings
        settings = replace(
            settings, steps=every, warmup=2, log_every=every // 4, checkpoint_every=100, sample_every=100
        )
        stage = replace(stage, settings=settings, **{VAERecipe: {"stages": stages(every)}}.get(type(stage), {}))
    if isinstance(stage, WorldRecipe):
        stores = [
            (store, replace(layout, count=12, num_frames=min(layout.num_frames, FRAMES), shard_clips=6,
                            sizes=(SIZES.get(store, FULL),)))
            for store, layout in stage.stores
        ]  # fmt: skip
        return replace(stage, stores=tuple(stores), processes=1)
    if isinstance(stage, TextRecipe):
        sizes = {"vocab_size": 300, "d_model": 24, "num_layers": 1, "num_heads": 3, "d_kv": 8, "d_ff": 32}
        return replace(stage, tokenizer_sentences=300, checked_sentences=40, batch=16, **sizes)
    if isinstance(stage, VAERecipe):
        config = VAEConfig(base_dim=4, decoder_base_dim=4, num_res_blocks=1)
        return replace(stage, config=config, checked_clips=2, checked_frames=5, statistics_clips=4, statistics_frames=9)
    if isinstance(stage, DiffusionForcingRecipe):
        windows = {"films": ((1, 0.5), (3, 0.5)), "causal": ((3, 1.0),)}.get(name, stage.windows)
        settings = replace(stage.settings, learning_rate=1e-2)
        return replace(stage, config=CONFIG, tokens=120, windows=windows, settings=settings, sample_prompts=())
    if isinstance(stage, TrajectoryRecipe):
        strides = Strides(steps=2, substeps=2, block=2, context=2)
        return replace(stage, config=CONFIG, count=4, frames=3, shard_films=4, strides=strides)
    if isinstance(stage, RegressionRecipe):
        student = replace(stage.student, adapter=AdapterShape(rank=4, alpha=4.0))
        settings = replace(stage.settings, learning_rate=1e-2)
        return replace(stage, config=CONFIG, student=student, tokens=120, settings=settings, sample_prompts=())
    if isinstance(stage, PackRecipe | StudentPackRecipe):
        return replace(stage, config=CONFIG)
    return stage


def stages(steps):
    return ((steps // 2, (Draw(count=4, size=CROP),)), (steps - steps // 2, (Draw(count=1, frames=5, size=CROP),)))


@pytest.fixture(scope="module")
def recipe():
    # What comes after the model is run by test_post_training.
    return tuple((name, tiny(name, stage)) for name, stage in load_recipe(RECIPE) if name != "post")


@pytest.fixture(scope="module")
def folder(recipe, tmp_path_factory):
    """Where all of it ran."""
    where = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(where)
        torch.manual_seed(0)
        save_critic(Path("critic"), Critic())
        assert run_recipe(recipe, RUNS, quiet=True)
    return where / RUNS


def losses(folder):
    return [
        next(value for name, value in record.items() if name.startswith("loss/"))
        for record in read_metrics(folder / "metrics.jsonl")
        if record["event"] == "train"
    ]


@pytest.mark.parametrize(
    "stage",
    [
        "text",
        "vae",
        *(f"diffusion_forcing/{name}" for name in ("low", "images", "films", "causal")),
        "distill/regression",
    ],
)
def test_every_stage_learns(folder, stage):
    first, *_, last = losses(folder / stage)
    assert last < first


def test_each_stage_starts_with_what_the_last_one_left(folder, recipe, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    for (name, _), (_, following) in itertools.pairwise(dict(recipe)["diffusion_forcing"]):
        left = load_file(folder / "diffusion_forcing" / name / "transformer.safetensors")
        found = following.objective().transformer.state_dict()
        assert all(torch.equal(found[key], value) for key, value in left.items())
    left = load_file(folder / "diffusion_forcing" / "causal" / "transformer.safetensors")
    packed = load_file(folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert sum(tensor.numel() for tensor in packed.values()) == sum(tensor.numel() for tensor in left.values())


def test_the_end_is_a_model_that_was_measured(folder):
    facts = json.loads((folder / "model" / "training.json").read_text())
    assert [stage["stage"] for stage in facts["diffusion_forcing"]] == ["low", "images", "films", "causal"]
    reports = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("evaluate/*/report.json")}
    assert reports.keys() == {"films", "films-in-blocks", "causal", "causal-in-blocks", "fast"}
    for report in reports.values():
        assert len(report["films"]) == 2 and set(report["fields"]) <= set(FIELDS)
    assert len({json.dumps(report["settings"]) for report in reports.values()}) == 5  # no two of the same films


def test_the_student_is_a_lora_of_the_packed_model(folder):
    """It is loaded with the model, says how films are made with it, and is the change that was learnt."""
    fast = VideoPipeline.from_pretrained(
        folder / "model", dtype=torch.float32, device="cpu", lora=[str(folder / "model-fast")]
    )
    assert (fast.card.num_inference_steps, fast.card.guidance_scale, fast.card.streams) == (2, 1.0, True)
    teacher = folder / "diffusion_forcing" / "causal" / "transformer.safetensors"
    learnt = dit_of(CONFIG, str(teacher), str(folder / "distill" / "regression" / "pytorch_lora_weights.safetensors"))
    plain, found, wanted = (
        model.state_dict()["blocks.0.self_attn.q.weight"]
        for model in (dit_of(CONFIG, str(teacher)), fast.transformer, learnt)
    )
    moved = (wanted - plain).abs().max()
    assert moved > 1e-3 and (found - wanted).abs().max() < 0.01 * wanted.abs().max()  # it ships in bfloat16
    request = make_request(prompt="a red fox", num_frames=9, height=48, width=64)
    assert sum(len(block.frames) for block in fast.stream(request)) == 9


def test_run_again_it_does_nothing_new(folder, recipe, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    kept = [path for path in sorted(folder.rglob("*.safetensors")) if "checkpoint" not in path.name]
    before = {path: load_file(path) for path in kept}  # what a file says of itself stands in no order
    run_recipe(tuple(stage for stage in recipe if stage[0] in ("world", "latents", "evaluate")), RUNS, quiet=True)
    for trained in ("diffusion_forcing", "distill"):
        run_recipe(dict(recipe)[trained], RUNS / trained, quiet=True)
    for path, tensors in before.items():
        after = load_file(path)
        assert after.keys() == tensors.keys() and all(torch.equal(after[name], tensors[name]) for name in tensors), path
