"""LMO training throughput: one batched VecEnv against stable-baselines3's SubprocVecEnv, same environment code, same run.

    python benchmarks/lmo_env.py [--seconds 20] [--workers 2 8 16]

Environment steps/s (zero actions) and end-to-end PPO steps/s (rollout + update, same network and epochs). A worker of
SubprocVecEnv holds the same ``LmoVecEnv`` with one robot. All rows use two threads or the stated processes.
Below that, the physics of a slot alone (same model, states and targets): ``mujoco.batch`` as the environment uses it, and ``mujoco.rollout``,
which gives back states only: foot positions, per-robot masses, gains and delays would have to be added to it.
"""

from __future__ import annotations

import dataclasses
import time

import gymnasium
import mujoco
import numpy as np
import torch
import tyro
from mujoco import rollout
from mujoco.batch import Batch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from wbvla_core.console import program
from wbvla_train.lmo.config import PhysicsConfig, TrainConfig
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.network import AsymmetricPolicy
from wbvla_train.lmo.physics import lean_model


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        seconds: per measurement.
        workers: processes of SubprocVecEnv, one row each.
        envs, threads: robots in the one batch, and threads that step them.
    """

    seconds: float = 20.0
    workers: tuple[int, ...] = (2, 8, 16)
    envs: int = 1024
    threads: int = 2


class OneRobot(gymnasium.Env):
    """The batched environment with one robot, behind the single-environment interface."""

    def __init__(self, config: TrainConfig, seed: int) -> None:
        self.inner = LmoVecEnv(dataclasses.replace(config, physics=PhysicsConfig(threads=1)), 1, seed=seed)
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

    def reset(self, *, seed=None, options=None):
        return self.inner.reset()[0], {}

    def step(self, action):
        self.inner.step_async(action[None])
        observation, reward, done, infos = self.inner.step_wait()
        truncated = bool(infos[0].get("TimeLimit.truncated", False))
        last = infos[0].get("terminal_observation", observation[0])
        return last if done[0] else observation[0], float(reward[0]), bool(done[0]) and not truncated, truncated, {}


def one_robot(config: TrainConfig, seed: int):
    def make() -> OneRobot:
        torch.set_num_threads(1)
        return OneRobot(config, seed)

    return make


def environment_rate(env: VecEnv, seconds: float) -> float:
    env.reset()
    actions = np.zeros((env.num_envs, *env.action_space.shape), dtype=np.float32)
    for _ in range(3):
        env.step(actions)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        env.step(actions)
        steps += env.num_envs
    return steps / (time.perf_counter() - began)


def physics_rates(config: TrainConfig, count: int, seconds: float) -> list[tuple[str, float]]:
    """Slots of 20 ms per second of batch and rollout; robots fall and lie, alike in both."""
    from wbvla_core.robot import load_robot

    robot = load_robot(config.robot)
    rows = []
    for name in ("mujoco.batch", "mujoco.rollout"):
        model = lean_model(robot, config.physics)
        batch = Batch(model, count, nthread=config.physics.threads)
        batch.qpos[:], batch.qpos[:, 2], batch.qpos[:, 3] = 0.0, 0.642, 1.0
        for i in range(1, model.njnt):
            batch.qpos[:, model.jnt_qposadr[i]] = robot.default_q[robot.joint_names.index(model.joint(i).name)]
        targets = batch.qpos[:, 7:] + np.random.default_rng(0).normal(0, 0.1, (count, model.nu))
        steps = config.physics.substeps
        if name == "mujoco.batch":
            batch.ctrl[:] = targets

            def slot(batch: Batch = batch, steps: int = steps) -> None:
                batch.step(nstep=steps)
        else:
            size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
            data = [mujoco.MjData(model) for _ in range(config.physics.threads)]
            initial = np.zeros((count, size))
            initial[:, 1 : 1 + model.nq] = batch.qpos
            kept = {"state": initial}
            control = np.repeat(targets[:, None], steps, axis=1)

            def slot(model=model, data=data, kept=kept, control=control) -> None:
                kept["state"] = rollout.rollout(model, data, kept["state"], control, persistent_pool=True)[0][:, -1]

        slot()
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            slot()
            done += count
        rows.append((name, done / (time.perf_counter() - began)))
    return rows


def learning_rate_of(env: VecEnv, config: TrainConfig, seconds: float, per_update: int) -> float:
    """PPO steps/s over whole iterations, the first one not counted."""
    p = config.ppo
    steps = max(1, per_update // env.num_envs)
    policy = {"actor_size": config_actor_size(config), "layers": p.layers}
    model = PPO(AsymmetricPolicy, env, n_steps=steps, batch_size=steps * env.num_envs // p.minibatches, n_epochs=p.epochs, device="cpu", policy_kwargs=policy)
    model.set_logger(Logger(None, []))
    size = steps * env.num_envs
    model.learn(size)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        model.learn(size, reset_num_timesteps=False)
        done += size
    return done / (time.perf_counter() - began)


def config_actor_size(config: TrainConfig) -> int:
    from wbvla_core.robot import load_robot
    from wbvla_lmo.pipeline import LegPipeline

    return LegPipeline(load_robot(config.robot), config.pipeline, 1).observation.size


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    config = TrainConfig(physics=PhysicsConfig(threads=options.threads))
    env = LmoVecEnv(config, options.envs)
    rates = environment_rate(env, options.seconds), learning_rate_of(env, config, options.seconds, options.envs * config.ppo.steps)
    rows = [(f"one batch of {options.envs}, {options.threads} threads", *rates)]
    for workers in options.workers:
        env = SubprocVecEnv([one_robot(config, i) for i in range(workers)], start_method="spawn")
        # A smaller update would cost SubprocVecEnv more per step, a larger one minutes: 2048 samples per update.
        rows.append((f"SubprocVecEnv, {workers} workers", environment_rate(env, options.seconds), learning_rate_of(env, config, options.seconds, 2048)))
        env.close()
    best = max(r[2] for r in rows[1:]) if len(rows) > 1 else float("nan")
    print(f"{'':38s} {'env steps/s':>12s} {'PPO steps/s':>12s} {'ratio':>7s}")
    for name, rate, total in rows:
        print(f"{name:38s} {rate:12.0f} {total:12.0f} {total / best:7.2f}")
    for name, rate in physics_rates(config, options.envs, options.seconds):
        print(f"physics alone, {name:23s} {rate:12.0f}")


if __name__ == "__main__":
    program(main)
