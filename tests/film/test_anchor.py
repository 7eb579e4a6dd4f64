"""Colours of later latents are held at those of the first window."""

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
    anchor = ColorAnchor(strength, frames=7)
    first = [latents(5), latents(2, seed=1)]
    assert all(torch.equal(anchor(piece), piece) for piece in first)
    mean, deviation = stats(torch.cat(first, dim=1))
    drifted = latents(5, offset=3.0, spread=2.0, seed=2)
    held = anchor(drifted)
    for got, was, wanted in zip(stats(held), stats(drifted), (mean, deviation), strict=True):
        nearer = was + strength * (wanted - was) if wanted is mean else was * torch.lerp(
            torch.ones_like(was), wanted / was, strength
        )  # fmt: skip
        assert torch.allclose(got, nearer, atol=1e-4)
    assert torch.equal(anchor(drifted), held)  # what is held changes nothing of what it is held at


def test_what_fits_is_not_touched_and_flat_frames_stay_finite():
    anchor = ColorAnchor(1.0, frames=5)
    anchor(latents(5))
    assert torch.allclose(anchor(latents(5)), latents(5), atol=1e-5)
    assert anchor(torch.zeros(16, 2, 4, 6)).isfinite().all()


def test_it_goes_on_where_it_stood():
    whole, first = ColorAnchor(0.5, frames=8), ColorAnchor(0.5, frames=8)
    pieces = [latents(5), latents(5, seed=1), latents(5, offset=2.0, seed=2)]
    want = [whole(piece) for piece in pieces]
    got = [first(pieces[0])]
    second = ColorAnchor(0.5, frames=8)
    second.restore(first.sums, per_frame=24)
    got += [second(piece) for piece in pieces[1:]]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
