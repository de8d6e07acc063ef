"""What happens to the robot from outside during training: command switches, arm motions, pushes."""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_train.lmo.config import CommandConfig, DisturbanceConfig


class CommandStream:
    """Flags and stance heights of N robots that switch at random times."""

    def __init__(self, robot: RobotSpec, config: CommandConfig, count: int, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.range_m, self.default_m = robot.stance_height_range_m, robot.default_stance_height_m
        self.flags = np.zeros((count, 3))
        self.height_m = np.full(count, self.default_m)
        self.factor = np.ones(count)  # of cruise speed
        self.left_s = np.zeros(count)

    def draw(self, ids: np.ndarray, lowest_m: float, fixed_cruise: bool) -> None:
        c, rng, n = self.config, self.rng, len(ids)
        flags = np.zeros((n, 3))
        axis = rng.integers(0, 3, n)
        flags[np.arange(n), axis] = rng.choice((-1.0, 1.0), n)
        combined = rng.random(n) < c.p_combined
        flags[combined] = rng.integers(-1, 2, (int(combined.sum()), 3))
        flags[rng.random(n) < c.p_stand] = 0.0
        self.flags[ids] = flags
        other = rng.random(n) < np.where(np.any(flags, axis=1), c.p_height, 2 * c.p_height)
        self.height_m[ids] = np.where(other, rng.uniform(lowest_m, self.range_m[1], n), self.default_m)
        self.factor[ids] = 1.0 if fixed_cruise else rng.uniform(*c.cruise_factor, n)
        self.left_s[ids] = rng.uniform(*c.hold_s, n)

    def step(self, dt_s: float, lowest_m: float, fixed_cruise: bool) -> None:
        self.left_s -= dt_s
        due = np.flatnonzero(self.left_s <= 0)
        if len(due):
            self.draw(due, lowest_m, fixed_cruise)


class RandomReaching:
    """Smooth point-to-point motions of the arm joints: minimum jerk, random pauses. Targets only; the drives follow."""

    SPEED_LIMIT_RAD_S = 4.0  # peak of the profile; the controller's arm limit

    def __init__(self, robot: RobotSpec, joints: np.ndarray, config: DisturbanceConfig, count: int, rng: np.random.Generator) -> None:
        arms = set(robot.indices("arms").tolist())
        self.joints = np.array([j for j in joints if j in arms], dtype=np.intp)
        self.config, self.rng = config, rng
        self.default = robot.default_q[self.joints]
        self.lower, self.upper = robot.lower[self.joints], robot.upper[self.joints]
        shape = (count, len(self.joints))
        self.begin, self.goal = np.tile(self.default, (count, 1)), np.tile(self.default, (count, 1))
        self.duration_s, self.time_s = np.ones(count), np.full(count, 1.0)
        self.target = np.zeros(shape) + self.default

    def reset(self, ids: np.ndarray, difficulty: float) -> None:
        """Start in a random posture, about to move."""
        self.goal[ids] = self.target[ids] = self._posture(len(ids), difficulty)
        self.begin[ids] = self.goal[ids]
        self.duration_s[ids], self.time_s[ids] = 1.0, 1.0 - self.rng.exponential(self.config.arm_rest_s, len(ids))

    def _posture(self, n: int, difficulty: float) -> np.ndarray:
        u = self.rng.uniform(-1, 1, (n, len(self.joints))) * self.config.arm_amplitude * difficulty
        return self.default + np.where(u > 0, u * (self.upper - self.default), u * (self.default - self.lower))

    def step(self, dt_s: float, difficulty: float) -> np.ndarray:
        """Targets [N, K] of :attr:`joints` for the coming slot, rad."""
        self.time_s += dt_s
        due = np.flatnonzero(self.time_s >= self.duration_s)
        if len(due):
            n = len(due)
            self.begin[due] = self.goal[due]
            self.goal[due] = self._posture(n, difficulty)
            distance = np.abs(self.goal[due] - self.begin[due]).max(axis=1)
            wish = self.rng.uniform(*self.config.arm_move_s, n)
            self.duration_s[due] = np.maximum(wish, 1.875 * distance / self.SPEED_LIMIT_RAD_S)
            self.time_s[due] = -np.where(self.rng.random(n) < 0.5, self.rng.exponential(self.config.arm_rest_s, n), 0.0)
        s = np.clip(self.time_s / self.duration_s, 0.0, 1.0)[:, None]
        self.target = self.begin + (self.goal - self.begin) * (10 * s**3 - 15 * s**4 + 6 * s**5)
        return self.target


class Pushes:
    """When to push which robot."""

    def __init__(self, config: DisturbanceConfig, count: int, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.left_s = rng.uniform(*config.push_every_s, count)

    def step(self, dt_s: float, difficulty: float) -> tuple[np.ndarray, np.ndarray]:
        """(robots, velocity change [n, 2] m/s) due now."""
        self.left_s -= dt_s
        due = np.flatnonzero(self.left_s <= 0)
        self.left_s[due] = self.rng.uniform(*self.config.push_every_s, len(due))
        size = self.config.push_m_s * (0.2 + 0.8 * difficulty)
        angle = self.rng.uniform(0, 2 * np.pi, len(due))
        speed = self.rng.uniform(0, size, len(due))
        return due, np.stack((np.cos(angle), np.sin(angle)), axis=1) * speed[:, None]
