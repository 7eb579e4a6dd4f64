"""Those that live in the water and the air: fish and butterfly.

Fins and wings beat by being scaled about their root. The one invariant: as in birds.py, the palette's main colour
covers most of the animal.
"""

from __future__ import annotations

from functools import lru_cache

import skia

from everreel.world.faces import INK, arc, blush, both, shiny_eye, soft, spine, taper
from everreel.world.gait import leap
from everreel.world.puppet import Color, Palette, Pose, Puppet, blob, fill, gradient, mix, outlined, oval, stroke

# --- fish --------------------------------------------------------------------------------------------------------

FISH_BODY = blob([
    (0.58, -0.46), (0.5, -0.62), (0.3, -0.76), (0.04, -0.8), (-0.22, -0.7), (-0.46, -0.52), (-0.48, -0.42),
    (-0.24, -0.24), (0.04, -0.14), (0.3, -0.16), (0.5, -0.3),
])  # fmt: skip
FISH_TAIL = blob([
    (0.06, 0.0), (-0.08, -0.12), (-0.3, -0.26), (-0.27, -0.1), (-0.22, 0.02), (-0.27, 0.14), (-0.3, 0.28),
    (-0.08, 0.12),
])  # fmt: skip
FISH_DORSAL = blob([(0.22, -0.74), (0.06, -0.96), (-0.16, -0.98), (-0.2, -0.86), (-0.3, -0.64), (0.0, -0.7)])
FISH_PELVIC = blob([(0.12, -0.2), (0.04, 0.0), (-0.12, -0.02), (-0.14, -0.22), (0.0, -0.24)])
FISH_FIN = blob([(0.04, -0.05), (-0.1, -0.1), (-0.24, -0.04), (-0.22, 0.08), (-0.06, 0.1), (0.04, 0.05)])
GILL = skia.PathBuilder().moveTo(0.22, -0.62).quadTo(0.14, -0.46, 0.22, -0.3).detach()
FISH_FRONT = both([(0, -0.82), (0.2, -0.7), (0.31, -0.46), (0.24, -0.22), (0, -0.12)])


def _fish(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    canvas.save()
    beats = 2 if pose.action == "stays" else 3
    wag = pose.wave(times=beats) * (0.5 if pose.action == "stays" else 1.0)
    if pose.action == "jumps":
        height, squash, speed = leap(pose.phase, 0.5)
        canvas.translate(0, -height + 0.1 * squash)
        turn = -38 * speed
    else:
        canvas.translate(0, 0.02 * pose.wave())
        turn = 2 * pose.wave(0.2)
    canvas.rotate(turn if pose.view == "side" else 0.1 * turn, 0.0, -0.46)
    if pose.view == "side":
        _fish_side(canvas, pose, palette, wag)
    else:
        _fish_front(canvas, pose, palette, wag)
    canvas.restore()


def _fin(canvas: skia.Canvas, path: skia.Path, palette: Palette) -> None:
    outlined(canvas, path, fill(mix(palette.main, palette.dark, 0.55)), palette.line)


def _fish_side(canvas: skia.Canvas, pose: Pose, palette: Palette, wag: float) -> None:
    top, bottom = soft(palette)
    canvas.save()
    canvas.translate(-0.44, -0.47)
    canvas.skew(0.0, 0.22 * wag)
    canvas.scale(1.0 - 0.28 * abs(wag), 1.0)
    _fin(canvas, FISH_TAIL, palette)
    for y in (-0.1, 0.01, 0.12):
        canvas.drawLine(-0.06, 0.3 * y, -0.19, y, stroke(palette.line, 0.014))
    canvas.restore()
    _fin(canvas, FISH_DORSAL, palette)
    _fin(canvas, FISH_PELVIC, palette)
    canvas.drawPath(FISH_BODY, gradient(top, bottom, -0.8, -0.1))
    canvas.save()
    canvas.clipPath(FISH_BODY, doAntiAlias=True)
    oval(canvas, (0.12, -0.12), 0.44, 0.14, fill(palette.light))
    for x in (-0.02, -0.28):
        canvas.drawPath(arc((x, -0.9), (x, -0.05), 0.0), stroke(palette.light, 0.09))
    canvas.restore()
    canvas.drawPath(FISH_BODY, stroke(palette.line, 0.018))
    for x, y in ((0.08, -0.58), (-0.12, -0.56), (-0.13, -0.4), (-0.37, -0.47)):
        canvas.drawPath(_scale(x, y), stroke(palette.dark, 0.016))
    canvas.drawPath(GILL, stroke(palette.line, 0.016))
    canvas.save()
    canvas.translate(0.1, -0.36)
    canvas.rotate(-14 + 22 * pose.wave(0.15, times=2))
    _fin(canvas, FISH_FIN, palette)
    canvas.restore()
    shiny_eye(canvas, (0.36, -0.53), 0.068, palette, pose)
    blush(canvas, (0.34, -0.37), 0.055)
    canvas.drawPath(arc((0.46, -0.35), (0.56, -0.41), 0.03), stroke(palette.line, 0.02))


@lru_cache
def _scale(x: float, y: float) -> skia.Path:
    return skia.PathBuilder().moveTo(x, y - 0.05).quadTo(x - 0.06, y, x, y + 0.05).detach()


def _fish_front(canvas: skia.Canvas, pose: Pose, palette: Palette, wag: float) -> None:
    top, bottom = soft(palette)
    back = pose.view == "back"
    if not back:
        _fin(canvas, both([(0, -1.0), (0.04, -0.9), (0.05, -0.74), (0, -0.7)]), palette)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(0.27 * side, -0.42)
        canvas.scale(-side * 1.2, 1.2)
        canvas.rotate(-14 + 20 * pose.wave(times=2))
        _fin(canvas, FISH_FIN, palette)
        canvas.restore()
    canvas.drawPath(FISH_FRONT, gradient(top, bottom, -0.8, -0.1))
    if not back:
        canvas.save()
        canvas.clipPath(FISH_FRONT, doAntiAlias=True)
        oval(canvas, (0, -0.14), 0.24, 0.14, fill(palette.light))
        canvas.restore()
    canvas.drawPath(FISH_FRONT, stroke(palette.line, 0.018))
    if back:
        _fin(canvas, both([(0, -1.0), (0.05, -0.9), (0.04, -0.64), (0, -0.6)]), palette)
        x = 0.12 * wag
        tail = blob(
            [(0, -0.62), (x + 0.06, -0.74), (x + 0.04, -0.46), (x + 0.06, -0.16), (0, -0.32), (x - 0.05, -0.46)]
        )
        _fin(canvas, tail, palette)
        return
    for side in (-1, 1):
        shiny_eye(canvas, (0.17 * side, -0.52), 0.072, palette, pose, gaze=-0.06 * side)
        blush(canvas, (0.2 * side, -0.37), 0.045)
    oval(canvas, (0, -0.35), 0.06, 0.04, fill((150, 52, 62)))
    oval(canvas, (0, -0.35), 0.06, 0.04, stroke(palette.line, 0.02))


# --- butterfly ---------------------------------------------------------------------------------------------------

UPPER = blob([
    (0.0, 0.0), (0.06, -0.2), (0.24, -0.42), (0.46, -0.46), (0.56, -0.32), (0.5, -0.12), (0.3, 0.02),
    (0.08, 0.06),
])  # fmt: skip
LOWER = blob([
    (0.02, 0.04), (0.24, 0.02), (0.42, 0.12), (0.44, 0.28), (0.32, 0.42), (0.18, 0.4), (0.06, 0.22),
])  # fmt: skip


def _butterfly(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    flying = pose.action == "flies"
    beat = 0.66 + 0.34 * pose.wave(0.25, times=2 if flying else 1)
    canvas.save()
    canvas.translate(0, -0.5 + (0.045 * pose.wave(times=2) if flying else 0.01 * pose.wave()))
    if pose.view == "side":
        canvas.rotate(32 + 3 * pose.wave())
        _wings(canvas, 0.5 * beat + 0.18, palette, far=True)
        _wings(canvas, -(0.85 * beat + 0.15), palette, far=False)
    else:
        canvas.rotate(3 * pose.wave())
        _wings(canvas, 0.9 * beat + 0.1, palette, far=False)
        _wings(canvas, -(0.9 * beat + 0.1), palette, far=False)
    _butterfly_body(canvas, pose, palette)
    canvas.restore()


def _wings(canvas: skia.Canvas, across: float, palette: Palette, *, far: bool) -> None:
    """One side's two wings, scaled across by the beat."""
    edge = mix(palette.line, (20, 16, 28), 0.3)
    color = mix(palette.main, palette.dark, 0.7) if far else palette.main
    canvas.save()
    canvas.scale(across, 1.0)
    for path, spot, heart in ((LOWER, (0.28, 0.24), 0.085), (UPPER, (0.36, -0.28), 0.1)):
        canvas.drawPath(path, fill(color))
        canvas.drawPath(path, stroke(edge, 0.045))
        oval(canvas, spot, heart, heart, fill(palette.light))
        oval(canvas, spot, 0.45 * heart, 0.45 * heart, fill(palette.dark))
    for x, y in ((0.49, -0.34), (0.48, -0.2), (0.36, 0.34)):
        oval(canvas, (x, y), 0.026, 0.026, fill((255, 255, 255)))
    canvas.drawPath(arc((0.06, -0.04), (0.3, -0.16), -0.02), stroke(palette.dark, 0.02))
    canvas.restore()


def _butterfly_body(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    dark: Color = mix(palette.line, palette.dark, 0.25)
    sway = pose.wave(0.3)
    for side in (-1, 1):
        points = spine((0.03 * side, -0.28), -90 + side * (22 + 3 * sway), [0, side * 10, side * 18], 0.24)
        canvas.drawPath(blob(points, closed=False), stroke(dark, 0.022))
        oval(canvas, points[-1], 0.026, 0.026, fill(dark))
    tail = taper([(0, -0.12), (0, 0.02), (0, 0.18), (0, 0.34)], [0.045, 0.06, 0.05, 0.02])
    outlined(canvas, tail, fill(dark), palette.line, 0.014)
    for y in (0.08, 0.16, 0.24):
        canvas.drawLine(-0.035, y, 0.035, y, stroke(mix(dark, palette.light, 0.5), 0.014))
    oval(canvas, (0, -0.22), 0.105, 0.1, fill(palette.line))
    oval(canvas, (0, -0.22), 0.09, 0.085, fill(mix(palette.light, (255, 236, 214), 0.55)))
    if pose.view == "back":
        oval(canvas, (0, -0.22), 0.09, 0.085, fill(dark))
        return
    turn = 0.02 if pose.view == "side" else 0.0
    for side in (-1, 1):
        shiny_eye(canvas, (0.04 * side + turn, -0.235), 0.025, palette, pose, gaze=-0.06 * side)
        blush(canvas, (0.055 * side + turn, -0.19), 0.018)
    canvas.drawPath(arc((turn - 0.018, -0.185), (turn + 0.018, -0.185), 0.012), stroke(palette.line, 0.25 * INK))


DRIFTERS: dict[str, Puppet] = {
    "fish": Puppet(_fish, 1.3, (0.34, -0.48), 0.56, (0.0, -0.46), floats=True, actions=("swims", "jumps", "stays")),
    "butterfly": Puppet(_butterfly, 1.1, (0.12, -0.69), 0.24, (0.0, -0.72), floats=True, actions=("flies", "stays")),
}
