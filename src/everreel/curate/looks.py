"""What single frames tell of a clip: bars, mosaics, noise, light, colour, and edges that stay where nothing else does.

No network: noise is Immerkær's estimate (1996), colourfulness Hasler and Süsstrunk's (2003), sharpness Crete et al.'s
(2007, in `evaluate/meters.py`). A mosaic is found by what it is: steps that lie on one grid, both ways, with nothing
between them. A split screen, side by side, and a picture in the picture are long straight edges that stay while others
go. Where most stay the camera stands, and none is found; an edge from side to side is as often the horizon, and none
either. No aesthetic predictor ships in a package, so `aesthetic` is a formula: see `aesthetic_of`. The one invariant:
looks go by one at a time, at their own size, and none but the last is held.

Shape suffixes: H rows, W columns, C = 3 channels, RGB; N windows.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from everreel.evaluate.meters import Mean, opencv, reduced, sharpness
from everreel.media import Pixels

EDGE = 10.0
"""Grey levels of 255: a smaller step is no edge."""
SHADOW, GLARE = 4, 251
"""Grey levels of 255: what is not above or below has lost its drawing."""
_EDGE_AREA = 360 * 640
_WINDOW, _STRIDE, _PITCHES = 64, 32, range(5, 21)  # of mosaics, in pixels
_STAYS, _STILL = 0.6, 0.4  # of the looks, in which an edge has to be that stays; of the edges, if the camera stands
_ON_GRID, _LINES, _LINE = 0.8, 3, 0.3
_FAINT = 0.1  # grey levels; steps that are less on the mean are none
_MARGIN = 0.1  # of the frame, in which no split lies
_LEAST_INSET, _MOST_INSET, _CANDIDATES = 0.03, 0.6, 10
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_FULL_CONTRAST, _FULL_COLOR, _FULL_SHARPNESS = 0.22, 60.0, 0.5
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]


class LooksMeter:
    """Takes the looks of a clip one after the other, without the bars around them."""

    def __init__(self) -> None:
        self._means = {name: Mean() for name in ("sharpness", "mosaic", "blocks", "noise", "clipped", "colors")}
        self._means |= {"contrast": Mean()}
        self._upright: Counts | None = None
        self._flat: Counts | None = None
        self._looks = 0

    def add(self, frame_HWC: Pixels) -> None:
        """The next look, uint8 (H, W, 3)."""
        cv2 = opencv()
        frame_HWC = np.ascontiguousarray(frame_HWC)
        gray_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
        found = {
            "sharpness": sharpness(frame_HWC),
            "mosaic": mosaic(gray_HW),
            "blocks": blocks(gray_HW),
            "noise": noise(gray_HW),
            "clipped": float(((gray_HW < SHADOW) | (gray_HW > GLARE)).mean()),
            "colors": colorfulness(frame_HWC),
            "contrast": float(gray_HW.std()) / 255,
        }
        for name, value in found.items():
            self._means[name].add(value)
        self._stay(reduced(frame_HWC, _EDGE_AREA))

    def result(self) -> dict[str, float]:
        """Measures by name; nan is not known."""
        found = {name: mean.value for name, mean in self._means.items()}
        found["aesthetic"] = aesthetic_of(found["contrast"], found["colors"], found["sharpness"], found["clipped"])
        found |= {"split": math.nan, "inset": math.nan}
        if self._upright is not None and self._flat is not None:
            upright, flat = (counts >= _STAYS * self._looks for counts in (self._upright, self._flat))
            edges = float(self._upright.sum() + self._flat.sum()) / self._looks
            moves = float(upright.sum() + flat.sum()) < _STILL * edges
            found["split"] = split(upright) if moves else 0.0
            found["inset"] = inset(upright, flat) if moves else 0.0
        return found

    def _stay(self, frame_HWC: Pixels) -> None:
        """Count in how many looks there is an edge, to the right and down."""
        gray = opencv().cvtColor(np.ascontiguousarray(frame_HWC), opencv().COLOR_RGB2GRAY).astype(np.int16)
        upright, flat = (_wide(np.abs(np.diff(g, axis=1, prepend=g[:, :1])) > EDGE / 2) for g in (gray, gray.T))
        self._upright = upright.astype(np.int32) if self._upright is None else self._upright + upright
        self._flat = flat.T.astype(np.int32) if self._flat is None else self._flat + flat.T
        self._looks += 1


def mosaic(gray_HW: Pixels) -> float:
    """The share of windows of 64 pixels in which all steps lie on a square grid, both ways; at half the size too.

    Three lines of it must be there in each direction: a door has two edges. A wall of square tiles is taken for one.
    """
    cv2 = opencv()
    half = cv2.resize(gray_HW, (gray_HW.shape[1] // 2, gray_HW.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return max(_on_grids(gray_HW), _on_grids(half))


def _on_grids(gray_HW: Pixels) -> float:
    height, width = gray_HW.shape
    if min(height, width) < _WINDOW:
        return 0.0
    gray = gray_HW.astype(np.int16)
    across = np.where((step := np.abs(np.diff(gray, axis=1))) > EDGE / 2, step, 0)
    down = np.where((step := np.abs(np.diff(gray, axis=0))) > EDGE / 2, step, 0)
    side = _WINDOW - 1
    across, down = across[: height - 1], down[:, : width - 1]  # so that both have the same windows
    columns = np.lib.stride_tricks.sliding_window_view(across, (side, side))[::_STRIDE, ::_STRIDE].sum(2)
    rows = np.lib.stride_tricks.sliding_window_view(down, (side, side))[::_STRIDE, ::_STRIDE].sum(3)
    columns, rows = columns.reshape(-1, side), rows.reshape(-1, side)
    busy = (columns.sum(1) > EDGE * side) & (rows.sum(1) > EDGE * side)
    found = np.zeros(len(busy), np.bool_)
    for pitch in _PITCHES:
        found[busy] |= _on_grid(columns[busy], pitch) & _on_grid(rows[busy], pitch)
    return float(found.mean())


def _on_grid(profile_NW: npt.NDArray[Any], pitch: int) -> Bools:
    """Whether the steps of a window lie `pitch` apart; an encoder may have drawn them over two pixels."""
    count, side = profile_NW.shape
    lines = -(-side // pitch)
    padded = np.zeros((count, lines * pitch), np.float64)
    padded[:, :side] = profile_NW
    padded[:, : side - 1] += profile_NW[:, 1:]
    by_phase = padded.reshape(count, lines, pitch)
    best = by_phase.sum(1).argmax(1)
    on_lines = np.take_along_axis(by_phase, best[:, None, None], 2)[..., 0]
    strong = (on_lines > _LINE * on_lines.max(1, keepdims=True)).sum(1)
    found: Bools = (on_lines.sum(1) > _ON_GRID * profile_NW.sum(1)) & (strong >= _LINES)
    return found


def blocks(gray_HW: Pixels) -> float:
    """How much larger steps are where blocks of 8 pixels meet than elsewhere, of the flat half of the picture."""
    shares = []
    for gray in (gray_HW, gray_HW.T):
        step = np.abs(np.diff(gray.astype(np.int16), axis=1)).astype(np.float64)
        if step.shape[1] < 24:
            return math.nan
        step[step > 4 * EDGE] = 0  # an edge of things rather than of blocks
        means = np.array([step[:, phase::8].mean() for phase in range(8)])
        shares.append((float(means.max()) + _FAINT) / (float(np.median(means)) + _FAINT) - 1)
    return min(shares)


def noise(gray_HW: Pixels) -> float:
    """The deviation of noise in grey levels, in the calmest quarter of the picture."""
    if min(gray_HW.shape) < 16:
        return math.nan
    cv2 = opencv()
    rough = np.abs(cv2.filter2D(gray_HW.astype(np.float32), -1, _IMMERKAER)) * math.sqrt(math.pi / 2) / 6
    drawn = ((gray_HW >= SHADOW) & (gray_HW <= GLARE)).astype(np.float32)
    size = (gray_HW.shape[1] // 8, gray_HW.shape[0] // 8)
    cells = cv2.resize(rough, size, interpolation=cv2.INTER_AREA)
    cells = cells[cv2.resize(drawn, size, interpolation=cv2.INTER_AREA) > 0.9]
    return float(np.percentile(cells, 25)) if cells.size else math.nan


def colorfulness(frame_HWC: Pixels) -> float:
    """Hasler and Süsstrunk's: 0 is gray, 33 moderately, 59 quite, 109 extremely colourful."""
    red, green, blue = reduced(frame_HWC).astype(np.float32).transpose(2, 0, 1)
    first, second = red - green, (red + green) / 2 - blue
    deviation = math.hypot(float(first.std()), float(second.std()))
    return deviation + 0.3 * math.hypot(float(first.mean()), float(second.mean()))


def aesthetic_of(contrast: float, colors: float, sharp: float, clipped: float) -> float:
    """From 0 to 1: the mean of contrast, colour and sharpness, each against what a good picture has, less what is lost
    in shadows and glare. A formula, and no taste: it puts dull, gray and blurred pictures below others.
    """
    parts = (contrast / _FULL_CONTRAST, colors / _FULL_COLOR, sharp / _FULL_SHARPNESS)
    known = [min(1.0, part) for part in parts if not math.isnan(part)]
    lost = 0.0 if math.isnan(clipped) else clipped
    return sum(known) / len(known) * (1 - lost) if known else math.nan


def split(upright_HW: Bools) -> float:
    """The longest share of the height that one upright edge takes, away from the sides."""
    width = upright_HW.shape[1]
    margin = max(2, round(_MARGIN * width))
    shares = upright_HW.mean(0)[margin : width - margin]
    return float(shares.max(initial=0.0))


def inset(upright_HW: Bools, flat_HW: Bools) -> float:
    """How much of its weakest side the clearest rectangle within the frame has."""
    height, width = upright_HW.shape
    down = np.concatenate([np.zeros((1, width)), np.cumsum(upright_HW, 0)])
    across = np.concatenate([np.zeros((height, 1)), np.cumsum(flat_HW, 1)], axis=1)
    columns, rows = _longest(upright_HW.sum(0)), _longest(flat_HW.sum(1))
    best = 0.0
    for left, right in combinations(columns, 2):
        for top, bottom in combinations(rows, 2):
            high, wide = bottom - top, right - left
            if min(high, wide) < 8 or not _LEAST_INSET <= high * wide / (height * width) <= _MOST_INSET:
                continue
            sides = [(down[bottom, x] - down[top, x]) / high for x in (left, right)]
            sides += [(across[y, right] - across[y, left]) / wide for y in (top, bottom)]
            best = max(best, float(min(sides)))
    return best


def _wide(edges_HW: Bools) -> Bools:
    """Upright edges that may be a pixel off."""
    found = edges_HW.copy()
    found[:, 1:] |= edges_HW[:, :-1]
    found[:, :-1] |= edges_HW[:, 1:]
    return found


def _longest(lengths: npt.NDArray[Any]) -> list[int]:
    """Where the longest edges are, not two that touch, none at a border, ascending."""
    left = lengths.astype(np.float64)
    left[:2] = left[-2:] = 0
    found = []
    for _ in range(_CANDIDATES):
        place = int(left.argmax())
        if left[place] < 8:
            break
        found.append(place)
        left[max(0, place - 3) : place + 4] = 0
    return sorted(found)
