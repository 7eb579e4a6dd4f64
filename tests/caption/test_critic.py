"""The critic: what it looks at, and how films are scored."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.caption.critic import (
    Critic,
    CriticConfig,
    load_critic,
    look_at,
    look_length,
    mirrored_value,
    read,
    save_critic,
    score,
    shipped_critic,
    stack_looks,
)
from everreel.data.draws import generator_for
from everreel.world.render import render
from everreel.world.scene import VOCABULARY, sample_scene, visible_fields

TINY = CriticConfig(widths=(4, 8), depths=(1, 2), fine=4, dim=16, num_heads=2, num_layers=1, num_slots=4)


def noise(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("fps", "step", "ahead"), [(24, 8, (2, 4)), (16, 5, (1, 3))])
def test_a_look_holds_pictures_and_what_moves(fps: int, step: int, ahead: tuple[int, int]) -> None:
    frames = noise(97)
    look = look_at(frames, fps, first=1)
    assert look.moments.shape == (1, 12, 9, 32, 48)
    picture = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    gray = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    at = 1 + 3 * step
    torch.testing.assert_close(look.moments[0, 3, :3], picture[at])
    torch.testing.assert_close(look.moments[0, 3, 4], 2 * (gray[at + ahead[1]] - gray[at]))
    assert look.seconds[0, 3] == pytest.approx(3 * step / fps)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -2), (-3, 1)])
def test_motion_is_seen_and_mirrored(right: int, down: int) -> None:
    """A smooth pattern that moves so many pixels a frame, seen over two and over four frames."""
    rows, columns = np.mgrid[0:96, 0:160].astype(np.float64)
    frames = np.stack(
        [127 + 60 * np.sin((columns - t * right) / 11) + 60 * np.sin((rows - t * down) / 9) for t in range(97)]
    )
    look = look_at(np.repeat(frames[..., None], 3, -1).astype(np.uint8), 24)
    moved = look.moments[0, :, 5:, 16:-16, 16:-16].mean(dim=(0, 2, 3))
    expected = torch.tensor([right / 2, down / 2, right, down]).clamp(-2, 2)  # in cells of four pixels
    torch.testing.assert_close(moved, expected, atol=0.15, rtol=0.15)
    mirrored = look.mirrored().moments[0, :, 5:, 16:-16, 16:-16].mean(dim=(0, 2, 3))
    torch.testing.assert_close(mirrored, moved * torch.tensor([-1.0, 1, -1, 1]), atol=1e-4, rtol=1e-4)


def test_a_full_look_fits_its_length() -> None:
    assert look_length(24) == 93
    assert look_at(noise(93), 24).moments.shape[1] == 12
    assert look_at(noise(92), 24).moments.shape[1] == 11


def test_a_picture_shows_no_motion() -> None:
    look = look_at(noise(1), 24)
    assert look.moments.shape[1] == 1 and not look.moments[:, :, 3:].any()


def test_large_films_are_made_smaller() -> None:
    assert look_at(noise(5, 272, 480), 24).moments.shape[-2:] == (96, 160)
    assert look_at(noise(5, 100, 170), 24).moments.shape[-2:] == (96, 160)
    assert look_at(noise(5, 128, 128), 24).moments.shape[-2:] == (128, 128)


def test_films_are_read_alone_as_together() -> None:
    torch.manual_seed(0)
    critic = Critic(TINY).eval()
    looks = [look_at(noise(97), 24, first) for first in (0, 3)]
    with torch.no_grad():
        together = critic(stack_looks(looks))
        alone = [critic(look) for look in looks]
    for name, words in VOCABULARY.items():
        assert together[name].shape == (2, len(words))
        torch.testing.assert_close(together[name], torch.cat([logits[name] for logits in alone]))


def test_scores_count_what_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_for(1)
    scenes = [sample_scene(generator) for _ in range(6)]
    wrong = iter(scenes)

    def knows_all_but_colors(critic: Critic, frames: np.ndarray, fps: int) -> dict[str, dict[str, float]]:
        scene = next(wrong)
        answers = {name: dict.fromkeys(words, 0.0) for name, words in VOCABULARY.items()}
        for name, value in visible_fields(scene).items():
            answers[name][value] = 1.0
        answers["color"] = {"red": 0.6, scene.color: 0.4} if scene.color != "red" else {"red": 0.4, "blue": 0.6}
        return answers

    monkeypatch.setattr("everreel.caption.critic.read", knows_all_but_colors)
    scores = score(Critic(TINY), [noise(2)] * 6, scenes)
    shown = {name for scene in scenes for name in visible_fields(scene)}
    assert scores.pop("color") == 0
    assert {name for name, value in scores.items() if value == 1.0} == shown - {"color"}
    assert all(math.isnan(value) for name, value in scores.items() if name not in shown)


def test_saved_and_loaded(tmp_path: Path) -> None:
    critic = Critic(TINY).eval()
    save_critic(tmp_path, critic)
    frames = noise(30)
    found, wanted = read(load_critic(tmp_path), frames, 24), read(critic, frames, 24)
    assert all(found[name] == pytest.approx(wanted[name], abs=2e-3) for name in VOCABULARY)  # it is kept in float16
    save_critic(tmp_path / "again", load_critic(tmp_path))
    assert read(load_critic(tmp_path / "again"), frames, 24) == found
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_critic(tmp_path / "nowhere")


def test_the_shipped_critic_reads_renders() -> None:
    """Its accuracy is in its report; this sees that weights, code and vocabulary still belong together."""
    generator = generator_for(11, "critic")
    scenes = [sample_scene(generator, "held_out") for _ in range(8)]
    films = [render(scene, look_length(24)) for scene in scenes]
    found = score(load_critic(shipped_critic()), films, scenes)
    assert found["place"] >= 0.7 and found["color"] >= 0.7 and found["shot_angle"] >= 0.7


def test_a_film_and_its_mirror_are_read_alike():
    """Left is right in a mirror and nothing else changes, whatever the weights; the whole film is looked at."""
    critic = Critic().eval()
    frames = np.random.default_rng(0).integers(0, 256, (140, 32, 48, 3), dtype=np.uint8)
    read_once, turned = read(critic, frames, 24), read(critic, frames[:, :, ::-1], 24)
    for name, chances in read_once.items():
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        for value, chance in chances.items():
            assert turned[name][mirrored_value(name, value)] == pytest.approx(chance, abs=1e-4)
    later = frames.copy()
    later[-3:] = 0
    assert read(critic, later, 24) != read_once
