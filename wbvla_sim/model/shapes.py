"""What the X2 looks like: primitive shapes per link, sized from the joint origins of the robot spec.

Ours: the vendor's meshes are not used. Shapes marked ``collides=False`` are paint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.robot import RobotSpec

WHITE = (0.93, 0.94, 0.95, 1.0)
GRAPHITE = (0.16, 0.17, 0.19, 1.0)
VISOR = (0.03, 0.04, 0.06, 1.0)
ACCENT = (0.05, 0.55, 0.62, 1.0)
GLOW = (0.35, 0.95, 1.0, 1.0)


@dataclass(frozen=True)
class Shape:
    """One primitive in its link's frame.

    Attributes:
        kind: "capsule" or "cylinder" (size = radius, half length along local z), "box" (half extents), "ellipsoid" (semi-axes), "sphere" (radius).
        pos: centre [3], m.
        axis: direction of the local z axis in the link frame [3] (capsules and cylinders).
    """

    link: str
    kind: str
    pos: tuple[float, ...]
    size: tuple[float, ...]
    rgba: tuple[float, ...] = WHITE
    axis: tuple[float, ...] = (0.0, 0.0, 1.0)
    collides: bool = True
    hand: bool = False


def _between(link: str, kind: str, a: tuple, b: tuple, radius: float, rgba: tuple = WHITE, **more: bool) -> Shape:
    """A capsule or cylinder from a to b."""
    a, b = np.array(a, dtype=float), np.array(b, dtype=float)
    half = float(np.linalg.norm(b - a)) / 2
    axis = (b - a) / (2 * half)
    return Shape(link, kind, tuple((a + b) / 2), (radius, half), rgba, tuple(axis), **more)


def x2_shapes(spec: RobotSpec) -> list[Shape]:
    """Shapes of the X2 (either release: both share link and joint names)."""
    shapes = [
        _between("pelvis", "capsule", (0, -0.055, 0.0), (0, 0.055, 0.0), 0.062, GRAPHITE),
        Shape("pelvis", "cylinder", (0, 0, 0.045), (0.062, 0.018), GRAPHITE),
        Shape("pelvis", "ellipsoid", (0.035, 0, 0.0), (0.04, 0.06, 0.05), WHITE, collides=False),
        Shape("waist_yaw_link", "cylinder", (0, 0, 0.045), (0.055, 0.04), GRAPHITE),
        Shape("waist_pitch_link", "sphere", (0, 0, 0.0), (0.056,), GRAPHITE),
        # trunk: two ellipsoids and a shoulder bar read as one shell
        Shape("torso_link", "ellipsoid", (0.0, 0, 0.19), (0.092, 0.13, 0.135), WHITE),
        Shape("torso_link", "ellipsoid", (0.0, 0, 0.09), (0.078, 0.1, 0.1), WHITE),
        _between("torso_link", "capsule", (0.003, -0.085, 0.24), (0.003, 0.085, 0.24), 0.055, WHITE),
        Shape("torso_link", "ellipsoid", (0.075, 0, 0.185), (0.03, 0.045, 0.03), VISOR, collides=False),
        Shape("torso_link", "sphere", (0.099, 0, 0.185), (0.012,), GLOW, collides=False),
        Shape("torso_link", "ellipsoid", (0.055, 0, 0.105), (0.042, 0.07, 0.012), ACCENT, collides=False),
        Shape("torso_link", "box", (-0.085, 0, 0.17), (0.022, 0.075, 0.09), GRAPHITE),
        Shape("head_yaw_link", "cylinder", (0, 0, 0.03), (0.034, 0.05), GRAPHITE),
        # head: shell, visor, eyes, the camera's housing under the visor
        Shape("head_pitch_link", "ellipsoid", (-0.004, 0, 0.022), (0.083, 0.078, 0.078), WHITE),
        Shape("head_pitch_link", "ellipsoid", (0.024, 0, 0.022), (0.064, 0.066, 0.048), VISOR, collides=False),
        Shape("head_pitch_link", "sphere", (0.078, 0.026, 0.028), (0.0095,), GLOW, collides=False),
        Shape("head_pitch_link", "sphere", (0.078, -0.026, 0.028), (0.0095,), GLOW, collides=False),
        Shape("head_pitch_link", "box", (0.03, -0.011, -0.043), (0.016, 0.035, 0.012), GRAPHITE, collides=False),
        Shape("head_pitch_link", "cylinder", (-0.004, 0.078, 0.022), (0.03, 0.008), ACCENT, (0, 1, 0), collides=False),
        Shape("head_pitch_link", "cylinder", (-0.004, -0.078, 0.022), (0.03, 0.008), ACCENT, (0, 1, 0), collides=False),
    ]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shapes += _leg(spec, side, sign) + _arm(spec, side, sign)
    return shapes


def _leg(spec: RobotSpec, side: str, sign: float) -> list[Shape]:
    knee = spec.joint(f"{side}_knee_joint").xyz
    ankle = spec.joint(f"{side}_ankle_pitch_joint").xyz
    hip_yaw = spec.joint(f"{side}_hip_yaw_joint").xyz
    sole = spec.sole
    length = sole.x_max - sole.x_min
    middle = sole.outline_middle_m
    foot = f"{side}_ankle_roll_link"
    return [
        _between(f"{side}_hip_pitch_link", "cylinder", (0, 0.012 * sign, 0), (0, 0.085 * sign, 0), 0.052, GRAPHITE),
        _between(f"{side}_hip_roll_link", "capsule", (0, 0, -0.01), tuple(0.9 * v for v in hip_yaw), 0.054, WHITE),
        Shape(f"{side}_hip_roll_link", "cylinder", (0, 0.045 * sign, -0.015), (0.034, 0.014), ACCENT, (0, 1, 0), collides=False),
        _between(f"{side}_hip_yaw_link", "capsule", (0, 0, -0.02), tuple(0.92 * v for v in knee), 0.05, WHITE),
        Shape(f"{side}_knee_link", "cylinder", (0, 0, 0), (0.05, 0.046), GRAPHITE, (0, 1, 0)),
        Shape(f"{side}_knee_link", "cylinder", (0, 0.048 * sign, 0), (0.033, 0.006), ACCENT, (0, 1, 0), collides=False),
        _between(f"{side}_knee_link", "capsule", (0.002, 0, -0.045), tuple(0.86 * v for v in ankle), 0.042, WHITE),
        Shape(f"{side}_ankle_pitch_link", "sphere", (0, 0, 0), (0.036,), GRAPHITE),
        Shape(foot, "box", (middle, 0, sole.z + 0.012), (length / 2 - 0.004, sole.width / 2 - 0.008, 0.01), GRAPHITE, collides=False),
        Shape(foot, "ellipsoid", (middle + 0.004, 0, sole.z + 0.022), (length / 2 - 0.004, sole.width / 2 - 0.009, 0.034), WHITE, collides=False),
        Shape(foot, "cylinder", (0, 0, -0.03), (0.035, 0.025), GRAPHITE, collides=False),
    ]


def _arm(spec: RobotSpec, side: str, sign: float) -> list[Shape]:
    elbow = spec.joint(f"{side}_elbow_joint").xyz
    shoulder_yaw = spec.joint(f"{side}_shoulder_yaw_joint").xyz
    wrist_yaw = spec.joint(f"{side}_wrist_yaw_joint").xyz
    wrist_pitch = spec.joint(f"{side}_wrist_pitch_joint").xyz
    finger = spec.joint(f"{side}_gripper_joint").xyz
    hand = f"{side}_wrist_roll_link"
    return [
        _between(f"{side}_shoulder_pitch_link", "cylinder", (0, 0, 0), (0, 0.075 * sign, 0), 0.047, GRAPHITE),
        _between(f"{side}_shoulder_roll_link", "capsule", (0, 0, -0.012), tuple(0.85 * v for v in shoulder_yaw), 0.042, WHITE),
        Shape(f"{side}_shoulder_roll_link", "cylinder", (0, 0.037 * sign, -0.008), (0.026, 0.008), ACCENT, (0, 1, 0), collides=False),
        _between(f"{side}_shoulder_yaw_link", "capsule", (0, 0, -0.015), tuple(0.8 * v for v in elbow), 0.037, WHITE),
        Shape(f"{side}_elbow_link", "cylinder", (0, 0, 0), (0.039, 0.036), GRAPHITE, (0, 1, 0)),
        _between(f"{side}_elbow_link", "capsule", (-0.006, 0, -0.035), tuple(0.9 * v for v in wrist_yaw), 0.033, WHITE),
        _between(f"{side}_wrist_yaw_link", "cylinder", (0, 0, 0.0), tuple(0.85 * v for v in wrist_pitch), 0.03, GRAPHITE),
        Shape(f"{side}_wrist_pitch_link", "sphere", (0, 0, 0), (0.03,), WHITE),
        Shape(hand, "box", (finger[0], 0, -0.065), (0.03, 0.02, 0.034), WHITE, hand=True),
        Shape(hand, "box", (finger[0], 0, -0.1), (0.018, 0.032, 0.006), GRAPHITE, hand=True),
        Shape(hand, "box", (finger[0], 0.0085 * sign, finger[2] - 0.034), (0.012, 0.006, 0.034), GRAPHITE, hand=True),
        Shape(f"{side}_gripper_finger_link", "box", (0, -0.0085 * sign, -0.034), (0.012, 0.006, 0.034), ACCENT, hand=True),
    ]
