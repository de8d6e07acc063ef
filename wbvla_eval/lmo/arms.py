"""Arm motion as a structured disturbance: reaching, lifting, carrying and pushing by both arms, replayed faster and larger on demand.

Each segment is a chain of joint-space keyframes with minimum-jerk moves between them, at the pace of teleoperation. ``speed`` replays it
that much faster, ``amplitude`` scales every deviation from the default pose, clipped to the joint limits (paper, A7: 2.0 and 1.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wbvla_core.numeric import MINIMUM_JERK_PEAK, minimum_jerk
from wbvla_core.robot import RobotSpec, RobotSpecError


class ArmMotion(Protocol):
    """Targets for named joints of N robots."""

    joint_names: tuple[str, ...]

    def step(self, dt_s: float) -> np.ndarray:
        """Targets [N, K] for the coming tick, rad."""


# Keyframes of one arm: shoulder pitch, shoulder roll (outward), shoulder yaw (inward), elbow; rad. All ours.
_REST = (0.2, 0.05, 0.0, -0.5)
_KEYFRAMES = {
    "reach high": (-1.5, 0.25, 0.1, -0.5),
    "reach far": (-1.0, 0.1, 0.1, -0.4),
    "reach side": (-0.6, 0.9, -0.3, -0.7),
    "table": (-0.5, 0.1, 0.3, -1.2),
    "floor": (-0.5, 0.1, 0.1, -0.1),
    "carry": (-0.2, 0.1, 0.3, -1.5),
    "chest": (0.1, 0.15, 0.5, -1.9),
    "push ready": (0.3, 0.2, 0.1, -1.7),
    "push out": (-0.8, 0.15, 0.1, -0.8),
    "rest": _REST,
}
# What a segment is: (keyframes, both arms alike?). One-armed segments leave the other arm near rest.
_SEGMENTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "reach": (("table", "reach far", "table"), False),
    "reach high": (("table", "reach high", "carry"), False),
    "reach side": (("reach side", "table"), False),
    "lift": (("floor", "carry", "chest"), True),
    "place": (("carry", "reach far", "rest"), True),
    "carry": (("carry", "carry", "chest", "carry"), True),
    "push": (("push ready", "push out", "push ready", "push out"), True),
    "rest": (("rest",), True),
}
MOVE_S = (0.6, 1.6)  # of one keyframe to the next, longer where a joint would be faster than SPEED_RAD_S
SPEED_RAD_S = 4.0 / 3.0  # peak: at 2.0x speed and 1.5x amplitude it is the 4 rad/s that the whole-body controller allows an arm
PAUSE_S = (0.0, 0.8)
WANDER_RAD = 0.15  # keyframes are never hit twice alike
WRIST_RAD = 0.4


class BenchmarkArms:
    """Seeded arm motion of N robots; each robot's motion depends on its own seed alone."""

    def __init__(self, robot: RobotSpec, seeds: Sequence[int], *, speed: float = 1.0, amplitude: float = 1.0) -> None:
        """Raises ValueError for factors that are not positive, RobotSpecError for a robot without these arm joints."""
        if not (speed > 0 and amplitude >= 0):
            raise ValueError(f"arm speed must be positive and amplitude not negative, got {speed}, {amplitude}")
        self.joint_names = robot.names("arms")
        index = robot.indices("arms")
        self.speed, self.amplitude = speed, amplitude
        self.default, self.lower, self.upper = robot.default_q[index], robot.lower[index], robot.upper[index]
        self._sides = tuple(ArmSide(robot, side, self.joint_names) for side in ("left", "right"))
        self._rngs = [np.random.default_rng((seed, 1)) for seed in seeds]  # 1: apart from the other draws of the same seed
        n = len(seeds)
        self._begin, self._goal = np.tile(self.default, (n, 1)), np.tile(self.default, (n, 1))
        self._duration, self._time = np.ones(n), np.ones(n)
        self._plans: list[list[np.ndarray]] = [[] for _ in seeds]

    def step(self, dt_s: float) -> np.ndarray:
        """Targets [N, K] for the coming tick."""
        self._time += dt_s * self.speed
        for i in np.flatnonzero(self._time >= self._duration):
            self._next(int(i))
        path = self._begin + (self._goal - self._begin) * minimum_jerk(self._time / self._duration)[:, None]
        return np.clip(self.default + self.amplitude * (path - self.default), self.lower, self.upper)

    def _next(self, i: int) -> None:
        rng = self._rngs[i]
        if not self._plans[i]:
            self._plans[i] = self._plan(rng)
        self._begin[i], self._goal[i] = self._goal[i], self._plans[i].pop(0)
        farthest = np.abs(self._goal[i] - self._begin[i]).max()
        self._duration[i] = max(rng.uniform(*MOVE_S), MINIMUM_JERK_PEAK * farthest / SPEED_RAD_S)
        self._time[i] = -rng.uniform(*PAUSE_S)

    def _plan(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Keyframes [K] of one segment."""
        frames, both = _SEGMENTS[list(_SEGMENTS)[rng.integers(len(_SEGMENTS))]]
        active = self._sides if both else (self._sides[rng.integers(2)],)
        plan = []
        for frame in frames:
            wander = rng.normal(0.0, WANDER_RAD, 4)  # both arms hold the same thing: they wander together
            pose = self.default.copy()
            for side in self._sides:
                own = np.array(_KEYFRAMES[frame if side in active else "rest"]) + (wander if side in active else 0.3 * wander)
                side.write(pose, own, rng.normal(0.0, WRIST_RAD / 2, len(side.wrist)) if side in active else np.zeros(len(side.wrist)))
            plan.append(np.clip(pose, self.lower, self.upper))
        return plan


class ArmSide:
    """Where one arm's joints lie among the arm joints, with the signs that mirror the left arm's numbers."""

    def __init__(self, robot: RobotSpec, side: str, names: tuple[str, ...]) -> None:
        main = [f"{side}_{joint}_joint" for joint in ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow")]
        missing = [name for name in main if name not in names]
        if missing:
            raise RobotSpecError(f"the arm motions need joints {missing}, which robot {robot.name!r} has not; give your own ArmMotion")
        self.main = np.array([names.index(name) for name in main])
        self.sign = np.array((1, 1, -1, 1) if side == "left" else (1, -1, 1, 1))
        self.wrist = np.array([i for i, name in enumerate(names) if name.startswith(f"{side}_wrist")])

    def write(self, pose: np.ndarray, main: np.ndarray, wrist: np.ndarray) -> None:
        pose[self.main], pose[self.wrist] = self.sign * main, wrist
