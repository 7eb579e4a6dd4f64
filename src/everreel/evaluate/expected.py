"""What the films that a scene asks for look like to the meter: the renderer makes some, and the same meter reads them.

A film that was made for a scene has another layout than the scene's own render and begins at another moment, so it is
held against several renders with other seeds. The one invariant: what is expected is a function of the scene without
its seed and of the film's length, size and rate, and nothing in it is a number of somebody's choice.

Shape suffixes: T frames, H height, W width, C = 3 channels, RGB.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from everreel.evaluate.signals import FEATURES, features_of
from everreel.evaluate.subject import Finder, Mask
from everreel.media import Pixels
from everreel.world.camera import View
from everreel.world.render import Theatre
from everreel.world.scene import SUBJECT_ACTIONS, Scene

Floats = npt.NDArray[np.float64]

OWN, OTHER = 4, 1
"""How many renders tell what the scene's own action looks like, and each of the subject's other actions."""
LONGEST = 97
"""Frames of a render: a longer film is held against the figures of this length."""
_KNOWN_EVERY = 4  # frames between two of which the subject's pixels are taken
_CHANGED = 12  # levels by which a pixel changes when the subject is left out
FOUND = 0.4
"""Overlap of what is found with what is the subject, below which the scene's subject cannot be followed."""


@dataclass(frozen=True)
class Expected:
    """How a scene's films measure: by action, a row of `FEATURES` for each render; the scene's own comes first."""

    scene: Scene
    finder: Finder
    overlap: float
    rows: Mapping[str, Floats]

    @property
    def own(self) -> Floats:
        """The renders of what was asked for."""
        return self.rows[self.scene.action]

    @property
    def others(self) -> dict[str, Floats]:
        """The renders of what the subject might do instead."""
        return {action: rows for action, rows in self.rows.items() if action != self.scene.action}

    @property
    def followed(self) -> bool:
        """Whether the subject can be told from the scenery."""
        return self.overlap >= FOUND


def expected_of(scene: Scene, num_frames: int, fps: float, height: int, width: int) -> Expected:
    """What films of a scene measure, whatever its seed."""
    return _expected(replace(scene, seed=0), min(num_frames, LONGEST), fps, height, width)


@functools.lru_cache(maxsize=256)
def _expected(scene: Scene, num_frames: int, fps: float, height: int, width: int) -> Expected:
    films: dict[str, list[Pixels]] = {}
    known: list[tuple[Pixels, Mask]] = []
    for number, other in enumerate(instead(scene)):
        count = OTHER if number else OWN
        for seed in range(count):
            # Seeds far apart, for a subject's phase goes by the seed.
            frames, some, masks = _render(
                replace(other, seed=1 + 7919 * seed + 13 * number), num_frames, fps, height, width
            )
            films.setdefault(other.action, []).append(frames)
            known.append((some, masks))
    finder = Finder.of([some for some, _ in known], [masks for _, masks in known])
    overlap = float(np.mean([finder.overlap(some, masks) for some, masks in known[:OWN]]))
    rows = {}
    for action, of_it in films.items():
        measured = [features_of(frames, fps, finder) for frames in of_it]
        rows[action] = np.array([[values[name] for name in FEATURES] for values in measured])
    return Expected(scene, finder, overlap, rows)


def instead(scene: Scene) -> list[Scene]:
    """The scene, and it with each other action of the subject that rules permit there."""
    scenes = [scene]
    for action in SUBJECT_ACTIONS[scene.subject]:
        other = replace(scene, action=action)
        if action == scene.action:
            continue
        try:
            other.validate()
        except ValueError:
            continue
        scenes.append(other)
    return scenes


def subject_masks(scene: Scene, num_frames: int, fps: float, height: int, width: int, every: int = 1) -> Mask:
    """Where the subject of a scene's own film is, in every so-manyth frame: T x H x W."""
    return _render(scene, num_frames, fps, height, width, every)[2]


def _render(
    scene: Scene, num_frames: int, fps: float, height: int, width: int, every: int = _KNOWN_EVERY
) -> tuple[Pixels, Pixels, Mask]:
    """A film, some of its frames, and where the subject is in those."""
    theatre, empty = Theatre(scene, height, width), _Empty(scene, height, width)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for number in range(num_frames):
        frames[number] = theatre.frame(round(number / fps, 6))
    some = range(0, num_frames, every)
    masks = []
    for number in some:
        without = empty.frame(round(number / fps, 6)).astype(np.int16)
        masks.append(np.abs(without - frames[number]).max(-1) > _CHANGED)
    return frames, frames[list(some)], np.array(masks)


class _Empty(Theatre):
    """A scene without its subject."""

    def _subject(self, canvas: object, view: View, time: float) -> None:
        """Nobody."""
