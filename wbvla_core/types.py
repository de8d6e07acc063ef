"""The values that travel between rooms, checked where they are born.

Joint arrays are in the order of :attr:`wbvla_core.robot.RobotSpec.joint_names` unless a name says otherwise.
Frames: body x forward, y left, z up. Angles in rad, lengths in m, time in s. A ``stamp_s`` is a time of the host
that made the value; ages are taken with the receiver's monotonic clock (see :mod:`wbvla_core.safety`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from wbvla_core.errors import CommandError, ErrorCode, StateError

FLAGS = (-1, 0, 1)
ABSURD = 1e4  # ours: no joint is 1000 turns away, or moves so fast
UNIT_TOLERANCE = 0.05  # of the length of a unit vector or quaternion (ours)


def _require_finite(name: str, value: np.ndarray, error: type, code: ErrorCode) -> None:
    if not np.isfinite(value).all():
        bad = np.flatnonzero(~np.isfinite(np.ravel(value)))
        raise error(f"{name} must be finite, but entries {bad.tolist()[:8]} are not; drop the message", code)


@dataclass(frozen=True)
class RobotState:
    """Proprioception at one instant: everything that LMO may know about the body.

    Attributes:
        stamp_s: time of the sample on the robot's clock.
        q: joint positions [J], rad (grippers: m).
        qd: joint velocities [J], rad/s.
        gyro: angular velocity of the pelvis in the pelvis frame [3], rad/s.
        gravity: unit gravity direction in the pelvis frame [3]; upright = (0, 0, -1).
    """

    stamp_s: float
    q: np.ndarray
    qd: np.ndarray
    gyro: np.ndarray
    gravity: np.ndarray

    def validate(self, joint_count: int) -> RobotState:
        """Return self, or raise :class:`StateError` naming what is wrong."""
        for name, value, n in (("q", self.q, joint_count), ("qd", self.qd, joint_count), ("gyro", self.gyro, 3), ("gravity", self.gravity, 3)):
            if np.shape(value) != (n,):
                raise StateError(
                    f"robot state {name} must have shape ({n},), got {np.shape(value)}; does the robot spec match the robot?", ErrorCode.STATE_SHAPE
                )
            _require_finite(f"robot state {name}", value, StateError, ErrorCode.STATE_NOT_FINITE)
            if (size := float(np.abs(value).max())) > ABSURD:
                raise StateError(f"robot state {name} must hold numbers below {ABSURD:g}, got {size:.3g}; drop the message", ErrorCode.STATE_NOT_FINITE)
        if abs((norm := float(np.linalg.norm(self.gravity))) - 1.0) > UNIT_TOLERANCE:
            raise StateError(f"robot state gravity must be a unit vector, got length {norm:.3g}; is the orientation estimator running?", ErrorCode.STATE_SHAPE)
        return self

    @property
    def tilt_rad(self) -> float:
        """Angle between the pelvis z axis and up, rad."""
        x, y, z = self.gravity.tolist()
        return math.acos(min(max(-z / max(math.hypot(x, y, z), 1e-9), -1.0), 1.0))


def gravity_from_quaternion(quat_wxyz: np.ndarray) -> np.ndarray:
    """Unit gravity in the body frame from the body's orientation, [..., 4] (w, x, y, z) -> [..., 3]."""
    quat = np.asarray(quat_wxyz, dtype=np.float64)
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    out = np.empty((*quat.shape[:-1], 3))
    out[..., 0], out[..., 1], out[..., 2] = 2.0 * (w * y - x * z), -2.0 * (w * x + y * z), 2.0 * (x * x + y * y) - 1.0
    return out


def yaw_from_quaternion(quat_wxyz: np.ndarray) -> np.ndarray:
    """Heading of an orientation, rad in (-pi, pi], [..., 4] (w, x, y, z) -> [...]: where the body's x axis points, seen from above."""
    w, x, y, z = np.moveaxis(np.asarray(quat_wxyz, dtype=np.float64), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def pitch_roll_from_gravity(gravity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far a body leans forward and to its left [...], rad, from unit gravity in its frame [..., 3]."""
    return np.arctan2(gravity[..., 0], -gravity[..., 2]), np.arctan2(gravity[..., 1], -gravity[..., 2])


@dataclass(frozen=True)
class LocoCommand:
    """The discrete locomotion command u = [s_x, s_y, s_psi, h*] (paper, A4).

    Attributes:
        forward, lateral, yaw: direction flags in {-1, 0, 1}; +x forward, +y left, +yaw counter-clockwise.
        stance_height_m: pelvis origin above the sole plane, m.
    """

    forward: int = 0
    lateral: int = 0
    yaw: int = 0
    stance_height_m: float = 0.64

    def validate(self, height_range_m: tuple[float, float]) -> LocoCommand:
        """Return self, or raise :class:`CommandError`. Python does not range-check int8 (300 arrives as 44): we do."""
        for name in ("forward", "lateral", "yaw"):
            value = getattr(self, name)
            if value not in FLAGS:
                raise CommandError(f"LocoCommand.{name} must be -1, 0 or 1, got {value!r}", ErrorCode.COMMAND_FLAG_RANGE)
        height = self.stance_height_m
        if not np.isfinite(height):
            raise CommandError(f"LocoCommand.stance_height_m must be finite, got {height}", ErrorCode.COMMAND_NOT_FINITE)
        low, high = height_range_m
        if not low - 1e-6 <= height <= high + 1e-6:
            raise CommandError(f"LocoCommand.stance_height_m must lie in [{low:.3f}, {high:.3f}] m, got {height:.3f}", ErrorCode.COMMAND_HEIGHT_RANGE)
        return self

    @property
    def flags(self) -> np.ndarray:
        """[3] float array (forward, lateral, yaw)."""
        return np.array((self.forward, self.lateral, self.yaw), dtype=np.float64)

    def as_array(self) -> np.ndarray:
        """[4] float array (forward, lateral, yaw, stance_height_m)."""
        return np.array((self.forward, self.lateral, self.yaw, self.stance_height_m), dtype=np.float64)

    def stopped(self) -> LocoCommand:
        """The same stance with all flags zero: what STAND commands."""
        return LocoCommand(0, 0, 0, self.stance_height_m)


@dataclass(frozen=True)
class ArmChunk:
    """Upper-body joint targets from one decision.

    Attributes:
        joint_names: which joints, in this order (arms, then grippers: the robot spec's ``upper_body`` group).
        positions: targets [K, A], rad (grippers: m); row i is due (i + 1) * dt_s after the decision's stamp.
        dt_s: spacing of the rows, s.
    """

    joint_names: tuple[str, ...]
    positions: np.ndarray
    dt_s: float = 0.1

    def validate(self, joint_names: tuple[str, ...] | None = None) -> ArmChunk:
        """Return self, or raise :class:`CommandError`."""
        if joint_names is not None and tuple(self.joint_names) != tuple(joint_names):
            raise CommandError(f"arm chunk must name the joints {list(joint_names)}, got {list(self.joint_names)}", ErrorCode.COMMAND_SHAPE)
        if np.ndim(self.positions) != 2 or self.positions.shape[0] < 1 or self.positions.shape[1] != len(self.joint_names):
            raise CommandError(
                f"arm chunk positions must have shape (K >= 1, {len(self.joint_names)}), got {np.shape(self.positions)}", ErrorCode.COMMAND_SHAPE
            )
        if not (np.isfinite(self.dt_s) and self.dt_s > 0):
            raise CommandError(f"arm chunk dt_s must be positive, got {self.dt_s}", ErrorCode.COMMAND_SHAPE)
        _require_finite("arm chunk positions", self.positions, CommandError, ErrorCode.COMMAND_NOT_FINITE)
        return self


@dataclass(frozen=True)
class LatentAction:
    """What the VLA predicted: discrete codes of both latent action models, for people and bags.

    Attributes:
        manipulation, locomotion: code indices [T] in [0, codebook_size).
        codebook_size: number of codes per token.
    """

    manipulation: tuple[int, ...]
    locomotion: tuple[int, ...]
    codebook_size: int = 16


@dataclass(frozen=True)
class Decision:
    """One output of the 10 Hz policy. Command and chunk carry one stamp and are never torn apart.

    Attributes:
        stamp_s: stamp of the image that the decision was made from.
        timing_s: seconds spent per stage (for diagnostics), by name.
    """

    stamp_s: float
    loco: LocoCommand
    arms: ArmChunk
    latent: LatentAction | None = None
    timing_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicyInput:
    """What a 10 Hz policy sees.

    Attributes:
        stamp_s: stamp of the image.
        image: policy image [S, S, 3] uint8 RGB, made by ``wbvla_perception.preprocess`` and by nothing else.
        instruction: the operator's sentence.
        state: proprioception nearest to the image's stamp.
    """

    stamp_s: float
    image: np.ndarray
    instruction: str
    state: RobotState


@dataclass(frozen=True)
class JointCommand:
    """One frame for every motor, law tau = kp (q - q_meas) + kd (qd - qd_meas) + tau_ff.

    Attributes:
        stamp_s: stamp of the robot state that it answers.
        q, qd, tau_ff, kp, kd: [J] in robot spec order; rad, rad/s, Nm, Nm/rad, Nm s/rad.
    """

    stamp_s: float
    q: np.ndarray
    qd: np.ndarray
    tau_ff: np.ndarray
    kp: np.ndarray
    kd: np.ndarray

    def validate(self, joint_count: int) -> JointCommand:
        """Return self, or raise :class:`CommandError`."""
        for name in ("q", "qd", "tau_ff", "kp", "kd"):
            value = getattr(self, name)
            if np.shape(value) != (joint_count,):
                raise CommandError(f"JointCommand.{name} must have shape ({joint_count},), got {np.shape(value)}", ErrorCode.COMMAND_SHAPE)
            _require_finite(f"JointCommand.{name}", value, CommandError, ErrorCode.COMMAND_NOT_FINITE)
        if (self.kp < 0).any() or (self.kd < 0).any():
            raise CommandError("JointCommand gains must not be negative", ErrorCode.COMMAND_SHAPE)
        return self
