"""The people of the film world: a man, a woman and a robot.

Clothes carry the subject's named colour in large areas. The invariant: every figure stands on y = 0 with a
head of about 0.3 units centred at `HEAD`, whatever it wears, so a close shot frames any of them alike.
"""

from __future__ import annotations

import math

import skia

from everreel.world.portraits import MAN_HAIR, WOMAN_HAIR, full_back, full_face, ink, profile
from everreel.world.puppet import (
    Color,
    Palette,
    Point,
    Pose,
    Puppet,
    blob,
    fill,
    gradient,
    joint,
    limb,
    mix,
    outlined,
    oval,
    stroke,
)
from everreel.world.robot import ROBOT
from everreel.world.stance import ARM_BONE, HIP, LEG_BONE, SHOULDER, Stance, front_stance, side_stance, turned

HEAD: Point = (0.0, -0.825)
RADIUS = 0.152
SWIM_HEAD: Point = (0.14, -0.15)  # where the head is while swimming, for close shots
SWIM_FRONT_HEAD: Point = (0.0, -0.16)
SHOE: Color = (70, 56, 62)


def _man(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    _person(canvas, pose, palette, woman=False)


def _woman(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    _person(canvas, pose, palette, woman=True)


def _person(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    canvas.save()
    view = turned(canvas, pose) if pose.action == "spins" else pose.view
    if pose.action == "swims":
        _swim(canvas, pose, palette, woman=woman)
    elif view == "side":
        _side(canvas, pose, palette, woman=woman)
    else:
        _front(canvas, pose, palette, view == "back", woman=woman)
    canvas.restore()


# Side view


def _side(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    s = side_stance(pose)
    hip = (0.0, HIP - s.rise)
    shade = mix(palette.main, palette.dark, 0.75)
    turn = math.radians(s.lean)
    shoulder = (-math.sin(turn) * (SHOULDER - HIP), hip[1] + math.cos(turn) * (SHOULDER - HIP))
    _side_arm(canvas, shoulder, s.hands[1], shade, palette)
    _side_leg(canvas, (hip[0] - 0.015, hip[1]), s.feet[1], palette, woman=woman, far=True)
    _side_leg(canvas, (hip[0] + 0.015, hip[1]), s.feet[0], palette, woman=woman, far=False)
    canvas.save()
    canvas.translate(*hip)
    canvas.rotate(s.lean)
    canvas.translate(0.0, -HIP)
    if woman:
        _hair_tail_side(canvas, s)
    (_dress_side if woman else _coat_side)(canvas, s, palette)
    canvas.save()
    canvas.rotate(s.nod, 0.0, -0.68)
    _head_side(canvas, pose, palette, s, woman=woman)
    canvas.restore()
    canvas.restore()
    _side_arm(canvas, shoulder, s.hands[0], palette.main, palette)


def _side_arm(canvas: skia.Canvas, shoulder: Point, hand: Point, sleeve: Color, palette: Palette) -> None:
    end = (shoulder[0] + hand[0], shoulder[1] + hand[1])
    elbow = joint(shoulder, end, ARM_BONE, 1)
    oval(canvas, end, 0.046, 0.048, fill(palette.skin))
    oval(canvas, end, 0.046, 0.048, stroke(ink(palette.skin), 0.014))
    wrist = (end[0] - 0.18 * hand[0], end[1] - 0.18 * hand[1])
    limb(canvas, [shoulder, elbow, wrist], 0.082, sleeve, palette.line)


def _side_leg(canvas: skia.Canvas, hip: Point, foot: Point, palette: Palette, *, woman: bool, far: bool) -> None:
    ankle = (foot[0], foot[1] - 0.045)
    knee = joint(hip, ankle, LEG_BONE, -1)
    cloth = palette.skin if woman else palette.dark
    cloth = mix(cloth, ink(cloth), 0.3) if far else cloth
    limb(canvas, [hip, knee, ankle], 0.07 if woman else 0.1, cloth, ink(cloth) if woman else palette.line)
    turn = min(40.0, max(0.0, -foot[1] * 220)) if foot[0] < 0 else -min(20.0, -foot[1] * 120)
    canvas.save()
    canvas.rotate(turn, *ankle)
    shoe = skia.PathBuilder().moveTo(foot[0] - 0.055, foot[1]).lineTo(foot[0] - 0.055, foot[1] - 0.06)
    shoe.quadTo(foot[0] + 0.03, foot[1] - 0.09, foot[0] + 0.05, foot[1] - 0.055)
    shoe.quadTo(foot[0] + 0.125, foot[1] - 0.05, foot[0] + 0.115, foot[1]).close()
    outlined(
        canvas,
        shoe.detach(),
        fill(palette.dark if woman else SHOE),
        mix(palette.line, (20, 16, 30), 0.4),
        0.014,
    )
    canvas.restore()


def _coat_side(canvas: skia.Canvas, s: Stance, palette: Palette) -> None:
    b = 0.006 * s.breath
    coat = skia.PathBuilder().moveTo(-0.07, -0.68).quadTo(0.07, -0.7, 0.105 + b, -0.6)
    coat.quadTo(0.135 + b, -0.45, 0.125, -0.27).quadTo(0.0, -0.24, -0.13 - 0.2 * s.sway, -0.27)
    coat.quadTo(-0.13, -0.5, -0.07, -0.68).close()
    shape = coat.detach()
    outlined(
        canvas,
        shape,
        gradient(palette.main, mix(palette.main, palette.dark, 0.25), -0.6, -0.24),
        palette.line,
    )
    canvas.drawLine(0.1, -0.6, 0.1, -0.28, stroke(palette.light, 0.016))
    canvas.drawLine(-0.03, -0.34, 0.055, -0.345, stroke(palette.line, 0.013))
    limb(canvas, [(-0.07, -0.672), (0.02, -0.66), (0.095, -0.675)], 0.05, palette.light)


def _dress_side(canvas: skia.Canvas, s: Stance, palette: Palette) -> None:
    b = 0.006 * s.breath
    back, front = -0.245 - 0.7 * s.sway, 0.225 - 0.25 * s.sway
    dress = skia.PathBuilder().moveTo(-0.055, -0.68).quadTo(0.06, -0.7, 0.09 + b, -0.6)
    dress.quadTo(0.1, -0.5, 0.075, -0.45).quadTo(0.13, -0.33, front, -0.19)
    dress.quadTo(0.0, -0.14, back, -0.19 - 0.15 * abs(s.sway)).quadTo(-0.1, -0.34, -0.075, -0.45)
    dress.quadTo(-0.1, -0.58, -0.055, -0.68).close()
    shape = dress.detach()
    outlined(canvas, shape, gradient(palette.main, mix(palette.main, palette.dark, 0.2), -0.6, -0.18), palette.line)
    canvas.save()
    canvas.clipPath(shape, True)
    hem = skia.PathBuilder().moveTo(front + 0.02, -0.225).quadTo(0.0, -0.175, back - 0.02, -0.225 - 0.15 * abs(s.sway))
    canvas.drawPath(hem.detach(), stroke(palette.light, 0.026))
    canvas.drawLine(-0.1, -0.45, 0.1, -0.45, stroke(palette.dark, 0.036))
    canvas.restore()
    limb(canvas, [(-0.05, -0.672), (0.02, -0.66), (0.075, -0.672)], 0.04, palette.light)


def _hair_tail_side(canvas: skia.Canvas, s: Stance) -> None:
    t = s.sway
    path = blob(
        [
            (-0.02, -0.94),
            (-0.15, -0.9),
            (-0.18 - 0.4 * t, -0.76),
            (-0.185 - 1.2 * t, -0.64 - 0.3 * abs(t)),
            (-0.15 - 1.6 * t, -0.55 - 0.9 * abs(t)),
            (-0.09 - 0.8 * t, -0.61 - 0.2 * abs(t)),
            (-0.03, -0.68),
        ]
    )
    outlined(canvas, path, fill(WOMAN_HAIR), ink(WOMAN_HAIR), 0.016)


def _head_side(canvas: skia.Canvas, pose: Pose, palette: Palette, s: Stance, *, woman: bool) -> None:
    limb(canvas, [(-0.005, -0.66), (0.0, -0.72)], 0.085, mix(palette.skin, ink(palette.skin), 0.25))
    canvas.save()
    canvas.translate(*HEAD)
    canvas.scale(RADIUS, RADIUS)
    profile(canvas, pose, palette, MAN_HAIR if not woman else WOMAN_HAIR, woman=woman)
    canvas.restore()


# Front and back view


def _front(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool, *, woman: bool) -> None:
    s = front_stance(pose)
    rise = HIP - s.rise
    for side, foot in zip((-1, 1), s.feet, strict=True):
        _front_leg(canvas, (0.065 * side, rise), foot, side, palette, back, woman=woman)
    canvas.save()
    canvas.translate(0.0, rise)
    canvas.rotate(s.lean)
    canvas.translate(0.0, -HIP)
    wide = 0.118 if woman else 0.142
    if woman and not back:
        _hair_behind(canvas, s)
    (_dress_front if woman else _coat_front)(canvas, s, palette, back)
    for side, hand in zip((-1, 1), s.hands, strict=True):
        _front_arm(canvas, (wide * side, SHOULDER), hand, side, palette)
    if woman and back:
        _hair_behind(canvas, s)
    _front_head(canvas, pose, palette, s, back, woman=woman)
    canvas.restore()


def _front_arm(canvas: skia.Canvas, shoulder: Point, hand: Point, side: int, palette: Palette) -> None:
    end = (shoulder[0] + hand[0], shoulder[1] + hand[1])
    elbow = joint(shoulder, end, ARM_BONE, side)
    elbow = (shoulder[0] + 0.5 * hand[0] + 0.4 * (elbow[0] - shoulder[0] - 0.5 * hand[0]), elbow[1])
    oval(canvas, end, 0.046, 0.048, fill(palette.skin))
    oval(canvas, end, 0.046, 0.048, stroke(ink(palette.skin), 0.014))
    wrist = (end[0] - 0.18 * hand[0], end[1] - 0.18 * hand[1])
    limb(canvas, [shoulder, elbow, wrist], 0.082, palette.main, palette.line)


def _front_leg(
    canvas: skia.Canvas, hip: Point, foot: Point, side: int, palette: Palette, back: bool, *, woman: bool
) -> None:
    ankle = (foot[0], foot[1] - 0.05)
    bent = joint(hip, ankle, LEG_BONE, -side)
    middle = (hip[0] + ankle[0]) / 2
    knee = (middle + 0.3 * (bent[0] - middle), bent[1])
    cloth = palette.skin if woman else palette.dark
    limb(canvas, [hip, knee, ankle], 0.07 if woman else 0.105, cloth, ink(cloth) if woman else palette.line)
    x, y = foot
    shoe = skia.PathBuilder().moveTo(x - 0.062, y).cubicTo(x - 0.07, y - 0.1, x + 0.07, y - 0.1, x + 0.062, y).close()
    outlined(
        canvas,
        shoe.detach(),
        fill(palette.dark if woman else SHOE),
        mix(palette.line, (20, 16, 30), 0.4),
        0.014,
    )


def _coat_front(canvas: skia.Canvas, s: Stance, palette: Palette, back: bool) -> None:
    b = 0.005 * s.breath
    coat = skia.PathBuilder().moveTo(-0.08, -0.68).quadTo(-0.17 - b, -0.67, -0.165 - b, -0.58)
    coat.lineTo(-0.17, -0.27).quadTo(0.0, -0.235, 0.17, -0.27).lineTo(0.165 + b, -0.58)
    coat.quadTo(0.17 + b, -0.67, 0.08, -0.68).close()
    outlined(
        canvas,
        coat.detach(),
        gradient(palette.main, mix(palette.main, palette.dark, 0.25), -0.6, -0.24),
        palette.line,
    )
    if back:
        canvas.drawLine(-0.1, -0.56, 0.1, -0.56, stroke(palette.line, 0.012))
        canvas.drawLine(0.0, -0.4, 0.0, -0.26, stroke(palette.line, 0.012))
        limb(canvas, [(-0.09, -0.672), (0.0, -0.66), (0.09, -0.672)], 0.05, palette.light)
        return
    canvas.drawLine(0.0, -0.62, 0.0, -0.255, stroke(palette.line, 0.013))
    for y in (-0.52, -0.43, -0.34):
        oval(canvas, (0.03, y), 0.012, 0.012, fill(palette.light))
    for side in (-1, 1):
        canvas.drawLine(0.07 * side, -0.345, 0.13 * side, -0.355, stroke(palette.line, 0.013))
        limb(canvas, [(0.1 * side, -0.675), (0.065 * side, -0.64), (0.01 * side, -0.6)], 0.046, palette.light)


def _dress_front(canvas: skia.Canvas, s: Stance, palette: Palette, back: bool) -> None:
    b, t = 0.005 * s.breath, s.sway
    dress = skia.PathBuilder().moveTo(-0.07, -0.68).quadTo(-0.14 - b, -0.67, -0.125 - b, -0.59)
    dress.quadTo(-0.11, -0.5, -0.095, -0.45).quadTo(-0.16, -0.33, -0.275 - t, -0.185)
    dress.quadTo(-0.12 - t, -0.14, -t, -0.165).quadTo(0.12 - t, -0.14, 0.275 - t, -0.185)
    dress.quadTo(0.16, -0.33, 0.095, -0.45).quadTo(0.11, -0.5, 0.125 + b, -0.59)
    dress.quadTo(0.14 + b, -0.67, 0.07, -0.68).close()
    shape = dress.detach()
    outlined(canvas, shape, gradient(palette.main, mix(palette.main, palette.dark, 0.2), -0.6, -0.18), palette.line)
    canvas.save()
    canvas.clipPath(shape, True)
    hem = skia.PathBuilder().moveTo(-0.28 - t, -0.225).quadTo(-0.12 - t, -0.175, -t, -0.2)
    hem.quadTo(0.12 - t, -0.175, 0.28 - t, -0.225)
    canvas.drawPath(hem.detach(), stroke(palette.light, 0.026))
    canvas.drawLine(-0.12, -0.45, 0.12, -0.45, stroke(palette.dark, 0.036))
    canvas.restore()
    if not back:
        for side in (-1, 1):
            limb(
                canvas,
                [(0.085 * side, -0.675), (0.06 * side, -0.645), (0.012 * side, -0.63)],
                0.04,
                palette.light,
            )


def _hair_behind(canvas: skia.Canvas, s: Stance) -> None:
    t = s.sway
    path = blob(
        [
            (0.0, -0.99),
            (-0.14, -0.92),
            (-0.172, -0.77),
            (-0.17 - 0.5 * t, -0.64),
            (-0.09 - t, -0.585),
            (0.0 - t, -0.605),
            (0.09 - t, -0.585),
            (0.17 - 0.5 * t, -0.64),
            (0.172, -0.77),
            (0.14, -0.92),
        ]
    )
    outlined(canvas, path, fill(mix(WOMAN_HAIR, (40, 16, 20), 0.15)), ink(WOMAN_HAIR), 0.016)


def _front_head(canvas: skia.Canvas, pose: Pose, palette: Palette, s: Stance, back: bool, *, woman: bool) -> None:
    canvas.save()
    canvas.rotate(s.nod, 0.0, -0.68)
    if not (back and woman):
        limb(canvas, [(0.0, -0.66), (0.0, -0.72)], 0.09, mix(palette.skin, ink(palette.skin), 0.25))
    canvas.translate(*HEAD)
    canvas.scale(RADIUS, RADIUS)
    (full_back if back else full_face)(canvas, pose, palette, woman=woman)
    canvas.restore()


# In the water


def _swim(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    """Front crawl at the water line y = 0: what is under it is not drawn."""
    bob = 0.012 * pose.wave(0.0, 2)
    canvas.save()
    canvas.clipRect(skia.Rect.MakeLTRB(-2, -2, 2, 0.015), True)
    canvas.translate(0.0, bob)
    (_swim_side if pose.view == "side" else _swim_front)(canvas, pose, palette, woman=woman)
    canvas.restore()
    foam = fill((255, 255, 255), 0.75)
    if pose.view == "side":
        spots = [(0.16, 0.15), (-0.14, 0.26), (-0.5 + 0.02 * pose.wave(0, 3), 0.1)]
        for i in (-1, 0, 1):
            up = 0.035 + 0.04 * max(0.0, pose.wave(0.33 * i, 3))
            oval(canvas, (-0.5 + 0.05 * i, -up), 0.02, 0.022, foam)
    else:
        spots = [(0.0, 0.2), (-0.2, 0.12), (0.2, 0.12)]
    for x, wide in spots:
        oval(canvas, (x, 0.008), wide, 0.018, foam)


def _crawl(turn: float) -> Point:
    """A hand on its way round the shoulder: back, over the top, forward, and under water again."""
    a = 2 * math.pi * turn
    return (0.24 * math.cos(a), 0.24 * math.sin(a) - 0.02)


def _swim_side(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    roll = pose.wave()
    _side_arm(canvas, (0.02, -0.05), _crawl(pose.phase + 0.5), mix(palette.main, palette.dark, 0.75), palette)
    if woman:
        tail = blob(
            [
                (0.06, -0.26),
                (-0.1, -0.2),
                (-0.26, -0.09 + 0.01 * roll),
                (-0.34, 0.02),
                (-0.1, 0.03),
                (0.05, -0.03),
            ]
        )
        outlined(canvas, tail, fill(WOMAN_HAIR), ink(WOMAN_HAIR), 0.016)
    body = blob([(0.1, -0.03), (0.0, -0.1 - 0.015 * roll), (-0.2, -0.085), (-0.42, -0.02), (-0.44, 0.06), (0.1, 0.08)])
    outlined(canvas, body, fill(palette.main), palette.line)
    canvas.save()
    canvas.translate(*SWIM_HEAD)
    canvas.rotate(5 * roll - 4)
    canvas.scale(RADIUS, RADIUS)
    profile(canvas, pose, palette, WOMAN_HAIR if woman else MAN_HAIR, woman=woman)
    canvas.restore()
    _side_arm(canvas, (-0.03, -0.06), _crawl(pose.phase), palette.main, palette)


def _swim_front(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    back = pose.view == "back"
    shoulders = blob([(-0.2, 0.06), (-0.17, -0.05), (0.0, -0.09), (0.17, -0.05), (0.2, 0.06)])
    for side in (-1, 1):
        a = 2 * math.pi * (pose.phase + (0.0 if side > 0 else 0.5))
        hand = (side * (0.1 + 0.06 * math.cos(a)), 0.2 * math.sin(a) - 0.02)
        _front_arm(canvas, (0.15 * side, -0.04), hand, side, palette)
    outlined(canvas, shoulders, fill(palette.main), palette.line)
    canvas.save()
    canvas.translate(0.0, SWIM_FRONT_HEAD[1] - HEAD[1])
    canvas.rotate(3 * pose.wave(), 0.0, -0.7)
    if woman and not back:
        _hair_behind(canvas, Stance(feet=((0, 0), (0, 0)), hands=((0, 0), (0, 0))))
    canvas.translate(*HEAD)
    canvas.scale(RADIUS, RADIUS)
    (full_back if back else full_face)(canvas, pose, palette, woman=woman)
    canvas.restore()


_ACTIONS = ("walks", "runs", "jumps", "swims", "spins", "stays")

PEOPLE: dict[str, Puppet] = {
    "man": Puppet(_man, width=0.6, head=HEAD, head_size=0.34, front_head=HEAD, actions=_ACTIONS),
    "woman": Puppet(_woman, width=0.6, head=HEAD, head_size=0.34, front_head=HEAD, actions=_ACTIONS),
    "robot": ROBOT,
}
