"""The wild places on land, and the moon, as layers of scenery from far to near.

The one invariant: what makes a place that place (trunks, dunes, peaks, craters) stands behind the subject
and repeats often enough that every frame shows some of it.
"""

from __future__ import annotations

import math
import random

import skia

from everreel.world.backdrop import WHITE, Draw, Layer, Stage, hills, ridge, scatter
from everreel.world.puppet import Color, fill, gradient, limb, mix, oval, polygon, stroke
from everreel.world.scenery import (
    SNOW,
    ground,
    mounds,
    ripples,
    row_of,
    tufts,
)


def forest(stage: Stage) -> list[Layer]:
    """Firs behind firs, and tall trunks."""
    return [
        Layer(mounds((70, 130, 110), 0.25, 0.0, 0.3), 0.1, 3.0),
        Layer(row_of("pine", 22, 0.03, (0.34, 0.5), 0.4), 0.22, 3.0),
        Layer(ground((92, 140, 74)), 0.4, 3.0),
        Layer(row_of("pine", 13, 0.1, (0.5, 0.72), 0.72), 0.42, 3.0),
        Layer(_trunks(9, 0.24), 0.62, 3.0),
        Layer(tufts(22, 0.5, 0.04, (60, 120, 60)), 0.8, 3.0),
        Layer(_ferns(10), 1.5, 3.0, front=True),
    ]


def meadow(stage: Stage) -> list[Layer]:
    """Rolling green with flowers, a few round trees and a windmill."""
    return [
        Layer(mounds((120, 176, 150), 0.3, 0.0, 0.2, 3), 0.1, 3.0),
        Layer(mounds((130, 196, 104), 0.6, 0.02, 0.11, 3), 0.22, 3.0),
        Layer(_windmill, 0.3, 3.0),
        Layer(row_of("tree", 5, 0.06, (0.22, 0.34), 0.75), 0.35, 3.0),
        Layer(ground((136, 204, 82), rise=0.02), 0.4, 3.0),
        Layer(tufts(34, 0.22, 0.028, flowers=True), 0.6, 3.0),
        Layer(tufts(30, 0.6, 0.05, flowers=True), 0.9, 3.0),
        Layer(tufts(12, 1.0, 0.12, flowers=True), 1.5, 3.0, front=True),
    ]


def desert(stage: Stage) -> list[Layer]:
    """Orange dunes, mesas and cacti."""
    return [
        Layer(_mesas, 0.1, 3.0),
        Layer(mounds((236, 168, 96), 0.7, 0.03, 0.15, 3), 0.22, 3.0),
        Layer(ground((242, 192, 112), 0.12, snow=0.75, rise=0.02), 0.4, 3.0),
        Layer(row_of("cactus", 5, 0.14, (0.26, 0.4), 0.95), 0.5, 3.0),
        Layer(ripples((206, 146, 80)), 0.85, 3.0),
        Layer(row_of("rock", 7, 0.5, (0.03, 0.06), 1.0), 0.85, 3.0),
        Layer(row_of("rock", 4, 1.04, (0.07, 0.12), 1.0), 1.5, 3.0, front=True),
    ]


def mountains(stage: Stage) -> list[Layer]:
    """Snow-capped peaks over a rocky alp."""
    return [
        Layer(peaks(0.62, 0.35, 5), 0.08, 3.0),
        Layer(peaks(0.42, 0.65, 7), 0.18, 3.0),
        Layer(mounds((84, 138, 96), 0.7, 0.02, 0.08), 0.3, 3.0),
        Layer(ground((128, 160, 104), rise=0.02), 0.4, 3.0),
        Layer(row_of("pine", 7, 0.1, (0.16, 0.26), 0.85), 0.45, 3.0),
        Layer(row_of("rock", 10, 0.3, (0.04, 0.09), 1.0), 0.7, 3.0),
        Layer(row_of("rock", 8, 0.7, (0.03, 0.06), 1.0), 0.95, 3.0),
        Layer(row_of("rock", 4, 1.04, (0.1, 0.16), 1.0), 1.5, 3.0, front=True),
    ]


def snowfield(stage: Stage) -> list[Layer]:
    """White to the horizon: ice hills, igloos, a snowman."""
    return [
        Layer(peaks(0.22, 0.3, 6, ice=True), 0.1, 3.0),
        Layer(mounds((214, 228, 246), 0.7, 0.02, 0.07, 3), 0.22, 3.0),
        Layer(ground((234, 242, 252), 0.15, rise=0.02), 0.4, 3.0),
        Layer(_igloos, 0.5, 3.0),
        Layer(ripples((196, 212, 238)), 0.85, 3.0),
        Layer(row_of("rock", 5, 0.6, (0.03, 0.06), 1.0), 0.95, 3.0),
        Layer(_drift(1.0), 1.5, 3.0, front=True),
    ]


def moon(stage: Stage) -> list[Layer]:
    """Gray dust and craters under a black sky, with a lander and its flag."""
    return [
        Layer(mounds((120, 122, 134), 0.55, 0.0, 0.13, 6), 0.1, 3.0),
        Layer(ground((158, 160, 172), 0.3, rise=0.02), 0.4, 3.0),
        Layer(_lander, 0.45, 3.0),
        Layer(_craters(10, 0.28, 0.08), 0.6, 3.0),
        Layer(_craters(8, 0.72, 0.13), 0.95, 3.0),
        Layer(row_of("rock", 4, 1.04, (0.07, 0.13), 1.0), 1.5, 3.0, front=True),
    ]


def _trunks(count: int, row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count, 0.9):
            y, w = stage.ground(row + rng.uniform(-0.06, 0.06)), rng.uniform(0.035, 0.06)
            bark = stage.color(rng.choice(((104, 74, 58), (122, 88, 66), (88, 66, 56))))
            top = stage.top - 0.05 if stage.scene.shot_angle != "high_angle" else y - 0.62
            trunk = polygon(
                [
                    (x - 1.5 * w, y),
                    (x - w, y - 0.1),
                    (x - 0.8 * w, top),
                    (x + 0.8 * w, top),
                    (x + w, y - 0.1),
                    (x + 1.5 * w, y),
                ]
            )
            canvas.drawPath(trunk, fill(bark))
            canvas.drawLine(x + 0.4 * w, y - 0.06, x + 0.35 * w, top, stroke(mix(bark, (20, 14, 30), 0.35), 0.5 * w))
            if stage.snowy:
                canvas.drawLine(x - 0.75 * w, y - 0.03, x - 0.65 * w, top, stroke(stage.color(SNOW), 0.3 * w))
            if stage.scene.shot_angle == "high_angle":
                for dx, r in ((-0.09, 0.13), (0.09, 0.13), (0.0, 0.15)):
                    leaf = stage.color((46, 116, 72), snow=0.6)
                    oval(canvas, (x + dx, top - 0.5 * abs(dx)), r, r * 0.8, fill(leaf))

    return draw


def _ferns(count: int) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count, 0.9):
            y, s = stage.ground(1.04), rng.uniform(0.07, 0.13)
            leaf = stage.color((44, 110, 58), snow=0.55)
            for k in (-2, -1, 0, 1, 2):
                tip = (x + 0.55 * k * s, y - s * (1.2 - 0.2 * k * k))
                limb(canvas, [(x, y), ((x + tip[0]) / 2, y - 0.75 * s), tip], 0.16 * s, leaf)

    return draw


def _windmill(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 2):
        y, h = stage.ground(0.04), 0.24 * stage.tall
        wall, roof = stage.color((236, 224, 206), 0.75), stage.color((190, 84, 66), 0.75, snow=0.8)
        tower = polygon([(x - 0.2 * h, y), (x - 0.12 * h, y - 0.7 * h), (x + 0.12 * h, y - 0.7 * h), (x + 0.2 * h, y)])
        canvas.drawPath(tower, fill(wall))
        canvas.drawPath(
            polygon([(x - 0.16 * h, y - 0.68 * h), (x, y - 0.95 * h), (x + 0.16 * h, y - 0.68 * h)]),
            fill(roof),
        )
        for k in range(4):
            a = math.pi / 4 + k * math.pi / 2
            tip = (x + 0.5 * h * math.cos(a), y - 0.72 * h + 0.5 * h * math.sin(a))
            canvas.drawLine(x, y - 0.72 * h, *tip, stroke(stage.color((250, 246, 236), 0.8), 0.07 * h))


def _mesas(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 4):
        w, h = rng.uniform(0.12, 0.24), rng.uniform(0.16, 0.28) * stage.tall
        rocky = stage.color((196, 104, 72), 0.55, snow=0.2)
        shape = [
            (x - 1.3 * w, 0.02),
            (x - 0.9 * w, -0.4 * h),
            (x - 0.8 * w, -h),
            (x + 0.75 * w, -h),
            (x + 0.9 * w, -0.45 * h),
            (x + 1.35 * w, 0.02),
        ]
        canvas.drawPath(polygon(shape), fill(rocky))
        canvas.drawRect(
            skia.Rect.MakeLTRB(x - 0.82 * w, -0.7 * h, x + 0.8 * w, -0.58 * h),
            fill(mix(rocky, (90, 40, 50), 0.3)),
        )


def _igloos(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for k, x in enumerate(scatter(rng, 3.0, 4, 0.4)):
        y, r = stage.ground(0.16), 0.15
        shade, lit = stage.color((178, 204, 238)), stage.color((226, 238, 252))
        if k % 2:
            for dy, s in ((0.04, 0.055), (0.12, 0.042), (0.185, 0.03)):
                oval(canvas, (x, y - dy * stage.tall), s, s * stage.tall**0.5, fill(mix(lit, shade, 0.25)))
                oval(canvas, (x - 0.01, y - (dy + 0.008) * stage.tall), 0.8 * s, 0.8 * s, fill(lit))
            oval(canvas, (x + 0.02, y - 0.185 * stage.tall), 0.022, 0.007, fill(stage.color((240, 130, 50))))
            canvas.drawRect(
                skia.Rect.MakeLTRB(x - 0.022, y - 0.25 * stage.tall, x + 0.022, y - 0.205 * stage.tall),
                fill(stage.color((60, 60, 76))),
            )
            continue
        canvas.save()
        canvas.clipRect(skia.Rect.MakeLTRB(x - 0.3, y - 0.4, x + 0.3, y))
        oval(canvas, (x, y), r, r * stage.tall, gradient(lit, shade, y - r, y))
        for d in (0.35, 0.7):
            canvas.drawLine(x - r, y - d * r * stage.tall, x + r, y - d * r * stage.tall, stroke(shade, 0.006))
        oval(canvas, (x + 0.05, y), 0.075, 0.095 * stage.tall, fill(shade))
        oval(canvas, (x + 0.05, y), 0.05, 0.07 * stage.tall, fill(stage.color((74, 96, 140))))
        canvas.restore()


def _drift(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y = stage.ground(row)
        lit, deep = stage.color(SNOW), stage.color((200, 216, 242))
        ridge(
            canvas,
            3.0,
            hills(rng, 3.0, y + 0.01, 0.09, 4),
            stage.bottom + 0.1,
            gradient(lit, deep, y - 0.06, y + 0.05),
        )

    return draw


def _craters(count: int, row: float, size: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        flat = {"eye_level": 0.3, "high_angle": 0.55, "low_angle": 0.16}[stage.scene.shot_angle]
        for x in scatter(rng, 3.0, count, 0.9):
            y, r = stage.ground(row + rng.uniform(-0.12, 0.12)), size * rng.uniform(0.5, 1.1)
            oval(canvas, (x, y), r, flat * r, fill(stage.color((206, 208, 218))))
            oval(
                canvas,
                (x + 0.03 * r, y + 0.07 * r),
                0.86 * r,
                0.8 * flat * r,
                fill(stage.color((104, 106, 120))),
            )

    return draw


def _lander(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for k, x in enumerate(scatter(rng, 3.0, 4, 0.4)):
        y, t = stage.ground(0.15), stage.tall
        if k % 2:
            canvas.drawLine(x, y, x, y - 0.24 * t, stroke(stage.color((230, 230, 236)), 0.01))
            canvas.drawRect(
                skia.Rect.MakeLTRB(x, y - 0.24 * t, x + 0.12, y - 0.16 * t), fill(stage.color((220, 70, 70)))
            )
            canvas.drawRect(skia.Rect.MakeLTRB(x, y - 0.215 * t, x + 0.12, y - 0.185 * t), fill(stage.color(WHITE)))
            continue
        for dx in (-0.1, 0.1):
            canvas.drawLine(x + 0.5 * dx, y - 0.07 * t, x + dx, y, stroke(stage.color((200, 204, 214)), 0.012))
        base = skia.Rect.MakeLTRB(x - 0.08, y - 0.13 * t, x + 0.08, y - 0.06 * t)
        canvas.drawRect(base, fill(stage.color((236, 184, 76))))
        oval(canvas, (x, y - 0.18 * t), 0.06, 0.06 * t, fill(stage.color((220, 224, 234))))
        oval(canvas, (x + 0.015, y - 0.185 * t), 0.024, 0.024, fill(stage.color((60, 90, 140))))


def peaks(rise: float, near: float, count: int, ice: bool = False) -> Draw:
    """Mountains behind mountains with caps of snow, or ridges of ice."""

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        stone: Color = (168, 198, 232) if ice else (104, 116, 146)
        for x in scatter(rng, 3.0, count, 0.5):
            h, w = rise * stage.tall * rng.uniform(0.65, 1.0), rng.uniform(0.3, 0.42) * (0.75 if ice else 1)
            lit, dark = stage.color(stone, near), stage.color(mix(stone, (50, 56, 92), 0.35), near)
            canvas.drawPath(polygon([(x - w, 0.03), (x, -h), (x + w, 0.03)]), fill(dark))
            canvas.drawPath(
                polygon([(x - w, 0.03), (x, -h), (x + 0.12 * w, -0.55 * h), (x - 0.1 * w, 0.03)]), fill(lit)
            )
            cap = stage.color(SNOW, min(1, near + 0.2))
            line = -0.62 * h if not stage.snowy else -0.3 * h
            k = 1 + line / h
            shape = [
                (x - k * w, line),
                (x, -h),
                (x + k * w, line),
                (x + 0.5 * k * w, line - 0.07 * h),
                (x + 0.15 * k * w, line + 0.05 * h),
                (x - 0.3 * k * w, line - 0.06 * h),
            ]
            canvas.drawPath(polygon(shape), fill(cap))

    return draw
