"""The four-legged animals: fox, cat and dog here, the others in beasts.py and critters.py, gathered in `ANIMALS`.

Each is a `Quadruped` (quadruped.py) with the marks by which it is known when it is small: the fox by its brush, the
cat by whiskers and a curled tail, the dog by floppy ears and a collar. The one invariant: the palette's main colour
covers most of the animal, so the colour a caption names is the colour one sees.
"""

from __future__ import annotations

import skia

from everreel.world.beasts import BEASTS
from everreel.world.critters import CRITTERS
from everreel.world.faces import (
    INK,
    ROSE,
    arc,
    blush,
    both,
    cream,
    ear,
    muzzle_lines,
    nose,
    shiny_eye,
    spine,
    stroke_twice,
    taper,
    whiskers,
)
from everreel.world.gait import Gait, Motion, swing
from everreel.world.puppet import Color, Palette, Point, Pose, Puppet, blob, fill, mix, outlined, oval, stroke
from everreel.world.quadruped import Quadruped

WALKERS = ("walks", "runs", "jumps", "bounces", "stays", "spins")

# --- fox ---------------------------------------------------------------------------------------------------------

FOX_HEAD = blob([
    (-0.5, 0.2), (-0.44, -0.1), (-0.34, -0.3), (-0.06, -0.43), (0.2, -0.3), (0.36, -0.04), (0.58, 0.1),
    (0.61, 0.2), (0.42, 0.31), (0.14, 0.42), (-0.14, 0.41), (-0.34, 0.42), (-0.4, 0.32),
])  # fmt: skip
FOX_CHEEK = blob([
    (0.7, 0.17), (0.4, 0.13), (0.22, 0.2), (0.0, 0.1), (-0.28, 0.2), (-0.6, 0.2), (-0.4, 0.6), (0.6, 0.6),
])  # fmt: skip
FOX_FACE = both([(0, -0.4), (0.3, -0.34), (0.46, -0.04), (0.6, 0.16), (0.34, 0.28), (0.14, 0.42), (0, 0.46)])
FOX_CHEEKS = both([(0, 0.08), (0.08, 0.1), (0.26, 0.16), (0.5, 0.06), (0.8, 0.2), (0.4, 0.6), (0, 0.6)])


def _fox_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    fold = -28 * body.drag
    inner = mix(palette.dark, palette.line, 0.4)
    base: Point = (0.04, -0.34)
    ear(canvas, base, swing(base, (0.1, -0.8), fold), 0.3, palette.dark, None, palette.line)
    outlined(canvas, FOX_HEAD, fill(palette.main), palette.line, INK)
    canvas.save()
    canvas.clipPath(FOX_HEAD, doAntiAlias=True)
    canvas.drawPath(FOX_CHEEK, fill(cream(palette)))
    canvas.restore()
    canvas.drawPath(FOX_HEAD, stroke(palette.line, INK))
    base = (-0.18, -0.3)
    ear(canvas, base, swing(base, (-0.2, -0.84), fold), 0.36, palette.main, inner, palette.line)
    blush(canvas, (-0.08, 0.22), 0.09)
    shiny_eye(canvas, (0.15, -0.02), 0.1, palette, pose)
    canvas.drawPath(arc((0.26, 0.26), (0.5, 0.23), 0.05), stroke(palette.line, 0.03))
    nose(canvas, (0.6, 0.12), 0.075, 0.06)


def _fox_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    inner = mix(palette.dark, palette.line, 0.4)
    for side in (-1, 1):
        base: Point = (0.27 * side, -0.26)
        tip = swing(base, (0.36 * side, -0.78), 14 * side * body.drag)
        ear(canvas, base, tip, 0.34, palette.main, None if back else inner, palette.line)
    canvas.drawPath(FOX_FACE, fill(palette.main))
    if not back:
        canvas.save()
        canvas.clipPath(FOX_FACE, doAntiAlias=True)
        canvas.drawPath(FOX_CHEEKS, fill(cream(palette)))
        canvas.restore()
    canvas.drawPath(FOX_FACE, stroke(palette.line, INK))
    if back:
        return
    for side in (-1, 1):
        blush(canvas, (0.33 * side, 0.2), 0.08)
        shiny_eye(canvas, (0.2 * side, 0.0), 0.095, palette, pose, gaze=-0.06 * side)
    nose(canvas, (0, 0.22), 0.08, 0.06)
    muzzle_lines(canvas, (0, 0.27), 0.09, palette.line, 0.03)


def _fox_brush(canvas: skia.Canvas, palette: Palette, root: Point, heading: float, bends: list[float]) -> None:
    points = spine(root, heading, bends, 0.54)
    brush = taper(points, [0.045, 0.1, 0.145, 0.12, 0.02])
    canvas.drawPath(brush, fill(palette.main))
    canvas.save()
    canvas.clipPath(brush, doAntiAlias=True)
    oval(canvas, points[-1], 0.2, 0.2, fill(cream(palette)))
    canvas.restore()
    canvas.drawPath(brush, stroke(palette.line, 0.018))


def _fox_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    lift = 200 - 28 * body.drag + 5 * body.sway
    _fox_brush(
        canvas, palette, (-0.28, -0.44), lift, [0, 14 - 12 * body.drag, 16 * (1 - body.drag) + 8 * body.sway, 14]
    )


def _fox_front_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _fox_brush(canvas, palette, (0.08, -0.2), -25 + 6 * body.sway, [0, -18, -22, -18 + 10 * body.sway])


def _fox_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _fox_brush(canvas, palette, (0.0, -0.5), 90 - 16 * body.sway, [0, -8 * body.sway, -14 * body.sway, 0])


def _fox_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    canvas.drawPath(blob([(0.42, -0.6), (0.24, -0.44), (0.16, -0.27), (0.4, -0.2), (0.5, -0.4)]), fill(cream(palette)))


def _chest(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.34), 0.12, 0.18, fill(cream(palette)))


FOX_BODY = [
    (-0.33, -0.42), (-0.24, -0.53), (0.0, -0.52), (0.2, -0.6), (0.34, -0.58), (0.36, -0.4), (0.25, -0.27),
    (0.0, -0.29), (-0.22, -0.26),
]  # fmt: skip

FOX = Quadruped(
    outline=FOX_BODY,
    hind=(-0.2, -0.34),
    fore=(0.2, -0.34),
    head=(0.3, -0.63),
    head_size=0.46,
    head_part=_fox_head,
    face=_fox_face,
    tail=_fox_tail,
    front_head=(0.0, -0.6),
    front_size=0.5,
    front_body=(-0.33, 0.19, 0.2),
    front_tail=_fox_front_tail,
    back_tail=_fox_back_tail,
    marks=_fox_marks,
    front_marks=_chest,
    leg=0.085,
    paw=(0.058, 0.04),
)

# --- cat ---------------------------------------------------------------------------------------------------------

CAT_HEAD = blob([
    (-0.45, 0.06), (-0.38, -0.26), (-0.08, -0.42), (0.24, -0.34), (0.4, -0.1), (0.5, 0.1), (0.47, 0.26),
    (0.28, 0.4), (-0.06, 0.44), (-0.36, 0.32),
])  # fmt: skip
CAT_FACE = both([
    (0, -0.37), (0.28, -0.36), (0.46, -0.12), (0.52, 0.12), (0.4, 0.34), (0.18, 0.43), (0, 0.44),
])  # fmt: skip
CAT_STRIPES = [
    ((-0.05, -0.38), (-0.05, -0.22)), ((-0.16, -0.36), (-0.14, -0.24)), ((0.06, -0.37), (0.04, -0.24)),
]  # fmt: skip


def _cat_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    fold = -24 * body.drag
    base: Point = (0.12, -0.32)
    ear(canvas, base, swing(base, (0.2, -0.7), fold), 0.28, palette.dark, None, palette.line)
    outlined(canvas, CAT_HEAD, fill(palette.main), palette.line, INK)
    for a, b in CAT_STRIPES:
        canvas.drawLine(*a, *b, stroke(palette.dark, 0.05))
    base = (-0.18, -0.28)
    ear(
        canvas, base, swing(base, (-0.24, -0.76), fold), 0.36, palette.main, mix(ROSE, palette.light, 0.4), palette.line
    )
    oval(canvas, (0.34, 0.22), 0.17, 0.14, fill(cream(palette)))
    shiny_eye(canvas, (0.13, 0.0), 0.115, palette, pose)
    blush(canvas, (-0.06, 0.22), 0.09)
    nose(canvas, (0.47, 0.11), 0.055, 0.042, (222, 98, 116))
    canvas.drawPath(arc((0.26, 0.26), (0.45, 0.19), 0.06), stroke(palette.line, 0.03))
    whiskers(canvas, (0.3, 0.2), -0.5, mix(palette.line, (255, 255, 255), 0.25))


def _cat_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    inner = None if back else mix(ROSE, palette.light, 0.4)
    for side in (-1, 1):
        base: Point = (0.28 * side, -0.26)
        ear(
            canvas,
            base,
            swing(base, (0.4 * side, -0.74), 14 * side * body.drag),
            0.34,
            palette.main,
            inner,
            palette.line,
        )
    outlined(canvas, CAT_FACE, fill(palette.main), palette.line, INK)
    for x in (-0.11, 0.0, 0.11):
        canvas.drawLine(x, -0.34, 0.8 * x, -0.2, stroke(palette.dark, 0.05))
    if back:
        return
    for side in (-1, 1):
        oval(canvas, (0.1 * side, 0.23), 0.14, 0.12, fill(cream(palette)))
        blush(canvas, (0.33 * side, 0.2), 0.09)
        shiny_eye(canvas, (0.21 * side, 0.0), 0.11, palette, pose, gaze=-0.06 * side)
        whiskers(canvas, (0.2 * side, 0.22), 0.42 * side, mix(palette.line, (255, 255, 255), 0.25))
    nose(canvas, (0, 0.15), 0.055, 0.042, (222, 98, 116))
    muzzle_lines(canvas, (0, 0.19), 0.09, palette.line, 0.03)


def _cat_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    curl = 1 - 0.8 * max(body.drag, 0.0)
    points = spine(
        (-0.28, -0.44),
        190 + 20 * curl,
        [0, 20 * curl, 34 * curl, 30 * curl + 8 * body.sway, -30, -60 * curl, -50],
        0.62,
    )
    stroke_twice(canvas, points, 0.075, palette)


def _cat_front_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.1, -0.16), -10, [0, -30, -40, -20 + 8 * body.sway, 40, 60], 0.5)
    stroke_twice(canvas, points, 0.075, palette)


def _cat_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.0, -0.3), -75, [0, 14 * body.sway, 12 * body.sway, 40, 60, 60], 0.5)
    stroke_twice(canvas, points, 0.075, palette)


def _cat_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0.36, -0.36), 0.1, 0.16, fill(cream(palette)))
    for x in (-0.2, -0.09, 0.02):
        canvas.drawLine(x, -0.56, x - 0.02, -0.43, stroke(palette.dark, 0.035))


CAT_BODY = [
    (-0.33, -0.42), (-0.24, -0.53), (0.0, -0.5), (0.2, -0.58), (0.34, -0.54), (0.35, -0.4), (0.25, -0.27),
    (0.0, -0.28), (-0.22, -0.26),
]  # fmt: skip

CAT = Quadruped(
    outline=CAT_BODY,
    hind=(-0.2, -0.34),
    fore=(0.2, -0.34),
    head=(0.3, -0.64),
    head_size=0.46,
    head_part=_cat_head,
    face=_cat_face,
    tail=_cat_tail,
    front_head=(0.0, -0.62),
    front_size=0.5,
    front_body=(-0.31, 0.18, 0.2),
    front_tail=_cat_front_tail,
    back_tail=_cat_back_tail,
    marks=_cat_marks,
    front_marks=_chest,
    leg=0.08,
    paw=(0.055, 0.038),
)

# --- dog ---------------------------------------------------------------------------------------------------------

DOG_HEAD = blob([
    (-0.42, 0.1), (-0.4, -0.24), (-0.12, -0.46), (0.16, -0.4), (0.28, -0.16), (0.5, -0.08), (0.62, 0.06),
    (0.58, 0.26), (0.36, 0.36), (0.1, 0.42), (-0.24, 0.38),
])  # fmt: skip
DOG_FACE = both([
    (0, -0.46), (0.26, -0.42), (0.4, -0.16), (0.42, 0.14), (0.32, 0.36), (0.14, 0.47), (0, 0.48),
])  # fmt: skip


def _collar(palette: Palette) -> Color:
    """Red, or blue on a dog that is itself reddish."""
    red, green, blue = palette.main
    return (52, 104, 212) if red > 170 and green < 150 and red > blue + 40 else (220, 48, 56)


def _dog_ear(canvas: skia.Canvas, root: Point, turn: float, palette: Palette) -> None:
    points = [swing(root, (root[0] + dx, root[1] + dy), turn) for dx, dy in ((0, 0), (0, 0.2), (0, 0.4), (0, 0.54))]
    outlined(canvas, taper(points, [0.08, 0.14, 0.15, 0.05]), fill(palette.dark), palette.line, INK)


def _dog_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    tongue = (234, 104, 122)
    if pose.action in ("runs", "jumps", "walks", "bounces"):
        oval(canvas, (0.36, 0.4), 0.075, 0.13, fill(tongue))
        oval(canvas, (0.36, 0.4), 0.075, 0.13, stroke(palette.line, 0.025))
    outlined(canvas, DOG_HEAD, fill(palette.main), palette.line, INK)
    oval(canvas, (0.44, 0.15), 0.17, 0.155, fill(cream(palette)))
    shiny_eye(canvas, (0.1, -0.12), 0.1, palette, pose)
    blush(canvas, (0.1, 0.14), 0.08)
    nose(canvas, (0.56, -0.02), 0.095, 0.075)
    canvas.drawPath(arc((0.26, 0.2), (0.55, 0.16), 0.09), stroke(palette.line, 0.03))
    _dog_ear(canvas, (-0.2, -0.3), 18 + 62 * body.drag, palette)


def _dog_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    outlined(canvas, DOG_FACE, fill(palette.main), palette.line, INK)
    for side in (-1, 1):
        _dog_ear(canvas, (0.35 * side, -0.3), -side * (14 + 55 * max(body.drag, -0.2)), palette)
    if back:
        return
    canvas.drawPath(both([(0, -0.46), (0.07, -0.4), (0.05, -0.1), (0, 0.1)]), fill(cream(palette)))
    oval(canvas, (0, 0.24), 0.23, 0.19, fill(cream(palette)))
    oval(canvas, (0, 0.4), 0.065, 0.09, fill((234, 104, 122)))
    for side in (-1, 1):
        blush(canvas, (0.27 * side, 0.14), 0.075)
        shiny_eye(canvas, (0.17 * side, -0.06), 0.095, palette, pose, gaze=-0.06 * side)
    nose(canvas, (0, 0.15), 0.095, 0.07)
    muzzle_lines(canvas, (0, 0.22), 0.11, palette.line, 0.03)


def _dog_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    heading = 240 - 50 * body.drag + 16 * pose.wave(times=2)
    points = spine((-0.27, -0.46), heading, [0, 14, 16, 12], 0.32)
    outlined(canvas, taper(points, [0.05, 0.055, 0.05, 0.04, 0.012]), fill(palette.main), palette.line)


def _dog_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.0, -0.32), -90 + 30 * pose.wave(times=2), [0, 8, 8], 0.3)
    outlined(canvas, taper(points, [0.05, 0.055, 0.045, 0.012]), fill(palette.main), palette.line)


def _dog_front_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.1, -0.3), -50 + 24 * pose.wave(times=2), [0, 8, 8], 0.28)
    outlined(canvas, taper(points, [0.05, 0.055, 0.045, 0.012]), fill(palette.main), palette.line)


def _dog_over(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    canvas.drawPath(arc((0.1, -0.56), (0.42, -0.48), 0.1), stroke(palette.line, 0.085))
    canvas.drawPath(arc((0.1, -0.56), (0.42, -0.48), 0.1), stroke(_collar(palette), 0.055))
    oval(canvas, (0.31, -0.37), 0.036, 0.036, fill((246, 204, 70)))
    oval(canvas, (0.31, -0.37), 0.036, 0.036, stroke(palette.line, 0.012))


def _dog_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (-0.12, -0.54), 0.12, 0.1, fill(palette.dark))


def _dog_front_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.3), 0.1, 0.14, fill(cream(palette)))
    canvas.drawPath(arc((-0.2, -0.46), (0.2, -0.46), 0.07), stroke(_collar(palette), 0.06))


DOG_BODY = [
    (-0.34, -0.42), (-0.26, -0.53), (0.0, -0.52), (0.16, -0.62), (0.34, -0.6), (0.37, -0.42), (0.26, -0.27),
    (0.0, -0.29), (-0.24, -0.26),
]  # fmt: skip

DOG = Quadruped(
    outline=DOG_BODY,
    hind=(-0.22, -0.34),
    fore=(0.22, -0.34),
    head=(0.3, -0.76),
    head_size=0.46,
    head_part=_dog_head,
    face=_dog_face,
    tail=_dog_tail,
    front_head=(0.0, -0.73),
    front_size=0.52,
    front_body=(-0.34, 0.2, 0.22),
    front_tail=_dog_front_tail,
    back_tail=_dog_back_tail,
    marks=_dog_marks,
    front_marks=_dog_front_marks,
    over=_dog_over,
    leg=0.095,
    paw=(0.065, 0.042),
    gait=Gait(sink=0.45),
)

ANIMALS: dict[str, Puppet] = {
    "fox": FOX.puppet(1.4, WALKERS),
    "cat": CAT.puppet(1.2, WALKERS),
    "dog": DOG.puppet(1.1, (*WALKERS, "swims")),
    **BEASTS,
    **CRITTERS,
}
