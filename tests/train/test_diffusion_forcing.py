"""The transformer's objective: windows as they are met in generation, and a loss that falls."""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from everreel.data.draws import generator_for
from everreel.train.diffusion_forcing import DiffusionForcing, random_blocks, staged
from everreel.train.trainer import Trainer
from everreel.world.scene import sample_scene


@pytest.fixture(scope="module")
def objective(recipe):
    return DiffusionForcing(recipe)


def test_batches_are_windows_of_films_and_images(objective):
    lengths, starts_inside, causal, given = set(), False, 0, 0
    store = objective._films.store
    first = {store.latents(index)[:, 0].tobytes() for index in range(len(store))}
    for step in range(60):
        batch = objective.batch(step, generator_for(0, "batch", step))
        frames = batch.x0_BCTHW.shape[2]
        lengths.add(frames)
        assert batch.sigma_BT.shape == batch.loss_BT.shape == (len(batch.x0_BCTHW), frames)
        assert batch.loss_BT.any()
        if batch.blocks is not None:
            assert sum(batch.blocks) == frames
            causal += 1
        if frames > 1:
            latents = batch.x0_BCTHW[:, :, 0].numpy().astype(np.float16)
            starts_inside |= any(np.ascontiguousarray(x).tobytes() not in first for x in latents)
            given += int((~batch.loss_BT & (batch.sigma_BT == 0)).sum())
    assert lengths == {1, 3} and starts_inside and causal and given


def test_a_batch_is_a_function_of_its_step(objective):
    one, other = (objective.batch(7, generator_for(0, "batch", 7)) for _ in range(2))
    assert torch.equal(one.x0_BCTHW, other.x0_BCTHW) and torch.equal(one.sigma_BT, other.sigma_BT)
    assert torch.equal(one.ids_BL, other.ids_BL) and one.blocks == other.blocks


def world_store(folder, frames, sizes):
    """A store of the film world as finished runs have them, of numbers that no VAE has to make."""
    generator = generator_for(frames)
    folder.mkdir(parents=True)
    for shard, (height, width, count) in enumerate(sizes):
        values = np.arange(count * 16 * frames * height * width).reshape(count, 16, frames, height, width)
        np.save(folder / f"latents-{shard:05d}.npy", (values % 2039 / 512 - 2 + shard).astype(np.float16))
        if frames > 1:
            values = np.arange(count * 3 * 16 * height * width).reshape(count, 3, 16, height, width)
            np.save(folder / f"stills-{shard:05d}.npy", (values % 1021 / 256 - 2).astype(np.float16))
        stills = [1 + n % (frames - 1) for n in range(3)] if frames > 1 else []
        lines = [
            {"scene": asdict(sample_scene(generator)), "fps": (16, 24)[row % 2], "start": 0.5, "stills": stills}
            | {"sentences": [f"a red fox runs {row}", f"a blue swan swims {row}"]}
            for row in range(count)
        ]
        (folder / f"shard-{shard:05d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_runs_that_exist_get_the_batches_that_they_had(recipe, tmp_path):
    """Noted before stores of other films, of several lengths and with embedded text, were read too."""
    films = world_store(tmp_path / "films", 9, ((4, 6, 3), (6, 4, 2)))
    images = world_store(tmp_path / "images", 1, ((4, 6, 5), (4, 4, 2)))
    windows = ((1, 0.3), (3, 0.4), (5, 0.3))
    objective = DiffusionForcing(
        replace(recipe, films=films, images=images, windows=windows, tokens=90, stills=0.6, inside=0.0)
    )
    found = []
    for step in range(6):
        batch = objective.batch(step, generator_for(0, "batch", step))
        digest = hashlib.sha256()
        for tensor in (batch.x0_BCTHW, batch.ids_BL, batch.fps_B, batch.loss_BT):
            digest.update(tensor.numpy().tobytes())
        shape = tuple(batch.x0_BCTHW.shape)
        found.append(
            (shape, digest.hexdigest()[:12], batch.blocks, pytest.approx(float(batch.sigma_BT.sum()), abs=1e-3))
        )
    assert found == [
        ((5, 16, 3, 6, 4), "9e11d8165d75", (1, 1, 1), 1.9631),
        ((15, 16, 1, 4, 6), "4aaa7afe45a9", None, 8.3470),
        ((3, 16, 5, 6, 4), "519b5455ecc4", None, 3.7046),
        ((5, 16, 3, 6, 4), "6f0c32fb6166", None, 4.5976),
        ((3, 16, 5, 4, 6), "46c0c4400ebe", None, 8.0759),
        ((3, 16, 5, 6, 4), "21f71a1b02e5", None, 6.5112),
    ]


def test_a_window_from_inside_a_film_goes_on_with_what_is_known(recipe):
    """What stands for four frames is never made of noise at the front of a window, where nothing would tell it."""
    inside = DiffusionForcing(replace(recipe, windows=((3, 0.5), (1, 0.5)), inside=1.0, stills=0.0, images=None))
    store, met = inside._films.store, set()
    firsts = {store.latents(index)[:, 0].tobytes() for index in range(len(store))}
    for step in range(40):
        batch = inside.batch(step, generator_for(0, "batch", step))
        for row, latents in enumerate(batch.x0_BCTHW[:, :, 0].numpy().astype(np.float16)):
            first = np.ascontiguousarray(latents).tobytes() in firsts
            assert first or (not batch.loss_BT[row, 0] and batch.sigma_BT[row, 0] <= 0.1)
            assert batch.loss_BT[row, -1] and batch.sigma_BT[row, -1] > 0
            met.add((batch.x0_BCTHW.shape[2], first, batch.blocks is None))
    assert {(3, False, True), (3, False, False), (1, True, True)} <= met and (1, False, True) not in met


def test_stills_take_the_place_of_later_latents(objective, recipe):
    """Wherever a frame is given, its latent is one of the clip's stills, not the film's own."""
    always = DiffusionForcing(replace(recipe, windows=((5, 1.0),), stills=1.0, inside=0.0))
    store = always._films.store
    stills = {still.tobytes() for index in range(len(store)) for still in store.stills(index)[1]}
    batch = always.batch(0, generator_for(0, "batch", 0))
    for row, frame in (~batch.loss_BT & (batch.sigma_BT == 0)).nonzero().tolist():
        assert batch.x0_BCTHW[row, :, frame].numpy().astype(np.float16).tobytes() in stills


def test_blocks_of_any_partition():
    for seed in range(50):
        blocks = random_blocks(11, 5, generator_for(seed))
        assert sum(blocks) == 11 and max(blocks) <= 5 and min(blocks) >= 1


def test_a_weight_moves_the_loss_of_a_frame_to_its_subject(recipe):
    weighted = DiffusionForcing(replace(recipe, subject_weight=4.0, windows=((3, 1.0),), stills=0.0))
    batch = weighted.batch(0, generator_for(3))
    plain = batch._replace(subject_BTHW=None)
    left = torch.zeros(batch.x0_BCTHW[:, 0].shape)
    left[..., :2] = 1.0
    halves = (
        weighted.errors(batch._replace(subject_BTHW=left), generator_for(1)),
        weighted.errors(batch._replace(subject_BTHW=1 - left), generator_for(1)),
    )
    of_plain = weighted.errors(plain, generator_for(1))
    # With half of a frame under the weight, the two halves' errors can be had back from the two means.
    more = 1 + 4.0 * (1 - batch.sigma_BT)
    torch.testing.assert_close(halves[0] + halves[1], 2 * of_plain)
    assert ((halves[0] - of_plain).abs() > 1e-4)[more > 1.5].all()
    everywhere = weighted.errors(batch._replace(subject_BTHW=torch.ones_like(left)), generator_for(1))
    torch.testing.assert_close(everywhere, of_plain)
    noise_alone = batch._replace(sigma_BT=torch.ones_like(batch.sigma_BT))
    torch.testing.assert_close(
        weighted.errors(noise_alone, generator_for(1)),
        weighted.errors(noise_alone._replace(subject_BTHW=None), generator_for(1)),
    )
    assert batch.subject_BTHW is not None and batch.subject_BTHW.shape == left.shape
    with pytest.raises(ValueError, match=r"^subject_weight=-1: must be 0 or more; the nearest that works is 0$"):
        replace(recipe, subject_weight=-1)


def test_a_weight_without_known_subjects_is_refused_before_training(recipe, tmp_path):
    world_store(tmp_path / "films", 5, [(4, 4, 3)])
    alone = replace(recipe, films=str(tmp_path / "films"), images=None, windows=((3, 1.0),), subject_weight=2.0)
    with pytest.raises(ValueError, match=r"^subject_weight=2: the stores do not say where subjects are; .* 0 works$"):
        DiffusionForcing(alone)


def test_training_lowers_the_loss_and_stages_follow(recipe, tmp_path):
    objective = DiffusionForcing(recipe)
    batch = objective.batch(0, generator_for(0))
    before = float(objective.losses(batch, generator_for(1))["transformer"].detach())
    Trainer(objective, recipe.settings, tmp_path / "first", quiet=True).run()
    after = float(objective.losses(batch, generator_for(1))["transformer"].detach())
    assert after < before
    (_, first), (_, second) = staged(("first", recipe), ("second", recipe), run_dir=str(tmp_path))
    assert first.init is None
    ours = DiffusionForcing(second).transformer.state_dict()
    with_weights = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["averages"]["transformer"]
    assert all(torch.equal(ours[name], value) for name, value in with_weights.items())


def test_a_sheet_of_samples_is_drawn(recipe, tmp_path):
    objective = DiffusionForcing(replace(recipe, sample_prompts=("a red fox runs",), sample_frames=2))
    with torch.no_grad():
        objective.sample(tmp_path, 3)
    assert (tmp_path / "step-000003.png").stat().st_size > 1000
