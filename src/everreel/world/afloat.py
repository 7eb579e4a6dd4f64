"""The boat and the ball.

The boat's water line is y = 0. The ball is a true sphere: its patches are turned in space and projected, so
it rolls, spins and comes towards the viewer with one pattern. The invariant: each cycle is whole turns.
"""

from __future__ import annotations

import math
from operator import itemgetter

import skia

from everreel.world.puppet import (
    Color,
    Palette,
    Point,
    Pose,
    Puppet,
    fill,
    gradient,
    mix,
    outlined,
    oval,
    stroke,
)

WOOD: Color = (150, 104, 66)
WOOD_LINE: Color = (86, 56, 38)
CANVAS: Color = (252, 248, 238)

Vector = tuple[float, float, float]


# Boat


def _boat(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    swims = pose.action == "swims"
    canvas.save()
    canvas.translate(0.0, (0.02 if swims else 0.008) * pose.wave(0.25))
    canvas.rotate((4.5 if swims else 1.4) * pose.wave(), 0.0, 0.0)
    if pose.view == "side":
        _boat_side(canvas, pose, palette)
    else:
        _boat_end(canvas, pose, palette, pose.view == "back")
    canvas.restore()
    _waves(canvas, pose, 0.62 if pose.view == "side" else 0.34)


def _boat_side(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    fill_of = 0.02 * pose.wave(0.1, 2)
    canvas.drawLine(-0.06, -0.2, -0.06, -0.97, stroke(WOOD_LINE, 0.045))
    canvas.drawLine(-0.06, -0.2, -0.06, -0.97, stroke(WOOD, 0.026))
    sail = skia.PathBuilder().moveTo(-0.09, -0.93).quadTo(-0.42 - fill_of, -0.62, -0.6, -0.3)
    main = sail.quadTo(-0.3, -0.27 + fill_of, -0.09, -0.3).close().detach()
    outlined(
        canvas,
        main,
        gradient(palette.main, mix(palette.main, palette.dark, 0.2), -0.9, -0.3),
        palette.line,
        0.02,
    )
    canvas.save()
    canvas.clipPath(main, True)
    band = skia.PathBuilder().moveTo(-0.7, -0.51).quadTo(-0.3, -0.47, 0.0, -0.53).detach()
    canvas.drawPath(band, stroke(palette.light, 0.07))
    canvas.restore()
    jib = skia.PathBuilder().moveTo(-0.02, -0.88).quadTo(0.26 + fill_of, -0.66, 0.5, -0.29)
    outlined(canvas, jib.quadTo(0.2, -0.33, -0.02, -0.3).close().detach(), fill(CANVAS), palette.line, 0.02)
    flag = skia.PathBuilder().moveTo(-0.06, -0.99).quadTo(-0.13, -0.985 + fill_of, -0.21, -0.95 - fill_of)
    outlined(canvas, flag.lineTo(-0.06, -0.92).close().detach(), fill(palette.main), palette.line, 0.014)
    hull = (
        skia.PathBuilder()
        .moveTo(-0.64, -0.2)
        .quadTo(0.1, -0.15, 0.72, -0.27)
        .cubicTo(0.66, -0.06, 0.55, 0.09, 0.4, 0.1)
    )
    shape = hull.lineTo(-0.42, 0.1).cubicTo(-0.56, 0.08, -0.62, -0.08, -0.64, -0.2).close().detach()
    outlined(
        canvas,
        shape,
        gradient(palette.main, mix(palette.main, palette.dark, 0.5), -0.2, 0.08),
        palette.line,
        0.024,
    )
    canvas.save()
    canvas.clipPath(shape, True)
    rail = skia.PathBuilder().moveTo(-0.66, -0.135).quadTo(0.1, -0.085, 0.74, -0.2).detach()
    canvas.drawPath(rail, stroke(palette.light, 0.035))
    canvas.restore()
    for x in (-0.3, 0.0, 0.3):
        oval(canvas, (x, -0.035), 0.04, 0.04, fill((214, 236, 244)))
        oval(canvas, (x, -0.035), 0.04, 0.04, stroke(palette.line, 0.016))


def _boat_end(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool) -> None:
    _sails_end(canvas, pose, palette, 1 if back else -1)
    top = -0.2 if back else -0.24
    hull = skia.PathBuilder().moveTo(-0.36, top).quadTo(0.0, top + (0.03 if back else -0.05), 0.36, top)
    shape = (
        hull.cubicTo(0.35, -0.02, 0.22, 0.1, 0.0, 0.11).cubicTo(-0.22, 0.1, -0.35, -0.02, -0.36, top).close().detach()
    )
    outlined(
        canvas,
        shape,
        gradient(palette.main, mix(palette.main, palette.dark, 0.5), -0.2, 0.1),
        palette.line,
        0.024,
    )
    canvas.save()
    canvas.clipPath(shape, True)
    rail = skia.PathBuilder().moveTo(-0.4, top + 0.065).quadTo(0.0, top + (0.1 if back else 0.02), 0.4, top + 0.065)
    canvas.drawPath(rail.detach(), stroke(palette.light, 0.035))
    canvas.restore()
    if back:
        canvas.drawLine(0.0, -0.12, 0.0, 0.08, stroke(WOOD_LINE, 0.06))
        canvas.drawLine(0.0, -0.12, 0.0, 0.08, stroke(WOOD, 0.036))
    else:
        stem = skia.PathBuilder().moveTo(0.0, top - 0.02).quadTo(0.015, -0.06, 0.0, 0.1).detach()
        canvas.drawPath(stem, stroke(palette.line, 0.024))


def _sails_end(canvas: skia.Canvas, pose: Pose, palette: Palette, side: int) -> None:
    """Mast, sails and flag from the bow or the stern; the mainsail is on `side`."""
    fill_of = 0.015 * pose.wave(0.1, 2)
    canvas.drawLine(0.0, -0.2, 0.0, -0.97, stroke(WOOD_LINE, 0.045))
    canvas.drawLine(0.0, -0.2, 0.0, -0.97, stroke(WOOD, 0.026))
    sail = skia.PathBuilder().moveTo(0.02 * side, -0.94).quadTo((0.28 + fill_of) * side, -0.6, 0.3 * side, -0.3)
    main = sail.quadTo(0.15 * side, -0.26, 0.02 * side, -0.3).close().detach()
    outlined(
        canvas,
        main,
        gradient(palette.main, mix(palette.main, palette.dark, 0.2), -0.9, -0.3),
        palette.line,
        0.02,
    )
    canvas.save()
    canvas.clipPath(main, True)
    canvas.drawLine(-0.4, -0.5, 0.4, -0.5, stroke(palette.light, 0.07))
    canvas.restore()
    jib = skia.PathBuilder().moveTo(0.02 * -side, -0.88).quadTo((0.2 + fill_of) * -side, -0.6, 0.22 * -side, -0.28)
    outlined(
        canvas,
        jib.quadTo(0.1 * -side, -0.26, 0.02 * -side, -0.3).close().detach(),
        fill(CANVAS),
        palette.line,
        0.02,
    )
    flag = skia.PathBuilder().moveTo(0.0, -0.99).quadTo(0.08 * side, -0.985 + fill_of, 0.14 * side, -0.95 - fill_of)
    outlined(canvas, flag.lineTo(0.0, -0.92).close().detach(), fill(palette.main), palette.line, 0.014)


def _waves(canvas: skia.Canvas, pose: Pose, half: float) -> None:
    """Foam along the hull, which hides where it enters the water."""
    strength = 0.85 if pose.action == "swims" else 0.55
    path = skia.PathBuilder().moveTo(-half, 0.04)
    steps = 8
    for i in range(steps):
        x0, x1 = -half + 2 * half * i / steps, -half + 2 * half * (i + 1) / steps
        crest = 0.02 + 0.03 * math.sin(2 * math.pi * (pose.phase - i / 4))
        path.quadTo((x0 + x1) / 2, 0.05 - crest, x1, 0.05)
    path.quadTo(half * 0.5, 0.1, 0.0, 0.1).quadTo(-half * 0.5, 0.1, -half, 0.04).close()
    canvas.drawPath(path.detach(), fill((255, 255, 255), strength * 0.8))


BOAT = Puppet(
    _boat,
    width=1.36,
    head=(0.3, -0.3),
    head_size=0.7,
    front_head=(0.0, -0.35),
    floats=True,
    actions=("swims", "stays"),
)


# Ball

RADIUS = 0.5


def _unit(v: Vector) -> Vector:
    n = math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    return (v[0] / n, v[1] / n, v[2] / n)


def _patches() -> list[tuple[Vector, list[Vector]]]:
    """The twelve patches of a football: centre and five corners of each, on the unit sphere."""
    golden = (1 + math.sqrt(5)) / 2
    raw = [(0.0, a, b * golden) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    centres = [_unit(p) for x, y, z in raw for p in ((x, y, z), (y, z, x), (z, x, y))]
    return [(centre, _corners(centre, centres)) for centre in centres]


def _corners(centre: Vector, centres: list[Vector]) -> list[Vector]:
    """A patch's corners: a share of the way to each of the five nearest centres, in order around it."""
    near = sorted(((-_dot(v, centre), v) for v in centres), key=itemgetter(0))[1:6]
    u = _unit(_cross((0.0, 0.0, 1.0) if abs(centre[2]) < 0.9 else (1.0, 0.0, 0.0), centre))
    w = _cross(centre, u)
    around = sorted((math.atan2(_dot(v, w), _dot(v, u)), v) for _, v in near)
    return [_unit(_between(centre, v, 0.36)) for _, v in around]


def _between(a: Vector, b: Vector, share: float) -> Vector:
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


_PATCHES = _patches()


def _ball(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    height, squash, roll = _ball_motion(pose)
    canvas.save()
    canvas.translate(0.0, -height)
    canvas.scale(1.0 / math.sqrt(squash), squash)
    canvas.translate(0.0, -RADIUS)
    _sphere(canvas, palette, pose, roll)
    canvas.restore()


def _ball_motion(pose: Pose) -> tuple[float, float, float]:
    """Height over the ground, vertical scale, and turns of the pattern."""
    p = pose.phase
    if pose.action == "bounces":
        return _leap(p, 0.12, 1.2, 0.26)
    if pose.action == "jumps":
        return _leap(p, 0.4, 0.7, 0.2)
    if pose.action == "spins":
        return 0.0, 1.0, p
    if pose.action in ("runs", "walks"):
        return 0.025 * abs(pose.wave()) if pose.action == "runs" else 0.0, 1.0, p
    return 0.0, 1.0 + 0.012 * pose.wave(), 0.012 * pose.wave(0.25)


def _leap(p: float, ground: float, top: float, squeeze: float) -> tuple[float, float, float]:
    """Rest on the ground for a share `ground` of the cycle, pressed flat midway, then fly a parabola."""
    half = ground / 2
    if p < half or p > 1 - half:
        near = (p if p < half else p - 1) / half
        return 0.0, 1.0 - squeeze * math.cos(near * math.pi / 2) ** 2, 0.0
    u = (p - half) / (1 - ground)
    speed = abs(2 * u - 1)
    stretch = 0.14 * speed * math.sin(math.pi * min(1.0, min(u, 1 - u) * 8) / 2)
    return top * 4 * u * (1 - u), 1.0 + stretch, u * u * (3 - 2 * u)


def _turn(pose: Pose, roll: float, v: Vector) -> Vector:
    """A point of the ball after `roll` turns about the axis of its action, tilted towards the viewer."""
    a = 2 * math.pi * roll
    c, s = math.cos(a), math.sin(a)
    x, y, z = v
    if pose.action == "spins":
        x, z = c * x + s * z, c * z - s * x
    elif pose.view == "side":
        x, y = c * x - s * y, s * x + c * y
    else:
        s = s if pose.view == "front" else -s
        y, z = c * y + s * z, c * z - s * y
    tilt, lean = 0.36, 0.25
    y, z = y * math.cos(tilt) + z * math.sin(tilt), z * math.cos(tilt) - y * math.sin(tilt)
    return (x * math.cos(lean) - y * math.sin(lean), x * math.sin(lean) + y * math.cos(lean), z)


def _sphere(canvas: skia.Canvas, palette: Palette, pose: Pose, roll: float) -> None:
    shade = skia.GradientShader.MakeRadial(
        (-0.16, -0.18),
        0.75,
        [
            skia.Color(*mix(palette.main, palette.light, 0.3)),
            skia.Color(*palette.main),
            skia.Color(*palette.dark),
        ],
        [0.0, 0.45, 1.0],
    )
    ball = skia.PathBuilder().addCircle(0.0, 0.0, RADIUS - 0.012).detach()
    canvas.drawPath(ball, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.save()
    canvas.clipPath(ball, True)
    patches, seams = skia.PathBuilder(), skia.PathBuilder()
    for centre, corners in _PATCHES:
        turned = [_turn(pose, roll, v) for v in corners]
        facing = _turn(pose, roll, centre)[2]
        if facing < -0.3:
            continue
        # A corner beyond the rim is drawn on the rim, so a patch slides out of sight instead of popping.
        flat: list[Point] = []
        for x, y, z in turned:
            r = math.hypot(x, y)
            grow = RADIUS * (1.0 if z > 0 or r == 0 else 1.02 / r)
            flat.append((x * grow, y * grow))
        if max(z for _, _, z in turned) > 0:
            patches.moveTo(*flat[0])
            for point in flat[1:]:
                patches.lineTo(*point)
            patches.close()
        for (x, y, z), corner in zip(turned, corners, strict=True):
            away = _unit(_between(centre, corner, 1.62))
            end = _turn(pose, roll, away)
            if z > 0 and end[2] > -0.1:
                seams.moveTo(x * RADIUS, y * RADIUS).lineTo(end[0] * RADIUS, end[1] * RADIUS)
    light = (250, 250, 246) if sum(palette.main) < 660 else (96, 100, 116)
    canvas.drawPath(seams.detach(), stroke(palette.line, 0.016, 0.55))
    shape = patches.detach()
    canvas.drawPath(shape, fill(light))
    canvas.drawPath(shape, stroke(palette.line, 0.018))
    canvas.restore()
    canvas.drawPath(ball, stroke(palette.line, 0.024))
    oval(canvas, (-0.2, -0.27), 0.1, 0.055, fill((255, 255, 255), 0.5), turn=-35)


BALL = Puppet(
    _ball,
    width=1.0,
    head=(0.0, -0.5),
    head_size=1.0,
    front_head=(0.0, -0.5),
    actions=("bounces", "spins", "runs", "jumps", "stays"),
)
