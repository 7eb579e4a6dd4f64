"""Where in a picture its subject is, and the picture of that alone.

The one invariant: what is enlarged shows the same whether the picture or its mirror is looked at.

Shape suffixes: N pictures, C channels, H W height and width, S side of what is enlarged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 64
_SPREADS = 2.2  # half a side, in standard deviations of what is there: 1.7 reach to the ends of a bar
_MARGIN = 0.03
_NOWHERE = 1e-5  # of each cell: of what is nowhere the square is the picture
_SMALLEST, _LARGEST = 0.11, 0.5  # half a side, in heights of a picture


def square_around(where_NHW: Tensor) -> Tensor:
    """The square around what is likely there, from the logits that it covers a cell.

    Returns: (N, 3), its centre right and down and half its side, in heights of the picture; inside of it where it can.
    """
    height, width = where_NHW.shape[1:]
    # What is a little likely everywhere widens the square, at times to the whole height. Without it subjects far away
    # are larger, and were not read better after as many steps as there was time for: recipes/critic.py.
    weight_NHW = where_NHW.float().sigmoid().square() + _NOWHERE
    whole_N = weight_NHW.sum((1, 2))
    centres, spreads = [], []
    for along_NX, cells in ((weight_NHW.sum(1), width), (weight_NHW.sum(2), height)):
        places_X = (torch.arange(cells, device=where_NHW.device) + 0.5) / height
        centre_N = (along_NX * places_X).sum(1) / whole_N
        centres.append(centre_N)
        spreads.append(((along_NX * (places_X - centre_N[:, None]).square()).sum(1) / whole_N).sqrt())
    half_N = (_SPREADS * torch.maximum(*spreads) + _MARGIN).clamp(_SMALLEST, _LARGEST)
    inside = [
        torch.minimum(torch.maximum(centre_N, half_N.clamp(max=end / 2)), end - half_N.clamp(max=end / 2))
        for centre_N, end in zip(centres, (width / height, 1.0), strict=True)
    ]
    return torch.stack([*inside, half_N], dim=1)


def enlarge(pictures_NCHW: Tensor, square_N3: Tensor, side: int = SIDE) -> Tensor:
    """What squares of pictures show, (N, C, S, S); beyond an edge goes on what is at it."""
    height, width = pictures_NCHW.shape[2:]
    steps_S = (torch.arange(side, device=pictures_NCHW.device) + 0.5) * (2 / side) - 1
    right_NS, down_NS = (square_N3[:, axis, None] + square_N3[:, 2, None] * steps_S for axis in (0, 1))
    right_NSS = (2 * right_NS * height / width - 1)[:, None, :].expand(-1, side, -1)
    down_NSS = (2 * down_NS - 1)[:, :, None].expand(-1, -1, side)
    grid_NSS2 = torch.stack([right_NSS, down_NSS], dim=-1).to(pictures_NCHW.dtype)
    return F.grid_sample(pictures_NCHW, grid_NSS2, padding_mode="border", align_corners=False)
