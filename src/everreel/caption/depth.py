"""Whether a camera travels or turns, from how unevenly the parts of the frame pass.

A camera that turns sees near and far pass alike; all that its lens adds is a `bend` of the flow, which grows with the
angle that it sees. One that travels sees what is near pass faster: along a wall or a floor the flow is sheared, and
between things it jumps. The three are weighed by a logistic model of four numbers, fitted to films that a known camera
makes of photographs: `python -m benchmarks.camera_motion --fit`.

The one invariant: where all parts of the frame pass alike there is nothing to tell from, and the answer is that the
camera turns, which is the commoner.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from everreel.caption.fit import COLUMNS, ROWS, Complex, Step, border_weight, motion

Floats = npt.NDArray[np.float64]

FEATURES = ("shear", "uneven", "bend")
COEFFICIENTS = (15.1, 12.4, -10.5)
OFFSET = -0.6
_HIGHEST = (0.5, 0.5, 1.0)
_FEWEST_CELLS = 8
_FAINT = 0.02  # heights a second: what goes no faster drowns its own differences in noise


def travels(steps: Sequence[Step]) -> float:
    """The probability that a camera whose picture goes sideways, up or down travels rather than turns."""
    features = depth_features(steps)
    score = OFFSET + sum(float(f) * c for f, c in zip(features, COEFFICIENTS, strict=True))
    return 1 / (1 + math.exp(-score))


def depth_features(steps: Sequence[Step]) -> Floats:
    """By `FEATURES`: how sheared the flow is, how much of it is not the camera's, and the bend of the lens.

    The first two are shares of the camera's own motion, from 0 to a half, and less of one that is slow; all are 0 where
    too little can be seen.
    """
    at, usual, aspect = _cells(steps)
    rates = [(s.right * aspect + 1j * s.down, s.growth + 1j * s.clockwise, s.bend) for s in steps]
    shift, turn, bend = (np.median(c.real) + 1j * np.median(c.imag) for c in np.array(rates, complex).T)
    if len(at) < _FEWEST_CELLS or abs(shift) < 1e-6:
        return np.zeros(len(FEATURES))
    weight = border_weight(at, aspect)
    expected = motion(at, complex(shift), complex(turn), float(bend.real))
    size = np.maximum(np.abs(expected), 1e-9)
    along = ((usual - expected) * expected.conj() / size).real / size
    uneven = float((weight * np.minimum(1.0, np.abs(along))).sum() / weight.sum())
    trust = abs(shift) / (abs(shift) + _FAINT)
    found = np.array([trust * _shear(at, usual, complex(shift), weight), trust * uneven, float(bend.real)])
    return np.asarray(np.minimum(found, _HIGHEST), np.float64)


def _shear(at: Complex, usual: Complex, shift: complex, weight: Floats) -> float:
    """What a plane of growing distance does to a flow, and no turn or growth does, as a share of the shift.

    The flow is fitted with all terms of first order and the lens's bend, in a frame whose x goes along the shift;
    parts that go their own way lose their weight (least absolute deviations by iterated weights).
    """
    across = at * shift.conjugate() / abs(shift)
    x, y, flow = across.real, across.imag, usual / shift
    none, one = np.zeros(len(at)), np.ones(len(at))
    first = np.stack([one, x, y, none, none, none, x * x], axis=1)
    second = np.stack([none, none, none, one, x, y, x * y], axis=1)
    terms, values = np.concatenate([first, second]), np.concatenate([flow.real, flow.imag])
    told = weight
    solved = np.zeros(7)
    for _ in range(6):
        root = np.sqrt(np.tile(told, 2))
        rows = np.concatenate([terms * root[:, None], 0.01 * np.eye(7)])
        solved = np.linalg.lstsq(rows, np.concatenate([values * root, np.zeros(7)]), rcond=None)[0]
        missed = values - terms @ solved
        told = weight / np.maximum(np.hypot(missed[: len(at)], missed[len(at) :]), 0.02)
    return float(np.hypot(solved[1] - solved[5], solved[2] + solved[4]) / 2)


def _cells(steps: Sequence[Step]) -> tuple[Complex, Complex, float]:
    """The middles of the frame's parts that have corners, what usually passes there, and the frame's aspect."""
    aspect = steps[0].aspect
    x = ((np.arange(COLUMNS) + 0.5) / COLUMNS - 0.5) * aspect
    y = (np.arange(ROWS) + 0.5) / ROWS - 0.5
    at = x[None, :] + 1j * y[:, None]
    cells = np.array([step.cells for step in steps])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a part without a corner in the whole film
        usual = np.nanmedian(cells.real, axis=0) + 1j * np.nanmedian(cells.imag, axis=0)
    there = np.isfinite(usual.real)
    return at[there], usual[there], aspect
