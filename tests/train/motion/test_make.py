"""Automatic pairs: matched, split by clip, made shard by shard, and refused before anything is loaded."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from everreel.data.clips import ClipStore
from everreel.data.latents import LatentStore
from everreel.train.generate import Way
from everreel.train.motion import make
from everreel.train.motion.distort import KINDS, Distortions
from everreel.train.motion.make import SHEET, AutomaticPairsRecipe
from everreel.train.motion.match import Matching
from everreel.train.run import run_recipe
from tests.train.motion.clips import ANYTHING, BALL, FOX, write_clips


@pytest.fixture(scope="module")
def stores(recipe, tmp_path_factory):
    scenes = [FOX, replace(FOX, subject="dog"), replace(FOX, subject="cat"), BALL]
    return write_clips(tmp_path_factory.mktemp("stores"), scenes, recipe.vae)


@pytest.fixture(scope="module")
def pairs(recipe, stores, tiny_folder):
    return AutomaticPairsRecipe(
        clips=stores.clips, count=12, model=str(tiny_folder), latents=stores.latents, vae=recipe.vae, frames=3,
        held_out=0.5, way=Way(8), matching=ANYTHING, distortions=Distortions(cache_strength=0.9),
        shard_pairs=6, sheet_pairs=1, dtype=torch.float32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    assert run_recipe(pairs, folder, quiet=True)
    return folder, pairs.run(folder, quiet=True)


def test_pairs_are_of_all_kinds_with_the_real_clip_first(pairs, made, stores):
    folder, store = made
    latents = LatentStore(stores.latents)
    assert len(store) == 12 and set(store.counts) == set(KINDS) and pairs.is_done(folder)
    for number, label in enumerate(store.labels):
        better, worse = store.pair(number)
        clip = label.facts["clip"]
        assert torch.equal(better, latents.batch([clip], [(0, 3)])[0]) and not torch.equal(better, worse)
        assert label.prompt in latents.sentences[clip] and label.fps_index == 1 and not label.tie
        assert label.kind != "reversed" or clip != 3


def test_a_clip_is_on_one_side_for_all_kinds(made):
    sides = {(label.facts["clip"], label.split) for label in made[1].labels}
    assert len(sides) == len({clip for clip, _ in sides}) >= 3 and {side for _, side in sides} == {"train", "held_out"}
    assert max(Counter(label.facts["clip"] for label in made[1].labels).values()) > 2
    twice = Counter((label.kind, label.facts["clip"]) for label in made[1].labels)
    assert max(twice.values()) == 1  # two of each kind, of three clips or more


def test_a_sheet_shows_the_better_over_the_worse(made):
    with Image.open(made[0] / SHEET) as sheet:
        width, height = sheet.size
    assert width > 4 * 32 and height > 2 * len(KINDS) * 32


def test_what_was_stopped_ends_with_the_same_bytes_and_more_can_be_asked_for(pairs, made, tmp_path):
    folder, _ = made
    less = replace(pairs, count=8)
    stopped = replace(less, max_seconds=1e-9)
    assert not run_recipe(stopped, tmp_path, quiet=True) and not stopped.is_done(tmp_path)
    less.run(tmp_path, quiet=True)
    assert not pairs.is_done(tmp_path)
    pairs.run(tmp_path, quiet=True)
    for name in ("pairs-00000.npy", "pairs-00001.npy", "shard-00001.jsonl", "tally-00001.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    with pytest.raises(ValueError, match="holds pairs made with seed=0; use another folder"):
        replace(pairs, seed=1).run(tmp_path)
    with pytest.raises(ValueError, match="holds 2 shards, more than asked for"):
        replace(pairs, count=6).run(tmp_path)


def test_rules_that_drop_everything_end_the_run(pairs, tmp_path, capsys):
    picky = replace(pairs, count=2, kinds=(("from_text", 1.0),), matching=replace(ANYTHING, least_difference=1.0))
    for _ in range(2):  # also when all is made
        with pytest.raises(ValueError, match="drops all of 2 pairs; dropped: 2 by least_difference"):
            picky.run(tmp_path)
    assert "2/2, 0 pairs kept" in capsys.readouterr().err


def test_without_latents_the_vae_encodes_and_the_world_says_the_words(pairs, tmp_path):
    store = replace(pairs, latents=None, count=1, kinds=(("reversed", 1.0),), sheet_pairs=1).run(tmp_path, quiet=True)
    assert len(store) == 1 and store.labels[0].prompt
    assert ClipStore(pairs.clips).scene(store.labels[0].facts["clip"]).locomotes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"frames": 4},
            r"frames=4: with kinds .* needs 25 frames, and the longest has 17; the nearest that works is 3",
        ),
        ({"frames": 1}, "frames=1.*no motion"),
        ({"kinds": (("blurred", 1.0),)}, "kinds=.*renoised, from_first_frame"),
        ({"kinds": (("reversed", 1.0), ("reversed", 1.0))}, "each once"),
        ({"held_out": 1.5}, "held_out=1.5"),
        ({"count": 0}, "count=0"),
        ({"way": Way(3)}, "strength=0.6: must be from the last level|steps=3"),
    ],
)
def test_bad_values_are_refused_before_anything_is_loaded(pairs, tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(make, "load_transformer", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=said):
        replace(pairs, **change).run(tmp_path)


def test_latents_of_other_clips_and_kinds_that_no_clip_shows_are_refused(pairs, recipe, tmp_path):
    with pytest.raises(ValueError, match=r"has 3 clips, and clips=.* has 4"):
        replace(pairs, latents=recipe.films).run(tmp_path / "a")
    other = write_clips(tmp_path, [BALL, replace(BALL, seed=3)], recipe.vae)
    with pytest.raises(ValueError, match="kinds='reversed': none of the clips shows it"):
        replace(pairs, clips=other.clips, latents=other.latents).run(tmp_path / "b")
    assert not Path(tmp_path / "a").exists()


def test_the_defaults_ask_for_alike_films():
    assert AutomaticPairsRecipe("clips", 8).matching == Matching() and Matching().same == ("subject",)
