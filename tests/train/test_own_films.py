"""One's own films, all the way: five files, a store, two steps of training, and a film from the model in the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from everreel.checkpoint.convert import convert
from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_transformer, load_vae
from everreel.data.buckets import Buckets
from everreel.data.draws import generator_for
from everreel.data.prepare import Encoders, PrepareSettings, prepare
from everreel.data.text import FrozenText
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.train.diffusion_forcing import DiffusionForcing
from everreel.train.own_films import OwnFilmsRecipe
from everreel.train.run import run_recipe
from everreel.train.trainer import TrainerSettings
from tests.film.films import cut, natural, write

SETTINGS = PrepareSettings(Buckets(((32, 48), (48, 32)), (9, 17)), stills=2)


def encoders(folder: Path) -> Encoders:
    text = FrozenText(load_tokenizer(folder), load_text_encoder(folder), 64)
    return Encoders(load_vae(folder), text, "small")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Of a torn film, a tall one, one of a changing rate, one with sound, and one of no bytes; one gives two clips."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("torn", "tall", "uneven", "loud", "empty"):
        (folder / f"{name}.txt").write_text(f"a {name} fox runs\na blue swan\n" if name != "tall" else "a tall lake")
    whole = write(folder / "torn.mp4", natural(20, 32, 48))
    cut(whole, whole.stat().st_size // 2).replace(whole)
    write(folder / "tall.mp4", natural(10, 60, 40))
    write(folder / "uneven.mp4", natural(18, 40, 60), times=[42 * n + 5 * (n % 2) for n in range(18)], clock=1000)
    write(folder / "loud.mp4", natural(20, 64, 96), sound="aac")
    (folder / "empty.mp4").write_bytes(b"")
    prepared = prepare(folder, folder / "store", encoders(tiny_folder), SETTINGS, prompts=["a red fox runs"])
    assert [missed.name for missed in prepared.skipped] == ["empty.mp4", "torn.mp4"]
    assert {key: len(clips) for key, clips in prepared.store.groups.items()} == {(5, 4, 6): 2, (3, 6, 4): 1}
    return prepared.store.path


@pytest.fixture
def recipe(store: Path, tiny_folder: Path) -> OwnFilmsRecipe:
    return OwnFilmsRecipe(
        settings=TrainerSettings(steps=2, learning_rate=1e-2, warmup=0, ema_decay=0.0, device="cpu"),
        model=str(tiny_folder),
        films=str(store),
        tokens=60,
        sample_prompts=("a red fox runs",),
        sample_size=(32, 48),
    )


def test_from_films_to_a_film(recipe: OwnFilmsRecipe, tiny_folder: Path, tmp_path: Path, monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a text encoder was loaded, although all text was embedded ahead")

    with monkeypatch.context() as training:
        training.setattr("everreel.data.text.load_text_encoder", never)
        run_recipe(recipe, tmp_path, quiet=True)
    assert (tmp_path / "samples" / "step-000002.png").is_file()
    trained, before = load_transformer(tmp_path / "model").state_dict(), load_transformer(tiny_folder).state_dict()
    averages = load_file(tmp_path / "transformer.safetensors")
    assert all(torch.equal(trained[name], averages[name].bfloat16().float()) for name in before)
    assert sum(not torch.equal(trained[name], before[name]) for name in before) > 20
    for part in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        ours, theirs = (load_file(folder / f"{part}.safetensors") for folder in (tmp_path / "model", tiny_folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()
    pipeline = VideoPipeline.from_pretrained(tmp_path / "model")
    request = make_request(prompt="a tall lake", num_frames=5, height=32, width=48, num_inference_steps=2)
    frames = np.concatenate([block.frames for block in pipeline.stream(request)])
    assert frames.shape == (5, 32, 48, 3)


def test_a_batch_is_whole_clips_of_one_bucket_with_its_own_number(recipe: OwnFilmsRecipe) -> None:
    named = replace(recipe, batches=((9, 48, 32, 3),))
    objective, sizes = DiffusionForcing(named), set()
    for step in range(30):
        batch = objective.batch(step, generator_for(0, "batch", step))
        sizes.add(tuple(batch.x0_BCTHW.shape))
        assert batch.fps_B.tolist() == [1] * len(batch.fps_B)
    assert sizes == {(2, 16, 5, 4, 6), (3, 16, 3, 6, 4)}  # 60 tokens of 30 a clip; three, by name


def test_windows_come_from_clips_that_are_long_enough(recipe: OwnFilmsRecipe) -> None:
    objective = DiffusionForcing(replace(recipe, windows=((4, 0.5), (1, 0.5))))
    shapes = {tuple(objective.batch(step, generator_for(1, "batch", step)).x0_BCTHW.shape[2:]) for step in range(40)}
    assert shapes == {(4, 4, 6), (1, 4, 6), (1, 6, 4)}
    with pytest.raises(ValueError, match=r"windows: 7 latent frames: no clip of .* is so long; the longest has 5"):
        DiffusionForcing(replace(recipe, windows=((7, 1.0),)))


def test_films_and_pictures_from_two_stores(recipe: OwnFilmsRecipe, tiny_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(natural(1, 40, 60)[0]).save(tmp_path / "fox.png")
    (tmp_path / "fox.txt").write_text("a picture of a fox")
    pictures = prepare(tmp_path, tmp_path / "store", encoders(tiny_folder), SETTINGS).store
    both = DiffusionForcing(replace(recipe, images=str(pictures.path)))
    alone = DiffusionForcing(replace(recipe, films=None, images=str(pictures.path), sample_prompts=()))
    lengths = {both.batch(step, generator_for(0, "batch", step)).x0_BCTHW.shape[2] for step in range(40)}
    assert lengths == {1, 3, 5}
    batch = alone.batch(0, generator_for(0))
    assert batch.x0_BCTHW.shape[2] == 1 and np.array_equal(batch.x0_BCTHW[0, :, 0], pictures.latents(0)[:, 0])
    assert torch.isfinite(both.losses(batch, generator_for(0))["transformer"])


def test_what_does_not_fit_is_said_before_training(
    recipe: OwnFilmsRecipe, store: Path, i2v_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="begins with a picture; a model of the kind df or t2v works"):
        DiffusionForcing(replace(recipe, model=str(i2v_folder)))
    with pytest.raises(ValueError, match="text: its embeddings have 24 channels, and the transformer reads text_dim"):
        DiffusionForcing(replace(recipe, model="tiny"))
    with pytest.raises(ValueError, match="prompt = 'a tiger': is neither a caption"):
        DiffusionForcing(replace(recipe, sample_prompts=("a tiger",)))
    with pytest.raises(ValueError, match="films: give a latent store"):
        replace(recipe, films=None)
    with pytest.raises(ValueError, match="model: give either it or config"):
        replace(recipe, model=None)
    broken = tmp_path / "store"
    broken.mkdir()
    for file in store.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    record = json.loads((broken / "store.json").read_text())
    (broken / "store.json").write_text(json.dumps(record | {"latents": [v + 1 for v in record["latents"]]}))
    with pytest.raises(ValueError, match="was prepared with the VAE of small, which is another"):
        DiffusionForcing(replace(recipe, films=str(broken)))
    for name in ("prompts.json", "prompts.npy", "store.json"):
        (broken / name).unlink()
    with pytest.raises(ValueError, match=r"holds no embedded text, and .* does; prepare both alike"):
        DiffusionForcing(replace(recipe, images=str(broken)))


def test_a_model_of_another_layout_and_kind_begins_a_run(
    recipe: OwnFilmsRecipe, store: Path, t2v_folder: Path, tmp_path: Path
) -> None:
    """A full-sequence model in the released layout; what comes out is one of diffusion forcing."""
    convert(t2v_folder, tmp_path / "official", to="official")
    films = prepare(store.parent, tmp_path / "store", encoders(t2v_folder), SETTINGS, prompts=recipe.sample_prompts)
    settings = replace(recipe.settings, steps=1)
    stage = replace(recipe, model=str(tmp_path / "official"), films=str(films.store.path), settings=settings)
    run_recipe(stage, tmp_path / "run", quiet=True)
    index = json.loads((tmp_path / "run" / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "SkyReelsV2DiffusionForcingPipeline"
    assert load_transformer(tmp_path / "run" / "model").config.inject_sample_info is False
