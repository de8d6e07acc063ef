"""The reward, all terms vectorised over N robots. Weights and sources are in ``config.RewardConfig``."""

from __future__ import annotations

import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_lmo.path import advance_error, sway_over
from wbvla_lmo.pipeline import LegPipeline
from wbvla_train.lmo.config import RewardConfig
from wbvla_train.lmo.physics import BatchPhysics

CONTACT_M = 0.003  # lowest sole point below this counts as contact
STABLE_S = 0.3  # standing this long with both feet down ends a start-stop episode
STABLE_RAD_S = 0.3  # and turning slower than this


def kernel(error: np.ndarray, wide: float, fine: float) -> np.ndarray:
    """Two-width bell [N] in [0, 1]: far errors still have a slope, near ones a steep one."""
    return 0.5 * np.exp(-((error / wide) ** 2)) + 0.5 * np.exp(-((error / fine) ** 2))


def cusp(error: np.ndarray, wide: float, fine: float) -> np.ndarray:
    """Like :func:`kernel` for error >= 0, with a tip at zero: the slope does not vanish there."""
    return 0.5 * np.exp(-((error / wide) ** 2)) + 0.5 * np.exp(-error / fine)


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
        self.effort, self.top_speed = robot.effort_nm[self.legs], robot.velocity_rad_s[self.legs]
        self.rolls = np.array(["_roll_" in robot.joint_names[j] for j in self.legs])
        self.path, self.path_short = np.zeros((n, 3)), np.zeros((n, 3))  # true error to the commanded path; of the place over the feet, stride-filtered
        self.last_com = np.zeros((n, 2))
        self.last_xy, self.last_yaw = np.zeros((n, 2)), np.zeros(n)
        self.was_moving = np.zeros(n, dtype=bool)  # flags of the last slot
        self.episode = np.zeros(n, dtype=bool)  # between a start from rest and the stable end
        self.turn_error = np.zeros(n)  # true turn - reference turn since that start, rad
        self.stable_s = np.zeros(n)
        self.turn_errors: list[float] = []  # |.| at the ends, for the log
        self.short, self.long = np.zeros((n, 3)), np.zeros((n, 3))  # filtered (v - v_ref)
        self.last_feet = np.zeros((n, 2, 3))
        self.last_qd = np.zeros((n, len(self.legs)))
        self.action_1, self.action_2, self.bias = np.zeros((3, n, len(self.legs)))

    def reset(self, ids: np.ndarray) -> None:
        self.short[ids] = self.long[ids] = 0.0
        self.path[ids] = self.path_short[ids] = 0.0
        self.last_xy[ids], self.last_yaw[ids] = self.physics.qpos[ids, :2], self.physics.yaw[ids]
        self.last_com[ids] = self.physics.com[ids, :2]
        self.was_moving[ids] = self.episode[ids] = False
        self.turn_error[ids] = self.stable_s[ids] = 0.0
        self.last_feet[ids] = self.physics.feet[ids]
        self.last_qd[ids] = 0.0
        self.action_1[ids] = self.action_2[ids] = self.bias[ids] = 0.0

    def compute(self, flags: np.ndarray, dt_s: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reward rate [N] and its weighted terms, for the slot that just ended."""
        c, p, s = self.config, self.pipeline, self.physics
        ref = p.reference
        turned = wrap(s.yaw - self.last_yaw)
        resting, moving = p.resting(flags), np.any(flags, axis=1)
        self._follow_path(turned, resting, moving, dt_s)
        velocity = np.concatenate((s.velocity[:, :2], s.yaw_rate[:, None]), axis=1)
        error = velocity - (p.goal + p.path.correction)
        self.short += (dt_s / c.velocity_filter_s) * (error - self.short)
        self.long += (dt_s / c.drift_s) * (error - self.long)
        contact = s.sole_low_m < CONTACT_M
        wanted = ref.swing == 0.0
        com_speed = np.linalg.norm(s.com[:, :2] - self.last_com, axis=1) / dt_s
        foot_v = np.linalg.norm((s.feet - self.last_feet)[..., :2], axis=-1) / dt_s
        action = p.last_action
        rate, jerk = action - self.action_1, action - 2 * self.action_1 + self.action_2
        qd = s.qd[:, self.legs]
        frozen = resting & ~p.gait.stepping
        self.bias += np.where(frozen, 2.0 * dt_s / c.drift_s, 0.0)[:, None] * (action - self.bias)
        heading_end = self._end_of_episode(frozen, turned, dt_s)
        feet_gap = np.abs(self._heading_frame(s.feet[:, 0, :2] - s.feet[:, 1, :2])[:, 1])
        q = s.q[:, self.legs]
        lean = np.stack((np.sin(ref.lean_rad), np.zeros_like(ref.lean_rad)), axis=1)
        away, off = np.hypot(self.path_short[:, 0], self.path_short[:, 1]), np.abs(self.path_short[:, 2])
        over_feet = self._heading_frame(s.com[:, :2] - s.feet[..., :2].mean(axis=1))
        off_centre = np.hypot(over_feet[:, 0] - self.pipeline.gait.stance.middle_m, over_feet[:, 1])
        demand = np.abs(s.demand[:, self.leg_actuators]) / self.effort
        feet_yaw = np.arctan2(s.feet_ahead[..., 1], s.feet_ahead[..., 0])
        relative = np.abs(self.long) / np.asarray(c.drift_scale)  # [N, 3]
        drift = np.mean(0.5 * np.exp(-(relative**2)) + 0.5 * np.exp(-relative / 0.3), axis=1)  # the second part pulls all the way to zero
        terms = {
            "alive": c.alive * np.ones(s.count),
            "forward": c.forward * kernel(self.short[:, 0], c.wide[0], c.fine[0]),
            "lateral": c.lateral * kernel(self.short[:, 1], c.wide[1], c.fine[1]),
            "yaw": c.yaw * kernel(self.short[:, 2], c.wide[2], c.fine[2]),
            "drift": c.drift * drift,
            "path_position": c.path_position * cusp(away, c.path_wide[0], c.path_fine[0]),
            "path_heading": c.path_heading * cusp(off, c.path_wide[1], c.path_fine[1]),
            "height": c.height * np.exp(-(((s.height_m - p.height_m) / c.height_scale_m) ** 2)),
            "upright": c.upright * np.exp(-np.sum((s.gravity[:, :2] - lean) ** 2, axis=1) / c.upright_scale**2),
            "contact": c.contact * np.mean(contact == wanted, axis=1),
            "clearance": c.clearance * np.sum(np.clip(ref.lift_m - s.sole_low_m, 0, None) * ~wanted, axis=1),
            "slip": c.slip * np.sum(contact * np.clip(foot_v, 0, 1), axis=1),
            "foot_flat": c.foot_flat * np.sum(s.feet_up[..., :2] ** 2, axis=(1, 2)),
            "feet_close": c.feet_close * np.clip(c.feet_close_m - feet_gap, 0, None),
            "feet_parallel": c.feet_parallel * wrap(feet_yaw[:, 0] - feet_yaw[:, 1]) ** 2,
            "no_fly": c.no_fly * (~resting & (np.sum(contact, axis=1) == 1)),
            "vertical": c.vertical * s.velocity[:, 2] ** 2,
            "roll_pitch_rate": c.roll_pitch_rate * np.sum(s.gyro[:, :2] ** 2, axis=1),
            "action_rate": c.action_rate * np.sum(rate**2, axis=1),
            "action_jerk": c.action_jerk * np.sum(jerk**2, axis=1),
            "residual": c.residual * np.sum(action**2, axis=1),
            "roll_action": c.roll_action * (np.abs(p.goal[:, 1]) < 0.02) * np.sum(action[:, self.rolls] ** 2, axis=1),
            "stand_action": c.stand_action * resting * np.sum(action**2, axis=1),
            "stand_motion": c.stand_motion * frozen * np.clip(com_speed + 0.3 * np.abs(s.yaw_rate), 0, 1),
            "stand_centre": c.stand_centre * frozen * np.clip(off_centre, 0, 0.15),
            "stand_bias": c.stand_bias * frozen * np.sum(self.bias**2, axis=1),
            "stand_joints": c.stand_joints * frozen * np.clip(np.sum(qd**2, axis=1), 0, 50),
            "stand_step": c.stand_step * (resting & p.gait.stepping & ~p.path.wants(p.gait.stepping)),
            "joint_acceleration": c.joint_acceleration * np.sum(((qd - self.last_qd) / dt_s) ** 2, axis=1),
            "torque": c.torque * np.mean((s.torque[:, self.leg_actuators] / self.effort) ** 2, axis=1),
            "torque_limit": c.torque_limit * np.sum(np.clip(demand - 0.9, 0, 2), axis=1),
            "speed_limit": c.speed_limit * np.sum(np.clip(np.abs(qd) / self.top_speed - 0.8, 0, 2), axis=1),
            "joint_limit": c.joint_limit * np.sum(np.clip(self.soft_lower - q, 0, None) + np.clip(q - self.soft_upper, 0, None), axis=1),
        }
        self.last_feet, self.last_com = s.feet.copy(), s.com[:, :2].copy()
        self.last_qd = qd.copy()
        self.action_2, self.action_1 = self.action_1, action.copy()
        total = np.zeros(s.count)
        for value in terms.values():
            total += value
        terms["heading_end"] = c.heading_end * heading_end / dt_s  # once per episode: outside the clip
        return np.clip(total, -20.0, 20.0) + terms["heading_end"], terms

    def _heading_frame(self, way: np.ndarray) -> np.ndarray:
        """World vectors [N, ..., 2] as (forward, left) of each robot's heading."""
        cos, sin = (f(self.physics.yaw).reshape((-1,) + (1,) * (way.ndim - 2)) for f in (np.cos, np.sin))
        x, y = way[..., 0], way[..., 1]
        return np.stack((cos * x + sin * y, cos * y - sin * x), axis=-1)

    def _follow_path(self, turned: np.ndarray, resting: np.ndarray, moving: np.ndarray, dt_s: float) -> None:
        """True error to the commanded path. Where a start from rest begins, the path starts where the robot believes it does."""
        s, p = self.physics, self.pipeline
        moved = self._heading_frame(s.qpos[:, :2] - self.last_xy)
        start = moving & ~self.was_moving & ~self.episode
        self.path = np.where(start[:, None], p.path.error, self.path)
        self.path = p.path.settle(advance_error(self.path, moved, turned, p.goal, dt_s), resting)
        place = self.path.copy()
        feet = self._heading_frame(s.feet[..., :2] - s.qpos[:, None, :2])
        place[:, :2] += sway_over(feet, p.standing_ankle_x)
        self.path_short += (dt_s / self.config.velocity_filter_s) * (place - self.path_short)
        self.last_xy, self.last_yaw = s.qpos[:, :2].copy(), s.yaw.copy()
        self.turn_error = np.where(start, 0.0, self.turn_error)
        self.episode |= start
        self.was_moving = moving

    def _end_of_episode(self, frozen: np.ndarray, turned: np.ndarray, dt_s: float) -> np.ndarray:
        """|wrap(psi_end - psi_reference)| [N] where flags are zero again and the body has become stable, else 0."""
        s = self.physics
        self.turn_error += turned - self.pipeline.goal[:, 2] * dt_s
        quiet = frozen & (np.abs(s.yaw_rate) < STABLE_RAD_S)
        self.stable_s = np.where(quiet, self.stable_s + dt_s, 0.0)
        ends = self.episode & (self.stable_s >= STABLE_S - 1e-9)
        out = np.where(ends, np.abs(wrap(self.turn_error)), 0.0)
        self.turn_errors += out[ends].tolist()
        self.episode &= ~ends
        return out
