"""Training the VAE: what a batch holds, what a splice asks for, statistics, and a run from end to end."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint.load import load_vae
from everreel.data.draws import generator_for
from everreel.model.causal_conv import CausalConv3d
from everreel.model.config import VAEConfig
from everreel.model.vae import CausalVAE
from everreel.train.trainer import Trainer, TrainerSettings
from everreel.train.vae import Draw, VAERecipe, _disturbed, _edges, _mean, latent_statistics
from everreel.world.scene import sample_scene

CONFIG = VAEConfig(base_dim=4, num_res_blocks=1)
PICTURES = Draw(count=3, size=(16, 16))
CLIPS = Draw(count=2, frames=9, size=(16, 16), splices=1.0)


class Store:
    """Smooth moving colours, in two sizes, as a `ClipStore` gives them."""

    def __init__(self, path):
        self.path = path
        self.groups = {(13, 24, 32): [0, 1], (13, 32, 24): [2], (1, 24, 24): [3]}
        self._shapes = {index: shape for shape, indices in self.groups.items() for index in indices}

    def __len__(self):
        return len(self._shapes)

    def clip(self, index):
        frames, height, width = self._shapes[index]
        t, y, x, c = np.ogrid[:frames, :height, :width, :3]
        return (127 + 100 * np.sin(t / 5 + y / 9 + x / 7 + c + index)).astype(np.uint8)

    def scene(self, index):
        return sample_scene(generator_for(index, "scene"))

    def fps(self, index):
        return 24

    def start(self, index):
        return 2.0


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setattr("everreel.train.vae.ClipStore", Store)
    settings = TrainerSettings(
        steps=6,
        learning_rate=3e-3,
        warmup=2,
        checkpoint_every=100,
        sample_every=100,
        seed=3,
        device="cpu",
        threads=1,
    )
    return VAERecipe(
        settings=settings,
        stages=((3, (PICTURES,)), (3, (CLIPS, Draw(count=1, frames=5)))),
        stores=("a",),
        held_out="b",
        config=CONFIG,
        checked_clips=4,
        checked_frames=5,
        statistics_clips=4,
        statistics_frames=9,
    )


def test_a_batch_is_what_its_stage_says_and_depends_on_the_step_alone(recipe):
    objective = recipe.objective()
    pictures = objective.batch(0, generator_for(0, "batch", 0))
    assert pictures["video"].shape == (3, 1, 16, 16, 3) and pictures["video"].dtype == torch.uint8
    assert not pictures["still"].any()
    batches = [objective.batch(4, generator_for(0, "batch", step)) for step in range(12)]
    crops = [batch for batch in batches if batch["video"].shape == (2, 9, 16, 16, 3)]
    whole = [batch for batch in batches if batch["video"].shape[1] == 5]
    assert crops and whole and len(crops) + len(whole) == len(batches)
    assert all((batch["still"] > 0).all() and (batch["still"] < 9).all() for batch in crops)
    assert {tuple(batch["video"].shape[2:4]) for batch in whole} <= {(24, 32), (32, 24)}
    again = recipe.objective().batch(4, generator_for(0, "batch", 0))
    assert all(torch.equal(again[name], batches[0][name]) for name in again)


def test_a_splice_is_the_second_latent_of_a_held_picture(recipe):
    objective = recipe.objective()
    objective.vae.load_state_dict(randomised(objective.vae))
    video = torch.rand(2, 3, 9, 16, 16) * 2 - 1
    generator = generator_for(0, "noise")
    with torch.no_grad():
        mean, _ = objective.vae.encode_moments(video)
        narrow = objective.vae.conv1.bias
        narrow[16:] = -30  # the draw is then the mean
        objective.vae.conv1.weight[16:] = 0
        z, target = objective._spliced(mean, video, torch.tensor([0, 6]), generator)
        held = video[1:, :, 6:7].expand(-1, -1, 5, -1, -1)
        still = objective.vae.encode_moments(held)[0]
    assert torch.equal(z[0], mean[0]) and torch.equal(target[0], video[0])
    torch.testing.assert_close(z[1, :, 2], still[0, :, 1], atol=1e-4, rtol=1e-4)
    assert torch.equal(z[1, :, :2], mean[1, :, :2])
    assert torch.equal(target[1, :, :5], video[1, :, :5])
    assert torch.equal(target[1, :, 5:], video[1, :, 6:7].expand(-1, 4, -1, -1))


def test_a_subject_far_off_counts_more_and_never_more_than_its_piece(recipe):
    weighted = dataclasses.replace(recipe, subject_weight=6.0).objective()
    seen = []
    for step in range(6):
        batch, plain = (one.batch(4, generator_for(0, "batch", step)) for one in (weighted, recipe.objective()))
        assert batch["subject"].shape == batch["video"].shape[:4] and "subject" not in plain
        weight = weighted._weight(batch)
        assert weight.shape == batch["video"][:, None, ..., 0].shape and weight.min() >= 1 and weight.max() <= 7.001
        assert (weight - 1).mean(dim=(1, 2, 3, 4)).max() < 1.001  # as much as the whole piece
        seen.append(batch["subject"].float().mean())
        still, first = int(batch["still"][0]), int((batch["still"][0] - 1) // 4 * 4 + 1)
        assert not still or all(torch.equal(weight[0, 0, first + ahead], weight[0, 0, still]) for ahead in range(4))
    assert max(seen) > 0
    ones = torch.ones(1, 1, 5, 8, 8)
    small, large = (torch.zeros(1, 3, 5, 8, 8) for _ in range(2))
    small[..., :1, :2], large[...] = 0.5, 0.5
    heavy = ones.clone()
    heavy[..., :1, :2] = 7
    assert _mean(small, ones) == small.mean() and _mean(small, heavy) > 4 * _mean(small, ones)
    assert _mean(large, heavy) == pytest.approx(0.5) and _edges(small, heavy) > 2 * _edges(small, ones)


def randomised(vae):
    generator = generator_for(1, "weights")
    state = {}
    for name, value in vae.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        state[name] = noise.abs() + 0.5 if name.endswith("gamma") else 0.1 * noise
    return state


def test_single_frames_leave_the_past_alone(recipe):
    objective = recipe.objective()
    optimizer = torch.optim.AdamW(objective.vae.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(2):
        batch = objective.batch(0, generator_for(0, "batch", step))
        objective.losses(batch, generator_for(0, "losses", step))["vae"].backward()
        optimizer.step()
    video = objective.batch(3, generator_for(0, "batch", 9))["video"].movedim(-1, 1).float() / 128 - 1
    objective.vae.eval()
    with torch.no_grad():
        together = objective.vae.encode(video)
        alone = torch.cat([objective.vae.encode(video[:, :, t : t + 1]) for t in (0, 4)], 2)
        torch.testing.assert_close(together[:, :, :2], alone, atol=1e-5, rtol=1e-5)
    for module in objective.vae.modules():
        if isinstance(module, CausalConv3d):
            assert not module.weight[:, :, :-1].any()


def test_a_wider_network_computes_what_the_narrow_one_does(recipe, tmp_path):
    narrow = CausalVAE(CONFIG)
    narrow.load_state_dict(randomised(narrow))
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    config = dataclasses.replace(CONFIG, base_dim=8, decoder_base_dim=12)
    wide = dataclasses.replace(recipe, config=config, init=str(tmp_path / "narrow.safetensors")).objective().vae
    video = torch.rand(1, 3, 9, 16, 16, generator=generator_for(0, "video")) * 2 - 1
    with torch.no_grad():
        for found, wanted in zip(wide.encode_moments(video), narrow.encode_moments(video), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        latents = narrow.encode(video)
        torch.testing.assert_close(wide.decode(latents), narrow.decode(latents), atol=1e-5, rtol=1e-4)
    copies = wide.encoder.conv1.weight.chunk(2)
    assert torch.equal(*copies)  # what reads them differs, so they part in training
    first = next(
        layer for layer in wide.encoder.modules() if isinstance(layer, CausalConv3d) and layer.weight.shape[1] > 3
    )
    halves = first.weight.chunk(2, 1)
    assert not torch.allclose(*halves)


def test_a_network_that_cannot_be_widened_is_named(recipe, tmp_path):
    save_file(CausalVAE(dataclasses.replace(CONFIG, base_dim=3)).state_dict(), tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.conv1\.weight does not widen to"):
        dataclasses.replace(recipe, init=str(tmp_path / "odd.safetensors")).objective()


def test_statistics_make_unit_latents():
    vae = CausalVAE(CONFIG).eval()
    clips = [torch.randn(2, 3, 5, 16, 16, generator=generator_for(0, "clip", i)) for i in range(3)]
    mean, std = latent_statistics(vae, iter(clips))
    config = dataclasses.replace(CONFIG, latents_mean=mean, latents_std=std)
    ready = CausalVAE(config).eval()
    ready.load_state_dict(vae.state_dict())
    with torch.no_grad():
        latents = torch.cat([ready.encode(clip) for clip in clips]).movedim(1, 0).flatten(1)
    assert latents.mean(1).abs().max() < 1e-3
    assert (latents.std(1, correction=0) - 1).abs().max() < 1e-3


def test_a_run_learns_and_leaves_a_folder_that_loads(recipe, tmp_path):
    outcome = recipe.run(tmp_path, quiet=True)
    assert outcome.reason == "done"
    assert (tmp_path / "samples" / "0000006.png").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {"psnr_clips", "psnr_frames", "psnr_splices"}
    vae = load_vae(tmp_path)
    assert vae.config.latents_std != CONFIG.latents_std
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 5, 16, 16))
    assert torch.isfinite(latents).all()


def test_a_decoder_learns_alone(recipe, tmp_path):
    """What was encoded before can still be decoded: encoder and statistics stay, to the last bit."""
    recipe.run(tmp_path / "first", quiet=True)
    init = tmp_path / "first" / "vae.safetensors"
    again = dataclasses.replace(recipe, init=str(init), decoder_only=True)
    again.run(tmp_path / "second", quiet=True)
    before, after = load_file(init), load_file(tmp_path / "second" / "vae.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("decoder", "conv2")) for name in moved)
    old, new = (load_vae(tmp_path / name).config for name in ("first", "second"))
    assert (old.latents_mean, old.latents_std) == (new.latents_mean, new.latents_std)


def test_half_of_the_latents_are_disturbed():
    z = torch.randn(400, 2, 1, 8, 8, generator=generator_for(0)) * torch.tensor([1.0, 3.0])[:, None, None, None]
    assert torch.equal(_disturbed(z, 0.0, generator_for(1)), z)
    off = (_disturbed(z, 0.5, generator_for(1)) - z).square().mean(dim=(2, 3, 4)).sqrt()
    noisy = off[:, 0] > 0
    assert 0.4 < noisy.float().mean() < 0.6 and not off[~noisy].any()
    assert off[:, 0].max() < 0.6 and off[noisy, 0].mean() == pytest.approx(0.25, abs=0.04)
    assert (off[noisy, 1] / off[noisy, 0]).mean() == pytest.approx(3.0, rel=0.1)


def test_the_loss_falls(recipe):
    objective = recipe.objective()
    optimizer = torch.optim.AdamW(objective.vae.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for step in range(30):
        batch = objective.batch(0, generator_for(0, "batch", step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.losses(batch, generator_for(0, "losses", step))["vae"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_resumed_run_ends_with_the_same_bits(recipe, tmp_path):
    def weights(folder, *stops):
        for stop in stops:
            # as if the process had been killed: the batches and draws of the other steps stay the same
            objective = recipe.objective()
            Trainer(objective, dataclasses.replace(recipe.settings, steps=stop, decay="constant"), folder, True).run()
        return objective.vae.state_dict()

    whole, resumed = weights(tmp_path / "whole", 6), weights(tmp_path / "resumed", 2, 5, 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bad_values():
    with pytest.raises(ValueError, match=r"frames=6.*nearest that works is 5"):
        Draw(count=1, frames=6)
    with pytest.raises(ValueError, match=r"settings.steps=5.*must be 3"):
        VAERecipe(settings=TrainerSettings(steps=5), stages=((3, (PICTURES,)),))
    with pytest.raises(ValueError, match=r"subject_weight=-1.*nearest that works is 0"):
        VAERecipe(settings=TrainerSettings(steps=3), stages=((3, (PICTURES,)),), subject_weight=-1)


def test_clips_that_are_too_short_are_named(recipe):
    objective = recipe.objective()
    long = dataclasses.replace(CLIPS, frames=17)
    with pytest.raises(ValueError, match=r"frames=17.*no clip"):
        dataclasses.replace(recipe, stages=((6, (long,)),)).objective().batch(0, generator_for(0, "batch", 0))
    assert objective.batch(0, generator_for(0, "batch", 0))
