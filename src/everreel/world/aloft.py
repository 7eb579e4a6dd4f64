"""The airplane and the hot-air balloon.

y = 0 is the bottom of the body: the wheels or the basket. The invariant: propeller and roll end a cycle in a
position that looks like the first.
"""

from __future__ import annotations

import math

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
    polygon,
    stroke,
)

GLASS: Color = (190, 226, 242)
GLASS_LOW: Color = (126, 180, 212)
STEEL: Color = (196, 202, 212)
INK: Color = (44, 44, 56)
WICKER: Color = (186, 132, 76)
WICKER_LINE: Color = (104, 66, 38)


# Airplane


def _airplane(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    roll = 2 * math.pi * pose.phase if pose.action == "spins" else 0.0
    canvas.save()
    if pose.action == "flies":
        canvas.translate(0.0, 0.02 * pose.wave())
        canvas.rotate(-2.0 + 2.0 * pose.wave(0.2) if pose.view == "side" else 3.0 * pose.wave(0.2), 0.0, -0.45)
        roll = 0.12 * pose.wave(0.4)
    elif pose.action == "stays":
        canvas.translate(0.0, 0.005 * pose.wave(0.0, 4))  # the engine idles
    if pose.view == "side":
        _plane_side(canvas, pose, palette, roll)
    else:
        canvas.rotate(math.degrees(roll) if pose.action == "spins" else 0.0, 0.0, -0.42)
        _plane_end(canvas, pose, palette, pose.view == "back")
    canvas.restore()


def _plane_side(canvas: skia.Canvas, pose: Pose, palette: Palette, roll: float) -> None:
    upright = math.cos(roll)
    axis = -0.42
    # The wing is seen a little from above, hence the angle it has at rest.
    near, far = math.sin(roll + 0.3), -math.sin(roll + 0.14)
    _wing(canvas, palette, axis + 0.04 * upright, far * 0.7, mix(palette.main, palette.dark, 0.8))
    _gear(canvas, pose)
    fin = polygon(
        [
            (-0.6, axis),
            (-0.86, axis - 0.54 * upright),
            (-0.66, axis - 0.54 * upright),
            (-0.3, axis - 0.1 * upright),
        ]
    )
    outlined(canvas, fin, fill(mix(palette.main, palette.dark, 0.35)), palette.line, 0.024)
    canvas.drawLine(-0.83, axis - 0.42 * upright, -0.6, axis - 0.42 * upright, stroke(palette.light, 0.05))
    _fuselage(canvas, palette, axis, upright)
    tail = polygon(
        [
            (-0.62, axis - 0.04),
            (-0.8, axis - 0.04 + 0.2 * near),
            (-0.94, axis - 0.04 + 0.2 * near),
            (-0.86, axis - 0.04),
        ]
    )
    outlined(canvas, tail, fill(palette.main), palette.line, 0.02)
    _wing(canvas, palette, axis + 0.09 * upright, near, palette.main)
    nose = (
        skia.PathBuilder()
        .moveTo(0.76, axis - 0.08)
        .quadTo(0.9, axis - 0.02, 0.9, axis)
        .quadTo(0.9, axis + 0.04, 0.76, axis + 0.1)
    )
    outlined(canvas, nose.close().detach(), fill(STEEL), palette.line, 0.018)
    _propeller_side(canvas, pose, axis)


def _fuselage(canvas: skia.Canvas, palette: Palette, axis: float, upright: float) -> None:
    body = skia.PathBuilder().moveTo(-0.9, axis - 0.06).cubicTo(-0.5, axis - 0.2, -0.2, axis - 0.27, 0.2, axis - 0.25)
    body.cubicTo(0.55, axis - 0.24, 0.76, axis - 0.16, 0.78, axis).cubicTo(
        0.76, axis + 0.2, 0.4, axis + 0.24, 0.1, axis + 0.22
    )
    body.cubicTo(-0.3, axis + 0.2, -0.6, axis + 0.1, -0.9, axis + 0.03).close()
    shape = body.detach()
    if upright > 0:
        _canopy(canvas, palette, axis, upright)
    shade = gradient(
        mix(palette.main, palette.light, 0.15), mix(palette.main, palette.dark, 0.5), axis - 0.25, axis + 0.24
    )
    outlined(canvas, shape, shade, palette.line, 0.024)
    canvas.save()
    canvas.clipPath(shape, True)
    stripe = skia.PathBuilder().moveTo(-0.9, axis + 0.02).quadTo(0.0, axis + 0.08 * upright, 0.8, axis + 0.04 * upright)
    canvas.drawPath(stripe.detach(), stroke(palette.light, 0.045))
    canvas.restore()
    for x in (-0.42, -0.24, -0.06):
        oval(canvas, (x, axis - 0.07 * upright), 0.045, 0.045, fill(GLASS))
        oval(canvas, (x, axis - 0.07 * upright), 0.045, 0.045, stroke(palette.line, 0.016))


def _canopy(canvas: skia.Canvas, palette: Palette, axis: float, upright: float) -> None:
    dome = (
        skia.PathBuilder()
        .moveTo(0.0, axis - 0.2)
        .cubicTo(0.06, axis - 0.2 - 0.26 * upright, 0.36, axis - 0.2 - 0.22 * upright, 0.52, axis - 0.2)
    )
    shape = dome.close().detach()
    outlined(canvas, shape, gradient(GLASS, GLASS_LOW, axis - 0.42, axis - 0.2), palette.line, 0.022)
    canvas.drawLine(0.27, axis - 0.22, 0.24, axis - 0.2 - 0.18 * upright, stroke(palette.line, 0.018))
    canvas.drawLine(0.1, axis - 0.24, 0.15, axis - 0.2 - 0.13 * upright, stroke((255, 255, 255), 0.022, 0.8))


def _wing(canvas: skia.Canvas, palette: Palette, y: float, reach: float, color: Color) -> None:
    tip = y + 0.62 * reach
    wing = skia.PathBuilder().moveTo(0.36, y).lineTo(0.06, tip).quadTo(-0.04, tip + 0.03, -0.16, tip).lineTo(-0.06, y)
    shape = wing.close().detach()
    outlined(canvas, shape, fill(color), palette.line, 0.022)
    if abs(reach) > 0.2:
        mid = y + 0.45 * reach
        canvas.drawLine(-0.1, mid, 0.13, mid, stroke(palette.light, 0.035))


def _gear(canvas: skia.Canvas, pose: Pose) -> None:
    """Wheels on their legs; they fold for a roll."""
    if pose.action == "spins":
        return
    for x, size in ((0.32, 0.085), (-0.66, 0.05)):
        canvas.drawLine(x - 0.03, -0.3, x, -size, stroke(INK, 0.034))
        oval(canvas, (x, -size), size, size, fill(INK))
        oval(canvas, (x, -size), size * 0.45, size * 0.45, fill(STEEL))


def _propeller_side(canvas: skia.Canvas, pose: Pose, axis: float) -> None:
    runs = pose.action != "stays"
    if runs:
        oval(canvas, (0.88, axis), 0.035, 0.33, fill((240, 244, 248), 0.55))
    # Seen from its edge a turning blade only grows and shrinks; three cycles of it are whole turns.
    long = 0.3 * (abs(math.cos(6 * math.pi * pose.phase)) if runs else 1.0)
    canvas.drawLine(0.885, axis - long, 0.885, axis + long, stroke(INK, 0.034))
    oval(canvas, (0.9, axis), 0.035, 0.045, fill(INK))


def _plane_end(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool) -> None:
    axis = -0.42
    if back:
        _propeller_end(canvas, pose, axis)
    if pose.action != "spins":
        for side in (-1, 1):
            canvas.drawLine(0.12 * side, -0.3, 0.2 * side, -0.06, stroke(INK, 0.03))
            canvas.drawRoundRect(
                skia.Rect.MakeLTRB(0.2 * side - 0.035, -0.17, 0.2 * side + 0.035, 0.0), 0.03, 0.03, fill(INK)
            )
    fin = polygon([(-0.03, axis - 0.1), (-0.018, axis - 0.54), (0.018, axis - 0.54), (0.03, axis - 0.1)])
    tail = polygon([(-0.34, axis - 0.2), (0.34, axis - 0.2), (0.3, axis - 0.14), (-0.3, axis - 0.14)])
    paint = fill(mix(palette.main, palette.dark, 0.35))
    if not back:
        outlined(canvas, fin, paint, palette.line, 0.02)
        outlined(canvas, tail, paint, palette.line, 0.02)
    shape = _wing_end(axis)
    outlined(canvas, shape, gradient(palette.main, palette.dark, axis - 0.1, axis + 0.18), palette.line, 0.024)
    for side in (-1, 1):
        canvas.drawLine(0.7 * side, axis - 0.055, 0.7 * side, axis + 0.03, stroke(palette.light, 0.06))
    if back:
        _canopy_end(canvas, palette, axis)
    shade = gradient(
        mix(palette.main, palette.light, 0.15), mix(palette.main, palette.dark, 0.5), axis - 0.25, axis + 0.24
    )
    oval(canvas, (0.0, axis), 0.25, 0.24, shade)
    oval(canvas, (0.0, axis), 0.25, 0.24, stroke(palette.line, 0.024))
    if back:
        outlined(canvas, tail, fill(palette.main), palette.line, 0.02)
        outlined(canvas, fin, fill(palette.main), palette.line, 0.02)
        return
    _canopy_end(canvas, palette, axis)
    oval(canvas, (0.0, axis + 0.02), 0.17, 0.16, fill(palette.light))
    oval(canvas, (0.0, axis + 0.02), 0.17, 0.16, stroke(palette.line, 0.018))
    _propeller_end(canvas, pose, axis)


def _wing_end(axis: float) -> skia.Path:
    wing = (
        skia.PathBuilder()
        .moveTo(0.0, axis + 0.03)
        .lineTo(0.88, axis - 0.08)
        .quadTo(0.97, axis - 0.07, 0.9, axis - 0.01)
    )
    wing.lineTo(0.0, axis + 0.18).lineTo(-0.9, axis - 0.01).quadTo(-0.97, axis - 0.07, -0.88, axis - 0.08)
    return wing.close().detach()


def _canopy_end(canvas: skia.Canvas, palette: Palette, axis: float) -> None:
    dome = (
        skia.PathBuilder().moveTo(-0.17, axis - 0.15).cubicTo(-0.16, axis - 0.44, 0.16, axis - 0.44, 0.17, axis - 0.15)
    )
    shape = dome.quadTo(0.0, axis - 0.22, -0.17, axis - 0.15).close().detach()
    outlined(canvas, shape, gradient(GLASS, GLASS_LOW, axis - 0.4, axis - 0.18), palette.line, 0.022)
    canvas.drawLine(-0.07, axis - 0.24, -0.04, axis - 0.32, stroke((255, 255, 255), 0.024, 0.8))


def _propeller_end(canvas: skia.Canvas, pose: Pose, axis: float) -> None:
    runs = pose.action != "stays"
    centre: Point = (0.0, axis + 0.02)
    if runs:
        oval(canvas, centre, 0.36, 0.36, fill((244, 248, 250), 0.2))
        oval(canvas, centre, 0.36, 0.36, stroke((250, 252, 252), 0.012, 0.5))
    turn = 360.0 * 1.5 * pose.phase if runs else 20.0
    for half in (0.0, 180.0):
        a = math.radians(turn + half)
        tip = (centre[0] + 0.2 * math.cos(a), centre[1] + 0.2 * math.sin(a))
        oval(canvas, tip, 0.17, 0.035, fill(INK), turn=turn)
    oval(canvas, centre, 0.055, 0.055, fill(STEEL))
    oval(canvas, centre, 0.055, 0.055, stroke(INK, 0.018))


AIRPLANE = Puppet(
    _airplane,
    width=1.9,
    head=(0.42, -0.5),
    head_size=0.7,
    front_head=(0.0, -0.45),
    floats=True,
    actions=("flies", "spins", "stays"),
)


# Balloon


def _balloon(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    flies = pose.action == "flies"
    canvas.save()
    canvas.translate(0.0, (0.03 if flies else 0.006) * pose.wave())
    canvas.rotate((2.4 if flies else 0.8) * pose.wave(0.25), 0.0, -0.95)
    ropes = skia.PathBuilder()
    for x in (-1, 1):
        ropes.moveTo(0.085 * x, -0.16).lineTo(0.12 * x, -0.34).moveTo(0.05 * x, -0.16).lineTo(0.05 * x, -0.34)
    canvas.drawPath(ropes.detach(), stroke(WICKER_LINE, 0.012))
    _burner(canvas, pose)
    shape = _envelope(1.0)
    canvas.drawPath(shape, fill(palette.main))
    canvas.save()
    canvas.clipPath(shape, True)
    _gores(canvas, palette)
    canvas.restore()
    canvas.drawPath(shape, stroke(palette.line, 0.02))
    skirt = polygon([(-0.1, -0.335), (0.1, -0.335), (0.085, -0.29), (-0.085, -0.29)])
    outlined(canvas, skirt, fill(palette.dark), palette.line, 0.014)
    _basket(canvas)
    canvas.restore()


def _envelope(wide: float) -> skia.Path:
    """The bag, or a meridian of it when `wide` is between -1 and 1."""
    r = 0.345 * wide
    bag = skia.PathBuilder().moveTo(0.0, -0.99).cubicTo(r * 0.75, -0.99, r * 1.05, -0.84, r * 1.05, -0.7)
    bag.cubicTo(r * 1.05, -0.56, 0.13 * wide, -0.45, 0.1 * wide, -0.335)
    bag.lineTo(-0.1 * wide, -0.335).cubicTo(-0.13 * wide, -0.45, -r * 1.05, -0.56, -r * 1.05, -0.7)
    return bag.cubicTo(-r * 1.05, -0.84, -r * 0.75, -0.99, 0.0, -0.99).close().detach()


def _gores(canvas: skia.Canvas, palette: Palette) -> None:
    """Stripes from crown to skirt: nested meridians, the outer ones darker as on a round bag."""
    for share, color in (
        (1.0, mix(palette.main, palette.dark, 0.55)),
        (0.86, palette.main),
        (0.66, palette.light),
        (0.44, palette.main),
        (0.17, mix(palette.main, palette.light, 0.25)),
    ):
        canvas.drawPath(_envelope(share), fill(color))
    for share in (0.86, 0.66, 0.44, 0.17):
        canvas.drawPath(_envelope(share), stroke(palette.line, 0.008, 0.5))
    band = skia.PathBuilder().moveTo(-0.4, -0.6).quadTo(0.0, -0.5, 0.4, -0.6).detach()
    canvas.drawPath(band, stroke(palette.dark, 0.045))
    oval(canvas, (-0.15, -0.86), 0.07, 0.035, fill((255, 255, 255), 0.45), turn=-38)


def _burner(canvas: skia.Canvas, pose: Pose) -> None:
    """The flame: it burns in the rising half of a cycle."""
    burn = max(0.0, pose.wave(0.0)) if pose.action == "flies" else max(0.0, pose.wave(0.0)) * 0.5
    if burn > 0.05:
        for color, size in (((255, 150, 60), 1.0), ((255, 232, 140), 0.55)):
            flame = (
                skia.PathBuilder()
                .moveTo(-0.03 * size, -0.22)
                .quadTo(-0.035 * size, -0.27, 0.0, -0.22 - 0.12 * burn * size)
            )
            canvas.drawPath(flame.quadTo(0.035 * size, -0.27, 0.03 * size, -0.22).close().detach(), fill(color))
    canvas.drawLine(-0.03, -0.21, 0.03, -0.21, stroke(STEEL, 0.028))


def _basket(canvas: skia.Canvas) -> None:
    basket = (
        skia.PathBuilder()
        .moveTo(-0.11, -0.165)
        .lineTo(0.11, -0.165)
        .lineTo(0.095, -0.02)
        .quadTo(0.0, 0.0, -0.095, -0.02)
    )
    shape = basket.close().detach()
    outlined(canvas, shape, gradient(WICKER, mix(WICKER, WICKER_LINE, 0.5), -0.16, 0.0), WICKER_LINE, 0.016)
    weave = skia.PathBuilder()
    for y in (-0.12, -0.08, -0.04):
        weave.moveTo(-0.095, y).lineTo(0.095, y)
    for x in (-0.05, 0.0, 0.05):
        weave.moveTo(x, -0.15).lineTo(x, -0.02)
    canvas.drawPath(weave.detach(), stroke(WICKER_LINE, 0.01, 0.6))
    canvas.drawLine(-0.115, -0.165, 0.115, -0.165, stroke(WICKER_LINE, 0.03))


BALLOON = Puppet(
    _balloon,
    width=0.73,
    head=(0.0, -0.66),
    head_size=0.72,
    front_head=(0.0, -0.66),
    floats=True,
    actions=("flies", "stays"),
)
