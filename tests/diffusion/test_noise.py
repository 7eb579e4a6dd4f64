"""Noise: the flow's convention, the draws' addresses, and the distributions of training levels."""

import itertools
from collections import Counter

import pytest
import torch

from everreel.diffusion import noise
from everreel.diffusion.noise import LevelMixture, add_noise, draw_noise, predict_x0, sample_fopp, shift_sigma


def generator(seed=0):
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def test_flow_convention():
    """Level 0 is data and 1 is noise, per frame and to the bit; noise - data leads back."""
    x0, eps = (
        torch.randn(2, 3, 4, 5, 6, generator=generator()),
        torch.randn(2, 3, 4, 5, 6, generator=generator(1)),
    )
    sigma = torch.tensor([[0.0, 0.25, 0.5, 1.0], [1.0, 0.0, 0.9, 0.1]])
    x = add_noise(x0, eps, sigma)
    assert torch.equal(x[0, :, 0], x0[0, :, 0]) and torch.equal(x[0, :, 3], eps[0, :, 3])
    assert torch.allclose(x[0, :, 1], 0.75 * x0[0, :, 1] + 0.25 * eps[0, :, 1])
    assert torch.allclose(predict_x0(x, eps - x0, sigma), x0, atol=1e-6)
    assert add_noise(x0.bfloat16(), eps.bfloat16(), sigma).dtype == torch.bfloat16


def test_shift():
    """The ends stay, the middle moves to noise, and shifts compose by their product."""
    s = torch.linspace(0, 1, 11)
    assert torch.equal(shift_sigma(s, 1.0), s)
    moved = shift_sigma(s, 8.0)
    assert moved[0] == 0 and moved[-1] == 1 and (moved[1:-1] > s[1:-1]).all()
    assert moved[5] == pytest.approx(8 / 9)
    assert torch.allclose(shift_sigma(shift_sigma(s, 2.0), 4.0), moved)
    with pytest.raises(ValueError, match="shift = 0: must be positive"):
        shift_sigma(s, 0)


def test_draw_noise_depends_on_its_address_alone():
    """Every part of the address counts; nothing drawn before does."""
    base = draw_noise(7, "start", 3, 0, (4, 6, 8))
    torch.manual_seed(123)
    assert torch.equal(draw_noise(7, "start", 3, 0, (4, 6, 8)), base)
    others = [
        (8, "start", 3, 0),
        (7, "history", 3, 0),
        (7, "start", 4, 0),
        (7, "start", 3, 1),
        (-7, "start", 3, 0),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack((base.flatten(), draw_noise(*other, (4, 6, 8)).flatten())))[0, 1]) < 0.3
    assert base.dtype == torch.float32 and base.device.type == "cpu"
    many = draw_noise(2**70, "start", 10**9, 0, (100_000,))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_draw_noise_stays_what_it_is():
    """Films of a seed must not change with a version: three numbers written down."""
    assert draw_noise(0, "start", 0, 0, (16, 4, 8)).flatten()[:3].tolist() == pytest.approx(
        [-1.8620107, -1.0384027, -0.7636314], abs=1e-6
    )


def test_draw_noise_frames():
    """The stack of single draws, so any window agrees with any other."""
    window = noise.draw_noise_frames(1, "start", range(5, 9), 0, (2, 3, 4))
    assert window.shape == (2, 4, 3, 4)
    assert torch.equal(window[:, 2], draw_noise(1, "start", 7, 0, (2, 3, 4)))


def test_fopp_is_exact():
    """Against the distribution worked out by listing all sequences: 4 levels, 3 places."""
    levels, length = 4, 3
    sequences = list(itertools.combinations_with_replacement(range(levels), length))
    want: Counter = Counter()
    for place, value in itertools.product(range(length), range(levels)):
        through = [s for s in sequences if s[place] == value]
        for s in through:
            want[s] += 1 / (length * levels * len(through))
    drawn = sample_fopp(100_000, length, generator(), levels)
    got = Counter(map(tuple, drawn.tolist()))
    assert set(got) == set(sequences)
    for s in sequences:
        assert got[s] / 100_000 == pytest.approx(want[s], abs=6e-3)


def test_fopp_marginals_of_the_recipe():
    """50 levels, 8 frames: the mean level of each frame as the published sampler gives it."""
    drawn = sample_fopp(40_000, 8, generator(1), 50) + 1
    assert drawn.min() >= 1 and drawn.max() <= 50
    assert (drawn.diff(dim=1) >= 0).all()
    want = [8.2, 13.6, 18.3, 22.4, 26.3, 30.4, 34.9, 40.6]
    # The recipe's means are a simulation to one digit and need not be symmetric; ours are good to 0.1.
    assert drawn.double().mean(0).tolist() == pytest.approx(want, abs=2.5)
    mirrored = 51 - drawn.flip(1)
    assert drawn.double().mean(0).tolist() == pytest.approx(mirrored.double().mean(0).tolist(), abs=0.3)


@pytest.mark.parametrize("frames", [1, 2, 25, 300])
def test_fopp_at_full_size(frames):
    """A thousand levels, long windows: no overflow, never falling."""
    drawn = sample_fopp(64, frames, generator())
    assert drawn.shape == (64, frames) and drawn.min() >= 0 and drawn.max() <= 999
    assert (drawn.diff(dim=1) >= 0).all()


def test_levels_of_each_kind():
    """Equal is equal, blocks share, sequences never fall, shift moves towards noise."""
    blocks = (1, 4, 4, 3)
    equal = noise.equal_levels(500, 12, generator())
    assert (equal == equal[:, :1]).all() and equal.shape == (500, 12)
    assert equal.mean() == pytest.approx(0.5, abs=0.03)
    assert noise.equal_levels(500, 12, generator(), shift=5.0).mean() > 0.7
    free = noise.independent_levels(500, 12, generator(), blocks=blocks)
    assert torch.equal(free[:, 1:5], free[:, 1:2].expand(-1, 4)) and (free[:, 0] != free[:, 1]).all()
    assert (free.diff(dim=1) < 0).any()
    rising = noise.non_decreasing_levels(500, 12, generator(), blocks=blocks)
    assert (rising.diff(dim=1) >= 0).all() and rising.min() > 0 and rising.max() <= 1
    assert torch.equal(rising[:, 5:9], rising[:, 5:6].expand(-1, 4))
    with pytest.raises(ValueError, match="add up to frames = 12"):
        noise.independent_levels(2, 12, generator(), blocks=(5, 5))


def test_clean_prefix():
    """A history of whole blocks at one small level; the rest as it was."""
    blocks = (1, 4, 4)
    history = noise.draw_history(300, 9, generator(), blocks)
    assert set(history.tolist()) == {1, 5}
    levels = torch.full((300, 9), 0.6)
    drawn = noise.with_clean_prefix(levels, history, generator(), 0.1)
    for row, k in zip(drawn, history.tolist(), strict=True):
        assert (row[:k] == row[0]).all() and 0 <= row[0] <= 0.1 and (row[k:] == 0.6).all()
    assert noise.draw_history(4, 1, generator()).tolist() == [0, 0, 0, 0]


def test_given_anywhere():
    """One to three pictures, at every place, never the whole window."""
    given = noise.draw_given(400, 6, generator())
    assert set(given.sum(1).tolist()) == {1, 2, 3} and given.any(0).all()
    assert set(noise.draw_given(50, 2, generator()).sum(1).tolist()) == {1}
    assert not noise.draw_given(5, 1, generator()).any()


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_mixture(frames):
    """Each kind as often as asked, its mask with it; the same generator gives the same batch."""
    mixture = LevelMixture(equal=1, independent=1, non_decreasing=1, clean_prefix=1, given_anywhere=1)
    sigma, loss, given = mixture.sample(2000, frames, generator())
    assert sigma.shape == loss.shape == given.shape == (2000, frames)
    assert sigma.dtype == torch.float32 and loss.dtype == given.dtype == torch.bool
    assert (sigma[given] == 0).all() and (sigma[~given] >= 0).all() and sigma.max() <= 1
    assert not (loss & given).any() and loss.any(1).all()
    if frames == 9:
        assert given.any(1).float().mean() == pytest.approx(0.2, abs=0.04)
        history = ~loss & ~given
        assert history.any(1).float().mean() == pytest.approx(0.2, abs=0.04)
        assert sigma[history].max() <= 0.1 and (history.int().diff(dim=1) <= 0).all()
    again = mixture.sample(2000, frames, generator())
    assert all(torch.equal(a, b) for a, b in zip((sigma, loss, given), again, strict=True))


def test_mixture_of_one_kind():
    """A weight of 0 is never drawn; no weight at all is refused."""
    only = LevelMixture(equal=0, independent=0, non_decreasing=1, clean_prefix=0, given_anywhere=0)
    sigma, loss, given = only.sample(200, 10, generator(), blocks=(5, 5))
    assert (sigma.diff(dim=1) >= 0).all() and loss.all() and not given.any()
    with pytest.raises(ValueError, match="0 or more, and one of them more than 0"):
        LevelMixture(equal=0, independent=0, non_decreasing=0, clean_prefix=0, given_anywhere=0)


@pytest.mark.parametrize("kind", ["equal", "independent"])
def test_spread_shows_the_ends_more_often(kind):
    none = {"equal": 0.0, "independent": 0.0, "non_decreasing": 0.0, "clean_prefix": 0.0, "given_anywhere": 0.0}
    usual, wide = (
        LevelMixture(**none | {kind: 1.0}, spread=spread).sample(4000, 5, generator())[0] for spread in (1, 2)
    )
    assert (usual < 0.1).float().mean() == pytest.approx(0.014, abs=0.006), "of a logit-normal"
    assert (wide < 0.1).float().mean() == pytest.approx(0.136, abs=0.02) == (wide > 0.9).float().mean()
    assert wide.median() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="spread = 0: must be more than 0"):
        LevelMixture(spread=0)
