"""The parts animals share: eyes, noses, ears, whiskers, tails that taper.

Heads are drawn in *head space*: the centre of the head is the origin and the head is one unit high, so the same parts
serve every animal at any size. The one invariant: nothing here depends on more than its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import skia

from everreel.world.puppet import Color, Palette, Point, Pose, blob, fill, mix, oval, stroke

INK = 0.04  # the width of an outline in head space
WHITE: Color = (252, 252, 250)
ROSE: Color = (246, 128, 140)


def shiny_eye(canvas: skia.Canvas, at: Point, size: float, palette: Palette, pose: Pose, *, gaze: float = 0.1) -> None:
    """A large eye with two glints; a curved lash line while it blinks."""
    x, y = at
    if pose.blink:
        canvas.drawPath(arc((x - size, y), (x + size, y), size * 0.8), stroke(palette.eye, size * 0.38))
        return
    oval(canvas, at, size * 1.06, size * 1.24, fill(palette.line))
    oval(canvas, at, size * 0.94, size * 1.12, fill(WHITE))
    iris = (x + gaze * size, y + 0.04 * size)
    oval(canvas, iris, size * 0.78, size * 0.98, fill(palette.eye))
    sheen = fill(mix(palette.eye, palette.main, 0.45))
    oval(canvas, (iris[0], iris[1] + 0.45 * size), size * 0.48, size * 0.36, sheen)
    oval(canvas, (iris[0] + 0.26 * size, iris[1] - 0.42 * size), size * 0.32, size * 0.36, fill(WHITE))
    oval(canvas, (iris[0] - 0.3 * size, iris[1] + 0.38 * size), size * 0.15, size * 0.15, fill(WHITE))


def blush(canvas: skia.Canvas, at: Point, size: float) -> None:
    """A rosy cheek."""
    oval(canvas, at, size, size * 0.62, fill(ROSE, 0.4))


def nose(canvas: skia.Canvas, at: Point, rx: float, ry: float, color: Color = (44, 36, 44)) -> None:
    """A soft nose with a glint."""
    oval(canvas, at, rx, ry, fill(color))
    oval(canvas, (at[0] - 0.25 * rx, at[1] - 0.35 * ry), rx * 0.35, ry * 0.28, fill(WHITE, 0.75))


def muzzle_lines(canvas: skia.Canvas, at: Point, width: float, color: Color, ink: float = INK) -> None:
    """The mouth under a nose seen from the front: a short line and two smiles."""
    x, y = at
    drop = width * 0.45
    paint = stroke(color, ink)
    canvas.drawLine(x, y, x, y + drop, paint)
    canvas.drawPath(arc((x - width, y + drop * 0.7), (x, y + drop), width * 0.42), paint)
    canvas.drawPath(arc((x, y + drop), (x + width, y + drop * 0.7), width * 0.42), paint)


def whiskers(canvas: skia.Canvas, at: Point, reach: float, color: Color) -> None:
    """Three whiskers fanning out from a point; a negative reach fans to the left."""
    paint = stroke(color, 0.018)
    for k in (-1, 0, 1):
        y = at[1] + 0.05 * k
        canvas.drawLine(at[0], y, at[0] + reach, y + (0.09 * k - 0.02) * abs(reach) / 0.4, paint)


@lru_cache(maxsize=4096)
def arc(a: Point, b: Point, sag: float) -> skia.Path:
    """A curve from a to b that hangs `sag` below the straight line."""
    middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + 2 * sag)
    return skia.PathBuilder().moveTo(*a).quadTo(*middle, *b).detach()


def pointed(base: Point, tip: Point, width: float, bulge: float = 0.16) -> skia.Path:
    """An ear, a feather or a leaf: two bulging sides from a base to a tip."""
    dx, dy = tip[0] - base[0], tip[1] - base[1]
    long = max(math.hypot(dx, dy), 1e-6)
    nx, ny = -dy / long * width / 2, dx / long * width / 2
    left, right = (base[0] + nx, base[1] + ny), (base[0] - nx, base[1] - ny)
    out = 1 + 2 * bulge
    middle = (base[0] + 0.45 * dx, base[1] + 0.45 * dy)
    path = skia.PathBuilder().moveTo(*left)
    path.quadTo(middle[0] + nx * out, middle[1] + ny * out, *tip)
    path.quadTo(middle[0] - nx * out, middle[1] - ny * out, *right)
    return path.close().detach()


def ear(
    canvas: skia.Canvas, base: Point, tip: Point, width: float, outer: Color, inner: Color | None, line: Color
) -> None:
    """A pointed ear with a lighter inside."""
    path = pointed(base, tip, width)
    canvas.drawPath(path, fill(outer))
    canvas.drawPath(path, stroke(line, INK))
    if inner is not None:
        peak = (base[0] + 0.74 * (tip[0] - base[0]), base[1] + 0.74 * (tip[1] - base[1]))
        canvas.drawPath(pointed(base, peak, 0.56 * width), fill(inner))


def round_ear(canvas: skia.Canvas, at: Point, size: float, outer: Color, inner: Color | None, line: Color) -> None:
    """A round ear with a lighter inside."""
    oval(canvas, at, size, size, fill(outer))
    oval(canvas, at, size, size, stroke(line, INK))
    if inner is not None:
        oval(canvas, (at[0], at[1] + 0.1 * size), 0.58 * size, 0.58 * size, fill(inner))


def spine(root: Point, heading: float, bends: Sequence[float], length: float) -> list[Point]:
    """Points of a chain: it starts in direction `heading` (degrees, 0 right, 90 down) and turns by each bend."""
    points = [root]
    piece = length / len(bends)
    for bend in bends:
        heading += bend
        x, y = points[-1]
        points.append((x + piece * math.cos(math.radians(heading)), y + piece * math.sin(math.radians(heading))))
    return points


def taper(points: Sequence[Point], radii: Sequence[float]) -> skia.Path:
    """A closed smooth shape around a chain of points with a radius at each: a tail, a trunk, a neck."""
    left: list[Point] = []
    right: list[Point] = []
    last = len(points) - 1
    for i, (x, y) in enumerate(points):
        a, b = points[max(i - 1, 0)], points[min(i + 1, last)]
        dx, dy = b[0] - a[0], b[1] - a[1]
        long = max(math.hypot(dx, dy), 1e-6)
        nx, ny = -dy / long * radii[i], dx / long * radii[i]
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return blob(left + right[::-1])


def soft(palette: Palette) -> tuple[Color, Color]:
    """The top and bottom colours of a softly shaded body."""
    return mix(palette.main, (255, 250, 236), 0.08), mix(palette.main, palette.dark, 0.35)


def cream(palette: Palette) -> Color:
    """The pale colour of muzzles and chests."""
    return mix(palette.light, (255, 252, 246), 0.5)


def both(points: Sequence[Point]) -> skia.Path:
    """A smooth symmetric shape from its right half, given from the top of the middle line to its bottom."""
    return blob([*points, *((-x, y) for x, y in reversed(points[1:-1]))])


def stroke_twice(canvas: skia.Canvas, points: Sequence[Point], width: float, palette: Palette) -> None:
    """A tail of even width with an outline and a darker tip."""
    path = blob(points, closed=False)
    canvas.drawPath(path, stroke(palette.line, width + 0.034))
    canvas.drawPath(path, stroke(palette.main, width))
    canvas.drawPath(blob(points[-2:], closed=False), stroke(palette.dark, width))


def tuft(canvas: skia.Canvas, at: Point, size: float, color: Color, line: Color) -> None:
    """A round fluffy ball: a rabbit's tail, a bear's tail."""
    oval(canvas, at, size, size, fill(color))
    oval(canvas, at, size, size, stroke(line, 0.018))
