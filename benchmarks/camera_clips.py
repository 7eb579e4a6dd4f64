"""Films by a camera whose motion is known: photographs as walls of a scene, before a pinhole that turns and travels.

The photographs are those that ship inside scikit-image (all CC0 or in the public domain), and one of them, of a
motorcycle, with its measured depth. A scene is a wall far behind and, where the camera travels, more of them in front;
a camera that turns sees all depths alike. What real footage brings is drawn from a seed: size, frame rate, length,
noise, light that flickers, something that moves in front, and H.264 at a rate that shows. The one invariant: a clip is
a function of its kind, its photograph and its seed.

Lengths are in heights of the frame, x to the right, y down, z away from the camera.
"""

from __future__ import annotations

import functools
import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LEARNT_FROM = ("brick", "gravel", "coins", "grass")
HELD_OUT = ("astronaut", "camera", "chelsea", "coffee", "rocket", "motorcycle_left")
TURNS = ("pan_left", "pan_right", "tilt_up", "tilt_down", "roll_left", "roll_right", "zoom_in", "zoom_out")
TRAVELS = ("tracking_left", "tracking_right", "pedestal_up", "pedestal_down")
KINDS = ("static", *TURNS, "handheld", *TRAVELS)
SPEEDS = {"slow": (0.02, 0.05), "medium": (0.05, 0.2), "fast": (0.2, 0.5)}
SIZES = ((96, 160), (144, 256), (240, 426), (256, 144), (200, 200))
RATES = (12.0, 16.0, 24.0, 25.0, 30.0)
WALL = 4.0  # how far off the far wall is


@dataclass(frozen=True)
class Conditions:
    """How a clip is filmed."""

    height: int = 144
    width: int = 256
    fps: float = 24.0
    seconds: float = 2.0
    rate: float = 0.1
    noise: float = 0.0
    flicker: float = 0.0
    crf: int | None = None
    walker: bool = False

    @classmethod
    def drawn(cls, seed: int, speed: str | None = None) -> Conditions:
        """Real ones; `speed` is one of `SPEEDS`, None draws it too."""
        rng = random.Random(f"conditions {seed}")
        height, width = rng.choice(SIZES)
        low, high = SPEEDS[speed or rng.choice(tuple(SPEEDS))]
        return cls(
            height=height,
            width=width,
            fps=rng.choice(RATES),
            seconds=rng.uniform(1.2, 3.0),
            rate=math.exp(rng.uniform(math.log(low), math.log(high))),
            noise=rng.choice((0.0, 2.0, 5.0)),
            flicker=rng.choice((0.0, 0.02, 0.06)),
            crf=rng.choice((18, 23, 28, 32)),
            walker=rng.random() < 0.6,
        )


def make_clip(kind: str, photo: str, seed: int, conditions: Conditions | None = None) -> Pixels:
    """Frames T x H x W x 3 of a camera that moves as `kind` says, before a photograph."""
    assert kind in KINDS, kind
    asked = conditions or Conditions.drawn(seed)
    rng = random.Random(f"clip {kind} {photo} {seed}")
    view = _Scene.drawn(kind, photo, asked, rng)
    count = max(2, round(asked.seconds * asked.fps))
    frames = np.stack([view.frame(number / asked.fps) for number in range(count)])
    noise = np.random.default_rng(seed)
    if asked.flicker:
        gains = 1 + asked.flicker * noise.standard_normal((count, 1, 1, 1))
        frames = np.clip(frames * gains, 0, 255).astype(np.uint8)
    if asked.noise:
        grain = asked.noise * noise.standard_normal(frames.shape, dtype=np.float32)
        frames = np.clip(frames + grain, 0, 255).astype(np.uint8)
    return frames if asked.crf is None else through_h264(frames, asked.fps, asked.crf)


def through_h264(frames_THWC: Pixels, fps: float, crf: int) -> Pixels:
    """The frames as they are after H.264 of this quality (18 is good, 32 is poor)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # With x264's macroblock tree the same frames came out in ten ways of 150 on a busy machine, without it in one.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream: Any = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = frames_THWC.shape[1], frames_THWC.shape[2], "yuv420p"
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@functools.lru_cache(maxsize=16)
def photograph(name: str) -> Pixels:
    """A photograph that ships inside scikit-image, H x W x 3."""
    import skimage.data

    image = cv2.imread(str(Path(skimage.data.__file__).parent / f"{name}.png" if name != "rocket" else _rocket()))
    return np.ascontiguousarray(image[..., ::-1])


def _rocket() -> Path:
    import skimage.data

    return Path(skimage.data.__file__).parent / "rocket.jpg"


@functools.lru_cache(maxsize=1)
def motorcycle_depth() -> Floats:
    """How much nearer than far away each pixel of the motorcycle is: 1 by its distance, 1 at its median."""
    import skimage.data

    disparity = np.load(Path(skimage.data.__file__).parent / "motorcycle_disp.npz")["arr_0"].astype(np.float32)
    seen = np.isfinite(disparity)
    holes = (~seen).astype(np.uint8)
    levels = np.where(seen, disparity, 0) * 255 / disparity[seen].max()
    filled = cv2.inpaint(levels.astype(np.uint8), holes, 3, cv2.INPAINT_TELEA).astype(np.float32)
    smooth = cv2.GaussianBlur(cv2.medianBlur(filled.astype(np.uint8), 7), (0, 0), 2.0).astype(np.float64)
    return smooth / np.median(smooth)


@dataclass(frozen=True)
class _Wall:
    """A photograph on a plane: its middle at `place`, turned by `slants` about the upright and the level axis."""

    image: Pixels
    mask: npt.NDArray[np.float32] | None
    place: tuple[float, float, float]
    height: float
    slants: tuple[float, float] = (0.0, 0.0)

    def shrunk(self, focal: float) -> _Wall:
        """With a photograph of about one pixel for each of the frame's: a camera's pixel is an area, not a point."""
        rows, columns = self.image.shape[:2]
        scale = focal * self.height / self.place[2] / rows
        if scale >= 1:
            return self
        size = (max(2, round(columns * scale)), max(2, round(rows * scale)))
        mask = None if self.mask is None else cv2.resize(self.mask, size, interpolation=cv2.INTER_AREA)
        return replace(self, image=cv2.resize(self.image, size, interpolation=cv2.INTER_AREA), mask=mask)

    def onto(self, focal: float, turned: Floats, at: Floats, size: tuple[int, int]) -> Floats:
        """The 3 x 3 that takes a pixel of the photograph to a pixel of the frame."""
        rows, columns = self.image.shape[:2]
        about_y, about_x = self.slants
        plane = _turn(about_x, about_y, 0.0)
        unit = self.height / rows
        middle = np.array([[unit, 0, -unit * columns / 2], [0, unit, -unit * rows / 2], [0, 0, 1]])
        spanned = np.column_stack([plane[:, 0], plane[:, 1], np.array(self.place) - at])
        height, width = size
        lens = np.array([[focal * height, 0, width / 2], [0, focal * height, height / 2], [0, 0, 1]])
        return lens @ turned.T @ spanned @ middle


@dataclass(frozen=True)
class _Scene:
    """Walls from the farthest on, a lens, and where the camera is and looks at a moment."""

    walls: tuple[_Wall, ...]
    focal: float
    pose: Callable[[float], tuple[float, Floats, Floats]]
    size: tuple[int, int]
    walker: Callable[[float, Pixels], Pixels] | None = None
    depth: bool = False

    @classmethod
    def drawn(cls, kind: str, photo: str, asked: Conditions, rng: random.Random) -> _Scene:
        focal = math.exp(rng.uniform(math.log(1.1), math.log(5)))  # in heights: a wide lens to a long one
        aspect = asked.width / asked.height
        covered = rng.uniform(1.15, 1.5) * max(1.0, aspect * 2 / 3)
        wall = _Wall(photograph(photo), None, (0.0, 0.0, WALL), covered * WALL / focal)
        depth = kind.startswith("tracking") and photo == "motorcycle_left"
        walls = [wall]
        if kind in TRAVELS and not depth:
            way = rng.choice(("floor", "side", "layers"))
            if way == "layers":
                walls += _layers(photo, rng, focal, aspect)
            else:
                tilt = rng.uniform(0.5, 0.9) * rng.choice((-1, 1))
                slants = (0.0, -abs(tilt)) if way == "floor" else (tilt, 0.0)
                walls = [replace(wall, height=wall.height * 1.8, slants=slants)]
        elif rng.random() < 0.5:
            walls += _layers(photo, rng, focal, aspect)  # a camera that turns sees near and far go alike
        walls = [wall.shrunk(focal * asked.height) for wall in walls]
        walker = _walker(photo, rng, asked) if asked.walker else None
        pose = _pose(kind, asked, focal, rng)
        return cls(tuple(walls), focal, pose, (asked.height, asked.width), walker, depth)

    def frame(self, time: float) -> Pixels:
        """The picture after `time` seconds."""
        zoom, turned, at = self.pose(time)
        if self.depth:
            seen = self._deep(at, self.size)
        else:
            seen = np.zeros((*self.size, 3), np.uint8)
            for wall in self.walls:
                seen = _painted(seen, wall, wall.onto(self.focal * zoom, turned, at, self.size))
        return seen if self.walker is None else self.walker(time, seen)

    def _deep(self, at: Floats, size: tuple[int, int]) -> Pixels:
        """A photograph with its own depth, from a place beside the one it was taken at."""
        wall = self.walls[0]
        matrix = np.linalg.inv(wall.onto(self.focal, np.eye(3), np.zeros(3), size))
        matrix /= matrix[2, 2]
        y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        u = (matrix[0, 0] * x + matrix[0, 2]).astype(np.float32)
        v = (matrix[1, 1] * y + matrix[1, 2]).astype(np.float32)
        near = cv2.resize(motorcycle_depth().astype(np.float32), wall.image.shape[1::-1], interpolation=cv2.INTER_AREA)
        shift = np.float32(at[0] / wall.height * wall.image.shape[0])
        source = u
        for _ in range(6):  # where the light came from: depth is known at the source, not where it lands
            source = u + shift * cv2.remap(near, source, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return cv2.remap(wall.image, source, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _painted(seen: Pixels, wall: _Wall, matrix: Floats) -> Pixels:
    if wall.mask is None:
        size = (seen.shape[1], seen.shape[0])
        return cv2.warpPerspective(wall.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    rows, columns = wall.image.shape[:2]
    corners = np.array([[0, columns, columns, 0], [0, 0, rows, rows], [1, 1, 1, 1]]).T @ matrix.T
    spots = corners[:, :2] / corners[:, 2:]
    left, top = np.maximum(np.floor(spots.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(spots.max(axis=0)), (seen.shape[1], seen.shape[0])).astype(int)
    if right <= left or bottom <= top:
        return seen
    there = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ matrix
    size = (int(right - left), int(bottom - top))
    picture = cv2.warpPerspective(wall.image, there, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpPerspective(wall.mask, there, size, flags=cv2.INTER_LINEAR)[..., None]
    behind = seen[top:bottom, left:right]
    behind[:] = (picture * mask + behind * (1 - mask)).astype(np.uint8)
    return seen


def _layers(photo: str, rng: random.Random, focal: float, aspect: float) -> list[_Wall]:
    """Three to six things that stand nearer than the wall, the farthest first."""
    names = _beside(photo)
    walls = []
    for depth in sorted((rng.uniform(1.2, 3.2) for _ in range(rng.randint(3, 6))), reverse=True):
        image = _cut(photograph(rng.choice(names)), rng)
        reach = depth / focal
        place = (rng.uniform(-0.6, 0.6) * aspect * reach, rng.uniform(-0.1, 0.5) * reach, depth)
        walls.append(_Wall(image, _oval(image.shape[:2]), place, rng.uniform(0.25, 0.5) * reach))
    return walls


def _walker(photo: str, rng: random.Random, asked: Conditions) -> Callable[[float, Pixels], Pixels]:
    """Something in front that goes its own way through the frame, or stays in it while the camera follows."""
    image = _cut(photograph(rng.choice(_beside(photo))), rng)
    share = rng.uniform(0.25, 0.5)
    rows = max(4, round(share * min(asked.height, asked.width)))
    patch = cv2.resize(image, (rows, rows), interpolation=cv2.INTER_AREA)
    mask = _oval(patch.shape[:2])
    start = rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.25)
    pace = 0.0 if rng.random() < 0.3 else rng.uniform(-0.4, 0.4)
    bob, beat = rng.uniform(0.0, 0.04), rng.uniform(4, 12)

    def drawn(time: float, frame: Pixels) -> Pixels:
        height, width = frame.shape[:2]
        x = width * (0.5 + start[0] + pace * time) - rows / 2
        y = height * (0.5 + start[1] + bob * math.sin(beat * time)) - rows / 2
        matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
        picture = cv2.warpAffine(patch, matrix, (width, height))
        there = cv2.warpAffine(mask, matrix, (width, height))[..., None]
        return (picture * there + frame * (1 - there)).astype(np.uint8)

    return drawn


def _pose(kind: str, asked: Conditions, focal: float, rng: random.Random) -> Callable[[float], Any]:
    """Zoom, turn and place of the camera at a moment, from the middle of its way on both sides."""
    aspect = asked.width / asked.height
    move, _, way = kind.partition("_")
    rate = asked.rate * (-1 if way in ("left", "down", "out") else 1)
    shake = _shake(rng) if kind == "handheld" else None

    def pose(time: float) -> tuple[float, Floats, Floats]:
        gone = rate * (time - asked.seconds / 2)
        zoom, place = 1.0, np.zeros(3)
        up = right = clockwise = 0.0
        if move == "pan":
            right = gone * aspect / focal
        elif move == "tilt":
            up = gone / focal
        elif move == "roll":
            clockwise = gone
        elif move == "zoom":
            zoom = math.exp(gone)
        elif move == "tracking":
            place = np.array([gone * aspect * WALL / focal, 0.0, 0.0])
        elif move == "pedestal":
            place = np.array([0.0, -gone * WALL / focal, 0.0])
        elif shake is not None:
            right, up, clockwise = shake(time)
        return zoom, _turn(up, right, clockwise), place

    return pose


def _shake(rng: random.Random) -> Callable[[float], tuple[float, ...]]:
    """A hand: waves of about one to four a second about three axes, a hundredth of the frame or so."""
    waves = [
        [(rng.uniform(0.8, 4.0), rng.uniform(0, 2 * math.pi), size * rng.uniform(0.5, 1.5)) for _ in range(4)]
        for size in (0.004, 0.004, 0.002)
    ]

    def at(time: float) -> tuple[float, ...]:
        return tuple(
            sum(size * math.sin(2 * math.pi * often * time + off) for often, off, size in axis) for axis in waves
        )

    return at


def _turn(up: float, right: float, clockwise: float) -> Floats:
    """A camera that looked along z: turned to the right, then up, then clockwise, in radians; its axes as columns."""
    cu, su, cr, sr, cc, sc = (f(a) for a in (up, right, clockwise) for f in (math.cos, math.sin))
    yaw = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    pitch = np.array([[1, 0, 0], [0, cu, -su], [0, su, cu]])
    roll = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return yaw @ pitch @ roll


def _beside(photo: str) -> tuple[str, ...]:
    """The photographs that may stand in front of this one: what is held out is held out wholly."""
    return LEARNT_FROM if photo in LEARNT_FROM else HELD_OUT


def _cut(image: Pixels, rng: random.Random) -> Pixels:
    side = min(image.shape[:2]) // 2
    top, left = (rng.randrange(0, edge - side) for edge in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _oval(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return np.clip((1 - np.hypot(y[:, None], x[None])) * 6, 0, 1)
