"""Whether a film of the film world moves as its words ask: the labeller that knows the true physics.

For every scene the renderer can be asked what moves, how fast and how often. `judge` has it draw a few films of the
scene with other seeds, measures them and the film by one meter (`evaluate/signals.py`), and says how far the film's
figures are from theirs, in units of how far those differ among themselves. Five axes come of it:

- trajectory: the camera's move, the subject's way past the scenery and in the frame, and whether what it does is rather
  the action asked for than another that this subject could do there;
- smoothness: nothing trembles, stutters or flickers;
- jumps: no step from frame to frame is far larger than the others, as of a cut, a seam or what appears elsewhere;
- deformation: the subject keeps its size, shape and colours as far as its poses do;
- amplitude: what moves does so as much, and as often a second, as it should: not frozen, not wild.

The one invariant: a film is held against what is drawn of its scene and never against its own pixels or layout, so the
same film and scene have the same scores, on whatever the renders' seeds were; and what cannot be seen does not count.

Shape suffixes: T frames, H height, W width, C = 3 channels, RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everreel.evaluate.expected import Expected, expected_of
from everreel.evaluate.meters import one_thread, reduced
from everreel.evaluate.physics_scale import ACTION, AXES, HEADING, LOG, SPREAD, SUBJECT, WEIGHTS, WORDS
from everreel.evaluate.signals import FEATURES, features_of
from everreel.media import Pixels
from everreel.world.scene import Scene, visible_fields

Floats = npt.NDArray[np.float64]

AREA = 96 * 160
"""Pixels of a frame at which motion is measured; larger films are made smaller."""
FEWEST_FRAMES, LEAST_SIDE = 9, 32
MARGIN = 0.03
"""Two scores that are nearer than this are a tie: renders of one scene differ by about as much."""
FAR = 60.0
"""Deviations: farther off is no worse."""
_FREE = 1.0  # deviations that cost nothing
_HALF = 5.0  # deviations beyond those at which an axis is half lost; what is rough throughout is still told apart
_ALIVE = 0.5  # of the motion there should be: with less, what is smooth about a film is that it stands
_LOST = 4.0  # deviations that count for what could be measured of renders and not of the film
_PRIOR = 8.0  # renders that the usual deviation counts for, beside the scene's own
_LEEWAY = 0.15  # of what is expected of a speed: a film is not wrong for that
_SAID_FROM = 3.0  # deviations that are worth a sentence
_SAID = 0.75  # a belief in the action below is worth one
_HEADED = 2.0  # deviations from standing at which renders go one way
_TELLING = 2.0  # mean squared deviations by which an action is another
_APART = 25.0
_SURENESS = 0.5


@dataclass(frozen=True)
class Motion:
    """How a film moves, from 0 (wrong) to 1 (as the words ask), by axis; an axis that cannot be seen is None.

    `score` is their weighted geometric mean over what can be seen, `findings` say what is off, worst first, and
    `measured` has the figures: by name what was found and what was expected.
    """

    trajectory: float | None
    smoothness: float | None
    jumps: float | None
    deformation: float | None
    amplitude: float | None
    score: float
    findings: tuple[str, ...]
    measured: Mapping[str, tuple[float, float]]

    @property
    def axes(self) -> dict[str, float]:
        """The axes that count, by name."""
        named = {name: getattr(self, name) for name in WEIGHTS}
        return {name: value for name, value in named.items() if value is not None}


def judge(frames_THWC: Pixels, fps: float, scene: Scene) -> Motion:
    """Measure a film against the physics of its scene; the scene's seed does not matter.

    Raises:
        ValueError: the frames, the rate or the scene cannot be used, or OpenCV is not there.
    """
    _check(frames_THWC, fps, scene)
    with one_thread():
        small = np.stack([reduced(frame, AREA) for frame in frames_THWC])
        height, width = small.shape[1:3]
        expected = expected_of(scene, len(small), fps, height, width)
        found = features_of(small, fps, expected.finder)
    return compare(found, expected)


def prefer(a: Motion, b: Motion, margin: float = MARGIN) -> int:
    """1 if the first moves better, -1 if the second does, 0 for a tie: scores no farther apart than `margin`.

    Raises:
        ValueError: a margin that is no share.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin = {margin}: must be from 0 to less than 1; {MARGIN} works")
    apart = a.score - b.score
    return 0 if abs(apart) <= margin else 1 if apart > 0 else -1


def compare(found: Mapping[str, float], expected: Expected) -> Motion:
    """The scores of a film whose `FEATURES` are these."""
    usual, spread = scale_of(expected.own)
    off = deviations(found, usual, spread, expected.followed)
    axes: dict[str, float | None] = {}
    said: list[tuple[float, str]] = []
    for axis, terms in AXES.items():
        sizes = {term: term.size(off[term.name]) for term in terms if term.name in off}
        axes[axis] = _score(list(sizes.values()))
        said += [(size, _words(term.name, found, usual)) for term, size in sizes.items() if size > _SAID_FROM]
    heading, alive = _heading(found, usual, spread, off), _alive(found, usual)
    for axis, times in (("trajectory", heading), ("smoothness", alive), ("jumps", alive), ("deformation", alive)):
        score = axes[axis]
        axes[axis] = None if score is None else score * times
    if alive < 1:
        said.append((FAR * (1 - alive), f"it moves {alive * _ALIVE:.0%} as much as it should"))
    if "action" in visible_fields(expected.scene):
        belief, other = _action(found, expected, spread)
        trajectory = axes["trajectory"]
        if belief is not None and trajectory is not None:
            axes["trajectory"] = trajectory * belief
            if belief < _SAID:
                said.append((FAR * (1 - belief), f"it {other} rather than {expected.scene.action}"))
    count = {name: value for name, value in axes.items() if value is not None}
    total = sum(WEIGHTS[name] for name in count)
    logs = sum(WEIGHTS[name] * math.log(max(value, 1e-3)) for name, value in count.items())
    words = tuple(dict.fromkeys(text for _, text in sorted(said, key=lambda pair: -pair[0])))
    measured = {name: (found[name], usual[name]) for name in off}
    return Motion(**axes, score=math.exp(logs / total) if total else 0.0, findings=words, measured=measured)


def scale_of(rows: Floats) -> tuple[dict[str, float], dict[str, float]]:
    """What each feature is in renders, and how far from that it may be; nan where renders do not tell."""
    usual, spread = {}, {}
    for name, column in zip(FEATURES, rows.T, strict=True):
        known = column[np.isfinite(column)]
        if len(known) * 2 <= len(column):
            usual[name], spread[name] = math.nan, math.nan
            continue
        middle = float(np.median(known))
        own = float(((known - middle) ** 2).sum())
        both = (own + _PRIOR * SPREAD[name] ** 2) / (len(known) + _PRIOR)
        leeway = 0.0 if name in LOG else _LEEWAY * abs(middle)
        usual[name], spread[name] = middle, math.sqrt(both + leeway**2)
    return usual, spread


def deviations(
    found: Mapping[str, float], usual: Mapping[str, float], spread: Mapping[str, float], followed: bool
) -> dict[str, float]:
    """How far features are from what is usual, in deviations; without those that renders do not tell either."""
    off = {}
    for name in FEATURES:
        if not math.isfinite(usual[name]) or (name in SUBJECT and not followed):
            continue
        value = found[name]
        if math.isfinite(value):
            off[name] = min(FAR, max(-FAR, (value - usual[name]) / spread[name]))
        else:
            off[name] = _LOST
    return off


def _score(sizes: list[float]) -> float | None:
    """From 1 to 0 by the two terms that are off the most; None where there are none."""
    if not sizes:
        return None
    worst = sorted(sizes)[-2:]
    far = math.sqrt(sum(size * size for size in worst) / len(worst))
    return 1 / (1 + max(0.0, far - _FREE) / _HALF)


def _alive(found: Mapping[str, float], usual: Mapping[str, float]) -> float:
    """The share, up to 1, of half the motion that there should be: nothing is smooth that does not move."""
    gaps = [found[name] - usual[name] for name in ("energy", "quick") if math.isfinite(usual[name])]
    if not gaps or not all(map(math.isfinite, gaps)):
        return 1.0 if not gaps else 0.0
    return min(1.0, math.exp(sum(gaps) / len(gaps)) / _ALIVE)


def _heading(
    found: Mapping[str, float], usual: Mapping[str, float], spread: Mapping[str, float], off: Mapping[str, float]
) -> float:
    """1 where all goes the right way, less where something stands, and least where it goes the other way."""
    least = 1.0
    for name in HEADING:
        if name in off and abs(usual[name]) > _HEADED * spread[name] and math.isfinite(found[name]):
            least = min(least, (found[name] / usual[name] + 0.25) / 0.5)
    return max(0.1, least)


def _action(found: Mapping[str, float], expected: Expected, spread: Mapping[str, float]) -> tuple[float | None, str]:
    """The belief, up to 1, that the subject does what was asked, and what it would do else.

    None where nothing tells, or nothing else could be done.
    """
    if not expected.followed:
        return None, ""
    own = scale_of(expected.own)[0]
    told = [name for name in ACTION if math.isfinite(found[name]) and math.isfinite(own[name])]
    best: tuple[float, str] | None = None
    for action, rows in expected.others.items():
        other = scale_of(rows)[0]
        names = [name for name in told if math.isfinite(other[name])]
        if not names:
            continue
        apart = [((own[name] - other[name]) / spread[name]) ** 2 for name in names]
        if sum(min(gap, 9.0) for gap in apart) / len(names) < _TELLING:
            continue
        pull = [
            min(_APART, ((found[name] - other[name]) / spread[name]) ** 2)
            - min(_APART, ((found[name] - own[name]) / spread[name]) ** 2)
            for name in names
        ]
        lead = sum(pull) / len(pull)
        if best is None or lead < best[0]:
            best = (lead, action)
    if best is None:
        return None, ""
    return 1 / (1 + math.exp(-_SURENESS * best[0] - 1.0)), best[1]


def _words(name: str, found: Mapping[str, float], usual: Mapping[str, float]) -> str:
    """What is off, in words: how much of it there is, and how much there should be."""
    value, should = found[name], usual[name]
    if not math.isfinite(value):
        return f"{WORDS[name]}: nothing of it could be measured"
    if name in LOG:
        more = math.exp(abs(value - should))
        times = f"{more:.1f} times" if more < 20 else "more than 20 times"
        return f"{WORDS[name]} {times} {'more' if value > should else 'less'} than it should"
    if name in ("stutter", "still"):
        return f"{WORDS[name]}: {value:.0%} of the steps, {should:.0%} expected"
    return f"{WORDS[name]} by {value:+.2f} heights a second, {should:+.2f} expected"


def _check(frames: Pixels, fps: float, scene: Scene) -> None:
    told = f"{getattr(frames, 'dtype', type(frames).__name__)} {getattr(frames, 'shape', '')}".strip()
    right = isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    if not right:
        raise ValueError(f"frames = {told}: must be uint8 (frames, height, width, 3)")
    if len(frames) < FEWEST_FRAMES:
        raise ValueError(f"frames = {len(frames)}: motion is judged over {FEWEST_FRAMES} or more; 33 works")
    if min(frames.shape[1:3]) < LEAST_SIDE:
        size = f"{frames.shape[1]} x {frames.shape[2]}"
        raise ValueError(f"frames = {size}: each side must have {LEAST_SIDE} pixels or more; 96 x 160 works")
    if not (isinstance(fps, int | float) and math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps = {fps!r}: must be positive; 24 works")
    if not isinstance(scene, Scene):
        raise ValueError(f"scene = {type(scene).__name__}: must be a Scene of the film world; see world.scene")
    scene.validate()
