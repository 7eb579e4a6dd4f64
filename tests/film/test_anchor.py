"""Colours of later latents are held at those of the first ones."""

import pytest
import torch

from everreel.film.anchor import ColorAnchor


def latents(count, offset=0.0, spread=1.0, seed=0):
    noise = torch.randn(16, count, 4, 6, generator=torch.Generator().manual_seed(seed))
    return noise * spread + offset


def stats(latents_CTHW):
    """Mean and deviation of each channel in each frame, (C, T)."""
    return latents_CTHW.flatten(2).mean(2), latents_CTHW.flatten(2).std(2, correction=0)


def pooled(latents_CTHW):
    """The same over all frames, (C, 1)."""
    return latents_CTHW.flatten(1).mean(1)[:, None], latents_CTHW.flatten(1).std(1, correction=0)[:, None]


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_every_later_frame_comes_nearer_to_the_first_ones(strength):
    anchor, first = ColorAnchor(strength), latents(5)
    held = anchor(0, first)
    assert torch.equal(held[:, 0], first[:, 0])  # the first latent is of another kind
    wanted = pooled(first[:, 1:])
    fading = latents(5, spread=2.0, seed=2) + torch.linspace(3, 1, 5)[None, :, None, None]
    for frames, got in ((first[:, 1:], held[:, 1:]), (fading, anchor(5, fading))):
        (mean, spread), (mean_now, spread_now) = stats(frames), stats(got)
        assert torch.allclose(mean_now, mean + strength * (wanted[0] - mean), atol=1e-4)
        if strength == 1:
            assert torch.allclose(spread_now, wanted[1].expand_as(spread_now), atol=1e-3)
        else:
            assert ((spread_now - wanted[1]).norm() < 0.95 * (spread - wanted[1]).norm()).item()


def together(latents_CTHW):
    """How channels go together in each frame, (T, C, C)."""
    values = latents_CTHW.flatten(2).movedim(1, 0)
    values = values - values.mean(2, keepdim=True)
    return values @ values.mT / values.shape[2]


def test_channels_go_together_as_in_the_first_frames_and_nothing_moves_that_need_not():
    """Saturation is in no channel alone."""
    mix = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(5)))[0]
    mix = mix * torch.linspace(0.3, 2, 16) @ mix.T
    first, rest = (torch.einsum("cd,dthw->cthw", mix, latents(5, seed=seed)) for seed in (0, 1))
    anchor = ColorAnchor(1.0)
    anchor(1, first)
    pale = torch.einsum("cd,dthw->cthw", torch.linalg.inv(mix), rest)  # each channel by itself
    wanted = together(first.flatten(1)[:, None, None])[0]
    assert (together(pale) - wanted).norm(dim=(1, 2)).min() > 0.5 * wanted.norm()
    assert (together(anchor(6, pale)) - wanted).norm(dim=(1, 2)).max() < 1e-3 * wanted.norm()
    alike = anchor(11, anchor(6, rest))
    assert torch.allclose(alike, anchor(6, rest), atol=5e-3)


def test_a_part_of_the_story_has_colours_of_its_own():
    anchor, film = ColorAnchor(1.0, turns=[4, 9]), latents(12) + torch.arange(12.0)[None, :, None, None]
    held = torch.cat([anchor(0, film[:, :6]), anchor(6, film[:, 6:])], dim=1)
    for part, first in ((range(1, 4), slice(1, 4)), (range(4, 9), slice(4, 6)), (range(9, 12), slice(9, 12))):
        for got, wanted in zip(stats(held[:, list(part)]), pooled(film[:, first]), strict=True):
            assert torch.allclose(got, wanted.expand_as(got), atol=1e-4)


def test_frames_one_by_one_are_held_as_many_are():
    one, many = ColorAnchor(0.5), ColorAnchor(0.5)
    first, rest = latents(5), latents(4, offset=2.0, seed=1)
    assert torch.equal(one(0, first), many(0, first))
    singly = [one(5 + at, frame) for at, frame in enumerate(rest.split(1, dim=1))]
    assert torch.allclose(torch.cat(singly, dim=1), many(5, rest), atol=1e-6)


def test_flat_frames_stay_finite():
    anchor = ColorAnchor(1.0)
    anchor(0, latents(5))
    assert anchor(9, torch.zeros(16, 2, 4, 6)).isfinite().all()


def test_a_first_latent_alone_is_not_what_later_ones_are_held_at():
    anchor, alone, next_ones = ColorAnchor(1.0), latents(1), latents(3, offset=2.0, seed=1)
    assert torch.equal(anchor(0, alone), alone)
    assert torch.allclose(stats(anchor(1, next_ones))[0], pooled(next_ones)[0].expand(-1, 3), atol=1e-4)


def test_it_goes_on_where_it_stood():
    whole, first, second = (ColorAnchor(0.5, turns=[12]) for _ in range(3))
    pieces = [latents(5), latents(5, seed=1), latents(5, offset=2.0, seed=2)]
    want = [whole(5 * number, piece) for number, piece in enumerate(pieces)]
    got = [first(0, pieces[0])]
    second.reference = first.reference
    got += [second(5 * number, piece) for number, piece in enumerate(pieces[1:], 1)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
