"""Films made to have one fault each, for which the measures of `evaluate/quality.py` have to speak up.

The one invariant: each is the same plain film (a patterned disc that crosses a patterned wall while the camera pans)
but for its fault.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from everreel.media import Pixels

HEIGHT, WIDTH, FRAMES, FPS = 72, 112, 36, 24
RADIUS = 14


def plain(num_frames: int = FRAMES, shake: int = 0, camera: float = 1.0) -> Pixels:
    """The film without a fault; with `shake`, the camera jerks so many pixels up and down, frame by frame."""
    wall, disc = _pattern(0, HEIGHT + 2 * shake, WIDTH + int(num_frames * camera) + 1), _pattern(1, 64, 64)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        down = shake * (1 + (-1) ** number)
        left = round(number * camera)
        frame[:] = wall[down : down + HEIGHT, left : left + WIDTH]
        middle = HEIGHT // 2 - down, WIDTH // 4 + round(1.5 * number)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < RADIUS**2
        frame[inside] = disc[(y - middle[0] + 32)[inside], (x - middle[1] + 32)[inside]]
    return frames


def films() -> dict[str, Pixels]:
    """All of them by what they are; the first has no fault."""
    film, draw = plain(), np.random.default_rng(2)
    half = FRAMES // 2
    light = np.linspace(1, 0.3, FRAMES)[:, None, None, None]
    blink = np.where(np.arange(FRAMES) % 2, 1.0, 0.85)[:, None, None, None]
    other = np.stack([np.roll(_pattern(5, HEIGHT, WIDTH)[..., ::-1] // 2, number, axis=1) for number in range(half)])
    grain = draw.normal(0, 25, film.shape)
    return {
        "plain": film,
        "standing still": np.repeat(film[:1], FRAMES, axis=0),
        "a cut in the middle": np.concatenate([film[:half], other]),
        "fading": (film * light).round().astype(np.uint8),
        "blinking": (film * blink).round().astype(np.uint8),
        "shaking": plain(shake=2),
        "blurred": np.stack([_blurred(frame) for frame in film]),
        "grainy": (film + grain).clip(0, 255).round().astype(np.uint8),
        "a subject that changes": _changing(film),
        "noise": draw.integers(0, 256, film.shape, dtype=np.uint8),
    }


def _pattern(seed: int, height: int, width: int) -> Pixels:
    """Smooth blobs of colour with fine grain on them."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(40, 216, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    fine = draw.integers(0, 40, (height // 3 + 2, width // 3 + 2, 3), dtype=np.uint8)
    layers = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC)) for x in (coarse, fine)]
    return (layers[0].astype(int) + layers[1] - 20).clip(0, 255).astype(np.uint8)


def _blurred(frame: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(3)))


def _changing(film: Pixels) -> Pixels:
    """The disc takes another pattern a third and two thirds through."""
    changed = film.copy()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for number, frame in enumerate(changed):
        third = 3 * number // len(changed)
        if not third:
            continue
        disc = _pattern(10 + third, 64, 64)[..., ::-1] // (1 + third)
        middle = HEIGHT // 2, WIDTH // 4 + round(1.5 * number)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < RADIUS**2
        frame[inside] = disc[(y - middle[0] + 32)[inside], (x - middle[1] + 32)[inside]]
    return changed
