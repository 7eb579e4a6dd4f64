"""Birds and other small ones: swan and duck here, the others in perchers.py and drifters.py, gathered in `BIRDS`.

The swan is known by the S of its neck, the duck by its flat bill and its curled tail. Both sit on the line y = 0,
be it water or ground, and sink a little when they swim. The one invariant: the palette's main colour covers most of
the bird, so the colour a caption names is the colour one sees.
"""

from __future__ import annotations

import skia

from everreel.world.drifters import DRIFTERS
from everreel.world.faces import INK, arc, blush, both, shiny_eye, soft, taper
from everreel.world.gait import Motion, place
from everreel.world.perchers import PERCHERS
from everreel.world.plumage import bill_color, flap, spread_wing, webbed_foot, wing_up
from everreel.world.puppet import Palette, Point, Pose, Puppet, blob, fill, gradient, mix, outlined, oval, step, stroke

# --- swan --------------------------------------------------------------------------------------------------------

SWAN_BODY = blob([
    (-0.66, -0.34), (-0.5, -0.36), (-0.2, -0.4), (0.14, -0.36), (0.36, -0.26), (0.4, -0.12), (0.26, 0.0),
    (-0.1, 0.05), (-0.4, 0.0), (-0.56, -0.14),
])  # fmt: skip
SWAN_WING = blob([
    (0.2, -0.3), (0.02, -0.46), (-0.3, -0.46), (-0.66, -0.46), (-0.54, -0.34), (-0.6, -0.3), (-0.46, -0.22),
    (-0.48, -0.16), (-0.3, -0.1), (0.04, -0.08), (0.2, -0.16),
])  # fmt: skip
SWAN_HEAD = blob([
    (-0.5, 0.04), (-0.38, -0.32), (-0.02, -0.44), (0.3, -0.28), (0.42, 0.0), (0.36, 0.26), (0.0, 0.42),
    (-0.36, 0.34),
])  # fmt: skip
SWAN_BEAK = blob([(0.34, -0.1), (0.6, 0.06), (0.84, 0.2), (0.8, 0.28), (0.5, 0.28), (0.3, 0.22)])
SWAN_FACE = both([(0, -0.46), (0.3, -0.34), (0.42, 0.0), (0.3, 0.32), (0, 0.42)])
SWAN_FRONT = both([(0, -0.42), (0.2, -0.36), (0.34, -0.2), (0.3, -0.02), (0, 0.05)])
SWAN_SIDE_WING = blob([(0.1, -0.4), (0.3, -0.44), (0.42, -0.26), (0.36, -0.06), (0.2, 0.0), (0.14, -0.2)])


def _drift(pose: Pose) -> Motion:
    """How a bird that sits on the water moves: carried by the waves, or breathing."""
    if pose.action == "flies":
        tilt = -8.0 if pose.view == "side" else 0.0
        return Motion(lift=0.06 + 0.05 * pose.wave(0.5), pitch=tilt, nod=5 - 3 * pose.wave(0.5))
    if pose.action == "swims":
        return Motion(lift=-0.06 + 0.014 * pose.wave(times=2), pitch=1.6 * pose.wave(), nod=4 * pose.wave(0.2))
    return Motion(lift=0.005 * pose.wave(), stretch=1 - 0.01 * pose.wave(), nod=5 * pose.wave(0.3), sway=pose.wave())


def _swan(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    body = _drift(pose)
    canvas.save()
    place(canvas, (0.0, -0.1), body)
    if pose.view == "side":
        _swan_side(canvas, pose, palette, body)
    else:
        _swan_front(canvas, pose, palette, body, back=pose.view == "back")
    canvas.restore()


def _swan_side(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    flying = pose.action == "flies"
    top, bottom = soft(palette)
    if flying:
        wing_up(canvas, (0.1, -0.28), 0.86, flap(pose), palette, far=True)
        neck: list[Point] = [(0.2, -0.18), (0.34, -0.3), (0.48, -0.46), (0.6, -0.58)]
    else:
        neck = [(0.24, -0.12), (0.36, -0.28), (0.25, -0.46), (0.16, -0.66), (0.26, -0.82), (0.38, -0.84)]
    path = taper(neck, [0.15, 0.11, 0.075, 0.068, 0.07, 0.07][: len(neck)])
    outlined(canvas, path, fill(top), palette.line)
    canvas.drawPath(SWAN_BODY, gradient(top, bottom, -0.4, 0.1))
    canvas.drawPath(SWAN_BODY, stroke(palette.line, 0.018))
    root = neck[0]
    oval(canvas, (root[0] - 0.02, root[1]), 0.13, 0.11, fill(palette.main))
    canvas.save()
    canvas.translate(*neck[-1])
    canvas.rotate(body.nod)
    canvas.scale(0.24, 0.24)
    _swan_head(canvas, pose, palette)
    canvas.restore()
    if flying:
        wing_up(canvas, (0.06, -0.26), 0.92, flap(pose), palette)
    else:
        canvas.save()
        canvas.rotate(1.5 * body.sway, 0.2, -0.2)
        outlined(canvas, SWAN_WING, fill(mix(palette.main, (255, 255, 255), 0.12)), palette.line)
        for y, x in ((-0.34, -0.5), (-0.25, -0.42), (-0.17, -0.3)):
            canvas.drawPath(arc((x, y), (x + 0.36, y + 0.04), 0.03), stroke(palette.dark, 0.018))
        canvas.restore()


def _swan_head(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    """Head space."""
    outlined(canvas, SWAN_BEAK, fill(bill_color(palette)), palette.line, 0.05)
    canvas.drawPath(arc((0.46, 0.2), (0.78, 0.24), 0.02), stroke(mix(bill_color(palette), (90, 20, 10), 0.5), 0.03))
    outlined(canvas, SWAN_HEAD, fill(palette.main), palette.line, 0.06)
    oval(canvas, (-0.24, 0.26), 0.2, 0.2, fill(palette.main))
    oval(canvas, (0.4, -0.04), 0.12, 0.1, fill((44, 38, 46)))
    blush(canvas, (0.08, 0.18), 0.13)
    shiny_eye(canvas, (0.12, -0.06), 0.13, palette, pose)


def _swan_front(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, *, back: bool) -> None:
    flying = pose.action == "flies"
    top, bottom = soft(palette)
    if flying:
        spread_wing(canvas, (0.16, -0.26), 0.62, flap(pose), palette)
        spread_wing(canvas, (-0.16, -0.26), -0.62, flap(pose), palette)
    neck: list[Point] = [(0.0, -0.14), (0.03, -0.4), (-0.02, -0.62), (0.0, -0.82)]
    if back:
        outlined(canvas, taper(neck, [0.12, 0.085, 0.07, 0.075]), fill(top), palette.line)
        _swan_face(canvas, pose, palette, body, back=True)
    canvas.drawPath(SWAN_FRONT, gradient(top, bottom, -0.4, 0.1))
    canvas.drawPath(SWAN_FRONT, stroke(palette.line, 0.018))
    if not flying:
        for side in (-1, 1):
            canvas.save()
            canvas.scale(side, 1)
            outlined(canvas, SWAN_SIDE_WING, fill(mix(palette.main, (255, 255, 255), 0.12)), palette.line)
            canvas.restore()
    if back:
        outlined(canvas, both([(0, -0.42), (0.12, -0.3), (0.07, -0.12), (0, -0.06)]), fill(palette.light), palette.line)
    else:
        outlined(canvas, taper(neck, [0.13, 0.085, 0.07, 0.075]), fill(top), palette.line)
        _swan_face(canvas, pose, palette, body, back=False)


def _swan_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, *, back: bool) -> None:
    canvas.save()
    canvas.translate(0.0, -0.85)
    canvas.rotate(body.nod)
    canvas.scale(0.26, 0.26)
    outlined(canvas, SWAN_FACE, fill(palette.main), palette.line, 0.06)
    if not back:
        outlined(
            canvas,
            both([(0, 0.0), (0.13, 0.08), (0.17, 0.3), (0, 0.42)]),
            fill(bill_color(palette)),
            palette.line,
            0.05,
        )
        oval(canvas, (0, 0.02), 0.1, 0.08, fill((44, 38, 46)))
        for side in (-1, 1):
            blush(canvas, (0.27 * side, 0.16), 0.09)
            shiny_eye(canvas, (0.22 * side, -0.06), 0.12, palette, pose, gaze=-0.06 * side)
    canvas.restore()


# --- duck --------------------------------------------------------------------------------------------------------

DUCK_BODY = blob([
    (-0.56, -0.46), (-0.46, -0.4), (-0.3, -0.4), (0.0, -0.44), (0.24, -0.46), (0.38, -0.3), (0.34, -0.08),
    (0.14, 0.03), (-0.18, 0.04), (-0.42, -0.06), (-0.54, -0.26),
])  # fmt: skip
DUCK_WING = blob([
    (0.16, -0.28), (-0.02, -0.36), (-0.28, -0.34), (-0.46, -0.28), (-0.3, -0.18), (-0.12, -0.08),
    (0.1, -0.12),
])  # fmt: skip
DUCK_HEAD = blob([
    (-0.44, 0.06), (-0.36, -0.3), (-0.02, -0.46), (0.3, -0.32), (0.42, 0.0), (0.34, 0.3), (0.0, 0.44),
    (-0.34, 0.36),
])  # fmt: skip
DUCK_BILL = blob([
    (0.34, 0.0), (0.56, 0.06), (0.78, 0.1), (0.8, 0.2), (0.66, 0.25), (0.5, 0.28), (0.32, 0.26),
])  # fmt: skip
DUCK_FACE = both([(0, -0.46), (0.3, -0.36), (0.44, -0.02), (0.36, 0.3), (0.16, 0.43), (0, 0.45)])
DUCK_FRONT = both([(0, -0.46), (0.22, -0.38), (0.31, -0.18), (0.24, 0.0), (0, 0.04)])
DUCK_CURL = blob([
    (-0.48, -0.42), (-0.58, -0.47), (-0.61, -0.55), (-0.55, -0.61), (-0.48, -0.57),
], closed=False)  # fmt: skip


def _duck(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    body, rise = _drift(pose), 0.0
    if pose.action == "walks":
        rise, swing = 0.14, 0.2 if pose.view == "side" else 0.05
        body = Motion(
            lift=rise + 0.012 * pose.wave(0.1, times=2), pitch=3 * pose.wave(), nod=-5 * pose.wave(0.2, times=2)
        )
        for k, shift in ((-1, 0.5), (1, 0.0)):
            dx, dy = step(pose.phase + shift, swing, 0.07)
            x = (0.02 + 0.04 * k) if pose.view == "side" else 0.12 * k
            webbed_foot(canvas, (0.5 * x, -0.16), (x + dx, dy), palette, head_on=pose.view != "side")
    canvas.save()
    place(canvas, (0.0, -0.16), body)
    if pose.view == "side":
        _duck_side(canvas, pose, palette, body)
    else:
        _duck_front(canvas, pose, palette, body, back=pose.view == "back")
    canvas.restore()


def _duck_side(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    flying = pose.action == "flies"
    top, bottom = soft(palette)
    if flying:
        wing_up(canvas, (0.04, -0.34), 0.7, flap(pose), palette, far=True)
    canvas.drawPath(DUCK_CURL, stroke(palette.line, 0.055))
    canvas.drawPath(DUCK_CURL, stroke(palette.main, 0.028))
    canvas.drawPath(DUCK_BODY, gradient(top, bottom, -0.46, 0.1))
    canvas.drawPath(DUCK_BODY, stroke(palette.line, 0.018))
    canvas.save()
    canvas.translate(0.28, -0.64)
    canvas.rotate(body.nod)
    canvas.scale(0.44, 0.44)
    outlined(canvas, DUCK_BILL, fill(bill_color(palette)), palette.line, INK)
    canvas.drawPath(arc((0.42, 0.16), (0.74, 0.19), 0.025), stroke(mix(bill_color(palette), (90, 20, 10), 0.5), 0.026))
    outlined(canvas, DUCK_HEAD, fill(palette.main), palette.line, INK)
    blush(canvas, (0.06, 0.16), 0.1)
    shiny_eye(canvas, (0.14, -0.08), 0.11, palette, pose)
    canvas.restore()
    # Over the seam of head and body, a pale collar.
    canvas.drawPath(arc((0.1, -0.5), (0.4, -0.47), 0.055), stroke(palette.line, 0.076))
    canvas.drawPath(arc((0.1, -0.5), (0.4, -0.47), 0.055), stroke(mix(palette.light, (255, 255, 255), 0.5), 0.045))
    if flying:
        wing_up(canvas, (0.0, -0.3), 0.74, flap(pose), palette)
        return
    canvas.save()
    canvas.rotate(2 * body.sway, 0.16, -0.24)
    outlined(canvas, DUCK_WING, fill(mix(palette.main, palette.dark, 0.35)), palette.line)
    canvas.drawPath(arc((-0.28, -0.26), (-0.04, -0.22), 0.03), stroke(palette.line, 0.016))
    canvas.restore()


def _duck_front(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, *, back: bool) -> None:
    flying = pose.action == "flies"
    if flying:
        spread_wing(canvas, (0.18, -0.28), 0.5, flap(pose), palette)
        spread_wing(canvas, (-0.18, -0.28), -0.5, flap(pose), palette)
    if back:
        _duck_face(canvas, pose, palette, body, back=True)
    top, bottom = soft(palette)
    canvas.drawPath(DUCK_FRONT, gradient(top, bottom, -0.46, 0.1))
    if not back:
        oval(canvas, (0, -0.12), 0.17, 0.14, fill(palette.light))
    canvas.drawPath(DUCK_FRONT, stroke(palette.line, 0.018))
    if not flying:
        for side in (-1, 1):
            wing = blob([(0.22 * side, -0.36), (0.34 * side, -0.2), (0.26 * side, -0.04), (0.22 * side, -0.18)])
            outlined(canvas, wing, fill(mix(palette.main, palette.dark, 0.35)), palette.line)
    if back:
        outlined(canvas, both([(0, -0.36), (0.1, -0.24), (0.05, -0.1), (0, -0.08)]), fill(palette.dark), palette.line)
    else:
        _duck_face(canvas, pose, palette, body, back=False)


def _duck_face(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, *, back: bool) -> None:
    canvas.save()
    canvas.translate(0.0, -0.62)
    canvas.rotate(body.nod)
    canvas.scale(0.46, 0.46)
    outlined(canvas, DUCK_FACE, fill(palette.main), palette.line, INK)
    if not back:
        for side in (-1, 1):
            blush(canvas, (0.29 * side, 0.14), 0.085)
            shiny_eye(canvas, (0.21 * side, -0.08), 0.105, palette, pose, gaze=-0.06 * side)
        bill = both([(0, 0.04), (0.12, 0.08), (0.23, 0.2), (0.14, 0.29), (0, 0.3)])
        outlined(canvas, bill, fill(bill_color(palette)), palette.line, INK)
        canvas.drawPath(
            arc((-0.15, 0.19), (0.15, 0.19), 0.03), stroke(mix(bill_color(palette), (90, 20, 10), 0.5), 0.026)
        )
        for side in (-1, 1):
            oval(canvas, (0.045 * side, 0.1), 0.014, 0.018, fill(palette.line))
    canvas.restore()


BIRDS: dict[str, Puppet] = {
    "swan": Puppet(_swan, 1.3, (0.38, -0.84), 0.26, (0.0, -0.85), floats=True, actions=("swims", "flies", "stays")),
    "duck": Puppet(
        _duck, 1.3, (0.28, -0.64), 0.44, (0.0, -0.62), floats=True, actions=("walks", "swims", "flies", "stays")
    ),
    **PERCHERS,
    **DRIFTERS,
}
