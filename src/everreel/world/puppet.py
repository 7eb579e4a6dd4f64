"""The drawing kit of the film world: what a subject is made of and how it is posed.

A puppet draws itself in *unit space*: the origin is the point on the ground under its centre, x points to where it
looks in side view (right), y points down, and it stands between y = -1 (top) and y = 0 (ground). The renderer scales,
mirrors and places it. The one invariant: a drawing depends on the pose and the palette alone, so that a cycle of an
action ends where it began and any moment of a film can be drawn without the moments before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import skia

Color = tuple[int, int, int]
Point = tuple[float, float]

COLORS: dict[str, Color] = {
    "red": (221, 54, 54),
    "orange": (242, 134, 42),
    "yellow": (247, 206, 60),
    "green": (76, 174, 80),
    "blue": (56, 118, 224),
    "purple": (140, 82, 196),
    "pink": (246, 138, 178),
    "brown": (136, 88, 54),
    "white": (246, 246, 242),
    "black": (48, 48, 56),
    "gray": (146, 152, 160),
}


def mix(a: Color, b: Color, amount: float) -> Color:
    """Blend `amount` (0 to 1) of colour `b` into colour `a`."""
    return (
        round(a[0] + (b[0] - a[0]) * amount),
        round(a[1] + (b[1] - a[1]) * amount),
        round(a[2] + (b[2] - a[2]) * amount),
    )


@dataclass(frozen=True)
class Palette:
    """The colours of one subject, all derived from its named colour."""

    main: Color
    light: Color
    dark: Color
    line: Color
    eye: Color = (34, 32, 42)
    skin: Color = (244, 200, 164)

    @classmethod
    def named(cls, color: str, skin: Color = (244, 200, 164)) -> Palette:
        """The palette of a colour word of the vocabulary."""
        main = COLORS[color]
        return cls(
            main=main,
            light=mix(main, (255, 252, 244), 0.55 if color != "black" else 0.3),
            dark=mix(main, (28, 22, 48), 0.3),
            line=mix(main, (28, 22, 48), 0.62 if color != "black" else 0.85),
            skin=skin,
        )


@dataclass(frozen=True)
class Pose:
    """What a puppet is doing at one moment.

    `phase` runs from 0 to 1 over one cycle of the action (two steps of a walk, one jump, one turn of a spin);
    `time` in seconds drives what has its own rhythm (blinking, a tail, a flag).
    """

    action: str = "stays"
    phase: float = 0.0
    view: str = "side"  # side | front | back
    expression: str = "neutral"  # neutral | happy | sad | angry | surprised
    time: float = 0.0

    def wave(self, shift: float = 0.0, times: int = 1) -> float:
        """A sine of the phase: `times` periods a cycle, shifted by a share of a period."""
        return math.sin(2 * math.pi * (times * self.phase + shift))

    @property
    def blink(self) -> bool:
        """Closed eyes, for a tenth of a second every three seconds."""
        return self.time % 3.1 < 0.11


@dataclass(frozen=True)
class Puppet:
    """A subject: how it is drawn and where its head is, for close shots.

    `head` is the centre of the head in side view and `head_size` its height, both in unit space; `width` is the
    widest extent of the body. `front_head` replaces `head` in front and back view.
    """

    draw: Callable[[skia.Canvas, Pose, Palette], None]
    width: float
    head: Point
    head_size: float
    front_head: Point = (0.0, -0.8)
    floats: bool = False  # sits in water or in the air: no shadow on the ground under it
    actions: Sequence[str] = field(default_factory=tuple)


def fill(color: Color, alpha: float = 1.0) -> skia.Paint:
    """An antialiased fill."""
    return skia.Paint(AntiAlias=True, Color=skia.Color(*color, round(255 * alpha)))


def stroke(color: Color, width: float, alpha: float = 1.0) -> skia.Paint:
    """An antialiased line with round ends and joins."""
    return skia.Paint(
        AntiAlias=True,
        Color=skia.Color(*color, round(255 * alpha)),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def gradient(top: Color, bottom: Color, y0: float, y1: float) -> skia.Paint:
    """A vertical two-colour fill from y0 to y1, for soft shading."""
    shader = skia.GradientShader.MakeLinear([(0.0, y0), (0.0, y1)], [skia.Color(*top), skia.Color(*bottom)])
    return skia.Paint(AntiAlias=True, Shader=shader)


def oval(canvas: skia.Canvas, at: Point, rx: float, ry: float, paint: skia.Paint, *, turn: float = 0.0) -> None:
    """An ellipse around `at`, turned clockwise by `turn` degrees."""
    if turn:
        canvas.save()
        canvas.rotate(turn, *at)
    canvas.drawOval(skia.Rect.MakeLTRB(at[0] - rx, at[1] - ry, at[0] + rx, at[1] + ry), paint)
    if turn:
        canvas.restore()


def outlined(canvas: skia.Canvas, path: skia.Path, paint: skia.Paint, line: Color, width: float = 0.018) -> None:
    """Fill a path and draw its outline, which keeps a white swan visible on snow."""
    canvas.drawPath(path, paint)
    canvas.drawPath(path, stroke(line, width))


def blob(points: Sequence[Point], closed: bool = True) -> skia.Path:
    """A smooth curve through the points (Catmull-Rom)."""
    path = skia.PathBuilder()
    n = len(points)
    path.moveTo(*points[0])
    for i in range(n if closed else n - 1):
        p0 = points[i - 1] if closed or i > 0 else points[i]
        p1, p2 = points[i], points[(i + 1) % n]
        p3 = points[(i + 2) % n] if closed or i + 2 < n else p2
        path.cubicTo(
            p1[0] + (p2[0] - p0[0]) / 6,
            p1[1] + (p2[1] - p0[1]) / 6,
            p2[0] - (p3[0] - p1[0]) / 6,
            p2[1] - (p3[1] - p1[1]) / 6,
            *p2,
        )
    if closed:
        path.close()
    return path.detach()


def polygon(points: Sequence[Point]) -> skia.Path:
    """A closed path with straight sides."""
    return skia.Path.Polygon([skia.Point(*p) for p in points], True)


def limb(canvas: skia.Canvas, points: Sequence[Point], width: float, color: Color, line: Color | None = None) -> None:
    """A smooth thick stroke through the points: a leg, an arm, a tail, a neck; with an outline if `line` is given."""
    path = (
        blob(points, closed=False)
        if len(points) > 2
        else skia.PathBuilder().moveTo(*points[0]).lineTo(*points[1]).detach()
    )
    if line is not None:
        canvas.drawPath(path, stroke(line, width + 0.034))
    canvas.drawPath(path, stroke(color, width))


def joint(hip: Point, foot: Point, length: float, bend: float) -> Point:
    """The knee or elbow between two points for two bones of `length` each, bent forward (+1) or back (-1)."""
    dx, dy = foot[0] - hip[0], foot[1] - hip[1]
    reach = max(math.hypot(dx, dy), 1e-6)
    out = math.sqrt(max(length * length - reach * reach / 4, 0.0))
    return (hip[0] + dx / 2 - bend * out * dy / reach, hip[1] + dy / 2 + bend * out * dx / reach)


def step(phase: float, stride: float, lift: float) -> Point:
    """A foot's offset in a gait: on the ground it moves back evenly for half a cycle, then swings forward, lifted."""
    phase %= 1.0
    if phase < 0.5:
        return (stride * (0.5 - 2 * phase), 0.0)
    swing = 2 * phase - 1
    return (stride * (swing - 0.5), -lift * math.sin(math.pi * swing))


def eye(canvas: skia.Canvas, at: Point, size: float, palette: Palette, *, closed: bool = False) -> None:
    """A round dark eye with a glint, or a closed lid."""
    if closed:
        canvas.drawLine(at[0] - size, at[1], at[0] + size, at[1], stroke(palette.eye, size * 0.5))
        return
    oval(canvas, at, size * 1.25, size * 1.4, fill((252, 252, 250)))
    oval(canvas, (at[0] + 0.15 * size, at[1]), size * 0.85, size, fill(palette.eye))
    oval(canvas, (at[0] + 0.4 * size, at[1] - 0.4 * size), size * 0.3, size * 0.3, fill((255, 255, 255)))
