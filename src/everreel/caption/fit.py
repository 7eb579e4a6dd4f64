"""The camera's motion between two frames, out of the motion of corners of which some belong to things that move.

What a camera does to a far background is a similarity: a shift, a growth and a turn. Of the corners one cannot say
which are background; so similarities through pairs of them are proposed, each is voted on, and the one with the most
votes is fitted again to those that agree (RANSAC, Fischler and Bolles 1981, and iterated weights). Corners near the
frame's border have more to say: subjects stand in the middle.

The one invariant: the same flow gives the same fit; the proposals are drawn from a seed of their own.

Motion in the plane is written in complex numbers, x + iy: a similarity takes p to p + shift + turn p, with the growth
as the real part of `turn` and the clockwise turn of the picture as its imaginary part. A lens adds to a shift: a camera
of focal length f that turns moves what is off its axis by `bend` (p · shift) p more, with `bend` = 1 / f^2.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from everreel.caption.flow import Flow

Complex = npt.NDArray[np.complex128]
Floats = npt.NDArray[np.float64]

PROPOSALS = 128
FEWEST = 8  # corners without which nothing is said
ROWS = COLUMNS = 6  # cells in which the flow of a whole film is gathered
_TOLERANCE = 0.004  # heights of the frame by which a corner may miss the camera's motion
CANDIDATES = 3  # motions looked for between two frames
_LEAST = 0.12  # of the votes, for a second one
_JUMP, _JUMP_COST = 0.15, 0.5  # a change of motion, in frames a second, that costs as much as half the votes
_WIDEST = 1.5  # the bend of a lens that sees 78 degrees from top to bottom; nothing wider is believed
_LEEWAY = 0.08  # and by this share of how far it went: a lens is no similarity


@dataclass(frozen=True)
class Step:
    """What the picture did between two looks, a second, by a lens of this `bend`.

    It moved `right` and `down` (shares of its width and height), grew (`growth`, natural logarithm of its scale) and
    turned `clockwise` (radians). `agreed` is the share of border-weighted corners that say so, 0 where nothing could be
    told; `cells` (6 x 6, complex) is the middle motion in each part of the frame in heights a second, nan where there
    was no corner. The others are those of `Flow`.
    """

    time: float
    seconds: float
    right: float
    down: float
    growth: float
    clockwise: float
    bend: float
    agreed: float
    found: float
    changed: float
    aspect: float
    cells: Complex


def fit_steps(flows: Iterable[Flow]) -> list[Step]:
    """The camera's part in the flows of a film, one after the other.

    Where several things move, each with many corners, the camera is what goes on evenly: of the motions found between
    two frames, the ones are taken whose row has the most votes and the fewest jumps (Viterbi).
    """
    rows = [_candidates(flow) for flow in flows]
    if not rows:
        return []
    best = np.array([step.agreed for step in rows[0]])
    came: list[npt.NDArray[np.intp]] = []
    for before, row in pairwise(rows):
        jump = np.abs(_rates(row)[:, None] - _rates(before)[None]).sum(axis=2)
        total = best[None] - _JUMP_COST * np.minimum(1.0, jump / _JUMP)
        came.append(total.argmax(axis=1))
        best = total.max(axis=1) + [step.agreed for step in row]
    chosen = [int(best.argmax())]
    for previous in reversed(came):
        chosen.append(int(previous[chosen[-1]]))
    return [row[number] for row, number in zip(rows, reversed(chosen), strict=True)]


def _candidates(flow: Flow) -> list[Step]:
    """The motions that a flow may hold, the one with the most votes first; at least one."""
    cells = np.full((ROWS, COLUMNS), np.nan + 0j)
    blind = Step(flow.time, flow.seconds, 0, 0, 0, 0, 0, 0, flow.found, flow.changed, flow.aspect, cells)
    if len(flow.points) < FEWEST:
        return [blind]
    at = flow.points[:, 0] + 1j * flow.points[:, 1]
    move = flow.moves[:, 0] + 1j * flow.moves[:, 1]
    weight = border_weight(at, flow.aspect)
    cells = _cells(at, np.asarray(move / flow.seconds, np.complex128), flow.aspect)
    left = np.ones(len(at), bool)
    found: list[Step] = []
    while len(found) < CANDIDATES and left.sum() >= FEWEST:
        proposed = _proposed(at[left], move[left], weight[left])
        shift, turn, bend = _fitted(at[left], move[left], weight[left], *proposed)
        agreed = _votes(np.abs(move - motion(at, shift, turn, bend)), move) > 0
        share = float(weight[agreed].sum() / weight.sum())
        if found and share < _LEAST:
            break
        rate = shift / flow.seconds
        grown = np.log(1 + turn) / flow.seconds
        found.append(
            replace(
                blind,
                right=float(rate.real / flow.aspect),
                down=float(rate.imag),
                growth=float(grown.real),
                clockwise=float(grown.imag),
                bend=bend,
                agreed=share,
                cells=cells,
            )
        )
        left &= ~agreed
    return found


def _rates(steps: Sequence[Step]) -> Floats:
    return np.array([(step.right, step.down, step.growth, step.clockwise) for step in steps])


def border_weight(at: Complex, aspect: float) -> Floats:
    """How much a corner has to say: 1.2 at the border, 0.2 in the middle."""
    off: Floats = np.maximum(np.abs(at.real) / (aspect / 2), np.abs(at.imag) / 0.5)
    return np.asarray(0.2 + np.minimum(1.0, off**2), np.float64)


def motion(at: Complex, shift: complex, turn: complex, bend: float) -> Complex:
    """How far what is at `at` goes."""
    along = at.real * shift.real + at.imag * shift.imag
    return shift + turn * at + bend * along * at


def _proposed(at: Complex, move: Complex, weight: Floats) -> tuple[complex, complex]:
    """The similarity through two corners that most of the others vote for."""
    one, two = (np.floor(share * len(at)).astype(int) for share in _pairs())
    apart = at[one] - at[two]
    usable = np.abs(apart) > 0.05
    turn = np.where(usable, (move[one] - move[two]) / np.where(usable, apart, 1), 0)
    shift = move[one] - turn * at[one]
    turn, shift = np.append(turn, 0), np.append(shift, 0)  # and that it does not move at all
    missed = np.abs(move[None] - shift[:, None] - turn[:, None] * at[None])
    best = int(np.argmax((_votes(missed, move[None]) * weight).sum(axis=1)))
    return complex(shift[best]), complex(turn[best])


def _fitted(
    at: Complex, move: Complex, weight: Floats, shift: complex, turn: complex
) -> tuple[complex, complex, float]:
    """What was proposed, fitted to the corners that agree with it, and the lens that they were seen through."""
    bend = 0.0
    for _ in range(8):
        votes = weight * _votes(np.abs(move - motion(at, shift, turn, bend)), move)
        if np.count_nonzero(votes) < 3:
            break
        votes /= votes.sum()
        left = move - motion(at, shift, 0j, bend) + shift
        middle, moved = (votes * at).sum(), (votes * left).sum()
        wide = (votes * np.abs(at - middle) ** 2).sum()
        turn = complex((votes * (left - moved) * (at - middle).conj()).sum() / max(wide, 1e-12))
        shift = complex(moved - turn * middle)
        if abs(shift) > _TOLERANCE:
            bent = (at.real * shift.real + at.imag * shift.imag) * at
            rest = move - shift - turn * at
            bend = float((votes * (rest * bent.conj()).real).sum() / (votes * np.abs(bent) ** 2).sum())
            bend = min(_WIDEST, max(0.0, bend))
    return shift, turn, bend


def _votes(missed: Floats, move: Complex) -> Floats:
    """From 1 for a corner that went as proposed to 0 for one that did not."""
    allowed = _TOLERANCE + _LEEWAY * np.abs(move)
    return np.maximum(0.0, 1 - (missed / allowed) ** 2) ** 2


def _cells(at: Complex, rate: Complex, aspect: float) -> Complex:
    row = np.clip(((at.imag + 0.5) * ROWS).astype(int), 0, ROWS - 1)
    column = np.clip(((at.real / aspect + 0.5) * COLUMNS).astype(int), 0, COLUMNS - 1)
    place = row * COLUMNS + column
    cells = np.full(ROWS * COLUMNS, np.nan + 0j)
    for cell in np.unique(place):
        inside = rate[place == cell]
        cells[cell] = np.median(inside.real) + 1j * np.median(inside.imag)
    return cells.reshape(ROWS, COLUMNS)


@functools.lru_cache(maxsize=1)
def _pairs() -> tuple[Floats, Floats]:
    """Two places from 0 to 1 in the list of corners for each proposal."""
    rng = random.Random(0)
    drawn = np.array([[rng.random(), rng.random()] for _ in range(PROPOSALS)])
    return drawn[:, 0], drawn[:, 1]
