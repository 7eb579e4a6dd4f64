"""Draws a scene as a film: any number of frames, from any moment on, at any size.

The one invariant: a frame is a function of the scene, the size, the style and its time alone. `render` of a minute
equals the renders of its seconds, byte for byte, and the same scene is drawn alike on every call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import skia

from everreel.world.backdrop import Layer, Light, Stage, Strip, sky_layers, weather_layers
from everreel.world.camera import Camera, View
from everreel.world.puppet import Palette, Pose, Puppet, mix, oval
from everreel.world.scene import PEOPLE, WIDE_SHOTS, Scene
from everreel.world.settlements import PLACES
from everreel.world.style import check_style, printed

_PERIODS = {
    "walks": 0.9,
    "runs": 0.55,
    "jumps": 1.1,
    "swims": 1.2,
    "flies": 0.7,
    "bounces": 0.9,
    "spins": 1.4,
    "stays": 2.4,
}

SWIM_LOW = ("dog", "bear", "elephant", "turtle", "penguin")  # these swim 0.45 deep, their water line at y = 0
_LEAST_SEEN = 0.006  # of the frame; the smallest subject far off takes 0.01
_FISH_DEEP = 0.42  # a fish that leaps starts from under the water line


def render(
    scene: Scene,
    num_frames: int,
    *,
    height: int = 96,
    width: int = 160,
    fps: float = 24,
    start: float = 0.0,
    stride: int = 1,
    style: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Frames T x H x W x 3 of a scene from `start` seconds on, every `stride`-th frame at `fps`.

    `style` is a print of `world.style`, None the world as it is.
    """
    check_style(style)
    for name, value in (("num_frames", num_frames), ("height", height), ("width", width), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1; try 1")
    if fps <= 0:
        raise ValueError(f"fps={fps}: must be above 0; try 24")
    theatre = _theatre(scene, height, width)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for i in range(num_frames):
        frame = theatre.frame(_moment(start, i * stride, fps))
        frames[i] = frame if style is None else printed(frame, style)
    return frames


def coverage(
    scene: Scene, num_frames: int, *, height: int = 96, width: int = 160, fps: float = 24, start: float = 0.0
) -> npt.NDArray[np.uint8]:
    """How much of each pixel is the subject or its shadow, T x H x W of 0..255, in the frames that `render` draws."""
    theatre = _theatre(scene, height, width)
    return np.stack([theatre.coverage(_moment(start, i, fps)) for i in range(num_frames)])


def is_in_view(scene: Scene, num_frames: int, *, height: int, width: int, fps: float, start: float) -> bool:
    """Whether the first, the middle or the last of these frames shows the subject: a camera may pass one that rests."""
    theatre = _theatre(scene, height, width)
    moments = {_moment(start, frame, fps) for frame in (0, num_frames // 2, num_frames - 1)}
    return any(theatre.coverage(moment).mean() > 255 * _LEAST_SEEN for moment in sorted(moments))


def _moment(start: float, frame: int, fps: float) -> float:
    return round(start + frame / fps, 6)


@functools.lru_cache(maxsize=2)
def _theatre(scene: Scene, height: int, width: int) -> Theatre:
    return Theatre(scene, height, width)


class Theatre:
    """A scene made ready for drawing at one size: its strips of scenery, its puppet, its camera."""

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        scene.validate()
        self.scene, self.height, self.width = scene, height, width
        self.aspect = width / height
        self.camera = Camera(scene, self.aspect)
        self.stage = Stage.of(scene, self.aspect)
        self.puppet = puppets()[scene.subject]
        self.palette = Palette.named(scene.color)
        self.frame_of = framing(scene, self.puppet, self.stage)
        near = scene.shot_type in (
            "close_up",
            "extreme_close_up",
        )  # nothing gets between the camera and a face
        scenery = [layer for layer in PLACES[scene.place](self.stage) if not (near and layer.front)]
        layers = [*sky_layers(self.stage), *scenery, *weather_layers(self.stage)]
        layers += self._waterline()
        soft = {"close_up": 0.7, "extreme_close_up": 0.5}.get(scene.shot_type, 1.0)  # coarser strips look out of focus
        pixels = height * self.stage.scale * soft * (1.12 if scene.camera[0] == "zoom" else 1.0)
        self.strips = [Strip.of(layer, self.stage, pixels, f"{i} {scene.place}") for i, layer in enumerate(layers)]
        for strip in self.strips:
            if strip.layer in scenery and strip.layer.front:
                strip.top += {"eye_level": 0.02, "low_angle": 0.07}.get(scene.shot_angle, 0.0)
        self._pixels = np.zeros((height, width, 4), np.uint8)
        self._surface = skia.Surface(
            self._pixels,
            colorType=skia.ColorType.kRGBA_8888_ColorType,
            alphaType=skia.AlphaType.kPremul_AlphaType,
        )

    def frame(self, time: float) -> npt.NDArray[np.uint8]:
        """The picture at a moment, H x W x 3."""
        with self._looking(time) as (canvas, view):
            for strip in self.strips:
                if not strip.layer.front:
                    strip.paint(canvas, self.stage, view.shift(strip.layer.parallax), time)
            self._subject(canvas, view, time)
            self._front(canvas, view, time)
        return self._pixels[..., :3]

    def coverage(self, time: float) -> npt.NDArray[np.uint8]:
        """How much of each pixel is the subject or its shadow and hidden by nothing, H x W of 0..255."""
        with self._looking(time) as (canvas, view):
            canvas.clear(skia.ColorTRANSPARENT)
            self._subject(canvas, view, time)
            canvas.saveLayer(None, skia.Paint(BlendMode=skia.BlendMode.kDstOut))
            self._front(canvas, view, time)
            canvas.restore()
        return self._pixels[..., 3].copy()

    @contextmanager
    def _looking(self, time: float) -> Iterator[tuple[skia.Canvas, View]]:
        """The canvas as the camera sees it at a moment."""
        view, canvas = self.camera.view(time), self._surface.getCanvas()
        canvas.save()
        canvas.scale(self.height, self.height)
        canvas.translate(self.aspect / 2, 0.5)
        canvas.scale(view.zoom, view.zoom)
        canvas.translate(-self.aspect / 2, -0.5 + view.tilt)
        yield canvas, view
        canvas.restore()

    def _front(self, canvas: skia.Canvas, view: View, time: float) -> None:
        for strip in self.strips:
            if strip.layer.front:
                strip.paint(canvas, self.stage, view.shift(strip.layer.parallax), time)

    def _subject(self, canvas: skia.Canvas, view: View, time: float) -> None:
        scene, frame = self.scene, self.frame_of
        size = frame.size
        pose = pose_at(scene, time)
        room = extent(scene.subject, scene.action, pose.view)
        reach = 2 * max(room.right - frame.dx, frame.dx - room.left) * size * frame.wide
        x = self.camera.subject_x(time, reach)
        mirror = -1 if scene.shot_position == "side_view" and scene.direction == "left" else 1
        ahead = frame.dx
        if frame.follow and scene.action == "spins" and scene.subject != "airplane":
            turn = {"side": 0.0, "front": 0.25, "back": 0.75}[pose.view]  # the head goes round the body's axis
            ahead = self.puppet.head[0] * math.cos(2 * math.pi * (pose.phase + turn))
        x -= ahead * size * frame.wide * mirror
        y = frame.y
        if scene.airborne or (scene.action == "swims" and scene.place == "underwater"):
            y += 0.03 * min(size, 1.0) * math.sin(2.1 * time + scene.seed % 7)
        elif scene.on_water:
            y += 0.012 * min(size, 1.0) * math.sin(2.1 * time + scene.seed % 7)
        up = 0.0
        if scene.action in ("jumps", "bounces"):
            up = float(np.interp(pose.phase * (len(room.rises) - 1), range(len(room.rises)), room.rises))
            y += frame.follow * up * size * frame.tall
        if frame.shadow and not scene.on_water:
            self._shadow(canvas, x, frame.y, up)
        canvas.saveLayer(None, skia.Paint(ColorFilter=self._tint))
        canvas.translate(x, y)
        canvas.scale(mirror * size * frame.wide, size * frame.tall)
        self.puppet.draw(canvas, pose, self.palette)
        canvas.restore()

    def _shadow(self, canvas: skia.Canvas, x: float, y: float, up: float) -> None:
        size, wide = self.frame_of.size, self.puppet.width / 2
        up = min(1.0, max(0.0, 2 * up))
        round_ = {"high_angle": 0.3, "low_angle": 0.07}.get(self.scene.shot_angle, 0.14)
        near = max(0.3, min(wide, 0.62)) * size * (1.05 - 0.35 * up)
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(16, 18, 48, round(80 * (1 - 0.45 * up))))
        oval(canvas, (x, y - 0.005 * size), near, round_ * near + 0.008 * size, paint)

    @functools.cached_property
    def _tint(self) -> skia.ColorFilter:
        r, g, b = subject_tint(self.stage.light)
        haze = {"fog": 0.2, "rain": 0.06, "snow": 0.04}.get(self.scene.weather, 0.0)
        if self.scene.shot_type not in WIDE_SHOTS:
            haze *= 0.5
        k, air = 1 - haze, [haze * c / 255 for c in self.stage.haze]
        # The haze goes into the alpha column, since colours are premultiplied only after the filter.
        return skia.ColorFilters.Matrix(
            [r * k, 0, 0, air[0], 0, 0, g * k, 0, air[1], 0, 0, 0, b * k, air[2], 0, 0, 0, 0, 1, 0]
        )

    def _waterline(self) -> list[Layer]:
        """Water over the lower part of what swims in it, from the frame's water line down."""
        if not self.scene.on_water:
            return []
        frame, stage = self.frame_of, self.stage
        y = (frame.y - frame.sunk * frame.size * frame.tall - stage.horizon) / stage.scale
        return [Layer(_surface(y), 0.95, 3.0, drift=(0.03, 0), sway=0.01, front=True)]


@dataclass(frozen=True)
class Framing:
    """How large a subject is and where its feet are; `dx` is how far before its middle is centred."""

    size: float
    y: float
    dx: float = 0.0
    wide: float = 1.0
    tall: float = 1.0
    shadow: bool = True
    sunk: float = 0.0  # how much of the unit space is under the water line
    follow: float = 0.0  # how much of a jump a close camera goes along with


def framing(scene: Scene, puppet: Puppet, stage: Stage) -> Framing:
    """The framing that the shot's type and angle ask for."""
    wide = {"high_angle": 1.05, "low_angle": 0.97}.get(scene.shot_angle, 1.0)
    tall = {"high_angle": 0.82, "low_angle": 1.1}.get(scene.shot_angle, 1.0)
    if scene.subject == "ball":  # a sphere looks round from everywhere
        wide = tall = 1.0
    side, aspect, swims = scene.shot_position == "side_view", stage.aspect, scene.action == "swims"
    x, y = head_of(scene, puppet)
    sunk = _FISH_DEEP if scene.subject == "fish" and scene.on_water else 0.0
    if scene.shot_type in ("close_up", "extreme_close_up"):
        share, least = (0.72, 1.45) if scene.shot_type == "close_up" else (1.4, 2.6)
        size = max(share / puppet.head_size, least) * min(1.0, 0.35 + 0.65 * aspect)
        return Framing(
            size,
            0.5 - y * size * tall,
            x,
            wide,
            tall,
            False,
            sunk,
            0.6 if scene.shot_type == "close_up" else 0.85,
        )
    broad = puppet.width > 1.15 and (side or scene.subject in ("car", "bus", "boat", "airplane"))
    if scene.shot_type == "medium_shot":
        size = 1.05 if broad else min(1.35, max(1.0, 0.5 / puppet.head_size))
        size = min(size, 1.35 * aspect / max(puppet.width, 0.8))
        middle = -0.52 if broad else 0.5 * y - 0.27
        if swims and y > -0.35:  # most of it is under water
            middle = 0.6 * y
        return Framing(
            size,
            0.5 - middle * size * tall,
            0.22 * puppet.width if broad and side else 0.0,
            wide,
            tall,
            False,
            sunk,
            0.45,
        )
    long = scene.shot_type == "long_shot"
    share = (0.3 if long else 0.68) * (0.86 if scene.action in ("jumps", "bounces") else 1.0)
    deep = scene.place == "underwater" and (swims or scene.subject == "fish")
    share *= 1.4 if swims and y > -0.35 and not deep else 1.0
    size = min(share, (0.45 if long else 0.86) * aspect / (puppet.width * wide))
    if scene.airborne:
        middle = {"eye_level": 0.36, "high_angle": 0.5, "low_angle": 0.38}[scene.shot_angle]
        return Framing(size, (middle if long else 0.46) + 0.5 * size * tall, 0.0, wide, tall, False)
    if deep:
        return Framing(size, 0.52 + (0.05 if scene.subject in SWIM_LOW else 0.5) * size * tall, 0.0, wide, tall, False)
    feet = {"eye_level": 0.8 if long else 0.88, "high_angle": 0.66 if long else 0.82, "low_angle": 0.95}[
        scene.shot_angle
    ]
    if scene.on_water:
        feet = {"eye_level": 0.76, "high_angle": 0.62, "low_angle": 0.92}[scene.shot_angle] + (0 if long else 0.03)
    feet += sunk * size
    return Framing(size, feet, 0.0, wide, tall, not (puppet.floats and swims), sunk)


def head_of(scene: Scene, puppet: Puppet) -> tuple[float, float]:
    """Where the head is in unit space while the subject does what it does: swimmers lie in the water."""
    x, y = puppet.head if scene.shot_position == "side_view" else puppet.front_head
    if scene.action == "swims" and scene.subject in PEOPLE:
        return (0.14, -0.15) if scene.shot_position == "side_view" else (0.0, -0.16)
    if (scene.subject, scene.action, scene.shot_position) == ("swan", "flies", "side_view"):
        return (0.66, -0.62)
    if scene.action == "swims" and scene.subject in SWIM_LOW:
        return x, y + 0.45
    return x, y


@dataclass(frozen=True)
class Extent:
    """How far a subject reaches while it does something, in unit space, and how high its top rises."""

    left: float
    right: float
    rises: tuple[float, ...]  # above the top at rest, at moments evenly spread over a cycle


@functools.lru_cache(maxsize=512)
def extent(subject: str, action: str, view: str) -> Extent:
    """The extent of an action, measured on small drawings of it."""
    pixels, tops, columns = 40, [], np.zeros(160, bool)
    for k in range(17):
        surface = skia.Surface(4 * pixels, 3 * pixels)
        canvas = surface.getCanvas()
        canvas.translate(2 * pixels, 2.6 * pixels)
        canvas.scale(pixels, pixels)
        puppets()[subject].draw(canvas, Pose(action, (k / 16) % 1.0, view), Palette.named("red"))
        solid = surface.toarray()[..., 3] > 127
        columns |= solid.any(0)
        rows = np.flatnonzero(solid.any(1))
        tops.append(2.6 - (int(rows[0]) / pixels if len(rows) else 1.6))
    low = sorted(tops)[3]
    reach = np.flatnonzero(columns)
    return Extent(int(reach[0]) / pixels - 2, (int(reach[-1]) + 1) / pixels - 2, tuple(top - low for top in tops))


def pose_at(scene: Scene, time: float) -> Pose:
    """What the puppet is doing at a moment; a cycle takes about as long for all subjects."""
    period = _PERIODS[scene.action] * (0.92 + 0.16 * ((scene.seed * 0.6180339887) % 1.0))
    phase = (time / period + (scene.seed % 97) / 97) % 1.0
    view = scene.shot_position.removesuffix("_view")
    return Pose(scene.action, phase, view, scene.expression or "neutral", time)


def subject_tint(light: Light) -> tuple[float, float, float]:
    """The light on the subject: much weaker than on the scenery, so that its colour keeps its name."""
    r, g, b = light.tint
    return (0.62 + 0.38 * r, 0.62 + 0.38 * g, 0.62 + 0.38 * b)


@functools.cache
def puppets() -> dict[str, Puppet]:
    """Every subject of the world by name."""
    from everreel.world.animals import ANIMALS
    from everreel.world.birds import BIRDS
    from everreel.world.people import PEOPLE as HUMANS
    from everreel.world.vehicles import VEHICLES

    return {**ANIMALS, **BIRDS, **HUMANS, **VEHICLES}


def _surface(y: float) -> functools.partial[None]:
    return functools.partial(_draw_surface, y)


def _draw_surface(y: float, canvas: skia.Canvas, stage: Stage, rng: object) -> None:
    color = {"lake": (64, 138, 190), "beach": (44, 160, 206)}[stage.scene.place]
    r, g, b = stage.light.tint
    near = (round(color[0] * r), round(color[1] * g), round(color[2] * b))
    points = [skia.Color(*mix(near, stage.light.sky[2], 0.25), 150), skia.Color(*near, 225)]
    shader = skia.GradientShader.MakeLinear([(0, y), (0, y + 0.12)], points)
    path = skia.PathBuilder()
    path.moveTo(0.0, stage.bottom + 0.1)
    for i in range(97):
        x = 3.0 * i / 96
        path.lineTo(x, y + 0.006 * math.sin(2 * math.pi * 9 * x / 3.0))
    path.lineTo(3.0, stage.bottom + 0.1)
    path.close()
    canvas.drawPath(path.detach(), skia.Paint(AntiAlias=True, Shader=shader))
