"""Small films with one fault each, and a clean one: moving textures, for flow and hashes to hold on to."""

from pathlib import Path

import numpy as np

from tests.film.films import write

HEIGHT, WIDTH, FPS, FRAMES = 96, 160, 24, 48


def texture(seed, height=320, width=480):
    """Coloured patches of many sizes, sharp at their edges, that no two seeds share."""
    draw = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.float64)
    picture[:] = draw.uniform(70, 180, 3)
    for _ in range(160):
        y, x = draw.integers(0, height), draw.integers(0, width)
        radius, color = draw.integers(5, 40), draw.uniform(15, 240, 3)
        rows, columns = np.ogrid[:height, :width]
        picture[((rows - y) / draw.uniform(0.5, 1)) ** 2 + (columns - x) ** 2 < radius**2] = color
    return picture.astype(np.uint8)


def moving(frames=FRAMES, *, seed=0, speed=(0.5, 1.5), height=HEIGHT, width=WIDTH, shake=0.0):
    """A camera that goes over a texture, so many pixels a frame down and right; a hand shakes it."""
    import cv2

    picture, hand = texture(seed), np.random.default_rng(7).uniform(-shake, shake, (frames, 2))
    found = []
    for number in range(frames):
        y, x = (60 + speed[0] * number + hand[number, 0], 60 + speed[1] * number + hand[number, 1])
        shift = np.float32([[1, 0, -x], [0, 1, -y]])
        found.append(cv2.warpAffine(picture, shift, (width, height), flags=cv2.INTER_AREA))
    return np.stack(found)


def letterboxed(frames, share=0.3):
    found, bar = frames.copy(), round(frames.shape[1] * share / 2)
    found[:, :bar] = found[:, -bar:] = 0
    return found


def mosaicked(frames, pitch=8):
    """A large part of the picture on a coarse grid."""
    found = frames.copy()
    part = found[:, 8:88, 16:144]
    means = part.reshape(len(part), 80 // pitch, pitch, 128 // pitch, pitch, 3).mean((2, 4))
    found[:, 8:88, 16:144] = means.repeat(pitch, 1).repeat(pitch, 2).astype(np.uint8)
    return found


def scaled(frames, height, width):
    import cv2

    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])


def put(path: Path, frames, crf=16, **more):
    return write(path, frames, fps=FPS, options={"crf": str(crf), "preset": "veryfast"}, **more)
