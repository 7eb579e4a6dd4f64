"""Human heads, from the front, in profile and from behind, with the five expressions of the film world.

A head is drawn in the unit circle (radius 1, y down, looking right in profile). The invariant: brows, eyes
and mouth each differ between any two expressions, so one feature is enough when a head is thirty pixels high.
"""

from __future__ import annotations

from dataclasses import dataclass

import skia

from everreel.world.puppet import Color, Palette, Point, Pose, fill, mix, outlined, oval, stroke

WHITE: Color = (253, 252, 250)
MOUTH: Color = (120, 36, 44)
TONGUE: Color = (232, 112, 112)
TEAR: Color = (120, 196, 240)
MAN_HAIR: Color = (84, 56, 40)
WOMAN_HAIR: Color = (112, 58, 36)


@dataclass(frozen=True)
class Mood:
    """How an expression bends a face: brows (slant: inner end up), eye opening and lids."""

    brow: float = 0.0
    slant: float = 0.0
    arch: float = 0.06
    eye: float = 1.0
    pupil: float = 1.0
    lid: float = 0.0  # share of the eye a straight upper lid hides
    lid_slant: float = 0.0  # inner end lower: positive


MOODS: dict[str, Mood] = {
    "neutral": Mood(),
    "happy": Mood(brow=-0.07, arch=0.16, eye=1.04),
    "sad": Mood(brow=-0.07, slant=0.2, arch=0.0, eye=0.95, pupil=0.95, lid=0.2, lid_slant=-0.16),
    "angry": Mood(brow=0.08, slant=-0.19, arch=-0.02, eye=0.98, pupil=0.8, lid=0.26, lid_slant=0.2),
    "surprised": Mood(brow=-0.14, arch=0.15, eye=1.25, pupil=0.66),
}


def profile(canvas: skia.Canvas, pose: Pose, palette: Palette, hair: Color, *, woman: bool) -> None:
    """A head in profile in the unit circle, looking right."""
    skin = palette.skin
    skull = skia.PathBuilder().moveTo(-0.9, 0.1).cubicTo(-1.0, -1.15, 0.85, -1.2, 0.86, -0.16)
    skull.quadTo(0.88, -0.02, 0.94, 0.06).cubicTo(1.16, 0.24, 1.1, 0.38, 0.9, 0.37)
    skull.quadTo(0.95, 0.5, 0.86, 0.62).cubicTo(0.84, 1.05, 0.35, 1.08, 0.05, 0.98)
    skull.cubicTo(-0.6, 0.95, -0.88, 0.6, -0.9, 0.1).close()
    outlined(canvas, skull.detach(), fill(skin), ink(skin), 0.09)
    if not woman:
        beard = skia.PathBuilder().moveTo(-0.28, -0.3).lineTo(-0.12, 0.3).quadTo(0.1, 0.62, 0.32, 0.68)
        beard.quadTo(0.55, 0.98, 0.87, 0.72).cubicTo(0.85, 1.2, 0.3, 1.2, -0.1, 1.06)
        beard.cubicTo(-0.75, 0.9, -0.95, 0.5, -0.94, -0.3).close()
        canvas.drawPath(beard.detach(), fill(hair))
    side_face(canvas, pose, palette, hair, lashes=woman)
    if woman:
        _woman_hair_profile(canvas, palette, hair)
    oval(canvas, (-0.16, 0.2), 0.15, 0.2, fill(skin))
    oval(canvas, (-0.16, 0.2), 0.15, 0.2, stroke(ink(skin), 0.06))
    if not woman:
        cap = skia.PathBuilder().moveTo(-1.02, -0.22).cubicTo(-1.1, -1.5, 0.95, -1.5, 0.94, -0.48)
        cap.quadTo(0.0, -0.58, -1.02, -0.22).close()
        outlined(canvas, cap.detach(), fill(palette.main), palette.line, 0.09)
        brim = skia.PathBuilder().moveTo(0.35, -0.63).quadTo(0.95, -0.77, 1.5, -0.51).quadTo(1.1, -0.45, 0.5, -0.48)
        outlined(canvas, brim.close().detach(), fill(palette.dark), palette.line, 0.08)
        oval(canvas, (-0.05, -1.2), 0.13, 0.09, fill(palette.light))


def full_face(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    """A head seen from the front in the unit circle."""
    skin, hair = palette.skin, WOMAN_HAIR if woman else MAN_HAIR
    edge = stroke(ink(skin), 0.08)
    for side in (-1, 1):
        oval(canvas, (0.96 * side, 0.16), 0.15, 0.2, fill(skin))
        oval(canvas, (0.96 * side, 0.16), 0.15, 0.2, edge)
    oval(canvas, (0.0, 0.0), 0.97, 1.02, fill(skin))
    oval(canvas, (0.0, 0.0), 0.97, 1.02, edge)
    if not woman:
        beard = skia.PathBuilder().moveTo(-1.0, -0.5).lineTo(-0.8, -0.5).quadTo(-0.84, 0.4, -0.52, 0.6)
        beard.quadTo(-0.35, 0.98, 0.0, 0.94).quadTo(0.35, 0.98, 0.52, 0.6).quadTo(0.84, 0.4, 0.8, -0.5)
        beard.lineTo(1.0, -0.5).cubicTo(1.15, 0.7, 0.6, 1.2, 0.0, 1.2).cubicTo(-0.6, 1.2, -1.15, 0.7, -1.0, -0.5)
        canvas.drawPath(beard.close().detach(), fill(hair))
    front_face(canvas, pose, palette, hair, lashes=woman)
    if woman:
        _woman_fringe(canvas, palette, hair)
        return
    cap = skia.PathBuilder().moveTo(-1.04, -0.32).cubicTo(-1.1, -1.5, 1.1, -1.5, 1.04, -0.32)
    cap.quadTo(0.0, -0.82, -1.04, -0.32).close()
    outlined(canvas, cap.detach(), fill(palette.main), palette.line, 0.09)
    brim = skia.PathBuilder().moveTo(-0.98, -0.38).quadTo(0.0, -1.12, 0.98, -0.38).quadTo(0.0, -0.76, -0.98, -0.38)
    outlined(canvas, brim.close().detach(), fill(palette.dark), palette.line, 0.07)
    oval(canvas, (0.0, -1.2), 0.14, 0.08, fill(palette.light))


def full_back(canvas: skia.Canvas, pose: Pose, palette: Palette, *, woman: bool) -> None:
    """The back of a head: hair, and the hat or the bow."""
    hair = WOMAN_HAIR if woman else MAN_HAIR
    if not woman:
        for side in (-1, 1):
            oval(canvas, (0.97 * side, 0.14), 0.15, 0.2, fill(palette.skin))
    oval(canvas, (0.0, -0.03), 1.06 if woman else 0.99, 1.05, fill(hair))
    if woman:
        gloss = skia.PathBuilder().moveTo(-0.62, -0.2).quadTo(-0.3, -0.42, 0.0, -0.44).detach()
        canvas.drawPath(gloss, stroke(mix(hair, (255, 220, 180), 0.3), 0.1))
        band = skia.PathBuilder().moveTo(-1.0, -0.55).quadTo(0.0, -1.15, 1.0, -0.55).detach()
        canvas.drawPath(band, stroke(palette.line, 0.36))
        canvas.drawPath(band, stroke(palette.main, 0.26))
        _bow(canvas, palette, (-0.5, -1.0), 0.58)
        return
    cap = skia.PathBuilder().moveTo(-1.05, -0.1).cubicTo(-1.12, -1.5, 1.12, -1.5, 1.05, -0.1)
    cap.quadTo(0.0, 0.12, -1.05, -0.1).close()
    outlined(canvas, cap.detach(), fill(palette.main), palette.line, 0.09)
    oval(canvas, (0.0, -1.2), 0.14, 0.08, fill(palette.light))
    canvas.drawLine(-0.35, -0.05, 0.35, -0.05, stroke(palette.dark, 0.12))


def front_face(canvas: skia.Canvas, pose: Pose, palette: Palette, hair: Color, *, lashes: bool = False) -> None:
    """Cheeks, eyes, brows, nose and mouth of a face that looks at the viewer."""
    cheeks(canvas, pose, palette, (-0.6, 0.6))
    for side in (-1, 1):
        _eye(canvas, pose, palette, (0.37 * side, 0.13), 0.175, -side, lashes=lashes)
        _brow(canvas, pose, (0.37 * side, -0.19), 0.2, -side, hair)
    nose = stroke(mix(palette.skin, (150, 70, 50), 0.55), 0.065)
    canvas.drawPath(skia.PathBuilder().moveTo(-0.07, 0.35).quadTo(0.0, 0.41, 0.07, 0.35).detach(), nose)
    mouth(canvas, pose, (0.0, 0.61), 0.33, lips=lashes)


def side_face(canvas: skia.Canvas, pose: Pose, palette: Palette, hair: Color, *, lashes: bool = False) -> None:
    """Cheek, eye, brow and mouth of a profile that looks right; the nose is part of the head's outline."""
    cheeks(canvas, pose, palette, (0.3,))
    _eye(canvas, pose, palette, (0.55, 0.11), 0.16, 1, lashes=lashes)
    _brow(canvas, pose, (0.54, -0.2), 0.2, 1, hair)
    mouth(canvas, pose, (0.6, 0.6), 0.2, lips=lashes)


def cheeks(canvas: skia.Canvas, pose: Pose, palette: Palette, centres: tuple[float, ...]) -> None:
    """A blush that deepens with joy and anger."""
    strength = {"happy": 0.5, "angry": 0.6, "neutral": 0.32}.get(pose.expression, 0.2)
    for x in centres:
        oval(canvas, (x, 0.45), 0.19, 0.14, fill((240, 110, 100), strength))


def mouth(canvas: skia.Canvas, pose: Pose, at: Point, half: float, *, lips: bool = False) -> None:
    """A mouth of half width `half`: short line, open laugh, bow down, clenched teeth, round cry."""
    x, y = at
    line = stroke((186, 52, 66) if lips else (128, 58, 50), 0.085)
    path = skia.PathBuilder()
    if pose.expression == "happy":
        path.moveTo(x - half, y - 0.1).quadTo(x, y + 0.02, x + half, y - 0.1)
        path.cubicTo(x + half * 0.9, y + 0.34, x - half * 0.9, y + 0.34, x - half, y - 0.1).close()
        shape = path.detach()
        canvas.drawPath(shape, fill(MOUTH))
        canvas.save()
        canvas.clipPath(shape, True)
        oval(canvas, (x, y - 0.1), half * 0.85, 0.12, fill(WHITE))
        oval(canvas, (x, y + 0.26), half * 0.6, 0.12, fill(TONGUE))
        canvas.restore()
        canvas.drawPath(shape, stroke((186, 52, 66) if lips else (110, 40, 40), 0.05))
    elif pose.expression == "surprised":
        oval(canvas, (x, y + 0.06), half * 0.48, 0.2, fill(MOUTH))
        oval(canvas, (x, y + 0.17), half * 0.3, 0.07, fill(TONGUE))
        canvas.drawOval(
            skia.Rect.MakeLTRB(x - half * 0.48, y - 0.14, x + half * 0.48, y + 0.26),
            stroke((186, 52, 66) if lips else (110, 40, 40), 0.05),
        )
    elif pose.expression == "angry":
        box = skia.Rect.MakeLTRB(x - half * 0.85, y - 0.05, x + half * 0.85, y + 0.15)
        canvas.drawRoundRect(box, 0.07, 0.07, fill(WHITE))
        teeth = stroke((150, 120, 120), 0.03)
        canvas.drawLine(x - half * 0.8, y + 0.05, x + half * 0.8, y + 0.05, teeth)
        for part in (-0.4, 0.0, 0.4):
            canvas.drawLine(x + half * part, y - 0.04, x + half * part, y + 0.14, teeth)
        canvas.drawRoundRect(box, 0.07, 0.07, stroke((128, 36, 40), 0.06))
    elif pose.expression == "sad":
        path.moveTo(x - half * 0.8, y + 0.14).quadTo(x, y - 0.14, x + half * 0.8, y + 0.14)
        canvas.drawPath(path.detach(), line)
    else:
        path.moveTo(x - half * 0.6, y).quadTo(x, y + 0.07, x + half * 0.6, y)
        canvas.drawPath(path.detach(), line)


def _eye(
    canvas: skia.Canvas, pose: Pose, palette: Palette, at: Point, size: float, inward: int, *, lashes: bool
) -> None:
    """One eye; `inward` is the side of the nose: 1 right, -1 left."""
    mood = MOODS[pose.expression]
    x, y = at
    rx, ry = size * mood.eye, size * 1.3 * mood.eye
    ink = stroke(palette.eye, 0.075)
    if pose.blink:
        lid = skia.PathBuilder().moveTo(x - rx, y + 0.03).quadTo(x, y + 0.12, x + rx, y + 0.03).detach()
        canvas.drawPath(lid, ink)
        return
    inner, outer = (
        y - ry + 2 * ry * mood.lid + mood.lid_slant / 2,
        y - ry + 2 * ry * mood.lid - mood.lid_slant / 2,
    )
    xi, xo = x + 1.25 * rx * inward, x - 1.25 * rx * inward
    if mood.lid:
        canvas.save()
        canvas.clipPath(
            skia.Path.Polygon(
                [skia.Point(xi, inner), skia.Point(xo, outer), skia.Point(xo, y + 1), skia.Point(xi, y + 1)],
                True,
            ),
            True,
        )
    oval(canvas, at, rx, ry, fill(WHITE))
    look = 0.18 * rx * inward
    oval(canvas, (x + look, y + 0.01), size * 0.72 * mood.pupil, size * 0.95 * mood.pupil, fill((96, 60, 40)))
    oval(canvas, (x + look, y + 0.01), size * 0.46 * mood.pupil, size * 0.62 * mood.pupil, fill(palette.eye))
    if mood.lid:
        canvas.restore()
        canvas.drawLine(xi - 0.02 * inward, inner, xo + 0.02 * inward, outer, stroke(palette.eye, 0.055))
    else:
        lid = (
            skia.PathBuilder()
            .moveTo(x - rx, y - 0.05)
            .cubicTo(x - 0.8 * rx, y - 1.25 * ry, x + 0.8 * rx, y - 1.25 * ry, x + rx, y - 0.05)
        )
        canvas.drawPath(lid.detach(), stroke(palette.eye, 0.055))
    oval(canvas, (x + look + 0.05, y - 0.07), size * 0.24, size * 0.26, fill(WHITE))
    if lashes:
        top = outer if mood.lid else y - 0.5 * ry
        canvas.drawLine(x - 0.95 * rx * inward, top + 0.02, x - (rx + 0.11) * inward, top - 0.07, ink)
    if pose.expression == "sad":
        drop = (
            skia.PathBuilder()
            .moveTo(x - 0.06 * inward, y + ry * 0.9)
            .cubicTo(x - 0.21, y + ry + 0.27, x + 0.13, y + ry + 0.27, x - 0.06 * inward, y + ry * 0.9)
        )
        canvas.drawPath(drop.detach(), fill(TEAR))


def _brow(canvas: skia.Canvas, pose: Pose, at: Point, half: float, inward: int, hair: Color) -> None:
    mood = MOODS[pose.expression]
    x, y = at[0], at[1] + mood.brow
    brow = skia.PathBuilder().moveTo(x + half * inward, y - mood.slant / 2)
    brow.quadTo(x, y - mood.arch * 1.3, x - half * inward, y + mood.slant / 2 + 0.02)
    canvas.drawPath(brow.detach(), stroke(mix(hair, (30, 20, 20), 0.35), 0.105))


def ink(color: Color) -> Color:
    """The outline of a skin or hair colour."""
    return mix(color, (70, 26, 30), 0.55)


def _woman_hair_profile(canvas: skia.Canvas, palette: Palette, hair: Color) -> None:
    shape = skia.PathBuilder().moveTo(0.93, -0.3).cubicTo(0.95, -1.3, -1.0, -1.5, -1.1, 0.0)
    shape.cubicTo(-1.15, 0.6, -0.9, 1.1, -0.45, 1.2).cubicTo(-0.2, 0.8, -0.25, 0.4, -0.3, 0.0)
    shape.cubicTo(0.0, -0.5, 0.4, -0.85, 0.93, -0.36).close()
    outlined(canvas, shape.detach(), fill(hair), ink(hair), 0.08)
    gloss = skia.PathBuilder().moveTo(-0.72, -0.5).quadTo(-0.4, -0.95, 0.1, -0.98).detach()
    canvas.drawPath(gloss, stroke(mix(hair, (255, 220, 180), 0.35), 0.09))
    band = skia.PathBuilder().moveTo(0.2, -1.1).quadTo(-0.3, -0.75, -0.52, -0.05).detach()
    canvas.drawPath(band, stroke(palette.line, 0.3))
    canvas.drawPath(band, stroke(palette.main, 0.19))
    _bow(canvas, palette, (-0.02, -1.06), 0.62)


def _woman_fringe(canvas: skia.Canvas, palette: Palette, hair: Color) -> None:
    shape = skia.PathBuilder().moveTo(-0.8, 0.75).cubicTo(-1.4, 0.4, -1.3, -1.2, 0.0, -1.2)
    shape.cubicTo(1.3, -1.2, 1.4, 0.4, 0.8, 0.75).cubicTo(1.0, 0.2, 0.92, -0.35, 0.66, -0.62)
    shape.quadTo(0.2, -0.5, -0.3, -0.86).cubicTo(-0.85, -0.5, -0.98, 0.2, -0.8, 0.75).close()
    outlined(canvas, shape.detach(), fill(hair), ink(hair), 0.08)
    band = skia.PathBuilder().moveTo(-1.0, -0.62).quadTo(0.0, -1.2, 1.0, -0.62).detach()
    canvas.drawPath(band, stroke(palette.line, 0.26))
    canvas.drawPath(band, stroke(palette.main, 0.16))
    _bow(canvas, palette, (0.55, -0.98), 0.5)


def _bow(canvas: skia.Canvas, palette: Palette, at: Point, size: float) -> None:
    x, y = at
    wings = skia.PathBuilder().moveTo(x, y)
    for side in (-1, 1):
        wings.cubicTo(
            x + side * 0.5 * size, y - 0.7 * size, x + side * 1.15 * size, y - 0.55 * size, x + side * size, y
        )
        wings.cubicTo(x + side * 1.1 * size, y + 0.5 * size, x + side * 0.5 * size, y + 0.45 * size, x, y)
    outlined(canvas, wings.close().detach(), fill(palette.main), palette.line, 0.08)
    oval(canvas, at, 0.2 * size, 0.24 * size, fill(palette.dark))
