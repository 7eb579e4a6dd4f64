"""How animals move: the state of a body at one moment of an action, before anything is drawn.

A `Motion` says where the body and the feet are relative to their place at rest; the drawings of animals.py and
birds.py read it. The one invariant: every value is a continuous function of the pose's phase with period 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import skia

from everreel.world.puppet import Point, Pose, step

STILL: Point = (0.0, 0.0)


@dataclass(frozen=True)
class Motion:
    """A body at one moment. Lengths are in unit space, angles in degrees, clockwise on screen."""

    lift: float = 0.0  # how far the body is above its place at rest
    pitch: float = 0.0  # turn of the body; positive puts the nose down
    stretch: float = 1.0  # length of the body; its height is 1 / stretch
    nod: float = 0.0  # turn of the head
    drag: float = 0.0  # how far ears, manes and tails trail behind (1: a full run)
    sway: float = 0.0  # where a wagging thing is, -1 to 1
    feet: tuple[Point, Point, Point, Point] = (STILL, STILL, STILL, STILL)  # hind far, fore far, hind near, fore near


@dataclass(frozen=True)
class Gait:
    """What is particular to one animal's way of moving."""

    stride: float = 0.22
    raise_foot: float = 0.08
    leap: float = 0.46
    sink: float = 0.45  # how deep it lies in the water when it swims
    bounds: bool = False  # walks and runs in hops, hind feet together


def motion(pose: Pose, gait: Gait) -> Motion:
    """The motion of a four-legged animal."""
    if pose.action == "walks":
        return _hop(pose, gait, 0.16, 0.6) if gait.bounds else _walk(pose, gait)
    if pose.action == "runs":
        return _hop(pose, gait, 0.26, 1.0) if gait.bounds else _run(pose, gait)
    if pose.action in ("jumps", "bounces"):
        return _jump(pose, gait)
    if pose.action == "swims":
        return _swim(pose, gait)
    if pose.action == "spins":
        hop = 0.05 * (1 - math.cos(4 * math.pi * pose.phase)) / 2
        feet = [_shift(step(pose.phase * 2 + s, 0.1, 0.06), -hop) for s in (0.0, 0.25, 0.5, 0.75)]
        return Motion(lift=hop, drag=0.4, sway=pose.wave(times=2), feet=(feet[0], feet[1], feet[2], feet[3]))
    breath = pose.wave()
    return Motion(
        stretch=1 - 0.016 * breath,
        nod=2.0 * pose.wave(0.2),
        drag=0.06 * pose.wave(0.35),
        sway=pose.wave(),
    )


def leap(phase: float, height: float) -> tuple[float, float, float]:
    """A jump of one cycle: height above the ground, squash (0 to 1, before and after), upward speed (-1 to 1)."""
    phase %= 1.0
    if phase < 0.28:
        return 0.0, math.sin(math.pi * phase / 0.28) ** 2, 0.0
    if phase > 0.78:
        return 0.0, math.sin(math.pi * (phase - 0.78) / 0.22) ** 2, 0.0
    air = (phase - 0.28) / 0.5
    return height * 4 * air * (1 - air), 0.0, math.sin(2 * math.pi * air)


def turning(pose: Pose) -> tuple[str, float]:
    """A turn around the vertical axis: which view is seen at this phase, and its horizontal scale (signed)."""
    begin = {"side": 0.0, "front": 0.25, "back": 0.75}[pose.view]
    angle = 2 * math.pi * (pose.phase + begin)
    along, toward = math.cos(angle), math.sin(angle)
    if abs(along) > 0.6:
        return "side", math.copysign(0.6 + 0.4 * (abs(along) - 0.6) / 0.4, along)
    return ("front" if toward > 0 else "back"), 1.25 - 0.25 * (abs(toward) - 0.8) / 0.2


def place(canvas: skia.Canvas, about: Point, body: Motion) -> None:
    """Move the canvas to where the body is: lifted, turned and stretched about its centre."""
    canvas.translate(about[0], about[1] - body.lift)
    canvas.rotate(body.pitch)
    canvas.scale(body.stretch, 1 / body.stretch)
    canvas.translate(-about[0], -about[1])


def placed(point: Point, about: Point, body: Motion) -> Point:
    """Where `place` puts a point."""
    x, y = (point[0] - about[0]) * body.stretch, (point[1] - about[1]) / body.stretch
    c, s = math.cos(math.radians(body.pitch)), math.sin(math.radians(body.pitch))
    return (about[0] + c * x - s * y, about[1] - body.lift + s * x + c * y)


def swing(base: Point, tip: Point, degrees: float) -> Point:
    """A point turned clockwise about another."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = tip[0] - base[0], tip[1] - base[1]
    return (base[0] + c * x - s * y, base[1] + s * x + c * y)


def _shift(point: Point, dy: float) -> Point:
    return (point[0], point[1] + dy)


def _walk(pose: Pose, gait: Gait) -> Motion:
    feet = [step(pose.phase + s, gait.stride, gait.raise_foot) for s in (0.5, 0.75, 0.0, 0.25)]
    return Motion(
        lift=0.012 * pose.wave(0.1, times=2),
        pitch=0.8 * pose.wave(0.3, times=2),
        nod=2.5 * pose.wave(0.35, times=2),
        drag=0.15 + 0.08 * pose.wave(times=2),
        sway=pose.wave(),
        feet=(feet[0], feet[1], feet[2], feet[3]),
    )


def _run(pose: Pose, gait: Gait) -> Motion:
    """A gallop: hind pair, flight, fore pair; the body gathers and stretches once a cycle."""
    flight = 0.07 * (1 - math.cos(2 * math.pi * (pose.phase + 0.35)))
    stride, lift = 1.9 * gait.stride, 1.5 * gait.raise_foot
    feet = [_shift(step(pose.phase + s, stride, lift), -0.8 * flight) for s in (0.12, 0.55, 0.0, 0.43)]
    return Motion(
        lift=flight,
        pitch=5.0 * pose.wave(0.1),
        stretch=1.05 + 0.07 * pose.wave(0.05),
        nod=-5.0 * pose.wave(0.1),
        drag=0.9 + 0.25 * pose.wave(0.3),
        sway=0.5 * pose.wave(0.2),
        feet=(feet[0], feet[1], feet[2], feet[3]),
    )


def _hop(pose: Pose, gait: Gait, height: float, effort: float) -> Motion:
    """One bound a cycle: crouched on the ground, long in the air."""
    arc = (1 - math.cos(2 * math.pi * pose.phase)) / 2
    swing_x = gait.stride * effort * pose.wave()
    hind = (-0.9 * swing_x, -height * arc)
    fore = (0.6 * swing_x + 0.04 * effort * arc, -height * arc - 0.05 * arc)
    return Motion(
        lift=height * arc - 0.03 * (1 - arc),
        pitch=-12 * effort * pose.wave(),
        stretch=1.0 + 0.1 * effort * (2 * arc - 1),
        nod=6 * effort * pose.wave(),
        drag=0.75 * effort * arc + 0.3 * effort * pose.wave(),
        sway=pose.wave(0.25),
        feet=((hind[0] - 0.02, hind[1]), (fore[0] + 0.03, fore[1]), hind, fore),
    )


def _jump(pose: Pose, gait: Gait) -> Motion:
    height, squash, speed = leap(pose.phase, gait.leap)
    air = math.sin(math.pi * min(max((pose.phase - 0.28) / 0.5, 0.0), 1.0))
    hind = (-0.10 * air - 0.06 * speed, -height + 0.02 * air)
    fore = (0.10 * air + 0.03 * speed, -height - 0.06 * air)
    return Motion(
        lift=height - 0.11 * squash,
        pitch=-16 * speed,
        stretch=1 + 0.08 * squash + 0.06 * air,
        nod=8 * squash,
        drag=(0.9 if speed > 0 else 0.35) * speed + 0.15 * squash,
        sway=pose.wave(),
        feet=((hind[0] - 0.03, hind[1]), (fore[0] + 0.04, fore[1]), hind, fore),
    )


def _swim(pose: Pose, gait: Gait) -> Motion:
    feet = [_shift(step(pose.phase + s, 0.9 * gait.stride, 0.08), gait.sink - 0.06) for s in (0.5, 0.75, 0.0, 0.25)]
    return Motion(
        lift=-gait.sink + 0.015 * pose.wave(times=2),
        pitch=-5 + 1.5 * pose.wave(0.2),
        nod=3 + 2 * pose.wave(0.3),
        drag=0.2 + 0.1 * pose.wave(times=2),
        sway=pose.wave(),
        feet=(feet[0], feet[1], feet[2], feet[3]),
    )
