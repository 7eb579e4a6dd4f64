"""Bars around a film's picture: letterbox, pillarbox, frames of one colour, and sides filled with a blurred copy.

Found by what they are: rows or columns of one colour at a border, the same in all frames, that end along a straight
line. The one invariant: a bar is dark, or one of two that are alike, so that a clear sky over a field is none; and a
picture that is all bar (black, white) has none, for there is nothing that a crop could keep.

Frames are spread over a clip. Shape suffixes: T frames, H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from everreel.curate.rectangle import Mask, Rectangle
from everreel.evaluate.meters import Floats
from everreel.media import Pixels

DARK = 28
"""The brightest that a bar on one side alone may be, of 255."""
_SAME, _STAYS, _CLEAR, _JUMP = 12, 24, 0.97, 20
"""Levels of one colour; of one pixel over time; the share of a line that has to be so; the step at the bar's end."""
_LEAST, _ALIKE, _HARD = 0.01, 0.03, 0.5
_STRAIGHT, _EDGE, _BLURRED = 0.6, 8, 0.35
Wide = npt.NDArray[np.int16]


def picture_in_bars(frames_THWC: Pixels, ignored_HW: Mask | None = None) -> Rectangle:
    """The picture without the bars around it; the frame where there are none.

    Args:
        ignored_HW: where words or logos lie, which may be in a bar.
    """
    height, width = frames_THWC.shape[1:3]
    ignored_HW = np.zeros((height, width), np.bool_) if ignored_HW is None else ignored_HW
    top, bottom = _plain(frames_THWC, ignored_HW)
    left, right = _plain(frames_THWC.swapaxes(1, 2), ignored_HW.T)
    if not (top or bottom or left or right):
        top, bottom = _blurred(frames_THWC)
        left, right = _blurred(frames_THWC.swapaxes(1, 2))
    return Rectangle(top, left, height - top - bottom, width - left - right)


def _plain(frames_THWC: Pixels, ignored_HW: Mask) -> tuple[int, int]:
    """Rows above and below that are bars of one colour."""
    height = frames_THWC.shape[1]
    low_HWC, high_HWC = frames_THWC.min(axis=0).astype(np.int16), frames_THWC.max(axis=0).astype(np.int16)
    top, color = _rows(low_HWC, high_HWC, ignored_HW)
    bottom, other = _rows(low_HWC[::-1], high_HWC[::-1], ignored_HW[::-1])
    if top + bottom >= height:
        return 0, 0
    least = max(2, round(_LEAST * height))
    top = top if top >= least and _ends_hard(frames_THWC, top, color) else 0
    bottom = bottom if bottom >= least and _ends_hard(frames_THWC[:, ::-1], bottom, other) else 0
    alike = abs(top - bottom) <= max(2, _ALIKE * height) and int(abs(color - other).max()) <= _SAME
    if top and bottom and alike:
        return top, bottom
    return top * (int(color.max()) <= DARK), bottom * (int(other.max()) <= DARK)


def _rows(low_HWC: Wide, high_HWC: Wide, ignored_HW: Mask) -> tuple[int, Wide]:
    """How many rows from the first on are of its colour in all frames, and the colour."""
    middle_HWC = (low_HWC + high_HWC) // 2
    first_WC = middle_HWC[0] if ignored_HW[0].all() else middle_HWC[0][~ignored_HW[0]]
    color: Wide = np.median(first_WC, axis=0).astype(np.int16)
    plain_HWC = (abs(middle_HWC - color) <= _SAME) & (high_HWC - low_HWC <= _STAYS)
    plain_HW: Mask = np.asarray(plain_HWC.all(axis=2))
    # A row that is all words goes on as it was.
    plain_H = [
        not seen_W.any() or bool(row_W[seen_W].mean() >= _CLEAR)
        for row_W, seen_W in zip(plain_HW, ~ignored_HW, strict=True)
    ]
    return plain_H.index(False) if False in plain_H else len(plain_H), color


def _ends_hard(frames_THWC: Pixels, rows: int, color: Wide) -> bool:
    """Whether the picture behind a bar differs from it nearly everywhere along the line, in some frame at least."""
    behind = min(rows + 2, frames_THWC.shape[1] - 1)  # a codec blurs the line
    differs_TW = (abs(frames_THWC[:, behind].astype(np.int16) - color) > _JUMP).any(axis=2)
    return float(differs_TW.mean(axis=1).max()) >= _HARD


def _blurred(frames_THWC: Pixels) -> tuple[int, int]:
    """Rows above and below, alike on both sides, that are far less sharp than what is between two straight lines."""
    gray_THW = frames_THWC.astype(np.float32).mean(axis=3)
    height = gray_THW.shape[1]
    if height < 16:
        return 0, 0
    straight_H = (abs(np.diff(gray_THW.mean(axis=0), axis=0)) > _EDGE).mean(axis=1)  # between rows n and n + 1
    near = max(1, round(_ALIKE / 2 * height))
    best, place = 0.0, (0, 0)
    for top in range(round(0.05 * height), round(0.45 * height)):
        from_end = range(max(1, top - near), top + near + 1)
        bottom = max(from_end, key=lambda rows: float(straight_H[height - rows - 1]))
        worse = min(float(straight_H[top - 1]), float(straight_H[height - bottom - 1]))
        if worse > max(best, _STRAIGHT):
            best, place = worse, (top, bottom)
    if not best:
        return 0, 0
    top, bottom = place
    inner = _sharpness(gray_THW[:, top + 2 : height - bottom - 2])
    outer = max(_sharpness(gray_THW[:, : top - 2]), _sharpness(gray_THW[:, height - bottom + 2 :]))
    return place if inner > 1 and outer < _BLURRED * inner else (0, 0)


def _sharpness(gray_THW: Floats) -> float:
    """Mean of the second differences; 0 of what is too narrow to have any."""
    if min(gray_THW.shape[1:]) < 3:
        return 0.0
    return float(abs(np.diff(gray_THW, 2, axis=1)).mean() + abs(np.diff(gray_THW, 2, axis=2)).mean()) / 2
