"""Colours of later latents are held at those of the first ones."""

import pytest
import torch

from everreel.film.anchor import ColorAnchor


def latents(count, offset=0.0, spread=1.0, seed=0):
    noise = torch.randn(16, count, 4, 6, generator=torch.Generator().manual_seed(seed))
    return noise * spread + offset


def stats(latents_CTHW):
    return latents_CTHW.flatten(1).mean(1), latents_CTHW.flatten(1).std(1, correction=0)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_later_frames_come_nearer_to_the_first_ones(strength):
    anchor, first = ColorAnchor(strength, frames=5), latents(5)
    assert torch.equal(anchor(0, first), first)
    mean, deviation = stats(first[:, 1:])  # the first latent is of another kind
    drifted = latents(5, offset=3.0, spread=2.0, seed=2)
    held = anchor(5, drifted)
    was_mean, was_deviation = stats(drifted)
    got_mean, got_deviation = stats(held)
    assert torch.allclose(got_mean, was_mean + strength * (mean - was_mean), atol=1e-4)
    assert torch.allclose(got_deviation, was_deviation + strength * (deviation - was_deviation), atol=1e-4)
    assert torch.equal(anchor(10, drifted), held)  # what comes behind the first window changes nothing


def test_the_first_window_is_held_at_its_own_beginning():
    """Else a film that fades while the first window is made would be held at a mean of what it was and became."""
    anchor, pieces = ColorAnchor(1.0, frames=10), [latents(5), latents(5, offset=-1.0, seed=1)]
    held = [anchor(5 * number, piece) for number, piece in enumerate(pieces)]
    for got, wanted in zip(stats(held[1]), stats(pieces[0][:, 1:]), strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


def test_what_fits_is_not_touched_and_flat_frames_stay_finite():
    anchor = ColorAnchor(1.0, frames=5)
    anchor(0, latents(5))
    assert torch.allclose(anchor(5, latents(5)[:, 1:]), latents(5)[:, 1:], atol=1e-5)
    assert anchor(9, torch.zeros(16, 2, 4, 6)).isfinite().all()


def test_a_first_latent_alone_is_what_later_ones_are_held_at():
    anchor = ColorAnchor(1.0, frames=5)
    anchor(0, latents(1))
    assert torch.allclose(stats(anchor(1, latents(3, offset=2.0, seed=1)))[0], stats(latents(1))[0], atol=1e-4)


def test_it_goes_on_where_it_stood():
    whole, first, second = (ColorAnchor(0.5, frames=8) for _ in range(3))
    pieces = [latents(5), latents(5, seed=1), latents(5, offset=2.0, seed=2)]
    want = [whole(5 * number, piece) for number, piece in enumerate(pieces)]
    got = [first(0, pieces[0])]
    second.sums = first.sums
    got += [second(5 * number, piece) for number, piece in enumerate(pieces[1:], 1)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
