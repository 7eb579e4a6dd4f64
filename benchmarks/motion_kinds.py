"""What goes wrong with motion, done to renders of the film world, for `benchmarks/motion.py --check`.

The one invariant: but for its last kind, a wrong film is made of the very pixels of the right one, so that nothing but
motion tells them apart; and a kind is done only to scenes in which somebody who sees the film alone could notice.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from everreel.evaluate.expected import instead, subject_masks
from everreel.evaluate.meters import opencv
from everreel.media import Pixels
from everreel.world.render import render
from everreel.world.scene import Scene, visible_fields

COARSE = ("frozen", "shuffled", "repeated", "reversed", "mirrored", "double speed", "half speed", "jump", "cut")
KINDS = (*COARSE, "wobble", "flicker", "wrong action")
_WOBBLE, _WOBBLES_A_SECOND, _WAVE = 0.045, 3.0, 0.3
_DROPPED = 0.4  # seconds that a jump leaves out
_FLICKER = 14.0  # levels


def goes_somewhere(scene: Scene) -> bool:
    """Whether which way time runs can be seen: the camera or the subject goes one way."""
    return scene.locomotes or scene.camera_motion != "static"


def goes_sideways(scene: Scene) -> bool:
    """Whether the film has a left and a right."""
    return scene.locomotes or scene.camera[0] in ("pan", "tracking")


def wrong_films(scene: Scene, num_frames: int, fps: float, height: int, width: int) -> Iterator[tuple[str, Pixels]]:
    """Each kind that the scene can have, and the scene's own film with that done to it."""
    drawn = functools.partial(render, num_frames=num_frames, height=height, width=width)
    rng = random.Random(scene.seed)
    long = drawn(scene, num_frames=2 * num_frames, fps=fps)
    film = long[:num_frames]
    yield "frozen", np.repeat(film[:1], num_frames, 0)
    yield "shuffled", film[rng.sample(range(num_frames), num_frames)]
    yield "repeated", film[np.arange(num_frames) // 2 * 2]
    if goes_somewhere(scene):
        yield "reversed", film[::-1].copy()
    if goes_sideways(scene):
        yield "mirrored", film[:, :, ::-1].copy()
    yield "double speed", long[::2]
    yield "half speed", drawn(scene, fps=2 * fps)
    half, dropped = num_frames // 2, round(_DROPPED * fps)
    yield "jump", np.concatenate([film[:half], long[half + dropped : num_frames + dropped]])
    elsewhere = drawn(replace(scene, seed=scene.seed + 1), fps=fps)
    yield "cut", np.concatenate([film[:half], elsewhere[half:]])
    yield "wobble", wobbled(film, subject_masks(scene, num_frames, fps, height, width), fps)
    steps = np.array([rng.uniform(-_FLICKER, _FLICKER) for _ in range(num_frames)])
    yield "flicker", np.clip(film + steps[:, None, None, None], 0, 255).astype(np.uint8)
    others = instead(scene)[1:]
    if "action" in visible_fields(scene) and others:
        yield "wrong action", drawn(rng.choice(others), fps=fps)


def wobbled(film: Pixels, masks: npt.NDArray[np.bool_], fps: float) -> Pixels:
    """A film whose subject is bent to and fro like jelly."""
    cv2 = opencv()
    height, width = film.shape[1:3]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    found = np.empty_like(film)
    for number, (frame, mask) in enumerate(zip(film, masks, strict=True)):
        near = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.03 * height)
        turn = 2 * np.pi * (_WOBBLES_A_SECOND * number / fps)
        wave = 2 * np.pi / (_WAVE * height)
        across = x + near * _WOBBLE * height * np.sin(wave * y + turn).astype(np.float32)
        down = y + near * _WOBBLE * height * np.sin(wave * x + 1.3 * turn).astype(np.float32)
        found[number] = cv2.remap(frame, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found
