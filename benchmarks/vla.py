"""How long one decision of the 10 Hz policy takes: image transform, VLA and decoder, one torch thread.

python benchmarks/vla.py --policy checkpoints/policy/tiny --frames 500
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.types import PolicyInput, RobotState
from wbvla_perception.preprocess import policy_image
from wbvla_vla.policy import WholeBodyPolicy


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        period_s: time between frames; 0.1 as on the robot (caches grow cold in between), 0 = back to back.
        limit_ms: exit with status 1 if the 99th percentile of a whole decision is above this.
    """

    policy: Path = Path("checkpoints/policy/tiny")
    robot: str = "x2"
    frames: int = 300
    period_s: float = 0.1
    limit_ms: float = 40.0


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    robot = load_robot(options.robot)
    policy = WholeBodyPolicy.load(options.policy, robot)
    rng = np.random.default_rng(0)
    spec = policy.image_spec
    zeros = np.zeros(robot.joint_count)
    rows: dict[str, list[float]] = {}
    for i in range(options.frames):
        camera = rng.integers(0, 256, (spec.source_height, spec.source_width, 3), dtype=np.uint8)
        start = time.perf_counter()
        image = policy_image(camera, spec)
        transformed = time.perf_counter()
        state = RobotState(i * 0.1, robot.default_q, zeros, np.zeros(3), np.array((0.0, 0.0, -1.0)))
        decision = policy.infer(PolicyInput(i * 0.1, image, "walk to the red box", state))
        end = time.perf_counter()
        for name, value in {"image transform": transformed - start, **decision.timing_s, "frame": end - start}.items():
            rows.setdefault(name, []).append(value * 1e3)
        time.sleep(max(0.0, options.period_s - (end - start)))
    print(f"{'stage':<16} {'median ms':>10} {'p99 ms':>10} {'max ms':>10}")
    for name, values in rows.items():
        print(f"{name:<16} {np.median(values):>10.2f} {np.percentile(values, 99):>10.2f} {np.max(values):>10.2f}")
    return 0 if np.percentile(rows["frame"], 99) <= options.limit_ms else 1


if __name__ == "__main__":
    program(main)
