"""Where a model computes if nobody says so, and in which type."""

import pytest
import torch

from everreel.film import anchor, device
from everreel.film.anchor import ColorAnchor

MPS = torch.device("mps")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_that_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device.default_device() == expected


@pytest.mark.parametrize(("newest", "expected"), [(13, torch.float32), (14, torch.bfloat16), (15, torch.bfloat16)])
def test_bfloat16_where_the_system_has_it(monkeypatch, newest, expected):
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (newest, 0) >= (major, minor))
    assert device.default_dtype(MPS) == expected
    assert device.default_dtype(torch.device("cuda")) == torch.bfloat16


def test_colours_are_held_as_well_without_float64(monkeypatch):
    assert device.widest_dtype(MPS) == torch.float32 and device.widest_dtype(torch.device("cpu")) == torch.float64
    generator = torch.Generator().manual_seed(0)
    film_CTHW = 3 + torch.randn(16, 12, 12, 20, generator=generator) * torch.linspace(1, 2, 12)[None, :, None, None]
    held = []
    for widest in (torch.float64, torch.float32):
        monkeypatch.setattr(anchor, "widest_dtype", lambda _, widest=widest: widest)
        guard = ColorAnchor(1.0, turns=[7])
        held.append(torch.cat([guard(0, film_CTHW[:, :5]), guard(5, film_CTHW[:, 5:])], dim=1))
        assert guard.reference is not None and guard.reference.dtype == widest
    torch.testing.assert_close(*held, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(held[1], film_CTHW, atol=0.1)
