"""The four-legged rig: a body on four legs with a head and a tail, in side, front and back view.

An animal is a `Quadruped`: shapes and four drawing functions for what makes it that animal. The one invariant: the
feet are planted by the gait, not carried by the body, so they do not slide when the body bobs or stretches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import skia

from everreel.world.faces import soft
from everreel.world.gait import Gait, Motion, motion, place, placed, turning
from everreel.world.puppet import (
    Color,
    Palette,
    Point,
    Pose,
    Puppet,
    blob,
    fill,
    gradient,
    joint,
    mix,
    oval,
    stroke,
)

Part = Callable[[skia.Canvas, Pose, Palette, Motion], None]
Face = Callable[[skia.Canvas, Pose, Palette, Motion, bool], None]


def nothing(canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
    """A part that this animal does not have."""


@dataclass(frozen=True)
class Quadruped:
    """The shape of a four-legged animal; lengths in unit space, heads drawn in head space."""

    outline: Sequence[Point]  # the body in side view
    hind: Point  # the hip, inside the outline
    fore: Point  # the shoulder
    head: Point
    head_size: float
    head_part: Part  # side view, in head space
    face: Face  # front view in head space; True for the back of the head
    tail: Part  # side view, behind the body
    front_head: Point
    front_size: float
    front_body: tuple[float, float, float]  # centre height, half width, half height
    stance: tuple[float, float] = (0.11, 0.17)  # x of the feet in front view: the nearer pair, the farther pair
    front_tail: Part = nothing  # front view, behind everything
    back_tail: Part = nothing  # back view, over everything
    marks: Part = nothing  # on the body in side view, clipped to it
    front_marks: Part = nothing  # on the body in front view, clipped to it
    over: Part = nothing  # side view, on top of the body, under the head
    leg: float = 0.1
    paw: tuple[float, float] = (0.065, 0.04)
    hoof: Color | None = None  # the colour of the feet, if not the leg's
    middle: float = 0.0  # x of the middle of the drawing in side view, which is put over the origin
    bend: float = 1.0  # how much the hind knees bend; 0 for pillars
    gait: Gait = field(default_factory=Gait)

    def puppet(self, width: float, actions: Sequence[str]) -> Puppet:
        """The finished puppet."""
        head = (self.head[0] - self.middle, self.head[1])
        return Puppet(self.draw, width, head, self.head_size, self.front_head, actions=tuple(actions))

    def draw(self, canvas: skia.Canvas, pose: Pose, palette: Palette) -> None:
        """Draw the animal in the pose's view."""
        body = motion(pose, self.gait)
        view, across = turning(pose) if pose.action == "spins" else (pose.view, 1.0)
        canvas.save()
        canvas.scale(across, 1.0)
        {"side": self._side, "front": self._front, "back": self._back}[view](canvas, pose, palette, body)
        canvas.restore()

    def _side(self, canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
        about = ((self.hind[0] + self.fore[0]) / 2, (self.hind[1] + self.fore[1]) / 2)
        far = mix(palette.main, palette.dark, 0.8)
        canvas.save()
        canvas.translate(-self.middle, 0.0)
        self._leg(canvas, placed(self.hind, about, body), (self.hind[0] + 0.07, body.feet[0]), far, palette, 1)
        self._leg(canvas, placed(self.fore, about, body), (self.fore[0] + 0.07, body.feet[1]), far, palette, -1)
        canvas.save()
        place(canvas, about, body)
        self.tail(canvas, pose, palette, body)
        canvas.restore()
        near = soft(palette)[1]
        self._leg(canvas, placed(self.hind, about, body), (self.hind[0], body.feet[2]), near, palette, 1)
        self._leg(canvas, placed(self.fore, about, body), (self.fore[0], body.feet[3]), near, palette, -1)
        canvas.save()
        place(canvas, about, body)
        self._body(canvas, blob(self.outline), pose, palette, body, self.marks)
        self.over(canvas, pose, palette, body)
        canvas.translate(*self.head)
        canvas.rotate(body.nod)
        canvas.scale(self.head_size, self.head_size)
        self.head_part(canvas, pose, palette, body)
        canvas.restore()
        canvas.restore()

    def _front(self, canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
        self._raised(canvas, body, self.front_tail, pose, palette)
        self._pair(canvas, self.stance[1], (0, 2), palette, body, far=True)
        self._pair(canvas, self.stance[0], (1, 3), palette, body, far=False)
        self._trunk(canvas, pose, palette, body, self.front_marks)
        self._head_on(canvas, pose, palette, body, back=False)

    def _back(self, canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion) -> None:
        self._pair(canvas, self.stance[0], (1, 3), palette, body, far=True)
        self._head_on(canvas, pose, palette, body, back=True)
        self._pair(canvas, self.stance[1], (0, 2), palette, body, far=False)
        self._trunk(canvas, pose, palette, body, nothing)
        self._raised(canvas, body, self.back_tail, pose, palette)

    def _raised(self, canvas: skia.Canvas, body: Motion, part: Part, pose: Pose, palette: Palette) -> None:
        canvas.save()
        canvas.translate(0, -body.lift)
        part(canvas, pose, palette, body)
        canvas.restore()

    def _head_on(self, canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, *, back: bool) -> None:
        canvas.save()
        canvas.translate(self.front_head[0], self.front_head[1] - body.lift + 0.002 * body.pitch)
        canvas.rotate(0.7 * body.nod)
        canvas.scale(self.front_size, self.front_size)
        self.face(canvas, pose, palette, body, back)
        canvas.restore()

    def _trunk(self, canvas: skia.Canvas, pose: Pose, palette: Palette, body: Motion, marks: Part) -> None:
        y, rx, ry = self.front_body
        path = blob(
            [
                (0, y - ry),
                (0.72 * rx, y - 0.66 * ry),
                (rx, y + 0.1 * ry),
                (0.66 * rx, y + 0.86 * ry),
                (0, y + ry),
                (-0.66 * rx, y + 0.86 * ry),
                (-rx, y + 0.1 * ry),
                (-0.72 * rx, y - 0.66 * ry),
            ]
        )
        canvas.save()
        canvas.translate(0, y + ry - body.lift)
        squash = min(body.stretch, 1.12)
        canvas.scale(squash, 1 / squash)
        canvas.translate(0, -(y + ry))
        self._body(canvas, path, pose, palette, body, marks)
        canvas.restore()

    def _body(
        self, canvas: skia.Canvas, path: skia.Path, pose: Pose, palette: Palette, body: Motion, marks: Part
    ) -> None:
        top, bottom = soft(palette)
        canvas.drawPath(path, gradient(top, bottom, self.fore[1] - 0.2, self.fore[1] + 0.14))
        if marks is not nothing:
            canvas.save()
            canvas.clipPath(path, doAntiAlias=True)
            marks(canvas, pose, palette, body)
            canvas.restore()
        canvas.drawPath(path, stroke(palette.line, 0.018))

    def _leg(
        self,
        canvas: skia.Canvas,
        hip: Point,
        foot: tuple[float, Point],
        color: Color,
        palette: Palette,
        bend: float,
    ) -> None:
        rest, (dx, dy) = foot
        half = self.leg / 2
        end = (rest + dx, min(dy, 0.6) - half)
        knee = joint(hip, end, 0.508 * (abs(self.hind[1]) - half), bend * self.bend)
        path = blob([hip, knee, end], closed=False)
        sole = (end[0] + 0.25 * self.paw[0], end[1] + half - self.paw[1])
        canvas.drawPath(path, stroke(palette.line, self.leg + 0.034))
        oval(canvas, sole, self.paw[0] + 0.017, self.paw[1] + 0.017, fill(palette.line))
        canvas.drawPath(path, stroke(color, self.leg))
        oval(canvas, sole, *self.paw, fill(self.hoof or color))

    def _pair(
        self,
        canvas: skia.Canvas,
        apart: float,
        which: tuple[int, int],
        palette: Palette,
        body: Motion,
        *,
        far: bool,
    ) -> None:
        color = mix(palette.main, palette.dark, 0.8) if far else soft(palette)[1]
        rise = 0.03 if far else 0.0
        for side, index in zip((-1, 1), which, strict=True):
            dx, dy = body.feet[index]
            # A foot that is ahead or behind shows as a slight change of height when seen along the body.
            y = min(dy, 0.6) - self.leg / 2 - rise - 0.1 * abs(dx)
            x = side * apart
            top = (0.8 * x, self.front_body[0] - body.lift)
            canvas.drawLine(*top, x, y, stroke(palette.line, self.leg + 0.034))
            sole = (x, y + self.leg / 2 - self.paw[1])
            oval(canvas, sole, self.paw[0] + 0.017, self.paw[1] + 0.017, fill(palette.line))
            canvas.drawLine(*top, x, y, stroke(color, self.leg))
            oval(canvas, sole, *self.paw, fill(self.hoof or color))
