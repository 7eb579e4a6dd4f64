"""The low animals: rabbit and turtle.

The rabbit is known by long ears and its hop, the turtle by the patterned dome of its shell. The one invariant: as in
animals.py, the palette's main colour covers most of the animal.
"""

from __future__ import annotations

import skia

from everreel.world.faces import (
    INK,
    ROSE,
    arc,
    blush,
    both,
    cream,
    muzzle_lines,
    nose,
    shiny_eye,
    spine,
    taper,
    tuft,
    whiskers,
)
from everreel.world.gait import Gait, Motion
from everreel.world.puppet import Palette, Point, Pose, Puppet, blob, fill, mix, outlined, oval, stroke
from everreel.world.quadruped import Quadruped

# --- rabbit ------------------------------------------------------------------------------------------------------

RABBIT_HEAD = blob([
    (-0.46, 0.04), (-0.38, -0.3), (-0.08, -0.45), (0.22, -0.36), (0.42, -0.1), (0.54, 0.1), (0.48, 0.28),
    (0.26, 0.4), (-0.08, 0.45), (-0.38, 0.34),
])  # fmt: skip
RABBIT_FACE = both([
    (0, -0.42), (0.28, -0.36), (0.44, -0.06), (0.5, 0.16), (0.34, 0.38), (0.14, 0.45), (0, 0.46),
])  # fmt: skip


def _long_ear(
    canvas: skia.Canvas, root: Point, heading: float, bend: float, palette: Palette, inside: bool, far: bool = False
) -> None:
    points = spine(root, heading, [0, bend, bend, bend], 0.88)
    path = taper(points, [0.07, 0.125, 0.135, 0.1, 0.03])
    outlined(canvas, path, fill(palette.dark if far else palette.main), palette.line, INK)
    if inside:
        canvas.drawPath(taper(points[:-1], [0.03, 0.065, 0.075, 0.03]), fill(mix(ROSE, palette.light, 0.45)))


def _rabbit_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    back, twitch = 34 * body.drag, 4 * body.sway
    _long_ear(canvas, (0.06, -0.34), -78 - back, -6 - 0.5 * back + twitch, palette, False, far=True)
    _long_ear(canvas, (-0.16, -0.32), -96 - back, -7 - 0.5 * back - twitch, palette, True)
    outlined(canvas, RABBIT_HEAD, fill(palette.main), palette.line, INK)
    oval(canvas, (0.36, 0.22), 0.16, 0.14, fill(cream(palette)))
    shiny_eye(canvas, (0.13, -0.04), 0.11, palette, pose)
    blush(canvas, (0.04, 0.2), 0.1)
    nose(canvas, (0.5, 0.1 + 0.012 * pose.wave(times=3)), 0.055, 0.042, (222, 98, 116))
    canvas.drawPath(arc((0.3, 0.26), (0.48, 0.19), 0.06), stroke(palette.line, 0.03))
    whiskers(canvas, (0.34, 0.2), -0.42, mix(palette.line, (255, 255, 255), 0.3))


def _rabbit_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    for side in (-1, 1):
        spread = side * (10 + 26 * abs(body.drag)) + 3 * body.sway
        _long_ear(canvas, (0.17 * side, -0.3), -90 + spread, side * (3 + 12 * body.drag), palette, not back)
    outlined(canvas, RABBIT_FACE, fill(palette.main), palette.line, INK)
    if back:
        return
    for side in (-1, 1):
        oval(canvas, (0.09 * side, 0.24), 0.13, 0.12, fill(cream(palette)))
        blush(canvas, (0.31 * side, 0.2), 0.09)
        shiny_eye(canvas, (0.2 * side, -0.03), 0.105, palette, pose, gaze=-0.06 * side)
        whiskers(canvas, (0.18 * side, 0.22), 0.4 * side, mix(palette.line, (255, 255, 255), 0.3))
    outlined(
        canvas,
        blob([(-0.04, 0.3), (0.04, 0.3), (0.035, 0.4), (-0.035, 0.4)]),
        fill((255, 255, 252)),
        palette.line,
        0.02,
    )
    nose(canvas, (0, 0.15 + 0.01 * pose.wave(times=3)), 0.055, 0.042, (222, 98, 116))
    muzzle_lines(canvas, (0, 0.19), 0.09, palette.line, 0.03)


def _rabbit_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    tuft(canvas, (-0.35, -0.2 + 0.01 * body.sway), 0.075, cream(palette), palette.line)


def _rabbit_back_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    tuft(canvas, (0.02 * body.sway, -0.17), 0.085, cream(palette), palette.line)


def _rabbit_marks(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0.24, -0.22), 0.09, 0.13, fill(cream(palette)))


def _haunch(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    canvas.drawPath(arc((-0.26, -0.28), (-0.02, -0.16), -0.1), stroke(palette.dark, 0.022))


def _rabbit_chest(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    oval(canvas, (0, -0.2), 0.12, 0.14, fill(cream(palette)))


RABBIT_BODY = [
    (-0.34, -0.2), (-0.27, -0.38), (-0.08, -0.45), (0.14, -0.42), (0.27, -0.34), (0.27, -0.18),
    (0.12, -0.09), (-0.14, -0.06), (-0.3, -0.08),
]  # fmt: skip

RABBIT = Quadruped(
    outline=RABBIT_BODY,
    hind=(-0.16, -0.2),
    fore=(0.17, -0.2),
    head=(0.24, -0.45),
    head_size=0.42,
    head_part=_rabbit_head,
    face=_rabbit_face,
    tail=_rabbit_tail,
    front_head=(0.0, -0.45),
    front_size=0.46,
    front_body=(-0.2, 0.2, 0.18),
    stance=(0.07, 0.17),
    back_tail=_rabbit_back_tail,
    marks=_rabbit_marks,
    front_marks=_rabbit_chest,
    over=_haunch,
    leg=0.08,
    paw=(0.085, 0.036),
    gait=Gait(stride=0.16, bounds=True, leap=0.5),
)

# --- turtle ------------------------------------------------------------------------------------------------------

SHELL = blob([
    (-0.66, -0.3), (-0.6, -0.52), (-0.42, -0.8), (-0.1, -0.95), (0.16, -0.93), (0.42, -0.74), (0.56, -0.5),
    (0.6, -0.3), (0.3, -0.24), (-0.36, -0.24),
])  # fmt: skip
SHELL_FRONT = both([(0, -0.95), (0.32, -0.86), (0.54, -0.56), (0.6, -0.32), (0.3, -0.2), (0, -0.18)])
TURTLE_HEAD = blob([
    (-0.46, 0.1), (-0.4, -0.24), (-0.1, -0.45), (0.24, -0.38), (0.48, -0.12), (0.52, 0.12), (0.38, 0.32),
    (0.04, 0.44), (-0.32, 0.38),
])  # fmt: skip
TURTLE_FACE = both([(0, -0.44), (0.3, -0.36), (0.46, -0.06), (0.44, 0.2), (0.26, 0.4), (0, 0.46)])


def _hexagons(canvas: skia.Canvas, path: skia.Path, palette: Palette) -> None:
    """The plates of the shell: a middle one, a ring of spokes and a rim."""
    top, plate = mix(palette.main, palette.dark, 0.45), mix(palette.main, palette.light, 0.15)
    canvas.drawPath(path, fill(top))
    canvas.save()
    canvas.clipPath(path, doAntiAlias=True)
    for x, y, rx, ry in (
        (0.0, -0.64, 0.19, 0.17),
        (-0.4, -0.58, 0.15, 0.15),
        (0.38, -0.56, 0.14, 0.15),
        (-0.22, -0.9, 0.15, 0.1),
    ):
        canvas.drawPath(_plate(x, y, rx, ry), fill(plate))
    for x, y, rx, ry in ((0.22, -0.89, 0.15, 0.1), (-0.2, -0.37, 0.15, 0.09), (0.19, -0.36, 0.15, 0.09)):
        canvas.drawPath(_plate(x, y, rx, ry), fill(plate))
    canvas.restore()
    canvas.drawPath(path, stroke(palette.line, 0.022))


def _plate(x: float, y: float, rx: float, ry: float) -> skia.Path:
    corners = ((-0.55, -1), (0.55, -1), (1, 0), (0.55, 1), (-0.55, 1), (-1, 0))
    return skia.Path.Polygon([skia.Point(x + rx * a, y + ry * b) for a, b in corners], True)


def _turtle_shell(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _hexagons(canvas, SHELL, palette)
    canvas.drawPath(arc((-0.7, -0.3), (0.64, -0.3), 0.035), stroke(palette.line, 0.13))
    canvas.drawPath(arc((-0.7, -0.3), (0.64, -0.3), 0.035), stroke(palette.light, 0.09))
    neck = [(0.44, -0.32), (0.6, -0.38), (0.74, -0.5)]
    canvas.drawPath(blob(neck, closed=False), stroke(palette.line, 0.234))
    canvas.drawPath(blob(neck, closed=False), stroke(palette.main, 0.2))


def _turtle_head(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    outlined(canvas, TURTLE_HEAD, fill(palette.main), palette.line, INK)
    oval(canvas, (-0.24, 0.34), 0.16, 0.1, fill(palette.main))
    oval(canvas, (-0.2, -0.22), 0.06, 0.05, fill(palette.dark))
    oval(canvas, (-0.06, -0.32), 0.045, 0.035, fill(palette.dark))
    shiny_eye(canvas, (0.16, -0.08), 0.125, palette, pose)
    blush(canvas, (0.06, 0.18), 0.1)
    oval(canvas, (0.45, 0.02), 0.022, 0.028, fill(palette.line))
    canvas.drawPath(arc((0.2, 0.22), (0.47, 0.14), 0.07), stroke(palette.line, 0.034))


def _turtle_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, back: bool) -> None:
    outlined(canvas, TURTLE_FACE, fill(palette.main), palette.line, INK)
    if back:
        return
    for side in (-1, 1):
        oval(canvas, (0.1 * side, -0.32), 0.05, 0.04, fill(palette.dark))
        blush(canvas, (0.3 * side, 0.16), 0.09)
        shiny_eye(canvas, (0.22 * side, -0.06), 0.115, palette, pose, gaze=-0.06 * side)
        oval(canvas, (0.04 * side, 0.1), 0.018, 0.024, fill(palette.line))
    canvas.drawPath(arc((-0.18, 0.2), (0.18, 0.2), 0.09), stroke(palette.line, 0.034))


def _turtle_tail(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((-0.56, -0.3), 165 + 10 * body.sway, [0, -6, -6], 0.26)
    outlined(canvas, taper(points, [0.08, 0.06, 0.04, 0.01]), fill(palette.main), palette.line)


def _turtle_front_shell(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    _hexagons(canvas, SHELL_FRONT, palette)
    canvas.drawPath(arc((-0.58, -0.34), (0.58, -0.34), 0.12), stroke(palette.line, 0.12))
    canvas.drawPath(arc((-0.58, -0.34), (0.58, -0.34), 0.12), stroke(palette.light, 0.08))


def _turtle_back_shell(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    points = spine((0.0, -0.26), 90 - 14 * body.sway, [0, -8 * body.sway], 0.2)
    outlined(canvas, taper(points, [0.08, 0.05, 0.01]), fill(palette.main), palette.line)
    _turtle_front_shell(canvas, pose, palette, body)


TURTLE_BODY = [(-0.52, -0.4), (0.0, -0.5), (0.5, -0.4), (0.44, -0.22), (0.0, -0.18), (-0.46, -0.22)]

TURTLE = Quadruped(
    outline=TURTLE_BODY,
    hind=(-0.36, -0.26),
    fore=(0.34, -0.26),
    head=(0.84, -0.6),
    head_size=0.46,
    head_part=_turtle_head,
    face=_turtle_face,
    tail=_turtle_tail,
    front_head=(0.0, -0.48),
    front_size=0.46,
    front_body=(-0.34, 0.3, 0.16),
    stance=(0.3, 0.42),
    front_tail=_turtle_front_shell,
    back_tail=_turtle_back_shell,
    over=_turtle_shell,
    leg=0.17,
    paw=(0.11, 0.05),
    middle=0.13,
    bend=0.5,
    gait=Gait(stride=0.18, raise_foot=0.06, leap=0.3),
)

CRITTERS: dict[str, Puppet] = {
    "rabbit": RABBIT.puppet(0.95, ("walks", "runs", "jumps", "bounces", "stays", "spins")),
    "turtle": TURTLE.puppet(1.95, ("walks", "jumps", "stays", "swims", "spins")),
}
