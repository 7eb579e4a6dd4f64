"""The stage of the film world: light, sky, weather and the layers of scenery that repeat in x.

Scenery is drawn in *place units*: y = 0 is the horizon, positive down, one unit is the frame height of a
long shot. A layer is drawn once into a strip one period wide and then laid over the frame with an offset,
so a frame costs a few blits. The one invariant: a strip joins itself without a seam, whatever is drawn into
it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import skia

from everreel.world.puppet import Color, Point, fill, gradient, mix, oval, stroke
from everreel.world.scene import WIDE_SHOTS, Scene

Tint = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """The colours of a time of day: the sky from top to horizon, and what tints everything under it."""

    sky: tuple[Color, Color, Color]
    tint: Tint
    cloud: Color
    lamps: float = 0.0  # how brightly windows and lamps glow


LIGHTS: dict[str, Light] = {
    "day": Light(((74, 152, 232), (142, 204, 246), (214, 238, 250)), (1.0, 1.0, 1.0), (255, 255, 255)),
    "dawn": Light(((128, 158, 222), (236, 184, 204), (255, 226, 178)), (1.0, 0.9, 0.88), (255, 226, 222), 0.3),
    "dusk": Light(((66, 42, 112), (198, 74, 108), (255, 148, 62)), (0.9, 0.68, 0.7), (150, 74, 120), 0.8),
    "night": Light(((8, 12, 42), (20, 32, 84), (44, 64, 128)), (0.41, 0.49, 0.79), (44, 54, 100), 1.0),
}
GLOW: Color = (255, 214, 120)
WHITE: Color = (252, 253, 255)


def multiply(color: Color, tint: Tint) -> Color:
    """A colour under a coloured light."""
    return (
        min(255, round(color[0] * tint[0])),
        min(255, round(color[1] * tint[1])),
        min(255, round(color[2] * tint[2])),
    )


def light_of(scene: Scene) -> Light:
    """The light of a scene: its time of day, greyed by its weather; some places have a light of their own."""
    base = LIGHTS[scene.time]
    if scene.place == "moon":
        return Light(((4, 4, 12), (8, 8, 20), (16, 16, 34)), (0.86, 0.88, 0.98), (0, 0, 0), 1.0)
    if scene.place == "room":
        soft = {
            "day": (1.0, 1.0, 1.0),
            "dawn": (1.0, 0.88, 0.84),
            "dusk": (0.9, 0.68, 0.58),
            "night": (0.5, 0.5, 0.72),
        }
        return Light(base.sky, soft[scene.time], base.cloud, base.lamps)
    if scene.place == "underwater":
        sea: Color = {
            "day": (40, 168, 206),
            "dawn": (120, 150, 190),
            "dusk": (150, 84, 130),
            "night": (16, 34, 84),
        }[scene.time]
        sky = (mix(sea, WHITE, 0.45), sea, mix(sea, (6, 20, 60), 0.45))
        r, g, b = (0.35 + 0.65 * c for c in base.tint)
        return Light(sky, (r, g, b), base.cloud)
    dull = {"clear": 0.0, "cloudy": 0.42, "rain": 0.66, "snow": 0.5, "fog": 0.6}[scene.weather]
    gray = {"day": (186, 198, 210), "dawn": (206, 184, 188), "dusk": (120, 84, 104), "night": (34, 42, 66)}[scene.time]
    if scene.weather == "rain":
        gray = mix(gray, (60, 72, 96), 0.4)
    high, middle, low = (mix(c, gray, dull) for c in base.sky)
    dim = {"clear": 1.0, "cloudy": 0.95, "rain": 0.82, "snow": 0.98, "fog": 0.96}[scene.weather]
    r, g, b = base.tint
    cloud = mix(base.cloud, gray, dull)
    return Light((high, middle, low), (r * dim, g * dim, b * dim), cloud, base.lamps)


@dataclass(frozen=True)
class Stage:
    """What a drawing of scenery depends on."""

    scene: Scene
    light: Light
    aspect: float
    horizon: float  # y of the horizon in the frame without tilt and zoom
    scale: float  # frame heights a place unit
    top: float  # place units that strips cover
    bottom: float

    @classmethod
    def of(cls, scene: Scene, aspect: float) -> Stage:
        """The stage of a scene in a frame of this aspect."""
        rng = random.Random(f"stage {scene.seed}")
        low, high = {"eye_level": (0.55, 0.62), "high_angle": (0.12, 0.2), "low_angle": (0.84, 0.89)}[scene.shot_angle]
        horizon = rng.uniform(low, high)
        if scene.airborne and scene.shot_angle == "eye_level":
            horizon += 0.13  # more sky to fly in
        scale = {
            "long_shot": 1.0,
            "full_shot": 1.08,
            "medium_shot": 1.3,
            "close_up": 1.55,
            "extreme_close_up": 1.9,
        }[scene.shot_type]
        margin = 0.34 if scene.camera[0] in ("tilt", "zoom") else 0.02
        return cls(
            scene,
            light_of(scene),
            aspect,
            horizon,
            scale,
            -(horizon + margin) / scale,
            (1 + margin - horizon) / scale,
        )

    @property
    def depth(self) -> float:
        """How tall the ground is in the frame, in place units."""
        return (1 - self.horizon) / self.scale

    @property
    def tall(self) -> float:
        """How tall things stand: seen from above they are squashed, from below they loom."""
        return {"eye_level": 1.0, "high_angle": 0.72, "low_angle": 1.3}[self.scene.shot_angle]

    @property
    def snowy(self) -> bool:
        """Whether snow lies on things."""
        return self.scene.weather == "snow" or self.scene.place == "snowfield"

    @property
    def haze(self) -> Color:
        """What the distance fades into."""
        return self.light.sky[2] if self.scene.place != "moon" else (40, 40, 54)

    def ground(self, near: float) -> float:
        """The y of a row of the ground, from 0 at the horizon to 1 at the bottom of the frame."""
        return near * self.depth

    def color(self, color: Color, near: float = 1.0, *, snow: float = 0.0) -> Color:
        """A colour under the light, `near` from 0 (far, in the haze) to 1; `snow`: how much lies on it."""
        if snow and self.snowy:
            color = mix(color, (240, 245, 252), snow)
        thick = {"fog": 0.85, "rain": 0.5, "snow": 0.5}.get(self.scene.weather, 0.4)
        return mix(multiply(color, self.light.tint), self.haze, thick * (1 - near))


Draw = Callable[[skia.Canvas, Stage, random.Random], None]


@dataclass(frozen=True)
class Layer:
    """Scenery at one distance. `draw` fills x from 0 to `period`; `drift` moves it by itself, per second."""

    draw: Draw
    parallax: float = 0.0
    period: float = 3.0
    drift: Point = (0.0, 0.0)
    sway: float = 0.0
    front: bool = False  # drawn over the subject
    tile: float = 0.0  # also repeats in y, with this period: rain


@dataclass
class Strip:
    """A layer drawn into a picture, ready to be laid over frames of one size; empty rows are cut off."""

    layer: Layer
    image: skia.Image
    sx: float  # place units a pixel of the picture
    sy: float
    top: float
    over: Point  # how far above and below its rows the picture goes on as it ends

    @classmethod
    def of(cls, layer: Layer, stage: Stage, pixels: float, name: str) -> Strip:
        """Draw a layer at `pixels` a place unit."""
        top, bottom = (0.0, layer.tile) if layer.tile else (stage.top, stage.bottom)
        width, height = max(2, round(layer.period * pixels)), max(2, math.ceil((bottom - top) * pixels))
        sx, sy = layer.period / width, (bottom - top) / height
        recorder = skia.PictureRecorder()
        recording = recorder.beginRecording(skia.Rect.MakeLTRB(-1e4, -1e4, 1e4, 1e4))
        layer.draw(recording, stage, random.Random(f"{name} {stage.scene.seed}"))
        picture = recorder.finishRecordingAsPicture()
        drawn = np.zeros((height, width, 4), np.uint8)
        surface = skia.Surface(drawn, skia.ColorType.kRGBA_8888_ColorType, skia.AlphaType.kPremul_AlphaType)
        canvas = surface.getCanvas()
        canvas.scale(1 / sx, 1 / sy)
        canvas.translate(0, -top)
        for dx in (-layer.period, 0.0, layer.period):
            for dy in (-layer.tile, 0.0, layer.tile) if layer.tile else (0.0,):
                canvas.save()
                canvas.translate(dx, dy)
                canvas.drawPicture(picture)
                canvas.restore()
        first, last = 0, height
        if not layer.tile:
            rows = np.flatnonzero(drawn[..., 3].any(1))
            if len(rows):
                first, last = max(0, int(rows[0]) - 1), min(height, int(rows[-1]) + 2)
        image = skia.Image.fromarray(
            np.ascontiguousarray(drawn[first:last]),
            skia.ColorType.kRGBA_8888_ColorType,
            skia.AlphaType.kPremul_AlphaType,
        )
        return cls(layer, image, sx, sy, top + first * sy, (float(first == 0), float(last == height)))

    def paint(self, canvas: skia.Canvas, stage: Stage, shift: float, time: float) -> None:
        """Lay the strip over a frame whose unit is its height; `shift` is the camera's, in frame heights."""
        layer, scale = self.layer, stage.scale
        x = stage.aspect / 2 * (1 - scale) - shift + layer.drift[0] * time * scale
        x += layer.sway * math.sin(1.3 * time) * scale
        y = stage.horizon + (self.top + layer.drift[1] * time) * scale
        x %= layer.period * scale  # large offsets would lose their fractions in single precision
        rows = skia.TileMode.kClamp
        if layer.tile:
            y %= layer.tile * scale
            rows = skia.TileMode.kRepeat
        matrix = skia.Matrix()
        matrix.setScaleTranslate(self.sx * scale, self.sy * scale, x, y)
        linear = skia.SamplingOptions(skia.FilterMode.kLinear)
        paint = skia.Paint(Shader=self.image.makeShader(skia.TileMode.kRepeat, rows, linear, matrix))
        if layer.tile:
            canvas.drawPaint(paint)
            return
        y1 = y + self.image.height() * self.sy * scale
        canvas.drawRect(skia.Rect.MakeLTRB(-1.0, y - self.over[0], stage.aspect + 1.0, y1 + self.over[1]), paint)


def hills(rng: random.Random, period: float, y: float, rise: float, rough: int = 4) -> Callable[[float], float]:
    """The height of a periodic ridge at x: waves that fit the period."""
    waves = [(k, rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1.0) / k) for k in range(1, rough + 1)]
    total = sum(w for _, _, w in waves)

    def height(x: float) -> float:
        wave = sum(w * math.sin(2 * math.pi * k * x / period + p) for k, p, w in waves) / total
        return y - rise * (0.5 + 0.5 * wave)

    return height


def ridge(
    canvas: skia.Canvas,
    period: float,
    height: Callable[[float], float],
    bottom: float,
    paint: skia.Paint,
    n: int = 64,
) -> None:
    """Fill from a ridge down to `bottom`."""
    path = skia.PathBuilder()
    path.moveTo(-0.01, bottom)
    for i in range(n + 1):
        x = period * i / n
        path.lineTo(x + (0.01 if i == n else -0.01 if i == 0 else 0), height(x))
    path.lineTo(period + 0.01, bottom)
    path.close()
    canvas.drawPath(path.detach(), paint)


def scatter(rng: random.Random, period: float, count: int, spread: float = 0.7) -> list[float]:
    """About evenly spaced places along the period, so that no stretch is empty."""
    gap = period / count
    start = rng.uniform(0, period)
    return [(start + gap * (i + spread * rng.uniform(-0.5, 0.5))) % period for i in range(count)]


def band(canvas: skia.Canvas, period: float, top: float, bottom: float, colors: tuple[Color, Color]) -> None:
    """A horizontal band with a vertical gradient, across the strip and a little beyond."""
    canvas.drawRect(skia.Rect.MakeLTRB(-0.01, top, period + 0.01, bottom), gradient(*colors, top, bottom))


def sky_layers(stage: Stage) -> list[Layer]:
    """The sky: gradient, stars, sun or moon, and clouds that drift."""
    scene = stage.scene
    if scene.place in ("room", "underwater"):
        return []
    layers = [Layer(_sky, period=2.3)]
    clouds = {"clear": 3, "cloudy": 9, "rain": 11, "snow": 8, "fog": 3}[scene.weather]
    if scene.place == "moon":
        return layers
    if scene.weather in ("cloudy", "rain"):
        layers.append(Layer(_clouds(clouds, 0.75, 1.5), parallax=0.03, period=2.7, drift=(0.012, 0)))
    layers.append(Layer(_clouds(clouds, 1.0, 1.0), parallax=0.06, period=3.4, drift=(0.02, 0)))
    return layers


def weather_layers(stage: Stage) -> list[Layer]:
    """What the weather puts before the subject: streaks, flakes, or veils."""
    kind = stage.scene.weather
    if kind == "rain":
        return [
            Layer(_rain(60, 0.5), parallax=0.7, period=1.3, drift=(-0.5, 2.4), tile=1.1, front=True),
            Layer(_rain(40, 0.8), parallax=1.3, period=1.5, drift=(-0.7, 3.1), tile=1.3, front=True),
        ]
    if kind == "snow":
        return [
            Layer(
                _flakes(60, 0.008),
                parallax=0.5,
                period=1.3,
                drift=(-0.03, 0.16),
                sway=0.02,
                tile=1.1,
                front=True,
            ),
            Layer(
                _flakes(34, 0.015),
                parallax=1.2,
                period=1.5,
                drift=(-0.05, 0.27),
                sway=0.04,
                tile=1.2,
                front=True,
            ),
        ]
    if kind == "fog":
        veil = 0.24 if stage.scene.shot_type in WIDE_SHOTS else 0.14
        return [
            Layer(_fog(0.34, 2.9), parallax=0.6, period=2.9, drift=(0.03, 0), front=False),
            Layer(_fog(veil, 3.7), parallax=1.2, period=3.7, drift=(-0.04, 0), front=True),
        ]
    return []


def _sky(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    colors = [skia.Color(*c) for c in stage.light.sky]
    top = min(stage.top, -0.5)
    shader = skia.GradientShader.MakeLinear([(0, top), (0, 0.02)], colors, [0.0, 0.55, 1.0])
    canvas.drawRect(skia.Rect.MakeLTRB(-0.01, stage.top, 2.31, stage.bottom), skia.Paint(Shader=shader))
    scene, height = stage.scene, max(0.12, min(0.95, -stage.top))
    if scene.time == "night" and scene.weather in ("clear", "cloudy"):
        for _ in range(110 if scene.weather == "clear" else 30):
            at = (rng.uniform(0, 2.3), -rng.uniform(0.02, 1.0) * max(height, 0.3))
            oval(canvas, at, *(2 * (rng.uniform(0.0025, 0.006),)), fill((255, 250, 230), rng.uniform(0.4, 1)))
    if scene.place == "moon":
        _earth(canvas, (rng.uniform(0.3, 1.5), -0.62 * height), 0.11)
        return
    seen = {"clear": 1.0, "cloudy": 0.55, "fog": 0.35}.get(scene.weather, 0.0)
    if not seen:
        return
    rise = {"day": 0.68, "dawn": 0.2, "dusk": 0.12, "night": 0.7}[scene.time] * height
    at = (rng.uniform(0.2, 1.7), -max(rise, 0.06))
    color: Color = {
        "day": (255, 244, 190),
        "dawn": (255, 240, 200),
        "dusk": (255, 206, 96),
        "night": (246, 244, 220),
    }[scene.time]
    size = {"day": 0.062, "dawn": 0.085, "dusk": 0.105, "night": 0.07}[scene.time]
    for k, alpha in ((3.4, 0.1), (2.3, 0.16), (1.5, 0.28)):
        oval(canvas, at, k * size, k * size, fill(color, alpha * seen))
    oval(canvas, at, size, size, fill(color, seen))
    if scene.time == "night":
        for dx, dy, r in ((-0.25, -0.2, 0.22), (0.3, 0.15, 0.16), (-0.1, 0.42, 0.13)):
            oval(
                canvas,
                (at[0] + dx * size, at[1] + dy * size),
                r * size,
                r * size,
                fill((214, 212, 190), seen),
            )


def _earth(canvas: skia.Canvas, at: Point, size: float) -> None:
    for k, alpha in ((1.5, 0.12), (1.2, 0.2)):
        oval(canvas, at, k * size, k * size, fill((120, 180, 255), alpha))
    oval(canvas, at, size, size, fill((54, 120, 214)))
    for dx, dy, rx, ry in ((-0.35, -0.3, 0.35, 0.28), (0.25, 0.1, 0.34, 0.42), (-0.3, 0.5, 0.24, 0.16)):
        oval(canvas, (at[0] + dx * size, at[1] + dy * size), rx * size, ry * size, fill((92, 178, 96)))
    oval(canvas, (at[0] + 0.1 * size, at[1] - 0.66 * size), 0.4 * size, 0.12 * size, fill(WHITE, 0.8))


def _clouds(count: int, size: float, dark: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        period = 2.7 if dark > 1 else 3.4
        height = max(0.16, min(0.9, -stage.top))
        for x in scatter(rng, period, count):
            y = -rng.uniform(0.3, 1.0) * height
            r = size * rng.uniform(0.05, 0.085)
            color = mix(stage.light.cloud, stage.light.sky[1], 0.35 * (dark > 1))
            shade = mix(color, stage.light.sky[1], 0.4)
            puffs = [(k * 0.85 * r, r * rng.uniform(0.6, 1.05)) for k in (-2, -1, 0, 1, 2)]
            for low, paint in ((0.14, fill(shade, 0.9)), (0.0, fill(color, 0.95))):
                for dx, pr in puffs:
                    taper = 1 - 0.2 * abs(dx) / r
                    oval(canvas, (x + dx, y + low * r - 0.2 * pr), pr * 1.1, pr * taper * 0.8, paint)

    return draw


def _rain(count: int, alpha: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        paint = stroke((214, 230, 250), 0.006 + 0.002 * alpha, 0.55 * alpha)
        for _ in range(count):
            x, y, s = rng.uniform(0, 1.5), rng.uniform(0, 1.3), rng.uniform(0.05, 0.11)
            canvas.drawLine(x, y, x - 0.22 * s, y + s, paint)

    return draw


def _flakes(count: int, size: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for _ in range(count):
            r = size * rng.uniform(0.6, 1.2)
            at = (rng.uniform(0, 1.5), rng.uniform(0, 1.2))
            oval(canvas, at, r, r, fill((255, 255, 255), rng.uniform(0.7, 1.0)))

    return draw


def _fog(alpha: float, period: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        color = mix(stage.haze, (226, 230, 236), 0.25 if stage.scene.time != "night" else 0.1)
        canvas.drawRect(skia.Rect.MakeLTRB(0, stage.top, period, stage.bottom), fill(color, 0.55 * alpha))
        blur = skia.Paint(AntiAlias=True, Color=skia.Color(*color, round(255 * alpha)))
        blur.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 0.05))
        for x in scatter(rng, period, 7):
            y = rng.uniform(-0.35, 0.3)
            oval(canvas, (x, y), rng.uniform(0.35, 0.6), rng.uniform(0.04, 0.09), blur)

    return draw


def along(
    rng: random.Random,
    period: float,
    count: int,
    draw: Callable[[float, float], None],
    sizes: Sequence[float],
) -> None:
    """Call draw(x, size) along the strip with a size between the two of `sizes`."""
    for x in scatter(rng, period, count):
        draw(x, rng.uniform(sizes[0], sizes[1]))
