"""Gains of the reflexes (:mod:`wbvla_lmo.balance`) by elite search: with which does the reference gait alone, zero actions, fall least often?

    python -m wbvla_train.lmo.reflexes --generations 12

Every candidate drives ``robots`` robots of the training environment: its commands, pushes, noise and delays at one difficulty. What comes out is
written into ``BalanceConfig`` by hand. The gaits of random gains are seconds long, so that a search takes minutes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_lmo.balance import Balance, BalanceConfig
from wbvla_train.lmo.config import TrainConfig
from wbvla_train.lmo.env import LmoVecEnv

NAMES = ("place_gain", "ankle_gain", "hip_gain", "hip_rate_s")  # one number, then pairs
LOW = np.array((0.0, 0.0, 0.0, -1.0, -1.0, -0.2, -0.2))
HIGH = np.array((2.5, 30.0, 30.0, 3.0, 3.0, 0.4, 0.4))
SPREAD = np.array((0.4, 5.0, 5.0, 0.5, 0.5, 0.05, 0.05))


def vector(config: BalanceConfig) -> np.ndarray:
    """The gains as one row [7]."""
    return np.hstack([getattr(config, name) for name in NAMES]).astype(float)


def with_gains(config: BalanceConfig, row: np.ndarray) -> BalanceConfig:
    """Inverse of :func:`vector`."""
    pairs = {name: tuple(float(f"{v:.3g}") for v in row[2 * i + 1 : 2 * i + 3]) for i, name in enumerate(NAMES[1:])}
    return dataclasses.replace(config, place_gain=float(f"{row[0]:.3g}"), **pairs)


def equip(balance: Balance, rows: np.ndarray) -> None:
    """Give every robot its own gains [N, 7]."""
    balance.place_gain, balance.ankle_gain = rows[:, :1], rows[:, 1:3]
    balance.hip_gain, balance.hip_rate_s = rows[:, 3:5], rows[:, 5:7]


def falls_per_s(env: LmoVecEnv, rows: np.ndarray, seconds: float) -> np.ndarray:
    """Falls per second of each candidate [C] with zero actions; ``rows`` [C, 7], robots shared out evenly, neighbours to different candidates."""
    candidate = np.arange(env.num_envs) % len(rows)
    equip(env.pipeline.balance, rows[candidate])
    env.reset()
    falls = np.zeros(len(rows))
    still = np.zeros((env.num_envs, env.action_space.shape[0]), dtype=np.float32)
    for _ in range(round(seconds / env.dt_s)):
        _, _, done, infos = env.step(still)
        fell = np.flatnonzero(done & np.array(["TimeLimit.truncated" not in i for i in infos]))
        np.add.at(falls, candidate[fell], 1.0)
    return falls * len(rows) / (env.num_envs * seconds)


@dataclass(frozen=True)
class Arguments:
    """Search reflex gains."""

    generations: int = 12
    candidates: int = 64
    elite: int = 12
    robots: int = 16  # per candidate
    seconds: float = 8.0
    difficulty: float = 0.3
    seed: int = 1
    threads: int = 2


def search(args: Arguments) -> BalanceConfig:
    """The mean of the last generation's elite."""
    base = TrainConfig()
    config = dataclasses.replace(base, seed=args.seed, physics=dataclasses.replace(base.physics, threads=args.threads))
    env = LmoVecEnv(config, args.candidates * args.robots)
    env.curriculum.difficulty = args.difficulty
    rng = np.random.default_rng(args.seed)
    mean, spread = vector(config.pipeline.balance), SPREAD.copy()
    for generation in range(args.generations):
        rows = np.clip(mean + spread * rng.standard_normal((args.candidates, len(mean))), LOW, HIGH)
        rows[0], rows[1] = mean, 0.0  # what it stands at, and no reflexes
        falls = falls_per_s(env, rows, args.seconds)
        best = rows[np.argsort(falls)[: args.elite]]
        print(f"{generation:3d}  falls/s: none {falls[1]:.3f}  mean {falls[0]:.3f}  best {falls.min():.3f}  {np.array2string(mean, precision=3)}", flush=True)
        mean = 0.3 * mean + 0.7 * best.mean(axis=0)
        spread = 0.3 * spread + 0.7 * (best.std(axis=0) + 0.05 * SPREAD)
    return with_gains(config.pipeline.balance, mean)


def main(argv: list[str] | None = None) -> int:
    print(search(tyro.cli(Arguments, args=argv, prog="python -m wbvla_train.lmo.reflexes")))
    return 0


if __name__ == "__main__":
    program(main)
