"""Wings, feathers, beaks and feet, for birds of every size.

The one invariant: a wing is flat art whose beat is a scale or a turn about its root, continuous in the beat.
"""

from __future__ import annotations

import skia

from everreel.world.faces import arc
from everreel.world.puppet import Color, Palette, Point, Pose, blob, fill, mix, oval, polygon, stroke

# A wing one unit long, raised and slanting back (side view), and one reaching right (front view).
RAISED = blob([
    (0.2, 0.0), (0.22, -0.3), (0.1, -0.62), (-0.12, -0.86), (-0.36, -1.0), (-0.36, -0.84), (-0.5, -0.76),
    (-0.44, -0.62), (-0.54, -0.5), (-0.44, -0.38), (-0.48, -0.24), (-0.34, -0.12), (-0.2, 0.04),
])  # fmt: skip
RAISED_COVERT = blob([
    (0.17, -0.02), (0.18, -0.28), (0.06, -0.54), (-0.14, -0.7), (-0.22, -0.5), (-0.24, -0.24), (-0.12, 0.0),
])  # fmt: skip
REACHING = blob([
    (-0.06, 0.04), (0.1, -0.14), (0.36, -0.22), (0.66, -0.18), (1.0, 0.06), (0.86, 0.1), (0.82, 0.2),
    (0.68, 0.19), (0.6, 0.3), (0.46, 0.25), (0.36, 0.34), (0.22, 0.27), (0.0, 0.24),
])  # fmt: skip
REACHING_COVERT = blob([
    (-0.04, 0.04), (0.12, -0.11), (0.36, -0.18), (0.62, -0.14), (0.8, 0.0), (0.56, 0.09), (0.26, 0.14),
    (0.02, 0.14),
])  # fmt: skip


def flap(pose: Pose) -> float:
    """Where the wings are in their beat, from -1 (down) to 1 (up)."""
    return pose.wave(0.25)


def wing_up(
    canvas: skia.Canvas, root: Point, length: float, beat: float, palette: Palette, *, far: bool = False
) -> None:
    """A wing in side view: raised at beat 1, hanging at beat -1."""
    outer = palette.dark if far else mix(palette.main, palette.dark, 0.5)
    inner = mix(palette.main, palette.dark, 0.55) if far else mix(palette.main, (255, 255, 255), 0.1)
    canvas.save()
    canvas.translate(root[0] + (0.08 if far else 0.0), root[1])
    canvas.rotate((10 if far else 0) - 12 * beat)
    # Seen a little from above, the near wing shows its back longer and the far wing its raised inside.
    tall = 0.85 * beat + (0.35 if far else -0.18)
    canvas.scale(length * 1.1, length * (tall if abs(tall) > 0.06 else 0.06))
    _two_tone(canvas, RAISED, RAISED_COVERT, outer, inner, palette.line, 0.02 / length)
    canvas.restore()


def spread_wing(canvas: skia.Canvas, root: Point, reach: float, beat: float, palette: Palette) -> None:
    """A wing in front or back view; a negative reach spreads it to the left."""
    canvas.save()
    canvas.translate(*root)
    canvas.scale(reach, abs(reach))
    canvas.rotate(-34 * beat - 4)
    canvas.scale(1.0, 1.15)
    inner = mix(palette.main, (255, 255, 255), 0.1)
    _two_tone(
        canvas, REACHING, REACHING_COVERT, mix(palette.main, palette.dark, 0.5), inner, palette.line, 0.02 / abs(reach)
    )
    canvas.restore()


def webbed_foot(
    canvas: skia.Canvas, hip: Point, foot: Point, palette: Palette, *, head_on: bool, size: float = 0.1
) -> None:
    """A leg with a flat orange foot; seen from the front the foot is a fan of three toes."""
    color = bill_color(palette)
    x, y = foot
    canvas.drawLine(*hip, x, y - 0.02, stroke(palette.line, 0.06))
    if head_on:
        points = [
            (x - 0.3 * size, y - 0.45 * size),
            (x - size, y),
            (x - 0.3 * size, y - 0.1 * size),
            (x, y + 0.06 * size),
        ]
        points += [(x + 0.3 * size, y - 0.1 * size), (x + size, y), (x + 0.3 * size, y - 0.45 * size)]
    else:
        points = [
            (x - 0.5 * size, y),
            (x - 0.1 * size, y - 0.5 * size),
            (x + 1.3 * size, y - 0.1 * size),
            (x + 1.3 * size, y),
        ]
    web = polygon(points)
    canvas.drawPath(web, stroke(palette.line, 0.04))
    canvas.drawLine(*hip, x, y - 0.02, stroke(color, 0.03))
    canvas.drawPath(web, fill(color))


def bill_color(palette: Palette) -> Color:
    """Orange; deeper on a bird that is itself orange or yellow."""
    red, green, blue = palette.main
    return (222, 92, 36) if red > 200 and blue < 100 and green > 100 else (248, 148, 44)


def chevrons(canvas: skia.Canvas, at: Point, width: float, rows: int, color: Color) -> None:
    """Rows of small feather marks on a breast."""
    paint = stroke(color, 0.016)
    for row in range(rows):
        count = 3 - row % 2
        for k in range(count):
            x = at[0] + width * (k - (count - 1) / 2)
            y = at[1] + 0.085 * row
            canvas.drawPath(arc((x - 0.026, y - 0.012), (x + 0.026, y - 0.012), 0.02), paint)


def _two_tone(
    canvas: skia.Canvas, whole: skia.Path, covert: skia.Path, outer: Color, inner: Color, line: Color, ink: float
) -> None:
    canvas.drawPath(whole, fill(outer))
    canvas.drawPath(covert, fill(inner))
    canvas.drawPath(whole, stroke(line, ink))


def beak(canvas: skia.Canvas, at: Point, size: float, palette: Palette) -> None:
    """A short hooked beak seen from the front."""
    x, y = at
    path = blob(
        [(x, y - 0.8 * size), (x + 0.62 * size, y - 0.3 * size), (x, y + size), (x - 0.62 * size, y - 0.3 * size)]
    )
    canvas.drawPath(path, fill(bill_color(palette)))
    canvas.drawPath(path, stroke(palette.line, 0.03))
    oval(canvas, (x - 0.15 * size, y - 0.3 * size), 0.12 * size, 0.2 * size, fill((255, 255, 255), 0.6))
