"""Which clips are drawn: caps hold and are no lower than they must be, the best stay, labels are whole."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everreel.caption.tiny import caption_of
from everreel.data.clips import ClipStore, shard_writer
from everreel.data.draws import generator_for
from everreel.data.latents import LatentStore
from everreel.train.diffusion_forcing import DiffusionForcing
from everreel.train.labels import LABELS, ClipLook, LabelRecipe, read_labels
from everreel.train.selection import Balance, Best, capped


def _look(subject, camera="static", **measures):
    return ClipLook(caption_of({"subject": subject, "camera_motion": camera}), measures)


LOOKS = [_look("woman")] * 8 + [_look("fox", "pan_left"), _look("car", "zoom_in")]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.floats(0.01, 1))
def test_a_cap_holds_and_is_reached(counts, cap):
    named = {str(n): count for n, count in enumerate(counts)}
    if len(counts) * cap < 1 - 1e-9:
        with pytest.raises(ValueError, match="the nearest that works"):
            capped(named, cap)
        return
    kept = capped(named, cap)
    total = sum(kept.values())
    assert max(kept.values()) <= cap * total * (1 + 1e-6)
    assert all(0 < kept[name] <= count for name, count in named.items())
    if sum(kept.values()) < sum(counts) - 1e-6:  # what was held back is held back no more than it must be
        assert max(kept.values()) == pytest.approx(cap * total, rel=1e-6)
        limit = max(kept.values())
        assert all(kept[name] == pytest.approx(min(count, limit)) for name, count in named.items())


def test_the_histogram_before_and_after():
    shares = Balance("type", 0.5).shares(LOOKS)
    assert shares["Human"] == (0.8, 0.5) and shares["Animal"] == (0.1, 0.25)
    chances = Balance("type", 0.5).chances(LOOKS)
    assert chances[:8].sum() == 2 and chances[8:].tolist() == [1, 1]


def test_other_fields_are_balanced_too():
    assert Balance("sub_type").values(LOOKS)[-1] == "Vehicles/Car"
    assert Counter(Balance("camera_motion").values(LOOKS)) == {"static": 8, "pan_left": 1, "zoom_in": 1}


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Balance("colour"), "by='colour': must be one of type,"),
        (lambda: Balance("type", 0.0), "cap=0.0"),
        (lambda: Balance("type", 0.2).chances(LOOKS), "3 values cannot be 0.2 or less each; .* is 0.333"),
        (lambda: Best("beauty"), "measure='beauty': must be one of"),
        (lambda: Best("sharpness", 2.0), "share=2.0"),
        (lambda: Best("sharpness").chances(LOOKS), "was measured of none of the 10 clips"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_best_stay():
    looks = [_look("fox", sharpness=value) for value in (0.1, 0.4, 0.3, 0.2)] + [_look("fox")]
    assert Best("sharpness", 0.5).chances(looks).tolist() == [0, 1, 1, 0, 0]
    lower = [_look("fox", flicker=value) for value in (0.1, 0.4)]
    assert Best("flicker", 0.5).chances(lower).tolist() == [1, 0]


@pytest.fixture(scope="module")
def labelled(recipe):
    for name in ("films", "images"):
        where = f"{recipe.vae}/{name}"
        LabelRecipe(store=f"{recipe.vae}/latents/{name}", clips=where, latents=3).run(None, quiet=True)
    return recipe


def test_labels_go_on_where_they_were(labelled):
    path = LatentStore(labelled.films).path / LABELS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 20])
    assert not LabelRecipe(store=labelled.films, vae=labelled.vae).is_done(None)
    with pytest.raises(ValueError, match="line 3 is no label"):
        read_labels(LatentStore(labelled.films))
    LabelRecipe(store=labelled.films, clips=f"{labelled.vae}/films", latents=3).run(None, quiet=True)
    assert path.read_bytes() == whole
    assert {"caption", "measures"} == set(json.loads(whole.splitlines()[0]))


def test_labels_from_what_the_decoder_shows(labelled, tmp_path):
    store = tmp_path / "films"
    shutil.copytree(labelled.films, store)
    (store / LABELS).unlink()
    with pytest.raises(ValueError, match="has no labels"):
        read_labels(LatentStore(store))
    looks = LabelRecipe(store=str(store), vae=labelled.vae, latents=2).run(None, quiet=True)
    assert len(looks) == 3 and looks[0].measures["sharpness"] > 0


def test_a_clip_store_of_another_size_is_refused(labelled, tmp_path):
    store = tmp_path / "films"
    shutil.copytree(labelled.films, store)
    (store / LABELS).unlink()
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    with shard_writer(fewer, 0, (2, 17, 32, 32), ClipStore(f"{labelled.vae}/films").labels[:2]) as clips:
        clips[:] = 0
    with pytest.raises(ValueError, match="its 2 clips are not those of the 3 latents"):
        LabelRecipe(store=str(store), clips=str(fewer)).run(None, quiet=True)


def test_a_stage_draws_what_its_selection_allows(labelled):
    films = read_labels(LatentStore(labelled.films))
    keep = Best("sharpness", 1 / 3)
    only = [index for index, chance in enumerate(keep.chances(films)) if chance]
    assert len(only) == 1
    objective = DiffusionForcing(replace(labelled, windows=((3, 1.0),), select=(keep,), inside=0.0, stills=0.0))
    expected = LatentStore(labelled.films).batch(only, [(0, 3)])
    for step in range(4):
        batch = objective.batch(step, generator_for(0, "batch", step))
        torch.testing.assert_close(batch.x0_BCTHW, expected.expand_as(batch.x0_BCTHW))


def test_a_selection_that_leaves_nothing_is_refused(labelled):
    class Nothing:
        def chances(self, labels):
            return torch.zeros(len(labels), dtype=torch.float64)

    with pytest.raises(ValueError, match="leaves none of the 3 clips"):
        DiffusionForcing(replace(labelled, windows=((3, 1.0),), select=(Nothing(),)))
