"""The large animals: bear, elephant, horse.

The bear is known by its bulk and round ears, the elephant by trunk and fan ears, the horse by its mane and long legs.
The one invariant: as in animals.py, the palette's main colour covers most of the animal.
"""

from __future__ import annotations

import skia

from everreel.world.faces import (
    INK,
    arc,
    blush,
    both,
    cream,
    ear,
    muzzle_lines,
    nose,
    round_ear,
    shiny_eye,
    spine,
    taper,
    tuft,
)
from everreel.world.gait import Gait, Motion, swing
from everreel.world.puppet import Color, Palette, Point, Pose, Puppet, blob, fill, mix, outlined, oval, stroke
from everreel.world.quadruped import Quadruped

# --- bear --------------------------------------------------------------------------------------------------------

BEAR_HEAD = blob([
    (-0.48, 0.06), (-0.4, -0.26), (-0.1, -0.42), (0.22, -0.34), (0.38, -0.06), (0.54, 0.06), (0.58, 0.24),
    (0.4, 0.38), (0.06, 0.44), (-0.34, 0.36),
])  # fmt: skip
BEAR_FACE = both([(0, -0.42), (0.3, -0.36), (0.47, -0.06), (0.47, 0.18), (0.3, 0.4), (0, 0.46)])


def _bear_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    shift = -0.05 * body.drag
    round_ear(canvas, (0.16 + shift, -0.38), 0.14, palette.dark, None, palette.line)
    outlined(canvas, BEAR_HEAD, fill(palette.main), palette.line, INK)
    round_ear(canvas, (-0.24 + shift, -0.36), 0.17, palette.main, palette.light, palette.line)
    oval(canvas, (0.4, 0.18), 0.18, 0.16, fill(palette.light))
    shiny_eye(canvas, (0.14, -0.06), 0.085, palette, pose)
    blush(canvas, (0.04, 0.17), 0.09)
    nose(canvas, (0.53, 0.07), 0.09, 0.07)
    canvas.drawPath(arc((0.28, 0.24), (0.52, 0.22), 0.07), stroke(palette.line, 0.03))


def _bear_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    for side in (-1, 1):
        round_ear(canvas, (0.35 * side, -0.35), 0.17, palette.main, None if back else palette.light, palette.line)
    outlined(canvas, BEAR_FACE, fill(palette.main), palette.line, INK)
    if back:
        return
    oval(canvas, (0, 0.2), 0.22, 0.18, fill(palette.light))
    for side in (-1, 1):
        blush(canvas, (0.32 * side, 0.14), 0.085)
        shiny_eye(canvas, (0.2 * side, -0.05), 0.085, palette, pose, gaze=-0.06 * side)
    nose(canvas, (0, 0.12), 0.09, 0.065)
    muzzle_lines(canvas, (0, 0.18), 0.1, palette.line, 0.03)


def _bear_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    tuft(canvas, (-0.46, -0.52 + 0.01 * body.sway), 0.055, palette.main, palette.line)


def _bear_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    tuft(canvas, (0.015 * body.sway, -0.3), 0.075, mix(palette.main, palette.light, 0.5), palette.line)


def _bear_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (-0.02, -0.22), 0.26, 0.09, fill(palette.light, 0.55))


def _bear_belly(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.34), 0.17, 0.2, fill(palette.light))


BEAR_BODY = [
    (-0.46, -0.46), (-0.36, -0.64), (-0.1, -0.68), (0.14, -0.74), (0.36, -0.68), (0.44, -0.46),
    (0.32, -0.24), (0.0, -0.21), (-0.3, -0.22),
]  # fmt: skip

BEAR = Quadruped(
    outline=BEAR_BODY,
    hind=(-0.28, -0.36),
    fore=(0.26, -0.36),
    head=(0.42, -0.7),
    head_size=0.46,
    head_part=_bear_head,
    face=_bear_face,
    tail=_bear_tail,
    front_head=(0.0, -0.71),
    front_size=0.5,
    front_body=(-0.36, 0.28, 0.26),
    stance=(0.13, 0.21),
    back_tail=_bear_back_tail,
    marks=_bear_marks,
    front_marks=_bear_belly,
    leg=0.17,
    paw=(0.105, 0.055),
    middle=0.08,
    bend=0.6,
    gait=Gait(stride=0.2, raise_foot=0.07, leap=0.4),
)

# --- elephant ----------------------------------------------------------------------------------------------------

ELEPHANT_HEAD = blob([
    (-0.42, 0.0), (-0.34, -0.32), (-0.04, -0.46), (0.26, -0.38), (0.42, -0.1), (0.44, 0.12), (0.3, 0.34),
    (0.02, 0.42), (-0.3, 0.32),
])  # fmt: skip
ELEPHANT_FACE = both([(0, -0.46), (0.26, -0.4), (0.38, -0.12), (0.34, 0.14), (0.2, 0.34), (0, 0.4)])
ELEPHANT_EAR = blob([
    (0.02, -0.26), (-0.16, -0.42), (-0.44, -0.36), (-0.54, -0.08), (-0.44, 0.24), (-0.24, 0.4),
    (-0.08, 0.22), (0.02, 0.0),
])  # fmt: skip
IVORY: Color = (255, 250, 232)


def _trunk(canvas: skia.Canvas, points: list[Point], palette: Palette) -> None:
    """The trunk with a few wrinkles across it."""
    path = taper(points, [0.17, 0.145, 0.115, 0.09, 0.075, 0.06])
    outlined(canvas, path, fill(palette.main), palette.line, INK)
    for k in (1, 2, 3):
        (x, y), ax = points[k], points[k + 1][0]
        half = 0.06 - 0.01 * k
        canvas.drawLine(x - half, y + 0.2 * (ax - x), x + half, y - 0.2 * (ax - x), stroke(palette.dark, 0.025))


def _elephant_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    raised = 30 if pose.action in ("swims", "jumps", "bounces") else 12 * body.drag
    bends = [0, 8 + 3 * body.sway, 2 + 5 * body.sway - raised, -14 + 8 * body.sway - raised, -30 - raised]
    outlined(canvas, blob([(0.2, 0.22), (0.3, 0.2), (0.56, 0.36), (0.36, 0.42)]), fill(IVORY), palette.line, 0.03)
    _trunk(canvas, spine((0.3, 0.08), 62 - 0.8 * raised, bends, 0.86), palette)
    outlined(canvas, ELEPHANT_HEAD, fill(palette.main), palette.line, INK)
    # The head covers the root of the trunk; this hides the line between them.
    oval(canvas, (0.31, 0.12), 0.13, 0.14, fill(palette.main))
    shiny_eye(canvas, (0.2, -0.1), 0.085, palette, pose)
    blush(canvas, (0.14, 0.14), 0.085)
    canvas.save()
    canvas.rotate(9 * body.sway - 10 * body.drag, 0.0, -0.1)
    canvas.scale(1 + 0.05 * body.sway, 1)
    outlined(canvas, ELEPHANT_EAR, fill(mix(palette.main, palette.dark, 0.25)), palette.line, INK)
    canvas.translate(-0.24, -0.04)
    canvas.scale(0.68, 0.7)
    canvas.translate(0.24, 0.04)
    canvas.drawPath(ELEPHANT_EAR, fill(mix(palette.light, (246, 160, 170), 0.3)))
    canvas.restore()


def _elephant_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    for side in (-1, 1):
        canvas.save()
        canvas.scale(-side, 1)
        canvas.translate(-0.28, 0)
        canvas.rotate(7 * body.sway, 0.0, -0.1)
        outlined(canvas, ELEPHANT_EAR, fill(mix(palette.main, palette.dark, 0.25)), palette.line, INK)
        if not back:
            canvas.translate(-0.26, -0.04)
            canvas.scale(0.66, 0.68)
            canvas.translate(0.26, 0.04)
            canvas.drawPath(ELEPHANT_EAR, fill(mix(palette.light, (246, 160, 170), 0.3)))
        canvas.restore()
    outlined(canvas, ELEPHANT_FACE, fill(palette.main), palette.line, INK)
    if back:
        return
    for side in (-1, 1):
        tusk = blob([(0.12 * side, 0.2), (0.2 * side, 0.2), (0.24 * side, 0.46), (0.16 * side, 0.36)])
        outlined(canvas, tusk, fill(IVORY), palette.line, 0.03)
        blush(canvas, (0.27 * side, 0.1), 0.075)
    points = spine((0.0, 0.06), 90 - 4 * body.sway, [0, -5 * body.sway, -8 * body.sway, -12 * body.sway, -20], 0.72)
    _trunk(canvas, points, palette)
    oval(canvas, (0, 0.02), 0.15, 0.13, fill(palette.main))
    for side in (-1, 1):
        shiny_eye(canvas, (0.2 * side, -0.08), 0.085, palette, pose, gaze=-0.06 * side)


def _elephant_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _rope(canvas, spine((-0.44, -0.56), 115 + 40 * body.drag, [0, -6 + 14 * body.sway, 10 * body.sway], 0.3), palette)


def _elephant_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _rope(canvas, spine((0.0, -0.48), 90 - 16 * body.sway, [0, -14 * body.sway, -10 * body.sway], 0.3), palette)


def _rope(canvas: skia.Canvas, points: list[Point], palette: Palette) -> None:
    path = blob(points, closed=False)
    canvas.drawPath(path, stroke(palette.line, 0.065))
    canvas.drawPath(path, stroke(palette.main, 0.032))
    oval(canvas, points[-1], 0.035, 0.045, fill(palette.line))


def _toes(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (-0.02, -0.24), 0.3, 0.1, fill(palette.light, 0.4))


def _elephant_belly(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.3), 0.2, 0.2, fill(palette.light, 0.5))


ELEPHANT_BODY = [
    (-0.46, -0.46), (-0.38, -0.68), (-0.12, -0.78), (0.14, -0.78), (0.36, -0.72), (0.44, -0.48),
    (0.36, -0.26), (0.0, -0.23), (-0.34, -0.25),
]  # fmt: skip

ELEPHANT = Quadruped(
    outline=ELEPHANT_BODY,
    hind=(-0.27, -0.36),
    fore=(0.22, -0.36),
    head=(0.42, -0.7),
    head_size=0.56,
    head_part=_elephant_head,
    face=_elephant_face,
    tail=_elephant_tail,
    front_head=(0.0, -0.7),
    front_size=0.56,
    front_body=(-0.4, 0.3, 0.3),
    stance=(0.14, 0.2),
    back_tail=_elephant_back_tail,
    marks=_toes,
    front_marks=_elephant_belly,
    leg=0.17,
    paw=(0.1, 0.045),
    middle=0.14,
    bend=0.3,
    gait=Gait(stride=0.16, raise_foot=0.06, leap=0.34),
)

# --- horse -------------------------------------------------------------------------------------------------------

HORSE_HEAD = blob([
    (-0.4, -0.02), (-0.34, -0.32), (-0.08, -0.42), (0.14, -0.3), (0.38, 0.02), (0.6, 0.22), (0.6, 0.42),
    (0.4, 0.48), (0.14, 0.34), (-0.14, 0.36), (-0.34, 0.24),
])  # fmt: skip
HORSE_FACE = both([(0, -0.44), (0.2, -0.4), (0.28, -0.14), (0.2, 0.16), (0.23, 0.36), (0.14, 0.48), (0, 0.5)])


def _mane(palette: Palette) -> Color:
    """Darker than the coat, or lighter on a dark coat."""
    return (
        mix(palette.main, (255, 255, 255), 0.42) if sum(palette.main) < 200 else mix(palette.dark, palette.line, 0.45)
    )


def _horse_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    base: Point = (0.02, -0.36)
    ear(canvas, base, swing(base, (0.08, -0.68), -24 * body.drag), 0.17, palette.dark, None, palette.line)
    outlined(canvas, HORSE_HEAD, fill(palette.main), palette.line, INK)
    canvas.save()
    canvas.clipPath(HORSE_HEAD, doAntiAlias=True)
    oval(canvas, (0.58, 0.4), 0.22, 0.22, fill(palette.light))
    canvas.restore()
    canvas.drawPath(HORSE_HEAD, stroke(palette.line, INK))
    shiny_eye(canvas, (0.09, -0.08), 0.095, palette, pose)
    blush(canvas, (0.02, 0.16), 0.08)
    oval(canvas, (0.54, 0.27), 0.03, 0.04, fill(palette.line), turn=30)
    canvas.drawPath(arc((0.34, 0.37), (0.54, 0.4), 0.03), stroke(palette.line, 0.028))
    base = (-0.16, -0.34)
    ear(canvas, base, swing(base, (-0.14, -0.72), -24 * body.drag), 0.19, palette.main, palette.light, palette.line)
    lock = blob([(-0.14, -0.46), (0.06, -0.44), (0.2, -0.22), (0.14, -0.2), (-0.04, -0.3), (-0.2, -0.3)])
    outlined(canvas, lock, fill(_mane(palette)), palette.line, 0.03)


def _horse_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    for side in (-1, 1):
        base: Point = (0.17 * side, -0.36)
        ear(canvas, base, (0.2 * side, -0.72), 0.18, palette.main, None if back else palette.light, palette.line)
    outlined(canvas, HORSE_FACE, fill(palette.main), palette.line, INK)
    mane = fill(_mane(palette))
    if back:
        outlined(
            canvas, both([(0, -0.54), (0.09, -0.42), (0.07, -0.1), (0.03, 0.25), (0, 0.35)]), mane, palette.line, 0.03
        )
        return
    canvas.save()
    canvas.clipPath(HORSE_FACE, doAntiAlias=True)
    oval(canvas, (0, 0.44), 0.3, 0.2, fill(palette.light))
    canvas.restore()
    canvas.drawPath(HORSE_FACE, stroke(palette.line, INK))
    canvas.drawPath(both([(0, -0.2), (0.05, -0.1), (0.03, 0.16), (0, 0.22)]), fill(cream(palette)))
    for side in (-1, 1):
        shiny_eye(canvas, (0.19 * side, -0.1), 0.085, palette, pose, gaze=-0.06 * side)
        oval(canvas, (0.09 * side, 0.34), 0.026, 0.034, fill(palette.line))
        blush(canvas, (0.17 * side, 0.1), 0.06)
    canvas.drawPath(arc((-0.09, 0.42), (0.09, 0.42), 0.03), stroke(palette.line, 0.028))
    lock = blob([(-0.12, -0.46), (0.02, -0.52), (0.14, -0.44), (0.07, -0.2), (0.02, -0.3), (-0.06, -0.18)])
    outlined(canvas, lock, mane, palette.line, 0.03)


def _horse_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    heading = 140 + 45 * min(body.drag, 0.9) + 5 * body.sway
    points = spine((-0.32, -0.57), heading, [0, -14 + 6 * body.sway, -18 + 8 * body.sway, -6], 0.46)
    outlined(canvas, taper(points, [0.03, 0.07, 0.085, 0.07, 0.015]), fill(_mane(palette)), palette.line)


def _horse_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.0, -0.52), 90 - 10 * body.sway, [0, -8 * body.sway, -8 * body.sway, 0], 0.4)
    outlined(canvas, taper(points, [0.025, 0.045, 0.055, 0.045, 0.012]), fill(_mane(palette)), palette.line)


def _horse_over(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    flow = -0.1 * body.drag + 0.012 * body.sway
    points = [(0.25, -0.94), (0.14, -0.86), (0.08 + 0.4 * flow, -0.74), (0.02 + flow, -0.6), (0.1 + 0.5 * flow, -0.56)]
    points += [(0.17, -0.64), (0.22, -0.74), (0.3, -0.84)]
    outlined(canvas, blob(points), fill(_mane(palette)), palette.line)


def _horse_chest(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.46), 0.1, 0.14, fill(palette.light, 0.5))


HORSE_BODY = [
    (-0.36, -0.52), (-0.28, -0.62), (-0.04, -0.59), (0.08, -0.64), (0.16, -0.8), (0.28, -0.9), (0.4, -0.82),
    (0.36, -0.66), (0.34, -0.5), (0.22, -0.4), (0.0, -0.39), (-0.26, -0.38),
]  # fmt: skip

HORSE = Quadruped(
    outline=HORSE_BODY,
    hind=(-0.24, -0.46),
    fore=(0.22, -0.46),
    head=(0.4, -0.76),
    head_size=0.36,
    head_part=_horse_head,
    face=_horse_face,
    tail=_horse_tail,
    front_head=(0.0, -0.72),
    front_size=0.42,
    front_body=(-0.48, 0.18, 0.2),
    stance=(0.08, 0.12),
    back_tail=_horse_back_tail,
    front_marks=_horse_chest,
    over=_horse_over,
    leg=0.075,
    paw=(0.052, 0.042),
    hoof=(74, 60, 58),
    gait=Gait(stride=0.26, raise_foot=0.1, leap=0.46),
)

BEASTS: dict[str, Puppet] = {
    "bear": BEAR.puppet(1.25, ("walks", "runs", "jumps", "bounces", "stays", "swims")),
    "elephant": ELEPHANT.puppet(1.55, ("walks", "runs", "jumps", "stays", "swims")),
    "horse": HORSE.puppet(1.3, ("walks", "runs", "jumps", "stays")),
}
