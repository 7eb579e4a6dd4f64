"""The transformer's objective: windows as they are met in generation, and a loss that falls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.data.draws import generator_for
from everreel.train.diffusion_forcing import DiffusionForcing, _random_blocks, staged
from everreel.train.trainer import Trainer


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
        blocks = _random_blocks(11, 5, generator_for(seed))
        assert sum(blocks) == 11 and max(blocks) <= 5 and min(blocks) >= 1


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
