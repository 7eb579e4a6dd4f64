"""How a two-legged figure holds itself: hips, feet, hands and head for each action, side and front.

Angles and offsets are functions of the phase alone and have its period, so a cycle ends where it began.
Offsets are in unit space; `near` is the limb on the viewer's side, in front view the one on the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import skia

from everreel.world.puppet import Point, Pose, step

HIP = -0.34
SHOULDER = -0.62
LEG_BONE = 0.152
ARM_BONE = 0.128
JUMP_HEIGHT = 0.4


@dataclass(frozen=True)
class Stance:
    """One moment of a figure: feet on the picture, hands relative to their shoulders."""

    feet: tuple[Point, Point]
    hands: tuple[Point, Point]
    rise: float = 0.0  # how far the hips are above their standing height (feet excluded)
    lean: float = 0.0  # degrees the trunk leans forward (clockwise)
    nod: float = 0.0  # degrees the head turns on top of that
    sway: float = 0.0  # how far hair, skirt and scarf trail behind (positive: to the left of the picture)
    breath: float = 0.0  # -1 to 1


def turned(canvas: skia.Canvas, pose: Pose) -> str:
    """For a spin about the vertical axis: squeeze (and mirror) the canvas and say which view to draw.

    Four views a turn, each squeezed by the cosine of what is left, so the figure never becomes a line.
    The spin starts from the view the pose asks for.
    """
    quarters = 4 * pose.phase + {"front": 0, "side": 1, "back": 2}[pose.view]
    nearest = math.floor(quarters + 0.5)
    squeeze = math.cos((quarters - nearest) * math.pi / 2)
    canvas.scale(-squeeze if nearest % 4 == 3 else squeeze, 1.0)
    return ("front", "side", "back", "side")[nearest % 4]


def side_stance(pose: Pose) -> Stance:
    """The stance in side view, facing right."""
    return {
        "walks": _side_walk,
        "runs": _side_run,
        "jumps": _side_jump,
        "spins": _side_spin,
        "flies": _side_fly,
    }.get(pose.action, _side_stay)(pose)


def front_stance(pose: Pose) -> Stance:
    """The stance in front view; the back view is the same figure with another coat of paint."""
    return {
        "walks": _front_walk,
        "runs": _front_run,
        "jumps": _front_jump,
        "spins": _front_spin,
        "flies": _front_fly,
    }.get(pose.action, _front_stay)(pose)


def jump(phase: float) -> tuple[float, float]:
    """Crouch (0 to 1) and height over the ground (0 to 1) in one jump."""
    if phase < 0.28:
        return math.sin(math.pi * phase / 0.28) ** 2, 0.0
    if phase < 0.72:
        u = (phase - 0.28) / 0.44
        return 0.0, 4 * u * (1 - u)
    return 0.8 * math.sin(math.pi * (phase - 0.72) / 0.28) ** 2, 0.0


def swing(angle: float, length: float) -> Point:
    """Where a hanging hand is when its arm swings `angle` radians forward."""
    return (length * math.sin(angle), length * math.cos(angle))


def _side_walk(pose: Pose) -> Stance:
    p = pose.phase
    arm = 0.55 * math.cos(2 * math.pi * p)
    return Stance(
        feet=(step(p, 0.3, 0.07), step(p + 0.5, 0.3, 0.07)),
        hands=(swing(-arm, 0.245), swing(arm, 0.245)),
        rise=-0.012 - 0.014 * math.cos(4 * math.pi * p),
        lean=3.0,
        nod=-2.0 + 1.5 * pose.wave(0.1, 2),
        sway=0.03 + 0.015 * pose.wave(0.0, 2),
    )


def _side_run(pose: Pose) -> Stance:
    p = pose.phase
    flight = 0.06 * math.cos(2 * math.pi * p) ** 2
    arm = 0.95 * math.cos(2 * math.pi * p)
    near, far = step(p, 0.44, 0.17), step(p + 0.5, 0.44, 0.17)
    hands = tuple(
        (0.13 * math.sin(a) + 0.1 * math.cos(a), 0.13 * math.cos(a) - 0.1 * math.sin(a) + 0.02) for a in (-arm, arm)
    )
    return Stance(
        feet=((near[0] - 0.05, near[1] - flight), (far[0] - 0.05, far[1] - flight)),
        hands=(hands[0], hands[1]),
        rise=flight - 0.025,
        lean=13.0,
        nod=-9.0 + 2 * pose.wave(0.1, 2),
        sway=0.11 + 0.025 * pose.wave(0.1, 2),
    )


def _side_jump(pose: Pose) -> Stance:
    crouch, up = jump(pose.phase)
    y = -JUMP_HEIGHT * up
    tuck = 0.07 * up
    raised = 2.4 * up * (2 - up) - 0.9 * crouch
    return Stance(
        feet=((0.03 - 0.07 * up, y + tuck * 0.3), (-0.03 + 0.1 * up, y - tuck)),
        hands=(swing(raised, 0.23), swing(raised + 0.15, 0.23)),
        rise=-y - 0.13 * crouch,
        lean=22 * crouch - 4 * up,
        nod=-16 * crouch,
        sway=-0.06 * up + 0.08 * (pose.phase > 0.5) * crouch,
    )


def _side_spin(pose: Pose) -> Stance:
    return Stance(feet=((0.03, 0.0), (-0.03, -0.015)), hands=((0.11, 0.19), (0.13, 0.15)), sway=0.0)


def _side_fly(pose: Pose) -> Stance:
    y = 0.02 * pose.wave()
    return Stance(
        feet=((-0.1, y), (-0.17, y - 0.03)),
        hands=((0.17 + 0.02 * pose.wave(0.3), 0.12), (0.2, 0.05 + 0.02 * pose.wave())),
        rise=-y + 0.01,
        lean=16.0,
        nod=-12.0,
        sway=0.1,
    )


def _side_stay(pose: Pose) -> Stance:
    b = pose.wave()
    gesture = max(0.0, pose.wave(-0.05)) ** 2
    return Stance(
        feet=((0.025, 0.0), (-0.035, -0.012)),
        hands=(swing(0.1 + 0.55 * gesture, 0.24), swing(-0.06 - 0.04 * b, 0.24)),
        rise=0.004 * b,
        nod=2.5 * pose.wave(0.6),
        sway=0.008 * pose.wave(0.2),
        breath=b,
    )


def _front_walk(pose: Pose) -> Stance:
    p = pose.phase
    near, far = step(p, 0.3, 0.09), step(p + 0.5, 0.3, 0.09)
    arm = math.cos(2 * math.pi * p)
    return Stance(
        feet=((-0.075, near[1] + 0.12 * near[0]), (0.075, far[1] + 0.12 * far[0])),
        hands=((-0.05 + 0.03 * arm, 0.215 + 0.03 * arm), (0.05 + 0.03 * arm, 0.215 - 0.03 * arm)),
        rise=-0.01 - 0.014 * math.cos(4 * math.pi * p),
        lean=2.0 * pose.wave(),
        nod=-2.5 * pose.wave(),
        sway=0.02 * pose.wave(0.1),
    )


def _front_run(pose: Pose) -> Stance:
    p = pose.phase
    flight = 0.06 * math.cos(2 * math.pi * p) ** 2
    near, far = step(p, 0.4, 0.2), step(p + 0.5, 0.4, 0.2)
    arm = math.cos(2 * math.pi * p)
    return Stance(
        feet=((-0.07, near[1] + 0.1 * near[0] - flight), (0.07, far[1] + 0.1 * far[0] - flight)),
        hands=((-0.03 + 0.05 * arm, 0.13 + 0.08 * arm), (0.03 + 0.05 * arm, 0.13 - 0.08 * arm)),
        rise=flight - 0.02,
        lean=3.0 * pose.wave(),
        nod=-3.0 * pose.wave(),
        sway=0.05 * pose.wave(0.1),
    )


def _front_jump(pose: Pose) -> Stance:
    crouch, up = jump(pose.phase)
    y = -JUMP_HEIGHT * up
    angle = 0.25 + 2.0 * up * (2 - up) + 0.35 * crouch
    reach = 0.235
    hand = (reach * math.sin(angle), reach * math.cos(angle))
    return Stance(
        feet=((-0.075 - 0.06 * up, y), (0.075 + 0.06 * up, y)),
        hands=((-hand[0], hand[1]), hand),
        rise=-y - 0.12 * crouch,
    )


def _front_spin(pose: Pose) -> Stance:
    return Stance(feet=((-0.06, 0.0), (0.06, 0.0)), hands=((-0.19, 0.13), (0.19, 0.13)))


def _front_fly(pose: Pose) -> Stance:
    y = 0.02 * pose.wave()
    lift = 0.02 * pose.wave(0.3)
    return Stance(
        feet=((-0.07, y), (0.07, y)),
        hands=((-0.19, 0.1 + lift), (0.19, 0.1 + lift)),
        rise=-y,
        lean=2 * pose.wave(0.2),
    )


def _front_stay(pose: Pose) -> Stance:
    b = pose.wave()
    gesture = max(0.0, pose.wave(-0.05)) ** 2
    return Stance(
        feet=((-0.075, 0.0), (0.075, 0.0)),
        hands=((-0.055 - 0.005 * b, 0.235), (0.055 + 0.09 * gesture, 0.235 - 0.06 * gesture)),
        rise=0.004 * b,
        nod=2.5 * pose.wave(0.6),
        sway=0.01 * pose.wave(0.2),
        breath=b,
    )
