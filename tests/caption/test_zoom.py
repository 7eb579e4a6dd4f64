"""The square around what is likely there, and what it shows."""

from __future__ import annotations

import pytest
import torch

from everreel.caption.zoom import SIDE, enlarge, square_around


def there(rows: slice, columns: slice, height: int = 12, width: int = 20) -> torch.Tensor:
    """Logits of something that covers these cells and no others."""
    where = torch.full((1, height, width), -12.0)
    where[:, rows, columns] = 12.0
    return where


def test_the_square_is_around_what_is_there_with_a_margin() -> None:
    right, down, half = square_around(there(slice(4, 8), slice(6, 9)))[0].tolist()
    assert right == pytest.approx(7.5 / 12, abs=0.01) and down == pytest.approx(6 / 12, abs=0.01)
    assert 2 / 12 < half < 3.5 / 12


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(0, 12), slice(0, 20)), (slice(0, 0), slice(0, 0)), (slice(2, 10), slice(0, 20))]
)
def test_what_fills_the_picture_or_is_nowhere_gives_its_middle_in_full_height(rows: slice, columns: slice) -> None:
    right, down, half = square_around(there(rows, columns))[0].tolist()
    assert (right, down, half) == pytest.approx((10 / 12, 0.5, 0.5), abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12), (16, 16)])
def test_the_square_stays_inside_where_it_can(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for where in 8 * torch.randn(50, 1, height, width, generator=generator):
        right, down, half = square_around(where)[0].tolist()
        assert half - 1e-4 <= down <= 1 - half + 1e-4
        assert half > width / height / 2 or half - 1e-4 <= right <= width / height - half + 1e-4


def test_enlarged_it_shows_what_is_in_the_square() -> None:
    picture = torch.zeros(1, 2, 96, 160)
    picture[:, 0, 40:60, 100:120] = 1.0  # a square of twenty pixels
    picture[:, 1] = torch.linspace(0, 1, 160)
    shown = enlarge(picture, torch.tensor([[110 / 96, 50 / 96, 20 / 96]]))
    assert shown.shape == (1, 2, SIDE, SIDE)
    assert (shown[0, 0, 18:46, 18:46] > 0.99).all() and (shown[0, 0, :14] < 0.01).all()
    assert shown[0, 1, 0, [0, -1]].tolist() == pytest.approx([90 / 160, 130 / 160], abs=0.01)


def test_of_a_mirror_it_shows_the_mirror() -> None:
    generator = torch.Generator().manual_seed(1)
    pictures, where = torch.randn(4, 9, 96, 160, generator=generator), 4 * torch.randn(4, 12, 20, generator=generator)
    shown = enlarge(pictures, square_around(where))
    turned = enlarge(pictures.flip(-1), square_around(where.flip(-1)))
    torch.testing.assert_close(turned, shown.flip(-1), atol=1e-3, rtol=1e-3)
