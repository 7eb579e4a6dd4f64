"""The room: the one place indoors, whose windows show the time of day.

The one invariant: a window or a picture hangs every half unit of the wall, so every frame shows one.
"""

from __future__ import annotations

import random

import skia

from everreel.world.backdrop import GLOW, WHITE, Layer, Stage, band, multiply, scatter
from everreel.world.puppet import Color, blob, fill, gradient, mix, oval, polygon, stroke
from everreel.world.scenery import box, glow


def room(stage: Stage) -> list[Layer]:
    """A living room: wallpaper, windows on the time of day, pictures, shelves, a wooden floor and rugs."""
    return [
        Layer(_wall, 0.4, 3.0),
        Layer(_windows, 0.4, 3.0),
        Layer(_furniture, 0.5, 3.0),
        Layer(_floor, 0.85, 3.0),
        Layer(_rugs, 1.0, 3.0),
        Layer(_plants, 1.5, 3.0, front=True),
    ]


def _wall(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    paper: Color = rng.choice(((244, 222, 190), (206, 224, 222), (238, 206, 200), (216, 214, 234)))
    lit, deep = stage.color(mix(paper, WHITE, 0.25)), stage.color(paper)
    canvas.drawRect(skia.Rect.MakeLTRB(-0.01, stage.top, 3.01, stage.bottom), gradient(lit, deep, -0.6, 0.1))
    for k in range(24):
        x = 3.0 * k / 24
        box(canvas, x, stage.top, x + 0.045, 0.05, stage.color(mix(paper, (190, 150, 130), 0.14)))
    box(canvas, -0.01, -0.02, 3.01, 0.02, stage.color((250, 246, 238)))


def _windows(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    t = stage.tall
    shift = rng.uniform(0, 3.0)
    for k in range(6):
        x = (3.0 * k / 6 + shift) % 3.0
        if k % 2:
            _picture(canvas, stage, rng, x)
            continue
        y0, y1, w = -0.5 * t, -0.17 * t, 0.19
        frame = stage.color((252, 250, 244))
        box(canvas, x - w - 0.02, y0 - 0.02, x + w + 0.02, y1 + 0.025, frame)
        canvas.drawRect(
            skia.Rect.MakeLTRB(x - w, y0, x + w, y1), gradient(stage.light.sky[0], stage.light.sky[2], y0, y1)
        )
        if stage.scene.time == "night":
            oval(canvas, (x + 0.08, y0 + 0.08), 0.03, 0.03, fill((250, 246, 220)))
            for _ in range(6):
                oval(
                    canvas,
                    (x + rng.uniform(-0.17, 0.17), rng.uniform(y0, y1)),
                    0.005,
                    0.005,
                    fill((255, 250, 230)),
                )
        elif stage.scene.time == "day":
            oval(canvas, (x - 0.05, y0 + 0.1), 0.08, 0.026, fill(WHITE, 0.9))
        else:
            oval(canvas, (x + 0.05, y1 - 0.05), 0.05, 0.05, fill((255, 230, 150)))
        hill = multiply(
            (110, 176, 110),
            {"day": (1, 1, 1), "dawn": (1, 0.9, 0.9), "dusk": (0.6, 0.4, 0.5)}.get(stage.scene.time, (0.2, 0.3, 0.5)),
        )
        canvas.save()
        canvas.clipRect(skia.Rect.MakeLTRB(x - w, y0, x + w, y1))
        oval(canvas, (x - 0.06, y1 + 0.05), 0.26, 0.1, fill(hill))
        canvas.restore()
        box(canvas, x - 0.009, y0, x + 0.009, y1, frame)
        box(canvas, x - w, (y0 + y1) / 2 - 0.008, x + w, (y0 + y1) / 2 + 0.008, frame)
        drape = stage.color((206, 92, 92))
        for s in (-1, 1):
            edge = x + s * (w + 0.05)
            shape = [
                (edge, y0 - 0.04),
                (edge - s * 0.13, y0 - 0.04),
                (edge - s * 0.05, y1 - 0.05),
                (edge - s * 0.07, y1 + 0.06),
                (edge, y1 + 0.06),
            ]
            canvas.drawPath(polygon(shape), fill(drape))


def _picture(canvas: skia.Canvas, stage: Stage, rng: random.Random, x: float) -> None:
    t, w = stage.tall, rng.uniform(0.07, 0.1)
    y = -0.36 * t
    box(canvas, x - w - 0.014, y - w - 0.014, x + w + 0.014, y + w + 0.014, stage.color((150, 104, 62)))
    box(
        canvas,
        x - w,
        y - w,
        x + w,
        y + w,
        stage.color(rng.choice(((250, 220, 150), (150, 200, 220), (240, 170, 150)))),
    )
    oval(canvas, (x + 0.3 * w, y - 0.3 * w), 0.3 * w, 0.3 * w, fill(stage.color((255, 246, 210))))
    canvas.drawPath(
        polygon([(x - w, y + w), (x - 0.2 * w, y - 0.1 * w), (x + w, y + w)]),
        fill(stage.color((96, 150, 120))),
    )


def _furniture(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    t, y = stage.tall, stage.ground(0.06)
    for k, x in enumerate(scatter(rng, 3.0, 5, 0.2)):
        if k % 3 == 0:
            sofa = stage.color((86, 142, 150))
            box(canvas, x - 0.2, y - 0.2 * t, x + 0.2, y - 0.02, sofa)
            box(canvas, x - 0.24, y - 0.13 * t, x + 0.24, y - 0.01, mix(sofa, (30, 40, 60), 0.18))
            box(canvas, x - 0.18, y - 0.12 * t, x + 0.18, y - 0.07 * t, mix(sofa, WHITE, 0.2))
        elif k % 3 == 1:
            box(canvas, x - 0.13, y - 0.38 * t, x + 0.13, y, stage.color((152, 106, 70)))
            for r in range(3):
                y0 = y - 0.35 * t + 0.12 * t * r
                box(canvas, x - 0.11, y0, x + 0.11, y0 + 0.095 * t, stage.color((110, 74, 52)))
                for b in range(6):
                    hue = rng.choice(((210, 80, 80), (240, 190, 90), (90, 150, 190), (120, 170, 110), (230, 220, 200)))
                    top = y0 + 0.095 * t - rng.uniform(0.055, 0.085) * t
                    box(
                        canvas,
                        x - 0.105 + 0.034 * b,
                        top,
                        x - 0.077 + 0.034 * b,
                        y0 + 0.095 * t,
                        stage.color(hue),
                    )
        else:
            canvas.drawLine(x, y, x, y - 0.32 * t, stroke(stage.color((90, 80, 84)), 0.014))
            shade = mix(stage.color((250, 226, 170)), GLOW, stage.light.lamps)
            canvas.drawPath(
                polygon(
                    [
                        (x - 0.09, y - 0.3 * t),
                        (x - 0.05, y - 0.42 * t),
                        (x + 0.05, y - 0.42 * t),
                        (x + 0.09, y - 0.3 * t),
                    ]
                ),
                fill(shade),
            )
            if stage.light.lamps:
                glow(canvas, x, y - 0.34 * t, 0.1, stage.light.lamps)


def _floor(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    g, wood = stage.ground, stage.color((202, 148, 98))
    band(
        canvas,
        3.0,
        g(0.05),
        stage.bottom + 0.05,
        (stage.color((216, 166, 116)), mix(wood, (80, 40, 30), 0.2)),
    )
    line = mix(wood, (90, 50, 36), 0.5)
    rows = [0.05, 0.14, 0.27, 0.44, 0.66, 0.94]
    for i, (a, b) in enumerate(zip(rows, [*rows[1:], 1.3], strict=True)):
        canvas.drawLine(-0.01, g(a), 3.01, g(a), stroke(line, 0.006, 0.7))
        for k in range(6):
            x = 3.0 * (k + 0.5 * (i % 2)) / 6
            canvas.drawLine(x, g(a), x, g(b), stroke(line, 0.006, 0.6))


def _rugs(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    g = stage.ground
    for x in scatter(rng, 3.0, 2, 0.3):
        hue = rng.choice(((196, 84, 90), (84, 120, 170), (120, 150, 96)))
        y, h = g(0.66), 0.2 * stage.depth
        oval(canvas, (x, y), 0.55, h, fill(stage.color(hue)))
        oval(canvas, (x, y), 0.46, 0.8 * h, fill(stage.color(mix(hue, (255, 240, 210), 0.5))))
        oval(canvas, (x, y), 0.4, 0.68 * h, fill(stage.color(hue)))


def _plants(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 3, 0.3):
        y = stage.ground(1.05)
        for k in (-2, -1, 0, 1, 2):
            leaf = blob(
                [
                    (x, y - 0.06),
                    (x + 0.05 * k - 0.02, y - 0.13),
                    (x + 0.065 * k, y - 0.24 + 0.02 * k * k),
                    (x + 0.05 * k + 0.02, y - 0.13),
                ]
            )
            canvas.drawPath(leaf, fill(stage.color((70, 150, 90) if k % 2 else (52, 126, 80))))
        canvas.drawPath(
            polygon([(x - 0.06, y - 0.08), (x + 0.06, y - 0.08), (x + 0.045, y), (x - 0.045, y)]),
            fill(stage.color((204, 110, 76))),
        )
