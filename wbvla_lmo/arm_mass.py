"""How far the arms' posture moves the robot's centre of mass, and how fast: from joint angles and speeds.

Both hands held out move it by 6 cm, most of what the soles reach. A balance estimate that takes the arms as hanging sees a robot that
rightly leans back against them as falling backward, and steps.
"""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec, RobotSpecError
from wbvla_lmo.leg_kinematics import DERIVATIVE_STEP_S, rotation, rpy_matrix

ARMS = ("left_arm", "right_arm")


class ArmMass:
    """Mass moment of both arms over the trunk, as a function of the joints that move much of it; the others stay at their default."""

    def __init__(self, robot: RobotSpec, names: tuple[str, ...]) -> None:
        """names: the arm joints that are looked at; of each arm a chain from the shoulder outwards, left and right alike."""
        chains = [[n for n in robot.names(group) if n in names] for group in ARMS]
        axes = [np.abs(np.round(robot.joint(n).axis)) for chain in chains for n in chain]
        if len(chains[0]) != len(chains[1]) or not chains[0] or any(not np.array_equal(np.sort(a), (0, 0, 1)) for a in axes):
            raise RobotSpecError(f"{robot.name}: expected two like arms with axes along x, y or z, got {chains}")
        self.index = np.array([[robot.joint_names.index(n) for n in chain] for chain in chains], dtype=np.intp)  # [2, K]
        self.axis = [int(np.argmax(np.abs(robot.joint(n).axis))) for n in chains[0]]
        self.sign = np.array([[np.sum(robot.joint(n).axis) for n in chain] for chain in chains])
        self.origin = np.array([[robot.joint(n).xyz for n in chain] for chain in chains])  # [2, K, 3]
        self.frame = np.array([[rpy_matrix(robot.joint(n).rpy) for n in chain] for chain in chains])  # [2, K, 3, 3]
        self.own = np.zeros((*self.index.shape, 3))  # mass moment of what moves with each joint alone, kg m
        self.mass = np.zeros(self.index.shape)  # outward of each joint, kg
        for arm, chain in enumerate(chains):
            outward = 0.0
            listed = robot.names(ARMS[arm])
            for k in range(len(chain) - 1, -1, -1):
                following = listed[listed.index(chain[k]) + 1 : listed.index(chain[k + 1]) if k + 1 < len(chain) else None]
                link_mass, link_moment = _rigid(robot, chain[k], following)
                self.own[arm, k] = link_moment
                outward += link_mass
                self.mass[arm, k] = outward
        self._total = robot.total_mass_kg
        self._default = self._moment(robot.default_q[None])

    def _moment(self, q: np.ndarray) -> np.ndarray:
        """Sum of mass x position of both arms in the frame of the trunk [N, 3], kg m."""
        angle = q[:, self.index] * self.sign  # [N, 2, K]
        cos, sin = np.cos(angle), np.sin(angle)
        moment = np.zeros((len(q), 2, 3))
        for k in range(len(self.axis) - 1, -1, -1):
            moment = moment + self.own[:, k]
            i, j = (self.axis[k] + 1) % 3, (self.axis[k] + 2) % 3
            a, b, c, s = moment[..., i], moment[..., j], cos[..., k], sin[..., k]
            turned = moment.copy()
            turned[..., i], turned[..., j] = c * a - s * b, s * a + c * b
            moment = np.matmul(self.frame[:, k], turned[..., None])[..., 0] + self.mass[:, k, None] * self.origin[:, k]
        return moment.sum(axis=1)

    def __call__(self, q: np.ndarray, qd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shift of the whole robot's centre of mass against the default arms [N, 3], m, and its rate [N, 3], m/s, in the trunk's frame (q, qd [N, J])."""
        moments = self._moment(np.concatenate((q, q + DERIVATIVE_STEP_S * qd)))
        now, then = moments[: len(q)], moments[len(q) :]
        return (now - self._default) / self._total, (then - now) / (DERIVATIVE_STEP_S * self._total)


def _rigid(robot: RobotSpec, joint: str, following: tuple[str, ...]) -> tuple[float, np.ndarray]:
    """Mass and mass moment (child frame) of a joint's link and of what hangs on it at default angles: ``following`` joints and grippers."""
    start = robot.joint(joint).child
    poses = {start: (np.zeros(3), np.eye(3))}
    moving = set(following)
    for j, value in zip(robot.joints, robot.default_q, strict=True):
        if j.parent in poses and (j.name in moving or j.kind == "prismatic"):
            position, orientation = poses[j.parent]
            frame = orientation @ rpy_matrix(j.rpy)
            place = position + orientation @ np.array(j.xyz)
            poses[j.child] = (place, frame) if j.kind == "prismatic" else (place, frame @ rotation(np.array(j.axis, dtype=float), value))
    masses = [robot.link(n).mass for n in poses]
    moments = [robot.link(n).mass * (p + o @ np.array(robot.link(n).com)) for n, (p, o) in poses.items()]
    return float(sum(masses)), np.sum(moments, axis=0)
