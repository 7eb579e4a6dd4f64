"""The largest free rectangle of a picture that is partly covered: the crop of SkyReels-V2's curation, section 3.1.

Row by row, every column knows how many free cells end there, and a stack of rising heights gives the largest rectangle
of the row (algorithm A1 of the paper), in O(height x width). The one invariant: no cell of a rectangle is covered, and
no free rectangle is larger.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rectangle:
    """Rows `top` to `top + height` and columns `left` to `left + width`, the last not with it."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Its number of cells."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts it out of a picture."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class CropLimits:
    """Which rectangles will do instead of the frame: those with more than `least_share` of it and about its aspect.

    `aspect_change` is how much wider or taller, as a share; the paper says "close", and its figure is not published.
    """

    least_share: float = 0.8
    aspect_change: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.least_share < 1:
            raise ValueError(f"least_share={self.least_share}: must lie between 0 and 1; the paper's is 0.8")
        if not self.aspect_change >= 0:
            raise ValueError(f"aspect_change={self.aspect_change}: must be 0 or more; 0.25 works")


def largest_free(covered_HW: Mask) -> Rectangle | None:
    """The largest rectangle without a covered cell, of equal ones the one that ends first; none if all is covered."""
    # Boxes cover whole runs of rows and columns alike, and runs that are alike are one row or column of that length.
    tops, lefts = _changes(covered_HW), _changes(covered_HW.T)
    rows_H, columns_W = covered_HW[tops[:-1]][:, lefts[:-1]], np.diff(lefts)
    best: Rectangle | None = None
    free_above_W = np.zeros(len(columns_W), np.int64)
    for row, top, bottom in zip(rows_H, tops[:-1], tops[1:], strict=True):
        free_above_W = np.where(row, 0, free_above_W + (bottom - top))
        if best is None or int(free_above_W @ columns_W) > best.area:  # no more than this is free above
            found = _largest_below(free_above_W.tolist(), lefts.tolist(), int(bottom))
            if found is not None and (best is None or found.area > best.area):
                best = found
    return best


def even(rectangle: Rectangle) -> Rectangle | None:
    """The part of it that begins and ends at even cells, as films have them; none if nothing is left."""
    top, left = rectangle.top + rectangle.top % 2, rectangle.left + rectangle.left % 2
    bottom, right = rectangle.top + rectangle.height, rectangle.left + rectangle.width
    height, width = (bottom - top) // 2 * 2, (right - left) // 2 * 2
    return Rectangle(top, left, height, width) if height > 0 and width > 0 else None


def share_of(rectangle: Rectangle, height: float, width: float) -> float:
    """How much of a frame it keeps."""
    return rectangle.area / (height * width)


def aspect_change_of(rectangle: Rectangle, height: float, width: float) -> float:
    """How much wider or taller than the frame it is, as a share: 0 is the same aspect, 1 is twice it or half."""
    ratio = (rectangle.width * height) / (rectangle.height * width)
    return max(ratio, 1 / ratio) - 1


def _changes(covered_HW: Mask) -> npt.NDArray[np.intp]:
    """Where a row differs from the one above, with both ends."""
    differs = (covered_HW[1:] != covered_HW[:-1]).any(axis=1)
    return np.array([0, *(np.flatnonzero(differs) + 1).tolist(), len(covered_HW)])


def _largest_below(heights: list[int], lefts: list[int], bottom: int) -> Rectangle | None:
    """The largest rectangle of columns that all end at `bottom`, each from its place to that of the next."""
    best: Rectangle | None = None
    most = 0
    rising: list[tuple[int, int]] = []  # where a height began that still goes on, and the height
    for left, height in zip(lefts, [*heights, 0], strict=True):
        begin = left
        while rising and rising[-1][1] >= height:
            begin, ended = rising.pop()
            if (area := ended * (left - begin)) > most:
                most, best = area, Rectangle(bottom - ended, begin, ended, left - begin)
        rising.append((begin, height))
    return best
