"""Latent stores: what is encoded, stills, sentences, windows and prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.data.clips import ClipLabel, ClipStore, shard_writer, to_bytes, to_unit_range
from everreel.data.draws import generator_for
from everreel.data.latents import (
    EncodeSettings,
    LatentStore,
    draw_group,
    encode_store,
    reconstruct_store,
)
from everreel.data.text import FrozenText, TextTable
from everreel.model.config import TextEncoderConfig, VAEConfig
from everreel.model.text_encoder import TextEncoder
from everreel.model.vae import CausalVAE
from everreel.train.text import save_text_encoder, save_tokenizer, train_tokenizer
from everreel.world.render import coverage
from everreel.world.scene import sample_scene

SETTINGS = EncodeSettings(stills=3, sentences=2, batch=9, dtype=torch.float32)


@pytest.fixture(scope="module")
def vae() -> CausalVAE:
    torch.manual_seed(0)
    config = VAEConfig(base_dim=4, num_res_blocks=1, latents_mean=(0.1,) * 16, latents_std=(0.5,) * 16)
    vae = CausalVAE(config).eval()
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return vae


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    path = tmp_path_factory.mktemp("clips")
    generator, noise = generator_for(0), np.random.default_rng(0)
    for shard, shape in enumerate([(3, 9, 16, 32), (2, 1, 32, 16)]):
        labels = [ClipLabel(sample_scene(generator), 24, 1.5) for _ in range(shape[0])]
        with shard_writer(path, shard, shape, labels) as frames:
            frames[:] = noise.integers(0, 256, frames.shape)
    return ClipStore(path)


def test_latents_are_those_of_the_vae(tmp_path: Path, clips: ClipStore, vae: CausalVAE) -> None:
    store = encode_store(tmp_path, clips, vae, SETTINGS)
    assert len(store) == 5
    assert dict(store.groups) == {(3, 2, 4): [0, 1, 2], (1, 4, 2): [3, 4]}
    for index in (1, 4):
        with torch.no_grad():
            expected = vae.encode(to_unit_range(clips.clip(index)[None]))[0]
        found = torch.from_numpy(np.array(store.latents(index))).float()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
        assert store.labels[index] == clips.labels[index]
        assert len(store.sentences[index]) == 2
    batch = store.batch([0, 2], [(0, 2), (1, 3)])
    assert batch.shape == (2, 16, 2, 2, 4) and batch.dtype == torch.float32
    assert np.array_equal(batch[1], store.latents(2)[:, 1:3])


def test_a_still_is_the_second_latent_of_five_equal_frames(tmp_path: Path, clips: ClipStore, vae: CausalVAE) -> None:
    store = encode_store(tmp_path, clips, vae, SETTINGS)
    frames, stills = store.stills(0)
    assert len(frames) == 3 and all(1 <= frame <= 2 for frame in frames) and stills.shape == (3, 16, 2, 4)
    # The picture is one of the four that the latent stands for.
    inside = range(4 * frames[0] - 3, 4 * frames[0] + 1)
    pictures = to_unit_range(np.stack([np.repeat(clips.clip(0)[i : i + 1], 5, axis=0) for i in inside]))
    with torch.no_grad():
        candidates = vae.encode(pictures)[:, :, 1]
    errors = (candidates - torch.from_numpy(np.array(stills[0])).float()).abs().amax((1, 2, 3))
    assert float(errors.min()) < 5e-3
    assert store.stills(3)[0] == ()


def test_a_store_knows_where_subjects_are(tmp_path: Path, clips: ClipStore, vae: CausalVAE) -> None:
    store = encode_store(tmp_path, clips, vae, SETTINGS)
    label = clips.labels[0]
    pixels = coverage(label.scene, 9, height=16, width=32, fps=label.fps, start=label.start)
    found = store.subjects([0, 2], [(0, 2), (1, 3)])
    assert found.shape == (2, 2, 2, 4)
    # The first latent is of one frame, the second of the next four; cells are of eight pixels.
    expected = [pixels[0, :8, 8:16].mean() / 255, pixels[1:5, :8, 8:16].mean() / 255]
    torch.testing.assert_close(found[0, :, 0, 1].double(), torch.tensor(expected), atol=1e-3, rtol=0)
    assert store.subjects([3], [(0, 1)]).shape == (1, 1, 4, 2)
    (tmp_path / "subject-00000.npy").unlink()
    store = LatentStore(tmp_path)
    assert store.knows_subjects and not store.subjects([0], [(0, 2)]).any()
    (tmp_path / "subject-00001.npy").unlink()
    assert not LatentStore(tmp_path).knows_subjects


def test_encoding_goes_on_where_it_stopped(tmp_path: Path, clips: ClipStore, vae: CausalVAE) -> None:
    encode_store(tmp_path / "a", clips, vae, SETTINGS)
    encode_store(tmp_path / "b", clips, vae, SETTINGS)
    (tmp_path / "b/shard-00001.jsonl").unlink()
    before = (tmp_path / "b/latents-00000.npy").stat().st_mtime_ns
    encode_store(tmp_path / "b", clips, vae, SETTINGS)
    assert (tmp_path / "b/latents-00000.npy").stat().st_mtime_ns == before
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_reconstructions_keep_their_labels(tmp_path: Path, clips: ClipStore, vae: CausalVAE) -> None:
    store = reconstruct_store(tmp_path, clips, vae, SETTINGS, num_shards=1)
    assert len(store) == 3 and store.labels == clips.labels[:3]
    with torch.no_grad():
        expected = to_bytes(vae.decode(vae.encode(to_unit_range(clips.clip(2)[None]))))[0]
    assert np.abs(store.clip(2).astype(int) - expected).max() <= 1


def test_draw_group_draws_by_number_of_clips() -> None:
    groups = {(1, 2, 3): [0, 1, 2, 3, 4, 5], (2, 2, 2): [6, 7]}
    generator = generator_for(0)
    drawn = [draw_group(groups, generator, 3) for _ in range(200)]
    assert all(set(indices) <= set(groups[key]) for key, indices in drawn)
    assert 120 < sum(key == (1, 2, 3) for key, _ in drawn) < 180


def test_prompts(tmp_path: Path) -> None:
    lines = [["a red fox runs", "fox"], ["a blue boat stays", "the boat"]]
    tokenizer = train_tokenizer(iter([line for pair in lines for line in pair] * 20), 120)
    torch.manual_seed(0)
    config = TextEncoderConfig(tokenizer.backend.get_vocab_size(), 16, 8, 32, 2, 2)
    save_tokenizer(tmp_path, tokenizer)
    save_text_encoder(tmp_path, TextEncoder(config))
    assert json.loads((tmp_path / "text_encoder/config.json").read_text())["d_model"] == 16
    table = TextTable.build(lines, FrozenText.load(tmp_path, length=24))
    assert table.ids_NSL.shape == (2, 2, 24)
    ids = table.draw([1, 0, 1], generator_for(0), empty=0.0)
    assert ids.shape == (3, 24) and any(torch.equal(ids[0], row) for row in table.ids_NSL[1].long())
    empty = table.draw([0, 1], generator_for(0), empty=1.0)
    assert empty[0].tolist() == [1] + [0] * 23
    embeddings, mask = table.text.embed(ids)
    assert embeddings.shape == (3, 24, 16) and not embeddings[mask == 0].any()
    assert torch.isfinite(embeddings).all()
