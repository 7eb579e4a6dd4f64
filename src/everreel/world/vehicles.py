"""What moves without legs: car and bus here, the others in afloat.py and aloft.py, gathered in `VEHICLES`.

The bodywork carries the named colour; glass, tyres and lamps keep their own. The invariant: wheels turn by a
whole turn a cycle, so a drive has no seam.
"""

from __future__ import annotations

import math

import skia

from everreel.world.afloat import BALL, BOAT
from everreel.world.aloft import AIRPLANE, BALLOON
from everreel.world.puppet import Color, Palette, Point, Pose, Puppet, fill, gradient, mix, oval, stroke

GLASS: Color = (188, 224, 240)
GLASS_LOW: Color = (130, 182, 212)
TYRE: Color = (48, 48, 58)
RUBBER: Color = (78, 80, 92)
HUB: Color = (206, 212, 220)
LAMP: Color = (255, 238, 166)
TAIL: Color = (226, 52, 56)
STEEL: Color = (190, 198, 208)
INK: Color = (34, 34, 46)


def _spring(pose: Pose) -> tuple[float, float]:
    """How far the body sits below its rest and its pitch in degrees."""
    if pose.action == "bounces":
        return (0.045 * pose.wave(0.0), 1.6 * pose.wave(0.25))
    if pose.action == "runs":
        return (0.008 * pose.wave(0.0, 2), -1.2 + 0.5 * pose.wave(0.2, 2))
    if pose.action == "walks":
        return (0.008 * pose.wave(0.0, 2), 0.35 * pose.wave(0.2))
    return (0.003 * pose.wave(0.0, 4), 0.0)


def _rolls(pose: Pose) -> bool:
    return pose.action in ("walks", "runs")


def _box(left: float, top: float, right: float, bottom: float) -> skia.Rect:
    return skia.Rect.MakeLTRB(left, top, right, bottom)


def _panel(
    canvas: skia.Canvas, box: skia.Rect, corner: float, paint: skia.Paint, line: Color, width: float = 0.02
) -> None:
    canvas.drawRoundRect(box, corner, corner, paint)
    canvas.drawRoundRect(box, corner, corner, stroke(line, width))


def _glass(top: float, bottom: float) -> skia.Paint:
    return gradient(GLASS, GLASS_LOW, top, bottom)


def _wheel(canvas: skia.Canvas, at: Point, radius: float, pose: Pose) -> None:
    """A wheel with five spokes, one of them marked by the valve, which turns once a cycle."""
    turn = pose.phase if _rolls(pose) else 0.0
    oval(canvas, at, radius, radius, fill(TYRE))
    oval(canvas, at, radius * 0.64, radius * 0.64, fill(HUB))
    path = skia.PathBuilder()
    for i in range(5):
        a = 2 * math.pi * (turn + i / 5) - math.pi / 2
        path.moveTo(*at).lineTo(at[0] + radius * 0.56 * math.cos(a), at[1] + radius * 0.56 * math.sin(a))
    canvas.drawPath(path.detach(), stroke((110, 116, 130), radius * 0.15))
    oval(canvas, at, radius * 0.2, radius * 0.2, fill(RUBBER))


def _tyres(canvas: skia.Canvas, half: float, wide: float, tall: float, pose: Pose) -> None:
    """Two tyres seen from the front, their tread running when the car drives."""
    turn = (pose.phase * 4) % 1.0 if _rolls(pose) else 0.0
    turn = 1 - turn if pose.view == "back" else turn
    for side in (-1, 1):
        box = _box(side * half - wide / 2, -tall, side * half + wide / 2, 0.0)
        canvas.drawRoundRect(box, 0.05, 0.05, fill(TYRE))
        for i in range(4):
            y = -tall + tall * ((i + turn) % 4) / 4
            canvas.drawLine(
                side * half - wide * 0.3, y + 0.01, side * half + wide * 0.3, y + 0.01, stroke(RUBBER, 0.018)
            )


def _puffs(canvas: skia.Canvas, pose: Pose, at: Point) -> None:
    """Exhaust that drifts back and fades, once a cycle per puff."""
    if not _rolls(pose):
        return
    for i in range(3):
        age = (pose.phase + i / 3) % 1.0
        size = 0.025 + 0.05 * age
        oval(
            canvas,
            (at[0] - 0.26 * age, at[1] - 0.08 * age),
            size,
            size,
            fill((236, 238, 242), 0.7 * math.sin(math.pi * age)),
        )


# Car


def _car(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    if pose.view == "side":
        _car_side(canvas, pose, palette)
    else:
        _car_end(canvas, pose, palette, pose.view == "back")


def _car_side(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    drop, pitch = _spring(pose)
    _puffs(canvas, pose, (-0.98, -0.16))
    canvas.drawRect(_box(-0.8, -0.36, 0.8, -0.14), fill(INK))
    canvas.save()
    canvas.translate(0.0, drop)
    canvas.rotate(pitch, 0.0, -0.2)
    body = skia.PathBuilder().moveTo(-0.94, -0.17).cubicTo(-1.01, -0.3, -1.0, -0.52, -0.9, -0.58)
    body.quadTo(-0.78, -0.63, -0.7, -0.64).cubicTo(-0.56, -0.92, -0.44, -0.985, -0.2, -0.985)
    body.cubicTo(0.12, -0.985, 0.24, -0.88, 0.42, -0.62).cubicTo(0.68, -0.6, 0.9, -0.54, 0.95, -0.42)
    body.cubicTo(0.99, -0.34, 0.985, -0.24, 0.95, -0.17)
    body.lineTo(0.83, -0.17).cubicTo(0.82, -0.5, 0.34, -0.5, 0.33, -0.17)
    body.lineTo(-0.32, -0.17).cubicTo(-0.33, -0.5, -0.81, -0.5, -0.82, -0.17).close()
    shape = body.detach()
    canvas.drawPath(
        shape,
        gradient(mix(palette.main, palette.light, 0.12), mix(palette.main, palette.dark, 0.35), -0.9, -0.15),
    )
    canvas.drawPath(shape, stroke(palette.line, 0.024))
    for window in (
        skia.PathBuilder()
        .moveTo(-0.57, -0.64)
        .quadTo(-0.46, -0.89, -0.24, -0.9)
        .lineTo(-0.17, -0.9)
        .lineTo(-0.17, -0.64),
        skia.PathBuilder().moveTo(-0.09, -0.9).cubicTo(0.09, -0.89, 0.16, -0.83, 0.29, -0.64).lineTo(-0.09, -0.64),
    ):
        glass = window.close().detach()
        canvas.drawPath(glass, _glass(-0.9, -0.62))
        canvas.drawPath(glass, stroke(palette.line, 0.02))
    shine = stroke((255, 255, 255), 0.022, 0.7)
    canvas.drawLine(-0.42, -0.68, -0.32, -0.84, shine)
    canvas.drawLine(0.0, -0.68, 0.08, -0.82, shine)
    canvas.drawLine(-0.86, -0.47, 0.86, -0.47, stroke(palette.light, 0.022))
    seam = (
        skia.PathBuilder().moveTo(-0.13, -0.62).lineTo(-0.13, -0.2).moveTo(0.31, -0.6).quadTo(0.36, -0.5, 0.31, -0.42)
    )
    canvas.drawPath(seam.detach(), stroke(palette.line, 0.014))
    canvas.drawLine(-0.04, -0.53, 0.06, -0.53, stroke(palette.line, 0.026))
    oval(canvas, (0.9, -0.43), 0.055, 0.07, fill(LAMP))
    oval(canvas, (0.9, -0.43), 0.055, 0.07, stroke(palette.line, 0.018))
    _panel(canvas, _box(-0.985, -0.52, -0.92, -0.38), 0.025, fill(TAIL), palette.line, 0.016)
    for left, right in ((-1.0, -0.83), (0.84, 1.0)):
        _panel(canvas, _box(left, -0.25, right, -0.16), 0.04, fill(STEEL), palette.line, 0.016)
    canvas.restore()
    for x in (-0.57, 0.58):
        _wheel(canvas, (x, -0.2), 0.2, pose)


def _car_end(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool) -> None:
    drop, pitch = _spring(pose)
    _tyres(canvas, 0.43, 0.2, 0.34, pose)
    canvas.drawRect(_box(-0.45, -0.3, 0.45, -0.12), fill(INK))
    canvas.save()
    canvas.translate(0.0, drop)
    canvas.rotate(pitch if pose.action != "runs" else pose.wave(0.0, 1) * 0.6, 0.0, -0.2)
    roof = skia.PathBuilder().moveTo(-0.53, -0.56).cubicTo(-0.44, -0.94, -0.38, -0.985, -0.2, -0.985)
    roof.lineTo(0.2, -0.985).cubicTo(0.38, -0.985, 0.44, -0.94, 0.53, -0.56).close()
    shape = roof.detach()
    canvas.drawPath(shape, fill(palette.main))
    canvas.drawPath(shape, stroke(palette.line, 0.024))
    pane = skia.PathBuilder().moveTo(-0.42, -0.6).quadTo(-0.34, -0.9, -0.27, -0.9).lineTo(0.27, -0.9)
    glass = pane.quadTo(0.34, -0.9, 0.42, -0.6).close().detach()
    canvas.drawPath(glass, _glass(-0.9, -0.6))
    canvas.drawPath(glass, stroke(palette.line, 0.02))
    shine = stroke((255, 255, 255), 0.03, 0.65)
    canvas.drawLine(-0.22, -0.66, -0.1, -0.84, shine)
    canvas.drawLine(-0.1, -0.66, -0.03, -0.77, shine)
    for side in (-1, 1):
        oval(canvas, (0.57 * side, -0.66), 0.065, 0.05, fill(palette.main))
        oval(canvas, (0.57 * side, -0.66), 0.065, 0.05, stroke(palette.line, 0.018))
    body = gradient(mix(palette.main, palette.light, 0.12), mix(palette.main, palette.dark, 0.3), -0.62, -0.18)
    _panel(canvas, _box(-0.6, -0.61, 0.6, -0.17), 0.13, body, palette.line, 0.024)
    _panel(canvas, _box(-0.62, -0.27, 0.62, -0.16), 0.05, fill(STEEL), palette.line, 0.018)
    if back:
        _car_back(canvas, palette)
    else:
        _car_front(canvas, palette)
    canvas.restore()


def _car_front(canvas: skia.Canvas, palette: Palette) -> None:
    hood = (
        skia.PathBuilder()
        .moveTo(-0.36, -0.6)
        .quadTo(-0.3, -0.5, -0.24, -0.44)
        .moveTo(0.36, -0.6)
        .quadTo(0.3, -0.5, 0.24, -0.44)
    )
    canvas.drawPath(hood.detach(), stroke(palette.line, 0.016))
    _panel(canvas, _box(-0.22, -0.42, 0.22, -0.31), 0.045, fill(INK), palette.line, 0.018)
    for y in (-0.39, -0.345):
        canvas.drawLine(-0.17, y, 0.17, y, stroke(STEEL, 0.014))
    for side in (-1, 1):
        oval(canvas, (0.42 * side, -0.43), 0.11, 0.11, fill((250, 250, 246)))
        oval(canvas, (0.42 * side, -0.43), 0.08, 0.08, fill(LAMP))
        oval(canvas, (0.42 * side - 0.03, -0.46), 0.025, 0.025, fill((255, 255, 255)))
        oval(canvas, (0.42 * side, -0.43), 0.11, 0.11, stroke(palette.line, 0.02))
    _panel(canvas, _box(-0.13, -0.255, 0.13, -0.185), 0.02, fill((252, 252, 250)), INK, 0.012)


def _car_back(canvas: skia.Canvas, palette: Palette) -> None:
    canvas.drawRoundRect(_box(-0.34, -0.58, 0.34, -0.3), 0.06, 0.06, stroke(palette.line, 0.016))
    canvas.drawLine(-0.07, -0.5, 0.07, -0.5, stroke(palette.line, 0.028))
    for side in (-1, 1):
        _panel(
            canvas,
            _box(0.47 * side - 0.09, -0.52, 0.47 * side + 0.09, -0.36),
            0.05,
            fill(TAIL),
            palette.line,
            0.02,
        )
        oval(canvas, (0.47 * side, -0.4), 0.05, 0.022, fill((255, 190, 120)))
    _panel(canvas, _box(-0.15, -0.44, 0.15, -0.34), 0.02, fill((252, 252, 250)), INK, 0.012)
    canvas.drawRoundRect(_box(0.3, -0.16, 0.4, -0.11), 0.02, 0.02, fill(RUBBER))


# Bus


def _bus(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    if pose.view == "side":
        _bus_side(canvas, pose, palette)
    else:
        _bus_end(canvas, pose, palette, pose.view == "back")


def _bus_side(canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
    drop, pitch = _spring(pose)
    _puffs(canvas, pose, (-1.1, -0.14))
    canvas.drawRect(_box(-0.95, -0.34, 0.95, -0.12), fill(INK))
    canvas.save()
    canvas.translate(0.0, drop)
    canvas.rotate(0.7 * pitch, 0.0, -0.2)
    body = skia.PathBuilder().moveTo(-1.08, -0.14).lineTo(-1.08, -0.88).quadTo(-1.08, -0.975, -0.98, -0.975)
    body.lineTo(0.88, -0.975).quadTo(0.98, -0.975, 1.02, -0.86).cubicTo(1.08, -0.6, 1.09, -0.4, 1.08, -0.14)
    body.lineTo(0.86, -0.14).cubicTo(0.85, -0.43, 0.45, -0.43, 0.44, -0.14)
    body.lineTo(-0.46, -0.14).cubicTo(-0.47, -0.43, -0.87, -0.43, -0.88, -0.14).close()
    shape = body.detach()
    canvas.drawPath(
        shape,
        gradient(mix(palette.main, palette.light, 0.12), mix(palette.main, palette.dark, 0.3), -0.9, -0.14),
    )
    canvas.drawPath(shape, stroke(palette.line, 0.024))
    for i in range(4):
        left = -0.97 + 0.36 * i
        _panel(canvas, _box(left, -0.84, left + 0.29, -0.57), 0.045, _glass(-0.84, -0.57), palette.line, 0.018)
        canvas.drawLine(left + 0.07, -0.62, left + 0.14, -0.79, stroke((255, 255, 255), 0.022, 0.65))
    _panel(canvas, _box(0.475, -0.84, 0.73, -0.57), 0.045, _glass(-0.84, -0.57), palette.line, 0.018)
    screen = (
        skia.PathBuilder().moveTo(0.82, -0.84).lineTo(0.98, -0.84).quadTo(1.03, -0.7, 1.045, -0.52).lineTo(0.82, -0.52)
    )
    glass = screen.close().detach()
    canvas.drawPath(glass, _glass(-0.84, -0.52))
    canvas.drawPath(glass, stroke(palette.line, 0.018))
    canvas.drawLine(0.88, -0.58, 0.95, -0.78, stroke((255, 255, 255), 0.022, 0.65))
    canvas.drawRect(_box(-1.07, -0.5, 1.07, -0.45), fill(palette.light))
    for x in (-0.3, 0.3):
        canvas.drawLine(x, -0.43, x, -0.17, stroke(palette.line, 0.012))
    oval(canvas, (1.02, -0.32), 0.045, 0.06, fill(LAMP))
    oval(canvas, (1.02, -0.32), 0.045, 0.06, stroke(palette.line, 0.016))
    _panel(canvas, _box(-1.09, -0.4, -1.04, -0.26), 0.02, fill(TAIL), palette.line, 0.014)
    _panel(canvas, _box(0.9, -0.2, 1.11, -0.12), 0.03, fill(STEEL), palette.line, 0.016)
    _panel(canvas, _box(-1.11, -0.2, -0.92, -0.12), 0.03, fill(STEEL), palette.line, 0.016)
    _panel(canvas, _box(0.5, -0.995, 0.84, -0.9), 0.03, fill(INK), palette.line, 0.014)
    canvas.drawLine(0.56, -0.947, 0.78, -0.947, stroke((255, 206, 96), 0.03))
    canvas.restore()
    for x in (-0.67, 0.65):
        _wheel(canvas, (x, -0.165), 0.165, pose)


def _bus_end(canvas: skia.Canvas, pose: Pose, palette: Palette, back: bool) -> None:
    drop, pitch = _spring(pose)
    _tyres(canvas, 0.27, 0.15, 0.26, pose)
    canvas.drawRect(_box(-0.3, -0.2, 0.3, -0.09), fill(INK))
    canvas.save()
    canvas.translate(0.0, drop)
    canvas.rotate(pitch if pose.action != "runs" else pose.wave(0.0, 1) * 0.7, 0.0, -0.1)
    for side in (-1, 1):
        if not back:
            canvas.drawLine(0.38 * side, -0.86, 0.45 * side, -0.82, stroke(INK, 0.022))
            _panel(
                canvas,
                _box(0.455 * side - 0.035, -0.83, 0.455 * side + 0.035, -0.66),
                0.03,
                fill(palette.main),
                palette.line,
                0.016,
            )
    body = gradient(mix(palette.main, palette.light, 0.12), mix(palette.main, palette.dark, 0.3), -0.9, -0.14)
    _panel(canvas, _box(-0.4, -0.985, 0.4, -0.12), 0.1, body, palette.line, 0.024)
    low = -0.5 if not back else -0.62
    _panel(canvas, _box(-0.34, -0.84, 0.34, low), 0.06, _glass(-0.84, low), palette.line, 0.02)
    if not back:
        canvas.drawLine(-0.22, -0.58, -0.1, -0.79, stroke((255, 255, 255), 0.03, 0.65))
    canvas.drawRect(_box(-0.39, -0.45, 0.39, -0.4), fill(palette.light))
    _panel(canvas, _box(-0.2, -0.955, 0.2, -0.875), 0.025, fill(INK), palette.line, 0.014)
    canvas.drawLine(-0.12, -0.915, 0.12, -0.915, stroke((255, 206, 96), 0.03))
    for side in (-1, 1):
        if back:
            _panel(
                canvas,
                _box(0.32 * side - 0.04, -0.37, 0.32 * side + 0.04, -0.24),
                0.025,
                fill(TAIL),
                palette.line,
                0.016,
            )
        else:
            canvas.drawLine(0.06 * side, -0.52, 0.2 * side, -0.56, stroke(INK, 0.014))
            oval(canvas, (0.28 * side, -0.3), 0.062, 0.062, fill(LAMP))
            oval(canvas, (0.28 * side, -0.3), 0.062, 0.062, stroke(palette.line, 0.018))
    grille = stroke(palette.line, 0.016)
    for y in (-0.34, -0.3, -0.26):
        canvas.drawLine(-0.13, y, 0.13, y, grille)
    _panel(canvas, _box(-0.42, -0.19, 0.42, -0.1), 0.04, fill(STEEL), palette.line, 0.018)
    canvas.drawRoundRect(_box(-0.1, -0.175, 0.1, -0.115), 0.015, 0.015, fill((252, 252, 250)))
    canvas.restore()


_DRIVES = ("walks", "runs", "bounces", "stays")

VEHICLES: dict[str, Puppet] = {
    "car": Puppet(_car, width=2.0, head=(0.55, -0.52), head_size=0.72, front_head=(0.0, -0.56), actions=_DRIVES),
    "bus": Puppet(_bus, width=2.2, head=(0.75, -0.56), head_size=0.78, front_head=(0.0, -0.56), actions=_DRIVES),
    "boat": BOAT,
    "airplane": AIRPLANE,
    "balloon": BALLOON,
    "ball": BALL,
}
