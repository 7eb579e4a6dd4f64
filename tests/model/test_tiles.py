"""A film decoded in tiles: nearly the film decoded whole, in any pieces."""

import itertools

import pytest
import torch

from everreel.model.config import VAEConfig
from everreel.model.tiles import OVERLAP, _starts, decode_tiles, num_tiles
from everreel.model.vae import CausalVAE


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = CausalVAE(VAEConfig(base_dim=4)).requires_grad_(False).eval()
        for name, parameter in vae.named_parameters():
            if parameter.ndim > 3 and "proj" not in name:  # a fresh one sees no past; this one does
                torch.nn.init.xavier_normal_(parameter)
    return vae


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, 16, 3, 18, 26, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_one_tile_is_the_whole(vae, latents):
    small = latents[..., :12, :12]
    expected, _ = vae.decode_stream(small)
    found, _ = decode_tiles(vae, small, None, 12)
    assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_tiles_are_nearly_the_whole_and_have_no_seams(vae, latents):
    expected, _ = vae.decode_stream(latents)
    found, state = decode_tiles(vae, latents, None, 14)
    assert found.shape == expected.shape
    error = (found - expected).square().mean(dim=(0, 1, 2))
    assert 0 < error.mean() < 0.02 * expected.var()
    # Nowhere is it much worse than elsewhere, as it is at a hard edge: no row or column of pixels stands out.
    assert error.mean(0).max() < 0.1 * expected.var() and error.mean(1).max() < 0.1 * expected.var()
    assert len(state.tails) == num_tiles(18, 26, 14) * len(vae.decode_stream(latents[..., :4, :4])[1].tails)


@torch.no_grad()
def test_any_pieces_give_the_same_film(vae, latents):
    whole, _ = decode_tiles(vae, latents, None, 14)
    state, parts = None, []
    for piece in latents.split([1, 2], dim=2):
        video, state = decode_tiles(vae, piece, state, 14)
        parts.append(video)
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)


@pytest.mark.parametrize("size", [9, 16, 33])
def test_tiles_cover_the_picture_and_share_enough(size):
    for length in range(size, 200):
        starts = _starts(length, size)
        assert starts[0] == 0 and starts[-1] == length - size
        assert all(b - a <= size - OVERLAP for a, b in itertools.pairwise(starts))


def test_a_tile_that_is_all_overlap_is_refused(vae, latents):
    with pytest.raises(ValueError, match="tile = 8: must be more than the 8 latents that tiles share; try 16"):
        decode_tiles(vae, latents, None, 8)
