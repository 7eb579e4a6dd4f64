"""A policy that makes films, pairs of which one film is better, and a stand-in for a reward."""

import pytest
import torch
from safetensors.torch import save_file

from everreel.data.draws import generator_for
from everreel.model.dit import DiT
from everreel.train.motion import stages, sweep
from everreel.train.motion.pairs import PairLabel, write_pairs
from everreel.train.motion.preference import PreferenceRecipe
from everreel.train.trainer import TrainerSettings

PROMPTS = ("a red fox runs", "a blue swan swims")


@pytest.fixture(scope="session")
def begun(recipe, tmp_path_factory):
    """A transformer whose head is not zero, so that prompts and levels matter."""
    path = tmp_path_factory.mktemp("begun") / "transformer.safetensors"
    model = DiT(recipe.config)
    model.init_weights(generator_for(1))
    torch.nn.init.normal_(model.head.head.weight, std=0.2, generator=generator_for(2))
    save_file(model.state_dict(), path)
    return str(path)


def films(number, frames=3):
    """A film of one still latent, and one that jitters."""
    generator = generator_for(7, "films", number)
    still = torch.randn(16, 1, 4, 4, generator=generator).expand(16, frames, 4, 4) * 0.5
    jitter = still + torch.randn(16, frames, 4, 4, generator=generator)
    return torch.stack([still, jitter])


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Eight to learn from, four held out, two of which nobody says which is better."""
    where = tmp_path_factory.mktemp("pairs")
    labels = [PairLabel(PROMPTS[n % 2], "jitter", fps_index=n % 2) for n in range(8)]
    labels += [PairLabel(PROMPTS[n % 2], "jitter", split="held_out") for n in range(4)]
    labels += [PairLabel(PROMPTS[0], "labeller", tie=True) for _ in range(2)]
    write_pairs(where, 0, [films(n) for n in range(len(labels))], labels)
    write_pairs(where, 1, [films(n, 5) for n in range(20, 24)], [PairLabel(PROMPTS[0], "shiver")] * 4)
    return str(where)


@pytest.fixture
def preference(recipe, begun, pairs):
    settings = TrainerSettings(
        steps=40, learning_rate=2e-3, warmup=2, ema_decay=0.5, checkpoint_every=100, sample_every=100, log_every=1
    )
    return PreferenceRecipe(
        settings=settings, pairs=pairs, config=recipe.config, init=begun, text=recipe.text, vae=recipe.vae, tokens=96,
        looks=2,
    )  # fmt: skip


class StandIn(torch.nn.Module):
    """Likes films that hardly change."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, latents_BCTHW, fps_B):
        assert fps_B.shape == (len(latents_BCTHW),)
        return -self.scale * latents_BCTHW.diff(dim=2).square().mean(dim=(1, 2, 3, 4))


@pytest.fixture
def reward(monkeypatch):
    """The folder of a reward model that is the stand-in."""
    for module in (stages, sweep):
        monkeypatch.setattr(module, "load_reward", lambda folder: StandIn())
    return "a folder"
