"""The suite's formulas over frames and features, against plain readings of them; models are tiny and random."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everreel.evaluate.vbench import features
from everreel.evaluate.vbench.results import read_results
from everreel.media import FilmWriter


def frames(count, height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A vision transformer, a CLIP and a text model, each in the folder that transformers saves."""
    import transformers

    root = tmp_path_factory.mktemp("models")
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 224, "patch_size": 56}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ViTModel(transformers.ViTConfig(**vision)).save_pretrained(root / "vit")
        seeing = {**vision, "projection_dim": 8}
        reading = {**small, "vocab_size": 9}
        clip = transformers.CLIPConfig(vision_config=seeing, text_config=reading, projection_dim=8)
        transformers.CLIPModel(clip).save_pretrained(root / "clip")
        text = transformers.BertConfig(**small, vocab_size=9)
        transformers.BertModel(text).save_pretrained(root / "bert")
    return root


def by_the_letter(seen):
    """`subject_consistency.py`, read plainly."""
    total = 0.0
    for i in range(1, len(seen)):
        before = max(0.0, float(F.cosine_similarity(seen[i - 1], seen[i], dim=0)))
        first = max(0.0, float(F.cosine_similarity(seen[0], seen[i], dim=0)))
        total += (before + first) / 2
    return total / (len(seen) - 1)


@pytest.mark.parametrize("count", [2, features.BATCH, features.BATCH + 1, 2 * features.BATCH + 3])
def test_consistency_is_the_mean_likeness_to_the_first_and_the_one_before(count):
    seen = torch.randn(count, 5, generator=torch.Generator().manual_seed(count))
    table = {index: seen[index] for index in range(count)}
    film = np.zeros((count, 2, 2, 3), np.uint8)
    film[:, 0, 0, 0] = np.arange(count)
    found = features.consistency(film, lambda batch: torch.stack([table[int(frame[0, 0, 0])] for frame in batch]))
    assert found.score == pytest.approx(by_the_letter(seen), abs=1e-6) and found.num_frames == count - 1


def test_consistency_of_a_picture_is_one_and_of_opposites_nought():
    still = np.zeros((4, 2, 2, 3), np.uint8)
    assert features.consistency(still, lambda batch: torch.ones(len(batch), 3)).score == pytest.approx(1)
    signs = iter([1.0, -1.0])
    assert features.consistency(still[:2], lambda batch: torch.tensor([[next(signs)] for _ in batch])).score == 0


def test_flickering_is_the_released_formula():
    film = frames(7)
    differences = [np.abs(film[i].astype(float) - film[i + 1].astype(float)).mean() for i in range(6)]
    found = features.temporal_flickering(film)
    assert found.score == pytest.approx((255 - np.mean(differences)) / 255, abs=1e-9) and found.num_frames == 6
    assert features.temporal_flickering(np.zeros((3, 4, 4, 3), np.uint8)).score == 1
    black_and_white = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    assert features.temporal_flickering(black_and_white).score == 0


def test_frames_are_sized_as_the_suite_sizes_them():
    """torchvision's Resize(224): the shorter side is 224, the longer rounded down, no filter against aliasing."""
    film = frames(1, 544, 960)
    assert features._resized(film, "bilinear").shape == (1, 3, 224, 395)
    assert features._resized(frames(1, 97, 60), "bicubic").shape == (1, 3, 362, 224)
    # Without a filter, halving takes the mean of the four pixels around each middle, and of no other.
    half = features._resized(frames(1, 448, 448), "bilinear")
    plain = torch.from_numpy(frames(1, 448, 448)).permute(0, 3, 1, 2).float()
    assert torch.allclose(half, F.avg_pool2d(plain, 2), atol=1e-3)


def test_dino_sees_the_whole_frame_and_clip_its_middle(models):
    film = frames(3, 48, 96)
    edge = film.copy()
    edge[:, :, :20] = 0
    dino, clip = features.dino(models / "vit"), features.clip(models / "clip")
    assert dino(film).shape == (3, 16) and clip(film).shape == (3, 8)
    assert not torch.allclose(dino(film), dino(edge), atol=1e-4)
    assert torch.equal(clip(film), clip(edge))
    middle = film[:, :, 24:72]
    assert torch.allclose(clip(film)[1], clip(middle)[1], atol=0.05)  # bicubic reaches over the cut by two pixels


def test_dino_takes_the_first_token_of_normalized_frames(models):
    import transformers

    film = frames(2, 224, 224)
    model = transformers.ViTModel.from_pretrained(models / "vit").eval()
    pixels = torch.from_numpy(film).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(features.dino(models / "vit")(film), expected, atol=1e-5)


def test_films_are_measured_into_a_file_that_the_suite_could_have_written(models, tmp_path):
    for name, count in (("a", 3), ("b", 6)):
        with FilmWriter(tmp_path / f"{name}.mp4", 32, 48, 24) as writer:
            writer.append(frames(count, 32, 48))
    with FilmWriter(tmp_path / "one.mp4", 32, 48, 24) as writer:
        writer.append(frames(1, 32, 48))
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    dino, calls = features.dino(models / "vit"), []
    films = features.films_of(tmp_path, features.DINO)
    found = features.measure(
        features.DINO, films, lambda film: features.consistency(film, dino), lambda *done: calls.append(done)
    )
    assert calls[0] == (0, 4) and calls[-1] == (4, 4)
    assert [(film.path, film.num_frames) for film in found.films] == [
        (str(tmp_path / "a.mp4"), 2),
        (str(tmp_path / "b.mp4"), 5),
    ]
    assert len(found.skipped) == 2 and "one.mp4: frames = 1: must be at least 2" in found.skipped[0]
    assert "skipped torn.mp4" in found.skipped[1]
    a, b = (film.score for film in found.films)
    assert found.score == pytest.approx((2 * a + 5 * b) / 7)  # the mean over frames, as there
    found.save(tmp_path / "out", {"by": "tiny"})
    flicker = features.measure(features.FLICKERING, films, features.temporal_flickering)
    assert flicker.score == pytest.approx(np.mean([film.score for film in flicker.films]))  # over films, as there
    flicker.save(tmp_path / "out", {"by": "no model"})
    read = read_results([tmp_path / "out"])
    assert read.raw == {features.DINO: found.score, features.FLICKERING: flicker.score}
    assert read.scores[features.DINO].num_films == 2 and not read.skipped
    record = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert record == {features.DINO: {"by": "tiny"}, features.FLICKERING: {"by": "no model"}}


def test_no_film_is_no_score(tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"none could be measured \(skipped torn.mp4"):
        features.measure(features.FLICKERING, [tmp_path / "torn.mp4"], features.temporal_flickering)
    with pytest.raises(ValueError, match="holds no film"):
        features.films_of(tmp_path / "none", features.DINO)
    assert math.isnan(features.Measured(features.DINO, ()).score)


def test_models_of_another_kind_are_refused_before_a_film_is_read(models, tmp_path):
    with pytest.raises(ValueError, match="does not look at frames"):
        features.dino(models / "bert")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        features.clip(tmp_path)
    for other in ("vit", "bert"):  # whose weights are none of CLIP's, which would be random then
        with pytest.raises(ValueError, match="has no weights for"):
            features.clip(models / other)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded") as refused:
        features.dino(tmp_path)
    assert "\n" not in str(refused.value)
