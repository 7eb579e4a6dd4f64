"""The places with water (beach, lake, under water), as layers of scenery from far to near.

The one invariant: where the subject swims, the place is seen from the water, which then fills the
foreground.
"""

from __future__ import annotations

import random

import skia

from everreel.world.backdrop import WHITE, Draw, Layer, Stage, hills, multiply, ridge, scatter
from everreel.world.puppet import Color, fill, gradient, limb, mix, oval, polygon, stroke
from everreel.world.scenery import (
    ground,
    mounds,
    row_of,
    tufts,
    water,
)


def beach(stage: Stage) -> list[Layer]:
    """Sea to the horizon, sand before it, palms and parasols; seen from the sea where somebody swims."""
    sea: Color = (44, 160, 206)
    if stage.scene.on_water:
        return [
            Layer(mounds((118, 178, 120), 0.5, 0.0, 0.16, 4), 0.15, 3.0),
            Layer(_sand(0.0), 0.3, 3.0),
            Layer(row_of("palm", 6, 0.05, (0.5, 0.66), 0.95), 0.35, 3.0),
            Layer(_parasols(0.09), 0.36, 3.0),
            Layer(water(0.14, sea), 0.7, 3.0, drift=(0.03, 0)),
            Layer(_foam(0.145), 0.45, 3.0, sway=0.03),
        ]
    return [
        Layer(water(0.0, sea), 0.25, 3.0, drift=(0.02, 0)),
        Layer(_sails, 0.12, 3.0),
        Layer(_sand(0.3), 0.5, 3.0),
        Layer(_foam(0.3), 0.42, 3.0, sway=0.03),
        Layer(row_of("palm", 6, 0.36, (0.62, 0.8), 1.0), 0.5, 3.0),
        Layer(_parasols(0.48), 0.66, 3.0),
        Layer(_shells, 0.95, 3.0),
        Layer(tufts(7, 1.03, 0.1, (150, 170, 80)), 1.5, 3.0, front=True),
    ]


def lake(stage: Stage) -> list[Layer]:
    """Still water that mirrors wooded hills, with reeds; seen from the water where somebody swims."""
    blue: Color = (64, 138, 190)
    back = [
        Layer(mounds((96, 150, 150), 0.35, 0.0, 0.3, 3), 0.1, 3.0),
        Layer(mounds((74, 140, 96), 0.65, 0.0, 0.14, 5), 0.18, 3.0),
        Layer(row_of("pine", 16, 0.015, (0.12, 0.2), 0.75), 0.2, 3.0),
    ]
    if stage.scene.on_water:
        return [
            *back,
            Layer(water(0.0, blue), 0.5, 3.0, drift=(0.015, 0)),
            Layer(_mirror, 0.2, 3.0, sway=0.004),
            Layer(_lilies(0.42), 0.75, 3.0),
            Layer(_reeds(5, 1.05, 0.26), 1.5, 3.0, front=True),
        ]
    return [
        *back,
        Layer(water(0.0, blue), 0.35, 3.0, drift=(0.015, 0)),
        Layer(_mirror, 0.2, 3.0, sway=0.004),
        Layer(_lilies(0.3), 0.45, 3.0),
        Layer(_bank(0.52, (120, 182, 88)), 0.7, 3.0),
        Layer(_reeds(9, 0.53, 0.16), 0.7, 3.0),
        Layer(tufts(20, 0.8, 0.045, flowers=False), 0.95, 3.0),
        Layer(_reeds(4, 1.06, 0.3), 1.5, 3.0, front=True),
    ]


def underwater(stage: Stage) -> list[Layer]:
    """Blue depth with rays of light, corals, weed and bubbles."""
    return [
        Layer(_depths, 0.0, 3.0),
        Layer(_rays, 0.05, 3.0, sway=0.05),
        Layer(mounds((40, 110, 150), 0.35, 0.03, 0.26, 6, snow=0), 0.15, 3.0),
        Layer(_corals(13, 0.06, (0.16, 0.26), 0.55), 0.3, 3.0),
        Layer(ground((222, 206, 150), 0.3, snow=0, rise=0.03), 0.4, 3.0),
        Layer(_weed(9, 0.12, (0.34, 0.56), 0.75), 0.45, 3.0, sway=0.01),
        Layer(_corals(8, 0.3, (0.14, 0.24), 0.9), 0.65, 3.0),
        Layer(_corals(7, 0.66, (0.07, 0.12), 1.0), 0.95, 3.0),
        Layer(_bubbles(16, 0.014), 0.5, 1.5, drift=(0, -0.14), tile=1.2),
        Layer(_weed(4, 1.05, (0.16, 0.26), 1.0), 1.5, 3.0, sway=0.015, front=True),
        Layer(_bubbles(9, 0.022), 1.3, 1.5, drift=(0, -0.22), sway=0.02, tile=1.2, front=True),
    ]


def _parasols(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, 4):
            y, h = stage.ground(row), 0.24 * stage.tall
            canvas.drawLine(x, y, x, y - h, stroke(stage.color((236, 236, 230)), 0.012))
            pair = rng.choice((((232, 80, 80), WHITE), ((66, 150, 220), (255, 226, 120)), ((250, 150, 60), WHITE)))
            for k in range(4):
                x0, x1 = x + (k - 2) * 0.3 * h, x + (k - 1) * 0.3 * h
                part = polygon([(x0, y - 0.78 * h), (x, y - 1.12 * h), (x1, y - 0.78 * h)])
                canvas.drawPath(part, fill(stage.color(pair[k % 2], snow=0.4)))
            towel = polygon([(x + 0.1, y), (x + 0.28, y), (x + 0.31, y + 0.03), (x + 0.11, y + 0.03)])
            canvas.drawPath(towel, fill(stage.color(pair[0])))

    return draw


def _sand(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y = stage.ground(row)
        light, deep = stage.color((246, 224, 168), snow=0.7), stage.color((226, 194, 132), snow=0.7)
        paint = gradient(light, deep, y, max(stage.depth, y + 0.1))
        ridge(canvas, 3.0, hills(rng, 3.0, y + 0.02, 0.03 * (row > 0), 2), stage.bottom + 0.1, paint)

    return draw


def _foam(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y, foam = stage.ground(row), multiply(WHITE, stage.light.tint)
        for x in scatter(rng, 3.0, 16, 0.3):
            oval(canvas, (x, y + 0.006), 0.13, 0.011, fill(foam, 0.85))

    return draw


def _sails(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 3):
        y, s = stage.ground(0.03), rng.uniform(0.05, 0.08)
        canvas.drawPath(
            polygon(
                [
                    (x - s, y - 0.2 * s),
                    (x + s, y - 0.2 * s),
                    (x + 0.6 * s, y + 0.15 * s),
                    (x - 0.6 * s, y + 0.15 * s),
                ]
            ),
            fill(stage.color((150, 90, 70), 0.8)),
        )
        canvas.drawPath(
            polygon([(x, y - 0.3 * s), (x, y - 2 * s), (x + 0.9 * s, y - 0.4 * s)]),
            fill(stage.color(WHITE, 0.9)),
        )


def _shells(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 22):
        y, r = stage.ground(rng.uniform(0.52, 0.98)), rng.uniform(0.009, 0.018)
        color = stage.color(rng.choice(((255, 180, 150), (240, 120, 90), (250, 246, 236))))
        oval(canvas, (x, y), r, 0.6 * r, fill(color))


def _mirror(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    """The far shore upside down in the water, in broken bands."""
    far = stage.color((74, 140, 110), 0.6, snow=0.4)
    for x in scatter(rng, 3.0, 26, 0.8):
        for k in range(5):
            y = 0.012 + 0.045 * k * min(1, stage.depth / 0.4)
            w = rng.uniform(0.03, 0.07) * (1 - 0.12 * k)
            oval(canvas, (x + rng.uniform(-0.02, 0.02), y), w, 0.009, fill(far, 0.4 - 0.06 * k))


def _lilies(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, 7):
            y, r = stage.ground(row + rng.uniform(-0.07, 0.07)), rng.uniform(0.03, 0.05)
            oval(canvas, (x, y), r, 0.32 * r, fill(stage.color((96, 172, 92), snow=0.7)))
            if rng.random() < 0.5:
                oval(canvas, (x, y - 0.25 * r), 0.35 * r, 0.3 * r, fill(stage.color((250, 170, 200))))

    return draw


def _bank(row: float, color: Color) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y = stage.ground(row)
        edge = hills(rng, 3.0, y + 0.02, 0.04, 3)
        sandy = stage.color((214, 196, 146), snow=0.6)
        ridge(canvas, 3.0, lambda x: edge(x) - 0.014, stage.bottom + 0.1, fill(sandy))
        lit, deep = stage.color(color, snow=0.9), stage.color(mix(color, (20, 60, 60), 0.3), snow=0.85)
        ridge(canvas, 3.0, edge, stage.bottom + 0.1, gradient(lit, deep, y, max(stage.depth, y + 0.1)))

    return draw


def _reeds(count: int, row: float, size: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count):
            y = stage.ground(row)
            for k in range(4):
                h, dx = size * rng.uniform(0.6, 1.1), (k - 1.5) * 0.16 * size
                lean = rng.uniform(-0.1, 0.1) * size
                canvas.drawLine(
                    x + dx,
                    y,
                    x + dx + lean,
                    y - h,
                    stroke(stage.color((96, 148, 74), snow=0.4), 0.035 * size),
                )
                if k % 2 == 0:
                    head = (x + dx + lean, y - h)
                    oval(canvas, head, 0.045 * size, 0.14 * size, fill(stage.color((128, 84, 54), snow=0.3)))

    return draw


def _depths(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    colors = [skia.Color(*c) for c in stage.light.sky]
    shader = skia.GradientShader.MakeLinear([(0, min(stage.top, -0.4)), (0, 0.25)], colors)
    canvas.drawRect(skia.Rect.MakeLTRB(-0.01, stage.top, 3.01, stage.bottom), skia.Paint(Shader=shader))


def _rays(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 8):
        w, top = rng.uniform(0.03, 0.08), stage.top
        shape = polygon([(x - w, top), (x + w, top), (x + 2.5 * w - 0.3, 0.15), (x - 3.5 * w - 0.3, 0.15)])
        shader = skia.GradientShader.MakeLinear(
            [(0, top), (0, 0.12)], [skia.Color(255, 255, 235, 70), skia.Color(255, 255, 235, 0)]
        )
        canvas.drawPath(shape, skia.Paint(AntiAlias=True, Shader=shader))


def _corals(count: int, row: float, size: tuple[float, float], near: float) -> Draw:
    hues: tuple[Color, ...] = (
        (240, 96, 110),
        (250, 160, 70),
        (200, 110, 210),
        (255, 130, 170),
        (250, 210, 110),
    )

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for k, x in enumerate(scatter(rng, 3.0, count)):
            y, h = stage.ground(row + rng.uniform(-0.04, 0.04)), rng.uniform(*size) * stage.tall
            color = stage.color(rng.choice(hues), near)
            if k % 3 == 2:
                oval(canvas, (x, y), 0.5 * h, 0.45 * h, fill(mix(color, (40, 40, 80), 0.2)))
                oval(canvas, (x - 0.06 * h, y - 0.06 * h), 0.4 * h, 0.34 * h, fill(color))
                continue
            for lean, tall in ((-0.5, 0.7), (-0.22, 0.95), (0.06, 0.8), (0.32, 1.0), (0.55, 0.65)):
                limb(
                    canvas,
                    [(x, y + 0.02), (x + 0.4 * lean * h, y - 0.4 * h), (x + lean * h, y - tall * h)],
                    0.12 * h,
                    color,
                )

    return draw


def _weed(count: int, row: float, size: tuple[float, float], near: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count):
            y = stage.ground(row)
            for k in range(3):
                h, dx = rng.uniform(*size) * stage.tall, (k - 1) * 0.05
                leaf = stage.color(rng.choice(((46, 150, 100), (70, 170, 90), (36, 126, 100))), near)
                s = rng.choice((-1, 1)) * 0.03
                points = [
                    (x + dx, y),
                    (x + dx + s, y - 0.35 * h),
                    (x + dx - s, y - 0.7 * h),
                    (x + dx + s, y - h),
                ]
                limb(canvas, points, 0.028, leaf)

    return draw


def _bubbles(count: int, size: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for _ in range(count):
            at, r = (rng.uniform(0, 1.5), rng.uniform(0, 1.2)), size * rng.uniform(0.5, 1.2)
            oval(canvas, at, r, r, fill((220, 246, 255), 0.35))
            oval(canvas, (at[0] - 0.3 * r, at[1] - 0.3 * r), 0.3 * r, 0.3 * r, fill((255, 255, 255), 0.9))

    return draw
