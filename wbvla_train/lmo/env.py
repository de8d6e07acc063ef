"""The locomotion task as one stable-baselines3 VecEnv over one MuJoCo batch (never SubprocVecEnv: 10x slower, measured).

The observation is [actor part | critic part]: the actor part is ``LegPipeline.observe`` with sensor noise, the critic part
adds what only simulation knows. Time-outs pass ``terminal_observation``, as SB3 needs for bootstrapping.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from wbvla_core.robot import RobotSpec, load_robot
from wbvla_lmo.pipeline import LegPipeline
from wbvla_train.lmo.config import TrainConfig
from wbvla_train.lmo.curriculum import Curriculum
from wbvla_train.lmo.physics import BatchPhysics
from wbvla_train.lmo.rewards import CONTACT_M, Rewards
from wbvla_train.lmo.streams import CommandStream, Pushes, RandomReaching, ReplayedArms

# Mirror of the critic part: (velocity 3, short errors 3, long errors 3, path error 3, height error), (contact 2, sole heights 2) swap left and right, lags 3.
_PRIVILEGED_INDEX = np.array((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 13, 16, 15, 17, 18, 19))
_PRIVILEGED_SIGN = np.array((1, -1, 1, 1, -1, -1, 1, -1, -1, 1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1), dtype=float)


class LmoVecEnv(VecEnv):
    """See module docstring. ``curriculum.difficulty`` may change at any time, the stage by :meth:`set_stage`."""

    def __init__(self, config: TrainConfig, count: int | None = None, *, robot: RobotSpec | None = None, seed: int | None = None) -> None:
        self.config = config
        self.robot = robot or load_robot(config.robot)
        count = count or config.ppo.envs
        self.rng = np.random.default_rng(config.seed if seed is None else seed)
        self.physics = BatchPhysics(self.robot, config.physics, count)
        self.pipeline = LegPipeline(self.robot, config.pipeline, count)
        self.dt_s = self.pipeline.dt_s
        if abs(self.physics.slot_s - self.dt_s) > 1e-12:
            raise ValueError(f"policy period {self.dt_s} s must equal the simulator's command slot {self.physics.slot_s} s")
        self.commands = CommandStream(self.robot, config.stages[0].command, count, self.rng)
        self.rewards = Rewards(self.robot, config.stages[0].reward, self.pipeline, self.physics)
        self._enter(0, count)
        self.legs = self.pipeline.legs
        self.age_s = np.zeros(count)
        self.severity = np.ones((count, 3))  # of the robot's body and senses, of its arms' motion, of what pushes it
        self.gravity_bias = np.zeros((count, 3))
        self.target = np.tile(self.robot.default_q, (count, 1))
        self.term_sums: dict[str, float] = {}
        self.term_steps = 0
        self.actor_size = self.pipeline.observation.size
        size = self.actor_size + len(_PRIVILEGED_SIGN)
        observations = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        limit = config.pipeline.action_limit
        super().__init__(count, observations, gymnasium.spaces.Box(-limit, limit, (len(self.legs),), np.float32))
        self._actions = np.zeros((count, len(self.legs)), dtype=np.float32)
        self.buf_infos: list[dict[str, Any]] = [{} for _ in range(count)]

    # ---------------------------------------------------------------- stages

    def _enter(self, index: int, count: int) -> None:
        self.stage_index, self.stage = index, self.config.stages[index]
        d = self.stage.disturbance
        self.curriculum = Curriculum(self.stage.curriculum)
        self.commands.config, self.rewards.config = self.stage.command, self.stage.reward
        if d.arm_replay:
            self.arms: RandomReaching | ReplayedArms = ReplayedArms(self.robot, self.physics.joints, d, self.config.replay, count, self.rng)
        else:
            self.arms = RandomReaching(self.robot, self.physics.joints, d, count, self.rng)
        self.pushes = Pushes(d, count, self.rng)

    def set_stage(self, index: int) -> np.ndarray:
        """Go over to another stage: all robots begin anew, its curriculum at its start. Returns the first observation."""
        self._enter(index, self.num_envs)
        return self.reset()

    # ---------------------------------------------------------------- episodes

    @property
    def lowest_m(self) -> float:
        """Lowest stance height that is commanded at the present difficulty."""
        low, default = self.robot.stance_height_range_m[0], self.robot.default_stance_height_m
        part = min(1.0, self.curriculum.difficulty / self.stage.curriculum.squat_from)
        return default - 0.06 - part * (default - 0.06 - low)

    @property
    def difficulty(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each robot's body and senses, arms and pushes, [N] each: the curriculum's times what was drawn for its episode."""
        return tuple(self.curriculum.difficulty * self.severity.T)

    def _reset(self, ids: np.ndarray) -> None:
        n, rng = len(ids), self.rng
        low, high, full = np.transpose(self.stage.disturbance.severity)
        self.severity[ids] = np.where(rng.random((n, 3)) < full, 1.0, rng.uniform(low, high, (n, 3)))
        body, arms, _ = self.difficulty
        self.commands.draw(ids, self.lowest_m)
        self.commands.flags[ids[rng.random(n) < 0.5]] = 0.0  # half of the episodes begin standing
        self.arms.reset(ids, arms)
        height = self.commands.height_m[ids]
        self.pipeline.cruise[ids] = np.asarray(self.config.pipeline.gating.cruise) * self.commands.factor[ids]
        self.pipeline.reset(ids, height, rng.choice((0.0, 0.5), n))
        reference = self.pipeline.gait.stance(height)
        feet = np.zeros((n, 2, 3))
        feet[..., 0], feet[..., 2] = reference[0][:, None], -height[:, None]
        width = self.pipeline.gait.inverse.half_width_m
        feet[:, 0, 1], feet[:, 1, 1] = width, -width
        legs = self.pipeline.gait.inverse.solve(feet, np.zeros((n, 2)), reference[1]).reshape(n, -1)[:, self.pipeline.gait.order]
        q = np.tile(self.robot.default_q, (n, 1))
        q[:, self.legs] = legs + rng.normal(0, 0.02, legs.shape)
        q[:, self.arms.joints] = self.arms.target[ids]
        self.target[ids] = q
        yaw, pitch = rng.uniform(-np.pi, np.pi, n), reference[1] + rng.normal(0, 0.01, n)
        quaternion = np.stack(
            (
                np.cos(yaw / 2) * np.cos(pitch / 2),
                -np.sin(yaw / 2) * np.sin(pitch / 2),
                np.cos(yaw / 2) * np.sin(pitch / 2),
                np.sin(yaw / 2) * np.cos(pitch / 2),
            ),
            axis=1,
        )
        position = np.zeros((n, 3))
        position[:, 2] = height + 0.003
        self.physics.randomise(ids, self.stage.disturbance, body[ids], rng)
        self.physics.place(ids, q, position, quaternion)
        self.physics.qvel[ids, :2] = rng.normal(0, 0.1, (n, 2))
        self.gravity_bias[ids] = rng.normal(0, self.stage.disturbance.bias_gravity, (n, 3)) * (0.3 + 0.7 * body[ids, None])
        self.rewards.reset(ids)
        self.age_s[ids] = 0.0

    def _observe(self) -> np.ndarray:
        d, c, n = 0.3 + 0.7 * self.difficulty[0][:, None], self.stage.disturbance, self.num_envs
        rng = self.rng
        gyro, gravity, q, qd = self.physics.sense()
        gyro = gyro + rng.standard_normal((n, 3)) * (c.noise_gyro * d)
        gravity = gravity + self.gravity_bias + rng.standard_normal((n, 3)) * (c.noise_gravity * d)
        q += rng.standard_normal(q.shape) * (c.noise_q * d)
        qd += rng.standard_normal(qd.shape) * (c.noise_qd * d)
        self.pipeline.cruise[:] = np.asarray(self.config.pipeline.gating.cruise) * self.commands.factor
        return self.pipeline.observe(self.commands.flags, self.commands.height_m, gyro, gravity, q, qd)

    def _privileged(self) -> np.ndarray:
        s, r, p = self.physics, self.rewards, self.pipeline
        contact = s.sole_low_m < CONTACT_M
        height = (s.height_m - p.height_m)[:, None] * 10.0
        lags = np.stack((s.delay_steps, s.joint_lag_steps, s.imu_lag_steps), axis=1) / 8.0
        flat = np.concatenate((s.velocity * 2.0, r.short * 2.0, r.long * 2.0, r.path * 5.0, height, contact, s.sole_low_m * 10.0, lags), axis=1)
        mirrored = p.observation.mirrored(p.gait.phase)
        flat[mirrored] = flat[mirrored][:, _PRIVILEGED_INDEX] * _PRIVILEGED_SIGN
        return flat.astype(np.float32)

    def _full(self, actor: np.ndarray) -> np.ndarray:
        return np.clip(np.concatenate((actor, self._privileged()), axis=1), -20.0, 20.0)

    # ---------------------------------------------------------------- VecEnv

    def reset(self) -> np.ndarray:
        self._reset(np.arange(self.num_envs))
        self.age_s[:] = self.rng.uniform(0, self.config.physics.episode_s, self.num_envs)  # so that time-outs do not come all at once
        self._actor = self._observe()
        return self._full(self._actor)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        c, s, n = self.config, self.physics, self.num_envs
        body, arms, pushed = self.difficulty
        rough = self.stage.disturbance
        due, push = self.pushes.step(self.dt_s, pushed)
        if len(due):
            s.push(due, push)
        self.target[:, self.legs] = self.pipeline.act(self._actions)
        self.target[:, self.arms.joints] = self.arms.step(self.dt_s, arms)
        lost = self.rng.random(n) < rough.packet_loss * body if rough.packet_loss > 0.0 else None
        shake = None
        if rough.torque_noise > 0.0:
            shake = self.rng.uniform(-1.0, 1.0, s.torque.shape) * s.effort_nm * (rough.torque_noise * body[:, None])
        s.slot(self.target, lost=lost, torque_noise=shake, wrench=self.pushes.pulse(self.dt_s, pushed))
        broken = s.broken
        if broken.any():
            ids = np.flatnonzero(broken)
            s.place(ids, np.tile(self.robot.default_q, (len(ids), 1)), np.tile((0.0, 0.0, 0.3), (len(ids), 1)), np.tile((1.0, 0, 0, 0), (len(ids), 1)))
        rate, terms = self.rewards.compute(self.commands.flags, self.dt_s)
        fell = broken | (s.height_m < c.physics.fall_height_m) | (-s.gravity[:, 2] < np.cos(c.physics.fall_tilt_rad))
        reward = rate * self.dt_s + self.stage.reward.fall * fell
        self.age_s += self.dt_s
        timeout = (self.age_s >= c.physics.episode_s) & ~fell
        done = fell | timeout
        self.curriculum.note(self.num_envs * self.dt_s, int(fell.sum()))
        for name, value in terms.items():
            self.term_sums[name] = self.term_sums.get(name, 0.0) + float(value.mean())
        self.term_steps += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self.commands.step(self.dt_s, self.lowest_m)
        ids = np.flatnonzero(done)
        if timeout.any():
            # For the value of the cut-off state. Its actor part is one tick old: a new frame here would enter the histories twice.
            final = self._full(self._actor)
            for i in np.flatnonzero(timeout):
                infos[i] = {"terminal_observation": final[i], "TimeLimit.truncated": True}
        if len(ids):
            self._reset(ids)
        self._actor = self._observe()
        return self._full(self._actor), reward.astype(np.float32), done, infos

    def close(self) -> None:
        pass

    def take_terms(self) -> dict[str, float]:
        """Mean reward terms per second since the last call."""
        out = {k: v / max(self.term_steps, 1) for k, v in self.term_sums.items()}
        self.term_sums, self.term_steps = {}, 0
        return out

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("one environment, many robots: set the attribute on the VecEnv itself")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*method_args, **method_kwargs)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
