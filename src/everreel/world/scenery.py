"""What scenery is made of: ground, hills, trees, rocks, grass and water, drawn for a stage.

The one invariant: everything takes its colours through the stage, so one drawing serves every time and
weather.
"""

from __future__ import annotations

import math
import random

import skia

from everreel.world.backdrop import GLOW, WHITE, Draw, Stage, band, hills, multiply, ridge, scatter
from everreel.world.puppet import Color, blob, fill, gradient, limb, mix, oval, polygon, stroke

SNOW: Color = (238, 244, 251)


def ground(color: Color, dark: float = 0.22, *, snow: float = 0.9, rise: float = 0.0) -> Draw:
    """Flat ground from the horizon down, lighter far away, with a gently rolling edge if `rise`."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        far, near = stage.color(color, 0.62, snow=snow), stage.color(color, snow=snow)
        bottom = max(stage.bottom, 0.3)
        paint = gradient(far, mix(near, (20, 30, 60), dark * (0.3 if stage.snowy else 1)), 0.0, bottom)
        ridge(canvas, 3.0, hills(rng, 3.0, 0.004, rise * stage.tall, 3), stage.bottom + 0.1, paint)

    return draw


def mounds(color: Color, near: float, y: float, rise: float, rough: int = 4, *, snow: float = 0.85) -> Draw:
    """A ridge of hills standing on row `y` of the ground, paler at its foot."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        base, up = stage.ground(y), rise * stage.tall
        crest = stage.color(color, near, snow=snow)
        paint = gradient(crest, mix(crest, stage.haze, 0.3), base - up, base + 0.02)
        ridge(canvas, 3.0, hills(rng, 3.0, base - 0.2 * up, 0.8 * up, rough), base + 0.02, paint)

    return draw


def row_of(things: str, count: int, row: float, size: tuple[float, float], near: float) -> Draw:
    """Trees or rocks standing along a row of the ground."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        places = [(stage.ground(row + rng.uniform(-0.03, 0.03)), x) for x in scatter(rng, 3.0, count)]
        for y, x in sorted(places):
            h = rng.uniform(*size) * (stage.tall if things != "rock" else 1)
            if things == "pine":
                pine(canvas, stage, x, y, h, near)
            elif things == "tree":
                leaf = rng.choice(((84, 160, 70), (104, 176, 74), (66, 142, 82)))
                tree(canvas, stage, x, y, h, near, leaf)
            elif things == "cactus":
                cactus(canvas, stage, x, y, h, near)
            elif things == "palm":
                palm(canvas, stage, x, y, h, near)
            else:
                rock(canvas, stage, x, y, h)

    return draw


def tufts(count: int, row: float, size: float, color: Color = (84, 156, 66), flowers: bool = False) -> Draw:
    """Tufts of grass, with flowers of many colours among them, along a row of the ground."""
    petals: tuple[Color, ...] = (
        (250, 90, 110),
        (255, 214, 70),
        (250, 250, 250),
        (190, 120, 230),
        (255, 150, 60),
    )

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count):
            y, s = stage.ground(row + rng.uniform(-0.07, 0.07)), size * rng.uniform(0.7, 1.2)
            blade = stage.color(color, snow=0.5)
            for lean in (-0.5, 0.0, 0.5):
                canvas.drawLine(x, y, x + lean * s, y - s * (1 - 0.3 * abs(lean)), stroke(blade, 0.2 * s))
            if flowers:
                petal = stage.color(rng.choice(petals))
                at = (x, y - 1.15 * s)
                oval(canvas, at, 0.42 * s, 0.42 * s, fill(petal))
                oval(canvas, at, 0.16 * s, 0.16 * s, fill(stage.color((255, 230, 120))))

    return draw


def water(top: float, color: Color, *, front: bool = False, bottom: float | None = None) -> Draw:
    """Water from row `top` of the ground down, with glints; translucent where it is drawn over a swimmer."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y0 = stage.ground(top)
        y1 = stage.bottom + 0.05 if bottom is None else stage.ground(bottom)
        near = multiply(color, stage.light.tint)
        far = mix(near, stage.light.sky[2], 0.5)
        if not front:
            band(canvas, 3.0, y0, y1, (far, mix(near, (10, 30, 80), 0.15)))
        glint = mix(stage.light.sky[2], WHITE, 0.45)
        for _ in range(34 if not front else 12):
            d = rng.random() ** 1.5
            y = y0 + 0.008 + d * (min(y1, stage.depth + 0.1) - y0)
            w = (0.03 + 0.1 * d) * rng.uniform(0.6, 1.2)
            x = rng.uniform(0, 3)
            oval(canvas, (x, y), w, 0.0025 + 0.005 * d, fill(glint, 0.5))

    return draw


def ripples(color: Color) -> Draw:
    """Flat waves in sand or snow."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, 22, 1.0):
            d = rng.uniform(0.3, 1.0)
            y, w = stage.ground(d), 0.05 + 0.12 * d
            arc = blob([(x - w, y), (x, y - 0.012 * d), (x + w, y)], closed=False)
            canvas.drawPath(arc, stroke(stage.color(color, snow=0.4), 0.004 + 0.005 * d, 0.7))

    return draw


def pine(canvas: skia.Canvas, stage: Stage, x: float, y: float, h: float, near: float) -> None:
    """A fir of three tiers, with snow on them in winter."""
    leaf, bark = stage.color((38, 106, 74), near), stage.color((92, 64, 48), near)
    canvas.drawRect(skia.Rect.MakeLTRB(x - 0.03 * h, y - 0.2 * h, x + 0.03 * h, y), fill(bark))
    for k, (low, high, w) in enumerate(((0.12, 0.52, 0.25), (0.34, 0.76, 0.2), (0.58, 1.0, 0.145))):
        tier = polygon([(x - w * h, y - low * h), (x, y - high * h), (x + w * h, y - low * h)])
        canvas.drawPath(tier, fill(mix(leaf, stage.color((80, 150, 90), near), 0.2 * k)))
        if stage.snowy:
            cap = polygon(
                [
                    (x - 0.6 * w * h, y - (high - 0.6 * (high - low)) * h),
                    (x, y - high * h),
                    (x + 0.6 * w * h, y - (high - 0.6 * (high - low)) * h),
                ]
            )
            canvas.drawPath(cap, fill(stage.color(SNOW, near)))


def tree(
    canvas: skia.Canvas, stage: Stage, x: float, y: float, h: float, near: float, leaf: Color = (84, 160, 70)
) -> None:
    """A round tree."""
    bark = stage.color((112, 78, 54), near)
    body, lit = (
        stage.color(leaf, near, snow=0.35),
        stage.color(mix(leaf, (236, 240, 140), 0.35), near, snow=0.95),
    )
    canvas.drawPath(
        polygon([(x - 0.05 * h, y), (x - 0.03 * h, y - 0.5 * h), (x + 0.03 * h, y - 0.5 * h), (x + 0.05 * h, y)]),
        fill(bark),
    )
    for dx, dy, r in ((-0.18, 0.58, 0.19), (0.18, 0.58, 0.19), (0.0, 0.74, 0.25)):
        oval(canvas, (x + dx * h, y - dy * h), r * h, r * h, fill(body))
    for dx, dy, r in ((-0.16, 0.65, 0.11), (0.03, 0.84, 0.14)):
        oval(canvas, (x + dx * h, y - dy * h), r * h, 0.8 * r * h, fill(lit))


def rock(canvas: skia.Canvas, stage: Stage, x: float, y: float, r: float, color: Color = (140, 142, 150)) -> None:
    """A boulder with a lit top."""
    shape = blob(
        [
            (x - r, y),
            (x - 0.8 * r, y - 0.5 * r),
            (x - 0.1 * r, y - 0.8 * r),
            (x + 0.7 * r, y - 0.5 * r),
            (x + r, y),
        ]
    )
    canvas.drawPath(shape, fill(stage.color(mix(color, (40, 40, 60), 0.25))))
    top = blob(
        [
            (x - 0.75 * r, y - 0.45 * r),
            (x - 0.1 * r, y - 0.8 * r),
            (x + 0.6 * r, y - 0.5 * r),
            (x - 0.1 * r, y - 0.4 * r),
        ]
    )
    canvas.drawPath(top, fill(stage.color(color, snow=0.95)))


def cactus(canvas: skia.Canvas, stage: Stage, x: float, y: float, h: float, near: float) -> None:
    """A cactus with two arms."""
    green, lit = stage.color((70, 142, 84), near, snow=0.2), stage.color((120, 184, 110), near, snow=0.9)
    for side, low, high in ((-1, 0.4, 0.72), (1, 0.3, 0.62)):
        limb(
            canvas,
            [(x, y - low * h), (x + side * 0.2 * h, y - low * h), (x + side * 0.22 * h, y - high * h)],
            0.1 * h,
            green,
        )
    canvas.drawLine(x, y, x, y - 0.92 * h, stroke(green, 0.16 * h))
    canvas.drawLine(x - 0.03 * h, y - 0.1 * h, x - 0.03 * h, y - 0.92 * h, stroke(lit, 0.03 * h))


def palm(canvas: skia.Canvas, stage: Stage, x: float, y: float, h: float, near: float) -> None:
    """A leaning palm."""
    lean, bark = 0.12 * h, stage.color((150, 108, 70), near)
    top = (x + lean, y - h)
    limb(canvas, [(x, y), (x + 0.2 * lean, y - 0.5 * h), top], 0.05 * h, bark)
    for k, a in enumerate((-2.9, -2.2, -1.5, -0.8, -0.2)):
        leaf = stage.color((60, 156, 84) if k % 2 else (46, 134, 74), near, snow=0.6)
        mid = (top[0] + 0.2 * h * math.cos(a), top[1] + 0.16 * h * math.sin(a) - 0.02 * h)
        tip = (top[0] + 0.4 * h * math.cos(a), top[1] + 0.2 * h * math.sin(a) + 0.16 * h)
        limb(canvas, [top, mid, tip], 0.055 * h, leaf)
    for dx in (-0.02, 0.03):
        oval(
            canvas,
            (top[0] + dx * h, top[1] + 0.03 * h),
            0.025 * h,
            0.025 * h,
            fill(stage.color((110, 76, 50), near)),
        )


def box(canvas: skia.Canvas, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
    """A filled rectangle."""
    canvas.drawRect(skia.Rect.MakeLTRB(x0, y0, x1, y1), fill(color))


def glow(canvas: skia.Canvas, x: float, y: float, size: float, amount: float) -> None:
    """A halo of lamp light."""
    for k, alpha in ((3.2, 0.1), (2.1, 0.16), (1.4, 0.25)):
        oval(canvas, (x, y), k * size, k * size, fill(GLOW, alpha * amount))


def pane(stage: Stage, color: Color, near: float, lit: bool) -> Color:
    """The colour of a window: glass by day, lamp light by night."""
    return mix(stage.color(color, near), GLOW, stage.light.lamps * (0.92 if lit else 0.1))
