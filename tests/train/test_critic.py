"""Training of the critic: labels, mirroring, and a run on a few clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.caption.critic import CriticConfig, load_critic, shipped_critic
from everreel.caption.zoom import square_around
from everreel.data.clips import ClipLabel, shard_writer
from everreel.data.draws import generator_for
from everreel.train.critic import UNSEEN, CriticRecipe, classes_of
from everreel.train.run import load_recipe
from everreel.train.trainer import TrainerSettings
from everreel.world.render import render
from everreel.world.scene import VOCABULARY, sample_scene, visible_fields

SETTINGS = TrainerSettings(steps=3, log_every=1, sample_every=2, warmup=1, device="cpu")
FIELDS = list(VOCABULARY)


def make_store(path: Path, frames: int) -> str:
    path.mkdir()
    generator, noise = generator_for(0), np.random.default_rng(0)
    for shard, (height, width, fps) in enumerate([(32, 48, 24), (48, 32, 16)]):
        labels = [ClipLabel(sample_scene(generator), fps, 0.0) for _ in range(2)]
        with shard_writer(path, shard, (2, frames, height, width), labels) as array:
            array[:] = noise.integers(0, 256, array.shape)
    return str(path)


def recipe(tmp_path: Path) -> CriticRecipe:
    return CriticRecipe(
        SETTINGS,
        films=(make_store(tmp_path / "films", 30),),
        held_out=make_store(tmp_path / "held-out", 20),
        images=(make_store(tmp_path / "images", 1),),
        films_per_step=2,
        images_per_step=3,
        network=CriticConfig(widths=(4, 8), depths=(1, 2), fine=4, dim=16, num_heads=2, num_layers=1, num_slots=4),
        checked=2,
    )


def test_a_run_leaves_a_critic_and_a_report(tmp_path: Path) -> None:
    outcome = recipe(tmp_path).run(tmp_path / "run", quiet=True)
    assert outcome.step == 3 and outcome.skipped == 0
    load_critic(tmp_path / "run/critic")
    assert '"accuracy"' in (tmp_path / "run/report.json").read_text()
    assert list((tmp_path / "run/samples").glob("confused-*.json"))


def test_a_stage_of_pictures_alone_goes_on_with_films(tmp_path: Path) -> None:
    whole = recipe(tmp_path)
    replace(whole, films=()).run(tmp_path / "images", quiet=True)
    init = tmp_path / "images/critic.safetensors"
    second = replace(whole, init=str(init)).objective()
    first = load_file(init)
    assert all(torch.equal(value, first[name]) for name, value in second.critic.state_dict().items())
    with pytest.raises(ValueError, match="films="):
        replace(whole, films=(), images=()).objective()


def test_the_shipped_critic_goes_on_as_it_is(tmp_path: Path) -> None:
    """Which is how recipes/captioner_tiny.py fine-tunes the tiny captioner; its network is the recipe's."""
    shipped = load_critic(shipped_critic()).state_dict()
    tuned = replace(
        recipe(tmp_path), init="shipped", network=CriticConfig(twice=True), settings=replace(SETTINGS, steps=1)
    )
    begun = tuned.objective().critic.state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in shipped.items()) and begun.keys() == shipped.keys()
    tuned.run(tmp_path / "run", quiet=True)
    of_folder = replace(tuned, init=str(tmp_path / "run/critic")).objective().critic.state_dict()
    after = load_critic(tmp_path / "run/critic").state_dict()
    assert all(torch.equal(value, of_folder[name]) for name, value in after.items())
    with pytest.raises(ValueError, match=r"^init = 'gone': is no critic.safetensors and .*; shipped works$"):
        replace(tuned, init="gone").objective()
    ready = load_recipe(Path(__file__).parents[2] / "recipes/captioner_tiny.py")
    assert (ready.init, ready.network) == ("shipped", CriticConfig(twice=True))


def test_it_is_told_where_subjects_are_and_finds_them(tmp_path: Path) -> None:
    """In pictures of one red car that it learns by heart; a mirror's place is that of the mirror."""
    whole = recipe(tmp_path)
    twice = replace(
        whole, films=(), images=(rendered(tmp_path / "far", "long_shot"),), images_per_step=8,
        settings=replace(SETTINGS, steps=50, learning_rate=1e-2, ema_decay=0.9, log_every=40, sample_every=200),
        network=replace(whole.network, twice=True),
    )  # fmt: skip
    shown = twice.objective().batch(0, generator_for(0))["images"]
    assert shown.covered.shape == (8, 96, 160) and shown.moment.tolist() == [0] * 8
    red = shown.look.moments[:, 0, 0] - shown.look.moments[:, 0, 2] > 0.6
    assert (shown.covered[red] > 0.5).float().mean() > 0.95, "what is red is the car"
    assert twice.run(tmp_path / "run", quiet=True).finished
    critic = load_critic(tmp_path / "run/critic")
    _, where = critic.look(shown.look)
    assert where is not None
    for square, covered in zip(square_around(where[:, 0]), shown.covered > 0.5, strict=True):
        rows, columns = covered.nonzero(as_tuple=True)
        middle = torch.stack([columns.float().mean(), rows.float().mean()]) / 96
        assert (square[:2] - middle).abs().max() < 0.12
    once = replace(twice, network=whole.network)
    assert len(once.objective().batch(0, generator_for(0))["images"].moment) == 0


def test_of_films_it_is_told_a_moment_that_all_have(tmp_path: Path) -> None:
    whole = replace(recipe(tmp_path), films_per_step=4)
    shown = replace(whole, network=replace(whole.network, twice=True)).objective().batch(3, generator_for(3))["films"]
    assert len(shown.moment) == len(shown.covered) == 4 and shown.covered.shape[1:] == shown.look.moments.shape[-2:]
    assert int(shown.moment.max()) < shown.look.moments.shape[1]


def rendered(path: Path, shot_type: str) -> str:
    """Pictures of a red car in a snowfield."""
    path.mkdir()
    scene = replace(
        sample_scene(generator_for(0)), subject="car", color="red", action="stays", direction="right",
        place="snowfield", time="day", weather="clear", shot_type=shot_type, shot_angle="eye_level",
        shot_position="side_view", camera_motion="static", expression=None,
    )  # fmt: skip
    labels = [ClipLabel(replace(scene, seed=seed), 24, 0.0) for seed in range(4)]
    with shard_writer(path, 0, (4, 1, 96, 160), labels) as array:
        array[:] = np.stack([render(label.scene, 1) for label in labels])
    return str(path)


def test_a_critic_grows_out_of_a_smaller_one(tmp_path: Path) -> None:
    whole = recipe(tmp_path)
    small = replace(whole, network=replace(whole.network, depths=(1, 1), fine=0))
    small.run(tmp_path / "small", quiet=True)
    whole = replace(whole, network=replace(whole.network, twice=True))
    grown = replace(whole, init=str(tmp_path / "small/critic.safetensors")).objective().critic.eval()
    before = load_critic(tmp_path / "small/critic")
    look = small.objective().batch(0, generator_for(0))["films"].look
    with torch.no_grad():
        assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in before.parameters())
        same = (torch.allclose(grown(look)[name], scores, atol=1e-2) for name, scores in before(look).items())
        assert all(same)  # but for the float16 in which a folder keeps it
    torn = {name: value for name, value in grown.state_dict().items() if name != "questions"}
    save_file(torn, tmp_path / "torn.safetensors")
    with pytest.raises(RuntimeError, match="questions"):  # nothing else may be missing
        replace(whole, init=str(tmp_path / "torn.safetensors")).objective()
    save_file(grown.state_dict(), tmp_path / "grown.safetensors")
    with pytest.raises(RuntimeError, match="fine"):  # and never out of a greater one
        replace(small, init=str(tmp_path / "grown.safetensors")).objective()


def test_classes_are_those_that_can_be_seen() -> None:
    generator = generator_for(3)
    for _ in range(20):
        scene = sample_scene(generator)
        seen = visible_fields(scene)
        for name, number in zip(FIELDS, classes_of(scene), strict=True):
            assert (VOCABULARY[name][number] == seen[name]) if name in seen else number == UNSEEN


def test_mirrored_left_and_right_change_places() -> None:
    base = sample_scene(generator_for(0))
    scene = replace(
        base, subject="fox", action="walks", place="meadow", shot_position="side_view", shot_type="long_shot",
        direction="left", camera_motion="pan_left", expression=None,
    )  # fmt: skip
    mirrored = dict(zip(FIELDS, classes_of(scene, mirrored=True), strict=True))
    assert VOCABULARY["direction"][mirrored["direction"]] == "right"
    assert VOCABULARY["camera_motion"][mirrored["camera_motion"]] == "pan_right"
    still = dict(zip(FIELDS, classes_of(replace(scene, camera_motion="zoom_in"), mirrored=True), strict=True))
    assert VOCABULARY["camera_motion"][still["camera_motion"]] == "zoom_in"


def test_pictures_teach_nothing_about_motion(tmp_path: Path) -> None:
    objective = recipe(tmp_path).objective()
    batch = objective.batch(0, generator_for(0))
    classes = batch["images"].classes
    for name in ("action", "direction", "camera_motion"):
        assert (classes[:, FIELDS.index(name)] == UNSEEN).all()
    assert (classes[:, FIELDS.index("subject")] != UNSEEN).all()
    loss = objective.losses(batch, generator_for(1))["critic"]
    assert torch.isfinite(loss)
    again = objective.batch(0, generator_for(0))
    assert torch.equal(again["films"].look.moments, batch["films"].look.moments)
