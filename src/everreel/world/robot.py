"""The robot of the film world: a friendly machine on two legs, with a face of light and jets in its boots.

It moves by the same stances as the people. The invariant: its face is a dark screen, so an expression is read
by its glow on any body colour.
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
    joint,
    limb,
    mix,
    outlined,
    oval,
    polygon,
    stroke,
)
from everreel.world.stance import ARM_BONE, HIP, LEG_BONE, SHOULDER, front_stance, side_stance, turned

HEAD: Point = (0.0, -0.8)
SCREEN: Color = (30, 36, 58)
GLOW: Color = (120, 240, 250)
METAL: Color = (128, 136, 150)
METAL_LINE: Color = (64, 70, 86)
GLOWS: dict[str, Color] = {"angry": (255, 110, 90), "sad": (130, 170, 255), "happy": (140, 250, 170)}


def _robot(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    canvas.save()
    view = turned(canvas, pose) if pose.action == "spins" else pose.view
    if view == "side":
        _side(canvas, pose, palette)
    else:
        _front(canvas, pose, palette, view == "back")
    canvas.restore()


def _box(at: Point, rx: float, ry: float) -> skia.Rect:
    return skia.Rect.MakeLTRB(at[0] - rx, at[1] - ry, at[0] + rx, at[1] + ry)


def _plate(canvas: skia.Canvas, at: Point, rx: float, ry: float, corner: float, palette: Palette) -> None:
    """A rounded panel of the body in the main colour, shaded towards the bottom."""
    shade = gradient(palette.main, mix(palette.main, palette.dark, 0.3), at[1], at[1] + ry)
    canvas.drawRoundRect(_box(at, rx, ry), corner, corner, shade)
    canvas.drawRoundRect(_box(at, rx, ry), corner, corner, stroke(palette.line, 0.018))


def _side(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    s = side_stance(pose)
    hip = (0.0, HIP - s.rise + 0.02)
    turn = math.radians(s.lean)
    shoulder = (-math.sin(turn) * (SHOULDER - HIP), hip[1] + math.cos(turn) * (SHOULDER - HIP))
    _arm(canvas, shoulder, s.hands[1], 1, palette)
    for foot in (s.feet[1], s.feet[0]):
        _leg(canvas, hip, foot, -1.0, pose, palette, side=True)
    canvas.save()
    canvas.translate(*hip)
    canvas.rotate(s.lean)
    canvas.translate(0.0, -HIP)
    _plate(canvas, (-0.155, -0.5), 0.045, 0.1, 0.03, palette)
    _plate(canvas, (0.0, -0.48), 0.135, 0.165, 0.06, palette)
    canvas.drawRoundRect(_box((0.085, -0.52), 0.035, 0.06), 0.02, 0.02, fill(palette.light))
    canvas.drawLine(-0.13, -0.385, 0.13, -0.385, stroke(palette.dark, 0.02))
    canvas.rotate(s.nod, 0.0, -0.65)
    limb(canvas, [(0.0, -0.64), (0.0, -0.68)], 0.08, METAL, METAL_LINE)
    _antenna(canvas, pose, palette, -0.03 - 0.3 * s.sway)
    _plate(canvas, HEAD, 0.165, 0.135, 0.07, palette)
    canvas.save()
    canvas.clipRect(skia.Rect.MakeLTRB(0.0, -1.0, 0.165, -0.6), True)
    canvas.drawRoundRect(_box((0.13, -0.795), 0.115, 0.092), 0.05, 0.05, fill(SCREEN))
    canvas.restore()
    canvas.save()
    canvas.translate(0.095, -0.795)
    canvas.scale(0.78, 1.0)
    _face(canvas, pose, (0.0,))
    canvas.restore()
    oval(canvas, (-0.06, -0.8), 0.04, 0.05, fill(METAL))
    oval(canvas, (-0.06, -0.8), 0.04, 0.05, stroke(METAL_LINE, 0.014))
    canvas.restore()
    _arm(canvas, shoulder, s.hands[0], 1, palette)


def _front(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool) -> None:
    s = front_stance(pose)
    for side, foot in zip((-1, 1), s.feet, strict=True):
        _leg(
            canvas,
            (0.08 * side, HIP - s.rise + 0.02),
            (foot[0] + 0.01 * side, foot[1]),
            -0.3 * side,
            pose,
            palette,
        )
    canvas.save()
    canvas.translate(0.0, HIP - s.rise + 0.02)
    canvas.rotate(s.lean)
    canvas.translate(0.0, -HIP)
    for side, hand in zip((-1, 1), s.hands, strict=True):
        _arm(canvas, (0.185 * side, SHOULDER + 0.03), hand, side, palette)
    _plate(canvas, (0.0, -0.48), 0.18, 0.165, 0.06, palette)
    canvas.drawLine(-0.17, -0.385, 0.17, -0.385, stroke(palette.dark, 0.02))
    if back:
        _plate(canvas, (0.0, -0.52), 0.1, 0.09, 0.03, palette)
        for x in (-0.04, 0.0, 0.04):
            canvas.drawLine(x, -0.57, x, -0.47, stroke(palette.line, 0.016))
    else:
        _chest(canvas, pose, palette)
    canvas.rotate(s.nod, 0.0, -0.65)
    limb(canvas, [(0.0, -0.64), (0.0, -0.68)], 0.09, METAL, METAL_LINE)
    _antenna(canvas, pose, palette, -0.5 * s.sway)
    for side in (-1, 1):
        canvas.drawRoundRect(_box((0.19 * side, -0.8), 0.03, 0.05), 0.02, 0.02, fill(METAL))
        canvas.drawRoundRect(_box((0.19 * side, -0.8), 0.03, 0.05), 0.02, 0.02, stroke(METAL_LINE, 0.014))
    _plate(canvas, HEAD, 0.185, 0.135, 0.07, palette)
    if back:
        for y in (-0.84, -0.8, -0.76):
            canvas.drawLine(-0.07, y, 0.07, y, stroke(palette.dark, 0.018))
    else:
        canvas.drawRoundRect(_box((0.0, -0.795), 0.15, 0.097), 0.05, 0.05, fill(SCREEN))
        canvas.translate(0.0, -0.795)
        _face(canvas, pose, (-0.068, 0.068))
    canvas.restore()


def _chest(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    canvas.drawRoundRect(_box((0.0, -0.525), 0.1, 0.065), 0.025, 0.025, fill(palette.light))
    canvas.drawRoundRect(_box((0.0, -0.525), 0.1, 0.065), 0.025, 0.025, stroke(palette.line, 0.012))
    oval(canvas, (-0.05, -0.525), 0.03, 0.03, fill((236, 86, 80)))
    beat = 0.5 + 0.5 * pose.wave()
    for i, x in enumerate((0.01, 0.04, 0.07)):
        top = 0.02 + 0.025 * (beat if i == 1 else 1 - beat)
        canvas.drawLine(x, -0.495, x, -0.495 - top, stroke(palette.line, 0.016))


def _antenna(canvas: skia.Canvas, pose: Pose, palette: Palette, bend: float) -> None:
    canvas.drawLine(0.0, -0.93, bend, -0.97, stroke(METAL_LINE, 0.02))
    on = pose.time % 1.2 < 0.6
    oval(canvas, (bend, -0.98), 0.032, 0.032, fill((255, 96, 84) if on else (206, 60, 60)))
    oval(canvas, (bend, -0.98), 0.032, 0.032, stroke(METAL_LINE, 0.012))


def _arm(canvas: skia.Canvas, shoulder: Point, hand: Point, bend: int, palette: Palette) -> None:
    end = (shoulder[0] + hand[0], shoulder[1] + hand[1])
    elbow = joint(shoulder, end, ARM_BONE, bend)
    limb(canvas, [shoulder, elbow, end], 0.05, METAL, METAL_LINE)
    angle = math.atan2(end[1] - elbow[1], end[0] - elbow[0])
    claw = stroke(METAL_LINE, 0.028)
    for spread in (-0.75, 0.75):
        tip = (end[0] + 0.065 * math.cos(angle + spread), end[1] + 0.065 * math.sin(angle + spread))
        canvas.drawLine(*end, *tip, claw)
    limb(canvas, [((elbow[0] + end[0]) / 2, (elbow[1] + end[1]) / 2), end], 0.078, palette.main, palette.line)
    oval(canvas, shoulder, 0.056, 0.056, fill(palette.main))
    oval(canvas, shoulder, 0.056, 0.056, stroke(palette.line, 0.016))


def _leg(
    canvas: skia.Canvas,
    hip: Point,
    foot: Point,
    bend: float,
    pose: Pose,
    palette: Palette,
    *,
    side: bool = False,
) -> None:
    ankle = (foot[0], foot[1] - 0.08)
    knee = joint(hip, ankle, LEG_BONE - 0.027, math.copysign(1, bend))
    middle = ((hip[0] + ankle[0]) / 2, (hip[1] + ankle[1]) / 2)
    knee = (middle[0] + abs(bend) * (knee[0] - middle[0]), knee[1])
    limb(canvas, [hip, knee, ankle], 0.06, METAL, METAL_LINE)
    x, y = foot
    if pose.action == "flies":
        _flame(canvas, pose, (x, y))
    toe = 0.11 if side else 0.08
    boot = skia.PathBuilder().moveTo(x - 0.07, y).lineTo(x - 0.055, y - 0.11).lineTo(x + 0.055, y - 0.11)
    boot.quadTo(x + toe, y - 0.06, x + toe, y).close()
    outlined(canvas, boot.detach(), fill(palette.main), palette.line, 0.016)


def _flame(canvas: skia.Canvas, pose: Pose, at: Point) -> None:
    x, y = at
    long = 0.15 + 0.03 * pose.wave(0.0, 5)
    for color, wide, part in (((255, 150, 60), 0.05, 1.0), ((255, 232, 140), 0.028, 0.6)):
        flame = (
            skia.PathBuilder()
            .moveTo(x - wide, y)
            .cubicTo(x - wide, y + long * part * 0.6, x - 0.01, y + long * part * 0.8, x, y + long * part)
        )
        flame.cubicTo(x + 0.01, y + long * part * 0.8, x + wide, y + long * part * 0.6, x + wide, y).close()
        canvas.drawPath(flame.detach(), fill(color))


def _face(canvas: skia.Canvas, pose: Pose, eyes: tuple[float, ...]) -> None:
    """The lights of the face around the screen's centre: eyes at `eyes`, brows and mouth."""
    color = GLOWS.get(pose.expression, GLOW)
    light, thick = stroke(color, 0.02), fill(color)
    for x in eyes:
        inward = -1.0 if x > 0 else 1.0
        y = -0.022
        if pose.blink:
            canvas.drawLine(x - 0.026, y, x + 0.026, y, light)
        elif pose.expression == "happy":
            arc = skia.PathBuilder().moveTo(x - 0.032, y + 0.012).quadTo(x, y - 0.052, x + 0.032, y + 0.012)
            canvas.drawPath(arc.detach(), stroke(color, 0.022))
        elif pose.expression == "surprised":
            oval(canvas, (x, y), 0.034, 0.042, thick)
            oval(canvas, (x, y), 0.015, 0.018, fill(SCREEN))
        elif pose.expression in ("angry", "sad"):
            lower, upper = (y + 0.006, y - 0.04) if pose.expression == "angry" else (y - 0.04, y + 0.0)
            corners = [
                (x - 0.034 * inward, upper),
                (x + 0.034 * inward, lower),
                (x + 0.02 * inward, y + 0.034),
            ]
            canvas.drawPath(polygon([*corners, (x - 0.02 * inward, y + 0.034)]), thick)
        else:
            oval(canvas, (x, y), 0.026, 0.032, thick)
    mouth = skia.PathBuilder()
    if pose.expression == "happy":
        mouth.moveTo(-0.055, 0.03).lineTo(0.055, 0.03).cubicTo(0.045, 0.085, -0.045, 0.085, -0.055, 0.03).close()
        canvas.drawPath(mouth.detach(), thick)
    elif pose.expression == "surprised":
        oval(canvas, (0.0, 0.055), 0.018, 0.024, stroke(color, 0.014))
    elif pose.expression == "sad":
        canvas.drawPath(mouth.moveTo(-0.045, 0.068).quadTo(0.0, 0.028, 0.045, 0.068).detach(), stroke(color, 0.017))
    elif pose.expression == "angry":
        zigzag = mouth.moveTo(-0.055, 0.062)
        for i, x in enumerate((-0.033, -0.011, 0.011, 0.033, 0.055)):
            zigzag.lineTo(x, 0.042 if i % 2 == 0 else 0.062)
        canvas.drawPath(zigzag.detach(), stroke(color, 0.014))
    else:
        canvas.drawLine(-0.035, 0.053, 0.035, 0.053, stroke(color, 0.017))


ROBOT = Puppet(
    _robot,
    width=0.6,
    head=HEAD,
    head_size=0.34,
    front_head=HEAD,
    actions=("walks", "runs", "jumps", "spins", "flies", "stays"),
)
