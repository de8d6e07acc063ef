"""What the motors do on the last rung: no stiffness, only velocity gain. LMO commands it, the driver falls back to it."""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_core.types import JointCommand

DAMPING_KD = 5.0  # prior work (public X2 deployers): Nm s/rad, capped by each joint's own kd where that is smaller


def damping_gains(robot: RobotSpec) -> np.ndarray:
    """[J] velocity gains while damping, Nm s/rad."""
    return np.minimum(DAMPING_KD, robot.kd)


def damping_command(robot: RobotSpec, stamp_s: float, q: np.ndarray) -> JointCommand:
    """A JointCommand that only damps; ``q`` [J] is where the joints are, so that a later ramp of the stiffness starts there."""
    zeros = np.zeros(robot.joint_count)
    return JointCommand(stamp_s, np.array(q, dtype=np.float64), zeros, zeros, zeros, damping_gains(robot))
