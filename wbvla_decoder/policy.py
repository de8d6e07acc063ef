"""Between the decoder's numbers and a command that may reach the motors: proprioception, scaling, hysteresis, limits.

Plain numpy, one definition for training and the robot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_core.types import FLAGS, ArmChunk, LocoCommand, RobotState

JOINT_SPEED_SCALE = 0.1  # rad/s -> network units; ours: arm speeds of 1-5 rad/s become 0.1-0.5


def posture(state: RobotState, robot: RobotSpec) -> np.ndarray:
    """What the locomotion heads may know of the body: gravity in the pelvis frame (where the camera points). [3] float32."""
    return np.asarray(state.gravity, dtype=np.float32)


def arm_state(state: RobotState, robot: RobotSpec) -> np.ndarray:
    """Positions and velocities of the upper body, scaled [2 A] float32."""
    index = robot.indices("upper_body")
    q = ArmScaling.of(robot).encode(state.q[index])
    return np.concatenate((q, state.qd[index] * JOINT_SPEED_SCALE)).astype(np.float32)


@dataclass(frozen=True)
class ArmScaling:
    """Joint targets <-> network units: 0 = default pose, 1 = half the joint's range away (ours: from the robot spec, not from
    statistics of a data set, where joints that never moved have no spread to divide by).

    Attributes:
        centre, half_range, lower, upper: [A], rad (grippers: m).
    """

    centre: np.ndarray
    half_range: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def of(cls, robot: RobotSpec) -> ArmScaling:
        index = robot.indices("upper_body")
        lower, upper = robot.lower[index], robot.upper[index]
        return cls(robot.default_q[index], 0.5 * (upper - lower), lower, upper)

    def encode(self, q: np.ndarray) -> np.ndarray:
        """[..., A] joint positions -> network units, float32."""
        return ((q - self.centre) / self.half_range).astype(np.float32)

    def decode(self, value: np.ndarray) -> np.ndarray:
        """[..., A] network units -> joint targets inside the joint limits, float64."""
        return np.clip(np.asarray(value, dtype=np.float64) * self.half_range + self.centre, self.lower, self.upper)

    def to_json(self) -> dict[str, list[float]]:
        return {"centre": self.centre.tolist(), "half_range": self.half_range.tolist()}


def encode_height(height_m: np.ndarray | float, robot: RobotSpec) -> np.ndarray:
    """Stance height, m -> [0, 1] over the robot's range."""
    low, high = robot.stance_height_range_m
    return np.asarray((np.asarray(height_m) - low) / (high - low), dtype=np.float32)


def decode_height(value: float, robot: RobotSpec) -> float:
    """[0, 1] -> stance height inside the robot's range, m."""
    low, high = robot.stance_height_range_m
    return float(np.clip(low + float(value) * (high - low), low, high))


@dataclass(frozen=True)
class FilterConfig:
    """How hard it is to change one's mind (all ours; measured in docs/vla.md).

    Attributes:
        smoothing: share of the newest probabilities in their running mean, (0, 1]; 1 = none.
        margin: lead in probability that another flag needs over the present one before it replaces it.
        height_smoothing: share of the newest stance height.
        height_step_m: stance heights that differ by less are the same command (the robot should not breathe).
    """

    smoothing: float = 0.6
    margin: float = 0.15
    height_smoothing: float = 0.5
    height_step_m: float = 0.01

    def __post_init__(self) -> None:
        """Raise WbvlaError for numbers with which the robot would never, or always, change its mind."""
        for name in ("smoothing", "height_smoothing"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise WbvlaError(f"filter.{name} must lie in (0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.margin < 1.0:
            raise WbvlaError(f"filter.margin is a lead in probability and must lie in [0, 1), got {self.margin}")
        if not 0.0 <= self.height_step_m < 1.0:
            raise WbvlaError(f"filter.height_step_m must lie in [0, 1) m, got {self.height_step_m}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CommandFilter:
    """Probabilities and heights, frame by frame -> LocoCommands that do not chatter."""

    def __init__(self, config: FilterConfig, height_range_m: tuple[float, float], default_height_m: float) -> None:
        self.config = config
        self.height_range_m = height_range_m
        self.default_height_m = default_height_m
        self.reset()

    def reset(self) -> None:
        """Forget the past: a new instruction starts from standing still."""
        self._mean: np.ndarray | None = None  # [3 axes, 3 classes]
        self._flags = np.ones(3, dtype=np.int64)  # class index 1 = flag 0
        self._height_mean: float | None = None
        self._height_m = self.default_height_m

    def update(self, probabilities: np.ndarray, height_m: float) -> LocoCommand:
        """One frame.

        Args:
            probabilities: [3, 3], axes forward, lateral, yaw; classes -1, 0, 1.
            height_m: stance height that the network asks for.
        """
        c = self.config
        self._mean = probabilities.copy() if self._mean is None else self._mean + c.smoothing * (probabilities - self._mean)
        for axis in range(3):
            best = int(np.argmax(self._mean[axis]))
            if self._mean[axis, best] > self._mean[axis, self._flags[axis]] + c.margin:
                self._flags[axis] = best
        self._height_mean = height_m if self._height_mean is None else self._height_mean + c.height_smoothing * (height_m - self._height_mean)
        if abs(self._height_mean - self._height_m) >= c.height_step_m:
            self._height_m = self._height_mean
        low, high = self.height_range_m
        forward, lateral, yaw = (FLAGS[i] for i in self._flags)
        return LocoCommand(forward, lateral, yaw, float(np.clip(self._height_m, low, high)))


def arm_chunk(value: np.ndarray, scaling: ArmScaling, robot: RobotSpec, dt_s: float) -> ArmChunk:
    """Network units [K, A] -> arm chunk inside the joint limits."""
    return ArmChunk(tuple(robot.groups["upper_body"]), scaling.decode(value), dt_s)
