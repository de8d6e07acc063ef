"""From command and proprioception to leg targets: gate -> clock -> reference -> observation -> (network) -> targets.

The same object runs N robots in training and one on the node; the network is the only thing in between. One call of
``observe`` and one of ``act`` per 50 Hz tick, in this order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from wbvla_core.numeric import clip
from wbvla_core.robot import RobotSpec
from wbvla_lmo.balance import Balance, BalanceConfig
from wbvla_lmo.gait import GaitConfig, GaitReference, ReferenceGait
from wbvla_lmo.gating import GatingConfig, IntentGate
from wbvla_lmo.observation import ObservationBuilder, ObservationConfig
from wbvla_lmo.path import PathConfig, PathTracker


@dataclass(frozen=True)
class PipelineConfig:
    """Everything about the MDP that the node must share with training; it travels in the manifest.

    Attributes:
        rate_hz: ticks per second (paper).
        action_gain: residual of a unit action = gain x effort / kp of the joint, rad (prior work: mjlab, RoboJuDo X2).
        action_limit: actions are clipped to +-limit before use and before they enter the observation (ours).
    """

    rate_hz: float = 50.0
    action_gain: float = 0.25
    action_limit: float = 4.0
    gating: GatingConfig = field(default_factory=GatingConfig)
    gait: GaitConfig = field(default_factory=GaitConfig)
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    path: PathConfig = field(default_factory=PathConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PipelineConfig:
        """Inverse of :meth:`to_json` (JSON lists become tuples again). What an older manifest does not name has its default: off."""
        nested = {"gating": GatingConfig, "gait": GaitConfig, "observation": ObservationConfig, "path": PathConfig, "balance": BalanceConfig}
        plain = {k: v for k, v in data.items() if k not in nested}
        parts = {k: kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in data.get(k, {}).items()}) for k, kind in nested.items()}
        return cls(**plain, **parts)


_REST_VELOCITY = 0.02  # m/s or rad/s


class LegPipeline:
    """Per-robot state between ticks, for N robots."""

    def __init__(self, robot: RobotSpec, config: PipelineConfig, count: int) -> None:
        self.config, self.count = config, count
        self.dt_s = 1.0 / config.rate_hz
        self.gate = IntentGate(config.gating, count, robot.default_stance_height_m)
        self.gait = ReferenceGait(robot, config.gait, count)
        self.observation = ObservationBuilder(robot, config.observation, count)
        self.legs = robot.indices("lmo_action")
        self.action_scale = config.action_gain * robot.effort_nm[self.legs] / robot.kp[self.legs]  # [A] rad
        self.lower, self.upper = robot.lower[self.legs], robot.upper[self.legs]
        self._full_scale = np.asarray(config.gating.cruise)
        self.cruise = np.tile(self._full_scale, (count, 1))  # [N, 3], training stage I draws it
        self.last_action = np.zeros((count, len(self.legs)))
        self.velocity = np.zeros((count, 3))
        self.goal = np.zeros((count, 3))  # what the command means, m/s, m/s, rad/s: the gated velocity, but for the literal gate
        self.velocity_error = np.zeros((count, 3))  # measured - reference, stride-filtered
        self.standing_ankle_x = float(self.gait.stance(np.array([robot.default_stance_height_m]))[0][0])
        self.path = PathTracker(config.path, count, self.dt_s)
        self.balance = Balance(config.balance, self.gait, count, self.dt_s)
        self.height_m = self.gate.height_m.copy()
        self.reference = self.gait.reference(self.velocity, self.height_m)
        self._ahead: tuple[np.ndarray, GaitReference] | None = None  # a reference worked out beforehand, and what it belongs to
        self._sensed: tuple[np.ndarray, ...] | None = None  # what :meth:`finish` has not taken in yet

    def reset(self, ids: np.ndarray | slice = slice(None), height_m: float | np.ndarray | None = None, phase: float | np.ndarray = 0.0) -> None:
        """Start robots ``ids`` afresh: gate closed, clock in double support, no history."""
        self.finish()
        self.gate.reset(ids, height_m)
        self.gait.reset(ids, phase)
        self.observation.reset(ids)
        self.last_action[ids] = 0.0
        self.velocity[ids] = 0.0
        self.goal[ids] = 0.0
        self.velocity_error[ids] = 0.0
        self.path.reset(ids)
        self.balance.reset(ids)
        self.height_m[ids] = self.gate.height_m[ids]

    def observe(self, flags: np.ndarray, height_m: np.ndarray, gyro: np.ndarray, gravity: np.ndarray, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
        """One tick: command and state in, observation [N, size] float32 out.

        Args:
            flags: [N, 3] in {-1, 0, 1}; height_m: commanded stance height [N], m.
            gyro, gravity: [N, 3], pelvis frame; q, qd: [N, J], robot order.
        """
        self.finish()
        self.velocity, self.height_m = self.gate.step(flags, height_m, self.dt_s, self.cruise)
        self.goal = self._goal(flags, self.velocity)
        feet, feet_velocity = self.gait.sense_feet(gravity, gyro, q[:, self.legs], qd[:, self.legs])
        capture = self.gait.capture_point(gravity, gyro, feet, feet_velocity, self.height_m, self.dt_s)
        support, yaw_rate, resting = self.gait.support(self.config.path.support_lag), -(gravity * gyro).sum(axis=1), self.resting(flags)
        if self.config.path.enabled:
            self.path.begin(resting, self.gait.stepping)
        self._advance(self.goal, capture)
        self._sensed = q.copy(), qd.copy(), feet, support, yaw_rate, resting
        if self.config.balance.enabled:
            self.balance.sense(feet, feet_velocity)
        stride = self.stride_velocity
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and np.array_equal(ahead[0], self._reference_key(stride, self.height_m))
        self.reference = ahead[1] if known else self.gait.reference(stride, self.height_m, self._landing)
        if self.config.balance.enabled:
            self.balance.remember(self.reference.soles)
        self._odometry(feet_velocity, yaw_rate)
        return self.observation.build(
            self.velocity / self._full_scale,
            self.height_m,
            gyro,
            gravity,
            q,
            qd,
            self.last_action,
            self.gait.phase,
            self.gait.stepping,
            self.reference.q,
            self.velocity_error,
            self.path.error,
            flags,
            capture,
            self.gait.arm_shift,
            self.balance.deviation,
        )

    @property
    def _landing(self) -> np.ndarray | None:
        return self.balance.landing if self.config.balance.enabled else None

    @property
    def stride_velocity(self) -> np.ndarray:
        """What the reference walks at [N, 3]: the gated command and the way back to the path."""
        return self.velocity + self.path.correction if self.config.path.enabled else self.velocity

    def resting(self, flags: np.ndarray) -> np.ndarray:
        """[N] zero flags, and what the gate still lets through is over."""
        return ~flags.any(axis=1) & (np.abs(self.goal) < _REST_VELOCITY).all(axis=1)

    def _goal(self, flags: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        return self.cruise * flags if self.config.gating.literal else velocity

    def _advance(self, goal: np.ndarray, capture: np.ndarray) -> None:
        """Clock and correction, one tick."""
        if self.config.path.enabled:
            self.gait.advance(goal, self.cruise, capture, self.dt_s, self.path.wants(self.gait.stepping), self.path.intended)
            self.path.steer(self.gait.step_begins, self.gait.stepping)
        else:
            self.gait.advance(goal, self.cruise, capture, self.dt_s)
        if self.config.balance.enabled:
            self.balance.land()

    def finish(self) -> None:
        """Take in what changes slowly: the way walked, the arms' weight. It counts from the next tick on, so that it can be worked out behind the command.

        :meth:`observe` and :meth:`reset` do it where nobody has.
        """
        if self._sensed is None:
            return
        q, qd, feet, support, yaw_rate, resting = self._sensed
        self._sensed = None
        self.gait.sense_arms(q, qd)
        if self.config.path.enabled:
            self.path.update(feet, support, yaw_rate, self.goal, resting, self.gait.stepping, self.standing_ankle_x)
        if self.config.balance.enabled:
            self.balance.plan()

    def anticipate(self, flags: np.ndarray, height_m: np.ndarray) -> None:
        """Work out the reference of the next tick, while there is time: as if the command stayed, no foot had to catch the robot and its path error stayed.

        :meth:`observe` takes it where that came true, and works it out anew where not: the numbers are the same to the bit. Call it behind
        :meth:`act`; it does :meth:`finish` too. It takes a good quarter off the time between a state and its command (N = 1; training has no use for it).
        """
        self.finish()
        gate, kept = self.gate, [(self.gait, self.gait.CLOCK), (self.path, self.path.PLAN), (self.balance, self.balance.PLAN)]
        before = gate.filtered.copy(), gate.height_m.copy()
        copies = [{name: getattr(owner, name).copy() for name in names} for owner, names in kept]
        velocity, height = gate.step(flags, height_m, self.dt_s, self.cruise)
        self._advance(self._goal(flags, velocity), np.zeros_like(self.gait.capture))
        stride = velocity + self.path.correction if self.config.path.enabled else velocity
        self._ahead = self._reference_key(stride, height), self.gait.reference(stride, height, self._landing)
        gate.filtered, gate.height_m = before
        for (owner, _), values in zip(kept, copies, strict=True):
            for name, value in values.items():
                setattr(owner, name, value)

    def _reference_key(self, velocity: np.ndarray, height_m: np.ndarray) -> np.ndarray:
        """All that the reference is a function of, one vector."""
        return np.concatenate((velocity.ravel(), height_m, self.gait.phase, self.gait.stepping, self.gait.shift.ravel(), self.balance.landing.ravel()))

    def _odometry(self, feet_velocity: np.ndarray, yaw_rate: np.ndarray) -> None:
        """Velocity over the feet that the clock has on the ground, against the reference, filtered over a stride."""
        stands = (self.reference.swing == 0.0)[..., None] if self.config.gait.enabled else self.gait.support(0.0)[..., None]  # [N, 2, 1]; never both in the air
        body = -(feet_velocity * stands).sum(axis=1) / stands.sum(axis=1)
        error = np.concatenate((body, yaw_rate[:, None]), axis=1) - self.stride_velocity
        self.velocity_error += (self.dt_s / self.config.observation.odometry_filter_s) * (error - self.velocity_error)

    def act(self, action: np.ndarray) -> np.ndarray:
        """Network output [N, A] (mirrored as its observation was) -> leg targets [N, A], rad, inside the limits."""
        action = clip(np.asarray(action, dtype=np.float64), -self.config.action_limit, self.config.action_limit)
        mirrored = self.observation.mirrored(self.gait.phase)
        if mirrored.any():
            action[mirrored] = self.observation.action_mirror(action[mirrored])
        self.last_action = action
        target = self.reference.q + action * self.action_scale
        if self.config.balance.enabled:
            target = target + self.balance.feedback()
        return clip(target, self.lower, self.upper)
