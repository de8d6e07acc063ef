"""The whole robot at 50 Hz: legs from the policy, arms from the chunk, the rest held; limits last, one JointCommand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.errors import CommandError, ErrorCode, StateError
from wbvla_core.robot import RobotSpec
from wbvla_core.types import Decision, JointCommand, LocoCommand, RobotState
from wbvla_lmo.arms import ChunkFollower
from wbvla_lmo.pipeline import LegPipeline
from wbvla_lmo.policy import LmoPolicy


@dataclass(frozen=True)
class ControllerConfig:
    """What an operator may tune.

    Attributes:
        arm_speed_rad_s: greatest speed of an arm target (training moves the arms up to this peak).
        blend_s: time in which a new chunk takes over from the old one.
        start_ramp_s: time in which the gains rise from zero after ``reset``. 0 where the driver already holds the
            standing pose (the simulator's gantry); about 2 s on a real robot that hangs limp.
    """

    arm_speed_rad_s: float = 4.0
    blend_s: float = 0.15
    start_ramp_s: float = 0.0


class LmoController:
    """See the module text. Call ``reset`` once, then ``tick`` every 20 ms with the newest state."""

    def __init__(self, robot: RobotSpec, policy: LmoPolicy, config: ControllerConfig | None = None) -> None:
        self.robot, self.policy, self.config = robot, policy, config or ControllerConfig()
        self.pipeline = LegPipeline(robot, policy.config, 1)
        self.legs, self.arms = robot.indices("lmo_action"), robot.indices("upper_body")
        self.arm_names = robot.names("upper_body")
        speed = np.minimum(robot.velocity_rad_s[self.arms], self.config.arm_speed_rad_s)
        self._follower = ChunkFollower(robot.default_q[self.arms], speed, self.config.blend_s)
        self._rest = robot.default_q.copy()  # waist, held joints and head stay at the default pose
        self._started_s: float | None = None

    @property
    def arm_target(self) -> np.ndarray:
        """Present arm targets [A], ``upper_body`` order."""
        return self._follower.target.copy()

    def reset(self, state: RobotState) -> None:
        """Begin standing: clock frozen, gate closed, arms held where they are."""
        state.validate(self.robot.joint_count)
        self.pipeline.reset(height_m=self.robot.default_stance_height_m)
        self._follower.reset(self.robot.clamp(state.q)[self.arms])
        self._started_s = None

    def set_decision(self, decision: Decision, now_s: float, *, age_s: float | None = None) -> None:
        """Take over the decision's arm chunk. The LocoCommand goes to :meth:`tick`, through the safety ladder.

        Args:
            now_s: the clock of ``tick``. age_s: age of the decision's image; default now_s - stamp_s (one clock).

        Raises:
            CommandError: wrong joints, shape or non-finite values; the old chunk stays.
        """
        decision.arms.validate(self.arm_names)
        age_s = now_s - decision.stamp_s if age_s is None else age_s
        if not np.isfinite(age_s):
            raise CommandError(f"age of the decision must be finite, got {age_s}", ErrorCode.COMMAND_NOT_FINITE)
        self._follower.set_chunk(decision.arms, now_s, age_s)

    def hold_arms(self) -> None:
        """Rest at the present targets (safety rung STAND)."""
        self._follower.reset(self._follower.target)

    def tick(self, state: RobotState, loco: LocoCommand, now_s: float) -> JointCommand:
        """One 20 ms period.

        Raises:
            StateError, CommandError: malformed input; nothing has changed then.
        """
        state.validate(self.robot.joint_count)
        loco.validate(self.robot.stance_height_range_m)
        if self._started_s is None:
            self._started_s = now_s
        observation = self.pipeline.observe(
            loco.flags[None], np.array((loco.stance_height_m,)), state.gyro[None], state.gravity[None], state.q[None], state.qd[None]
        )
        action = self.policy(observation)
        if not np.all(np.isfinite(action)):
            raise StateError(f"the leg policy gave {action}; its checkpoint is damaged or the state is absurd", ErrorCode.STATE_NOT_FINITE)
        target = self._rest.copy()
        target[self.legs] = self.pipeline.act(action)[0]
        target[self.arms] = self._follower.step(now_s)
        ramp = 1.0 if self.config.start_ramp_s <= 0 else min(max((now_s - self._started_s) / self.config.start_ramp_s, 0.0), 1.0)
        zeros = np.zeros(self.robot.joint_count)
        return JointCommand(state.stamp_s, self.robot.clamp(target), zeros, zeros.copy(), self.robot.kp * ramp, self.robot.kd.copy())

    def anticipate(self, loco: LocoCommand) -> None:
        """Work ahead on the next tick as if ``loco`` stayed; call it when the command of this tick is out. Changes no number, only when it is worked out."""
        self.pipeline.anticipate(loco.flags[None], np.array((loco.stance_height_m,)))
