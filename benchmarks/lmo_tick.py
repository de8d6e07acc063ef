"""How long the leg policy takes: the network alone and the whole controller's tick, back to back and paced at the robot's rate. One thread.

python benchmarks/lmo_tick.py --lmo checkpoints/lmo/x2
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.types import LocoCommand, RobotState
from wbvla_lmo.controller import LmoController
from wbvla_lmo.pipeline import LegPipeline
from wbvla_lmo.policy import LmoPolicy


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        count: calls of each kind back to back; paced: calls at 50 Hz (the caches grow cold in between).
        limit_ms: exit with status 1 if the 99th percentile of the network alone, back to back, is above this.
    """

    lmo: Path = Path("checkpoints/lmo/x2")
    robot: str = "x2"
    count: int = 5000
    paced: int = 500
    limit_ms: float = 0.2


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    robot = load_robot(options.robot)
    policy = LmoPolicy.load(options.lmo, robot)
    controller = LmoController(robot, policy)
    rng, now = np.random.default_rng(0), 0.0
    still = RobotState(0.0, robot.default_q, np.zeros(robot.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))
    controller.reset(still)
    forward = LocoCommand(1, 0, 0, robot.default_stance_height_m)
    observation = rng.standard_normal((1, LegPipeline(robot, policy.config, 1).observation.size)).astype(np.float32)

    def network() -> None:
        policy(observation)

    def tick() -> None:
        nonlocal now
        now += 0.02
        q = robot.default_q + 0.01 * rng.standard_normal(robot.joint_count)
        controller.tick(replace(still, stamp_s=now, q=q), forward, now)

    def after() -> None:
        controller.anticipate(forward)

    rows = {
        "network, back to back": timed(network, options.count),
        "tick, back to back": timed(tick, options.count, after),
        "network, paced at 50 Hz": timed(network, options.paced, period_s=0.02),
        "tick, paced at 50 Hz": timed(tick, options.paced, after, period_s=0.02),
    }
    print(f"{'call':<26} {'median ms':>10} {'p99 ms':>10} {'max ms':>10}")
    for name, values in rows.items():
        print(f"{name:<26} {np.median(values):>10.3f} {np.percentile(values, 99):>10.3f} {np.max(values):>10.3f}")
    return 0 if np.percentile(rows["network, back to back"], 99) <= options.limit_ms else 1


def timed(call: Callable[[], None], count: int, after: Callable[[], None] | None = None, *, period_s: float = 0.0) -> np.ndarray:
    """Milliseconds of each of ``count`` calls, the first fifty left out; ``after`` runs behind each and is not counted."""
    out = np.zeros(count)
    for i in range(-50, count):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        if i >= 0:
            out[i] = 1e3 * (end - start)
        if after is not None:
            after()
        time.sleep(max(0.0, period_s - (time.perf_counter() - start)))
    return out


if __name__ == "__main__":
    program(main)
