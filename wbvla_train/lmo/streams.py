"""What happens to the robot from outside during training: command switches, arm motions, pushes."""

from __future__ import annotations

import numpy as np

from wbvla_core.numeric import MINIMUM_JERK_PEAK, minimum_jerk
from wbvla_core.robot import RobotSpec
from wbvla_lmo.arm_motion import ArmReplay, ReplayConfig, synthetic_recordings
from wbvla_train.lmo.config import CommandConfig, DisturbanceConfig


class CommandStream:
    """Flags and stance heights of N robots that switch at random times."""

    def __init__(self, robot: RobotSpec, config: CommandConfig, count: int, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.range_m, self.default_m = robot.stance_height_range_m, robot.default_stance_height_m
        self.flags = np.zeros((count, 3))
        self.height_m = np.full(count, self.default_m)
        self.factor = np.ones((count, 3))  # of cruise speed
        self.left_s = np.zeros(count)

    def draw(self, ids: np.ndarray, lowest_m: float) -> None:
        """New commands for robots ``ids``, heights down to ``lowest_m``."""
        c, rng, n = self.config, self.rng, len(ids)
        moved = np.any(self.flags[ids], axis=1)
        flags = np.zeros((n, 3))
        axis = rng.integers(0, 3, n)
        flags[np.arange(n), axis] = rng.choice((-1.0, 1.0), n)
        combined = rng.random(n) < c.p_combined
        flags[combined] = rng.integers(-1, 2, (int(combined.sum()), 3))
        flags[rng.random(n) < np.where(moved, np.maximum(c.p_rest_after, c.p_stand), c.p_stand)] = 0.0
        self.flags[ids] = flags
        other = rng.random(n) < np.where(np.any(flags, axis=1), c.p_height, 2 * c.p_height)
        self.height_m[ids] = np.where(other, rng.uniform(lowest_m, self.range_m[1], n), self.default_m)
        self.factor[ids] = rng.uniform(*c.cruise_factor, (n, 3 if c.per_axis else 1))
        moving = np.any(flags, axis=1)
        self.left_s[ids] = np.where(moving, rng.uniform(*c.hold_s, n), rng.uniform(*c.rest_s, n))

    def step(self, dt_s: float, lowest_m: float) -> None:
        """Time passes; commands that are over are drawn anew."""
        self.left_s -= dt_s
        due = np.flatnonzero(self.left_s <= 0)
        if len(due):
            self.draw(due, lowest_m)


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

    def reset(self, ids: np.ndarray, difficulty: float | np.ndarray) -> None:
        """Start in a random posture, about to move; ``difficulty`` of all, or [N]."""
        self.goal[ids] = self.target[ids] = self._posture(ids, difficulty)
        self.begin[ids] = self.goal[ids]
        self.duration_s[ids], self.time_s[ids] = 1.0, 1.0 - self.rng.exponential(self.config.arm_rest_s, len(ids))

    def _posture(self, ids: np.ndarray, difficulty: float | np.ndarray) -> np.ndarray:
        part = np.broadcast_to(difficulty, (len(self.target),))[ids, None]
        u = self.rng.uniform(-1, 1, (len(ids), len(self.joints))) * self.config.arm_amplitude * part
        return self.default + np.where(u > 0, u * (self.upper - self.default), u * (self.default - self.lower))

    def step(self, dt_s: float, difficulty: float | np.ndarray) -> np.ndarray:
        """Targets [N, K] of :attr:`joints` for the coming slot, rad."""
        self.time_s += dt_s
        due = np.flatnonzero(self.time_s >= self.duration_s)
        if len(due):
            n = len(due)
            self.begin[due] = self.goal[due]
            self.goal[due] = self._posture(due, difficulty)
            distance = np.abs(self.goal[due] - self.begin[due]).max(axis=1)
            wish = self.rng.uniform(*self.config.arm_move_s, n)
            self.duration_s[due] = np.maximum(wish, MINIMUM_JERK_PEAK * distance / self.SPEED_LIMIT_RAD_S)
            self.time_s[due] = -np.where(self.rng.random(n) < 0.5, self.rng.exponential(self.config.arm_rest_s, n), 0.0)
        self.target = self.begin + (self.goal - self.begin) * minimum_jerk(self.time_s / self.duration_s)[:, None]
        return self.target


class ReplayedArms:
    """``ArmReplay`` behind the interface of :class:`RandomReaching`: groups of robots that replay at different rates."""

    def __init__(
        self, robot: RobotSpec, joints: np.ndarray, config: DisturbanceConfig, replay: ReplayConfig, count: int, rng: np.random.Generator, groups: int = 2
    ) -> None:
        recordings = synthetic_recordings(robot)
        bounds = np.linspace(0, count, min(groups, count) + 1).astype(int)
        speeds = np.linspace(*config.arm_speed, len(bounds) - 1)
        self._slices = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        self._parts = [
            ArmReplay(robot, joints, recordings, s.stop - s.start, rng, replay, speed=float(v), amplitude=config.arm_scale)
            for s, v in zip(self._slices, speeds, strict=True)
        ]
        self.joints = self._parts[0].joints
        self.target = np.concatenate([p.target for p in self._parts])

    def reset(self, ids: np.ndarray, difficulty: float | np.ndarray) -> None:
        """Start anywhere in the motion; ``difficulty`` of all, or [N]."""
        difficulty = np.broadcast_to(difficulty, (len(self.target),))
        for part, s in zip(self._parts, self._slices, strict=True):
            part.reset(ids[(ids >= s.start) & (ids < s.stop)] - s.start, difficulty[s])
            self.target[s] = part.target

    def step(self, dt_s: float, difficulty: float | np.ndarray) -> np.ndarray:
        """Targets [N, K] of :attr:`joints` for the coming slot, rad."""
        difficulty = np.broadcast_to(difficulty, (len(self.target),))
        for part, s in zip(self._parts, self._slices, strict=True):
            self.target[s] = part.step(dt_s, difficulty[s])
        return self.target


class Pushes:
    """When to push which robot: velocity steps and, where configured, pulses of force and yaw moment."""

    def __init__(self, config: DisturbanceConfig, count: int, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.left_s = rng.uniform(*config.push_every_s, count)
        self.pulse_left_s = rng.uniform(*config.pulse_every_s, (2, count))  # two independent trains: force, moment
        self.pulse_on_s = np.zeros((2, count))
        self.wrench = np.zeros((count, 3))  # world x, y force N, yaw moment Nm

    def step(self, dt_s: float, difficulty: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(robots, velocity change [n, 2] m/s) due now; ``difficulty`` of all, or [N]."""
        self.left_s -= dt_s
        due = np.flatnonzero(self.left_s <= 0)
        self.left_s[due] = self.rng.uniform(*self.config.push_every_s, len(due))
        size = self.config.push_m_s * (0.2 + 0.8 * np.broadcast_to(difficulty, self.left_s.shape)[due])
        angle = self.rng.uniform(0, 2 * np.pi, len(due))
        speed = self.rng.uniform(0, size, len(due))
        return due, np.stack((np.cos(angle), np.sin(angle)), axis=1) * speed[:, None]

    def pulse(self, dt_s: float, difficulty: float | np.ndarray) -> np.ndarray | None:
        """Wrench on the trunk for the coming slot [N, 3] (world x and y, N; yaw, Nm), or None where pulses are not configured."""
        c = self.config
        if c.pulse_n == 0.0 and c.pulse_nm == 0.0:
            return None
        rng, part = self.rng, np.broadcast_to(difficulty, self.left_s.shape)
        self.pulse_on_s -= dt_s
        over = self.pulse_on_s <= 1e-9
        self.wrench[over[0], :2], self.wrench[over[1], 2] = 0.0, 0.0
        self.pulse_left_s -= dt_s
        for train, due in enumerate(np.flatnonzero(left <= 0) for left in self.pulse_left_s):
            self.pulse_left_s[train, due] = rng.uniform(*c.pulse_every_s, len(due))
            self.pulse_on_s[train, due] = c.pulse_s
            if train == 0:
                angle, force = rng.uniform(0, 2 * np.pi, len(due)), c.pulse_n * part[due] * rng.uniform(0, 1, len(due))
                self.wrench[due, 0], self.wrench[due, 1] = np.cos(angle) * force, np.sin(angle) * force
            else:
                self.wrench[due, 2] = rng.uniform(-1, 1, len(due)) * c.pulse_nm * part[due]
        return self.wrench
