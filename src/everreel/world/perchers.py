"""The upright birds: owl and penguin.

The owl is known by the two large discs of its face, the penguin by its stance and its white front. The one invariant:
as in birds.py, the palette's main colour covers most of the bird.
"""

from __future__ import annotations

import skia

from everreel.world.faces import INK, arc, blush, both, ear, shiny_eye, soft
from everreel.world.gait import Motion, leap, place
from everreel.world.plumage import beak, bill_color, chevrons, flap, spread_wing, webbed_foot, wing_up
from everreel.world.puppet import Palette, Pose, Puppet, blob, fill, gradient, mix, outlined, oval, step, stroke

# --- owl ---------------------------------------------------------------------------------------------------------

OWL_SIDE = blob([
    (-0.1, -0.66), (0.14, -0.68), (0.28, -0.5), (0.3, -0.28), (0.2, -0.1), (0.0, -0.05), (-0.18, -0.1),
    (-0.3, -0.3), (-0.26, -0.54),
])  # fmt: skip
OWL_TAIL = blob([(-0.14, -0.24), (-0.3, -0.1), (-0.36, 0.0), (-0.24, 0.01), (-0.02, -0.08)])
OWL_WING = blob([
    (-0.06, -0.58), (0.06, -0.44), (0.04, -0.26), (-0.08, -0.12), (-0.28, -0.04), (-0.3, -0.3),
    (-0.22, -0.52),
])  # fmt: skip
OWL_FRONT = both([(0, -0.68), (0.2, -0.62), (0.31, -0.36), (0.24, -0.12), (0.1, -0.05), (0, -0.04)])
OWL_FOLDED = blob([(0.2, -0.56), (0.34, -0.4), (0.35, -0.22), (0.24, -0.06), (0.2, -0.24)])
OWL_HEAD = both([(0, -0.4), (0.3, -0.42), (0.52, -0.2), (0.55, 0.1), (0.4, 0.36), (0, 0.46)])


def _owl_motion(pose: Pose) -> Motion:
    if pose.action == "flies":
        return Motion(lift=0.06 + 0.05 * pose.wave(0.5), pitch=8 if pose.view == "side" else 0, nod=-4)
    if pose.action == "walks":
        return Motion(lift=0.02 + 0.02 * pose.wave(0.1, times=2), pitch=4 * pose.wave(), nod=-3 * pose.wave())
    return Motion(lift=0.004 * pose.wave(), stretch=1 - 0.012 * pose.wave(), nod=7 * pose.wave(0.15), sway=pose.wave())


def _owl(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    body = _owl_motion(pose)
    canvas.save()
    side_view, back = pose.view == "side", pose.view == "back"
    swing = (0.16 if side_view else 0.05) if pose.action == "walks" else 0.0
    hang = -0.1 - body.lift if pose.action == "flies" else 0.0
    for k, shift in ((-1, 0.5), (1, 0.0)):
        dx, dy = step(pose.phase + shift, swing, 0.06) if swing else (0.0, hang)
        x = (0.04 * k + 0.04) if side_view else 0.1 * k
        webbed_foot(canvas, (x, -0.12 + hang), (x + dx, dy), palette, head_on=not side_view, size=0.075)
    place(canvas, (0.0, -0.1), body)
    (_owl_side if side_view else _owl_front)(canvas, pose, palette)
    canvas.translate(0.07 if side_view else 0.0, -0.72)
    canvas.rotate(body.nod)
    canvas.scale(0.5, 0.5)
    _owl_head(canvas, pose, palette, 0.09 if side_view else 0.0, back)
    canvas.restore()


def _owl_side(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    flying = pose.action == "flies"
    top, bottom = soft(palette)
    if flying:
        wing_up(canvas, (0.06, -0.5), 0.7, flap(pose), palette, far=True)
    outlined(canvas, OWL_TAIL, fill(palette.dark), palette.line)
    canvas.drawPath(OWL_SIDE, gradient(top, bottom, -0.66, 0.0))
    canvas.save()
    canvas.clipPath(OWL_SIDE, doAntiAlias=True)
    oval(canvas, (0.24, -0.28), 0.18, 0.26, fill(palette.light))
    canvas.restore()
    chevrons(canvas, (0.17, -0.36), 0.08, 3, palette.dark)
    canvas.drawPath(OWL_SIDE, stroke(palette.line, 0.018))
    if flying:
        wing_up(canvas, (-0.02, -0.44), 0.76, flap(pose), palette)
        return
    outlined(canvas, OWL_WING, fill(mix(palette.main, palette.dark, 0.4)), palette.line)
    for x, y in ((-0.16, -0.36), (-0.18, -0.26), (-0.2, -0.16)):
        canvas.drawPath(arc((x - 0.06, y), (x + 0.12, y), 0.03), stroke(palette.line, 0.015))


def _owl_front(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    top, bottom = soft(palette)
    if pose.action == "flies":
        spread_wing(canvas, (0.2, -0.46), 0.56, flap(pose), palette)
        spread_wing(canvas, (-0.2, -0.46), -0.56, flap(pose), palette)
    canvas.drawPath(OWL_FRONT, gradient(top, bottom, -0.66, 0.0))
    canvas.drawPath(OWL_FRONT, stroke(palette.line, 0.018))
    if pose.view == "front":
        oval(canvas, (0, -0.28), 0.18, 0.21, fill(palette.light))
        chevrons(canvas, (0, -0.36), 0.1, 3, palette.dark)
    else:
        chevrons(canvas, (0, -0.36), 0.12, 4, palette.dark)
        outlined(canvas, both([(0, -0.2), (0.1, -0.12), (0.08, 0.0), (0, 0.01)]), fill(palette.dark), palette.line)
    if pose.action != "flies":
        for side in (-1, 1):
            canvas.save()
            canvas.scale(side, 1)
            canvas.rotate(2 * pose.wave(), 0.2, -0.5)
            outlined(canvas, OWL_FOLDED, fill(mix(palette.main, palette.dark, 0.4)), palette.line)
            canvas.restore()


def _owl_head(canvas: skia.Canvas, pose: Pose, palette: Palette, turn: float, back: bool) -> None:
    """Head space; `turn` shifts the face to the side that it looks to."""
    for side in (-1, 1):
        ear(
            canvas,
            (0.34 * side, -0.28),
            (0.48 * side, -0.6),
            0.3,
            mix(palette.main, palette.dark, 0.4),
            None,
            palette.line,
        )
    outlined(canvas, OWL_HEAD, fill(palette.main), palette.line, INK)
    if back:
        return
    disc = mix(palette.light, (255, 250, 240), 0.35)
    for side in (-1, 1):
        rx = 0.235 - (0.35 * turn if side > 0 else 0.0)
        at = (0.225 * side + 1.1 * turn, -0.02)
        oval(canvas, at, rx + 0.02, 0.265, fill(palette.line))
        oval(canvas, at, rx, 0.245, fill(disc))
        oval(canvas, at, rx * 0.8, 0.19, fill(mix(disc, palette.main, 0.25)))
        shiny_eye(canvas, at, 0.14 * rx / 0.235, palette, pose, gaze=turn * 1.5 - 0.05 * side)
        blush(canvas, (at[0] + 0.06 * side, 0.28), 0.07)
    beak(canvas, (1.25 * turn, 0.13), 0.11, palette)


# --- penguin -----------------------------------------------------------------------------------------------------

PENGUIN_SIDE = blob([
    (0.06, -0.97), (0.2, -0.88), (0.23, -0.74), (0.22, -0.62), (0.3, -0.4), (0.28, -0.16), (0.14, -0.03),
    (-0.12, -0.03), (-0.34, 0.0), (-0.26, -0.2), (-0.24, -0.44), (-0.16, -0.66), (-0.17, -0.84),
    (-0.08, -0.95),
])  # fmt: skip
PENGUIN_BELLY = blob([(0.12, -0.62), (0.26, -0.6), (0.4, -0.36), (0.3, -0.06), (0.06, -0.05), (0.04, -0.3)])
PENGUIN_CHEEK = blob([(0.3, -0.86), (0.12, -0.86), (0.06, -0.74), (0.12, -0.63), (0.3, -0.6)])
PENGUIN_FRONT = both([
    (0, -0.98), (0.17, -0.92), (0.23, -0.76), (0.23, -0.62), (0.32, -0.34), (0.26, -0.1), (0.1, -0.03),
    (0, -0.02),
])  # fmt: skip
PENGUIN_BIB = both([(0, -0.52), (0.11, -0.52), (0.18, -0.34), (0.14, -0.14), (0, -0.09)])
PENGUIN_MASK = both([(0, -0.8), (0.09, -0.87), (0.17, -0.77), (0.13, -0.64), (0, -0.6)])
FLIPPER = blob([(-0.06, 0.0), (0.06, -0.01), (0.09, 0.16), (0.05, 0.34), (-0.02, 0.38), (-0.07, 0.2)])
SNOW = (252, 252, 248)


def _penguin_motion(pose: Pose) -> tuple[Motion, float]:
    """The body, and how far the flippers are spread in degrees."""
    if pose.action == "walks":
        return Motion(lift=0.012 * pose.wave(0.1, times=2), pitch=7 * pose.wave(0.0)), 24 + 6 * pose.wave(times=2)
    if pose.action == "runs":
        return Motion(lift=0.04 + 0.03 * pose.wave(times=2), pitch=10 + 7 * pose.wave()), 60 + 14 * pose.wave(times=2)
    if pose.action == "jumps":
        height, squash, speed = leap(pose.phase, 0.42)
        return Motion(
            lift=height - 0.06 * squash, stretch=1 + 0.1 * squash - 0.04 * abs(speed), pitch=-6 * speed
        ), 24 + 85 * height / 0.42
    if pose.action == "swims":
        return Motion(lift=-0.45 + 0.02 * pose.wave(times=2), pitch=14 + 2 * pose.wave()), 50 + 30 * pose.wave()
    return Motion(
        lift=0.003 * pose.wave(), stretch=1 - 0.012 * pose.wave(), nod=4 * pose.wave(0.2)
    ), 12 + 6 * pose.wave()


def _penguin(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    body, spread = _penguin_motion(pose)
    side_view = pose.view == "side"
    moving = pose.action in ("walks", "runs")
    rise = max(body.lift, 0.0) if not moving else 0.0
    if pose.action != "swims":
        for k, shift in ((-1, 0.5), (1, 0.0)):
            dx, dy = step(pose.phase + shift, (0.14 if side_view else 0.03) * moving, 0.06 * moving)
            x = (0.05 * k + 0.02) if side_view else 0.12 * k
            hip = (x, -0.08 - rise)
            webbed_foot(canvas, hip, (x + dx, dy - rise), palette, head_on=not side_view, size=0.1)
    canvas.save()
    place(canvas, (0.0, -0.1), body)
    (_penguin_side if side_view else _penguin_front)(canvas, pose, palette, spread)
    canvas.restore()


def _flipper(canvas: skia.Canvas, x: float, degrees: float, palette: Palette, *, far: bool = False) -> None:
    canvas.save()
    canvas.translate(x, -0.56)
    canvas.rotate(degrees)
    outlined(canvas, FLIPPER, fill(palette.dark if far else mix(palette.main, palette.dark, 0.3)), palette.line)
    canvas.restore()


def _penguin_side(canvas: skia.Canvas, pose: Pose, palette: Palette, spread: float) -> None:
    top, bottom = soft(palette)
    _flipper(canvas, 0.14, -0.7 * spread - 10, palette, far=True)
    bill = blob([(0.2, -0.79), (0.3, -0.75), (0.37, -0.7), (0.3, -0.69), (0.2, -0.69)])
    outlined(canvas, bill, fill(bill_color(palette)), palette.line)
    canvas.drawPath(PENGUIN_SIDE, gradient(top, bottom, -0.9, 0.0))
    canvas.save()
    canvas.clipPath(PENGUIN_SIDE, doAntiAlias=True)
    canvas.drawPath(PENGUIN_BELLY, fill(SNOW))
    canvas.drawPath(PENGUIN_CHEEK, fill(SNOW))
    canvas.restore()
    canvas.drawPath(PENGUIN_SIDE, stroke(palette.line, 0.018))
    blush(canvas, (0.12, -0.68), 0.035)
    shiny_eye(canvas, (0.11, -0.79), 0.045, palette, pose)
    _flipper(canvas, -0.04, spread, palette)


def _penguin_front(canvas: skia.Canvas, pose: Pose, palette: Palette, spread: float) -> None:
    top, bottom = soft(palette)
    for side in (-1, 1):
        canvas.save()
        canvas.scale(side, 1)
        _flipper(canvas, 0.22, -spread - 8, palette)
        canvas.restore()
    canvas.drawPath(PENGUIN_FRONT, gradient(top, bottom, -0.9, 0.0))
    canvas.drawPath(PENGUIN_FRONT, stroke(palette.line, 0.018))
    if pose.view == "back":
        outlined(canvas, both([(0, -0.16), (0.07, -0.06), (0.05, 0.01), (0, 0.02)]), fill(palette.dark), palette.line)
        canvas.drawPath(arc((0.0, -0.6), (0.0, -0.24), 0.0), stroke(palette.dark, 0.014))
        return
    canvas.drawPath(PENGUIN_BIB, fill(SNOW))
    canvas.drawPath(PENGUIN_MASK, fill(SNOW))
    for side in (-1, 1):
        blush(canvas, (0.135 * side, -0.69), 0.036)
        shiny_eye(canvas, (0.095 * side, -0.77), 0.044, palette, pose, gaze=-0.06 * side)
    bill = both([(0, -0.75), (0.05, -0.72), (0.035, -0.68), (0, -0.655)])
    outlined(canvas, bill, fill(bill_color(palette)), palette.line, 0.014)


PERCHERS: dict[str, Puppet] = {
    "owl": Puppet(_owl, 0.8, (0.07, -0.72), 0.5, (0.0, -0.72), actions=("walks", "flies", "stays")),
    "penguin": Puppet(
        _penguin, 0.72, (0.04, -0.78), 0.42, (0.0, -0.78), actions=("walks", "runs", "jumps", "swims", "stays")
    ),
}
