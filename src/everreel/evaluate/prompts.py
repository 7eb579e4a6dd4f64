"""The prompts that a model is judged by: sentences about scenes whose combination nobody trained on.

The world keeps one combination of subject, colour, place and action in sixteen for evaluation. Of many scenes with
such a combination those are picked, subject after subject, that keep every colour, place, action, shot and camera
motion about equally frequent. The one invariant: the prompts are a pure function of the seed, the first ones stay the
same when more are asked for, and a prompt says in words each field that its film is scored by.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from everreel.data.draws import draw_int, generator_for
from everreel.world.caption import sentence_with_fields
from everreel.world.scene import (
    COLORS,
    FORCED,
    PEOPLE,
    SUBJECT_ACTIONS,
    SUBJECTS,
    VOCABULARY,
    Scene,
    allowed_places,
    is_held_out,
    visible_fields,
)

STYLES = ("tags", "prose", "shot_first")  # those that say everything
VARIANTS = 12  # scenes drawn of each combination
REPEATS = 3  # scenes picked of one combination at most: some subjects have a single one that is held out
_DRAWN = ("direction", "time", "weather", "shot_type", "shot_angle", "shot_position", "camera_motion", "expression")
_ALWAYS_EVEN = ("color", "place", "action", "shot_type", "shot_angle", "shot_position", "camera_motion")
_EVEN_WHERE_SEEN = ("action", "direction", "time", "weather", "expression")


@dataclass(frozen=True)
class Prompt:
    """A sentence, the scene that it tells of, and the fields that are both said and to be seen."""

    text: str
    scene: Scene
    asked: Mapping[str, str]


def held_out_prompts(count: int = 64, seed: int = 0) -> list[Prompt]:
    """`count` prompts for scenes that were never trained on, each field spread evenly.

    Raises:
        ValueError: there are not as many.
    """
    prompts = []
    for number, scene in enumerate(held_out_scenes(count, seed)):
        generator = generator_for(seed, "prompt", number)
        style = STYLES[draw_int(generator, 0, len(STYLES))]
        text, told = sentence_with_fields(scene, generator, drop=0.0, style=style)
        asked = {name: value for name, value in visible_fields(scene).items() if name in told}
        prompts.append(Prompt(text, scene, asked))
    return prompts


def held_out_scenes(count: int = 64, seed: int = 0) -> list[Scene]:
    """The scenes of `held_out_prompts`: no two alike, and no combination more than three times."""
    most = len(_combinations())
    if not 1 <= count <= most:
        nearest = min(max(count, 1), most)
        raise ValueError(f"num_films = {count}: must lie in 1..{most}; nearest that works: {nearest}")
    scenes, shares = _pool(seed)
    wide = np.concatenate([np.full(len(VOCABULARY[name]), len(VOCABULARY[name])) for name, _ in _counted()])
    subjects = np.array([SUBJECTS.index(scene.subject) for scene in scenes])
    counts, turns = np.zeros(shares.shape[1]), np.zeros(len(SUBJECTS))
    left = np.ones(len(scenes), dtype=bool)
    uses: dict[tuple[str, ...], int] = {}
    picked = []
    for _ in range(count):
        # Whose turn it is comes first; then, how often the values of a scene have come up for their number.
        turn = turns[subjects] == turns[subjects[left]].min()
        chosen = int(np.where(left & turn, shares @ (counts * wide), np.inf).argmin())
        scene = scenes[chosen]
        picked.append(scene)
        counts += shares[chosen]
        turns[subjects[chosen]] += 1
        left[chosen] = False
        uses[_combination(scene)] = uses.get(_combination(scene), 0) + 1
        if uses[_combination(scene)] == REPEATS:
            left &= np.array([_combination(other) != _combination(scene) for other in scenes])
    return picked


@functools.lru_cache(maxsize=2)
def _pool(seed: int) -> tuple[tuple[Scene, ...], npt.NDArray[np.float64]]:
    """The scenes to pick from, and the shares of each."""
    scenes = tuple(_drawn(seed))
    return scenes, np.stack([_shares(scene) for scene in scenes])


def _drawn(seed: int) -> Iterator[Scene]:
    """Scenes of every held-out combination, the rest of them drawn; those that make no sense are left out."""
    combinations = _combinations()
    size = (len(combinations) * VARIANTS, len(_DRAWN) + 1)
    numbers = torch.randint(2**31 - 1, size, generator=generator_for(seed, "held-out scenes")).tolist()
    for index, (layout, *drawn) in enumerate(numbers):
        subject, color, action, place = combinations[index % len(combinations)]
        rest = {name: VOCABULARY[name][n % len(VOCABULARY[name])] for name, n in zip(_DRAWN, drawn, strict=True)}
        if subject not in PEOPLE:
            del rest["expression"]
        rest |= FORCED.get(place, {})
        scene = Scene(subject=subject, color=color, action=action, place=place, seed=layout, **rest)
        try:
            scene.validate()
        except ValueError:
            continue
        yield scene


@functools.cache
def _combinations() -> tuple[tuple[str, str, str, str], ...]:
    """Subject, colour, action and place of all that is held out."""
    found = []
    for subject in SUBJECTS:
        for action in SUBJECT_ACTIONS[subject]:
            for place in allowed_places(subject, action):
                for color in COLORS:
                    scene = Scene(
                        subject, color, action, "left", place, "day", "clear",
                        "full_shot", "eye_level", "front_view", "static",
                    )  # fmt: skip
                    if is_held_out(scene):
                        found.append((subject, color, action, place))
    return tuple(found)


def _combination(scene: Scene) -> tuple[str, str, str, str]:
    return scene.subject, scene.color, scene.action, scene.place


def _counted() -> list[tuple[str, bool]]:
    """The fields that are kept even, and whether only where they are seen."""
    return [(name, False) for name in _ALWAYS_EVEN] + [(name, True) for name in _EVEN_WHERE_SEEN]


def _shares(scene: Scene) -> npt.NDArray[np.float64]:
    """What the scene adds to the count of each value; one that is not seen adds to all alike, so to none."""
    seen = visible_fields(scene)
    parts = []
    for name, only_seen in _counted():
        words = VOCABULARY[name]
        if only_seen and name not in seen:
            parts.append(np.full(len(words), 1 / len(words)))
        else:
            parts.append(np.array([float(word == getattr(scene, name)) for word in words]))
    return np.concatenate(parts)
