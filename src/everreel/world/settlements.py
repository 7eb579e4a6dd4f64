"""The built places of the film world (city, village, park) and the table of all places.

The one invariant: lamps and windows glow when the light of the scene says so, on top of the tint that
darkens all else.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import skia

from everreel.world import places, scenery, shores
from everreel.world.backdrop import GLOW, WHITE, Draw, Layer, Stage, band, scatter
from everreel.world.puppet import Color, blob, fill, mix, oval, polygon, stroke
from everreel.world.room import room
from everreel.world.scenery import box, glow, pane


def city(stage: Stage) -> list[Layer]:
    """Towers with windows, shop fronts, a road and lamps."""
    return [
        Layer(_towers(14, (0.42, 0.72), 0.4), 0.1, 3.0),
        Layer(_towers(12, (0.26, 0.5), 0.7), 0.22, 3.0),
        Layer(_shops, 0.4, 3.0),
        Layer(_road, 0.8, 3.0),
        Layer(_lamps(0.2, 5), 0.6, 3.0),
        Layer(_hydrants, 1.5, 3.0, front=True),
    ]


def village(stage: Stage) -> list[Layer]:
    """Cottages with red roofs, a church, hedges and a path."""
    return [
        Layer(scenery.mounds((120, 176, 140), 0.35, 0.0, 0.22, 3), 0.1, 3.0),
        Layer(_church, 0.2, 3.0),
        Layer(scenery.row_of("tree", 6, 0.02, (0.2, 0.3), 0.65), 0.26, 3.0),
        Layer(scenery.ground((140, 196, 96)), 0.4, 3.0),
        Layer(_cottages, 0.42, 3.0),
        Layer(_fence(0.24), 0.6, 3.0),
        Layer(_path((222, 200, 156)), 0.9, 3.0),
        Layer(scenery.tufts(9, 1.02, 0.1, flowers=True), 1.5, 3.0, front=True),
    ]


def park(stage: Stage) -> list[Layer]:
    """Round trees, benches, lamps, a fountain, hedges and a path."""
    return [
        Layer(_towers(12, (0.12, 0.26), 0.3), 0.08, 3.0),
        Layer(scenery.row_of("tree", 13, 0.02, (0.26, 0.36), 0.55), 0.2, 3.0),
        Layer(scenery.ground((128, 196, 94)), 0.4, 3.0),
        Layer(_hedge, 0.36, 3.0),
        Layer(scenery.row_of("tree", 4, 0.12, (0.5, 0.62), 0.95), 0.5, 3.0),
        Layer(_benches, 0.6, 3.0),
        Layer(_lamps(0.26, 3), 0.62, 3.0),
        Layer(_path((226, 208, 172)), 0.9, 3.0),
        Layer(scenery.tufts(9, 1.02, 0.09, flowers=True), 1.5, 3.0, front=True),
    ]


def _towers(count: int, rise: tuple[float, float], near: float) -> Draw:
    hues: tuple[Color, ...] = (
        (112, 134, 172),
        (136, 122, 160),
        (92, 116, 150),
        (158, 140, 150),
        (120, 150, 170),
    )

    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count):
            w, h = rng.uniform(0.085, 0.14), rng.uniform(*rise) * stage.tall
            y = stage.ground(0.06)
            wall = stage.color(rng.choice(hues), near)
            box(canvas, x - w, -h, x + w, y, wall)
            box(canvas, x + 0.55 * w, -h, x + w, y, mix(wall, (30, 30, 60), 0.18))
            if stage.snowy:
                box(
                    canvas,
                    x - 1.04 * w,
                    -h - 0.012,
                    x + 1.04 * w,
                    -h + 0.008,
                    stage.color(scenery.SNOW, near),
                )
            if rng.random() < 0.35:
                canvas.drawLine(x, -h, x, -h - 0.08, stroke(wall, 0.01))
            rows = int(h / 0.06)
            for r in range(rows):
                for c in range(4):
                    lit = rng.random() < 0.6
                    x0, y0 = x - 0.82 * w + c * 0.44 * w, -h + 0.02 + 0.06 * r
                    box(
                        canvas,
                        x0,
                        y0,
                        x0 + 0.28 * w,
                        y0 + 0.034,
                        pane(stage, (196, 222, 240), 0.5 * near + 0.4, lit),
                    )

    return draw


def _shops(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    hues: tuple[Color, ...] = (
        (206, 108, 92),
        (232, 196, 130),
        (120, 160, 170),
        (186, 144, 170),
        (230, 220, 206),
    )
    n = 9
    for k in range(n):
        x0, x1, y = 3.0 * k / n, 3.0 * (k + 1) / n, stage.ground(0.12)
        h = rng.uniform(0.2, 0.32) * stage.tall
        wall = stage.color(rng.choice(hues), 0.85)
        box(canvas, x0, y - h, x1 + 0.002, y, wall)
        box(canvas, x0, y - h, x1 + 0.002, y - h + 0.018, stage.color((250, 246, 240), 0.85, snow=1.0))
        for c in range(3):
            a = x0 + 0.03 + c * 0.1
            lit = rng.random() < 0.7
            if h > 0.22:
                box(canvas, a, y - h + 0.04, a + 0.06, y - h + 0.11, pane(stage, (170, 208, 232), 0.9, lit))
        box(canvas, x0 + 0.03, y - 0.1, x0 + 0.2, y - 0.015, pane(stage, (150, 196, 224), 0.9, True))
        box(canvas, x0 + 0.23, y - 0.11, x0 + 0.3, y, stage.color((96, 66, 60)))
        awning = stage.color(rng.choice(((226, 70, 70), (60, 140, 200), (70, 160, 100))), snow=0.5)
        canvas.drawPath(
            polygon([(x0 + 0.02, y - 0.15), (x0 + 0.21, y - 0.15), (x0 + 0.23, y - 0.1), (x0, y - 0.1)]),
            fill(awning),
        )


def _road(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    g = stage.ground
    band(
        canvas,
        3.0,
        g(0.1),
        g(0.34),
        (stage.color((196, 192, 190), 0.8, snow=0.9), stage.color((208, 204, 200), snow=0.9)),
    )
    box(canvas, -0.01, g(0.34), 3.01, g(0.37), stage.color((150, 148, 150), snow=0.6))
    asphalt = stage.color((92, 96, 108), snow=0.45)
    band(canvas, 3.0, g(0.37), stage.bottom + 0.05, (asphalt, mix(asphalt, (30, 34, 50), 0.2)))
    for k in range(8):
        x, y = 3.0 * k / 8 + 0.05, g(0.7)
        h = 0.025 * stage.depth / 0.4
        dash = polygon([(x, y), (x + 0.2, y), (x + 0.18, y + h), (x - 0.025, y + h)])
        canvas.drawPath(dash, fill(stage.color((250, 240, 200), snow=0.3)))


def _lamps(row: float, count: int) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        for x in scatter(rng, 3.0, count, 0.2):
            y, h = stage.ground(row), 0.42 * stage.tall
            post = stage.color((62, 66, 80))
            canvas.drawLine(x, y, x, y - h, stroke(post, 0.016))
            oval(
                canvas,
                (x, y - h - 0.02),
                0.028,
                0.028,
                fill(mix(stage.color((240, 236, 220)), GLOW, stage.light.lamps)),
            )
            if stage.light.lamps:
                glow(canvas, x, y - h - 0.02, 0.05, stage.light.lamps)

    return draw


def _hydrants(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for k, x in enumerate(scatter(rng, 3.0, 4, 0.4)):
        y = stage.ground(1.06)
        if k % 2:
            canvas.drawLine(x, y, x, y - 0.13, stroke(stage.color((200, 60, 56), snow=0.2), 0.06))
            oval(canvas, (x, y - 0.15), 0.045, 0.03, fill(stage.color((226, 84, 76), snow=0.9)))
        else:
            box(canvas, x - 0.12, y - 0.1, x + 0.12, y, stage.color((122, 96, 80)))
            for dx in (-0.08, 0.0, 0.08):
                oval(canvas, (x + dx, y - 0.12), 0.06, 0.05, fill(stage.color((70, 150, 84), snow=0.7)))


def _church(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for x in scatter(rng, 3.0, 2, 0.4):
        y, t = stage.ground(0.03), stage.tall
        wall, roof = stage.color((234, 226, 212), 0.65), stage.color((110, 100, 130), 0.65, snow=0.85)
        box(canvas, x - 0.05, y - 0.3 * t, x + 0.05, y, wall)
        canvas.drawPath(polygon([(x - 0.062, y - 0.3 * t), (x, y - 0.48 * t), (x + 0.062, y - 0.3 * t)]), fill(roof))
        box(canvas, x + 0.05, y - 0.16 * t, x + 0.22, y, wall)
        shape = [
            (x + 0.04, y - 0.16 * t),
            (x + 0.07, y - 0.24 * t),
            (x + 0.2, y - 0.24 * t),
            (x + 0.23, y - 0.16 * t),
        ]
        canvas.drawPath(polygon(shape), fill(roof))
        oval(canvas, (x, y - 0.24 * t), 0.016, 0.024, fill(pane(stage, (90, 110, 150), 0.7, True)))


def _cottages(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    walls: tuple[Color, ...] = ((246, 236, 214), (250, 220, 180), (226, 214, 226), (214, 230, 222))
    for x in scatter(rng, 3.0, 6, 0.35):
        y, t, w = stage.ground(0.13), stage.tall, rng.uniform(0.13, 0.16)
        h = rng.uniform(0.15, 0.19) * t
        wall, roof = (
            stage.color(rng.choice(walls)),
            stage.color(rng.choice(((204, 88, 66), (184, 74, 70), (190, 110, 70))), snow=0.9),
        )
        box(canvas, x + 0.5 * w, y - h - 0.15 * t, x + 0.72 * w, y - h, stage.color((150, 96, 84)))
        box(canvas, x - w, y - h, x + w, y, wall)
        canvas.drawPath(
            polygon(
                [
                    (x - 1.2 * w, y - h),
                    (x - 0.55 * w, y - h - 0.15 * t),
                    (x + 0.55 * w, y - h - 0.15 * t),
                    (x + 1.2 * w, y - h),
                ]
            ),
            fill(roof),
        )
        box(canvas, x - 0.17 * w, y - 0.62 * h, x + 0.17 * w, y, stage.color((122, 82, 60)))
        for dx in (-0.6, 0.6):
            cx, cy = x + dx * w, y - 0.55 * h
            box(
                canvas,
                cx - 0.2 * w,
                cy - 0.2 * h,
                cx + 0.2 * w,
                cy + 0.2 * h,
                pane(stage, (150, 200, 230), 1.0, True),
            )
            canvas.drawLine(cx, cy - 0.2 * h, cx, cy + 0.2 * h, stroke(wall, 0.008))
            box(
                canvas,
                cx - 0.24 * w,
                cy + 0.2 * h,
                cx + 0.24 * w,
                cy + 0.27 * h,
                stage.color((214, 90, 110), snow=0.6),
            )


def _fence(row: float) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        y, t, wood = stage.ground(row), stage.tall, stage.color((250, 246, 236), snow=0.5)
        for low in (0.03, 0.065):
            band(canvas, 3.0, y - low * t - 0.008, y - low * t + 0.008, (wood, wood))
        for k in range(40):
            x = 3.0 * (k + 0.5) / 40
            picket = [
                (x - 0.014, y),
                (x - 0.014, y - 0.08 * t),
                (x, y - 0.1 * t),
                (x + 0.014, y - 0.08 * t),
                (x + 0.014, y),
            ]
            canvas.drawPath(polygon(picket), fill(wood))

    return draw


def _path(color: Color) -> Draw:
    def draw(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
        g = stage.ground
        band(
            canvas,
            3.0,
            g(0.48),
            g(0.92),
            (stage.color(color, 0.9, snow=0.75), stage.color(mix(color, (120, 90, 70), 0.2), snow=0.75)),
        )
        for x in scatter(rng, 3.0, 26, 0.9):
            oval(
                canvas,
                (x, g(rng.uniform(0.52, 0.88))),
                0.016,
                0.006,
                fill(stage.color((178, 156, 122), snow=0.5)),
            )

    return draw


def _hedge(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    y = stage.ground(0.09)
    for x in scatter(rng, 3.0, 24, 0.4):
        r = rng.uniform(0.07, 0.09)
        oval(canvas, (x, y - 0.02), r, 0.065 * stage.tall, fill(stage.color((62, 138, 78), 0.8, snow=0.4)))
        oval(
            canvas,
            (x - 0.02, y - 0.045 * stage.tall),
            0.6 * r,
            0.03 * stage.tall,
            fill(stage.color((104, 172, 90), 0.8, snow=0.95)),
        )


def _benches(canvas: skia.Canvas, stage: Stage, rng: random.Random) -> None:
    for k, x in enumerate(scatter(rng, 3.0, 5, 0.3)):
        y, t = stage.ground(0.34), stage.tall
        if k % 2:
            stone, wet = stage.color((196, 196, 204), snow=0.6), stage.color((130, 206, 236))
            oval(canvas, (x, y), 0.15, 0.05, fill(stone))
            oval(canvas, (x, y - 0.012), 0.125, 0.034, fill(wet))
            box(canvas, x - 0.015, y - 0.15 * t, x + 0.015, y, stone)
            oval(canvas, (x, y - 0.14 * t), 0.065, 0.02, fill(stone))
            for s in (-1, 1):
                jet = blob([(x, y - 0.16 * t), (x + 0.05 * s, y - 0.22 * t), (x + 0.1 * s, y - 0.02)], closed=False)
                canvas.drawPath(jet, stroke(mix(wet, WHITE, 0.5), 0.01, 0.9))
            continue
        wood, iron = stage.color((168, 108, 66), snow=0.3), stage.color((60, 62, 74))
        for dx in (-0.1, 0.1):
            canvas.drawLine(x + dx, y, x + dx, y - 0.14 * t, stroke(iron, 0.014))
        for dy in (0.06, 0.1, 0.135):
            box(canvas, x - 0.13, y - dy * t - 0.012, x + 0.13, y - dy * t + 0.01, wood)


PLACES: dict[str, Callable[[Stage], list[Layer]]] = {
    "forest": places.forest,
    "meadow": places.meadow,
    "beach": shores.beach,
    "desert": places.desert,
    "mountains": places.mountains,
    "city": city,
    "village": village,
    "lake": shores.lake,
    "park": park,
    "snowfield": places.snowfield,
    "moon": places.moon,
    "room": room,
    "underwater": shores.underwater,
}
