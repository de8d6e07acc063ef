"""The reward, all terms vectorised over N robots. Weights and sources are in ``config.RewardConfig``."""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_lmo.pipeline import LegPipeline
from wbvla_train.lmo.config import RewardConfig
from wbvla_train.lmo.physics import BatchPhysics

CONTACT_M = 0.003  # lowest sole point below this counts as contact


def kernel(error: np.ndarray, wide: float, fine: float) -> np.ndarray:
    """Two-width bell [N] in [0, 1]: far errors still have a slope, near ones a steep one."""
    return 0.5 * np.exp(-((error / wide) ** 2)) + 0.5 * np.exp(-((error / fine) ** 2))


class Rewards:
    """Keeps the filters and the last step's values; :meth:`compute` gives the reward per second and its terms."""

    def __init__(self, robot: RobotSpec, config: RewardConfig, pipeline: LegPipeline, physics: BatchPhysics) -> None:
        n = physics.count
        self.config, self.pipeline, self.physics = config, pipeline, physics
        self.legs = robot.indices("legs")
        self.leg_actuators = np.array([int(np.flatnonzero(physics.joints == j)[0]) for j in self.legs])
        span = robot.upper[self.legs] - robot.lower[self.legs]
        self.soft_lower = robot.lower[self.legs] + 0.025 * span
        self.soft_upper = robot.upper[self.legs] - 0.025 * span
        self.effort = robot.effort_nm[self.legs]
        self.short, self.long = np.zeros((n, 3)), np.zeros((n, 3))  # filtered (v - v_ref)
        self.last_feet = np.zeros((n, 2, 3))
        self.last_qd = np.zeros((n, len(self.legs)))
        self.action_1, self.action_2 = np.zeros((2, n, len(self.legs)))

    def reset(self, ids: np.ndarray) -> None:
        self.short[ids] = self.long[ids] = 0.0
        self.last_feet[ids] = self.physics.feet[ids]
        self.last_qd[ids] = 0.0
        self.action_1[ids] = self.action_2[ids] = 0.0

    def compute(self, flags: np.ndarray, dt_s: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reward rate [N] and its weighted terms, for the slot that just ended."""
        c, p, s = self.config, self.pipeline, self.physics
        ref = p.reference
        velocity = np.concatenate((s.velocity[:, :2], s.yaw_rate[:, None]), axis=1)
        error = velocity - p.velocity
        self.short += (dt_s / c.velocity_filter_s) * (error - self.short)
        self.long += (dt_s / c.drift_s) * (error - self.long)
        contact = s.sole_low_m < CONTACT_M
        wanted = ref.swing == 0.0
        foot_v = np.linalg.norm((s.feet - self.last_feet)[..., :2], axis=-1) / dt_s
        action = p.last_action
        rate, jerk = action - self.action_1, action - 2 * self.action_1 + self.action_2
        qd = s.qd[:, self.legs]
        still = (~np.any(flags, axis=1)) & (np.abs(p.velocity / p.cruise).max(axis=1) < 0.1)
        frozen = still & ~p.gait.stepping
        across = s.feet[:, 0, :2] - s.feet[:, 1, :2]
        feet_gap = np.abs(np.cos(s.yaw) * across[:, 1] - np.sin(s.yaw) * across[:, 0])
        q = s.q[:, self.legs]
        lean = np.stack((np.sin(ref.lean_rad), np.zeros_like(ref.lean_rad)), axis=1)
        relative = np.abs(self.long) / np.asarray(c.drift_scale)  # [N, 3]
        drift = np.mean(0.5 * np.exp(-(relative**2)) + 0.5 * np.exp(-relative / 0.3), axis=1)  # the second part pulls all the way to zero
        terms = {
            "alive": c.alive * np.ones(s.count),
            "forward": c.forward * kernel(self.short[:, 0], c.wide[0], c.fine[0]),
            "lateral": c.lateral * kernel(self.short[:, 1], c.wide[1], c.fine[1]),
            "yaw": c.yaw * kernel(self.short[:, 2], c.wide[2], c.fine[2]),
            "drift": c.drift * drift,
            "height": c.height * np.exp(-(((s.height_m - p.height_m) / c.height_scale_m) ** 2)),
            "upright": c.upright * np.exp(-np.sum((s.gravity[:, :2] - lean) ** 2, axis=1) / c.upright_scale**2),
            "contact": c.contact * np.mean(contact == wanted, axis=1),
            "clearance": c.clearance * np.sum(np.clip(ref.lift_m - s.sole_low_m, 0, None) * ~wanted, axis=1),
            "slip": c.slip * np.sum(contact * np.clip(foot_v, 0, 1), axis=1),
            "foot_flat": c.foot_flat * np.sum(s.feet_up[..., :2] ** 2, axis=(1, 2)),
            "feet_close": c.feet_close * np.clip(c.feet_close_m - feet_gap, 0, None),
            "vertical": c.vertical * s.velocity[:, 2] ** 2,
            "roll_pitch_rate": c.roll_pitch_rate * np.sum(s.gyro[:, :2] ** 2, axis=1),
            "action_rate": c.action_rate * np.sum(rate**2, axis=1),
            "action_jerk": c.action_jerk * np.sum(jerk**2, axis=1),
            "residual": c.residual * np.sum(action**2, axis=1),
            "stand_action": c.stand_action * still * np.sum(action**2, axis=1),
            "stand_motion": c.stand_motion * frozen * np.clip(np.linalg.norm(s.velocity[:, :2], axis=1) + 0.3 * np.abs(s.yaw_rate), 0, 1),
            "stand_joints": c.stand_joints * frozen * np.clip(np.sum(qd**2, axis=1), 0, 50),
            "stand_step": c.stand_step * (still & p.gait.stepping),
            "joint_acceleration": c.joint_acceleration * np.sum(((qd - self.last_qd) / dt_s) ** 2, axis=1),
            "torque": c.torque * np.mean((s.torque[:, self.leg_actuators] / self.effort) ** 2, axis=1),
            "joint_limit": c.joint_limit * np.sum(np.clip(self.soft_lower - q, 0, None) + np.clip(q - self.soft_upper, 0, None), axis=1),
        }
        self.last_feet = s.feet.copy()
        self.last_qd = qd.copy()
        self.action_2, self.action_1 = self.action_1, action.copy()
        total = np.zeros(s.count)
        for value in terms.values():
            total += value
        return np.clip(total, -20.0, 20.0), terms
